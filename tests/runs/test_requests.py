"""What a folder holds is the same request, another one, or something else."""

import pytest

from morality_lens.runs.requests import Request, differences


def test_differences_name_nested_keys_with_both_values_and_keys_of_one_side_alone():
    stored = {"a": {"b": 1, "c": [1, 2]}, "old": "x"}
    requested = {"a": {"b": 2, "c": [1, 2]}, "new": None}
    assert differences(stored, requested) == ["a.b: there 1, now 2", "old: there x, now None"]
    assert differences(stored, stored) == []


def test_a_request_begins_in_a_new_folder_and_resumes_there_alone(tmp_path):
    request = Request(what="table", settings={"sizes": (1, 2), "seed": 0})
    folder = request.begin(tmp_path / "new" / "folder", "request.json")
    (folder / "result").touch()
    assert request.begin(folder, "request.json") == folder
    with pytest.raises(ValueError, match="holds another table; it differs in seed: there 0, now 1"):
        Request(what="table", settings={"sizes": (1, 2), "seed": 1}).begin(folder, "request.json")
    with pytest.raises(ValueError, match="exists and is no table"):
        request.begin(tmp_path / "new", "request.json")
    with pytest.raises(ValueError, match="exists and is no table"):
        request.begin(folder / "result", "request.json")
