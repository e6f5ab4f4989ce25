"""The command that writes a run's direction, or its residuals, for other tools."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from morality_lens.cli.axes import FOLDER
from morality_lens.cli.console import print_path
from morality_lens.cli.places import RunFolder, open_whole, refuse_empty, refuse_missing
from morality_lens.cli.running import Layers

if TYPE_CHECKING:
    from morality_lens.probes.probe import Probe
    from morality_lens.runs.run import Run


def export(
    folder: RunFolder,
    out: Annotated[Path, typer.Option(help="The file to write; for residuals a folder.")],
    form: Annotated[
        Literal["gguf", "steering-vectors", "safetensors", "residuals"],
        typer.Option(
            "--as",
            help="A control vector (llama.cpp, repeng), a steering vector, one without pickle, or residuals.",
        ),
    ],
    axis: Annotated[
        str | None,
        typer.Option(help="One of the run's axes instead of its probe.", show_default="the probe"),
    ] = None,
    layers: Layers = None,
) -> None:
    """Write the run's direction as a vector that other tools add, or its residuals as safetensors."""
    refuse_missing(runs=[folder])
    refuse_empty(out, "the output (--out)")
    played = open_whole(folder)
    chosen = None if layers is None else _layers(layers)
    if form == "residuals":
        if axis is not None:
            raise ValueError("residuals are those of the run; leave --axis out, or export a direction.")
        from morality_lens.runs.exporting import export_residuals

        print_path("wrote ", export_residuals(played, out, layers=chosen))
        return
    from morality_lens.probes.interchange import export_direction

    probe = _direction(played, axis)
    probe = probe if chosen is None else probe.at_layers(chosen)
    out.parent.mkdir(parents=True, exist_ok=True)
    print_path("wrote ", export_direction(probe, out, form=form, model_type=_model_type(played)))


def _layers(text: str) -> list[int]:
    from morality_lens.cli.running import read_layers

    return list(read_layers(text))


def _direction(played: "Run", axis: str | None) -> "Probe":
    """The run's probe, or one of its axes.

    Raises:
        FileNotFoundError: it has none.
        ValueError: there is no such axis.
    """
    if axis is None:
        from morality_lens.probes.probe import load_probe

        return load_probe(played.path / "probe.safetensors")
    from morality_lens.probes.axes import load_axes

    axes = load_axes(played.path / FOLDER)
    if axis not in axes:
        raise ValueError(f"the run has the axes {', '.join(axes)}; got {axis!r}.")
    return axes[axis]


def _model_type(played: "Run") -> str:
    """What a model's configuration calls its type, by the name of its class: ``llama``, ``qwen3``."""
    name = str(played.manifest["study"]["model"].get("architecture", ""))
    return name.removesuffix("ForCausalLM").removesuffix("LMHeadModel").lower()
