"""Which heads and MLPs, reading which words, make a projection: an exact split of the residual stream."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from einops import einsum
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.circuits.decomposition import read_split, split_batch
from morality_lens.circuits.targets import AnswerTarget, ProbeTarget
from morality_lens.design import SITES, Condition
from morality_lens.models.loading import ModelRecord
from morality_lens.probes.layers import best_layer
from morality_lens.probes.probe import Probe
from morality_lens.rounds.replay import option_letters, same_model
from morality_lens.runs.passages import Passage, by_length, passages
from morality_lens.runs.requests import Request
from morality_lens.runs.resuming import in_parts
from morality_lens.runs.run import Run
from morality_lens.runs.token_view import TokenView, token_view

ITEMS, ROWS, SQUARES = 8, 16, 2**22
"""Items of one file on disk; dialogues read together, and pairs of tokens in their attention patterns."""


def attribute(
    model: TransformerBridge,
    run: Run,
    probe: Probe,
    *,
    site: str = "answer_start",
    layer: int | None = None,
    items: Sequence[str] | None = None,
    conditions: Sequence[Condition] | None = None,
    rounds: Sequence[int] | None = None,
    out: str | Path | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """The projection of a run's residuals as a sum over components, and each head's part over what it reads.

    The stored transcripts are read once more. The parts are exact: their sum is the projection but for
    rounding, which is checked (``completeness``: the distance in units of the largest part).

    Args:
        model: the run's model.
        run: a run.
        probe: fitted on the same model.
        site: where the residual is read; a mean over tokens is split like a single token.
        layer: of the residual; None: the probe's layer with the highest held-out AUROC.
        items: ids; None takes all.
        conditions: cells; None takes all. What is not read is NaN.
        rounds: rounds; None takes all.
        out: a folder in which finished items are kept, so that the same call goes on where it stopped.
        progress: whether to show a bar.

    Returns:
        ``contribution`` [item, instruction, cot, feedback, round, component] with components ``embedding``,
        ``position`` (where it is learned), ``L0H0`` ..., ``L0 attention bias``, ``L0 MLP``, ... and
        ``midpoint`` (the probe's intercept); ``by_segment`` [..., head, segment], in which each head's part
        is the sum over segments (see ``Passage.segments``; 0 for a segment that
        the dialogue does not have); ``projection`` [...]. In moral-immoral gaps.

    Raises:
        ValueError: the model is not the run's or the probe's; an unknown site, layer, item, condition or
            round; a folder of another attribution; or parts that do not add up, as in architectures that
            scale what a block adds.
    """
    record = same_model(model, run, probe)
    aim, chosen = _probe_target(probe, layer)
    sample = run.residuals.isel(item=[0], round=[0], site=[0])
    request = _Request(
        run=run,
        site=site,
        layer=chosen,
        found=list(passages(run, items=items, conditions=conditions, rounds=rounds)),
        constant="midpoint",
        what=hashlib.sha256(aim.direction.tobytes()).hexdigest(),
    )
    return _attribute(model, record, request, aim, probe.project(sample).attrs, out, progress)


def attribute_answer(
    model: TransformerBridge,
    run: Run,
    *,
    items: Sequence[str] | None = None,
    conditions: Sequence[Condition] | None = None,
    rounds: Sequence[int] | None = None,
    out: str | Path | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """The direct path to behaviour: how far each component raises the correct option over the others.

    Split are the log-odds at the token before the answer: log of the correct option's probability less the
    mean log of the others', as the run's ``option_probabilities`` give them. The final norm is frozen: at
    every place its factors are held as they are, and so are the shares of a letter's tokens, so that what is
    left is linear (``constant``: biases and what the shares add; with LayerNorm the mean is taken off each
    part).

    Args:
        model: the run's model.
        run: a run of questions.
        items: ids; None takes all.
        conditions: cells; None takes all.
        rounds: rounds; None takes all.
        out: as in :func:`attribute`.
        progress: whether to show a bar.

    Returns:
        As :func:`attribute`, in log-odds, and ``scale``: the mean factor of the frozen norm at each place.

    Raises:
        ValueError: items without options, or letters that have no token of their own; else as
            :func:`attribute`.
    """
    record = same_model(model, run, None)
    request = _Request(
        run=run,
        site="answer_start",
        layer=record.n_layers - 1,
        found=list(passages(run, items=items, conditions=conditions, rounds=rounds)),
        constant="constant",
        what="log-odds of the correct option",
    )
    attrs = {"units": "log-odds", "oriented": True, "leakage": "", "trust": ""}
    aim = AnswerTarget(record=record, items=run.asked, letters=option_letters(record, run))
    return _attribute(model, record, request, aim, attrs, out, progress)


def attribute_tokens(
    model: TransformerBridge,
    run: Run,
    probe: Probe,
    *,
    item: str,
    condition: Condition,
    round: int | None = None,
    site: str = "answer_start",
    layer: int | None = None,
) -> TokenView:
    """One dialogue, each token coloured by what the heads of each layer take from it into the projection.

    Args:
        model: the run's model.
        run: a run.
        probe: fitted on the same model.
        item: id of the item.
        condition: the cell.
        round: the round whose site is split; None: the last.
        site: where the residual is read.
        layer: of the residual; None: the probe's layer with the highest held-out AUROC.

    Raises:
        ValueError: as :func:`attribute`; or the dialogue has no such site in that round.
    """
    record = same_model(model, run, probe)
    aim, chosen = _probe_target(probe, layer)
    number = run.design.rounds if round is None else round
    (passage,) = passages(run, items=[item], conditions=[condition], rounds=[number])
    if not passage.places(site, number):
        raise ValueError(f"{passage.described} has no {site!r} in round {number}; choose another site.")
    split, weight = read_split(model, record, site, chosen, aim, [passage])[:2]
    told = [einsum(split.heads[i][0], weight[0, 0], "place head token, place -> token") for i in split.heads]
    row = run.select(run.transcripts, item, condition)
    row = row.iloc[0] if len(row) == 1 else row[row["round"] == number].iloc[0]
    values = np.zeros((max(len(told), 1), len(row["token_ids"])))
    if told:
        values[:, : len(passage.token_ids)] = torch.stack(told).double().cpu().numpy()
    return token_view(
        row,
        layers=sorted(split.heads) or [-1],
        values=values,
        title=f"What heads take from each token into the projection at {site} of round {number}, "
        f"layer {chosen}",
        notes=["Every layer's heads together; embedding, MLPs and biases read no other token."],
    )


def _probe_target(probe: Probe, layer: int | None) -> tuple[ProbeTarget, int]:
    chosen = best_layer(probe, layer)
    direction = probe.direction.sel(layer=chosen).values.astype(np.float64)
    return ProbeTarget(direction=direction, intercept=float(probe.intercept.sel(layer=chosen))), chosen


# --------------------------------------------------------------------------------------------- items
@dataclass(frozen=True, kw_only=True, eq=False)
class _Request:
    """Which passages are split, and how the result is named."""

    run: Run
    site: str
    layer: int
    found: list[Passage]
    constant: str
    what: str

    @property
    def items(self) -> list[str]:
        return list(dict.fromkeys(p.item for p in self.found))

    @property
    def rounds(self) -> list[int]:
        return sorted({r for p in self.found for r in p.rounds})

    def segments(self) -> list[str]:
        """Names of all segments, those of the round that is read first."""
        names = dict.fromkeys(n for p in self.found for r in p.rounds for n in p.segments(r))
        return sorted(names, key=lambda name: (name.startswith("earlier"), name == "template", name))


def _attribute(
    model: TransformerBridge,
    record: ModelRecord,
    request: _Request,
    aim: ProbeTarget | AnswerTarget,
    attrs: Mapping[str, Any],
    out: str | Path | None,
    progress: bool,
) -> xr.Dataset:
    known = dict.fromkeys((*SITES, *(name for p in request.found for name, *_ in p.spans)))
    if request.site not in known:
        raise ValueError(f"no site {request.site!r}; choose out of {', '.join(known)}.")
    segments = request.segments()
    settings = {
        "of": request.what,
        "site": request.site,
        "layer": request.layer,
        "study": request.run.fingerprint,
        "model": record.fingerprint,
        "passages": sorted({f"{p.condition.label}|{p.rounds}" for p in request.found}),
    }
    whole, told_of_parts = in_parts(
        request.items,
        lambda chunk: _chunk(model, record, request, aim, chunk, segments),
        size=ITEMS,
        request=Request(what="attribution", settings=settings),
        out=out,
        progress=progress,
    )
    whole = whole.assign_coords(
        cluster=("item", request.run.residuals["cluster"].sel(item=request.items).values)
    )
    told = {**attrs, "layer": request.layer, "site": request.site}
    for name in whole.data_vars:
        whole[name].attrs.update(told)
    completeness = max(float(part["completeness"]) for part in told_of_parts)
    return whole.assign_attrs({**told, "completeness": completeness})


def _chunk(
    model: TransformerBridge,
    record: ModelRecord,
    request: _Request,
    aim: ProbeTarget | AnswerTarget,
    items: Sequence[str],
    segments: Sequence[str],
) -> xr.Dataset:
    """All passages of some items."""
    mine = [p for p in request.found if p.item in set(items)]
    design = request.run.design
    shape = (len(items), *map(len, design.levels.values()), len(request.rounds))
    arrays: dict[str, np.ndarray] = {}
    names: list[str] = []
    heads: list[str] = []
    worst = 0.0
    for batch in by_length(mine, rows=ROWS, squares=SQUARES):
        for found in split_batch(
            model,
            record,
            batch,
            site=request.site,
            layer=request.layer,
            aim=aim,
            segments=segments,
            constant=request.constant,
        ):
            worst = max(worst, found.completeness)
            if not arrays:
                names, heads = found.components, found.heads
                arrays = {
                    "contribution": np.full((*shape, len(names)), np.nan),
                    "by_segment": np.full((*shape, len(heads), len(segments)), np.nan),
                    "projection": np.full(shape, np.nan),
                    "scale": np.full(shape, np.nan),
                }
            cell = design.place(found.passage.condition)
            at = (items.index(found.passage.item), *cell, request.rounds.index(found.round))
            for name, array in arrays.items():
                array[at] = getattr(found, name)
    if not arrays:
        raise ValueError(
            f"no dialogue of the items {', '.join(items[:3])} ... has the site {request.site!r}; choose "
            "another site, or the rounds and conditions that have it."
        )
    cube = design.dims
    dims = {"contribution": (*cube, "component"), "by_segment": (*cube, "head", "segment")}
    if not np.isfinite(arrays["scale"]).any():
        del arrays["scale"]
    return xr.Dataset(
        {name: (dims.get(name, cube), array) for name, array in arrays.items()},
        coords={
            "item": list(items),
            **design.levels,
            "round": request.rounds,
            "component": names,
            "head": heads,
            "segment": list(segments),
        },
        attrs={"completeness": worst},
    )
