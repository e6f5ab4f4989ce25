"""The first items tell of the rest."""

from dataclasses import replace

import pandas as pd
import pytest
from conftest import make_questions
from rounds.test_playing import SHORT

from morality_lens.models.loading import load_model
from morality_lens.rounds.playing import play
from morality_lens.rounds.preflight import Fitting
from morality_lens.runs.manifest import done_parts, read_manifest
from morality_lens.runs.rates import missing_feedback, reply_rates, said_missing


@pytest.fixture(scope="module")
def llama(zoo_folder):
    return load_model(zoo_folder("llama"), device="cpu")


@pytest.fixture(scope="module")
def whole(llama, tmp_path_factory):
    """Five items in batches of two."""
    out = tmp_path_factory.mktemp("whole") / "run"
    fitting = Fitting(batch_size=2)
    return play(llama, make_questions(5), out=out, protocol=SHORT, fitting=fitting, progress=False)


def test_too_few_answers_that_parse_stop_a_run_early_and_keep_what_is_there(
    llama, tmp_path, monkeypatch, capsys
):
    items, out, wanted = make_questions(5), tmp_path / "run", Fitting(batch_size=2, least_parsed=1.01)
    with pytest.raises(ValueError, match=r"% of the answers to the first 2 items parse.*--anyway.*kept"):
        play(llama, items, out=out, protocol=SHORT, fitting=wanted)
    assert [part.items for part in done_parts(out, read_manifest(out))] == [2]
    said = capsys.readouterr().err
    assert "after 2 of 5 items: " in said
    for words in ("tokens a second", "left to play", "GB on disk", "GB free", "of the answers parse"):
        assert words in said
    for words in ("do not stop by themselves", "of the feedback is cut", "of the probability"):
        assert words in said
    with pytest.raises(ValueError, match="first 2 items"):  # and again, without playing more
        play(llama, items, out=out, protocol=SHORT, fitting=wanted, progress=False)
    assert [part.items for part in done_parts(out, read_manifest(out))] == [2]
    assert play(llama, items, out=out, protocol=SHORT, progress=False).complete


def test_a_run_of_the_first_items_alone_is_not_stopped(llama, tmp_path):
    fitting = Fitting(least_parsed=1.01)
    run = play(
        llama, make_questions(2), out=tmp_path / "run", protocol=SHORT, fitting=fitting, progress=False
    )
    assert run.complete


def test_rates_are_shares_of_the_answers_that_have_such_a_text(whole):
    table = pd.DataFrame(
        {
            "feedback": ["off", "on", "on", "on"],
            "text": ["A", "B", "C", "D"],
            "parsed": [True, False, None, True],
            "stopped": [True, True, True, False],
            "rationale": ["", "", "x", "y"],
            "rationale_cut": [False, False, True, True],
            "feedback_text": ["", "f", "g", "n"],
            "feedback_cut": [False, True, False, False],
            "feedback_missing": [False, False, False, True],
        }
    )
    assert reply_rates(table) == {
        "parsed": pytest.approx(2 / 3),
        "stopped": 0.75,
        "rationale_cut": 1.0,
        "feedback_cut": pytest.approx(1 / 3),
        "feedback_missing": pytest.approx(1 / 3),
    }
    assert reply_rates(table.assign(parsed=None)).keys() == reply_rates(table).keys() - {"parsed"}
    design = replace(whole.design, factors=whole.design.factors[-1:])
    missing = missing_feedback(table, design)
    assert missing == {"feedback": (1, 3)}
    assert said_missing(missing).endswith("neutral words stand in for it: 1 of 3 under feedback")
    assert said_missing(missing_feedback(table.drop(columns="feedback_missing"), design)) == ""
