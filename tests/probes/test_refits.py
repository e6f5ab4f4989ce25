"""Refits are what a bootstrap by hand gives; their projections are what projecting item by item gives."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings, strategies as st
from planted import PlantedRun, planted_run
from probes.test_probe import training

from morality_lens.probes.fitting import fit_directions
from morality_lens.probes.refits import (
    project_means,
    refit_directions,
    run_cell_means,
    split_half_cosine,
    with_refits,
)


def test_refits_are_mean_differences_of_drawn_clusters_in_the_units_of_the_full_fit():
    x = training()
    got = refit_directions(x, draws=5, seed=3)
    y, names = x["label"].values, x["cluster"].values
    between = x.values[y == 1].mean(0) - x.values[y == 0].mean(0)
    unit = np.linalg.norm(between, axis=-1, keepdims=True) * fit_directions(x).quality["gap"].values[:, None]
    rng, clusters = np.random.default_rng(3), np.unique(names)
    for draw in range(5):
        weight = rng.multinomial(len(clusters), np.full(len(clusters), 1 / len(clusters)))
        times = weight[np.searchsorted(clusters, names)]
        means = [np.average(x.values, axis=0, weights=times * (y == label)) for label in (0, 1)]
        np.testing.assert_allclose(got.values[draw], (means[1] - means[0]) / unit, atol=1e-10)
    assert got.dims == ("probe_draw", "layer", "d_model")
    assert got.attrs["n_clusters"] == len(clusters)


@pytest.mark.parametrize("kind", ["mean_difference", "lda"])
def test_refits_have_the_scale_of_the_probe_that_they_are_put_into(kind):
    x = training(n=60, gap=1.0, clusters=12)
    probe = with_refits(fit_directions(x, kind=kind, folds=3, seed=5), x, draws=3)
    alone = refit_directions(x, draws=3, kind=kind)
    usual = fit_directions(x, kind=kind).direction
    scale = np.linalg.norm(probe.direction, axis=-1) / np.linalg.norm(usual, axis=-1)
    np.testing.assert_allclose(probe.refits.values, alone.values * scale[:, None], atol=1e-10)


def test_the_mean_refit_is_the_probe_and_not_a_shorter_one():
    """Refits of unit length would be shortened by the cosine between them and the truth."""
    x = training(n=400, gap=1.0, clusters=40)
    probe, refits = fit_directions(x), refit_directions(x, draws=400)
    along = (refits * probe.direction).sum("d_model") / (probe.direction**2).sum("d_model")
    np.testing.assert_allclose(along.mean("probe_draw").values[1:], 1.0, atol=0.05)


def test_refits_of_one_more_gap_are_as_long_as_before():
    """Units: residuals twice as large give directions half as long."""
    x = training()
    np.testing.assert_allclose(refit_directions(2 * x).values, refit_directions(x).values / 2, atol=1e-12)


def test_the_spread_of_refits_is_the_spread_over_new_statements():
    """The bootstrap's variance of one coordinate equals that over freshly drawn training sets."""
    fresh = [fit_directions(training(n=240, gap=3.0, clusters=40, seed=s), draws=2) for s in range(60)]
    truth = np.std([f.direction.values[2, 5] for f in fresh])
    refits = refit_directions(training(n=240, gap=3.0, clusters=40), draws=200)
    assert refits.values[:, 2, 5].std() == pytest.approx(truth, rel=0.35)


@pytest.mark.parametrize("kind", ["logistic", "lda"])
def test_refits_of_other_kinds_scatter_around_their_probe(kind):
    x = training(n=240, gap=3.0, clusters=40)
    probe, refits = fit_directions(x, kind=kind), refit_directions(x, draws=10, kind=kind)
    along = (refits * probe.direction).sum("d_model") / (probe.direction**2).sum("d_model")
    np.testing.assert_allclose(along.mean("probe_draw").values[1:], 1.0, atol=0.25)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_every_refit_and_every_half_has_both_classes(seed):
    x = training(n=8, clusters=4, seed=1).assign_coords(
        label=("statement", [1, 1, 0, 0, 1, 1, 0, 0]), cluster=("statement", list("aabbccdd"))
    )
    assert np.isfinite(refit_directions(x, draws=3, seed=seed).values).all()
    assert (np.abs(split_half_cosine(x, splits=2, seed=seed)) <= 1 + 1e-12).all()


def test_halves_agree_on_a_planted_direction_and_not_on_noise():
    cosine = split_half_cosine(training(n=400, gap=6.0, clusters=40))
    assert cosine.dims == ("layer",)
    assert abs(float(cosine[0])) < 0.3
    assert float(cosine[2]) > 0.95


def test_the_cosine_of_halves_is_that_of_the_noise_to_signal_ratio():
    """Halves of n/2 cases: squared noise of a difference is 8 d / n beside the squared gap of 9."""
    x = training(n=400, width=8, gap=1.5, clusters=200, layers=3)
    expected = 9 / (9 + 8 * 8 / 400)
    assert float(split_half_cosine(x, splits=50)[2]) == pytest.approx(expected, abs=0.02)


def test_a_layer_without_any_difference_has_no_direction():
    x = training()
    x[:, 0] = 0.1
    assert np.isnan(split_half_cosine(x).values[0])
    assert (refit_directions(x, draws=3).values[:, 0] == 0).all()


def test_cell_means_keep_missing_cells_and_average_what_is_there():
    run = planted_run()
    cube = run.residuals.copy()
    cube[:, 0, :, :, 0] = np.nan
    cube[1, 1, 1, 1, 1] = np.nan
    got = run_cell_means(PlantedRun(path=run.path, manifest=run.manifest, cube=cube))
    want = cube.mean("item", skipna=True)
    assert got.dims == want.dims == ("instruction", "cot", "feedback", "round", "site", "layer", "d_model")
    np.testing.assert_allclose(got.values, want.values, atol=1e-12)
    assert np.isnan(got.values[0, :, :, 0]).all()
    assert np.isfinite(got.values[1]).all()


def test_projected_cell_means_are_the_cell_means_of_projections():
    run, x = planted_run(), training(layers=3, width=8)
    refits = refit_directions(x, draws=4)
    got = project_means(refits, run_cell_means(run))
    assert got.name == "refits"
    assert got.dims == ("probe_draw", "instruction", "cot", "feedback", "round", "site", "layer")
    want = xr.dot(run.residuals, refits, dim="d_model").mean("item").transpose(*got.dims)
    np.testing.assert_allclose(got.values, want.values, atol=1e-10)
    xr.testing.assert_allclose(got.coords.to_dataset(), want.coords.to_dataset())


def test_a_missing_cell_stays_missing_on_every_refit():
    means = run_cell_means(planted_run())
    means[0, 0, 0, 0] = np.nan
    got = project_means(refit_directions(training(), draws=3), means)
    assert np.isnan(got.values[:, 0, 0, 0, 0]).all()
    assert np.isfinite(got.values[:, 1]).all()


def test_what_cannot_be_refitted_or_projected_is_refused():
    x = training()
    for call, message in (
        (lambda: refit_directions(x, kind="ccs"), "refit another kind"),
        (lambda: refit_directions(x, draws=0), "one or more draws"),
        (lambda: split_half_cosine(x, splits=0), "one or more splits"),
        (lambda: refit_directions(x.drop_vars("cluster")), "coordinate 'cluster'"),
        (
            lambda: project_means(
                refit_directions(x, draws=2), run_cell_means(planted_run()).isel(layer=[0])
            ),
            "same layers and width",
        ),
        (lambda: project_means(x, x), "over probe_draw, layer and d_model"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
