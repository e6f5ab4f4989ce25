"""The dialogues of a report: as many items as fit, the coloured ones first; what is left out is said."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_questions
from synthetic import HOSTILE, MadeRun, make_probe, make_run, make_views

from morality_lens.design import Design, Protocol
from morality_lens.items.kinds import OpenPrompt, Statement
from morality_lens.judges.outcomes import score_answers
from morality_lens.models.loading import load_model
from morality_lens.probes.from_statements import fit_probe
from morality_lens.probes.layers import best_layer, opening_layer, sound_layers
from morality_lens.report.browser import browser_html
from morality_lens.report.writing import keep_transcripts, kept_transcripts
from morality_lens.rounds.playing import play
from morality_lens.rounds.rereading import read_transcripts

PROTOCOL = Protocol(design=Design(rounds=1), answer_tokens=3, rationale_tokens=4, feedback_tokens=4)
STATEMENTS = [
    Statement(id=f"{verb}{i}", cluster=verb, text=f"The Vel {verb} the Tor{' again' * i}.", label=label)
    for label, verbs in ((1, ("helped", "fed", "thanked")), (0, ("robbed", "mocked", "starved")))
    for verb in verbs
    for i in range(2)
]


def embedded(html: str) -> dict:
    (text,) = re.findall(r'class="mlt-data">(.*?)</script>', html, re.S)
    return json.loads(text)


def test_all_dialogues_are_there_where_they_fit():
    html = browser_html(make_run(items=5), make_views())
    data = embedded(html)
    assert len(data["dialogues"]) == 5 * 8
    assert "All 40 dialogues are here; the tokens of 16 are coloured" in data["about"]["missing"]
    assert "morality-lens view nowhere" in html
    first = data["dialogues"][0]
    assert first["item"] == "bbq-0001"
    assert first["rounds"][0] == {
        "round": 0, "outcome": "r", "choice": 2, "changed": False, "probabilities": [0.3333] * 3,
    }  # fmt: skip
    assert [one.get("good", False) for one in first["options"]] == [False, False, True]


@pytest.mark.parametrize("most", [20_000, 60_000, 150_000])
def test_what_does_not_fit_is_left_out_item_by_item_and_said(most):
    run = make_run(items=300)
    html = browser_html(run, make_views(items=("bbq-0002",)), most=most)
    data = embedded(html)
    by_item: dict[str, int] = {}
    for one in data["dialogues"]:
        by_item[one["item"]] = by_item.get(one["item"], 0) + 1
    assert set(by_item.values()) <= {8}
    assert next(iter(by_item), "bbq-0002") == "bbq-0002"
    size = len(json.dumps(data["dialogues"], separators=(",", ":")))
    assert size + sum(map(len, data["strings"])) <= most
    shown = len(data["dialogues"])
    assert f"{shown} of 2400 dialogues are here: all conditions of {shown // 8} of 300 items" in html
    if most == 150_000:
        assert shown > 40
        assert list(by_item)[1:] != sorted(list(by_item)[1:])  # a random sample, not the first ones


def test_where_values_do_not_fit_the_texts_are_there():
    views = make_views(items=("bbq-0001",))
    whole = browser_html(make_run(items=2), views)
    values = sum(
        len(c["values"]) for d in embedded(whole)["dialogues"] for c in d.get("colours", {}).values()
    )
    less = embedded(browser_html(make_run(items=2), views, most=25_000))
    assert values > 10_000
    assert [one["item"] for one in less["dialogues"]][:8] == ["bbq-0001"] * 8
    assert all("colours" not in one for one in less["dialogues"])


def test_the_path_of_the_run_is_quoted_and_every_text_escaped():
    views = [replace(view, item=HOSTILE[0], title=HOSTILE[1]) for view in make_views(items=("a",))]
    run = make_run(items=1)
    odd = MadeRun(path=Path("a run <b>; rm"), manifest=run.manifest)
    vars(odd).update({k: v for k, v in vars(run).items() if k != "path"})
    html = browser_html(odd, views)
    assert "morality-lens view &#x27;a run &lt;b&gt;; rm&#x27;" in html
    outside = re.sub(r'<script type="application/json".*?</script>', "", html, flags=re.S)
    assert "<img" not in outside
    assert outside.count("<script>") == 1
    plain = browser_html(run, make_views())
    assert not re.search(r"(src|href)=|url\(|fetch\(|import\(|XMLHttpRequest", plain)


def test_only_layers_with_a_stable_direction_and_a_gap_are_sound():
    probe = make_probe()
    assert sound_layers(probe) == list(range(-1, 6))
    halves = ("layer", np.array([np.nan, 0.9, 0.4, 0.9, 0.9, 0.5, 0.1]))
    gap = ("layer", np.array([0.0, 1, 1, 1, np.nan, 1, 1]))
    weak = replace(probe, quality=probe.quality.assign(split_half=halves, gap=gap))
    assert sound_layers(weak) == [0, 2, 4]
    assert opening_layer(weak) == best_layer(weak, among=[0, 2, 4]) == 4
    none = replace(probe, quality=probe.quality.assign(gap=("layer", np.zeros(7))))
    assert opening_layer(none) is None


@pytest.fixture(scope="module")
def llama(zoo_folder):
    return load_model(zoo_folder("llama"), device="cpu")


def test_several_directions_are_read_at_once_and_kept_with_the_run(llama, tmp_path):
    run = play(llama, make_questions(2), out=tmp_path / "run", protocol=PROTOCOL, progress=False)
    one, other = fit_probe(llama, STATEMENTS), fit_probe(llama, STATEMENTS, kind="logistic")
    rows = run.transcripts.iloc[:3]
    both = read_transcripts(llama, run, {"moral": one, "other": other}, rows=rows)
    assert [view.direction for view in both] == ["moral", "other"] * 3
    for own, probe in ((both[::2], one), (both[1::2], other)):
        for view, alone in zip(own, read_transcripts(llama, run, probe, rows=rows), strict=True):
            np.testing.assert_array_equal(view.values, alone.values)
            assert view.opening == alone.opening == opening_layer(probe)
            assert set(view.refused) == set(view.layers) - set(sound_layers(probe))
    with pytest.raises(ValueError, match="needs a probe"):
        read_transcripts(llama, run, {}, rows=rows)
    keep_transcripts(run, both)
    back = kept_transcripts(run)
    assert [(v.direction, v.opening, list(v.refused)) for v in back] == [
        (v.direction, v.opening, list(v.refused)) for v in both
    ]
    data = embedded(browser_html(run, back, probe=one))
    assert [list(d["colours"]) for d in data["dialogues"] if d.get("colours")] == [["moral", "other"]] * 3


def test_completions_have_their_judge_s_scores_and_no_right_and_wrong(llama, tmp_path):
    class Length:
        def score(self, texts):
            return np.array([len(text or "") / 100 for text in texts])

    prompts = [
        OpenPrompt(id=f"p{i}", cluster=f"p{i}", text=f"The Vel went {w}")
        for i, w in enumerate(("home", "on"))
    ]
    run = play(llama, prompts, out=tmp_path / "run", protocol=PROTOCOL, progress=False)
    score_answers(run, Length())
    data = embedded(browser_html(run))
    assert data["about"]["outcomes"] == "au"
    one = next(d for d in data["dialogues"] if (d["item"], d["condition"]) == ("p1", "cot"))
    scores = run.select(run.scores, "p1", run.design.condition("cot")).set_index("round")["score"]
    for told in one["rounds"]:
        if np.isfinite(scores[told["round"]]):
            assert told["note"] == f"judge's score {scores[told['round']]:.2f}"
    assert one["options"] == []
    assert one["title"] == "The Vel went on"


def test_a_run_of_which_nothing_is_played_yet_has_no_dialogues(llama, tmp_path):
    run = play(llama, make_questions(2), out=tmp_path / "run", protocol=PROTOCOL, progress=False)
    for part in run.finished:
        part.file(run.path).unlink()
    data = embedded(browser_html(type(run)(path=run.path, manifest=run.manifest)))
    assert data["dialogues"] == []
