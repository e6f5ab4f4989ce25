"""Word masking: what remains of an effect when no token can attend to the component's own words."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

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
from morality_lens.rounds.selection import Execution
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
    execution: Execution = Execution(),
) -> xr.DataArray:
    """Projections of a run's dialogues read again while no token can attend to the components' own words.

    The words keep their positions, so all others keep theirs, and the answers stay as they were. The part of
    an effect on the projection that disappears came directly from reading the words; the part that remains
    came through what they had made the model write.

    Args:
        model: the run's model.
        run: a run.
        probe: fitted on the run's model.
        components: the factors whose words are masked; None masks those of all.
        sites: where projections are read.
        execution: the folder for finished items, and the progress bar.

    Returns:
        As ``probe.project(run)``, at these sites.

    Raises:
        ValueError: an unknown component or site, another model, or one whose state is not keys and values.

    Examples:
        >>> masked = ml.experiments.mask_words(model, run, probe, sites=["answer_start"], execution=quiet)
        >>> masked.dims == moral.dims
        True
    """
    record = same_model(model, run, probe)
    names = run.design.names
    components = names if components is None else components
    strange = [c for c in components if c not in names] + [s for s in sites if s not in SITES]
    if strange or not components or not sites:
        raise ValueError(f"mask_words knows the components {names} and the sites {SITES}; got {strange}.")
    if not record.lm.cached:
        raise ValueError(
            "mask_words needs a model whose attention can be masked; the state of this one is another."
        )
    masking = _Masking(
        lm=record.lm,
        run=run,
        probe=probe,
        sites=list(sites),
        hidden={name for f in run.design.spoken_factors if f.name in components for name in f.segments},
    )
    whole, _ = in_parts(
        run.items.index.tolist(),
        masking.projections,
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
        out=execution.out,
        progress=execution.progress,
    )
    cube = whole["projection"].assign_coords(cluster=("item", run.items["cluster"].tolist()))
    return cube.assign_attrs({**probe.told, "masked": ", ".join(components)})


@dataclass(frozen=True, kw_only=True, eq=False)
class _Masking:
    """Dialogues read while some segments are hidden.

    Attributes:
        lm: the model.
        run: the run.
        probe: the directions.
        sites: where projections are read.
        hidden: names of the segments.
    """

    lm: decoding.LanguageModel
    run: Run
    probe: Probe
    sites: list[str]
    hidden: set[str]

    def projections(self, chunk: Sequence[str]) -> xr.Dataset:
        """Projections of all dialogues of some items."""
        design, sites = self.run.design, self.sites
        layers = self.probe.direction["layer"].values.tolist()
        levels = design.levels
        shape = (len(chunk), *map(len, levels.values()), design.n_rounds, len(sites), len(layers))
        values = np.full(shape, np.nan)
        for batch in by_length(list(passages(self.run, items=chunk)), rows=ROWS, squares=SQUARES):
            reads, spots = self._read(batch)
            found = self.probe.project_all(reads.double().cpu().numpy())
            for r, passage in enumerate(batch):
                at = (list(chunk).index(passage.item), *design.place(passage.condition))
                for k, (number, site) in enumerate(spots[r]):
                    values[(*at, number, sites.index(site))] = found[r, k]
        return xr.Dataset(
            {"projection": ((*design.dims, "site", "layer"), values)},
            coords={
                "item": list(chunk),
                **design.coords,
                "round": np.arange(design.n_rounds),
                "site": sites,
                "layer": layers,
            },
        )

    def _read(self, batch: Sequence[Passage]) -> tuple[torch.Tensor, list[list[tuple[int, str]]]]:
        """Residuals of every passage at its sites, and the round and site of each."""
        spots = [[(n, s) for n in p.rounds for s in self.sites if p.places(s, n)] for p in batch]
        width = max(len(p.token_ids) for p in batch)
        weights = torch.zeros(len(batch), max(map(len, spots)), width, device=self.lm.device)
        masked = torch.zeros(len(batch), width, dtype=torch.bool, device=self.lm.device)
        for r, passage in enumerate(batch):
            for k, (number, site) in enumerate(spots[r]):
                places = list(passage.places(site, number))
                weights[r, k, places] = 1.0 / len(places)
            for name, _, start, stop in passage.spans:
                if name in self.hidden:
                    masked[r, start:stop] = True
        fresh = decoding.start(self.lm, len(batch))
        _, reads = decoding.feed(self.lm, fresh, [list(p.token_ids) for p in batch], weights, masked)
        assert reads is not None  # weights were given
        return reads, spots


def component_words(wording: Wording, kind: Literal["choice", "rating", "continuation"]) -> frozenset[str]:
    """The content words of the components.

    Words that the neutral placebos contain too are left out: they belong to the form of the question.

    Args:
        wording: the words of the protocol.
        kind: the items' task: ``choice``, ``rating`` or ``continuation``.

    Examples:
        >>> words = ml.experiments.component_words(ml.dialogues.load_wording(), "choice")
        >>> "bias" in words, "the" in words
        (True, False)
    """
    words = getattr(wording, kind)
    texts = (*words.instruction, *words.cot_request, *words.feedback)
    if isinstance(words, JudgedWording):
        texts += (*words.oracle.correct, *words.oracle.biased)
    neutral = (*words.instruction_placebo, *words.rationale_placebo, *words.feedback_placebo)
    return frozenset(_content(texts) - _content(neutral))


def without_words(statements: Sequence[Statement], words: frozenset[str]) -> tuple[Statement, ...]:
    """The statements in which none of these words occurs: to fit a direction that has not seen them.

    Raises:
        ValueError: fewer than half of the statements are left.

    Examples:
        >>> seen = ml.Statement(id="a", cluster="a", text="Her answer was fair.", label=1)
        >>> other = ml.Statement(id="b", cluster="b", text="She carried the bag.", label=1)
        >>> kept = ml.experiments.without_words([seen, other], frozenset({"fair"}))
        >>> [statement.id for statement in kept]
        ['b']
    """
    kept = tuple(s for s in statements if not _content([s.text]) & words)
    if 2 * len(kept) < len(statements):
        raise ValueError(
            f"only {len(kept)} of {len(statements)} statements contain none of the components' words; take "
            "other statements, or a wording with other words."
        )
    return kept


def _content(texts: Sequence[str]) -> set[str]:
    return {w for text in texts for w in re.findall(r"[^\W\d_]+", text.casefold())} - ENGLISH_STOP_WORDS
