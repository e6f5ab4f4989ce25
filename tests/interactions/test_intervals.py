import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings, strategies as st
from scipy import stats
from scipy.optimize import brentq

from morality_lens.interactions.claims import claim_ladder
from morality_lens.interactions.cube import check_labelled
from morality_lens.interactions.effects import factorial_effects
from morality_lens.interactions.intervals import (
    half_widths,
    judge,
    mean_over_clusters,
    one_sided,
    reach,
    share_intervals,
    skewness,
    transformed,
    unseen_share,
)
from morality_lens.interactions.odds import marginal_log_odds
from morality_lens.interactions.ratios import mean_over_items

FACTORS = ("instruction", "feedback")


def cells(values: np.ndarray, clusters: np.ndarray, *rest: str, **attrs) -> xr.DataArray:
    """Items x off/on x off/on x rest."""
    coords: dict = {name: ["off", "on"] for name in FACTORS}
    coords |= {"item": np.arange(len(values)), "cluster": ("item", clusters)}
    coords |= {dim: np.arange(n) for dim, n in zip(rest, values.shape[3:], strict=True)}
    return xr.DataArray(
        values, dims=("item", *FACTORS, *rest), coords=coords, attrs={"oriented": True, **attrs}
    )


# --- the test of a mean ----------------------------------------------------------------------------------


def test_the_transform_is_halls_and_rises_everywhere():
    t = np.linspace(-20, 20, 4001)
    for k in (-1.5, -0.3, 0.2, 1.0, 3.0):
        skew = np.full_like(t, k)
        found = transformed(t, skew)
        np.testing.assert_allclose(found, t + k * t**2 / 3 + k**2 * t**3 / 27 + k / 6, rtol=1e-12, atol=1e-12)
        assert (np.diff(found) >= 0).all()


@given(st.floats(-2, 2), st.floats(0.5, 8))
@settings(max_examples=80, deadline=None)
def test_the_interval_is_the_test_inverted(skew, critical):
    k, c = np.array([skew]), np.array([critical])
    below, above = half_widths(c, k)
    for width, sign in ((below[0], 1), (above[0], -1)):
        assert reach(np.array([sign * width * (1 + 1e-9)]), k)[0] >= critical * (1 - 1e-6)
        assert reach(np.array([sign * width * (1 - 1e-6)]), k)[0] <= critical
    if abs(skew) > 1e-6:
        own = brentq(lambda t: float(transformed(np.array([t]), k)[0]) - critical, -200, 200)
        assert below[0] == pytest.approx(max(critical, own), rel=1e-6)


def test_skewness_is_that_of_the_sample_over_the_root_of_its_size():
    x = np.random.default_rng(0).exponential(size=(9, 4))
    found = skewness(x - x.mean(axis=0))
    np.testing.assert_allclose(found, stats.skew(x, bias=False) / 3, rtol=1e-12)
    assert (skewness(np.ones((2, 1))) == 0).all()


def missed(draw, sizes: np.ndarray, truth: float, repeats: int, **options) -> float:
    """How often intervals of a mean miss it."""
    sums = draw(repeats)
    found = mean_over_clusters(sums, sizes.astype(float), alpha=0.05, **options)
    return float(((found.low > truth) | (found.high < truth)).mean())


@pytest.mark.parametrize("n_clusters", [8, 12, 20])
def test_skewed_means_are_missed_less_often_than_by_t(n_clusters):
    rng = np.random.default_rng(n_clusters)

    def lognormal(repeats: int) -> np.ndarray:
        return np.exp(rng.standard_normal((n_clusters, repeats))) - np.exp(0.5)

    sizes = np.ones(n_clusters)
    ours, plain = (missed(lognormal, sizes, 0.0, 4000, symmetric=s) for s in (False, True))
    normal = missed(lambda r: rng.standard_normal((n_clusters, r)), sizes, 0.0, 4000)
    assert ours < 0.7 * plain + 0.02
    assert 0.03 <= normal <= 0.06


# --- one inference ---------------------------------------------------------------------------------------


def assert_one_inference(found: xr.Dataset) -> None:
    """p and interval, adjusted p and band never contradict one another."""
    alpha = found.attrs["alpha"]
    zero_outside = (found.ci_low > 0) | (found.ci_high < 0)
    np.testing.assert_array_equal((found.p <= alpha).values, zero_outside.values)
    if "p_adj" in found and found.p_adj.notnull().any():
        band_outside = (found.band_low > 0) | (found.band_high < 0)
        np.testing.assert_array_equal((found.p_adj <= alpha).values, band_outside.values)
        assert (found.p_adj >= found.p).values.all()
        assert (found.band_low <= found.ci_low).values.all()
        assert (found.band_high >= found.ci_high).values.all()
    below, above = one_sided(found)
    live = found.se > 0
    two_sided = (2 * np.minimum(below, above)).clip(max=1.0)
    np.testing.assert_allclose(two_sided.where(live), found.p.where(live), rtol=1e-9)


SHAPES = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "log-normal": lambda rng, shape: np.exp(rng.standard_normal(shape)),
    "binary": lambda rng, shape: rng.integers(0, 2, shape).astype(float),
    "rare": lambda rng, shape: (rng.random(shape) < 0.02).astype(float),
    "steps": lambda rng, shape: rng.integers(0, 3, shape) / 2,
    "none": lambda rng, shape: np.zeros(shape),
}


@given(
    st.integers(0, 10_000),
    st.sampled_from(sorted(SHAPES)),
    st.integers(2, 26),
    st.booleans(),
    st.floats(-1, 1),
    st.sampled_from([0.05, 0.1, 0.01]),
)
@settings(max_examples=120, deadline=None)
def test_p_interval_adjusted_p_and_band_never_contradict_one_another(seed, shape, n, equal, shift, alpha):
    rng = np.random.default_rng(seed)
    sizes = np.full(n, 3) if equal or n < 5 else rng.integers(1, 5, n)
    clusters = np.repeat(np.arange(n), sizes)
    values = SHAPES[shape](rng, (len(clusters), 2, 2, 3))
    if shape in ("normal", "log-normal"):
        values[:, 1] += shift
        values += rng.standard_normal((n, 1, 1, 1))[clusters]
        values[..., 2] = values[:, :1, :1, 2]
        values[:, 1, :, 2] += 0.3  # the same for every item
    y = cells(values, clusters, "layer")
    for method in ("auto", "bootstrap-t") if n >= 8 else ("auto",):
        assert_one_inference(factorial_effects(y, draws=200, alpha=alpha, method=method, seed=seed))


@given(st.integers(0, 10_000), st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_refits_and_missing_cells_leave_one_inference(seed, sd):
    rng = np.random.default_rng(seed)
    clusters = np.repeat(np.arange(10), 4)
    values = rng.standard_normal((40, 2, 2, 3)) + np.array([0, 0.4, 0.8])
    y = cells(values, clusters, "layer")
    refits = y.mean("item") * xr.DataArray(1 + sd * rng.standard_normal(30), dims="probe_draw")
    assert_one_inference(factorial_effects(y, refits=refits.assign_attrs(n_clusters=12), draws=200))
    holes = y.where(xr.DataArray(rng.random(values.shape) > 0.02, dims=y.dims))
    assert_one_inference(factorial_effects(holes, draws=200, missing="available", accept_missing=True))


def test_the_ladder_and_the_log_odds_are_of_the_same_test():
    rng = np.random.default_rng(3)
    y = cells((rng.random((80, 2, 2)) < 0.4).astype(float), np.repeat(np.arange(20), 4))
    assert_one_inference(marginal_log_odds(y))
    assert claim_ladder(y).p.notnull().all()


# --- no change is no certainty ---------------------------------------------------------------------------


def test_outcomes_that_never_change_have_bounds():
    values = np.zeros((24, 2, 2, 2))
    values[:12] = 1
    y = cells(values, np.repeat(np.arange(8), 3), "layer")
    found = factorial_effects(y)
    share = unseen_share(8, 0.05)
    assert share == pytest.approx(1 - 0.025 ** (1 / 8))
    assert (found.p == 1).all()
    for name, span in (("instruction", 1), ("instruction:feedback", 2)):
        one = found.sel(effect=name, layer=0)
        assert one.ci_high.item() == -one.ci_low.item() == pytest.approx(span * share)
        assert one.band_high.item() == pytest.approx(span * unseen_share(8, 0.025))
    ratings = factorial_effects(y * 5 + 1).sel(effect="instruction", layer=0)
    assert ratings.ci_high.item() == pytest.approx(5 * share)
    exact = factorial_effects(y * 0.7)
    assert float(abs(exact.ci_high).max()) == 0.0


def test_round_zero_is_one_answer_and_no_observation():
    y = cells(np.zeros((24, 2, 2, 2)), np.repeat(np.arange(8), 3), "round")
    found = factorial_effects(y, family=("round",))
    assert float(found.ci_high.sel(round=0).max()) == 0.0
    assert float(found.ci_high.sel(round=1).min()) > 0.3
    early = factorial_effects(y.assign_attrs(early=("instruction",)), family=("round",))
    assert early.ci_high.sel(round=0).values.tolist() == pytest.approx([unseen_share(8, 0.05), 0, 0])


def test_rare_flips_are_missed_no_more_often_than_others():
    rng = np.random.default_rng(5)
    misses = 0
    for _ in range(200):
        values = np.zeros((96, 2, 2))
        values[:, 1] = (rng.random((96, 1)) < 0.01).astype(float)
        found = factorial_effects(cells(values, np.repeat(np.arange(12), 8)), method="pointwise", family=())
        one = found.sel(effect="instruction")
        misses += not one.ci_low.item() <= 0.01 <= one.ci_high.item()
    assert misses / 200 <= 0.08


def test_the_same_change_everywhere_has_the_flip_test_of_its_clusters():
    values = np.zeros((24, 2, 2))
    values[:, 1] = 1
    for n_clusters in (4, 8):
        found = factorial_effects(
            cells(values, np.arange(24) % n_clusters), method="pointwise", family=()
        ).sel(effect="instruction")
        assert found.p.item() == 2 / 2**n_clusters
        assert (found.ci_low.item() > 0) == (found.p.item() <= 0.05)


def test_log_odds_of_a_clipped_cell_have_no_interval():
    rng = np.random.default_rng(0)
    values = (rng.random((40, 2, 2, 2)) < 0.5).astype(float)
    values[:, 1, 1, 1] = 1
    found = marginal_log_odds(cells(values, np.repeat(np.arange(10), 4), "layer"))
    assert found.clipped.values.tolist() == [False, True]
    for name in ("se", "p", "ci_low", "ci_high"):
        assert found[name].sel(layer=1).isnull().all(), name
        assert found[name].sel(layer=0).notnull().all(), name
    assert found.estimate.notnull().all()


# --- shares ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("n_clusters", [8, 20, 50])
def test_intervals_of_shares_stay_inside_and_cover(share, n_clusters):
    rng = np.random.default_rng(n_clusters)
    for within in (0.0, 0.1):
        odds = (1 - within) / max(within, 1e-9)
        shape = (n_clusters, 500)
        rate = rng.beta(share * odds, (1 - share) * odds, shape) if within else np.full(shape, share)
        outcomes = (rng.random((n_clusters, 5, 500)) < rate[:, None]).astype(float)
        y = xr.DataArray(
            outcomes.reshape(-1, 500),
            dims=("item", "draw"),
            coords={
                "item": np.arange(5 * n_clusters),
                "cluster": ("item", np.repeat(np.arange(n_clusters), 5)),
            },
        )
        found = mean_over_items(y, share=True)
        assert (found.ci_low >= 0).all()
        assert (found.ci_high <= 1).all()
        assert found.p.isnull().all()
        assert (found.ci_low <= found.estimate).all()
        assert (found.ci_high >= found.estimate).all()
        assert float(((found.ci_low <= share) & (share <= found.ci_high)).mean()) >= 0.93


def test_a_share_of_independent_items_has_clopper_and_pearsons_interval():
    sums = np.array([[1.0]] * 3 + [[0.0]] * 97)
    low, high = share_intervals(sums, np.ones(100), alpha=0.05, whole=np.array([True]))
    exact = stats.binomtest(3, 100).proportion_ci(method="exact")
    assert (low[0], high[0]) == pytest.approx((exact.low, exact.high), rel=0.02)
    low, high = share_intervals(np.ones((8, 1)), np.ones(8), alpha=0.05, whole=np.array([True]))
    assert (low[0], high[0]) == (pytest.approx(0.025 ** (1 / 8)), 1.0)


def test_the_share_of_a_few_independent_items_has_no_wider_interval_than_theirs():
    values = (np.arange(16) < 2).astype(float)
    y = xr.DataArray(values, dims="item", coords={"item": np.arange(16)})
    exact = stats.binomtest(2, 16).proportion_ci(method="exact")
    found = mean_over_items(y, share=True)
    assert (float(found.ci_low), float(found.ci_high)) == pytest.approx((exact.low, exact.high), rel=0.15)


def test_differences_are_no_shares():
    y = xr.DataArray(np.linspace(-1, 1, 20), dims="item", coords={"item": np.arange(20)})
    with pytest.raises(ValueError, match="shares lie between 0 and 1; got numbers from -1 to 1"):
        mean_over_items(y, share=True)


def test_no_difference_among_few_leaves_room_where_a_span_is_given():
    y = xr.DataArray(np.zeros(20), dims="item", coords={"item": np.arange(20)})
    assert float(mean_over_items(y).ci_high) == 0
    assert float(mean_over_items(y, span=1.0).ci_high) == pytest.approx(unseen_share(20, 0.05))
    assert float(mean_over_items(y + 0.2).p) == 2.0**-19


def test_one_sided_p_of_another_bound_is_that_of_the_shifted_effect():
    rng = np.random.default_rng(2)
    y = xr.DataArray(
        np.exp(rng.standard_normal((15, 30))), dims=("item", "x"), coords={"item": np.arange(15)}
    )
    found, shifted = mean_over_items(y), mean_over_items(y - 1.5)
    for one, other in zip(one_sided(found, 1.5), one_sided(shifted), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)


def test_judged_without_variance_there_is_no_p():
    found = judge(np.array([0.0, 1.0]), np.zeros(2), np.full(2, 7.0), np.zeros(2), alpha=0.05)
    assert found.p[0] == 1
    assert np.isnan(found.p[1])


def test_zero_up_to_rounding_is_zero_and_its_interval_says_so():
    y = cells(np.full((24, 2, 2, 1), 0.3), np.repeat(np.arange(8), 3), "layer").astype(np.float16)
    y[:, 1] *= np.float16(1.0005)
    found = factorial_effects(y, symmetric=True)
    assert (found.p == 1).all()
    assert ((found.ci_low <= 0) & (found.ci_high >= 0)).all()


def test_changes_that_cancel_within_clusters_are_no_certainty():
    values = np.zeros((32, 2, 2, 1))
    values[:, 1] = np.tile([0.4, -0.4, 0.1, -0.1], 8)[:, None, None]
    found = factorial_effects(cells(values, np.repeat(np.arange(8), 4), "layer"))
    one = found.sel(effect="instruction", layer=0)
    assert one.ci_high.item() == pytest.approx(0.4 * unseen_share(8, 0.05))


def test_shares_that_were_averaged_before_keep_their_room():
    y = cells(np.full((24, 2, 2), 1 / 3), np.repeat(np.arange(8), 3), units="share")
    assert float(factorial_effects(y).ci_high.sel(effect="feedback")) == pytest.approx(unseen_share(8, 0.05))
    projection = y.assign_attrs(probe="mean_difference") * 0
    assert float(factorial_effects(projection).ci_high.max()) == 0


def test_failures_are_known_after_a_mean_over_rounds_and_only_at_the_levels_that_are_asked():
    y = cells(np.random.default_rng(0).integers(0, 2, (40, 2, 2)).astype(float), np.arange(40))
    failed = np.zeros((40, 2, 2), bool)
    failed[:16, :, 1] = True
    y = y.assign_coords(failed=(("item", *FACTORS), failed))
    assert factorial_effects(y).p.isnull().all()
    assert marginal_log_odds(y).p.isnull().all()
    assert factorial_effects(y, at={"feedback": "off"}).p.notnull().all()
    assert factorial_effects(y, accept_missing=True).p.notnull().all()
    bare = y.drop_vars("failed").assign_attrs(failed="too many answers could not be read")
    assert factorial_effects(bare).attrs["notes"].count("too many answers could not be read") == 1


def test_refits_are_not_mixed_with_a_link():
    y = cells(np.random.default_rng(0).uniform(0.2, 0.8, (40, 2, 2)), np.arange(40))
    refits = y.mean("item") * xr.DataArray(np.linspace(0.9, 1.1, 30), dims="probe_draw")
    with pytest.raises(ValueError, match="on the scale of its projections; got link='logit'"):
        factorial_effects(y, refits=refits, link="logit")


def test_one_name_is_one_factor_and_plain_arrays_are_refused():
    y = cells(np.random.default_rng(0).standard_normal((40, 2, 2)), np.arange(40))
    assert factorial_effects(y.isel(feedback=0), "instruction").effect.values.tolist() == ["instruction"]
    with pytest.raises(TypeError, match=r"needs an xarray\.DataArray with the dim 'item'.*got ndarray"):
        check_labelled(y.values, "factorial_effects")
    with pytest.raises(ValueError, match="alpha between 0 and 1; got 5"):
        mean_over_items(y, alpha=5.0)


def test_normal_contrasts_are_rarely_called_skewed():
    rng = np.random.default_rng(0)
    said = [
        bool(
            factorial_effects(cells(rng.standard_normal((n, 2, 2)), np.arange(n)), draws=20, alpha=0.1).vouch
        )
        for n in (8, 20, 50)
        for _ in range(30)
    ]
    assert np.mean(said) < 0.12
    skewed = cells(np.exp(rng.standard_normal((50, 2, 2)) * 1.5), np.arange(50))
    assert "clusters of nearly equal sizes" in factorial_effects(skewed, draws=20).vouch
