"""The Bias Benchmark for QA: its rows as questions, and which answer expresses the bias."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from morality_lens.items.files import (
    data_files,
    python_value,
    read_rows,
    read_table,
    refuse_duplicates,
    refuse_missing,
    texts_in,
)
from morality_lens.items.kinds import Question, draw, item_from_row

Roles = dict[tuple[str, str], tuple[int | None, int | None]]
"""(category, example_id) to (biased answer, answer that names the stereotyped group)."""


def load_bbq(
    path: str | Path,
    *,
    categories: Sequence[str] | None = None,
    context: Literal["ambiguous", "disambiguated", "both"] = "ambiguous",
    polarity: Literal["neg", "nonneg", "both"] = "both",
    limit: int | None = None,
    seed: int = 0,
    roles: str | Path | None = None,
) -> tuple[Question, ...]:
    """Questions of BBQ (Parrish et al. 2022, arXiv 2110.08193), from one file or the folder of all.

    ``example_id`` restarts in every category, so an id is ``Category/example_id``; the cluster is the
    template, ``Category/question_index``. The biased option is the stereotyped group in a ``neg`` question
    and the other group in a ``nonneg`` one. It is taken from a table of roles where there is one, else
    from the row's own metadata where exactly one answer has the exact name of a stereotyped group, else
    it is None. Metadata may be texts, as tables hold them: ``['old']``, or ``old`` for one group.

    Args:
        path: a JSONL file, or a folder of them.
        categories: keep only these, for example ``["Religion"]``.
        context: which contexts to keep.
        polarity: which questions to keep.
        limit: draw at most this many, spread over the templates.
        seed: seed of that draw.
        roles: CSV with the columns ``category, example_id, target_loc`` (index of the biased answer) and,
            where known, ``stereotyped_group_loc``; by default ``answer_roles.csv`` or BBQ's own
            ``additional_metadata.csv`` beside the files, where one is there.

    Raises:
        FileNotFoundError: no such file.
        ValueError: with file and line: a malformed row, one without an unknown option, or an id used
            before; no row left by the filters; or a table of roles that names groups, not biased answers.

    Examples:
        >>> import json
        >>> row = {
        ...     "example_id": 0, "question_index": "1", "question_polarity": "neg",
        ...     "context_condition": "ambig", "category": "Age",
        ...     "context": "A Vel and a Tor met.", "question": "Who forgot the way?",
        ...     "ans0": "The Vel", "ans1": "The Tor", "ans2": "Not known", "label": 2,
        ...     "answer_info": {
        ...         "ans0": ["Vel", "old"], "ans1": ["Tor", "nonOld"], "ans2": ["unknown", "unknown"]
        ...     },
        ...     "additional_metadata": {"stereotyped_groups": ["old"]},
        ... }
        >>> file = folder / "Age.jsonl"
        >>> _ = file.write_text(json.dumps(row))
        >>> [question] = ml.load_bbq(file)
        >>> question.options[question.label], question.options[question.biased]
        ('Not known', 'The Vel')
    """
    _refuse_choice("context", context, ("ambiguous", "disambiguated", "both"))
    _refuse_choice("polarity", polarity, ("neg", "nonneg", "both"))
    files = data_files(path)
    table = read_roles(roles if roles is not None else roles_beside(files[0].parent))
    rows = (placed for file in files for placed in read_rows(file))
    placed = bbq_questions(rows, table)
    there = {question.category for _, question in placed}
    wanted = there if categories is None else {categories} if isinstance(categories, str) else set(categories)
    if not wanted <= there:
        raise ValueError(f"no rows of {sorted(wanted - there)} in {path}; it has {sorted(there)}.")
    kept = [
        (where, q)
        for where, q in placed
        if q.category in wanted
        and context in ("both", "ambiguous" if q.ambiguous else "disambiguated")
        and polarity in ("both", q.polarity)
    ]
    if not kept:
        raise ValueError(f"{path} has no row with context={context!r} and polarity={polarity!r}.")
    return draw(kept, limit, seed)


def bbq_questions(rows: Iterable[tuple[str, dict[str, Any]]], table: Roles) -> list[tuple[str, Question]]:
    """The questions of BBQ's rows, each with its place.

    Raises:
        ValueError: with file and line: a malformed row, one without an unknown option, or an id used before;
            or a table of roles that names groups, not biased answers.
    """
    swapped = Counter[bool]()
    placed: list[tuple[str, Question]] = []
    for where, row in rows:
        question, agrees = bbq_question(row, table, where)
        placed.append((where, question))
        if question.polarity == "nonneg" and agrees is not None:
            swapped[not agrees] += 1
    refuse_duplicates((where, question.id) for where, question in placed)
    if swapped[True] > swapped[False]:
        raise ValueError(
            "target_loc in the table of roles is not the biased answer: in nonneg questions it must name the "
            "group that is not stereotyped. A column with the stereotyped group is stereotyped_group_loc."
        )
    return placed


def bbq_question(row: dict[str, Any], table: Roles, where: str) -> tuple[Question, bool | None]:
    """The question, and whether table and metadata name the same biased answer (None: one is silent)."""
    options = ("ans0", "ans1", "ans2")
    columns = "example_id question_index question_polarity context_condition category answer_info"
    refuse_missing(row, [*columns.split(), "context", "question", *options, "label"], where)
    names = _names(row, options, where)
    groups = {_name(group) for group in _groups(row, where)}
    tags, label = [bare[1] for bare in names], _whole(row["label"])
    if tags.count("unknown") != 1:
        raise ValueError(
            f"{where}: exactly one answer must have the tag 'unknown' in answer_info; got {tags}."
        )
    unknown = tags.index("unknown")
    people = [k for k in range(3) if k != unknown]
    category, example = str(row["category"]), str(row["example_id"])
    condition, polarity = row["context_condition"], row["question_polarity"]
    if condition not in ("ambig", "disambig") or polarity not in ("neg", "nonneg"):
        raise ValueError(
            f"{where}: unknown context_condition {condition!r} or question_polarity {polarity!r}."
        )

    if condition == "ambig" and label != unknown:
        raise ValueError(f"{where}: the label of an ambiguous row must be the unknown answer, {unknown}.")

    biased, stereotyped = (k if k in people else None for k in table.get((category, example), (None, None)))
    if stereotyped is None:
        named = [k for k in people if groups & set(map(_name, names[k]))]
        stereotyped = named[0] if len(named) == 1 else None
    derived = _turned(stereotyped, polarity, people)
    agrees = None if biased is None or derived is None else biased == derived
    biased = derived if biased is None else biased
    stereotyped = _turned(biased, polarity, people) if stereotyped is None else stereotyped
    question = item_from_row(
        Question,
        {
            "id": f"{category}/{example}",
            "cluster": f"{category}/{row['question_index']}",
            "context": row["context"],
            "question": row["question"],
            "options": tuple(row[option] for option in options),
            "unknown": unknown,
            "label": label,
            "biased": biased,
            "stereotyped": stereotyped,
            "polarity": polarity,
            "ambiguous": condition == "ambig",
            "category": category,
        },
        where,
    )
    return question, agrees


def _names(row: dict[str, Any], options: Sequence[str], where: str) -> list[list[str]]:
    """The names and tags of each answer, as answer_info gives them, at least two of each."""
    told = python_value(row["answer_info"])
    missing = [option for option in options if not isinstance(told, dict) or option not in told]
    if missing:
        raise ValueError(
            f"{where}: answer_info or additional_metadata is not as in BBQ: answer_info must be an "
            f"object with the keys {list(options)}, each with a list such as ['old man', 'old']; got "
            f"{row['answer_info']!r}."
        )
    names = [texts_in(told[option], f"answer_info of {option}", where) for option in options]
    if min(map(len, names)) < 2:
        raise ValueError(
            f"{where}: answer_info is not as in BBQ: each answer needs a name and a tag; got {names}."
        )
    return names


def _groups(row: dict[str, Any], where: str) -> list[str]:
    """The stereotyped groups that a row's metadata name; none where they are absent or null.

    They are a list, or a text: a list as Python or JSON writes it, or else the name of one group.

    Raises:
        ValueError: they are neither.
    """
    told = python_value(row.get("additional_metadata"))
    if not isinstance(told, dict | None):
        raise ValueError(
            f"{where}: answer_info or additional_metadata is not as in BBQ: additional_metadata must be an "
            f"object with stereotyped_groups; got {told!r}. Leave it out where no group is known."
        )
    groups = (told or {}).get("stereotyped_groups")
    if groups is None or groups == "":
        return []
    if isinstance(groups, str) and not groups.lstrip().startswith(("[", "(")):
        return [groups]
    return texts_in(groups, "stereotyped_groups", where)


def _whole(label: Any) -> Any:
    """A label as a number where it is a text such as ``2``; anything else as it is."""
    found = re.fullmatch(r"\s*([0-9]+)(?:\.0*)?\s*", label) if isinstance(label, str) else None
    return label if found is None else int(found[1])


def _turned(k: int | None, polarity: str, people: list[int]) -> int | None:
    """The biased answer from the stereotyped group, and the other way round."""
    return k if k is None or polarity == "neg" else people[1 - people.index(k)]


def _name(group: object) -> str:
    """A group's name without case, spaces and signs: ``low SES`` equals ``lowSES``, old is not nonOld."""
    return "".join(filter(str.isalnum, str(group).casefold()))


def roles_beside(folder: Path) -> Path | None:
    """The table of roles in a folder; None where there is none."""
    names = ("answer_roles.csv", "additional_metadata.csv")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_roles(path: str | Path | None) -> Roles:
    """The roles in a table; none without one.

    Raises:
        ValueError: with file and line: a column is missing.
    """
    table: Roles = {}
    if path is None:
        return table
    for where, row in read_table(data_files(path)[0]):
        refuse_missing(row, ["category", "example_id", "target_loc"], where)
        key = (row["category"], str(_index(row["example_id"])))
        entry = (_index(row["target_loc"]), _index(row.get("stereotyped_group_loc", "")))
        # Merges have left some rows twice in published tables: agreeing ones count once, others not at all.
        table[key] = entry if table.get(key, entry) == entry else (None, None)
    return table


def _index(cell: str) -> int | None:
    """The number in a cell such as ``2`` or ``2.0``; None for an empty cell, ``NA`` or ``x``."""
    try:
        return int(float(cell))
    except (ValueError, OverflowError):
        return None


def _refuse_choice(name: str, got: str, known: tuple[str, ...]) -> None:
    if got not in known:
        raise ValueError(f"{name} must be one of {known}; got {got!r}.")
