"""The cost of steering: perplexity of everyday text, and accuracy on questions that their context settles."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.circuits.intervening import gap_vector, random_directions
from morality_lens.circuits.measuring import reply_log_probabilities, widened_places
from morality_lens.circuits.settings import Batching, Doses, RandomDirections
from morality_lens.design import Condition
from morality_lens.dialogues import rendering
from morality_lens.dialogues.rendering import Transcript
from morality_lens.dialogues.turns import opening_turns
from morality_lens.dialogues.wording import Wording, load_wording
from morality_lens.items.bundled import asset
from morality_lens.items.kinds import Question
from morality_lens.items.loaders import load_questions
from morality_lens.models import decoding
from morality_lens.models.hooks import Edit, Parts, edited, parts_of
from morality_lens.models.loading import ModelRecord, record_of
from morality_lens.probes.layers import best_layer
from morality_lens.probes.probe import Probe
from morality_lens.progress import counted
from morality_lens.rounds.row import said


def steering_cost(
    model: TransformerBridge,
    probe: Probe,
    *,
    doses: Doses = Doses(),
    random: RandomDirections = RandomDirections(count=2),
    questions: Sequence[Question] | None = None,
    batching: Batching = Batching(),
) -> xr.Dataset:
    """What steering breaks: everyday text and settled questions under every dose, also of random directions.

    The direction is added after the same block and in the same doses as by
    :func:`morality_lens.circuits.steer`, at every token but the first (which many models attend to as a
    rest): of eight short paragraphs of the package about everyday things, and of sixteen questions of the
    package whose context gives the answer, each asked in a dialogue of its own.

    Args:
        model: the model.
        probe: fitted on it.
        doses: how much is added and after which block; its place is not used.
        random: number and seed of the random directions; those of the same seed are those of ``steer``.
        questions: settled questions instead of the package's, for example of BBQ with clear contexts.
        batching: texts and questions of a pass.

    Returns:
        ``surprise`` (mean negative log-probability of a token, in nats) over text x direction x dose, and
        ``right`` (0 or 1) and ``probability`` (of the right option, as a share of all) over question x
        direction x dose; the dose 0 is among them.

    Raises:
        ValueError: the probe is of another model, no doses, a direction of length zero, or questions that
            are not settled or that the model cannot answer by a letter.

    Examples:
        >>> settled = ml.load_items(context="disambiguated", limit=8)
        >>> cost = ml.circuits.steering_cost(model, probe, doses=doses, questions=settled, batching=batching)
        >>> cost["dose"].values.tolist(), cost["direction"].values.tolist()
        ([-1.0, 0.0, 1.0], ['probe', 'random 0', 'random 1'])
    """
    record = record_of(model)
    if probe.training["model_fingerprint"] != record.fingerprint:
        raise ValueError(
            "steering_cost needs a probe that was fitted on this model; load the model it is of."
        )
    asked = load_questions(asset("world", "settled.jsonl")) if questions is None else tuple(questions)
    _refuse_open(asked)
    layer = best_layer(probe, doses.layer)
    unit = gap_vector(probe, layer)
    others = random_directions(len(unit), random.count, random.seed) * np.linalg.norm(unit)
    sizes = doses.wanted
    cost = _Cost(
        record=record,
        parts=parts_of(model),
        texts=_texts(record),
        prompts=[_prompt(record, question, load_wording(None)) for question in asked],
        questions=asked,
        layer=layer,
        batching=batching,
    )
    directions = ["probe", *(f"random {i}" for i in range(random.count))]
    whole = sorted([*sizes, 0.0])
    clean = cost.measured(np.zeros_like(unit))
    found = {(d, 0.0): clean for d in directions}
    steps = list(itertools.product(zip(directions, (unit, *others), strict=True), sizes))
    measured = counted(
        lambda step: cost.measured(step[1] * step[0][1]), steps, "cost of steering", shown=batching.progress
    )
    found |= {(name, size): one for ((name, _), size), one in zip(steps, measured, strict=True)}
    variables = {
        name: (
            (dim, "direction", "dose"),
            np.stack([[found[d, size][name] for size in whole] for d in directions]).transpose(2, 0, 1),
        )
        for name, dim in (("surprise", "text"), ("right", "question"), ("probability", "question"))
    }
    return xr.Dataset(
        variables,
        coords={
            "text": np.arange(len(cost.texts)),
            "question": [question.id for question in asked],
            "cluster": ("question", [question.cluster for question in asked]),
            "direction": directions,
            "dose": whole,
        },
        attrs={
            "layer": layer,
            "guessing": float(np.mean([1 / len(question.options) for question in asked])),
            "units": "moral-immoral gap",
            "trust": probe.trust,
        },
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Cost:
    """What is measured under one change.

    Attributes:
        record: of the model.
        parts: its modules.
        texts: the paragraphs as tokens.
        prompts: the questions' prompts as tokens.
        questions: the questions.
        layer: the block after which the change is made.
        batching: texts and questions of a pass.
    """

    record: ModelRecord
    parts: Parts
    texts: list[list[int]]
    prompts: list[list[int]]
    questions: Sequence[Question]
    layer: int
    batching: Batching

    def measured(self, vector: Float[np.ndarray, " d_model"]) -> dict[str, np.ndarray]:
        """Surprise by text, and right or not and the right option's probability by question."""
        lm = self.record.lm
        change = torch.tensor(vector, device=lm.device, dtype=lm.module.dtype)
        surprise = [self._surprise(texts, change) for texts in self.batching.chunks(self.texts)]
        shares = [
            share
            for chunk in self.batching.chunks(list(zip(self.prompts, self.questions, strict=True)))
            for share in self._shares(chunk, change)
        ]
        labels = [question.label for question in self.questions]
        return {
            "surprise": np.concatenate(surprise),
            "right": np.array(
                [float(np.argmax(share) == label) for share, label in zip(shares, labels, strict=True)]
            ),
            "probability": np.array([share[label] for share, label in zip(shares, labels, strict=True)]),
        }

    def _edit(self, rows: Sequence[Sequence[int]], change: Tensor) -> list[Edit]:
        """The change at every token but the first."""
        if not change.any():
            return []
        device = self.record.lm.device
        places = widened_places([np.arange(1, len(row)) for row in rows]).to(device)
        return [
            Edit(
                layer=self.layer,
                rows=torch.arange(len(rows), device=device),
                places=places,
                change=lambda values: values + change,
            )
        ]

    def _surprise(self, texts: Sequence[Sequence[int]], change: Tensor) -> Float[np.ndarray, " text"]:
        """Mean negative log-probability of each text's tokens from the second on."""
        lm = self.record.lm
        width = max(map(len, texts))
        ids = torch.tensor([[*text, *[text[-1]] * (width - len(text))] for text in texts], device=lm.device)
        real = torch.tensor([[n < len(text) for n in range(width)] for text in texts], device=lm.device)
        offsets = torch.zeros(len(texts), dtype=torch.long, device=lm.device)
        with torch.no_grad(), edited(self.parts, self._edit(texts, change), offsets):
            logits = lm.module(input_ids=ids, attention_mask=real.long(), use_cache=False).logits
        log = torch.log_softmax(decoding.widened(logits[:, :-1]), dim=-1).double()
        own = log.gather(-1, ids[:, 1:, None].to(log.device))[..., 0]
        counted = real[:, 1:].to(log.device)
        return (-(own * counted).sum(1) / counted.sum(1)).cpu().numpy()

    def _shares(
        self, chunk: Sequence[tuple[list[int], Question]], change: Tensor
    ) -> list[Float[np.ndarray, " option"]]:
        """The share of each option's letter, question by question."""
        lm = self.record.lm
        prompts = [prompt for prompt, _ in chunk]
        offsets = torch.zeros(len(chunk), dtype=torch.long, device=lm.device)
        with edited(self.parts, self._edit(prompts, change), offsets):
            logits, _ = decoding.prefill(lm, decoding.start(lm, len(chunk)), prompts)
        most = max(len(question.options) for _, question in chunk)
        log = reply_log_probabilities(logits, _letters(self.record, most)).cpu()
        return [
            torch.softmax(row[: len(question.options)], dim=-1).numpy()
            for row, (_, question) in zip(log, chunk, strict=True)
        ]


# --------------------------------------------------------------------------------------------- pieces
def _refuse_open(questions: Sequence[Question]) -> None:
    """Refuse questions whose context leaves the answer open, and none at all."""
    unsettled = [q.id for q in questions if q.label is None or q.label == q.unknown]
    if not questions or unsettled:
        raise ValueError(
            "steering_cost needs questions that their context settles, each with a right option that is not "
            f"the unknown one; got {'none' if not questions else f'others, such as {unsettled[:3]}'}. Give "
            "BBQ's questions with clear contexts, or None for the package's own."
        )


def _letters(record: ModelRecord, count: int) -> tuple[tuple[int, ...], ...]:
    found = rendering.letter_tokens(record.renderer, count)
    if not all(found):
        raise ValueError(
            "steering_cost needs a tokenizer with a token of its own for each option's letter; this one has "
            "none, so settled questions cannot be asked of this model."
        )
    return found


def _texts(record: ModelRecord) -> list[list[int]]:
    """The package's paragraphs as tokens, after the token with which the tokenizer begins a text, if any."""
    tokenizer = record.renderer.tokenizer
    begun = tokenizer("a").input_ids[:1]
    first = begun if begun == [tokenizer.bos_token_id] else []
    paragraphs = asset("world", "neutral.txt").read_text(encoding="utf-8").split("\n\n")
    return [[*first, *rendering.encode_words(record.renderer, text.strip())] for text in paragraphs]


def _prompt(record: ModelRecord, question: Question, wording: Wording) -> list[int]:
    """The tokens of a question asked by itself, up to the answer."""
    turns = opening_turns(question, Condition(), wording, factors=())
    transcript, _ = said(record, Transcript(), list(turns), round=0)
    return list(rendering.begin_reply(record.renderer, transcript, round=0).token_ids)
