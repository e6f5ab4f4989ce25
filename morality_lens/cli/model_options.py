"""The options of the commands that load a model, and how they are read."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import typer

from morality_lens.design import FeedbackSource
from morality_lens.items.files import parse_json

MOST_SEED = 2**32 - 1
"""The largest random seed that every library takes."""
ModelName = Annotated[
    str | None, typer.Option(help="Hub name, folder or .gguf file.", show_default="the bundled model")
]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, ...", show_default="a GPU where there is one, else cpu")
]
Dtype = Annotated[str | None, typer.Option(help="auto, float32, bfloat16, ...", show_default="auto")]
DrawSeed = Annotated[int | None, typer.Option(min=0, max=MOST_SEED, help="Random seed.", show_default="0")]
DropLong = Annotated[
    bool | None, typer.Option("--drop-long", help="Skip items that may exceed the context window.")
]
Anyway = Annotated[
    bool, typer.Option("--anyway", help="Play on where fewer than half of the first answers parse.")
]
Feedback = Annotated[FeedbackSource | None, typer.Option(help="Source of feedback.", show_default="self")]
FeedbackFrom = Annotated[str | None, typer.Option(help="Other model, server address, or file of feedback.")]
FeedbackModel = Annotated[str | None, typer.Option(help="Model on the server.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a model on a hub.")]
DeviceMap = Annotated[
    str | None, typer.Option(help="auto spreads a large model over several GPUs; excludes --device.")
]
TemplateKeywords = Annotated[
    list[str] | None,
    typer.Option(
        "--template",
        help="Variable of the chat template as KEY=VALUE, the value in JSON (enable_thinking=false); may be "
        "repeated.",
    ),
]
Quantization = Annotated[
    Literal["4bit", "8bit"] | None, typer.Option(help="Load the weights in 4 or 8 bit (needs bitsandbytes).")
]
AnswerTokens = Annotated[
    int | None, typer.Option("--answer-tokens", min=1, help="Most tokens of an answer.", show_default="32")
]
RationaleTokens = Annotated[
    int | None,
    typer.Option("--rationale-tokens", min=1, help="Most tokens of a rationale.", show_default="256"),
]
FeedbackTokens = Annotated[
    int | None,
    typer.Option("--feedback-tokens", min=1, help="Most tokens of a feedback.", show_default="128"),
]
ThinkingTokens = Annotated[
    int | None,
    typer.Option(
        "--thinking-tokens",
        min=0,
        help="Most tokens of the thoughts of a model that thinks; 0 skips them.",
        show_default="512",
    ),
]
AnswerPrefix = Annotated[
    str | None, typer.Option("--answer-prefix", help='How every answer begins, such as "Answer:".')
]
GenerateFrom = Annotated[
    str | None,
    typer.Option(help="Address of a server that writes the replies, which this model then reads once."),
]
GenerateModel = Annotated[str | None, typer.Option(help="The same model's name on that server.")]
Wording = Annotated[
    str | None,
    typer.Option(
        help="TOML file of a wording, or a language: en, de, es, ko, nl, tr, zh.", show_default="English"
    ),
]
Factors = Annotated[
    list[str] | None,
    typer.Option(
        help="""Component that is crossed (repeatable): instruction, cot, feedback, persona, system_prompt,
            authorship, pressure, majority.""",
        show_default="the first three",
    ),
]
SystemPrompt = Annotated[
    str | None, typer.Option(help="System prompt of every dialogue that the model holds.")
]


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What a command loads, and how: arguments of ``load_model``, and entries of a configuration."""

    model: str | None = None
    device: str | None = None
    dtype: str = "auto"
    revision: str | None = None
    device_map: str | None = None
    template_keywords: dict[str, Any] = field(default_factory=dict)
    quantization: Literal["4bit", "8bit"] | None = None


def read_template_keywords(given: Sequence[str] | None) -> dict[str, Any]:
    """The variables of ``--template KEY=VALUE``; what is no JSON is a text.

    Raises:
        ValueError: one without a name or without a value, or null, which a TOML file cannot hold.
    """
    found: dict[str, Any] = {}
    for one in given or ():
        key, sign, value = one.partition("=")
        if not sign or not key.isidentifier():
            raise ValueError(
                f"--template needs KEY=VALUE with the value in JSON (enable_thinking=false); got {one!r}."
            )
        found[key] = _value(value, f"--template {key}")
        if found[key] is None:
            raise ValueError(f"--template {one}: null is no value; leave the variable out.")
    return found


def _value(text: str, where: str) -> Any:
    """The JSON value, or the text where it is none; what is JSON but cannot be kept is refused."""
    try:
        json.loads(text)
    except json.JSONDecodeError:
        return text
    except RecursionError:
        pass
    return parse_json(text, where)
