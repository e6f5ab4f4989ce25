"""Ablation: a direction, what is orthogonal to it, or its LEACE subspace set to a mean."""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.circuits.intervening import ModelChange, Unit, intervene, random_directions
from morality_lens.circuits.measuring import Measure, read_layers
from morality_lens.design import Condition
from morality_lens.probes.erasure import fit_leace
from morality_lens.probes.layers import best_layer
from morality_lens.probes.probe import Probe
from morality_lens.rounds.replay import same_model
from morality_lens.runs.run import Run


def ablate(
    model: TransformerBridge,
    run: Run,
    probe: Probe,
    *,
    condition: Condition,
    round: int | None = None,
    layers: Sequence[int] | None = None,
    statements: xr.DataArray | None = None,
    random: int = 20,
    seed: int = 0,
    items: Sequence[str] | None = None,
    batch_size: int = 8,
    rows: int = 128,
    progress: bool = True,
) -> xr.Dataset:
    """Answers when the residual at ``answer_start`` loses the direction, or all but the direction.

    What is lost is put to its mean over all items and conditions of the round, so that conditions no longer
    differ in it. ``direction``: along the probe's direction; ``complement``: in everything else; ``mean``:
    the whole residual; ``leace``: what linear classifiers can tell of the statements' labels (with
    ``statements``); ``random 0`` ...: a change as long as that of ``direction``, in
    a random direction.

    Args:
        model: the run's model.
        run: a run that stored the site ``answer_start``.
        probe: fitted on the same model.
        condition: the cell.
        round: the round whose answer is looked at; None: the last.
        layers: where, all in one pass; None: the probe's best layer and all after it.
        statements: residuals of statements with the coordinate ``label``, for ``leace``.
        random: number of random directions.
        seed: of the random directions.
        items: ids; None takes all.
        batch_size: items read together.
        rows: most rows of a pass.
        progress: whether to show a bar.

    Returns:
        ``log_odds``, ``probability`` and ``projection`` over item x ablation, and without one as ``target_``.

    Raises:
        ValueError: the site was not stored, or as :func:`intervene`.
    """
    record = same_model(model, run, probe)
    number = run.design.rounds if round is None else round
    asked = list(range(best_layer(probe), record.n_layers)) if layers is None else list(layers)
    chosen = read_layers(record, asked, "residual")
    if "answer_start" not in run.design.sites:
        raise ValueError("ablate needs a run that stored the site answer_start; play it with that site.")
    device, dtype = record.lm.device, record.lm.module.dtype

    def tensor(values: np.ndarray) -> Tensor:
        return torch.tensor(values, device=device, dtype=dtype)

    kinds = ["direction", "complement", "mean", *(["leace"] if statements is not None else [])]
    others = random_directions(record.d_model, random, seed)
    changes: dict[str, dict[int, ModelChange]] = {
        k: {} for k in [*kinds, *(f"random {i}" for i in range(random))]
    }
    for layer in chosen:
        stored = run.residuals.sel(site="answer_start", layer=layer, round=number).values
        mean = tensor(stored.reshape(-1, record.d_model).astype(np.float64).mean(axis=0))
        direction = probe.direction.sel(layer=layer).values.astype(np.float64)
        length = float(np.linalg.norm(direction))
        along = tensor(direction / length if length else direction)
        changes["direction"][layer] = _swapping(mean, along, along)
        changes["complement"][layer] = _keeping(mean, along)
        changes["mean"][layer] = _constant(mean)
        for i, other in enumerate(others):
            changes[f"random {i}"][layer] = _swapping(mean, along, tensor(other))
        if statements is not None:
            eraser = fit_leace(statements.sel(layer=layer).values, statements["label"].values)
            changes["leace"][layer] = _swapping(mean, tensor(eraser.across), tensor(eraser.along))
    measure = Measure.of(record, run, probe)
    data = intervene(
        model,
        run,
        measure,
        [Unit(changes=own) for own in changes.values()],
        condition=condition,
        at="answer_start",
        round=number,
        items=items,
        batch_size=batch_size,
        rows=rows,
        progress=progress,
    )
    ids = data.pop("item")
    extra = {"probability": "option", "projection": "read_layer"}
    variables = {}
    for name, values in data.items():
        plain = name.removeprefix("target_")
        tail = (extra[plain],) if plain in extra else ()
        variables[name] = (("item", *(() if name != plain else ("ablation",)), *tail), values)
    coords = {
        "item": ids,
        "ablation": list(changes),
        "read_layer": probe.direction["layer"].values,
        "cluster": ("item", run.residuals["cluster"].sel(item=ids).values),
    }
    return xr.Dataset(variables, coords=coords).assign_attrs(
        layers=chosen, round=number, condition=condition.label, trust=probe.trust
    )


def _constant(value: Tensor) -> ModelChange:
    return lambda values, _: value.expand_as(values)


def _swapping(mean: Tensor, across: Tensor, along: Tensor) -> ModelChange:
    """Take out, along one vector, what another tells of a residual."""
    return lambda values, _: values - ((values - mean) @ across)[..., None] * along


def _keeping(mean: Tensor, along: Tensor) -> ModelChange:
    return lambda values, _: mean + ((values - mean) @ along)[..., None] * along
