"""Workers through Ray: the same run to the last bit, whoever dies, and errors that reach the caller."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import xarray as xr
from conftest import make_questions
from rounds.test_playing import SHORT, assert_same_run
from tiny import made_up_probe

from morality_lens.circuits.attribution import attribute
from morality_lens.cli import circuits, scoring
from morality_lens.models.loading import load_model
from morality_lens.rounds import spreading
from morality_lens.rounds.playing import play, prepare
from morality_lens.rounds.preflight import Fitting
from morality_lens.rounds.selection import Execution
from morality_lens.runs import resuming, workers
from morality_lens.runs.claims import SUFFIX
from morality_lens.runs.run import open_run
from morality_lens.runs.verifying import verify_run
from morality_lens.runs.workers import Pool, on_workers

ray = pytest.importorskip("ray")
PATH = os.pathsep.join(str(Path(__file__).parents[n]) for n in (2, 1))
ONE = Fitting(batch_size=1)
TWO = Pool(workers=2)


@pytest.fixture(scope="module")
def session():
    """One Ray session, whose workers import this package from here."""
    former = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = PATH
    with workers._connected(ray, TWO):
        yield
    if former is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = former


@pytest.fixture(scope="module")
def llama(zoo_folder):
    return load_model(zoo_folder("llama"), device="cpu")


@pytest.fixture(scope="module")
def single(llama, tmp_path_factory):
    """Eight parts, played by one process."""
    return played(llama, tmp_path_factory.mktemp("single") / "run")


def played(model, out, **more):
    return play(model, make_questions(8), out=out, protocol=SHORT, fitting=ONE, progress=False, **more)


# ------------------------------------------------------------------------------------------- runs
class Killer(threading.Thread):
    """Kills the first worker that claims a part, and measures how long that part is missing then."""

    def __init__(self, parts: Path):
        super().__init__(daemon=True)
        self.parts, self.part, self.seconds = parts, None, 0.0

    def run(self):
        while self.part is None:
            for claim in self.parts.glob(f"*{SUFFIX}"):
                part = claim.with_name(claim.name.removesuffix(SUFFIX))
                try:
                    pid = json.loads(claim.read_text())["pid"]
                except (OSError, ValueError):
                    continue
                if pid != os.getpid() and not part.exists():
                    os.kill(pid, signal.SIGKILL)
                    self.part = part
                    break
            time.sleep(0.002)
        since = time.monotonic()
        while not self.part.exists():
            time.sleep(0.01)
        self.seconds = time.monotonic() - since


@pytest.mark.slow(seconds=60)
def test_a_run_on_two_workers_of_which_one_is_killed_is_that_of_one_process(session, llama, single, tmp_path):
    killer = Killer(tmp_path / "run" / "parts")
    killer.start()
    run = played(llama, tmp_path / "run", workers=2)
    killer.join(timeout=1)
    assert killer.part is not None
    assert killer.seconds < 45, "a dead worker's part must not wait until its claim is stale"
    assert_same_run(single, run)
    assert verify_run(run.path).whole
    assert not list(run.path.glob(f"parts/*{SUFFIX}"))


@pytest.mark.slow(seconds=25)
def test_what_is_refused_in_a_worker_reaches_the_caller(session, llama, tmp_path):
    strict = replace(ONE, least_parsed=1.0)
    asked = {"protocol": SHORT, "fitting": strict, "progress": False}
    with pytest.raises(ValueError, match="parse") as here:
        play(llama, make_questions(8), out=tmp_path / "here", **asked)
    with pytest.raises(ValueError, match="parse") as there:
        play(llama, make_questions(8), out=tmp_path / "there", workers=2, **asked)
    told = [re.sub(r"\S*/(here|there)\S*", "", str(error.value)) for error in (here, there)]
    assert re.sub(r"\d+", "N", told[0]) == re.sub(r"\d+", "N", told[1])
    assert "in a worker on" in there.value.__notes__[0]


@pytest.mark.slow(seconds=15)
def test_a_model_that_is_gone_reaches_the_caller(session, llama, tmp_path):
    run = prepare(llama, make_questions(4), out=tmp_path / "run", protocol=SHORT, fitting=ONE)
    gone = {**run.manifest, "loaded_from": str(tmp_path / "gone")}
    with pytest.raises(FileNotFoundError, match="gone"):
        spreading.play_on_workers(replace(run, manifest=gone), pool=TWO, progress=False)


# ------------------------------------------------------------------------------------------- computations
@pytest.mark.slow(seconds=30)
def test_an_attribution_on_two_workers_is_that_of_one_process(session, llama, tmp_path, monkeypatch):
    run = play(llama, make_questions(10), out=tmp_path / "run", protocol=SHORT, progress=False)
    probe = made_up_probe(llama)
    alone = attribute(llama, run, probe, layer=1, execution=Execution(progress=False))
    monkeypatch.chdir(tmp_path)
    execution = Execution(out="parts", progress=False)  # a relative path is the caller's in a worker too

    def work(model):
        attribute(model, run, probe, layer=1, execution=execution)

    spreading.spread(open_run("run"), work, pool=TWO)
    assert len(list((tmp_path / "parts").glob("part-*"))) == 2
    monkeypatch.setattr(resuming, "_made", None)  # all is there
    xr.testing.assert_identical(alone, attribute(llama, run, probe, layer=1, execution=execution))


# ------------------------------------------------------------------------------------------- workers
class OddError(Exception):
    """An error that cannot be sent as it is."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


def test_errors_keep_their_type_and_words_where_they_can_be_sent(session):
    def fail(error):
        raise error

    with pytest.raises(KeyError, match="lost") as found:
        on_workers(lambda: KeyError("lost"), fail, pool=TWO)
    assert "in fail" in found.value.__notes__[0]
    sent = workers._sendable(OddError("this", "that"))
    assert type(sent) is RuntimeError
    assert str(sent) == "OddError: this and that"


def test_workers_that_die_again_and_again_are_given_up(session, monkeypatch):
    monkeypatch.setattr(workers, "DEATHS", 1)
    with pytest.raises(RuntimeError, match=r"2 workers died .* What is finished is kept"):
        on_workers(os.getpid, lambda pid: os.kill(pid, signal.SIGKILL), pool=Pool(workers=1))


def test_more_workers_than_there_is_room_for_are_refused(session):
    for pool in (Pool(workers=2, gpus_per_worker=1.0), Pool(workers=3), Pool(workers=1, cpus_per_worker=3)):
        with pytest.raises(ValueError, match=r"there is room for [02]\."):
            on_workers(os.getpid, print, pool=pool)


def test_a_machine_without_ray_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'morality-lens\[ray\]'.* several terminals"):
        on_workers(os.getpid, print, pool=TWO)


@pytest.mark.parametrize("address", ["auto", "127.0.0.1:1", "ray://127.0.0.1:1", "nowhere.invalid:6379"])
def test_an_address_without_a_cluster_is_refused_at_once(address, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)

    def init(address, **given):
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ConnectionError, match=f"no Ray cluster at '{address}' .*`ray start --head`"):
        on_workers(os.getpid, print, pool=Pool(workers=1, address=address))


@pytest.mark.parametrize(
    "odd", [{"workers": 0}, {"workers": 1, "gpus_per_worker": -1.0}, {"workers": 1, "cpus_per_worker": 0}]
)
def test_a_pool_of_nothing_is_refused(odd):
    with pytest.raises(ValueError, match="at least one worker"):
        Pool(**odd)


def test_a_model_larger_than_a_gpu_is_spread_over_those_of_its_worker():
    assert Pool(workers=1).placement == {"device": "cpu", "threads": 1}
    assert Pool(workers=1, gpus_per_worker=0.5).placement == {"device": "cuda", "threads": 1}
    assert Pool(workers=1, gpus_per_worker=2.0).placement == {"device_map": "auto", "threads": 1}


OWN = """
import os, sys, time
from pathlib import Path
from morality_lens.cli.stopping import stopped_by_signals
from morality_lens.runs.workers import Pool, on_workers

def work(place):
    Path(place, str(os.getpid())).touch()
    time.sleep(600)

place = sys.argv[1]
with stopped_by_signals():
    on_workers(lambda: place, work, pool=Pool(workers=2))
"""


@pytest.mark.slow(seconds=15)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_workers_and_ray_says_nothing(number, tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", OWN, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": PATH},
        start_new_session=True,
    )
    while len(pids := [int(p.name) for p in tmp_path.iterdir()]) < 2:
        assert child.poll() is None, child.communicate()[1][-2000:]
        time.sleep(0.1)
    os.killpg(child.pid, number)  # as a terminal does
    out, err = child.communicate(timeout=240)
    lines = [line for line in err.splitlines() if not line.startswith(" ")]
    assert (out, lines[0]) == ("", "Traceback (most recent call last):")
    assert re.fullmatch(r"(KeyboardInterrupt|morality_lens\.cli\.stopping\.Stopped).*", lines[-1])
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.1)


# ------------------------------------------------------------------------------------------- commands
@pytest.fixture
def spread_here(llama, monkeypatch):
    """The pools that commands ask for; their work is sent and received, and done here."""
    pools = []

    def spread(run, work, *, pool):
        pools.append(pool)
        ray.cloudpickle.loads(ray.cloudpickle.dumps(work))(llama)

    monkeypatch.setattr(spreading, "spread", spread)
    return pools


@pytest.mark.slow(seconds=20)
@pytest.mark.parametrize("name", ["attribute", "patch", "score"])
def test_commands_let_workers_compute_first(name, llama, tmp_path, monkeypatch, command, spread_here):
    run = play(llama, make_questions(6), out=tmp_path / "run", protocol=SHORT, progress=False)
    made_up_probe(llama).save(run.path / "probe.safetensors")
    real, made = resuming._made, []

    def counting(folder, *given):
        made.append((folder.name, len(spread_here)))
        return real(folder, *given)

    monkeypatch.setattr(resuming, "_made", counting)
    for place in (circuits, scoring):
        monkeypatch.setattr(place, "reload", lambda played, device: llama)
    more = () if name == "score" else ("--layer", 1)
    more += ("--random", 2) if name == "patch" else ()
    code, _, err = command(name, run.path, *more, "--workers", 2, "--ray-address", "auto")
    assert code == 0, err[-2000:]
    assert spread_here == [Pool(workers=2, address="auto")]
    assert made
    assert all(at == 1 for _, at in made), "this process computes no part"
    assert len({folder for folder, _ in made}) == {"attribute": 2, "patch": 4, "score": 1}[name]


@pytest.mark.parametrize("name", ["attribute", "patch", "score"])
def test_a_cluster_without_a_number_of_workers_is_refused(name, tmp_path, command):
    code, _, err = command(name, tmp_path, "--ray-address", "auto")
    assert code == 2
    assert "go with --workers; give their number" in err
