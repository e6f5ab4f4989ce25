"""The tables of a played batch: a row per answer, and the tokens of each dialogue."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from morality_lens.design import Design
from morality_lens.dialogues import rendering
from morality_lens.dialogues.control import ControlTokens
from morality_lens.dialogues.rendering import Renderer
from morality_lens.items.kinds import Item
from morality_lens.judges.questions import judge_answers
from morality_lens.rounds.feedback_text import FeedbackText
from morality_lens.rounds.row import Row


def answer_rows(
    control: ControlTokens, row: Row, rationale: str, given: FeedbackText, **about: int | bool
) -> list[dict[str, Any]]:
    """What the table holds of a dialogue's last answer, once for each cell that the row represents.

    Args:
        control: the model's control tokens.
        row: the dialogue.
        rationale: before the answer; empty where there was none.
        given: the feedback that came before.
        about: further columns: how many tokens the answer has, and whether it ended by itself.
    """
    known = {
        "round": row.number,
        "text": row.answer,
        "rationale": rationale,
        "rationale_cut": row.rationale_cut,
        "thought": row.thought,
        "thinking_cut": row.thinking,
        "spells_control": bool(control.found_in(f"{given.text}\n{rationale}\n{row.answer}")),
        "feedback_text": given.text,
        "feedback_named": given.named,
        "feedback_withheld": given.withheld,
        "feedback_cut": given.cut,
        "feedback_missing": given.missing,
    }
    return [{"place": row.place, "cell": cell, **known, **about} for cell in row.cells]


def answer_table(rows: Sequence[dict[str, Any]], items: Sequence[Item], design: Design) -> pd.DataFrame:
    """Answers in the order of items, conditions and rounds, with the reply that each chose.

    Args:
        rows: a row per answer, with ``place`` (of the item), ``cell`` (of the condition) and ``round``.
        items: of the batch.
        design: the factors and rounds.
    """
    ordered = sorted(rows, key=lambda row: (row["place"], row["cell"], row["round"]))
    table = pd.DataFrame(ordered)
    of_rows = [items[place] for place in table.pop("place").tolist()]
    conditions = design.conditions
    coords = pd.DataFrame([conditions[cell].coords for cell in table.pop("cell").tolist()])
    table = pd.concat([coords, table], axis=1)
    table.insert(0, "item", [item.id for item in of_rows])
    return pd.concat([table, judge_answers(table["text"].tolist(), of_rows)], axis=1)


def transcript_table(renderer: Renderer, rows: Sequence[Row]) -> pd.DataFrame:
    """Token ids, token texts and named spans of every transcript that was kept."""
    used = sorted({t for row in rows for transcript in row.kept for t in transcript.token_ids})
    shown = dict(zip(used, renderer.tokenizer.batch_decode([[t] for t in used]), strict=True))
    table = []
    for row in sorted(rows, key=lambda r: (r.place, r.cells)):
        for transcript in row.kept:
            ids = list(transcript.token_ids)
            table.append(
                {
                    "item": row.item.id,
                    **row.condition.coords,
                    "round": transcript.turns[-1][0],
                    "token_ids": np.array(ids, np.int32),
                    "tokens": [shown[t] for t in ids],
                    "spans": [asdict(span) for span in rendering.named_spans(transcript)],
                }
            )
    return pd.DataFrame(table)
