"""Control tokens that a text spells stay text: they forge no turn, end no reply and begin no dialogue."""

import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer

SPELLED, MEANT = 0x100000, 0xF0000
"""First code points (of planes for private use) that stand for the control tokens: as a message spells them,
and as the template means them."""
MARK = "\U0010fffd"
"""Stands for a message while its place in the rendered text is looked up."""

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, eq=False)
class ControlTokens:
    """The control tokens of a tokenizer, and how a text that spells one is tokenized.

    While a dialogue is rendered, a control token that a message spells is one private character. A tokenizer
    whose control tokens are called by other private characters then reads the spelled ones as any other text
    and the template's own ones as before.

    Attributes:
        tokenizer: a fast Hugging Face tokenizer.
        texts: the control tokens: all special ones, and other added ones that the template writes.
    """

    tokenizer: Any
    texts: tuple[str, ...]

    @staticmethod
    def of(tokenizer: Any, template: str) -> "ControlTokens":
        """The control tokens of a tokenizer with this chat template."""
        added = tokenizer.added_tokens_decoder.values()
        found = [t.content for t in added if t.special or (t.content.strip() and t.content in template)]
        return ControlTokens(tokenizer=tokenizer, texts=tuple(dict.fromkeys(found)))

    @cached_property
    def ids(self) -> frozenset[int]:
        """Their token ids, but for the one of words that the vocabulary lacks: text holds that."""
        ids = frozenset(self.tokenizer.convert_tokens_to_ids(list(self.texts)))
        return ids - {self.tokenizer.unk_token_id}

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {text: number for number, text in enumerate(self.texts)}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self.texts, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    @cached_property
    def _stand_ins(self) -> re.Pattern[str]:
        return re.compile("|".join(chr(SPELLED + number) for number in range(len(self.texts))) or r"(?!)")

    @cached_property
    def _private(self) -> re.Pattern[str]:
        last = len(self.texts)
        ranges = "".join(f"{chr(first)}-{chr(first + last)}" for first in (SPELLED, MEANT))
        return re.compile(f"[{ranges}{MARK}]")

    def found_in(self, text: str) -> list[str]:
        """The control tokens that a text spells, each once."""
        return list(dict.fromkeys(self._pattern.findall(text)))

    def as_text(self, text: str) -> str:
        """The text with each control token that it spells as one private character.

        Raises:
            ValueError: the text holds such a private character itself, or half of a surrogate pair.
        """
        odd = self._private.search(text) or _SURROGATE.search(text)
        if odd:
            raise ValueError(
                f"the text {text[:40]!r} holds the character U+{ord(odd[0]):X}, which means nothing in a "
                "text (half of a surrogate pair, or one for private use that stands for control tokens "
                "here); remove it."
            )
        return self._pattern.sub(lambda found: chr(SPELLED + self._numbers[found[0]]), text)

    def reply_as_text(self, text: str) -> str:
        """The same for what a model wrote, whose private characters become the sign for an unknown one."""
        return self.as_text(self._private.sub("\ufffd", text))

    def spelled(self, text: str) -> str:
        """The text with the private characters spelled out again."""
        return self._stand_ins.sub(lambda found: self.texts[ord(found[0]) - SPELLED], text)

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids of a text, no special ones added, and the characters that each one covers."""
        if not self._stand_ins.search(text):
            encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            return list(encoded["input_ids"]), [tuple(o) for o in encoded["offset_mapping"]]
        rewritten, starts, stops = self._rewritten(text)
        backend, original = self._renamed
        encoding = backend.encode(rewritten, add_special_tokens=False)
        ids = [original.get(token, token) for token in encoding.ids]
        ends = [*starts, len(text)]
        return ids, [(ends[a], stops[b - 1] if b > a else ends[a]) for a, b in encoding.offsets]

    def _rewritten(self, text: str) -> tuple[str, list[int], list[int]]:
        """Spelled tokens spelled out, meant ones as private characters, and where each character was."""
        pieces, starts, stops, at = [], [], [], 0
        either = re.compile(f"{self._pattern.pattern}|{self._stand_ins.pattern}")
        for found in (*either.finditer(text), None):
            first, last = (len(text), len(text)) if found is None else found.span()
            pieces.append(text[at:first])
            starts += range(at, first)
            stops += range(at + 1, first + 1)
            at = last
            if found is not None:
                meant = self._numbers.get(found[0])
                piece = self.spelled(found[0]) if meant is None else chr(MEANT + meant)
                pieces.append(piece)
                starts += [first] * len(piece)
                stops += [last] * len(piece)
        return "".join(pieces), starts, stops

    @cached_property
    def _renamed(self) -> tuple[Tokenizer, dict[int, int]]:
        """The tokenizer with its control tokens called by private characters, and the ids they have in it."""
        state = json.loads(self.tokenizer.backend_tokenizer.to_str())
        state |= {"post_processor": None, "truncation": None, "padding": None}
        original: dict[str, int] = {}
        for token in state["added_tokens"]:
            number = self._numbers.get(token["content"])
            if number is not None:
                token["content"] = chr(MEANT + number)
            original[token["content"]] = int(token["id"])
        backend = Tokenizer.from_str(json.dumps(state))
        renamed = {name: backend.token_to_id(name) for name in original}
        return backend, {new: original[name] for name, new in renamed.items() if new is not None}
