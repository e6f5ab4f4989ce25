"""ETHICS, Social-Chem-101 and the moral foundations vignettes: labelled statements and ratings."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

from morality_lens.items.files import kind_of, opened, place, read_rows, reading
from morality_lens.items.kinds import Rating, Statement, item_from_row
from morality_lens.items.published.values import DataSet, Placed, Row, statement

Labelled = Iterator[tuple[str, Statement]]
_YES_NO = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}


# ---------------------------------------------------------------------------------------------- ETHICS
def _commonsense(rows: Iterable[Row]) -> Labelled:
    """A label of 1 means wrong: it is turned."""
    for row in rows:
        label = 1 - row.one_of("label", _YES_NO)
        yield statement(row, id=row.name, cluster=row.name, text=row.text("input"), label=label)


def _justice(rows: Iterable[Row]) -> Labelled:
    """Rows about one practice stand together and begin alike."""
    before, cluster = "", ""
    for row in rows:
        text = row.text("scenario")
        alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, text, strict=False)))
        if not before or 2 * alike < min(len(before), len(text)):
            cluster = row.name
        before = text
        label = row.one_of("label", _YES_NO)
        yield statement(row, id=row.name, cluster=cluster, text=text, label=label)


def _deontology(rows: Iterable[Row]) -> Labelled:
    for row in rows:
        scenario = row.text("scenario")
        text = f"{scenario} {row.text('excuse')}"
        label = row.one_of("label", _YES_NO)
        yield statement(row, id=row.name, cluster=scenario, text=text, label=label)


def _virtue(rows: Iterable[Row]) -> Labelled:
    for row in rows:
        scenario, found, trait = row.text("scenario").partition("[SEP]")
        if not found:
            raise ValueError(
                f"{row.where}: a row of the virtues is a scenario, [SEP] and a trait; got {scenario!r}."
            )
        text = f"{scenario.strip()} Trait: {trait.strip()}"
        label = row.one_of("label", _YES_NO)
        yield statement(row, id=row.name, cluster=scenario.strip(), text=text, label=label)


def _utilitarianism(rows: Iterable[Row]) -> Labelled:
    for row in rows:
        for label, name in ((1, "baseline"), (0, "less_pleasant")):
            yield statement(row, id=f"{row.name}/{name}", cluster=row.name, text=row.text(name), label=label)


_PARTS: dict[str, tuple[str, Callable[[Iterable[Row]], Labelled]]] = {
    "commonsense": ("cm_", _commonsense),
    "justice": ("justice_", _justice),
    "deontology": ("deontology_", _deontology),
    "virtue": ("virtue_", _virtue),
    "utilitarianism": ("util_", _utilitarianism),
}
"""By the name of a subset: how its files' names begin, and its reader."""


def _ethics(rows: Iterable[Row], subset: str) -> list[Placed]:
    return list(_PARTS[subset][1](row for row in rows if _part_of(row) in (None, subset)))


def _part_of(row: Row) -> str | None:
    """The subset that a row's file or configuration is named after; None where its name tells none."""
    stem = Path(row.origin).name
    folder = row.origin.partition("/")[0]
    named = (part for part, (begin, _) in _PARTS.items() if stem.startswith(begin) or folder == part)
    return next(named, None)


def read_ethics(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a file; the pairs of utilitarianism have no header, and get the hub's names of columns.

    Raises:
        ValueError: with file and line: what cannot be read, or a row that is no pair.
    """
    if not file.name.startswith("util") or kind_of(file) != ".csv":
        yield from read_rows(file)
        return
    with (
        reading(file, "CSV file", "give another copy"),
        io.TextIOWrapper(opened(file), encoding="utf-8-sig", newline="") as lines,
    ):
        for number, cells in enumerate(csv.reader(lines), start=1):
            if not any(map(str.strip, cells)):
                continue
            if len(cells) != 2:
                raise ValueError(
                    f"{place(file, number)}: a row of utilitarianism is two scenarios, the more pleasant one "
                    f"first; got {len(cells)} cells."
                )
            if cells != ["baseline", "less_pleasant"]:
                yield place(file, number), {"baseline": cells[0], "less_pleasant": cells[1]}


# -------------------------------------------------------------------------------------- Social-Chem-101
def _social_chem(rows: Iterable[Row], subset: str) -> list[Placed]:
    return list(_judged(rows))


def _judged(rows: Iterable[Row]) -> Labelled:
    for row in rows:
        judged, action = row.text("action-moral-judgment"), row.text("action")
        unusable = row.text("rot-bad") in ("1", "1.0", "True", "true")
        if unusable or not action or judged in ("", "nan", "None"):
            continue
        value = row.index("action-moral-judgment")
        if value:
            yield statement(
                row,
                id=f"{row.text('rot-id')}/{row.name}",
                cluster=row.text("situation-short-id"),
                text=action,
                label=int(value > 0),
                value=float(value),
            )


# ------------------------------------------------------------------------- moral foundations vignettes
def _vignettes(rows: Iterable[Row], subset: str) -> list[Placed]:
    return [_vignette(row) for row in rows]


def _vignette(row: Row) -> Placed:
    fields = {
        "id": row.name,
        "context": row.text("Scenario", "scenario", "Vignette", "vignette"),
        "question": "How wrong is this?",
        "low": 0,
        "high": 4,
        "low_label": "not at all wrong",
        "high_label": "extremely wrong",
        "category": row.text("Foundation", "foundation"),
    }
    return row.where, item_from_row(Rating, fields, row.where)


SETS = (
    DataSet(
        name="ethics",
        title="ETHICS",
        kind="statements",
        licence="MIT",
        citation="Hendrycks et al. 2021, arXiv 2008.02275",
        address="https://github.com/hendrycks/ethics",
        hub="hendrycks/ethics",
        columns="commonsense: label, input; justice, virtue: label, scenario; deontology: label, scenario, "
        "excuse; utilitarianism: two scenarios without a header",
        cluster="Commonsense: the row. Justice: rows in sequence that share half of their text, which are "
        "about one practice. Deontology and virtue: the scenario. Utilitarianism: the pair.",
        quirks="In commonsense 1 means wrong, and the label is turned; in the others 1 stays 1: reasonable "
        "(justice, deontology), a trait that fits (virtue), more pleasant (utilitarianism, the first of a "
        "pair). Whether a trait fits is no valence, and more pleasant holds within a pair alone: a direction "
        "fitted on these two is none from immoral to moral. cm_ambig.csv has no labels and is not read. A "
        "file that is not named as published is taken for the subset asked for.",
        languages=("en",),
        subsets=tuple(_PARTS),
        checked="a copy of the published files: justice, deontology, virtue, utilitarianism; commonsense by "
        "its column names alone",
        files=("*cm_t*.csv", *(f"*{begin}t*.csv" for begin, _ in list(_PARTS.values())[1:])),
        keys=frozenset({"label", "input", "is_short", "edited"}),
        reader=_ethics,
        read_file=read_ethics,
    ),
    DataSet(
        name="social-chem-101",
        title="Social-Chem-101",
        kind="statements",
        licence="CC BY-SA 4.0 by secondary sources; not seen in its repository",
        citation="Forbes et al. 2020, arXiv 2011.00620",
        address="https://github.com/mbforbes/social-chemistry-101",
        columns="rot-id, situation-short-id, rot-bad, action, action-moral-judgment",
        cluster="The situation: the rules written about one situation are about the same deeds.",
        quirks="A statement is the action, not the rule, which names the judgement. The value is the "
        "judgement from -2 (very bad) to 2 (very good); rows at 0 (expected), without a judgement, or marked "
        "as unusable (rot-bad) are left out. Several workers judged some rules: an id ends in the row's "
        "number.",
        languages=("en",),
        checked="its documentation of the columns and a card on the hub; no row was compared",
        files=("*social-chem-101*.tsv", "*.parquet"),
        keys=frozenset({"rot-id", "action", "action-moral-judgment", "situation-short-id"}),
        reader=_social_chem,
    ),
    DataSet(
        name="moral-foundations-vignettes",
        title="Moral foundations vignettes",
        kind="ratings",
        licence="none stated; a table of the article",
        citation="Clifford et al. 2015, doi 10.3758/s13428-014-0551-2",
        address="https://doi.org/10.3758/s13428-014-0551-2",
        columns="Scenario (or Vignette), Foundation",
        cluster="The vignette: each was written on its own. The foundation is the category.",
        quirks="Published as a table in an article, so the file is one's own: a CSV or TSV with these two "
        "columns. Rated from 0 (not at all wrong) to 4 (extremely wrong), as the respondents were asked; the "
        "last foundation, social norms, is a control without moral content.",
        languages=("en",),
        checked="its description; no published file exists to compare with",
        files=("*.csv", "*.tsv"),
        keys=frozenset({"Scenario", "Foundation"}),
        reader=_vignettes,
    ),
)
