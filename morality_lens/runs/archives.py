"""The file of one part of a run: a zip archive of arrays, tables and a record that checks itself.

It is written once, whole, and never changed. Its last 64 bytes are the SHA-256 of all before them; every
member has a checksum of its own, by which a partial read is checked too, and the record names all members, so
that a lost one is never read as missing values.
"""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from zarr.codecs import BloscCodec
from zarr.storage import MemoryStore, ZipStore

from morality_lens.items.files import replace_file
from morality_lens.runs.datasets import refuse_foreign_arrays

ARRAYS = "arrays"
RECORD = "record.json"
TABLES = ("answers", "transcripts")
_DIGEST = 64
_OPEN = 128
"""Archives that are kept open."""


class DamagedError(ValueError):
    """A file of a run that is not what was written."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Stored:
    """An array of a part.

    Attributes:
        values: the array.
        dims: names of its dimensions.
        chunks: sizes of what is read in one piece.
    """

    values: np.ndarray
    dims: tuple[str, ...]
    chunks: tuple[int, ...]


def write_archive(
    file: Path, *, arrays: Mapping[str, Stored], tables: Mapping[str, pd.DataFrame], record: Mapping[str, Any]
) -> Path:
    """The archive, replaced whole, on disk before it has its name."""
    held: dict = {}
    group = zarr.create_group(MemoryStore(held), path=ARRAYS, zarr_format=3)
    for name, stored in arrays.items():
        array = group.create_array(
            name,
            shape=stored.values.shape,
            chunks=stored.chunks,
            dtype=stored.values.dtype,
            compressors=BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"),
            fill_value=float("nan"),
            dimension_names=stored.dims,
            config={"write_empty_chunks": True},
        )
        array[...] = stored.values
    members = {name: held[name].to_bytes() for name in sorted(held)}
    for name, table in tables.items():
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pandas(table, preserve_index=False), sink, compression="zstd")
        members[f"{name}.parquet"] = sink.getvalue()
    told = {**record, "members": sorted(members)}
    members[RECORD] = json.dumps(told, ensure_ascii=False).encode()
    return replace_file(file, lambda draft: _write_zip(draft, members))


def _write_zip(draft: Path, members: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(draft, "w") as archive:
        archive.comment = b"0" * _DIGEST
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    with draft.open("r+b") as opened:
        digest, _ = _digest(opened)
        opened.seek(-_DIGEST, io.SEEK_END)
        opened.write(digest)


def _digest(opened: Any) -> tuple[bytes, bytes]:
    """The SHA-256 of all but the last bytes of a file, and those."""
    size = opened.seek(0, io.SEEK_END) - _DIGEST
    opened.seek(0)
    hashed, left = hashlib.sha256(), size
    while left > 0:
        block = opened.read(min(left, 1 << 20))
        if not block:
            break
        hashed.update(block)
        left -= len(block)
    return hashed.hexdigest().encode(), opened.read(_DIGEST)


def check_archive(file: Path) -> dict[str, Any]:
    """The record of an archive every byte of which was checked.

    Raises:
        DamagedError: it is not what was written.
    """
    with reading(file), file.open("rb") as opened:
        digest, told = _digest(opened)
    if digest != told:
        raise DamagedError(f"{file} is damaged: its bytes have another checksum than when it was written.")
    return read_record(file)


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Within it, whatever goes wrong in reading the file says that it is damaged.

    Raises:
        DamagedError: in place of errors of the readers of zip archives, arrays and tables.
    """
    try:
        yield
    except DamagedError:
        raise
    except FileNotFoundError as error:
        raise DamagedError(f"{file} is gone; the same command plays it again.") from error
    except _ERRORS as error:
        raise DamagedError(
            f"{file} is damaged ({type(error).__name__}: {error}); the same command plays it again, and "
            "morality-lens verify says what else is damaged."
        ) from error


_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    pa.ArrowException,
    OSError,
    EOFError,
    KeyError,
    ValueError,
    RuntimeError,
    NotImplementedError,
)


def read_record(file: Path) -> dict[str, Any]:
    """The record that was written with an archive.

    Raises:
        DamagedError: it is damaged.
    """
    with reading(file), zipfile.ZipFile(file) as archive:
        record = json.loads(archive.read(RECORD))
        there = set(archive.namelist()) - {RECORD}
        if there != set(record["members"]):
            raise DamagedError(f"{file} is damaged: parts of it are missing or have other names.")
        return record


def refuse_foreign(file: Path, record: Mapping[str, Any], owner: Mapping[str, Any]) -> None:
    """Nothing, where an archive holds what its name says.

    Args:
        file: the archive.
        record: its record.
        owner: the run, items and rounds that it should belong to, as a record names them.

    Raises:
        DamagedError: it is a copy of another one.
    """
    if {name: record.get(name) for name in owner} != dict(owner):
        raise DamagedError(f"{file} belongs to another run, or to other items or rounds of this one.")


def read_table(file: Path, name: str, owner: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """A table of an archive that belongs to ``owner``, see :func:`refuse_foreign`.

    Raises:
        DamagedError: it is damaged, or belongs to another run or to other items or rounds.
    """
    if owner is not None:
        refuse_foreign(file, read_record(file), owner)
    with reading(file), zipfile.ZipFile(file) as archive:
        return pq.read_table(io.BytesIO(archive.read(f"{name}.parquet"))).to_pandas()


def open_arrays(file: Path, owner: Mapping[str, Any] | None = None) -> zarr.Group:
    """The arrays of an archive that belongs to ``owner``, see :func:`refuse_foreign`; none of them is read.

    Raises:
        DamagedError: it is damaged, holds something else than arrays of numbers, or belongs to another run or
            to other items or rounds.
    """
    with reading(file):
        group, record = _open_arrays(file, file.stat().st_mtime_ns)
    if owner is not None:
        refuse_foreign(file, record, owner)
    return group


@lru_cache(maxsize=_OPEN)
def _open_arrays(file: Path, _: int) -> tuple[zarr.Group, dict[str, Any]]:
    record = read_record(file)
    refuse_foreign_arrays(file, zarr_format=3)
    return zarr.open_group(ZipStore(file, mode="r"), path=ARRAYS, mode="r", zarr_format=3), record
