"""Runs joined along a further factor: matched by item, refused where they do not match."""

import numpy as np
import pytest
import xarray as xr

from morality_lens.interactions.crossing import cross_runs
from morality_lens.interactions.effects import factorial_effects


def cube(moved=0.0, *, prefix="", items=24, seed=0, **attrs) -> xr.DataArray:
    """item x feedback, two items to a cluster; feedback adds 1, and ``moved`` comes on top of it."""
    values = np.random.default_rng(seed).normal(size=(items, 2)) + np.array([0.0, 1.0 + moved])
    return xr.DataArray(
        values,
        dims=("item", "feedback"),
        coords={
            "item": [f"{prefix}q{k}" for k in range(items)],
            "cluster": ("item", [f"t{k // 2}" for k in range(items)]),
            "feedback": ["off", "on"],
        },
        name="y",
        attrs={"units": "share", **attrs},
    )


def own(name: str) -> str:
    return name.partition("/")[2]


def test_items_are_matched_by_name_whatever_their_order():
    one, other = cube(prefix="en/"), cube(2.0, prefix="es/", seed=1)
    shuffled = other.isel(item=np.random.default_rng(3).permutation(24))
    both = cross_runs({"en": one, "es": shuffled}, "language", item_of=own)
    assert both.dims == ("item", "language", "feedback")
    assert both["item"].values.tolist() == [f"q{k}" for k in range(24)]
    assert np.array_equal(both.sel(language="es").values, other.values)
    assert both.attrs == one.attrs
    assert both["cluster"].values.tolist() == one["cluster"].values.tolist()


def test_the_interaction_is_the_difference_of_the_two_runs_effects():
    one, other = cube(), cube(2.0, seed=1)
    effects = factorial_effects(cross_runs({"en": one, "es": other}, "language"))
    simple = [float((c.sel(feedback="on") - c.sel(feedback="off")).mean()) for c in (one, other)]
    found = effects["estimate"].sel(effect="language[es-en]:feedback")
    assert float(found) == pytest.approx(simple[1] - simple[0])
    assert effects["effect"].values.tolist() == ["language[es-en]", "feedback", "language[es-en]:feedback"]


def test_what_failed_stays_with_its_run():
    failed = xr.DataArray(np.zeros((24, 2)), dims=("item", "feedback"))
    one = cube().assign_coords(failed=failed)
    other = cube(seed=1).assign_coords(failed=failed + 1)
    both = cross_runs({"en": one, "es": other}, "language")
    assert both["failed"].sel(language="en").values.sum() == 0
    assert both["failed"].sel(language="es").values.sum() == 48


@pytest.mark.parametrize(
    ("other", "match"),
    [
        (cube(items=23), "1 of en, 0 of es items. Give item_of"),
        (cube(prefix="x"), "24 of en, 24 of es items"),
        (cube().assign_coords(cluster=("item", [f"t{k}" for k in range(24)])), "in other clusters"),
        (cube(units="bits"), r"differs from the first in units \('bits'\)"),
        (cube().rename(feedback="cot"), "same dims"),
        (cube().assign_coords(feedback=["off", "placebo"]), "same labels along 'feedback'"),
    ],
)
def test_runs_that_do_not_match_are_refused(other, match):
    with pytest.raises(ValueError, match=match):
        cross_runs({"en": cube(), "es": other}, "language")


def test_items_that_all_runs_have_are_taken_on_request():
    both = cross_runs({"en": cube(), "es": cube(items=23)}, "language", common=True)
    assert both.sizes["item"] == 23


def test_a_name_that_means_something_else_and_a_single_run_are_refused():
    with pytest.raises(ValueError, match="means nothing else in a run"):
        cross_runs({"en": cube(), "es": cube()}, "round")
    with pytest.raises(ValueError, match="two or more different levels"):
        cross_runs({"en": cube()}, "language")
    with pytest.raises(ValueError, match="without 'feedback'"):
        cross_runs({"en": cube(), "es": cube()}, "feedback")
    with pytest.raises(ValueError, match="gives 'q' for several items"):
        cross_runs({"en": cube(), "es": cube()}, "language", item_of=lambda name: name[0])
