"""The manifest of a run: what was played, by what, in which format, how far."""

import json
from pathlib import Path
from typing import Any

FORMAT = 1
"""Version of the folder's layout."""


def done_batches(path: Path) -> set[int]:
    """Numbers of the batches that were committed."""
    return {int(p.stem.removeprefix("part-")) for p in (path / "answers").glob("part-*.parquet")}


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
