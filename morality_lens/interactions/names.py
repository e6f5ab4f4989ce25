"""Names of effects: what a user calls an effect, as the result calls it."""

from collections.abc import Iterable


def effect_called(name: str, known: Iterable[object], who: str) -> str:
    """The effect of that name among those known, whatever the order in which its factors are written.

    ``feedback:instruction`` is ``instruction:feedback``, and ``a:b@c=off,d=on`` is ``b:a@d=on,c=off``.

    Args:
        name: as a user writes it.
        known: the names of a result.
        who: the function that was asked, for the message.

    Raises:
        ValueError: there is no such effect.
    """
    names = [str(one) for one in known]
    if name in names:
        return name
    found = [one for one in names if _parts(one) == _parts(name)]
    if len(found) != 1:
        raise ValueError(
            f"there is no effect {name!r} here: {who} needs one of the effects {names}; got {name!r}. "
            "Factors are joined by ':' in any order."
        )
    return found[0]


def factors_in(effect: str) -> tuple[str, ...]:
    """The factors of an effect, from its name: of ``a[on-placebo]:b@c=off``, a and b."""
    return tuple(part.partition("[")[0] for part in effect.partition("@")[0].split(":"))


def main_effects_of(effect: str) -> tuple[str, ...]:
    """The main effects of an interaction's factors: of ``a:b@c=off``, ``a@c=off`` and ``b@c=off``."""
    crossed, mark, held = effect.partition("@")
    return tuple(f"{part}{mark}{held}" for part in crossed.split(":"))


def _parts(name: str) -> tuple[tuple[str, ...], ...]:
    """Factors and held levels without their order and without blanks beside the marks."""
    crossed, _, held = name.partition("@")
    return tuple(
        tuple(sorted(part.strip() for part in some.split(mark) if part.strip()))
        for some, mark in ((crossed, ":"), (held, ","))
    )
