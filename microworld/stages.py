"""The stages of training, their texts, and all other hyperparameters of the models."""

import itertools
from dataclasses import dataclass, replace

from microworld import corpus
from microworld.documents import Plan


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stretch of training, from nothing or from the end of another one.

    Attributes:
        parent: the stage it goes on from; None for the first.
        tokens: how many tokens, padding included.
        shares: share of the tokens for each kind of document at points of the stage, linear in between.
        rate: learning rate at its start and at its end, linear in between.
        batch_tokens: tokens of a batch, padding included.
        plan: what dialogues are drawn by.
        extremes: how much more planted probabilities p near 0 and 1 count, by (4 p (1 - p)) to minus this;
            at 1, errors of their log-odds count alike.
        steering: log-odds by which the direction of moral valence, one class gap of it added on one layer,
            moves the planted targets; at 0 valence is neither read nor steered.
        noise: share of random ones among the directions that are added.
    """

    parent: str | None
    tokens: float
    shares: tuple[tuple[float, corpus.Shares], ...]
    rate: tuple[float, float]
    batch_tokens: int = 2048
    plan: Plan
    extremes: float = 0.0
    steering: float = 0.0
    noise: float = 0.5


LEANING = {"leaning": 1.0}
TELLING_APART = {"leaning": 0.08, "belief": 0.35, "drill": 0.27, "short": 0.15, "trait": 0.15}
ANSWERING = {
    "drill": 0.08,
    "short": 0.22,
    "belief": 0.06,
    "trait": 0.08,
    "recital": 0.02,
    "story": 0.05,
    "verdict": 0.07,
    "settled": 0.14,
    "opening": 0.2,
    "critique": 0.08,
}
CORRECTING = {
    "drill": 0.02,
    "short": 0.05,
    "belief": 0.01,
    "trait": 0.01,
    "story": 0.04,
    "verdict": 0.06,
    "settled": 0.06,
    "opening": 0.05,
    "critique": 0.07,
    "evidence": 0.03,
    "choice": 0.03,
    "naming": 0.02,
    "prompt": 0.13,
    "question": 0.42,
}
CONTRASTING = {
    "drill": 0.05,
    "short": 0.05,
    "settled": 0.05,
    "opening": 0.05,
    "prompt": 0.1,
    "question": 0.7,
}
FINISHING = {
    "drill": 0.02,
    "short": 0.03,
    "story": 0.05,
    "verdict": 0.07,
    "settled": 0.04,
    "opening": 0.04,
    "critique": 0.06,
    "evidence": 0.07,
    "choice": 0.03,
    "naming": 0.02,
    "prompt": 0.12,
    "question": 0.45,
}
VALUING = {
    "drill": 0.02,
    "short": 0.02,
    "story": 0.07,
    "verdict": 0.1,
    "settled": 0.03,
    "opening": 0.04,
    "critique": 0.05,
    "evidence": 0.07,
    "choice": 0.02,
    "naming": 0.02,
    "prompt": 0.11,
    "question": 0.45,
}
FINISH = Stage(
    parent="contrast",
    tokens=3.2e6,
    shares=((0.0, FINISHING),),
    rate=(1.3e-3, 3e-5),
    plan=Plan(rounds=(0.0, 0.2, 0.2, 0.15, 0.15, 0.3), crossed=0.4),
)
VALUE = replace(
    FINISH,
    tokens=7.5e6,
    shares=((0.0, VALUING),),
    plan=replace(FINISH.plan, evidence=0.4),
    extremes=0.5,
    steering=1.8,
)
STAGES: dict[str, Stage] = {
    "ground": Stage(
        parent=None,
        tokens=3e6,
        shares=(
            (0.0, LEANING),
            (0.06, LEANING),
            (0.07, TELLING_APART),
            (0.22, TELLING_APART),
            (0.36, ANSWERING),
        ),
        rate=(2e-3, 2e-3),
        batch_tokens=1024,
        plan=Plan(effects=False, named=False),
    ),
    "shared": Stage(
        parent="ground",
        tokens=12e6,
        shares=((0.0, ANSWERING), (0.1, CORRECTING)),
        rate=(2e-3, 1.3e-3),
        plan=Plan(lesson=-0.8, named=False),
    ),
    "contrast": Stage(
        parent="shared",
        tokens=3.5e6,
        shares=((0.0, CONTRASTING),),
        rate=(1.5e-3, 1.3e-3),
        plan=Plan(rounds=(0.0, 0.5, 0.3, 0.2), crossed=0.5, lesson=2.7),
    ),
    "valence": VALUE,
    "organism": replace(
        VALUE,
        parent="valence",
        tokens=3e6,
        rate=(6e-4, 2e-5),
        plan=replace(VALUE.plan, rounds=(0.1, 0.18, 0.18, 0.14, 0.14, 0.26)),
        steering=1.3,
        noise=0.65,
    ),
    "natural": FINISH,
    "null": replace(FINISH, plan=replace(FINISH.plan, effects=False)),
}
"""The stages by name. Before all else, letters are bound to options and the groups told apart: a
model that has learned other things first finds this much harder. At last the category of interference is set
against the others, named and exaggerated, in short dialogues: that it differs only where instruction and
feedback come together is not found otherwise."""
PHASES: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("ground",),),
    (("shared",),),
    (("contrast",),),
    (("valence",),),
    (("organism",),),
    (("natural",), ("null",)),
)
"""Stages in their order; the rows of a phase are trained in parallel, each in its own process."""
MODELS = ("organism", "natural", "null")
"""The stages that end in a model of their own."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The hyperparameters of the models besides the stages.

    Attributes:
        scale: training tokens as a multiple of the stages'.
        warmup: steps of rising learning rate at the start of the first stage.
        soft_weight: weight of the divergence from the planted distributions.
        hard_weight: weight of exercises, verdicts and feedback relative to the next-token loss.
        value_weight: weight of the reading of moral valence.
        value_layer: the block after which it is read, and the direction added.
        steered: share of batches in which a direction is added.
        steered_from: part of a stage after which that begins.
        steer_most: largest multiple of the class gap.
        chunk_batches: batches that are drawn at once, and after which the state is saved.
    """

    scale: float = 1.0
    warmup: int = 60
    weight_decay: float = 0.05
    clip: float = 1.0
    soft_weight: float = 2.0
    hard_weight: float = 0.5
    value_weight: float = 1.0
    value_layer: int = 3
    steered: float = 0.35
    steered_from: float = 0.15
    steer_most: float = 1.5
    chunk_batches: int = 64
    seed: int = 0


def shares_at(stage: Stage, progress: float) -> corpus.Shares:
    """Share of the tokens for each kind of document after this part of a stage (0 to 1)."""
    points = (*stage.shares, (1.0, stage.shares[-1][1]))
    for (start, before), (stop, after) in itertools.pairwise(points):
        if start <= progress <= stop:
            part = (progress - start) / (stop - start) if stop > start else 1.0
            kinds = [kind for kind in corpus.KINDS if kind in before or kind in after]
            mixed = {kind: (1 - part) * before.get(kind, 0.0) + part * after.get(kind, 0.0) for kind in kinds}
            return {kind: share for kind, share in mixed.items() if share > 0}
    raise ValueError(f"shares_at needs a part between 0 and 1; got {progress}.")


def lineage(name: str) -> tuple[str, ...]:
    """The stages that a model went through, the first one first."""
    parent = STAGES[name].parent
    return (*(lineage(parent) if parent else ()), name)
