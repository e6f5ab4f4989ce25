"""The material of a study, and its settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from morality_lens.design import Protocol
from morality_lens.experiments.evidence import Evidence
from morality_lens.items.kinds import OpenPrompt, Question, Statement
from morality_lens.judges.toxicity import Judge
from morality_lens.probes.kinds import Kind
from morality_lens.studies.folder import MAIN, TOXICITY, refuse_direction
from morality_lens.studies.plan import PROFILES, Plan


@dataclass(frozen=True, kw_only=True)
class Material:
    """The material of a study.

    Attributes:
        questions: multiple-choice questions.
        prompts: open prompts for detoxification.
        statements: labelled statements for the direction that the claims are about.
        toxicity: statements of neutral (1) and toxic (0) language: the judges of completions where none are
            given, and a direction beside the first one.
        directions: statements of further directions by name, beside which the first one is read.
        evidence: weak evidence for the questions.
        judges: of toxicity; effects are estimated with the first. None fits two on ``toxicity``.

    Raises:
        ValueError: prompts without judges and without ``toxicity``, or a direction of another name than
            :func:`morality_lens.studies.folder.refuse_direction` allows.

    Examples:
        >>> material = ml.studies.Material(questions=items, statements=statements)
        >>> len(material.questions), len(material.prompts)
        (16, 0)
    """

    questions: Sequence[Question] = ()
    prompts: Sequence[OpenPrompt] = ()
    statements: Sequence[Statement]
    toxicity: Sequence[Statement] = ()
    directions: Mapping[str, Sequence[Statement]] = field(default_factory=dict)
    evidence: Sequence[Evidence] = ()
    judges: Sequence[Judge] = ()

    def __post_init__(self) -> None:
        if self.prompts and not self.judges and not self.toxicity:
            raise ValueError(
                "the completions of prompts need a judge of toxicity: give judges, or as toxicity statements "
                "of toxic and neutral language."
            )
        used: list[str] = []
        for name in self.directions:
            refuse_direction(name, used)
            used.append(name)

    def __repr__(self) -> str:
        held = {name: len(getattr(self, name)) for name in ("questions", "prompts", "statements", "toxicity")}
        more = {
            "directions": len(self.directions),
            "evidence": len(self.evidence),
            "judges": len(self.judges),
        }
        return f"<Material: {', '.join(f'{n:,} {name}' for name, n in {**held, **more}.items() if n)}>"

    @property
    def sets(self) -> dict[str, Sequence[Statement]]:
        """The statements of every direction by its name, the one that the claims are about first."""
        same = tuple(self.toxicity) == tuple(self.statements)  # then it is no other direction
        toxic = {TOXICITY: self.toxicity} if self.toxicity and not same else {}
        return {MAIN: self.statements, **toxic, **self.directions}


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

    Examples:
        >>> settings = ml.studies.Settings(plan=ml.studies.PROFILES["quick"], probe_kind="lda")
        >>> settings.plan.rounds
        2
    """

    plan: Plan = PROFILES["full"]
    protocol: Protocol = field(default_factory=Protocol)
    probe_kind: Kind = "mean_difference"
    drop_long: bool = False
    least_parsed: float = 0.0
    seed: int = 0
