"""A run written batch by batch, each whole, so that one that was interrupted resumes."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import xarray as xr
import zarr
from jaxtyping import Float
from zarr.codecs import BloscCodec

from morality_lens.design import Design, design_from
from morality_lens.items.files import replace_file, write_json
from morality_lens.items.kinds import Item, items_to_jsonl
from morality_lens.runs.datasets import OPTION_SCORES, SUFFIX, write_dataset
from morality_lens.runs.manifest import FORMAT, part_name, read_manifest
from morality_lens.runs.requests import Request


@dataclass(frozen=True, kw_only=True, eq=False)
class PlayedBatch:
    """What one batch of items left behind, items in playing order.

    Attributes:
        residuals: the cube without names.
        option_probabilities: probability of each reply's sign (an option's letter, a digit of a scale) as the
            answer's first token, as a share of all replies; NaN past an item's last reply.
        option_mass: the share of probability on the sign of any reply.
        answers: one row for each item, condition and round.
        transcripts: one row for each item and condition (and round, where history was rewritten).
        seconds: time it took.
        tokens: tokens fed to the model.
    """

    residuals: Float[np.ndarray, "item *factor round site layer d_model"]
    option_probabilities: Float[np.ndarray, "item *factor round option"]
    option_mass: Float[np.ndarray, "item *factor round"]
    answers: pd.DataFrame
    transcripts: pd.DataFrame
    seconds: float
    tokens: int


def create(
    path: Path, *, study: Mapping[str, Any], about: Mapping[str, Any], items: Sequence[Item], batch_size: int
) -> dict[str, Any]:
    """The manifest of a new run in ``path``, or of the same run begun there earlier.

    Args:
        path: the run's folder.
        study: what makes two runs the same study (model, items, design, wording, seeds); a folder that
            holds another study is refused.
        about: further records, taken from the first start.
        items: the items in playing order.
        batch_size: most items of a batch; a resumed run keeps the size it was begun with.

    Raises:
        ValueError: the folder holds another study, or something that is no run, or the disk is too full.
        PermissionError: the folder cannot be written.
    """
    request = Request(what="run", settings=study)
    if (path / "manifest.json").exists():
        manifest = read_manifest(path)
        request.refuse_other(path, manifest["study"])
        return manifest
    if not (path / "begun").exists():
        request.refuse_foreign(path)
    _check_writable(path)
    _create_arrays(path, study, items, batch_size)
    for folder in ("answers", "transcripts"):
        (path / folder).mkdir(exist_ok=True)
    items_to_jsonl(items, path / "items.jsonl")
    manifest = {"format": FORMAT, "study": dict(study), **about, "batch_size": batch_size}
    write_json(path / "manifest.json", manifest)
    (path / "begun").unlink()
    return read_manifest(path)


def _check_writable(path: Path) -> None:
    """Make the folder and mark it as begun."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / "begun").write_text("x")
    except OSError as error:
        raise PermissionError(
            f"the output folder {path} cannot be written ({error.strerror or error}); give another one."
        ) from error


def _create_arrays(path: Path, study: Mapping[str, Any], items: Sequence[Item], batch_size: int) -> None:
    """Create the empty arrays of a run.

    Raises:
        ValueError: the disk is too full for them.
    """
    design, model = design_from(study["design"]), study["model"]
    shape = _shape(design, len(items), int(model["n_layers"]) + 1, int(model["d_model"]))
    needed = int(np.prod(shape)) * np.dtype(model["stored_as"]).itemsize
    free = shutil.disk_usage(path).free
    if needed > 0.95 * free:
        raise ValueError(
            f"the run needs about {needed / 1e9:.1f} GB in {path}, where {free / 1e9:.1f} GB are free. "
            "Give another folder, fewer items or rounds, or fewer sites."
        )
    shutil.rmtree(path / "arrays.zarr", ignore_errors=True)
    group = zarr.create_group(path / "arrays.zarr", zarr_format=3)

    def create_array(name: str, dims: Sequence[str], size: Sequence[int], chunks: Sequence[int], dtype: str):
        group.create_array(
            name,
            shape=tuple(size),
            chunks=tuple(chunks),
            dtype=dtype,
            compressors=BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"),
            fill_value=float("nan"),
            dimension_names=tuple(dims),
        )

    # One chunk holds the largest batch of one site and layer: a layer is read without touching the others. A
    # smaller batch rewrites its chunk, which is replaced whole: what was committed in it is never lost.
    chunks = (batch_size, *shape[1:-3], 1, 1, shape[-1])
    create_array("residuals", design.cube_dims, shape, chunks, model["stored_as"])
    answers, options = shape[:-3], max((len(item.replies) for item in items), default=0)
    for name, size in (("option_probabilities", (*answers, options)), ("option_mass", answers)):
        if 0 not in size:
            dims = (*design.dims, "option")[: len(size)]
            create_array(name, dims, size, (batch_size, *size[1:]), "float64")


def commit(path: Path, first: int, batch: PlayedBatch) -> None:
    """Write a batch whose items begin at a place; it counts from the moment its answers are in place."""
    items = batch.residuals.shape[0]
    region = slice(first, first + items)
    group = zarr.open_group(path / "arrays.zarr", mode="r+")
    for name in ("residuals", "option_probabilities", "option_mass"):
        if name in group:
            array: Any = group[name]
            array[region] = getattr(batch, name)
    name = part_name(first, items)
    _write_table(path / "transcripts" / name, batch.transcripts)
    write_json(_times(path / "answers" / name), {"seconds": batch.seconds, "tokens": batch.tokens})
    _write_table(path / "answers" / name, batch.answers)


def _times(part: Path) -> Path:
    """The file with the time of a batch."""
    return part.with_name(part.name.replace("part-", "time-")).with_suffix(".json")


def timings(path: Path) -> dict[str, Any]:
    """Seconds and tokens of all committed batches."""
    files = [_times(part) for part in sorted((path / "answers").glob("part-*.parquet"))]
    times = [json.loads(file.read_text()) for file in files]
    return {
        "seconds": round(sum(t["seconds"] for t in times), 3),
        "tokens": sum(t["tokens"] for t in times),
    }


def _write_table(file: Path, table: pd.DataFrame) -> None:
    rows = pa.Table.from_pandas(table, preserve_index=False)
    replace_file(file, lambda draft: pq.write_table(rows, draft, compression="zstd"))


def finish(path: Path) -> None:
    """Put the timings of all batches into the manifest."""
    keep_in_manifest(path, timings=timings(path))


def keep_in_manifest(path: Path, **entries: Any) -> None:
    """Add entries to the manifest, which are no part of what identifies the run."""
    write_json(path / "manifest.json", {**read_manifest(path), **entries})


def write_scores(path: Path, scores: pd.DataFrame) -> None:
    """Replace the run's table of judges' scores (item, conditions, round, judge, score)."""
    _write_table(path / "scores.parquet", scores)


def write_option_scores(path: Path, scores: xr.Dataset) -> None:
    """Replace the run's scores of its options' full texts."""
    write_dataset(path / f"{OPTION_SCORES}{SUFFIX}", scores)


def _shape(design: Design, items: int, layers: int, d_model: int) -> tuple[int, ...]:
    levels = (len(f.levels) for f in design.factors)
    return (items, *levels, design.n_rounds, len(design.sites), layers, d_model)
