"""What a long computation says while it runs: its stages, and how far it is, with or without a terminal."""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")
EVERY = 30.0
"""Seconds between two lines where there is no terminal."""
_said_to: ContextVar[Callable[[str], None] | None] = ContextVar("said_to", default=None)


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

    Args:
        what: is counted.
        total: of them there are.
        done: were there before.
        shown: False shows nothing.
    """

    def __init__(self, what: str, total: int, *, done: int = 0, shown: bool = True) -> None:
        self._what, self._total, self._done, self._new, self._tokens = what, total, done, 0, 0
        self._began, self._over = time.monotonic(), threading.Event()
        live = sys.stderr.isatty() or _in_notebook()
        self._lines = shown and not live
        self._bar: Any = tqdm(desc=what, total=total, initial=done, disable=not (shown and live))

    def advance(self, n: int = 1, *, tokens: int = 0) -> None:
        """Count ``n`` more; ``tokens`` is how many were read and written since the count began."""
        self._new, self._tokens = self._new + n, max(tokens, self._tokens)
        self._bar.update(n)

    def note(self, text: str) -> None:
        """Print a line without disturbing the bar."""
        self._bar.clear()
        print(text, file=sys.stderr, flush=True)
        self._bar.refresh()

    @property
    def line(self) -> str:
        """Done and total, tokens a second where they are counted, and the time left."""
        passed, done = time.monotonic() - self._began, self._done + self._new
        parts = [f"{self._what}: {done} of {self._total}"]
        if self._tokens:
            parts.append(f"{self._tokens / passed:.0f} tokens a second")
        if self._new:
            parts.append(f"about {duration(passed / self._new * (self._total - done))} left")
        return ", ".join(parts)

    def __enter__(self) -> "Counter":
        if self._lines:
            threading.Thread(target=self._say, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._bar.close()

    def _say(self) -> None:
        while not self._over.wait(EVERY):
            print(self.line, file=sys.stderr, flush=True)


def counted(values: Sequence[T], what: str, *, shown: bool = True) -> Iterator[T]:
    """The values one by one, with their progress shown."""
    with Counter(what, len(values), shown=shown) as counter:
        for value in values:
            yield value
            counter.advance()
