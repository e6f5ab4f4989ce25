"""Whether the signs of the replies (letters, digits) are what the model says next, in sentences."""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from morality_lens.design import Condition
from morality_lens.runs.run import Run

LEAST_MASS = 0.5
"""Below this mean probability of all replies' signs together, the signs are not what the model says next."""
NOTE = "option_note"
"""The attribute under which a result that is made of the signs' probabilities carries its note."""


def option_note(
    run: Run,
    *,
    items: Sequence[str] | None = None,
    conditions: Sequence[Condition] | None = None,
    rounds: Sequence[int] | None = None,
) -> str:
    """What is to be said with every number made of the signs' probabilities; empty where nothing is.

    Args:
        run: a run.
        items: ids; None takes all.
        conditions: cells that the number rests on; None takes all.
        rounds: rounds that it rests on; None takes all.
    """
    mass = option_masses(run)
    low = ""
    if mass is not None:
        chosen = mass if items is None else mass.sel(item=list(items))
        chosen = chosen if rounds is None else chosen.sel(round=list(rounds))
        cells = run.design.conditions if conditions is None else conditions
        low = low_mass_note([float(chosen.sel(run.design.condition(c).coords).mean()) for c in cells])
    return " ".join(note for note in (low, unequal_note(run.manifest.get("reply_tokens", {}))) if note)


def low_mass_note(means: Sequence[float] | float) -> str:
    """That the signs are not what the model says next, where their mean probability is low; else empty.

    Args:
        means: of the probability of all signs together; of several conditions, one each.
    """
    mass = float(np.mean(means))
    if not mass < LEAST_MASS:
        return ""
    return (
        f"The letters or digits of the replies hold {mass:.0%} of the probability on average (below "
        f"{LEAST_MASS:.0%}): they are not what this model says next."
    )


def unequal_note(tokens: Mapping[str, Sequence[int]]) -> str:
    """Which signs begin with unequal numbers of tokens; empty where all have as many.

    Args:
        tokens: the tokens of each sign, as in a run's manifest under ``reply_tokens``.
    """
    counts = {sign: len(ids) for sign, ids in tokens.items()}
    if len(set(counts.values())) < 2:
        return ""
    listed = ", ".join(f"{sign} {count}" for sign, count in counts.items())
    return (
        f"The tokenizer has unequal numbers of first tokens for the replies ({listed}): their probabilities "
        "are not measured alike."
    )


def mass_lines(run: Run) -> list[str]:
    """Sentences about the probability of the replies' signs: on the whole, and where it is low.

    Empty where it is high in every condition and round and the tokens of all signs are as many.
    """
    lines = [note for note in [option_note(run)] if note]
    mass = option_masses(run)
    if mass is None:
        return lines
    means = {
        f"{cell.label}, round {number} ({float(here):.0%})": float(here)
        for cell in run.design.conditions
        for number in range(run.design.n_rounds)
        for here in [mass.sel({**cell.coords, "round": number}).mean()]
    }
    low = [name for name, value in means.items() if value < LEAST_MASS]
    if not low:
        return lines
    if len(low) == len(means):
        ends = min(means, key=lambda n: means[n]), max(means, key=lambda n: means[n])
        where = f"in every condition and round, from {ends[0]} to {ends[1]}"
    else:
        where = f"in {len(low)} of {len(means)} conditions and rounds: {', '.join(low)}"
    advice = (
        "Score the options by their full text (morality-lens score, ml.rounds.score_options) and compare."
    )
    signs = f"The probability of the replies' letters or digits together is below {LEAST_MASS:.0%} {where}."
    return [*lines, f"{signs} {advice}"]


def option_masses(run: Run) -> xr.DataArray | None:
    """The run's option mass; None where its items or its tokenizer have none."""
    if not any(item.replies for item in run.asked.values()):
        return None
    mass = run.option_mass.load()
    return mass if bool(np.isfinite(mass.values).any()) else None
