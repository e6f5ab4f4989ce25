"""Results of any shape on disk, one file each: a zip archive of zarr arrays, replaced whole."""

import importlib.util
import zipfile
from pathlib import Path

import xarray as xr
from zarr.storage import MemoryStore, ZipStore

from morality_lens.items.files import replace_file

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
    """
    if file.suffix == OLD_SUFFIX:
        if importlib.util.find_spec("netCDF4") is None:
            raise ModuleNotFoundError(
                f"{file} was written by an earlier version and needs the package netcdf4 to be read: "
                "pip install netcdf4"
            )
        return xr.load_dataset(file, engine="netcdf4")
    with ZipStore(file, mode="r") as store:
        data = xr.open_zarr(store, chunks=None, consolidated=False).load()
    texts = {str(n): v.astype(object) for n, v in data.variables.items() if v.dtype.kind == "T"}
    return data.assign({n: v for n, v in texts.items() if n not in data.coords}).assign_coords(
        {n: v for n, v in texts.items() if n in data.coords}
    )
