import re

import numpy as np
import pytest
import xarray as xr

from morality_lens.interactions.describing import describe
from morality_lens.interactions.effects import factorial_effects
from morality_lens.interactions.names import effect_called
from morality_lens.interactions.numbers import interval_of
from morality_lens.interactions.odds import marginal_log_odds

FACTORS = ("instruction", "feedback")


def cube(cells: np.ndarray, n_items: int = 40, sd: float = 0.2, seed: int = 0) -> xr.DataArray:
    """Items whose mean by instruction, feedback and layer is given."""
    rng = np.random.default_rng(seed)
    values = cells[None] + sd * rng.standard_normal((n_items, *cells.shape))
    coords = {name: ["off", "on"] for name in FACTORS}
    return xr.DataArray(
        values,
        dims=("item", *FACTORS, "layer"),
        coords={"item": [f"q{i}" for i in range(n_items)], **coords, "layer": range(cells.shape[-1])},
        attrs={"oriented": True},
    )


def two_signs() -> xr.DataArray:
    """Negative at layer 0 where both components help, more clearly positive at layer 1."""
    return cube(np.stack([[[0.0, 1.0], [1.0, 1.6]], [[0.0, 1.0], [1.0, 4.0]]], axis=-1))


def test_what_is_said_of_sub_additivity_is_about_the_place_and_sign_it_names():
    y = two_signs()
    result = factorial_effects(y)
    text = describe(result, "instruction:feedback")
    assert "positive at layer 1; negative at layer 0" in text
    assert "The largest |t| is at layer 1: +" in text
    told = text.partition("It is sub-additive on the scale shown (L0) at layer 0: negative there")[2]
    there = result.sel(effect="instruction:feedback", layer=0)
    size = interval_of(there, "estimate", "band_low", "band_high", signed=True)
    assert f"Clearest at layer 0: {size.replace(' [', ' (simultaneous 95 % band [')}" in told
    low = y.sel(instruction="off", feedback="off", layer=0).mean().item()
    assert f"Cell means at layer 0: instruction off, feedback off: {low:.3f};" in told
    assert "layer 1" not in told


def test_components_that_are_not_shown_to_help_make_nothing_sub_additive():
    unsure = cube(np.array([[0.0, 1.0], [1.0, 0.0]])[..., None])
    text = describe(factorial_effects(unsure), "instruction:feedback")
    assert "Where it is negative at layer 0, the two components are not both shown to raise" in text
    assert "It is sub-additive" not in text


@pytest.mark.parametrize("seed", range(5))
def test_extents_are_the_places_whose_adjusted_p_reaches_alpha(seed):
    y = cube(np.zeros((2, 2, 8)) + 0.08 * np.arange(8) * np.array([0, 1])[:, None, None], seed=seed)
    result = factorial_effects(y)
    one = result.sel(effect="instruction")
    first = describe(result, "instruction").splitlines()[0]
    told = re.search(r"positive at layers? (.*) \(max", first)
    places = set()
    for part in [] if told is None else re.split(", | and ", told[1]):
        a, _, b = part.partition(" to ")
        places |= set(range(int(a), int(b or a) + 1))
    assert places == set(np.flatnonzero((one.p_adj <= 0.05) & (one.estimate > 0)).tolist())


def test_without_a_name_every_effect_is_described_and_the_conditions_once():
    result = factorial_effects(two_signs())
    lines = describe(result).splitlines()
    assert [line.partition(":")[0] for line in lines[:2]] == ["instruction", "feedback"]
    assert lines[2].startswith("instruction:feedback: ")
    assert len(lines) == 4
    assert lines == [
        *(describe(result, str(name)).splitlines()[0] for name in result.effect.values),
        describe(result, "feedback").splitlines()[1],
    ]
    assert describe(result, ["feedback", "instruction"]).splitlines() == [lines[1], lines[0], lines[3]]


def test_the_factors_of_an_effect_may_be_named_in_any_order():
    result = factorial_effects(two_signs())
    assert describe(result, "feedback:instruction") == describe(result, "instruction:feedback")
    assert describe(result, " feedback : instruction") == describe(result, "instruction:feedback")


NAMES = ["a", "b", "a:b", "a[on-placebo]:b@c=off,d=on"]


@pytest.mark.parametrize(
    ("asked", "found"),
    [("b:a", "a:b"), ("b@d=on,c=off:a", None), ("b:a[on-placebo]@d=on,c=off", "a[on-placebo]:b@c=off,d=on")],
)
def test_a_name_is_found_or_refused_with_those_that_there_are(asked, found):
    if found is not None:
        assert effect_called(asked, NAMES, "x") == found
        return
    with pytest.raises(ValueError, match=r"x needs one of the effects \['a'"):
        effect_called(asked, NAMES, "x")


def test_a_level_that_cannot_be_vouched_for_is_said_at_the_end():
    result = factorial_effects(two_signs()).assign_attrs(vouch="Warning: skewness 2.1.")
    assert describe(result, "feedback").endswith(" Warning: skewness 2.1.")


def test_refused_layers_are_counted_apart_and_the_reason_is_given():
    y = cube(np.zeros((2, 2, 5))).assign_coords(split_half=("layer", [0.9, 0.9, 0.3, 0.9, 0.9]))
    own = y.mean("item").drop_vars("split_half").drop_attrs()
    noise = np.random.default_rng(0).standard_normal((30, *own.shape)) * 0.05
    refits = xr.DataArray(own.values + noise, dims=("probe_draw", *own.dims), coords=own.coords)
    text = describe(factorial_effects(y, refits=refits), "instruction")
    assert "at any of the 4 judged places (5 layers, at 1 of which there is no p)" in text
    assert "No p and no interval at the layers 2 (0.30): halves of the probe's training data" in text
    moved = y + 3.0 * (y["instruction"] == "on")
    shown = describe(factorial_effects(moved.assign_attrs(y.attrs), refits=refits), "instruction")
    assert (
        "positive at layers 0 to 1 and 3 to 4 (max-|t| p at most 0.05, 1 of the 5 places have no p)" in shown
    )
    still = describe(factorial_effects(y * 0 + 2.0, refits=refits * 0 + 2.0).assign_attrs(), "instruction")
    assert "exactly zero at all of the 4 judged places" in still
    one = y.isel(layer=[1, 2])
    alone = describe(factorial_effects(one, refits=refits), "instruction")
    assert "at the one judged place (2 layers, at 1 of which there is no p)" in alone


def test_log_odds_of_means_are_described_pointwise():
    rng = np.random.default_rng(2)
    y = cube(np.zeros((2, 2, 1))).isel(layer=0, drop=True)
    odds = marginal_log_odds(y.copy(data=(rng.random(y.shape) < 0.5).astype(float)))
    text = describe(odds, "instruction")
    size = odds.sel(effect="instruction")
    said = interval_of(size, signed=True).replace(" [", " (pointwise 95 % interval [")
    assert said in text
    assert "no family-corrected p (cluster jackknife), so no extent is claimed" in text
    assert "Effects of y on the log-odds of cell means; 40 items in 40 clusters" in text


def test_no_effect_at_all_is_nothing_to_describe():
    with pytest.raises(ValueError, match=r"at least one effect; got none\. Choose among \['instruction'"):
        describe(factorial_effects(two_signs()), [])
