"""How commands end early: by a signal in any phase, and by an error."""

import os
import signal
import subprocess
import sys
import time

import pytest

from morality_lens.cli import analysing, checking, circuits, console, run, scoring
from morality_lens.cli.stopping import Stopped, in_one_line, stopped_by_signals

PHASES = """
import sys, time
from morality_lens.cli import {module} as place, main
def slow(*given, **named):
    print("begun", flush=True)
    while True:
        time.sleep(0.01)
place.{name} = slow
sys.argv = ["morality-lens", *sys.argv[1:]]
main.main()
"""


@pytest.mark.parametrize(
    ("number", "code", "module", "name", "arguments"),
    [
        (signal.SIGTERM, 143, "run", "load_and_show", ("run",)),
        (signal.SIGTERM, 143, "run", "_items", ("run",)),
        (signal.SIGTERM, 143, "study", "load_and_show", ("study", "--profile", "quick")),
        (signal.SIGTERM, 143, "scoring", "refuse_missing", ("score", "x")),
        (signal.SIGTERM, 143, "circuits", "refuse_missing", ("patch", "x")),
        (signal.SIGINT, 130, "run", "_items", ("run",)),
        (signal.SIGHUP, 129, "run", "_items", ("run",)),
    ],
)
def test_a_signal_ends_a_command_with_a_line_in_every_phase(number, code, module, name, arguments, tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", PHASES.format(module=module, name=name), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.stdout is not None
    while "begun" not in child.stdout.readline():
        assert child.poll() is None, child.communicate()[1]
    child.send_signal(number)
    err = child.communicate(timeout=240)[1]
    assert child.returncode == code
    assert "stopped; what is finished is kept: run the same command again to resume." in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "place", "name"),
    [
        (("check",), checking, "load"),
        (("run",), console, "load"),
        (("run",), run, "_items"),
        (("analyze", "x"), analysing, "refuse_missing"),
        (("attribute", "x"), circuits, "refuse_missing"),
        (("score", "x"), scoring, "refuse_missing"),
    ],
)
def test_an_interruption_is_one_line_in_every_phase(command, monkeypatch, tmp_path, arguments, place, name):
    def interrupted(*given, **named):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(place, name, interrupted)
    code, _, err = command(*arguments)
    assert code == 143
    assert err.splitlines()[-1].startswith("stopped; what is finished is kept")


def test_handlers_are_as_before_afterwards_and_an_ignored_signal_stays_ignored():
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopped_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
            with pytest.raises(Stopped):
                signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_fault_of_ours_shows_where_to_report_it(command, monkeypatch):
    def wrong(*given, **named):
        raise KeyError("x")

    monkeypatch.setattr(run, "_items", wrong)
    code, _, err = command("run")
    assert code == 1
    assert "Traceback" in err
    assert "please report the lines above" in err


def test_an_error_without_words_has_some():
    assert "not enough memory" in in_one_line(MemoryError())
    assert in_one_line(ValueError("a\n b")) == "a b"
    assert in_one_line(TypeError()) == "TypeError"
    assert in_one_line(OSError("x\udcff")) == "x\\udcff"
