"""Items by the name of a published data set, or from a file of any known kind."""

import re
from collections.abc import Hashable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from morality_lens.items.bbq import load_bbq
from morality_lens.items.files import data_files, read_rows
from morality_lens.items.kinds import AnyItem, Statement, draw
from morality_lens.items.loaders import load_prompts, load_questions, load_ratings
from morality_lens.items.published.catalogue import DATA_SETS, named, recognised
from morality_lens.items.published.source import rows_of_files, rows_of_hub
from morality_lens.items.published.values import DataSet, Row


def load_data(
    name_or_path: str | Path,
    where: str | Path | None = None,
    *,
    subset: str | None = None,
    language: str | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> tuple[AnyItem, ...]:
    """Items of a published data set, by its name, or of a file of any known kind.

    By name: ``load_data("mbbq", "MBBQ", language="es")`` reads the data set's files in the folder ``MBBQ``
    and the folders in it, as they were published. What is known of each data set (its address, licence,
    clusters and quirks) is the table :func:`data_sets`. Nothing is fetched, unless ``where`` is a name on
    the hub and no path: ``owner/name``, or ``owner/name:configuration``, which needs the extra ``datasets``.

    From a file or folder alone, its kind is told by the keys of the first row: BBQ (``ans0``),
    RealToxicityPrompts (``prompt``), questions of your own (``options``), ratings (``low_label``) or open
    prompts (``text``), each read by its loader with that loader's defaults, and the published data sets
    whose columns tell them.

    Args:
        name_or_path: the name of a data set, in upper or lower case, or a file or folder.
        where: of a data set by name, its file, its folder, or its name on the hub.
        subset: which subset of a published data set, for example ``disambiguated``; its first one by default.
        language: of a data set in several, the code of the only one to keep; ``zh`` keeps ``zh-hans`` too.
        limit: draw at most this many, spread over the clusters (of statements, over both labels too).
        seed: seed of that draw.

    Raises:
        FileNotFoundError: no such file; or a data set by name without ``where``, with its address.
        ImportError: a name on the hub without the extra ``datasets``.
        ValueError: no such data set, subset or language, rows of no known kind, or what the loader refuses,
            with file and line.

    Examples:
        >>> file = folder / "prompts.jsonl"
        >>> _ = file.write_text('{"id": "p1", "text": "The baker looked up and"}')
        >>> [item] = ml.items.load_data(file)
        >>> type(item).__name__
        'OpenPrompt'
        >>> rows = "label,input,is_short,edited\\n1,I kept the purse I found.,True,False\\n"
        >>> file = folder / "cm_test.csv"
        >>> _ = file.write_text(rows)
        >>> [statement] = ml.items.load_data("ethics", file, subset="commonsense")
        >>> statement.label
        0
    """
    asked = _Asked(subset=subset, language=language, limit=limit, seed=seed)
    if where is not None:
        return _published(named(str(name_or_path)), where, asked)
    path = Path(name_or_path)
    if not path.exists():
        _refuse_name_alone(str(name_or_path))
    file = data_files(path)[0]
    place, row = next(read_rows(file))
    chosen = recognised(file, row)
    if chosen is not None and (asked.narrowed or "ans0" not in row or chosen.name != "bbq"):
        return _published(chosen, path, asked)
    if asked.narrowed:
        raise ValueError(
            f"{place}: subset and language are those of a published data set, and these rows, with the keys "
            f"{sorted(row)}, are of none that is known by them; give its name before its path."
        )
    if chosen is not None:
        return load_bbq(path, limit=limit, seed=seed)
    if "options" in row:
        return load_questions(path, limit=limit, seed=seed)
    if "low_label" in row:
        return load_ratings(path, limit=limit, seed=seed)
    if "prompt" in row or "text" in row:
        return load_prompts(path, limit=limit, seed=seed)
    raise ValueError(
        f"{place}: rows of an unknown kind, with the keys {sorted(row)}. Known are BBQ (ans0, ans1, ans2), "
        "RealToxicityPrompts (prompt), questions (options), ratings (low_label) and open prompts (text); a "
        f"published data set is read by its name, one of {', '.join(DATA_SETS)}."
    )


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """Which items of a data set, and how many; see :func:`load_data`."""

    subset: str | None
    language: str | None
    limit: int | None
    seed: int

    @property
    def narrowed(self) -> bool:
        return self.subset is not None or self.language is not None


def _refuse_name_alone(name: str) -> NoReturn:
    chosen = DATA_SETS.get(name.casefold())
    if chosen is None:
        raise FileNotFoundError(
            f"{name} does not exist: give the path of a file or of a folder with files, or the name of a "
            f"published data set and its folder. Known by name are {', '.join(DATA_SETS)}."
        )
    hub = f", or its name on the hub ({chosen.hub})" if chosen.hub else ""
    raise FileNotFoundError(
        f"{chosen.title} ({chosen.citation}) does not come with this package and is not fetched by itself: "
        f"get it from {chosen.address} and give its folder{hub}, as in "
        f"load_data({chosen.name!r}, FOLDER)."
    )


_ON_HUB = re.compile(r"[\w.-]+/[\w.-]+(?::[\w.+-]+)?")


def is_on_hub(where: str | Path) -> bool:
    """Whether it is the name of a data set on a hub: ``owner/name``, and no path here begins like that."""
    path = Path(where)
    looks = isinstance(where, str) and _ON_HUB.fullmatch(where) is not None
    return looks and not path.exists() and not path.parent.exists()


def _published(chosen: DataSet, where: str | Path, asked: _Asked) -> tuple[AnyItem, ...]:
    subset = chosen.subsets[0] if asked.subset is None else asked.subset
    if subset not in chosen.subsets:
        raise ValueError(
            f"{chosen.title} has no subset {subset!r}; it has {', '.join(map(repr, chosen.subsets))}."
        )
    placed = chosen.reader(_spoken(chosen, _rows(chosen, where), asked.language), subset)
    if not placed:
        raise ValueError(
            f"{where} has no item of the subset {subset!r} of {chosen.title}; of its subsets it has "
            f"{', '.join(map(repr, _subsets_there(chosen, where, asked.language))) or 'none'}."
        )
    return draw(placed, asked.limit, asked.seed, _group)


def _subsets_there(chosen: DataSet, where: str | Path, language: str | None) -> list[str]:
    """The subsets that have items there; one whose rows are refused has none."""
    there: list[str] = []
    for subset in chosen.subsets:
        with suppress(ValueError):
            if chosen.reader(_spoken(chosen, _rows(chosen, where), language), subset):
                there.append(subset)
    return there


def _rows(chosen: DataSet, where: str | Path) -> Iterator[Row]:
    if isinstance(where, str) and is_on_hub(where):
        return rows_of_hub(where)
    path = Path(where)
    if not str(where).strip() or not path.exists():
        raise FileNotFoundError(
            f"{str(where)!r} does not exist: give the file or folder of {chosen.title}, which is at "
            f"{chosen.address}."
        )
    return rows_of_files(chosen, path)


def _spoken(chosen: DataSet, rows: Iterator[Row], language: str | None) -> Iterator[Row]:
    """The rows in a language; all of them without one.

    Raises:
        ValueError: none is in it; names the languages that are there.
    """
    if language is None:
        yield from rows
        return
    wanted = language.casefold()
    there: set[str] = set()
    for row in rows:
        spoken = chosen.language(row)
        there.add(spoken)
        if spoken == wanted or spoken.startswith(f"{wanted}-"):
            yield row
    if not any(spoken == wanted or spoken.startswith(f"{wanted}-") for spoken in there):
        raise ValueError(
            f"{chosen.title} has no rows in {language!r} here; there are {', '.join(sorted(there))}."
        )


def _group(item: AnyItem) -> Hashable:
    return (item.cluster, item.label) if isinstance(item, Statement) else item.cluster
