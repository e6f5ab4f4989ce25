"""Can the model distinguish its own good outputs from its bad ones: two at a time, in both orders."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import xarray as xr
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.design import Condition
from morality_lens.dialogues.rendering import Transcript
from morality_lens.dialogues.turns import distinguish_turn, stereotype_turn
from morality_lens.dialogues.wording import Wording
from morality_lens.items.choices import parse_choice
from morality_lens.items.kinds import LETTERS, Question
from morality_lens.models.loading import ModelRecord
from morality_lens.probes.layers import best_layer
from morality_lens.probes.probe import Probe
from morality_lens.rounds.replay import dialogue_after, same_model, wording_of
from morality_lens.rounds.selection import Execution
from morality_lens.rounds.side_questions import SideQuestion, ask
from morality_lens.runs.option_notes import NOTE, low_mass_note
from morality_lens.runs.requests import Request
from morality_lens.runs.resuming import in_parts
from morality_lens.runs.run import Run

ITEMS = 16
"""Pairs of one file on disk."""
HISTORIES = ("none", "own", "another's")
BETTER = ("first", "second")
GAP = 0.3
"""Least difference of two texts' scores for one to be the better one."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two outputs of one dialogue, a good and a bad one.

    Attributes:
        item: id of the item.
        condition: the dialogue's condition.
        good: round of the better output.
        bad: round of the worse one.
        texts: the better output and the worse one.
    """

    item: str
    condition: Condition
    good: int
    bad: int
    texts: tuple[str, str]


def own_pairs(run: Run, *, gap: float = GAP, seed: int = 0) -> tuple[Pair, ...]:
    """For each item a dialogue that holds a good and a bad output of the model's own, and two of them.

    Of a question the good output is correct and the bad one chose another option; of a prompt their scores by
    the judge differ by ``gap`` or more. Dialogue and rounds are drawn among all that qualify. Two outputs of
    the same text are no pair; items without any pair are left out.

    Args:
        run: a run; of open prompts, one that a judge has scored.
        gap: least difference of the judge's scores.
        seed: random seed.

    Raises:
        ValueError: open prompts that no judge has scored, items of which no reply is good, or no item with
            both.

    Examples:
        >>> pairs = ml.experiments.own_pairs(run)
        >>> len({pair.item for pair in pairs}) == len(pairs)
        True
    """
    if not run.names_good and "score" not in run.measures:
        raise ValueError(
            "own_pairs needs items of which an output can be good or bad: questions that name a good option, "
            "or open prompts; no reply to these items is better than another."
        )
    table, step = _valued(run), 1.0 if run.names_good else gap
    found = []
    for name, mine in table.groupby("item", sort=False):
        rng = np.random.default_rng(list(hashlib.sha256(f"{seed}|{name}".encode()).digest()))
        pairs = [
            pair
            for _, rows in mine.groupby(list(run.design.names), sort=True)
            for pair in _pairs_of(str(name), run.design.names, rows, step)
        ]
        if pairs:
            found.append(pairs[int(rng.integers(len(pairs)))])
    if not found:
        raise ValueError(
            "no dialogue of this run contains both a good and a bad output of the model; play more items or "
            "more rounds."
        )
    return tuple(found)


def _valued(run: Run) -> pd.DataFrame:
    """The answers of a run with their ``value``: how good each is, NaN where that is not known."""
    table = run.answers
    if not run.names_good:
        return table.assign(value=1 - _scores(run))
    value = np.where(table["correct"].to_numpy(bool), 1.0, 0.0)
    value[~table["parsed"].to_numpy(bool)] = np.nan
    return table.assign(value=value)


def _pairs_of(item: str, factors: Sequence[str], rows: pd.DataFrame, step: float) -> list[Pair]:
    """All pairs of one dialogue whose values differ by a step or more."""
    condition = Condition(**{name: str(rows[name].iloc[0]) for name in factors})
    outputs = [
        (int(row["round"]), str(row["text"]), float(row["value"]))
        for row in rows.to_dict("records")
        if np.isfinite(row["value"]) and row["text"]
    ]
    return [
        Pair(item=item, condition=condition, good=good[0], bad=bad[0], texts=(good[1], bad[1]))
        for good in outputs
        for bad in outputs
        if good[2] - bad[2] >= step and good[1] != bad[1]
    ]


def _scores(run: Run) -> np.ndarray:
    """The mean of the judges' scores of every answer."""
    keys = list(run.design.dims)
    means = run.scores.groupby(keys, as_index=False).agg({"score": "mean"})
    return run.answers.loc[:, keys].merge(means, on=keys, how="left")["score"].to_numpy(float)


def distinguish(
    model: TransformerBridge,
    run: Run,
    *,
    probe: Probe | None = None,
    layer: int | None = None,
    histories: Sequence[str] = HISTORIES,
    pairs: Sequence[Pair] | None = None,
    wording: str | None = None,
    execution: Execution = Execution(),
) -> xr.Dataset:
    """Which of two of its own outputs the model calls the better one, in both orders.

    Args:
        model: the run's model.
        run: a run; of open prompts, one that a judge has scored.
        probe: its projection is read at the end of both outputs, in their own dialogues.
        layer: of the probe; None: that of the highest held-out AUROC.
        histories: what precedes the question: ``none``, the dialogue the outputs are from (``own``), or the
            dialogue of the next item (``another's``).
        pairs: one for each item; None takes :func:`own_pairs` of the run.
        wording: the run's wording, where it is not the package's own.
        execution: the folder for finished items, and the progress bar.

    Returns:
        Over ``item``, ``history`` and ``better`` (where the better output is shown): ``says_first``, the
        probability of naming the first one (as a share of both); ``said``, the greedy reply, 1, 2, or 0 where
        it is neither; ``mass`` on both numbers. Over ``item``: ``condition`` and the rounds ``good`` and
        ``bad``, and with a probe ``reading``, its projection of the better output less that of the other.

    Raises:
        ValueError: another model or wording, no pairs, or an unknown history.

    Examples:
        >>> pairs = ml.experiments.distinguish(model, run, histories=["none"], execution=quiet)
        >>> pairs["says_first"].dims
        ('item', 'history', 'better')
    """
    record = same_model(model, run, probe)
    words = wording_of(run, wording)
    _check(histories)
    by_item = {p.item: p for p in (own_pairs(run) if pairs is None else pairs)}
    ids = [name for name in run.asked if name in by_item]
    if not ids:
        raise ValueError("there are no pairs of this run's items; give those of own_pairs(run).")
    comparison = _Comparison(
        record=record,
        run=run,
        wording=words,
        pairs=by_item,
        following=dict(zip(ids, [*ids[1:], ids[0]], strict=True)),
        histories=list(histories),
    )
    chosen = [by_item[name] for name in ids]
    whole, _ = in_parts(
        ids,
        comparison.answers,
        size=ITEMS,
        request=Request(
            what="telling outputs apart",
            settings={
                "study": run.fingerprint,
                "pairs": [p.texts for p in chosen],
                "histories": list(histories),
            },
        ),
        out=execution.out,
        progress=execution.progress,
    )
    whole.attrs[NOTE] = low_mass_note(float(whole["mass"].mean()))
    whole["condition"] = ("item", [p.condition.label for p in chosen])
    whole["good"] = ("item", [p.good for p in chosen])
    whole["bad"] = ("item", [p.bad for p in chosen])
    if probe is not None:
        best = best_layer(probe, layer)
        reading = _reading(run, probe, chosen, best)
        # An answer without a token has no end: then the probe has nothing to read.
        if np.isfinite(reading).all():
            whole["reading"] = ("item", reading)
            whole.attrs["layer"] = best
    return whole.assign_coords(cluster=("item", run.items.loc[ids, "cluster"].tolist()))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Comparison:
    """Side questions about which of two outputs is the better one.

    Attributes:
        record: of the model.
        run: the run.
        wording: its words.
        pairs: by their items.
        following: the next item of each, whose dialogue is ``another's``.
        histories: what precedes the questions.
    """

    record: ModelRecord
    run: Run
    wording: Wording
    pairs: dict[str, Pair]
    following: dict[str, str]
    histories: list[str]

    def history(self, kind: str, name: str) -> Transcript:
        """What precedes the question about an item's pair."""
        if kind == "none":
            return Transcript()
        pair = self.pairs[name if kind == "own" else self.following[name]]
        item = self.run.asked[pair.item]
        dialogue = dialogue_after(self.record, self.run, item, pair.condition, self.wording)
        return dialogue[max(pair.good, pair.bad)]

    def side_questions(self, chunk: Sequence[str]) -> list[SideQuestion]:
        """By item, by history, and in both orders."""
        found = []
        for name in chunk:
            texts = self.pairs[name].texts
            for kind in self.histories:
                before = self.history(kind, name)
                for one, two in (texts, texts[::-1]):
                    turn = distinguish_turn(
                        self.run.asked[name], one, two, self.wording, self.run.wording_index
                    )
                    found.append(
                        SideQuestion(
                            history=before, turn=turn, replies=("1", "2"), system=self.run.system_prompt
                        )
                    )
        return found

    def answers(self, chunk: Sequence[str]) -> xr.Dataset:
        """What the model answers for some items."""
        replies = ask(self.record, self.side_questions(chunk), limit=8)
        chosen = [re.search(r"(?<!\d)[12](?!\d)", reply.text) for reply in replies]
        arrays = {
            "says_first": [r.probabilities[0] for r in replies],
            "mass": [r.mass for r in replies],
            "said": [int(c[0]) if c else 0 for c in chosen],
        }
        return _cube(arrays, chunk, self.histories)


def _cube(
    arrays: Mapping[str, Sequence[float | int]], items: Sequence[str], histories: Sequence[str]
) -> xr.Dataset:
    """Values in the order of items, histories and places of the better output, as a dataset."""
    shape, dims = (len(items), len(histories), len(BETTER)), ("item", "history", "better")
    return xr.Dataset(
        {name: (dims, np.array(values).reshape(shape)) for name, values in arrays.items()},
        coords={"item": list(items), "history": list(histories), "better": list(BETTER)},
    )


def _reading(run: Run, probe: Probe, pairs: Sequence[Pair], layer: int) -> np.ndarray:
    where = run.residuals.sel(site=["answer_end"])
    out = []
    for pair in pairs:
        one = where.sel({"item": pair.item, "round": [pair.good, pair.bad], **pair.condition.coords})
        values = probe.project(one).sel(layer=layer).values[..., 0].reshape(-1)
        out.append(float(values[0] - values[1]))
    return np.array(out)


# --------------------------------------------------------------------------------------------- groups
def name_groups(
    model: TransformerBridge,
    run: Run,
    *,
    histories: Sequence[str] = ("none", "own"),
    wording: str | None = None,
    execution: Execution = Execution(),
) -> xr.Dataset:
    """Which group a stereotype is about, asked from the question alone, the two groups in both places.

    Args:
        model: the run's model.
        run: a run of questions whose stereotyped group is known.
        histories: ``none``, or after the item's own dialogue with all three components (``own``).
        wording: the run's wording, where it is not the package's own.
        execution: the folder for finished items, and the progress bar.

    Returns:
        As :func:`distinguish`, where ``better`` gives the place of the stereotyped group; the probability of
        the unknown option is not part of ``says_first`` and is given as ``unknown``.

    Raises:
        ValueError: no question whose stereotyped group is known, an unknown history, or another model.

    Examples:
        >>> named = ml.experiments.name_groups(model, run, histories=["none"], execution=quiet)
        >>> named["says_first"].dims
        ('item', 'history', 'better')
    """
    record = same_model(model, run, None)
    words = wording_of(run, wording)
    _check(histories)
    questions = {name: q for name, q in run.asked.items() if isinstance(q, Question) and _has_groups(q)}
    if not questions:
        raise ValueError(
            "no question of this run names the one of two groups that the stereotype is about, beside an "
            "unknown option."
        )
    naming = _Naming(record=record, run=run, wording=words, questions=questions, histories=list(histories))
    whole, _ = in_parts(
        list(questions),
        naming.answers,
        size=ITEMS,
        request=Request(
            what="naming groups", settings={"study": run.fingerprint, "histories": list(histories)}
        ),
        out=execution.out,
        progress=execution.progress,
    )
    return whole.assign_coords(cluster=("item", run.items.loc[list(questions), "cluster"].tolist()))


def _has_groups(question: Question) -> bool:
    """Whether a question has an unknown option and two groups, one of which is stereotyped."""
    known = question.stereotyped is not None and question.unknown is not None
    return known and len(question.options) == 3


@dataclass(frozen=True, kw_only=True, eq=False)
class _Naming:
    """Side questions about which group a stereotype is about.

    Attributes:
        record: of the model.
        run: the run.
        wording: its words.
        questions: by their ids.
        histories: what precedes the questions.
    """

    record: ModelRecord
    run: Run
    wording: Wording
    questions: dict[str, Question]
    histories: list[str]

    def side_questions(self, chunk: Sequence[str]) -> list[tuple[Question, SideQuestion]]:
        """By item, by history, and with the stereotyped group in both places."""
        fullest = self.run.design.conditions[-1]
        found = []
        for name in chunk:
            question = self.questions[name]
            for kind in self.histories:
                before = Transcript()
                if kind == "own":
                    before = dialogue_after(self.record, self.run, question, fullest, self.wording)[-1]
                for better in range(len(BETTER)):
                    shown = _with_stereotyped(question, better)
                    turn = stereotype_turn(shown, self.wording, self.run.wording_index)
                    side = SideQuestion(
                        history=before,
                        turn=turn,
                        replies=tuple(LETTERS[:3]),
                        system=self.run.system_prompt,
                        item=shown,
                    )
                    found.append((shown, side))
        return found

    def answers(self, chunk: Sequence[str]) -> xr.Dataset:
        """What the model answers for some items."""
        questions = self.side_questions(chunk)
        replies = ask(self.record, [question for _, question in questions], limit=16)
        arrays: dict[str, list[float | int]] = {"says_first": [], "unknown": [], "mass": [], "said": []}
        for (shown, _), reply in zip(questions, replies, strict=True):
            one, two = _groups(shown)
            first, second = reply.probabilities[one], reply.probabilities[two]
            chosen = parse_choice(reply.text, shown.options)
            arrays["says_first"].append(first / (first + second))
            arrays["unknown"].append(reply.probabilities[_unknown(shown)])
            arrays["mass"].append(reply.mass)
            arrays["said"].append({one: 1, two: 2}.get(-1 if chosen is None else chosen, 0))
        return _cube(arrays, chunk, self.histories)


def _groups(question: Question) -> tuple[int, int]:
    one, two = (i for i in range(3) if i != question.unknown)
    return one, two


def _unknown(question: Question) -> int:
    assert question.unknown is not None  # name_groups skips questions without one
    return question.unknown


def _with_stereotyped(question: Question, better: int) -> Question:
    """The question with the stereotyped group's option as the first or the second of the two groups."""
    one, two = _groups(question)
    if question.stereotyped == (one, two)[better]:
        return question
    options = list(question.options)
    options[one], options[two] = options[two], options[one]
    swap = {one: two, two: one}
    moved = {
        name: swap.get(getattr(question, name), getattr(question, name))
        for name in ("label", "biased", "stereotyped")
    }
    return replace(question, options=tuple(options), **moved)


def _check(histories: Sequence[str]) -> None:
    if not histories or any(h not in HISTORIES for h in histories):
        raise ValueError(f"histories are {', '.join(HISTORIES)}; got {list(histories)}.")
