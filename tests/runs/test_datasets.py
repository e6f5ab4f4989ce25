"""Results on disk: values, kinds and attributes come back as they were, of an earlier version's files too."""

import importlib.util
import json
import pickle
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from morality_lens.runs.datasets import (
    SUFFIX,
    find_dataset,
    read_dataset,
    refuse_foreign_arrays,
    write_dataset,
)
from morality_lens.runs.requests import Request
from morality_lens.runs.results import read_result, write_result
from morality_lens.runs.resuming import in_parts


def some_result():
    return xr.Dataset(
        {
            "value": (("item", "layer"), np.array([[1.0, np.nan], [0.1 + 0.2, -np.inf]])),
            "half": ("item", np.array([1.5, 2.5], np.float32)),
            "right": ("item", np.array([True, False])),
            "choice": ("item", np.array([0, -1])),
            "text": ("item", np.array(["", "zwölf"])),
            "answer": ("item", np.array(["A. Not known", "é"], object)),
            "none": (("item", "nothing"), np.zeros((2, 0))),
            "whole": 3.25,
        },
        {"item": ["q1", "q10"], "layer": np.array([-1, 3], np.int32), "round": 2, "kind": "residual"},
        {"probe": "f", "layer": 3, "size": 0.5, "names": ["a", "b"]},
    )


def test_values_kinds_and_attributes_come_back(tmp_path):
    data = some_result()
    file = write_dataset(tmp_path / f"one{SUFFIX}", data)
    back = read_dataset(file)
    xr.testing.assert_identical(back, data)
    assert {n: v.dtype for n, v in back.variables.items()} == {n: v.dtype for n, v in data.variables.items()}
    assert find_dataset(tmp_path, "one") == file
    assert find_dataset(tmp_path, "two") is None
    assert [p.name for p in tmp_path.iterdir()] == [file.name]


def test_what_was_read_can_be_written_again_and_replaces_the_file(tmp_path):
    file = write_dataset(tmp_path / f"one{SUFFIX}", some_result())
    write_dataset(file, read_dataset(file).isel(item=[1]))
    xr.testing.assert_identical(read_dataset(file), some_result().isel(item=[1]))


def test_an_earlier_versions_file_is_read_with_the_same_values(tmp_path):
    pytest.importorskip("netCDF4")
    data = some_result()
    write_result(str(tmp_path), "new", data)
    new = read_result(str(tmp_path), "new")
    assert new is not None
    plain = read_dataset(tmp_path / f"new{SUFFIX}")
    plain.to_netcdf(tmp_path / "old.nc")
    old = read_result(tmp_path, "old")
    xr.testing.assert_identical(old, new)
    xr.testing.assert_identical(new, data)


def test_an_earlier_versions_file_says_which_package_it_needs(tmp_path, monkeypatch):
    (tmp_path / "old.nc").touch()
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "netCDF4" else find(name))
    monkeypatch.setitem(sys.modules, "netCDF4", None)
    with pytest.raises(ModuleNotFoundError, match="pip install netcdf4"):
        read_result(tmp_path, "old")


def test_parts_of_an_earlier_version_are_gone_on_from(tmp_path):
    pytest.importorskip("netCDF4")
    calls = []

    def make(chunk):
        calls.append(list(chunk))
        return some_result().isel(item=[0] * len(chunk)).assign_coords(item=list(chunk))

    names = ["a", "b", "c", "d"]
    work = Request(what="work", settings={})
    whole, _ = in_parts(names, make, size=2, request=work, out=tmp_path / "parts", progress=False)
    first = tmp_path / "parts" / f"part-0000{SUFFIX}"
    read_dataset(first).to_netcdf(tmp_path / "parts" / "part-0000.nc")
    first.unlink()
    again, _ = in_parts(names, make, size=2, request=work, out=tmp_path / "parts", progress=False)
    assert calls == [["a", "b"], ["c", "d"]]
    xr.testing.assert_equal(whole, again)


def spoiled(tmp_path, change):
    """A file of ours in which the description of the array ``a`` is another."""
    good = write_dataset(tmp_path / "good.zarr.zip", xr.Dataset({"a": ("x", np.zeros(3))}))
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(tmp_path / "bad.zarr.zip", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "a/.zarray":
                content = json.dumps({**json.loads(content), **change}).encode()
            new.writestr(name, content)
    return tmp_path / "bad.zarr.zip"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"dtype": "|O", "filters": [{"id": "pickle", "protocol": 5}]}, "pickle"),
        ({"filters": [{"id": "pickle"}]}, "pickle"),
        ({"compressor": {"id": "pickle"}}, "pickle"),
        ({"dtype": "|O", "filters": [{"id": "json2"}]}, "json2"),
        ({"dtype": "|O"}, r"\|O"),
        ({"dtype": [["a", "<f8"]]}, "a"),
        ({"dtype": "<M8[ns]"}, "M8"),
        ({"dtype": "|V8"}, "V8"),
    ],
)
def test_an_array_that_may_run_what_it_holds_is_refused_by_name_and_not_opened(
    tmp_path, monkeypatch, change, named
):
    monkeypatch.setattr(xr, "open_zarr", None)
    with pytest.raises(ValueError, match=rf"bad\.zarr\.zip: a/\.zarray: the (codec|type) .*{named}"):
        read_dataset(spoiled(tmp_path, change))


def test_a_pickle_in_a_strangers_file_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "run",))

    file = spoiled(
        tmp_path, {"dtype": "|O", "filters": [{"id": "pickle", "protocol": 5}], "compressor": None}
    )
    with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a/0", pickle.dumps(np.array([Trap()], object)))
    with pytest.raises(ValueError, match="bad"):
        read_dataset(file)
    assert not (tmp_path / "run").exists()


def test_the_version_of_the_format_is_pinned(tmp_path):
    with zipfile.ZipFile(tmp_path / "three.zarr.zip", "w") as archive:
        archive.writestr("zarr.json", '{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    with pytest.raises(ValueError, match=r"zarr\.json is of another version of the format than 2"):
        read_dataset(tmp_path / "three.zarr.zip")


def test_arrays_of_version_three_are_checked_in_archives_and_folders(tmp_path):
    group = zarr.create_group(tmp_path / "g.zarr", zarr_format=3)
    group.create_array("r", shape=(4, 4), chunks=(2, 2), shards=(4, 4), dtype="float16")
    group.create_array("s", shape=(4,), dtype=str)
    refuse_foreign_arrays(tmp_path / "g.zarr", zarr_format=3)
    with zipfile.ZipFile(tmp_path / "g.zip", "w") as archive:
        for file in (tmp_path / "g.zarr").rglob("zarr.json"):
            archive.write(file, file.relative_to(tmp_path / "g.zarr"))
    refuse_foreign_arrays(tmp_path / "g.zip", zarr_format=3)
    described = json.loads((tmp_path / "g.zarr" / "r" / "zarr.json").read_text())
    described["codecs"][0]["configuration"]["codecs"].append({"name": "numcodecs.pickle"})
    (tmp_path / "g.zarr" / "r" / "zarr.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match=r"r/zarr\.json: the codec 'numcodecs\.pickle'"):
        refuse_foreign_arrays(tmp_path / "g.zarr", zarr_format=3)


@pytest.mark.parametrize("content", [b"", b"PK", b"junk" * 100])
def test_a_torn_file_is_one_line_that_names_it(tmp_path, content):
    (tmp_path / "torn.zarr.zip").write_bytes(content)
    with pytest.raises(ValueError, match=r"torn\.zarr\.zip is damaged or no result of this package"):
        read_dataset(tmp_path / "torn.zarr.zip")
