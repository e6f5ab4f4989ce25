import itertools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from scipy.linalg import fractional_matrix_power

from morality_lens.interactions.intervals import (
    bell_mccaffrey_df,
    cluster_sums,
    mean_over_clusters,
    without_variance,
)
from morality_lens.interactions.resampling import Draws, FamilyWise, family_wise, visibly_skewed

DARWIN = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48], dtype=float)


def clustered(seed: int, n_clusters: int = 12, n_features: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(n_clusters), rng.integers(1, 7, n_clusters))
    rng.shuffle(codes)
    values = rng.standard_normal((len(codes), n_features))
    return values + rng.standard_normal((n_clusters, n_features))[codes], codes


def brute_force_cr2(values: np.ndarray, codes: np.ndarray) -> tuple[float, float]:
    """CR2 variance and Bell-McCaffrey df of a mean, from hat matrices and matrix square roots."""
    n = len(values)
    residual_maker = np.eye(n) - np.ones((n, n)) / n
    residuals = residual_maker @ values
    variance, vectors = 0.0, []
    for g in np.unique(codes):
        own = np.flatnonzero(codes == g)
        adjust = fractional_matrix_power(residual_maker[np.ix_(own, own)], -0.5)
        variance += (np.ones(len(own)) @ adjust @ residuals[own] / n) ** 2
        vectors.append(np.ones(len(own)) @ adjust @ residual_maker[own] / n)
    omega = np.array(vectors) @ np.array(vectors).T
    return variance, np.trace(omega) ** 2 / (omega**2).sum()


@pytest.mark.parametrize("seed", range(3))
def test_cr2_and_its_df_equal_the_brute_force_matrix_square_root(seed):
    values, codes = clustered(seed)
    sums, sizes = cluster_sums(values, codes)
    point = mean_over_clusters(sums, sizes, alpha=0.05)
    for feature in range(values.shape[1]):
        variance, df = brute_force_cr2(values[:, feature], codes)
        np.testing.assert_allclose(point.se[feature] ** 2, variance, rtol=1e-10)
        np.testing.assert_allclose(point.df, df, rtol=1e-10)
    np.testing.assert_allclose(point.estimate, values.mean(axis=0), rtol=1e-12)


@given(arrays(float, (9, 2), elements=st.floats(-100, 100)))
@settings(max_examples=25, deadline=None)
def test_singleton_clusters_give_the_one_sample_t(values):
    values = values + np.linspace(0, 1, 9)[:, None] ** 2
    sums, sizes = cluster_sums(values, np.arange(9))
    point = mean_over_clusters(sums, sizes, alpha=0.05, symmetric=True)
    reference = stats.ttest_1samp(values, 0)
    np.testing.assert_allclose(point.p, reference.pvalue, rtol=1e-8)
    np.testing.assert_allclose(point.df, 8, rtol=1e-12)
    low = reference.confidence_interval(0.95).low
    np.testing.assert_allclose(point.low, low, atol=1e-8)


def test_equal_clusters_have_one_df_less_than_clusters_and_unequal_ones_fewer():
    assert bell_mccaffrey_df(np.full(10, 4.0)) == pytest.approx(9)
    assert bell_mccaffrey_df(np.array([20.0] + [2.0] * 9)) < 7


def wise(
    sums: np.ndarray, sizes: np.ndarray, *, method: str, count: int, seed: int = 0, alpha: float = 0.05
) -> FamilyWise:
    """Families by one method, judged by t without any correction of its skewness."""
    t = sums.sum(axis=0) / np.where(spread(sums, sizes) > 0, np.sqrt(spread(sums, sizes)), 1)
    return family_wise(
        sums,
        sizes,
        t,
        np.zeros_like(t),
        np.full(sums.shape[1], method == "bootstrap-t"),
        Draws(count=count, seed=seed),
        alpha=alpha,
    )


def spread(sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    centred = sums - sizes[:, None, None] * sums.sum(axis=0) / sizes.sum()
    return (centred**2 / (1 - sizes / sizes.sum())[:, None, None]).sum(axis=0)


def test_darwins_maize_gives_its_published_t_and_p():
    sums, sizes = cluster_sums(DARWIN[:, None], np.arange(15))
    point = mean_over_clusters(sums, sizes, alpha=0.05, symmetric=True)
    assert point.estimate[0] / point.se[0] == pytest.approx(2.148, abs=5e-4)
    assert point.p[0] == pytest.approx(0.0497, abs=5e-5)


@pytest.mark.parametrize("n_clusters", [10, 30])
def test_random_sign_flips_approach_those_of_many(n_clusters):
    rng = np.random.default_rng(3)
    sums = rng.standard_normal((n_clusters, 1, 1))
    sums = (sums - sums.mean()) / sums.std() + 2 / np.sqrt(n_clusters)
    sizes = np.ones(n_clusters)
    many = wise(sums, sizes, method="sign-flip", count=20_000, seed=1).p[0, 0]
    few = wise(sums, sizes, method="sign-flip", count=500, seed=2).p[0, 0]
    assert many == pytest.approx(few, abs=4 * np.sqrt(many / 500))
    assert 0 < many < 0.2


def slow_squared_t(scores: np.ndarray, sizes: np.ndarray, total: float) -> float:
    """CR2 t squared of one feature from the definition; sizes weigh, total is the full N of the leverage."""
    centred = scores - sizes * scores.sum() / sizes.sum()
    return scores.sum() ** 2 / (centred**2 / (1 - sizes / total)).sum()


@pytest.mark.parametrize("equal", [True, False])
def test_flips_of_all_patterns_follow_the_definition(equal):
    rng = np.random.default_rng(11)
    sizes = np.full(8, 3.0) if equal else rng.integers(1, 9, 8).astype(float)
    sums = rng.standard_normal(8) * sizes + 0.6 * sizes
    ours = wise(sums[:, None, None], sizes, method="sign-flip", count=256)
    patterns = [np.array(signs) for signs in itertools.product((1, -1), repeat=8)][:128]
    centred = (sums - sizes * sums.sum() / sizes.sum()) / (1 - sizes / sizes.sum())
    flips = np.sort([slow_squared_t(signs * centred, sizes, sizes.sum()) for signs in patterns])
    hits = np.count_nonzero(flips >= slow_squared_t(sums, sizes, sizes.sum()) * (1 - 1e-9))
    assert ours.p[0, 0] == pytest.approx((hits + 1) / 129)
    assert ours.draws_used == 129
    assert ours.critical[0] == pytest.approx(np.sqrt(flips[int(np.ceil(0.95 * 129)) - 1]))


@pytest.mark.parametrize("method", ["sign-flip", "bootstrap-t"])
def test_p_is_at_most_alpha_exactly_where_t_exceeds_the_critical_value(method):
    rng = np.random.default_rng(14)
    sums = rng.standard_normal((9, 200, 3)) + rng.choice([0, 1.0], 200)[:, None]
    ours = wise(sums, np.ones(9), method=method, count=300)
    t = np.abs(sums.sum(axis=0)) / np.sqrt(spread(sums, np.ones(9)))
    np.testing.assert_array_equal(ours.p <= 0.05, t > ours.critical[:, None])
    assert 20 < np.count_nonzero(ours.p <= 0.05) < 400


@pytest.mark.parametrize("equal", [True, False])
def test_the_bootstrap_t_agrees_with_a_loop_over_resampled_clusters(equal):
    rng = np.random.default_rng(12)
    n_clusters = 30
    sizes = np.full(n_clusters, 2.0) if equal else rng.integers(1, 6, n_clusters).astype(float)
    sums = rng.standard_normal((n_clusters, 4)) * sizes[:, None]
    ours = wise(sums[:, None], sizes, method="bootstrap-t", count=4000, seed=0, alpha=0.1)
    mean, drawn = sums.sum(0) / sizes.sum(), []
    for _ in range(2000):
        pick = rng.integers(0, n_clusters, n_clusters)
        theta = sums[pick].sum(0) / sizes[pick].sum()
        centred = sums[pick] - sizes[pick, None] * theta
        se = np.sqrt((centred**2 / (1 - sizes[pick] / sizes.sum())[:, None]).sum(0)) / sizes[pick].sum()
        drawn.append(np.max(np.abs(theta - mean) / se))
    assert ours.critical[0] == pytest.approx(np.quantile(drawn, 0.9), rel=0.04)


@pytest.mark.parametrize("method", ["sign-flip", "bootstrap-t"])
def test_single_precision_draws_agree_with_double(method, monkeypatch):
    rng = np.random.default_rng(13)
    sizes = rng.integers(1, 6, 40).astype(float)
    sums = (rng.standard_normal((40, 2, 20)) + 0.3) * sizes[:, None, None] * 1e-3
    single = wise(sums, sizes, method=method, count=500, seed=0, alpha=0.05)
    monkeypatch.setattr(np, "float32", np.float64)
    double = wise(sums, sizes, method=method, count=500, seed=0, alpha=0.05)
    np.testing.assert_allclose(single.p, double.p, atol=1.01 / 500)
    np.testing.assert_allclose(single.critical, double.critical, rtol=1e-4)
    assert np.any(single.critical != double.critical)


def test_a_feature_of_zeros_is_never_the_maximum():
    rng = np.random.default_rng(4)
    sums = rng.standard_normal((20, 1, 6)) + 0.4
    padded = np.concatenate([sums, np.zeros((20, 1, 3))], axis=2)
    for method in ("sign-flip", "bootstrap-t"):
        plain = wise(sums, np.ones(20), method=method, count=400, seed=0, alpha=0.05)
        more = wise(padded, np.ones(20), method=method, count=400, seed=0, alpha=0.05)
        np.testing.assert_array_equal(more.p[:, :6], plain.p)
        np.testing.assert_array_equal(more.critical, plain.critical)
        np.testing.assert_array_equal(more.p[:, 6:], 1)


def test_families_do_not_see_each_other_whatever_their_number():
    rng = np.random.default_rng(6)
    sums = rng.standard_normal((16, 300, 2))
    together = wise(sums, np.ones(16), method="sign-flip", count=4000, seed=0, alpha=0.05)
    alone = wise(sums[:, 217:218], np.ones(16), method="sign-flip", count=4000)
    np.testing.assert_array_equal(together.p[217], alone.p[0])
    np.testing.assert_array_equal(together.critical[217], alone.critical[0])


def test_the_draws_depend_on_the_seed_alone():
    sums = np.random.default_rng(7).standard_normal((30, 1, 5))
    first, again, other = (
        wise(sums, np.ones(30), method="bootstrap-t", count=200, seed=seed, alpha=0.05) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.critical, again.critical)
    assert first.critical[0] != other.critical[0]


@pytest.mark.parametrize(("method", "n_clusters"), [("sign-flip", 10), ("bootstrap-t", 40)])
def test_the_null_is_rarely_rejected_and_the_band_rarely_misses(method, n_clusters):
    rng = np.random.default_rng(8)
    rejected, missed, repeats = 0, 0, 300
    for seed in range(repeats):
        noise = rng.standard_normal((n_clusters, 1, 20))
        sums = 4 * (noise + 0.7 * rng.standard_normal((n_clusters, 1, 1)))
        sizes = np.full(n_clusters, 4.0)
        result = wise(sums, sizes, method=method, count=200, seed=seed, alpha=0.05)
        point = mean_over_clusters(sums[:, 0], sizes, alpha=0.05)
        rejected += bool(result.p.min() <= 0.05)
        missed += bool(np.any(np.abs(point.estimate) > result.critical[0] * point.se))
    assert 0.01 < rejected / repeats < 0.09
    assert 0.01 < missed / repeats < 0.09


def test_a_planted_effect_is_found_where_it_is():
    rng = np.random.default_rng(9)
    for method, n_clusters in (("sign-flip", 16), ("bootstrap-t", 40)):
        sums = rng.standard_normal((n_clusters, 1, 50))
        sums[:, 0, 20:25] += 2.5
        p = wise(sums, np.ones(n_clusters), method=method, count=1000, seed=0, alpha=0.05).p[0]
        assert set(np.flatnonzero(p < 0.05)) == set(range(20, 25))


def test_every_family_is_resampled_by_its_own_skewness():
    rng = np.random.default_rng(10)
    normal, skewed = rng.standard_normal((12, 40)), np.exp(rng.standard_normal((12, 40)))
    opposed = skewed * np.where(np.arange(40) % 2, 1, -1)
    sparse = np.zeros((12, 40))
    sparse[:3] = 1 + rng.random((3, 40))
    absent = np.zeros((12, 40))
    families = np.stack([normal, skewed, opposed, sparse, absent], axis=1)
    assert visibly_skewed(families, np.ones(12)).tolist() == [False, True, True, False, False]
    sizes = rng.integers(1, 9, 12).astype(float)
    scaled = families * sizes[:, None, None]
    assert visibly_skewed(scaled, sizes).tolist() == [False, True, True, False, False]


def test_families_of_both_methods_are_each_as_if_alone():
    rng = np.random.default_rng(15)
    sums = rng.standard_normal((12, 3, 5))
    t = sums.sum(axis=0) / np.sqrt(spread(sums, np.ones(12)))
    skew = rng.normal(0, 0.2, t.shape)
    skewed = np.array([False, True, False])
    both = family_wise(sums, np.ones(12), t, skew, skewed, Draws(count=300, seed=0), alpha=0.1)
    for number, is_skewed in enumerate(skewed):
        own = slice(number, number + 1)
        alone = family_wise(
            sums[:, own], np.ones(12), t[own], skew[own], skewed[own], Draws(count=300, seed=0), alpha=0.1
        )
        np.testing.assert_array_equal(both.p[own], alone.p)
        np.testing.assert_array_equal(both.critical[own], alone.critical)
        np.testing.assert_array_equal(both.skew[own], 0 if is_skewed else skew[own])


def test_features_without_variance_are_told_apart():
    values = np.stack([np.zeros(12), np.full(12, 0.3), np.arange(12.0), np.full(12, 1e-12)], axis=1)
    sums, sizes = cluster_sums(values, np.arange(12) // 2)
    zero, constant = without_variance(sums, sizes, np.full(4, 1e-10))
    assert zero.tolist() == [True, False, False, True]
    assert constant.tolist() == [False, True, False, False]
