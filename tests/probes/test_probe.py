"""Directions: planted ones are found, references agree, projections are what they say."""

import html
import inspect
import json
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler

from morality_lens.probes import fitting
from morality_lens.probes.fitting import fit_directions
from morality_lens.probes.probe import load_probe
from morality_lens.probes.refits import for_file, with_refits
from morality_lens.probes.trust_checks import trust_card

KINDS = ("mean_difference", "logistic", "lda")


def training(n=120, layers=3, width=8, gap=2.0, clusters=20, seed=0) -> xr.DataArray:
    """Residuals whose classes part along one axis of every layer, more so the later the layer."""
    rng = np.random.default_rng(seed)
    labels = np.tile([0, 1], n // 2)
    x = rng.normal(size=(n, layers, width))
    for layer in range(layers):
        x[:, layer, layer] += gap * layer * (labels - 0.5)
    return xr.DataArray(
        x,
        dims=("statement", "layer", "d_model"),
        coords={
            "statement": [f"s{i}" for i in range(n)],
            "label": ("statement", labels),
            "cluster": ("statement", [f"c{i // 2 % clusters}" for i in range(n)]),
            "layer": np.arange(-1, layers - 1),
        },
        attrs={"model_fingerprint": "f", "statements_sha256": "s", "read": "end"},
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_direction_is_found_and_points_to_the_moral_side(kind):
    probe = fit_directions(training(gap=6.0), kind=kind)
    for layer in (1, 2):
        w = probe.direction.values[layer]
        assert w[layer] > 0
        assert abs(w[layer]) > 0.8 * np.linalg.norm(w)


def apart(scores: xr.DataArray, label: np.ndarray) -> np.ndarray:
    """How far the classes' mean projections lie apart, by layer."""
    return scores.values[label == 1].mean(0) - scores.values[label == 0].mean(0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_class_means_project_to_either_side_of_the_midpoint(kind):
    x = training()
    scores, label = fit_directions(x, kind=kind).project(x), x["label"].values
    sides = [scores.values[label == one].mean(0) for one in (0, 1)]
    np.testing.assert_allclose(sides[0], -sides[1], atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_the_means_of_unseen_statements_lie_one_gap_apart_and_those_of_its_own_further(kind):
    """Few statements with much noise: along the fit their own means lie half as far again apart."""
    unseen, own = [], []
    for seed in range(30):
        x, fresh = (training(n=80, width=20, gap=1.0, layers=3, seed=s) for s in (seed, 100 + seed))
        probe = fit_directions(x, kind=kind, draws=2)
        unseen.append(apart(probe.project(fresh), fresh["label"].values)[2])
        own.append(apart(probe.project(x), x["label"].values)[2])
    assert np.mean(unseen) == pytest.approx(1.0, abs=0.06)
    assert np.mean(own) > 1.15


def test_the_gap_of_a_mean_difference_has_lost_the_trace_of_its_variance():
    """By hand: the squared gap of the population is a sum over pairs of different clusters."""
    x = training(n=120, clusters=20, gap=1.0)
    y, names = x["label"].values, x["cluster"].values
    each = np.array(
        [
            x.values[(names == c) & (y == 1)].mean(0) - x.values[(names == c) & (y == 0)].mean(0)
            for c in np.unique(names)
        ]
    )
    together = np.einsum("ald,bld->lab", each, each)
    want = (together.sum((1, 2)) - np.einsum("laa->l", together)) / (20 * 19)
    between = each.mean(0)
    gap = fit_directions(x).quality["gap"].values
    np.testing.assert_allclose(gap[1:], (want / np.linalg.norm(between, axis=-1))[1:])


def test_a_gap_that_cannot_be_told_from_none_is_not_given_and_the_unit_is_that_of_the_fit():
    x = training(n=60, clusters=10, gap=0.0, seed=3)
    probe = fit_directions(x)
    assert np.isnan(probe.quality["gap"].values).sum() >= 2
    unknown = np.isnan(probe.quality["gap"].values)
    scores = probe.project(x)
    np.testing.assert_allclose(apart(scores, x["label"].values)[unknown], 1.0)
    np.testing.assert_array_equal(np.isnan(scores["gap"].values), unknown)
    rare = [np.isnan(fit_directions(training(gap=0.0, seed=s), draws=2).quality["gap"]) for s in range(20)]
    assert np.mean(rare) > 0.9


@pytest.mark.parametrize("kind", KINDS)
def test_flipping_the_labels_flips_the_projection(kind):
    x = training()
    flipped = x.assign_coords(label=("statement", 1 - x["label"].values))
    a, b = fit_directions(x, kind=kind).project(x), fit_directions(flipped, kind=kind).project(x)
    np.testing.assert_allclose(a.values, -b.values, atol=1e-6)


def test_held_out_quality_is_high_where_the_classes_part_and_chance_where_they_do_not():
    probe = fit_directions(training(n=400, gap=4.0, clusters=40))
    auroc = probe.quality["auroc"].values
    assert 0.35 < auroc[0] < 0.65
    assert auroc[2] > 0.97
    low, high = probe.quality["auroc_low"].values, probe.quality["auroc_high"].values
    assert (low <= auroc).all()
    assert (auroc <= high).all()
    assert low[0] < 0.5 < high[0]


def test_quality_is_held_out_by_cluster():
    """A class that is only a fingerprint of its clusters is read perfectly in sample and not out of it."""
    rng = np.random.default_rng(1)
    clusters, each = 12, 10
    centres = rng.normal(size=(clusters, 40)) * 3
    label = np.arange(clusters) % 2
    x = np.repeat(centres, each, 0) + rng.normal(size=(clusters * each, 40)) * 0.1
    data = xr.DataArray(
        x[:, None],
        dims=("statement", "layer", "d_model"),
        coords={
            "label": ("statement", np.repeat(label, each)),
            "cluster": ("statement", np.repeat([f"c{i}" for i in range(clusters)], each)),
            "layer": [0],
        },
    )
    probe = fit_directions(data, kind="logistic")
    assert roc_auc_score(data["label"], probe.project(data).values[:, 0]) == 1.0
    assert probe.quality["auroc"].item() < 0.8


def test_mean_difference_is_the_difference_of_means_over_its_length_and_gap():
    x = training()
    probe = fit_directions(x)
    y = x["label"].values
    between = (x.values[y == 1].mean(0) - x.values[y == 0].mean(0))[1:]
    length, gap = np.linalg.norm(between, axis=-1), probe.quality["gap"].values[1:]
    assert (gap < length).all()
    np.testing.assert_allclose(gap, length, rtol=0.06)
    np.testing.assert_allclose(probe.direction.values[1:], between / (length * gap)[:, None], atol=1e-12)


def test_logistic_and_lda_order_statements_as_scikit_learn_does():
    x = training()
    y = x["label"].values
    for number in range(3):
        features = x.values[:, number]
        scaled = StandardScaler().fit_transform(features)
        for kind, reference in (
            ("logistic", LogisticRegression(C=1.0, max_iter=2000).fit(scaled, y).decision_function(scaled)),
            (
                "lda",
                LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
                .fit(features, y)
                .decision_function(features),
            ),
        ):
            ours = fit_directions(x, kind=kind).project(x).values[:, number]
            assert np.corrcoef(ours, reference)[0, 1] == pytest.approx(1.0, abs=1e-9)


def test_a_layer_without_any_difference_has_direction_zero_and_no_nan():
    x = training()
    x[:, 0] = 1.0
    for kind in KINDS:
        probe = fit_directions(x, kind=kind)
        assert (probe.direction.values[0] == 0).all()
        assert probe.quality["auroc"].values[0] == 0.5
        assert np.isfinite(probe.project(x).values).all()


def test_projection_is_the_dot_product_at_every_place_of_the_cube():
    rng = np.random.default_rng(0)
    probe = fit_directions(training())
    cube = xr.DataArray(
        rng.normal(size=(2, 3, 2, 3, 8)),
        dims=("item", "round", "site", "layer", "d_model"),
        coords={"layer": [-1, 0, 1], "cluster": ("item", ["a", "b"])},
    )
    got = probe.project(cube)
    want = np.einsum("irsld,ld->irsl", cube.values, probe.direction.values) + probe.intercept.values
    assert got.dims == ("item", "round", "site", "layer")
    np.testing.assert_allclose(got.values, want, atol=1e-12)
    assert got.attrs["oriented"] is True
    assert got.attrs["units"] == "moral-immoral gap"
    assert "cluster" in got.coords


def test_a_probe_survives_the_disk(tmp_path):
    probe = fit_directions(training(), kind="lda")
    back = load_probe(probe.save(tmp_path / "p.safetensors"))
    xr.testing.assert_identical(back.direction, probe.direction)
    xr.testing.assert_identical(back.quality, probe.quality)
    assert (back.kind, dict(back.training)) == (probe.kind, dict(probe.training))
    assert "AUROC" in back._repr_html_()


def graded(n=240, noise=0.5, **kw) -> xr.DataArray:
    """The same with a rating along axis 0 of layers 1 and 2, whose sign is the label."""
    x = training(n=n, gap=0.0, clusters=40, **kw)
    value = np.random.default_rng(9).normal(size=n)
    x[:, 1:, 0] = value[:, None] + noise * x[:, 1:, 0]
    return x.assign_coords(value=("statement", value), label=("statement", (value > 0).astype(int)))


def paired(n=120, shift=6.0, labelled=True) -> xr.DataArray:
    """Statements ended in two ways: what is true of the first ending is untrue of the second."""
    x = training(n=n, gap=0.0, clusters=30)
    label = x["label"].values
    sides = [x.copy(), training(n=n, gap=0.0, clusters=30, seed=1)]
    for sign, side in zip((1, -1), sides, strict=True):
        side[:, 1:, 0] += sign * shift * (label[:, None] - 0.5)
        side[:, :, 1] += sign * 4
    both = xr.concat(sides, "side", coords="minimal", compat="override").assign_coords(side=[0, 1])
    return both if labelled else both.drop_vars("label")


def test_ridge_reads_ratings_and_keeps_the_unit_of_the_labels():
    x = graded()
    probe = fit_directions(x, kind="ridge")
    assert abs(probe.direction.values[2, 0]) > 0.9 * np.linalg.norm(probe.direction.values[2])
    own = apart(probe.project(x), x["label"].values)[1:]
    assert ((own >= 1) & (own < 1.1)).all()
    rank = probe.quality["spearman"].values
    assert abs(rank[0]) < 0.25
    assert rank[1:].min() > 0.8
    assert (probe.quality["spearman_low"] <= rank).all()
    assert (rank <= probe.quality["spearman_high"]).all()
    assert probe.quality["auroc"].values[1:].min() > 0.9


def test_ridge_uses_only_statements_that_have_a_rating():
    x = graded()
    holed = x.assign_coords(value=x["value"].where(np.arange(240) >= 40))
    want = fit_directions(x.isel(statement=slice(40, None)), kind="ridge")
    got = fit_directions(holed, kind="ridge")
    xr.testing.assert_identical(got.direction, want.direction)
    assert got.training["n"] == 200


def test_ratings_alone_give_the_unit_between_their_upper_and_lower_half():
    x = graded().assign_coords(label=("statement", np.ones(240, int)))
    probe = fit_directions(x, kind="ridge")
    scores = probe.project(x)
    above = x["value"].values > np.median(x["value"].values)
    own = apart(scores, above.astype(int))
    assert ((own[1:] >= 1) & (own[1:] < 1.1)).all()
    assert np.isnan(probe.quality["auroc"]).all()
    assert probe.quality["spearman"].values[2] > 0.8
    assert scores.attrs["units"] == "gap between upper and lower half"
    assert "no labels" in repr(probe)


def test_the_rank_correlation_is_told_for_every_kind_that_saw_ratings():
    assert "spearman" in fit_directions(graded(), kind="mean_difference").quality
    assert "spearman" not in fit_directions(training()).quality


def test_ccs_finds_the_truth_without_labels_and_labels_only_turn_it():
    with_labels = fit_directions(paired(), kind="ccs")
    without = fit_directions(paired(labelled=False), kind="ccs")
    for probe in (with_labels, without):
        w = probe.direction.values[2]
        assert abs(w[0]) > 0.8 * np.linalg.norm(w)
    assert with_labels.direction.values[2, 0] > 0
    assert with_labels.quality["auroc"].values[1:].min() > 0.97
    assert np.isnan(without.quality["auroc"]).all()
    for probe, oriented in ((with_labels, True), (without, False)):
        assert probe.training["oriented"] is oriented
        assert probe.project(paired()).attrs["oriented"] is oriented
    ratio = with_labels.direction.values[2] / without.direction.values[2]
    np.testing.assert_allclose(ratio, ratio[0])


def test_half_the_difference_of_a_pair_lies_half_a_gap_from_the_middle():
    x = paired()
    scores = fit_directions(x, kind="ccs").project(x)
    half = (scores.sel(side=0) - scores.sel(side=1)) / 2
    own = apart(half, x["label"].values)
    assert ((own[1:] >= 1) & (own[1:] < 1.1)).all()


def test_c_is_chosen_when_asked_for():
    x = training(n=60, layers=2, gap=1.0)
    fixed, chosen = (
        fit_directions(x, kind="logistic"),
        fit_directions(x, kind="logistic", regularisation=None),
    )
    assert not np.allclose(fixed.direction, chosen.direction)
    assert chosen.direction.values[1, 1] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_layers_fitted_in_blocks_are_as_those_fitted_together(kind, monkeypatch):
    x = training(layers=5)
    want = fit_directions(x, kind=kind)
    monkeypatch.setattr(fitting, "BLOCK", 2 * 120 * 8 * 8)
    got = fit_directions(x, kind=kind)
    xr.testing.assert_allclose(got.direction, want.direction)
    xr.testing.assert_allclose(got.quality, want.quality)


@pytest.mark.parametrize("kind", KINDS)
def test_held_out_scores_are_those_of_real_refits(kind):
    """Folds whose sums are subtracted equal folds whose statements are left out."""
    x = training(n=80, layers=2, clusters=16)
    y, clusters = x["label"].values, x["cluster"].values
    scores = np.zeros(80)
    folds = StratifiedGroupKFold(n_splits=5, shuffle=True, random_state=0)
    for train, test in folds.split(y, y, clusters):
        fitted = fit_directions(x.isel(statement=train), kind=kind, draws=2)
        trained = fitted.project(x.isel(statement=train))
        own = apart(trained, y[train])[1]  # folds are pooled in the gaps of what each was fitted on
        scores[test] = fitted.project(x.isel(statement=test)).values[:, 1] / own
    want = roc_auc_score(y, scores)
    assert float(fit_directions(x, kind=kind).quality["auroc"][1]) == pytest.approx(want, abs=1e-12)


def test_the_record_of_statements_and_the_verdict_travel_with_the_projection(tmp_path):
    probe = fit_directions(training())
    probe = probe.with_card(trust_card(training(), ["a word"] * 120, draws=20))
    assert probe.trust.startswith("trust card: ")
    said = probe.training
    assert (said["source"], said["demeaned"], said["oriented"]) == ("statements", False, True)
    assert (said["items"], said["conditions"], said["statements_sha256"]) == ([], [], "s")
    attrs = load_probe(probe.save(tmp_path / "p")).project(training()).attrs
    assert (attrs["trust"], attrs["leakage"]) == (probe.trust, "")
    assert attrs["probe_source"] == "statements"
    assert all(isinstance(value, (str, int, float)) for value in attrs.values())
    assert html.escape(probe.trust) in probe._repr_html_()


def test_a_probe_of_the_first_format_is_still_read(tmp_path):
    probe = fit_directions(training())
    arrays = {
        "direction": probe.direction.values,
        "intercept": probe.intercept.values,
        "layer": probe.direction["layer"].values,
        **{f"quality.{name}": a.values for name, a in probe.quality.items()},
    }
    old = {"n": 120, "model_fingerprint": "f"}
    about = {"kind": "lda", "training": json.dumps(old), "format": "1"}
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, tmp_path / "old", metadata=about)
    back = load_probe(tmp_path / "old")
    assert (back.kind, dict(back.training), back.trust) == ("lda", old, "")
    attrs = back.project(training()).attrs
    assert (attrs["oriented"], attrs["leakage"], attrs["units"]) == (True, "", "moral-immoral gap")
    about["format"] = "9"
    save_file({"layer": np.arange(2)}, tmp_path / "new", metadata=about)
    with pytest.raises(ValueError, match="is no probe of this package"):
        load_probe(tmp_path / "new")


@pytest.mark.parametrize(("folds", "told"), [(5, True), (0, False)])
def test_a_probe_of_an_earlier_format_says_that_its_unit_is_the_gap_of_its_own_statements(
    tmp_path, folds, told
):
    """Also after it was saved again; a direction without classes has had one unit always."""
    probe = fit_directions(training())
    path = replace(probe, training={**probe.training, "folds": folds}).save(tmp_path / "new")
    assert "unit_note" not in load_probe(path).project(training()).attrs
    with safe_open(path, framework="numpy") as opened:
        about = opened.metadata()
    save_file(load_file(path), tmp_path / "old", metadata={**about, "format": "2"})
    old = load_probe(tmp_path / "old")
    again = load_probe(old.save(tmp_path / "again"))
    for one in (old, again):
        note = one.project(training()).attrs.get("unit_note", "")
        assert ("gap of the statements that the direction was fitted on" in note) == told


def test_projections_are_stored_without_refits_and_with_all_else(tmp_path):
    x = training()
    probe = with_refits(fit_directions(x), x, draws=20)
    y = probe.project(x.rename(statement="item").assign_coords(item=np.arange(120)))
    with pytest.raises(TypeError, match="refits"):
        y.to_netcdf(tmp_path / "y.nc")
    for_file(y.assign_attrs(none=None)).to_netcdf(tmp_path / "y.nc")
    back = xr.load_dataarray(tmp_path / "y.nc")
    assert set(back.attrs) == {*y.attrs, "none"} - {"refits"}
    assert (back.attrs["oriented"], back.attrs["units"], back.attrs["none"]) == (1, y.attrs["units"], "")
    np.testing.assert_array_equal(back, y)
    np.testing.assert_array_equal(back["split_half"], y["split_half"])
    assert "refits" in y.attrs  # the projection itself is left as it was


def test_kinds_are_told_what_they_lack():
    for residuals, kind, message in (
        (training(), "ridge", "coordinate 'value'"),
        (training().assign_coords(value=("statement", np.ones(120))), "ridge", "1 different"),
        (training(), "ccs", "a side of size 2"),
        (paired(), "mean_difference", "mean_difference needs dims statement"),
        (paired(labelled=False).drop_vars("cluster"), "ccs", "coordinate 'cluster'"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_directions(residuals, kind=kind)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.assign_coords(label=("statement", np.full(120, 2))), "must be 1 .* or 0"),
        (lambda x: x.assign_coords(label=("statement", np.ones(120, int))), "statements of both labels"),
        (lambda x: x.drop_vars("cluster"), "coordinate 'cluster'"),
        (lambda x: x.where(x > -1), "NaN or infinite"),
        (lambda x: x.rename(layer="depth"), "dims statement, layer and d_model"),
        (
            lambda x: x.assign_coords(cluster=("statement", np.array(["a", "b"])[x["label"]])),
            "two or more clusters",
        ),
    ],
)
def test_training_data_that_cannot_serve_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        fit_directions(change(training()))


def test_wrong_kinds_layers_and_files_are_refused(tmp_path):
    probe = fit_directions(training())
    with pytest.raises(ValueError, match="kind must be one of"):
        inspect.unwrap(fit_directions)(training(), kind="mean")
    whole, some = probe.project(training()), training().isel(layer=[0, 1])
    np.testing.assert_array_equal(probe.project(some), whole.isel(layer=[0, 1]))
    with pytest.raises(ValueError, match="layers 0 to 1, and these are needed: -1"):
        probe.at_layers([0, 1]).project(training())
    with pytest.raises(ValueError, match="needs dims layer"):
        probe.project(training().isel(layer=0))
    with pytest.raises(FileNotFoundError, match="no probe at"):
        load_probe(tmp_path / "absent")
