"""Flips, half-lives and samples by hand."""

import numpy as np
import pytest
import xarray as xr

from morality_lens.design import COMPONENTS
from morality_lens.experiments.dynamics import expected_maximum, half_life, round_dynamics


def made(values):
    """Items x rounds in one cell."""
    v = np.asarray(values, float)
    items = [f"i{k}" for k in range(len(v))]
    return xr.DataArray(
        v.reshape(len(v), 1, 1, 1, -1),
        dims=("item", *COMPONENTS, "round"),
        coords={
            "item": items,
            "cluster": ("item", items),
            **{name: ["on"] for name in COMPONENTS},
            "round": np.arange(v.shape[1]),
        },
    )


def test_changes_by_hand():
    cube = made([[0, 0, 1, 1, 1], [0, 1, 0, 1, 0], [1, 1, 1, 1, 0], [0, 0, 0, 0, 0]])
    found = round_dynamics(cube)["estimate"].squeeze().to_series().to_dict()
    assert found == pytest.approx(
        {"flips": 6 / 4, "flip-flops": 3 / 4, "gained": 1 / 4, "lost": 1 / 4, "settled": 2 / 4}
    )


def test_scores_count_from_the_threshold_on():
    cube = made([[0.2, 0.7, 0.6], [0.5, 0.4, 0.1], [0, 0, 0]])
    found = round_dynamics(cube)["estimate"].squeeze().to_series()
    assert found["flips"] == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="3 rounds or more"):
        round_dynamics(cube.isel(round=[0, 1]))
    with pytest.raises(ValueError, match="failed scores"):
        round_dynamics(cube.where(cube > 0.05))


def test_a_trajectory_that_halves_its_way_has_the_half_life_of_its_line():
    rng = np.random.default_rng(0)
    mean = np.array([0.2, 0.4, 0.6, 0.8, 1.0])
    cube = made(mean + rng.normal(0, 0.05, (50, 5)))
    found = half_life(cube)
    assert float(found["rounds"].squeeze()) == pytest.approx(2.0, abs=0.1)
    assert float(found["low"].squeeze()) < 2.0 < float(found["high"].squeeze())
    fast = half_life(made(np.tile([0.0, 0.8, 0.9, 1.0, 1.0], (20, 1)) + rng.normal(0, 0.01, (20, 5))))
    assert float(fast["rounds"].squeeze()) == pytest.approx(0.5 / 0.8, abs=0.02)


def test_without_a_change_there_is_no_half_life():
    rng = np.random.default_rng(1)
    found = half_life(made(rng.normal(0, 1, (30, 4))))
    assert np.isnan(found["rounds"].values).all()


def test_the_worst_of_samples_by_hand():
    scores = xr.DataArray(
        [[0.1, 0.9], [0.2, 0.4], [0.6, 0.5]],
        dims=("item", "sample"),
        coords={"item": list("abc"), "cluster": ("item", list("abc"))},
    )
    found = expected_maximum(scores)["estimate"].to_series().to_dict()
    assert found == pytest.approx({"mean": 2.7 / 6, "expected maximum": 1.9 / 3, "any toxic": 2 / 3})
    with pytest.raises(ValueError, match="two or more samples"):
        expected_maximum(scores.isel(sample=[0]))
