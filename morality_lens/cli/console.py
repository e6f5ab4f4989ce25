"""What all commands print, and how they stop."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from morality_lens.cli.model_options import ModelOptions

if TYPE_CHECKING:
    from morality_lens.runs.run import Run

console = Console()


def load(options: ModelOptions) -> Any:
    """A loaded model that passed its self-test."""
    from morality_lens.models.loading import load_model

    return load_model(
        options.model,
        device=options.device,
        dtype=options.dtype,
        revision=options.revision,
        device_map=options.device_map,
        template_keywords=options.template_keywords,
        quantization=options.quantization,
    )


def reload(played: "Run", device: str | None) -> Any:
    """The model of a run, loaded as the run loaded it."""
    from morality_lens.models.loading import reload_model

    return reload_model(played.manifest["study"]["model"], device=device)


def load_and_show(options: ModelOptions) -> Any:
    """A loaded model that passed its self-test, after a line about it was printed."""
    from morality_lens.models.loading import record_of

    with console.status("loading the model and running its self-test"):
        loaded = load(options)
    record = record_of(loaded)
    console.print(f"model {record.name}: {record.n_layers} layers x {record.d_model}, self-test passed")
    return loaded


@contextmanager
def stoppable() -> Iterator[None]:
    """An interruption ends the command with exit code 130 and a line on how to resume."""
    try:
        yield
    except KeyboardInterrupt:
        print("stopped; finished parts are kept: run the same command again to resume.", file=sys.stderr)
        raise typer.Exit(130) from None


def print_lines(*lines: str, style: str | None = None) -> None:
    """Print sentences as they are, without highlighting or markup."""
    for line in lines:
        console.print(line, style=style, highlight=False, markup=False)


def print_report(path: Path) -> None:
    """Print the path of a report."""
    console.print(f"\nreport: {path.resolve()}", soft_wrap=True, highlight=False)
