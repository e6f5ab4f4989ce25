"""A change of the residual stream at every token, and what it does to the answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.circuits.measuring import Measure, passage_prompt, slices, widened_places
from morality_lens.design import Condition
from morality_lens.models.hooks import Edit, parts_of
from morality_lens.models.suffixes import prefix, run_suffixes, units_at_once
from morality_lens.probes.probe import Probe
from morality_lens.runs.alignment import positions
from morality_lens.runs.passages import passages
from morality_lens.runs.run import Run

ModelChange = Callable[
    [Float[Tensor, "item place d_model"], Sequence[str]], Float[Tensor, "item place d_model"]
]
ABLATIONS = ("direction", "complement", "mean", "leace")


@dataclass(frozen=True, kw_only=True, eq=False)
class Unit:
    """One intervention: changes of the residual at one or several layers of the same pass."""

    changes: Mapping[int, ModelChange]


def intervene(
    model: TransformerBridge,
    run: Run,
    measure: Measure,
    units: Sequence[Unit],
    *,
    condition: Condition,
    at: str,
    round: int,
    items: Sequence[str] | None = None,
    batch_size: int = 8,
    rows: int = 128,
    progress: bool = True,
) -> dict[str, Any]:
    """A run's prompts answered under interventions.

    Args:
        model: the run's model.
        run: a run.
        measure: what is read.
        units: the interventions.
        condition: the cell.
        at: the place (see :func:`morality_lens.runs.alignment.positions`).
        round: the round whose answer is looked at.
        items: ids; None takes all.
        batch_size: items read together.
        rows: most rows of a pass.
        progress: whether to show a bar.

    Returns:
        ``item`` (ids), arrays [item, unit, ...], and those without an intervention under ``target_``.

    Raises:
        ValueError: an unknown place, item, condition or round.
    """
    parts = parts_of(model)
    found = list(passages(run, items=items, conditions=[condition], rounds=[round]))
    spots = {p.item: np.array(positions(p, at, round)) for p in found}
    gathered: list[dict[str, np.ndarray]] = []
    chunks = [found[i : i + batch_size] for i in range(0, len(found), batch_size)]
    for chunk in tqdm(chunks, desc="intervening", disable=not progress):
        names = [p.item for p in chunk]
        prompts = [passage_prompt(p, round) for p in chunk]
        kept = prefix(parts, prompts)
        everyone = list(range(len(chunk)))
        clean = run_suffixes(
            parts,
            kept,
            prompts,
            first=[len(p) - 1 for p in prompts],
            rows=everyone,
            edits=[],
            speaking=measure.speaking,
        )
        there = widened_places([spots[name] for name in names]).to(parts.lm.device)
        first = [int(spots[name][0]) for name in names]
        blocks = []
        for some in slices(units, units_at_once(parts, kept, prompts, first, rows=rows)):
            edits = [
                Edit(
                    layer=layer,
                    rows=torch.arange(n * len(chunk), (n + 1) * len(chunk), device=parts.lm.device),
                    places=there,
                    change=lambda values, change=change, names=names: change(values, names),
                )
                for n, unit in enumerate(some)
                for layer, change in unit.changes.items()
            ]
            passed = run_suffixes(
                parts,
                kept,
                prompts,
                first=first,
                rows=everyone * len(some),
                edits=edits,
                speaking=measure.speaking,
            )
            blocks.append(measure.read(passed, names, (len(some),)))
        data = {f"target_{k}": v for k, v in measure.read(clean, names, ()).items()}
        data |= {k: np.moveaxis(np.concatenate([b[k] for b in blocks]), 1, 0) for k in blocks[0]}
        gathered.append(data)
    merged: dict[str, Any] = {k: np.concatenate([g[k] for g in gathered]) for k in gathered[0]}
    return {"item": [p.item for p in found], **merged}


# --------------------------------------------------------------------------------------------- pieces
def gap_vector(probe: Probe, layer: int) -> Float[np.ndarray, " d_model"]:
    """What moves the projection at a layer by one gap: the direction over its squared length.

    Raises:
        ValueError: the direction is zero there.
    """
    direction = probe.direction.sel(layer=layer).values.astype(np.float64)
    squared = float(direction @ direction)
    if squared == 0:
        raise ValueError(f"the probe's direction at layer {layer} is zero; choose another layer.")
    return direction / squared


def random_directions(size: int, count: int, seed: int) -> Float[np.ndarray, "count size"]:
    """Unit vectors drawn evenly over all directions."""
    drawn = np.random.default_rng(seed).standard_normal((count, size))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
