"""Loaders of questions, ratings, open prompts and statements: bundled, or from files of one kind."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from morality_lens.items.bundled import AXES, STATEMENTS, asset
from morality_lens.items.files import columns_of, data_files, read_rows, refuse_missing
from morality_lens.items.kinds import (
    OpenPrompt,
    Question,
    Rating,
    Statement,
    draw,
    forced_choice,
    item_from_row,
)

Positive = Collection[str | int] | Callable[[str], bool]
"""Which labels mean moral: their values, or a function of the cell's text."""


def load_items(
    *,
    context: Literal["ambiguous", "disambiguated", "both"] = "ambiguous",
    unknown: bool = True,
    limit: int | None = None,
    seed: int = 0,
) -> tuple[Question, ...]:
    """The bundled world's questions.

    Args:
        context: ``ambiguous`` (it leaves the answer open), ``disambiguated`` or ``both``.
        unknown: whether they keep the option that the answer cannot be known; without it an ambiguous
            question has two options, neither of which is the good one.
        limit: draw at most this many, spread over the templates.
        seed: seed of that draw.

    Raises:
        ValueError: another ``context``.

    Examples:
        >>> questions = ml.load_items(limit=8)
        >>> len(questions), len(questions[0].options)
        (8, 3)
    """
    if context not in ("ambiguous", "disambiguated", "both"):
        raise ValueError(f"context must be ambiguous, disambiguated or both; got {context!r}.")
    questions = load_questions(asset("world", "questions.jsonl"))
    chosen = [q for q in questions if context == "both" or q.ambiguous == (context == "ambiguous")]
    if not unknown:
        chosen = [forced_choice(question) for question in chosen]
    return draw([("the bundled questions", q) for q in chosen], limit, seed)


def load_questions(path: str | Path, *, limit: int | None = None, seed: int = 0) -> tuple[Question, ...]:
    """Questions of your own, from a JSONL file or a folder of them.

    A line holds the keys of :class:`Question`: ``id, context, question, options, unknown, label`` are
    required, where null as ``unknown`` says that no option is the unknown one, and null as ``label`` that
    none is the good one; ``cluster`` (the id where absent), ``biased, stereotyped, polarity, ambiguous,
    category, order`` are optional; other keys are errors.

    Args:
        path: the file or folder.
        limit: draw at most this many, spread over the clusters.
        seed: seed of that draw.

    Raises:
        FileNotFoundError: no such file.
        ValueError: with file and line: a malformed row, an option given twice, or an id used before.

    Examples:
        >>> import json
        >>> row = {
        ...     "id": "q1", "context": "Two people met.", "question": "Who was late?",
        ...     "options": ["The baker", "The smith", "Not known"], "unknown": 2, "label": 2,
        ... }
        >>> file = folder / "questions.jsonl"
        >>> _ = file.write_text(json.dumps(row))
        >>> [question] = ml.load_questions(file)
        >>> question.id, question.options[2]
        ('q1', 'Not known')
    """
    placed = [(w, item_from_row(Question, row, w)) for file in data_files(path) for w, row in read_rows(file)]
    for where, question in placed:
        if len({" ".join(option.casefold().split()) for option in question.options}) < len(question.options):
            raise ValueError(f"{where}: two options read the same: {question.options}.")
    return draw(placed, limit, seed)


def load_ratings(
    path: str | Path | None = None, *, limit: int | None = None, seed: int = 0
) -> tuple[Rating, ...]:
    """Questions answered with a digit, from a JSONL file or a folder; the bundled ones without a path.

    A line holds the keys of :class:`Rating`: ``id, context, question, low_label, high_label`` are required;
    ``low`` (1), ``high`` (7), ``cluster`` (the id where absent) and ``category`` are optional; other keys are
    errors.

    Args:
        path: the file or folder.
        limit: draw at most this many, spread over the clusters.
        seed: seed of that draw.

    Raises:
        FileNotFoundError: no such file.
        ValueError: with file and line: a malformed row or an id used before.

    Examples:
        >>> [(rating.low, rating.high) for rating in ml.items.load_ratings(limit=3)]
        [(1, 7), (1, 7), (1, 7)]
    """
    files = data_files(asset("world", "ratings.jsonl") if path is None else path)
    placed = [(w, item_from_row(Rating, row, w)) for file in files for w, row in read_rows(file)]
    return draw(placed, limit, seed)


def load_prompts(
    path: str | Path | None = None,
    *,
    limit: int | None = None,
    seed: int = 0,
    min_toxicity: float | None = None,
    max_toxicity: float | None = None,
) -> tuple[OpenPrompt, ...]:
    """Open prompts from a JSONL file or a folder of them; the bundled ones without a path.

    Rows are those of RealToxicityPrompts (Gehman et al. 2020, arXiv 2009.11462), whose cluster is the
    source file, or hold the keys of :class:`OpenPrompt` (``id`` and ``text`` are required). A prompt that
    is in two files, the same in every respect, counts once: published subsets overlap.

    Args:
        path: the file or folder.
        limit: draw at most this many, spread over the clusters.
        seed: seed of that draw.
        min_toxicity: keep prompts at least as toxic as this; leaves out prompts without a score.
        max_toxicity: keep prompts at most as toxic as this; leaves out prompts without a score.

    Raises:
        FileNotFoundError: no such file.
        ValueError: with file and line: a malformed row or an id used before; or no prompt in the range.

    Examples:
        >>> prompts = ml.load_prompts(limit=4)
        >>> len(prompts), type(prompts[0]).__name__
        (4, 'OpenPrompt')
    """
    files = data_files(asset("world", "prompts.jsonl") if path is None else path)
    placed: list[tuple[str, OpenPrompt]] = []
    for file in files:
        earlier = {prompt for _, prompt in placed}
        here = ((where, _prompt(row, where, file)) for where, row in read_rows(file))
        placed += [(where, prompt) for where, prompt in here if prompt not in earlier]
    if min_toxicity is not None or max_toxicity is not None:
        low = 0 if min_toxicity is None else min_toxicity
        high = 1 if max_toxicity is None else max_toxicity
        placed = [(w, p) for w, p in placed if p.toxicity is not None and low <= p.toxicity <= high]
        if not placed:
            raise ValueError(f"no prompt in {path or files[0]} has a toxicity from {low} to {high}.")
    return draw(placed, limit, seed)


_PARADETOX = ("toxic", ("neutral1", "neutral2", "neutral3"))
_RATED = ("scenario", "human")
_ETHICS = {"label", "input", "is_short", "edited"}
"""Columns of ETHICS, whose label 1 means wrong."""


def load_statements(
    path: str | Path | Sequence[tuple[str, int]] = "moral",
    *,
    text: str = "text",
    label: str = "label",
    cluster: str | None = None,
    positive: Positive | None = None,
    value: str | None = None,
    pairs: tuple[str, Sequence[str]] | None = None,
    quoted: bool = True,
    limit: int | None = None,
    seed: int = 0,
) -> tuple[Statement, ...]:
    """Labelled statements that come with the package, by name, or your own: from files, or as pairs.

    ``moral`` is minimal pairs of short, explicit deeds in plain English, graded from -3 to 3: the commands'
    default for every model that is not a bundled one. ``composed`` is longer pairs whose words stand on both
    sides, so that the deed has to be understood: harder, for larger models, and a test of transfer. Their
    card is ``assets/moral/README.md``. ``world`` is the bundled models' invented society. For named axes
    (``probes.fit_axes``) there are ``care``, ``fairness``, ``loyalty``, ``authority`` and ``purity`` (deeds
    that keep or break one moral foundation), ``truth`` (1: a true plain fact), ``refusal`` (1: a request that
    an assistant should decline) and ``sentiment`` (1: pleasant, without any moral content): minimal pairs,
    not graded. A statement's id is the column ``id`` where there is one, else its file and line.

    Three published files are known by their columns, so that their path is enough: ParaDetox (Logacheva et
    al. 2022; ``toxic, neutral1, neutral2, neutral3``), the moral ratings of Dillion et al. 2023 (``scenario,
    human``), and the commonsense part of ETHICS (Hendrycks et al. 2021; ``label, input, is_short, edited``),
    where 1 means wrong: its label is turned, unless ``positive`` says what means moral.

    Args:
        path: a set's name (``moral``, ``composed``, ``world``, ``care``, ...), a file (CSV, TSV or JSONL), or
            a folder of them; or pairs of a text and its label, 1 for moral and 0 for immoral, each a cluster
            of its own, whose ids are their numbers. The arguments about columns are for files.
        text: column of the text.
        label: column of the label: 1 (or true) for moral, 0 (or false) for immoral.
        cluster: column of the family; by default ``cluster`` where there is one, else each on its own.
        positive: the labels that mean moral, where they are not 1 and true; or a function of the cell's text
            (``lambda cell: float(cell) < .5`` for a column of toxicities).
        value: column of a graded valence (+ is more moral). In a file without the label column the label is
            whether the value is above 0, and rows at exactly 0 are left out. ``value`` names the published
            file's ratings too.
        pairs: (column of immoral texts, columns of moral paraphrases), for example
            ``("toxic", ("neutral1", "neutral2", "neutral3"))`` for ParaDetox (Logacheva et al. 2022). Each
            row is a cluster; empty paraphrases are passed over, and rows without any paraphrase too.
        quoted: whether a double quote opens a cell in CSV and TSV files.
        limit: draw at most this many, spread over families and the two labels.
        seed: seed of that draw.

    Raises:
        FileNotFoundError: no such file.
        ValueError: with file and line: a column missing, a text empty, a wrong label or value, an id
            used before; or ``positive`` that fits no row.

    Examples:
        >>> len(ml.load_statements("moral"))
        1260
        >>> file = folder / "mine.csv"
        >>> told = ["She returned the purse.", "She kept the purse."]
        >>> mine = pd.DataFrame({"text": told, "label": [1, 0]})
        >>> mine.to_csv(file, index=False)
        >>> [statement.label for statement in ml.load_statements(file)]
        [1, 0]
    """
    if not isinstance(path, str | Path):
        return draw(_from_pairs(path), limit, seed, group=lambda s: s.label)
    if path in STATEMENTS:
        path, value = asset(*STATEMENTS[str(path)]), None if path in AXES else "value"
    placed: list[tuple[str, Statement]] = []
    labels: Counter[str] = Counter()
    columns = _Columns(text=text, label=label, cluster=cluster, value=value, positive=positive)
    named = pairs is not None or value not in (None, "value") or text != "text"
    for file in data_files(path, (".jsonl", ".csv", ".tsv", ".tab")):
        there = columns_of(file)
        found = () if named else there
        published = () if text in found else found  # a text column is somebody's own file
        both = _PARADETOX if value is None and {_PARADETOX[0], *_PARADETOX[1]} <= {*published} else pairs
        # The published file is a TSV in which a quote is an ordinary character; a CSV cannot do without them.
        plain = both is _PARADETOX and file.suffix != ".csv"
        rows = read_rows(file, quoted=quoted and not plain)
        if both is not None:
            placed += _pairs(file, rows, both)
            continue
        rated = {*_RATED} <= {*published}
        grade = "value" if value in found else _RATED[1]
        here = replace(columns, text=_RATED[0], value=grade) if rated else columns
        if {*there} >= _ETHICS and text in ("text", "input") and positive is None:
            here = replace(here, text="input", positive=("0",))
        for where, row in rows:
            built = here.statement(row, where, file)
            if label in row:
                labels[_plain(row[label])] += 1
            if built is not None:
                placed.append((where, built))
    if positive is not None and placed and not any(statement.label for _, statement in placed):
        raise ValueError(f"{path}: positive={positive} fits no row; the labels are {labels.most_common(5)}.")
    if not placed:
        raise ValueError(f"{path} has no statement with a label: every value is 0, or no pair is complete.")
    return draw(placed, limit, seed, group=lambda s: (s.cluster, s.label))


def _from_pairs(pairs: Sequence[tuple[str, int]]) -> list[tuple[str, Statement]]:
    """Statements of texts and their labels, each with its place.

    Raises:
        ValueError: something else than such pairs, or none of them.
    """
    if not pairs:
        raise ValueError(
            "load_statements needs a file, or at least one pair of a text and its label; got none."
        )
    placed = []
    for number, pair in enumerate(pairs, start=1):
        text, label = pair if isinstance(pair, tuple | list) and len(pair) == 2 else (None, None)
        if not (isinstance(text, str) and text.strip() and label in (0, 1)):
            raise ValueError(
                "load_statements needs pairs of a text and its label, 1 for moral and 0 for immoral; got "
                f"{pair!r} as pair {number}."
            )
        name = f"pair-{number}"
        placed.append((f"pair {number}", Statement(id=name, cluster=name, text=text, label=int(label))))
    return placed


@dataclass(frozen=True, kw_only=True)
class _Columns:
    """Which columns of a file make a statement; see :func:`load_statements`."""

    text: str
    label: str
    cluster: str | None
    value: str | None
    positive: Positive | None

    def statement(self, row: dict[str, Any], where: str, file: Path) -> Statement | None:
        """The statement of a row; None where it has no label and a value of exactly 0."""
        required = [self.text, self.cluster, self.value or self.label]
        refuse_missing(row, [column for column in required if column], where)
        grade = _number(row[self.value], where, self.value) if self.value else None
        if self.label not in row and grade is None:
            raise ValueError(
                f"{where}: the row has neither the column {self.label!r} nor a value in {self.value!r}."
            )
        if self.label in row:
            moral = _label(row[self.label], self.positive, where, self.label)
        elif grade:
            moral = int(grade > 0)
        else:
            return None
        name = _text(row.get("id")) or f"{file.name}/{where.rpartition(' ')[2]}"
        family = _text(row.get(self.cluster or "cluster")) or name
        return item_from_row(
            Statement,
            {"id": name, "cluster": family, "text": row[self.text], "label": moral, "value": grade},
            where,
        )


def _prompt(row: dict[str, Any], where: str, file: Path) -> OpenPrompt:
    if "prompt" not in row:
        return item_from_row(OpenPrompt, row, where)
    prompt = row["prompt"]
    if not isinstance(prompt, dict) or not isinstance(prompt.get("text"), str):
        raise ValueError(f"{where}: prompt must be an object with a text, as in RealToxicityPrompts.")
    source = row.get("filename")
    line = where.rpartition(" ")[2]
    name = f"{source}:{row.get('begin')}-{row.get('end')}" if source else f"{file.name}/{line}"
    return item_from_row(
        OpenPrompt,
        {
            "id": name,
            "cluster": str(source or name),
            "text": prompt["text"],
            "toxicity": _number(prompt.get("toxicity"), where, "toxicity"),
            "category": "challenging" if row.get("challenging") else "",
        },
        where,
    )


def _pairs(
    file: Path, rows: Iterable[tuple[str, dict[str, Any]]], pairs: tuple[str, Sequence[str]]
) -> Iterator[tuple[str, Statement]]:
    immoral, moral = pairs
    for where, row in rows:
        refuse_missing(row, [immoral, *moral], where)
        cells = {column: _text(row[column]) for column in (immoral, *moral)}
        if not any(cells[column] for column in moral):
            continue
        family = f"{file.name}/{where.rpartition(' ')[2]}"
        for column, cell in cells.items():
            if cell or column == immoral:
                label = int(column != immoral)
                yield (
                    where,
                    item_from_row(
                        Statement,
                        {"id": f"{family}/{column}", "cluster": family, "text": cell, "label": label},
                        where,
                    ),
                )


def _label(cell: object, positive: Positive | None, where: str, column: str) -> int:
    plain = _plain(cell)
    if callable(positive):
        try:
            return int(bool(positive(plain)))
        except ValueError as error:
            raise ValueError(f"{where}: positive cannot judge {plain!r} in {column!r} ({error}).") from error
    if not plain:
        raise ValueError(f"{where}: the label in {column!r} is empty.")
    if positive is not None:
        return int(plain in set(map(_plain, positive)))
    if plain not in ("0", "1"):
        raise ValueError(
            f"{where}: the label in {column!r} is {plain!r}, neither 0 nor 1; say which labels mean moral "
            "with positive=..., or give a graded column as value=..."
        )
    return int(plain)


def _text(cell: object) -> str:
    return "" if cell is None else str(cell).strip()


def _plain(cell: object) -> str:
    """A label as text, one spelling for each: ``1``, ``1.0``, ``True`` and true are all ``1``."""
    plain = _text(cell)
    return {"true": "1", "false": "0", "1.0": "1", "0.0": "0"}.get(plain.casefold(), plain)


def _number(cell: object, where: str, column: str) -> float | None:
    if cell is None or cell == "":
        return None
    try:
        number = float(cell)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{where}: {column!r} must be a finite number or empty; got {cell!r}.")
    return number
