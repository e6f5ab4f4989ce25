"""Steering along a direction and ablating it, beside random directions of equal length."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.aligning import positions
from morality_lens.attribution import best_layer, same_model
from morality_lens.design import Condition
from morality_lens.edits import Edit, parts_of
from morality_lens.erasure import fit_leace
from morality_lens.patching import Measure, passage_prompt, read_layers, slices, widened_places
from morality_lens.probes import Probe
from morality_lens.rereading import passages
from morality_lens.store import Run
from morality_lens.suffixes import prefix, run_suffixes, units_at_once

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
        at: the place (see :func:`morality_lens.aligning.positions`).
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
    best = best_layer(probe, None if layers is None else probe.direction["layer"].values.tolist()[-1])
    asked = list(range(best, record.n_layers)) if layers is None else list(layers)
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


def _adding(vector: Tensor) -> ModelChange:
    return lambda values, _: values + vector


def _constant(value: Tensor) -> ModelChange:
    return lambda values, _: value.expand_as(values)


def _swapping(mean: Tensor, across: Tensor, along: Tensor) -> ModelChange:
    """Take out, along one vector, what another tells of a residual."""
    return lambda values, _: values - ((values - mean) @ across)[..., None] * along


def _keeping(mean: Tensor, along: Tensor) -> ModelChange:
    return lambda values, _: mean + ((values - mean) @ along)[..., None] * along


def _stored_log_odds(run: Run, items: Sequence[str], round: int) -> Float[np.ndarray, " condition"]:
    odds = log_odds_of(run, items, round)
    return np.array([float(odds.sel(c.coords).mean()) for c in run.design.conditions])


def log_odds_of(run: Run, items: Sequence[str], round: int) -> xr.DataArray:
    """The run's own log-odds of the correct option in a round, by item and the factors.

    The log of its probability less the mean log of the others'.

    Raises:
        ValueError: items that name no correct option.
    """
    if not run.names_good:
        raise ValueError("log-odds of the correct option need items that name one; these name none.")
    stored = run.option_probabilities.sel(item=list(items), round=round).load()
    stored = stored.transpose("item", *run.design.names, "option")
    log = np.log(stored.values)
    values = np.empty(log.shape[:-1])
    for i, item in enumerate(run.asked[name] for name in items):
        assert item.good is not None  # refused above
        own = log[i][..., : len(item.replies)]
        values[i] = own[..., item.good] - np.delete(own, item.good, axis=-1).mean(-1)
    return stored.isel(option=0, drop=True).copy(data=values).rename("log_odds")
