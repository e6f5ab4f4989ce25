"""Files read with the place of every row, TOML checked against a model, and files replaced whole."""

import ast
import csv
import gzip
import hashlib
import io
import json
import os
import re
import secrets
import stat
import tomllib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
_TABLES = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
"""Suffixes of tables, and what parts their cells."""


ROWS = (".jsonl", ".ndjson", ".parquet", ".csv", ".tsv", ".tab", ".json")
"""Suffixes of files of rows; in a folder without the first kind of them the next is taken."""


def kind_of(file: Path) -> str:
    """The suffix of a file, or of what is in it where it is compressed (``.gz``)."""
    return Path(file.stem).suffix if file.suffix == ".gz" else file.suffix


def data_files(path: str | Path, suffixes: tuple[str, ...] = (".jsonl",)) -> tuple[Path, ...]:
    """The file itself, or a folder's files with these suffixes in the order of their names.

    Files may be compressed (``.jsonl.gz``). A folder that has none with these suffixes gives its files of
    the first other kind of rows that it has, see :data:`ROWS`.

    Raises:
        FileNotFoundError: no such file or folder, or a folder without such files.
    """
    path = Path(path)
    if path.is_file():
        return (path,)
    if not path.is_dir():
        raise FileNotFoundError(f"{path} does not exist: give the path of a file or of a folder with files.")
    there = sorted(file for file in path.iterdir() if file.is_file())
    for wanted in (suffixes, *((kind,) for kind in ROWS)):
        if files := tuple(file for file in there if kind_of(file) in wanted):
            return files
    kinds = " or ".join(dict.fromkeys((*suffixes, *ROWS)))
    raise FileNotFoundError(f"the folder {path} has no {kinds} file: give the folder that holds the data.")


def place(file: Path, line: int) -> str:
    """How an error names a row: file and line number, counted from one."""
    return f"{file}, line {line}"


def read_jsonl(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row's place and its object; blank lines are passed over.

    Raises:
        ValueError: a line that is no JSON object, text that is not UTF-8, a NaN, a key that is there twice,
            or no row at all.
    """
    empty = True
    with opened(file) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = place(file, number)
            row = parse_json(line, where, "a line of JSON")
            if not isinstance(row, dict):
                raise ValueError(f"{where}: each line must hold a JSON object; got {type(row).__name__}.")
            empty = False
            yield where, row
    if empty:
        raise ValueError(f"{file} has no rows.")


def opened(file: Path) -> gzip.GzipFile | io.BufferedReader:
    """The bytes of a file, decompressed; of a damaged one, reading them is an error that names the file."""
    return _Unpacked(file, "rb") if file.suffix == ".gz" else file.open("rb")


class _Unpacked(gzip.GzipFile):
    """A compressed file; where it is damaged, one error names it."""

    def read(self, size: int | None = -1) -> bytes:
        with self._reading():
            return super().read(size)

    def read1(self, size: int = -1) -> bytes:
        with self._reading():
            return super().read1(size)

    def readline(self, size: int | None = -1) -> bytes:
        with self._reading():
            return super().readline(size)

    def _reading(self) -> AbstractContextManager[None]:
        return reading(Path(self.name), "gzip file", "give another copy, or the file without compression")


def read_array(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each entry's place and its object, of a JSON array; a file that begins otherwise is read by its lines.

    Raises:
        ValueError: no JSON, an entry that is no object, or none at all.
    """
    with opened(file) as bytes_:
        whole = bytes_.read()
    if not whole.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"["):
        yield from read_jsonl(file)
        return
    entries = parse_json(whole, file, "a JSON array")
    for number, row in enumerate(entries, start=1):
        where = f"{file}, entry {number}"
        if not isinstance(row, dict):
            raise ValueError(f"{where}: each entry must be a JSON object; got {type(row).__name__}.")
        yield where, row
    if not entries:
        raise ValueError(f"{file} has no rows.")


def read_parquet(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row's place (from one) and its values, of a Parquet file, read in batches.

    Raises:
        ValueError: no Parquet file, or no row.
    """
    from pyarrow import parquet

    number = 0
    with reading(file, "Parquet file", "give another copy"):
        for batch in parquet.ParquetFile(file).iter_batches(1024):
            for row in batch.to_pylist():
                number += 1
                yield f"{file}, row {number}", row
    if not number:
        raise ValueError(f"{file} has no rows.")


def parse_json(text: str | bytes, where: object, what: str = "JSON", *, nan: bool = False) -> Any:
    """The value that a JSON text holds.

    Args:
        text: the text, or its bytes in UTF-8, with or without a byte order mark.
        where: the file or row, for messages.
        what: what was wanted, for messages.
        nan: whether NaN and Infinity are numbers, as Python writes them.

    Raises:
        ValueError: it is no JSON or no UTF-8, is nested too deeply, or holds a key twice, a NaN or half of a
            surrogate pair, which no file can hold.
    """
    try:
        plain = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        value = json.loads(
            plain, parse_constant=None if nan else _refuse_constant, object_pairs_hook=_refuse_twice
        )
        if _HALF.search(plain):
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = ascii(error.object[error.start])
        raise ValueError(f"{where}: it holds half of a character ({half}), which is no text.") from error
    except RecursionError:
        raise ValueError(f"{where}: not {what} (it is nested too deeply).") from None
    except ValueError as error:
        raise ValueError(f"{where}: not {what} ({error}).") from error
    return value


_HALF = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")


@contextmanager
def reading(file: Path, what: str, advice: str) -> Iterator[None]:
    """Inside, whatever a damaged or foreign file makes its reader raise is one error that names the file.

    Args:
        file: what is read.
        what: what it should be.
        advice: what to do.

    Raises:
        ValueError: reading failed. Missing files, packages and memory are errors of their own, and so is one
            that names the file already.
    """
    try:
        yield
    except (FileNotFoundError, PermissionError, ImportError, MemoryError):
        raise
    except Exception as error:
        said = first_line(error)
        if isinstance(error, ValueError) and said.startswith(str(file)):
            raise
        raise ValueError(f"{file} is damaged or no {what} ({said}); {advice}") from error


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its type where it says nothing."""
    lines = str(error).strip().splitlines()
    said = lines[0] if lines else ""
    return f"{type(error).__name__}: {said}" if isinstance(error, LookupError) or not said else said


def read_json(file: Path) -> Any:
    """The value in a JSON file of this package, in which NaN is a number.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: see :func:`parse_json`.
    """
    return parse_json(file.read_bytes(), file, nan=True)


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} is there twice")
    return found


def read_table(file: Path, *, quoted: bool = True) -> Iterator[tuple[str, dict[str, str]]]:
    """Each row's place (its last line, where a cell has line breaks) and its cells, all as text.

    A row that is shorter than the header has empty cells at its end. ``.tsv`` and ``.tab`` files are
    split at tabs, all others at commas.

    Args:
        file: a CSV or TSV file whose first line names the columns.
        quoted: whether a double quote opens a cell that may hold separators and line breaks.

    Raises:
        ValueError: a column named twice, a row longer than the header, a stray quote, text that is not UTF-8,
            or no row.
    """
    delimiter = _TABLES.get(kind_of(file), ",")
    with io.TextIOWrapper(opened(file), encoding="utf-8-sig", newline="") as lines:
        if quoted:
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
        else:
            reader = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
        try:
            header = next(reader, [])
            twice = sorted({name for name in header if name and header.count(name) > 1})
            if twice:
                raise ValueError(
                    f"{place(file, 1)}: the columns {twice} are there twice; remove one of each."
                )
            empty = True
            for cells in reader:
                if not any(cells):
                    continue
                where = place(file, reader.line_num)
                if len(cells) > len(header):
                    raise ValueError(
                        f"{where}: the row has {len(cells)} cells and the header {len(header)}; "
                        "quote cells that hold a separator."
                    )
                empty = False
                yield where, dict(zip(header, cells + [""] * (len(header) - len(cells)), strict=True))
        except csv.Error as error:
            hint = " If quotes are ordinary characters in this file, pass quoted=False." if quoted else ""
            raise ValueError(f"{place(file, reader.line_num)}: {error}.{hint}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{place(file, reader.line_num + 1)}: not UTF-8 text ({error}).") from error
    if empty:
        raise ValueError(f"{file} has no rows.")


def python_value(value: Any) -> Any:
    """What a cell holds: a text that is a value as Python or JSON writes it, as that value; else itself."""
    if not isinstance(value, str):
        return value
    for parse in (ast.literal_eval, json.loads):
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            return parse(value.strip())
    return value


_UNPARTED = re.compile(r"""(?<=[^\s,(\[])(['"])\s+(?=['"])""")
"""Two texts of a list without a comma, as arrays are printed: Python would read them as one."""


def texts_in(value: Any, what: str, where: str) -> list[str]:
    """The texts of a list, also of one that a cell holds as text, without space around them.

    Args:
        value: the list, or a text such as ``['old', 'young']``.
        what: what it is called, for messages.
        where: the row, for messages.

    Raises:
        ValueError: it is no list of texts.
    """
    found = None if isinstance(value, str) and _UNPARTED.search(value) else python_value(value)
    if not isinstance(found, list | tuple) or not all(isinstance(one, str) for one in found):
        raise ValueError(f"{where}: {what} must be a list of texts, as in ['one', 'two']; got {value!r}.")
    return [one.strip() for one in found]


def columns_of(file: Path) -> tuple[str, ...]:
    """The columns that the first line of a CSV or TSV file names; none of another file."""
    if kind_of(file) not in _TABLES:
        return ()
    with io.TextIOWrapper(opened(file), encoding="utf-8-sig", errors="replace") as lines:
        first = lines.readline().strip("\r\n")
    return tuple(cell.strip('"') for cell in first.split(_TABLES[kind_of(file)]))


def read_rows(file: Path, *, quoted: bool = True) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a file by its suffix: JSON lines, a JSON array, CSV, TSV (also as .gz), or Parquet."""
    kind = kind_of(file)
    if kind in _TABLES:
        return read_table(file, quoted=quoted)
    if kind in (".jsonl", ".ndjson"):
        return read_jsonl(file)
    if kind == ".json":
        return read_array(file)
    if file.suffix == ".parquet":
        return read_parquet(file)
    raise ValueError(f"{file}: expected one of {', '.join(ROWS)}; got the suffix {file.suffix!r}.")


def refuse_duplicates(placed: Iterable[tuple[str, str]]) -> None:
    """Nothing, where every id is there once.

    Args:
        placed: (place, id) of every row, over all files.

    Raises:
        ValueError: an id that is there twice, with both places.
    """
    seen: dict[str, str] = {}
    for where, name in placed:
        if name in seen:
            raise ValueError(f"{where}: the id {name!r} was used before ({seen[name]}); ids must be unique.")
        seen[name] = where


def refuse_missing(row: dict[str, Any], columns: Iterable[str], where: str) -> None:
    """Nothing, where the row has all these columns.

    Raises:
        ValueError: a column is missing; names those that are there.
    """
    missing = [column for column in columns if column not in row]
    if missing:
        raise ValueError(f"{where}: the row has no {missing}; it has {list(row)}.")


def spread(
    values: Sequence[T], limit: int | None, seed: int, group: Callable[[T], Hashable]
) -> tuple[T, ...]:
    """At most ``limit`` values, drawn from as many groups as possible, in their own order.

    Groups and the values inside each are shuffled; one value of each group is taken in turn. Under one
    seed a smaller sample is part of every larger one.

    Raises:
        ValueError: a limit below one.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, or None for everything; got {limit}.")
    if limit is None or limit >= len(values):
        return tuple(values)
    rng = np.random.default_rng(seed)
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for index, value in enumerate(values):
        groups[group(value)].append(index)
    shuffled = [rng.permutation(members) for members in groups.values()]
    order = [
        (turn, position, int(index))
        for position, which in enumerate(rng.permutation(len(shuffled)))
        for turn, index in enumerate(shuffled[which])
    ]
    return tuple(values[index] for index in sorted(index for _, _, index in sorted(order)[:limit]))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number: leave the key out, or write null")


def read_toml(file: Path, model: type[M], wanted: str) -> M:
    """The values of a TOML file, checked against a pydantic model.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no TOML, or an entry is missing, unknown, there twice or of the wrong kind.
    """
    if not file.is_file():
        raise FileNotFoundError(f"no file at {file}; give a {wanted}.")
    try:
        return model.model_validate(tomllib.loads(file.read_bytes().decode("utf-8-sig")))
    except ValidationError as error:
        raise ValueError(f"{file} is no {wanted}: {problems(error)}.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text ({error}).") from error
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file} is not valid TOML: {error}.") from error
    except RecursionError:
        raise ValueError(f"{file} is no {wanted}: it is nested too deeply.") from None


def problems(error: ValidationError) -> str:
    """What a pydantic model found wrong, with the place of each entry."""
    return "; ".join(
        f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg'].removeprefix('Value error, ').rstrip('.')}"
        for e in error.errors()
    )


# --------------------------------------------------------------------------------------------- writing
def replace_file(path: Path, write: Callable[[Path], object]) -> Path:
    """The file, replaced whole: at every moment it is the old one or the new one, never a part of it.

    A symbolic link of that name is replaced; what it points to stays as it was. The file may be read by whom
    the process's umask allows to.

    Args:
        path: the file, in a folder that exists.
        write: writes the new content to the path it is given, an empty draft in the same folder. The draft is
            on disk before it takes the file's name, and is removed where writing fails.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    mode = _create(draft)
    try:
        write(draft)
        if stat.S_IMODE(draft.lstat().st_mode) != mode:  # some writers replace the draft by a file of theirs
            draft.chmod(mode)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return path


_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


def _create(draft: Path) -> int:
    """Make an empty file that was not there before, under no link; its mode, as the umask leaves it."""
    handle = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY | _NO_LINK, 0o666)
    try:
        return stat.S_IMODE(os.fstat(handle).st_mode)
    finally:
        os.close(handle)


def append_text(path: Path, text: str) -> None:
    """Add text to the end of a file, made where there is none, and wait until it is on disk.

    Raises:
        ValueError: the file is a symbolic link.
    """
    _refuse_link(path)
    handle = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY | _NO_LINK, 0o666)
    with os.fdopen(handle, "a", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def own_folder(path: Path) -> Path:
    """The folder inside a run's or study's folder, made where there is none.

    Raises:
        ValueError: it is a symbolic link, so that what is written would land somewhere else.
    """
    _refuse_link(path)
    path.mkdir(exist_ok=True)
    return path


def file_hash(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def set_aside(path: Path) -> None:
    """Rename a damaged file, so that what it held is made again; nothing where another process did so."""
    with suppress(FileNotFoundError):
        path.rename(path.with_name(f"{path.name}.{secrets.token_hex(4)}.damaged"))


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise ValueError(
            f"{path} is a symbolic link, and nothing is written through one; put the file or folder itself "
            "there, or remove the link."
        )


def write_text(path: Path, text: str, *, errors: str = "strict") -> Path:
    """The UTF-8 file, replaced whole; ``errors`` as :func:`open` takes it."""
    return replace_file(path, lambda draft: draft.write_text(text, encoding="utf-8", errors=errors))


def write_json(path: Path, value: Any, *, indent: int | None = 1) -> Path:
    """The JSON file, replaced whole."""
    return write_text(path, json.dumps(value, indent=indent, ensure_ascii=False) + "\n")
