"""Several directions side by side."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, strategies as st
from synthetic import make_probe

from morality_lens import plots
from morality_lens.probes.comparing import card_table, direction_cosines
from morality_lens.probes.probe import Probe
from morality_lens.probes.trust_checks import trust_card

ROOM = np.random.default_rng(0)


def pointing(direction: np.ndarray, model: str = "m") -> Probe:
    """A probe of these directions, [layer, d_model]."""
    base = make_probe(layers=len(direction))
    wide = xr.DataArray(direction, dims=("layer", "d_model"), coords={"layer": base.direction["layer"]})
    return replace(base, direction=wide, training={**base.training, "model_fingerprint": model})


@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(1e-3, 1e3))
def test_cosines_are_symmetric_bounded_and_free_of_length(seed, scale):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((2, 3, 5))
    found = direction_cosines({"a": pointing(a), "b": pointing(b * scale), "c": pointing(-a)})
    assert found.dims == ("first", "second", "layer")
    np.testing.assert_allclose(found.values, found.transpose("second", "first", "layer").values)
    np.testing.assert_allclose(found.sel(first="a", second="a"), 1.0)
    np.testing.assert_allclose(found.sel(first="a", second="c"), -1.0)
    by_hand = [x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(found.sel(first="a", second="b"), by_hand)


def test_layers_that_all_have_are_compared_and_a_direction_without_length_has_no_cosine():
    long, short = ROOM.standard_normal((4, 3)), ROOM.standard_normal((2, 3))
    short[0] = 0.0
    found = direction_cosines({"long": pointing(long), "short": pointing(short)})
    assert found["layer"].values.tolist() == [-1, 0]
    assert np.isnan(found.sel(first="long", second="short", layer=-1))
    assert np.isfinite(found.sel(first="long", second="short", layer=0))


def test_what_cannot_be_compared_is_named():
    one = pointing(np.ones((2, 3)))
    with pytest.raises(ValueError, match="needs two probes or more of one model; got 1 of 1"):
        direction_cosines({"one": one})
    with pytest.raises(ValueError, match="got 2 of 2"):
        direction_cosines({"one": one, "other": pointing(np.ones((2, 3)), model="n")})
    apart = replace(one, direction=one.direction.assign_coords(layer=[8, 9]))
    with pytest.raises(ValueError, match="a layer in common"):
        direction_cosines({"one": one, "apart": apart})
    with pytest.raises(ValueError, match=r"without one: \['one'\]"):
        card_table({"one": one})


def test_a_line_that_one_card_alone_has_is_in_the_table():
    labels = np.arange(40) % 2
    residuals = xr.DataArray(
        ROOM.standard_normal((40, 2, 4)) + labels[:, None, None],
        dims=("statement", "layer", "d_model"),
        coords={
            "layer": [-1, 0],
            "label": ("statement", labels),
            "cluster": ("statement", [f"c{i}" for i in range(40)]),
        },
    )
    card = trust_card(residuals, [f"words {i}" for i in range(40)], draws=20)
    more = card.lines.iloc[[0]].assign(line="steer")
    plain = replace(make_probe(), card=card)
    tried = replace(plain, card=card.with_lines(more))
    found = card_table({"plain": plain, "tried": tried}).set_index("check")
    assert found.index.tolist() == ["statements", "layer", *card.lines["line"], "steer"]
    assert found.loc["steer", "plain"] == "not checked"
    assert found.loc["steer", "tried"] != "not checked"


def test_the_figure_has_a_line_for_every_other_direction():
    found = direction_cosines({name: pointing(ROOM.standard_normal((3, 4))) for name in "abc"})
    fig = plots.direction_cosines(found, first="b")
    assert [line.name for line in fig.data] == ["a", "c"]
    np.testing.assert_allclose(fig.data[0].y, found.sel(first="b", second="a"))
    assert all("cosine" in line.hovertemplate for line in fig.data)
    with pytest.raises(ValueError, match="got 'd'"):
        plots.direction_cosines(found, first="d")
