"""Thoughts that a model writes before its reply: how its chat template marks them."""

from dataclasses import dataclass
from typing import Any

THOUGHT = "thought"
"""The segment of a transcript that holds them."""


@dataclass(frozen=True, kw_only=True)
class Thinking:
    """The marks of a template between which a model thinks.

    Attributes:
        opening: what begins the thoughts.
        closing: what ends them and begins the reply.
        skipped: what begins a reply without thoughts.
        end: the token that the model writes at the end of its thoughts.
        apart: whether the template takes the thoughts of a message as a field of their own.
    """

    opening: str
    closing: str
    skipped: str
    end: int
    apart: bool

    def before_reply(self, prompt: str, *, thinking: bool) -> str:
        """What follows the prompt before the model writes, its thoughts or its reply.

        Args:
            prompt: the text up to the prompt for a reply, which may itself begin the thoughts or skip them.
            thinking: whether thoughts are wanted.
        """
        if self.skips(prompt):
            return ""
        if prompt.rstrip().endswith(self.opening.strip()):
            return "" if thinking else f"\n{self.closing}"
        return self.opening if thinking else self.skipped

    def skips(self, prompt: str) -> bool:
        """Whether the prompt has ended the thoughts before they began."""
        return prompt.rstrip().endswith(self.closing.strip())


def find_thinking(tokenizer: Any, template: str) -> Thinking | None:
    """How a chat template marks thoughts: ``<think>`` and ``</think>``, channels, or not at all (None).

    A mark of several tokens is not recognised: the model's thoughts are part of its reply then.
    """
    vocabulary = tokenizer.get_added_vocab()
    if "<|channel|>" in template and {"<|channel|>", "<|message|>", "<|end|>"} <= set(vocabulary):
        final = "<|channel|>final<|message|>"
        return Thinking(
            opening="<|channel|>analysis<|message|>",
            closing=f"<|end|><|start|>assistant{final}",
            skipped=final,
            end=int(vocabulary["<|end|>"]),
            apart=True,
        )
    if "</think>" in template and {"<think>", "</think>"} <= set(vocabulary):
        return Thinking(
            opening="<think>\n",
            closing="</think>\n\n",
            skipped="<think>\n\n</think>\n\n",
            end=int(vocabulary["</think>"]),
            apart=False,
        )
    return None
