"""Results of any shape on disk, one file each: a zip archive of zarr arrays, replaced whole."""

import importlib.util
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from io import BufferedIOBase
from pathlib import Path
from typing import IO, Any

import xarray as xr
from zarr.storage import MemoryStore, ZipStore

from morality_lens.items.files import parse_json, reading, replace_file

SUFFIX = ".zarr.zip"
OPTION_SCORES = "option_scores"
"""Name of the result, in a run's folder, that holds the scores of its options' full texts."""
OLD_SUFFIX = ".nc"
"""What earlier versions wrote: netCDF, which only the package netcdf4 reads."""


def write_dataset(file: Path, data: xr.Dataset) -> Path:
    """The file, whose name ends in :data:`SUFFIX`, with every value and attribute of ``data`` in it."""
    plain = data.copy()
    for variable in plain.variables:
        plain[variable].encoding = {}
    held: dict = {}
    # Version 2 of the format has a specification of texts, and version 3 has none yet.
    plain.to_zarr(MemoryStore(held), mode="w", zarr_format=2, consolidated=False)

    def write(draft: Path) -> None:
        with zipfile.ZipFile(draft, "w") as archive:
            for name in sorted(held):
                archive.writestr(name, held[name].to_bytes())

    return replace_file(file, write)


def find_dataset(folder: Path, name: str) -> Path | None:
    """The file that holds a result of that name, of this version or of an earlier one; None without one."""
    for suffix in (SUFFIX, OLD_SUFFIX):
        file = folder / f"{name}{suffix}"
        if file.is_file():
            return file
    return None


def read_dataset(file: Path) -> xr.Dataset:
    """What :func:`write_dataset` wrote, in memory; a netCDF file of an earlier version too.

    Raises:
        ModuleNotFoundError: a netCDF file, and nothing that reads it is installed.
        ValueError: the file is damaged, or holds arrays that this package does not write.
    """
    if file.suffix == OLD_SUFFIX:
        if importlib.util.find_spec("netCDF4") is None:
            raise ModuleNotFoundError(
                f"{file} was written by an earlier version and needs the package netcdf4 to be read: "
                "pip install netcdf4"
            )
        return xr.load_dataset(file, engine="netcdf4")
    with reading(file, "result of this package", "remove it, or make it again."):
        refuse_foreign_arrays(file, zarr_format=2)
        with ZipStore(file, mode="r") as store:
            data = xr.open_zarr(store, chunks=None, consolidated=False, zarr_format=2).load()
    texts = {str(n): v.astype(object) for n, v in data.variables.items() if v.dtype.kind == "T"}
    return data.assign({n: v for n, v in texts.items() if n not in data.coords}).assign_coords(
        {n: v for n, v in texts.items() if n in data.coords}
    )


# ---------------------------------------------------------------------------------------- strangers' files
NUMBERS = re.compile(r"[<>|](b1|[iu][1248]|f[248])")
TEXTS = re.compile(r"[<>|][US]\d{1,5}")
"""Types of version 2 of the format that are read."""
VALUES = {
    "bool",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    *(f"float{bits}" for bits in (16, 32, 64)),
    "string",
}
"""Types of version 3 that are read."""
COMPRESSORS = {"blosc", "zstd", "gzip", "zlib", "lz4"}
CODECS = {"bytes", "vlen-utf8", "transpose", "crc32c", "sharding_indexed", *COMPRESSORS}
"""Codecs that are read: each makes numbers and texts of bytes, and nothing else of them."""
MOST_METADATA = 4_000_000
"""The most bytes of one array's description."""
DESCRIPTIONS = {2: (".zarray", ".zgroup", ".zattrs", ".zmetadata"), 3: ("zarr.json",)}
"""Names of the files that describe arrays and groups, by version of the format."""


def refuse_foreign_arrays(file: Path, *, zarr_format: int) -> None:
    """Nothing, where an archive or a folder holds arrays of numbers and texts alone; no array is opened.

    Args:
        file: a zip archive of zarr arrays, or the folder that they lie in.
        zarr_format: the version of the format that this package writes there.

    Raises:
        ValueError: another version of the format, a type or codec that this package does not write (objects
            and pickles, which run what they hold, among them), or a description that cannot be read.
    """
    own = DESCRIPTIONS[zarr_format]
    known = {name for names in DESCRIPTIONS.values() for name in names}
    for name, described in _descriptions(file, known):
        if name.rpartition("/")[2] not in own:
            raise ValueError(
                f"{file}: {name} is of another version of the format than {zarr_format}, which is read here."
            )
        where = f"{file}: {name}"
        refuse_foreign_array(parse_json(described, where, nan=True), where)


def _descriptions(file: Path, known: set[str]) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every file in an archive or folder that describes arrays."""
    if file.is_dir():
        for path in sorted(path for path in file.rglob("*") if path.name in known):
            with path.open("rb") as opened:
                yield path.relative_to(file).as_posix(), _few_bytes(opened, file)
        return
    with zipfile.ZipFile(file) as archive:
        names = Counter(archive.namelist())
        for name, count in names.items():
            if count > 1:
                raise ValueError(f"{file}: {name} is there twice.")
            if name.rpartition("/")[2] in known:
                with archive.open(name) as opened:
                    yield name, _few_bytes(opened, file)


def _few_bytes(opened: IO[bytes] | BufferedIOBase, file: Path) -> bytes:
    found = opened.read(MOST_METADATA + 1)
    if len(found) > MOST_METADATA:
        raise ValueError(f"{file}: the description of an array is longer than {MOST_METADATA:,} bytes.")
    return found


def refuse_foreign_array(described: Any, where: str) -> None:
    """Nothing, where the description of an array or group, as its JSON says, is one that is read.

    Raises:
        ValueError: see :func:`refuse_foreign_arrays`.
    """
    if not isinstance(described, Mapping):
        raise ValueError(f"{where}: no description of an array or group.")
    if "dtype" in described:  # version 2
        filters = described.get("filters") or []
        codecs = [described.get("compressor"), *(filters if isinstance(filters, list) else [filters])]
        names = [_name(codec) for codec in codecs if codec is not None]
        _refuse_codecs(names, COMPRESSORS | {"vlen-utf8"}, where)
        _refuse_type(described["dtype"], texts="vlen-utf8" in names, where=where)
    elif "data_type" in described:  # version 3
        if not isinstance(described["data_type"], str) or described["data_type"] not in VALUES:
            raise _foreign(where, "type", described["data_type"])
        if described.get("storage_transformers"):
            raise _foreign(where, "storage transformer", described["storage_transformers"])
        _refuse_codecs(_nested(described.get("codecs")), CODECS, where)


def _refuse_type(dtype: Any, *, texts: bool, where: str) -> None:
    """Refuse a type of version 2; objects are read as texts alone."""
    known = isinstance(dtype, str) and (NUMBERS.fullmatch(dtype) or TEXTS.fullmatch(dtype))
    if not known and not (dtype == "|O" and texts):
        raise _foreign(where, "type", dtype)


def _nested(codecs: Any) -> list[str]:
    """The names of codecs, those inside a shard too."""
    found = []
    for codec in codecs if isinstance(codecs, list) else [codecs]:
        found.append(_name(codec))
        inside = codec.get("configuration") if isinstance(codec, Mapping) else None
        if isinstance(inside, Mapping):
            for key in ("codecs", "index_codecs"):
                found += _nested(inside[key]) if key in inside else []
    return found


def _name(codec: Any) -> str:
    """What a codec calls itself, in either version."""
    if isinstance(codec, Mapping):
        return str(codec.get("id", codec.get("name")))
    return str(codec)


def _refuse_codecs(names: list[str], known: set[str], where: str) -> None:
    for name in names:
        if name not in known:
            raise _foreign(where, "codec", name)


def _foreign(where: str, what: str, found: Any) -> ValueError:
    return ValueError(
        f"{where}: the {what} {str(found)[:60]!r} is none that this package writes, and it may run what the "
        "file holds, so the file is not read."
    )
