"""A run's summary as a data set: what it holds, what stays at home, and that it reads back."""

import json

import pandas as pd
import pytest
from synthetic import make_run

import morality_lens as ml
from morality_lens.report.card import push_run_to_hub, write_dataset_card


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    folder = tmp_path_factory.mktemp("card")
    protocol = ml.Protocol(design=ml.Design(rounds=1))
    run = ml.play(ml.load_model(), ml.load_items(limit=12), protocol=protocol, out=folder / "run")
    return run, ml.analyze(run)


def test_the_card_holds_the_result_the_methods_and_the_files(played, tmp_path):
    run, analysis = played
    card = write_dataset_card(run, analysis, tmp_path / "shared").read_text()
    head = dict(line.split(": ", 1) for line in card.split("---")[1].strip().splitlines())
    configs = json.loads(head["configs"])
    assert {one["config_name"] for one in configs} == {"answers", "behaviour"}
    for one in configs:
        assert (tmp_path / "shared" / one["data_files"]).is_file()
    for part in ("## Result", "## How it was made", "## Citation", "@"):
        assert part in card
    table = pd.read_csv(tmp_path / "shared" / "behaviour.csv")
    assert table["effect"].iloc[0] == "instruction"


def test_what_the_model_wrote_stays_out_unless_it_is_asked_for(played, tmp_path):
    run, analysis = played
    card = write_dataset_card(run, analysis, tmp_path / "a")
    answers = pd.read_parquet(tmp_path / "a" / "answers.parquet")
    assert not {"text", "rationale", "feedback_text", "thought"} & set(answers)
    assert "are left out: they repeat the items" in card.read_text()
    assert len(answers) == len(run.answers)
    write_dataset_card(run, analysis, tmp_path / "b", texts=True)
    assert "text" in pd.read_parquet(tmp_path / "b" / "answers.parquet")
    manifest = (tmp_path / "a" / "manifest.json").read_text()
    assert "loaded_from" not in manifest
    assert str(run.path) not in manifest


def test_a_local_model_is_named_without_the_path_to_it(played, tmp_path):
    run = make_run()
    run.manifest["study"]["model"]["name"] = "/home/someone/models/small-chat"
    card = write_dataset_card(run, played[1], tmp_path / "c").read_text()
    assert "Moral self-correction of small-chat" in card
    assert "/home/someone" not in card + (tmp_path / "c" / "manifest.json").read_text()


def test_a_run_is_uploaded_as_a_private_data_set(played):
    told = {}

    class Hub:
        def create_repo(self, **given):
            told.update(given)
            return "https://hub.example/datasets/someone/run"

        def upload_folder(self, *, repo_id, repo_type, folder_path, commit_message):
            from pathlib import Path

            told["files"] = {path.name for path in Path(folder_path).iterdir()}

    address = push_run_to_hub(*played, "someone/run", api=Hub())
    assert address.endswith("/someone/run")
    assert (told["repo_type"], told["private"]) == ("dataset", True)
    assert {"README.md", "answers.parquet", "manifest.json"} <= told["files"]
