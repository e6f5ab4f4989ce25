"""How a command ends early: by a signal, with what is finished kept, or by an error, in one clear line."""

import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What ends a command as Ctrl-C does: a scheduler's or ``kill``'s request, and a terminal that is closed."""
EXPECTED = (ValueError, TypeError, OSError, MemoryError, ImportError, RecursionError)
"""Errors that what a user gave or what the machine lacks can cause: one line, exit code 2."""


class Stopped(KeyboardInterrupt):
    """A signal asked the process to end.

    Attributes:
        code: the exit code that a shell expects: 128 and the signal's number.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(number)
        self.code = 128 + number


def say_stopped(stopped: KeyboardInterrupt) -> int:
    """The exit code of an interruption, after a line on how to resume was printed."""
    print(
        "stopped; what is finished is kept: run the same command again to resume.",
        file=sys.stderr,
        flush=True,
    )
    return stopped.code if isinstance(stopped, Stopped) else 128 + signal.SIGINT


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Inside, a signal of :data:`SIGNALS` raises :class:`Stopped`, where the process does not ignore it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped(number)

    former = {one: signal.getsignal(one) for one in SIGNALS}
    for one, handler in former.items():
        if handler is not signal.SIG_IGN:
            signal.signal(one, stop)
    try:
        yield
    finally:
        for one, handler in former.items():
            signal.signal(one, handler)


def refuse_undecodable(arguments: Sequence[str]) -> None:
    """Nothing, where all arguments are text that a file can hold.

    Raises:
        ValueError: one holds bytes that are no UTF-8: a path that no manifest, table or report could name.
    """
    for one in arguments:
        try:
            one.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError(
                f"the argument {one!a} holds bytes that are not UTF-8; rename the file or folder so that its "
                "name is UTF-8 text."
            ) from None


def end_by(error: Exception) -> int:
    """The exit code of an error, after it was printed.

    What a user or the machine can cause is one line. Anything else is a fault of this package and is shown
    with its traceback.
    """
    if isinstance(error, EXPECTED) or _no_memory(error):
        print(f"error: {in_one_line(error)}", file=sys.stderr)
        return 2
    traceback.print_exception(error)
    print(
        "error: this is a fault of morality-lens, not of what you gave it: please report the lines above, "
        "with the command, to its maintainers. What is finished is kept.",
        file=sys.stderr,
    )
    return 1


def in_one_line(error: BaseException) -> str:
    """What an error says, in one line that can be printed."""
    said = " ".join(str(error).split()).encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(error, RecursionError):
        return f"what was read is nested too deeply ({said})."
    if said:
        return said
    if isinstance(error, MemoryError):
        return "not enough memory; take fewer items, smaller batches (--batch-size) or a smaller model."
    return type(error).__name__


def _no_memory(error: Exception) -> bool:
    """Whether a device has no memory left; the library that raises it need not be imported."""
    return type(error).__name__ == "OutOfMemoryError"
