"""The whole study on the bundled model: verdicts, report, a stop at any moment, and what is refused."""

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import chromium
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import morality_lens as ml
from morality_lens.items.kinds import OpenPrompt, Statement
from morality_lens.probes.layers import reading_layers
from morality_lens.report.analysis import analyze
from morality_lens.runs.datasets import SUFFIX
from morality_lens.runs.results import read_result
from morality_lens.runs.run import open_run
from morality_lens.studies.analysis import _directions, analyze_study
from morality_lens.studies.folder import StudyFolder
from morality_lens.studies.plan import PROFILES, Plan
from morality_lens.studies.running import study
from morality_lens.studies.settings import Material, Settings
from morality_lens.studies.tasks import stable_layers
from morality_lens.world.verdicts import planted_verdicts

browser = chromium.browser

TINY = Plan(
    rounds=1,
    items=6,
    evidence_rounds=(0,),
    placebo_items=2,
    placebo_rounds=1,
    wordings=2,
    wording_items=2,
    wording_rounds=1,
    samples=2,
    sample_rounds=1,
    random_models=0,
)
SMALL = replace(PROFILES["quick"], placebo_items=8, wording_items=8, random_models=0)
"""The quick profile with less of what no verdict rests on."""


def material(n: int = 10**9) -> Material:
    return Material(
        questions=ml.load_items()[:n],
        prompts=ml.load_prompts(limit=16)[:n],
        statements=ml.load_statements("world"),
        toxicity=ml.load_statements("world"),
        evidence=ml.experiments.load_evidence(),
    )


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The quick profile, a little smaller, and what it said."""
    out, said = tmp_path_factory.mktemp("study") / "quick", []
    study(ml.load_model(), material(), Settings(plan=SMALL), out=out, progress=False, say=said.append)
    return out, said


@pytest.mark.slow(seconds=90)
def test_the_verdicts_are_the_planted_truth(quick):
    out, said = quick
    rows = json.loads((out / "verdicts.json").read_text())
    rounds = PROFILES["quick"].rounds
    expected = planted_verdicts(ml.load_items(), ml.load_prompts(), rounds=rounds)
    assert set(expected.values()) == {"supported", "refuted"}
    # On prompts, of which too few were played to exclude that they improve, most greedy choices are right.
    open_to = {4: "undecided"}
    assert {row["number"]: row["verdict"] for row in rows} == {**expected, **open_to}
    for row in rows:
        assert row["low"] < row["estimate"] < row["high"]
        decided = row["verdict"] != "undecided"
        assert row["error_rate"].startswith("nominal 5%, 2.5% on each side; measured ") == decided
    assert "Layer 2: " in rows[2]["why"]
    assert "Layer 3: " in rows[2]["why"]
    assert "mean probability of the better output (questions)" in rows[3]["why"]
    assert any("minutes" in line or "seconds" in line for line in said)
    parts = [re.match(r"part (\d+) of (\d+): ", line) for line in said[1:]]
    assert all(parts), said
    assert [int(part[1]) for part in parts if part] == list(range(1, len(parts) + 1))
    assert {int(part[2]) for part in parts if part} == {len(parts)}


@pytest.mark.slow(seconds=10)
def test_every_part_says_something_and_nothing_is_lost(quick):
    out, _ = quick
    found = analyze_study(out)
    titles = {group.title for group in found.groups}
    assert titles == {
        "Methods and tasks",
        "Interactions inside the model",
        "Self-distinguish",
        "Weak evidence",
        "Detoxification",
        "Several wordings",
        "Placebos",
        "Mask the words",
        "Shift from round to round",
        "From round to round: questions",
        "From round to round: prompts",
        "Judges of questions",
    }
    assert json.loads((out / "left_out.json").read_text()) == []
    assert {v.figure for v in found.verdicts} <= {n for g in found.groups for n, _, _ in g.figures}
    wordings = {
        open_run(p).manifest["study"]["wording"]["index"] for p in out.glob("wording-*") if p.is_dir()
    }
    assert wordings == {0, 1, 2}
    levels = open_run(out / "placebo").design.factors
    assert all(f.levels == ("off", "placebo", "on") for f in levels)
    judges = open_run(out / "prompts").scores["judge"].unique()
    assert len(judges) == 2
    samples = [open_run(p).answers["text"] for p in sorted(out.glob("sample-*")) if p.is_dir()]
    assert not samples[0].equals(samples[1])


@pytest.mark.slow(seconds=1)
def test_what_the_organism_was_given_comes_out(quick):
    out, _ = quick
    told = read_result(out / "results", "pairs-questions")
    accuracy = (told["says_first"].sel(better="first") + 1 - told["says_first"].sel(better="second")) / 2
    np.testing.assert_allclose(accuracy.mean("item").values, 0.55, atol=0.02)  # as planted
    evidence = ml.experiments.follow_cube(read_result(out / "results", "evidence")).mean("item")
    assert float(evidence.sel(round=0).mean()) == pytest.approx(0.4, abs=0.05)  # as planted


@pytest.mark.browser
@pytest.mark.skipif(not (chromium.CHROMIUM and chromium.DRIVER), reason="needs chromium and chromedriver")
@pytest.mark.slow(seconds=10)
def test_the_report_lives_in_a_browser_without_a_network(quick, browser):
    out, _ = quick
    browser.get((out / "report.html").as_uri())
    verdicts = browser.execute_script(
        "return [...document.querySelectorAll('#claims tbody tr:not(.why) td:nth-child(2)')]"
        ".map(t => t.textContent)"
    )
    assert verdicts == [row["verdict"] for row in json.loads((out / "verdicts.json").read_text())]
    links = browser.execute_script(
        "return [...document.querySelectorAll('#claims a')].map(a => document.querySelector(a.hash) !== null)"
    )
    assert links == [True] * 5
    browser.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    total = browser.execute_script("return document.querySelectorAll('.figure').length")
    assert total > 25
    for i in range(total):
        browser.execute_script(
            "document.querySelectorAll('.figure')[arguments[0]].scrollIntoView({behavior: 'instant'})", i
        )
        drawn = f"return document.querySelectorAll('.figure')[{i}].querySelector('svg.main-svg') !== null"
        chromium.wait(browser, drawn)
    before = browser.execute_script(chromium.COLORS)
    sliders = "input[type=range]"
    layers = browser.execute_script(f"return document.querySelector('{sliders}').max")
    chromium.choose(browser, sliders, str(int(layers) - 1))
    assert browser.execute_script(chromium.COLORS) != before
    text = browser.execute_script(chromium.BODY)
    others = "return [...document.querySelectorAll('.mlt-condition option')].map(o => o.value)"
    chromium.choose(browser, ".mlt-condition", browser.execute_script(others)[-1])
    assert browser.execute_script(chromium.BODY) != text
    requested = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in requested if not name.startswith(("data:", "blob:"))] == []
    assert browser.get_log("browser") == []


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import morality_lens as ml
from studies import test_running as t
from morality_lens.studies.running import study
say = lambda line: print(line, flush=True)
study(ml.load_model(), t.material(20), t.Settings(plan=t.TINY), out={out!r}, progress=False, say=say)
"""


def stored(out: Path) -> dict[str, object]:
    """Everything that a study found, in a form that can be compared."""
    found: dict[str, object] = {"verdicts": json.loads((out / "verdicts.json").read_text())}
    for folder in sorted(p.parent for p in out.glob("*/manifest.json")):
        run = open_run(folder)
        found[f"{folder.name} answers"] = run.answers
        found[f"{folder.name} residuals"] = run.residuals.load()
    for file in sorted((out / "results").iterdir()):
        found[file.name] = read_result(out / "results", file.name.removesuffix(SUFFIX))
    return found


@pytest.mark.slow(seconds=60)
def test_a_study_that_is_killed_goes_on_to_the_same_result(tmp_path):
    whole, after = tmp_path / "whole", "evidence"
    model = ml.load_model()
    study(model, material(20), Settings(plan=TINY), out=whole, progress=False)
    out = tmp_path / "killed"
    command = [sys.executable, "-c", SCRIPT.format(tests=str(Path(__file__).parents[1]), out=str(out))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if after in line:
                time.sleep(0.7)
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    assert not (out / "verdicts.json").is_file()
    said: list[str] = []
    study(model, material(20), Settings(plan=TINY), out=out, progress=False, say=said.append)
    assert not any(line.startswith("this takes") for line in said), "a resumed study plays no trial"
    one, other = stored(whole), stored(out)
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, pd.DataFrame):
            pd.testing.assert_frame_equal(value, other[name])
        elif isinstance(value, xr.Dataset | xr.DataArray):
            xr.testing.assert_identical(value, other[name])
        else:
            assert value == other[name]


@pytest.mark.slow(seconds=5)
def test_another_study_in_the_folder_and_no_items_are_refused(quick, tmp_path):
    out, _ = quick
    model = ml.load_model()
    with pytest.raises(ValueError, match="another study; it differs in plan"):
        study(model, material(), Settings(plan=replace(SMALL, rounds=3)), out=out, progress=False)
    with pytest.raises(ValueError, match="questions or prompts"):
        study(model, Material(statements=ml.load_statements("world")), out=tmp_path / "none", progress=False)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(ValueError, match="is no study"):
        study(model, material(20), Settings(plan=TINY), out=tmp_path / "full", progress=False)


@pytest.mark.slow(seconds=25)
def test_prompts_alone_leave_claims_about_questions_open(tmp_path):
    prompts = tuple(p for p in ml.load_prompts() if isinstance(p, OpenPrompt))[:8]
    out = tmp_path / "prompts"
    only = Material(
        prompts=prompts, statements=ml.load_statements("world"), toxicity=ml.load_statements("world")
    )
    study(ml.load_model(), only, Settings(plan=TINY), out=out, progress=False)
    rows = {r["number"]: r for r in json.loads((out / "verdicts.json").read_text())}
    assert rows[1]["verdict"] == "undecided"
    assert "one task only" in rows[1]["why"]
    assert rows[5]["verdict"] == "undecided"
    assert "No weak evidence" in rows[5]["why"]
    assert (out / "report.html").is_file()


@pytest.mark.slow(seconds=1)
def test_the_layers_of_a_study_are_those_that_read_best_by_graded_values_where_there_are_some(quick):
    out, _ = quick
    probe = ml.load_probe(out / "probe.safetensors")
    layers = reading_layers(probe)
    best = probe.quality["auroc"].idxmax("layer").item()
    assert best in layers
    high = probe.quality["auroc_high"]
    assert all(float(high.sel(layer=n)) >= float(probe.quality["auroc"].max()) for n in layers)
    ranks = [float(probe.quality["spearman"].sel(layer=n)) for n in layers]
    assert ranks == sorted(ranks, reverse=True)
    folder = StudyFolder(out)
    assert stable_layers(folder, layers) == layers
    weak = probe.quality.copy(deep=True)
    weak["split_half"][:] = 0.3
    folder.probe = replace(probe, quality=weak)
    assert stable_layers(folder, layers) == []
    assert "cosine is below" in folder.refused[-1]
    for none in (np.nan, 0.0):
        flat = probe.quality.copy(deep=True)
        flat["gap"].loc[{"layer": layers[0]}] = none
        folder.probe = replace(probe, quality=flat)
        assert stable_layers(folder, layers) == layers[1:]
    flat["gap"][:] = np.nan
    folder.probe = replace(probe, quality=flat)
    assert stable_layers(folder, layers) == []
    assert "no gap between the classes" in folder.refused[-1]
    assert reading_layers(None) == []


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    """A study that reads two more directions beside the first: mixed deeds, and labels turned round."""
    out = tmp_path_factory.mktemp("beside") / "study"
    world = ml.load_statements("world")
    few = [s for i, s in enumerate(world) if i % 6 == 0]
    turned = [replace(s, label=1 - s.label, value=None if s.value is None else -s.value) for s in few]
    made = replace(material(12), prompts=(), statements=few, directions={"turned": turned}, toxicity=few[::2])
    plan = replace(TINY, items=12, random_models=1)
    study(ml.load_model(), made, Settings(plan=plan), out=out, progress=False)
    return out


@pytest.mark.slow(seconds=30)
def test_directions_beside_the_first_are_read_and_compared(beside):
    found = StudyFolder(beside)
    assert sorted(found.directions) == ["toxicity", "turned"]
    cards = ml.probes.card_table({"moral": found.probe, **found.directions})
    assert cards.columns.tolist() == ["check", "moral", "toxicity", "turned"]
    assert cards.loc[cards["check"] == "transfer", "moral"].str.contains("pass|warn|fail").all()
    cosines = ml.probes.direction_cosines({"moral": found.probe, **found.directions})
    # The layer at which all statements end in the same token has no direction.
    np.testing.assert_allclose(cosines.sel(first="moral", second="turned").values[1:], -1.0, atol=1e-5)
    assert float(cosines.sel(first="moral", second="toxicity", layer=2)) > 0.9
    section = next(s for s in analyze_study(beside).groups if s.title == "Several directions")
    assert [name for name, _, _ in section.figures] == [
        "directions",
        "cosines",
        "trust-toxicity",
        "trust-turned",
    ]
    forest = {trace.name: dict(zip(trace.y, trace.x, strict=True)) for trace in section.figures[0][1].data}
    moral, turned = forest["moral"], forest["turned"]
    assert list(moral.values()) == pytest.approx([-x for x in turned.values()], rel=1e-3)
    # Without refits nothing guards a direction but its own quality, at the layers that it would be read at.
    plain = {name: replace(probe, refits=None) for name, probe in found.directions.items()}
    found.directions, main = plain, analyze(found.questions, probe=found.probe, draws=100)
    section = _directions(found, main, None)
    assert "sampling error" not in section.figures[0][1].layout.title.text
    weak = plain["toxicity"].quality.copy(deep=True)
    weak["split_half"][:] = 0.1
    found.directions = {**plain, "toxicity": replace(plain["toxicity"], quality=weak)}
    section = _directions(found, main, None)
    assert [line.partition(":")[0] for line in section.lines if "effects at layer" in line] == ["turned"]
    assert "The direction toxicity: at the layers" in found.refused[-1]
    weak["auroc"][:] = np.nan
    assert _directions(found, main, None) is not None
    assert "no layer to read the direction at" in found.refused[-1]


@pytest.mark.slow(seconds=5)
def test_a_study_with_another_direction_is_another_study(beside):
    other = replace(material(12), prompts=(), statements=ml.load_statements("world")[::6], toxicity=())
    with pytest.raises(ValueError, match="direction"):
        study(ml.load_model(), other, Settings(plan=replace(TINY, items=12, random_models=1)), out=beside)


def test_material_needs_a_judge_for_prompts_and_names_that_are_free():
    world = ml.load_statements("world")
    with pytest.raises(ValueError, match="judge of toxicity"):
        Material(prompts=ml.load_prompts(limit=2), statements=world)
    with pytest.raises(ValueError, match="cannot be named"):
        Material(statements=world, directions={"moral": world})
    for name, message in (("own", "used already"), ("a/b", "letters, digits"), ("Toxicity", "used already")):
        with pytest.raises(ValueError, match=message):
            Material(statements=world, directions={name: world})
    with pytest.raises(ValueError, match="'A' is used already"):
        Material(statements=world, directions={"a": world, "A": world})
    assert list(Material(statements=world, toxicity=world).sets) == ["moral"]


@pytest.mark.parametrize(
    ("chosen", "kind", "message"),
    [
        ([], "mean_difference", "needs labelled statements; got none"),
        ([1, 1, 1], "mean_difference", "both labels; all 3 have label 1"),
        ([0, 1, 0, 1], "mean_difference", "needs 3 or more clusters in each class; got 2 moral"),
        ([0, 1, 0, 1], "ridge", "of the kind ridge needs labelled statements; got none"),
    ],
)
def test_statements_that_give_no_direction_are_refused_before_anything_is_played(
    tmp_path, chosen, kind, message
):
    few = [
        Statement(id=str(i), cluster=str(i), text=f"word {i}", label=label) for i, label in enumerate(chosen)
    ]
    odd = replace(material(6), prompts=(), toxicity=(), directions={"odd": few})
    with pytest.raises(ValueError, match=f"the statements of odd: .*{message}"):
        study(ml.load_model(), odd, Settings(plan=TINY, probe_kind=kind), out=tmp_path / "s", progress=False)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("name", ["rounds", "items", "placebo_rounds", "wording_rounds", "sample_rounds"])
def test_a_plan_without_rounds_or_items_is_refused(name):
    with pytest.raises(ValueError, match=f"needs {name} of 1 or more; got 0"):
        replace(TINY, **{name: 0})
    with pytest.raises(ValueError, match="samples of 0 or more; got -1"):
        replace(TINY, samples=-1)


@pytest.mark.slow(seconds=15)
def test_parts_of_0_are_left_out_and_no_wording_is_played_twice(tmp_path):
    few = ml.load_statements("world")[::6]
    made = Material(questions=ml.load_items()[:4], statements=few)  # all of one cluster
    less = replace(TINY, items=4, placebo_items=0, wordings=7)
    study(ml.load_model(), made, Settings(plan=less), out=tmp_path / "s", progress=False)
    found = StudyFolder(tmp_path / "s")
    assert found.run("placebo") is None
    assert len(found.runs("wording")) == 5
    assert "wordings: 7 were asked for, and this wording has 5." in found.refused
    assert "needs items of two or more clusters" in " ".join(analyze_study(tmp_path / "s").refused)
    none = replace(less, wording_items=0)
    study(ml.load_model(), made, Settings(plan=none), out=tmp_path / "none", progress=False)
    assert StudyFolder(tmp_path / "none").runs("wording") == []
