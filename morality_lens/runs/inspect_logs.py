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
TRUTH = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
"""Values of the words for truth, in lower or upper case."""
COMPLETE = "success"
"""The status of an evaluation that ran to its end."""
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
        status: ``success`` where the evaluation ran to its end; else ``error``, ``cancelled`` or ``started``.
        samples: ``item`` (the sample's id), ``epoch``, ``scorer``, ``value`` (NaN where there is none, or it
            is no number), ``given`` (the score as the log has it), ``answer``, ``text`` (the model's last
            reply), ``error``, ``input`` and ``target`` as text (with the options, where there are some), and
            a column ``metadata.NAME`` for each entry of the samples' metadata.

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
        ValueError: it is no log, holds no sample, has an entry that is not as Inspect writes it, or is
            compressed in a way that Python cannot read.

    Examples:
        >>> log = ml.runs.read_inspect_log(logs["none"])
        >>> log.task, log.scorers
        ('bbq', ['choice'])
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"no file at {file}; give a log that Inspect wrote (.eval or .json).")
    header, samples = _from_archive(file) if zipfile.is_zipfile(file) else _from_json(file)
    told = _object(header.get("eval"), "eval", file)
    rows = [row for sample in samples for row in _rows(sample, file)]
    if not rows:
        raise ValueError(
            f"{file} holds no sample (status {header.get('status')!r}); evaluate the task again."
        )
    return InspectLog(
        path=file,
        task=str(told.get("task", "")),
        model=str(told.get("model", "")),
        status=str(header.get("status") or "started"),
        samples=pd.DataFrame(rows),
    )


def _from_archive(file: Path) -> tuple[dict[str, Any], Iterator[Any]]:
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
    return _object(first, "the header", file), iter(samples)


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


def _from_json(file: Path) -> tuple[dict[str, Any], Iterator[Any]]:
    """Header and samples of a log in one JSON file."""
    whole = read_json(file)
    if not isinstance(whole, dict) or not {"eval", "samples"} <= set(whole):
        raise ValueError(f"{file} is no log of Inspect: it needs the keys 'eval' and 'samples'.")
    samples = whole["samples"] or []
    if not isinstance(samples, list):
        raise ValueError(f"{file}: samples must be a list, as Inspect writes it; got {samples!r:.80}.")
    return whole, iter(samples)


def _object(value: Any, what: str, file: Path) -> dict[str, Any]:
    """An entry of a log that must be an object.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, dict):
        raise ValueError(
            f"{file} is damaged or no log of Inspect: {what} must be an object; got {value!r:.80}. Give "
            "another copy, or evaluate the task again."
        )
    return value


def _rows(sample: Any, file: Path) -> Iterator[dict[str, Any]]:
    """A row for each score of a sample; one without a value where there is none."""
    sample = _object(sample, "each sample", file)
    if sample.get("id") is None:
        raise ValueError(f"{file}: a sample without an id.")
    what = f"of sample {sample['id']!r}"
    about = _object(sample.get("metadata") or {}, f"metadata {what}", file)
    epoch, error = sample.get("epoch", 1), sample.get("error")
    if not isinstance(epoch, int):
        raise ValueError(f"{file}: the epoch {what} must be a whole number; got {epoch!r:.80}.")
    same = {
        "item": str(sample["id"]),
        "epoch": epoch,
        "text": _completion(_object(sample.get("output") or {}, f"output {what}", file)),
        "error": error.get("message", "") if isinstance(error, dict) else str(error or ""),
        "input": _asked(sample),
        "target": _plain(sample.get("target")),
        **{f"metadata.{name}": value for name, value in about.items()},
    }
    scores = {} if same["error"] else _object(sample.get("scores") or {}, f"scores {what}", file)
    if not scores:
        yield {**same, "scorer": None, "value": math.nan, "given": None, "answer": ""}
    for scorer, score in scores.items():
        value = score.get("value") if isinstance(score, dict) else score
        answer = str(score.get("answer") or "") if isinstance(score, dict) else ""
        parts = value.items() if isinstance(value, dict) else [("", value)]
        for key, one in parts:
            name = f"{scorer}.{key}" if key else str(scorer)
            yield {**same, "scorer": name, "value": _number(one), "given": one, "answer": answer}


def _asked(sample: Mapping[str, Any]) -> str:
    """What a sample asks, with its options: of messages who speaks and what, without their ids."""
    asked = sample.get("input")
    if isinstance(asked, list):
        messages = [one if isinstance(one, dict) else {"content": one} for one in asked]
        asked = "\n".join(f"{one.get('role', '')}: {_plain(one.get('content'))}" for one in messages)
    return "\n".join(filter(None, map(_plain, (asked, sample.get("choices")))))


def _plain(value: Any) -> str:
    """A text as it is, nothing of a null, and anything else as JSON."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _number(value: Any) -> float:
    """A score as a number: grades and truth values too; NaN for anything else."""
    if isinstance(value, str):
        value = GRADES.get(value, TRUTH.get(value.strip().casefold(), value))
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _completion(output: Mapping[str, Any]) -> str:
    """The text of the model's last reply."""
    choices = output.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    content = (message if isinstance(message, dict) else {}).get("content", output.get("completion", ""))
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content or "")


def inspect_cube(
    logs: Mapping[str, str | Path | Sequence[str | Path]],
    *,
    scorer: str | None = None,
    cluster: str | None = None,
    unfinished: bool = False,
    other_inputs: bool = False,
) -> xr.DataArray:
    """Scores of the same samples under several conditions as a cube, for ``factorial_effects``.

    Args:
        logs: for each condition (``none``, ``instruction``, ``instruction+feedback``, ...; every combination
            of the levels that occur) its log; or its logs, one per round.
        scorer: whose scores; None where the logs have one alone.
        cluster: the entry of the samples' metadata that says which of them depend on each other (the
            template, say); None takes each sample for independent.
        unfinished: take logs of evaluations that did not run to their end too, with the samples they have.
        other_inputs: pair samples by their ids even where their inputs, options or targets differ between
            the logs: right where the condition itself is written into the input.

    Returns:
        item x factors, x ``round`` where logs are per round, x ``seed`` where there are several epochs. NaN
        where a sample has no score: such cells are refused unless ``missing`` says otherwise. ``attrs`` hold
        the ``model``, ``task`` and ``units``, and in ``unfinished`` the logs that are, with their status.

    Raises:
        FileNotFoundError: a log is missing.
        ValueError: fewer than two conditions, cells that are missing, another number of rounds, several
            models, an unknown scorer, one without any number in a log, metadata without the cluster, a log
            that is unfinished, or samples of one id that ask other things.

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
    _refuse_unfinished(every, unfinished)
    _refuse_other_inputs(every, other_inputs)
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
    if told := [f"{log.path} ({log.status})" for log in every if log.status != COMPLETE]:
        cube.attrs["unfinished"] = ", ".join(told)
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


def _refuse_unfinished(logs: Sequence[InspectLog], accepted: bool) -> None:
    ended = [log for log in logs if log.status != COMPLETE]
    if ended and not accepted:
        raise ValueError(
            f"{ended[0].path} is of an evaluation that did not run to its end (status {ended[0].status!r}), "
            f"one of {len(ended)} such logs of {len(logs)}: the samples that are there may be no fair draw. "
            "Run it to its end (`inspect eval-retry`), or pass unfinished=True to take what is there."
        )


def _refuse_other_inputs(logs: Sequence[InspectLog], accepted: bool) -> None:
    """Nothing, where the samples of each id ask the same in all logs and have the same target."""
    first: dict[tuple[str, str], tuple[str, Path]] = {}
    for log in () if accepted else logs:
        for name in ("input", "target"):
            told = log.samples[["item", name]].drop_duplicates()
            for item, text in zip(told["item"], told[name], strict=True):
                known, path = first.setdefault((item, name), (text, log.path))
                if text != known:
                    raise ValueError(
                        f"sample {item!r} has the {name} {text!r:.60} in {log.path}, and "
                        f"{known!r:.60} in {path}: conditions are compared on the same samples. Give "
                        "logs of the same ones, or pass other_inputs=True where the condition is written "
                        "into the input."
                    )


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
    """The values of one scorer by item and epoch.

    Raises:
        ValueError: none is a number, or a sample is there twice.
    """
    rows = log.samples.loc[log.samples["scorer"] == scorer]
    own = rows.set_index(["item", "epoch"])["value"]
    if own.isna().all():
        came = ", ".join(dict.fromkeys(f"{value!r:.40}" for value in rows["given"]))
        raise ValueError(
            f"{log.path}: no score of {scorer!r} is a number, a grade (C, I, P, N) or a word for truth (yes, "
            f"no, true, false); got {came:.200}. Score with one of these, or with a dictionary of them."
        )
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
