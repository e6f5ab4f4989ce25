"""How answers came out, round by round, as the browser of dialogues lists and filters them."""

import pandas as pd
import pytest
from conftest import make_questions

from morality_lens.items.kinds import OpenPrompt
from morality_lens.runs.pages import has_outcome, outcomes_of, told_rounds

RIGHT, WRONG = 1, 0


def answer(round: int, choice: int | None) -> dict:
    parsed = choice is not None
    return {
        "round": round,
        "parsed": parsed,
        "correct": choice == RIGHT,
        "choice": choice if parsed else pd.NA,
    }


def test_outcomes_and_changes_are_those_of_each_round():
    item = make_questions(1)[0]
    rows = [
        answer(0, WRONG),
        answer(1, RIGHT),
        answer(2, RIGHT),
        answer(3, None),
        answer(4, WRONG),
        answer(5, 2),
    ]
    told = told_rounds(rows[::-1], item, 7)
    assert "".join(one["outcome"] for one in told) == "wrruww-"
    assert [one["changed"] for one in told] == [False, True, False, False, False, True, False]
    assert [one["choice"] for one in told] == [0, 1, 1, None, 0, 2, None]


@pytest.mark.parametrize(
    ("outcome", "round", "there"),
    [
        ("", None, True), ("w", None, True), ("w", 0, True), ("w", 1, False), ("r", 1, True),
        ("u", None, False),
        ("c", None, True), ("c", 0, False), ("c", 1, True),
    ],
)  # fmt: skip
def test_an_outcome_is_asked_for_in_a_round_or_in_any(outcome, round, there):
    told = told_rounds([answer(0, WRONG), answer(1, RIGHT)], make_questions(1)[0], 2)
    assert has_outcome(told, outcome, round) is there


def test_what_can_be_asked_for_depends_on_the_items():
    assert outcomes_of(make_questions(2)) == "rwuc"
    assert outcomes_of([OpenPrompt(id="p", cluster="p", text="It was")]) == "au"
