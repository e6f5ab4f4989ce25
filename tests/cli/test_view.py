"""The command that shows a run: what it refuses before it serves, which probes it takes, and how it ends."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from conftest import make_questions

from morality_lens.cli import view as view_commands
from morality_lens.cli.view import Model, find_probes, listening, read_probes, run_folder
from morality_lens.design import Design, Protocol
from morality_lens.items.kinds import Statement
from morality_lens.models.loading import load_model
from morality_lens.probes.from_statements import fit_probe
from morality_lens.rounds.playing import play

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
    out = tmp_path_factory.mktemp("view") / "run"
    return play(llama, make_questions(3), out=out, protocol=PROTOCOL, progress=False)


def test_without_the_server_s_packages_the_extra_is_named(command, run, monkeypatch):
    there = view_commands.importlib.util.find_spec
    monkeypatch.setattr(
        view_commands.importlib.util,
        "find_spec",
        lambda name, *more: None if name in ("starlette", "uvicorn") else there(name, *more),
    )
    code, _, err = command("view", run.path, "--no-open")
    assert code == 2
    assert "starlette and uvicorn" in err
    assert 'pip install "morality-lens[view]"' in err


def test_what_is_no_run_is_refused_in_one_line(command, tmp_path, run):
    for folder in (tmp_path / "nowhere", tmp_path):
        code, _, err = command("view", folder, "--no-open")
        assert code == 2
        assert err.count("\n") == 1, err
    code, _, err = command("view", run.path, "--probe", tmp_path / "none.safetensors", "--no-open")
    assert code == 2
    assert "none.safetensors" in err


def test_a_used_port_is_told(command, run):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, err = command("view", run.path, "--port", port, "--no-open")
    assert code == 2
    assert f"port {port} on 127.0.0.1 cannot be used" in err


def test_only_this_machine_is_listened_to():
    with listening("127.0.0.1", 0) as held:
        assert held.getsockname()[0] == "127.0.0.1"


def test_the_probes_of_a_run_or_of_its_study_are_found(llama, run, tmp_path):
    study = tmp_path / "study"
    shutil.copytree(run.path, study / "questions")
    (study / "study.json").write_text("{}")
    probe = fit_probe(llama, STATEMENTS)
    assert find_probes(study / "questions") == []
    for name in ("probe", "directions/composed", "directions/toxicity"):
        (study / name).parent.mkdir(exist_ok=True)
        probe.save(study / f"{name}.safetensors")
    assert run_folder(study) == study / "questions"
    found = find_probes(study / "questions")
    assert [path.stem for path in found] == ["probe", "composed", "toxicity"]
    assert list(read_probes(run, found)) == ["moral", "composed", "toxicity"]
    own = probe.save(study / "questions" / "probe.safetensors")
    assert find_probes(study / "questions") == [own]
    with pytest.raises(ValueError, match="two probes are called moral"):
        read_probes(run, [own, own])


def test_a_probe_of_another_model_is_refused_before_anything_is_served(command, run, llama, tmp_path):
    from dataclasses import replace

    probe = fit_probe(llama, STATEMENTS)
    other = replace(probe, training={**probe.training, "model_fingerprint": "0" * 64})
    path = other.save(tmp_path / "other.safetensors")
    code, _, err = command("view", run.path, "--probe", path, "--no-open")
    assert code == 2
    assert "was fitted on another model" in err


def test_the_model_is_loaded_when_it_is_first_needed_and_dialogues_are_held_in_bounds(
    run, llama, monkeypatch
):
    loads = []
    monkeypatch.setattr(view_commands, "reload", lambda played, device: loads.append(device) or llama)
    model = Model(played=run, probes={"moral": fit_probe(llama, STATEMENTS)}, device="cpu")
    assert loads == []
    rows = [run.transcripts.iloc[[n]] for n in range(12)]
    first = model.tokens(rows[0])
    assert model.tokens(rows[0]) is first
    for row in rows:
        model.tokens(row)
    assert len(model.kept) == view_commands.HELD_DIALOGUES
    assert loads == ["cpu"]
    assert {view.item for views in model.kept.values() for view in views} <= set(run.asked)


@pytest.mark.slow(seconds=20)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_interrupted_and_ends_cleanly(run, number):
    command = [sys.executable, "-c", "from morality_lens.cli.main import main; main()", "view", str(run.path)]
    began = subprocess.Popen(
        [*command, "--no-open"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        line = began.stdout.readline() if began.stdout else ""
        address = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert address, line
        until = time.monotonic() + 30
        while time.monotonic() < until:
            try:
                page = urllib.request.urlopen(address[0] + "api/list", timeout=20).read().decode()
                break
            except OSError:
                time.sleep(0.2)
        assert '"q0"' in page
        began.send_signal(number)
        out, err = began.communicate(timeout=30)
    finally:
        began.kill()
    assert "Traceback" not in err
    assert began.returncode == (0 if number == signal.SIGINT else 128 + number)
    if number == signal.SIGINT:
        assert out.splitlines()[-1] == "ended"
        assert err == ""
