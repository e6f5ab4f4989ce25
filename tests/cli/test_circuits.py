"""Looks inside a model are kept with the run, join its report, and come from two commands."""

import sys

import numpy as np
import pytest
import xarray as xr
from conftest import make_questions
from tiny import made_up_probe, tiny_run

from morality_lens.cli.main import main
from morality_lens.design import Condition, condition_of
from morality_lens.probes.probe import load_probe
from morality_lens.report.sections import inside_groups
from morality_lens.report.writing import write_report
from morality_lens.runs.datasets import SUFFIX
from morality_lens.runs.results import RESULTS, keep_result, kept_results


@pytest.fixture(scope="module")
def looked(tmp_path_factory):
    """A run of the bundled model at which three commands were used."""
    out = tmp_path_factory.mktemp("inside") / "run"
    said = []
    commands = (
        ("run", "--limit", 24, "--rounds", 1, "--out", out),
        ("attribute", out, "--layer", 3, "--limit", 16),
        ("patch", out, "--layer", 3, "--random", 25, "--at", "question"),
        ("lens", out),
    )
    for arguments in commands:
        capture = pytest.MonkeyPatch()
        capture.setattr(sys, "argv", ["morality-lens", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        capture.undo()
        said.append(int(stopped.value.code or 0))
    return out, said


@pytest.mark.slow(seconds=40)
def test_the_commands_end_well_and_their_results_join_the_report(looked):
    out, said = looked
    assert said == [0, 0, 0, 0]
    kept = {p.name.removesuffix(SUFFIX) for p in (out / "inside").glob(f"*{SUFFIX}")}
    assert kept == {name for name in RESULTS if not name.startswith(("axes", "features-"))}
    html = (out / "report.html").read_text()
    for title in (
        "Inside the model",
        "Components that carry the effects on the projection",
        "The direct path to the answer",
        "Activation patching",
        "Steering and ablation",
        "Mediation of an interaction",
        "What each layer would answer",
    ):
        assert title in html
    assert html.count('data-figure="inside-') == 22


@pytest.mark.slow(seconds=1)
def test_the_planted_cause_is_found_and_random_directions_do_nothing(looked):
    out, _ = looked
    card = load_probe(out / "probe.safetensors").card
    rows = {row["line"]: row for row in card.rows()}
    assert rows["steer"]["verdict"] == "pass"
    assert rows["steer"]["low"] > 0.5
    assert "steers: pass" in card.sentence
    assert card.verdict in ("pass", "warn", "fail")


@pytest.mark.slow(seconds=8)
def test_a_direction_that_can_be_read_and_does_nothing_fails(tmp_path):
    """In the natural model no cause was trained in."""
    import morality_lens as ml

    model = ml.load_model("bundled-natural")
    run = ml.play(model, ml.load_items(limit=24), rounds=1, out=tmp_path / "run", progress=False)
    probe = ml.fit_probe(model, ml.load_statements("world"))
    assert float(probe.quality["auroc"].sel(layer=3)) > 0.8
    none, both = Condition(), Condition(instruction="on", feedback="on")
    steered = ml.steer(
        model,
        run,
        probe,
        condition=none,
        doses=ml.circuits.Doses(layer=3),
        batching=ml.circuits.Batching(progress=False),
    )
    ablated = {
        key: ml.circuits.ablate(
            model,
            run,
            probe,
            condition=condition,
            layers=[3, 4, 5],
            batching=ml.circuits.Batching(progress=False),
        )
        for key, condition in (("on", both), ("off", none))
    }
    lines = ml.circuits.causal_lines(steered, ablated).set_index("line")
    assert lines.loc["steer", "verdict"] == "fail"
    assert abs(lines.loc["steer", "value"]) < 0.1
    assert lines.loc["ablation", "value"] < 0.1


@pytest.mark.slow(seconds=1)
def test_the_same_attribution_is_not_read_twice(looked, monkeypatch, capsys):
    out, _ = looked
    from morality_lens.circuits import attribution

    def never(*_, **__):
        raise AssertionError("a finished part was read again")

    monkeypatch.setattr(attribution, "split_batch", never)
    monkeypatch.setattr(
        sys, "argv", ["morality-lens", "attribute", str(out), "--layer", "3", "--limit", "16"]
    )
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    assert "Carried by" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("attribute", "--effect", "nothing"), "no effect 'nothing'"),
        (("attribute", "--layer", "77"), "no layer 77"),
        (("patch", "--source", "instruction+magic"), "no condition 'instruction+magic' here"),
        (("patch", "--factors", "feedback"), "two different factors"),
        (("patch", "--at", "feedback"), "has no 'feedback' in round 1"),
    ],
)
@pytest.mark.slow(seconds=1)
def test_a_mistake_is_one_line(looked, monkeypatch, capsys, arguments, message):
    out, _ = looked
    monkeypatch.setattr(
        sys, "argv", ["morality-lens", arguments[0], str(out), *arguments[1:], "--limit", "4"]
    )
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_results_come_back_as_they_were(tmp_path, zoo_folder):
    model, run = tiny_run(zoo_folder("gpt2"), tmp_path / "run", make_questions(2))
    data = xr.Dataset(
        {"log_odds": (("item", "layer"), np.arange(4.0).reshape(2, 2), {"units": "log-odds"})},
        coords={"item": ["a", "b"], "layer": [0, 1], "cluster": ("item", ["x", "y"])},
        attrs={
            "notes": ["one", "two"],
            "oriented": True,
            "round": np.int64(3),
            "layers": [0, 1],
            "alpha": 0.05,
        },
    )
    keep_result(run, "mediated", data)
    back = kept_results(run)["mediated"]
    xr.testing.assert_equal(back, data)
    assert back.attrs == {
        "notes": ["one", "two"],
        "oriented": True,
        "round": 3,
        "layers": [0, 1],
        "alpha": 0.05,
    }
    assert back["log_odds"].attrs == {"units": "log-odds"}
    assert data.attrs["notes"] == ["one", "two"]
    with pytest.raises(ValueError, match="kept as"):
        keep_result(run, "other", data)
    assert inside_groups({}) == []
    page = write_report(tiny_run_without(run), path=tmp_path / "r.html", probe=made_up_probe(model))
    assert "Inside the model" not in page.read_text()


def tiny_run_without(run):
    for file in (run.path / "inside").glob("*"):
        file.unlink()
    return run


def test_conditions_are_read_from_their_labels():
    for condition in (
        Condition(),
        Condition(instruction="on", feedback="placebo"),
        Condition(instruction="on", cot="on", feedback="on"),
    ):
        assert condition_of(condition.label) == condition
    for text in ("", "+", "cot+cot", "cot(loud", "cot(placebo", "(on)", "cot(a)(b)"):
        with pytest.raises(ValueError, match="a condition is none"):
            condition_of(text)
