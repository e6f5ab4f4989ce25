"""What commands print and where: JSON alone, less or more, whole lines where nobody watches, no colours."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import make_questions
from tiny import made_up_probe, tiny_run

import morality_lens as ml
from morality_lens.cli import console, study
from morality_lens.models.loading import load_model, record_of
from morality_lens.studies.plan import Estimate

LONG = (
    "A sentence that no terminal of eighty columns could show in one line, so that it would be wrapped there."
)


@pytest.fixture(scope="module")
def analysed(tmp_path_factory, zoo_folder):
    """A small run with a probe."""
    out = tmp_path_factory.mktemp("output") / "run"
    model, run = tiny_run(zoo_folder("llama"), out, make_questions(12))
    made_up_probe(model).save(out / "probe.safetensors")
    return run


def in_terminal(*arguments: object, columns: int = 80, **environment: str) -> str:
    """What a command prints in a terminal."""
    main, inner = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "morality_lens", *map(str, arguments)],
        stdin=inner,
        stdout=inner,
        stderr=inner,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), **environment},
    )
    os.close(inner)
    said = b""
    while True:
        try:
            more = os.read(main, 65536)
        except OSError:  # the terminal is closed when the process ends
            break
        if not more:
            break
        said += more
    os.close(main)
    assert process.wait() == 0
    return said.decode()


def test_json_of_analyze_is_alone_on_standard_output_and_holds_the_numbers_of_the_api(command, analysed):
    code, out, err = command("analyze", analysed.path, "--json")
    assert code == 0, err
    found = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert set(found) == {"run", "behaviour_effects", "text_effects", "effects", "refused", "files"}
    probe = ml.load_probe(analysed.path / "probe.safetensors")
    analysis = ml.analyze(analysed, probe=probe)
    assert found["refused"] == list(analysis.refused)
    compared = 0
    for name in ("behaviour_effects", "text_effects", "effects"):
        effects = getattr(analysis, name)
        if effects is None:
            assert found[name] is None
            continue
        table = effects.drop_vars("cell_mean").to_dataframe().reset_index()
        assert len(found[name]) == len(table)
        assert list(found[name][0]) == list(table.columns)
        for column in table.columns:
            given = [row[column] for row in found[name]]
            if table[column].dtype.kind in "fi":
                want = table[column].to_numpy(float)
                got = np.array([np.nan if one is None else one for one in given], float)
                np.testing.assert_array_equal(got, np.where(np.isfinite(want), want, np.nan))
                compared += 1
    assert compared > 5
    assert "wrote " in err


def test_json_of_check_is_alone_on_standard_output(command, zoo_folder):
    code, out, err = command("check", "--model", zoo_folder("gpt2"), "--json")
    assert code == 0, err
    found = json.loads(out)
    record = record_of(load_model(zoo_folder("gpt2")))
    assert [(one["name"], one["difference"]) for one in found["checks"]] == [
        (one.name, one.difference) for one in record.checks
    ]
    assert (found["architecture"], found["window"]) == (record.architecture, record.window.tokens)
    assert all(one["passed"] is True for one in found["checks"])
    assert "loading the model" in err


def test_a_number_that_is_none_is_null(capsys):
    console.print_json({"a": float("nan"), "b": [np.float32("inf"), np.int64(2)], "c": (None, True, "x")})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 2], "c": [None, True, "x"]}


def test_an_error_leaves_standard_output_empty_for_json(command, tmp_path):
    code, out, err = command("analyze", tmp_path, "--json")
    assert (code, out) == (2, "")
    assert err.startswith("error: no run at")


def test_quiet_prints_the_path_of_the_report_alone(command, analysed, tmp_path):
    for arguments in (("report", analysed.path, "--quiet"), ("--quiet", "report", analysed.path)):
        assert command(*arguments) == (0, f"{(analysed.path / 'report.html').resolve()}\n", "")
    assert command("analyze", analysed.path, "-q") == (0, "", "")
    code, out, err = command("analyze", tmp_path, "-q")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")


def test_the_result_is_at_most_five_lines_and_all_findings_are_asked_for(command, analysed):
    brief, full = (command("analyze", analysed.path, *more)[1] for more in ((), ("--verbose",)))
    lines = [line for line in brief.splitlines() if line and not line.startswith("wrote ")]
    assert 1 <= len(lines) <= 5
    assert len(full) > len(brief)
    assert command("--verbose", "analyze", analysed.path)[1] == full
    assert "-q" not in brief
    code, _, err = command("analyze", analysed.path, "-q", "-v")
    assert code == 2
    assert "exclude each other" in err


def test_what_was_chosen_for_one_command_ends_with_it(command, analysed):
    command("analyze", analysed.path, "--json", "--verbose")
    assert (console.shown.quiet, console.shown.verbose, console.shown.json) == (False, False, False)


def test_nothing_is_wrapped_where_nobody_watches(capsys):
    console.print_lines(LONG * 3)
    console.print_table(("a", "b"), [(LONG, LONG)], title=LONG)
    out = capsys.readouterr().out
    assert LONG * 3 in out.splitlines()
    assert any(line.count(LONG) == 2 for line in out.splitlines())


def test_a_terminal_is_not_exceeded_and_no_color_is_honoured(tmp_path, analysed):
    for columns in (80, 140):
        said = in_terminal("list", analysed.path.parent, columns=columns)
        plain = [line for line in said.splitlines() if "\x1b" not in line]
        assert plain
        assert max(map(len, plain)) <= columns
    colours = [f"\x1b[{code}" for code in ("3", "38", "9", "1;3", "2;3")]
    assert any(code in in_terminal("analyze", "--help") for code in colours)
    said = in_terminal("analyze", "--help", NO_COLOR="1")
    assert not any(code in said for code in colours)


@pytest.mark.parametrize(
    ("seconds", "terminal", "yes", "answer", "begins", "asked"),
    [
        (60, True, False, False, True, False),
        (7200, True, False, True, True, True),
        (7200, True, False, False, False, True),
        (7200, True, True, False, True, False),
        (7200, False, False, False, True, False),
    ],
)
def test_a_long_study_is_asked_about_where_somebody_can_answer(
    monkeypatch, capsys, seconds, terminal, yes, answer, begins, asked
):
    questions: list[str] = []
    monkeypatch.setattr(study.sys.stdin, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(study.typer, "confirm", lambda text, **_: (questions.append(text), answer)[1])
    told = Estimate(seconds=float(seconds), bytes=10**9)
    if begins:
        study._agree(told, yes=yes)
    else:
        with pytest.raises(study.typer.Exit):
            study._agree(told, yes=yes)
        assert "nothing was played" in capsys.readouterr().out
    assert bool(questions) == asked
    if asked:
        assert "about 120 minutes" in questions[0]
    if seconds > study.LONG and not terminal:
        assert "standard input is no terminal" in capsys.readouterr().out


def test_the_whole_is_quiet_in_progress_too(command, analysed, tmp_path):
    assert Path(analysed.path).is_dir()
    code, out, err = command("list", analysed.path.parent, "--quiet")
    assert (code, out, err) == (0, "", "")


def test_a_narrow_terminal_folds_the_cells_of_a_table_and_cuts_none(monkeypatch):
    import io

    from rich.console import Console

    told = io.StringIO()
    monkeypatch.setattr(console, "_console", lambda: Console(file=told, width=40))
    console.print_table(
        ("folder", "what", "model"), [("runs/a-long-name-of-a-run", "run", "a-model/of-a-name")]
    )
    text = told.getvalue()
    assert "…" not in text
    columns = [
        [line.split("│")[i].strip() for line in text.splitlines() if line.count("│") == 4] for i in (1, 3)
    ]
    assert "".join(columns[0]) == "runs/a-long-name-of-a-run"
    assert "".join(columns[1]) == "a-model/of-a-name"
