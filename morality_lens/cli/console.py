"""What all commands print, and how they stop."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

console = Console()


def load_and_show(name: str | None, device: str | None, dtype: str) -> Any:
    """A loaded model that passed its self-test, after a line about it was printed."""
    from morality_lens.models.loading import load_model, record_of

    with console.status("loading the model and running its self-test"):
        loaded = load_model(name, device=device, dtype=dtype)
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
