"""Ratios of means: Fieller's interval by brute force, its coverage, when there is none; LEACE's theorems."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings, strategies as st
from scipy.stats import t as student, ttest_1samp
from sklearn.linear_model import LogisticRegression

from morality_lens.interactions.ratios import mean_over_items, ratio_of_means
from morality_lens.probes.erasure import fit_leace


def along_items(values, clusters=None):
    coords = {"item": np.arange(len(values))}
    if clusters is not None:
        coords["cluster"] = ("item", clusters)
    return xr.DataArray(values, dims=("item", *"abc"[: np.ndim(values) - 1]), coords=coords)


def test_singleton_clusters_without_skewness_give_the_one_sample_t():
    half = np.random.default_rng(0).standard_normal((10, 3))
    x = np.concatenate([half, -half]) + 0.3
    found = mean_over_items(along_items(x))
    want = ttest_1samp(x, 0)
    np.testing.assert_allclose(found["p"], want.pvalue)
    low, high = want.confidence_interval()
    np.testing.assert_allclose(found["ci_low"], low)
    np.testing.assert_allclose(found["ci_high"], high)


@given(seed=st.integers(0, 10_000), slope=st.floats(-2.0, 2.0))
@settings(max_examples=40, deadline=None)
def test_the_interval_holds_exactly_the_ratios_that_are_not_rejected(seed, slope):
    rng = np.random.default_rng(seed)
    bottom = 3.0 + rng.standard_normal(12)
    top = slope * bottom + rng.standard_normal(12)
    found = ratio_of_means(along_items(top), along_items(bottom))
    assert float(found["ratio"]) == pytest.approx(top.mean() / bottom.mean())
    low, high = float(found["low"]), float(found["high"])
    for r, accepted in ((low + 1e-6, True), (high - 1e-6, True), (low - 1e-6, False), (high + 1e-6, False)):
        z = top - r * bottom
        t = abs(z.mean()) / (z.std(ddof=1) / np.sqrt(12))
        assert (t <= student.ppf(0.975, 11)) == accepted


def test_it_covers_the_true_ratio_with_clusters():
    rng = np.random.default_rng(1)
    clusters = np.repeat(np.arange(15), 4)
    hits = 0
    for _ in range(400):
        shared = rng.standard_normal((15, 2))[clusters]
        bottom = 2.0 + shared[:, 0] + rng.standard_normal(60)
        top = 0.6 * bottom + 0.7 * shared[:, 1] + 0.5 * rng.standard_normal(60)
        found = ratio_of_means(along_items(top, clusters), along_items(bottom, clusters))
        hits += float(found["low"]) <= 0.6 <= float(found["high"])
    assert 0.92 <= hits / 400 <= 0.98


def test_no_ratio_to_nothing():
    rng = np.random.default_rng(2)
    top, bottom = rng.standard_normal((20, 2)), rng.standard_normal(20)
    found = ratio_of_means(along_items(top), along_items(bottom))
    assert np.isnan(found["ratio"]).all()
    assert "not distinguishable from zero" in found.attrs["refused"]
    with pytest.raises(ValueError, match="finite"):
        mean_over_items(along_items(np.array([1.0, np.nan])))
    with pytest.raises(ValueError, match="two clusters"):
        mean_over_items(along_items(np.array([1.0, 2.0]), ["one", "one"]))
    with pytest.raises(ValueError, match="same items"):
        ratio_of_means(along_items(bottom), along_items(bottom).assign_coords(item=np.arange(1, 21)))


# ------------------------------------------------------------------------------------------- erasure
def drawn(seed=0, n=300, d=6):
    rng = np.random.default_rng(seed)
    z = rng.integers(0, 2, n)
    x = rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + np.outer(z, rng.standard_normal(d))
    return x, z


@pytest.mark.parametrize("seed", range(4))
def test_no_linear_classifier_finds_an_erased_label(seed):
    x, z = drawn(seed)
    eraser = fit_leace(x, z)
    erased = eraser(x)
    np.testing.assert_allclose(erased[z == 1].mean(0), erased[z == 0].mean(0), atol=1e-10)
    np.testing.assert_allclose(eraser(erased), erased, atol=1e-10)
    np.testing.assert_allclose(erased.mean(0), x.mean(0), atol=1e-10)
    found = LogisticRegression(C=1e6, solver="newton-cholesky", tol=1e-10).fit(erased, z)
    assert np.abs(found.coef_).max() < 1e-3
    assert LogisticRegression(C=1e6, max_iter=2000).fit(x, z).score(x, z) > 0.6


@pytest.mark.parametrize("seed", range(4))
def test_the_closed_form_is_the_whitened_projection(seed):
    """Theorem 4.2 as it stands: W^+ P W with P the projection on the whitened covariance, by matrix roots."""
    x, z = drawn(seed)
    eraser = fit_leace(x, z)
    centred = x - x.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(x))
    white, back = vectors / np.sqrt(values) @ vectors.T, vectors * np.sqrt(values) @ vectors.T
    u = white @ (centred.T @ (z - z.mean()) / len(x))
    want = x - centred @ (back @ np.outer(u, u) @ white / (u @ u)).T
    np.testing.assert_allclose(eraser(x), want, atol=1e-9)


def test_no_other_erasing_projection_moves_points_less():
    x, z = drawn(3)
    eraser = fit_leace(x, z)
    least = ((eraser(x) - x) ** 2).sum(1).mean()
    rng = np.random.default_rng(0)
    c = eraser.along
    for _ in range(200):
        across = eraser.across + 0.3 * rng.standard_normal(len(c)) * np.abs(eraser.across).max()
        across = across / (across @ c)  # still erases: what is taken out along c is all of c
        moved = np.outer((x - x.mean(0)) @ across, c)
        assert (moved**2).sum(1).mean() >= least - 1e-12


def test_with_fewer_points_than_dimensions_it_still_erases():
    x, z = drawn(1, n=10, d=40)
    erased = fit_leace(x, z)(x)
    np.testing.assert_allclose(erased[z == 1].mean(0), erased[z == 0].mean(0), atol=1e-9)
    with pytest.raises(ValueError, match="varies"):
        fit_leace(x, np.ones(10))
    with pytest.raises(ValueError, match="uncorrelated"):
        fit_leace(np.ones((4, 2)), np.array([0, 1, 0, 1]))
