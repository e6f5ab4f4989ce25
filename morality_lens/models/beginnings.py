"""Texts that begin alike, read with their common beginnings once.

Conditions of one item, critiques of its answers and forks of its dialogue say the same question first.
Sorted, such texts are neighbours; the stretches of neighbours that share a beginning are chosen so that the
fewest tokens are fed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from morality_lens.models import decoding
from morality_lens.models.decoding import Batch, LanguageModel

LEAST = 0.25
"""The share of all tokens that must be spared; for less, one pass over everything is as good."""


@dataclass(frozen=True, kw_only=True)
class Stems:
    """Which texts share a beginning.

    Attributes:
        owner: the stem of each text.
        lengths: tokens of each stem; every text goes on after its stem.
        first: a text of each stem.
    """

    owner: tuple[int, ...]
    lengths: tuple[int, ...]
    first: tuple[int, ...]

    def fed(self, texts: Sequence[Sequence[int]]) -> int:
        """Tokens that are read where each stem is read once."""
        own = sum(len(text) - self.lengths[stem] for text, stem in zip(texts, self.owner, strict=True))
        return own + sum(self.lengths)


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two rows begin with alike."""
    return next(
        (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def stems_of(texts: Sequence[Sequence[int]]) -> Stems | None:
    """The stems with which the fewest tokens are read; None where that spares too little."""
    order = sorted(range(len(texts)), key=lambda i: list(texts[i]))
    stretches = _stretches([texts[i] for i in order])
    owner, lengths = [0] * len(texts), []
    for stem, (start, stop, length) in enumerate(stretches):
        lengths.append(length)
        for i in order[start:stop]:
            owner[i] = stem
    first = tuple(order[start] for start, _, _ in stretches)
    found = Stems(owner=tuple(owner), lengths=tuple(lengths), first=first)
    total = sum(map(len, texts))
    pays = total - found.fed(texts) >= max(1, LEAST * total)
    return found if pays and all(lengths) else None


def _stretches(ordered: Sequence[Sequence[int]]) -> list[tuple[int, int, int]]:
    """The stretches of sorted texts with the fewest tokens to read: start, stop, and tokens of the stem.

    The last token of every text is read in its own row, where its logits are wanted.
    """
    alike = [common_length(a, b) for a, b in pairwise(ordered)]
    spared, came = [0], [(0, 0)]  # of the first texts: the most tokens spared; the last stretch's start, stem
    for stop in range(1, len(ordered) + 1):
        best = (-1, 0, 0)
        stem = len(ordered[stop - 1]) - 1
        for start in range(stop - 1, -1, -1):
            if start < stop - 1:
                stem = min(stem, alike[start], len(ordered[start]) - 1)
            best = max(best, (spared[start] + (stop - 1 - start) * stem, start, stem))
        spared.append(best[0])
        came.append(best[1:])
    found, stop = [], len(ordered)
    while stop:
        start, stem = came[stop]
        found.append((start, stop, stem))
        stop = start
    return found[::-1]


def prefill(
    lm: LanguageModel,
    batch: Batch,
    new: Sequence[Sequence[int]],
    weights: Float[Tensor, "row read new"] | None = None,
) -> tuple[Float[Tensor, "row vocab"], Float[Tensor, "row read layer d_model"] | None, int]:
    """:func:`decoding.prefill`, and how many tokens were fed; of an empty batch common beginnings once.

    Args:
        lm: the model.
        batch: the rows, changed in place.
        new: new tokens of each row.
        weights: for each row and read, a weight for each of its new tokens.
    """
    fresh = lm.cached and not any(batch.tokens) and all(new)
    stems = stems_of(new) if fresh else None
    if stems is None:
        logits, reads = decoding.prefill(lm, batch, new, weights)
        return logits, reads, sum(map(len, new))
    roots = decoding.start(lm, len(stems.lengths))
    stem_weights = None if weights is None else _of_stems(stems, weights)
    begun = [list(new[i][:n]) for i, n in zip(stems.first, stems.lengths, strict=True)]
    _, first = decoding.prefill(lm, roots, begun, stem_weights)
    grown = decoding.take(lm, roots, stems.owner)
    batch.tokens, batch.mask, batch.cache = grown.tokens, grown.mask, grown.cache
    lengths = [stems.lengths[stem] for stem in stems.owner]
    rest = [list(text[n:]) for text, n in zip(new, lengths, strict=True)]
    rest_weights = None if weights is None else _after(weights, lengths, max(map(len, rest)))
    logits, reads = decoding.prefill(lm, batch, rest, rest_weights)
    if reads is not None and first is not None:
        each = rearrange(first, "stem (place read) layer d -> stem place read layer d", read=reads.shape[1])
        reads = reads + each[list(stems.owner), _places(stems)]
    return logits, reads, stems.fed(new)


def _places(stems: Stems) -> list[int]:
    """The number of each text among those of its stem."""
    seen = [0] * len(stems.lengths)
    places = []
    for stem in stems.owner:
        places.append(seen[stem])
        seen[stem] += 1
    return places


def _of_stems(
    stems: Stems, weights: Float[Tensor, "row read new"]
) -> Float[Tensor, "stem several stem_token"]:
    """The weights of every text of a stem for the stem's tokens, one text after the other."""
    places, reads = _places(stems), weights.shape[1]
    wide = weights.new_zeros(len(stems.lengths), (max(places) + 1) * reads, max(stems.lengths))
    for row, (stem, place) in enumerate(zip(stems.owner, places, strict=True)):
        size = stems.lengths[stem]
        wide[stem, place * reads : (place + 1) * reads, :size] = weights[row, :, :size]
    return wide


def _after(
    weights: Float[Tensor, "row read new"], lengths: Sequence[int], width: int
) -> Float[Tensor, "row read rest"]:
    """The weights of the tokens that follow each text's stem."""
    moved = weights.new_zeros(*weights.shape[:2], width)
    for row, size in enumerate(lengths):
        left = min(width, weights.shape[2] - size)
        moved[row, :, :left] = weights[row, :, size : size + left]
    return moved
