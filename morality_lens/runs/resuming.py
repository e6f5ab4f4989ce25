"""Results made some items at a time and kept on disk as they are made, so that no work is done twice."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr
from tqdm.auto import tqdm

from morality_lens.items.files import write_json
from morality_lens.runs.datasets import SUFFIX, find_dataset, read_dataset, write_dataset


def in_parts(
    items: Sequence[str],
    make: Callable[[Sequence[str]], xr.Dataset],
    *,
    size: int,
    what: str,
    out: str | Path | None = None,
    asked: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> tuple[xr.Dataset, list[dict[str, Any]]]:
    """What ``make`` finds of all items, joined along ``item``, and the attributes of every part.

    Args:
        items: ids, in the order of the result.
        make: the result of some of them.
        size: items of a part.
        what: the name of the work, for the bar and for errors.
        out: a folder in which parts are kept; None keeps none.
        asked: what makes two results the same; a folder with another request is refused.
        progress: whether to show a bar.

    Raises:
        ValueError: the folder holds another result, or something else.
    """
    folder = None if out is None else _folder(Path(out), what, {**(asked or {}), "items": list(items)})
    found = []
    chunks = [items[i : i + size] for i in range(0, len(items), size)]
    for number, chunk in enumerate(tqdm(chunks, desc=what, disable=not progress)):
        name = f"part-{number:04d}"
        file = None if folder is None else find_dataset(folder, name)
        if file is not None:
            found.append(read_dataset(file))
            continue
        part = make(chunk)
        if folder is not None:
            write_dataset(folder / f"{name}{SUFFIX}", part)
        found.append(part)
    whole = xr.concat(found, "item", data_vars="all", combine_attrs="drop")
    assert isinstance(whole, xr.Dataset)
    return whole, [dict(part.attrs) for part in found]


def _folder(folder: Path, what: str, asked: Mapping[str, Any]) -> Path:
    """The folder of this very result, new or begun earlier."""
    file = folder / "request.json"
    plain = json.loads(json.dumps({"what": what, **asked}))
    if file.is_file() and json.loads(file.read_text(encoding="utf-8")) != plain:
        raise ValueError(f"{folder} holds another {what}; give another folder, or remove this one.")
    if not file.is_file() and folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds something else; give a new or an empty folder.")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(file, plain)
    return folder
