"""The same text under several ids: such items are one, so their clusters are one too."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from morality_lens.items.kinds import AnyItem, Question, Rating

T = TypeVar("T", bound=AnyItem)


def joined_clusters(items: Sequence[T]) -> tuple[T, ...]:
    """The items, in which all clusters that share an asked text are one.

    Two items of one text give the same numbers twice. In two clusters they would count as two independent
    pieces of evidence, and every standard error would be too small; in one cluster they do no harm. Clusters
    are joined as wholes, since an item's whole template depends on it, and go by the first of their names in
    the alphabet. Letters' case, blanks and the order of the options make no other text.
    """
    name = {item.cluster: item.cluster for item in items}

    def root(cluster: str) -> str:
        while name[cluster] != cluster:
            cluster = name[cluster]
        return cluster

    for clusters in _clusters_by_text(items):
        roots = sorted({root(cluster) for cluster in clusters})
        for other in roots[1:]:
            name[other] = roots[0]
    if all(root(cluster) == cluster for cluster in name):
        return tuple(items)
    return tuple(
        item if root(item.cluster) == item.cluster else replace(item, cluster=root(item.cluster))
        for item in items
    )


def repeated_note(items: Sequence[AnyItem]) -> str:
    """A warning that some texts came under ids of several clusters; empty where none did."""
    repeated = _clusters_by_text(items)
    if not repeated:
        return ""
    before = len({item.cluster for item in items})
    after = len({item.cluster for item in joined_clusters(items)})
    shown = " and ".join(sorted(repeated[0])[:2])
    texts = "1 text stands" if len(repeated) == 1 else f"{len(repeated)} texts stand"
    return (
        f"Repeated items: {texts} under ids of several clusters (such as {shown}); these clusters count as "
        f"one, {after} in place of {before}."
    )


def _clusters_by_text(items: Iterable[AnyItem]) -> list[list[str]]:
    """The clusters of every text that has several."""
    found: dict[tuple[str, ...], dict[str, None]] = {}
    for item in items:
        found.setdefault(_asked(item), {})[item.cluster] = None
    return [list(clusters) for clusters in found.values() if len(clusters) > 1]


def _asked(item: AnyItem) -> tuple[str, ...]:
    """What is asked or said, without what makes no other text."""
    if isinstance(item, Question):
        return (_plain(item.context), _plain(item.question), *sorted(map(_plain, item.options)))
    if isinstance(item, Rating):
        return (_plain(item.context), _plain(item.question))
    return (_plain(item.text),)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
