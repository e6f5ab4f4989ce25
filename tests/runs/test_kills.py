"""Runs and studies killed at random moments and started again: they leave what an undisturbed one leaves."""

import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import xarray as xr
from rounds.test_playing import assert_same_run
from studies.test_running import stored

from morality_lens.runs.run import Run, open_run
from morality_lens.runs.verifying import verify_run
from morality_lens.runs.writing import run_hash

KILLS = int(os.environ.get("KILLS", "0"))
"""How many kills there are, ``KILLS=25`` say; 0 is the smaller number of each test."""

NURSERY = """
import os, sys, time, traceback
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from morality_lens.cli import main as cli, probing
from morality_lens.models import loading
import morality_lens.report.writing, morality_lens.rounds.playing, morality_lens.probes.from_statements
from studies import test_running as small
from morality_lens.studies.running import study

model = loading.load_model()
loading.load_model = lambda *given, **named: model  # nothing is stored while it is loaded
probing.random_models_of = lambda loaded: 0

def do(what, out):
    if what == "study":
        study(model, small.material({items}), small.Settings(plan=small.TINY), out=out, progress=False)
        return
    sys.argv = ["morality-lens", "run", "--limit", "12", "--rounds", "2", "--batch-size", "2", "--out", out]
    cli.main()

print("ready", flush=True)
for line in sys.stdin:
    what, out, seconds = line.split()
    until = time.monotonic() + float(seconds)
    child = os.fork()
    if not child:
        code = 1
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            do(what, out)
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    ended, status = os.waitpid(child, os.WNOHANG)
    while not ended and time.monotonic() < until:
        time.sleep(0.002)
        ended, status = os.waitpid(child, os.WNOHANG)
    if not ended:
        os.kill(child, 9)
        status = os.waitpid(child, 0)[1]
    print(os.waitstatus_to_exitcode(status), flush=True)
"""
ITEMS = 8


class Nursery:
    """Starts the same work again and again in processes that need import nothing, and kills them."""

    def __init__(self, process):
        self.process = process

    def code(self, what: str, out: Path, seconds: float = math.inf) -> int:
        """The exit code of the work, which is killed after so many seconds."""
        self.process.stdin.write(f"{what} {out} {seconds}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def whole(self, what: str, out: Path) -> float:
        """Seconds that the work takes."""
        began = time.monotonic()
        assert self.code(what, out) == 0
        return time.monotonic() - began

    def killed(self, what: str, out: Path, seconds: float) -> bool:
        """Whether the work was killed after so many seconds, and had not ended before."""
        code = self.code(what, out, seconds)
        assert code in (0, -signal.SIGKILL), code
        return code != 0


@pytest.fixture(scope="module")
def nursery():
    script = NURSERY.format(tests=str(Path(__file__).parents[1]), items=ITEMS)
    root = os.pathsep.join(str(Path(__file__).parents[n]) for n in (2, 1))
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout.readline() == "ready\n"
    yield Nursery(process)
    process.stdin.close()
    process.wait()
    process.stdout.close()


def killed_and_finished(nursery: Nursery, what: str, folder: Path, kills: int, seconds: float) -> list[Path]:
    """Folders in which the work was killed at random moments and started again until it was finished.

    Earlier moments, at which runs are played, are more frequent than later ones.
    """
    chance, done, outs = random.Random(0), 0, []
    while done < kills:
        outs.append(folder / f"killed-{len(outs)}")
        ended = False
        while done < kills and not ended:
            ended = not nursery.killed(what, outs[-1], seconds * chance.random() ** 2)
            done += not ended
    if not ended:
        nursery.whole(what, outs[-1])
    return outs


def transcripts(run: Run) -> list[tuple[object, ...]]:
    """Every dialogue of a run: its tokens and where its pieces lie."""
    rows = run.transcripts.to_dict("records")
    return [(row["item"], row["token_ids"].tolist(), [dict(span) for span in row["spans"]]) for row in rows]


def assert_same_files(one: Path, other: Path) -> None:
    """Both runs left the same, and nothing else: no claims, no drafts, nothing set aside as damaged."""
    names = [{p.relative_to(out).as_posix() for p in out.rglob("*")} for out in (one, other)]
    assert names[0] == names[1]
    for name in ("items.jsonl", "probe.safetensors", "coloured.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.slow(seconds=80)
def test_a_run_that_is_killed_again_and_again_is_that_of_an_undisturbed_one(nursery, tmp_path):
    seconds = nursery.whole("run", tmp_path / "whole")
    whole = open_run(tmp_path / "whole")
    for out in killed_and_finished(nursery, "run", tmp_path, KILLS or 10, seconds):
        run = open_run(out)
        assert run_hash(run.manifest) == run_hash(whole.manifest)
        assert_same_run(whole, run)
        assert verify_run(out).whole
        assert_same_files(whole.path, out)


@pytest.mark.slow(seconds=100)
def test_a_study_that_is_killed_again_and_again_is_that_of_an_undisturbed_one(nursery, tmp_path):
    seconds = nursery.whole("study", tmp_path / "whole")
    whole = stored(tmp_path / "whole")
    for out in killed_and_finished(nursery, "study", tmp_path, KILLS or 3, seconds):
        other = stored(out)
        assert whole.keys() == other.keys()
        for name, value in whole.items():
            if isinstance(value, pd.DataFrame):
                pd.testing.assert_frame_equal(value, other[name])
            elif isinstance(value, xr.Dataset | xr.DataArray):
                xr.testing.assert_identical(value, other[name])
            else:
                assert value == other[name], name
        runs = [folder.parent for folder in (tmp_path / "whole").glob("*/manifest.json")]
        for folder in runs:
            one, again = open_run(folder), open_run(out / folder.name)
            assert run_hash(one.manifest) == run_hash(again.manifest)
            assert transcripts(one) == transcripts(again)
            assert verify_run(out / folder.name).whole
