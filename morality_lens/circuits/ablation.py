"""Ablation: a direction, what is orthogonal to it, or its LEACE subspace set to a mean."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.circuits.intervening import (
    Interventions,
    ModelChange,
    Unit,
    intervene,
    random_directions,
)
from morality_lens.circuits.measuring import Measure, dims_of, read_layers
from morality_lens.circuits.settings import Batching, Moment, RandomDirections, Reading
from morality_lens.design import Condition
from morality_lens.models.loading import ModelRecord
from morality_lens.probes.erasure import fit_leace
from morality_lens.probes.layers import best_layer
from morality_lens.probes.probe import Probe
from morality_lens.rounds.replay import same_model
from morality_lens.runs.option_notes import option_note
from morality_lens.runs.run import Run


def ablate(
    model: TransformerBridge,
    run: Run,
    probe: Probe,
    *,
    condition: Condition | Moment,
    layers: Sequence[int] | None = None,
    statements: xr.DataArray | None = None,
    random: RandomDirections = RandomDirections(),
    batching: Batching = Batching(),
) -> xr.Dataset:
    """Answers when the residual at ``answer_start`` loses the direction, or all but the direction.

    What is ablated is set to its mean over all items and conditions of the round, so that conditions no
    longer differ in it. ``direction``: along the probe's direction; ``complement``: in everything else;
    ``mean``: the whole residual; ``leace``: what a linear classifier can read of the statements' labels (with
    ``statements``); ``random 0`` ...: a change as long as that of ``direction``, in a random direction.

    Args:
        model: the run's model.
        run: a run that stored the site ``answer_start``.
        probe: fitted on the same model.
        condition: the cell, in the last round and for all items; or a :class:`Moment`.
        layers: where, all in one pass; None: the probe's best layer and all after it.
        statements: residuals of statements with the coordinate ``label``, for ``leace``.
        random: number and seed of the random directions.
        batching: items and rows of a pass.

    Returns:
        ``log_odds``, ``probability`` and ``projection`` over item x ablation, and without one as ``target_``.

    Raises:
        ValueError: the site was not stored; an unknown place, item, condition or round.

    Examples:
        >>> ablated = ml.circuits.ablate(
        ...     model, run, probe, condition=both, layers=[3], random=few, batching=batching
        ... )
        >>> ablated["ablation"].values.tolist()
        ['direction', 'complement', 'mean', 'random 0', 'random 1']
    """
    record = same_model(model, run, probe)
    moment = Moment.of(condition, run)
    wanted = list(range(best_layer(probe), record.n_layers)) if layers is None else list(layers)
    chosen = read_layers(record, wanted, "residual")
    if "answer_start" not in run.design.sites:
        raise ValueError("ablate needs a run that stored the site answer_start; play it with that site.")
    ablations = _Ablations(
        record=record,
        probe=probe,
        residuals=run.residuals.sel(site="answer_start", round=moment.number),
        others=random_directions(record.d_model, random.count, random.seed),
        statements=statements,
    )
    by_layer = {layer: ablations.at(layer) for layer in chosen}
    names = list(by_layer[chosen[0]])
    units = [Unit(changes={layer: by_layer[layer][name] for layer in chosen}) for name in names]
    measure = Measure.of(record, run, Reading(probe=probe))
    data = intervene(model, run, measure, Interventions(units=units, at="answer_start"), moment, batching)
    ids = data.pop("item")
    coords = {
        "item": ids,
        "ablation": names,
        "read_layer": probe.direction["layer"].values,
        "cluster": ("item", run.residuals["cluster"].sel(item=ids).values),
    }
    variables = {name: (dims_of(name, "ablation"), values) for name, values in data.items()}
    return xr.Dataset(variables, coords=coords).assign_attrs(
        layers=chosen,
        round=moment.number,
        condition=moment.condition.label,
        trust=probe.trust,
        option_note=option_note(run, items=ids, conditions=[moment.condition], rounds=[moment.number]),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Ablations:
    """What the changes that ablate are made of.

    Attributes:
        record: of the model.
        probe: its directions.
        residuals: of the run at the site, whose mean replaces what is ablated.
        others: random directions.
        statements: residuals with labels, for LEACE; None leaves it out.
    """

    record: ModelRecord
    probe: Probe
    residuals: xr.DataArray
    others: Float[np.ndarray, "count d_model"]
    statements: xr.DataArray | None

    def at(self, layer: int) -> dict[str, ModelChange]:
        """Every ablation at a layer, by its name."""
        stored = self.residuals.sel(layer=layer).values.reshape(-1, self.record.d_model)
        mean = self._tensor(stored.astype(np.float64).mean(axis=0))
        direction = self.probe.direction.sel(layer=layer).values.astype(np.float64)
        length = float(np.linalg.norm(direction))
        along = self._tensor(direction / length if length else direction)
        changes: dict[str, ModelChange] = {
            "direction": _swapping(mean, along, along),
            "complement": _keeping(mean, along),
            "mean": _constant(mean),
        }
        if self.statements is not None:
            labels = self.statements["label"].values
            eraser = fit_leace(self.statements.sel(layer=layer).values, labels)
            changes["leace"] = _swapping(mean, self._tensor(eraser.across), self._tensor(eraser.along))
        for i, other in enumerate(self.others):
            changes[f"random {i}"] = _swapping(mean, along, self._tensor(other))
        return changes

    def _tensor(self, values: np.ndarray) -> Tensor:
        lm = self.record.lm
        return torch.tensor(values, device=lm.device, dtype=lm.module.dtype)


def _constant(value: Tensor) -> ModelChange:
    return lambda values, _: value.expand_as(values)


def _swapping(mean: Tensor, across: Tensor, along: Tensor) -> ModelChange:
    """Remove, along one vector, what another one reads of a residual."""
    return lambda values, _: values - ((values - mean) @ across)[..., None] * along


def _keeping(mean: Tensor, along: Tensor) -> ModelChange:
    return lambda values, _: mean + ((values - mean) @ along)[..., None] * along
