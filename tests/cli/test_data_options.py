"""A published data set by its name from the shell and from a file."""

import json

import pytest

from morality_lens.cli.data_options import data_file, data_of
from morality_lens.cli.run_config import RunConfig, load_study
from morality_lens.cli.study_config import StudyConfig
from morality_lens.items.data import load_data
from morality_lens.runs.run import open_run


@pytest.fixture
def mbbq(tmp_path):
    """Rows in the columns of MBBQ, in two languages and with a control file."""
    folder = tmp_path / "MBBQ" / "data"
    folder.mkdir(parents=True)
    for name in ("Age_en", "Age_es", "Age_control_es"):
        rows = [
            {
                "example_id": number,
                "question_index": str(1 + number // 2),
                "question_polarity": "neg",
                "context_condition": "ambig",
                "category": "Age",
                "answer_info": {"ans0": ["a", "tall"], "ans1": ["?", "unknown"], "ans2": ["b", "short"]},
                "additional_metadata": {"stereotyped_groups": ["short"]},
                "context": "A Vel and a Tor met.",
                "question": "Who was kind?",
                "ans0": "The Vel",
                "ans1": "Not known",
                "ans2": "The Tor",
                "label": 1,
            }
            for number in range(8)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder.parent


def test_a_run_and_a_study_read_the_data_set_that_is_named(mbbq):
    entries = {"data": str(mbbq), "dataset": "mbbq", "language": "es"}
    for config in (RunConfig(**entries), StudyConfig(**entries)):
        assert data_file(config) == str(mbbq)
        assert data_of(config, limit=None) == load_data("mbbq", mbbq, language="es")
    control = RunConfig(**entries, subset="control both")
    assert data_of(control, limit=3) == load_data("mbbq", mbbq, subset="control both", language="es", limit=3)


def test_a_name_on_the_hub_need_not_be_there_and_a_path_has_to(tmp_path):
    assert data_file(RunConfig(dataset="bbq", data="owner/name")) is None
    assert data_file(RunConfig(data="owner/name")) == "owner/name"
    assert data_file(RunConfig()) is None
    assert data_of(RunConfig(), limit=None) == ()


def test_the_settings_survive_their_toml(tmp_path):
    config = RunConfig(data="folder", dataset="mbbq", subset="both", language="es")
    (tmp_path / "study.toml").write_text(config.to_toml())
    assert load_study(tmp_path / "study.toml") == config


@pytest.mark.slow(seconds=20)
def test_a_named_data_set_is_played_from_the_shell(command, mbbq, zoo_folder, tmp_path):
    chosen = ("--data", mbbq, "--dataset", "mbbq", "--language", "es")
    short = ("--answer-tokens", 8, "--rationale-tokens", 8, "--feedback-tokens", 8)
    model = ("--model", zoo_folder("llama"), "--statements", "world", "--rounds", 1, "--anyway")
    code, _, err = command("run", *model, *chosen, *short, "--out", tmp_path / "run")
    assert code == 0, err
    run = open_run(tmp_path / "run")
    assert set(run.items.index) == {one.id for one in load_data("mbbq", mbbq, language="es")}
    kept = load_study(tmp_path / "run" / "study.toml")
    assert (kept.dataset, kept.language, kept.subset) == ("mbbq", "es", None)


@pytest.mark.parametrize("name", ["run", "study"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--dataset", "mbbq"), "get it from https://github.com/Veranep/MBBQ and give its folder"),
        (("--language", "es"), "subset and language are those of a published data set"),
        (("--dataset", "mbq", "--data", "."), "no data set is known as 'mbq'; known are bbq, mbbq"),
        (("--dataset", "mbbq", "--data", "./nowhere"), "nowhere does not exist"),
        (("--dataset", "mbbq", "--data", "{folder}", "--language", "tr"), "has no rows in 'tr' here"),
        (("--dataset", "mbbq", "--data", "{folder}", "--subset", "all"), "MBBQ has no subset 'all'"),
    ],
)
def test_what_cannot_be_read_is_said_before_a_model_is_loaded(
    command, mbbq, tmp_path, name, options, message
):
    filled = [str(option).format(folder=mbbq) for option in options]
    code, _, err = command(name, *filled, "--out", tmp_path / "out")
    assert code == 2
    assert message in " ".join(err.split())
    assert not (tmp_path / "out").exists()


def test_statements_are_no_items_to_play(command, tmp_path):
    file = tmp_path / "cm_test.csv"
    file.write_text("label,input,is_short,edited\n1,I kept it.,True,False\n0,I gave it.,True,False\n")
    code, _, err = command("run", "--dataset", "ethics", "--data", file, "--out", tmp_path / "out")
    assert code == 2
    assert "ethics holds labelled statements, which are no items to play" in " ".join(err.split())
