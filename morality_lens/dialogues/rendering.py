"""Dialogues as tokens, by the model's own chat template, with the exact span of every segment."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError

from morality_lens.dialogues.control import MARK, ControlTokens
from morality_lens.dialogues.templates import TemplateLimitError, render_template
from morality_lens.dialogues.thinking import THOUGHT, Thinking, find_thinking
from morality_lens.dialogues.turns import Segment, Turn, statement_turn
from morality_lens.items.files import first_line
from morality_lens.items.kinds import LETTERS

PLAIN_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}System: {{ m.content }}\n\n"
    "{% elif m.role == 'user' %}User: {{ m.content }}\n\n{% else %}Assistant:{{ m.content }}\n\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""Template for models that have none: named speakers, a blank line after each turn."""


TEMPLATE = "template"
"""The segment of what belongs to no message."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """Tokens ``start`` to ``stop`` (exclusive) of a transcript hold this segment of this round."""

    name: str
    round: int
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """A dialogue as the model sees it: tokens, the span of every segment, and the text behind them.

    Attributes:
        turns: with the round of each.
        token_ids: of the whole dialogue.
        spans: of the segments, but for what the template itself writes.
        text: up to the prompt for the last reply.
    """

    turns: tuple[tuple[int, Turn], ...] = ()
    token_ids: tuple[int, ...] = ()
    spans: tuple[Span, ...] = ()
    text: str = ""

    @property
    def speaking(self) -> bool:
        """Whether the model has begun the last turn."""
        return bool(self.turns) and self.turns[-1][1].role == "assistant"

    @property
    def reply(self) -> str:
        """What the model has said in the last turn; empty where it has not begun."""
        return "".join(s.text for s in self.turns[-1][1].segments) if self.speaking else ""

    def span(self, name: str, round: int) -> Span | None:
        """The last span of that name in that round, or None."""
        found = [s for s in self.spans if s.name == name and s.round == round]
        return found[-1] if found else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Renderer:
    """A tokenizer with the template it renders dialogues by.

    Attributes:
        tokenizer: a fast Hugging Face tokenizer.
        template: the Jinja chat template.
        plain: whether that is :data:`PLAIN_TEMPLATE` because the model has none of its own.
        bos_id: the token that starts every dialogue exactly once; None where the model has none.
        control: its control tokens.
        thinking: how the template marks thoughts; None where it does not.
        keywords: further variables for the template, such as ``enable_thinking``.
        today: the day that a template prints as today's.
    """

    tokenizer: Any
    template: str
    plain: bool
    bos_id: int | None
    control: ControlTokens
    thinking: Thinking | None
    keywords: dict[str, Any]
    today: date = field(default_factory=date.today)


class HistoryRewrittenError(ValueError):
    """The chat template changed what was said before (it drops earlier thinking, say)."""


def make_renderer(tokenizer: Any, keywords: dict[str, Any] | None = None) -> Renderer:
    """A renderer for a tokenizer: its own chat template, or the plain one.

    Raises:
        ValueError: the tokenizer is slow (it gives no offsets, so spans cannot be exact), or its template
            refuses a dialogue, or has no prompt for a reply.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"{type(tokenizer).__name__} gives no character offsets, which exact segment spans need; "
            "use the model's fast tokenizer (a tokenizer.json)."
        )
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    plain, template = template is None, template or PLAIN_TEMPLATE
    bos = tokenizer.bos_token_id
    renderer = Renderer(
        tokenizer=tokenizer,
        template=template,
        plain=plain,
        bos_id=bos,
        control=ControlTokens.of(tokenizer, template),
        thinking=find_thinking(tokenizer, template),
        keywords=dict(keywords or {}),
    )
    _check_prompt(renderer)
    question = [(0, statement_turn("a"))]
    writes_bos = bos is not None and _render_text(renderer, question, prompt=False).startswith(
        tokenizer.bos_token
    )
    adds_bos = bos is not None and bos in tokenizer("a").input_ids
    return renderer if adds_bos or writes_bos else replace(renderer, bos_id=None)


def _check_prompt(renderer: Renderer) -> None:
    """Refuse a template that writes something before a reply, but not when it is asked for that reply.

    Raises:
        ValueError: such a template.
    """
    question = (0, statement_turn("A question."))
    reply = (0, Turn(role="assistant", segments=(Segment(name="answer", text=MARK),)))
    prompt = _render_text(renderer, [question], prompt=True)
    said = _render_text(renderer, [question, reply], prompt=False)
    asked, answered = prompt.rstrip(), said[: said.find(MARK)].rstrip()
    if answered.startswith(asked) and len(answered) > len(asked) and renderer.thinking is None:
        raise ValueError(
            f"the chat template writes {answered[len(asked) :].strip()!r} before a reply but not as a prompt "
            "for one (add_generation_prompt changes nothing), so the model would have to write it itself; "
            "give the tokenizer a template with a generation prompt."
        )


def _message(renderer: Renderer, turn: Turn) -> dict[str, str]:
    """A turn as the template receives it; a reply as it was generated, blanks included.

    Control tokens that it spells are the private characters of :class:`ControlTokens`.
    """
    if turn.role != "assistant":
        return {"role": turn.role, "content": turn.content}
    thoughts = "".join(s.text for s in turn.segments if s.name == THOUGHT)
    spoken = "".join(s.text for s in turn.segments if s.name not in (THOUGHT, TEMPLATE))
    if renderer.thinking is not None and renderer.thinking.apart:
        thought = {"thinking": thoughts} if thoughts else {}
        return {"role": "assistant", "content": spoken, **thought}
    return {"role": "assistant", "content": "".join(s.text for s in turn.segments)}


PERCENT = "\U0010fffe"
"""Stands for a percent sign that is written as two, while directives are filled in."""
CLOCK = (
    *(f"%{flag}{letter}" for flag in "-_#" for letter in "demyjHIMSklUWV"),
    *(f"%{letter}" for letter in "aAbBcCdDeFgGhHIjklmMnpPrRsStTuUVwWxXyYfzZ"),
)
"""Directives of a date's format."""


def _clock(renderer: Renderer) -> str:
    """What a template that prints the date is preceded by: the function it calls, on the renderer's day.

    A dialogue that is continued on another day keeps its date so. The line break belongs to the macro.
    """
    if "strftime_now" not in renderer.template:
        return ""
    start = datetime.combine(renderer.today, time())
    known = [("%%", PERCENT), *((d, start.strftime(d)) for d in CLOCK), (PERCENT, "%")]
    filters = "".join(f" | replace({form!r}, {filled!r})" for form, filled in known)
    return f"{{%- macro strftime_now(format) -%}}{{{{ format{filters} }}}}{{%- endmacro %}}\n"


def _render_text(renderer: Renderer, turns: Sequence[tuple[int, Turn]], *, prompt: bool) -> str:
    messages = [_message(renderer, turn) for _, turn in turns]
    try:
        return render_template(
            _clock(renderer) + renderer.template,
            messages,
            {**renderer.tokenizer.special_tokens_map, **renderer.keywords},
            prompt=prompt,
        )
    except TemplateError as error:
        system = any(message["role"] == "system" for message in messages)
        advice = (
            "say it before_question instead of in a system turn"
            if system
            else "use a template for turns of user and assistant"
        )
        raise ValueError(f"the model's chat template refuses the dialogue ({error}); {advice}.") from error
    except (TemplateLimitError, MemoryError):
        raise
    except Exception as error:  # a template is a program, and may fail in any way
        raise ValueError(
            f"the model's chat template fails on a dialogue ({type(error).__name__}: {first_line(error)}); "
            "repair it, or take the template of another checkpoint of this model."
        ) from error


def encode(renderer: Renderer, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids of a text, no special ones added, and the characters that each one covers.

    The text is the template's: a control token in it is one, unless :func:`as_text` was applied.
    """
    return renderer.control.encode(text)


def encode_words(renderer: Renderer, text: str) -> list[int]:
    """Token ids of a message, in which a control token that is spelled is text."""
    return encode(renderer, renderer.control.as_text(text))[0]


def _as_text(renderer: Renderer, turn: Turn) -> Turn:
    """The turn with every control token that its words spell kept as text."""
    segments = (
        s if s.name == TEMPLATE else replace(s, text=renderer.control.as_text(s.text)) for s in turn.segments
    )
    return replace(turn, segments=tuple(segments))


def _token_span(
    text: str, offsets: Sequence[tuple[int, int]], start: int, stop: int, segment: Segment
) -> tuple[int, int]:
    """First and last-plus-one token whose printed characters lie in ``text[start:stop]``."""
    inside = []
    for index, (a, b) in enumerate(offsets):
        piece = text[a:b]
        a += len(piece) - len(piece.lstrip())
        b -= len(piece) - len(piece.rstrip())
        if a >= b or b <= start or a >= stop:
            continue
        if a < start or b > stop:
            raise ValueError(
                f"token {text[a:b]!r} crosses the edge of segment {segment.name!r} ({segment.text[:40]!r}); "
                "put a line break or a space at that edge of the wording or of the item."
            )
        inside.append(index)
    if not inside:
        raise ValueError(f"segment {segment.name!r} ({segment.text[:40]!r}) has no token of its own.")
    return inside[0], inside[-1] + 1


def _place(renderer: Renderer, turns: Sequence[tuple[int, Turn]], which: int, text: str) -> int | None:
    """Where the words of turn ``which`` begin in the rendered ``text``; None if they are not there as said.

    Words are not searched for: a short message can also stand in the template's own text.
    """
    _, turn = turns[which]
    if len(turn.segments) == 1 or turn.role != "assistant":
        marked = replace(turn, segments=(Segment(name="mark", text=MARK),))
        spoken = turn.segments[0].text if turn.role == "assistant" else turn.content
        return _place_of(renderer, turns, which, marked, spoken, text)
    return None


def _place_of(
    renderer: Renderer, turns: Sequence[tuple[int, Turn]], which: int, marked: Turn, words: str, text: str
) -> int | None:
    """Where ``words`` begin in the rendered ``text``, which stand where ``marked`` has its mark."""
    with_mark = [*turns[:which], (turns[which][0], marked), *turns[which + 1 :]]
    at = _render_text(renderer, with_mark, prompt=True).find(MARK)
    if at >= 0 and text.startswith(words, at):  # not trimmed: the words begin after the blanks
        at += len(words) - len(words.lstrip())
    return at if at >= 0 and text.startswith(words.strip(), at) else None


def _unique(text: str, words: str, after: int) -> int | None:
    """Where long words stand that occur once in what was added; None asks for a closer look."""
    at = text.find(words, after)
    return at if len(words) > 40 and at >= 0 and text.find(words, at + 1) < 0 else None


def _locate(
    text: str, offsets: Sequence[tuple[int, int]], turn: Turn, round: int, at: int, shift: int
) -> list[Span]:
    """Spans of the segments of a turn whose words begin at ``at``."""
    spans = []
    for segment in turn.segments:
        words = segment.text.strip()
        start, stop = _token_span(text, offsets, at, at + len(words), segment)
        spans.append(Span(name=segment.name, round=round, start=start + shift, stop=stop + shift))
        at += len(words) + 1
    return spans


def _locate_reply(
    text: str, offsets: Sequence[tuple[int, int]], turn: Turn, round: int, at: int, shift: int
) -> list[Span]:
    """The span of a reply whose words begin at ``at``, with the blanks around them that the template kept."""
    (segment,) = turn.segments
    first = at - (len(segment.text) - len(segment.text.lstrip()))
    if not text.startswith(segment.text, first):
        return _locate(text, offsets, turn, round, at, shift)
    last = first + len(segment.text)
    inside = [n for n, (a, b) in enumerate(offsets) if first <= a < b <= last]
    whole = inside and offsets[inside[0]][0] == first and offsets[inside[-1]][1] == last
    if not whole:  # a token crosses an edge, in blanks
        return _locate(text, offsets, turn, round, at, shift)
    return [Span(name=segment.name, round=round, start=inside[0] + shift, stop=inside[-1] + 1 + shift)]


def _added(renderer: Renderer, text: str, before: int) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids of what follows the first ``before`` characters, tokenized in its place after them."""
    cut = _safe_cut(renderer, text, before)
    ids, offsets = encode(renderer, text[cut:])
    offsets = [(a + cut, b + cut) for a, b in offsets]
    first = next((i for i, (a, b) in enumerate(offsets) if a >= before and b > a), len(ids))
    if first > 0 and offsets[first - 1][1] > before:
        # what was said last and what follows would be one token when read together
        ids, offsets = encode(renderer, text[before:])
        return ids, [(a + before, b + before) for a, b in offsets]
    return ids[first:], offsets[first:]


def append_turn(renderer: Renderer, transcript: Transcript, *said: Turn, round: int) -> Transcript:
    """The transcript with a user's turn and the prompt for a reply added; earlier tokens stay as they are.

    Only the text that the template adds is tokenized, in its place after the earlier text. A system turn
    comes together with the user's turn after it.

    Raises:
        HistoryRewrittenError: the template renders the earlier turns differently now.
        ValueError: a segment cannot be told apart from its neighbours, or a BOS token stands inside.
    """
    said = tuple(_as_text(renderer, turn) for turn in said)
    turns = (*transcript.turns, *((round, turn) for turn in said))
    text = _render_text(renderer, turns, prompt=True)
    before = next((t for t in _history(transcript) if text.startswith(t)), None)
    if before is None:
        raise HistoryRewrittenError(
            "the chat template renders earlier turns differently once a new one follows; "
            "such a dialogue is played without prefix reuse."
        )
    ids, offsets = _added(renderer, text, len(before))
    kept = list(transcript.token_ids)
    if not kept and renderer.bos_id is not None and (not ids or ids[0] != renderer.bos_id):
        kept = [renderer.bos_id]
    spans: list[Span] = []
    for which, turn in enumerate(said, start=len(transcript.turns)):
        at = _unique(text, turn.content, len(before))
        if at is None:
            at = _place(renderer, turns, which, text)
        if at is None:
            raise ValueError(
                f"the chat template changes the message {renderer.control.spelled(turn.content)[:60]!r} of "
                f"the {turn.role}, so its tokens cannot be named; give a template that keeps message text as "
                "it is."
            )
        spans += _locate(text, offsets, turn, round, at, len(kept))
    _check_control(renderer, kept + ids, spans)
    return replace(
        transcript,
        turns=turns,
        token_ids=tuple(kept + ids),
        spans=(*transcript.spans, *spans),
        text=text,
    )


def _safe_cut(renderer: Renderer, text: str, before: int) -> int:
    """Where the last control token before ``before`` begins: tokenizers part the text there first, so what
    follows is tokenized as it is in the whole text. 0 where there is none."""
    return max([0, *(text.rfind(mark, 0, before) for mark in renderer.control.texts)])


def _history(transcript: Transcript) -> tuple[str, ...]:
    """The text up to the last reply: as generated, and with blanks as templates put them.

    A template may trim the reply, and put a blank before it (Llama-2, Mistral); a tokenizer that joins the
    blank to the first word has generated it, though decoding leaves it out.
    """
    if not transcript.speaking:
        return (transcript.text,)
    reply = transcript.reply
    plain = reply.strip()
    return tuple(transcript.text + said for said in (reply, plain, f" {plain}", f" {reply}"))


def _check_control(renderer: Renderer, ids: Sequence[int], spans: Sequence[Span]) -> None:
    """Refuse a dialogue that does not begin with one BOS token, or whose messages hold a control token.

    The template may write the BOS token elsewhere: it begins every turn in some (SmolLM2, Llama-2).
    """
    bos = renderer.bos_id
    starts = next((n for n, token in enumerate(ids) if token != bos), len(ids))
    inside = sorted({s.name for s in spans if renderer.control.ids & set(ids[s.start : s.stop])})
    if bos is not None and starts != 1:
        raise ValueError(
            f"a dialogue needs exactly one BOS token at its start; it begins with {starts}. Correct the chat "
            "template."
        )
    if inside:
        raise ValueError(
            f"the text of {', '.join(inside)} holds a control token that this tokenizer cannot read as text; "
            "remove it from the items or the wording."
        )


def begin_reply(
    renderer: Renderer,
    transcript: Transcript,
    *,
    round: int,
    thinking: bool = False,
    prefix: str = "",
) -> Transcript:
    """The transcript with what is put before the model's own words: marks of thoughts, and a prefix.

    Args:
        renderer: of the dialogue.
        transcript: ends with the prompt for a reply, or with the model's thoughts.
        round: the round.
        thinking: whether the model is to think first; then only the thoughts are begun.
        prefix: how the reply begins, in the words of the protocol.
    """
    marks = renderer.thinking
    begun = transcript.speaking
    thinking = thinking and not begun and thinks(renderer, transcript)
    if marks is not None:
        text = marks.closing if begun else marks.before_reply(transcript.text, thinking=thinking)
        transcript = _append_text(renderer, transcript, text, TEMPLATE, round=round)
    if prefix and not thinking:
        blank = " " if not transcript.reply and puts_blank(renderer) else ""
        transcript = _append_text(renderer, transcript, blank + prefix, "answer_prefix", round=round)
    return transcript


@lru_cache(maxsize=8)
def puts_blank(renderer: Renderer) -> bool:
    """Whether a blank stands between the prompt for a reply and its words (Llama-2, the plain form)."""
    if renderer.plain:
        return True
    asked = append_turn(renderer, Transcript(), statement_turn("A question."), round=0)
    reply = Turn(role="assistant", segments=(Segment(name="answer", text="An answer."),))
    answered = _render_text(renderer, [*asked.turns, (0, reply)], prompt=False)
    return answered.startswith(f"{asked.text} An answer.")


def thinks(renderer: Renderer, transcript: Transcript) -> bool:
    """Whether the template lets the model think before the reply that a transcript is a prompt for."""
    return renderer.thinking is not None and not renderer.thinking.skips(transcript.text)


def _append_text(
    renderer: Renderer, transcript: Transcript, text: str, name: str, *, round: int
) -> Transcript:
    """The transcript with a given text added to the reply, tokenized in its place."""
    if not text:
        return transcript
    if name != TEMPLATE:
        text = renderer.control.as_text(text)
    before = transcript.text + transcript.reply
    ids, offsets = _added(renderer, before + text, len(before))
    kept, spans = len(transcript.token_ids), []
    segment = Segment(name=name, text=text)
    if name != TEMPLATE:
        at = len(before) + len(text) - len(text.lstrip())
        spans = _locate(before + text, offsets, Turn(role="assistant", segments=(segment,)), round, at, kept)
    return _spoken(transcript, ids, segment, spans, round=round)


def _spoken(
    transcript: Transcript, ids: Sequence[int], segment: Segment, spans: Sequence[Span], *, round: int
) -> Transcript:
    """The transcript with a segment of the model's turn added, which begins a turn after the user's."""
    turns = transcript.turns
    if transcript.speaking:
        said = turns[-1][1]
        turns = (*turns[:-1], (round, replace(said, segments=(*said.segments, segment))))
    else:
        turns = (*turns, (round, Turn(role="assistant", segments=(segment,))))
    return replace(
        transcript,
        turns=turns,
        token_ids=(*transcript.token_ids, *ids),
        spans=(*transcript.spans, *spans),
    )


def append_reply(
    renderer: Renderer, transcript: Transcript, token_ids: Sequence[int], name: str, *, round: int
) -> Transcript:
    """The transcript with the model's own tokens added, exactly as generated (no stop token)."""
    start = len(transcript.token_ids)
    segment = Segment(
        name=name, text=renderer.control.reply_as_text(_decoded(renderer, transcript, token_ids))
    )
    span = Span(name=name, round=round, start=start, stop=start + len(token_ids))
    return _spoken(transcript, token_ids, segment, [span], round=round)


def _decoded(renderer: Renderer, transcript: Transcript, token_ids: Sequence[int]) -> str:
    """The text of new tokens; read after the word before them, where the reply has begun, so that a blank
    which the tokenizer joins to the first one is not lost."""
    if not token_ids:
        return ""
    decode = renderer.tokenizer.decode
    if not transcript.reply:
        return str(decode(list(token_ids)))
    last = list(transcript.token_ids[-1:])
    before, whole = str(decode(last)), str(decode([*last, *token_ids]))
    return whole[len(before) :] if whole.startswith(before) else str(decode(list(token_ids)))


def tokens_of_reply(renderer: Renderer, transcript: Transcript, text: str) -> list[int]:
    """Token ids of a reply whose text alone is known, tokenized in its place after a transcript.

    Some tokenizers leave out a blank at the beginning when they decode; with these, one is put before the
    text where the template has a blank between the prompt and the words of a reply.
    """
    if not text:
        return []
    if not transcript.reply and not text[0].isspace() and puts_blank(renderer):
        first = renderer.tokenizer.decode(encode(renderer, " a")[0])
        text = text if first.startswith(" ") else f" {text}"
    before = transcript.text + transcript.reply
    whole = before + renderer.control.reply_as_text(text)
    return _added(renderer, whole, len(before))[0]


def messages(renderer: Renderer, transcript: Transcript) -> list[dict[str, str]]:
    """The dialogue as messages for a chat server, up to the last turn in which anything was said."""
    turns = [turn for _, turn in transcript.turns]
    if transcript.speaking and all(s.name == TEMPLATE for s in turns[-1].segments):
        turns = turns[:-1]
    said = [_message(renderer, turn) for turn in turns]
    return [{name: renderer.control.spelled(text) for name, text in message.items()} for message in said]


def rerender(renderer: Renderer, transcript: Transcript, *said: Turn, round: int) -> Transcript:
    """Like :func:`append_turn` for a template that rewrites history: everything is tokenized anew.

    Earlier replies and thoughts that the template leaves out have no span in the result.
    """
    turns = (*transcript.turns, *((round, _as_text(renderer, turn)) for turn in said))
    text = _render_text(renderer, turns, prompt=True)
    ids, offsets = encode(renderer, text)
    bos = [] if renderer.bos_id is None or ids[:1] == [renderer.bos_id] else [renderer.bos_id]
    spans: list[Span] = []
    for which, (number, _) in enumerate(turns):
        for part, at in _parts(renderer, turns, which, text):
            locate = _locate_reply if part.role == "assistant" else _locate
            spans += locate(text, offsets, part, number, at, len(bos))
    ids = bos + ids
    _check_control(renderer, ids, spans)
    return Transcript(turns=turns, token_ids=tuple(ids), spans=tuple(spans), text=text)


def _parts(
    renderer: Renderer, turns: Sequence[tuple[int, Turn]], which: int, text: str
) -> list[tuple[Turn, int]]:
    """The parts of a turn that the rendered text holds, and where each begins.

    A user's turn is one part. Of a reply, the thoughts, the prefix and the answer are parts of their own.
    """
    _, turn = turns[which]
    if turn.role != "assistant" or len(turn.segments) == 1:
        at = _place(renderer, turns, which, text) if turn.content else None
        return [] if at is None else [(turn, at)]
    found = []
    for n, segment in enumerate(turn.segments):
        if segment.name == TEMPLATE or not segment.text.strip():
            continue
        mark = replace(segment, text=MARK)
        marked = replace(turn, segments=(*turn.segments[:n], mark, *turn.segments[n + 1 :]))
        at = _place_of(renderer, turns, which, marked, segment.text, text)
        if at is not None:
            found.append((replace(turn, segments=(segment,)), at))
    return found


def check_system(renderer: Renderer) -> None:
    """Refuse a template that has no system turn, or makes another speaker's turn of it.

    Raises:
        ValueError: such a template.
    """
    question = (0, statement_turn("A question."))
    spoken = Segment(name="system", text=MARK)
    as_said = _render_text(renderer, [(0, Turn(role="system", segments=(spoken,))), question], prompt=True)
    forged = []
    for role in ("user", "assistant"):
        try:
            turns = [(0, Turn(role=role, segments=(spoken,))), question]
            forged.append(_render_text(renderer, turns, prompt=True))
        except ValueError:
            continue  # a dialogue of these speakers is refused, so it was not made
    if MARK not in as_said or as_said in forged:
        does = "leaves it out" if MARK not in as_said else "makes another speaker's turn of it"
        raise ValueError(
            f"the model's chat template has no system turn ({does}); let the factor speak before_question."
        )


def rewrites_history(renderer: Renderer) -> bool:
    """Whether the template renders earlier turns differently once later ones follow.

    Tried on a short dialogue with a plain reply and with one after thoughts.
    """
    if renderer.thinking is None:  # a template may look for the marks although no token is one
        tries = [(False, "An answer."), (False, "<think>\nA thought.\n</think>\n\nAn answer.")]
    else:
        tries = [(False, "An answer."), (True, "An answer.")]
    return any(_rewrites(renderer, reply, thinking=thinking) for thinking, reply in tries)


def _rewrites(renderer: Renderer, reply: str, *, thinking: bool) -> bool:
    """Whether a dialogue of three such replies is rewritten."""
    transcript = Transcript()
    for round in (0, 1, 2):
        question = statement_turn("Once more." if round else "A question.")
        try:
            transcript = append_turn(renderer, transcript, question, round=round)
        except HistoryRewrittenError:
            return True
        transcript = begin_reply(renderer, transcript, round=round, thinking=thinking)
        if thinking:
            ids, _ = encode(renderer, "A thought.\n")
            transcript = append_reply(renderer, transcript, ids, THOUGHT, round=round)
            transcript = begin_reply(renderer, transcript, round=round)
        ids, _ = encode(renderer, reply)
        transcript = append_reply(renderer, transcript, ids, "answer", round=round)
    return False


def named_spans(transcript: Transcript) -> tuple[Span, ...]:
    """All spans in order, the tokens between them named ``template``."""
    spans: list[Span] = []
    at, number = 0, 0
    for span in sorted(transcript.spans, key=lambda s: (s.start, s.stop)):
        number = span.round
        if span.start > at:
            spans.append(Span(name=TEMPLATE, round=number, start=at, stop=span.start))
        spans.append(span)
        at = max(at, span.stop)
    if at < len(transcript.token_ids):
        spans.append(Span(name=TEMPLATE, round=number, start=at, stop=len(transcript.token_ids)))
    return tuple(spans)


def letter_tokens(renderer: Renderer, count: int) -> tuple[tuple[int, ...], ...]:
    """:func:`first_tokens` of the first ``count`` letters."""
    return first_tokens(renderer, LETTERS[:count])


def first_tokens(renderer: Renderer, replies: Sequence[str], prefix: str = "") -> tuple[tuple[int, ...], ...]:
    """For each of these short replies, a letter or a digit, the tokens that begin a reply with it.

    A reply can begin with the bare sign or with a blank before it, whichever the tokenizer joins to it;
    both are read in their place after the prompt. Where the tokenizer would join the prompt's end with the
    sign (a colon, or the last blank of a prefix), the prompt is there already when the reply begins, and the
    sign is read by itself, as at the beginning of a line. A token that begins more than one of them (a lone
    blank) tells nothing and is left out, so an entry can be empty: then option probabilities do not exist.
    """
    start = append_turn(renderer, Transcript(), statement_turn("A question."), round=0)
    start = begin_reply(renderer, start, round=0, prefix=prefix)
    before = start.text + start.reply
    tokens: list[list[int]] = []
    for sign in replies:
        firsts = []
        for reply in (sign, " " + sign):
            first = _first_after(renderer, before, reply)
            if first is None:
                first = _first_after(renderer, "\n", reply)
            if first is not None and first not in firsts:
                firsts.append(first)
        tokens.append(firsts)
    shared = {t for firsts in tokens for t in firsts if sum(t in other for other in tokens) > 1}
    return tuple(tuple(t for t in firsts if t not in shared) for firsts in tokens)


def _first_after(renderer: Renderer, before: str, reply: str) -> int | None:
    """The token that begins a reply after a text; None where it is joined with the text's end."""
    ids, offsets = encode(renderer, before + reply)
    at = len(before)
    if any(a < at < b for a, b in offsets):
        return None
    return next((t for t, (a, b) in zip(ids, offsets, strict=True) if a >= at and b > a), None)


def stop_tokens(renderer: Renderer, eos_ids: Sequence[int]) -> frozenset[int]:
    """Tokens that end a reply: the model's own end tokens, what the template writes after a reply, and every
    other control token (a model that writes one would forge a turn or a second BOS).

    Under the plain template every token with a line break in it ends a reply, as nothing else would.
    """
    control = {int(t) for t, added in renderer.tokenizer.added_tokens_decoder.items() if added.special}
    stops = {int(t) for t in eos_ids} | control - {renderer.tokenizer.unk_token_id}
    start = append_turn(renderer, Transcript(), statement_turn("A question."), round=0)
    start = begin_reply(renderer, start, round=0)
    ids, _ = encode(renderer, "An answer.")
    said = append_reply(renderer, start, ids, "answer", round=0)
    after = _render_text(renderer, said.turns, prompt=False)
    before = next((t for t in _history(said) if after.startswith(t)), after)
    following, _ = encode(renderer, after[len(before) :])
    stops |= set(following[:1]) & set(renderer.tokenizer.get_added_vocab().values())
    if renderer.plain:
        size = len(renderer.tokenizer)
        texts = renderer.tokenizer.batch_decode([[t] for t in range(size)])
        stops |= {t for t, text in enumerate(texts) if "\n" in text}
    return frozenset(stops)
