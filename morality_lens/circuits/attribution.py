"""Which heads and MLPs, reading which words, make up a projection: an exact split of the residual stream."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from einops import einsum
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.circuits.decomposition import Splitting, read_split, split_batch
from morality_lens.circuits.targets import AnswerTarget, ProbeTarget
from morality_lens.design import SITES, Condition
from morality_lens.interactions.carried import without_refits
from morality_lens.probes.layers import best_layer
from morality_lens.probes.probe import Probe
from morality_lens.rounds.replay import option_letters, same_model
from morality_lens.rounds.selection import Execution, Selection
from morality_lens.runs.option_notes import option_note
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
    selection: Selection = Selection(),
    execution: Execution = Execution(),
) -> xr.Dataset:
    """The projection of a run's residuals as a sum over components, and each head's part over what it reads.

    The stored transcripts are read once more. The parts are exact: their sum is the projection up to
    rounding, which is checked (``completeness``: the distance in units of the largest part).

    Args:
        model: the run's model.
        run: a run.
        probe: fitted on the same model.
        site: where the residual is read; a mean over tokens is split like a single token.
        layer: of the residual; None: the probe's layer with the highest held-out AUROC.
        selection: items, conditions and rounds; what is not read is NaN.
        execution: the folder for finished items, and the progress bar.

    Returns:
        ``contribution`` [item, factors, round, component] with components ``embedding``, ``position`` (where
        it is learned), ``L0H0`` ..., ``L0 attention bias``, ``L0 MLP``, ... and ``midpoint`` (the probe's
        intercept); ``by_segment`` [..., head, segment], in which each head's part is the sum over segments
        (see ``Passage.segments``; 0 for a segment that the dialogue does not have); ``projection`` [...]. In
        moral-immoral gaps.

    Raises:
        ValueError: the model is not the run's or the probe's; an unknown site, layer, item, condition or
            round; a folder of another attribution; or parts that do not add up, as in architectures that
            scale what a block adds.

    Examples:
        >>> few = ml.rounds.Selection(rounds=[2], conditions=[none])
        >>> parts = ml.attribute(model, run, probe, layer=3, selection=few, execution=quiet)
        >>> parts.attrs["completeness"] < 1e-3
        True
    """
    record = same_model(model, run, probe)
    target, chosen = _probe_target(probe, layer)
    sample = run.residuals.isel(item=[0], round=[0], site=[0])
    request = _Request(
        run=run,
        split=Splitting(
            model=model, record=record, site=site, layer=chosen, target=target, constant="midpoint"
        ),
        found=_selected(run, selection),
        what=hashlib.sha256(target.direction.tobytes()).hexdigest(),
        attrs=without_refits(probe.project(sample).attrs),
    )
    return _attribute(request, execution)


def attribute_answer(
    model: TransformerBridge,
    run: Run,
    *,
    selection: Selection = Selection(),
    execution: Execution = Execution(),
) -> xr.Dataset:
    """The direct path to behaviour: how far each component raises the correct option over the others.

    The log-odds at the token before the answer are split: log of the correct option's probability less the
    mean log of the others', as in the run's ``option_probabilities``. The final norm is frozen: at every
    place its factors are held as they are, and so are the shares of a letter's tokens, so that what remains
    is linear (``constant``: biases and what the shares add; with LayerNorm the mean is subtracted from each
    part).

    Args:
        model: the run's model.
        run: a run of questions.
        selection: items, conditions and rounds; what is not read is NaN.
        execution: the folder for finished items, and the progress bar.

    Returns:
        As :func:`attribute`, in log-odds, and ``scale``: the mean factor of the frozen norm at each place.

    Raises:
        ValueError: items without options, or letters that have no token of their own; else as
            :func:`attribute`.

    Examples:
        >>> few = ml.rounds.Selection(rounds=[2], conditions=[none])
        >>> answer = ml.circuits.attribute_answer(model, run, selection=few, execution=quiet)
        >>> answer.attrs["completeness"] < 1e-3
        True
    """
    record = same_model(model, run, None)
    target = AnswerTarget(record=record, items=run.asked, letters=option_letters(record, run))
    note = option_note(run, items=selection.items, conditions=selection.conditions, rounds=selection.rounds)
    request = _Request(
        run=run,
        split=Splitting(
            model=model,
            record=record,
            site="answer_start",
            layer=record.n_layers - 1,
            target=target,
            constant="constant",
        ),
        found=_selected(run, selection),
        what="log-odds of the correct option",
        attrs={"units": "log-odds", "oriented": True, "leakage": "", "trust": "", "option_note": note},
    )
    return _attribute(request, execution)


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
    """One dialogue, each token coloured by what the heads of each layer move from it into the projection.

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

    Examples:
        >>> view = ml.circuits.attribute_tokens(
        ...     model, run, probe, item=items[0].id, condition=both, layer=3
        ... )
        >>> view.values.shape == (len(view.layers), len(view.tokens))
        True
    """
    record = same_model(model, run, probe)
    target, chosen = _probe_target(probe, layer)
    number = run.design.rounds if round is None else round
    (passage,) = passages(run, items=[item], conditions=[condition], rounds=[number])
    if not passage.places(site, number):
        raise ValueError(f"{passage.described} has no {site!r} in round {number}; choose another site.")
    splitting = Splitting(
        model=model, record=record, site=site, layer=chosen, target=target, constant="midpoint"
    )
    read = read_split(splitting, [passage])
    taken = [
        einsum(heads[0], read.weight[0, 0], "place head token, place -> token")
        for heads in read.split.heads.values()
    ]
    row = run.select(run.transcripts, item, condition)
    row = row.iloc[0] if len(row) == 1 else row[row["round"] == number].iloc[0]
    values = np.zeros((max(len(taken), 1), len(row["token_ids"])))
    if taken:
        values[:, : len(passage.token_ids)] = torch.stack(taken).double().cpu().numpy()
    return token_view(
        row,
        layers=sorted(read.split.heads) or [-1],
        values=values,
        title=f"What heads move from each token into the projection at {site} of round {number}, "
        f"layer {chosen}",
        notes=["Every layer's heads together; embedding, MLPs and biases read no other token."],
    )


def _probe_target(probe: Probe, layer: int | None) -> tuple[ProbeTarget, int]:
    chosen = best_layer(probe, layer)
    direction = probe.direction.sel(layer=chosen).values.astype(np.float64)
    return ProbeTarget(direction=direction, intercept=float(probe.intercept.sel(layer=chosen))), chosen


def _selected(run: Run, selection: Selection) -> list[Passage]:
    return list(
        passages(run, items=selection.items, conditions=selection.conditions, rounds=selection.rounds)
    )


# --------------------------------------------------------------------------------------------- items
@dataclass(frozen=True, kw_only=True, eq=False)
class _Request:
    """Which passages are split, how, and how the result is named.

    Attributes:
        run: a run.
        split: what is split, and along what.
        found: the passages.
        what: identifies the target, so that a folder of another attribution is refused.
        attrs: of the result.
    """

    run: Run
    split: Splitting
    found: list[Passage]
    what: str
    attrs: Mapping[str, Any]

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

    def identity(self) -> dict[str, Any]:
        """What makes two attributions the same."""
        return {
            "of": self.what,
            "site": self.split.site,
            "layer": self.split.layer,
            "study": self.run.fingerprint,
            "model": self.split.record.fingerprint,
            "passages": sorted({f"{p.condition.label}|{p.rounds}" for p in self.found}),
        }


def _attribute(request: _Request, execution: Execution) -> xr.Dataset:
    site = request.split.site
    known = dict.fromkeys((*SITES, *(name for p in request.found for name, *_ in p.spans)))
    if site not in known:
        raise ValueError(f"no site {site!r}; choose out of {', '.join(known)}.")
    segments = request.segments()
    whole, attrs_of_parts = in_parts(
        request.items,
        lambda chunk: _chunk(request, chunk, segments),
        size=ITEMS,
        request=Request(what="attribution", settings=request.identity()),
        out=execution.out,
        progress=execution.progress,
    )
    clusters = request.run.residuals["cluster"].sel(item=request.items).values
    whole = whole.assign_coords(cluster=("item", clusters))
    attrs = {**request.attrs, "layer": request.split.layer, "site": site}
    for name in whole.data_vars:
        whole[name].attrs.update(attrs)
    completeness = max(float(part["completeness"]) for part in attrs_of_parts)
    return whole.assign_attrs({**attrs, "completeness": completeness})


def _chunk(request: _Request, items: Sequence[str], segments: Sequence[str]) -> xr.Dataset:
    """All passages of some items."""
    mine = [p for p in request.found if p.item in set(items)]
    design, rounds = request.run.design, request.rounds
    found = [
        part
        for batch in by_length(mine, rows=ROWS, squares=SQUARES)
        for part in split_batch(request.split, batch, segments)
    ]
    if not found:
        raise ValueError(
            f"no dialogue of the items {', '.join(items[:3])} ... has the site {request.split.site!r}; "
            "choose another site, or the rounds and conditions that have it."
        )
    shape = (len(items), *map(len, design.levels.values()), len(rounds))
    names, heads = found[0].components, found[0].heads
    arrays = {
        "contribution": np.full((*shape, len(names)), np.nan),
        "by_segment": np.full((*shape, len(heads), len(segments)), np.nan),
        "projection": np.full(shape, np.nan),
        "scale": np.full(shape, np.nan),
    }
    for part in found:
        cell = design.place(part.passage.condition)
        at = (items.index(part.passage.item), *cell, rounds.index(part.round))
        for name, array in arrays.items():
            array[at] = getattr(part, name)
    if not np.isfinite(arrays["scale"]).any():
        del arrays["scale"]
    cube = design.dims
    dims = {"contribution": (*cube, "component"), "by_segment": (*cube, "head", "segment")}
    return xr.Dataset(
        {name: (dims.get(name, cube), array) for name, array in arrays.items()},
        coords={
            "item": list(items),
            **design.coords,
            "round": rounds,
            "component": names,
            "head": heads,
            "segment": list(segments),
        },
        attrs={"completeness": max(part.completeness for part in found)},
    )
