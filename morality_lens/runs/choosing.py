"""Which rounds, sites or layers of a run are read: those that were asked for, all of them there."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

T = TypeVar("T", int, str)


def chosen_labels(
    known: Mapping[str, Sequence[T]],
    given: Mapping[str, Sequence[T] | None],
    *,
    refusal: str = "this run has the {name}s {there}; got {wrong}.",
) -> dict[str, list[T]]:
    """The labels asked for along each dim, in the order given; all that there are where none were.

    Args:
        known: by dim, what the run has.
        given: by dim, what was asked for; None takes all.
        refusal: what is said of a label that is not there.

    Raises:
        ValueError: none was asked for, or one that is not there.
    """
    found = {}
    for name, there in known.items():
        asked = given.get(name)
        wanted = list(there if asked is None else asked)
        wrong = [one for one in wanted if one not in there]
        if wrong or not wanted:
            told = {"there": ", ".join(map(str, there)), "wrong": ", ".join(map(str, wrong)) or "none"}
            raise ValueError(refusal.format(name=name, **told))
        found[name] = wanted
    return found
