"""Mediation: the part of a behavioural interaction that the residual at a layer carries."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.circuits.intervening import Interventions, ModelChange, Unit, gap_vector, intervene
from morality_lens.circuits.measuring import Measure, log_odds_of, read_layers
from morality_lens.circuits.settings import Batching, Moment, Reading
from morality_lens.design import Condition
from morality_lens.models.loading import ModelRecord
from morality_lens.probes.probe import Probe
from morality_lens.probes.projecting import projections
from morality_lens.rounds.replay import same_model
from morality_lens.runs.option_notes import option_note
from morality_lens.runs.passages import answering
from morality_lens.runs.run import Run

WAYS = ("whole site", "direction")
DOSE = 0.5
"""Gaps that are added and subtracted to find the gain of steering."""


def mediate(
    model: TransformerBridge,
    run: Run,
    probe: Probe,
    *,
    factors: tuple[str, str] = ("instruction", "feedback"),
    at: Condition | Moment = Condition(),
    layers: Sequence[int] | None = None,
    batching: Batching = Batching(),
) -> xr.Dataset:
    """The part of an interaction of behaviour that the residual at ``answer_start`` mediates, layer by layer.

    For the interaction tau = Y11 - Y10 - Y01 + Y00 and residuals M, let m = M10 + M01 - M00, the residual
    without an interaction. Then tau is exactly Y(11; M11) - Y(11; m), mediated by the representation there,
    and the rest, made downstream. ``whole site`` puts in m itself; ``direction`` moves M11 along the probe's
    direction only, to the projection that m has.

    Args:
        model: the run's model.
        run: a run of questions that stored the site ``answer_start``.
        probe: fitted on the same model.
        factors: the two factors of the interaction.
        at: the levels at which all other factors are held, in the last round and for all items; or a
            :class:`Moment`.
        layers: blocks (-1: the embedding); None takes all.
        batching: items and rows of a pass.

    Returns:
        ``tau`` [item], ``mediated`` [item, layer, way], in log-odds of the correct option; ``interaction``
        [item, layer], that of the projection, in gaps; ``gain`` [item, layer], by how much one gap added
        there moves the log-odds (NaN where the direction is zero).
        :func:`morality_lens.circuits.mediated_share` summarises them.

    Raises:
        ValueError: factors that are not two different ones, a level that was not run, a run without the
            site or without options, or another model.
    """
    record = same_model(model, run, probe)
    moment = Moment.of(at, run)
    chosen = read_layers(record, layers, "residual")
    named = moment.condition.coords.items()
    others = {name: level for name, level in named if name not in factors or level != "off"}
    one, two, held = run.design.two_way(factors, others)
    _refuse_unfit(run)
    levels = [(a, b) for a in ("off", "on") for b in ("off", "on")]
    cells = {(a, b): run.design.condition(Condition(**{one: a, two: b, **held})) for a, b in levels}
    ids = _answered(run, list(cells.values()), moment)
    stored = run.residuals.sel(item=ids, site="answer_start", round=moment.number, layer=chosen).load()
    m = {k: _site(stored.sel(cell.coords), record.d_model) for k, cell in cells.items()}
    additive = m["on", "off"] + m["off", "on"] - m["off", "off"]
    changes = _changes(record, probe, chosen, additive, ids)
    data = intervene(
        model,
        run,
        Measure.of(record, run, Reading(probe=probe)),
        Interventions(units=[Unit(changes={c.layer: c.change}) for c in changes], at="answer_start"),
        Moment(condition=cells["on", "on"], round=moment.number, items=ids),
        batching,
    )
    order = [data["item"].index(name) for name in ids]
    clean, odds = data["target_log_odds"][order], data["log_odds"][order]
    carried, gain = _by_layer({(c.layer, c.kind): odds[:, i] for i, c in enumerate(changes)}, clean, chosen)
    own = log_odds_of(run, ids, moment.number)
    y = {k: own.sel(cell.coords).values for k, cell in cells.items()}
    tau = y["on", "on"] - y["on", "off"] - y["off", "on"] + y["off", "off"]
    return xr.Dataset(
        {
            "tau": (("item",), tau),
            "mediated": (("item", "layer", "way"), carried),
            "interaction": (("item", "layer"), _projected(probe, chosen, m["on", "on"] - additive)),
            "gain": (("item", "layer"), gain),
        },
        coords={
            "item": ids,
            "layer": chosen,
            "way": list(WAYS),
            "cluster": ("item", run.residuals["cluster"].sel(item=ids).values),
        },
        attrs={
            "effect": f"{one}:{two}",
            "held_at": ",".join(f"{name}={level}" for name, level in held.items()),
            "round": moment.number,
            "units": "log-odds",
            "trust": probe.trust,
            "option_note": option_note(
                run, items=ids, conditions=list(cells.values()), rounds=[moment.number]
            ),
        },
    )


# --------------------------------------------------------------------------------------------- pieces
def _answered(run: Run, cells: Sequence[Condition], moment: Moment) -> list[str]:
    """The items that have an answer in all of these conditions.

    Raises:
        ValueError: there are none.
    """
    found = [answering(run, items=moment.items, condition=c, round=moment.number) for c in cells]
    common = set.intersection(*({passage.item for passage in some} for some in found))
    wanted = run.items.index.tolist() if moment.items is None else moment.items
    ids = [name for name in wanted if name in common]
    if not ids:
        raise ValueError(
            "no item has an answer under all four conditions: thoughts before it were cut. Play the run with "
            "more thinking_tokens."
        )
    return ids


def _refuse_unfit(run: Run) -> None:
    """Refuse runs without the site, or whose items have no correct option."""
    if "answer_start" not in run.design.sites:
        raise ValueError("mediate needs a run that stored the site answer_start; play it with that site.")
    if not run.names_good:
        raise ValueError(
            "mediate needs questions with options and a correct one, whose probabilities are exact."
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class _LayerChange:
    """One change at one layer.

    Attributes:
        layer: the layer.
        kind: one of :data:`WAYS`, or ``up`` or ``down``, which steer.
        change: of the residual.
    """

    layer: int
    kind: str
    change: ModelChange


def _changes(
    record: ModelRecord,
    probe: Probe,
    layers: Sequence[int],
    additive: Float[np.ndarray, "item layer d_model"],
    items: Sequence[str],
) -> list[_LayerChange]:
    """All changes, layer by layer; where the direction is zero, the whole site alone is changed."""
    device, dtype = record.lm.device, record.lm.module.dtype
    row = {name: i for i, name in enumerate(items)}
    found: list[_LayerChange] = []
    for number, layer in enumerate(layers):
        put_in = torch.tensor(additive[:, number], device=device, dtype=dtype)
        found.append(_LayerChange(layer=layer, kind="whole site", change=_replacing(put_in, row)))
        direction = probe.direction.sel(layer=layer).values.astype(np.float64)
        if not direction.any():
            continue
        step = torch.tensor(gap_vector(probe, layer), device=device, dtype=dtype)
        along = torch.tensor(direction, device=device, dtype=dtype)
        found += [
            _LayerChange(layer=layer, kind="direction", change=_moving(put_in, row, along, step)),
            _LayerChange(layer=layer, kind="up", change=_shifting(DOSE * step)),
            _LayerChange(layer=layer, kind="down", change=_shifting(-DOSE * step)),
        ]
    return found


def _by_layer(
    found: dict[tuple[int, str], Float[np.ndarray, " item"]],
    clean: Float[np.ndarray, " item"],
    layers: Sequence[int],
) -> tuple[Float[np.ndarray, "item layer way"], Float[np.ndarray, "item layer"]]:
    """What is lost under each way of mediation, and the gain of steering; NaN where it was not measured."""
    nothing = np.full_like(clean, np.nan)
    carried = [[clean - found.get((layer, way), nothing) for way in WAYS] for layer in layers]
    gain = [
        (found.get((layer, "up"), nothing) - found.get((layer, "down"), nothing)) / (2 * DOSE)
        for layer in layers
    ]
    return np.moveaxis(np.array(carried), -1, 0), np.moveaxis(np.array(gain), -1, 0)


def _projected(
    probe: Probe, layers: Sequence[int], values: Float[np.ndarray, "item layer d_model"]
) -> Float[np.ndarray, "item layer"]:
    """Differences of residuals along the direction, in gaps."""
    directions = probe.direction.sel(layer=layers).values.astype(np.float64)
    return projections(values, directions)


def _site(values: xr.DataArray, d_model: int) -> Float[np.ndarray, "item layer d_model"]:
    found = values.transpose("item", "layer", "d_model").values.astype(np.float64)
    if not np.isfinite(found).all():
        raise ValueError("mediate needs residuals of all items in all four conditions; some are missing.")
    return found.reshape(*found.shape[:2], d_model)


def _of(names: Sequence[str], row: dict[str, int]) -> list[int]:
    return [row[name] for name in names]


def _replacing(values: Tensor, row: dict[str, int]) -> ModelChange:
    return lambda _, names: values[_of(names, row)][:, None]


def _moving(values: Tensor, row: dict[str, int], along: Tensor, step: Tensor) -> ModelChange:
    """Move along the step until the projection is that of the given values."""
    return lambda here, names: here + ((values[_of(names, row)][:, None] - here) @ along)[..., None] * step


def _shifting(step: Tensor) -> ModelChange:
    return lambda here, _: here + step
