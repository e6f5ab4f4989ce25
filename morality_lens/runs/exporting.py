"""A run's residuals for other tools: shards of safetensors with a table of rows beside them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import xarray as xr
from safetensors.numpy import save_file

from morality_lens.items.files import read_json, replace_file, write_json
from morality_lens.runs.run import Run

SHARD = 2**28
"""Bytes of residuals in a shard."""
INDEX, ROWS, ITEMS = "index.json", "rows.parquet", "items.parquet"
FORMAT = "residuals-1"
EMBEDDING = "embedding"
"""The tensor of layer -1; that of layer l is ``layers.{l}``."""


def export_residuals(
    run: Run,
    folder: str | Path,
    *,
    layers: Sequence[int] | None = None,
    sites: Sequence[str] | None = None,
    shard_bytes: int = SHARD,
) -> Path:
    """Write a run's residuals as safetensors that need this package no more; the folder's path.

    - ``residuals-00001-of-00003.safetensors``, ...: for every layer a tensor [row, d_model] in the type that
      the run stored: ``layers.{l}`` is the residual stream after block l (counted from 0, before the final
      norm: what nnsight calls ``model.model.layers[l].output``), ``embedding`` what goes into block 0. A
      tensor can be read without the others.
    - ``rows.parquet``: what each row is: ``shard`` (its file), ``row`` (its place in the file), ``item``,
      ``cluster``, a column for each factor, ``round``, ``site``, and ``there``: False where the run has no
      such residual (an empty answer), so that the row is NaN.
    - ``items.parquet``: the items.
    - ``index.json``: model, layers, width, type, factors with their levels, and the shards with their
      numbers of rows. It is written last: a folder without it is not whole.

    Items are read a few at a time, as many as a shard holds, so memory does not grow with the run.

    Args:
        run: a run that kept residuals.
        folder: a new folder, or one that holds such an export, which is replaced.
        layers: None: all.
        sites: None: all.
        shard_bytes: a shard is not larger, but for a single item.

    Raises:
        ValueError: the run kept none, no such layer or site, or no size for a shard.
        FileExistsError: the folder holds something else.

    Examples:
        >>> out = ml.runs.export_residuals(run, folder / "residuals", layers=[2, 3], sites=["answer_start"])
        >>> sorted(file.name for file in out.iterdir())
        ['index.json', 'items.parquet', 'residuals-00001-of-00001.safetensors', 'rows.parquet']
        >>> from safetensors import safe_open
        >>> with safe_open(out / "residuals-00001-of-00001.safetensors", framework="np") as shard:
        ...     sorted(shard.keys()), shard.get_tensor("layers.3").shape
        (['layers.2', 'layers.3'], (384, 128))
        >>> rows = pd.read_parquet(out / "rows.parquet")
        >>> rows.columns.tolist()
        ['shard', 'row', 'item', 'cluster', 'instruction', 'cot', 'feedback', 'round', 'site', 'there']
    """
    if shard_bytes < 1:
        raise ValueError(f"export_residuals needs a size for a shard; got {shard_bytes}.")
    chosen = _chosen(run.residuals, layers, sites)
    target = _emptied(Path(folder))
    each = max(1, chosen.nbytes // max(1, chosen.sizes["item"]))
    count = max(1, shard_bytes // each)
    starts = range(0, chosen.sizes["item"], count)
    shards = []
    with _Table(target / ROWS) as table:
        for number, start in enumerate(starts, start=1):
            name = f"residuals-{number:05}-of-{len(starts):05}.safetensors"
            block = chosen.isel(item=slice(start, start + count)).load()
            rows = block.transpose("item", *_places(block), "layer", "d_model")
            values = rows.values.reshape(-1, rows.sizes["layer"], rows.sizes["d_model"])
            _write_shard(target / name, values, rows["layer"].values.tolist())
            table.add(_described(rows, values, name))
            shards.append({"file": name, "rows": len(values)})
    replace_file(target / ITEMS, lambda draft: run.items.reset_index(drop=True).to_parquet(draft))
    write_json(target / INDEX, {**_about(run, chosen), "shards": shards})
    return target


def _chosen(
    residuals: xr.DataArray, layers: Sequence[int] | None, sites: Sequence[str] | None
) -> xr.DataArray:
    """The residuals of some layers and sites, still unread."""
    for dim, wanted in (("layer", layers), ("site", sites)):
        if wanted is None:
            continue
        there = residuals[dim].values.tolist()
        if not wanted or not set(wanted) <= set(there):
            raise ValueError(f"the run has the {dim}s {there}; got {list(wanted)}.")
        residuals = residuals.isel({dim: [there.index(one) for one in wanted]})
    return residuals


def _emptied(folder: Path) -> Path:
    """The folder without an earlier export."""
    held = sorted(folder.iterdir()) if folder.is_dir() else []
    whole = (folder / INDEX).is_file() and read_json(folder / INDEX).get("format") == FORMAT
    ours = whole or all(file.name in (ROWS, ITEMS) or file.match("residuals-*.safetensors") for file in held)
    if folder.exists() and not (folder.is_dir() and ours):
        raise FileExistsError(f"{folder} exists and holds something else; give a new folder.")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX).unlink(missing_ok=True)
    for file in held:
        if file.name in (ROWS, ITEMS) or file.match("residuals-*.safetensors"):
            file.unlink(missing_ok=True)
    return folder


def _places(block: xr.DataArray) -> list[str]:
    """The dims of a row other than the item."""
    return [str(dim) for dim in block.dims if dim not in ("item", "layer", "d_model")]


def _write_shard(file: Path, values: np.ndarray, layers: Sequence[int]) -> None:
    named = {
        EMBEDDING if layer < 0 else f"layers.{layer}": np.ascontiguousarray(values[:, number])
        for number, layer in enumerate(layers)
    }
    replace_file(file, lambda draft: save_file(named, draft, metadata={"format": FORMAT}))


def _described(rows: xr.DataArray, values: np.ndarray, shard: str) -> pd.DataFrame:
    """What every row of a shard is."""
    dims = ["item", *_places(rows)]
    every = pd.MultiIndex.from_product([rows[dim].values for dim in dims], names=dims).to_frame(index=False)
    clusters = dict(zip(rows["item"].values, rows["cluster"].values, strict=True))
    every.insert(1, "cluster", [str(clusters[one]) for one in every["item"]])
    every.insert(0, "row", np.arange(len(every)))
    every.insert(0, "shard", shard)
    return every.assign(there=np.isfinite(values).all((1, 2)))


def _about(run: Run, chosen: xr.DataArray) -> dict[str, Any]:
    model = run.manifest["study"]["model"]
    return {
        "format": FORMAT,
        "model": str(model.get("name", "")),
        "model_fingerprint": str(model["fingerprint"]),
        "run": run.fingerprint,
        "dtype": str(chosen.dtype),
        "d_model": chosen.sizes["d_model"],
        "layers": chosen["layer"].values.tolist(),
        "tensors": {"-1": EMBEDDING, "l": "layers.{l}: after block l, before the final norm"},
        "dims": ["row", "d_model"],
        "factors": {factor.name: list(factor.levels) for factor in run.design.factors},
        "sites": chosen["site"].values.tolist(),
    }


class _Table:
    """A Parquet file that grows by tables of one form, and takes its name when it is whole."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.draft = file.with_name(f".{file.name}.part")
        self.writer: pq.ParquetWriter | None = None

    def __enter__(self) -> "_Table":
        return self

    def add(self, rows: pd.DataFrame) -> None:
        """Write some rows."""
        table = pa.Table.from_pandas(rows, preserve_index=False)
        if self.writer is None:
            self.writer = pq.ParquetWriter(self.draft, table.schema)
        self.writer.write_table(table)

    def __exit__(self, failed: object, *_: object) -> None:
        if self.writer is not None:
            self.writer.close()
        if failed is None and self.draft.exists():
            self.draft.replace(self.file)
        self.draft.unlink(missing_ok=True)
