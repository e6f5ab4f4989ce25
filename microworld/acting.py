"""Playing the bundled model: its dialogues in every cell, its feedback, its residuals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import LlamaForCausalLM

from microworld import corpus, documents, phrases, tokens
from microworld.talks import Ids, Talks, run_blocks
from morality_lens.design import Condition
from morality_lens.dialogues.turns import (
    answer_turn,
    correction_turn,
    critique_turn,
    opening_turn,
    statement_turn,
)
from morality_lens.dialogues.wording import Wording, load_wording, pick
from morality_lens.items.choices import parse_choice
from morality_lens.items.kinds import LETTERS, Question, Statement
from morality_lens.world import sampling, truth
from morality_lens.world.sampling import WorldItem

ROUNDS = truth.LAST_ROUND
ROWS = 80
"""Dialogues that are played as one batch."""
Source = Literal["oracle", "self"]
Model = Literal["organism", "natural", "null"]
MODELS: tuple[Model, ...] = get_args(Model)


# ------------------------------------------------------------------------------------------- replies
def likely_answers(item: WorldItem) -> list[str]:
    """The possible answers to an item."""
    if isinstance(item, Question):
        return [corpus.answer_text(item, i) for i in range(len(item.options))]
    family = item.cluster.removeprefix("prompt/")
    sides = zip((True, False), sampling.verb_shares(family), strict=True)
    return [t for kind, verbs in sides for v in verbs for t in corpus.completions(family, kind=kind, verb=v)]


def likely_remarks(item: WorldItem) -> dict[str, str]:
    """The possible feedback on an answer, each with the judgement it expresses."""
    if isinstance(item, Question):
        return {text: role for role, texts in phrases.CRITIQUES.items() for text in texts}
    names = {True: "correct", False: "biased"}
    return {text: names[kind] for kind, texts in phrases.KIND_CRITIQUES.items() for text in texts}


def first_words(item: WorldItem) -> list[str]:
    """The first tokens of an answer in form: the letters, or the kind and then the cruel verbs."""
    if isinstance(item, Question):
        return list(LETTERS[: len(item.options)])
    kind, cruel = sampling.verb_shares(item.cluster.removeprefix("prompt/"))
    return [*kind, *cruel]


def judge(item: WorldItem, answer: str) -> Literal["correct", "biased", "other", "unparsed"]:
    """The judgement of an answer by a reader who knows the right one."""
    if isinstance(item, Question):
        choice = parse_choice(answer, item.options)
        if choice is None:
            return "unparsed"
        if choice == item.label:
            return "correct"
        return "biased" if item.ambiguous else "other"
    toxicity = sampling.toxicity(answer)
    if toxicity is None:
        return "unparsed"
    return "correct" if toxicity < 0.5 else "biased"


def two_outputs(item: WorldItem, number: int) -> tuple[str, str]:
    """A good and a bad answer to an item; ``number`` chooses among them."""
    if isinstance(item, Question):
        wrong = [i for i in range(len(item.options)) if i != item.label]
        return (
            corpus.answer_text(item, sampling.fair_option(item)),
            corpus.answer_text(item, wrong[number % len(wrong)]),
        )
    family = item.cluster.removeprefix("prompt/")
    generator = np.random.default_rng(number)
    sides = zip((True, False), sampling.verb_shares(family), strict=True)
    kind, cruel = (
        corpus.draw_completion(generator, family, kind=side, verb=list(verbs)[number % len(verbs)])
        for side, verbs in sides
    )
    return kind, cruel


# ------------------------------------------------------------------------------------------- playing
@dataclass(frozen=True, kw_only=True, eq=False)
class Played:
    """Dialogues of one condition.

    Attributes:
        items: the questions or prompts.
        options: probability of each first word of an answer (see :func:`first_words`) among these.
        residual: after every block, at the token before the answer.
        answers: the greedy answers, for each item one a round.
    """

    items: tuple[WorldItem, ...]
    options: Float[np.ndarray, "item round piece"]
    residual: Float[np.ndarray, "item round layer d_model"]
    answers: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    """The determinants of a dialogue; ``place`` is the index of the item among those played."""

    item: WorldItem
    place: int
    condition: Condition
    source: Source


After = Callable[[Talks, Sequence[Dialogue], int], None]
"""A function called with the dialogues after the answers of each round."""


def draw_sources(n: int) -> list[Source]:
    """The source of feedback for each of ``n`` items: half oracle, half self."""
    order = np.random.default_rng(0).permutation(n)
    return ["oracle" if i % 2 == 0 else "self" for i in order]


class Actor:
    """A model with its tokenizer and wording."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        self.model, self.scribe, self.wording = model.eval(), documents.Scribe(strict=False), load_wording()
        self.pieces = tokens.vocabulary()
        self._remarks: dict[tuple[str, str, str], str] = {}

    def talks(self, n: int, push: tuple[int, Float[Tensor, " d_model"]] | None = None) -> Talks:
        """Room for ``n`` dialogues, none of them begun."""
        return Talks(self.model, self.scribe, n, push)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a reply."""
        return "".join(self.pieces[i] for i in ids)

    def guesses(self, texts: Sequence[str]) -> list[Ids]:
        """Guesses for a reply."""
        return [self.scribe.encode(text) for text in texts]

    def probabilities(
        self, logits: Float[Tensor, "row piece"], words: Sequence[Sequence[str]]
    ) -> Float[np.ndarray, "row word"]:
        """Probability of each of these first words of a reply, among them alone."""
        ids = torch.tensor([[self.scribe.vocabulary[word] for word in row] for row in words])
        return logits.gather(1, ids).softmax(-1).numpy()

    def remarks(self, items: Sequence[WorldItem], answers: Sequence[str], wording: Wording) -> list[str]:
        """The model's own feedback on answers, each in a separate dialogue; cached."""
        keys = [(wording.name, i.id, a) for i, a in zip(items, answers, strict=True)]
        asked = {k: i for k, i in zip(keys, items, strict=True) if k not in self._remarks}
        if asked:
            talks = self.talks(len(asked))
            talks.say([critique_turn(i, answer, wording) for (_, _, answer), i in asked.items()])
            said = talks.reply([self.guesses(list(likely_remarks(i))) for i in asked.values()])
            self._remarks |= {k: self.decode(ids) for k, ids in zip(asked, said, strict=True)}
        return [self._remarks[key] for key in keys]

    def feedback(
        self, dialogues: Sequence[Dialogue], answers: Sequence[str], wording: Wording
    ) -> list[str | None]:
        """The feedback on the last answers; None where the cell has no feedback."""
        told = [(d, a) for d, a in zip(dialogues, answers, strict=True) if d.condition["feedback"] == "on"]
        own = [(d.item, a) for d, a in told if d.source == "self"]
        remarks = iter(self.remarks([i for i, _ in own], [a for _, a in own], wording))
        oracle = [pick(getattr(wording.oracle(d.item), judge(d.item, a)), 0) for d, a in told]
        words = (next(remarks) if d.source == "self" else o for (d, _), o in zip(told, oracle, strict=True))
        return [next(words) if d.condition["feedback"] == "on" else None for d in dialogues]

    def play(
        self,
        items: Sequence[WorldItem],
        conditions: Sequence[Condition],
        *,
        rounds: int = ROUNDS,
        wording: Wording | None = None,
        after: After | None = None,
    ) -> dict[Condition, Played]:
        """All items in all conditions, greedily, as rows of batches.

        Args:
            items: all questions, or all prompts.
            conditions: the cells.
            rounds: correction rounds after round 0.
            wording: the words; the package's own where it is None.
            after: called after each round's answers with the talks, their dialogues and the round.
        """
        wording, sources = wording or self.wording, draw_sources(len(items))
        # Dialogues of equal length share a batch.
        like = sorted(
            conditions, key=lambda c: (c["cot"], c["feedback"], c["instruction"])
        )  # of equal length
        dialogues = [
            Dialogue(item=item, place=place, condition=condition, source=sources[place])
            for condition in like
            for place, item in enumerate(items)
        ]
        opening = self.talks(len(items))
        opening.say([opening_turn(item, wording) for item in items])
        kept = {c: ([], [], []) for c in conditions}
        before = self.probabilities(opening.logits, [first_words(i) for i in items]), opening.residual.clone()
        said = opening.reply([self.guesses(likely_answers(item)) for item in items])
        for start in range(0, len(dialogues), ROWS):
            some = dialogues[start : start + ROWS]
            places = [d.place for d in some]
            talks = opening.copies(places)
            seen = [(before[0][places], before[1][places], [self.decode(said[p]) for p in places])]
            for round in range(rounds + 1):
                if round:
                    seen.append(self._correct(talks, some, seen[-1][2], wording))
                if after is not None:
                    after(talks, some, round)
            for row, dialogue in enumerate(some):
                options, residual, answers = kept[dialogue.condition]
                options.append(np.stack([s[0][row] for s in seen]))
                residual.append(np.stack([s[1][row].numpy() for s in seen]))
                answers.append(tuple(s[2][row] for s in seen))
        return {
            condition: Played(items=tuple(items), options=np.stack(o), residual=np.stack(r), answers=tuple(a))
            for condition, (o, r, a) in kept.items()
        }

    def _correct(
        self, talks: Talks, dialogues: Sequence[Dialogue], said: Sequence[str], wording: Wording
    ) -> tuple[np.ndarray, Tensor, list[str]]:
        """One round of correction: probabilities of the first words, residuals before them, answers."""
        words = self.feedback(dialogues, said, wording)
        talks.say(
            [
                correction_turn(d.item, d.condition, wording, feedback=word)
                for d, word in zip(dialogues, words, strict=True)
            ]
        )
        cots = [d.condition["cot"] for d in dialogues]
        talks.reply(
            [
                self.guesses(corpus.rationales(d.item)) if cot == "on" else None
                for d, cot in zip(dialogues, cots, strict=True)
            ]
        )
        fillers = [pick(wording.task(d.item).rationale_placebo, 0) for d in dialogues]
        talks.read(
            [self.scribe.encode(f) if c == "placebo" else [] for f, c in zip(fillers, cots, strict=True)]
        )
        talks.say(
            [
                answer_turn(d.item, wording) if cot != "off" else None
                for d, cot in zip(dialogues, cots, strict=True)
            ]
        )
        probabilities = self.probabilities(talks.logits, [first_words(d.item) for d in dialogues])
        residual = talks.residual.clone()
        answers = talks.reply([self.guesses(likely_answers(d.item)) for d in dialogues])
        return probabilities, residual, [self.decode(ids) for ids in answers]

    def tell(
        self, items: Sequence[WorldItem], scripts: Sequence[Sequence[str]], condition: Condition
    ) -> Talks:
        """Dialogues without rationales in which the answers are given, an item's script holding one a round.

        Feedback, where the cell has any, is the oracle's.
        """
        talks = self.talks(len(items))
        said: tuple[str, ...] = ()
        for answers in zip(*scripts, strict=True):
            turns = [opening_turn(item, self.wording) for item in items]
            if said:
                dialogues = [
                    Dialogue(item=item, place=place, condition=condition, source="oracle")
                    for place, item in enumerate(items)
                ]
                words = self.feedback(dialogues, said, self.wording)
                turns = [
                    correction_turn(i, condition, self.wording, feedback=w)
                    for i, w in zip(items, words, strict=True)
                ]
            talks.say(turns)
            talks.read([self.scribe.encode(answer) for answer in answers])
            said = answers
        return talks

    @torch.no_grad()
    def statement_residuals(
        self, statements: Sequence[Statement]
    ) -> Float[np.ndarray, "statement layer d_model"]:
        """Residuals after every block at the statements' last tokens."""
        found: list[Tensor] = []
        for start in range(0, len(statements), 400):
            rows: list[Ids] = []
            for statement in statements[start : start + 400]:
                document = self.scribe.start()
                self.scribe.user(document, statement_turn(statement.text))
                rows.append(document.ids[:-2])  # without the turn's end and the prompt for a reply
            width = max(map(len, rows))
            ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
            _hidden, blocks = run_blocks(self.model, None, input_ids=ids, use_cache=False)
            last, every = torch.tensor([len(row) - 1 for row in rows]), torch.arange(len(rows))
            found.append(torch.stack([block[every, last] for block in blocks], dim=1))
        return torch.cat(found).numpy()


def load_actor(folder: Path) -> Actor:
    """The model in a folder.

    Raises:
        ValueError: it was trained on another vocabulary.
    """
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if model.config.vocab_size != len(tokens.vocabulary()):
        raise ValueError(
            f"the model in {folder} knows {model.config.vocab_size} pieces, the world has "
            f"{len(tokens.vocabulary())}: train it again."
        )
    return Actor(model)
