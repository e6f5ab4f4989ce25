"""An OpenAI-compatible server: its client, its replies kept on disk, and its errors in one line."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar
from urllib.parse import quote

from morality_lens.items.files import append_text, read_jsonl, reading, replace_file

try:
    import openai
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'replies and feedback from a server need the package openai: pip install "morality_lens[endpoint]"'
    ) from error

T = TypeVar("T")
R = TypeVar("R")
KEY = "OPENAI_API_KEY"
"""The environment variable that holds the key."""
SHOWN = 12
"""The shortest key whose beginning and end alone are taken for it."""
RETRIES = 6
"""Attempts after the first (at time-outs, rate limits and server errors, with growing delays)."""


def connect(address: str | None, *, for_what: str, retries: int, timeout: float) -> openai.OpenAI:
    """The client of a server.

    It reads the key from the environment; it is neither stored nor printed. A local server that needs none
    gets a placeholder.

    Args:
        address: of the server; None is the official one.
        for_what: what it is asked for.
        retries: attempts after the first.
        timeout: seconds until an attempt is given up.

    Raises:
        ValueError: the official server without a key, or an address that holds the key.
    """
    key = os.environ.get(KEY)
    if not key and address is None:
        raise ValueError(f"{for_what} from the official server needs a key: put it into {KEY}.")
    if key and key in (address or ""):
        raise ValueError(f"the server's address holds the key itself; leave it out, {KEY} has it.")
    return openai.OpenAI(base_url=address, api_key=key or "none", max_retries=retries, timeout=timeout)


def hash_of(request: Sequence[Any]) -> str:
    """What identifies a request among those that were made."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def plain(error: object) -> str:
    """An error or a server's words in one line, without the key, in case a server repeats it."""
    return scrubbed(" ".join(str(error).split()))[:200]


def scrubbed(text: str) -> str:
    """The text with the key, where a server repeats it, and its beginning or end, replaced by a word.

    Servers show a key that they refuse with stars in its middle; what they show of it goes too.
    """
    key = os.environ.get(KEY)
    if key:
        text = text.replace(key, "(key)").replace(quote(key, safe=""), "(key)")
        if len(key) >= SHOWN:
            ends = (re.escape(key[:4]) + r"[\w-]*\*{2,}[\w*-]*", r"[\w-]*\*{2,}[\w*-]*" + re.escape(key[-4:]))
            text = re.sub("|".join(ends), "(key)", text)
    return text


def failure_of(reply: Any) -> str | None:
    """The words of an error that a server sent as a reply; None where it is none."""
    error = getattr(reply, "error", None)
    if not error:
        return None
    return plain(error.get("message", error) if isinstance(error, dict) else error)


def at_once(ask: Callable[[T], R], values: Sequence[T], most: int) -> list[R]:
    """What ``ask`` gives for each value, at most so many asked at a time; the first error ends them all.

    At an interruption nothing is waited for: what is under way could take minutes.
    """
    pool, wait = ThreadPoolExecutor(most), True
    try:
        return list(pool.map(ask, values))
    except KeyboardInterrupt:
        wait = False
        raise
    finally:
        pool.shutdown(wait=wait, cancel_futures=True)


class Kept:
    """A server's replies on disk, one a line, each written whole; several threads may add to them."""

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, Lock()

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows so far; a last line that was not written completely is removed."""
        if self.path.is_file():
            _drop_torn_line(self.path)
            if self.path.stat().st_size:
                with reading(self.path, "cache of a server's replies", "remove it."):
                    yield from (row for _, row in read_jsonl(self.path))

    def add(self, row: dict[str, Any]) -> None:
        """Write a row to the disk."""
        line = json.dumps(row, ensure_ascii=False) + "\n"
        with self._lock:
            append_text(self.path, line)


def _drop_torn_line(file: Path) -> None:
    """Remove a last line that was not written completely."""
    raw = file.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    if whole != raw:
        replace_file(file, lambda draft: draft.write_bytes(whole))
