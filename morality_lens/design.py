"""Factors, their levels, and the conditions (cells) that a study crosses."""

import itertools
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from pydantic import ConfigDict

Level = Literal["off", "placebo", "on"]
LEVELS: tuple[Level, ...] = get_args(Level)

CUBE_DIMS = ("item", "instruction", "cot", "feedback", "round", "site", "layer", "d_model")
"""Dimension names of a run's residuals, always in this order."""


@dataclass(frozen=True, kw_only=True)
class Factor:
    """One component of self-correction and the levels at which it is run.

    Raises:
        ValueError: fewer than two levels, an unknown level, or one given twice.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str
    levels: tuple[Level, ...] = ("off", "on")

    def __post_init__(self) -> None:
        unknown = [level for level in self.levels if level not in LEVELS]
        if unknown or len(set(self.levels)) != len(self.levels) or len(self.levels) < 2:
            raise ValueError(
                f"factor {self.name!r} needs two or more different levels out of {LEVELS}; got {self.levels}."
            )


COMPONENTS = ("instruction", "cot", "feedback")


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One cell of the design: a level for each of the three components."""

    instruction: Level = "off"
    cot: Level = "off"
    feedback: Level = "off"

    @property
    def levels(self) -> tuple[Level, Level, Level]:
        """The levels in the order of the cube's dimensions."""
        return (self.instruction, self.cot, self.feedback)

    @property
    def cell(self) -> dict[str, Level]:
        """The level of every component by its name."""
        return dict(zip(COMPONENTS, self.levels, strict=True))

    @property
    def label(self) -> str:
        """A short name: the components that are present, joined by ``+`` (``none`` for no component)."""
        named = self.cell.items()
        parts = [n if level == "on" else f"{n}({level})" for n, level in named if level != "off"]
        return "+".join(parts) or "none"


def condition_of(label: str) -> Condition:
    """The condition of a label such as ``none`` or ``instruction+feedback(placebo)``.

    Raises:
        ValueError: another text.
    """
    levels: dict[str, Level] = {}
    for part in [] if label == "none" else label.split("+"):
        name, _, rest = part.partition("(")
        level = rest.removesuffix(")") if rest else "on"
        if name not in COMPONENTS or name in levels or level not in LEVELS or (rest and part[-1] != ")"):
            raise ValueError(
                f"a condition is none, or components joined by + ({', '.join(COMPONENTS)}, each with "
                f"(placebo) where it is one); got {label!r}."
            )
        levels[name] = level
    return Condition(**levels)


SITES = ("answer_start", "answer_end", "answer_mean")
"""Sites that every run captures: see :class:`Design`."""
SEGMENT_SITES = ("question", "feedback", "review", "instruction", "cot_request", "rationale")
"""Segments whose mean residual can be captured as a further site."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """What is crossed and what is kept.

    Attributes:
        factors: the three components with their levels; two levels each give eight cells.
        rounds: correction rounds after round 0; a run holds ``rounds + 1`` rounds.
        sites: where residuals are read. ``answer_start`` is the token whose logits choose the answer's
            first token, ``answer_end`` the answer's last token, ``answer_mean`` the mean over its tokens;
            a segment's name means the mean over that segment's tokens in the same round.
        seed: seed of the sampler; unused under greedy decoding.

    Raises:
        ValueError: a factor missing or given twice, fewer than one round, or an unknown site.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    factors: tuple[Factor, ...] = tuple(Factor(name=name) for name in COMPONENTS)
    rounds: int = 5
    sites: tuple[str, ...] = SITES
    seed: int = 0

    def __post_init__(self) -> None:
        names = tuple(factor.name for factor in self.factors)
        if names != COMPONENTS:
            raise ValueError(f"a design needs the factors {COMPONENTS} in this order; got {names}.")
        if self.rounds < 1:
            raise ValueError(f"a design needs at least one correction round; got rounds={self.rounds}.")
        unknown = [site for site in self.sites if site not in SITES + SEGMENT_SITES]
        if unknown or not self.sites or len(set(self.sites)) != len(self.sites):
            raise ValueError(
                f"sites must be different names out of {SITES + SEGMENT_SITES}; got {self.sites}."
            )

    @property
    def levels(self) -> dict[str, list[Level]]:
        """The levels of every component, as coordinates of a cube."""
        return {factor.name: list(factor.levels) for factor in self.factors}

    def place(self, condition: Condition) -> tuple[int, ...]:
        """Where a condition stands along the components' dimensions."""
        return tuple(self.levels[name].index(level) for name, level in condition.cell.items())

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """All cells, the last factor varying fastest."""
        cells = itertools.product(*(factor.levels for factor in self.factors))
        return tuple(Condition(instruction=i, cot=c, feedback=f) for i, c, f in cells)

    @property
    def n_rounds(self) -> int:
        """Rounds in the cube: round 0 and the correction rounds."""
        return self.rounds + 1


FeedbackSource = Literal["self", "oracle", "model", "endpoint", "file"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How dialogues are played: the design, the words, who gives feedback, and how long a reply may be.

    Attributes:
        design: what is crossed and kept.
        wording: path of a TOML file; None is the project's own wording.
        wording_index: which of its alternative wordings.
        feedback: ``self`` (the same model, asked in a dialogue of its own), ``model`` (another one, asked in
            the same way), ``endpoint`` (a model behind an OpenAI-compatible server), ``oracle`` (a text
            chosen by the judge, who knows the right answer) or ``file`` (people's, say).
        feedback_from: the other model (hub name or folder), the server's address (None is the official
            one), or the file.
        feedback_model: the name of the model behind the server.
        feedback_placebo: what the level ``placebo`` of feedback says: ``neutral`` words, or ``yoked``: what
            the source said of another item of the batch. A yoked text has the source's own form and length,
            but it may fit: that an answer is unfair can be said of most.
        feedback_named: what becomes of feedback that names one of the options: it is ``kept`` and counted,
            or ``withheld`` and the neutral words take its place.
        answer_tokens: most tokens of an answer.
        rationale_tokens: most tokens of a rationale.
        feedback_tokens: most tokens of a feedback.
        temperature: 0 takes the most probable token; above 0 tokens are drawn with the design's seed.

    Raises:
        ValueError: a limit below one token, a negative temperature, an unknown feedback source, or one
            without what it needs.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    design: Design = Design()
    wording: str | None = None
    wording_index: int = 0
    feedback: FeedbackSource = "self"
    feedback_from: str | None = None
    feedback_model: str | None = None
    feedback_placebo: Literal["neutral", "yoked"] = "neutral"
    feedback_named: Literal["kept", "withheld"] = "kept"
    answer_tokens: int = 16
    rationale_tokens: int = 48
    feedback_tokens: int = 32
    temperature: float = 0.0

    def __post_init__(self) -> None:
        limits = (self.answer_tokens, self.rationale_tokens, self.feedback_tokens)
        if min(limits) < 1:
            raise ValueError(f"answers, rationales and feedback need at least one token; got {limits}.")
        if not self.temperature >= 0:
            raise ValueError(f"temperature must be 0 or above; got {self.temperature}.")
        if self.feedback not in get_args(FeedbackSource):
            raise ValueError(f"feedback must come from {get_args(FeedbackSource)}; got {self.feedback!r}.")
        if self.feedback in ("model", "file") and not self.feedback_from:
            wanted = {"model": "a hub name or folder", "file": "the file's path"}[self.feedback]
            raise ValueError(f"feedback={self.feedback!r} needs {wanted} as feedback_from.")
        if self.feedback == "endpoint" and not self.feedback_model:
            raise ValueError(
                "feedback='endpoint' needs the name of the server's model as feedback_model (and its address "
                "as feedback_from, where it is not the official one)."
            )
        said = (self.feedback_placebo, self.feedback_named)
        if said[0] not in ("neutral", "yoked") or said[1] not in ("kept", "withheld"):
            raise ValueError(
                f"feedback_placebo is neutral or yoked, and feedback_named kept or withheld; got {said}."
            )
        if self.wording_index < 0:
            raise ValueError(f"wording_index must be 0 or above; got {self.wording_index}.")
