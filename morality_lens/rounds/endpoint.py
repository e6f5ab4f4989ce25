"""Feedback from a model behind an OpenAI-compatible server, whose replies are cached."""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import quote

from morality_lens.design import Protocol
from morality_lens.dialogues.turns import critique_turn
from morality_lens.dialogues.wording import Wording
from morality_lens.items.files import append_text, read_jsonl, reading, replace_file
from morality_lens.progress import stage
from morality_lens.rounds.feedback import ReviewedAnswer, Said, said, without_thoughts

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
AGAIN = 2
"""Further attempts where a reply holds no feedback."""
SHOWN = 12
"""The shortest key whose beginning and end alone are taken for it."""
MOST_FAILED, FEW, MANY = 0.2, 3, 20
"""The share of requests without feedback above which a run stops, the fewest failures that stop it, and the
requests after which it stops in the middle of a batch."""


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """A reply without feedback: its kind, the server's words, and whether the limit may be the cause."""

    kind: str
    words: str = ""
    short: bool = False


@dataclass(kw_only=True, eq=False)
class Endpoint:
    """A model behind a server that reviews answers.

    The client reads the key from the environment; it is neither stored nor printed. A local server that needs
    none gets a placeholder. A reply that is empty, a refusal, filtered, an error, or thoughts alone is
    requested again; in the end the feedback is missing, and the run stops where that is frequent. A reply
    that reaches the limit ends after its last whole sentence: a longer one would not fit into the dialogue.

    Attributes:
        protocol: address, model, temperature and most tokens of a feedback text.
        wording: of the request.
        cache: a JSONL file of the server's feedback.
        retries: attempts after the first.
        timeout: seconds until an attempt is given up.
        tokens: fed to a local model: none.
        known: feedback by the hash of its request.
        failed: why a request brought no feedback, by the hash of the request; not kept on disk.
        client: of the server.
    """

    protocol: Protocol
    wording: Wording
    cache: Path
    retries: int = RETRIES
    timeout: float = TIMEOUT
    tokens: int = 0
    known: dict[str, Said] = field(default_factory=dict)
    failed: dict[str, _Failure] = field(default_factory=dict)
    client: Any = None

    def __post_init__(self) -> None:
        address, key = self.protocol.feedback_from, os.environ.get(KEY)
        if not key and address is None:
            raise ValueError(f"feedback from the official server needs a key: put it into {KEY}.")
        if key and key in (address or ""):
            raise ValueError(f"the server's address holds the key itself; leave it out, {KEY} has it.")
        self.client = openai.OpenAI(
            base_url=address, api_key=key or "none", max_retries=self.retries, timeout=self.timeout
        )
        self._lock = Lock()
        self._over = False
        self._wanted: set[str] = set()
        if self.cache.is_file():
            _drop_torn_line(self.cache)
            if self.cache.stat().st_size:
                with reading(self.cache, "cache of a server's feedback", "remove it."):
                    rows = [(row["key"], _stored(row)) for _, row in read_jsonl(self.cache)]
                self.known = {key: given for key, given in rows if given is not None}

    def feedback(self, answers: Sequence[ReviewedAnswer]) -> list[Said | None]:
        """The feedback of the server's model on each answer, None where it gave none.

        Every request is made once, but for those that failed before the run was resumed.

        Raises:
            ConnectionError: the server cannot be reached, refuses, its reply cannot be used, or more than a
                fifth of the requests brought no feedback; its earlier replies are kept.
        """
        index = self.protocol.wording_index
        turns = [critique_turn(a.item, a.answer, self.wording, index).content for a in answers]
        new = list(
            dict.fromkeys(text for text in turns if self._key(text) not in {**self.known, **self.failed})
        )
        self._wanted.update(self._key(text) for text in turns if self._key(text) in self.known)
        if new:
            pool = ThreadPoolExecutor(AT_ONCE)
            try:
                list(pool.map(self._request, new))
            except KeyboardInterrupt:  # what is under way is not waited for: it could take minutes
                self._over = True
                pool.shutdown(wait=False, cancel_futures=True)
                self.client.close()
                raise
            finally:
                pool.shutdown(wait=not self._over, cancel_futures=True)
        self._refuse_frequent_failure()
        if any(self._key(text) in self.failed for text in new):
            stage(f"{self._name} gave no feedback on {self.failures}; neutral words stand in for it")
        return [self.known.get(self._key(text)) for text in turns]

    @property
    def failures(self) -> str:
        """How often which kind of reply came in place of feedback; empty where none did."""
        counts = Counter(failure.kind for failure in self.failed.values())
        words = {failure.kind: failure.words for failure in self.failed.values() if failure.words}
        kinds = [
            f"{n} {kind}" + (f' ("{words[kind]}")' if kind in words else "") for kind, n in counts.items()
        ]
        return f"{len(self.failed)} of {len(self._wanted)} requests: {', '.join(kinds)}" if kinds else ""

    def _refuse_frequent_failure(self) -> None:
        if len(self.failed) >= FEW and len(self.failed) > MOST_FAILED * len(self._wanted):
            raise ConnectionError(
                f"{self._name} gave no feedback on {self.failures}. Finished batches and its usable replies "
                "are kept. Raise feedback_tokens where thoughts alone came or the limit was reached, take "
                "another model or wording where it refuses, then repeat the command to resume."
            )

    @property
    def _name(self) -> str:
        return f"{self.protocol.feedback_model} at {self.protocol.feedback_from or 'the official server'}"

    def _key(self, text: str) -> str:
        p = self.protocol
        request = [p.feedback_from, p.feedback_model, p.limits.feedback, p.temperature, p.design.seed, text]
        if p.feedback_request:
            request.append(dict(p.feedback_request))
        return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()

    def _request(self, text: str) -> None:
        """Ask for one feedback, some times over where the reply holds none, and keep what came."""
        key, limit = self._key(text), self.protocol.limits.feedback
        found: Said | _Failure = _Failure(kind="not asked")
        for attempt in range(1 + AGAIN):
            if self._over:
                return
            found = self._attempt(text, limit, attempt)
            if isinstance(found, Said):
                break
            limit = 2 * limit if found.short else limit
        with self._lock:
            self._wanted.add(key)
            if isinstance(found, _Failure):
                self.failed[key] = found
                if len(self._wanted) >= MANY:
                    self._refuse_frequent_failure()
                return
            self.known[key] = found
            row = {"key": key, "feedback": found.text, "cut": found.cut}
            append_text(self.cache, json.dumps(row, ensure_ascii=False) + "\n")

    def _attempt(self, text: str, limit: int, attempt: int) -> Said | _Failure:
        """One request; another attempt has another seed, which a server that is deterministic needs."""
        p = self.protocol
        longest = {} if "max_completion_tokens" in p.feedback_request else {"max_tokens": limit}
        try:
            reply = self.client.chat.completions.create(
                model=p.feedback_model,
                messages=[{"role": "user", "content": text}],
                temperature=p.temperature,
                seed=p.design.seed + attempt,
                extra_body=dict(p.feedback_request),
                **longest,
            )
        except openai.BadRequestError as error:
            if "content_filter" in str(error) or "content_policy" in str(error):
                return _Failure(kind="filtered", words=_plain(error))
            raise self._unusable(error) from error
        except (openai.OpenAIError, json.JSONDecodeError) as error:
            raise self._unusable(error) from error
        return _read(reply)

    def _unusable(self, error: Exception) -> ConnectionError:
        return ConnectionError(
            f"no feedback from {self._name} ({type(error).__name__}: {_plain(error)}). "
            "Its earlier replies are kept: repair the connection and repeat the command to resume."
        )


def _read(reply: Any) -> Said | _Failure:
    """The feedback in a server's reply, or what came in its place."""
    error = getattr(reply, "error", None)
    if error:
        words = error.get("message", error) if isinstance(error, dict) else error
        return _Failure(kind="errors of the server", words=_plain(words))
    choices = getattr(reply, "choices", None)
    if not choices:
        return _Failure(
            kind="replies without a choice", words=_plain(reply if isinstance(reply, str) else "")
        )
    message, why = choices[0].message, choices[0].finish_reason
    if why == "content_filter":
        return _Failure(kind="filtered")
    if getattr(message, "refusal", None):
        return _Failure(kind="refused", words=_plain(message.refusal))
    return _visible(message, cut=why == "length")


def _visible(message: Any, *, cut: bool) -> Said | _Failure:
    """The feedback in a message, without what the model thought aloud."""
    content = getattr(message, "content", None)
    content = content if isinstance(content, str) else ""
    found = said(scrubbed(without_thoughts(content)), cut=cut)
    if found:
        return found
    thoughts = (
        content.strip() or getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
    )
    if thoughts:
        return _Failure(kind="thoughts alone", short=cut)
    return _Failure(kind="cut before the first word" if cut else "empty", short=cut)


def _stored(row: dict[str, Any]) -> Said | None:
    """The feedback of a cached reply, under its present name or its former one; None for an empty one."""
    text = row["feedback"] if "feedback" in row else row["remark"]
    if text == "(nothing)":  # what earlier versions kept of an empty reply
        return None
    found = said(without_thoughts(text))
    return replace(found, cut=bool(row.get("cut"))) if found else None


def _plain(error: object) -> str:
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


def _drop_torn_line(file: Path) -> None:
    """Remove a last line that was not written completely."""
    raw = file.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    if whole != raw:
        replace_file(file, lambda draft: draft.write_bytes(whole))
