"""Weak evidence: the question asked again with a sentence that speaks for one group, then for the other."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from pydantic import TypeAdapter, ValidationError
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.design import Condition
from morality_lens.dialogues.turns import evidence_turn
from morality_lens.items.bundled import asset
from morality_lens.items.choices import parse_choice
from morality_lens.items.files import data_files, read_jsonl
from morality_lens.items.kinds import Question
from morality_lens.probes.probe import Probe
from morality_lens.rounds.replay import dialogue_after, same_model, wording_of
from morality_lens.rounds.side_questions import SideQuestion, ask
from morality_lens.runs.requests import Request
from morality_lens.runs.resuming import in_parts
from morality_lens.runs.run import Run

ITEMS = 4
"""Items of one file on disk."""
VERSIONS = ("one", "swapped")


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A sentence of weak evidence in two versions, the roles of the two groups swapped.

    Attributes:
        item: id of the question.
        texts: the sentence, and the same with the groups swapped.
        named: index of the option that each of them speaks for.
        strength: how strong it is, on any scale; 0 where there is only one.
    """

    item: str
    texts: tuple[str, str]
    named: tuple[int, int]
    strength: float = 0.0


def load_evidence(path: str | Path | None = None) -> tuple[Evidence, ...]:
    """Evidence from JSONL lines with ``item, texts, named`` and optionally ``strength``.

    Args:
        path: a file, or a folder of them; None takes the bundled sentences, one for every open question.

    Raises:
        FileNotFoundError: no such file.
        ValueError: with file and line: a malformed row, or one item and strength twice.
    """
    found: dict[tuple[str, float], Evidence] = {}
    for file in data_files(asset("world", "evidence.jsonl") if path is None else path):
        for where, row in read_jsonl(file):
            try:
                one = TypeAdapter(Evidence).validate_json(json.dumps(row), extra="forbid")
            except ValidationError as error:
                raise ValueError(f"{where}: not weak evidence ({error.errors()[0]['msg']}).") from error
            if (one.item, one.strength) in found:
                raise ValueError(f"{where}: item {one.item!r} has evidence of strength {one.strength} twice.")
            found[one.item, one.strength] = one
    return tuple(found.values())


def weak_evidence(
    model: TransformerBridge,
    run: Run,
    evidence: Sequence[Evidence],
    *,
    probe: Probe | None = None,
    rounds: Sequence[int] | None = None,
    conditions: Sequence[Condition] | None = None,
    wording: str | None = None,
    answer_tokens: int = 8,
    out: str | Path | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """The answers when, after a round, the question is asked again with weak evidence in its context.

    It is asked in passing: later rounds know nothing of it. The gold answer stays the unknown one.

    Args:
        model: the run's model.
        run: a run of questions.
        evidence: for the items that are asked; each question's strengths must be the same.
        probe: adds the projection where the answer begins.
        rounds: after which rounds; None takes all.
        conditions: cells; None takes all.
        wording: the run's wording, where it is not the package's own.
        answer_tokens: most tokens of the greedy answer.
        out: a folder in which finished items are kept, and from which a second call goes on.
        progress: whether to show a bar.

    Returns:
        Over ``item``, the components, ``round``, ``strength`` and ``version``: ``probability`` of each
        ``option``, ``choice`` of the greedy answer (index, -1 for an answer that cannot be read), ``mass``
        on the options' letters, and with a probe the ``projection`` at every ``layer``. Over ``item`` and
        ``version`` (and strength): ``named``, the option that the evidence speaks for. ``unknown`` is the
        index of the unknown option.

    Raises:
        ValueError: another model or wording; evidence for an item that the run does not have, that has no
            unknown option, that names the unknown option or one option twice, or with unequal strengths; a
            context that settles the question.
    """
    record = same_model(model, run, probe)
    words = wording_of(run, wording)
    questions = {name: q for name, q in run.asked.items() if isinstance(q, Question)}
    given = _by_item(evidence, questions)
    strengths = sorted(next(iter(given.values())))
    cells = list(run.design.conditions if conditions is None else conditions)
    numbers = list(range(run.design.n_rounds)) if rounds is None else sorted(set(rounds))
    strange = [n for n in numbers if not 0 <= n < run.design.n_rounds]
    if strange or not numbers or not cells:
        raise ValueError(
            f"the run has the rounds 0 to {run.design.rounds}; got {numbers} and {len(cells)} cells."
        )
    ids = [name for name in questions if name in given]
    options = max(len(questions[name].options) for name in ids)
    coords = run.design.levels

    def some(chunk: Sequence[str]) -> xr.Dataset:
        shape = (len(chunk), *map(len, coords.values()), len(numbers), len(strengths), 2)
        asides: list[SideQuestion] = []
        places: list[tuple[int, ...]] = []
        for i, name in enumerate(chunk):
            question = questions[name]
            letters = question.replies
            for condition in cells:
                history = dialogue_after(record, run, question, condition, words)
                for n, number in enumerate(numbers):
                    for s, strength in enumerate(strengths):
                        for v, text in enumerate(given[name][strength].texts):
                            turn = evidence_turn(question, text, words, run.wording_index)
                            asides.append(SideQuestion(history=history[number], turn=turn, replies=letters))
                            places.append((i, *run.design.place(condition), n, s, v))
        layers = [] if probe is None else probe.direction["layer"].values.tolist()
        probability = np.full((*shape, options), np.nan)
        mass, choice = np.full(shape, np.nan), np.full(shape, -2)
        projection = np.full((*shape, len(layers)), np.nan)
        replies = ask(record, asides, probe=probe, limit=answer_tokens)
        for place, reply in zip(places, replies, strict=True):
            question = questions[chunk[place[0]]]
            probability[place][: len(question.options)] = reply.probabilities
            mass[place] = reply.mass
            chosen = parse_choice(reply.text, question.options)
            choice[place] = -1 if chosen is None else chosen
            if reply.projection is not None:
                projection[place] = reply.projection
        cube = (*run.design.dims, "strength", "version")
        named = [[given[name][s].named for s in strengths] for name in chunk]
        found = xr.Dataset(
            {
                "probability": ((*cube, "option"), probability),
                "mass": (cube, mass),
                "choice": (cube, choice),
                "named": (("item", "strength", "version"), np.array(named, int)),
                "unknown": ("item", np.array([questions[name].unknown for name in chunk])),
            },
            coords={
                "item": list(chunk),
                **coords,
                "round": numbers,
                "strength": strengths,
                "version": list(VERSIONS),
            },
        )
        if layers:
            found["projection"] = ((*cube, "layer"), projection)
            found = found.assign_coords(layer=layers)
        return found

    whole, _ = in_parts(
        ids,
        some,
        size=ITEMS,
        request=Request(
            what="weak evidence",
            settings={
                "study": run.fingerprint,
                "evidence": [asdict(one) for one in evidence if one.item in ids],
                "cells": [c.label for c in cells],
                "rounds": numbers,
                "probe": None if probe is None else probe.fingerprint,
                "answer_tokens": answer_tokens,
            },
        ),
        out=out,
        progress=progress,
    )
    clusters = run.items.loc[ids, "cluster"].tolist()
    attrs: dict[str, Any] = {"model": record.name}
    if probe is not None:
        whole["projection"].attrs = dict(probe.told)
    return whole.assign_coords(cluster=("item", clusters)).assign_attrs(attrs)


def _by_item(
    evidence: Sequence[Evidence], questions: dict[str, Question]
) -> dict[str, dict[float, Evidence]]:
    """Evidence of every item by its strength, checked."""
    given: dict[str, dict[float, Evidence]] = defaultdict(dict)
    for one in evidence:
        question = questions.get(one.item)
        if question is None:
            continue
        if question.unknown is None:
            raise ValueError(
                f"item {one.item} has no unknown option, which is what answers under weak evidence are held "
                "against; give evidence for questions that have one."
            )
        if not question.ambiguous:
            raise ValueError(
                f"the context of item {one.item} settles the question; evidence is for open ones."
            )
        if (
            len(set(one.named)) < 2
            or question.unknown in one.named
            or max(one.named) >= len(question.options)
        ):
            raise ValueError(
                f"the two versions of the evidence for item {one.item} must speak for two options that are "
                f"not the unknown one ({question.unknown}); they speak for {one.named}."
            )
        given[one.item][one.strength] = one
    if not given:
        raise ValueError("no item of the run has evidence; give evidence with the ids of its items.")
    strengths = {tuple(sorted(by)) for by in given.values()}
    if len(strengths) > 1:
        raise ValueError(f"every item needs evidence of the same strengths; got {sorted(strengths)[:3]}.")
    return given
