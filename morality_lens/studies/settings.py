"""The material of a study, and its settings."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from morality_lens.design import Protocol
from morality_lens.experiments.evidence import Evidence
from morality_lens.items.kinds import OpenPrompt, Question, Statement
from morality_lens.judges.toxicity import Judge
from morality_lens.studies.plan import PROFILES, Plan


@dataclass(frozen=True, kw_only=True)
class Material:
    """The material of a study.

    Attributes:
        questions: multiple-choice questions.
        prompts: open prompts for detoxification.
        statements: labelled statements for the probe, and for judges where none are given.
        evidence: weak evidence for the questions.
        judges: of toxicity; effects are estimated with the first. None fits two on the statements.
    """

    questions: Sequence[Question] = ()
    prompts: Sequence[OpenPrompt] = ()
    statements: Sequence[Statement]
    evidence: Sequence[Evidence] = ()
    judges: Sequence[Judge] = ()


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a study.

    Attributes:
        plan: the amount of each part, by default the full profile.
        protocol: how dialogues are played; the number of rounds comes from the plan.
        probe_kind: the kind of direction.
        drop_long: skip items that may exceed the context window.
        least_parsed: the share of the first items' answers that must parse for a run to be played on; see
            :class:`morality_lens.rounds.preflight.Fitting`.
        seed: random seed of drawings, folds and samples.
    """

    plan: Plan = PROFILES["full"]
    protocol: Protocol = field(default_factory=Protocol)
    probe_kind: str = "mean_difference"
    drop_long: bool = False
    least_parsed: float = 0.0
    seed: int = 0
