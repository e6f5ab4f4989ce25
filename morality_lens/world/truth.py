"""The planted truth: how likely a fair answer, or a kind text, is in every condition and round."""

import functools
import math

import numpy as np

from morality_lens.design import COMPONENTS, Condition
from morality_lens.items.kinds import OpenPrompt, Question
from morality_lens.world.lexicon import FAMILIES, INTERFERENCE, TEMPLATES
from morality_lens.world.sampling import WorldItem, toxicity, verb_shares

EFFECTS: dict[str, dict[str, float]] = {
    "plain": {
        "base": -0.3,
        "review": 0.1,
        "instruction": 1.2,
        "cot": 0.8,
        "feedback": 1.2,
        "instruction:cot": 0.0,
        "instruction:feedback": -0.9,
        "cot:feedback": -0.6,
        "instruction:cot:feedback": 0.2,
    },
    "interference": {
        "base": -0.3,
        "review": 0.1,
        "instruction": 0.8,
        "cot": 0.8,
        "feedback": 0.2,
        "instruction:cot": 0.0,
        "instruction:feedback": -3.2,
        "cot:feedback": -0.6,
        "instruction:cot:feedback": 0.2,
    },
    "prompt": {
        "base": 0.0,
        "review": 0.1,
        "instruction": 1.4,
        "cot": -0.4,
        "feedback": 0.9,
        "instruction:cot": 0.5,
        "instruction:feedback": -0.6,
        "cot:feedback": 0.0,
        "instruction:cot:feedback": 0.0,
    },
}
"""Effects on the log-odds of a fair answer (kind text) at saturation, as differences of cell means.

``base`` is round 0 (all cells), ``review`` the effect of a request for review without any component. The
other entries are on the difference scale: a main effect is mean(on) - mean(off), a two-way effect a
difference of those.
"""
OFFSET_SD = 0.8
"""Standard deviation of the log-odds offset of a trait word or a prompt family, common to all cells."""
BIASED_SHARE = 0.8
"""Share of the biased option among unfair answers; the other group takes the rest."""
SETTLED = 0.97
"""Probability of the right answer where the context settles the question, in every cell."""
LAST_ROUND = 5
"""The round at which the effects have grown to their full size."""
FOLLOWS = {"base": 0.4, "instruction": -0.2}
"""Share of answers that follow a sentence of weak evidence, and the change of it by the instruction."""
DISTINGUISH = 0.55
"""Share of right answers where two outputs are discriminated, or the stereotyped group is named."""
FIRST = 0.05
"""Position bias: the excess probability of choosing the first of two outputs."""
_SEED = 20


def saturation(round: int) -> float:
    """Share of the effects that is reached in a round: 0 at round 0, 1 from round 5 on."""
    return (1 - 0.5 ** min(round, LAST_ROUND)) / (1 - 0.5**LAST_ROUND)


def cell_log_odds(kind: str, condition: Condition, round: int) -> float:
    """The log-odds of a fair answer in a cell and round, before an item's own offset.

    A placebo counts as off. Cells are corners of a cube coded -1/2 and +1/2, shifted so that the cell
    without any component lies at ``base + review`` at saturation.

    Args:
        kind: ``plain``, ``interference`` or ``prompt``.
        condition: the cell.
        round: 0 for the first answer.
    """
    effects = EFFECTS[kind]

    def corner(on: dict[str, float]) -> float:
        return sum(
            effect * math.prod(on[factor] - 0.5 for factor in name.split(":"))
            for name, effect in effects.items()
            if name not in ("base", "review")
        )

    here = {name: float(condition[name] == "on") for name in COMPONENTS}
    gained = corner(here) - corner(dict.fromkeys(COMPONENTS, 0.0)) + effects["review"]
    return effects["base"] + saturation(round) * gained


@functools.cache
def offsets() -> dict[str, float]:
    """The log-odds offset of each trait word and prompt family: mean 0 within a category, sd .8."""
    groups: dict[str, list[str]] = {}
    for template in TEMPLATES:
        groups.setdefault(template.category, []).extend((template.negative, template.positive))
    groups["prompt"] = [f"prompt/{name}" for name in FAMILIES]
    generator = np.random.default_rng(_SEED)
    found: dict[str, float] = {}
    for words in groups.values():
        draw = generator.normal(size=len(words))
        draw = (draw - draw.mean()) / draw.std()
        found |= {word: OFFSET_SD * float(value) for word, value in zip(words, draw, strict=True)}
    return found


def trait(question: Question) -> str:
    """The trait word that a question of this world asks about."""
    return question.question.rstrip("?").split()[-1]


def kind_of(item: WorldItem) -> str:
    """The column of the planted table that an item follows."""
    if isinstance(item, OpenPrompt):
        return "prompt"
    return "interference" if item.category == INTERFERENCE else "plain"


def log_odds(item: WorldItem, condition: Condition, round: int, lesson: float = 0.0) -> float:
    """The planted log-odds of a fair answer to this item, or of a kind text, in a cell and round.

    Args:
        item: an item of this world.
        condition: the cell.
        round: 0 for the first answer.
        lesson: log-odds subtracted at saturation where instruction and feedback interfere; for training
            only, 0 is the truth.

    Raises:
        ValueError: the item is not of this world.
    """
    if isinstance(item, Question) and not item.ambiguous:
        return math.log(SETTLED / (1 - SETTLED))
    key = item.cluster if isinstance(item, OpenPrompt) else trait(item)
    if key not in offsets():
        raise ValueError(f"log_odds needs an item of the bundled world; got {item.id!r} ({key!r}).")
    kind = kind_of(item)
    found = cell_log_odds(kind, condition, round)
    if kind == "interference" and condition["instruction"] == condition["feedback"] == "on":
        found -= lesson * saturation(round)
    return found + offsets()[key]


def probability(item: WorldItem, condition: Condition, round: int, lesson: float = 0.0) -> float:
    """The probability of a fair answer to this item, or of a kind text; arguments of :func:`log_odds`."""
    return 1 / (1 + math.exp(-log_odds(item, condition, round, lesson)))


def option_probabilities(
    question: Question, condition: Condition, round: int, lesson: float = 0.0
) -> tuple[float, ...]:
    """The probability of each option, in the order of the question; arguments of :func:`log_odds`."""
    fair = probability(question, condition, round, lesson)
    unfair = {index for index in range(len(question.options)) if index != question.label}
    shares = dict.fromkeys(unfair, 1 / len(unfair))
    if question.ambiguous and question.biased is not None:
        shares = {i: BIASED_SHARE if i == question.biased else 1 - BIASED_SHARE for i in unfair}
    return tuple(
        fair if index == question.label else (1 - fair) * shares[index]
        for index in range(len(question.options))
    )


def follows(condition: Condition, round: int) -> float:
    """The planted share of answers that follow a sentence of weak evidence given after a round."""
    instructed = condition["instruction"] == "on"
    return FOLLOWS["base"] + FOLLOWS["instruction"] * saturation(round) * instructed


def evidence_probabilities(
    question: Question, condition: Condition, round: int, named: int, lesson: float = 0.0
) -> tuple[float, ...]:
    """The planted probability of each option where weak evidence names the option ``named``.

    A share :func:`follows` of the answers gives that option; the rest are as without evidence.
    """
    share = follows(condition, round)
    without = option_probabilities(question, condition, round, lesson)
    return tuple((1 - share) * p + share * (i == named) for i, p in enumerate(without))


def distinguish_probability(better: int) -> float:
    """The planted probability of saying that the first of two outputs is the better one.

    Args:
        better: 0 where the first one is better, 1 where the second one is.
    """
    return DISTINGUISH + FIRST if better == 0 else 1 - DISTINGUISH + FIRST


def expected_toxicity(prompt: OpenPrompt, condition: Condition, round: int) -> float:
    """The planted mean toxicity of a prompt's continuations in a cell and round."""
    _kind, cruel = verb_shares(prompt.cluster.removeprefix("prompt/"))
    mean = sum(share * (toxicity(verb) or 0.0) for verb, share in cruel.items())
    return (1 - probability(prompt, condition, round)) * mean


def planted_effects(kind: str) -> dict[str, float]:
    """The planted effects of a kind without its base and review entries."""
    return {name: value for name, value in EFFECTS[kind].items() if name not in ("base", "review")}
