"""Runs written by hand: answers and probabilities as a test gives them, residuals zero."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from morality_lens.design import Design
from morality_lens.items.kinds import Item
from morality_lens.runs import writing
from morality_lens.runs.archives import TABLES, Stored, open_arrays, read_record, read_table, write_archive
from morality_lens.runs.manifest import parts_of
from morality_lens.runs.run import Run, open_run

ONE_ROUND = Design(rounds=1)


def study_of(design: Design, items: Sequence[Item], **model: Any) -> dict[str, Any]:
    """What identifies a run of a model that nobody needs."""
    return {
        "model": {"name": "none", "n_layers": 1, "d_model": 2, **model},
        "items": {"kind": type(items[0]).__name__, "n": len(items)},
        "design": design.manifest(),
        "wording": {"name": "default", "index": 0},
    }


def write_run(
    path: Path, items: Sequence[Item], answers: pd.DataFrame, probabilities: Any, mass: float = 1.0
) -> Run:
    """A run of one round: ``probabilities`` of the options are for each item, or for all places."""
    about = {"order": [item.id for item in items]}
    study = study_of(ONE_ROUND, items)
    manifest = writing.create(path, study=study, about=about, items=items, batch_size=len(items))
    cells = (len(items), 2, 2, 2, 2)
    given = np.asarray(probabilities, float)
    if given.ndim == 2:
        given = given[:, None, None, None, None]
    batch = writing.PlayedBatch(
        residuals=np.zeros((*cells, len(ONE_ROUND.sites), 2, 2), np.float32),
        option_probabilities=np.ascontiguousarray(np.broadcast_to(given, (*cells, given.shape[-1]))),
        option_mass=np.full(cells, mass),
        answers=answers,
        transcripts=pd.DataFrame({"item": [item.id for item in items], "round": 1}),
        seconds=0.0,
        tokens=0,
    )
    writing.commit(path, parts_of(manifest)[0], batch)
    return open_run(path)


def rewrite(run: Run, name: str, values: Any) -> Run:
    """The run with other values of an array of option probabilities or masses, in every part."""
    for part in parts_of(run.manifest):
        file = part.file(run.path)
        group = open_arrays(file)
        arrays = {
            str(key): Stored(values=array[...], dims=array.metadata.dimension_names, chunks=array.chunks)
            for key, array in group.arrays()
        }
        shape = arrays[f"{name}.later"].values.shape
        new = np.broadcast_to(np.asarray(values, float), (len(run.items), *shape[1:]))
        arrays[f"{name}.later"] = replace(
            arrays[f"{name}.later"], values=np.ascontiguousarray(new[part.first : part.first + part.items])
        )
        tables = {table: read_table(file, table) for table in TABLES}
        write_archive(file, arrays=arrays, tables=tables, record=read_record(file))
    return open_run(run.path)
