"""Numbers as people read them: decimals from the interval, a sign on effects, p at the floor of the draws."""

import math

import numpy as np
import xarray as xr

ZERO = 1e-12
"""Numbers below it are zero up to rounding."""


def decimals(low: float, high: float) -> int:
    """The decimals that an interval justifies: two digits of its half-width, one from 3 on.

    Args:
        low: the lower end.
        high: the upper end.

    Returns:
        0 to 6, at least 1 below a half-width of 10; 3 where an end is missing or the interval has no width.
    """
    half = (high - low) / 2
    if not np.isfinite(half) or half <= 0:
        return 3
    exponent = math.floor(math.log10(half))
    first = half / 10**exponent
    return min(6, max(int(half < 10), -exponent + (first < 2.95)))


def number(value: float, places: int = 3, *, signed: bool = False) -> str:
    """A number with a fixed count of decimals; one too small to be seen gets an exponent.

    Args:
        value: the number; a missing one reads as ``none``.
        places: decimals.
        signed: whether a positive one has its sign, as the difference of two things has.
    """
    plain = float(value)
    if not np.isfinite(plain):
        return "none" if np.isnan(plain) else f"{plain:+}"
    sign = "+" if signed else ""
    plain = plain if abs(plain) > ZERO else 0.0
    if 0 < abs(plain) < 10.0**-places and places >= 3:
        return f"{plain:{sign}.1e}"
    return f"{plain:{sign}.{places}f}" if round(plain, places) else f"{0.0:.{places}f}"


def signed(value: float, places: int = 3) -> str:
    """A difference: a number that has its sign when it is positive too."""
    return number(value, places, signed=True)


def bounds(low: float, high: float, *, signed: bool = False) -> str:
    """An interval with the decimals that it justifies; a missing one reads as ``none``."""
    if np.isnan(low) and np.isnan(high):
        return "none"
    places = decimals(low, high)
    return f"[{_end(low, places, signed)}, {_end(high, places, signed)}]"


def _end(value: float, places: int, signed: bool) -> str:
    """An end of an interval; one that is not zero does not read as zero."""
    if abs(value) > ZERO and round(value, places) == 0:
        return f"{value:{'+' if signed else ''}.1g}"
    return number(value, places, signed=signed)


def with_bounds(value: float, low: float, high: float, *, signed: bool = False) -> str:
    """An estimate and its interval, as ``+0.14 [+0.08, +0.20]``.

    Args:
        value: the estimate.
        low: the lower end of its interval.
        high: the upper end.
        signed: whether the estimate is a difference, so that positive numbers have a sign.

    Example:
        >>> with_bounds(0.1402, 0.0811, 0.1993, signed=True)
        '+0.14 [+0.08, +0.20]'
    """
    places = decimals(low, high)
    text = number(value, places, signed=signed)
    return text if np.isnan(low) and np.isnan(high) else f"{text} {bounds(low, high, signed=signed)}"


def interval_of(
    one: xr.Dataset,
    value: str = "estimate",
    low: str = "ci_low",
    high: str = "ci_high",
    *,
    signed: bool = False,
) -> str:
    """The estimate and interval of one place of a result; the other arguments name its variables."""
    return with_bounds(*(float(one[name]) for name in (value, low, high)), signed=signed)


def p_value(p: float, *, draws: float = 0.0) -> str:
    """A p value without the leading zero, as it is printed in papers: ``.012``, or ``≤ .0005``.

    Args:
        p: the p value; a missing one reads as ``none``.
        draws: of the resampling that gave it, whose smallest p is one in so many; 0 where none was drawn.
    """
    if np.isnan(p):
        return "none"
    floor = 1 / draws if draws else 1e-4
    if p <= floor * (1 + 1e-9):
        return f"≤ {_without_zero(_rounded_up(floor))}"
    if p >= 1:
        return "1"
    places = 2 if p >= 0.1 else 3 if p >= 0.001 else 4
    while places < 6 and round(p, places) in (0.05, 1.0) and p not in (0.05, 1.0):
        places += 1  # on which side of the usual level a p lies is to be seen
    return _without_zero(f"{p:.{places}f}")


def _rounded_up(value: float) -> str:
    """A small number with one digit, or with two, never below itself."""
    exponent = math.floor(math.log10(value))
    first = value / 10.0**exponent
    digits = 0 if abs(first - round(first)) < 1e-6 else 1
    up = math.ceil(first * 10**digits - 1e-6) / 10**digits
    return f"{up * 10.0**exponent:.{digits - exponent}f}"


def is_p(p: float, *, draws: float = 0.0) -> str:
    """A p value in a sentence: ``p = .012`` or ``p ≤ .0005``."""
    text = p_value(p, draws=draws)
    return f"p {text}" if text.startswith("≤") else f"p = {text}"


def ranges(labels: list, mask: np.ndarray, noun: str) -> str:
    """Runs of neighbouring whole numbers as ``layers 3 to 5 and 8``; labels that skip numbers stay apart."""
    runs: list[list] = []
    for label in (label for label, inside in zip(labels, mask, strict=True) if inside):
        if runs and isinstance(label, int) and label == runs[-1][-1] + 1:
            runs[-1].append(label)
        else:
            runs.append([label])
    words = [f"{run[0]} to {run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs]
    plural = "s" if np.count_nonzero(mask) > 1 else ""
    return f"{noun}{plural} " + " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _without_zero(text: str) -> str:
    return text.removeprefix("0") if text.startswith("0.") else text
