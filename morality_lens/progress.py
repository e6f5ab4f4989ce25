"""What a long computation says while it runs: its stages, and how far it is, with or without a terminal."""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

from tqdm import std
from tqdm.auto import tqdm

T = TypeVar("T")
M = TypeVar("M")
EVERY = 30.0
"""Seconds between two lines where there is no terminal."""
_said_to: ContextVar[Callable[[str], None] | None] = ContextVar("said_to", default=None)
_hidden: ContextVar[bool] = ContextVar("hidden", default=False)
_part: ContextVar[str] = ContextVar("part", default="")


@contextmanager
def listening(say: Callable[[str], None]) -> Iterator[None]:
    """Within it, ``say`` gets every stage and note."""
    token = _said_to.set(say)
    try:
        yield
    finally:
        _said_to.reset(token)


def stage(text: str) -> None:
    """Tell whoever listens what is done next; nothing is printed where nobody does."""
    say = _said_to.get()
    if say is not None:
        say(text)


@contextmanager
def hiding() -> Iterator[None]:
    """Within it, no bar and no count is shown."""
    token = _hidden.set(True)
    try:
        with without_bars():
            yield
    finally:
        _hidden.reset(token)


@contextmanager
def without_bars() -> Iterator[None]:
    """Within it, no library shows a bar: what takes seconds needs none, and in a notebook it is red.

    Each library has a switch of its own, or none, and all bars are tqdm's.
    """
    former = std.tqdm.__init__

    def silent(self: Any, *given: Any, **named: Any) -> None:
        former(self, *given, **{**named, "disable": True})

    std.tqdm.__init__ = silent
    try:
        yield
    finally:
        std.tqdm.__init__ = former


@contextmanager
def part(number: int, total: int) -> Iterator[str]:
    """``part 3 of 17``, which every bar and count within it begins with."""
    name = f"part {number} of {total}"
    token = _part.set(f"{name}, ")
    try:
        yield name
    finally:
        _part.reset(token)


@contextmanager
def explained(kept: Callable[[], str]) -> Iterator[None]:
    """Within it, an interruption says what of the computation is kept.

    The outermost one that knows of something kept has the word; a message is part of the exception, which a
    notebook and a script print last.

    Args:
        kept: gives the sentence, when it is asked for.
    """
    try:
        yield
    except KeyboardInterrupt as stopped:
        stopped.args = (kept(),)
        raise


def duration(seconds: float) -> str:
    """A time as it is read: ``40 seconds``, ``12 minutes``, ``3.5 hours``."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _in_notebook() -> bool:
    """Whether this runs in IPython, as a notebook does."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


class Counter:
    """How much of a computation is done: a bar in a terminal or notebook, else a line every half minute.

    An interruption within it says what is kept.

    Args:
        what: is counted.
        total: of them there are.
        done: were there before.
        shown: False shows nothing.
        kept: the folder in which what is finished is kept; None where nothing is.
    """

    def __init__(
        self, what: str, total: int, *, done: int = 0, shown: bool = True, kept: Path | None = None
    ) -> None:
        self._what, self._total, self._done, self._new, self._tokens = what, total, done, 0, 0
        self._began, self._over, self._kept = time.monotonic(), threading.Event(), kept
        self._where = _part.get()
        shown, notebook = shown and not _hidden.get(), _in_notebook()
        live = sys.stderr.isatty() or notebook
        self._lines = shown and not live
        # A notebook shows standard error in red, as it shows warnings.
        self._file = sys.stdout if notebook else sys.stderr
        self._bar: Any = tqdm(
            desc=self._where + what,
            total=total,
            initial=done,
            disable=not (shown and live),
            file=self._file,
        )

    def advance(self, n: int = 1, *, tokens: int = 0) -> None:
        """Count ``n`` more; ``tokens`` is how many were read and written since the count began."""
        self._new, self._tokens = self._new + n, max(tokens, self._tokens)
        self._bar.update(n)

    def note(self, text: str) -> None:
        """Print a line without disturbing the bar."""
        self._bar.clear()
        print(text, file=self._file, flush=True)
        self._bar.refresh()

    @property
    def line(self) -> str:
        """Done and total, tokens a second where they are counted, and the time left."""
        passed, done = time.monotonic() - self._began, self._done + self._new
        parts = [f"{self._where}{self._what}: {done} of {self._total}"]
        if self._tokens:
            parts.append(f"{self._tokens / passed:.0f} tokens a second")
        if self._new:
            parts.append(f"about {duration(passed / self._new * (self._total - done))} left")
        return ", ".join(parts)

    def __enter__(self) -> "Counter":
        if self._lines:
            threading.Thread(target=self._say, daemon=True).start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._over.set()
        self._bar.close()
        if isinstance(error, KeyboardInterrupt):
            self._explain(error)

    def _explain(self, stopped: KeyboardInterrupt) -> None:
        """Say in an interruption what is kept, unless something within knows of more that is."""
        said = f"stopped in {self._what} ({self._done + self._new} of {self._total})"
        if self._kept is not None:
            stopped.args = (f"{said}; what is finished is kept in {self._kept}: the same call resumes.",)
        elif not (stopped.args and isinstance(stopped.args[0], str)):
            stopped.args = (f"{said}; nothing of this is kept: the same call begins anew.",)

    def _say(self) -> None:
        while not self._over.wait(EVERY):
            print(self.line, file=sys.stderr, flush=True)


def counted(make: Callable[[T], M], values: Sequence[T], what: str, *, shown: bool = True) -> list[M]:
    """What ``make`` gives for each value, with the progress shown."""
    found = []
    with Counter(what, len(values), shown=shown) as counter:
        for value in values:
            found.append(make(value))
            counter.advance()
    return found
