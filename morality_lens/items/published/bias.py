"""BBQ, MBBQ, EsBBQ and CaBBQ: each row as a question with an unknown option."""

import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import chain
from typing import Any

from morality_lens.items.bbq import bbq_question, bbq_questions, read_roles, roles_beside
from morality_lens.items.files import texts_in
from morality_lens.items.kinds import Question
from morality_lens.items.published.values import DataSet, Placed, Row, only_language, question

CONTEXTS = ("ambiguous", "disambiguated", "both")
TEMPLATE = (
    "Category and template: rows of one template differ in the groups named, in the order of naming and in "
    "what is asked, and share everything else."
)


def kept(placed: Iterable[tuple[str, Question]], subset: str) -> list[Placed]:
    """The questions in the contexts asked for."""
    wanted = {"ambiguous": (True,), "disambiguated": (False,)}.get(subset, (True, False))
    return [(where, one) for where, one in placed if one.ambiguous in wanted]


# ------------------------------------------------------------------------------------------------ BBQ
_UNKNOWN = {
    *("cannot answer", "can't answer", "cannot be determined", "can't be determined", "not answerable"),
    *("not enough info", "not enough information", "not known", "undetermined", "unknown"),
}
"""How BBQ says that the answer cannot be known."""


def _bbq(rows: Iterable[Row], subset: str) -> list[Placed]:
    """Rows of the official files, or of a mirror that kept the options and the answer alone."""
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        return []
    rows = map(_not_of_mbbq, chain([first], rows))
    if "choices" in first.cells:
        return kept(_mirrored(list(rows)), subset)
    table = read_roles(None if first.file is None else roles_beside(first.file.parent))
    return kept(bbq_questions(((row.where, row.cells) for row in rows), table), subset)


MBBQ_FILE = re.compile(
    "(?:Age|Disability_status|Gender_identity|Physical_appearance|SES|Sexual_orientation)(?:_control)?_"
    "(?:en|es|nl|tr)"
)
"""How the files of MBBQ are named, which has the columns of BBQ in other languages."""


def _not_of_mbbq(row: Row) -> Row:
    if row.file is not None and MBBQ_FILE.fullmatch(row.file.name.partition(".")[0]):
        raise ValueError(
            f"{row.where}: a file of MBBQ by its name, which tells the language; read it as "
            f"load_data('mbbq', {str(row.file)!r})."
        )
    return row


def _mirrored(rows: list[Row]) -> Iterable[tuple[str, Question]]:
    clusters = _linked(rows)
    for row, cluster in zip(rows, clusters, strict=True):
        options = texts_in(row.cell("choices"), "choices", row.where)
        unknown = [k for k, option in enumerate(options) if option.strip(" .").casefold() in _UNKNOWN]
        if len(unknown) != 1:
            raise ValueError(
                f"{row.where}: one option must say that the answer cannot be known, in BBQ's words; got "
                f"{options}."
            )
        label = row.index("answer")
        yield question(
            row,
            id=row.name,
            cluster=cluster,
            context=row.text("context"),
            question=row.text("question"),
            options=options,
            unknown=unknown[0],
            label=label,
            ambiguous=label == unknown[0],
            category=row.text("category"),
        )


def _linked(rows: list[Row]) -> list[str]:
    """The cluster of each row: rows that share a question or a context, directly or through others."""
    parent: dict[tuple[str, str], tuple[str, str]] = {}

    def root(key: tuple[str, str]) -> tuple[str, str]:
        while parent.setdefault(key, key) != key:
            key = parent[key]
        return key

    def keys(row: Row) -> list[tuple[str, str]]:
        return [(row.text("category"), f"{name} {row.text(name)}") for name in ("question", "context")]

    for row in rows:
        one, two = map(root, keys(row))
        parent[two] = one
    first: dict[tuple[str, str], str] = {}
    return [first.setdefault(root(keys(row)[0]), row.name) for row in rows]


# ------------------------------------------------------------------------------------- MBBQ, EsBBQ, CaBBQ
_MBBQ_NAME = re.compile(r"(?P<control>_control)?_(?P<language>en|es|nl|tr)(?:$|/)")


def _mbbq_name(row: Row) -> re.Match[str]:
    found = _MBBQ_NAME.search(row.origin)
    if found is None:
        raise ValueError(
            f"{row.where}: MBBQ tells its languages by its files' names, which end in _en, _es, _nl or _tr; "
            f"{row.origin!r} does not. Name the files as published."
        )
    return found


def _mbbq(rows: Iterable[Row], subset: str) -> list[Placed]:
    control, _, context = subset.rpartition(" ")
    return kept(_mbbq_questions(rows, control=bool(control)), context)


def _mbbq_questions(rows: Iterable[Row], *, control: bool) -> Iterable[tuple[str, Question]]:
    for row in rows:
        name = _mbbq_name(row)
        if bool(name["control"]) != control:
            continue
        one, _ = bbq_question(row.cells, {}, row.where)
        if control:  # its names carry the tags of the groups that they stand in for
            one = replace(one, id=f"control/{one.id}", biased=None, stereotyped=None)
        yield row.where, replace(one, id=f"{name['language']}/{one.id}")


_KIN = {"esbbq": ("data_es", "esbbq"), "cabbq": ("data_ca", "cabbq")}
"""By the name of a data set: what a folder, a file or a name on the hub is called that is of it alone."""


def _kin_of(row: Row) -> str | None:
    """Which of EsBBQ and CaBBQ a row is of by its place, the innermost name first; None where none tells."""
    place = row.where.partition(",")[0] if row.file is None else row.file.absolute().as_posix()
    for part in reversed(place.casefold().split("/")):
        found = [name for name, (folder, own) in _KIN.items() if part == folder or own in part]
        if len(found) == 1:
            return found[0]
    return None


def _refuse_kin(rows: Iterable[Row], name: str) -> Iterable[Row]:
    """The rows.

    Raises:
        ValueError: the place of one says that it is of the other data set, which has the same columns.
    """
    for row in rows:
        told = _kin_of(row)
        if told not in (None, name):
            raise ValueError(
                f"{row.where}: by its place a row of {told}, not of {name}, which has the same columns in "
                f"another language; load_data({told!r}, ...) reads it. If it is one of {name}, rename the "
                "file or folder."
            )
        yield row


def _peninsular(language: str, unknown: str) -> Callable[[Iterable[Row], str], list[Placed]]:
    """The reader of EsBBQ or CaBBQ.

    Args:
        language: its code.
        unknown: what the option says for which the files have the English word ``unknown``.
    """

    def read(rows: Iterable[Row], subset: str) -> list[Placed]:
        name = {"es": "esbbq", "ca": "cabbq"}[language]
        return kept((_of_template(row) for row in _refuse_kin(rows, name)), subset)

    def _of_template(row: Row) -> tuple[str, Question]:
        cells: dict[str, Any] = {
            **row.cells,
            "example_id": row.index("instance_id"),
            "question_index": row.index("template_id"),
            "additional_metadata": {"stereotyped_groups": row.cell("stereotyped_groups")},
        }
        cells |= {
            name: unknown for name in ("ans0", "ans1", "ans2") if str(cells.get(name)).strip() == "unknown"
        }
        one, _ = bbq_question(cells, {}, row.where)
        return row.where, replace(one, id=f"{language}/{one.id}")

    return read


# ------------------------------------------------------------------------------------------------ values
_BBQ_COLUMNS = "example_id, question_index, question_polarity, context_condition, category, answer_info, "
_KIN_COLUMNS = (
    "instance_id, template_id, question_polarity, context_condition, category, stereotyped_groups, "
    "answer_info, context, question, ans0, ans1, ans2, label"
)
_KIN_QUIRKS = (
    "The option that the answer cannot be known is the English word unknown, and stands last: it is read as "
    "{unknown!r}; permute the options. The two have the same columns: a folder or file that is named as the "
    "other one's is refused. instance_id restarts in every category. Which answer expresses the "
    "bias is known where exactly one answer has the exact name of a stereotyped group."
)
_KIN_CHECKED = "{there} in langtech-bsc/EsBBQ-CaBBQ; the hub's columns by its card alone"

SETS = (
    DataSet(
        name="bbq",
        title="BBQ",
        kind="questions",
        licence="CC BY 4.0",
        citation="Parrish et al. 2022, arXiv 2110.08193",
        address="https://github.com/nyu-mll/BBQ",
        hub="walledai/BBQ",
        columns=_BBQ_COLUMNS + "additional_metadata, context, question, ans0, ans1, ans2, label; or, in "
        "mirrors, context, question, choices, answer, category",
        cluster=TEMPLATE + " In a mirror, which names no template: rows that share a question or a context, "
        "directly or through others, which joins templates rather than part one.",
        quirks="example_id restarts in every category. Which answer expresses the bias is known from a "
        "table of roles beside the files, or where exactly one answer has the exact name of a stereotyped "
        "group. "
        "Mirrors with choices and answer name neither template, polarity nor group: bias scores are refused "
        "for them, and every item carries the polarity neg, which says nothing there. The unknown option is "
        "told by its words, and a context is ambiguous where that is right.",
        languages=("en",),
        subsets=CONTEXTS,
        checked="the official files; the mirror's columns by its card alone",
        files=("*.jsonl", "*.parquet"),
        folder="data",
        reader=_bbq,
    ),
    DataSet(
        name="mbbq",
        title="MBBQ",
        kind="questions",
        licence="none stated in its repository (BBQ, which it extends: CC BY 4.0)",
        citation="Neplenbroek et al. 2024, arXiv 2406.07243",
        address="https://github.com/Veranep/MBBQ",
        columns=_BBQ_COLUMNS + "additional_metadata, context, question, ans0, ans1, ans2, label",
        cluster=TEMPLATE + " A template in another language is the same cluster: the rows are parallel, so "
        "that a run in several languages is no larger sample of templates.",
        quirks="example_id restarts in every category and is the same in every language: an id begins with "
        "the language, which the file's name tells. Files with _control in their names hold first names in "
        "place of groups, tagged with the groups that they stand in for: they are a subset of their own, and "
        "no answer of theirs expresses a bias.",
        languages=("en", "es", "nl", "tr"),
        subsets=(*CONTEXTS, *(f"control {context}" for context in CONTEXTS)),
        checked="data/*.jsonl in Veranep/MBBQ: English and Spanish, with and without control",
        files=("*_en.jsonl", "*_es.jsonl", "*_nl.jsonl", "*_tr.jsonl"),
        folder="data",
        reader=_mbbq,
        language=lambda row: _mbbq_name(row)["language"],
    ),
    DataSet(
        name="esbbq",
        title="EsBBQ",
        kind="questions",
        licence="CC BY 4.0 on the hub, Apache 2.0 in its repository",
        citation="Ruiz-Fernández et al. 2025, arXiv 2507.11216",
        address="https://github.com/langtech-bsc/EsBBQ-CaBBQ",
        hub="BSC-LT/EsBBQ",
        columns=_KIN_COLUMNS,
        cluster=TEMPLATE + " EsBBQ and CaBBQ are called parallel; that their templates are "
        "numbered alike was not compared.",
        quirks=_KIN_QUIRKS.format(unknown="No se sabe"),
        languages=("es",),
        subsets=CONTEXTS,
        checked=_KIN_CHECKED.format(there="data_es/*.jsonl"),
        files=("*.jsonl", "*.parquet"),
        folder="data_es",
        reader=_peninsular("es", "No se sabe"),
        language=only_language("es"),
    ),
    DataSet(
        name="cabbq",
        title="CaBBQ",
        kind="questions",
        licence="CC BY 4.0 on the hub, Apache 2.0 in its repository",
        citation="Ruiz-Fernández et al. 2025, arXiv 2507.11216",
        address="https://github.com/langtech-bsc/EsBBQ-CaBBQ",
        hub="BSC-LT/CaBBQ",
        columns=_KIN_COLUMNS,
        cluster=TEMPLATE + " EsBBQ and CaBBQ are called parallel; that their templates are "
        "numbered alike was not compared.",
        quirks=_KIN_QUIRKS.format(unknown="No se sap"),
        languages=("ca",),
        subsets=CONTEXTS,
        checked="the names of the files in langtech-bsc/EsBBQ-CaBBQ and the hub's card; no row was compared",
        files=("*.jsonl", "*.parquet"),
        folder="data_ca",
        reader=_peninsular("ca", "No se sap"),
        language=only_language("ca"),
    ),
)
