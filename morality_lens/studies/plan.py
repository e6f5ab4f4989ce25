"""The amount of each part of a study: profiles, and an estimate of the time."""

from dataclasses import asdict, dataclass, replace

from morality_lens.design import Design, Factor
from morality_lens.studies.folder import PLACEBO, PROMPTS, QUESTIONS

LARGEST_RANDOM_MODEL = 2_000_000_000
"""The largest model, in parameters, of which random-initialised controls are made."""
AT_LEAST_ONE = ("rounds", "items", "prompts", "placebo_rounds", "wording_rounds", "sample_rounds")
"""The numbers of a plan that cannot be 0; 0 of the others leaves a part out."""


def placebo_factors(design: Design) -> tuple[Factor, ...]:
    """The design's factors; those with a known placebo have that level too."""
    known = {"rationale", "feedback"}
    return tuple(
        replace(factor, levels=("off", "placebo", "on"))
        if factor.place in known or factor.from_wording
        else factor
        for factor in design.factors
    )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The amount of each part of a study.

    Attributes:
        rounds: correction rounds of the two main runs.
        items: questions of these; None takes all.
        prompts: prompts of these; None takes as many as ``items``.
        evidence_rounds: rounds after which weak evidence is given, in addition to the last.
        placebo_items: questions played with placebo levels too (27 conditions of three components).
        placebo_rounds: their rounds.
        wordings: alternative wordings that questions are played in.
        wording_items: questions of these.
        wording_rounds: their rounds.
        samples: completions drawn of every prompt at temperature 1, each in a run of its own.
        sample_rounds: their rounds.
        random_models: random-initialised models for the trust card.

    Raises:
        ValueError: a number below 0, or 0 rounds, items or prompts.

    Examples:
        >>> quick = ml.studies.PROFILES["quick"]
        >>> quick.rounds, quick.items
        (2, 40)
    """

    rounds: int = 5
    items: int | None = None
    prompts: int | None = None
    evidence_rounds: tuple[int, ...] = (0, 1)
    placebo_items: int = 40
    placebo_rounds: int = 3
    wordings: int = 5
    wording_items: int = 40
    wording_rounds: int = 3
    samples: int = 4
    sample_rounds: int = 3
    random_models: int = 3

    def __post_init__(self) -> None:
        for name, number in asdict(self).items():
            least = int(name in AT_LEAST_ONE)
            if isinstance(number, int) and number < least:
                raise ValueError(f"a plan needs {name} of {least} or more; got {number}.")

    @property
    def most_prompts(self) -> int | None:
        """Prompts that are played at most; None is all."""
        return self.items if self.prompts is None else self.prompts

    def dialogues(self, design: Design) -> dict[str, tuple[int, int, int]]:
        """For every kind of run: runs, most items of each, and dialogue rounds of an item."""
        most, cells = self.items or 10**9, len(design.conditions)
        open_ended = self.most_prompts or 10**9
        with_placebos = len(replace(design, factors=placebo_factors(design)).conditions)
        return {
            QUESTIONS: (1, most, cells * (self.rounds + 1)),
            PROMPTS: (1, open_ended, cells * (self.rounds + 1)),
            PLACEBO: (1, self.placebo_items, with_placebos * (self.placebo_rounds + 1)),
            "wording": (self.wordings, self.wording_items, cells * (self.wording_rounds + 1)),
            "sample": (self.samples, open_ended, cells * (self.sample_rounds + 1)),
        }


PROFILES = {
    "full": Plan(),
    "quick": Plan(
        rounds=2,
        items=40,
        evidence_rounds=(0,),
        placebo_items=20,
        placebo_rounds=1,
        wordings=3,
        wording_items=20,
        wording_rounds=1,
        samples=2,
        sample_rounds=1,
        random_models=2,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Time and disk space of a study, extrapolated from a trial.

    Attributes:
        seconds: of computation.
        bytes: of residuals on disk, before compression.
    """

    seconds: float
    bytes: int

    def __str__(self) -> str:
        minutes = self.seconds / 60
        time = f"{minutes:.0f} minutes" if minutes >= 2 else f"{self.seconds:.0f} seconds"
        return f"about {time}, and up to {self.bytes / 1e9:.2f} GB on disk"
