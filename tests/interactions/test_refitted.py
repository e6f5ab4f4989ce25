"""Refits travel with projections: at their places they are those given by hand, else they are left out."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from planted import planted_run
from probes.test_probe import training

from morality_lens.interactions.carried import CarriedRefits
from morality_lens.interactions.claims import claim_ladder
from morality_lens.interactions.contrasts import between
from morality_lens.interactions.cube import factors_of, read_cube
from morality_lens.interactions.effects import factorial_effects
from morality_lens.interactions.refitted import STALE, refused_layers, resolve_refits
from morality_lens.probes.fitting import fit_directions
from morality_lens.probes.probe import load_probe
from morality_lens.probes.refits import project_means, run_cell_means, with_refits

LAYERS = [0, 1]


@pytest.fixture(scope="module")
def run():
    return planted_run()


@pytest.fixture(scope="module")
def probe():
    x = training(n=240, gap=4.0, clusters=12)
    return with_refits(fit_directions(x), x, draws=25)


@pytest.fixture(scope="module")
def by_hand(run, probe):
    return project_means(probe.refits, run_cell_means(run))


def same(y: xr.DataArray, want: xr.DataArray) -> None:
    found, notes = resolve_refits(y, None)
    assert notes == []
    assert found is not None
    np.testing.assert_allclose(found.transpose(*want.dims).values, want.values, atol=1e-10)
    assert found.attrs["n_clusters"] == 12


def test_a_projection_carries_the_cell_means_on_refits(run, probe, by_hand):
    same(probe.project(run), by_hand)
    same(probe.project(run.residuals), by_hand)
    means = run.residuals.mean("item")
    assert "refits" not in probe.project(means).attrs  # nothing to test without items


def test_cell_means_of_items_that_lack_residuals_are_those_of_the_others(run, probe):
    holed = run.residuals.copy()
    holed[2, 1, 1, 1, 1] = np.nan
    carried = probe.project(holed).attrs["refits"].refits
    want = xr.dot(holed.mean("item"), probe.refits, dim="d_model")
    np.testing.assert_allclose(carried, want.transpose(*carried.dims), atol=1e-10)


@pytest.mark.parametrize(
    "change",
    [
        lambda y: y.sel(layer=LAYERS),
        lambda y: y.sel(site="answer_start", layer=1),
        lambda y: y.sel(site="answer_start", layer=1, drop=True).isel(round=-1, drop=True),
        lambda y: y.isel(round=[1]).transpose("layer", ...),
        lambda y: y.sel(instruction="on"),
        lambda y: y.mean("round"),
        lambda y: between(y, layer=(1, 0)),
        lambda y: between(y.sel(site="answer_end"), layer=(1, 0), round=(1, 0)),
    ],
)
def test_refits_follow_the_projection_to_its_places(run, probe, by_hand, change):
    moral = probe.project(run)
    want = change(by_hand.rename(probe_draw="item")).rename(item="probe_draw")
    same(change(moral), want.drop_attrs())


def test_a_projection_in_single_precision_is_still_itself(run, probe):
    assert resolve_refits(probe.project(run).astype(np.float32), None)[1] == []


@pytest.mark.parametrize(
    "change",
    [
        lambda y: y * 2,
        lambda y: y.isel(item=slice(1, None)),
        lambda y: y - y.isel(round=0, drop=True),
        lambda y: y.where(y > 0, 0.0),
        lambda y: y.expand_dims(wording=["a"]),
        lambda y: y.assign_coords(layer=y["layer"] + 10),
        lambda y: y.sel(cot=["on", "off"]).assign_coords(cot=["off", "on"]),
    ],
)
def test_refits_of_another_array_are_left_out_in_words(run, probe, change):
    found, notes = resolve_refits(change(probe.project(run)), None)
    assert found is None
    assert notes == [STALE]


def test_given_refits_win_and_arrays_without_any_have_none(run, probe, by_hand):
    moral = probe.project(run)
    assert resolve_refits(moral * 2, by_hand)[0] is by_hand
    assert resolve_refits(moral.drop_attrs(), None) == (None, [])


def test_effects_are_those_with_refits_by_hand_and_stale_ones_are_told(run, probe, by_hand):
    moral = probe.project(run).sel(layer=LAYERS)
    found = factorial_effects(moral, draws=100)
    want = factorial_effects(moral.drop_attrs().assign_attrs(oriented=True), refits=by_hand, draws=100)
    assert found.attrs["question"] == "direction"
    for name in ("estimate", "se", "se_probe", "df", "p", "ci_low"):
        np.testing.assert_allclose(found[name], want[name], rtol=1e-8, atol=1e-10)
    fewer = factorial_effects(moral.isel(item=slice(2, None)), draws=100)
    assert (fewer.attrs["question"], STALE in fewer.attrs["notes"]) == ("this direction", True)


def test_degrees_of_freedom_are_those_of_the_training_clusters(run, probe, tmp_path):
    """Loaded probes know them too."""
    for one in (probe, load_probe(probe.save(tmp_path / "p"))):
        assert one.project(run).attrs["refits"].refits.attrs["n_clusters"] == 12
    moral = probe.project(run).sel(layer=LAYERS)
    plain = factorial_effects(moral.drop_attrs().assign_attrs(oriented=True), method="pointwise")
    found = factorial_effects(moral, method="pointwise")
    spread = found["se_probe"]
    variance = plain["se"] ** 2 + spread**2
    np.testing.assert_allclose(found["se"] ** 2, variance, atol=1e-12)
    df = variance**2 / (plain["se"] ** 4 / plain["df"] + spread**4 / 11)
    moved = (plain["se"] > 0).values
    np.testing.assert_allclose(found["df"].values[moved], df.values[moved])


def test_a_layer_without_a_gap_is_refused_about_the_direction_and_noted_about_this_one(run, probe):
    moral = probe.project(run).assign_coords(gap=("layer", [1.0, np.nan, 2.0]))
    found = factorial_effects(moral, draws=100)
    refused = found.sel(layer=0)
    assert refused["estimate"].notnull().all()
    assert refused[["se", "p", "ci_low", "p_adj", "band_low"]].isnull().all().to_array().all()
    assert any("at the layers 0: along the direction there" in note for note in found.attrs["notes"])
    this = factorial_effects(moral.drop_attrs().assign_attrs(oriented=True), draws=100)
    assert this["p"].sel(layer=0, round=1).notnull().any()
    assert any("at the layers 0 the unit is the gap of the training" in note for note in this.attrs["notes"])
    with pytest.raises(ValueError, match="needs a unit"):
        factorial_effects(moral.sel(layer=[0]), draws=100)


def test_a_difference_of_layers_is_as_stable_as_the_less_stable_one(run, probe):
    moral = probe.project(run).assign_coords(split_half=("layer", [0.3, 0.9, 0.95]))
    moved = between(moral, layer=(1, 0))
    assert float(moved["split_half"]) == 0.9
    with pytest.raises(ValueError, match=r"agree between halves.*at most 0\.30"):
        factorial_effects(between(moral, layer=(1, -1)), draws=100)


def test_the_carried_value_is_one_thing(run, probe):
    moral = probe.project(run)
    carried = moral.attrs["refits"]
    assert copy.deepcopy(carried) is carried
    assert repr(carried) == "cell means on 25 refits of the probe"
    assert (moral - moral.isel(round=0, drop=True)).attrs["refits"] is carried


GUARDED = {"split_half": ("layer", [np.nan, 0.9, 0.95]), "gap": ("layer", [0.0, 1.0, 2.0])}


def guarded(probe, **quality):
    """The probe with other knowledge of its directions."""
    return replace(probe, quality=probe.quality.assign({**GUARDED, **quality}))


def test_a_layer_without_a_direction_is_no_judged_layer(run, probe):
    """At the embedding the classes do not differ: the gap is 0, halves have no cosine, projections are 0."""
    y = guarded(probe).project(run)
    y = y.copy(data=np.where(y["layer"].broadcast_like(y) == -1, 0.0, y)).assign_attrs(y.attrs)
    by_hand = project_means(probe.refits, run_cell_means(run))
    found = factorial_effects(y, refits=by_hand, draws=100)
    assert found["se"].sel(layer=-1).isnull().all()
    assert found["se"].sel(layer=LAYERS).notnull().any()
    none_left = {"split_half": ("layer", [np.nan, 0.3, 0.4]), "gap": ("layer", [0.0, np.nan, 2.0])}
    for quality, message in (
        (none_left, r"agree between halves.*at most 0\.40"),
        ({"split_half": ("layer", [0.9] * 3), "gap": ("layer", [0.0, np.nan, np.nan])}, "needs a unit"),
    ):
        with pytest.raises(ValueError, match=message):
            factorial_effects(guarded(probe, **quality).project(run), draws=100)


def test_where_there_is_no_direction_an_effect_of_zero_on_it_is_noted(run, probe):
    plain = replace(guarded(probe), refits=None).project(run).drop_vars("split_half")
    notes = " ".join(factorial_effects(plain, draws=100).attrs["notes"])
    assert "at the layers -1 (0.00) the classes of the training data do not differ" in notes


@pytest.mark.parametrize(
    ("change", "left"),
    [
        (lambda y: y.sel(layer=0, drop=True), None),
        (lambda y: y.sel(layer=0), None),
        (lambda y: y.mean("layer"), None),
        (lambda y: y.mean("layer").mean("round"), None),
        (lambda y: between(y, layer=(1, 0)).sel(site="answer_end", drop=True), None),
        (lambda y: between(y, layer=(1, 0)).drop_vars(["split_half", "gap"]), None),
        (lambda y: y.drop_vars(["split_half", "gap"]), [1]),
        (lambda y: y.drop_vars(["split_half", "gap"]).sel(layer=[1, 0]), [1]),
        (lambda y: y.mean("round"), [1]),
    ],
)
def test_what_is_known_of_layers_outlives_the_steps_that_lose_its_coordinates(run, probe, change, left):
    y = guarded(probe, split_half=("layer", [np.nan, 0.1, 0.9])).project(run)
    y = change(y)
    found, notes = resolve_refits(y, None)
    assert notes == []
    cube = read_cube(y, {name: ["off", "on"] for name in factors_of(y)}, missing="refuse")
    if left is None:
        with pytest.raises(ValueError, match=r"agree between halves|needs a unit"):
            refused_layers(cube, True, found)
        return
    refused = refused_layers(cube, True, found).places.reshape(cube.rest_shape)
    judged = ~refused.any(axis=tuple(n for n, dim in enumerate(cube.rest) if dim != "layer"))
    assert cube.coords["layer"].values[judged].tolist() == left


def test_a_mean_over_stable_layers_is_judged(run, probe):
    steady = guarded(probe, split_half=("layer", [0.9] * 3), gap=("layer", [1.0, 2.0, 3.0]))
    y = steady.project(run).mean("layer")
    found, _ = resolve_refits(y, None)
    assert found is not None
    assert (float(found["split_half"]), float(found["gap"])) == (0.9, 1.0)
    cube = read_cube(y, {name: ["off", "on"] for name in factors_of(y)}, missing="refuse")
    assert not refused_layers(cube, True, found).places.any()


def test_a_margin_of_the_ladder_rests_on_the_refits_too(run, probe):
    """What is tested within the margin is the lowered projection with the refits lowered alike."""
    y = guarded(probe).project(run).sel(layer=[1], site="answer_end").isel(round=[-1])
    found = claim_ladder(y, margin=0.3)
    both = (y["instruction"] == "on") & (y["feedback"] == "on")
    carried = y.attrs["refits"].refits.sel(layer=[1], site="answer_end", drop=True).isel(round=[-1])
    lowered = (y - 0.3 * both).transpose(*y.dims).drop_attrs(deep=False).assign_attrs(oriented=True)
    refits = (carried - 0.3 * both.drop_vars("site", errors="ignore")).assign_attrs(carried.attrs)
    want = claim_ladder(lowered.assign_attrs(refits=CarriedRefits(refits=refits, own=lowered.mean("item"))))
    np.testing.assert_allclose(found["p"].sel(claim="L2"), want["p"].sel(claim="L2"), rtol=1e-8)
    assert STALE not in found.attrs["notes"]
    without = claim_ladder(y.drop_attrs().assign_attrs(oriented=True), margin=0.3)
    assert not np.isclose(found["p"].sel(claim="L2"), without["p"].sel(claim="L2"), rtol=0.01, atol=0)
