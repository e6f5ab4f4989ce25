"""Settings of an intervention: which dialogues, which activations, what is read, and how large a pass is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import numpy as np

from morality_lens.design import Condition
from morality_lens.probes.probe import Probe
from morality_lens.runs.run import Run

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Moment:
    """Which dialogues of a run are used, and up to which answer.

    Attributes:
        condition: the cell.
        round: the round whose answer is measured; None: the last.
        items: ids; None takes all.

    Examples:
        >>> early = ml.circuits.Moment(condition=none, round=1)
        >>> patched = ml.patch(model, run, source=both, target=early, batching=batching)
        >>> patched.attrs["round"]
        1
    """

    condition: Condition = Condition()
    round: int | None = None
    items: Sequence[str] | None = None

    @staticmethod
    def of(given: "Condition | Moment", run: Run) -> "Moment":
        """The moment with its round filled in; a condition alone stands for its last round and all items."""
        moment = given if isinstance(given, Moment) else Moment(condition=given)
        if moment.round is not None:
            return moment
        return Moment(condition=moment.condition, round=run.design.rounds, items=moment.items)

    @property
    def number(self) -> int:
        """The round, once it is known.

        Raises:
            ValueError: it is None; :meth:`of` fills it in.
        """
        if self.round is None:
            raise ValueError("the round is None, the last one of a run; Moment.of(moment, run) fills it in.")
        return self.round


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How large a pass is, and whether progress is shown.

    Attributes:
        batch_size: items read together.
        rows: most rows of a pass.
        progress: whether to show a progress bar.

    Examples:
        >>> ml.circuits.Batching(batch_size=4, progress=False).rows
        128
    """

    batch_size: int = 8
    rows: int = 128
    progress: bool = True

    def chunks(self, values: Sequence[T]) -> list[Sequence[T]]:
        """The values, ``batch_size`` at a time."""
        return [values[i : i + self.batch_size] for i in range(0, len(values), self.batch_size)]


What = Literal["residual", "attention", "mlp", "head"]
"""What can be exchanged; see :class:`Activations`."""


@dataclass(frozen=True, kw_only=True)
class Activations:
    """Which activations are exchanged.

    Attributes:
        at: places: ``answer_start``, ``turn`` (everything since the model's last reply), a segment's name in
            this round, or ``name@2`` in round 2. The tokens of a segment must be the same in both dialogues
            (:func:`morality_lens.runs.alignable` lists the items for which they are).
        what: ``residual`` (after a block), ``attention`` or ``mlp`` (their output), or ``head`` (the part of
            each head in the input of the attention's output projection).
        layers: blocks, -1 for the embedding; None takes all.

    Raises:
        ValueError: something else is to be patched.

    Examples:
        >>> heads = ml.circuits.Activations(what="head", layers=[3])
        >>> patched = ml.patch(model, run, source=both, target=none, activations=heads, batching=batching)
        >>> patched["layer"].values.tolist(), patched.sizes["head"]
        ([3], 4)
    """

    at: str | Sequence[str] = "answer_start"
    what: What = "residual"
    layers: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if self.what not in get_args(What):
            raise ValueError(f"what is patched is one of {', '.join(get_args(What))}; got {self.what!r}.")

    @property
    def places(self) -> tuple[str, ...]:
        """The places in order."""
        return (self.at,) if isinstance(self.at, str) else tuple(self.at)


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """What is read of a pass in addition to the probabilities of the replies.

    Attributes:
        probe: adds the projection at every layer.
        site: where the projection is read: ``answer_start``, or ``answer_end`` or ``answer_mean`` of the
            answer that is generated.
        answers: whether the model generates its answers.

    Examples:
        >>> reading = ml.circuits.Reading(probe=probe)
        >>> patched = ml.patch(model, run, source=both, target=none, reading=reading, batching=batching)
        >>> "projection" in patched
        True
    """

    probe: Probe | None = None
    site: str = "answer_start"
    answers: bool = False


@dataclass(frozen=True, kw_only=True)
class Doses:
    """What steering adds, and where.

    Attributes:
        layer: the block after which it is added; None: the probe's layer with the highest held-out AUROC.
        at: the tokens to which it is added: ``turn`` (everything since the model's last reply),
            ``answer_start``, ``all``, or a segment.
        sizes: multiples of the moral-immoral gap.

    Examples:
        >>> ml.circuits.Doses(layer=3, sizes=(-1.0, 1.0)).at
        'turn'
    """

    layer: int | None = None
    at: str = "turn"
    sizes: Sequence[float] = (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0)

    @property
    def wanted(self) -> list[float]:
        """The sizes other than 0, each once.

        Raises:
            ValueError: there are none, or one is not finite.
        """
        sizes = [d for d in dict.fromkeys(map(float, self.sizes)) if d]
        if not sizes or not np.isfinite(sizes).all():
            raise ValueError(f"steering needs doses other than 0; got {list(self.sizes)}.")
        return sizes


@dataclass(frozen=True, kw_only=True)
class RandomDirections:
    """The random directions that serve as a control.

    Attributes:
        count: how many.
        seed: random seed.

    Examples:
        >>> ml.circuits.RandomDirections(count=5).seed
        0
    """

    count: int = 20
    seed: int = 0
