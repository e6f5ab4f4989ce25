"""The manifest of a run: what was played, by what, in which format, how far."""

import json
from pathlib import Path
from typing import Any

FORMAT = 1
"""Version of the folder's layout."""


def done_batches(path: Path) -> list[range]:
    """The items of every batch that was committed, as ranges of the playing order.

    A batch's file is named by its first item and its number of items; in runs of earlier versions by its
    number alone, all batches but the last having the manifest's size.
    """
    named = [[int(n) for n in p.stem.split("-")[1:]] for p in (path / "answers").glob("part-*.parquet")]
    if not named:
        return []
    size = int(read_manifest(path)["batch_size"])
    ends = [(n[0], n[0] + n[1]) if len(n) > 1 else (n[0] * size, (n[0] + 1) * size) for n in named]
    return [range(*pair) for pair in sorted(ends)]


def part_name(first: int, items: int) -> str:
    """The name of the batch of some items, from the first on."""
    return f"part-{first:05d}-{items:05d}.parquet"


# --------------------------------------------------------------------------------------------- reading
def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the run in ``path``.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: the manifest is damaged or of another format.
    """
    file = path / "manifest.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"no run at {path} (it has no manifest.json); give a folder that play() made."
        )
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is damaged: {error}.") from error
    if manifest.get("format") != FORMAT:
        raise ValueError(f"{file} has format {manifest.get('format')}; this version reads format {FORMAT}.")
    return manifest
