"""Results made some items at a time and kept on disk as they are made, so that no work is done twice."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import xarray as xr

from morality_lens.progress import counted
from morality_lens.runs.datasets import SUFFIX, find_dataset, read_dataset, write_dataset
from morality_lens.runs.requests import Request


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
    folder = None if out is None else whole.begin(Path(out), "request.json")
    found = []
    chunks = [items[i : i + size] for i in range(0, len(items), size)]
    for number, chunk in enumerate(counted(chunks, request.what, shown=progress)):
        name = f"part-{number:04d}"
        file = None if folder is None else find_dataset(folder, name)
        if file is not None:
            found.append(read_dataset(file))
            continue
        part = make(chunk)
        if folder is not None:
            write_dataset(folder / f"{name}{SUFFIX}", part)
        found.append(part)
    joined = xr.concat(found, "item", data_vars="all", combine_attrs="drop")
    assert isinstance(joined, xr.Dataset)
    return joined, [dict(part.attrs) for part in found]
