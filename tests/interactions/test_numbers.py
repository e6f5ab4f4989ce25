import numpy as np
import pytest
from hypothesis import given, strategies as st

from morality_lens.interactions.numbers import (
    bounds,
    is_p,
    number,
    p_value,
    ranges,
    signed,
    with_bounds,
)


@pytest.mark.parametrize(
    ("value", "text"), [(np.nan, "none"), (0.0, "0.000"), (1e-5, "1.0e-05"), (-0.1234, "-0.123")]
)
def test_numbers_read_plainly(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ((0.1402, 0.0811, 0.1993), "+0.14 [+0.08, +0.20]"),
        ((0.0893, 0.0707, 0.108), "+0.089 [+0.071, +0.108]"),
        ((-12.34, -15.1, -9.6), "-12.3 [-15.1, -9.6]"),
        ((31.2, 11.0, 51.0), "+31 [+11, +51]"),
        ((0.05, 0.004, 0.1), "+0.05 [+0.004, +0.10]"),
        ((0.1, -0.004, 300.0), "0 [-0.004, +300]"),
        ((0.31, -2.7, 3.3), "+0.3 [-2.7, +3.3]"),
        ((0.5, 0.5, 0.5), "+0.500 [+0.500, +0.500]"),
        ((0.2, np.nan, np.nan), "+0.200"),
        ((np.nan, np.nan, np.nan), "none"),
    ],
)
def test_decimals_come_from_the_interval(ends, text):
    assert with_bounds(*ends, signed=True) == text


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3))
def test_whether_an_interval_holds_zero_can_be_read(low, width):
    high = low + width
    text = bounds(low, high, signed=True).strip("[]").split(", ")
    if min(abs(low), abs(high)) > 1e-9:
        assert (float(text[0]) <= 0 <= float(text[1])) == (low <= 0 <= high)


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3))
def test_what_is_printed_is_near_what_is_meant(middle, half):
    text = with_bounds(middle, middle - half, middle + half).split(" ")[0]
    assert abs(float(text) - middle) <= 0.2 * half


@pytest.mark.parametrize(
    ("p", "draws", "text"),
    [
        (0.0005, 2000.0, "≤ .0005"),
        (0.0001, 2000.0, "≤ .0005"),
        (0.001, 2000.0, ".001"),
        (0.0123, 2000.0, ".012"),
        (0.344, 2000.0, ".34"),
        (0.9996, 2000.0, ".9996"),
        (0.9951, 2000.0, ".995"),
        (1.0, 2000.0, "1"),
        (0.04996, 2000.0, ".04996"),
        (0.0504, 2000.0, ".0504"),
        (0.05, 2000.0, ".050"),
        (1 / 700, 700.0, "≤ .0015"),
        (1 / 300, 300.0, "≤ .0034"),
        (1 / 32, 32.0, "≤ .032"),
        (1e-30, 0.0, "≤ .0001"),
        (np.nan, 0.0, "none"),
    ],
)
def test_a_p_value_is_printed_as_in_papers_and_ends_at_the_floor_of_the_draws(p, draws, text):
    assert p_value(p, draws=draws) == text
    assert is_p(p, draws=draws) == (f"p {text}" if "≤" in text else f"p = {text}")


def test_a_difference_has_its_sign():
    assert [signed(v, 2) for v in (0.5, -0.5, 0.0)] == ["+0.50", "-0.50", "0.00"]


def test_neighbours_are_named_as_a_range():
    layers = list(range(6))
    assert ranges(layers, np.array([1, 0, 1, 1, 0, 1], bool), "layer") == "layers 0, 2 to 3 and 5"
