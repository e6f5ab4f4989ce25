"""Options scored by their full text: how probable each is as the reply, whatever the model answers by."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.dialogues import rendering
from morality_lens.dialogues.continuing import reply_in_place
from morality_lens.dialogues.rendering import Transcript
from morality_lens.dialogues.turns import statement_turn
from morality_lens.items.kinds import SCORINGS, Question
from morality_lens.models import beginnings, decoding
from morality_lens.models.decoding import Batch, LanguageModel
from morality_lens.models.loading import ModelRecord
from morality_lens.rounds.replay import same_model
from morality_lens.rounds.selection import Execution, Selection
from morality_lens.runs.passages import Passage, passages
from morality_lens.runs.requests import Request
from morality_lens.runs.resuming import in_parts
from morality_lens.runs.run import Run
from morality_lens.runs.writing import write_option_scores

ITEMS, ROWS = 4, 32
"""Items of one file on disk; most options that are read together."""
NEUTRAL = "Answer:"
"""What the user says in the prompt that says nothing about the question."""


def score_options(
    model: TransformerBridge,
    run: Run,
    *,
    selection: Selection = Selection(),
    neutral: str = NEUTRAL,
    rows: int = ROWS,
    execution: Execution = Execution(),
) -> xr.Dataset:
    """How probable the full text of each option is as the answer, after each stored prompt of a run.

    For models that do not answer by letters. Every dialogue is read once; an option adds its own tokens only.
    The scores of a whole run are kept in its folder, and are measures of it from then on.

    Args:
        model: the run's model.
        run: a finished run of questions.
        selection: items, conditions and rounds; what is not read, or was still thinking, is NaN; of a
            selection nothing is kept.
        neutral: what the user says in the neutral prompt of ``pmi``.
        rows: most options that are read together.
        execution: the folder for finished items, and the progress bar.

    Returns:
        Over ``item``, the factors, ``round`` and ``option``: ``sum``, the sum of the log-probabilities of the
        text's tokens, without an end of turn; ``per_token`` and ``per_byte``, the same over the number of
        tokens and of UTF-8 bytes (as ``acc_norm`` of lm-evaluation-harness on ASCII texts, which counts
        characters); ``pmi``, ``sum`` less that of the same text after the neutral prompt (as its
        ``acc_mutual_info``); ``tokens``. Over ``item`` and ``option``: ``bytes`` and ``neutral``. ``choice``:
        the option with the highest score by each ``scoring``.

    Raises:
        ValueError: another model, items that are no questions, a run that is not finished, a selection that
            the run does not have, or a dialogue that exceeds the context window.

    Examples:
        >>> start = ml.rounds.Selection(rounds=[0])
        >>> scores = ml.rounds.score_options(model, run, selection=start, execution=quiet)
        >>> scores["scoring"].values.tolist()
        ['sum', 'per_byte', 'per_token', 'pmi']
    """
    record = same_model(model, run, None)
    _refuse_unfit(run)
    found = list(
        passages(run, items=selection.items, conditions=selection.conditions, rounds=selection.rounds)
    )
    trial = _Trial(record=record, run=run, found=found, neutral=neutral, rows=rows)
    whole, _ = in_parts(
        trial.items,
        trial.scores,
        size=ITEMS,
        request=Request(
            what="option texts",
            settings={
                "study": run.fingerprint,
                "neutral": neutral,
                "passages": sorted({f"{p.condition.label}|{p.rounds}" for p in found}),
            },
        ),
        out=execution.out,
        progress=execution.progress,
    )
    clusters = run.items.loc[trial.items, "cluster"].tolist()
    scored = _with_scorings(whole).assign_coords(cluster=("item", clusters))
    scored = scored.assign_attrs(model=record.name, neutral_prompt=neutral)
    if selection == Selection():
        write_option_scores(run.path, scored)
    return scored


def _refuse_unfit(run: Run) -> None:
    """Refuse runs without options, or that are not finished."""
    other = [item for item in run.asked.values() if not isinstance(item, Question)]
    if other:
        raise ValueError(
            f"score_options needs questions, whose options have texts; item {other[0].id!r} is a "
            f"{type(other[0]).__name__}."
        )
    if not run.complete:
        raise ValueError(f"the run in {run.path} is not finished; run the same command again, then score it.")


def _with_scorings(whole: xr.Dataset) -> xr.Dataset:
    """The scores in every form, and the choice by each."""
    scored = whole.assign(
        per_token=whole["sum"] / whole["tokens"],
        per_byte=whole["sum"] / whole["bytes"],
        pmi=whole["sum"] - whole["neutral"],
    )
    each = xr.concat([scored[name] for name in SCORINGS], "scoring").assign_coords(scoring=list(SCORINGS))
    there = each.notnull().any("option")
    return scored.assign(choice=each.fillna(-np.inf).argmax("option").where(there))


@dataclass(frozen=True, kw_only=True)
class _Prompt:
    """A prompt, and the replies to it that are scored.

    Attributes:
        tokens: up to the reply.
        replies: the tokens of each reply.
    """

    tokens: tuple[int, ...]
    replies: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Trial:
    """What is scored in which dialogues.

    Attributes:
        record: of the model.
        run: the run.
        found: the dialogues.
        neutral: what the user says in the neutral prompt.
        rows: most options that are read together.
    """

    record: ModelRecord
    run: Run
    found: list[Passage]
    neutral: str
    rows: int

    @property
    def items(self) -> list[str]:
        return list(dict.fromkeys(p.item for p in self.found))

    def prompt(self, tokens: Sequence[int], item: str) -> _Prompt:
        """The options of an item as replies to a prompt.

        Raises:
            ValueError: they exceed the context window.
        """
        question = self.run.asked[item]
        assert isinstance(question, Question)  # others were refused
        replies = tuple(reply_in_place(self.record.renderer, tokens, text) for text in question.options)
        longest, window = len(tokens) + max(map(len, replies)), self.record.lm.window
        if longest > window:
            raise ValueError(
                f"an option of item {item} after its dialogue takes {longest} tokens, and the model's "
                f"context window holds {window}; leave the item or the last rounds out with a selection."
            )
        return _Prompt(tokens=tuple(tokens), replies=replies)

    def scores(self, chunk: Sequence[str]) -> xr.Dataset:
        """The sums of some items, in their dialogues and after the neutral prompt."""
        design, rounds = self.run.design, sorted({r for p in self.found for r in p.rounds})
        mine = [p for p in self.found if p.item in set(chunk)]
        # Conditions that begin alike have the same prompts there: each is scored once, for all its places.
        dialogues: list[list[_Prompt]] = []
        places: dict[tuple[str, tuple[int, ...]], list[tuple[int, ...]]] = {}
        for passage in mine:
            new = []
            cell = (chunk.index(passage.item), *design.place(passage.condition))
            for number in passage.rounds:
                if number in passage.unfinished:
                    continue
                tokens = passage.token_ids[: passage.places("answer_start", number)[0] + 1]
                if (passage.item, tokens) not in places:
                    new.append(self.prompt(tokens, passage.item))
                places.setdefault((passage.item, tokens), []).append((*cell, rounds.index(number)))
            dialogues += [new] if new else []
        size = max(len(item.replies) for item in self.run.asked.values())
        shape = (len(chunk), *map(len, design.levels.values()), len(rounds), size)
        total, count = np.full(shape, np.nan), np.full(shape, np.nan)
        prompts = list(itertools.chain.from_iterable(dialogues))
        found = log_probabilities(self.record.lm, dialogues, self.rows)
        for same, prompt, sums in zip(places.values(), prompts, found, strict=True):
            for place in same:
                total[place][: len(sums)] = sums
                count[place][: len(sums)] = [len(reply) for reply in prompt.replies]
        cube = (*design.dims, "option")
        return xr.Dataset(
            {
                "sum": (cube, total),
                "tokens": (cube, count),
                "neutral": (("item", "option"), self._after_neutral(chunk, size)),
                "bytes": (("item", "option"), self._bytes(chunk, size)),
            },
            coords={"item": list(chunk), **design.coords, "round": rounds},
        )

    def _after_neutral(self, chunk: Sequence[str], size: int) -> Float[np.ndarray, "item option"]:
        """The sums of the items' options after the prompt that says nothing about the question."""
        turn = statement_turn(self.neutral)
        asked = rendering.append_turn(self.record.renderer, Transcript(), turn, round=0)
        prefix = self.run.manifest["study"].get("answer_prefix", "")
        start = rendering.begin_reply(self.record.renderer, asked, round=0, prefix=prefix)
        prompts = [self.prompt(start.token_ids, item) for item in chunk]
        found = np.full((len(chunk), size), np.nan)
        for row, sums in zip(found, log_probabilities(self.record.lm, [prompts], self.rows), strict=True):
            row[: len(sums)] = sums
        return found

    def _bytes(self, chunk: Sequence[str], size: int) -> Float[np.ndarray, "item option"]:
        found = np.full((len(chunk), size), np.nan)
        for row, item in zip(found, chunk, strict=True):
            question = self.run.asked[item]
            assert isinstance(question, Question)
            row[: len(question.options)] = [len(text.strip().encode()) for text in question.options]
        return found


# --------------------------------------------------------------------------------------------- a pass
@torch.inference_mode()
def log_probabilities(
    lm: LanguageModel, dialogues: Sequence[Sequence[_Prompt]], rows: int
) -> list[list[float]]:
    """For every prompt the sum of the log-probabilities of each reply's tokens.

    Args:
        lm: the model.
        dialogues: prompts, each the beginning of the last one of its dialogue; those are read once.
        rows: most replies, and dialogues, that are read together.
    """
    found: list[list[float]] = []
    for some in _together(dialogues, rows):
        prompts = [prompt for dialogue in some for prompt in dialogue]
        owner = [d for d, dialogue in enumerate(some) for _ in dialogue]
        batch, logits = _read(lm, some, owner)
        pairs = [(p, reply) for p, prompt in enumerate(prompts) for reply in prompt.replies]
        sums: list[float] = []
        for first in range(0, len(pairs), rows):
            chosen = [p for p, _ in pairs[first : first + rows]]
            replies = [reply for _, reply in pairs[first : first + rows]]
            sums += _continue(lm, decoding.take(lm, batch, chosen), logits[chosen], replies)
        rest = iter(sums)
        found += [list(itertools.islice(rest, len(prompt.replies))) for prompt in prompts]
    return found


def _together(dialogues: Sequence[Sequence[_Prompt]], rows: int) -> Iterator[list[Sequence[_Prompt]]]:
    """Some dialogues at a time, with at most so many replies unless one alone has more."""
    chosen: list[Sequence[_Prompt]] = []
    held = 0
    for dialogue in dialogues:
        size = sum(len(prompt.replies) for prompt in dialogue)
        if chosen and held + size > rows:
            yield chosen
            chosen, held = [], 0
        chosen.append(dialogue)
        held += size
    if chosen:
        yield chosen


def _read(
    lm: LanguageModel, dialogues: Sequence[Sequence[_Prompt]], owner: Sequence[int]
) -> tuple[Batch, Float[Tensor, "prompt vocab"]]:
    """A row for every prompt, all of it read, and the logits after it; ``owner``: its dialogue."""
    prompts = [list(prompt.tokens) for dialogue in dialogues for prompt in dialogue]
    if not lm.cached:
        batch = decoding.start(lm, len(prompts))
        return batch, decoding.prefill(lm, batch, prompts)[0]
    batch = decoding.start(lm, len(dialogues))
    beginnings.prefill(lm, batch, [max((p.tokens for p in dialogue), key=len)[:-1] for dialogue in dialogues])
    # The last token of every prompt is read in its own row, where its logits are wanted.
    branch = decoding.cropped(lm, batch, owner, [len(tokens) - 1 for tokens in prompts])
    logits, _ = decoding.prefill(lm, branch, [tokens[-1:] for tokens in prompts])
    return branch, logits


def _continue(
    lm: LanguageModel,
    batch: Batch,
    logits: Float[Tensor, "row vocab"],
    replies: Sequence[Sequence[int]],
) -> list[float]:
    """The sum of the log-probabilities of each row's reply, which is fed token by token."""
    totals = [0.0] * len(replies)
    for step in range(max(map(len, replies))):
        log = torch.log_softmax(logits.double(), dim=-1)
        for row, reply in enumerate(replies):
            if step < len(reply):
                totals[row] += float(log[row, reply[step]])
        new = [list(reply[step : step + 1]) if step + 1 < len(reply) else [] for reply in replies]
        if not any(new):
            break
        logits, _ = decoding.feed(lm, batch, new)
    return totals
