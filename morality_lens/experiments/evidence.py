"""Weak evidence: the question asked again with a sentence that favours one group, then the other."""

import itertools
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from pydantic import TypeAdapter, ValidationError
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.design import Condition
from morality_lens.dialogues.turns import evidence_turn
from morality_lens.dialogues.wording import Wording
from morality_lens.items.bundled import asset
from morality_lens.items.choices import parse_choice
from morality_lens.items.files import data_files, read_rows
from morality_lens.items.kinds import Question
from morality_lens.models.loading import ModelRecord
from morality_lens.probes.probe import Probe
from morality_lens.rounds.replay import dialogue_after, same_model, wording_of
from morality_lens.rounds.selection import Execution, Selection
from morality_lens.rounds.side_questions import SideQuestion, ask
from morality_lens.runs.option_notes import NOTE, low_mass_note
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
        named: index of the option that each of them favours, as the options stood before any permutation.
        strength: how strong it is, on any scale; 0 where there is only one.

    Examples:
        >>> yawned = ("The baker yawned.", "The smith yawned.")
        >>> sentence = ml.experiments.Evidence(item="q1", texts=yawned, named=(0, 1))
        >>> sentence.strength
        0.0
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

    Examples:
        >>> len(ml.experiments.load_evidence()[0].texts)
        2
    """
    found: dict[tuple[str, float], Evidence] = {}
    for file in data_files(asset("world", "evidence.jsonl") if path is None else path):
        for where, row in read_rows(file):
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
    selection: Selection = Selection(),
    wording: str | None = None,
    answer_tokens: int = 32,
    execution: Execution = Execution(),
) -> xr.Dataset:
    """The answers when, after a round, the question is asked again with weak evidence in its context.

    It is a side question: later rounds do not contain it. The correct answer stays the unknown one.

    Args:
        model: the run's model.
        run: a run of questions.
        evidence: for the items that are asked; each question's strengths must be the same.
        probe: adds the projection where the answer begins.
        selection: items, conditions, and rounds after which evidence is given.
        wording: the run's wording, where it is not the package's own.
        answer_tokens: most tokens of the greedy answer.
        execution: the folder for finished items, and the progress bar.

    Returns:
        Over ``item``, the components, ``round``, ``strength`` and ``version``: ``probability`` of each
        ``option``, ``choice`` of the greedy answer (index, -1 for an answer that cannot be parsed), ``mass``
        on the options' letters, and with a probe the ``projection`` at every ``layer``. Over ``item`` and
        ``version`` (and strength): ``named``, the option that the evidence favours. ``unknown`` is the
        index of the unknown option.

    Raises:
        ValueError: another model or wording; evidence for an item that the run does not have, that has no
            unknown option, that names the unknown option or one option twice, or with unequal strengths; a
            context that settles the question.

    Examples:
        >>> asked = ml.rounds.Selection(rounds=[0], conditions=[none])
        >>> given = ml.experiments.weak_evidence(model, run, evidence, selection=asked, execution=quiet)
        >>> given["version"].values.tolist()
        ['one', 'swapped']
    """
    record = same_model(model, run, probe)
    words = wording_of(run, wording)
    questions = {name: q for name, q in run.asked.items() if isinstance(q, Question)}
    given = _by_item(evidence, questions)
    if selection.items is not None:
        given = _of_items(given, selection.items)
    ids = [name for name in questions if name in given]
    numbers, cells = _rounds(run, selection), _cells(run, selection)
    trial = _Trial(
        record=record,
        run=run,
        wording=words,
        questions=questions,
        given=given,
        cells=cells,
        rounds=numbers,
    )
    whole, _ = in_parts(
        ids,
        lambda chunk: trial.answers(chunk, probe, answer_tokens),
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
        out=execution.out,
        progress=execution.progress,
    )
    clusters = run.items.loc[ids, "cluster"].tolist()
    attrs: dict[str, Any] = {
        "model": record.name,
        NOTE: low_mass_note(float(whole["mass"].mean())),
    }
    if probe is not None:
        whole["projection"].attrs = dict(probe.told)
    return whole.assign_coords(cluster=("item", clusters)).assign_attrs(attrs)


def _of_items(
    given: dict[str, dict[float, Evidence]], items: Sequence[str]
) -> dict[str, dict[float, Evidence]]:
    """The evidence for some items.

    Raises:
        ValueError: an item without evidence, or no item.
    """
    without = [name for name in items if name not in given]
    if without or not items:
        raise ValueError(f"there is no evidence for item {', '.join(without[:3]) or '(none given)'}.")
    return {name: given[name] for name in items}


def _cells(run: Run, selection: Selection) -> list[Condition]:
    """The conditions of the dialogues.

    Raises:
        ValueError: no conditions.
    """
    cells = list(run.design.conditions if selection.conditions is None else selection.conditions)
    if not cells:
        raise ValueError("weak_evidence needs at least one condition; got none.")
    return cells


def _rounds(run: Run, selection: Selection) -> list[int]:
    """The rounds after which evidence is given.

    Raises:
        ValueError: rounds that the run does not have, or none.
    """
    known = range(run.design.n_rounds)
    numbers = list(known) if selection.rounds is None else sorted(set(selection.rounds))
    if not numbers or any(n not in known for n in numbers):
        raise ValueError(f"the run has the rounds 0 to {run.design.rounds}; got {numbers}.")
    return numbers


@dataclass(frozen=True, kw_only=True, eq=False)
class _Trial:
    """Side questions with weak evidence to the dialogues of a run.

    Attributes:
        record: of the model.
        run: the run.
        wording: its words.
        questions: by their ids.
        given: evidence of every item by its strength.
        cells: conditions of the dialogues.
        rounds: after which evidence is given.
    """

    record: ModelRecord
    run: Run
    wording: Wording
    questions: dict[str, Question]
    given: dict[str, dict[float, Evidence]]
    cells: list[Condition]
    rounds: list[int]

    @property
    def strengths(self) -> list[float]:
        """The strengths of the evidence, which are the same for every item."""
        return sorted(next(iter(self.given.values())))

    def side_questions(self, chunk: Sequence[str]) -> Iterator[tuple[tuple[int, ...], SideQuestion]]:
        """Every question, and its place in the cube of answers."""
        run, strengths = self.run, self.strengths
        variants = list(itertools.product(enumerate(self.rounds), enumerate(strengths), range(len(VERSIONS))))
        for (i, name), condition in itertools.product(enumerate(chunk), self.cells):
            question = self.questions[name]
            history = dialogue_after(self.record, run, question, condition, self.wording)
            cell = run.design.place(condition)
            for (n, number), (s, strength), v in variants:
                text = self.given[name][strength].texts[v]
                turn = evidence_turn(question, text, self.wording, run.wording_index)
                yield (
                    (i, *cell, n, s, v),
                    SideQuestion(
                        history=history[number],
                        turn=turn,
                        replies=question.replies,
                        system=run.system_prompt,
                        item=question,
                    ),
                )

    def answers(self, chunk: Sequence[str], probe: Probe | None, limit: int) -> xr.Dataset:
        """What the model answers for some items."""
        levels, strengths = self.run.design.levels, self.strengths
        shape = (len(chunk), *map(len, levels.values()), len(self.rounds), len(strengths), len(VERSIONS))
        layers = [] if probe is None else probe.direction["layer"].values.tolist()
        options = max(len(self.questions[name].options) for name in self.given)
        probability = np.full((*shape, options), np.nan)
        mass, choice = np.full(shape, np.nan), np.full(shape, -2)
        projection = np.full((*shape, len(layers)), np.nan)
        asked = list(self.side_questions(chunk))
        replies = ask(self.record, [question for _, question in asked], probe=probe, limit=limit)
        for (place, _), reply in zip(asked, replies, strict=True):
            question = self.questions[chunk[place[0]]]
            probability[place][: len(question.options)] = reply.probabilities
            mass[place] = reply.mass
            chosen = parse_choice(reply.text, question.options)
            choice[place] = -1 if chosen is None else chosen
            if reply.projection is not None:
                projection[place] = reply.projection
        cube = (*self.run.design.dims, "strength", "version")
        named = [[self.given[name][s].named for s in strengths] for name in chunk]
        found = xr.Dataset(
            {
                "probability": ((*cube, "option"), probability),
                "mass": (cube, mass),
                "choice": (cube, choice),
                "named": (("item", "strength", "version"), np.array(named, int)),
                "unknown": ("item", np.array([self.questions[name].unknown for name in chunk])),
            },
            coords={
                "item": list(chunk),
                **self.run.design.coords,
                "round": self.rounds,
                "strength": strengths,
                "version": list(VERSIONS),
            },
        )
        if layers:
            found["projection"] = ((*cube, "layer"), projection)
            found = found.assign_coords(layer=layers)
        return found


def _by_item(
    evidence: Sequence[Evidence], questions: dict[str, Question]
) -> dict[str, dict[float, Evidence]]:
    """Evidence of every item by its strength, checked."""
    given: dict[str, dict[float, Evidence]] = defaultdict(dict)
    for one in evidence:
        if one.item in questions:
            placed = _placed(one, questions[one.item])
            _refuse_unfit(placed, questions[one.item])
            given[one.item][one.strength] = placed
    if not given:
        raise ValueError("no item of the run has evidence; give evidence with the ids of its items.")
    strengths = {tuple(sorted(by)) for by in given.values()}
    if len(strengths) > 1:
        raise ValueError(f"every item needs evidence of the same strengths; got {sorted(strengths)[:3]}.")
    return given


def _placed(one: Evidence, question: Question) -> Evidence:
    """The evidence with the places that the options it favours have in the question as it was played."""
    order = question.order
    if order is None or not set(one.named) <= set(order):
        return one
    first, second = one.named
    return replace(one, named=(order.index(first), order.index(second)))


def _refuse_unfit(one: Evidence, question: Question) -> None:
    """Refuse evidence that does not fit its question."""
    if question.unknown is None:
        raise ValueError(
            f"item {one.item} has no unknown option, with which answers under weak evidence are compared; "
            "give evidence for questions that have one."
        )
    if not question.ambiguous:
        raise ValueError(f"the context of item {one.item} settles the question; evidence is for open ones.")
    outside = max(one.named) >= len(question.options)
    if len(set(one.named)) < 2 or question.unknown in one.named or outside:
        raise ValueError(
            f"the two versions of the evidence for item {one.item} must favour two options that are not the "
            f"unknown one ({question.unknown}); they favour {one.named}."
        )
