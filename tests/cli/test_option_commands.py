"""The options of questions from the shell: permuted in a run, scored by their full text."""

import json

import pytest

from morality_lens.cli.run_config import RunConfig, load_study
from morality_lens.items.loaders import load_statements
from morality_lens.items.permuting import original_options
from morality_lens.runs.run import open_run


@pytest.fixture
def command(command):
    """The same with standard output in one line."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code, out, err = command(*arguments)
        return code, " ".join(out.split()), err

    return run


@pytest.fixture
def files(tmp_path):
    """A file of questions whose unknown option is always B, and one with few statements."""
    questions, statements = tmp_path / "own.jsonl", tmp_path / "few.jsonl"
    rows = [
        {
            "id": f"q{i}",
            "cluster": f"t{i % 8}",
            "context": f"A Vel and a Tor met at gate {i}. " * (1 + i % 3),
            "question": "Who was kind?",
            "options": ["The Vel", "Not known", "The Tor"],
            "unknown": 1,
            "label": 1,
            "biased": i % 2 * 2,
        }
        for i in range(16)
    ]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    few = [
        {"id": s.id, "cluster": s.cluster, "text": s.text, "label": s.label} for s in load_statements("world")
    ]
    statements.write_text("".join(json.dumps(row) + "\n" for row in few[:400]))
    return "--data", questions, "--statements", statements


@pytest.mark.slow(seconds=12)
def test_options_are_permuted_and_scored_from_the_shell(command, files, zoo_folder, tmp_path):
    out = tmp_path / "run"
    arguments = ("run", "--model", zoo_folder("llama"), *files, "--rounds", 1, "--out", out)
    code, text, err = command(*arguments, "--permute-options", "--anyway", "--verbose")
    assert code == 0, err
    assert "they are not what this model says next" in text
    assert "balanced over roles and positions" in text
    assert "Preference for a position in the last round" in (out / "report.html").read_text()
    assert load_study(out / "study.toml").permute_options
    run = open_run(out)
    assert {q.good for q in run.asked.values()} == {0, 1, 2}
    assert {original_options(q).options for q in run.asked.values()} == {("The Vel", "Not known", "The Tor")}
    code, _, err = command(*arguments)  # the order belongs to what the run is
    assert code == 2
    assert "items with other words than those that are asked for" in err
    assert "option text" not in run.measures

    code, text, err = command("score", out)
    assert code == 0, err
    assert "right by text per byte" in text
    assert "option text" in open_run(out).measures
    assert command("score", out)[0] == 0  # resumes: nothing is left to do
    code, text, err = command("analyze", out, "--verbose")
    assert code == 0, err
    assert "Full text of the right option" in text
    assert command("report", out)[0] == 0
    html = (out / "report.html").read_text()
    assert "Options scored by their full text" in html


@pytest.mark.slow(seconds=8)
def test_options_are_scored_with_the_run(command, files, zoo_folder, tmp_path):
    out = tmp_path / "run"
    code, text, err = command(
        "run", "--model", zoo_folder("llama"), *files, "--limit", 8, "--rounds", 1, "--out", out,
        "--score-options", "--anyway", "--verbose",
    )  # fmt: skip
    assert code == 0, err
    assert "option text log-odds" in open_run(out).measures
    assert "cannot tell content from position" in text


@pytest.mark.parametrize("option", ["--permute-options", "--score-options"])
def test_what_has_no_options_is_refused_before_a_model_is_loaded(command, tmp_path, option):
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"id": "p", "text": "Once upon"}) + "\n")
    code, _, err = command("run", "--data", tmp_path / "prompts.jsonl", "--model", "no/such", option)
    assert code == 2
    assert "item 'p' is a OpenPrompt" in err


def test_the_settings_survive_their_toml(tmp_path):
    study = RunConfig(permute_options=True, score_options=True)
    (tmp_path / "s.toml").write_text(study.to_toml())
    assert load_study(tmp_path / "s.toml") == study
