"""The statements that a command reads, and what it says before it loads a model."""

import json

import pytest
import zoo

from morality_lens.cli.statements import bundled, of_run, read_directions, statements_of, toxicity_of
from morality_lens.cli.study import settings_of
from morality_lens.cli.study_config import StudyConfig
from morality_lens.items.bundled import asset
from morality_lens.items.loaders import load_statements
from morality_lens.runs.run import Run


def test_a_model_that_is_not_bundled_reads_plain_english(tmp_path):
    folder = zoo.save_model(tmp_path / "m", "llama")
    assert not bundled(str(folder))
    assert not bundled("some/model-on-a-hub")
    assert all(bundled(name) for name in (None, "bundled", "bundled-null", str(asset("world", "natural"))))
    assert statements_of(None, world=False) == load_statements("moral")
    assert statements_of(None, world=True) == load_statements("world")
    assert statements_of("moral", world=True) == load_statements("moral")


def test_a_judge_is_fitted_on_statements_about_language_alone():
    assert toxicity_of(None, world=False, needed=False) == ()
    assert toxicity_of(None, world=True, needed=True) == load_statements("world")
    with pytest.raises(ValueError, match=r"--judge NAME or FOLDER\), or labelled statements .*--toxicity"):
        toxicity_of(None, world=False, needed=True)


@pytest.mark.parametrize("command_name", ["run", "study"])
def test_completions_without_a_judge_are_refused_before_a_model_is_loaded(command, tmp_path, command_name):
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"id": "p", "text": "Once upon"}) + "\n")
    option = "--data" if command_name == "run" else "--prompts"
    code, _, err = command(command_name, "--model", "no/such-model", option, tmp_path / "prompts.jsonl")
    assert code == 2
    assert "--toxicity FILE" in err


def test_the_bundled_questions_are_not_asked_of_another_model(command, tmp_path):
    code, _, err = command("study", "--model", "no/such-model", "--out", tmp_path / "s")
    assert code == 2
    assert "give --data, --prompts or both" in err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["ratings"], "needs NAME=FILE"),
        (["=file.csv"], "needs NAME=FILE"),
        (["a/b=file.csv"], "needs a name of letters, digits and hyphens; got 'a/b'"),
        (["..=file.csv"], "needs a name of letters"),
        (["a= "], "needs NAME=FILE"),
        (["moral=file.csv"], "'moral' is used already"),
        (["toxicity=file.csv"], "'toxicity' is used already"),
        (["own=file.csv"], "'own' is used already"),
        (["a=x.csv", "a=y.csv"], "'a' is used already"),
        (["a=x.csv", "A=y.csv"], "'A' is used already"),
    ],
)
def test_directions_of_another_form_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        read_directions(given)


def test_a_path_may_hold_an_equals_sign():
    assert read_directions(["ratings=a=b.csv", "deeds-2=moral"]) == {"ratings": "a=b.csv", "deeds-2": "moral"}


@pytest.mark.parametrize(
    "given",
    [
        *("items", "items=", "items=-1", "items=0", "items=1.5", "rounds=0", "placebo_rounds=0"),
        *("wording_rounds=0", "sample_rounds=0", "evidence_rounds=1", "x=1", "=3", ""),
    ],
)
def test_numbers_of_the_plan_are_checked_by_name(command, tmp_path, given):
    code, _, err = command("study", "--plan", given, "--out", tmp_path / "s")
    assert code == 2
    assert "--plan needs KEY=NUMBER" in err


def test_numbers_that_were_named_are_those_of_the_plan():
    named = {"placebo_rounds": 3, "prompts": 4}
    plan = settings_of(StudyConfig(rounds=2, limit=10, plan=named)).plan
    assert (plan.rounds, plan.placebo_rounds, plan.wording_rounds) == (2, 3, 2)
    assert (plan.items, plan.most_prompts) == (10, 4)


def test_a_run_of_a_bundled_model_is_known_by_its_folder_too(tmp_path):
    study = {"model": {"name": str(asset("world", "organism"))}}
    assert of_run(Run(path=tmp_path, manifest={"study": study}))
    # The place where it was found last counts: the first one may be there no more.
    gone = {"study": {"model": {"name": "/not/there"}}, "loaded_from": str(asset("world", "organism"))}
    assert of_run(Run(path=tmp_path, manifest=gone))


@pytest.mark.parametrize("option", ["--toxicity", "--statements"])
def test_a_set_that_comes_with_the_package_is_named_in_every_option(command, tmp_path, option):
    code, _, err = command("study", option, "world", "--plan", "x=1", "--out", tmp_path / "s")
    assert code == 2
    assert "--plan needs KEY=NUMBER" in err


@pytest.mark.parametrize("option", [("--toxicity", "/not/there"), ("--direction", "a=/not/there")])
def test_a_missing_file_of_statements_is_named(command, tmp_path, option):
    code, _, err = command("study", *option, "--out", tmp_path / "s")
    assert code == 2
    assert "/not/there does not exist" in err
