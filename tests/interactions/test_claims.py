import re

import numpy as np
import pytest
import xarray as xr

from morality_lens.interactions.carried import CarriedRefits
from morality_lens.interactions.claims import claim_ladder, describe_claims, equivalence
from morality_lens.interactions.describing import POSITION, describe
from morality_lens.interactions.effects import factorial_effects
from morality_lens.interactions.intervals import one_sided
from morality_lens.interactions.odds import marginal_log_odds

FACTORS = ("instruction", "cot", "feedback")


def planted(cells, n_items: int = 120, sd: float = 0.5, seed: int = 0, places: int = 1) -> xr.DataArray:
    """Items whose mean by instruction (rows) and feedback (columns) is given; nothing else acts."""
    rng = np.random.default_rng(seed)
    y = rng.standard_normal((n_items, 1, 1, 1, places)) + sd * rng.standard_normal((n_items, 2, 2, 2, places))
    y += np.array(cells)[None, :, None, :, None]
    coords = {"item": np.arange(n_items), "layer": np.arange(places), **{n: ["off", "on"] for n in FACTORS}}
    cube = xr.DataArray(y, dims=("item", *FACTORS, "layer"), coords=coords, attrs={"oriented": True})
    return cube if places > 1 else cube.isel(layer=0, drop=True)


def held(ladder: xr.Dataset) -> set[str]:
    return {str(claim) for claim in ladder.claim.values if ladder.holds.sel(claim=claim).all()}


CASES = {
    "additive": ([[0, 1], [1, 2]], set()),
    "sub-additive": ([[0, 1], [1, 1.5]], {"L0"}),
    "worse than the better one, feedback still helps on average": (
        [[0, 1.5], [1.0, 1.2]],
        {"L0", "L2", "L3 instruction|feedback"},
    ),
    "interference both ways": (
        [[0, 1.5], [1.5, 1.0]],
        {"L0", "L2", "L3 instruction|feedback", "L3 feedback|instruction"},
    ),
    "super-additive": ([[0, 0.5], [0.5, 2]], set()),
    "negative two-way without help": ([[0, -0.5], [-0.5, -2]], {"L2"}),
}


@pytest.mark.parametrize("name", CASES)
def test_each_rung_holds_where_it_was_planted_and_nowhere_else(name):
    cells, expected = CASES[name]
    ladder = claim_ladder(planted(cells))
    assert held(ladder) == expected
    np.testing.assert_allclose(ladder.cell_mean.values, cells, atol=0.4)


def test_interference_is_an_intersection_union_test():
    y = planted([[0, 1.5], [1.0, 0.8]], n_items=40)
    ladder = claim_ladder(y)
    steps = factorial_effects(y, ("feedback", "cot"), at={"instruction": "off"}, method="pointwise").sel(
        effect="feedback@instruction=off"
    )
    other = factorial_effects(y, ("feedback", "cot"), at={"instruction": "on"}, method="pointwise").sel(
        effect="feedback@instruction=on"
    )
    one = steps.p.item() / 2 if steps.estimate > 0 else 1 - steps.p.item() / 2
    two = other.p.item() / 2 if other.estimate < 0 else 1 - other.p.item() / 2
    assert ladder.p.sel(claim="L3 feedback|instruction").item() == pytest.approx(max(one, two))
    assert ladder.simple.sel(step="feedback with instruction").item() == pytest.approx(other.estimate.item())


@pytest.mark.slow(seconds=8)
def test_interference_is_claimed_about_as_rarely_as_it_says_at_the_edge_of_the_null():
    found = [
        bool(
            claim_ladder(planted([[0, 3], [1.5, 1.5]], 30, seed=s)).holds.sel(claim="L3 feedback|instruction")
        )
        for s in range(200)
    ]
    assert 2 <= sum(found) <= 20


def test_log_odds_are_claimed_of_zeros_and_ones_only():
    rng = np.random.default_rng(3)
    p = np.array([[0.3, 0.7], [0.7, 0.8]])[None, :, None, :]
    y = planted([[0, 0], [0, 0]], 600).copy(data=(rng.random((600, 2, 2, 2)) < p).astype(float))
    ladder = claim_ladder(y)
    assert {"L0", "L1"} <= held(ladder)
    assert "L1" not in claim_ladder(planted([[0, 1], [1, 1.5]])).claim.values
    ceiling = np.array([[0.55, 0.8], [0.8, 0.97]])[None, :, None, :]
    y = y.copy(data=(rng.random((600, 2, 2, 2)) < ceiling).astype(float))
    assert held(claim_ladder(y)) == {"L0"}


def test_places_are_corrected_by_max_t_and_each_gets_its_sentence():
    y = planted([[0, 1.5], [1.5, 1.0]], places=4)
    ladder, effects = claim_ladder(y), factorial_effects(y)
    needed = effects.p_adj.sel(effect=["instruction", "feedback", "instruction:feedback"])
    np.testing.assert_array_equal(ladder.p_adj.sel(claim="L0"), needed.max("effect"))
    text = describe_claims(ladder)
    assert text.count("interference (L3") == 8 or text.count("interference (L3") >= 4
    assert "layer 2: instruction and feedback:" in text
    assert "instruction off, feedback off:" in text
    assert "p corrected over 4 tests (4 layers), separately for each effect (max-|t|)" in text


@pytest.mark.parametrize("seed", range(4))
def test_the_ladder_and_the_sentences_claim_l0_at_the_same_places(seed):
    y = planted([[0, 0.8], [0.8, 1.15]], 60, sd=0.8, seed=seed, places=12)
    y = y + xr.DataArray(np.linspace(-0.3, 0.3, 12), dims="layer") * (y.instruction == "on")
    y = y.assign_attrs(oriented=True)
    ladder, text = claim_ladder(y), describe(factorial_effects(y), "instruction:feedback")
    claimed = ladder.holds.sel(claim="L0").values
    told = re.search(r"\(L0\) at layers? ([^:]*): negative", text)
    layers = set() if told is None else {n for part in re.split(", | and ", told[1]) for n in _run(part)}
    assert layers == set(np.flatnonzero(claimed).tolist())
    assert 0 < claimed.sum() < 12


def _run(part: str) -> range:
    first, _, last = part.partition(" to ")
    return range(int(first), int(last or first) + 1)


def test_with_few_clusters_and_several_places_neither_claims_anything():
    y = planted([[0, 1.5], [1.5, 1.0]], 7, sd=0.1, places=3)
    ladder = claim_ladder(y)
    assert not ladder.holds.any()
    assert ladder.p_adj.isnull().all()
    assert "no corrected p (7 clusters are fewer than 8" in describe_claims(ladder)
    assert "no extent is claimed" in describe(factorial_effects(y), "instruction:feedback")
    assert bool(claim_ladder(y.isel(layer=0, drop=True)).holds.sel(claim="L0"))


def test_what_is_not_shown_is_not_called_additive():
    text = describe_claims(claim_ladder(planted([[0, 1], [1, 2]])))
    assert "no claim about instruction and feedback is supported" in text
    assert "not evidence that they add up" in text


def test_a_margin_lets_small_gains_count_as_none():
    y = planted([[0, 1], [1, 1.02]], 400)
    assert "L2" not in held(claim_ladder(y))
    assert "L2" in held(claim_ladder(y, margin=0.3))


def test_with_a_margin_the_words_say_what_was_shown():
    rng = np.random.default_rng(4)
    cells = np.array([[0.80, 0.85], [0.901, 0.909]])[None, :, None, :]
    y = planted([[0, 0], [0, 0]], 300).copy(data=cells + 0.05 * rng.standard_normal((300, 2, 2, 2)))
    better = describe_claims(claim_ladder(y, margin=0.02))
    assert "both together are no more than 0.02 above the better of the two alone (L2" in better
    assert "worse" not in better
    worse = y.where(~((y.instruction == "on") & (y.feedback == "on")), y - 0.03).assign_attrs(y.attrs)
    assert "both together are worse than the better of the two alone (L2" in describe_claims(
        claim_ladder(worse)
    )


def test_a_margin_is_tested_as_the_shifted_outcome_would_be():
    y = planted([[0, 1], [1, 1.1]], 50)
    step = factorial_effects(y, at={"instruction": "on"}, method="pointwise").sel(
        effect="feedback@instruction=on"
    )
    other = factorial_effects(y, at={"feedback": "on"}, method="pointwise").sel(
        effect="instruction@feedback=on"
    )
    by_hand = min(2 * one_sided(one, 0.3)[0].item() for one in (step, other))
    assert claim_ladder(y, margin=0.3).p.sel(claim="L2").item() == pytest.approx(by_hand, rel=1e-6)


def test_a_step_that_never_varies_shows_no_gain_within_a_margin():
    cells = np.zeros((12, 2, 2, 2))
    cells[:6, 1], cells[6:, :, :, 1] = 1.0, 1.0
    cells[:, 1, :, 1] = 1.0
    cells[:, 1] = 1.0
    cells[:, :, :, 1] = 1.0
    y = planted([[0, 0], [0, 0]], 12).copy(data=cells)
    ladder = claim_ladder(y, margin=0.02)
    assert not ladder.holds.sel(claim="L2").item()


def test_claims_can_be_made_of_the_content_alone():
    y = planted([[0, 1.5], [1.5, 1.0]])
    relabelled = y.assign_coords({name: ["placebo", "on"] for name in FACTORS})
    assert held(claim_ladder(relabelled, levels=("placebo", "on"))) == held(claim_ladder(y))


def test_two_different_crossed_factors_are_needed():
    y = planted([[0, 1], [1, 2]])
    with pytest.raises(ValueError, match="two different factors"):
        claim_ladder(y, "feedback", "feedback")
    with pytest.raises(ValueError, match="crossed and not held"):
        claim_ladder(y, at={"feedback": "on"})


def test_equivalence_is_shown_by_two_one_sided_tests():
    effects = factorial_effects(planted([[0, 1], [1, 2]], 300, places=3), method="pointwise")
    shown = equivalence(effects, 0.3)
    assert shown.equivalent.sel(effect="instruction:feedback").all()
    assert not shown.equivalent.sel(effect="instruction").any()
    here = effects.sel(effect="cot", layer=1)
    from scipy.stats import t

    d, se, df = here.estimate.item(), here.se.item(), here.df.item()
    by_hand = max(t.cdf((d - 0.1) / se, df), t.sf((d + 0.1) / se, df))
    assert equivalence(effects, 0.1).p.sel(effect="cot", layer=1).item() == pytest.approx(by_hand)
    assert shown.p_everywhere.sel(effect="cot").item() == shown.p.sel(effect="cot").max().item()


def test_nothing_is_equivalent_where_nothing_varies():
    y = planted([[0, 1], [1, 2]], 20, places=3).copy(deep=True)
    y[{"cot": 1, "layer": 1}] = y.isel(cot=0, layer=1)
    shown = equivalence(factorial_effects(y, method="pointwise"), 1.0)
    cot = shown.sel(effect="cot")
    assert np.isnan(cot.p.values).tolist() == [False, True, False]
    assert cot.equivalent.values.tolist() == [True, False, True]
    assert np.isnan(cot.p_everywhere.item())
    assert "there is no p" in shown.attrs["note"]
    never = planted([[0, 0], [0, 0]], 8).copy(data=np.zeros((8, 2, 2, 2)))
    with pytest.raises(ValueError, match="vary between clusters; got a standard error of 0"):
        equivalence(factorial_effects(never), 0.02)


def test_a_null_that_is_only_not_rejected_is_not_equivalent():
    effects = factorial_effects(planted([[0, 1], [1, 2]], 12, sd=2.0), method="pointwise")
    assert effects.p.sel(effect="cot").item() > 0.05
    assert not equivalence(effects, 0.1).equivalent.sel(effect="cot").item()


def test_equivalence_needs_a_margin_and_p_values():
    effects = factorial_effects(planted([[0, 1], [1, 2]]), method="pointwise")
    with pytest.raises(ValueError, match="margin above 0, declared before"):
        equivalence(effects, 0.0)
    with pytest.raises(ValueError, match="carry none"):
        equivalence(effects.assign(p=effects.p * np.nan), 0.1)


@pytest.mark.parametrize("margin", [-0.5, np.nan, np.inf])
def test_a_margin_that_counts_nothing_or_everything_as_none_is_refused(margin):
    y = planted([[0, 1], [1, 2]])
    with pytest.raises(ValueError, match="finite margin of 0 or more"):
        claim_ladder(y, margin=margin)
    with pytest.raises(ValueError, match="finite margin above 0"):
        equivalence(factorial_effects(y, method="pointwise"), margin)


def test_equivalence_of_log_odds_of_means_has_no_unit():
    rng = np.random.default_rng(5)
    y = planted([[0, 0], [0, 0]]).copy(data=(rng.random((120, 2, 2, 2)) < 0.5).astype(float))
    odds = marginal_log_odds(y)
    found = equivalence(odds, 2.0)
    assert found.attrs["units"] == ""
    assert found.equivalent.sel(effect="instruction").item()
    np.testing.assert_allclose(found.p, np.maximum(one_sided(odds, 2.0)[0], one_sided(odds, -2.0)[1]))


def test_a_constant_effect_is_claimed_with_its_warning():
    y = planted([[0, 0], [0, 0]], 24, places=2)
    y = y.copy(data=y.values * 0 + np.array([[0.0, 1.0], [1.0, 1.5]])[None, :, None, :, None])
    y[..., 1] = planted([[0, 1], [1, 1.5]], 24)
    ladder = claim_ladder(y)
    assert ladder.constant.values.tolist() == [True, False]
    first, second, _ = describe_claims(ladder).splitlines()
    assert "(L0" in first
    assert first.endswith(f"Warning: {POSITION}.")
    assert "Warning" not in second


def test_where_there_is_no_p_the_ladder_says_why_and_claims_no_p_of_one():
    y = planted([[0, 1.5], [1.5, 1.0]], 40, places=3)
    own = y.mean("item").drop_attrs()
    noise = np.random.default_rng(0).standard_normal((30, *own.shape)) * 0.01
    refits = xr.DataArray(own.values + noise, dims=("probe_draw", *own.dims), coords=own.coords)
    y = y.assign_coords(split_half=("layer", [0.9, 0.3, 0.9]))
    ladder = claim_ladder(y.assign_attrs(refits=CarriedRefits(refits=refits, own=own)))
    assert ladder[["p", "p_adj"]].sel(layer=1).isnull().all().to_array().all()
    assert ladder.p_adj.sel(layer=[0, 2]).notnull().all()
    lines = describe_claims(ladder).splitlines()
    assert "is made, as there is no p here (see below)" in lines[1]
    assert "No p and no interval at the layers 1 (0.30): halves of the probe's training" in lines[-1]
    few = claim_ladder(y.assign_coords(cluster=("item", np.arange(40) % 5)).drop_vars("split_half"))
    assert few.p_adj.isnull().all()
    assert few.p.notnull().all()
    assert "as there is no corrected p (5 clusters are fewer" in describe_claims(few)


def test_notes_call_the_steps_by_their_components():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((40, 2, 2))
    values[:, 1, 1] += np.exp(2 * rng.standard_normal(40))
    y = xr.DataArray(
        values,
        dims=("item", "instruction", "feedback"),
        coords={"item": np.arange(40), "instruction": ["off", "on"], "feedback": ["off", "on"]},
        attrs={"oriented": True},
    )
    ladder = claim_ladder(y)
    assert "feedback with instruction" in ladder.attrs["vouch"]
    assert "instruction:feedback" in ladder.attrs["vouch"]
    constant = y.copy(data=np.broadcast_to([[0.0, 0.1], [0.3, 0.4]], values.shape))
    said = " ".join([*claim_ladder(constant).attrs["notes"], ladder.attrs["vouch"]])
    assert "second" not in said
    assert "first" not in said
