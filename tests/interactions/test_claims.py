import numpy as np
import pytest
import xarray as xr

from morality_lens.interactions.claims import claim_ladder, describe_claims, equivalence
from morality_lens.interactions.effects import factorial_effects

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


def test_places_are_corrected_by_holm_and_each_gets_its_sentence():
    y = planted([[0, 1.5], [1.5, 1.0]], places=4)
    ladder = claim_ladder(y)
    ranked = np.sort(ladder.p.sel(claim="L0").values)
    np.testing.assert_allclose(
        np.sort(ladder.p_adj.sel(claim="L0").values), np.maximum.accumulate(ranked * [4, 3, 2, 1])
    )
    text = describe_claims(ladder)
    assert text.count("interference (L3") == 8 or text.count("interference (L3") >= 4
    assert "layer 2: instruction and feedback:" in text
    assert "instruction off, feedback off:" in text
    assert "(Holm)" in text


def test_what_is_not_shown_is_not_called_additive():
    text = describe_claims(claim_ladder(planted([[0, 1], [1, 2]])))
    assert "no claim about instruction and feedback is supported" in text
    assert "not evidence that they add up" in text


def test_a_margin_lets_small_gains_count_as_none():
    y = planted([[0, 1], [1, 1.02]], 400)
    assert "L2" not in held(claim_ladder(y))
    assert "L2" in held(claim_ladder(y, margin=0.3))


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
