"""A run on disk: residuals in Zarr, answers and transcripts in Parquet, one JSON manifest.

Every batch of items is committed whole, its answers last: a batch without them is played again. Items lie on
disk in the order they were played (by length) and are put back into their own order when the run is opened.
"""

import hashlib
import html
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
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

from morality_lens.design import Condition, Design, design_from
from morality_lens.items import (
    BehaviourMeasure,
    Item,
    Statement,
    items_from_jsonl,
    items_to_frame,
    items_to_jsonl,
)

FORMAT = 1
"""Version of the folder's layout."""


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


# --------------------------------------------------------------------------------------------- writing
def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file whole."""
    draft = path.with_name(path.name + ".part")
    draft.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    draft.replace(path)


def create(
    path: Path, *, study: Mapping[str, Any], about: Mapping[str, Any], items: Sequence[Item], batch_size: int
) -> dict[str, Any]:
    """The manifest of a new run in ``path``, or of the same run begun there earlier.

    Args:
        path: the run's folder.
        study: what makes two runs the same study (model, items, design, wording, seeds); a folder that
            holds another study is refused.
        about: what is worth recording beside that; taken from the first start.
        items: the items in playing order.
        batch_size: items of a batch; a resumed run keeps the size it was begun with.

    Raises:
        ValueError: the folder holds another study, or something that is no run, or the disk is too full.
        PermissionError: the folder cannot be written.
    """
    manifest_path = path / "manifest.json"
    if manifest_path.exists():
        manifest = read_manifest(path)
        different = _differences(manifest["study"], json.loads(json.dumps(dict(study))))
        if different:
            raise ValueError(
                f"{path} holds another run; it differs in {'; '.join(different)}. "
                "Give another output folder, or remove this one."
            )
        return manifest
    if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not (path / "begun").exists())):
        raise ValueError(f"{path} exists and is no run; give a new or an empty output folder.")
    _check_writable(path)
    design, model = design_from(study["design"]), study["model"]
    shape = _shape(design, len(items), int(model["n_layers"]) + 1, int(model["d_model"]))
    width = np.dtype(model["stored_as"]).itemsize
    needed = int(np.prod(shape)) * width
    free = shutil.disk_usage(path).free
    if needed > 0.95 * free:
        raise ValueError(
            f"the run needs about {needed / 1e9:.1f} GB in {path}, where {free / 1e9:.1f} GB are free. "
            "Give another folder, fewer items or rounds, or fewer sites."
        )
    (path / "begun").touch()
    shutil.rmtree(path / "arrays.zarr", ignore_errors=True)
    group = zarr.create_group(path / "arrays.zarr", zarr_format=3)
    codec = BloscCodec(cname="zstd", clevel=1, shuffle="shuffle")
    # One chunk holds a batch of one site and layer: a layer is read without touching the others.
    group.create_array(
        "residuals",
        shape=shape,
        chunks=(batch_size, *shape[1:-3], 1, 1, shape[-1]),
        dtype=model["stored_as"],
        compressors=codec,
        fill_value=float("nan"),
        dimension_names=design.cube_dims,
    )
    options = max((len(item.replies) for item in items), default=0)
    for name, extra in (("option_probabilities", ("option",)), ("option_mass", ())):
        size = (*shape[:-3], *((options,) if extra else ()))
        if 0 in size:
            continue
        group.create_array(
            name,
            shape=size,
            chunks=(batch_size, *size[1:]),
            dtype="float64",
            compressors=codec,
            fill_value=float("nan"),
            dimension_names=(*design.dims, *extra),
        )
    for folder in ("answers", "transcripts"):
        (path / folder).mkdir(exist_ok=True)
    items_to_jsonl(items, path / "items.jsonl")
    manifest = {"format": FORMAT, "study": dict(study), **about, "batch_size": batch_size}
    write_json(manifest_path, manifest)
    (path / "begun").unlink()
    return read_manifest(path)


def _check_writable(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / "begun"
        probe.write_text("x")
    except OSError as error:
        raise PermissionError(
            f"the output folder {path} cannot be written ({error.strerror or error}); give another one."
        ) from error


def _differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The keys at which two nested mappings differ, with both values."""
    found = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}: there {str(a)[:60]}, now {str(b)[:60]}")
    return found


def done_batches(path: Path) -> set[int]:
    """Numbers of the batches that were committed."""
    return {int(p.stem.removeprefix("part-")) for p in (path / "answers").glob("part-*.parquet")}


def commit(path: Path, number: int, batch: PlayedBatch) -> None:
    """Write one batch; it counts from the moment its answers are in place."""
    manifest = read_manifest(path)
    first = number * int(manifest["batch_size"])
    region = slice(first, first + batch.residuals.shape[0])
    group = zarr.open_group(path / "arrays.zarr", mode="r+")
    for name in ("residuals", "option_probabilities", "option_mass"):
        if name in group:
            array: Any = group[name]
            array[region] = getattr(batch, name)
    _write_table(path / "transcripts", number, batch.transcripts)
    write_json(
        path / "answers" / f"time-{number:05d}.json", {"seconds": batch.seconds, "tokens": batch.tokens}
    )
    _write_table(path / "answers", number, batch.answers)


def _write_table(folder: Path, number: int, table: pd.DataFrame) -> None:
    target = folder / f"part-{number:05d}.parquet"
    draft = folder / f"draft-{number:05d}"
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), draft, compression="zstd")
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    draft.replace(target)


def finish(path: Path) -> None:
    """Put the timings of all batches into the manifest."""
    manifest = read_manifest(path)
    times = [json.loads(p.read_text()) for p in sorted((path / "answers").glob("time-*.json"))]
    manifest["timings"] = {
        "seconds": round(sum(t["seconds"] for t in times), 3),
        "tokens": sum(t["tokens"] for t in times),
    }
    write_json(path / "manifest.json", manifest)


def write_scores(path: Path, scores: pd.DataFrame) -> None:
    """Replace the run's table of judges' scores (item, conditions, round, judge, score)."""
    draft = path / "scores.part"
    pq.write_table(pa.Table.from_pandas(scores, preserve_index=False), draft, compression="zstd")
    draft.replace(path / "scores.parquet")


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


def _shape(design: Design, items: int, layers: int, d_model: int) -> tuple[int, ...]:
    levels = (len(f.levels) for f in design.factors)
    return (items, *levels, design.n_rounds, len(design.sites), layers, d_model)


def open_run(path: str | Path) -> "Run":
    """The run in a folder; nothing but the manifest is read until it is asked for.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: the manifest is damaged or of another format.
    """
    folder = Path(path)
    return Run(path=folder, manifest=read_manifest(folder))


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """A run on disk; arrays are lazy, tables are read when first asked for.

    A run that is not finished shows the items that are.
    """

    path: Path
    manifest: dict[str, Any]

    @property
    def design(self) -> Design:
        """Factors, rounds and sites."""
        return design_from(self.manifest["study"]["design"])

    @property
    def wording_index(self) -> int:
        """Which of the alternative wordings was played."""
        return int(self.manifest["study"]["wording"]["index"])

    @property
    def task(self) -> str:
        """Which table of the wording the items were asked in."""
        return self._stored[0].task

    @property
    def measures(self) -> tuple[str, ...]:
        """What can be measured of an answer, the main measure first."""
        return tuple(measure.name for measure in self._stored[0].measures)

    def measure(self, name: str) -> BehaviourMeasure:
        """The measure of that name, as the first item has it.

        Raises:
            ValueError: these items have no such measure.
        """
        found = [measure for measure in self._stored[0].measures if measure.name == name]
        if not found:
            raise ValueError(f"these items have no {name!r}; their measures are {', '.join(self.measures)}.")
        return found[0]

    @property
    def names_good(self) -> bool:
        """Whether every item names a good reply, so that there are log-odds of it."""
        return all(item.good is not None for item in self._stored)

    @property
    def fingerprint(self) -> str:
        """Hash over all that makes two runs the same study."""
        return hashlib.sha256(json.dumps(self.manifest["study"], sort_keys=True).encode()).hexdigest()

    @cached_property
    def asked(self) -> dict[str, Item]:
        """The finished items themselves, by id and in their own order."""
        return {self._stored[i].id: self._stored[i] for i in self._order}

    @cached_property
    def _stored(self) -> tuple[Item, ...]:
        items = items_from_jsonl(self.path / "items.jsonl")
        return tuple(item for item in items if not isinstance(item, Statement))

    @cached_property
    def _order(self) -> np.ndarray:
        """Place on disk of each finished item, in the items' own order."""
        size, done = int(self.manifest["batch_size"]), done_batches(self.path)
        ids = [item.id for item in self._stored]
        place = {name: i for i, name in enumerate(ids) if i // size in done}
        return np.array([place[n] for n in self.manifest["order"] if n in place], dtype=np.int64)

    @property
    def complete(self) -> bool:
        """Whether every item was played."""
        return len(self._order) == len(self._stored)

    @cached_property
    def items(self) -> pd.DataFrame:
        """The finished items, one row each, indexed by id."""
        return items_to_frame([self._stored[i] for i in self._order]).set_index("id", drop=False)

    def _array(self, name: str) -> xr.DataArray:
        data = xr.open_zarr(self.path / "arrays.zarr", chunks=None, consolidated=False)
        if name not in data:
            raise ValueError(f"the run in {self.path} has no {name}: its items have no set of replies.")
        array = data[name].isel(item=self._order)
        items = [self._stored[i] for i in self._order]
        coords: dict[str, Any] = {
            "item": [item.id for item in items],
            "cluster": ("item", [item.cluster for item in items]),
            "round": np.arange(self.design.n_rounds),
        }
        coords |= self.design.levels
        if "site" in array.dims:
            coords |= {"site": list(self.design.sites), "layer": np.arange(-1, array.sizes["layer"] - 1)}
        return array.assign_coords(coords)

    @property
    def residuals(self) -> xr.DataArray:
        """Residual stream: item x one dim for each factor x round x site x layer x d_model.

        Layer l is the residual after block l, -1 the embedding; the last block's is before the final norm.
        A missing residual (an empty answer, a segment that is not in the condition) is NaN.
        """
        return self._array("residuals")

    @property
    def option_probabilities(self) -> xr.DataArray:
        """Probability of each reply's sign (letter, digit) as the answer's first token, as a share of all."""
        return self._array("option_probabilities")

    @property
    def option_mass(self) -> xr.DataArray:
        """Share of the whole probability that is on the sign of any reply."""
        return self._array("option_mass")

    def _table(self, name: str) -> pd.DataFrame:
        files = sorted((self.path / name).glob("part-*.parquet"))
        if not files:
            raise ValueError(f"the run in {self.path} has no finished batch yet; run the same command again.")
        table = pd.concat([pq.read_table(f).to_pandas() for f in files], ignore_index=True)
        rank = {item: i for i, item in enumerate(self.items.index)}
        order = np.argsort([rank[item] for item in table["item"]], kind="stable")
        return table.iloc[order].reset_index(drop=True)

    @cached_property
    def answers(self) -> pd.DataFrame:
        """One row for each item, condition and round: what was said and how it was judged."""
        return self._table("answers")

    @cached_property
    def transcripts(self) -> pd.DataFrame:
        """Token ids, token texts and named spans of each dialogue."""
        return self._table("transcripts")

    @property
    def scores(self) -> pd.DataFrame:
        """Scores by judges that were run afterwards.

        Raises:
            ValueError: none was.
        """
        file = self.path / "scores.parquet"
        if not file.is_file():
            raise ValueError(
                f"the run in {self.path} has no scores yet; score its answers with a judge first."
            )
        return pq.read_table(file).to_pandas()

    def select(self, table: pd.DataFrame, item: str, condition: Condition) -> pd.DataFrame:
        """The rows of a table that belong to one dialogue."""
        mask = table["item"] == item
        for name, level in self.design.condition(condition).coords.items():
            mask &= table[name] == level
        return table.loc[mask]

    def __repr__(self) -> str:
        return f"<Run {self.path}: {self._summary()}>"

    def _summary(self) -> str:
        design, model = self.design, self.manifest["study"]["model"]
        state = "" if self.complete else f" of {len(self._stored)} (unfinished)"
        return (
            f"{len(self._order)}{state} items x {len(design.conditions)} conditions x "
            f"{design.n_rounds} rounds, "
            f"{len(design.sites)} sites x {model['n_layers'] + 1} layers x {model['d_model']}, "
            f"model {model['name']}"
        )

    def _repr_html_(self) -> str:
        rows = [("Run", str(self.path)), ("Holds", self._summary())]
        study = self.manifest["study"]
        rows += [
            ("Sites", ", ".join(self.design.sites)),
            ("Wording", f"{study['wording']['name']} #{study['wording']['index']}"),
            ("Feedback", study["feedback"]),
        ]
        if done_batches(self.path):
            parsed = self.answers["parsed"]
            rows.append(("Answers", f"{len(parsed)}, {100 * np.mean(parsed.to_numpy(float)):.1f} % parsed"))
        cells = "".join(
            f"<tr><th style='text-align:left'>{html.escape(k)}</th>"
            f"<td style='text-align:left'>{html.escape(v)}</td></tr>"
            for k, v in rows
        )
        return f"<table>{cells}</table>"
