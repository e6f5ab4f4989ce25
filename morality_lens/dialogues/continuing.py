"""The tokens of a given text as a reply, in their place after a prompt."""

from collections.abc import Sequence

from morality_lens.dialogues import rendering
from morality_lens.dialogues.rendering import Renderer, Transcript
from morality_lens.dialogues.turns import statement_turn

LONGEST_TAIL = 32
"""Tokens of a prompt that a reply is tokenized together with, where no control token comes before."""


def reply_in_place(renderer: Renderer, prompt: Sequence[int], text: str) -> tuple[int, ...]:
    """The tokens of a reply as they follow a prompt.

    The text is tokenized together with the prompt's end. Where that would join the prompt's last letters
    with the reply's first ones to one token, the reply is tokenized by itself, as it would be generated: the
    prompt's tokens stay as they are. A blank comes before the text where the chat template puts one, or where
    the prompt ends in a word or sign of its own, such as ``Assistant:``.

    Args:
        renderer: of the model.
        prompt: tokens up to the reply.
        text: the reply.
    """
    tail = _tail(renderer, prompt)
    said = _blank(renderer, tail) + renderer.control.as_text(text.strip())
    before, _ = rendering.encode(renderer, tail)
    together, _ = rendering.encode(renderer, tail + said)
    if together[: len(before)] == before:
        return tuple(together[len(before) :])
    return tuple(rendering.encode(renderer, said)[0])


def _tail(renderer: Renderer, prompt: Sequence[int]) -> str:
    """The text of a prompt from its last control token on."""
    last = max((i for i, token in enumerate(prompt) if token in renderer.control.ids), default=0)
    ids = list(prompt[max(last, len(prompt) - LONGEST_TAIL) :])
    return str(renderer.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _blank(renderer: Renderer, tail: str) -> str:
    """What stands between a prompt and the words of a reply: a blank, or nothing."""
    if not tail or tail[-1].isspace():
        return ""
    own = rendering.append_turn(renderer, Transcript(), statement_turn("A question."), round=0)
    if not any(tail.endswith(mark) for mark in renderer.control.texts) and not own.text.endswith(tail):
        return " "
    return " " if rendering.puts_blank(renderer) else ""
