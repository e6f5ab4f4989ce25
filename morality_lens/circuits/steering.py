"""Steering: a direction added at a layer in several doses, beside random directions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.circuits.intervening import ModelChange, Unit, gap_vector, intervene, random_directions
from morality_lens.circuits.measuring import Measure, log_odds_of
from morality_lens.design import Condition
from morality_lens.probes.layers import best_layer
from morality_lens.probes.probe import Probe
from morality_lens.rounds.replay import same_model
from morality_lens.runs.run import Run


def steer(
    model: TransformerBridge,
    run: Run,
    probe: Probe,
    *,
    condition: Condition,
    round: int | None = None,
    layer: int | None = None,
    doses: Sequence[float] = (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0),
    at: str = "turn",
    random: int = 20,
    seed: int = 0,
    items: Sequence[str] | None = None,
    answers: bool = False,
    batch_size: int = 8,
    rows: int = 128,
    progress: bool = True,
) -> xr.Dataset:
    """Answers when multiples of a direction are added to the residual, beside random directions as long.

    A dose of 1 is one moral-immoral gap: what is added moves the projection by 1 (for the random directions,
    it has the same length).

    Args:
        model: the run's model.
        run: a run.
        probe: fitted on the same model.
        condition: the cell whose prompts are steered.
        round: the round whose answer is looked at; None: the last.
        layer: the block after which it is added; None: the probe's with the highest held-out AUROC.
        doses: multiples of the gap.
        at: the tokens it is added at: ``turn`` (since the model's last reply), ``answer_start``, ``all``, or
            a segment.
        random: number of random directions.
        seed: of the random directions.
        items: ids; None takes all.
        answers: whether to let the steered model answer.
        batch_size: items read together.
        rows: most rows of a pass.
        progress: whether to show a bar.

    Returns:
        ``log_odds``, ``probability`` and ``projection`` over item x direction (``probe``, ``random 0`` ...) x
        dose (0 among them); ``baseline``, by condition the mean log-odds that the run itself has in this
        round: what words do instead.

    Raises:
        ValueError: no doses, a direction of length zero, or as :func:`intervene`.
    """
    record = same_model(model, run, probe)
    number = run.design.rounds if round is None else round
    chosen = best_layer(probe, layer)
    wanted = [d for d in dict.fromkeys(map(float, doses)) if d]
    if not wanted or not np.isfinite(wanted).all():
        raise ValueError(f"steering needs doses other than 0; got {list(doses)}.")
    unit = gap_vector(probe, chosen)
    others = random_directions(len(unit), random, seed) * np.linalg.norm(unit)
    vectors = [unit, *others]
    device, dtype = record.lm.device, record.lm.module.dtype
    units = [
        Unit(changes={chosen: _adding(torch.tensor(dose * v, device=device, dtype=dtype))})
        for v in vectors
        for dose in wanted
    ]
    measure = Measure.of(record, run, probe, answers=answers)
    data = intervene(
        model,
        run,
        measure,
        units,
        condition=condition,
        at=at,
        round=number,
        items=items,
        batch_size=batch_size,
        rows=rows,
        progress=progress,
    )
    ids = data.pop("item")
    everything = sorted([*wanted, 0.0])
    order = np.argsort([*wanted, 0.0], kind="stable")
    variables: dict[str, Any] = {}
    extra = {"probability": "option", "projection": "read_layer"}
    for name in [k for k in data if not k.startswith("target_")]:
        values = data[name].reshape(len(ids), len(vectors), len(wanted), *data[name].shape[2:])
        zero = np.broadcast_to(
            data[f"target_{name}"][:, None, None], (*values.shape[:2], 1, *values.shape[3:])
        )
        tail = (extra[name],) if name in extra else ()
        full = np.concatenate([values, zero], axis=2)[:, :, order]
        variables[name] = (("item", "direction", "dose", *tail), full)
    if run.names_good:
        variables["baseline"] = (("condition",), _stored_log_odds(run, ids, number))
    coords = {
        "item": ids,
        "direction": ["probe", *(f"random {i}" for i in range(random))],
        "dose": everything,
        "read_layer": probe.direction["layer"].values,
        "condition": [c.label for c in run.design.conditions],
        "cluster": ("item", run.residuals["cluster"].sel(item=ids).values),
    }
    return xr.Dataset(variables, coords=coords).assign_attrs(
        layer=chosen,
        round=number,
        at=at,
        condition=condition.label,
        units="moral-immoral gap",
        trust=probe.trust,
    )


def _adding(vector: Tensor) -> ModelChange:
    return lambda values, _: values + vector


def _stored_log_odds(run: Run, items: Sequence[str], round: int) -> Float[np.ndarray, " condition"]:
    odds = log_odds_of(run, items, round)
    return np.array([float(odds.sel(c.coords).mean()) for c in run.design.conditions])
