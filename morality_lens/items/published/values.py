"""What is known of a published data set, as one value: its rows, its licence, its clusters, its quirks."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from morality_lens.items.files import read_rows
from morality_lens.items.kinds import AnyItem, Question, Statement, item_from_row

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a published data set, with where it stands.

    Attributes:
        cells: keys and values as published.
        where: the file and line (or the hub name, split and row), for messages.
        origin: the file's path under the folder that was given, without its suffix; of a hub, configuration
            and split.
        number: of the row within its origin, from one.
        file: the file; None for a hub.
    """

    cells: dict[str, Any]
    where: str
    origin: str
    number: int
    file: Path | None = None

    @property
    def name(self) -> str:
        """A name that no other row of the data set has."""
        return f"{self.origin}/{self.number}"

    def cell(self, *names: str) -> Any:
        """The value of the first of these columns that is there.

        Raises:
            ValueError: none of them is; names those that are.
        """
        for name in names:
            if name in self.cells:
                return self.cells[name]
        raise ValueError(f"{self.where}: the row has no {' or '.join(names)}; it has {list(self.cells)}.")

    def text(self, *names: str) -> str:
        """The same as text without space around it; nothing where the cell is empty or null."""
        value = self.cell(*names)
        return "" if value is None else str(value).strip()

    def index(self, *names: str) -> int:
        """The same as a whole number, such as ``2``, ``2.0`` or the text ``2``.

        Raises:
            ValueError: it is no whole number.
        """
        text = self.text(*names)
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not number.is_integer():
            raise ValueError(f"{self.where}: {' or '.join(names)} must be a whole number; got {text!r}.")
        return int(number)

    def one_of(self, name: str, known: dict[str, T]) -> T:
        """What a cell's text stands for.

        Raises:
            ValueError: another text than the known ones.
        """
        text = self.text(name)
        if text.casefold() not in known:
            raise ValueError(f"{self.where}: {name} must be one of {list(known)}; got {text!r}.")
        return known[text.casefold()]


Placed = tuple[str, AnyItem]
"""An item and its place."""
Reader = Callable[[Iterable[Row], str], list[Placed]]
"""Rows and the name of a subset to the items of that subset."""


def only_language(language: str) -> Callable[[Row], str]:
    """What tells the language of a row of a data set that has one."""
    return lambda row: language


ENGLISH = only_language("en")


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """What is known of a published data set.

    Attributes:
        name: how it is called in :func:`morality_lens.items.load_data`.
        title: its own name.
        kind: what its rows become.
        licence: of the data, as their publisher states it.
        citation: authors, year and where it was published.
        address: where to get it.
        hub: a name on the hub whose rows have the same columns; empty where none is known.
        columns: those that are read.
        cluster: which items are one cluster, and why.
        quirks: what one would not expect.
        languages: their codes.
        subsets: of which one is loaded at a time, the first one where none is named.
        checked: what the schema was compared with.
        files: patterns of its files' paths in a folder.
        folder: a folder in the one that is given that holds the data, where there is one.
        keys: columns by which a file is known as one of it; none where they do not tell.
        reader: from its rows to items.
        language: the language of a row.
        read_file: the rows of a file, with their places.
    """

    name: str
    title: str
    kind: Literal["questions", "ratings", "open prompts", "statements"]
    licence: str
    citation: str
    address: str
    hub: str = ""
    columns: str
    cluster: str
    quirks: str
    languages: tuple[str, ...]
    subsets: tuple[str, ...] = ("all",)
    checked: str
    files: tuple[str, ...]
    folder: str = ""
    keys: frozenset[str] = frozenset()
    reader: Reader
    language: Callable[[Row], str] = ENGLISH
    read_file: Callable[[Path], Iterator[tuple[str, dict[str, Any]]]] = read_rows


def question(row: Row, **fields: Any) -> tuple[str, Question]:
    """A question and its place, checked.

    Raises:
        ValueError: with the place: a value of the wrong type or out of range.
    """
    return row.where, item_from_row(Question, {"unknown": None, "label": None, **fields}, row.where)


def statement(row: Row, **fields: Any) -> tuple[str, Statement]:
    """A statement and its place, checked.

    Raises:
        ValueError: with the place: a value of the wrong type or out of range.
    """
    return row.where, item_from_row(Statement, fields, row.where)
