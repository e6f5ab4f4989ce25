"""Several named axes: planted directions come back, laws hold, and what cannot be fitted is refused."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import morality_lens as ml
from morality_lens import plots
from morality_lens.interactions.effects import factorial_effects
from morality_lens.items.bundled import AXES
from morality_lens.probes import from_statements
from morality_lens.probes.axes import Axes, load_axes, shown_layer
from morality_lens.probes.axes_fitting import Fit, axes_of
from morality_lens.probes.erasure import fit_leace
from morality_lens.probes.fitting import fit_directions
from morality_lens.probes.from_statements import check_axes, fit_axes, read_sets
from morality_lens.probes.refits import with_refits
from morality_lens.probes.removal import drawn_again, mean_differences, projecting, removal_of
from morality_lens.probes.statements import read_statements
from morality_lens.report.axes import axes_section, cost_lines, effects_on_axes
from morality_lens.runs.results import keep_result, kept_results

WIDTH = 24
UNITS = np.eye(WIDTH)


def statements(
    direction: np.ndarray, *, clusters: int = 24, size: float = 2.0, seed: int = 0
) -> xr.DataArray:
    """Residuals of pairs that differ along a direction, in two layers; at the second twice as far."""
    rng = np.random.default_rng(seed)
    count = 4 * clusters
    labels = np.arange(count) % 2
    gap = np.multiply.outer(labels - 0.5, size * direction)
    family = rng.normal(size=(clusters, WIDTH)).repeat(4, axis=0) * 0.3
    layers = [gap * times + family + rng.normal(size=(count, WIDTH)) for times in (1.0, 2.0)]
    return xr.DataArray(
        np.stack(layers, axis=1),
        dims=("statement", "layer", "d_model"),
        coords={
            "statement": [f"s{i}" for i in range(count)],
            "label": ("statement", labels),
            "cluster": ("statement", [f"c{i // 4}" for i in range(count)]),
            "layer": [0, 1],
        },
        attrs={"model_fingerprint": "m", "statements_sha256": f"{seed}", "read": "end"},
    )


def fit(**changed) -> Fit:
    plain = {"together": False, "remove": (), "method": "project", "kind": "mean_difference"}
    return Fit(**{**plain, "refits": 0, "seed": 0, **changed})


HOW = {
    "together": False,
    "remove": (),
    "method": "project",
    "kind": "mean_difference",
    "refits": None,
    "seed": 0,
}
A, NUISANCE = UNITS[0], UNITS[2]
B = 0.6 * UNITS[0] + 0.8 * UNITS[1]
"""At a cosine of .6 to A."""
LEANING = 0.8 * UNITS[3] + 0.6 * UNITS[2]
"""An axis that holds some of the nuisance."""


@pytest.fixture(scope="module")
def sets():
    return {
        "a": statements(A, seed=1, clusters=60),
        "b": statements(B, seed=2, clusters=60),
        "leaning": statements(LEANING, seed=3, clusters=60),
        "nuisance": statements(NUISANCE, seed=7, clusters=60),
    }


def cells(effect_on: np.ndarray, *, items: int = 30, seed: int = 0) -> xr.DataArray:
    """Residuals of a run in which one component moves every item along a direction."""
    rng = np.random.default_rng(seed)
    own = rng.normal(size=(items, 1, 1, 1, WIDTH))
    noise = 0.4 * rng.normal(size=(items, 2, 2, 2, WIDTH))
    moved = np.zeros((1, 2, 1, 1, WIDTH))
    moved[0, 1] = effect_on
    return xr.DataArray(
        own + noise + moved,
        dims=("item", "instruction", "round", "layer", "d_model"),
        coords={
            "item": [f"i{i}" for i in range(items)],
            "instruction": ["off", "on"],
            "round": [1, 2],
            "layer": [0, 1],
        },
    )


def test_planted_cosines_come_back_beyond_what_shuffled_labels_reach(sets):
    axes = axes_of({name: sets[name] for name in ("a", "b", "nuisance")}, fit())
    last = axes.relations.sel(layer=1)
    np.testing.assert_allclose(last.cosine.sel(first="a", second="b"), 0.6, atol=0.06)
    np.testing.assert_allclose(last.cosine.sel(first="a", second="nuisance"), 0.0, atol=0.1)
    assert float(last.null.sel(first="a", second="b")) == pytest.approx(1.96 / np.sqrt(WIDTH), abs=0.08)
    assert np.isnan(last.null.sel(first="a", second="a"))
    # On its own statements an axis is as its quality says; one that shares a part reads the others'.
    own = axes["a"].quality.sel(layer=1)
    assert float(last.auroc.sel(train="a", test="a")) == float(own.auroc)
    assert float(last.auroc_low.sel(train="a", test="b")) > 0.7
    assert float(last.auroc_low.sel(train="a", test="nuisance")) < 0.5
    assert float(last.auroc_high.sel(train="a", test="nuisance")) > 0.5
    assert axes.layer == 1
    assert axes.transfer.attrs["units"] == "AUROC"
    assert bool((axes.cosines == axes.relations.cosine).all())


def test_an_axis_alone_is_the_probe_of_its_statements(sets):
    whole = with_refits(fit_directions(sets["a"]), sets["a"], draws=20)
    (one,) = axes_of({"a": sets["a"]}, fit(refits=20)).values()
    for name in ("direction", "intercept", "refits"):
        np.testing.assert_array_equal(getattr(one, name), getattr(whole, name))
    xr.testing.assert_equal(one.quality, whole.quality)
    assert one.training["units"] == "gap of the axis"
    assert one.training["axis"] == "a"


@pytest.mark.parametrize("method", ["project", "leace"])
def test_the_order_of_axes_does_not_matter_and_scale_does_not(sets, method):
    how = fit(together=True, remove=("leaning", "nuisance"), method=method, refits=20)
    one = axes_of(sets, how)
    other = axes_of(dict(reversed(sets.items())), how)
    scaled = axes_of({name: (4 * x).assign_attrs(x.attrs) for name, x in sets.items()}, how)
    for name in ("a", "b"):
        np.testing.assert_array_equal(one[name].direction, other[name].direction)
        np.testing.assert_array_equal(one[name].refits, other[name].refits)
        np.testing.assert_allclose(one[name].direction, 4 * scaled[name].direction, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(one[name].quality.auroc, scaled[name].quality.auroc)
    named = {
        dim: one.relations[dim].values for dim in ("train", "test", "first", "second", "axis", "nuisance")
    }
    xr.testing.assert_allclose(one.relations, other.relations.sel(named))


def test_fitted_together_each_axis_reads_its_own_part_alone(sets):
    pair = {name: sets[name] for name in ("a", "b")}
    apart, together = axes_of(pair, fit()), axes_of(pair, fit(together=True))
    differences = {name: mean_differences(x) for name, x in pair.items()}
    for name, other in (("a", "b"), ("b", "a")):
        read = np.einsum("ld,ld->l", together[name].direction.values, differences[other])
        np.testing.assert_allclose(read, 0.0, atol=1e-9)
        assert (np.einsum("ld,ld->l", apart[name].direction.values, differences[other]) > 0.2).all()
    # The coefficients of a least-squares regression of a residual on both mean differences, up to the unit.
    x = np.random.default_rng(0).normal(size=WIDTH)
    basis = np.stack([differences["a"][1], differences["b"][1]], axis=1)
    coefficients = np.linalg.lstsq(basis, x, rcond=None)[0]
    read = np.array([together[name].direction.values[1] @ x for name in ("a", "b")])
    unit = np.array([together[name].direction.values[1] @ differences[name][1] for name in ("a", "b")])
    np.testing.assert_allclose(read / unit, coefficients, rtol=1e-6)
    cost = together.relations.sel(layer=1)
    assert (cost.after < cost.before).all()
    np.testing.assert_allclose(cost.kept, 0.8, atol=0.08)
    assert "nuisance_after" not in cost
    # The other axis's statements had a part in the direction; on those held out it reads nothing.
    assert (np.abs(cost.auroc.sel(train="a", test="b") - 0.5) < 0.1).all()


@pytest.mark.parametrize("method", ["project", "leace"])
def test_a_removed_nuisance_is_not_read_and_its_cost_is_told(sets, method):
    axes = axes_of(sets, fit(remove=("nuisance",), method=method))
    taken = mean_differences(sets["nuisance"])
    for name in ("a", "b", "leaning"):
        np.testing.assert_allclose((axes[name].direction.values * taken).sum(-1), 0.0, atol=1e-9)
    cost = axes.relations.sel(layer=1)
    assert float(cost.kept.sel(axis="a")) > 0.97
    assert float(cost.kept.sel(axis="leaning")) == pytest.approx(0.8, abs=0.06)
    assert float(cost.after.sel(axis="leaning")) < float(cost.before.sel(axis="leaning"))
    assert float(cost.after.sel(axis="a")) == pytest.approx(float(cost.before.sel(axis="a")), abs=0.02)
    assert float(cost.nuisance_before.sel(nuisance="nuisance")) > 0.95
    # Held out: an eraser of the same statements would leave less than chance to a new direction.
    assert 0.5 < float(cost.nuisance_after.sel(nuisance="nuisance")) < 0.75
    assert float(cost.auroc.sel(train="leaning", test="nuisance")) == pytest.approx(0.5, abs=0.1)
    plain = axes_of(sets, fit()).relations.sel(layer=1)
    assert float(plain.auroc.sel(train="leaning", test="nuisance")) > 0.8
    assert list(axes.nuisances) == ["nuisance"]
    assert axes.removed == ("nuisance",)
    told = " ".join(cost_lines(axes.relations))
    assert "Taking out nuisance changes the held-out AUROC at layer 1: a " in told
    assert "A new direction for nuisance" in told


@pytest.mark.parametrize("method", ["project", "leace"])
def test_no_linear_classifier_finds_a_removed_nuisance_in_its_own_statements(sets, method):
    nuisance = sets["nuisance"]
    erased = removal_of({"nuisance": nuisance}, method)(nuisance)
    np.testing.assert_allclose(mean_differences(erased), 0.0, atol=1e-9)
    y = nuisance["label"].values
    for layer in (0, 1):
        for model in (LinearDiscriminantAnalysis(), LogisticRegression(C=1e4, max_iter=5000)):
            before, after = (
                roc_auc_score(y, model.fit(x, y).decision_function(x))
                for x in (nuisance.values[:, layer], erased.values[:, layer])
            )
            assert before > 0.9
            assert after == pytest.approx(0.5, abs=0.02)


def test_what_directions_read_is_what_they_read_afterwards(sets):
    rng = np.random.default_rng(0)
    leace = removal_of({name: sets[name] for name in ("leaning", "nuisance")}, "leace")
    removal = leace.then(projecting(2, [mean_differences(sets["a"])]))
    directions, points = rng.normal(size=(2, WIDTH)), sets["b"]
    read = np.einsum("nld,ld->nl", points.values, removal.read(directions)) + removal.constant(directions)
    np.testing.assert_allclose(read, np.einsum("nld,ld->nl", removal(points).values, directions))
    one, other = points.values[:2]
    moved = removal(points).values[0] - removal(points).values[1]
    np.testing.assert_allclose(removal.moved(one - other), moved)


def shifted(sets, by: np.ndarray):
    return {name: (x + by).assign_attrs(x.attrs) for name, x in sets.items()}


@pytest.mark.parametrize("method", ["project", "leace"])
def test_what_is_taken_out_leaves_nothing_of_itself_and_the_unit_and_middle_as_they_were(sets, method):
    away = shifted(sets, 5 * UNITS[2] + 3 * UNITS[3])
    how = fit(remove=("nuisance",), together=True, method=method)
    removal = how.removal("a", away)
    for name in ("b", "leaning", "nuisance"):
        np.testing.assert_allclose(removal.moved(mean_differences(away[name])), 0.0, atol=1e-9)
    axes = axes_of(away, how)
    for name, probe in axes.items():
        length = np.linalg.norm(probe.direction.values, axis=-1)
        np.testing.assert_allclose(probe.quality["gap"] * length, 1.0)
        read = np.einsum("nld,ld->nl", away[name].values, probe.direction.values) + probe.intercept.values
        means = [read[away[name]["label"].values == label].mean(0) for label in (0, 1)]
        np.testing.assert_allclose(means[0], -means[1], atol=1e-9)
        assert (means[1] > 0.4).all()


def test_what_a_set_had_a_part_in_is_measured_without_the_fold_that_is_read(sets):
    pair = {name: sets[name] for name in ("a", "b")}
    axes = axes_of(pair, fit(together=True))
    seen = np.einsum("nd,d->n", sets["b"].values[:, 1], axes["a"].direction.values[1])
    inside = roc_auc_score(sets["b"]["label"].values, seen)
    held_out = float(axes.relations.auroc.sel(train="a", test="b", layer=1))
    assert 0.002 < abs(held_out - inside) < 0.1


def test_shrinkage_leads_from_leace_to_the_projection_and_erases_all_along():
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2
    points = rng.normal(size=(200, 5)) @ rng.normal(size=(5, 5)) + np.outer(labels, [2.0, 0, 0, 1, 0])
    along = points[labels == 1].mean(0) - points[labels == 0].mean(0)
    unit = along / np.linalg.norm(along)
    whole = fit_leace(points, labels, shrinkage=1.0)
    centred = points - points.mean(0)
    np.testing.assert_allclose(whole(points), points - np.outer(centred @ unit, unit))
    for shrinkage in (0.0, 0.3, 1.0):
        erased = fit_leace(points, labels, shrinkage=shrinkage)(points)
        np.testing.assert_allclose(erased[labels == 1].mean(0), erased[labels == 0].mean(0), atol=1e-9)
    moved = [
        np.square(fit_leace(points, labels, shrinkage=s)(points) - points).sum() for s in (0.0, 0.3, 1.0)
    ]
    assert moved[0] < moved[1] < moved[2]
    with pytest.raises(ValueError, match=r"a shrinkage from 0 to 1; got 2\.0"):
        fit_leace(points, labels, shrinkage=2.0)


def test_refits_take_the_nuisance_out_anew(sets):
    axes = axes_of(sets, fit(remove=("nuisance",), refits=30))
    refits, taken = axes["leaning"].refits, mean_differences(sets["nuisance"])
    assert refits.sizes == {"probe_draw": 30, "layer": 2, "d_model": WIDTH}
    along = np.einsum("pld,ld->pl", refits.values, taken / np.linalg.norm(taken, axis=-1, keepdims=True))
    length = np.linalg.norm(refits.values, axis=-1)
    assert (np.abs(along / length).std(0) > 1e-3).all()  # with one removal for all draws this would be 0
    np.testing.assert_allclose(refits.mean("probe_draw"), axes["leaning"].direction, atol=0.15)
    assert (axes["leaning"].quality["split_half"] > 0.5).all()


def test_labels_without_meaning_make_an_axis_of_which_nothing_is_claimed(sets):
    noise = statements(np.zeros(WIDTH), seed=9, clusters=60)
    axes = axes_of({"a": sets["a"], "noise": noise}, fit(refits=20))
    quality = axes["noise"].quality
    assert (quality.auroc_low < 0.55).all()
    assert (np.abs(axes.relations.cosine.sel(first="a", second="noise")) < 0.6).all()
    effects = factorial_effects(axes.project(cells(2 * A)), draws=200)
    assert float(effects.p_adj.sel(axis="a", layer=1).max()) < 0.05
    assert bool(effects.p_adj.sel(axis="noise").isnull().all())
    assert any("of noise: 0" in note for note in effects.attrs["notes"])


def test_nothing_left_is_said_and_all_of_nothing_is_refused(sets):
    again = sets["nuisance"]
    axes = axes_of({**sets, "again": again}, fit(remove=("nuisance",)))
    assert "again" not in axes
    assert axes.refused["again"].startswith(
        "Nothing is left of the axis 'again' without nuisance: at no layer"
    )
    with pytest.raises(KeyError, match="Nothing is left"):
        axes["again"]
    with pytest.raises(KeyError, match="there is no axis 'other'; choose among a, b, leaning"):
        axes["other"]
    with pytest.raises(ValueError, match="Nothing is left of the axis 'again'"):
        axes_of({"again": again, "nuisance": sets["nuisance"]}, fit(remove=("nuisance",)))


def test_projections_are_those_of_each_axis_and_one_family_is_corrected(sets):
    pair = axes_of({name: sets[name] for name in ("a", "nuisance")}, fit(refits=20))
    residuals = cells(2 * A)
    cube = pair.project(residuals)
    assert cube.dims == ("item", "instruction", "round", "layer", "axis")
    assert cube.attrs["units"] == "gap of the axis"
    for name, probe in pair.items():
        alone = probe.project(residuals)
        np.testing.assert_array_equal(cube.sel(axis=name), alone)
        np.testing.assert_array_equal(cube["gap"].sel(axis=name), alone["gap"])
        np.testing.assert_array_equal(
            cube.attrs["refits"].refits.sel(axis=name), alone.attrs["refits"].refits
        )
    both = factorial_effects(cube, draws=500)
    assert both.attrs["family"].startswith("8 tests (2 rounds x 2 layers x 2 axes)")
    assert "the direction of each axis moves" in both.attrs["notes"][0]
    alone = factorial_effects(pair["a"].project(residuals), draws=500)
    for name in ("estimate", "se", "se_probe", "p"):
        np.testing.assert_allclose(both[name].sel(axis="a"), alone[name])
    assert (both.band_low.sel(axis="a") <= alone.band_low).all()
    assert float(both.p_adj.sel(axis="a", layer=1).max()) < 0.05
    assert float(both.p_adj.sel(axis="nuisance").min()) > 0.05
    apart = factorial_effects(cube, draws=500, family=("round", "layer"))
    assert (both.p_adj >= apart.p_adj - 1e-12).all()
    said = ml.describe(both, "instruction")
    assert "instruction, axis a: positive at round 1 (layers 0 to 1), round 2 (layers 0 to 1)" in said
    assert "instruction, axis nuisance: not distinguishable from zero" in said


def test_the_axis_with_the_fewest_clusters_rules_the_degrees_of_freedom(sets):
    few = statements(UNITS[5], seed=6, clusters=8)
    axes = axes_of({"a": sets["a"], "few": few}, fit(refits=20))
    assert axes.project(cells(A)).attrs["refits"].refits.attrs["n_clusters"] == 8


def test_axes_are_saved_with_all_that_is_known_of_them(sets, tmp_path):
    axes = axes_of(sets, fit(remove=("nuisance",), refits=20))
    folder = axes.save(tmp_path / "new" / "axes")
    read = load_axes(folder)
    assert repr(read) == repr(axes)
    assert "without nuisance (project); held-out AUROC at layer 1: a " in repr(read)
    xr.testing.assert_identical(read.relations, axes.relations)
    assert list(read.nuisances) == ["nuisance"]
    for name in axes:
        np.testing.assert_array_equal(read[name].direction, axes[name].direction)
    np.testing.assert_array_equal(ml.load_probe(folder / "a.safetensors").direction, axes["a"].direction)
    smaller = axes_of({"a": sets["a"]}, fit()).save(folder)
    assert sorted(file.name for file in smaller.iterdir()) == ["a.safetensors", "axes.zarr.zip"]
    assert "<table>" in read._repr_html_()
    other = tmp_path / "other"
    other.mkdir()
    axes.save(other)  # an empty folder is taken
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("kept")
    with pytest.raises(FileExistsError, match="exists and holds no axes; give a new folder"):
        axes.save(tmp_path / "full")
    with pytest.raises(FileNotFoundError, match="no axes in"):
        load_axes(tmp_path / "full")


def test_the_layer_is_that_of_the_highest_mean_held_out_quality(sets):
    one = axes_of({"a": sets["a"]}, fit())["a"]

    def reading(*auroc: float):
        return replace(one, quality=one.quality.assign(auroc=("layer", list(auroc))))

    assert shown_layer({"a": reading(0.7, 0.8)}) == 1
    assert shown_layer({"a": reading(0.7, 0.8), "b": reading(0.9, 0.75)}) == 0


@pytest.mark.parametrize(
    ("sets", "changed", "words"),
    [
        ({}, {}, "needs an axis or more"),
        (("a",), {"remove": ["a"]}, "needs an axis or more"),
        (("a", "b"), {"remove": ["c"]}, r"of which \['c'\] are to be removed"),
        (("a", "b"), {"remove": "b"}, r"remove=\('b',\)"),
        (("a",), {"kind": "ccs"}, "axes are fitted as mean_difference, logistic, lda; got 'ccs'"),
        (("a",), {"kind": "median"}, "kind must be one of"),
        (("a",), {"method": "forget"}, "method must be one of project, leace; got 'forget'"),
        (("a/b",), {}, "a name of letters, digits, _ and -; got 'a/b'"),
        (
            ("a", "b"),
            {"kind": "lda", "refits": 9, "together": True},
            "refits without nuisances or other axes",
        ),
    ],
)
def test_requests_that_cannot_be_fitted_are_refused_before_a_model_is_read(sets, changed, words):
    some = ml.load_statements("world", limit=40)
    with pytest.raises(ValueError, match=words):
        check_axes(dict.fromkeys(sets, some), **{**HOW, **changed})


def test_statements_of_one_label_are_refused_by_the_axis_name():
    some = ml.load_statements("world", limit=40)
    with pytest.raises(ValueError, match=r"the axis 'good': a probe needs statements of both labels; all 21"):
        check_axes({"all": some, "good": [s for s in some if s.label]}, **HOW)


def test_the_samples_of_a_nuisance_hold_whole_clusters_and_both_labels(sets):
    rng = np.random.default_rng(0)
    drawn = drawn_again(sets["a"], rng)
    names, counts = np.unique(drawn["cluster"].values, return_counts=True)
    assert len(names) < 60
    assert (counts % 4 == 0).all()


@pytest.fixture(scope="module")
def model():
    return ml.load_model()


@pytest.mark.slow(seconds=20)
def test_statements_are_read_in_one_pass_and_as_apart(model, monkeypatch):
    some = ml.load_statements("world", limit=60)
    calls = []

    def counted(*given, **named):
        calls.append(len(given[1]))
        return read_statements(*given, **named)

    monkeypatch.setattr(from_statements, "read_statements", counted)
    found = read_sets(model, {"first": some[:24], "second": some})
    assert calls == [84]
    for name, own in (("first", some[:24]), ("second", some)):
        alone = read_statements(model, own)
        np.testing.assert_allclose(found[name], alone, atol=1e-4)
        assert found[name].attrs == alone.attrs
        assert found[name]["cluster"].values.tolist() == alone["cluster"].values.tolist()
        assert found[name]["statement"].values.tolist() == [s.id for s in own]


@pytest.mark.slow(seconds=30)
def test_a_run_is_read_on_axes_and_its_report_has_a_section(model, tmp_path):
    run = ml.play(model, ml.load_items(limit=16), rounds=1, out=tmp_path / "run", progress=False)
    some = ml.load_statements("world", limit=600)
    axes = fit_axes(model, {"first": some[::2], "second": some[1::2], "third": some[:200]})
    cube = axes.project(run)
    np.testing.assert_allclose(cube.sel(axis="second"), axes["second"].project(run))
    effects = effects_on_axes(run, axes, draws=200)
    assert effects is not None
    assert effects.sizes["axis"] == 3
    keep_result(run, "axes", axes.relations)
    keep_result(run, "axes-effects", effects)
    kept = kept_results(run)
    section = axes_section(kept)
    assert section is not None
    assert [name for name, _, _ in section.figures] == ["axes-effects", "axes-transfer", "axes-cosines"]
    told = " ".join(section.lines)
    assert all(f"instruction, site answer_start, axis {name}: " in told for name in axes)
    page = ml.write_report(run, path=tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Several axes" in page
    other = replace(axes["first"], training={**axes["first"].training, "model_fingerprint": "0" * 64})
    foreign = Axes(probes={"first": other}, relations=axes.relations)
    with pytest.raises(ValueError, match="these axes: each was fitted on another model"):
        foreign.project(run)
    kept_only = run.residuals.rename(d_model="width")
    with pytest.raises(ValueError, match="project needs dims layer and d_model"):
        axes.project(kept_only)


def test_figures_show_the_numbers(sets):
    axes = axes_of(sets, fit(remove=("nuisance",), refits=20))
    relations = axes.relations
    heat = plots.axes_transfer(relations, layer=0).data[0]
    np.testing.assert_array_equal(heat.z, relations.auroc.sel(layer=0))
    np.testing.assert_array_equal(np.asarray(heat.customdata)[..., 0], relations.auroc_low.sel(layer=0))
    spread, dots = plots.axes_cosines(relations).data
    assert len(dots.x) == 6
    assert sorted(dots.x) == list(dots.x)
    at = list(dots.y).index("a, b")
    assert dots.x[at] == float(relations.cosine.sel(layer=1, first="a", second="b"))
    assert spread.x[at] == 2 * float(relations.null.sel(layer=1, first="a", second="b"))
    before, after = plots.axes_cost(relations).data
    assert list(before.y) == ["a", "b", "leaning", "nuisance (nuisance)"]
    np.testing.assert_array_equal(after.x[:3], relations.after.sel(layer=1))
    assert after.x[3] == float(relations.nuisance_after.sel(layer=1)[0])
    effects = factorial_effects(axes.project(cells(2 * A)), draws=200)
    marks = plots.axes_effects(effects, layer=1).data
    assert [float(mark.x[0]) for mark in marks] == effects.estimate.sel(layer=1, round=2)[0].values.tolist()
    with pytest.raises(ValueError, match="no layer 7"):
        plots.axes_transfer(relations, layer=7)
    with pytest.raises(ValueError, match="needs axes out of which something was taken"):
        plots.axes_cost(axes_of({"a": sets["a"]}, fit()).relations)
    with pytest.raises(ValueError, match="two directions or more"):
        plots.axes_cosines(axes_of({"a": sets["a"]}, fit()).relations)
    with pytest.raises(ValueError, match="needs effects with a dim 'axis'"):
        plots.axes_effects(effects.isel(axis=0), layer=1)


def test_the_names_that_come_with_the_package():
    assert AXES == ("care", "fairness", "loyalty", "authority", "purity", "truth", "refusal", "sentiment")
