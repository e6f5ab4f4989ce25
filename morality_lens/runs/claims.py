"""Who works on which part now, so that several processes share the parts of one folder.

A claim saves work; it guards nothing. A part is stored whole or not at all, and two processes that play the
same part store the same, so a claim that is lost or taken over in error costs time alone.
"""

import json
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

BEAT = 5.0
"""Seconds between two signs of life."""
STALE = 60.0
"""Seconds without one after which a claim is taken over."""
SUFFIX = ".claim"


class Worker(NamedTuple):
    """A process that claimed a part."""

    host: str
    pid: int

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @property
    def gone(self) -> bool:
        """Whether it is known to have ended: a process of this machine that is no more."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


def _me() -> Worker:
    return Worker(socket.gethostname(), os.getpid())


@contextmanager
def claimed(file: Path) -> Iterator[bool]:
    """Whether this process holds the claim on a file that is to be made, which it keeps up until the end.

    A claim of a process that has ended, or that gave no sign of life for a minute, is taken over.
    """
    claim = file.with_name(file.name + SUFFIX)
    if not _take(claim):
        yield False
        return
    over = threading.Event()
    beat = threading.Thread(target=_beat, args=(claim, over), daemon=True)
    beat.start()
    try:
        yield True
    finally:
        over.set()
        beat.join()
        claim.unlink(missing_ok=True)


def claimants(folder: Path) -> tuple[Worker, ...]:
    """The other processes that work in a folder now."""
    found = {_holder(claim) for claim in folder.glob(f"*{SUFFIX}") if not _is_stale(claim)}
    return tuple(sorted(worker for worker in found if worker is not None and worker != _me()))


def _take(claim: Path) -> bool:
    if _create(claim):
        return True
    if not _is_stale(claim):
        return False
    aside = claim.with_name(f".{claim.name}.{secrets.token_hex(4)}")
    with suppress(FileNotFoundError):  # another process took it first
        claim.rename(aside)
        aside.unlink(missing_ok=True)
    return _create(claim)


def _create(claim: Path) -> bool:
    try:
        opened = os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(opened, "w") as file:
        file.write(json.dumps(_me()._asdict()))
    return True


def _holder(claim: Path) -> Worker | None:
    try:
        return Worker(**json.loads(claim.read_text()))
    except (OSError, ValueError, TypeError):
        return None  # just being written, or being removed


def _is_stale(claim: Path) -> bool:
    holder = _holder(claim)
    if holder is not None and holder.gone:
        return True
    try:
        return _clock(claim.parent) - claim.stat().st_mtime > STALE
    except FileNotFoundError:
        return False


def _clock(folder: Path) -> float:
    """The time by the clock of a folder's file system, which may be another machine's."""
    probe = folder / f".clock.{secrets.token_hex(4)}"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _beat(claim: Path, over: threading.Event) -> None:
    while not over.wait(BEAT):
        with suppress(OSError):
            os.utime(claim)
