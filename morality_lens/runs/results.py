"""Results kept in the folder of a run, each in a file replaced whole."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from morality_lens.items.files import own_folder, parse_json
from morality_lens.runs.datasets import SUFFIX, find_dataset, read_dataset, write_dataset
from morality_lens.runs.run import Run

FOLDER = "inside"


RESULTS = (
    "effects-component",
    "effects-layer",
    "effects-layer-and-segment",
    "effects-head-and-segment",
    "axes",
    "axes-effects",
    "answer-component",
    "answer-head-and-segment",
    "patched-residual",
    "patched-attention",
    "patched-mlp",
    "patched-head",
    "steered",
    "steering-cost",
    "ablated-on",
    "ablated-off",
    "mediated",
    "lens-curves",
    "lens-answer",
    "lens-effects",
    "lens-onsets",
    "lens-agreement",
    "features-effects",
    "features-shares",
)
"""What can be kept with a run."""


def keep_result(run: Run, name: str, data: xr.Dataset) -> Path:
    """Keep a result in the run's folder, so that a report needs no model; replaced whole.

    Raises:
        ValueError: a name that no result has.

    Examples:
        >>> split = ml.interactions.attribute_effects(parts, by="layer", draws=200)
        >>> ml.runs.keep_result(run, "effects-layer", split).name
        'effects-layer.zarr.zip'
    """
    if name not in RESULTS:
        raise ValueError(f"results are kept as {', '.join(RESULTS)}; got {name!r}.")
    return write_result(run.path / FOLDER, name, data)


def write_result(folder: str | Path, name: str, data: xr.Dataset) -> Path:
    """Write a result with all its attributes into a folder; its file is replaced whole.

    Examples:
        >>> ml.runs.write_result(folder, "effects", effects).name
        'effects.zarr.zip'
    """
    folder = own_folder(Path(folder))
    plain = data.copy()
    for one in (plain, *plain.variables.values()):
        one.attrs = {"json": json.dumps(one.attrs, default=_plain)} if one.attrs else {}
    return write_dataset(folder / f"{name}{SUFFIX}", plain)


def kept_results(run: Run) -> dict[str, xr.Dataset]:
    """What was kept of a run.

    Examples:
        >>> split = ml.interactions.attribute_effects(parts, by="layer", draws=200)
        >>> _ = ml.runs.keep_result(run, "effects-layer", split)
        >>> "effects-layer" in ml.runs.kept_results(run)
        True
    """
    found = {}
    for name in RESULTS:
        one = read_result(run.path / FOLDER, name)
        if one is not None:
            found[name] = one
    return found


def read_result(folder: str | Path, name: str) -> xr.Dataset | None:
    """What :func:`write_result` wrote; None where there is no such result.

    Examples:
        >>> _ = ml.runs.write_result(folder, "effects", effects)
        >>> ml.runs.read_result(folder, "effects")["estimate"].equals(effects["estimate"])
        True
        >>> ml.runs.read_result(folder, "another") is None
        True
    """
    file = find_dataset(Path(folder), name)
    if file is None:
        return None
    data = read_dataset(file)
    for one in (data, *data.variables.values()):
        if "json" in one.attrs:
            one.attrs = parse_json(one.attrs["json"], file, nan=True)
    return data


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"a result's attribute of type {type(value).__name__} cannot be kept.")
