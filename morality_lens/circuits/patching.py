"""Activation patching between conditions: one prompt's end, run with activations of the other prompt."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from morality_lens import decoding
from morality_lens.aligning import align, paired
from morality_lens.attribution import reply_tokens, same_model
from morality_lens.design import SITES, Condition
from morality_lens.edits import KINDS, Edit, Parts, parts_of
from morality_lens.items import Item, Rating
from morality_lens.model import ModelRecord
from morality_lens.probes import Probe
from morality_lens.rereading import Passage
from morality_lens.store import Run
from morality_lens.suffixes import Outcome, prefix, read_shared, read_source, run_suffixes, units_at_once


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
            (:func:`morality_lens.aligning.alignable` tells which items').
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


def read_layers(record: ModelRecord, layers: Sequence[int] | None, what: str) -> list[int]:
    """The layers asked for.

    Raises:
        ValueError: an unknown kind of activation or layer.
    """
    if what not in KINDS:
        raise ValueError(f"what is patched is one of {', '.join(KINDS)}; got {what!r}.")
    known = list(range(-1 if what == "residual" else 0, record.n_layers))
    chosen = known if layers is None else list(layers)
    wrong = [layer for layer in chosen if layer not in known]
    if wrong or not chosen:
        raise ValueError(f"layers of {what} are {known[0]} to {known[-1]}; got {wrong or 'none'}.")
    return chosen


# --------------------------------------------------------------------------------------------- measures
@dataclass(frozen=True, kw_only=True, eq=False)
class Measure:
    """What is read of a pass: options, projections, answers.

    Attributes:
        record: of the model.
        letters: tokens of each reply's sign; none where items have no replies.
        items: by their ids.
        direction: [layer, d_model], or None.
        intercept: [layer].
        site: where the projection is read.
        answers: whether answers are generated.
        limit: most tokens of an answer.
    """

    record: ModelRecord
    letters: tuple[tuple[int, ...], ...]
    items: Mapping[str, Item] = field(default_factory=dict)
    direction: Float[np.ndarray, "layer d_model"] | None = None
    intercept: Float[np.ndarray, " layer"] | None = None
    site: str = "answer_start"
    answers: bool = False
    limit: int = 16

    @classmethod
    def of(
        cls,
        record: ModelRecord,
        run: Run,
        probe: Probe | None,
        *,
        site: str = "answer_start",
        answers: bool = False,
    ) -> "Measure":
        """What can be read of a run's items.

        Raises:
            ValueError: nothing can.
        """
        letters = reply_tokens(record, run)
        if not letters and probe is None and not answers:
            raise ValueError("these items have no options; give a probe, or answers=True.")
        return cls(
            record=record,
            letters=letters,
            items=run.asked,
            direction=None if probe is None else probe.direction.values.astype(np.float64),
            intercept=None if probe is None else probe.intercept.values.astype(np.float64),
            site=site,
            answers=answers,
            limit=int(run.manifest["study"]["limits"]["answer_tokens"]),
        )

    @property
    def speaking(self) -> bool:
        """Whether replies have to be generated."""
        return self.answers or (self.direction is not None and self.site != "answer_start")

    def read(self, passed: Outcome, names: Sequence[str], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Arrays [*shape, item, ...] of a pass whose rows run through the items fastest."""
        found: dict[str, np.ndarray] = {}
        size = (*shape, len(names))
        if self.letters:
            spread = torch.log_softmax(passed.logits.double(), dim=-1)
            each = torch.stack([spread[:, list(t)].logsumexp(-1) for t in self.letters], dim=-1).cpu().numpy()
            log = each.reshape(*size, -1)
            odds, rating, probability = (np.full(s, np.nan) for s in (size, size, log.shape))
            asked = [self.items[name] for name in names]
            for i, item in enumerate(asked):
                own = log[..., i, : len(item.replies)]
                shares = np.exp(own - own.max(-1, keepdims=True))
                shares /= shares.sum(-1, keepdims=True)
                probability[..., i, : len(item.replies)] = shares
                if item.good is not None:
                    odds[..., i] = own[..., item.good] - np.delete(own, item.good, axis=-1).mean(-1)
                if isinstance(item, Rating):
                    rating[..., i] = shares @ np.array(item.measures[0].weights)
            if all(item.good is not None for item in asked):
                found["log_odds"] = odds
            if all(isinstance(item, Rating) for item in asked):
                found["rating"] = rating
            found["probability"] = probability
        reply = None
        if self.speaking:
            assert passed.batch is not None  # it was asked for
            reply = decoding.generate(
                self.record.lm,
                passed.batch,
                passed.logits,
                limit=self.limit,
                stops=self.record.stops,
                read=self.direction is not None and self.site != "answer_start",
            )
        if self.direction is not None and self.intercept is not None:
            at = passed.residuals
            if reply is not None and self.site != "answer_start":
                at = reply.end if self.site == "answer_end" else reply.mean
            values = np.einsum("rld,ld->rl", at.double().cpu().numpy(), self.direction) + self.intercept
            found["projection"] = values.reshape(*size, -1)
        if reply is not None and self.answers:
            texts = self.record.renderer.tokenizer.batch_decode(reply.tokens, skip_special_tokens=True)
            found["answer"] = np.array([t.strip() for t in texts], dtype=object).reshape(size)
        return found


# --------------------------------------------------------------------------------------------- pieces
def widened_places(rows: Sequence[Int[np.ndarray, " _"]]) -> Int[Tensor, "row place"]:
    """Rows of places of one length; shorter ones repeat their first place."""
    width = max(map(len, rows))
    return torch.tensor(np.stack([np.concatenate([r, np.full(width - len(r), r[0])]) for r in rows]))


def slices(units: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """The units, ``size`` at a time."""
    iterator = iter(units)
    while some := list(itertools.islice(iterator, size)):
        yield some


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


def passage_prompt(passage: Passage, round: int) -> tuple[int, ...]:
    """The tokens up to and with the one whose logits choose the answer's first."""
    return passage.token_ids[: passage.places("answer_start", round)[0] + 1]
