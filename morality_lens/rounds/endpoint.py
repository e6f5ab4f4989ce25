"""Feedback from a model behind an OpenAI-compatible server, whose replies are cached."""

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
from morality_lens.rounds.feedback import ReviewedAnswer, Said, said

try:
    import openai
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'feedback from a server needs the package openai: pip install "morality_lens[endpoint]"'
    ) from error

KEY = "OPENAI_API_KEY"
"""The environment variable that holds the key."""
RETRIES, TIMEOUT, AT_ONCE = 6, 60.0, 4
"""Attempts after the first (at time-outs, rate limits and server errors, with growing delays), seconds until
an attempt is given up, and concurrent requests."""


@dataclass(kw_only=True, eq=False)
class Endpoint:
    """A model behind a server that reviews answers.

    The client reads the key from the environment; it is neither stored nor printed. A local server that needs
    none gets a placeholder.

    Attributes:
        protocol: address, model, temperature and most tokens of a feedback text.
        wording: of the request.
        cache: a JSONL file of the server's replies.
        retries: attempts after the first.
        timeout: seconds until an attempt is given up.
        tokens: fed to a local model: none.
        known: feedback texts by the hash of their request.
        client: of the server.
    """

    protocol: Protocol
    wording: Wording
    cache: Path
    retries: int = RETRIES
    timeout: float = TIMEOUT
    tokens: int = 0
    known: dict[str, str] = field(default_factory=dict)
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
                self.known = {row["key"]: _stored(row) for _, row in read_jsonl(self.cache)}

    def feedback(self, answers: Sequence[ReviewedAnswer]) -> list[Said | None]:
        """The feedback of the server's model on each answer; every request is made once.

        Raises:
            ConnectionError: the server cannot be reached, refuses, or its reply cannot be used; its earlier
                replies are kept.
        """
        index = self.protocol.wording_index
        turns = [critique_turn(a.item, a.answer, self.wording, index).content for a in answers]
        new = list(dict.fromkeys(text for text in turns if self._key(text) not in self.known))
        if new:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(self._request, new))
        return [said(self.known[self._key(text)]) for text in turns]

    def _key(self, text: str) -> str:
        p = self.protocol
        request = [p.feedback_from, p.feedback_model, p.feedback_tokens, p.temperature, p.design.seed, text]
        return hashlib.sha256(json.dumps(request).encode()).hexdigest()

    def _request(self, text: str) -> None:
        p = self.protocol
        try:
            answer = self.client.chat.completions.create(
                model=p.feedback_model,
                messages=[{"role": "user", "content": text}],
                max_tokens=p.feedback_tokens,
                temperature=p.temperature,
                seed=p.design.seed,
            )
            feedback = answer.choices[0].message.content or ""
        except (openai.OpenAIError, IndexError, AttributeError) as error:
            where = p.feedback_from or "the official server"
            raise ConnectionError(
                f"no feedback from {p.feedback_model} at {where} ({type(error).__name__}: {_plain(error)}). "
                "Its earlier replies are kept: repair the connection and repeat the command to resume."
            ) from error
        with self._lock:
            self.known[self._key(text)] = feedback
            row = {"key": self._key(text), "feedback": feedback}
            with self.cache.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())


def _stored(row: dict[str, Any]) -> str:
    """The feedback text of a cached reply, under its present name or its former one."""
    return row["feedback"] if "feedback" in row else row["remark"]


def _plain(error: Exception) -> str:
    """The error in one line, without the key, in case a server repeats it."""
    text = " ".join(str(error).split())[:200]
    key = os.environ.get(KEY)
    return text.replace(key, "(key)") if key else text


def _drop_torn_line(file: Path) -> None:
    """Remove a last line that was not written completely."""
    raw = file.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    if whole != raw:
        replace_file(file, lambda draft: draft.write_bytes(whole))
