"""An interruption keeps what is finished, says so in its message, and the same call resumes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from conftest import make_questions

from morality_lens.models.loading import load_model
from morality_lens.progress import Counter, counted, explained
from morality_lens.rounds.playing import play
from morality_lens.rounds.preflight import Fitting
from morality_lens.runs import writing
from morality_lens.runs.manifest import done_parts, parts_of, read_manifest
from morality_lens.runs.requests import Request
from morality_lens.runs.resuming import in_parts
from morality_lens.runs.run import open_run

SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from test_interruptions import begun
begun({model!r}, {out!r}, lambda: print("stored", flush=True))
"""


def begun(model, out, told):
    """A run of one item a part; ``told`` is called after each part is stored."""
    store = writing.commit

    def commit(path, part, batch):
        store(path, part, batch)
        told()

    writing.commit = commit
    try:
        return play(load_model(model), make_questions(6), out=out, rounds=1, fitting=Fitting(batch_size=1))
    finally:
        writing.commit = store


@pytest.mark.slow(seconds=10)
def test_a_run_stopped_by_ctrl_c_keeps_its_parts_says_where_and_resumes(zoo_folder, tmp_path):
    model, out = str(zoo_folder("llama")), tmp_path / "r"
    program = SCRIPT.format(tests=str(Path(__file__).parent), model=model, out=str(out))
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.stdout is not None
    for _ in range(2):
        while "stored" not in child.stdout.readline():
            assert child.poll() is None, child.communicate()[1]
    child.send_signal(signal.SIGINT)
    last = child.communicate(timeout=120)[1].strip().splitlines()[-1]
    assert last.startswith("KeyboardInterrupt: stopped in dialogue rounds (")
    assert last.endswith(f"of 96); what is finished is kept in {out}: the same call resumes.")
    kept = done_parts(out, read_manifest(out))
    assert 2 <= len(kept) < 6
    stamps = {part: part.file(out).stat().st_mtime_ns for part in kept}
    again: list[int] = []
    run = begun(model, out, lambda: again.append(1))
    assert run.complete
    assert len(again) == 6 - len(kept)
    assert {part: part.file(out).stat().st_mtime_ns for part in kept} == stamps
    whole = play(
        load_model(model), make_questions(6), out=tmp_path / "w", rounds=1, fitting=Fitting(batch_size=1)
    )
    xr.testing.assert_identical(open_run(out).residuals.load(), whole.residuals.load())
    assert len(parts_of(read_manifest(out))) == 6


def made(chunk, *, stop_at: str | None) -> xr.Dataset:
    if stop_at in chunk:
        raise KeyboardInterrupt
    return xr.Dataset({"x": ("item", np.arange(len(chunk)))}, {"item": list(chunk)})


def test_a_result_made_in_parts_keeps_them_and_the_same_call_makes_the_rest(tmp_path):
    items, request, out = list("abcdef"), Request(what="patching", settings={}), tmp_path / "parts"
    asked: list[tuple[str, ...]] = []

    def make(chunk, stop_at):
        asked.append(tuple(chunk))
        return made(chunk, stop_at=stop_at)

    with pytest.raises(
        KeyboardInterrupt, match=f"patching .2 of 3.; what is finished is kept in {out}: the same"
    ):
        in_parts(items, lambda c: make(c, "e"), size=2, request=request, out=out)
    found, _ = in_parts(items, lambda c: make(c, None), size=2, request=request, out=out)
    assert found["item"].values.tolist() == items
    assert asked == [("a", "b"), ("c", "d"), ("e", "f"), ("e", "f")]


def test_where_nothing_is_kept_the_message_says_so():
    with pytest.raises(
        KeyboardInterrupt, match=r"^stopped in intervening \(1 of 2\); nothing of this is kept"
    ):
        counted(lambda chunk: made(chunk, stop_at="b"), ["a", "b"], "intervening", shown=False)
    items, request = list("abcd"), Request(what="masking", settings={})
    with pytest.raises(KeyboardInterrupt, match=r"^stopped in masking \(1 of 2\); nothing of this is kept"):
        in_parts(items, lambda chunk: made(chunk, stop_at="c"), size=2, request=request)


def test_the_outermost_that_keeps_something_has_the_word(tmp_path):
    with (
        pytest.raises(KeyboardInterrupt, match=r"^stopped in parts .0 of 2.; what is finished is kept in "),
        Counter("parts", 2, shown=False, kept=tmp_path),
        Counter("steps", 3, shown=False),
    ):
        raise KeyboardInterrupt
    with (
        pytest.raises(KeyboardInterrupt, match=r"^the study"),
        explained(lambda: "the study"),
        Counter("parts", 2, shown=False, kept=tmp_path),
    ):
        raise KeyboardInterrupt
