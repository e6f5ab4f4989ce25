"""Uncertainty and calibration of answers: by hand, their laws, and what their intervals cover."""

import inspect
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import make_questions
from written import write_run

from morality_lens.design import COMPONENTS, Design
from morality_lens.experiments.calibration import (
    _with_interval,
    answer_calibration,
    describe_calibration,
    uncertainty_cube,
)
from morality_lens.interactions.effects import factorial_effects
from morality_lens.interactions.numbers import interval_of
from morality_lens.items.kinds import OpenPrompt
from morality_lens.report.tables import calibration as calibration_tables

DESIGN = Design(rounds=1)
CELLS = (2, 2, 2, 2)


@pytest.fixture
def run_of(tmp_path):
    """A function that writes a run with these probabilities of the options (item x condition x round)."""
    number = iter(range(100))

    def write(items, probabilities, mass=1.0):
        rows = [
            {
                "item": item.id,
                **c.coords,
                "round": r,
                "correct": True,
                "parsed": True,
                "spells_control": False,
            }
            for item in items
            for c in DESIGN.conditions
            for r in range(2)
        ]
        given = np.asarray(probabilities, float).reshape(len(items), *CELLS, -1)
        return write_run(tmp_path / f"run{next(number)}", items, pd.DataFrame(rows), given, mass)

    return write


def everywhere(rows):
    """The same probabilities of an item in all conditions and rounds."""
    return np.repeat(np.asarray(rows, float)[:, None], 16, axis=1)


def spread(n):
    """Questions in as many clusters as items."""
    return tuple(replace(q, cluster=f"t{i}") for i, q in enumerate(make_questions(n)))


def drawn(rng, n):
    return rng.dirichlet([1.0, 2.0, 1.0], n * 16).reshape(n, 8, 2, 3)


def test_measures_by_hand(run_of):
    two = replace(make_questions(2)[1], options=("The Vel", "Not known"), biased=0)
    items = (make_questions(1)[0], two)  # option 1 is the right one in both
    run = run_of(items, everywhere([[0.5, 0.25, 0.25], [0.1, 0.9, np.nan]]))
    entropies = [1.5, -(0.1 * np.log2(0.1) + 0.9 * np.log2(0.9))]
    expected = {
        "entropy": entropies,
        "entropy share": [1.5 / np.log2(3), entropies[1]],
        "confidence": [0.5, 0.9],
        "accuracy": [0, 1],
        "overconfidence": [0.5, -0.1],
        "brier": [0.5**2 + 0.75**2 + 0.25**2, 0.1**2 + 0.1**2],
    }
    for name, values in expected.items():
        cube = uncertainty_cube(run, name)
        assert cube.dims == ("item", *COMPONENTS, "round")
        assert cube["cluster"].values.tolist() == ["t0", "t1"]
        np.testing.assert_allclose(cube.isel(instruction=1, cot=0, feedback=1, round=1), values, atol=1e-6)
    assert uncertainty_cube(run).attrs["units"] == "bits"


def test_certain_answers_have_no_entropy_and_even_ones_all_of_it(run_of):
    run = run_of(spread(2), everywhere([[0, 1, 0], [1 / 3, 1 / 3, 1 / 3]]))
    np.testing.assert_allclose(uncertainty_cube(run).values[0], 0)
    np.testing.assert_allclose(uncertainty_cube(run, "entropy share").values[1], 1, atol=1e-6)
    np.testing.assert_allclose(uncertainty_cube(run, "brier").values[0], 0)


def test_effects_on_entropy_are_those_that_were_planted(run_of):
    rng, n = np.random.default_rng(0), 20
    given = np.zeros((n, 8, 2, 3))
    for k, condition in enumerate(DESIGN.conditions):
        p = 0.5 + 0.3 * (condition["instruction"] == "on") + rng.uniform(-0.02, 0.02, (n, 2))
        given[:, k] = np.stack([(1 - p) / 2, p, (1 - p) / 2], axis=-1)
    run = run_of(spread(n), given)
    found = factorial_effects(uncertainty_cube(run), COMPONENTS, method="pointwise", family=())
    one = found.sel(effect="instruction").isel(round=1)

    def bits(p):
        return -(p * np.log2(p) + (1 - p) * np.log2((1 - p) / 2))

    assert float(one["estimate"]) == pytest.approx(bits(0.8) - bits(0.5), abs=0.02)
    assert abs(float(found.sel(effect="cot").isel(round=1)["estimate"])) < 0.02


def test_every_condition_and_round_has_its_estimates_inside_its_intervals(run_of):
    rng, n = np.random.default_rng(1), 30
    run = run_of(spread(n), drawn(rng, n))
    found = answer_calibration(run)
    assert found["estimate"].dims == ("measure", *COMPONENTS, "round")
    assert found["measure"].values.tolist() == [
        "entropy", "entropy share", "confidence", "accuracy", "overconfidence", "brier", "calibration error",
        "binned error",
    ]  # fmt: skip
    kept = found.drop_sel(measure="binned error")
    assert bool((kept["ci_low"] <= kept["estimate"] + 1e-9).all())
    assert bool((kept["estimate"] <= kept["ci_high"] + 1e-9).all())
    assert bool((found["ci_low"].drop_sel(measure=["overconfidence", "binned error"]) >= 0).all())
    assert bool((kept["ci_high"].sel(measure="entropy") <= np.log2(3) + 1e-9).all())
    assert bool(found["ci_low"].sel(measure="binned error").isnull().all())  # it would not cover
    assert (found.attrs["n_items"], found.attrs["n_clusters"], found.attrs["bins"]) == (n, n, 3)
    at = {"instruction": "on", "cot": "off", "feedback": "on", "round": 0}
    for name in ("entropy", "brier", "overconfidence"):
        mean = uncertainty_cube(run, name).sel(at).mean()
        np.testing.assert_allclose(found["estimate"].sel({**at, "measure": name}), mean)
    # one bin: the distance of mean confidence and accuracy
    plain = answer_calibration(run, ["binned error"], bins=1)["estimate"].sel(
        {**at, "measure": "binned error"}
    )
    assert float(plain) == pytest.approx(abs(float(uncertainty_cube(run, "overconfidence").sel(at).mean())))


def test_a_planted_overconfidence_is_found_and_perfect_calibration_is_nearly_none():
    rng, n, clusters = np.random.default_rng(2), 4000, 200
    confidence = rng.uniform(0.4, 0.95, n)
    codes = np.repeat(np.arange(clusters), n // clusters)
    for over in (0.0, 0.15):
        right = (rng.random(n) < confidence - over).astype(float)
        (corrected, plain), low, high = _with_interval(confidence, right, codes, 10, 0.05)
        assert corrected == pytest.approx(over, abs=0.02)
        assert corrected <= plain
        assert low[0] <= over <= high[0]


@pytest.mark.slow(seconds=5)
def test_the_interval_of_a_calibration_error_covers_it():
    rng, hits, runs = np.random.default_rng(3), np.zeros(2), 200
    codes = np.repeat(np.arange(12), 10)
    bias = np.zeros((2, 2))
    for k, over in enumerate((0.0, 0.15)):
        for _ in range(runs):
            confidence = rng.uniform(0.4, 0.95, 120)
            right = (rng.random(120) < confidence - over).astype(float)
            estimate, low, high = _with_interval(confidence, right, codes, 10, 0.05)
            hits[k] += low[0] <= over <= high[0]
            bias[k] += (estimate - over) / runs
    assert hits[0] / runs >= 0.87
    assert hits[1] / runs >= 0.93
    assert bias[0, 0] < 0.7 * bias[0, 1]  # most of the bias is gone where it is largest
    assert abs(bias[1, 0]) < 0.02


def test_the_order_of_items_and_equal_confidences_change_nothing():
    rng = np.random.default_rng(4)
    confidence, right = rng.choice([0.5, 0.7, 0.9], 60), rng.integers(0, 2, 60).astype(float)
    codes = np.arange(60) // 5
    order = rng.permutation(60)
    one = _with_interval(confidence, right, codes, 6, 0.05)
    other = _with_interval(confidence[order], right[order], codes[order], 6, 0.05)
    np.testing.assert_allclose(one[:, 0], other[:, 0])


def test_without_a_right_option_there_is_entropy_and_no_calibration(run_of):
    items = tuple(replace(q, label=None) for q in spread(12))
    run = run_of(items, drawn(np.random.default_rng(5), 12))
    found = answer_calibration(run)
    assert found["measure"].values.tolist() == ["entropy", "entropy share", "confidence"]
    for asked in ("brier", "calibration error"):
        with pytest.raises(ValueError, match="needs a right option in every item; 12 of 12 name none"):
            answer_calibration(run, [asked])
    assert "Brier" not in describe_calibration(found)
    assert len(calibration_tables(found)) == 1


def test_what_cannot_be_measured_is_refused_in_words(run_of):
    run = run_of(spread(3), everywhere([[0.2, 0.5, 0.3]] * 3))
    with pytest.raises(ValueError, match="measure must be one of"):
        inspect.unwrap(uncertainty_cube)(run, "calibration error")
    with pytest.raises(ValueError, match="measures are entropy"):
        answer_calibration(run, ["surprise"])
    with pytest.raises(ValueError, match="at least one bin; got 0"):
        answer_calibration(run, bins=0)
    with pytest.raises(ValueError, match="no token of its own"):
        uncertainty_cube(run_of(spread(2), np.full((2, 8, 2, 3), np.nan)))
    hole = everywhere([[0.2, 0.5, 0.3]] * 3)
    hole[1, 3] = np.nan
    with pytest.raises(ValueError, match="finite numbers"):
        answer_calibration(run_of(spread(3), hole))
    with pytest.raises(ValueError, match="every item's answer"):
        answer_calibration(run_of(spread(3), hole), ["calibration error"])
    prompts = tuple(OpenPrompt(id=f"p{i}", cluster=f"p{i}", text="Once") for i in range(2))
    with pytest.raises(ValueError, match="these are open prompts"):
        uncertainty_cube(run_of(prompts, np.full((2, 8, 2, 0), np.nan)))


def test_the_note_on_the_letters_travels(run_of):
    run = run_of(spread(12), drawn(np.random.default_rng(6), 12), mass=0.1)
    assert "hold 10% of the probability" in uncertainty_cube(run).attrs["option_note"]
    found = answer_calibration(run)
    assert describe_calibration(found).endswith("not what this model says next.")
    tables = calibration_tables(found)
    assert all("hold 10% of the probability" in table["caption"] for table in tables)
    quiet = run_of(spread(12), drawn(np.random.default_rng(6), 12))
    assert "option_note" not in uncertainty_cube(quiet).attrs


def test_the_sentences_and_tables_hold_the_numbers(run_of):
    run = run_of(spread(20), drawn(np.random.default_rng(7), 20))
    found = answer_calibration(run)
    lines = describe_calibration(found).splitlines()
    assert len(lines) == 9
    at = {"instruction": "off", "cot": "off", "feedback": "off", "measure": "entropy", "round": 1}
    assert f" to {interval_of(found.sel(at))}" in lines[0]
    assert "2 bins of equal counts" in lines[-1]
    tables = calibration_tables(found)
    assert [len(table["rows"]) for table in tables] == [8, 8, 8]
    assert all(table["columns"] == ["components", "round 0", "round 1"] for table in tables)
    assert calibration_tables(None) == []


def of_equal_answers(confidence, wrong, clusters=12, size=4):
    """Estimate and interval of the error: one confidence, and so many clusters with a wrong answer."""
    codes = np.repeat(np.arange(clusters), size)
    right = np.ones(len(codes))
    right[: wrong * size : size] = 0.0
    return _with_interval(np.full(len(codes), confidence), right, codes, 4, 0.05)[:, 0]


def test_answers_that_are_all_right_or_all_wrong_have_an_interval_of_their_calibration_error():
    least = 0.025 ** (1 / 12)  # of the accuracy when all of twelve clusters are right
    assert of_equal_answers(1.0, 0) == pytest.approx([0.0, 0.0, 1 - least])
    assert of_equal_answers(0.9, 0) == pytest.approx([0.1, 0.0, 0.9 - least])
    assert of_equal_answers(0.5, 0) == pytest.approx([0.5, least - 0.5, 0.5])
    codes = np.arange(12)
    wrong = _with_interval(np.full(12, 0.9), np.zeros(12), codes, 1, 0.05)[:, 0]
    assert wrong == pytest.approx([0.9, 0.9 - (1 - least), 0.9])


@pytest.mark.parametrize(("accuracy", "confidence"), [(0.98, 1.0), (0.99, 0.95), (0.95, 1.0), (0.5, 0.65)])
def test_the_interval_of_a_calibration_error_covers_it_at_the_ends_too(accuracy, confidence):
    rng, codes, runs = np.random.default_rng(6), np.repeat(np.arange(12), 4), 100
    hits = 0
    for _ in range(runs):
        right = (rng.random(48) < accuracy).astype(float)
        _, low, high = _with_interval(np.full(48, confidence), right, codes, 4, 0.05)[:, 0]
        hits += low - 1e-9 <= abs(confidence - accuracy) <= high + 1e-9
    assert hits / runs >= 0.93


def test_errors_that_cancel_in_the_mean_are_still_found():
    rng, codes = np.random.default_rng(8), np.repeat(np.arange(40), 10)
    confidence = rng.uniform(0.5, 1.0, 400)
    right = (rng.random(400) < 0.75).astype(float)
    estimate, low, high = _with_interval(confidence, right, codes, 10, 0.05)[:, 0]
    assert 0 < low < 0.125 < high
    assert estimate == pytest.approx(0.125, abs=0.05)
