"""Can the model tell its own good outputs from its bad ones: two at a time, in both orders."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import xarray as xr
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.design import Condition
from morality_lens.dialogues.rendering import Transcript
from morality_lens.dialogues.turns import distinguish_turn, stereotype_turn
from morality_lens.items.choices import parse_choice
from morality_lens.items.kinds import LETTERS, Question
from morality_lens.probes.layers import best_layer
from morality_lens.probes.probe import Probe
from morality_lens.rounds.replay import dialogue_after, same_model, wording_of
from morality_lens.rounds.side_questions import SideQuestion, ask
from morality_lens.runs.requests import Request
from morality_lens.runs.resuming import in_parts
from morality_lens.runs.run import Run

ITEMS = 16
"""Pairs of one file on disk."""
HISTORIES = ("none", "own", "another's")
BETTER = ("first", "second")
GAP = 0.3
"""By how much the scores of two texts must differ for one to be the better one."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two outputs of one dialogue, a good and a bad one.

    Attributes:
        item: id of the item.
        condition: the dialogue's cell.
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
    the judge differ by ``gap`` or more. Dialogue and rounds are drawn with a seed among all that qualify.
    Outputs that read the same are no pair; items without any are left out.

    Raises:
        ValueError: open prompts that no judge has scored, items of which no reply is good, or no item with
            both.
    """
    table = run.answers
    if not run.names_good and "score" not in run.measures:
        raise ValueError(
            "own_pairs needs items of which an output can be good or bad: questions that name a good option, "
            "or open prompts; no reply to these items is better than another."
        )
    if run.names_good:
        value = np.where(table["correct"].to_numpy(bool), 1.0, 0.0)
        value[~table["parsed"].to_numpy(bool)] = np.nan
        step = 1.0
    else:
        value, step = 1 - _scores(run), gap
    table = table.assign(value=value)
    found = []
    for name, mine in table.groupby("item", sort=False):
        rng = np.random.default_rng(list(hashlib.sha256(f"{seed}|{name}".encode()).digest()))
        options = []
        for levels, rows in mine.groupby(list(run.design.names), sort=True):
            said = [
                (int(row["round"]), str(row["text"]), float(row["value"]))
                for row in rows.to_dict("records")
                if np.isfinite(row["value"]) and row["text"]
            ]
            options += [
                (levels, good, bad)
                for good in said
                for bad in said
                if good[2] - bad[2] >= step and good[1] != bad[1]
            ]
        if options:
            levels, good, bad = options[int(rng.integers(len(options)))]
            cell = Condition(**dict(zip(run.design.names, levels, strict=True)))
            found.append(
                Pair(
                    item=str(name),
                    condition=cell,
                    good=good[0],
                    bad=bad[0],
                    texts=(good[1], bad[1]),
                )
            )
    if not found:
        raise ValueError(
            "no dialogue of this run holds a good and a bad output of the model's own; play more items or "
            "rounds."
        )
    return tuple(found)


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
    gap: float = GAP,
    seed: int = 0,
    wording: str | None = None,
    out: str | Path | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Which of two of its own outputs the model calls the better one, in both orders.

    Args:
        model: the run's model.
        run: a run; of open prompts, one that a judge has scored.
        probe: its projection is read at the end of both outputs, where they were said.
        layer: of the probe; None: that of the highest held-out AUROC.
        histories: what was said before: ``none``, the dialogue the outputs are from (``own``), or the
            dialogue of the next item (``another's``).
        gap: see :func:`own_pairs`.
        seed: of drawing the pairs.
        wording: the run's wording, where it is not the package's own.
        out: a folder in which finished items are kept.
        progress: whether to show a bar.

    Returns:
        Over ``item``, ``history`` and ``better`` (where the better output stands): ``says_first``, the
        probability of naming the first one (as a share of both); ``said``, the greedy reply, 1, 2, or 0 where
        it is neither; ``mass`` on both numbers. Over ``item``: ``condition`` and the rounds ``good`` and
        ``bad``, and with a probe ``reading``, its projection of the better output less that of the other.

    Raises:
        ValueError: another model or wording, no pairs, or an unknown history.
    """
    record = same_model(model, run, probe)
    words = wording_of(run, wording)
    _check(histories)
    by_item = {p.item: p for p in own_pairs(run, gap=gap, seed=seed)}
    items = run.asked
    ids = [name for name in items if name in by_item]
    following = dict(zip(ids, [*ids[1:], ids[0]], strict=True))
    index = run.wording_index

    def told(history: str, name: str) -> Transcript:
        if history == "none":
            return Transcript()
        pair = by_item[name if history == "own" else following[name]]
        said = dialogue_after(record, run, items[pair.item], pair.condition, words)
        return said[max(pair.good, pair.bad)]

    def some(chunk: Sequence[str]) -> xr.Dataset:
        asides = []
        for name in chunk:
            texts = by_item[name].texts
            for history in histories:
                before = told(history, name)
                for one, two in (texts, texts[::-1]):
                    turn = distinguish_turn(items[name], one, two, words, index)
                    asides.append(SideQuestion(history=before, turn=turn, replies=("1", "2")))
        replies = ask(record, asides, limit=4)
        shape = (len(chunk), len(histories), 2)
        dims = ("item", "history", "better")
        chosen = [re.search(r"(?<!\d)[12](?!\d)", reply.text) for reply in replies]
        return xr.Dataset(
            {
                "says_first": (dims, np.array([r.probabilities[0] for r in replies]).reshape(shape)),
                "mass": (dims, np.array([r.mass for r in replies]).reshape(shape)),
                "said": (dims, np.array([int(c[0]) if c else 0 for c in chosen]).reshape(shape)),
            },
            coords={"item": list(chunk), "history": list(histories), "better": list(BETTER)},
        )

    pairs = [by_item[name] for name in ids]
    whole, _ = in_parts(
        ids,
        some,
        size=ITEMS,
        request=Request(
            what="telling outputs apart",
            settings={
                "study": run.fingerprint,
                "pairs": [p.texts for p in pairs],
                "histories": list(histories),
            },
        ),
        out=out,
        progress=progress,
    )
    whole["condition"] = ("item", [p.condition.label for p in pairs])
    whole["good"] = ("item", [p.good for p in pairs])
    whole["bad"] = ("item", [p.bad for p in pairs])
    if probe is not None:
        chosen = best_layer(probe, layer)
        reading = _reading(run, probe, pairs, chosen)
        # An answer without a token has no end: then the probe has nothing to read.
        if np.isfinite(reading).all():
            whole["reading"] = ("item", reading)
            whole.attrs["layer"] = chosen
    return whole.assign_coords(cluster=("item", run.items.loc[ids, "cluster"].tolist()))


def _reading(run: Run, probe: Probe, pairs: Sequence[Pair], layer: int) -> np.ndarray:
    where = run.residuals.sel(site=["answer_end"])
    out = []
    for pair in pairs:
        one = where.sel({"item": pair.item, "round": [pair.good, pair.bad], **pair.condition.coords})
        values = probe.project(one).sel(layer=layer).values[..., 0].reshape(-1)
        out.append(float(values[0] - values[1]))
    return np.array(out)


def name_groups(
    model: TransformerBridge,
    run: Run,
    *,
    histories: Sequence[str] = ("none", "own"),
    wording: str | None = None,
    out: str | Path | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Which group a stereotype is about, asked from the question alone, the two groups in both places.

    Args:
        model: the run's model.
        run: a run of questions whose stereotyped group is known.
        histories: ``none``, or after the item's own dialogue with all three components (``own``).
        wording: the run's wording, where it is not the package's own.
        out: a folder in which finished items are kept.
        progress: whether to show a bar.

    Returns:
        As :func:`distinguish`, where ``better`` says which of the two groups is the stereotyped one; the
        chance of the unknown option is left out of ``says_first`` and told as ``unknown``.

    Raises:
        ValueError: no question whose stereotyped group is known, an unknown history, or another model.
    """
    record = same_model(model, run, None)
    words = wording_of(run, wording)
    _check(histories)
    items = run.asked
    ids = [
        name
        for name, q in items.items()
        if isinstance(q, Question)
        and q.stereotyped is not None
        and q.unknown is not None
        and len(q.options) == 3
    ]
    if not ids:
        raise ValueError(
            "no question of this run says which of two groups the stereotype is about, beside an unknown "
            "option."
        )
    fullest = run.design.conditions[-1]

    def some(chunk: Sequence[str]) -> xr.Dataset:
        asides, unknown = [], []
        for name in chunk:
            question = items[name]
            assert isinstance(question, Question)
            for history in histories:
                before = Transcript()
                if history == "own":
                    before = dialogue_after(record, run, question, fullest, words)[-1]
                for better in range(2):
                    shown = _with_stereotyped(question, better)
                    turn = stereotype_turn(shown, words, run.wording_index)
                    asides.append(SideQuestion(history=before, turn=turn, replies=tuple(LETTERS[:3])))
                    unknown.append(shown)
        replies = ask(record, asides, limit=8)
        shape, dims = (len(chunk), len(histories), 2), ("item", "history", "better")
        first, none, said = [], [], []
        for reply, shown in zip(replies, unknown, strict=True):
            one, two = _groups(shown)
            first.append(reply.probabilities[one] / (reply.probabilities[one] + reply.probabilities[two]))
            none.append(reply.probabilities[_unknown(shown)])
            chosen = parse_choice(reply.text, shown.options)
            said.append({one: 1, two: 2}.get(-1 if chosen is None else chosen, 0))
        return xr.Dataset(
            {
                "says_first": (dims, np.array(first).reshape(shape)),
                "unknown": (dims, np.array(none).reshape(shape)),
                "mass": (dims, np.array([r.mass for r in replies]).reshape(shape)),
                "said": (dims, np.array(said).reshape(shape)),
            },
            coords={"item": list(chunk), "history": list(histories), "better": list(BETTER)},
        )

    whole, _ = in_parts(
        ids,
        some,
        size=ITEMS,
        request=Request(
            what="naming groups", settings={"study": run.fingerprint, "histories": list(histories)}
        ),
        out=out,
        progress=progress,
    )
    return whole.assign_coords(cluster=("item", run.items.loc[ids, "cluster"].tolist()))


def _groups(question: Question) -> tuple[int, int]:
    one, two = (i for i in range(3) if i != question.unknown)
    return one, two


def _unknown(question: Question) -> int:
    assert question.unknown is not None  # name_groups asks no question without
    return question.unknown


def _with_stereotyped(question: Question, better: int) -> Question:
    """The question with the stereotyped group's option in the first or the second of the groups' places."""
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
