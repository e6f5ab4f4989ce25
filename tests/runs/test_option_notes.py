"""Where the letters are not what a model says next, everything made of their probabilities says so."""

import numpy as np
import pytest
import xarray as xr
from conftest import make_questions
from tiny import made_up_probe, tiny_run
from written import rewrite

from morality_lens import plots
from morality_lens.circuits import (
    Batching,
    ablate,
    attribute_answer,
    causal_lines,
    describe_mediation,
    mediate,
    patch,
    patch_gradient,
    steer,
)
from morality_lens.design import Condition
from morality_lens.interactions import attribute_effects, describe_components, factorial_effects
from morality_lens.judges.outcomes import behaviour_cube
from morality_lens.report.analysis import analyze
from morality_lens.report.sections import inside_groups
from morality_lens.report.writing import write_report
from morality_lens.rounds.selection import Execution
from morality_lens.runs.option_notes import LEAST_MASS, low_mass_note, mass_lines, option_note, unequal_note

SAID = "they are not what this model says next"
QUIET = Batching(progress=False)


def test_the_note_begins_below_the_threshold():
    assert low_mass_note(LEAST_MASS) == low_mass_note(0.9) == low_mass_note(float("nan")) == ""
    assert SAID in low_mass_note(LEAST_MASS - 1e-9)
    assert "hold 30% of the probability" in low_mass_note([0.5, 0.1])


def test_unequal_tokens_are_named_with_their_counts():
    assert unequal_note({"A": [3, 4], "B": [5, 6]}) == unequal_note({}) == ""
    assert "(A 1, B 2, C 2)" in unequal_note({"A": [1], "B": [2, 3], "C": [4, 5]})


@pytest.fixture(scope="module")
def played(zoo_folder, tmp_path_factory):
    """A tiny random model, which says anything, and a run of it in eight clusters."""
    items = [type(q)(**{**vars(q), "cluster": f"c{i}"}) for i, q in enumerate(make_questions(8))]
    return tiny_run(zoo_folder("llama"), tmp_path_factory.mktemp("notes") / "run", items)


def with_mass(run, values, **manifest):
    """The run with another option mass, by condition or for all, and other records."""
    again = rewrite(run, "option_mass", values)
    again.manifest.update(manifest)
    return again


@pytest.fixture
def certain(played):
    """The same run as if its model had said letters; put back afterwards."""
    _, run = played
    before = run.option_mass.values.copy()
    yield with_mass(run, 0.95)
    with_mass(run, before[np.argsort(run._order)] if len(run._order) else before)


def test_the_note_rests_on_the_cells_that_a_result_is_made_of(played, certain):
    mass = np.full(certain.option_mass.shape, 0.95)
    mass[:, 1] = 0.2  # with the instruction
    run = with_mass(certain, mass)
    assert option_note(run) == ""  # .575 on average
    assert SAID in option_note(run, conditions=[Condition(instruction="on")], rounds=[1])
    assert option_note(run, conditions=[Condition()], rounds=[1]) == ""
    assert SAID not in option_note(run, conditions=[Condition(), Condition(instruction="on")])
    (line,) = mass_lines(run)
    assert "in 8 of 16 conditions and rounds" in line
    assert "instruction, round 0 (20%)" in line
    assert "cot+feedback" in line.replace("instruction+", "")
    assert mass_lines(with_mass(run, 0.95)) == []
    assert "in every condition and round" in mass_lines(with_mass(run, 0.1))[-1]
    some = with_mass(run, 0.95, reply_tokens={"A": [1], "B": [2, 3], "C": [4, 5]})
    assert "(A 1, B 2, C 2)" in mass_lines(some)[0]
    assert "unequal" in behaviour_cube(some, "probability").attrs["option_note"]


def test_the_manifest_holds_the_tokens_of_every_letter(played):
    _model, run = played
    assert list(run.manifest["reply_tokens"]) == ["A", "B", "C"]
    assert all(run.manifest["reply_tokens"].values())


def test_every_result_of_log_odds_carries_the_note(played):
    model, run = played
    probe, on = made_up_probe(model), Condition(instruction="on", feedback="on")
    patched = patch(model, run, source=on, target=Condition(), batching=QUIET)
    steered = steer(model, run, probe, condition=Condition(), batching=QUIET)
    ablated = {
        name: ablate(model, run, probe, condition=c, batching=QUIET)
        for name, c in (("on", on), ("off", Condition()))
    }
    mediated = mediate(model, run, probe, batching=QUIET)
    slopes = patch_gradient(model, run, source=on, target=Condition(), check=0, batching=QUIET)
    parts = attribute_answer(model, run, execution=Execution(progress=False))
    for result in (patched, steered, *ablated.values(), mediated, slopes, parts):
        assert SAID in result.attrs["option_note"]
    assert SAID in describe_mediation(mediated)
    assert all(SAID in line for line in causal_lines(steered, ablated)["detail"])
    effects = attribute_effects(parts, draws=200)
    assert SAID in describe_components(effects, "feedback")
    assert any(SAID in note for note in effects.attrs["notes"])
    kept = {
        "patched-residual": patched,
        "steered": steered,
        "ablated-on": ablated["on"],
        "mediated": mediated,
        "answer-component": effects,
    }
    groups = inside_groups(kept)
    assert len(groups) == 4
    for group in groups:
        said = [line for line in group.lines if SAID in line]  # each note once, by itself
        assert said
        assert len(set(said)) == len(said)
        assert all(line.startswith("The letters") and line.count(SAID) == 1 for line in said)
    for fig in (plots.patching_map(patched), plots.dose_response(steered), plots.mediation(mediated)):
        assert SAID in fig["layout"]["title"]["subtitle"]["text"].replace("<br>", " ")
    odds = steered.assign_attrs(option_note="")
    assert SAID not in plots.dose_response(odds)["layout"]["title"]["subtitle"]["text"]


def test_effects_on_probabilities_and_the_report_say_it(played, tmp_path):
    _, run = played
    cube = behaviour_cube(run, "probability")
    effects = factorial_effects(cube, draws=200)
    assert any(SAID in note for note in effects.attrs["notes"])
    assert "option_note" not in behaviour_cube(run, "correct").attrs  # read from the text
    analysis = analyze(run, draws=200)
    assert SAID in " ".join(analysis.option_lines)
    html = write_report(run, path=tmp_path / "report.html", analysis=analysis).read_text()
    assert SAID in html
    assert "Probabilities of the options" in html
    assert "permute-options" in " ".join(analysis.refused)


def test_a_model_that_says_letters_is_not_doubted(played, certain):
    model, _ = played
    steered = steer(model, certain, made_up_probe(model), condition=Condition(), batching=QUIET)
    assert steered.attrs["option_note"] == ""
    assert isinstance(steered, xr.Dataset)
    assert "option_note" not in behaviour_cube(certain, "probability").attrs
