"""What is in a folder: runs and studies, finished or not, and what cannot be read."""

import json
import shutil

import pytest
from conftest import make_questions
from tiny import tiny_run

from morality_lens.runs.manifest import parts_of, read_manifest


@pytest.fixture(scope="module")
def folder(tmp_path_factory, zoo_folder):
    """A folder with a finished run, an unfinished one, a study, one that is damaged, and other things."""
    top = tmp_path_factory.mktemp("runs")
    tiny_run(zoo_folder("llama"), top / "whole", make_questions(4))
    (top / "whole" / "report.html").write_text("a report")
    shutil.copytree(top / "whole", top / "deep" / "half")
    (top / "deep" / "half" / "report.html").unlink()
    parts_of(read_manifest(top / "deep" / "half"))[0].file(top / "deep" / "half").unlink()
    shutil.copytree(top / "whole", top / "damaged")
    (top / "damaged" / "manifest.json").write_text('{"format": 2')
    (top / "study").mkdir()
    (top / "study" / "study.json").write_text("{}")
    shutil.copytree(top / "whole", top / "study" / "questions")
    (top / "old").mkdir()
    (top / "old" / "manifest.json").write_text('{"format": 1, "study": {}}')
    (top / "notes").mkdir()
    (top / "notes" / "manifest.txt").write_text("not a run")
    return top


def test_runs_and_studies_are_listed_and_a_damaged_one_does_not_stop_it(command, folder):
    code, out, err = command("list", folder, "--json")
    assert code == 0, err
    found = {one["path"].removeprefix(f"{folder}/"): one for one in json.loads(out)["entries"]}
    assert {name: (one["kind"], one["state"]) for name, one in found.items()} == {
        "damaged": ("run", "unreadable"),
        "deep/half": ("run", "unfinished"),
        "old": ("run", "unreadable"),
        "study": ("study", "unfinished"),
        "whole": ("run", "finished"),
    }
    whole = found["whole"]
    assert (whole["items"], whole["conditions"], whole["rounds"]) == (4, 8, 1)
    assert whole["report"].endswith("whole/report.html")
    assert whole["bytes"] == sum(p.stat().st_size for p in (folder / "whole").rglob("*") if p.is_file())
    assert found["deep/half"]["report"] is None
    assert "is damaged" in found["damaged"]["problem"]
    assert "format 1" in found["old"]["problem"]
    assert found["study"]["items"] == 4


def test_the_table_says_the_same_in_words(command, folder):
    code, out, _ = command("list", folder)
    assert code == 0
    for words in ("finished run", "unfinished run", "unfinished study", "unreadable run"):
        assert words in out
    assert "cannot be read: " in out


def test_a_study_with_verdicts_is_finished_and_its_own_folder_shows_its_runs(command, folder, tmp_path):
    shutil.copytree(folder / "study", tmp_path / "study")
    (tmp_path / "study" / "verdicts.json").write_text("[]")
    out = command("list", tmp_path / "study", "--json")[1]
    found = [(one["kind"], one["state"]) for one in json.loads(out)["entries"]]
    assert found == [("study", "finished"), ("run", "finished")]


def test_a_folder_with_nothing_and_none_are_said(command, tmp_path):
    assert "holds no run and no study" in command("list", tmp_path)[1]
    code, _, err = command("list", tmp_path / "absent")
    assert code == 2
    assert "is no folder" in err
