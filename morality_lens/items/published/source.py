"""The rows of a published data set: from its files, in folders as published, or from a hub."""

from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

from morality_lens.items.files import first_line, kind_of
from morality_lens.items.published.values import DataSet, Row

_PREFERRED = (".jsonl", ".ndjson", ".json", ".parquet", ".csv", ".tsv", ".tab")
"""Of files that hold the same in several formats, the first of these kinds is read."""


def files_of(data_set: DataSet, path: Path) -> tuple[Path, ...]:
    """The files of a data set: the file itself, or those of a folder and the folders in it.

    Where a folder holds the same file in several formats, one is read.

    Raises:
        FileNotFoundError: a folder without files of this data set.
    """
    if path.is_file():
        return (path,)
    folder = path / data_set.folder
    root = folder if data_set.folder and folder.is_dir() else path
    chosen: dict[str, Path] = {}
    for file in sorted(root.rglob("*")):
        inside = file.relative_to(root)
        if not file.is_file() or any(part.startswith(".") for part in inside.parts):
            continue
        if not any(fnmatch(_plain_name(inside), pattern) for pattern in data_set.files):
            continue
        known = chosen.setdefault(origin_of(file, root), file)
        if _rank(file) < _rank(known):
            chosen[origin_of(file, root)] = file
    if not chosen:
        raise FileNotFoundError(
            f"the folder {path} has no file of {data_set.title} ({', '.join(data_set.files)}); get it from "
            f"{data_set.address}, or give one file."
        )
    return tuple(chosen.values())


def _plain_name(inside: Path) -> str:
    return inside.as_posix().removesuffix(".gz")


def _rank(file: Path) -> int:
    return _PREFERRED.index(kind_of(file)) if kind_of(file) in _PREFERRED else len(_PREFERRED)


def origin_of(file: Path, root: Path) -> str:
    """The file's path under a folder (its name, if it is given itself) without the suffixes of its format."""
    inside = file.name if file == root else file.relative_to(root).as_posix()
    plain = inside.removesuffix(".gz")
    kind = Path(plain).suffix
    return plain.removesuffix(kind) if kind in _PREFERRED else plain


def rows_of_files(data_set: DataSet, path: Path) -> Iterator[Row]:
    """The rows of a data set's files.

    Raises:
        FileNotFoundError: a folder without files of this data set.
        ValueError: with file and line: what cannot be read.
    """
    for file in files_of(data_set, path):
        origin = origin_of(file, path)
        for number, (where, cells) in enumerate(data_set.read_file(file), start=1):
            yield Row(cells=cells, where=where, origin=origin, number=number, file=file)


def rows_of_hub(name: str) -> Iterator[Row]:
    """The rows of a data set on a hub (or of a local folder laid out like one), read by ``datasets``.

    Args:
        name: ``owner/name`` for every configuration, or ``owner/name:configuration`` for one.

    Raises:
        ImportError: ``datasets`` is not installed.
        ValueError: it cannot be read.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            f"reading {name} from a hub needs the package datasets: pip install "
            "'morality-lens[datasets]', or download the files and give their folder."
        ) from error
    place, _, configuration = name.partition(":")
    try:
        wanted = [configuration] if configuration else datasets.get_dataset_config_names(place)
        loaded = {one: datasets.load_dataset(place, one) for one in wanted}
    except Exception as error:
        raise ValueError(
            f"{name} could not be read from the hub ({first_line(error)}); check the name, or download the "
            "files and give their folder."
        ) from error
    for one, splits in loaded.items():
        yield from _rows_of_splits(place, one, splits.items())


def _rows_of_splits(place: str, one: str, splits: Iterable) -> Iterator[Row]:
    for split, table in splits:
        for number, cells in enumerate(table, start=1):
            where = f"{place}, {one}, {split}, row {number}"
            yield Row(cells=dict(cells), where=where, origin=f"{one}/{split}", number=number)
