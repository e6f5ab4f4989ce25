"""The command line: its commands, and how it ends."""

import sys
import warnings
from typing import Annotated

import typer

from morality_lens import __version__
from morality_lens.cli import (
    analysing,
    axes,
    checking,
    circuits,
    exporting,
    lenses,
    listing,
    probing,
    run,
    running,
    scoring,
    sparse,
    study,
    view,
)
from morality_lens.cli.commands import Command, Commands, Quiet, Verbose, speaking
from morality_lens.cli.stopping import end_by, refuse_undecodable, say_stopped, stopped_by_signals

# Everything heavy is imported inside the commands: `--help` and mistyped options answer at once.

COMMANDS = {
    "Play": {"run": run.run, "study": study.study, "work": running.work},
    "Read what was played": {
        "list": listing.list_folder,
        "analyze": analysing.analyze,
        "report": analysing.report,
        "view": view.view,
        "export": exporting.export,
    },
    "Ask the model more": {
        "probe": probing.probe,
        "axes": axes.axes,
        "score": scoring.score,
        "attribute": circuits.attribute,
        "patch": circuits.patch,
        "lens": lenses.lens,
        "features": sparse.features,
    },
    "Look first": {"check": checking.check, "estimate": running.estimate, "verify": running.verify},
}
"""Every command by its name, in the panels of ``--help``."""
WITH_JSON = ("analyze", "check", "study", "list")

app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False)
for panel, commands in COMMANDS.items():
    for name, command in commands.items():
        told = speaking(command, json=name in WITH_JSON)
        app.command(name=name, cls=Command, rich_help_panel=panel)(told)


def _say_version(wanted: bool) -> bool:
    if wanted:
        print(f"morality-lens {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def everywhere(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_say_version, is_eager=True),
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Mechanistic interpretability of moral self-correction in language models."""
    # How much is printed is read by `Commands`, around the command.


def main() -> None:
    """Run the command line; an error is one line and exit code 2, an interruption 130 (SIGTERM: 143)."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        with stopped_by_signals():
            refuse_undecodable(sys.argv[1:])
            app()
    except KeyboardInterrupt as stopped:
        sys.exit(say_stopped(stopped))
    except Exception as error:
        sys.exit(end_by(error))
