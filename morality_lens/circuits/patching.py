"""Activation patching between conditions: one prompt's end, run with activations of the other prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.circuits.measuring import Measure, dims_of, read_layers, slices, widened_places
from morality_lens.circuits.pairing import Aligned, Pairing
from morality_lens.circuits.settings import Activations, Batching, Moment, Reading
from morality_lens.design import Condition
from morality_lens.models.hooks import Edit, Parts, parts_of
from morality_lens.models.suffixes import Ends, prefix, read_shared, read_source, run_suffixes, units_at_once
from morality_lens.rounds.replay import same_model
from morality_lens.rounds.selection import Execution
from morality_lens.runs.option_notes import option_note
from morality_lens.runs.requests import Request
from morality_lens.runs.resuming import in_parts
from morality_lens.runs.run import Run


def patch(
    model: TransformerBridge,
    run: Run,
    *,
    source: Condition,
    target: Condition | Moment,
    activations: Activations = Activations(),
    reading: Reading = Reading(),
    batching: Batching = Batching(),
    execution: Execution = Execution(),
) -> xr.Dataset:
    """The target's answers when, at some place and layer, activations are those of the source.

    For each item both dialogues are the run's own, up to the answer of a round. Only the target's tokens from
    the place on are run again, one row for each layer; what comes before cannot change.

    Args:
        model: the run's model.
        run: a run.
        source: the condition that activations are taken from.
        target: the condition that is run, in the last round and for all items; or a :class:`Moment`, which
            gives round and items too.
        activations: places, kind and layers.
        reading: a probe and where its projection is read, and whether answers are generated.
        batching: items and rows of a pass.
        execution: the folder for finished items, and the progress bar.

    Returns:
        Over ``item``, ``place``, ``layer`` (and ``head``): ``log_odds`` of the correct option (its log
        probability less the mean log of the others'), ``probability`` of each ``option``; with a probe
        ``projection`` at every ``read_layer``; ``answer``. The same without a patch as ``target_log_odds``
        and so on, and of the source as ``source_log_odds``. Items that name no correct option have no
        log-odds but the ``probability`` of each reply, and ratings the expected ``rating``.

    Raises:
        ValueError: another model, an unknown place, layer or kind, dialogues whose tokens do not correspond
            (named in the message), nothing to measure, or a folder of other patches.

    Examples:
        >>> patched = ml.patch(model, run, source=both, target=none, batching=batching)
        >>> dict(patched.sizes)
        {'item': 16, 'option': 3, 'place': 1, 'layer': 7}
    """
    probe = reading.probe
    record = same_model(model, run, probe)
    moment = Moment.of(target, run)
    sweep = _Sweep(
        parts=parts_of(model),
        measure=Measure.of(record, run, reading),
        what=activations.what,
        layers=read_layers(record, activations.layers, activations.what),
        rows=batching.rows,
    )
    pairing = Pairing.of(run, source, moment, activations.places)
    _refuse_late_places(pairing)
    whole, _ = in_parts(
        pairing.items,
        lambda chunk: sweep.over(pairing.only(chunk)),
        size=batching.batch_size,
        request=Request(
            what=f"patching of {sweep.what}",
            settings={
                "study": run.fingerprint,
                "model": record.fingerprint,
                "source": source.label,
                "target": moment.condition.label,
                "round": moment.number,
                "places": pairing.places,
                "layers": sweep.layers,
                "probe": None if probe is None else probe.fingerprint,
                "site": reading.site,
                "answers": reading.answers,
                "batch_size": batching.batch_size,
                "rows": batching.rows,
            },
        ),
        out=execution.out,
        progress=batching.progress and execution.progress,
    )
    clusters = run.residuals["cluster"].sel(item=whole["item"].values).values
    return whole.assign_coords(cluster=("item", clusters)).assign_attrs(
        source=source.label,
        target=moment.condition.label,
        round=moment.number,
        what=sweep.what,
        units=probe.training.get("units", "") if probe is not None else "",
        trust="" if probe is None else probe.trust,
        option_note=option_note(
            run, items=pairing.items, conditions=[source, moment.condition], rounds=[moment.number]
        ),
    )


def _refuse_late_places(pairing: Pairing) -> None:
    """Refuse places after the token that chooses the answer."""
    for place in pairing.places:
        for (_, target), (_, there) in zip(pairing.couples, pairing.tokens(place), strict=True):
            if there[-1] > target.places("answer_start", pairing.round)[0]:
                raise ValueError(
                    f"{place!r} comes after the answer's start, so it cannot change that answer."
                )


# --------------------------------------------------------------------------------------------- a batch
@dataclass(frozen=True, kw_only=True, eq=False)
class _Batch:
    """Dialogues that are patched together.

    Attributes:
        pairing: the dialogues.
        sources: their source prompts.
        targets: their target prompts.
        kept: keys and values of the target prompts.
        unpatched: what is measured without a patch.
    """

    pairing: Pairing
    sources: list[tuple[int, ...]]
    targets: list[tuple[int, ...]]
    kept: Any
    unpatched: Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Sweep:
    """One patch for each layer (and head) at each place.

    Attributes:
        parts: the model's modules.
        measure: what is read.
        what: kind of activation.
        layers: the layers.
        rows: most rows of a pass.
    """

    parts: Parts
    measure: Measure
    what: str
    layers: list[int]
    rows: int

    @property
    def heads(self) -> list[int]:
        """The heads of a layer; -1 where whole activations are patched."""
        return list(range(self.parts.heads)) if self.what == "head" else [-1]

    @property
    def units(self) -> list[tuple[int, int]]:
        """Layer and head of each patch."""
        return [(layer, head) for layer in self.layers for head in self.heads]

    def over(self, pairing: Pairing) -> xr.Dataset:
        """All patches of some items, with dims and coordinates."""
        sources, targets = pairing.prompts()
        shared = read_shared(self.parts, targets, sources)
        kept = prefix(self.parts, targets, shared)
        ends = Ends(kept=kept, prompts=targets, first=[len(p) - 1 for p in targets])
        everyone = list(range(len(targets)))
        clean = run_suffixes(self.parts, ends, rows=everyone, edits=[], speaking=self.measure.speaking)
        places = [pairing.tokens(place) for place in pairing.places]
        taken = [widened_places([here for here, _ in tokens]) for tokens in places]
        at = torch.cat(taken, dim=1).to(self.parts.lm.device)
        other, values = read_source(self.parts, shared, sources, at, self.what)
        unpatched = self.measure.read(clean, pairing.items, ())
        batch = _Batch(pairing=pairing, sources=sources, targets=targets, kept=kept, unpatched=unpatched)
        own = values.split([t.shape[1] for t in taken], dim=2)
        patched = [self._at_place(batch, tokens, v) for tokens, v in zip(places, own, strict=True)]
        data = {f"target_{name}": array for name, array in unpatched.items()}
        read = self.measure.read(other, pairing.items, ())
        data |= {f"source_{name}": array for name, array in read.items()}
        for name in unpatched:
            stacked = np.stack([p[name] for p in patched])  # place, unit, item, ...
            data[name] = np.moveaxis(stacked, 2, 0)
        return self._labelled(data, pairing)

    def _at_place(
        self, batch: _Batch, tokens: Sequence[Aligned], values: Float[Tensor, "item layer place size"]
    ) -> dict[str, np.ndarray]:
        """What is measured under every patch at one place: [unit, item, ...]."""
        units = self.units
        there = widened_places([target for _, target in tokens]).to(self.parts.lm.device)
        ends = Ends(kept=batch.kept, prompts=batch.targets, first=[int(target[0]) for _, target in tokens])
        # Where all tokens up to the place are the same, so are the activations: nothing needs to be run.
        rows = [
            i
            for i, (source, target) in enumerate(tokens)
            if batch.sources[i][: source[-1] + 1] != batch.targets[i][: target[-1] + 1]
        ]
        found = {k: np.repeat(v[None], len(units), axis=0) for k, v in batch.unpatched.items()}
        if not rows:
            return found
        names = [batch.pairing.items[i] for i in rows]
        blocks = []
        for some in slices(units, units_at_once(self.parts, ends, rows=self.rows)):
            edits = _moves(values[rows], there[rows], some, self.what, self.parts)
            passed = run_suffixes(
                self.parts, ends, rows=rows * len(some), edits=edits, speaking=self.measure.speaking
            )
            blocks.append(self.measure.read(passed, names, (len(some),)))
        for name, array in found.items():
            array[:, rows] = np.concatenate([block[name] for block in blocks])
        return found

    def _labelled(self, data: Mapping[str, np.ndarray], pairing: Pairing) -> xr.Dataset:
        """The arrays with their dims and coordinates."""
        split = len(self.heads) > 1
        outer = ("place", "layer", *(("head",) if split else ()))
        variables: dict[str, Any] = {}
        for name, values in data.items():
            if split and not name.startswith(("target_", "source_")):
                grid = (len(self.layers), len(self.heads))
                values = values.reshape(*values.shape[:2], *grid, *values.shape[3:])
            variables[name] = (dims_of(name, *outer), values)
        coords: dict[str, Any] = {
            "item": pairing.items,
            "place": list(pairing.places),
            "layer": self.layers,
        }
        if split:
            coords["head"] = self.heads
        if self.measure.direction is not None:
            coords["read_layer"] = np.arange(-1, len(self.measure.direction) - 1)
        return xr.Dataset(variables, coords=coords)


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
