"""Results made some items at a time and kept on disk as they are made, so that no work is done twice."""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import xarray as xr

from morality_lens.items.files import set_aside
from morality_lens.progress import Counter, counted
from morality_lens.runs.claims import claimed
from morality_lens.runs.datasets import SUFFIX, find_dataset, read_dataset, write_dataset
from morality_lens.runs.requests import Request

WAIT = 0.5
"""Seconds until it is looked again whether another process has finished its part."""


def in_parts(
    items: Sequence[str],
    make: Callable[[Sequence[str]], xr.Dataset],
    *,
    size: int,
    request: Request,
    out: str | Path | None = None,
    progress: bool = True,
) -> tuple[xr.Dataset, list[dict[str, Any]]]:
    """The result of all items, joined along ``item``, and the attributes of every part.

    Processes that ask for the same into the same folder share the parts.

    Args:
        items: ids, in the order of the result.
        make: the result of some of them.
        size: items of a part.
        request: what is computed and with which settings; the items are added to them.
        out: a folder in which parts are kept; None keeps none.
        progress: whether to show how much is done.

    Raises:
        ValueError: the folder holds another result, or something else.
    """
    whole = replace(request, settings={**request.settings, "what": request.what, "items": list(items)})
    chunks = [items[i : i + size] for i in range(0, len(items), size)]
    if out is None:
        found = counted(make, chunks, request.what, shown=progress)
    else:
        folder = whole.begin(Path(out), "request.json")
        with Counter(request.what, len(chunks), shown=progress, kept=folder) as counter:
            found = _shared(folder, chunks, make, counter)
    joined = xr.concat(found, "item", data_vars="all", combine_attrs="drop")
    assert isinstance(joined, xr.Dataset)
    return joined, [dict(part.attrs) for part in found]


def _shared(
    folder: Path,
    chunks: Sequence[Sequence[str]],
    make: Callable[[Sequence[str]], xr.Dataset],
    counter: Counter,
) -> list[xr.Dataset]:
    """All parts: those that are stored are read, the others made by whoever claims them."""
    found: dict[int, xr.Dataset] = {}
    while len(found) < len(chunks):
        before = len(found)
        for number, chunk in enumerate(chunks):
            part = _part(folder, number, chunk, make) if number not in found else None
            if part is not None:
                found[number] = part
                counter.advance()
        if len(found) == before:
            time.sleep(WAIT)
    return [found[number] for number in range(len(chunks))]


def _part(
    folder: Path, number: int, chunk: Sequence[str], make: Callable[[Sequence[str]], xr.Dataset]
) -> xr.Dataset | None:
    """A part, read where it is stored and made where nobody makes it; else None."""
    stored = _stored(folder, number)
    return _made(folder, number, chunk, make) if stored is None else stored


def _stored(folder: Path, number: int) -> xr.Dataset | None:
    """A part that is stored; None where it is not, or is damaged, and then it is set aside."""
    file = find_dataset(folder, f"part-{number:04d}")
    if file is None:
        return None
    try:
        return read_dataset(file)
    except ValueError as error:
        warnings.warn(f"{error} It is computed again.", stacklevel=4)
        set_aside(file)
        return None
    except FileNotFoundError:
        return None  # another process set it aside


def _made(
    folder: Path, number: int, chunk: Sequence[str], make: Callable[[Sequence[str]], xr.Dataset]
) -> xr.Dataset | None:
    """A part made and stored now; None where another process makes it."""
    file = folder / f"part-{number:04d}{SUFFIX}"
    with claimed(file) as mine:
        if not mine or file.exists():
            return None
        part = make(chunk)
        write_dataset(file, part)
    return part
