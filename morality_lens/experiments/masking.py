"""Mask the words: what is left of an effect when nobody can read the component's own words any more."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.design import SITES
from morality_lens.dialogues.wording import JudgedWording, Wording
from morality_lens.items.kinds import Statement
from morality_lens.models import decoding
from morality_lens.probes.probe import Probe
from morality_lens.rounds.replay import same_model
from morality_lens.runs.passages import Passage, by_length, passages
from morality_lens.runs.requests import Request
from morality_lens.runs.resuming import in_parts
from morality_lens.runs.run import Run

ITEMS, ROWS, SQUARES = 8, 32, 2**22


def mask_words(
    model: TransformerBridge,
    run: Run,
    probe: Probe,
    *,
    components: Sequence[str] | None = None,
    sites: Sequence[str] = SITES,
    out: str | Path | None = None,
    progress: bool = True,
) -> xr.DataArray:
    """Projections of a run's dialogues read again while no token can attend to the components' own words.

    The words keep their places, so all others keep theirs; what was answered stays as it was. An effect on
    the projection that goes away came straight from reading the words; what is left came through what they
    had made the model say.

    Args:
        model: the run's model.
        run: a run.
        probe: fitted on the run's model.
        components: the factors whose words are masked; None masks those of all.
        sites: where projections are read.
        out: a folder in which finished items are kept.
        progress: whether to show a bar.

    Returns:
        As ``probe.project(run)``, at these sites.

    Raises:
        ValueError: an unknown component or site, another model, or one that keeps no keys and values.
    """
    record = same_model(model, run, probe)
    names = run.design.names
    components = names if components is None else components
    strange = [c for c in components if c not in names] + [s for s in sites if s not in SITES]
    if strange or not components or not sites:
        raise ValueError(f"mask_words knows the components {names} and the sites {SITES}; got {strange}.")
    if not record.lm.cached:
        raise ValueError("mask_words needs a model whose attention can be masked; this one has other state.")
    hidden = {name for f in run.design.factors if f.name in components for name in f.segments}
    ids = run.items.index.tolist()
    coords = run.design.levels
    layers = probe.direction["layer"].values.tolist()

    def some(chunk: Sequence[str]) -> xr.Dataset:
        shape = (len(chunk), *map(len, coords.values()), run.design.n_rounds, len(sites), len(layers))
        values = np.full(shape, np.nan)
        for batch in by_length(list(passages(run, items=chunk)), rows=ROWS, squares=SQUARES):
            reads, spots = _read(record.lm, batch, sites, hidden)
            found = probe.project_all(reads.double().cpu().numpy())
            for r, passage in enumerate(batch):
                at = (list(chunk).index(passage.item), *run.design.place(passage.condition))
                for k, (number, site) in enumerate(spots[r]):
                    values[(*at, number, list(sites).index(site))] = found[r, k]
        dims = (*run.design.dims, "site", "layer")
        return xr.Dataset(
            {"projection": (dims, values)},
            coords={
                "item": list(chunk),
                **coords,
                "round": np.arange(run.design.n_rounds),
                "site": list(sites),
                "layer": layers,
            },
        )

    whole, _ = in_parts(
        ids,
        some,
        size=ITEMS,
        request=Request(
            what="masked words",
            settings={
                "study": run.fingerprint,
                "components": list(components),
                "sites": list(sites),
                "probe": probe.fingerprint,
            },
        ),
        out=out,
        progress=progress,
    )
    cube = whole["projection"].assign_coords(cluster=("item", run.items["cluster"].tolist()))
    return cube.assign_attrs({**probe.told, "masked": ", ".join(components)})


def _read(
    lm: decoding.LanguageModel, batch: Sequence[Passage], sites: Sequence[str], hidden: set[str]
) -> tuple[torch.Tensor, list[list[tuple[int, str]]]]:
    """Residuals of every passage at its sites, and the round and site of each."""
    spots = [[(n, s) for n in p.rounds for s in sites if p.places(s, n)] for p in batch]
    width = max(len(p.token_ids) for p in batch)
    weights = torch.zeros(len(batch), max(map(len, spots)), width, device=lm.device)
    masked = torch.zeros(len(batch), width, dtype=torch.bool, device=lm.device)
    for r, passage in enumerate(batch):
        for k, (number, site) in enumerate(spots[r]):
            places = list(passage.places(site, number))
            weights[r, k, places] = 1.0 / len(places)
        for name, _, start, stop in passage.spans:
            if name in hidden:
                masked[r, start:stop] = True
    fresh = decoding.start(lm, len(batch))
    _, reads = decoding.feed(lm, fresh, [list(p.token_ids) for p in batch], weights, masked)
    assert reads is not None  # weights were given
    return reads, spots


def component_words(wording: Wording, kind: str) -> frozenset[str]:
    """The words with content that the components say.

    Args:
        wording: the words of the protocol.
        kind: the items' task: ``choice``, ``rating`` or ``continuation``.

    Words of the question's form stay out: those that the neutral placebos say too.
    """
    words = getattr(wording, kind)
    said = (*words.instruction, *words.cot_request, *words.feedback)
    if isinstance(words, JudgedWording):
        said += (*words.oracle.correct, *words.oracle.biased)
    neutral = (*words.instruction_placebo, *words.rationale_placebo, *words.feedback_placebo)
    return frozenset(_content(said) - _content(neutral))


def without_words(statements: Sequence[Statement], words: frozenset[str]) -> tuple[Statement, ...]:
    """The statements in which none of these words occurs: to fit a direction that never met them.

    Raises:
        ValueError: fewer than half of the statements are left.
    """
    kept = tuple(s for s in statements if not _content([s.text]) & words)
    if 2 * len(kept) < len(statements):
        raise ValueError(
            f"only {len(kept)} of {len(statements)} statements say none of the components' words; take other "
            "statements, or a wording with other words."
        )
    return kept


def _content(texts: Sequence[str]) -> set[str]:
    return {w for text in texts for w in re.findall(r"[^\W\d_]+", text.casefold())} - ENGLISH_STOP_WORDS
