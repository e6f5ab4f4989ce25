"""How replies came out: shares of answers that parse, stop by themselves, were cut or lack their feedback."""

import numpy as np
import pandas as pd

from morality_lens.design import Condition, Design

_TEXT_OF = {"feedback": "feedback_text", "rationale": "rationale", "thinking": "thought"}
_FAILS = {
    "parsed": "answers not read",
    "stopped": "answers cut",
    "rationale_cut": "rationales cut",
    "thinking_cut": "still thinking (unparsed)",
    "feedback_cut": "feedback cut",
    "feedback_missing": "feedback missing",
    "spells_control": "replies or feedback that spell a control token",
}
"""Columns of the answers, and what they count; of the first two, what is not there."""


def reply_rates(answers: pd.DataFrame) -> dict[str, float]:
    """Shares of the answers, by name; a name is left out where nothing is there to count.

    ``parsed`` and ``stopped`` are shares of the answers of which that is known: what was never played, or has
    nothing to be read, did not fail. ``feedback_missing`` and every column that ends in
    ``_cut`` are shares of the answers that have such a text.
    """
    found = {}
    for name in ("parsed", "stopped"):
        if name in answers and (known := _known(answers, name)).any():
            found[name] = _flags(answers, name)[known].mean()
    for name in map(str, answers.columns):
        if name == "feedback_missing" or name.endswith("_cut"):
            there = _texts(answers, _TEXT_OF.get(name.rpartition("_")[0], "text"))
            if there.any():
                found[name] = _flags(answers, name)[there].mean()
    return {name: float(rate) for name, rate in found.items()}


def _flags(answers: pd.DataFrame, name: str) -> np.ndarray:
    """A column as yes or no; what is missing is no."""
    return answers[name].eq(True).to_numpy(dtype=bool)


def _known(answers: pd.DataFrame, name: str) -> np.ndarray:
    """Where a column says yes or no."""
    return answers[name].notna().to_numpy(dtype=bool)


def _texts(answers: pd.DataFrame, name: str) -> np.ndarray:
    """Where a column has a text."""
    return answers[name].astype(str).ne("").to_numpy(dtype=bool)


def _of_condition(answers: pd.DataFrame, condition: Condition) -> np.ndarray:
    """Which answers were given under a condition."""
    mask = np.ones(len(answers), bool)
    for name, level in condition.coords.items():
        mask &= answers[name].eq(level).to_numpy(dtype=bool)
    return mask


def failures(answers: pd.DataFrame, design: Design) -> pd.DataFrame:
    """How often a reply failed, as ``12 of 64``: a row per condition, a column per failure that occurred.

    ``answers cut`` are those that neither stopped by themselves nor ended with their line; thoughts that were
    cut leave no answer, which is unparsed. A cell is empty where there is no such text.
    """
    rows = []
    for condition in design.conditions:
        mine = answers.loc[_of_condition(answers, condition)]
        rows.append({"condition": condition.label} | _failed(mine))
    found = pd.DataFrame(rows)
    quiet = [name for name in found.columns[1:] if not any(str(n)[:2] not in ("", "0 ") for n in found[name])]
    return found.drop(columns=quiet)


def _failed(answers: pd.DataFrame) -> dict[str, str]:
    """The failures among these answers."""
    found = {}
    for name, said in _FAILS.items():
        if name not in answers or bool(answers[name].isna().all()):
            continue
        there = _known(answers, name)
        if name.startswith(("feedback", "rationale", "thinking")):
            there = there & _texts(answers, _TEXT_OF[name.partition("_")[0]])
        wrong = _flags(answers, name) != (name in ("parsed", "stopped"))
        found[said] = f"{int(wrong[there].sum())} of {int(there.sum())}" if there.any() else ""
    return found


def missing_feedback(answers: pd.DataFrame, design: Design) -> dict[str, tuple[int, int]]:
    """Answers whose feedback is missing, and answers to which some was given, by condition, where any is."""
    if "feedback_missing" not in answers:
        return {}  # runs of earlier versions
    found = {}
    for condition in design.conditions:
        mask = _texts(answers, "feedback_text") & _of_condition(answers, condition)
        gone = int(_flags(answers, "feedback_missing")[mask].sum())
        if gone:
            found[condition.label] = (gone, int(mask.sum()))
    return found


def said_missing(missing: dict[str, tuple[int, int]]) -> str:
    """The missing feedback in a sentence; empty where none is missing."""
    if not missing:
        return ""
    parts = ", ".join(f"{gone} of {given} under {label}" for label, (gone, given) in missing.items())
    return f"feedback is missing, and neutral words stand in for it: {parts}"
