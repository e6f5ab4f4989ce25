"""The configuration of a study as one value that a TOML file can hold."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from morality_lens.cli.run_config import Config, Words
from morality_lens.items.files import read_toml


class StudyConfig(Config):
    """What ``morality-lens study`` does; every field has the command's default.

    Attributes:
        prompts: open prompts for detoxification; without ``data`` too, the bundled questions and prompts are
            played.
        directions: files of labelled statements of further directions, by name.
        evidence: weak evidence for the questions (JSON lines).
        judges: toxicity classifiers (names or folders); none fits two on ``toxicity``.
        profile: preset of the plan.
        rounds: correction rounds of the main runs; None is the profile's number. The protocol names none.
        plan: other numbers of the profile, by their names in :class:`morality_lens.studies.Plan`.

    The others are those of :class:`Config`; ``limit`` is that of the questions, and of the prompts.

    Examples:
        >>> config = ml.cli.StudyConfig(profile="quick", limit=40)
        >>> config.profile, config.out
        ('quick', 'runs/study')
    """

    out: Words = "runs/study"
    prompts: Words | None = None
    directions: dict[str, Words] = Field(default_factory=dict)
    evidence: Words | None = None
    judges: tuple[Words, ...] = ()
    profile: Literal["full", "quick"] = "full"
    rounds: Annotated[int, Field(ge=1)] | None = None
    plan: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _refuse_rounds(cls, given: Any) -> Any:
        """Refuse a second place for the number of rounds, which would have no effect."""
        design: Any = given
        for name in ("protocol", "design"):
            design = design.get(name) if isinstance(design, dict) else None
        if isinstance(design, dict) and "rounds" in design:
            raise ValueError("protocol.design.rounds has no effect in a study; write rounds = N at the top")
        return given

    def plain(self) -> dict[str, Any]:
        """The entries, as JSON can hold them."""
        held = super().plain()
        del held["protocol"]["design"]["rounds"]
        return held


def load_study_config(path: str | Path) -> StudyConfig:
    """The configuration of a study in a TOML file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not TOML, or an entry is unknown or of the wrong kind.

    Examples:
        >>> file = folder / "study.toml"
        >>> _ = file.write_text('profile = "quick"')
        >>> ml.cli.load_study_config(file).profile
        'quick'
    """
    return read_toml(Path(path), StudyConfig, "study.toml as `morality-lens study` writes it")
