"""The command line: a whole study, and one clear line for every mistake."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import zoo

from morality_lens.cli.run_config import RunConfig, load_study
from morality_lens.design import Design, Protocol
from morality_lens.items.loaders import load_statements
from morality_lens.probes.kinds import KINDS
from morality_lens.probes.probe import load_probe
from morality_lens.runs import writing
from morality_lens.runs.run import open_run

SHARED = Path(__file__).parents[3] / "shared"
SHORT = ("--answer-tokens", 16, "--rationale-tokens", 24, "--feedback-tokens", 16)
"""Limits for models that never stop of their own accord."""


def question_row(**changes) -> dict:
    row = {
        "id": "a",
        "context": "A Vel and a Tor met.",
        "question": "Who was kind?",
        "options": ["The Vel", "Not known", "The Tor"],
        "unknown": 1,
        "label": 1,
    }
    return {key: value for key, value in {**row, **changes}.items() if value is not None}


@pytest.fixture
def own_data(tmp_path):
    path = tmp_path / "own.jsonl"
    rows = (
        question_row(id=f"q{i}", cluster=f"t{i % 8}", context="A Vel and a Tor met. " * (1 + i % 3))
        for i in range(16)
    )
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.fixture
def few_statements(tmp_path):
    """A file with a sixth of the bundled statements, for tests in which any probe will do."""
    path = tmp_path / "few.jsonl"
    rows = [
        {"id": s.id, "cluster": s.cluster, "text": s.text, "label": s.label} for s in load_statements("world")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:400]))
    return path


@pytest.mark.slow(seconds=40)
def test_a_study_on_the_bundled_model_ends_in_a_report(command, few_statements, tmp_path):
    out = tmp_path / "run"
    code, text, err = command("run", "--limit", 16, "--rounds", 1, "--out", out)
    assert code == 0, err
    assert str((out / "report.html").resolve()) in text
    assert "self-test passed" in text
    steps = re.findall(r"(?m)^\[\d+:\d\d\] step (\d) of 5: (\w+)", text)
    words = ["loading", "playing", "reading", "reading", "estimating"]
    assert steps == [(str(i), word) for i, word in enumerate(words, start=1)]
    for stage in ("running the self-test", "reading 2,400 statements", "trust card", "writing the report"):
        assert stage in text
    assert "after 2 of 16 items: " in err
    assert "100% of the answers parse" in err
    html = (out / "report.html").read_text()
    assert "not evidence about language models" in " ".join(html.split())
    run = open_run(out)
    assert run.complete
    assert len(run.items) == 16
    assert run.answers["parsed"].mean() > 0.9
    assert load_study(out / "study.toml").protocol.design.rounds == 1

    (out / "report.html").unlink()
    code, text, _ = command("report", out)
    assert code == 0
    assert (out / "report.html").is_file()
    code, text, _ = command("analyze", out)
    assert code == 0
    assert "instruction:feedback" in (out / "effects.csv").read_text()
    code, text, _ = command("probe", out, "--kind", "lda", "--statements", few_statements)
    assert code == 0
    assert "AUROC" in text


@pytest.mark.slow(seconds=6)
def test_the_same_command_again_plays_nothing_twice(command, own_data, few_statements, zoo_folder, tmp_path):
    arguments = (
        "run",
        "--model",
        zoo_folder("llama"),
        "--data",
        own_data,
        "--statements",
        few_statements,
        "--rounds",
        1,
        "--anyway",
        "--out",
        tmp_path / "r",
    )
    assert command(*arguments)[0] == 0
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "r" / "parts").glob("*.zip")}
    assert command(*arguments)[0] == 0
    assert stamps == {p: p.stat().st_mtime_ns for p in (tmp_path / "r" / "parts").glob("*.zip")}


@pytest.mark.slow(seconds=20)
def test_a_model_that_knows_nothing_gets_a_report_that_claims_nothing(command, tmp_path):
    if not (SHARED / "data" / "bbq").is_dir():
        pytest.skip(f"the real data are not at {SHARED}")
    out = tmp_path / "run"
    code, text, err = command(
        "run", "--model", SHARED / "models" / "stories260K", "--data", SHARED / "data" / "bbq",
        "--limit", 20, "--rounds", 1, "--drop-long", "--anyway", "--out", out, *SHORT,
    )  # fmt: skip
    assert code == 0, err
    assert "of the answers could not be read (limit 10%)" in " ".join(text.split())
    assert "Effects on behaviour: No p-values and no intervals" in " ".join(text.split())
    html = (out / "report.html").read_text()
    assert "Effects on behaviour: No p-values and no intervals" in html
    left = open_run(out).manifest["left_out"]
    for row in left:
        assert row["id"] in html


@pytest.mark.slow(seconds=8)
def test_every_kind_of_direction_can_be_fitted_from_the_shell(command, own_data, zoo_folder, tmp_path):
    few = tmp_path / "few.jsonl"
    names = ("id", "cluster", "text", "label", "value")
    rows = [{name: getattr(s, name) for name in names} for s in load_statements("world")[:200]]
    few.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out, graded = tmp_path / "r", ("--statements", few)
    arguments = ("--model", zoo_folder("llama"), "--data", own_data, "--out", out, "--rounds", 1, "--anyway")
    code, _, err = command("run", *arguments, "--probe", "ridge", *graded)
    assert code == 0, err
    assert load_study(out / "study.toml").probe == "ridge"
    for kind in KINDS:
        code, text, err = command("probe", out, "--kind", kind, *graded)
        assert code == 0, err
        assert load_probe(out / "probe.safetensors").kind == kind
        assert ("has no trust card" in text) == (not KINDS[kind].card)
    code, _, err = command("report", out)
    assert code == 0, err


def test_check_prints_the_self_test(command, zoo_folder):
    code, out, _ = command("check", "--model", zoo_folder("gpt2"))
    assert code == 0
    assert "BOS" in out
    assert "plain" in out


def malformed(tmp_path, zoo_folder, own_data):
    own_data.write_text(json.dumps(question_row()) + "\n{broken\n")
    return ("--data", own_data)


def no_unknown(tmp_path, zoo_folder, own_data):
    own_data.write_text(json.dumps(question_row(unknown=None)) + "\n")
    return ("--data", own_data)


def no_model(tmp_path, zoo_folder, own_data):
    (tmp_path / "empty").mkdir()
    return ("--model", tmp_path / "empty")


def no_tokenizer(tmp_path, zoo_folder, own_data):
    folder = zoo.save_model(tmp_path / "m", "llama")
    (folder / "tokenizer.json").unlink()
    return ("--model", folder)


def too_long(tmp_path, zoo_folder, own_data):
    own_data.write_text(json.dumps(question_row(context="They met. " * 400)) + "\n")
    return ("--model", zoo_folder("llama"), "--data", own_data)


def in_the_way(tmp_path, zoo_folder, own_data):
    (tmp_path / "out").write_text("a file")
    return ("--rounds", 1, "--model", zoo_folder("llama"), "--data", own_data)


def other_things(tmp_path, zoo_folder, own_data):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    return ("--rounds", 1, "--model", zoo_folder("llama"), "--data", own_data)


def bad_config(tmp_path, zoo_folder, own_data):
    (tmp_path / "study.toml").write_text('modle = "x"\n')
    return ("--config", tmp_path / "study.toml")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t, z, o: ("--data", t / "absent.jsonl"), "absent.jsonl"),
        (malformed, "own.jsonl, line 2"),
        (no_unknown, "unknown"),
        (no_model, "has no config.json"),
        (no_tokenizer, "has no tokenizer"),
        (too_long, "could exceed the model's context window of 768 tokens"),
        (in_the_way, "exists and is no run"),
        (other_things, "exists and is no run"),
        (bad_config, "modle: Extra inputs are not permitted"),
        (lambda t, z, o: ("--statements", t / "none.csv"), "none.csv"),
        (lambda t, z, o: ("--model", "no/such/folder"), "no model folder at"),
        (lambda t, z, o: ("--rounds", "0"), "--rounds"),
        (lambda t, z, o: ("--probe", "magic"), "--probe"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_mistake_is_one_line_and_exit_code_2(command, tmp_path, zoo_folder, own_data, spoil, message):
    code, _, err = command("run", "--out", tmp_path / "out", *spoil(tmp_path, zoo_folder, own_data))
    assert code == 2
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    if "Usage" not in err:
        assert len([line for line in err.strip().splitlines() if "error" in line]) == 1


@pytest.mark.slow(seconds=4)
def test_a_folder_of_another_run_is_refused_on_the_command_line(
    command, own_data, few_statements, zoo_folder, tmp_path
):
    arguments = (
        *("run", "--model", zoo_folder("llama"), "--data", own_data, "--out", tmp_path / "r"),
        *("--statements", few_statements, "--anyway", *SHORT),
    )
    assert command(*arguments, "--rounds", 2)[0] == 0
    code, _, err = command(*arguments, "--rounds", 1)
    assert code == 2
    assert "a run of 2 correction rounds, and 1 are asked for" in err
    code, _, err = command(*arguments, "--rounds", 2, "--system-prompt", "Be fair.")
    assert code == 2
    assert "holds another run" in err
    assert "system_prompt: there None, now Be fair." in err


def test_an_interrupted_run_says_how_to_go_on(command, own_data, zoo_folder, tmp_path, monkeypatch):
    def interrupted(path, number, batch):
        raise KeyboardInterrupt

    monkeypatch.setattr(writing, "commit", interrupted)
    code, _, err = command(
        "run", "--model", zoo_folder("llama"), "--data", own_data, "--rounds", 1, "--out", tmp_path / "r"
    )
    assert code == 130
    assert "run the same command again" in err


def test_a_run_stops_early_where_few_answers_parse_and_resumes_anyway(
    command, own_data, few_statements, zoo_folder, tmp_path
):
    arguments = ("run", "--model", zoo_folder("llama"), "--data", own_data, "--statements", few_statements)
    arguments += ("--limit", 4, "--rounds", 1, "--out", tmp_path / "r")
    code, _, err = command(*arguments)
    assert code == 2
    assert "of the answers to the first 2 items parse" in err
    assert "--anyway" in err
    assert len(open_run(tmp_path / "r").items) == 2
    assert command(*arguments, "--anyway")[0] == 0
    assert len(open_run(tmp_path / "r").items) == 4


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "--model", "/not/there"),
        ("run", "--model", "/not/there"),
        ("run", "--data", "/not/there"),
        ("run", "--statements", "/not/there"),
        ("run", "--feedback", "model", "--feedback-from", "/not/there"),
        ("run", "--feedback", "file", "--feedback-from", "/not/there"),
        ("run", "--config", "/not/there"),
        ("study", "--model", "/not/there"),
        ("study", "--prompts", "/not/there"),
        ("study", "--evidence", "/not/there"),
        ("study", "--wording", "/not/there"),
        ("probe", "/not/there"),
        ("analyze", "/not/there"),
        ("report", "/not/there"),
        ("attribute", "/not/there"),
        ("patch", "/not/there"),
    ],
    ids=" ".join,
)
def test_what_is_missing_is_named_before_anything_large_is_imported(arguments):
    program = (
        "import sys; from morality_lens.cli import main\n"
        "try: main.main()\n"
        "finally: print([m for m in ('torch', 'transformers', 'pandas', 'xarray') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout == "[]\n"
    assert done.stderr.startswith("error: ")
    assert "/not/there" in done.stderr


@pytest.mark.parametrize("name", ["probe", "analyze", "report"])
def test_commands_on_a_folder_that_is_no_run_say_so(command, tmp_path, name):
    code, _, err = command(name, tmp_path)
    assert code == 2
    assert "no run at" in err


def test_a_study_survives_its_toml(tmp_path):
    study = RunConfig(
        model="m",
        limit=3,
        probe="lda",
        protocol=Protocol(
            design=Design(rounds=2, sites=("answer_start", "feedback"), seed=4),
            feedback="oracle",
            temperature=0.5,
        ),
    )
    (tmp_path / "s.toml").write_text(study.to_toml())
    assert load_study(tmp_path / "s.toml") == study
    (tmp_path / "d.toml").write_text(RunConfig().to_toml())
    assert load_study(tmp_path / "d.toml") == RunConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("limit = ", "not valid TOML"),
        ("[protocol]\ntemprature = 1", "protocol.temprature"),
        ("[protocol.design]\nrounds = 0", "at least one correction round"),
        ('[protocol]\nfeedback = "friend"', "protocol.feedback"),
    ],
)
def test_a_config_with_a_fault_says_where(tmp_path, text, message):
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_study(tmp_path / "s.toml")


def test_a_model_and_its_system_prompt_are_chosen_from_the_shell_and_a_file_alike(
    command, own_data, few_statements, tmp_path
):
    loud = zoo.CHATML.replace("{% for m", "{% if loud %}LOUD {{ loud }}\n{% endif %}{% for m", 1)
    folder, out = zoo.save_model(tmp_path / "m", "llama", template=loud), tmp_path / "r"
    short = tmp_path / "short.toml"
    short.write_text("[protocol]\nanswer_tokens = 3\nrationale_tokens = 4\nfeedback_tokens = 4\n")
    common = ("--model", folder, "--data", own_data, "--statements", few_statements, "--rounds", 1)
    common = (*common, "--config", short, "--anyway")
    code, _, err = command(
        "run", *common, "--limit", 8, "--out", out, "--template", "loud=[1, 2]", "--system-prompt", "Be fair."
    )
    assert code == 0, err
    kept = load_study(out / "study.toml")
    assert (kept.template_keywords, kept.protocol.system_prompt) == ({"loud": [1, 2]}, "Be fair.")
    study = open_run(out).manifest["study"]
    assert study["model"]["template_keywords"] == {"loud": [1, 2]}
    assert study["system_prompt"] == "Be fair."
    # The file alone is the same run; without its options it is another one.
    code, _, err = command("run", "--config", out / "study.toml", "--anyway")
    assert code == 0, err
    code, _, err = command("run", *common, "--limit", 8, "--out", out, "--system-prompt", "Be fair.")
    assert code == 2
    assert "model.template_keywords: there {'loud': [1, 2]}, now None" in err
    # Commands on the run load the model as the run did.
    code, _, err = command("probe", out, "--statements", few_statements)
    assert code == 0, err


def test_check_reads_the_template_with_its_keywords_and_system_prompt(command, tmp_path):
    strict = "{% if not voice %}{{ raise_exception('no voice') }}{% endif %}" + zoo.CHATML.replace(
        "{% for m in messages %}", "{% for m in messages if m.role != 'system' %}", 1
    )
    folder = zoo.save_model(tmp_path / "m", "llama", template=strict)
    for given, words in (
        ((), "no voice"),
        (("--template", "voice"), "--template needs KEY=VALUE"),
        (("--template", "voice=null"), "null is no value"),
        (("--template", "voice=low", "--system-prompt", "Be fair."), "has no system turn"),
        (("--template", "voice=low", "--quantization", "4bit"), "bitsandbytes"),
        (("--template", "voice=low", "--revision", "main"), "one version only"),
        (("--template", "voice=low", "--device-map", "auto", "--device", "cpu"), "exclude each other"),
    ):
        code, _, err = command("check", "--model", folder, *given)
        last = err.strip().splitlines()[-1]
        assert (code, last.startswith("error: "), words in last) == (2, True, True), err
    code, out, err = command("check", "--model", folder, "--template", "voice=low")
    assert code == 0, err
    assert "context window: 768 tokens" in out


@pytest.mark.slow(seconds=10)
def test_a_run_is_prepared_worked_on_by_shares_verified_and_analysed(
    command, own_data, few_statements, zoo_folder, tmp_path
):
    out = tmp_path / "r [1]"
    arguments = (
        "run", "--model", zoo_folder("llama"), "--data", own_data, "--statements", few_statements,
        "--rounds", 1, "--layers", "-1,1-2", "--keep", "projections", "--store-as", "float16",
        "--batch-size", 1, "--anyway", "--out", out, *SHORT,
    )  # fmt: skip
    code, text, err = command(*arguments, "--prepare")
    assert code == 0, err
    run = open_run(out)
    assert not run.complete
    parts = len(run.manifest["parts"])
    assert f"{parts} parts to play with `morality-lens work" in " ".join(text.split())
    code, text, _ = command("verify", out)
    assert code == 1
    assert f"lacks {parts} of {parts} parts" in " ".join(text.split())
    code, text, err = command("work", out, "--part", "2/2")
    assert code == 0, err
    assert "parts are left to others" in " ".join(text.split())
    code, text, err = command("work", out)
    assert code == 0, err
    assert " ".join(command("work", out)[1].split()).endswith(f"all {parts} parts are played")
    assert "as they were written" in command("verify", out)[1]
    code, text, err = command(*arguments)
    assert code == 0, err
    assert (out / "report.html").is_file()
    run = open_run(out)
    assert run.layers == (-1, 1, 2)
    assert load_probe(out / "directions.safetensors").project(run)["layer"].values.tolist() == [-1, 1, 2]
    assert load_study(out / "study.toml").layers == (-1, 1, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("work", "{run}", "--part", "3/2"), "--part takes K/N"),
        (("work", "{run}", "--part", "x"), "--part takes K/N"),
        (("work", "nowhere"), "no run at nowhere"),
        (("verify", "nowhere"), "no run at nowhere"),
        (("estimate", "--n-layers", 3), "n_layers and d_model together"),
        (("estimate", "--layers", "9"), "the model has the layers -1"),
        (("run", "--layers", "4-2"), "--layers takes numbers and spans"),
        (("run", "--ray-address", "auto"), "go with --workers"),
    ],
)
def test_what_these_commands_cannot_do_is_said_before_a_model_is_loaded(
    command, arguments, message, tmp_path
):
    code, _, err = command(*(str(a).format(run=tmp_path) for a in arguments))
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_the_estimate_of_a_large_run_needs_no_model(command):
    code, text, _ = command("estimate", "--items", 10_000, "--n-layers", 32, "--d-model", 4096, "--rounds", 1,
                            "--layers", "8,16,24,31", "--store-as", "float16")  # fmt: skip
    assert code == 0
    assert "9.17 GB in 627 files" in " ".join(text.split())
    assert "6 layers x 128" in " ".join(command("estimate")[1].split())
