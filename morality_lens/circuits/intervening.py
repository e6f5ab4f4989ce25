"""A change of the residual stream at given tokens, and its effect on the answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.circuits.measuring import Measure, passage_prompt, slices, widened_places
from morality_lens.circuits.settings import Batching, Moment
from morality_lens.models.hooks import Edit, Parts, parts_of
from morality_lens.models.suffixes import Ends, prefix, run_suffixes, units_at_once
from morality_lens.probes.probe import Probe
from morality_lens.progress import counted
from morality_lens.runs.alignment import positions
from morality_lens.runs.passages import Passage, answering
from morality_lens.runs.run import Run

ModelChange = Callable[
    [Float[Tensor, "item place d_model"], Sequence[str]], Float[Tensor, "item place d_model"]
]


@dataclass(frozen=True, kw_only=True, eq=False)
class Unit:
    """One intervention: changes of the residual at one or several layers of the same pass."""

    changes: Mapping[int, ModelChange]


@dataclass(frozen=True, kw_only=True, eq=False)
class Interventions:
    """Interventions at the same tokens.

    Attributes:
        units: the interventions.
        at: the place (see :func:`morality_lens.runs.alignment.positions`).
    """

    units: Sequence[Unit]
    at: str


def intervene(
    model: TransformerBridge,
    run: Run,
    measure: Measure,
    interventions: Interventions,
    moment: Moment,
    batching: Batching,
) -> dict[str, Any]:
    """A run's prompts answered under interventions; those that no answer follows, as thoughts were cut, are
    left out.

    Args:
        model: the run's model.
        run: a run.
        measure: what is read.
        interventions: what is changed, and where.
        moment: the dialogues, their round known.
        batching: items and rows of a pass.

    Returns:
        ``item`` (ids), arrays [item, unit, ...], and those without an intervention under ``target_``.

    Raises:
        ValueError: an unknown place, item, condition or round.
    """
    parts, number = parts_of(model), moment.number
    found = answering(run, items=moment.items, condition=moment.condition, round=number)
    spots = {p.item: np.array(positions(p, interventions.at, number)) for p in found}
    gathered = counted(
        lambda chunk: _batch(
            parts,
            measure,
            _Prompts.of(chunk, number, spots),
            units=interventions.units,
            rows=batching.rows,
        ),
        batching.chunks(found),
        "intervening",
        shown=batching.progress,
    )
    merged: dict[str, Any] = {k: np.concatenate([g[k] for g in gathered]) for k in gathered[0]}
    return {"item": [p.item for p in found], **merged}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Prompts:
    """Prompts of some items, and the tokens of each at which it is changed."""

    names: list[str]
    tokens: list[tuple[int, ...]]
    spots: list[np.ndarray]

    @staticmethod
    def of(chunk: Sequence[Passage], round: int, spots: Mapping[str, np.ndarray]) -> "_Prompts":
        """The prompts of some dialogues up to the answer of a round."""
        return _Prompts(
            names=[p.item for p in chunk],
            tokens=[passage_prompt(p, round) for p in chunk],
            spots=[spots[p.item] for p in chunk],
        )


def _batch(
    parts: Parts, measure: Measure, prompts: _Prompts, *, units: Sequence[Unit], rows: int
) -> dict[str, np.ndarray]:
    """What is measured of some prompts: [item, unit, ...], and without an intervention."""
    names, count = prompts.names, len(prompts.names)
    everyone = list(range(count))
    kept = prefix(parts, prompts.tokens)
    ends = Ends(kept=kept, prompts=prompts.tokens, first=[len(p) - 1 for p in prompts.tokens])
    clean = run_suffixes(parts, ends, rows=everyone, edits=[], speaking=measure.speaking)
    there = widened_places(prompts.spots).to(parts.lm.device)
    ends = Ends(kept=kept, prompts=prompts.tokens, first=[int(spot[0]) for spot in prompts.spots])
    blocks = []
    for some in slices(units, units_at_once(parts, ends, rows=rows)):
        edits = [
            Edit(
                layer=layer,
                rows=torch.arange(n * count, (n + 1) * count, device=parts.lm.device),
                places=there,
                change=lambda values, change=change: change(values, names),
            )
            for n, unit in enumerate(some)
            for layer, change in unit.changes.items()
        ]
        passed = run_suffixes(parts, ends, rows=everyone * len(some), edits=edits, speaking=measure.speaking)
        blocks.append(measure.read(passed, names, (len(some),)))
    data = {f"target_{k}": v for k, v in measure.read(clean, names, ()).items()}
    return data | {k: np.moveaxis(np.concatenate([b[k] for b in blocks]), 1, 0) for k in blocks[0]}


# --------------------------------------------------------------------------------------------- pieces
def gap_vector(probe: Probe, layer: int) -> Float[np.ndarray, " d_model"]:
    """The vector that moves the projection at a layer by one gap: the direction over its squared length.

    Raises:
        ValueError: the direction is zero there.
    """
    direction = probe.direction.sel(layer=layer).values.astype(np.float64)
    squared = float(direction @ direction)
    if squared == 0:
        raise ValueError(f"the probe's direction at layer {layer} is zero; choose another layer.")
    return direction / squared


def random_directions(size: int, count: int, seed: int) -> Float[np.ndarray, "count size"]:
    """Unit vectors drawn uniformly from all directions."""
    drawn = np.random.default_rng(seed).standard_normal((count, size))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
