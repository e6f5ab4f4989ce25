"""What all commands print: steps, sentences, tables and JSON, with every text as it is."""

import json
import math
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from morality_lens.cli.model_options import ModelOptions
from morality_lens.progress import EVERY, hiding, listening

if TYPE_CHECKING:
    import pandas as pd

    from morality_lens.runs.run import Run

WIDE = 10_000
"""Columns where there is no terminal: what is piped or kept in a file is not wrapped."""
LEAST_PARSED = 0.5
"""The share of the first answers that must parse for the others to be played."""


@dataclass(kw_only=True)
class Shown:
    """How much a command prints, and where.

    Attributes:
        quiet: errors, warnings and the path of a report alone.
        verbose: every finding, in sentences.
        json: standard output holds the result as JSON, and all words go to standard error.
    """

    quiet: bool = False
    verbose: bool = False
    json: bool = False


shown = Shown()


@contextmanager
def showing(*, quiet: bool = False, verbose: bool = False, json: bool = False) -> Iterator[None]:
    """Within it, commands print less, more, or JSON.

    Raises:
        ValueError: less and more at once.
    """
    before = asdict(shown)
    shown.quiet, shown.verbose, shown.json = shown.quiet or quiet, shown.verbose or verbose, json
    try:
        if shown.quiet and shown.verbose:
            raise ValueError("--quiet and --verbose exclude each other; give one of them.")
        with ExitStack() as stack:
            if shown.quiet:
                stack.enter_context(hiding())
            yield
    finally:
        shown.quiet, shown.verbose, shown.json = before["quiet"], before["verbose"], before["json"]


def _console() -> Console:
    """Where words go: standard output, or beside JSON standard error; NO_COLOR is honoured."""
    console = Console(stderr=shown.json)
    return console if console.is_terminal else Console(stderr=shown.json, width=WIDE)


@dataclass(kw_only=True)
class Steps:
    """The steps of one command from load to report, numbered and with the time since it began."""

    total: int = 0
    number: int = 0
    began: float = field(default_factory=time.monotonic)

    def start(self, total: int) -> None:
        """Begin a command of so many steps."""
        self.total, self.number, self.began = total, 0, time.monotonic()

    def say(self, what: str, *, step: bool = False) -> None:
        """Print what is done now, with the time; a step has its number."""
        minutes, seconds = divmod(int(time.monotonic() - self.began), 60)
        self.number += step
        number = f"step {self.number} of {self.total}: " if step and self.total else ""
        print_lines(f"[{minutes}:{seconds:02d}] {number}{what}", style="dim")


steps = Steps()


@contextmanager
def phase(what: str) -> Iterator[None]:
    """A step of a command: shown as it begins, with its stages, and without a terminal every half minute."""
    steps.say(what, step=True)
    if shown.quiet:
        yield
        return
    console = _console()
    if console.is_terminal:
        with console.status(Text(what)) as status, listening(lambda text: status.update(Text(text))):
            yield
        return
    now, over = [what], threading.Event()

    def stage(text: str) -> None:
        now[0] = text
        steps.say(text)

    def remind() -> None:
        while not over.wait(EVERY):
            steps.say(f"still {now[0]}")

    reminder = threading.Thread(target=remind, daemon=True)
    reminder.start()
    try:
        with listening(stage):
            yield
    finally:
        over.set()
        reminder.join()


def load(options: ModelOptions) -> Any:
    """A loaded model that passed its self-test."""
    from morality_lens.models.loading import load_model

    given = asdict(options)
    return load_model(given.pop("model"), **given)


def reload(played: "Run", device: str | None) -> Any:
    """The model of a run, loaded as the run loaded it."""
    from morality_lens.rounds.spreading import load_for

    return load_for(played, device=device)


def load_and_show(options: ModelOptions) -> Any:
    """A loaded model that passed its self-test, after a line about it was printed."""
    from morality_lens.models.loading import record_of

    with phase("loading the model and running its self-test"):
        loaded = load(options)
    record = record_of(loaded)
    print_lines(f"model {record.name}: {record.n_layers} layers x {record.d_model}, self-test passed")
    return loaded


def print_lines(*lines: str, style: str | None = None) -> None:
    """Print sentences as they are, without highlighting or markup."""
    if shown.quiet:
        return
    console = _console()
    for line in lines:
        console.print(line, style=style, highlight=False, markup=False)


def print_whole(line: str) -> None:
    """Print one line, however long it is."""
    if not shown.quiet:
        _console().print(line, soft_wrap=True, highlight=False, markup=False)


def print_path(what: str, path: Path) -> None:
    """Print a path on one line, however long it is."""
    print_whole(f"{what}{path}")


def print_report(path: Path) -> None:
    """Print the path of a report; where words are not wanted, the path alone."""
    if not shown.quiet:
        print_path("\nreport: ", path.resolve())
    elif not shown.json:
        print(path.resolve(), flush=True)


def print_table(columns: Iterable[str], rows: Iterable[Iterable[str]], *, title: str | None = None) -> None:
    """Print a table whose cells are shown as they are, without markup."""
    if shown.quiet:
        return
    table = Table(title=None if title is None else Text(title))
    for column in columns:
        table.add_column(Text(column), overflow="fold")  # a name that is cut names nothing
    for row in rows:
        table.add_row(*map(Text, row))
    _console().print(table)


def print_json(value: Mapping[str, Any]) -> None:
    """Print a result as JSON on standard output; a number that is none or infinite is null."""
    print(json.dumps(_plain(value), ensure_ascii=False, allow_nan=False, indent=1), flush=True)


def records(table: "pd.DataFrame") -> list[dict[str, Any]]:
    """The rows of a table, for JSON."""
    return [dict(zip(map(str, table.columns), row, strict=True)) for row in table.to_numpy(object).tolist()]


def _plain(value: Any) -> Any:
    """Plain JSON values; NaN and infinities as null, numpy's scalars as Python's."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
