"""Feedback from a model behind an OpenAI-compatible server; what was answered is kept and not asked again."""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from morality_lens.design import Protocol
from morality_lens.dialogues.turns import critique_turn
from morality_lens.dialogues.wording import Wording
from morality_lens.items.files import read_jsonl, replace_file
from morality_lens.rounds.feedback import Answered, one_line

try:
    import openai
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'feedback from a server needs the package openai: pip install "morality_lens[endpoint]"'
    ) from error

KEY = "OPENAI_API_KEY"
"""The variable of the environment that holds the key."""


RETRIES, TIMEOUT, AT_ONCE = 6, 60.0, 4
"""Attempts after the first (time-outs, rate limits and server errors; each waits longer, as the server asks),
seconds until one is given up, and requests under way at a time."""


@dataclass(kw_only=True, eq=False)
class Endpoint:
    """A critic behind a server.

    The key is read from the environment by the client; it is neither stored nor printed. Servers on one's
    own machine that want none get a placeholder.

    Attributes:
        protocol: address, model, temperature and most tokens of a remark.
        wording: the words of the question.
        cache: a JSONL file of what was answered.
        retries: attempts after the first.
        timeout: seconds until an attempt is given up.
    """

    protocol: Protocol
    wording: Wording
    cache: Path
    retries: int = RETRIES
    timeout: float = TIMEOUT
    tokens: int = 0
    said: dict[str, str] = field(default_factory=dict)
    client: Any = None

    def __post_init__(self) -> None:
        address = self.protocol.feedback_from
        if not os.environ.get(KEY) and address is None:
            raise ValueError(f"feedback from the official server needs a key: put it into {KEY}.")
        self.client = openai.OpenAI(
            base_url=address,
            api_key=os.environ.get(KEY) or "none",
            max_retries=self.retries,
            timeout=self.timeout,
        )
        self._lock = Lock()
        if self.cache.is_file():
            _drop_torn_line(self.cache)
            if self.cache.stat().st_size:
                self.said = {row["key"]: row["remark"] for _, row in read_jsonl(self.cache)}

    def remarks(self, asked: Sequence[Answered]) -> list[str]:
        """What the server's model says of each answer; every question is put once, over all runs in a folder.

        Raises:
            ConnectionError: the server cannot be reached, refuses, or says nothing usable; what it answered
                before is kept.
        """
        index = self.protocol.wording_index
        turns = [critique_turn(a.item, a.answer, self.wording, index).content for a in asked]
        new = list(dict.fromkeys(text for text in turns if self._key(text) not in self.said))
        if new:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(self._ask, new))
        return [self.said[self._key(text)] for text in turns]

    def _key(self, text: str) -> str:
        p = self.protocol
        asked = [p.feedback_from, p.feedback_model, p.feedback_tokens, p.temperature, p.design.seed, text]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()

    def _ask(self, text: str) -> None:
        p = self.protocol
        try:
            answer = self.client.chat.completions.create(
                model=p.feedback_model,
                messages=[{"role": "user", "content": text}],
                max_tokens=p.feedback_tokens,
                temperature=p.temperature,
                seed=p.design.seed,
            )
            remark = one_line(answer.choices[0].message.content or "")
        except (openai.OpenAIError, IndexError, AttributeError) as error:
            where = p.feedback_from or "the official server"
            raise ConnectionError(
                f"no feedback from {p.feedback_model} at {where} ({type(error).__name__}: {_plain(error)}). "
                "What was answered is kept: mend it and give the same command again."
            ) from error
        with self._lock:
            self.said[self._key(text)] = remark
            with self.cache.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": self._key(text), "remark": remark}, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())


def _plain(error: Exception) -> str:
    """The error in one line, without the key, should a server repeat it."""
    text = " ".join(str(error).split())[:200]
    key = os.environ.get(KEY)
    return text.replace(key, "(key)") if key else text


def _drop_torn_line(file: Path) -> None:
    """Cut off a last line that was not written whole."""
    raw = file.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    if whole != raw:
        replace_file(file, lambda draft: draft.write_bytes(whole))
