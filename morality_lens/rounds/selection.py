"""Which stored dialogues are read, and how a long computation over them is carried out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from morality_lens.design import Condition


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which dialogues of a run are read, and in which rounds.

    Attributes:
        items: ids; None takes all.
        conditions: cells; None takes all.
        rounds: rounds; None takes all.

    Examples:
        >>> late = ml.rounds.Selection(rounds=[2], conditions=[none])
        >>> parts = ml.attribute(model, run, probe, layer=3, selection=late, execution=quiet)
        >>> parts["round"].values.tolist()
        [2]
    """

    items: Sequence[str] | None = None
    conditions: Sequence[Condition] | None = None
    rounds: Sequence[int] | None = None


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a computation over the items of a run is carried out.

    Attributes:
        out: a folder in which finished items are kept, so that the same call resumes; None keeps none.
        progress: whether to show a progress bar.

    Examples:
        >>> ml.rounds.Execution(out=folder / "parts").progress
        True
    """

    out: str | Path | None = None
    progress: bool = True
