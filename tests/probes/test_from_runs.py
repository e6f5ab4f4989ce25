"""Probes on a run's own residuals find what tells its answers apart, and say where they would leak."""

import numpy as np
import pytest
import xarray as xr
from planted import PlantedRun, planted_run

from morality_lens.design import COMPONENTS, Condition
from morality_lens.probes.fitting import fit_directions
from morality_lens.probes.from_runs import condition_direction, fit_on_run
from morality_lens.probes.probe import load_probe

NONE, ALL = Condition(), Condition(instruction="on", cot="on", feedback="on")


def with_label(run):
    return run.residuals["label"]


def share(probe, axis):
    """Squared share of an axis in the last layer's direction."""
    w = probe.direction.values[-1]
    return w[axis] ** 2 / (w**2).sum()


@pytest.mark.parametrize("kind", ["mean_difference", "logistic", "lda"])
def test_what_tells_the_answers_of_one_condition_apart_is_found(kind):
    run = planted_run(outcome=3.0, items=100)
    probe = fit_on_run(run, site="answer_end", label=with_label(run), conditions=[NONE], kind=kind)
    assert share(probe, 1) > 0.7
    assert probe.quality["auroc"].values.min() > 0.9
    assert probe.training["conditions"] == ["none"]
    assert probe.training["n"] == 200


def test_over_all_conditions_the_components_leak_in_and_removing_means_keeps_them_out():
    """The labels follow the components and nothing else: only the condition means tell them apart."""
    run = planted_run(outcome=0.0, items=80)
    leaking = fit_on_run(run, site="answer_end", label=with_label(run))
    assert share(leaking, 0) > 0.8
    assert leaking.quality["auroc"].values.min() > 0.6
    clean = fit_on_run(run, site="answer_end", label=with_label(run), demean=True)
    assert share(clean, 0) < 0.5
    assert clean.quality["auroc"].values.max() < 0.6


def test_with_means_removed_the_outcome_is_still_found():
    run = planted_run(outcome=2.0, items=80)
    assert share(fit_on_run(run, site="answer_end", label=with_label(run)), 1) < 0.8
    assert share(fit_on_run(run, site="answer_end", label=with_label(run), demean=True), 1) > 0.95


def test_moving_whole_conditions_changes_nothing_once_means_are_removed():
    a, b = planted_run(outcome=1.0, moved=0.0), planted_run(outcome=1.0, moved=5.0)
    b.cube[:, 1, 0, 0, 1] += 7.0  # one cell moves further in one round
    fits = [fit_on_run(r, site="answer_end", label=with_label(r), demean=True) for r in (a, b)]
    np.testing.assert_allclose(fits[0].direction.values, fits[1].direction.values, atol=1e-10)


def test_leakage_is_said_for_several_conditions_and_only_then():
    run = planted_run()
    label = with_label(run)
    many = fit_on_run(run, site="answer_end", label=label, conditions=[NONE, ALL])
    said = many.project(run).attrs["leakage"]
    assert "trained on 2 conditions" in said
    assert "none, instruction+cot+feedback" in said
    other_items = fit_on_run(run, site="answer_end", label=label, items=["q00", "q02", "q04", "q06"])
    assert other_items.project(run).attrs["leakage"], "other items of the same cells leak too"
    for innocent in (
        fit_on_run(run, site="answer_end", label=label, conditions=[ALL]),
        fit_on_run(run, site="answer_end", label=label, demean=True),
        fit_directions(_statements(run)),
    ):
        assert innocent.project(run).attrs["leakage"] == ""


def test_leakage_is_about_the_conditions_that_are_projected():
    run = planted_run()
    probe = fit_on_run(run, site="answer_end", label=with_label(run), conditions=[NONE, ALL])
    cube = run.residuals
    assert probe.project(cube.sel(instruction="off")).attrs["leakage"]
    assert probe.project(cube.sel(instruction=["on"], cot=["off"])).attrs["leakage"] == ""
    assert probe.project(_statements(run)).attrs["leakage"] == ""


def test_the_record_says_what_it_was_trained_on_and_survives_the_disk(tmp_path):
    run = planted_run()
    some = ["q05", "q01", "q02", "q03", "q08"]
    probe = fit_on_run(
        run, site="answer_end", label=with_label(run), items=some, conditions=[ALL, NONE], demean=True
    )
    said = dict(probe.training)
    assert said["source"] == "run"
    assert said["items"] == sorted(some)
    assert said["conditions"] == ["none", "instruction+cot+feedback"]
    assert (said["demeaned"], said["oriented"], said["statements_sha256"]) == (True, True, "")
    assert said["n_clusters"] == 4
    assert said["read"] == "answer_end"
    back = load_probe(probe.save(tmp_path / "p"))
    assert dict(back.training) == said
    assert "answers of a run" in repr(back)


def test_labels_are_matched_by_name_and_a_fixed_round_is_meant_alone():
    run = planted_run(outcome=2.0)
    label = with_label(run)
    fit = fit_on_run(run, site="answer_end", label=label.sel(round=1))
    assert fit.training["rounds"] == ["1"]
    turned = label.sel(round=[1]).isel(item=slice(None, None, -1)).transpose("round", ...)
    again = fit_on_run(run, site="answer_end", label=turned)
    np.testing.assert_array_equal(fit.direction.values, again.direction.values)
    broad = fit_on_run(run, site="answer_end", label=label.isel(round=0, drop=True).sel(cot="on"))
    assert broad.training["rounds"] == ["0", "1"]
    assert all("cot" in name for name in broad.training["conditions"])


def test_answers_without_a_label_or_a_residual_are_left_out():
    run = planted_run()
    label = with_label(run).copy()
    label[:5] = np.nan
    cube = run.residuals.copy()
    cube[5:10, :, :, :, 1] = np.nan
    holed = PlantedRun(path=run.path, manifest=run.manifest, cube=cube)
    fit = fit_on_run(holed, site="answer_end", label=label, demean=True)
    assert fit.training["n"] == (35 * 16) - (5 * 8)
    assert len(fit.training["items"]) == 35
    assert np.isfinite(fit.direction.values).all()


def test_the_direction_of_a_component_is_its_mean_shift_in_the_units_of_itself():
    run = planted_run()
    probe = condition_direction(run, factor="cot", site="answer_end", round=1)
    at = run.residuals.sel(site="answer_end", round=1)
    others = ["item", "instruction", "feedback"]
    shift = at.sel(cot="on").mean(others).values - at.sel(cot="off").mean(others).values
    length, gap = np.linalg.norm(shift, axis=-1), probe.quality["gap"].values
    assert ((gap > 0.9 * length) & (gap < length)).all()  # less the noise of the mean shift
    np.testing.assert_allclose(probe.direction.values, shift / (length * gap)[:, None], atol=1e-10)
    projected = probe.project(run).sel(site="answer_end", round=1).mean(others)
    np.testing.assert_allclose(projected.sel(cot="on") - projected.sel(cot="off"), length / gap)


def test_the_direction_of_a_component_is_marked_as_neither_oriented_nor_free_of_leakage():
    run = planted_run(levels=("off", "placebo", "on"))
    attrs = condition_direction(run, factor="feedback", site="answer_start", round=1).project(run).attrs
    assert attrs["oriented"] is False
    assert attrs["leakage"]
    assert attrs["units"] == "on-off gap of feedback"
    assert "feedback(placebo)" not in attrs["probe_conditions"]
    assert "cot(placebo)" in attrs["probe_conditions"]


def _statements(run):
    x = run.residuals.isel(round=0, site=0, cot=0, feedback=0, instruction=0, drop=True)
    x = x.rename(item="statement").drop_vars("label")
    return x.assign_coords(label=("statement", np.arange(40) // 2 % 2)).assign_attrs(model_fingerprint="f")


def test_what_cannot_be_trained_on_is_refused():
    run = planted_run()
    label = with_label(run)
    off = run.residuals.sel(feedback=["off"])
    no_on = PlantedRun(path=run.path, manifest=run.manifest, cube=off)
    fit = {"site": "answer_end", "label": label}
    for call, message in (
        (lambda: fit_on_run(run, site="end", label=label), "unknown site end; choose out of answer_start"),
        (lambda: fit_on_run(run, **fit, kind="ccs"), "unknown kind ccs"),
        (lambda: fit_on_run(run, **fit, items=["x"]), "unknown item x"),
        (lambda: fit_on_run(run, **fit, conditions=[]), "unknown condition"),
        (lambda: fit_on_run(run, **fit, conditions=[Condition(cot="placebo")]), r"cot\(placebo\)"),
        (lambda: fit_on_run(run, site="answer_end", label=label + 1), "1, 0 or NaN"),
        (lambda: fit_on_run(run, site="answer_end", label=label * np.nan), "both a label and a residual"),
        (lambda: fit_on_run(run, site="answer_end", label=xr.ones_like(label)), "both labels"),
        (lambda: fit_on_run(run, site="answer_end", label=run.residuals), "label may have the dims"),
        (
            lambda: fit_on_run(run, site="answer_end", label=xr.DataArray(np.ones(40), dims="item")),
            "needs a coordinate along 'item'",
        ),
        (lambda: condition_direction(run, factor="tone", site="answer_end", round=0), "unknown factor"),
        (lambda: condition_direction(run, factor="cot", site="answer_end", round=7), "unknown round"),
        (lambda: condition_direction(no_on, factor="feedback", site="answer_end", round=1), "unknown level"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert set(COMPONENTS) < set(run.residuals.dims)
