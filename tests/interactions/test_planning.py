import numpy as np
import pytest
import xarray as xr

from morality_lens.interactions.planning import plan

FACTORS = ("instruction", "cot", "feedback")


def test_known_minimal_effects_are_reproduced():
    """80 % power, in sds of the contrast: pointwise, and in a family of 160 autocorrelated tests."""
    table = plan((50, 100, 200, 500), sd=1.0, n_tests=160)
    np.testing.assert_allclose(table["pointwise"], [0.40, 0.28, 0.20, 0.13], atol=0.006)
    np.testing.assert_allclose(table["family"], [0.60, 0.42, 0.30, 0.19], atol=0.025)


def test_a_two_way_needs_four_times_and_the_three_way_sixteen_times_the_items():
    table = plan((100,), cell_sd=1.0).set_index("effect")["sd"]
    assert table["main effect"] ** 2 == pytest.approx(0.5)
    assert table["two-way"] ** 2 == pytest.approx(2)
    assert table["three-way"] ** 2 == pytest.approx(8)


def test_the_planned_effect_is_found_with_the_planned_power():
    size = plan((40,), sd=1.0)["pointwise"].item()
    draws = np.random.default_rng(0).standard_normal((4000, 40)) + size
    t = draws.mean(axis=1) / (draws.std(axis=1, ddof=1) / np.sqrt(40))
    assert np.mean(np.abs(t) > 2.0227) == pytest.approx(0.8, abs=0.02)


def test_clusters_that_agree_cost_items():
    alone = plan((200,), sd=1.0)["pointwise"].item()
    apart = plan((200,), sd=1.0, cluster_size=10.0, icc=0.0)["pointwise"].item()
    agreeing = plan((200,), sd=1.0, cluster_size=10.0, icc=0.3)["pointwise"].item()
    assert alone < apart < agreeing
    assert agreeing / apart == pytest.approx(np.sqrt(1 + 9 * 0.3))


def test_larger_and_less_correlated_families_need_larger_effects():
    found = [
        plan((100,), sd=1.0, n_tests=n, correlation=c)["family"].item()
        for n, c in ((1, 0.0), (32, 0.95), (32, 0.0))
    ]
    assert found == sorted(found)
    assert found[0] == plan((100,), sd=1.0)["pointwise"].item()


def test_a_pilot_gives_its_own_sds():
    rng = np.random.default_rng(1)
    y = xr.DataArray(
        rng.standard_normal((300, 2, 2, 2)),
        dims=("item", *FACTORS),
        coords={"item": np.arange(300), **{name: ["off", "on"] for name in FACTORS}},
    )
    table = plan((100,), pilot=y).set_index("effect")
    assert table.loc["instruction", "sd"] == pytest.approx(np.sqrt(0.5), rel=0.1)
    assert table.loc["instruction:cot:feedback", "sd"] == pytest.approx(np.sqrt(8), rel=0.1)
    clustered = plan((100,), pilot=y.assign_coords(cluster=("item", np.arange(300) // 10)))
    assert (clustered["n_clusters"] == 10).all()


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, "exactly one of pilot, sd and cell_sd; got none"),
        ({"sd": 1.0, "cell_sd": 1.0}, "exactly one of"),
        ({"sd": 1.0, "power": 1.0}, "between 0 and 1.*power=1.0"),
        ({"sd": 1.0, "correlation": 1.0}, "correlation from 0 to below 1"),
        ({"sd": 1.0, "n_items": (1,)}, "two items or more"),
    ],
)
def test_a_plan_without_assumptions_is_refused(asked, words):
    with pytest.raises(ValueError, match=words):
        plan(**asked)
