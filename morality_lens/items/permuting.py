"""The order of a question's options, permuted so that every place holds the right option equally often."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from morality_lens.items.kinds import Item, Question


def permute_options(items: Sequence[Item], *, seed: int = 0) -> tuple[Question, ...]:
    """The questions, in their own order, each with its options permuted.

    The design is balanced. In every cluster the questions take the rotations of one random permutation in
    turn, so that every role (right, unknown, biased, other) stands at every place equally often there, but
    for at most one question; over all questions the right option (the first one where none is right) does so
    too. Options that were permuted before are put back first: the same seed gives the same order again.

    Args:
        items: questions; those with as many options each are balanced together.
        seed: of the permutations.

    Raises:
        ValueError: other items than questions.

    Examples:
        >>> permuted = ml.items.permute_options(items)
        >>> len({question.order for question in permuted})
        5
        >>> permuted[0].options[permuted[0].label] == items[0].options[items[0].label]
        True
    """
    questions = [_question(item) for item in items]
    groups: dict[tuple[int, str], list[Question]] = defaultdict(list)
    for question in questions:
        groups[len(question.options), question.cluster].append(question)
    turn: dict[int, int] = defaultdict(int)
    permuted: dict[str, Question] = {}
    for size, cluster in sorted(groups, key=lambda group: _drawn(seed, *map(str, group))):
        base = np.random.default_rng(list(_drawn(seed, str(size), cluster, "base"))).permutation(size)
        for question in sorted(groups[size, cluster], key=lambda q: _drawn(seed, q.id)):
            # The first role comes to the places in turn, the others by the cluster's permutation after it.
            places = (base - base[0] + turn[size]) % size
            turn[size] += 1
            order = [0] * size
            for index, place in zip(_by_role(question), places.tolist(), strict=True):
                order[place] = index
            permuted[question.id] = reordered(question, order)
    return tuple(permuted[question.id] for question in questions)


def original_options(question: Question) -> Question:
    """The question with its options as they were before they were permuted.

    Examples:
        >>> [permuted] = ml.items.permute_options(items[:1], seed=1)
        >>> ml.items.original_options(permuted).options == items[0].options
        True
    """
    if question.order is None:
        return question
    back = np.argsort(question.order).tolist()
    return replace(reordered(question, back), order=None)


def reordered(question: Question, order: Sequence[int]) -> Question:
    """The question with its options at ``order``, in that order, and all roles moved along."""
    place = {index: at for at, index in enumerate(order)}
    before = question.order or range(len(question.options))

    def moved(index: int | None) -> int | None:
        return None if index is None else place[index]

    return replace(
        question,
        options=tuple(question.options[index] for index in order),
        unknown=moved(question.unknown),
        label=moved(question.label),
        biased=moved(question.biased),
        stereotyped=moved(question.stereotyped),
        order=tuple(before[index] for index in order),
    )


def _question(item: Item) -> Question:
    if not isinstance(item, Question):
        raise ValueError(
            f"only the options of questions can be permuted; item {item.id!r} is a {type(item).__name__}. "
            "Leave permute_options out for these items."
        )
    return original_options(item)


def _by_role(question: Question) -> list[int]:
    """The options, the right one first, then the unknown and the biased one, then the others."""
    first = (question.label, question.unknown, question.biased)
    return sorted(range(len(question.options)), key=lambda i: ([i != index for index in first], i))


def _drawn(seed: int, *parts: str) -> bytes:
    """Random bytes for some parts, the same on every machine."""
    return hashlib.sha256("|".join((str(seed), *parts)).encode()).digest()
