import numpy as np
import pytest
import xarray as xr

from morality_lens.interactions.effects import factorial_effects
from morality_lens.interactions.odds import marginal_log_odds

FACTORS = ("instruction", "feedback")


def outcomes(
    p: np.ndarray, n_items: int = 400, seed: int = 0, clusters: np.ndarray | None = None
) -> xr.DataArray:
    """0/1 outcomes with the probability of each of the four cells."""
    y = (np.random.default_rng(seed).random((n_items, 2, 2)) < p).astype(float)
    coords: dict = {"item": np.arange(n_items), **{name: ["off", "on"] for name in FACTORS}}
    if clusters is not None:
        coords["cluster"] = ("item", clusters)
    return xr.DataArray(y, dims=("item", *FACTORS), coords=coords, attrs={"oriented": True})


def test_the_estimate_is_the_contrast_of_the_log_odds_of_cell_means():
    y = outcomes(np.array([[0.3, 0.5], [0.6, 0.9]]))
    means = y.mean("item").values
    log_odds = np.log(means / (1 - means))
    found = marginal_log_odds(y, FACTORS)
    assert found.estimate.sel(effect="instruction").item() == pytest.approx(
        log_odds[1].mean() - log_odds[0].mean()
    )
    both = log_odds[1, 1] - log_odds[1, 0] - log_odds[0, 1] + log_odds[0, 0]
    assert found.estimate.sel(effect="instruction:feedback").item() == pytest.approx(both)


def test_additive_and_log_odds_interactions_can_disagree_in_sign():
    y = outcomes(np.array([[0.55, 0.8], [0.8, 0.97]]), 20_000)
    additive = factorial_effects(y, FACTORS, method="pointwise").sel(effect="instruction:feedback")
    odds = marginal_log_odds(y, FACTORS).sel(effect="instruction:feedback")
    assert additive.estimate.item() < 0 < odds.estimate.item()
    assert max(additive.p.item(), odds.p.item()) < 0.01


def test_the_standard_error_is_the_jackknife_over_clusters():
    codes = np.repeat(np.arange(20), 5)
    y = outcomes(np.array([[0.3, 0.5], [0.6, 0.7]]), 100, clusters=codes)
    found = marginal_log_odds(y, FACTORS)
    dropped = np.array(
        [
            marginal_log_odds(y.isel(item=np.flatnonzero(codes != g)), FACTORS).estimate.values
            for g in range(20)
        ]
    )
    se = np.sqrt(19 / 20 * ((dropped - dropped.mean(axis=0)) ** 2).sum(axis=0))
    np.testing.assert_allclose(found.se, se, rtol=1e-12)
    np.testing.assert_allclose(found.df, 19.0)


def test_intervals_cover_planted_log_odds_at_about_the_nominal_rate():
    z = np.array([[-0.5, 0.5], [0.8, 1.2]])
    p, hits = 1 / (1 + np.exp(-z)), 0
    for seed in range(200):
        found = marginal_log_odds(outcomes(p, 150, seed), FACTORS).sel(effect="instruction:feedback")
        hits += found.ci_low.item() <= -0.6 <= found.ci_high.item()
    assert 182 <= hits <= 199


def test_a_cell_at_one_is_clipped_at_half_a_count_and_noted():
    y = outcomes(np.array([[0.3, 0.5], [0.6, 1.1]]), 50)
    found = marginal_log_odds(y, FACTORS)
    assert np.isfinite(found.estimate).all()
    assert found.clipped.item()
    assert any("clipped at 0.5/n" in note for note in found.attrs["notes"])


def test_other_outcomes_are_refused():
    with pytest.raises(ValueError, match=r"outcomes of 0 and 1.*Use factorial_effects"):
        marginal_log_odds(3 * outcomes(np.full((2, 2), 0.5)), FACTORS)
