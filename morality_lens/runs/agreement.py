"""How well the tokens that a server wrote fit the model that read them."""

from typing import Any

import pandas as pd

from morality_lens.design import Design

NOTABLE = 0.02
"""The share of tokens that are not the most probable ones from which on it is said."""


def agreement(answers: pd.DataFrame, design: Design) -> dict[str, Any] | None:
    """Counts over the replies that a server wrote; None where the engine wrote them itself.

    Round 0, which conditions that open alike share, counts once for them. ``tokens`` were written, ``differ``
    of them (the ``share``) are not the most probable ones of the model that read them; ``recoded`` replies
    have another number of tokens there than the server says, and so do ``prompts`` prompts.

    Args:
        answers: of a run or a batch.
        design: its factors.
    """
    if "served_tokens" not in answers:
        return None
    opening = answers["round"] == 0
    first = answers.loc[opening].drop_duplicates(["item", *design.early])
    counted = pd.concat([first, answers.loc[~opening]])
    names = ("tokens", "differ", "recoded", "prompts")
    sums = {name: int(counted[f"served_{name}"].to_numpy().sum()) for name in names}
    return {**sums, "share": sums["differ"] / sums["tokens"] if sums["tokens"] else 0.0}
