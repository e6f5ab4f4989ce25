"""Effects over wordings: point estimates by hand, and how often intervals hold the truth."""

import numpy as np
import pytest
import xarray as xr

from morality_lens.interactions.effects import factorial_effects
from morality_lens.interactions.wordings import describe_wordings, effects_over_wordings

FACTORS = ("a", "b")


def made(values, clusters=None):
    """[item, wording, a, b]."""
    n, w = values.shape[:2]
    items = [f"i{k}" for k in range(n)]
    return xr.DataArray(
        values,
        dims=("item", "wording", *FACTORS),
        coords={
            "item": items,
            "cluster": ("item", items if clusters is None else clusters),
            "wording": list(range(w)),
            **{name: ["off", "on"] for name in FACTORS},
        },
    )


def test_estimates_are_the_means_of_each_wordings_factorial_effects():
    cube = made(np.random.default_rng(0).normal(size=(20, 3, 2, 2)))
    found = effects_over_wordings(cube, FACTORS)
    for w in range(3):
        one = factorial_effects(cube.isel(wording=w, drop=True), FACTORS, method="pointwise", family=())
        np.testing.assert_allclose(found["by_wording"].isel(wording=w), one["estimate"])
        np.testing.assert_allclose(found["by_wording_low"].isel(wording=w), one["ci_low"])
    np.testing.assert_allclose(found["estimate"], found["by_wording"].mean("wording"))
    assert found["effect"].values.tolist() == ["a", "b", "a:b"]
    assert len(describe_wordings(found).splitlines()) == 3


def test_wordings_that_agree_cost_no_more_than_items():
    rng = np.random.default_rng(1)
    item = rng.normal(size=(40, 1, 2, 2))
    found = effects_over_wordings(made(np.repeat(item, 4, axis=1)), FACTORS)
    one = factorial_effects(made(item).isel(wording=0, drop=True), FACTORS, method="pointwise", family=())
    np.testing.assert_allclose(found["se"], one["se"])
    np.testing.assert_allclose(found["spread"], 0)


@pytest.mark.parametrize(
    ("items", "wordings", "cluster", "sd_wording"), [(40, 5, 1, 0.5), (40, 5, 1, 0.0), (60, 8, 3, 0.3)]
)
@pytest.mark.slow(seconds=5)
def test_intervals_hold_the_effect_over_all_items_and_wordings(items, wordings, cluster, sd_wording):
    rng, truth, hits, n = np.random.default_rng(2), 0.7, 0, 400
    names = np.repeat(np.arange(items // cluster), cluster).astype(str)
    for _ in range(n):
        shared = np.repeat(rng.normal(0, 0.8, items // cluster), cluster)
        effect = truth + shared[:, None] + rng.normal(0, sd_wording, wordings)
        noise = rng.normal(0, 0.5, (items, wordings, 2, 2))
        noise[:, :, 1, :] += effect[:, :, None]
        found = effects_over_wordings(made(noise, names), FACTORS).sel(effect="a")
        hits += float(found["ci_low"]) < truth < float(found["ci_high"])
    assert 0.92 <= hits / n <= 0.985


def test_intervals_of_items_alone_would_not_hold_it():
    rng, truth, hits, n = np.random.default_rng(3), 0.7, 0, 200
    for _ in range(n):
        effect = truth + rng.normal(0, 0.3, (40, 1)) + rng.normal(0, 0.5, 5)
        noise = rng.normal(0, 0.2, (40, 5, 2, 2))
        noise[:, :, 1, :] += effect[:, :, None]
        one = factorial_effects(made(noise).mean("wording"), FACTORS, method="pointwise", family=())
        hits += float(one["ci_low"].sel(effect="a")) < truth < float(one["ci_high"].sel(effect="a"))
    assert hits / n < 0.6


def test_what_has_no_answer_is_refused():
    cube = made(np.zeros((6, 2, 2, 2)))
    for wrong, match in (
        (cube.isel(wording=[0]), "two or more wordings"),
        (cube.isel(item=[0]), "two or more clusters"),
        (cube.isel(wording=0, drop=True), "needs the dims"),
        (cube.assign_coords(a=["off", "placebo"]), "levels off and on"),
        (cube.where(cube["item"] != "i0"), "every item in every wording"),
    ):
        with pytest.raises(ValueError, match=match):
            effects_over_wordings(wrong, FACTORS)


def test_an_effect_without_any_variance_has_no_p_of_zero_and_no_interval_in_words():
    still = np.zeros((6, 3, 2, 2))
    still[:, :, 1] = 0.5
    found = effects_over_wordings(made(still), FACTORS)
    one = found.sel(effect="a")
    assert float(one["se"]) == 0
    assert float(one["p"]) != 0
    text = describe_wordings(found).splitlines()[0]
    assert "a: +0.500 in every item and each of 3 wordings, so that there is no interval" in text


def test_what_never_changes_has_the_rules_of_other_effects():
    same = np.zeros((24, 2, 2, 2))
    same[:, :, 1] = 0.3
    found = effects_over_wordings(made(same), FACTORS)
    assert float(found["p"].sel(effect=FACTORS[0])) == 2.0 ** (1 - 24)
    assert float(found["ci_low"].sel(effect=FACTORS[0])) == pytest.approx(
        0.3 * (1 - 2 * (1 - 0.025 ** (1 / 24)))
    )
    silent = effects_over_wordings(made(np.zeros((24, 2, 2, 2))), FACTORS)
    assert (silent["p"] == 1).all()
    assert float(silent["ci_high"].min()) == pytest.approx(1 - 0.025 ** (1 / 24))
    assert float(silent["by_wording_high"].min()) == pytest.approx(1 - 0.025 ** (1 / 24))


def test_too_many_failures_leave_no_p_over_wordings_either():
    cube = made(np.random.default_rng(0).integers(0, 2, (24, 2, 2, 2)).astype(float))
    failed = xr.zeros_like(cube, dtype=bool)
    failed[:12] = True
    found = effects_over_wordings(cube.assign_coords(failed=failed), FACTORS)
    assert found["p"].isnull().all()
    assert "50% of the answers could not be read" in found.attrs["withheld"]
    assert describe_wordings(found) == found.attrs["withheld"]
