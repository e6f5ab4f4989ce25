"""Parts of a long computation: shared, resumed, taken over, and mended."""

import os
import signal
import threading
import time

import numpy as np
import pytest
import xarray as xr

from morality_lens.runs import resuming
from morality_lens.runs.claims import SUFFIX, claimed
from morality_lens.runs.requests import Request
from morality_lens.runs.resuming import in_parts

ITEMS = [f"i{n}" for n in range(13)]


class Making:
    """Makes parts, and knows which."""

    def __init__(self, seconds=0.0):
        self.made, self.seconds = [], seconds

    def __call__(self, chunk):
        time.sleep(self.seconds)
        self.made.append(tuple(chunk))
        values = [np.sin(int(name[1:])) for name in chunk]
        return xr.Dataset({"value": ("item", values)}, coords={"item": list(chunk)}, attrs={"n": len(chunk)})


def whole(make, out, **settings):
    asked = Request(what="numbers", settings=settings)
    return in_parts(ITEMS, make, size=2, request=asked, out=out, progress=False)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(resuming, "WAIT", 0.01)


def assert_whole(found):
    data, attrs = found
    xr.testing.assert_identical(data, whole(Making(), None)[0])
    assert [one["n"] for one in attrs] == [2] * 6 + [1]


def test_several_share_the_parts_and_nothing_is_made_twice(tmp_path):
    makers, found = [Making(0.3) for _ in range(3)], []

    def work(make):
        found.append(whole(make, tmp_path / "parts"))

    threads = [threading.Thread(target=work, args=(make,)) for make in makers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    for one in found:
        assert_whole(one)
    made = [chunk for make in makers for chunk in make.made]
    assert len(made) == len(set(made)) == 7
    assert all(make.made for make in makers)


def test_what_is_stored_is_not_made_again(tmp_path):
    assert_whole(whole(Making(), tmp_path / "parts"))
    again = Making()
    assert_whole(whole(again, tmp_path / "parts"))
    assert again.made == []
    with pytest.raises(ValueError, match="another numbers; it differs in seed"):
        whole(again, tmp_path / "parts", seed=1)


def cut(content):
    return content[: len(content) // 2]


def changed(content):
    at = content.index(b"value/0") + len(b"value/0") + 5
    return content[:at] + bytes(255 - byte for byte in content[at : at + 3]) + content[at + 3 :]


@pytest.mark.parametrize("harm", [cut, changed, lambda content: b""])
def test_a_damaged_part_is_set_aside_and_made_again(tmp_path, harm):
    folder = tmp_path / "parts"
    whole(Making(), folder)
    part = folder / "part-0003.zarr.zip"
    part.write_bytes(harm(part.read_bytes()))
    again = Making()
    with pytest.warns(UserWarning, match=r"part-0003.* It is computed again"):
        assert_whole(whole(again, folder))
    assert again.made == [("i6", "i7")]
    assert len(list(folder.glob("part-0003.zarr.zip.*.damaged"))) == 1
    assert_whole(whole(Making(), folder))


def test_a_damaged_part_that_another_process_set_aside_is_no_error(tmp_path, monkeypatch):
    folder = tmp_path / "parts"
    whole(Making(), folder)
    real = resuming.read_dataset

    def vanishing(file):
        if file.name == "part-0003.zarr.zip" and not list(folder.glob("*.damaged")):
            file.rename(f"{file}.0.damaged")
            raise ValueError(f"{file} is damaged.")
        return real(file)

    monkeypatch.setattr(resuming, "read_dataset", vanishing)
    with pytest.warns(UserWarning, match="computed again"):
        assert_whole(whole(Making(), folder))


def test_the_part_of_a_process_that_was_killed_is_taken_over(tmp_path):
    folder = tmp_path / "parts"
    whole(Making(), folder)
    part = folder / "part-0002.zarr.zip"
    part.unlink()
    child = os.fork()
    if not child:
        with claimed(part):
            time.sleep(60)
        os._exit(1)
    claim = part.with_name(part.name + SUFFIX)
    while not claim.exists() or not claim.read_text():
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    again = Making()
    assert_whole(whole(again, folder))
    assert again.made == [("i4", "i5")]
    assert not claim.exists()
