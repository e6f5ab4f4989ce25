"""The table of kinds is the one list of them."""

from typing import get_args

import pytest

from morality_lens.probes.kinds import CARDED, KINDS, ON_LABELS, Kind, check_kind


def test_the_names_for_signatures_are_those_of_the_table():
    assert get_args(Kind) == tuple(KINDS)
    assert set(CARDED) <= set(ON_LABELS) < set(KINDS)
    assert [check_kind(kind) for kind in KINDS] == list(KINDS)
    with pytest.raises(ValueError, match=r"kind must be one of mean_difference, .*; got 'magic'"):
        check_kind("magic")
