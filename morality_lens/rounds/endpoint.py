"""Feedback from a model behind an OpenAI-compatible server, whose replies are cached."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any

from morality_lens.design import Protocol
from morality_lens.dialogues.turns import critique_turn
from morality_lens.dialogues.wording import Wording
from morality_lens.progress import stage
from morality_lens.rounds.feedback import ReviewedAnswer, Said, said, without_thoughts
from morality_lens.rounds.server import (
    KEY as KEY,
    RETRIES,
    Kept,
    at_once,
    connect,
    failure_of,
    hash_of,
    openai,
    plain,
    scrubbed,
)

TIMEOUT, AT_ONCE = 60.0, 4
"""Seconds until an attempt is given up, and concurrent requests."""
AGAIN = 2
"""Further attempts where a reply holds no feedback."""
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
        self.client = connect(
            self.protocol.feedback_from, for_what="feedback", retries=self.retries, timeout=self.timeout
        )
        self._lock, self._over = Lock(), False
        self._wanted: set[str] = set()
        self._kept = Kept(self.cache)
        rows = ((row["key"], _stored(row)) for row in self._kept.rows())
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
        try:
            at_once(self._request, new, AT_ONCE)
        except KeyboardInterrupt:
            self._over = True
            self.client.close()
            raise
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
        return hash_of(request)

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
            self._kept.add({"key": key, "feedback": found.text, "cut": found.cut})

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
                return _Failure(kind="filtered", words=plain(error))
            raise self._unusable(error) from error
        except (openai.OpenAIError, json.JSONDecodeError) as error:
            raise self._unusable(error) from error
        return _read(reply)

    def _unusable(self, error: Exception) -> ConnectionError:
        return ConnectionError(
            f"no feedback from {self._name} ({type(error).__name__}: {plain(error)}). "
            "Its earlier replies are kept: repair the connection and repeat the command to resume."
        )


def _read(reply: Any) -> Said | _Failure:
    """The feedback in a server's reply, or what came in its place."""
    error = failure_of(reply)
    if error is not None:
        return _Failure(kind="errors of the server", words=error)
    choices = getattr(reply, "choices", None)
    if not choices:
        return _Failure(kind="replies without a choice", words=plain(reply if isinstance(reply, str) else ""))
    message, why = choices[0].message, choices[0].finish_reason
    if why == "content_filter":
        return _Failure(kind="filtered")
    if getattr(message, "refusal", None):
        return _Failure(kind="refused", words=plain(message.refusal))
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
