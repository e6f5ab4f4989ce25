"""From a run to its report: what can be said is said, what cannot is refused in words."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from conftest import make_questions

from morality_lens.design import Design, Protocol
from morality_lens.interactions.effects import factorial_effects
from morality_lens.items.kinds import OpenPrompt, Statement
from morality_lens.judges.outcomes import behaviour_cube, score_answers
from morality_lens.models.loading import load_model
from morality_lens.probes.from_statements import fit_probe
from morality_lens.probes.refits import project_means, run_cell_means
from morality_lens.report.analysis import analyze
from morality_lens.report.writing import keep_transcripts, kept_transcripts, write_report
from morality_lens.rounds.playing import play
from morality_lens.rounds.rereading import read_transcripts

PROTOCOL = Protocol(design=Design(rounds=1), answer_tokens=3, rationale_tokens=4, feedback_tokens=4)
STATEMENTS = [
    Statement(id=f"{verb}{i}", cluster=verb, text=f"The Vel {verb} the Tor{' again' * i}.", label=label)
    for label, verbs in ((1, ("helped", "fed", "thanked")), (0, ("robbed", "mocked", "starved")))
    for verb in verbs
    for i in range(2)
]


@pytest.fixture(scope="module")
def llama(zoo_folder):
    return load_model(zoo_folder("llama"), device="cpu")


@pytest.fixture(scope="module")
def run(llama, tmp_path_factory):
    items = [
        type(q)(**{**q.__dict__, "cluster": f"t{i}", "id": f"q{i}"}) for i, q in enumerate(make_questions(9))
    ]
    out = tmp_path_factory.mktemp("analysis") / "run"
    return play(llama, items, out=out, protocol=PROTOCOL, progress=False)


@pytest.fixture(scope="module")
def probe(llama):
    return fit_probe(llama, STATEMENTS)


def test_effects_of_every_site_equal_those_taken_alone(run, probe):
    plain = replace(probe, refits=None)
    found = analyze(run, probe=plain, draws=300)
    assert found.effects is not None
    assert found.effects.attrs["question"] == "this direction"
    for site in found.effects["site"].values:
        alone = factorial_effects(found.projections.sel(site=[site]), draws=300)
        np.testing.assert_array_equal(found.effects.sel(site=[site])["estimate"], alone["estimate"])
        np.testing.assert_array_equal(found.effects.sel(site=[site])["p_adj"], alone["p_adj"])


def test_a_refitted_probe_brings_its_own_error_to_the_layers_that_have_a_direction(run, probe):
    halves = xr.DataArray([np.nan, 0.9, 0.2, 0.8], dims="layer", coords={"layer": probe.direction["layer"]})
    steady = replace(probe, quality=probe.quality.assign(split_half=halves, gap=halves.fillna(0) + 1))
    found = analyze(run, probe=steady, draws=300)
    assert found.effects is not None
    assert found.effects.attrs["question"] == "direction"
    assert found.effects["layer"].values.tolist() == [-1, 0, 2]
    assert found.projections["layer"].values.tolist() == [-1, 0, 1, 2]
    assert [line for line in found.refused if "layers 1 (0.20)" in line]
    plain = analyze(run, probe=replace(steady, refits=None), draws=300).effects.sel(layer=[-1, 0, 2])
    np.testing.assert_array_equal(found.effects["estimate"], plain["estimate"])
    assert float(found.effects["se_probe"].max()) > 0
    later = {"layer": [0, 2], "round": slice(1, None)}
    assert (found.effects["se"] - plain["se"]).sel(later).min() >= 0
    shown = found.effects.sel(layer=2, round=1, effect="instruction", site="answer_start")
    refits = project_means(steady.refits, run_cell_means(run)).sel(layer=2, round=1, site="answer_start")
    moved = refits.sel(instruction="on") - refits.sel(instruction="off")
    want = float(moved.mean(["cot", "feedback"]).std("probe_draw", ddof=1)) * np.sqrt(6 / 5)  # 6 clusters
    assert float(shown["se_probe"]) == pytest.approx(want)


def test_without_any_layer_that_has_a_direction_nothing_is_claimed_of_it(run, probe):
    quality = probe.quality.assign(split_half=("layer", np.full(4, 0.1)))
    found = analyze(run, probe=replace(probe, quality=quality), draws=300)
    assert found.effects is None
    assert any("agree between halves of their training data" in line for line in found.refused)


def test_the_report_and_the_way_of_the_readme_give_the_same_numbers(run, probe):
    halves = xr.DataArray([0.9, 0.9, 0.2, 0.8], dims="layer", coords={"layer": probe.direction["layer"]})
    steady = replace(probe, quality=probe.quality.assign(split_half=halves, gap=halves))
    told = analyze(run, probe=steady, draws=300).effects
    usual = factorial_effects(steady.project(run), draws=300, family=("round", "layer"))
    for site in told["site"].values:
        a, b = told.sel(site=site), usual.sel(site=site, layer=[-1, 0, 2])
        for name in ("estimate", "se", "se_probe", "p", "ci_low", "p_adj", "band_low", "band_high"):
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    refused = usual.sel(layer=1)
    assert refused["estimate"].notnull().all()
    assert refused[["se", "p", "ci_low", "p_adj", "band_low"]].isnull().all().to_array().all()
    assert any("layers 1 (0.20)" in note for note in usual.attrs["notes"])


def test_a_random_model_is_not_credited_with_behaviour(run, probe):
    found = analyze(run, probe=probe, draws=300)
    assert found.behaviour is not None
    if found.behaviour_effects is None:
        assert any("of the answers could not be read" in line for line in found.refused)
        usual = factorial_effects(behaviour_cube(run), draws=300)
        assert usual[["p", "p_adj", "band_low", "band_high"]].isnull().all().to_array().all()
        assert any("of the answers could not be read" in note for note in usual.attrs["notes"])
    else:  # pragma: no cover - a random model that parses would be a surprise
        assert found.behaviour["unparsed"].max() < 0.1


def test_without_a_probe_only_behaviour_is_told(run):
    found = analyze(run)
    assert found.effects is None
    assert found.projections is None
    assert found.behaviour is not None


def test_the_report_holds_the_refusals_and_every_item_left_out(run, probe, tmp_path):
    path = write_report(run, probe=probe, path=tmp_path / "r.html")
    html = path.read_text()
    for line in analyze(run, probe=probe).refused:
        assert line.split(":")[0] in html


def test_coloured_transcripts_survive_in_the_runs_folder(llama, run, probe):
    views = read_transcripts(llama, run, probe)
    plain = kept_transcripts(run)
    assert all(view.values is None for view in plain)
    file = keep_transcripts(run, views)
    back = kept_transcripts(run)
    assert [v.tokens for v in back] == [list(v.tokens) for v in views] or [tuple(v.tokens) for v in back] == [
        tuple(v.tokens) for v in views
    ]
    np.testing.assert_allclose(back[3].values, views[3].values, atol=1e-4)
    file.unlink()


def test_completions_are_scored_by_a_judge_and_their_effects_estimated(llama, tmp_path):
    prompts = [
        OpenPrompt(id=f"p{i}", cluster=f"c{i}", text=f"The Vel went {w}")
        for i, w in enumerate(("home", "on", "out", "up", "down", "by", "in", "off", "away"))
    ]
    run = play(llama, prompts, out=tmp_path / "run", protocol=PROTOCOL, progress=False)
    assert any("no scores yet" in line for line in analyze(run).refused)

    class Counter:
        """Scores a text by its length."""

        asked = 0

        def score(self, texts):
            self.asked += len(texts)
            return np.array([len(t) for t in texts], float)

    judge = Counter()
    scores = score_answers(run, judge)
    assert judge.asked == run.answers["text"].replace("", np.nan).nunique()
    np.testing.assert_array_equal(
        scores["score"], run.answers["text"].str.len().astype(float).replace(0, np.nan)
    )
    found = analyze(run, draws=300)
    assert found.behaviour is not None
    expected = run.answers.assign(n=scores["score"]).query("round == 1 and instruction == 'on'")["n"].mean()
    shown = found.behaviour.query("round == 1 and instruction == 'on'")
    assert np.average(shown["mean"], weights=shown["n"]) == pytest.approx(expected)


def answered(run, outcome):
    """The run with given answers: 1 right, 0 wrong, by item and condition, the same in every round."""
    table = run.answers.copy()
    keys = zip(table["item"], table["instruction"], table["cot"], table["feedback"], strict=True)
    table["correct"] = [float(outcome(*key)) for key in keys]
    table["parsed"] = True
    return table


def test_claims_and_log_odds_come_with_behaviour_that_could_be_read(run, monkeypatch, tmp_path):
    order = {item: i for i, item in enumerate(run.items.index)}

    def outcome(item, instruction, cot, feedback):
        helped = (instruction == "on") + (feedback == "on")
        return (order[item] * 7 + helped * 4 + (cot == "on")) % 9 >= (8, 2, 5)[helped]

    table = answered(run, outcome)
    monkeypatch.setattr(type(run), "answers", property(lambda self: table))
    found = analyze(run, draws=300)
    assert found.behaviour_effects is not None
    assert found.behaviour_odds is not None
    assert found.behaviour_odds.effect.values.tolist() == found.behaviour_effects.effect.values.tolist()
    assert [(c.attrs["first"], c.attrs["second"]) for c in found.claims] == [
        ("instruction", "cot"),
        ("instruction", "feedback"),
        ("cot", "feedback"),
    ]
    page = write_report(run, path=tmp_path / "r.html", analysis=found).read_text()
    assert "Claims about the interactions" in page
    assert "difference of log-odds" in page
    assert "instruction off, feedback off:" in page
