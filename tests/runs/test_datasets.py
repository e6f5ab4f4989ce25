"""Results on disk: values, kinds and attributes come back as they were, of an earlier version's files too."""

import importlib.util
import sys

import numpy as np
import pytest
import xarray as xr

from morality_lens.runs.datasets import SUFFIX, find_dataset, read_dataset, write_dataset
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
    write_result(tmp_path, "new", data)
    new = read_result(tmp_path, "new")
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
