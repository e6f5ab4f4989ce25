"""Steering: a direction added at a layer in several doses, with random directions as a control."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Shaped
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.circuits.intervening import (
    Interventions,
    ModelChange,
    Unit,
    gap_vector,
    intervene,
    random_directions,
)
from morality_lens.circuits.measuring import Measure, dims_of, log_odds_of
from morality_lens.circuits.settings import Batching, Doses, Moment, RandomDirections, Reading
from morality_lens.design import Condition
from morality_lens.probes.layers import best_layer
from morality_lens.probes.probe import Probe
from morality_lens.rounds.replay import same_model
from morality_lens.runs.option_notes import option_note
from morality_lens.runs.run import Run


def steer(
    model: TransformerBridge,
    run: Run,
    probe: Probe,
    *,
    condition: Condition | Moment,
    doses: Doses = Doses(),
    random: RandomDirections = RandomDirections(),
    answers: bool = False,
    batching: Batching = Batching(),
) -> xr.Dataset:
    """Answers when multiples of a direction, or of random ones of its length, are added to the residual.

    A dose of 1 is one moral-immoral gap: what is added moves the projection by 1 (for the random directions,
    it has the same length).

    Args:
        model: the run's model.
        run: a run.
        probe: fitted on the same model.
        condition: the cell whose prompts are steered, in the last round and for all items; or a
            :class:`Moment`.
        doses: how much is added, after which block and at which tokens.
        random: number and seed of the random directions.
        answers: whether the steered model generates its answers.
        batching: items and rows of a pass.

    Returns:
        ``log_odds``, ``probability`` and ``projection`` over item x direction (``probe``, ``random 0`` ...) x
        dose (0 among them); ``prompted`` over item x condition, the log-odds that the run itself has in this
        round, what prompts do instead, and ``baseline``, its mean.

    Raises:
        ValueError: no doses, a direction of length zero; an unknown place, item, condition or round.

    Examples:
        >>> steered = ml.steer(model, run, probe, condition=none, doses=doses, random=few, batching=batching)
        >>> raised = steered["log_odds"].mean("item").sel(direction="probe")
        >>> bool(raised.sel(dose=1.0) > raised.sel(dose=0.0) > raised.sel(dose=-1.0))
        True
    """
    record = same_model(model, run, probe)
    moment = Moment.of(condition, run)
    chosen = best_layer(probe, doses.layer)
    sizes = doses.wanted
    unit = gap_vector(probe, chosen)
    others = random_directions(len(unit), random.count, random.seed) * np.linalg.norm(unit)
    device, dtype = record.lm.device, record.lm.module.dtype
    units = [
        Unit(changes={chosen: _adding(torch.tensor(dose * v, device=device, dtype=dtype))})
        for v in (unit, *others)
        for dose in sizes
    ]
    measure = Measure.of(record, run, Reading(probe=probe, answers=answers))
    interventions = Interventions(units=units, at=doses.at)
    data = intervene(model, run, measure, interventions, moment, batching)
    ids = data.pop("item")
    directions = ["probe", *(f"random {i}" for i in range(random.count))]
    variables: dict[str, Any] = {
        name: (dims_of(name, "direction", "dose"), _by_dose(data, name, len(directions), sizes))
        for name in data
        if not name.startswith("target_")
    }
    if run.names_good:
        prompted = _stored_log_odds(run, ids, moment.number)
        variables |= {
            "prompted": (("item", "condition"), prompted),
            "baseline": (
                ("condition",),
                xr.DataArray(prompted, dims=("item", "condition")).mean("item").values,
            ),
        }
    coords = {
        "item": ids,
        "direction": directions,
        "dose": sorted([*sizes, 0.0]),
        "read_layer": probe.direction["layer"].values,
        "condition": [c.label for c in run.design.conditions],
        "cluster": ("item", run.residuals["cluster"].sel(item=ids).values),
    }
    return xr.Dataset(variables, coords=coords).assign_attrs(
        layer=chosen,
        round=moment.number,
        at=doses.at,
        condition=run.design.condition(moment.condition).label,
        prompting=_instructed(run, moment.condition),
        units="moral-immoral gap",
        trust=probe.trust,
        option_note=option_note(run, items=ids, conditions=[moment.condition], rounds=[moment.number]),
    )


def _by_dose(
    data: Mapping[str, np.ndarray], name: str, directions: int, sizes: Sequence[float]
) -> Shaped[np.ndarray, "item direction dose ..."]:
    """Measured values by direction and dose in ascending order, the dose 0 among them."""
    values = data[name].reshape(len(data[name]), directions, len(sizes), *data[name].shape[2:])
    zero = data[f"target_{name}"][:, None, None]
    zero = np.broadcast_to(zero, (*values.shape[:2], 1, *values.shape[3:]))
    order = np.argsort([*sizes, 0.0], kind="stable")
    return np.concatenate([values, zero], axis=2)[:, :, order]


def _adding(vector: Tensor) -> ModelChange:
    return lambda values, _: values + vector


def _stored_log_odds(run: Run, items: Sequence[str], round: int) -> Float[np.ndarray, "item condition"]:
    """The run's own log-odds; NaN where an item has no answer."""
    odds = log_odds_of(run, items, round)
    return np.stack([odds.sel(c.coords).values for c in run.design.conditions], axis=1)


def _instructed(run: Run, condition: Condition) -> str:
    """The label of the same condition with the instruction added; empty where there is no such one."""
    cell = run.design.condition(condition)
    if cell.coords.get("instruction", "on") == "on" or "on" not in run.design.levels["instruction"]:
        return ""
    return Condition(**{**cell.coords, "instruction": "on"}).label
