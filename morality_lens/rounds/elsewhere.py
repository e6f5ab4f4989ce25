"""Replies from a server that runs the same model; each finished dialogue is read once by the engine."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from morality_lens.design import Protocol
from morality_lens.dialogues import rendering
from morality_lens.dialogues.rendering import Renderer, Transcript
from morality_lens.dialogues.script import Exchange, until_reply
from morality_lens.dialogues.thinking import THOUGHT
from morality_lens.dialogues.turns import critique_turn, statement_turn, system_turns
from morality_lens.dialogues.wording import Wording
from morality_lens.items.kinds import Item
from morality_lens.models.loading import ModelRecord
from morality_lens.progress import stage
from morality_lens.rounds.capture import Capture
from morality_lens.rounds.endings import line_ends
from morality_lens.rounds.feedback import Critic, ReviewedAnswer, Said, said
from morality_lens.rounds.feedback_text import FeedbackText
from morality_lens.rounds.player import Player
from morality_lens.rounds.reading import Dialogue, Reader
from morality_lens.rounds.row import Row, say
from morality_lens.rounds.server import (
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
from morality_lens.rounds.tables import answer_rows
from morality_lens.runs.agreement import NOTABLE, agreement
from morality_lens.runs.writing import PlayedBatch

TIMEOUT, AT_ONCE = 600.0, 32
"""Seconds until an attempt is given up (a busy server lets requests wait), and concurrent requests."""
FEW, MOST_EMPTY = 8, 0.5
"""A run stops when more than this share of the replies is empty, and at least so many of them."""
MARKS = 16
"""Tokens that the marks of thoughts may take."""
_WITHOUT_PREFIX = "Leave out answer_prefix, or take a server that does (vLLM), or generate='engine'."


@dataclass(frozen=True, kw_only=True)
class Written:
    """A reply as the server wrote it.

    Attributes:
        text: without thoughts.
        thought: the thoughts before it; None where there were none.
        ended: whether it ended by itself rather than at the limit.
        prompt: tokens of the prompt, as the server counts them; None where it does not say.
        count: tokens of all that it wrote, likewise.
        ids: their ids, where the server gives them.
    """

    text: str
    thought: str | None = None
    ended: bool = True
    prompt: int | None = None
    count: int | None = None
    ids: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A request for a reply.

    Attributes:
        messages: the dialogue so far.
        limit: most tokens.
        seed: of random numbers.
        begun: whether the last message is a reply to be continued.
    """

    messages: tuple[tuple[tuple[str, str], ...], ...]
    limit: int
    seed: int
    begun: bool = False

    @staticmethod
    def after(renderer: Renderer, transcript: Transcript, *, limit: int, seed: int) -> "Wanted":
        """The request for the reply that follows a transcript."""
        said = rendering.messages(renderer, transcript)
        messages = tuple(tuple(message.items()) for message in said)
        return Wanted(messages=messages, limit=limit, seed=seed, begun=said[-1]["role"] == "assistant")


@dataclass(kw_only=True, eq=False)
class Chat:
    """The server; no request is made twice, not even over several starts.

    Attributes:
        protocol: address, model, temperature.
        keywords: variables of the chat template.
        stop: texts that end a reply.
        cache: a JSONL file of the server's replies.
        retries: attempts after the first.
        known: replies by the hash of their request.
    """

    protocol: Protocol
    keywords: dict[str, Any]
    stop: tuple[str, ...]
    cache: Path
    retries: int = RETRIES
    known: dict[str, Written] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.client = connect(
            self.protocol.generate_from, for_what="replies", retries=self.retries, timeout=TIMEOUT
        )
        self._kept = Kept(self.cache)
        self.known = {row.pop("key"): _stored(row) for row in self._kept.rows()}
        self._asked = self._empty = 0  # since this start

    @property
    def name(self) -> str:
        """The model and the server in words."""
        return f"{self.protocol.generate_model} at {self.protocol.generate_from or 'the official server'}"

    def replies(self, wanted: Sequence[Wanted]) -> list[Written]:
        """The reply to each request.

        Raises:
            ConnectionError: the server cannot be reached, refuses, or its replies cannot be used; those that
                came are kept.
        """
        keys = [self._key(one) for one in wanted]
        new = {key: one for key, one in zip(keys, wanted, strict=True) if key not in self.known}
        try:
            at_once(self._request, list(new.items()), AT_ONCE)
        except KeyboardInterrupt:
            self.client.close()
            raise
        self._refuse_empty([self.known[key] for key in new])
        return [self.known[key] for key in keys]

    def _key(self, wanted: Wanted) -> str:
        p = self.protocol
        what = [p.generate_from, p.generate_model, p.temperature, dict(p.generate_request), self.keywords]
        return hash_of([*what, asdict(wanted)])

    def _request(self, new: tuple[str, Wanted]) -> None:
        key, wanted = new
        written = self.ask(wanted)
        self.known[key] = written
        self._kept.add({"key": key, **asdict(written)})

    def ask(self, wanted: Wanted) -> Written:
        """One reply, not kept."""
        p, more = self.protocol, dict(self.protocol.generate_request)
        if self.keywords:
            more = {"chat_template_kwargs": self.keywords, **more}
        if wanted.begun:
            more |= {"continue_final_message": True, "add_generation_prompt": False}
        if "max_completion_tokens" not in more:
            more["max_tokens"] = wanted.limit
        if self.stop:
            more.setdefault("stop", list(self.stop))
        messages: Any = [dict(message) for message in wanted.messages]
        try:
            reply = self.client.chat.completions.create(
                model=p.generate_model or "",  # which the protocol refuses
                messages=messages,
                temperature=p.temperature,
                seed=wanted.seed,
                extra_body=more,
            )
        except (openai.OpenAIError, ValueError) as error:
            raise self._unusable(f"{type(error).__name__}: {plain(error)}") from error
        return self._read(reply)

    def _read(self, reply: Any) -> Written:
        """The reply in what a server sent."""
        error, choices = failure_of(reply), getattr(reply, "choices", None)
        if error is not None or not choices:
            words = plain(reply) if isinstance(reply, str) else "a reply without a choice"
            raise self._unusable(words if error is None else f"it says: {error}")
        message, why = choices[0].message, choices[0].finish_reason
        if why == "content_filter" or getattr(message, "refusal", None):
            said = plain(getattr(message, "refusal", None) or "its content filter was on")
            raise self._unusable(f"the server refuses: {said}")
        return _written(reply, message, ended=why != "length")

    def _refuse_empty(self, new: Sequence[Written]) -> None:
        self._asked += len(new)
        self._empty += sum(not one.text.strip() and not one.thought for one in new)
        if self._empty >= FEW and self._empty > MOST_EMPTY * self._asked:
            raise self._unusable(f"{self._empty} of {self._asked} replies are empty")

    def _unusable(self, why: str) -> ConnectionError:
        return ConnectionError(
            f"no reply from {self.name} ({why}). Finished batches and its earlier replies are kept: repair "
            "the connection or the server and repeat the command to resume."
        )


def _written(reply: Any, message: Any, *, ended: bool) -> Written:
    """A message with what the server counts of it."""
    usage = getattr(reply, "usage", None)
    content = getattr(message, "content", None)
    thought = getattr(message, "reasoning_content", None) or getattr(message, "reasoning", None)
    ids = getattr(reply.choices[0], "token_ids", None)
    return Written(
        text=scrubbed(_clean(content)) if isinstance(content, str) else "",
        thought=scrubbed(_clean(thought)) if isinstance(thought, str) else None,
        ended=ended,
        prompt=getattr(usage, "prompt_tokens", None),
        count=getattr(usage, "completion_tokens", None),
        ids=None if ids is None else tuple(ids),
    )


def _clean(text: str) -> str:
    """The text with a sign for every half of a surrogate pair, which no tokenizer reads."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _stored(row: dict[str, Any]) -> Written:
    """A reply from the disk."""
    return Written(**{**row, "ids": None if row["ids"] is None else tuple(row["ids"])})


@dataclass(kw_only=True, eq=False)
class Reviewer:
    """The model behind the server as it reviews its own answers, in dialogues of their own."""

    chat: Chat
    record: ModelRecord
    protocol: Protocol
    wording: Wording
    tokens: int = 0

    def feedback(self, answers: Sequence[ReviewedAnswer]) -> list[Said | None]:
        """The model's feedback on each answer, None where it gave none."""
        asked = [self._asked(one) for one in answers]
        wanted = [
            Wanted.after(
                self.record.renderer,
                transcript,
                limit=1 + self.protocol.limits.feedback + _room(self.record, self.protocol, transcript),
                seed=seed_of(self.protocol, f"{one.item.id}|{one.answer}|critique"),
            )
            for one, transcript in zip(answers, asked, strict=True)
        ]
        replies = self.chat.replies(wanted)
        return [self._read(t, written) for t, written in zip(asked, replies, strict=True)]

    def _asked(self, one: ReviewedAnswer) -> Transcript:
        """The request for feedback on an answer."""
        turn = critique_turn(one.item, one.answer, self.wording, self.protocol.wording_index)
        before = system_turns(self.protocol.system_prompt)
        return rendering.append_turn(self.record.renderer, Transcript(), *before, turn, round=0)

    def _read(self, asked: Transcript, written: Written) -> Said | None:
        """The feedback in a reply, up to where the model itself would have ended it."""
        renderer, limit = self.record.renderer, self.protocol.limits.feedback
        text: str | None = written.text
        if _room(self.record, self.protocol, asked):
            thought, text = parted(renderer, written)
            spent = len(rendering.tokens_of_reply(renderer, asked, thought))
            text = text if spent < self.protocol.limits.thinking else None
        ids = rendering.tokens_of_reply(renderer, asked, text or "")
        end = next((n for n, token in enumerate(ids) if token in self.record.stops), len(ids))
        ended = end < min(len(ids), limit) or (written.ended and end < limit)
        return said(
            renderer.tokenizer.decode(ids[: min(end, limit)], skip_special_tokens=True), cut=not ended
        )


def _room(record: ModelRecord, protocol: Protocol, asked: Transcript) -> int:
    """Tokens that thoughts may take before a reply."""
    thinking = protocol.limits.thinking and rendering.thinks(record.renderer, asked)
    return protocol.limits.thinking + MARKS if thinking else 0


def seed_of(protocol: Protocol, key: str) -> int:
    """The seed of a reply; at temperature 0 it is the same for all, so that nothing is asked twice."""
    if protocol.temperature == 0:
        return protocol.design.seed
    digest = hashlib.sha256(f"{protocol.design.seed}|{key}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


@dataclass(kw_only=True, eq=False)
class Elsewhere(Player):
    """Plays batches of items whose replies a server writes.

    Attributes:
        cache: a JSONL file of the server's replies.
    """

    cache: Path
    retries: int = RETRIES

    def __post_init__(self) -> None:
        renderer = self.record.renderer
        self.chat = Chat(
            protocol=self.protocol,
            keywords=dict(renderer.keywords),
            stop=("\n",) if renderer.plain else (),
            cache=self.cache,
            retries=self.retries,
        )
        if isinstance(self.source, Critic) and self.protocol.feedback == "self":
            self.source = Reviewer(
                chat=self.chat, record=self.record, protocol=self.protocol, wording=self.wording
            )
        super().__post_init__()
        self._warned = False

    def greet(self) -> None:
        """Ask for one token, and say where the server makes another prompt of a dialogue than this model.

        Raises:
            ValueError: the protocol asks for what this server or any server cannot do.
            ConnectionError: the server does not reply.
        """
        renderer, script = self.record.renderer, self.script
        asked = rendering.append_turn(renderer, Transcript(), statement_turn("A question."), round=0)
        thinks = rendering.thinks(renderer, asked)
        if thinks and not script.thinking:
            raise ValueError(
                "a server cannot be told to skip thoughts by thinking_tokens=0; give the variable of the "
                "model's chat template that does (--template enable_thinking=false, for many), or "
                "generate='engine'."
            )
        if thinks and script.answer_prefix:
            raise ValueError(
                "a server cannot begin the answer of a model that thinks first; leave out answer_prefix, or "
                "take generate='engine'."
            )
        begun = rendering.begin_reply(renderer, asked, round=0, prefix=script.answer_prefix)
        ours = len((asked if thinks else begun).token_ids)
        wanted = Wanted.after(renderer, asked if thinks else begun, limit=1, seed=self.protocol.design.seed)
        try:
            theirs = self.chat.ask(wanted).prompt
        except ConnectionError as error:
            if not wanted.begun:
                raise
            raise ValueError(
                f"{self.chat.name} does not continue a reply that is begun for it ({error.__cause__ or error}"
                f"), so answers cannot begin with {script.answer_prefix!r}. {_WITHOUT_PREFIX}"
            ) from error
        if wanted.begun and theirs != ours:
            raise ValueError(
                f"{self.chat.name} does not continue a reply that is begun for it (its prompt has {theirs} "
                f"tokens and should have {ours}), so answers cannot begin with {script.answer_prefix!r}. "
                f"{_WITHOUT_PREFIX}"
            )
        if theirs is not None and theirs != ours:
            stage(
                f"{self.chat.name} makes a prompt of {theirs} tokens where this model's template makes "
                f"{ours}: it has another template or tokenizer, and its replies may answer other words"
            )

    def play(
        self, items: Sequence[Item], advance: Callable[[int], object], *, begun: Sequence[Row] = ()
    ) -> PlayedBatch:
        """All rounds of all conditions of these items; see :meth:`Player.play`."""
        started, self.tokens, before = time.perf_counter(), 0, self.source.tokens
        design = self.protocol.design
        self.capture = Capture(self.record, design, items, self.script.prefix("answer"), self.layers)
        self.answers: list[dict[str, Any]] = []
        places = {item.id: place for place, item in enumerate(items)}
        opened: list[Dialogue] = []
        played = [
            Dialogue(row=replace(row, place=places[row.item.id]), first=row.number + 1)
            for row in begun
            if row.item.id in places
        ]
        if not begun:
            opened = [Dialogue(row=row) for row in self._opening_rows(items)]
            self._play_round(opened, 0)
            advance(len(items) * len(design.conditions))
            played = [dialogue for one in opened for dialogue in self._branches(one)]
        for number in range(played[0].row.number + 1, design.n_rounds):
            self._play_round(played, number)
            advance(len(played))
        reader = Reader(record=self.record, script=self.script, capture=self.capture)
        reader.read(opened, played)
        self.tokens += reader.tokens + self.source.tokens - before
        for row in self.answers:
            key = (row["place"], row["cell"], row["round"])
            row["served_differ"], row["served_tokens"] = reader.differ.get(key, (0, 0))
        batch = self._played(items, [d.row for d in played], started)
        self._warn(batch.answers)
        return batch

    def _branches(self, opened: Dialogue) -> list[Dialogue]:
        """The dialogues of all conditions that share an opening."""
        row, conditions = opened.row, self.protocol.design.conditions
        rows = [replace(row, condition=conditions[c], cells=(c,), kept=list(row.kept)) for c in row.cells]
        return [Dialogue(row=one, cut=set(opened.cut)) for one in rows]

    def _warn(self, answers: pd.DataFrame) -> None:
        """Say once that the server's tokens are not those of this model."""
        found = agreement(answers, self.protocol.design)
        if found and self.protocol.temperature == 0 and found["share"] > NOTABLE and not self._warned:
            self._warned = True
            stage(
                f"{100 * found['share']:.1f} % of the tokens that {self.chat.name} wrote are not the most "
                "probable ones here: it has other weights, another precision or another template"
            )

    # ------------------------------------------------------------------------------------- one round
    def _play_round(self, dialogues: Sequence[Dialogue], number: int) -> None:
        """One round of all dialogues: their turns, and the server's replies."""
        rows = [d.row for d in dialogues]
        for row in rows:
            row.number, row.before, row.rationale_cut = number, row.transcript, False
        feedback = self.policy.texts(rows) if number else [None] * len(rows)
        drafts = [
            _Draft(
                dialogue=d,
                given=text or FeedbackText(text=""),
                stretches=until_reply(
                    self.script.round(d.row.item, d.row.condition, number, text.text if text else None)
                ),
            )
            for d, text in zip(dialogues, feedback, strict=True)
        ]
        for step in range(max(len(draft.stretches) for draft in drafts)):
            self._replies([draft for draft in drafts if step < len(draft.stretches)], step)

    def _replies(self, drafts: Sequence["_Draft"], step: int) -> None:
        """The next reply of each dialogue."""
        wanted = []
        for draft in drafts:
            self._say_turns(draft, step)
            draft.reply = draft.stretches[step][-1].reply
            wanted.append(self._wanted(draft))
        for draft, written in zip(drafts, self.chat.replies(wanted), strict=True):
            self._add(draft, written)

    def _say_turns(self, draft: "_Draft", step: int) -> None:
        """Add a stretch of exchanges to a dialogue."""
        row, window = draft.dialogue.row, self.record.lm.window
        for exchange in draft.stretches[step]:
            before = row.transcript
            row.transcript, anew = say(self.record, self.script, before, exchange, round=row.number)
            if anew:
                draft.dialogue.changed(before)
            if anew and self.record.prefix_reuse and row.number and row.before not in row.kept:
                row.kept.append(row.before)
        if len(row.transcript.token_ids) > window:
            raise RuntimeError(
                f"the dialogue of item {row.item.id} exceeded the context window of {window} tokens."
            )

    def _wanted(self, draft: "_Draft") -> Wanted:
        """The request for a dialogue's next reply."""
        row, limits, renderer = draft.dialogue.row, self.limits, self.record.renderer
        draft.limit = limits.answer if draft.reply == "answer" else limits.rationale
        draft.thinks = self.script.thinking and rendering.thinks(renderer, row.transcript)
        # One more than the limit: whether the end token was the last that it allows, servers do not say.
        room = limits.thinking + MARKS if draft.thinks else 1
        seed = seed_of(self.protocol, self._key(row, draft.reply))
        return Wanted.after(renderer, row.transcript, limit=draft.limit + room, seed=seed)

    def _add(self, draft: "_Draft", written: Written) -> None:
        """Add a reply to its dialogue, ended as the engine's own replies are."""
        dialogue, renderer = draft.dialogue, self.record.renderer
        row = dialogue.row
        draft.prompts += written.prompt is not None and written.prompt != self._prompt(draft)
        row.thought, row.thinking = "", False
        if draft.thinks:
            written = replace(written, text=self._think(draft, written))
        tokens, ended = self._ended(draft, self._ids(draft, written), written)
        row.transcript = rendering.append_reply(
            renderer, row.transcript, tokens, draft.reply, round=row.number
        )
        text = renderer.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        if draft.reply == "answer":
            self._answer_given(draft, text, n_tokens=len(tokens), stopped=ended and not row.thinking)
        else:
            draft.rationale, row.rationale_cut = text, not ended or row.thinking

    def _prompt(self, draft: "_Draft") -> int:
        """Tokens of the prompt as this model's template makes it, without what is put before thoughts."""
        transcript, renderer = draft.dialogue.row.transcript, self.record.renderer
        begun = transcript.turns[-1][1].segments if transcript.speaking else ()
        marks = [s.text for s in begun if s.name == rendering.TEMPLATE]
        return len(transcript.token_ids) - sum(len(rendering.encode(renderer, mark)[0]) for mark in marks)

    def _ids(self, draft: "_Draft", written: Written) -> list[int]:
        """The tokens of a reply: the server's own where it gives them, else those of its text."""
        if written.ids is not None and not draft.thinks:
            return list(written.ids)
        ids = rendering.tokens_of_reply(self.record.renderer, draft.dialogue.row.transcript, written.text)
        if written.count is not None and not draft.thinks:
            end = (0, 1) if written.ended or len(ids) == draft.limit else (0,)  # some count the end token
            draft.recoded += written.count - len(ids) not in end
        return ids

    def _ended(self, draft: "_Draft", ids: list[int], written: Written) -> tuple[list[int], bool]:
        """The tokens of a reply up to where the engine would have ended it, and whether it ended there."""
        renderer, item = self.record.renderer, draft.dialogue.row.item
        ends = line_ends(renderer, [item]) if draft.reply == "answer" else None
        for n, token in enumerate(ids[: draft.limit]):
            if token in self.record.stops or (ends is not None and ends(0, ids[: n + 1])):
                return ids[:n], True
        return ids[: draft.limit], written.ended and len(ids) < draft.limit

    def _think(self, draft: "_Draft", written: Written) -> str:
        """Add the thoughts to the dialogue; the text of the reply after them, empty where they were cut."""
        row, renderer = draft.dialogue.row, self.record.renderer
        thought, text = parted(renderer, written)
        ids = rendering.tokens_of_reply(renderer, row.transcript, thought)
        limit = self.limits.thinking
        row.thinking = text is None or len(ids) >= limit
        row.transcript = rendering.append_reply(
            renderer, row.transcript, ids[:limit], THOUGHT, round=row.number
        )
        row.thought = renderer.tokenizer.decode(ids[:limit], skip_special_tokens=True).strip()
        row.transcript = rendering.begin_reply(
            renderer, row.transcript, round=row.number, prefix=self.script.prefix(draft.reply)
        )
        if row.thinking and draft.reply == "answer":
            draft.dialogue.cut.add(row.number)
        return "" if row.thinking else text or ""

    def _answer_given(self, draft: "_Draft", text: str, *, n_tokens: int, stopped: bool) -> None:
        """Keep an answer, and the dialogue where it ends or its history is rewritten."""
        row = draft.dialogue.row
        row.answer = text
        if not self.record.prefix_reuse or row.number == self.protocol.design.rounds:
            row.kept.append(row.transcript)
        self.answers += answer_rows(
            self.record.renderer.control,
            row,
            draft.rationale,
            draft.given,
            n_tokens=n_tokens,
            stopped=stopped,
            served_recoded=draft.recoded,
            served_prompts=draft.prompts,
        )


def parted(renderer: Renderer, written: Written) -> tuple[str, str | None]:
    """The thoughts in what a server wrote, and the reply after them: None where they did not end."""
    marks = renderer.thinking
    assert marks is not None  # it thinks
    opening, end = marks.opening.strip(), marks.closing.strip()
    between = marks.closing[marks.closing.index(end) + len(end) :]
    if written.thought is not None:
        return written.thought, written.text if written.text or written.ended else None
    before, found, after = written.text.partition(end)
    begun = before.lstrip().startswith(opening)
    thought = before.lstrip().removeprefix(opening).removeprefix("\n") if begun else before
    if found:
        return thought, after.removeprefix(between) if after.startswith(between) else after.lstrip("\n")
    return (thought, None) if begun or not written.ended else ("", written.text)


@dataclass(kw_only=True, eq=False)
class _Draft:
    """A round of one dialogue while it is written.

    Attributes:
        dialogue: the dialogue.
        given: the feedback before it.
        stretches: what is said, each up to a reply.
        reply: the name of the next reply.
        limit: its most tokens.
        thinks: whether the model thinks before it.
        rationale: what was written before the answer.
        recoded: replies that have another number of tokens here than the server says.
        prompts: replies whose prompt has.
    """

    dialogue: Dialogue
    given: FeedbackText
    stretches: Sequence[Sequence[Exchange]]
    reply: str = ""
    limit: int = 0
    thinks: bool = False
    rationale: str = ""
    recoded: int = 0
    prompts: int = 0
