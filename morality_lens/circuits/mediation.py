"""Mediation: the part of a behavioural interaction that the residual at a layer carries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
FRACTIONS = (0.25, 0.5, 1.0)
"""Parts of the way from the residual to the one without an interaction at which the effect is measured."""


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

    Two checks come with it. The same exchange of M11 for m in the prompt without both components is the pure
    indirect effect, Y(00; M11) - Y(00; m); what the mediated part (the total indirect effect) has beyond it
    is the mediated interaction of the residual with the rest of the prompt (VanderWeele 2013). And effects of
    patching hold interactions that grow with the distance patched and vanish only where the model is locally
    affine (arXiv:2606.27510), so the effect is also measured at fractions of the distance: linear, it would
    grow in proportion.

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
        ``tau`` [item], ``mediated`` and ``pure`` [item, layer, way], and ``dosed`` [item, layer, way,
        fraction], the effect of that part of the way (at 1 it is ``mediated``), in log-odds of the correct
        option; ``interaction``
        [item, layer], that of the projection, in gaps; ``gain`` [item, layer], by how much one gap added
        there moves the log-odds (NaN where the direction is zero).
        :func:`morality_lens.circuits.mediated_share` summarises them.

    Raises:
        ValueError: factors that are not two different ones, a level that was not run, a run without the
            site or without options, or another model.

    Examples:
        >>> mediated = ml.mediate(model, run, probe, layers=[2, 4], batching=batching)
        >>> mediated.attrs["effect"], mediated["way"].values.tolist()
        ('instruction:feedback', ['whole site', 'direction'])
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
    site = _Site(record=record, probe=probe, layers=chosen, row={name: i for i, name in enumerate(ids)})

    def measured(levels: tuple[str, str], changes: list[_LayerChange]) -> _Measured:
        data = intervene(
            model,
            run,
            Measure.of(record, run, Reading(probe=probe)),
            Interventions(units=[Unit(changes={c.layer: c.change}) for c in changes], at="answer_start"),
            Moment(condition=cells[levels], round=moment.number, items=ids),
            batching,
        )
        return _Measured.of(data, changes, ids)

    both = measured(("on", "on"), [*site.exchanged(additive, FRACTIONS), *site.steered()])
    full = measured(("off", "off"), site.exchanged(m["on", "on"], (1.0,)))
    less = measured(("off", "off"), site.exchanged(additive, (1.0,)))
    dosed = both.clean[:, None, None, None] - both.by_way(chosen, FRACTIONS)
    own = log_odds_of(run, ids, moment.number)
    y = {k: own.sel(cell.coords).values for k, cell in cells.items()}
    tau = y["on", "on"] - y["on", "off"] - y["off", "on"] + y["off", "off"]
    return xr.Dataset(
        {
            "tau": (("item",), tau),
            "mediated": (("item", "layer", "way"), dosed[..., -1]),
            "pure": (
                ("item", "layer", "way"),
                (full.by_way(chosen, (1.0,)) - less.by_way(chosen, (1.0,)))[..., 0],
            ),
            "dosed": (("item", "layer", "way", "fraction"), dosed),
            "interaction": (("item", "layer"), _projected(probe, chosen, m["on", "on"] - additive)),
            "gain": (("item", "layer"), both.gain(chosen)),
        },
        coords={
            "item": ids,
            "layer": chosen,
            "way": list(WAYS),
            "fraction": list(FRACTIONS),
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
        fraction: of the distance, for a way of mediation.
    """

    layer: int
    kind: str
    change: ModelChange
    fraction: float = 1.0

    @property
    def key(self) -> tuple[int, str, float]:
        """What tells it from the others."""
        return self.layer, self.kind, self.fraction


@dataclass(frozen=True, kw_only=True, eq=False)
class _Site:
    """The residuals that are changed.

    Attributes:
        record: of the model.
        probe: its direction; where that is zero, the whole site alone is changed.
        layers: the layers.
        row: the row of each item in arrays of residuals.
    """

    record: ModelRecord
    probe: Probe
    layers: Sequence[int]
    row: dict[str, int]

    def exchanged(
        self, values: Float[np.ndarray, "item layer d_model"], fractions: Sequence[float]
    ) -> list[_LayerChange]:
        """The residuals moved that far to these, layer by layer: whole, and along the direction only."""
        found = []
        for number, layer in enumerate(self.layers):
            put_in, line = self._tensor(values[:, number]), self._direction(layer)
            changes = [("whole site", lambda part, v=put_in: _replacing(v, self.row, part))]
            if line is not None:
                changes.append(
                    (
                        "direction",
                        lambda part, v=put_in, at=line: _moving(v, self.row, at, part),
                    )
                )
            found += [
                _LayerChange(layer=layer, kind=kind, change=change(part), fraction=part)
                for kind, change in changes
                for part in fractions
            ]
        return found

    def steered(self) -> list[_LayerChange]:
        """The residuals moved along the direction, by the same distance up and down."""
        found = []
        for layer in self.layers:
            line = self._direction(layer)
            if line is not None:
                found += [
                    _LayerChange(layer=layer, kind=kind, change=_shifting(size * line[1]))
                    for kind, size in (("up", DOSE), ("down", -DOSE))
                ]
        return found

    def _direction(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """The direction and the step of one gap along it; None where the direction is zero."""
        direction = self.probe.direction.sel(layer=layer).values.astype(np.float64)
        if not direction.any():
            return None
        return self._tensor(direction), self._tensor(gap_vector(self.probe, layer))

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.tensor(values, device=self.record.lm.device, dtype=self.record.lm.module.dtype)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Measured:
    """Log-odds of one prompt of each item, without a change and under every change.

    Attributes:
        clean: without a change.
        odds: under each change.
    """

    clean: Float[np.ndarray, " item"]
    odds: dict[tuple[int, str, float], Float[np.ndarray, " item"]]

    @staticmethod
    def of(data: Mapping[str, Any], changes: Sequence[_LayerChange], items: Sequence[str]) -> "_Measured":
        """What :func:`intervene` measured, in the order of the items."""
        order = [data["item"].index(name) for name in items]
        odds = data["log_odds"][order]
        return _Measured(
            clean=data["target_log_odds"][order],
            odds={change.key: odds[:, i] for i, change in enumerate(changes)},
        )

    def by_way(
        self, layers: Sequence[int], fractions: Sequence[float]
    ) -> Float[np.ndarray, "item layer way fraction"]:
        """Under the exchanges; NaN where it was not measured."""
        found = [[[self._at(layer, way, f) for f in fractions] for way in WAYS] for layer in layers]
        return np.moveaxis(np.array(found), -1, 0)

    def gain(self, layers: Sequence[int]) -> Float[np.ndarray, "item layer"]:
        """The gain of steering by one gap; NaN where it was not measured."""
        found = [(self._at(layer, "up") - self._at(layer, "down")) / (2 * DOSE) for layer in layers]
        return np.moveaxis(np.array(found), -1, 0)

    def _at(self, layer: int, kind: str, fraction: float = 1.0) -> Float[np.ndarray, " item"]:
        return self.odds.get((layer, kind, fraction), np.full_like(self.clean, np.nan))


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


def _replacing(values: Tensor, row: dict[str, int], part: float) -> ModelChange:
    """Go a part of the way to the given values; the whole way puts in the values themselves."""
    if part == 1:
        return lambda _, names: values[_of(names, row)][:, None]
    return lambda here, names: here + part * (values[_of(names, row)][:, None] - here)


def _moving(values: Tensor, row: dict[str, int], line: tuple[Tensor, Tensor], part: float) -> ModelChange:
    """Move along the step, a part of the way to where the projection is that of the given values."""
    along, step = line
    return lambda here, names: (
        here + part * ((values[_of(names, row)][:, None] - here) @ along)[..., None] * step
    )


def _shifting(step: Tensor) -> ModelChange:
    return lambda here, _: here + step
