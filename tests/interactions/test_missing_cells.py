import numpy as np
import pytest
import statsmodels.formula.api as smf
import xarray as xr

from morality_lens.interactions.contrasts import factorial_matrix
from morality_lens.interactions.effects import factorial_effects
from morality_lens.interactions.intervals import cluster_sums, mean_over_clusters
from morality_lens.interactions.missing_cells import available_cells, worst_case_bounds

FACTORS = ("instruction", "cot", "feedback")
EFFECTS = [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
MATRIX = factorial_matrix(3, EFFECTS)


def values(n_items: int = 40, places: int = 2, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n_items, 1, places)) + rng.standard_normal((n_items, 8, places))


def with_holes(y: np.ndarray, share: float = 0.15, seed: int = 1) -> np.ndarray:
    return np.where(np.random.default_rng(seed).random(y.shape) < share, np.nan, y)


def as_cube(y: np.ndarray, clusters: np.ndarray | None = None) -> xr.DataArray:
    coords: dict = {"item": [f"q{i}" for i in range(len(y))], "layer": np.arange(y.shape[-1])}
    coords |= {name: ["off", "on"] for name in FACTORS}
    if clusters is not None:
        coords["cluster"] = ("item", clusters)
    shaped = y.reshape(len(y), 2, 2, 2, -1)
    return xr.DataArray(shaped, dims=("item", *FACTORS, "layer"), coords=coords, attrs={"oriented": True})


def test_without_holes_scores_are_those_of_the_per_item_contrasts():
    y, codes = values(), np.arange(40) // 3
    found = available_cells(y, codes, MATRIX)
    table = np.einsum("ec,icf->ief", MATRIX, y).reshape(40, -1)
    sums, sizes = cluster_sums(table, codes)
    np.testing.assert_allclose(found.sums.reshape(len(sizes), -1), sums, atol=1e-10)
    np.testing.assert_allclose(found.cells, y.mean(axis=0), atol=1e-12)
    point = mean_over_clusters(sums, sizes, alpha=0.05)
    np.testing.assert_allclose(found.se.ravel(), point.se, rtol=0.06)


def test_estimates_equal_least_squares_with_item_dummies():
    y = with_holes(values(25, 1, seed=3))
    codes = np.arange(25) // 2
    found = available_cells(y, codes, MATRIX)
    signs = np.array(np.meshgrid([-0.5, 0.5], [-0.5, 0.5], [-0.5, 0.5], indexing="ij")).reshape(3, 8)
    frame = {"y": y[..., 0].ravel(), "item": np.repeat(np.arange(25), 8)}
    frame |= {name: np.tile(signs[i], 25) for i, name in enumerate("abc")}
    import pandas as pd

    fit = smf.ols("y ~ a * b * c + C(item)", pd.DataFrame(frame).dropna()).fit()
    order = ["a", "b", "c", "a:b", "a:c", "b:c", "a:b:c"]
    estimate = found.sums.sum(axis=0)[:, 0] / 25
    np.testing.assert_allclose(estimate, fit.params[order], atol=1e-10)


def test_the_standard_error_is_that_of_leaving_every_cluster_out():
    y, codes = with_holes(values(24, 1, seed=4)), np.arange(24) // 2
    found = available_cells(y, codes, MATRIX)
    dropped = []
    for cluster in range(12):
        kept = codes != cluster
        rest = np.unique(codes[kept], return_inverse=True)[1]
        dropped.append(available_cells(y[kept], rest, MATRIX).sums.sum(axis=0)[:, 0] / kept.sum())
    spread = np.sqrt(11 / 12 * ((np.array(dropped) - np.mean(dropped, axis=0)) ** 2).sum(axis=0))
    np.testing.assert_allclose(found.se[:, 0], spread, rtol=1e-9)


def test_holes_that_depend_on_the_item_do_not_bias_what_complete_items_would_lose():
    rng = np.random.default_rng(5)
    y = values(3000, 1, seed=6)
    y[:, 4:] += 1.0 + 0.8 * y[:, :1]  # high items gain more from the instruction
    fails = rng.random((3000, 1, 1)) < 0.15
    y = np.where(fails & (np.arange(8)[None, :, None] == 7), np.nan, y)
    found = factorial_effects(as_cube(y), missing="available", accept_missing=True, method="pointwise")
    truth = 1.0
    assert (
        abs(found.estimate.sel(effect="instruction").item() - truth)
        < 3 * found.se.sel(effect="instruction").item()
    )


def test_intervals_on_available_cells_cover_about_as_often_as_they_say():
    hits = 0
    for seed in range(120):
        y = with_holes(values(60, 1, seed=seed), 0.04, seed=seed + 500)
        found = factorial_effects(
            as_cube(y, np.arange(60) // 2), missing="available", accept_missing=True, method="pointwise"
        )
        hits += int(
            (found.ci_low <= 0).sel(effect="cot").item() and (found.ci_high >= 0).sel(effect="cot").item()
        )
    assert 105 <= hits <= 120


def test_failure_is_analysed_first_and_the_holes_are_told():
    rng = np.random.default_rng(7)
    y = values(200, 1, seed=8)
    fails = (rng.random((200, 8, 1)) < 0.04) & (np.arange(8)[None, :, None] >= 4)
    found = factorial_effects(as_cube(np.where(fails, np.nan, y)), missing="available", accept_missing=True)
    assert found.failure.sel(effect="instruction").item() == pytest.approx(fails[:, 4:].mean(), abs=1e-12)
    assert found.failure_p.sel(effect="instruction").item() < 0.01
    assert any("Failure first" in note and "is instruction" in note for note in found.attrs["notes"])
    assert any("available cells" in note for note in found.attrs["notes"])
    assert found.p_adj.notnull().all()


def test_worst_case_bounds_hold_whatever_the_missing_outcomes_are():
    rng = np.random.default_rng(9)
    full = (rng.random((50, 8, 1)) < 0.6).astype(float)
    y = np.where(rng.random(full.shape) < 0.05, np.nan, full)
    low, high = worst_case_bounds(y, MATRIX)
    for seed in range(20):
        guess = np.where(np.isnan(y), np.random.default_rng(seed).integers(0, 2, y.shape), y)
        effect = MATRIX @ guess.mean(axis=0)
        assert (low - 1e-12 <= effect).all()
        assert (effect <= high + 1e-12).all()
    n = np.isnan(y)[..., 0].sum(axis=0) / 50
    np.testing.assert_allclose((high - low)[:, 0], np.abs(MATRIX) @ n, atol=1e-12)
    found = factorial_effects(as_cube(y), missing="available", accept_missing=True, method="pointwise")
    np.testing.assert_allclose(found.worst_low.values, low, atol=1e-12)
    assert (found.worst_low <= found.estimate).all()
