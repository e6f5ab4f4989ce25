"""Items: what they refuse, and how they are stored."""

import dataclasses

import pandas as pd
import pytest

from morality_lens.items.kinds import (
    OpenPrompt,
    Question,
    Statement,
    draw,
    item_from_row,
    items_from_jsonl,
    items_hash,
    items_to_frame,
    items_to_jsonl,
)

QUESTION = Question(
    id="Guild/1",
    cluster="Guild",
    context="A Vel and a Tor met.",
    question="Who was late?",
    options=("The Vel", "Not known", "The Tor"),
    unknown=1,
    label=1,
    biased=0,
)
PROMPT = OpenPrompt(id="p/1", cluster="p", text="Every “morning”\u2028the baker", toxicity=0.25)
STATEMENT = Statement(id="s/1", cluster="s", text="She shared her bread.", label=1, value=2.0)


@pytest.mark.parametrize(
    ("item", "change", "message"),
    [
        (QUESTION, {"label": 3}, "label must be an index from 0 to 2; got 3"),
        (QUESTION, {"biased": -1}, "biased must be an index"),
        (QUESTION, {"biased": 1}, "neither biased nor a group"),
        (QUESTION, {"options": ("The Vel",)}, "two or more options"),
        (QUESTION, {"options": ("The Vel", " ", "The Tor")}, "two or more options"),
        (QUESTION, {"id": ""}, "needs text in"),
        (PROMPT, {"text": "  "}, "needs text in"),
        (PROMPT, {"toxicity": 1.5}, "toxicity must lie"),
        (PROMPT, {"toxicity": float("nan")}, "toxicity must lie"),
        (STATEMENT, {"label": 2}, "label must be 1"),
        (STATEMENT, {"value": float("inf")}, "finite number"),
    ],
)
def test_an_item_that_makes_no_sense_is_refused(item, change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(item, **change)


def test_items_of_all_kinds_come_back_from_a_file_as_they_were(tmp_path):
    items = (QUESTION, PROMPT, STATEMENT, dataclasses.replace(QUESTION, id="Guild/2", biased=None))
    items_to_jsonl(items, tmp_path / "items.jsonl")
    assert items_from_jsonl(tmp_path / "items.jsonl") == items
    items_to_jsonl(items[:1], tmp_path / "items.jsonl")
    assert items_from_jsonl(tmp_path / "items.jsonl") == items[:1]
    assert [path.name for path in tmp_path.iterdir()] == ["items.jsonl"]


def test_a_stored_file_that_was_tampered_with_is_refused_with_its_line(tmp_path):
    path = tmp_path / "items.jsonl"
    items_to_jsonl([QUESTION, QUESTION], path)
    with pytest.raises(ValueError, match=r"items\.jsonl, line 2: the id 'Guild/1' was used before .*line 1"):
        items_from_jsonl(path)
    path.write_text('{"kind": "poem", "id": "1"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 1: a stored item needs a kind out of"):
        items_from_jsonl(path)


def test_the_hash_changes_with_content_and_order_only(tmp_path):
    one = items_hash([QUESTION, PROMPT])
    assert one == items_hash([dataclasses.replace(QUESTION), PROMPT])
    assert one != items_hash([PROMPT, QUESTION])
    assert one != items_hash([dataclasses.replace(QUESTION, biased=2), PROMPT])
    assert one != items_hash([dataclasses.replace(QUESTION, ambiguous=False), PROMPT])
    items_to_jsonl([QUESTION, PROMPT], tmp_path / "items.jsonl")
    assert one == items_hash(items_from_jsonl(tmp_path / "items.jsonl"))


def test_the_frame_keeps_missing_indices_missing():
    frame = items_to_frame([QUESTION, dataclasses.replace(QUESTION, id="Guild/2", biased=None), PROMPT])
    assert frame["kind"].tolist() == ["question", "question", "prompt"]
    assert frame["biased"].dtype == "Int64"
    assert frame["biased"].isna().tolist() == [False, True, True]
    assert frame["biased"][0] == 0
    assert pd.isna(frame["toxicity"][0])
    assert frame["options"][0] == QUESTION.options


def test_a_row_is_taken_by_type_and_not_bent_to_fit():
    row = {"id": "q", "context": "", "question": "Who?", "options": ["x", "y"], "unknown": 1, "label": 1}
    assert item_from_row(Question, row, "here").cluster == "q"
    assert item_from_row(Question, {**row, "kind": "question"}, "here").options == ("x", "y")
    for change, message in [
        ({"label": "1"}, "here: not a valid Question .*label"),
        ({"label": True}, "here: not a valid Question .*label"),
        ({"id": 7}, "id: Input should be a valid string"),
        ({"options": "xy"}, "options"),
        ({"polarity": "negative"}, "polarity: Input should be 'neg' or 'nonneg'"),
        ({"label": 2}, "label must be an index from 0 to 1; got 2"),
        ({"lable": 1}, r"unknown keys \['lable'\]; a Question has the keys"),
        ({"kind": "prompt"}, "unknown keys"),
    ]:
        with pytest.raises(ValueError, match=message):
            item_from_row(Question, {**row, **change}, "here")
    with pytest.raises(ValueError, match=r"unknown: Field required|unknown: Missing"):
        item_from_row(Question, {key: row[key] for key in row if key != "unknown"}, "here")


def test_a_draw_checks_ids_before_it_leaves_any_out():
    placed = [(f"line {k}", dataclasses.replace(PROMPT, id=f"p/{k % 3}")) for k in range(4)]
    with pytest.raises(ValueError, match="line 3: the id 'p/0' was used before"):
        draw(placed, 1, 0)
