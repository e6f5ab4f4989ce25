"""Evaluation logs of Inspect as cubes of behaviour: what was played elsewhere, without residuals."""

import json
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import xarray as xr

from morality_lens.design import Condition, condition_of
from morality_lens.items.files import read_json

GRADES = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0}
"""Values of Inspect's grades: correct, incorrect, partially correct, no answer."""
ZSTANDARD = 93
"""The number of Zstandard among the compressions of a zip file."""
LOCAL_HEADER = struct.Struct("<4s5H3I2H")
"""What stands before an entry of a zip file; last come the lengths of its name and of its extra field."""
_SAMPLE = re.compile(r"samples/.+_epoch_\d+\.json")


@dataclass(frozen=True, kw_only=True, eq=False)
class InspectLog:
    """One log: a row for every sample and scorer.

    Attributes:
        path: of the file.
        task: name of the task.
        model: name of the model.
        status: ``success``, or why the evaluation ended.
        samples: ``item`` (the sample's id), ``epoch``, ``scorer``, ``value`` (NaN where there is none, or it
            is no number), ``answer``, ``text`` (the model's last reply), ``error``, and a column
            ``metadata.NAME`` for each entry of the samples' metadata.

    Examples:
        >>> log = ml.runs.read_inspect_log(logs["instruction"])
        >>> float(log.samples["value"].mean())
        0.5
    """

    path: Path
    task: str
    model: str
    status: str
    samples: pd.DataFrame

    @property
    def scorers(self) -> list[str]:
        """The names of the scorers, those of a dictionary of scores as ``scorer.key``."""
        return self.samples["scorer"].dropna().unique().tolist()


def read_inspect_log(path: str | Path) -> InspectLog:
    """A log that Inspect (UK AI Security Institute) wrote: ``.eval``, or the older ``.json``.

    Args:
        path: of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no log, holds no sample, or is compressed in a way that Python cannot read.

    Examples:
        >>> log = ml.runs.read_inspect_log(logs["none"])
        >>> log.task, log.scorers
        ('bbq', ['choice'])
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"no file at {file}; give a log that Inspect wrote (.eval or .json).")
    header, samples = _from_archive(file) if zipfile.is_zipfile(file) else _from_json(file)
    told = header.get("eval", {})
    rows = [row for sample in samples for row in _rows(sample, file)]
    if not rows:
        raise ValueError(
            f"{file} holds no sample (status {header.get('status')!r}); evaluate the task again."
        )
    return InspectLog(
        path=file,
        task=str(told.get("task", "")),
        model=str(told.get("model", "")),
        status=str(header.get("status", "")),
        samples=pd.DataFrame(rows),
    )


def _from_archive(file: Path) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    """Header and samples of an ``.eval`` file: a zip of JSON files, the header last."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        header = next((name for name in ("header.json", "_journal/start.json") if name in names), None)
        if header is None:
            raise ValueError(f"{file} is no log of Inspect: the archive has no header.json.")
        wanted = [name for name in sorted(names) if _SAMPLE.fullmatch(name)]
        try:
            first, *samples = [json.loads(_entry(archive, file, name)) for name in (header, *wanted)]
        except (NotImplementedError, OSError, RuntimeError, zipfile.BadZipFile, ValueError) as error:
            raise ValueError(
                f"{file} is damaged, or compressed in a way that cannot be read here ({error}); convert it "
                "with `inspect log convert LOG --to json --output-dir FOLDER`."
            ) from error
    return first, iter(samples)


def _entry(archive: zipfile.ZipFile, file: Path, name: str) -> bytes:
    """The bytes of an entry; also those compressed with Zstandard, which Python's zip cannot read."""
    info = archive.getinfo(name)
    if info.compress_type != ZSTANDARD:
        return archive.read(name)
    with file.open("rb") as raw:
        raw.seek(info.header_offset)
        head = raw.read(LOCAL_HEADER.size)
        *_, named, extra = LOCAL_HEADER.unpack(head)
        raw.seek(named + extra, 1)
        packed = raw.read(info.compress_size)
    data = pa.CompressedInputStream(pa.BufferReader(packed), "zstd").read()
    if zlib.crc32(data) != info.CRC:
        raise zipfile.BadZipFile(f"bad CRC-32 for {name!r}")
    return data


def _from_json(file: Path) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
    """Header and samples of a log in one JSON file."""
    whole = read_json(file)
    if not isinstance(whole, dict) or not {"eval", "samples"} <= set(whole):
        raise ValueError(f"{file} is no log of Inspect: it needs the keys 'eval' and 'samples'.")
    return whole, iter(whole["samples"] or [])


def _rows(sample: Mapping[str, Any], file: Path) -> Iterator[dict[str, Any]]:
    """A row for each score of a sample; one without a value where there is none."""
    if "id" not in sample:
        raise ValueError(f"{file}: a sample without an id.")
    error = sample.get("error")
    same = {
        "item": str(sample["id"]),
        "epoch": int(sample.get("epoch", 1)),
        "text": _completion(sample),
        "error": error.get("message", "") if isinstance(error, dict) else str(error or ""),
        **{f"metadata.{name}": value for name, value in (sample.get("metadata") or {}).items()},
    }
    scores = {} if same["error"] else sample.get("scores") or {}
    if not scores:
        yield {**same, "scorer": None, "value": math.nan, "answer": ""}
    for scorer, score in scores.items():
        value = score.get("value") if isinstance(score, dict) else score
        answer = str(score.get("answer") or "") if isinstance(score, dict) else ""
        parts = value.items() if isinstance(value, dict) else [("", value)]
        for key, one in parts:
            name = f"{scorer}.{key}" if key else str(scorer)
            yield {**same, "scorer": name, "value": _number(one), "answer": answer}


def _number(value: Any) -> float:
    """A score as a number: grades and truth values too; NaN for anything else."""
    if isinstance(value, str) and value in GRADES:
        return GRADES[value]
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _completion(sample: Mapping[str, Any]) -> str:
    """The text of the model's last reply."""
    output = sample.get("output") or {}
    choices = output.get("choices") or [{}]
    content = (choices[0].get("message") or {}).get("content", output.get("completion", ""))
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content or "")


def inspect_cube(
    logs: Mapping[str, str | Path | Sequence[str | Path]],
    *,
    scorer: str | None = None,
    cluster: str | None = None,
) -> xr.DataArray:
    """Scores of the same samples under several conditions as a cube, for ``factorial_effects``.

    Args:
        logs: for each condition (``none``, ``instruction``, ``instruction+feedback``, ...; every combination
            of the levels that occur) its log; or its logs, one per round.
        scorer: whose scores; None where the logs have one alone.
        cluster: the entry of the samples' metadata that says which of them depend on each other (the
            template, say); None takes each sample for independent.

    Returns:
        item x factors, x ``round`` where logs are per round, x ``seed`` where there are several epochs. NaN
        where a sample has no score: such cells are refused unless ``missing`` says otherwise. ``attrs`` hold
        the ``model``, ``task`` and ``units``.

    Raises:
        FileNotFoundError: a log is missing.
        ValueError: fewer than two conditions, cells that are missing, another number of rounds, several
            models, an unknown scorer, or metadata without the cluster.

    Examples:
        >>> cube = ml.runs.inspect_cube(logs, cluster="template")
        >>> cube.dims
        ('item', 'instruction', 'feedback')
        >>> ml.factorial_effects(cube)["effect"].values.tolist()
        ['instruction', 'feedback', 'instruction:feedback']
    """
    cells = {condition_of(label): _listed(paths) for label, paths in logs.items()}
    levels = _levels(list(cells))
    rounds = {len(paths) for paths in cells.values()}
    if len(rounds) != 1:
        raise ValueError(f"every condition needs as many logs, one per round; got {sorted(rounds)}.")
    read = {cell: [read_inspect_log(path) for path in paths] for cell, paths in cells.items()}
    every = [log for own in read.values() for log in own]
    models = sorted({log.model for log in every})
    if len(models) > 1:
        raise ValueError(
            f"the conditions of one cube are of one model; these logs are of {', '.join(models)}. Make a "
            "cube of each, and cross_runs joins them along a factor."
        )
    chosen = _scorer(every, scorer)
    tables = {cell: [_scores(log, chosen) for log in own] for cell, own in read.items()}
    series = pd.concat([table for own in tables.values() for table in own])
    names, epochs = series.index.unique("item"), sorted(series.index.unique("epoch"))
    whole = pd.MultiIndex.from_product([names, epochs], names=["item", "epoch"])
    shape = (*map(len, levels.values()), rounds.pop(), len(names), len(epochs))
    values = np.full(shape, np.nan)
    for cell, own in tables.items():
        at = tuple(levels[name].index(cell[name]) for name in levels)
        for number, table in enumerate(own):
            values[(*at, number)] = table.reindex(whole).to_numpy(float).reshape(len(names), len(epochs))
    cube = xr.DataArray(
        values,
        dims=(*levels, "round", "item", "seed"),
        coords={**levels, "round": np.arange(shape[-3]), "item": names.tolist(), "seed": epochs},
        name=chosen,
        attrs={"units": "score", "model": models[0], "task": every[0].task},
    )
    if cluster is not None:
        cube = cube.assign_coords(cluster=("item", _clusters(every, [str(name) for name in names], cluster)))
    single = [dim for dim in ("round", "seed") if cube.sizes[dim] == 1]
    return cube.squeeze(single, drop=True).transpose("item", *levels, ...)


def _listed(paths: str | Path | Sequence[str | Path]) -> list[str | Path]:
    return [paths] if isinstance(paths, str | Path) else list(paths)


def _levels(cells: Sequence[Condition]) -> dict[str, list[str]]:
    """The levels of each factor that the conditions name, ``off`` first.

    Raises:
        ValueError: fewer than two conditions, or not every combination.
    """
    factors = list(dict.fromkeys(name for cell in cells for name in cell.coords))
    levels = {name: sorted({cell[name] for cell in cells}, key=lambda v: (v != "off", v)) for name in factors}
    wanted = math.prod(map(len, levels.values()))
    if len(cells) < 2 or len(set(cells)) != wanted:
        told = " x ".join(f"{name} ({', '.join(own)})" for name, own in levels.items()) or "no factor"
        raise ValueError(
            f"a cube needs a log for every combination of {told}: {wanted} of them, two or more; got "
            f"{', '.join(cell.label for cell in cells) or 'none'}."
        )
    return levels


def _scorer(logs: Sequence[InspectLog], wanted: str | None) -> str:
    """The scorer that is asked for, or the only one.

    Raises:
        ValueError: there are several and none was named, or a log lacks it.
    """
    common = [name for name in logs[0].scorers if all(name in log.scorers for log in logs)]
    if wanted is None and len(common) == 1:
        return common[0]
    if wanted not in common:
        raise ValueError(
            f"give scorer=, one of those that all logs have ({', '.join(common) or 'none'}); got {wanted!r}."
        )
    return wanted


def _scores(log: InspectLog, scorer: str) -> pd.Series:
    """The values of one scorer by item and epoch."""
    own = log.samples.loc[log.samples["scorer"] == scorer].set_index(["item", "epoch"])["value"]
    if own.index.has_duplicates:
        twice = own.index[own.index.duplicated()][0]
        raise ValueError(f"{log.path}: sample {twice[0]!r} is there twice in epoch {twice[1]}.")
    return own


def _clusters(logs: Sequence[InspectLog], names: Sequence[str], cluster: str) -> list[str]:
    """The cluster of each item, from the metadata of its samples.

    Raises:
        ValueError: metadata without it, or with several values for one item.
    """
    column = f"metadata.{cluster}"
    found: dict[str, set[str]] = {name: set() for name in names}
    for log in logs:
        if column in log.samples:
            for name, value in zip(log.samples["item"], log.samples[column], strict=True):
                if pd.notna(value) and name in found:
                    found[name].add(str(value))
    odd = [name for name, values in found.items() if len(values) != 1]
    if odd:
        raise ValueError(
            f"cluster={cluster!r} needs one value of that name in the metadata of every sample; {len(odd)} "
            f"of {len(names)} have none or several (first {odd[0]!r}: {sorted(found[odd[0]])})."
        )
    return [next(iter(found[name])) for name in names]
