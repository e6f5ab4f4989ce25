"""A run begun, extended, written part by part, and finished."""

import hashlib
import json
import shutil
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import xarray as xr
from jaxtyping import Float

from morality_lens.design import design_from
from morality_lens.items.files import file_hash, own_folder, replace_file, write_json
from morality_lens.items.kinds import Item, items_from_jsonl, items_hash, items_to_jsonl
from morality_lens.runs.archives import Stored, read_record, write_archive
from morality_lens.runs.cube import pieces
from morality_lens.runs.datasets import OPTION_SCORES, SUFFIX, write_dataset
from morality_lens.runs.manifest import (
    FILE,
    FORMAT,
    ITEMS,
    LOCKS,
    PARTS,
    Part,
    amend,
    done_parts,
    locked,
    missing_parts,
    parts_of,
    read_manifest,
)
from morality_lens.runs.requests import Request
from morality_lens.runs.storage import Estimate, Storage, estimate

OWN = {FILE, ITEMS, PARTS, *LOCKS}
"""What a folder may hold in which a run was begun and nothing stored."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PlayedBatch:
    """What one batch of items left behind, items in playing order.

    Attributes:
        residuals: the cube without names, of the layers that the run keeps.
        option_probabilities: probability of each reply's sign (an option's letter, a digit of a scale) as the
            answer's first token, as a share of all replies; NaN past an item's last reply.
        option_mass: the share of probability on the sign of any reply.
        answers: one row for each item, condition and round.
        transcripts: one row for each item and condition (and round, where history was rewritten).
        seconds: time it took.
        tokens: tokens fed to the model.
        together: items of each batch that it was played in: more than one where memory ran out.
        device: that the model was on.
        projections: dot products with the run's directions, where it keeps them.
    """

    residuals: Float[np.ndarray, "item *factor round site layer d_model"]
    option_probabilities: Float[np.ndarray, "item *factor round option"]
    option_mass: Float[np.ndarray, "item *factor round"]
    answers: pd.DataFrame
    transcripts: pd.DataFrame
    seconds: float
    tokens: int
    together: tuple[int, ...] = ()
    device: str = ""
    projections: Float[np.ndarray, "item *factor round site layer direction"] | None = None


# ------------------------------------------------------------------------------------ begun and extended
def create(
    path: Path,
    *,
    study: Mapping[str, Any],
    about: Mapping[str, Any],
    items: Sequence[Item],
    batch_size: int,
    trial: int = 0,
    stored: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The manifest of a new run in ``path``, or of the same run begun there, extended by what it lacks.

    One process at a time does this, and a run that has parts is never removed. A run is extended by further
    items, which are played after those that are there, and by further rounds.

    Args:
        path: the run's folder.
        study: what makes two runs the same (model, items, design, wording, seeds); a folder that holds
            another one is refused.
        about: further records, taken from the first start; ``order`` holds the items' ids in their own order.
        items: the items in playing order.
        batch_size: most items of a part; a run keeps the size it was begun with.
        trial: items of a smaller part that is played first, since it tells of the others; 0 is none.
        stored: what is kept of every site, see :meth:`morality_lens.runs.storage.Storage.manifest`.

    Raises:
        ValueError: the folder holds another run, one with more items or rounds, or something that is no run,
            or the disk is too full.
        PermissionError: the folder cannot be written.
    """
    model = study["model"]
    kept = dict(stored or Storage().manifest(n_layers=model["n_layers"], dtype=model.get("dtype", "float32")))
    if not (path / FILE).exists():
        _refuse_foreign(path)
    _make_folder(path)
    with locked(path):
        if (path / FILE).exists():
            return _extended(path, study, about, items, kept)
        rounds = int(study["design"]["rounds"]) + 1
        manifest = {
            "format": FORMAT,
            "study": dict(study),
            "stored": kept,
            **about,
            "batch_size": batch_size,
            "places": [item.id for item in items],
            "parts": [[*span, 0, rounds] for span in _first_spans(len(items), batch_size, trial)],
        }
        _refuse_too_large(path, manifest)
        _write_items(path, items, manifest)
        write_json(path / FILE, manifest, indent=None)
    return read_manifest(path)


def _refuse_foreign(path: Path) -> None:
    """Nothing, where a folder is new, empty, or was left before its run had a manifest.

    Raises:
        ValueError: it holds something else, or parts without a manifest.
    """
    if path.is_dir() and {p.name for p in path.iterdir() if not p.name.endswith(".part")} <= OWN:
        if any((path / PARTS).glob("*.zip")):
            raise ValueError(
                f"{path} holds parts of a run without its {FILE}; put a copy of it back, or give another "
                "folder."
            )
        return
    Request(what="run", settings={}).refuse_foreign(path)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        own_folder(path / PARTS)
        probe = path / f".{PARTS}.part"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise PermissionError(
            f"the output folder {path} cannot be written ({error.strerror or error}); give another one."
        ) from error


def _spans(start: int, stop: int, size: int) -> list[tuple[int, int]]:
    """First place and number of items of every batch."""
    return [(first, min(size, stop - first)) for first in range(start, stop, size)]


def _first_spans(items: int, size: int, trial: int) -> list[tuple[int, int]]:
    """The spans of a new run, the first of them smaller where that is wanted."""
    if not 0 < trial < min(size, items):
        return _spans(0, items, size)
    return [(0, trial), *_spans(trial, items, size)]


def _write_items(path: Path, items: Sequence[Item], manifest: dict[str, Any]) -> None:
    items_to_jsonl(items, path / ITEMS)
    manifest["items_sha256"] = file_hash(path / ITEMS)


def read_items(path: Path, manifest: Mapping[str, Any]) -> tuple[Item, ...]:
    """The items of a run in playing order.

    A file that goes on after them is that of a run which another process extends: its items are written
    before its manifest.

    Raises:
        ValueError: the file is not the one that was written.
    """
    file, number = path / ITEMS, len(manifest["places"])
    content = _bytes(file)
    if manifest["items_sha256"] != _sha256(_first_lines(content, number)):
        state = "is damaged: it is not the file that was written" if content else "is missing"
        raise ValueError(f"{file} {state}; the same command that played the run writes it again.")
    items: Any = items_from_jsonl(file)
    return items[:number]


def _first_lines(content: bytes, number: int) -> bytes:
    return b"".join(content.splitlines(keepends=True)[:number])


def same_items_file(path: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether the file of a run's items is the one that was written, to its end."""
    return _sha256(_bytes(path / ITEMS)) == manifest["items_sha256"]


def _extended(
    path: Path,
    study: Mapping[str, Any],
    about: Mapping[str, Any],
    items: Sequence[Item],
    kept: Mapping[str, Any],
) -> dict[str, Any]:
    """The manifest of a run that was begun, extended by the items and rounds that it lacks."""
    manifest = read_manifest(path)
    asked = {**identity(study), "stored": kept}
    Request(what="run", settings=asked).refuse_other(
        path, {**identity(manifest["study"]), "stored": manifest["stored"]}
    )
    there = _stored_items(path, manifest, items)
    new = _new_items(path, there, items)
    rounds = int(study["design"]["rounds"]) + 1
    before = int(manifest["study"]["design"]["rounds"]) + 1
    if rounds < before:
        raise ValueError(
            f"{path} holds a run of {before - 1} correction rounds, and {rounds - 1} are asked for; ask for "
            "as many or more, or open it as it is."
        )
    parts = [list(part) for part in parts_of(manifest)]
    if rounds > before:
        spans = sorted({(part[0], part[1]) for part in parts})
        parts += [[*span, before, rounds] for span in spans]
    first = len(there)
    parts += [[*span, 0, rounds] for span in _spans(first, first + len(new), int(manifest["batch_size"]))]
    playing = (*there, *new)
    changed = {**manifest, "study": dict(study), "order": about["order"], "parts": parts}
    changed["places"] = [item.id for item in playing]
    if new:
        changed |= {"left_out": about.get("left_out", []), "reply_tokens": about.get("reply_tokens", {})}
        _refuse_too_large(path, changed)
    if new or not same_items_file(path, manifest):
        _write_items(path, playing, changed)
    changed["loaded_from"] = about.get("loaded_from", manifest.get("loaded_from"))
    if new or rounds > before or changed["loaded_from"] != manifest.get("loaded_from"):
        write_json(path / FILE, changed, indent=None)
    return read_manifest(path)


def _bytes(file: Path) -> bytes:
    return file.read_bytes() if file.is_file() else b""


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def identity(study: Mapping[str, Any]) -> dict[str, Any]:
    """What makes two runs one: everything that changes a token, without items and rounds, by which it grows.

    The model is known by its weights, configuration, tokenizer and template; where its files lie, and on
    which devices, is no part of it. So it is with a file of feedback, or another model that gives it.
    """
    apart = {"name", "revision", "device_map", "adapter"}
    model = {name: value for name, value in study["model"].items() if name not in apart}
    design = {name: value for name, value in study["design"].items() if name != "rounds"}
    source = dict(study.get("source", {}))
    if source.get("exact"):
        del source["from"]
    return {
        **{
            name: value for name, value in study.items() if name not in ("model", "design", "items", "source")
        },
        "source": source,
        "model": model,
        "design": design,
        "items": {"kind": study["items"].get("kind")},
    }


def _stored_items(path: Path, manifest: Mapping[str, Any], asked: Sequence[Item]) -> tuple[Item, ...]:
    """The items of the run in playing order; where their file is damaged, taken from those asked for."""
    try:
        return read_items(path, manifest)
    except ValueError:
        by_id = {item.id: item for item in asked}
        if not set(manifest["places"]) <= set(by_id):
            raise
        return tuple(by_id[name] for name in manifest["places"])


def _new_items(path: Path, there: Sequence[Item], asked: Sequence[Item]) -> list[Item]:
    """The items that the run lacks.

    Raises:
        ValueError: it has others, or an item with other words.
    """
    by_id = {item.id: item for item in asked}
    gone = [item.id for item in there if item.id not in by_id]
    if gone:
        raise ValueError(
            f"{path} holds {len(there)} items, and {len(gone)} of them are not among the {len(asked)} that "
            f"are asked for ({', '.join(gone[:3])}). A run can be extended, "
            "not cut: ask for the same items or more, open it as it is, or give another folder."
        )
    changed = [item.id for item in there if items_hash([item]) != items_hash([by_id[item.id]])]
    if changed:
        raise ValueError(
            f"{path} holds {len(changed)} items with other words than those that are asked for "
            f"({', '.join(changed[:3])}); options permuted over another number of items, say. Give another "
            "folder."
        )
    known = {item.id for item in there}
    return [item for item in asked if item.id not in known]


def _refuse_too_large(path: Path, manifest: Mapping[str, Any]) -> None:
    """Nothing, where the disk has room for all arrays.

    Raises:
        ValueError: it is too full.
    """
    needed, free = room(manifest).bytes, shutil.disk_usage(path).free
    if needed > 0.95 * free:
        raise ValueError(
            f"the run needs about {needed / 1e9:.1f} GB in {path}, where {free / 1e9:.1f} GB are free. "
            "Give another folder, fewer items, rounds or sites, some layers only (layers), float16, or keep "
            "projections alone."
        )


def room(manifest: Mapping[str, Any]) -> Estimate:
    """The room that a run takes at most."""
    kept, study = manifest["stored"], manifest["study"]
    return estimate(
        design_from(study["design"]),
        items=len(manifest["places"]),
        d_model=int(study["model"]["d_model"]),
        layers=kept["layers"],
        storage=Storage(keep=kept["keep"], dtype=kept["dtype"]),
        directions=int(kept.get("directions", 1)),
        batch_size=int(manifest["batch_size"]),
    )


# --------------------------------------------------------------------------------------------- parts
def commit(path: Path, part: Part, batch: PlayedBatch) -> None:
    """Store a part: it counts from the moment its file has its name, and is on disk by then.

    Args:
        path: the run's folder.
        part: what was played.
        batch: what it left behind, of all rounds up to the part's last.

    Raises:
        ValueError: values beyond the range of the type they are stored in.
    """
    manifest = read_manifest(path)
    design = design_from(manifest["study"]["design"])
    items = read_items(path, manifest)
    axis = 1 + len(design.names)
    rounds = (slice(None),) * axis + (slice(part.start, part.stop),)
    arrays: dict[str, Stored] = {}
    for name, values in _kept(batch, manifest).items():
        if values.size:
            cut = {"start": part.start, "whole": WHOLE[name], "large": name in LARGE}
            arrays |= pieces(name, values[rounds], design, **cut)
    tables = {"answers": batch.answers, "transcripts": batch.transcripts}
    record = {
        **owner_of(part, manifest, items),
        "seconds": batch.seconds,
        "tokens": batch.tokens,
        "together": list(batch.together or (part.items,)),
        "device": batch.device,
        "host": socket.gethostname(),
    }
    # A dialogue of the round before the first one is there where the template rewrote it afterwards.
    since = {"answers": part.start, "transcripts": part.start - 1}
    kept = {name: table.loc[table["round"] >= since[name]] for name, table in tables.items()}
    write_archive(part.file(path), arrays=arrays, tables=kept, record=record)


LARGE = ("residuals", "projections")
"""Arrays that grow with layers and sites."""
WHOLE = {"residuals": 1, "projections": 1, "option_probabilities": 1, "option_mass": 0}
"""How many of an array's last dimensions are read in one piece; each site and layer is one of its own."""


def run_hash(manifest: Mapping[str, Any]) -> str:
    """A hash over what makes two runs one, by which the parts of another run are known."""
    told = json.dumps([identity(manifest["study"]), manifest["stored"]], sort_keys=True)
    return _sha256(told.encode())


def owner_of(part: Part, manifest: Mapping[str, Any], items: Sequence[Item]) -> dict[str, Any]:
    """The run, items and rounds that the record of a part names; ``items`` are the run's in playing order."""
    return {
        "run": run_hash(manifest),
        "items": items_hash(items[part.first : part.first + part.items]),
        "rounds": [part.start, part.stop],
    }


def _kept(batch: PlayedBatch, manifest: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays that the run keeps, in the type that it keeps them in."""
    stored = manifest["stored"]
    values = batch.residuals
    found = {"option_probabilities": batch.option_probabilities, "option_mass": batch.option_mass}
    if stored["keep"] != "projections":
        with np.errstate(over="ignore"):
            narrow = values.astype(stored["dtype"])
        if (np.isfinite(values) & ~np.isfinite(narrow)).any():
            raise ValueError(
                f"residuals of up to {np.nanmax(np.abs(values)):.0f} do not fit into {stored['dtype']}, "
                "whose largest number is 65504; store this model's residuals as float32."
            )
        found["residuals"] = narrow
    if stored["keep"] != "residuals":
        assert batch.projections is not None  # whoever plays makes them
        found["projections"] = batch.projections
    return found


def timings(path: Path) -> dict[str, Any]:
    """Seconds and tokens of all stored parts."""
    records = [read_record(part.file(path)) for part in done_parts(path, read_manifest(path))]
    return {
        "seconds": round(sum(record["seconds"] for record in records), 3),
        "tokens": sum(record["tokens"] for record in records),
    }


def finish(path: Path) -> None:
    """Put the timings of all parts into the manifest.

    Raises:
        ValueError: parts are missing.
    """
    missing = missing_parts(path, read_manifest(path))
    if missing:
        raise ValueError(
            f"the run in {path} lacks {len(missing)} parts, {missing[0].name} first; play them before it is "
            "finished."
        )
    amend(path, timings=timings(path))


def write_scores(path: Path, scores: pd.DataFrame) -> None:
    """Replace the run's table of judges' scores (item, conditions, round, judge, score)."""
    rows = pa.Table.from_pandas(scores, preserve_index=False)
    replace_file(path / "scores.parquet", lambda draft: pq.write_table(rows, draft, compression="zstd"))


def write_option_scores(path: Path, scores: xr.Dataset) -> None:
    """Replace the run's scores of its options' full texts."""
    write_dataset(path / f"{OPTION_SCORES}{SUFFIX}", scores)
