"""Batches follow measured time, whatever is finished is kept, and the first items tell of the rest."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import make_questions
from rounds.test_playing import SHORT

from morality_lens.models.loading import load_model
from morality_lens.rounds import pacing
from morality_lens.rounds.pacing import FIRST, Pace, missing_stretches
from morality_lens.rounds.playing import play
from morality_lens.rounds.preflight import Fitting
from morality_lens.runs import writing
from morality_lens.runs.manifest import done_batches
from morality_lens.runs.rates import missing_feedback, reply_rates, said_missing
from morality_lens.runs.run import open_run


@pytest.fixture(scope="module")
def llama(zoo_folder):
    return load_model(zoo_folder("llama"), device="cpu")


@pytest.fixture(scope="module")
def whole(llama, tmp_path_factory):
    """Five items in batches of two."""
    out = tmp_path_factory.mktemp("whole") / "run"
    fitting = Fitting(batch_size=2)
    return play(llama, make_questions(5), out=out, protocol=SHORT, fitting=fitting, progress=False)


def assert_equal(one, other, *, exactly: bool) -> None:
    columns = [c for c in one.answers.columns if c in other.answers.columns]
    pd.testing.assert_frame_equal(one.answers[columns], other.answers[columns])
    assert [list(t) for t in one.transcripts["token_ids"]] == [
        list(t) for t in other.transcripts["token_ids"]
    ]
    a, b = one.residuals.values, other.residuals.values
    if exactly:
        np.testing.assert_array_equal(a, b)
    else:
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("pace", "left", "size"),
    [
        (Pace(most=16, fixed=False), 100, FIRST),
        (Pace(most=1, fixed=False), 100, 1),
        (Pace(most=16, fixed=False), 1, 1),
        (Pace(most=16, fixed=False, each=10.0), 100, 6),
        (Pace(most=16, fixed=False, each=500.0), 100, FIRST),
        (Pace(most=16, fixed=False, each=0.01), 100, 16),
        (Pace(most=16, fixed=False, each=0.01), 3, 3),
        (Pace(most=16, fixed=True, each=500.0), 100, 16),
    ],
)
def test_a_batch_is_meant_to_take_a_minute_and_fits_into_memory(pace, left, size):
    assert pace.size(left) == size


@pytest.mark.parametrize(("seconds", "batches"), [(60.0, [(0, 2), (2, 5)]), (0.0, [(0, 2), (2, 4), (4, 5)])])
def test_results_do_not_depend_on_the_batches_that_time_made(
    llama, whole, tmp_path, monkeypatch, seconds, batches
):
    monkeypatch.setattr(pacing, "SECONDS", seconds)
    run = play(llama, make_questions(5), out=tmp_path / "run", protocol=SHORT, progress=False)
    assert [(b.start, b.stop) for b in done_batches(run.path)] == batches
    assert_equal(whole, run, exactly=False)
    assert run.manifest["timings"]["tokens"] == whole.manifest["timings"]["tokens"]


def test_a_run_that_died_between_batches_of_any_size_resumes_to_the_same(llama, whole, tmp_path, monkeypatch):
    real = writing._write_table

    def die_before_answers(file, table):
        if file.parent.name == "answers" and "part-00002" in file.name:
            raise KeyboardInterrupt
        real(file, table)

    monkeypatch.setattr(writing, "_write_table", die_before_answers)
    with pytest.raises(KeyboardInterrupt):
        play(llama, make_questions(5), out=tmp_path / "run", protocol=SHORT, progress=False)
    half = open_run(tmp_path / "run")
    assert len(half.items) == 2
    assert set(half.transcripts["item"]) == set(half.items.index), "an unfinished batch is not shown"
    before = half.residuals.load()
    monkeypatch.setattr(writing, "_write_table", real)
    monkeypatch.setattr(pacing, "SECONDS", 0.0)  # other sizes than when it died
    run = play(llama, make_questions(5), out=tmp_path / "run", protocol=SHORT, progress=False)
    assert [(b.start, b.stop) for b in done_batches(run.path)] == [(0, 2), (2, 4), (4, 5)]
    assert_equal(whole, run, exactly=False)
    assert run.manifest["timings"]["tokens"] == whole.manifest["timings"]["tokens"]
    np.testing.assert_array_equal(run.residuals.sel(item=before["item"]).values, before.values)


def test_a_run_of_an_earlier_version_opens_and_resumes_to_the_same_bytes(llama, whole, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(whole.path, old)
    about = json.loads((old / "manifest.json").read_text())
    del about["batches"]
    (old / "manifest.json").write_text(json.dumps(about))
    for folder, stem in (("answers", "part"), ("answers", "time"), ("transcripts", "part")):
        for number, file in enumerate(sorted((old / folder).glob(f"{stem}-*"))):
            file.rename(file.with_name(f"{stem}-{number:05d}{file.suffix}"))
    assert_equal(whole, open_run(old), exactly=True)
    for name in ("answers/part-00001.parquet", "answers/time-00001.json", "transcripts/part-00001.parquet"):
        (old / name).unlink()
    assert missing_stretches(old, 5) == [range(2, 4)]
    assert len(open_run(old).items) == 3
    run = play(llama, make_questions(5), out=old, protocol=SHORT, progress=False)
    assert_equal(whole, run, exactly=True)
    assert run.manifest["timings"]["tokens"] == whole.manifest["timings"]["tokens"]


def test_the_batches_of_a_yoked_placebo_do_not_depend_on_time(llama, tmp_path):
    protocol = replace(SHORT, feedback_placebo="yoked")
    run = play(llama, make_questions(5), out=tmp_path / "run", protocol=protocol, progress=False)
    assert done_batches(run.path) == [range(5)]


def test_too_few_answers_that_parse_stop_a_run_early_and_keep_what_is_there(
    llama, tmp_path, monkeypatch, capsys
):
    items, out, wanted = make_questions(5), tmp_path / "run", Fitting(least_parsed=1.01)
    with pytest.raises(ValueError, match=r"% of the answers to the first 2 items parse.*--anyway.*kept"):
        play(llama, items, out=out, protocol=SHORT, fitting=wanted)
    assert done_batches(out) == [range(2)]
    said = capsys.readouterr().err
    assert "after 2 of 5 items: " in said
    for words in ("tokens a second", "left to play", "GB on disk", "GB free", "of the answers parse"):
        assert words in said
    for words in ("do not stop by themselves", "of the feedback is cut", "of the probability"):
        assert words in said
    with pytest.raises(ValueError, match="first 2 items"):  # and again, without playing more
        play(llama, items, out=out, protocol=SHORT, fitting=wanted, progress=False)
    assert done_batches(out) == [range(2)]
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
