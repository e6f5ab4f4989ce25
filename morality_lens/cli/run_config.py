"""The configuration of a run as one value that a TOML file can hold."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tomli_w
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from morality_lens.cli.model_options import MOST_SEED, ModelOptions
from morality_lens.design import Protocol
from morality_lens.items.files import problems, read_toml
from morality_lens.probes.kinds import Kind

C = TypeVar("C", bound="Config")


def _no_blank(text: str) -> str:
    """The text, where it has words and can be a path."""
    if not text.strip() or "\x00" in text:
        raise ValueError(
            f"it is blank or holds a null character ({text!r}); give a text, or leave the entry out"
        )
    return text


Words = Annotated[str, AfterValidator(_no_blank)]
Seed = Annotated[int, Field(ge=0, le=MOST_SEED)]


class Config(BaseModel):
    """What the configurations of a run and of a study have in common.

    Attributes:
        model: hub name, folder (of a model or an adapter) or .gguf file; None is the bundled model.
        data: BBQ files, RealToxicityPrompts or questions (a file or a folder); None is the bundled questions.
        dataset: name of the published data set that ``data`` holds, which may then be a name on the hub; None
            tells it by the columns. See :func:`morality_lens.items.load_data`; so for the next two.
        subset: which of its subsets; None is its first one.
        language: which of its languages; None keeps all.
        statements: labelled statements for the probe (a file, or a name: ``moral``, ``composed``, ``world``,
            ``care``, ``fairness``, ``loyalty``, ``authority``, ``purity``, ``truth``, ``refusal``,
            ``sentiment``); None is
            ``moral``, or for a bundled model ``world``.
        toxicity: labelled statements of toxic and neutral language; None is, for a bundled model, ``world``.
        limit: items to draw; None takes all (of the bundled questions, a run takes 80).
        seed: random seed of the drawing of items, the probe's folds and the resampling.
        drop_long: skip items whose dialogues may exceed the context window.
        out: the folder of the run or study.
        device: for example ``cuda``; None selects it automatically.
        dtype: see ``load_model``; so for the next four.
        revision: branch, tag or commit on a hub.
        device_map: ``auto`` spreads a large model over several GPUs.
        template_keywords: variables of the chat template.
        quantization: ``4bit`` or ``8bit``.
        protocol: how dialogues are played.

    Examples:
        >>> config = ml.cli.RunConfig(limit=40, layers=(2, 3))
        >>> config.limit, config.probe, config.protocol.design.rounds
        (40, 'mean_difference', 5)
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Words | None = None
    data: Words | None = None
    dataset: Words | None = None
    subset: Words | None = None
    language: Words | None = None
    statements: Words | None = None
    toxicity: Words | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    seed: Seed = 0
    drop_long: bool = False
    out: Words
    device: Words | None = None
    dtype: str = "auto"
    revision: Words | None = None
    device_map: Words | None = None
    template_keywords: dict[str, Any] = {}
    quantization: Literal["4bit", "8bit"] | None = None
    protocol: Protocol = Protocol()

    @property
    def model_options(self) -> ModelOptions:
        """What is loaded, and how."""
        return ModelOptions(**{field.name: getattr(self, field.name) for field in fields(ModelOptions)})

    def plain(self) -> dict[str, Any]:
        """The entries, as JSON can hold them."""
        return self.model_dump(mode="json")

    def to_toml(self) -> str:
        """The configuration as TOML; entries that are None are left out, since TOML has no value for them.

        Raises:
            ValueError: a free entry holds null.
        """
        return tomli_w.dumps(_given(self.plain()))


class RunConfig(Config):
    """What ``morality-lens run`` does; every field has the command's default.

    Attributes:
        permute_options: permute the options of every question, see
            :func:`morality_lens.items.permute_options`.
        score_options: score the options by their full text too, see
            :func:`morality_lens.rounds.score_options`.
        judge: toxicity classifier for open prompts (name or folder); None fits one on ``toxicity``.
        probe: kind of direction, one of :data:`morality_lens.probes.kinds.KINDS`.
        batch_size: items played together; None adapts it to the memory.
        layers: those whose residuals are kept; None is all, -1 the embedding.
        keep: ``residuals``, their ``projections`` on the probe, or ``both``.
        store_as: type of the residuals on disk; None loses nothing.

    The others are those of :class:`Config`.

    Examples:
        >>> config = ml.cli.RunConfig(limit=40, layers=(2, 3))
        >>> config.limit, config.probe, config.protocol.design.rounds
        (40, 'mean_difference', 5)
    """

    out: Words = "runs/first"
    permute_options: bool = False
    score_options: bool = False
    judge: Words | None = None
    probe: Kind = "mean_difference"
    batch_size: Annotated[int, Field(ge=1)] | None = None
    layers: tuple[int, ...] | None = None
    keep: Literal["residuals", "projections", "both"] = "residuals"
    store_as: Literal["float16", "float32"] | None = None


FREE = ("template_keywords", "feedback_request", "generate_request")
"""Entries whose content is anybody's: kept as it is, to the last empty table."""


def as_toml(plain: Mapping[str, Any]) -> str:
    """A configuration as TOML, without the entries that are None or empty: no entry is the default.

    Raises:
        ValueError: a free entry holds null, for which TOML has no value.
    """
    return tomli_w.dumps(_given(dict(plain)))


def _given(value: Any, name: str = "") -> Any:
    """A value without what is None or empty; a free entry whole."""
    if name in FREE:
        if _holds_none(value):
            raise ValueError(f"{name} holds null, which a TOML file cannot keep: {value}; leave it out.")
        return value
    if isinstance(value, dict):
        return {k: _given(v, k) for k, v in value.items() if v is not None and v != {}}
    return [_given(v) for v in value] if isinstance(value, list) else value


def _holds_none(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(map(_holds_none, value.values() if isinstance(value, dict) else value))
    return value is None


def replaced(config: C, *, entries: Mapping[str, Any], protocol: Mapping[str, Any]) -> C:
    """A configuration with the options of a command line in place of its entries.

    Args:
        config: of a run or a study.
        entries: options by the names of entries; None leaves the entry.
        protocol: the same for those of the protocol.

    Raises:
        ValueError: together they make no configuration.
    """
    base = config.plain() | {name: value for name, value in entries.items() if value is not None}
    base["protocol"] |= {name: value for name, value in protocol.items() if value is not None}
    try:
        return type(config).model_validate(base)
    except ValidationError as error:
        raise ValueError(f"these options make no study: {problems(error)}.") from error


def load_study(path: str | Path) -> RunConfig:
    """The configuration in a TOML file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not TOML, or an entry is unknown or of the wrong kind.

    Examples:
        >>> file = folder / "mine.toml"
        >>> _ = file.write_text("limit = 40")
        >>> config = ml.cli.load_study(file)
        >>> config.limit, config.protocol.design.rounds
        (40, 5)
    """
    return read_toml(Path(path), RunConfig, "study.toml as `morality-lens run` writes it")
