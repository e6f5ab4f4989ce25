"""Fractions of a design: their levels, what is said, and their effects with their aliases."""

import itertools

import numpy as np
import pytest
import xarray as xr

import morality_lens as ml
from morality_lens.design import Condition, Design, Factor, Generated, design_from, half_fraction
from morality_lens.dialogues.script import Script
from morality_lens.dialogues.wording import load_wording
from morality_lens.interactions.claims import claim_ladder
from morality_lens.interactions.effects import factorial_effects
from morality_lens.interactions.tabulating import effects_table
from morality_lens.items.kinds import Question
from morality_lens.report.summary import result_lines

NAMES = ("instruction", "cot", "feedback", "pressure")
FOUR = half_fraction([Factor(name=name) for name in NAMES], rounds=1)
SIGN = {"off": -1.0, "on": 1.0}


def test_the_generated_sign_is_the_product_of_the_others():
    assert len(FOUR.conditions) == 8
    for condition in FOUR.conditions:
        spoken = FOUR.spoken(condition)
        product = np.prod([SIGN[condition[name]] for name in NAMES[:3]])
        assert SIGN[spoken["pressure"]] == product
    by, levels = FOUR.coords["pressure"]
    assert by == NAMES[:3]
    for condition in FOUR.conditions:
        assert levels[FOUR.place(condition)] == FOUR.spoken(condition)["pressure"]
    assert design_from(FOUR.manifest()) == FOUR


def test_the_design_is_balanced_so_that_main_effects_are_orthogonal():
    signs = np.array([[SIGN[FOUR.spoken(c)[name]] for name in NAMES] for c in FOUR.conditions])
    assert np.array_equal(signs.T @ signs, 8 * np.eye(4))


def planted(effects: dict[str, float], items: int = 12) -> xr.DataArray:
    """item x three factors, from effects on the difference scale of all four, with noise between items."""
    rng = np.random.default_rng(0)
    values = np.empty((items, 2, 2, 2))
    for condition in FOUR.conditions:
        spoken = FOUR.spoken(condition)
        total = 0.0
        for name, size in effects.items():
            parts = name.split(":")
            total += size * np.prod([SIGN[spoken[part]] / 2 for part in parts])
        values[(slice(None), *FOUR.place(condition))] = total + rng.normal(scale=0.05, size=items)
    return xr.DataArray(
        values,
        dims=("item", *NAMES[:3]),
        coords={"item": [f"q{k}" for k in range(items)], **FOUR.coords},
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_planted_main_effect_comes_back_under_its_name_alone(name):
    found = factorial_effects(planted({name: 2.0}))["estimate"]
    assert set(found["effect"].values) == {
        *NAMES,
        "instruction:cot",
        "instruction:feedback",
        "cot:feedback",
    }
    for effect in found["effect"].values:
        assert float(found.sel(effect=effect)) == pytest.approx(2.0 if effect == name else 0.0, abs=0.1)


def test_a_two_way_interaction_comes_back_under_the_name_of_its_alias():
    found = factorial_effects(planted({"feedback:pressure": 2.0}))
    assert float(found["estimate"].sel(effect="instruction:cot")) == pytest.approx(2.0, abs=0.1)
    assert found.attrs["aliases"] == {
        "instruction": "cot:feedback:pressure",
        "cot": "instruction:feedback:pressure",
        "feedback": "instruction:cot:pressure",
        "instruction:cot": "feedback:pressure",
        "instruction:feedback": "cot:pressure",
        "cot:feedback": "instruction:pressure",
        "pressure": "instruction:cot:feedback",
    }
    assert "pressure from instruction:cot:feedback" in " ".join(found.attrs["notes"])
    assert "pressure is not to be told from instruction:cot:feedback" in ml.describe(found, "pressure")


def test_a_quarter_has_three_aliases_for_every_effect():
    first = Generated(factor=Factor(name="pressure"), by=("instruction", "cot"))
    second = Generated(factor=Factor(name="persona"), by=("instruction", "feedback"))
    design = Design(factors=FOUR.factors, generated=(first, second), rounds=1)
    cube = xr.DataArray(
        np.random.default_rng(1).normal(size=(12, 2, 2, 2)),
        dims=("item", *NAMES[:3]),
        coords={"item": range(12), **design.coords},
    )
    aliases = factorial_effects(cube).attrs["aliases"]
    assert set(aliases) >= {"pressure", "persona"}
    assert aliases["instruction"].split(", ")[:2] == ["cot:pressure", "feedback:persona"]
    assert all(len(told.split(", ")) == 3 for told in aliases.values())


def test_what_a_fraction_cannot_answer_is_refused():
    cube = planted({"cot": 1.0})
    with pytest.raises(ValueError, match="pressure follows from the other factors"):
        factorial_effects(cube, at={"cot": "off"})
    with pytest.raises(ValueError, match="pressure follows from the other factors"):
        factorial_effects(cube, factors=("instruction", "cot"))
    with pytest.raises(ValueError, match="three factors or more"):
        half_fraction([Factor(name="cot"), Factor(name="pressure")])
    with pytest.raises(ValueError, match="is off or on and has texts"):
        half_fraction([Factor(name=name) for name in ("instruction", "pressure", "feedback")])
    with pytest.raises(ValueError, match=r"crossed off and on, out of \['cot'\]"):
        Design(
            factors=(Factor(name="cot"), Factor(name="feedback", levels=("off", "placebo", "on"))),
            generated=(Generated(factor=Factor(name="pressure"), by=("cot", "feedback")),),
        )
    with pytest.raises(ValueError, match="different factors"):
        half_fraction([Factor(name=name) for name in ("pressure", "cot", "pressure")])


def test_a_part_of_a_fraction_in_which_two_factors_are_one_is_refused():
    """Within feedback on, instruction and pressure have the same levels: neither effect is there alone."""
    three = half_fraction([Factor(name=name) for name in ("instruction", "feedback", "pressure")], rounds=1)
    cube = xr.DataArray(
        np.random.default_rng(1).normal(size=(12, 2, 2)),
        dims=("item", "instruction", "feedback"),
        coords={"item": range(12), **three.coords},
    )
    for level in ("off", "on"):
        with pytest.raises(ValueError, match="pressure follows from other factors, and some of their levels"):
            factorial_effects(cube.sel(feedback=level))
    whole = planted({"cot": 1.0})
    with pytest.raises(ValueError, match="some of their levels were taken out"):
        factorial_effects(whole.sel(cot="off"))
    within = factorial_effects(whole.sel(cot="on"))
    assert within.attrs["aliases"]["pressure"] == "instruction:feedback"
    with pytest.raises(ValueError, match="claim_ladder compares single conditions"):
        claim_ladder(cube, "instruction", "feedback")
    with pytest.raises(ValueError, match="differ in pressure too"):
        three.two_way(("instruction", "feedback"))


def test_tables_and_sentences_of_a_fraction_name_the_aliases():
    found = factorial_effects(planted({"pressure": 2.0}))
    table = effects_table(found)
    assert dict(zip(table["effect"], table["aliases"], strict=True)) == found.attrs["aliases"]
    assert "aliases" in effects_table(found, text=True)
    assert "aliases" not in effects_table(factorial_effects(planted({"cot": 1.0}).drop_vars("pressure")))


def test_what_is_said_follows_the_generated_level_and_round_zero_is_shared_by_what_opens_alike():
    question = Question(
        id="q", cluster="q", context="", question="Who?", options=("A man", "A boy", "Not known"), label=2
    )
    early = half_fraction([Factor(name=name) for name in (*NAMES[:3], "persona")], rounds=1)
    for design, last in ((FOUR, "pressure"), (early, "persona")):
        script = Script(design=design, wording=load_wording())
        for condition in design.conditions:
            turns = [
                turn
                for number in (0, 1)
                for exchange in script.round(question, condition, number, feedback="Look.")
                for turn in exchange.turns
            ]
            names = {segment.name for turn in turns for segment in turn.segments}
            assert (last in names) == (design.spoken(condition)[last] == "on")
    assert FOUR.early == ()
    assert early.early == NAMES[:3]
    assert len({early.opening(condition) for condition in early.conditions}) == 8


def test_a_fraction_is_played_stored_and_analysed_with_its_aliases(tmp_path):
    protocol = ml.Protocol(design=FOUR)
    run = ml.play(ml.load_model(), ml.load_items(limit=16), protocol=protocol, out=tmp_path / "run")
    assert ml.open_run(run.path).design == FOUR
    said = {
        (row["instruction"], row["cot"], row["feedback"]): any(s["name"] == "pressure" for s in row["spans"])
        for _, row in run.transcripts.iterrows()
    }
    for cell in itertools.product(("off", "on"), repeat=3):
        condition = Condition(**dict(zip(NAMES[:3], cell, strict=True)))
        assert said[cell] == (FOUR.spoken(condition)["pressure"] == "on")
    probe = ml.fit_probe(ml.load_model(), ml.load_statements("world", limit=120))
    analysis = ml.analyze(run, probe=probe)
    for found in (analysis.effects, analysis.behaviour_effects):
        if found is not None:
            assert "pressure" in found["effect"].values
    page = ml.write_report(run, probe=probe, path=tmp_path / "report.html").read_text()
    assert "pressure from instruction:cot:feedback" in page
    assert "the sign of pressure being the product of those of instruction, cot, feedback" in page
    assert any("pressure with instruction:cot:feedback" in line for line in result_lines(analysis))
    scored = ml.attribute(ml.load_model(), run, probe, layer=3, execution=ml.rounds.Execution(progress=False))
    assert "pressure" in ml.interactions.attribute_effects(scored)["effect"].values
