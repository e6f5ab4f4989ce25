"""How much of a behavioural interaction the representation bears at a layer: the additive residual put in."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.circuits.intervening import Unit, gap_vector, intervene
from morality_lens.circuits.measuring import Measure, log_odds_of, read_layers
from morality_lens.design import Condition
from morality_lens.probes.probe import Probe
from morality_lens.probes.projecting import projections
from morality_lens.rounds.replay import same_model
from morality_lens.runs.run import Run

WAYS = ("whole site", "direction")
DOSE = 0.5
"""Gaps that are added and taken away to find the gain of steering."""


def mediate(
    model: TransformerBridge,
    run: Run,
    probe: Probe,
    *,
    factors: tuple[str, str] = ("instruction", "feedback"),
    at: str | Mapping[str, str] = "off",
    round: int | None = None,
    layers: Sequence[int] | None = None,
    items: Sequence[str] | None = None,
    batch_size: int = 8,
    rows: int = 128,
    progress: bool = True,
) -> xr.Dataset:
    """The part of an interaction of behaviour that the residual at ``answer_start`` bears, layer by layer.

    For the interaction tau = Y11 - Y10 - Y01 + Y00 and residuals M, let m = M10 + M01 - M00, the residual
    without an interaction. Then tau is exactly Y(11; M11) - Y(11; m), mediated by the representation there,
    and the rest, made downstream. ``whole site`` puts in m itself; ``direction`` moves M11 along the probe's
    direction only, to the projection that m has.

    Args:
        model: the run's model.
        run: a run of questions that stored the site ``answer_start``.
        probe: fitted on the same model.
        factors: the two factors of the interaction.
        at: level of all other factors, or of each by its name.
        round: the round whose answer is looked at; None: the last.
        layers: blocks (-1: the embedding); None takes all.
        items: ids; None takes all.
        batch_size: items read together.
        rows: most rows of a pass.
        progress: whether to show a bar.

    Returns:
        ``tau`` [item], ``mediated`` [item, layer, way], in log-odds of the correct option; ``interaction``
        [item, layer], that of the projection, in gaps; ``gain`` [item, layer], by how much one gap added
        there moves the log-odds (NaN where the direction is zero).
        :func:`morality_lens.circuits.mediated_share` sums them up.

    Raises:
        ValueError: factors that are not two different ones, a level that was not run, a run without the
            site or without options, or another model.
    """
    record = same_model(model, run, probe)
    number = run.design.rounds if round is None else round
    chosen = read_layers(record, layers, "residual")
    one, two, held = run.design.two_way(factors, at)
    if "answer_start" not in run.design.sites:
        raise ValueError("mediate needs a run that stored the site answer_start; play it with that site.")
    measure = Measure.of(record, run, probe)
    if not run.names_good:
        raise ValueError(
            "mediate needs questions with options and a correct one, whose probabilities are exact."
        )
    conditions = {
        (a, b): run.design.condition(Condition(**{one: a, two: b, **held}))
        for a in ("off", "on")
        for b in ("off", "on")
    }
    cells = {key: condition.coords for key, condition in conditions.items()}
    ids = run.items.index.tolist() if items is None else list(items)
    stored = run.residuals.sel(item=ids, site="answer_start", round=number, layer=chosen).load()
    m = {k: _site(stored.sel(cell), record.d_model) for k, cell in cells.items()}
    additive = m["on", "off"] + m["off", "on"] - m["off", "off"]
    gap = m["on", "on"] - additive
    device, dtype = record.lm.device, record.lm.module.dtype
    row = {name: i for i, name in enumerate(ids)}
    directions = probe.direction.sel(layer=chosen).values.astype(np.float64)
    units: list[Unit] = []
    kinds: list[tuple[int, str]] = []
    for number_of, layer in enumerate(chosen):
        put_in = torch.tensor(additive[:, number_of], device=device, dtype=dtype)
        units.append(Unit(changes={layer: _replacing(put_in, row)}))
        kinds.append((number_of, "whole site"))
        if not directions[number_of].any():
            continue
        step = torch.tensor(gap_vector(probe, layer), device=device, dtype=dtype)
        along = torch.tensor(directions[number_of], device=device, dtype=dtype)
        units.append(Unit(changes={layer: _moving(put_in, row, along, step)}))
        kinds.append((number_of, "direction"))
        for sign in (DOSE, -DOSE):
            units.append(Unit(changes={layer: _shifting(sign * step)}))
            kinds.append((number_of, "up" if sign > 0 else "down"))
    data = intervene(
        model,
        run,
        measure,
        units,
        condition=conditions["on", "on"],
        at="answer_start",
        round=number,
        items=ids,
        batch_size=batch_size,
        rows=rows,
        progress=progress,
    )
    order = [data["item"].index(name) for name in ids]
    found = {kind: data["log_odds"][order, i] for i, kind in enumerate(kinds)}
    clean = data["target_log_odds"][order]
    carried = np.full((len(ids), len(chosen), len(WAYS)), np.nan)
    gain = np.full((len(ids), len(chosen)), np.nan)
    for number_of in range(len(chosen)):
        for way, name in enumerate(WAYS):
            if (number_of, name) in found:
                carried[:, number_of, way] = clean - found[number_of, name]
        if (number_of, "up") in found:
            gain[:, number_of] = (found[number_of, "up"] - found[number_of, "down"]) / (2 * DOSE)
    odds = log_odds_of(run, ids, number)
    y = {k: odds.sel(cell).values for k, cell in cells.items()}
    tau = y["on", "on"] - y["on", "off"] - y["off", "on"] + y["off", "off"]
    variables: dict[str, Any] = {
        "tau": (("item",), tau),
        "mediated": (("item", "layer", "way"), carried),
        "interaction": (("item", "layer"), projections(gap, directions)),
        "gain": (("item", "layer"), gain),
    }
    coords = {
        "item": ids,
        "layer": chosen,
        "way": list(WAYS),
        "cluster": ("item", run.residuals["cluster"].sel(item=ids).values),
    }
    attrs = {
        "effect": f"{one}:{two}",
        "held_at": ",".join(f"{name}={level}" for name, level in held.items()),
        "round": number,
        "units": "log-odds",
        "trust": probe.trust,
    }
    return xr.Dataset(variables, coords=coords, attrs=attrs)


def _site(values: xr.DataArray, d_model: int) -> Float[np.ndarray, "item layer d_model"]:
    found = values.transpose("item", "layer", "d_model").values.astype(np.float64)
    if not np.isfinite(found).all():
        raise ValueError("mediate needs residuals of all items in all four conditions; some are missing.")
    return found.reshape(*found.shape[:2], d_model)


def _of(names: Sequence[str], row: dict[str, int]) -> list[int]:
    return [row[name] for name in names]


def _replacing(values: Tensor, row: dict[str, int]) -> Any:
    return lambda _, names: values[_of(names, row)][:, None]


def _moving(values: Tensor, row: dict[str, int], along: Tensor, step: Tensor) -> Any:
    """Move along the step until the projection is that of the given values."""
    return lambda here, names: here + ((values[_of(names, row)][:, None] - here) @ along)[..., None] * step


def _shifting(step: Tensor) -> Any:
    return lambda here, _: here + step
