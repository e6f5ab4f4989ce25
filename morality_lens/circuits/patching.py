"""Activation patching between conditions: one prompt's end, run with activations of the other prompt."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.circuits.measuring import Measure, passage_prompt, read_layers, slices, widened_places
from morality_lens.design import SITES, Condition
from morality_lens.models.hooks import Edit, Parts, parts_of
from morality_lens.models.suffixes import prefix, read_shared, read_source, run_suffixes, units_at_once
from morality_lens.probes.probe import Probe
from morality_lens.rounds.replay import same_model
from morality_lens.runs.alignment import align, paired
from morality_lens.runs.run import Run


def patch(
    model: TransformerBridge,
    run: Run,
    *,
    source: Condition,
    target: Condition,
    at: str | Sequence[str] = "answer_start",
    round: int | None = None,
    what: str = "residual",
    layers: Sequence[int] | None = None,
    probe: Probe | None = None,
    site: str = "answer_start",
    answers: bool = False,
    items: Sequence[str] | None = None,
    batch_size: int = 8,
    rows: int = 128,
    progress: bool = True,
) -> xr.Dataset:
    """The target's answers when, at some place and layer, activations are those of the source.

    For each item both dialogues are the run's own, up to the answer of a round. Only the target's tokens from
    the place on are run again, one row for each layer; what comes before cannot change.

    Args:
        model: the run's model.
        run: a run.
        source: the condition that activations are taken from.
        target: the condition that is run.
        at: places: ``answer_start``, ``turn`` (all that was said since the last reply), a segment's name in
            this round, or ``name@2`` in round 2. The tokens of a segment must be the same in both dialogues
            (:func:`morality_lens.runs.alignable` tells which items').
        round: the round whose answer is looked at; None: the last.
        what: ``residual`` (after a block), ``attention`` or ``mlp`` (what it puts out), or ``head`` (each
            one's part of what goes into the attention's output projection).
        layers: blocks, -1 for the embedding; None takes all.
        probe: adds the projection at every layer.
        site: where the projection is read: ``answer_start``, or ``answer_end`` or ``answer_mean`` of the
            answer that is generated.
        answers: whether to let the patched model answer.
        items: ids; None takes all.
        batch_size: items read together.
        rows: most rows of a pass.
        progress: whether to show a bar.

    Returns:
        Over ``item``, ``place``, ``layer`` (and ``head``): ``log_odds`` of the correct option (its log
        probability less the mean log of the others'), ``probability`` of each ``option``; with a probe
        ``projection`` at every ``read_layer``; ``answer``. The same without a patch as ``target_log_odds``
        and so on, and of the source as ``source_log_odds``. Items that name no correct option have no
        log-odds but the ``probability`` of each reply, and ratings the expected ``rating``.

    Raises:
        ValueError: another model, an unknown place, layer or kind, dialogues whose tokens do not correspond
            (the words say which), or nothing to measure.
    """
    record = same_model(model, run, probe)
    parts = parts_of(model)
    number = run.design.rounds if round is None else round
    places = (at,) if isinstance(at, str) else tuple(at)
    chosen = read_layers(record, layers, what)
    if site not in SITES:
        raise ValueError(f"the projection is read at {', '.join(SITES)}; got {site!r}.")
    couples = paired(run, source=source, target=target, round=number, items=items)
    spots = {
        (t.item, place): align(s, t, place, number) for s, t in couples for place in places
    }  # refused before anything is run
    for (item, place), (_, there) in spots.items():
        start = next(t for _, t in couples if t.item == item).places("answer_start", number)[0]
        if there[-1] > start:
            raise ValueError(f"{place!r} comes after the answer's start, so it cannot change that answer.")
    measure = Measure.of(record, run, probe, site=site, answers=answers)
    heads = range(parts.heads) if what == "head" else [-1]
    units = [(layer, head) for layer in chosen for head in heads]
    found: list[xr.Dataset] = []
    chunks = [couples[i : i + batch_size] for i in range(0, len(couples), batch_size)]
    for chunk in tqdm(chunks, desc=f"patching {what}", disable=not progress):
        prompts = [passage_prompt(t, number) for _, t in chunk]
        origin = [passage_prompt(s, number) for s, _ in chunk]
        names = [t.item for _, t in chunk]
        shared = read_shared(parts, prompts, origin)
        kept = prefix(parts, prompts, shared)
        everyone = list(range(len(chunk)))
        ends = [len(p) - 1 for p in prompts]
        clean = run_suffixes(
            parts, kept, prompts, first=ends, rows=everyone, edits=[], speaking=measure.speaking
        )
        here = [[spots[name, place] for name in names] for place in places]
        taken = [widened_places([h[0] for h in row]) for row in here]
        other, values = read_source(parts, shared, origin, torch.cat(taken, dim=1).to(parts.lm.device), what)
        unpatched = measure.read(clean, names, ())
        data = {f"target_{k}": v for k, v in unpatched.items()}
        data |= {f"source_{k}": v for k, v in measure.read(other, names, ()).items()}
        patched = []
        widths = [t.shape[1] for t in taken]
        for row, own in zip(here, values.split(widths, dim=2), strict=True):
            there = widened_places([h[1] for h in row]).to(parts.lm.device)
            first = [int(h[1][0]) for h in row]
            # Where all tokens up to the place are the same, so are the activations: nothing needs to be run.
            rows_in = [i for i, (s, t) in enumerate(row) if origin[i][: s[-1] + 1] != prompts[i][: t[-1] + 1]]
            all_units = {k: np.repeat(v[None], len(units), axis=0) for k, v in unpatched.items()}
            blocks = []
            at_once = units_at_once(parts, kept, prompts, first, rows=rows)
            for some in slices(units if rows_in else (), at_once):
                edits = _moves(own[rows_in], there[rows_in], some, what, parts)
                passed = run_suffixes(
                    parts,
                    kept,
                    prompts,
                    first=first,
                    rows=rows_in * len(some),
                    edits=edits,
                    speaking=measure.speaking,
                )
                blocks.append(measure.read(passed, [names[i] for i in rows_in], (len(some),)))
            for key, full in all_units.items():
                if blocks:
                    full[:, rows_in] = np.concatenate([block[key] for block in blocks])
            patched.append(all_units)
        for key in patched[0]:
            stacked = np.stack([p[key] for p in patched])  # place, unit, item, ...
            data[key] = np.moveaxis(stacked, 2, 0)
        found.append(_labelled(data, names, places, chosen, len(heads), measure))
    whole = xr.concat(found, "item", data_vars="all", combine_attrs="drop")
    clusters = run.residuals["cluster"].sel(item=whole["item"].values).values
    return whole.assign_coords(cluster=("item", clusters)).assign_attrs(
        source=source.label,
        target=target.label,
        round=number,
        what=what,
        units=probe.training.get("units", "") if probe is not None else "",
        trust="" if probe is None else probe.trust,
    )


def _moves(
    values: Float[Tensor, "item layer place size"],
    there: Int[Tensor, "item place"],
    units: Sequence[tuple[int, int]],
    what: str,
    parts: Parts,
) -> list[Edit]:
    """Edits that put the source's activations into the rows of each unit."""
    edits = []
    count = len(values)
    for number, (layer, head) in enumerate(units):
        own = values[:, layer + 1 if what == "residual" else layer]
        if what == "head":
            size = own.shape[-1] // parts.heads
            own = own[..., head * size : (head + 1) * size]
        edits.append(
            Edit(
                layer=layer,
                rows=torch.arange(number * count, (number + 1) * count, device=values.device),
                places=there,
                change=lambda _, own=own: own,
                what=what,
                head=head,
            )
        )
    return edits


def _labelled(
    data: dict[str, np.ndarray],
    names: Sequence[str],
    places: Sequence[str],
    layers: Sequence[int],
    heads: int,
    measure: Measure,
) -> xr.Dataset:
    """The arrays with their dims and coordinates."""
    extra = {"probability": "option", "projection": "read_layer"}
    split = heads > 1
    variables: dict[str, Any] = {}
    for key, values in data.items():
        plain = key.removeprefix("target_").removeprefix("source_")
        tail = (extra[plain],) if plain in extra else ()
        if key != plain:
            variables[key] = (("item", *tail), values)
            continue
        if split:
            values = values.reshape(*values.shape[:2], len(layers), heads, *values.shape[3:])
        dims = ("item", "place", "layer", *(("head",) if split else ()), *tail)
        variables[key] = (dims, values)
    coords: dict[str, Any] = {"item": list(names), "place": list(places), "layer": list(layers)}
    if split:
        coords["head"] = list(range(heads))
    if measure.direction is not None:
        coords["read_layer"] = np.arange(-1, len(measure.direction) - 1)
    return xr.Dataset(variables, coords=coords)
