"""Answers as cubes and tables."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from conftest import make_questions
from scipy import stats
from written import write_run

from morality_lens.design import COMPONENTS, Design
from morality_lens.interactions.contrasts import between
from morality_lens.interactions.effects import factorial_effects
from morality_lens.judges.outcomes import behaviour_cube, behaviour_table
from morality_lens.report.analysis import analyze
from morality_lens.studies.folder import StudyFolder
from morality_lens.studies.tasks import probabilities_or_choices

DESIGN = Design(rounds=1)


@pytest.fixture
def fake_run(tmp_path):
    """A function that writes a run with the given answers (item x condition x round)."""
    number = iter(range(100))

    def write(correct, parsed=None, mass=1.0):
        items = make_questions(len(correct))
        rows = [
            {
                "item": item.id,
                **c.coords,
                "round": r,
                "correct": bool(correct[i, k, r]),
                "parsed": True if parsed is None else bool(parsed[i, k, r]),
            }
            for i, item in enumerate(items)
            for k, c in enumerate(DESIGN.conditions)
            for r in range(2)
        ]
        table = pd.DataFrame(rows).sample(frac=1, random_state=0)  # the order must not matter
        return write_run(tmp_path / f"run{next(number)}", items, table, [0.5, 0.3, 0.2], mass)

    return write


def test_every_answer_lands_in_its_own_place_of_the_cube(fake_run):
    rng = np.random.default_rng(0)
    correct = rng.random((6, 8, 2)) < 0.5
    cube = behaviour_cube(fake_run(correct))
    assert cube.dims == ("item", *COMPONENTS, "round")
    for k, condition in enumerate(DESIGN.conditions):
        cell = cube.sel(condition.coords)
        np.testing.assert_array_equal(cell.values, correct[:, k])
    assert cube["cluster"].values.tolist() == ["t0", "t1"] * 3


def test_an_unparsed_answer_counts_as_incorrect_and_is_counted(fake_run):
    parsed = np.ones((6, 8, 2), bool)
    parsed[:3, :, 1] = False
    run = fake_run(parsed, parsed)
    table = behaviour_table(behaviour_cube(run), unparsed=behaviour_cube(run, "unparsed"))
    later = table[table["round"] == 1]
    assert (later["mean"] == 0.5).all()
    assert (later["unparsed"] == 0.5).all()
    assert (table[table["round"] == 0]["unparsed"] == 0).all()


def test_the_interval_of_independent_items_is_students():
    values = np.random.default_rng(1).random((6, 2, 2, 2, 1))
    values = np.concatenate([values, 3 - values])  # symmetric, and no shares
    cube = xr.DataArray(
        values,
        dims=("item", *COMPONENTS, "round"),
        coords={"item": range(12), **{c: ["off", "on"] for c in COMPONENTS}, "round": [0]},
    )
    table = behaviour_table(cube)
    for (_, row), cell in zip(table.iterrows(), values.reshape(12, 8).T, strict=True):
        low, high = stats.t.interval(0.95, 11, cell.mean(), stats.sem(cell))
        assert (row["mean"], row["ci_low"], row["ci_high"]) == pytest.approx((cell.mean(), low, high))


def test_missing_scores_are_left_out_and_counted():
    values = np.ones((4, 2, 2, 2, 1))
    values[0] = np.nan
    cube = xr.DataArray(
        values,
        dims=("item", *COMPONENTS, "round"),
        coords={"item": range(4), **{c: ["off", "on"] for c in COMPONENTS}, "round": [0]},
    )
    table = behaviour_table(cube)
    assert (table["n"] == 3).all()
    assert (table["mean"] == 1).all()


def of_shares(values, units=""):
    """Numbers of items in eight clusters, by a component and one round."""
    return xr.DataArray(
        values,
        dims=("item", "feedback", "round"),
        coords={
            "item": range(len(values)),
            "cluster": ("item", np.arange(len(values)) % 8),
            "feedback": ["off", "on"],
            "round": [0],
        },
        attrs={"units": units} if units else {},
    )


def test_equal_shares_have_a_width_and_no_interval_leaves_0_to_1():
    right = np.ones((24, 2, 1))
    table = behaviour_table(of_shares(right))
    assert (table["ci_high"] == 1).all()
    np.testing.assert_allclose(table["ci_low"], 0.025 ** (1 / 8))
    right[0, 0] = 0.0
    row = behaviour_table(of_shares(right)).iloc[0]
    assert row["ci_low"] < row["mean"] < row["ci_high"] <= 1
    likely = np.full((24, 2, 1), 0.97)
    likely[::8] = 0.6
    first, other = (behaviour_table(of_shares(likely, units)).iloc[0] for units in ("probability", "bits"))
    assert first["ci_high"] <= 1 < other["ci_high"]


def test_an_unknown_measure_is_refused(fake_run):
    with pytest.raises(ValueError, match="measure must be one of"):
        behaviour_cube(fake_run(np.ones((2, 8, 2))), "toxicity")


def test_the_probability_of_the_right_option_is_that_of_its_place(fake_run):
    cube = behaviour_cube(fake_run(np.ones((4, 8, 2))), "probability")
    assert (cube.values == 0.3).all()  # option 1 is right
    assert cube.dims == ("item", *COMPONENTS, "round")


def test_what_could_not_be_read_travels_with_the_measures_that_count_it(fake_run):
    read = np.random.default_rng(2).random((6, 8, 2)) < 0.8
    run = fake_run(read, read)
    failed = behaviour_cube(run)["failed"]
    assert failed.dtype == bool
    np.testing.assert_array_equal(failed, behaviour_cube(run, "unparsed") == 1)
    assert "failed" not in behaviour_cube(run, "unparsed").coords
    assert "failed" not in behaviour_cube(run, "probability").coords
    assert behaviour_cube(run).attrs.get("early", ()) == DESIGN.early


@pytest.mark.parametrize("lost", [0, 1, 3])
def test_the_report_judges_behaviour_as_factorial_effects_does(fake_run, lost):
    """Of 20 items one that cannot be read is few enough, three are not."""
    read = np.ones((20, 8, 2), bool)
    read[:lost] = False
    run = fake_run(read & (np.random.default_rng(0).random(read.shape) < 0.6), read)
    told = analyze(run, draws=300).behaviour_effects
    usual = factorial_effects(behaviour_cube(run), draws=300, family=("round",))
    assert bool(usual["p"].isnull().all()) == (told is None) == (lost == 3)
    anyway = factorial_effects(behaviour_cube(run), draws=300, family=("round",), accept_missing=True)
    np.testing.assert_array_equal(anyway["estimate"], usual["estimate"])
    for name in ("estimate", "p", "ci_low", "ci_high", "p_adj", "band_low") if told is not None else ():
        np.testing.assert_array_equal(told[name], usual[name], err_msg=name)


def test_a_study_judges_its_outcome_by_the_same_rule_and_probabilities_need_no_answer(fake_run, tmp_path):
    read, every = np.ones((20, 8, 2), bool), np.ones((20, 8, 2), bool)
    read[:2, 0, 1] = False
    (tmp_path / "questions").symlink_to(fake_run(every).path)
    for parsed, mass, kept in (
        (read, 1.0, "probability of the right option"),
        (read, 0.01, None),
        (every, 0.01, "share correct"),
    ):
        folder = StudyFolder(tmp_path)
        found = probabilities_or_choices(folder, fake_run(parsed, parsed, mass))
        assert (None if found is None else found.name) == kept
        assert any("could not be read" in line for line in folder.refused) == (kept is None)


def test_a_difference_of_rounds_keeps_what_failed_in_either(fake_run):
    read = np.ones((6, 8, 2), bool)
    read[0, :, 0] = False
    read[1, :, 1] = False
    moved = between(behaviour_cube(fake_run(read, read)), round=(1, 0))
    assert moved["failed"].values.reshape(6, 8).all(1).tolist() == [True, True, *[False] * 4]
