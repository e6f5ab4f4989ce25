"""Dialogues as tokens, by the model's own chat template, with the exact span of every segment."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from jinja2 import TemplateError

from morality_lens.dialogues.turns import Segment, Turn, statement_turn
from morality_lens.items.kinds import LETTERS

PLAIN_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}System: {{ m.content }}\n\n"
    "{% elif m.role == 'user' %}User: {{ m.content }}\n\n{% else %}Assistant:{{ m.content }}\n\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""Template for models that have none: named speakers, a blank line after each turn."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """Tokens ``start`` to ``stop`` (exclusive) of a transcript hold this segment of this round."""

    name: str
    round: int
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """A dialogue as the model sees it: tokens, the span of every segment, and the text behind them."""

    turns: tuple[tuple[int, Turn], ...] = ()
    token_ids: tuple[int, ...] = ()
    spans: tuple[Span, ...] = ()
    text: str = ""

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
        control: the texts of its control tokens.
        keywords: further variables for the template, such as ``enable_thinking``.
    """

    tokenizer: Any
    template: str
    plain: bool
    bos_id: int | None
    control: tuple[str, ...]
    keywords: dict[str, Any]


class HistoryRewrittenError(ValueError):
    """The chat template changed what was said before (it drops earlier thinking, say)."""


def make_renderer(tokenizer: Any, keywords: dict[str, Any] | None = None) -> Renderer:
    """A renderer for a tokenizer: its own chat template, or the plain one.

    Raises:
        ValueError: the tokenizer is slow (it gives no offsets, so spans cannot be exact).
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"{type(tokenizer).__name__} gives no character offsets, which exact segment spans need; "
            "use the model's fast tokenizer (a tokenizer.json)."
        )
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    plain = template is None
    bos = tokenizer.bos_token_id
    adds_bos = bos is not None and bos in tokenizer("a").input_ids
    probe = [{"role": "user", "content": "a"}]
    text = tokenizer.apply_chat_template(probe, chat_template=template or PLAIN_TEMPLATE, tokenize=False)
    writes_bos = bos is not None and str(text).startswith(tokenizer.bos_token)
    return Renderer(
        tokenizer=tokenizer,
        template=template or PLAIN_TEMPLATE,
        plain=plain,
        bos_id=bos if adds_bos or writes_bos else None,
        control=tuple(t.content for t in tokenizer.added_tokens_decoder.values() if t.special),
        keywords=dict(keywords or {}),
    )


def _render_text(renderer: Renderer, turns: Sequence[tuple[int, Turn]], *, prompt: bool) -> str:
    messages = [{"role": turn.role, "content": turn.content} for _, turn in turns]
    # A reply is stored as generated, blanks included: they are part of the content the template gets.
    for message, (_, turn) in zip(messages, turns, strict=True):
        if turn.role == "assistant" and len(turn.segments) == 1:
            message["content"] = turn.segments[0].text
    try:
        text = renderer.tokenizer.apply_chat_template(
            messages,
            chat_template=renderer.template,
            tokenize=False,
            add_generation_prompt=prompt,
            **renderer.keywords,
        )
    except TemplateError as error:
        system = any(message["role"] == "system" for message in messages)
        advice = (
            "say it before_question instead of in a system turn"
            if system
            else "use a template for turns of user and assistant"
        )
        raise ValueError(f"the model's chat template refuses the dialogue ({error}); {advice}.") from error
    return str(text)


def encode(renderer: Renderer, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids of a text, no special ones added, and the characters that each one covers."""
    encoded = renderer.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return list(encoded["input_ids"]), [tuple(o) for o in encoded["offset_mapping"]]


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


MARK = "\ue000"
"""Stands for a message while its place in the rendered text is looked up."""


def _place(renderer: Renderer, turns: Sequence[tuple[int, Turn]], which: int, text: str) -> int | None:
    """Where the words of turn ``which`` begin in the rendered ``text``; None if they are not there as said.

    Words are not searched for: a short message can also stand in the template's own text.
    """
    round, turn = turns[which]
    marked = replace(turn, segments=(Segment(name="mark", text=MARK),))
    at = _render_text(renderer, [*turns[:which], (round, marked), *turns[which + 1 :]], prompt=True).find(
        MARK
    )
    spoken = turn.segments[0].text if turn.role == "assistant" else turn.content
    if at >= 0 and text.startswith(spoken, at):  # not trimmed: the words begin after the blanks
        at += len(spoken) - len(spoken.lstrip())
    return at if at >= 0 and text.startswith(turn.content, at) else None


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


def append_turn(renderer: Renderer, transcript: Transcript, *said: Turn, round: int) -> Transcript:
    """The transcript with a user's turn and the prompt for a reply added; earlier tokens stay as they are.

    Only the text that the template adds is tokenized, in its place after the earlier text. A system turn
    comes together with the user's turn after it.

    Raises:
        HistoryRewrittenError: the template renders the earlier turns differently now.
        ValueError: a segment cannot be told apart from its neighbours, or a BOS token stands inside.
    """
    turns = (*transcript.turns, *((round, turn) for turn in said))
    text = _render_text(renderer, turns, prompt=True)
    before = next((t for t in _history(transcript) if text.startswith(t)), None)
    if before is None:
        raise HistoryRewrittenError(
            "the chat template renders earlier turns differently once a new one follows; "
            "such a dialogue is played without prefix reuse."
        )
    cut = _safe_cut(renderer, text, len(before))
    all_ids, all_offsets = encode(renderer, text[cut:])
    all_offsets = [(a + cut, b + cut) for a, b in all_offsets]
    first = next((i for i, (a, b) in enumerate(all_offsets) if a >= len(before) and b > a), len(all_ids))
    straddles = first > 0 and all_offsets[first - 1][1] > len(before)
    if straddles:  # the reply's last letters and the template's first ones are one token when read together
        ids, offsets = encode(renderer, text[len(before) :])
        offsets = [(a + len(before), b + len(before)) for a, b in offsets]
    else:
        ids, offsets = all_ids[first:], all_offsets[first:]
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
                f"the chat template changes the message {turn.content[:60]!r} of the {turn.role}, so its "
                "tokens cannot be named; give a template that keeps message text as it is."
            )
        spans += _locate(text, offsets, turn, round, at, len(kept))
    _check_bos(renderer, kept + ids, spans)
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
    return max([0, *(text.rfind(mark, 0, before) for mark in renderer.control)])


def _history(transcript: Transcript) -> tuple[str, ...]:
    """The text up to the last reply: as generated, and with blanks as templates put them.

    A template may trim the reply, and put a blank before it (Llama-2, Mistral); a tokenizer that joins the
    blank to the first word has generated it, though decoding leaves it out.
    """
    if not transcript.turns or transcript.turns[-1][1].role != "assistant":
        return (transcript.text,)
    reply = transcript.turns[-1][1].segments[0].text
    plain = reply.strip()
    return tuple(transcript.text + said for said in (reply, plain, f" {plain}", f" {reply}"))


def _check_bos(renderer: Renderer, ids: Sequence[int], spans: Sequence[Span]) -> None:
    """Refuse a dialogue that does not begin with one BOS token, or whose messages hold one.

    The template may write the token elsewhere: it begins every turn in some (SmolLM2, Llama-2).
    """
    bos = renderer.bos_id
    if bos is None:
        return
    starts = next((n for n, token in enumerate(ids) if token != bos), len(ids))
    inside = sorted({s.name for s in spans if bos in ids[s.start : s.stop]})
    if starts != 1 or inside:
        found = f"the text of {', '.join(inside)} holds it" if inside else f"it begins with {starts}"
        raise ValueError(
            f"a dialogue needs exactly one BOS token at its start and none in its messages; {found}. Remove "
            "the BOS text from the items or the wording, or correct the chat template."
        )


def append_reply(
    renderer: Renderer, transcript: Transcript, token_ids: Sequence[int], name: str, *, round: int
) -> Transcript:
    """The transcript with the model's own tokens added, exactly as generated (no stop token)."""
    text = str(renderer.tokenizer.decode(list(token_ids))) if token_ids else ""
    reply = Turn(role="assistant", segments=(Segment(name=name, text=text),))
    start = len(transcript.token_ids)
    span = Span(name=name, round=round, start=start, stop=start + len(token_ids))
    return replace(
        transcript,
        turns=(*transcript.turns, (round, reply)),
        token_ids=(*transcript.token_ids, *token_ids),
        spans=(*transcript.spans, span),
    )


def rerender(renderer: Renderer, transcript: Transcript, *said: Turn, round: int) -> Transcript:
    """Like :func:`append_turn` for a template that rewrites history: everything is tokenized anew.

    Earlier replies that the template leaves out have no span in the result.
    """
    turns = (*transcript.turns, *((round, turn) for turn in said))
    text = _render_text(renderer, turns, prompt=True)
    ids, offsets = encode(renderer, text)
    bos = [] if renderer.bos_id is None or ids[:1] == [renderer.bos_id] else [renderer.bos_id]
    spans: list[Span] = []
    for which, (number, turn) in enumerate(turns):
        at = _place(renderer, turns, which, text) if turn.content else None
        if at is not None:
            spans += _locate(text, offsets, turn, number, at, len(bos))
    ids = bos + ids
    _check_bos(renderer, ids, spans)
    return Transcript(turns=turns, token_ids=tuple(ids), spans=tuple(spans), text=text)


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

    Tried on a short dialogue with a plain reply and with one that thinks aloud between ``<think>`` marks.
    """
    for reply in ("An answer.", "<think>\nA thought.\n</think>\n\nAn answer."):
        transcript = append_turn(renderer, Transcript(), statement_turn("A question."), round=0)
        try:
            for round in (0, 1):
                ids, _ = encode(renderer, reply)
                transcript = append_reply(renderer, transcript, ids, "answer", round=round)
                transcript = append_turn(renderer, transcript, statement_turn("Once more."), round=round + 1)
        except HistoryRewrittenError:
            return True
    return False


def named_spans(transcript: Transcript) -> tuple[Span, ...]:
    """All spans in order, the tokens between them named ``template``."""
    spans: list[Span] = []
    at, number = 0, 0
    for span in sorted(transcript.spans, key=lambda s: (s.start, s.stop)):
        number = span.round
        if span.start > at:
            spans.append(Span(name="template", round=number, start=at, stop=span.start))
        spans.append(span)
        at = max(at, span.stop)
    if at < len(transcript.token_ids):
        spans.append(Span(name="template", round=number, start=at, stop=len(transcript.token_ids)))
    return tuple(spans)


def letter_tokens(renderer: Renderer, count: int) -> tuple[tuple[int, ...], ...]:
    """:func:`first_tokens` of the first ``count`` letters."""
    return first_tokens(renderer, LETTERS[:count])


def first_tokens(renderer: Renderer, replies: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """For each of these short replies, a letter or a digit, the tokens that begin a reply with it.

    A reply can begin with the bare sign or with a blank before it, whichever the tokenizer joins to it;
    both are read in their place after the prompt. A token that begins more than one of them (a lone blank)
    tells nothing and is left out, so an entry can be empty: then option probabilities do not exist.
    """
    start = append_turn(renderer, Transcript(), statement_turn("A question."), round=0)
    tokens: list[list[int]] = []
    for sign in replies:
        firsts = []
        for reply in (sign, " " + sign):
            ids, offsets = encode(renderer, start.text + reply)
            first = next(
                (t for t, (a, b) in zip(ids, offsets, strict=True) if a >= len(start.text) and b > a), None
            )
            if first is not None and first not in firsts:
                firsts.append(first)
        tokens.append(firsts)
    shared = {t for firsts in tokens for t in firsts if sum(t in other for other in tokens) > 1}
    return tuple(tuple(t for t in firsts if t not in shared) for firsts in tokens)


def stop_tokens(renderer: Renderer, eos_ids: Sequence[int]) -> frozenset[int]:
    """Tokens that end a reply: the model's own end tokens, what the template writes after a reply, and every
    other control token (a model that writes one would forge a turn or a second BOS).

    Under the plain template every token with a line break in it ends a reply, as nothing else would.
    """
    control = {int(t) for t, added in renderer.tokenizer.added_tokens_decoder.items() if added.special}
    stops = {int(t) for t in eos_ids} | control - {renderer.tokenizer.unk_token_id}
    start = append_turn(renderer, Transcript(), statement_turn("A question."), round=0)
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
