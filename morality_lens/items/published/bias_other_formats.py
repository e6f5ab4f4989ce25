"""KoBBQ and CBBQ: kin of BBQ whose files have a format of their own."""

import re
from collections.abc import Iterable

from morality_lens.items.files import texts_in
from morality_lens.items.kinds import Question
from morality_lens.items.published.bias import CONTEXTS, kept
from morality_lens.items.published.values import DataSet, Placed, Row, only_language, question

# ------------------------------------------------------------------------------------------------ KoBBQ
_SAMPLE = re.compile(r"(?P<template>.+-\d+)[a-z]-\d+-(?P<context>amb|dis)-(?P<asked>bsd|cnt)")
_KO_UNKNOWN = "알 수 없음"


def _kobbq(rows: Iterable[Row], subset: str) -> list[Placed]:
    return kept(map(_kobbq_question, rows), subset)


def _kobbq_question(row: Row) -> tuple[str, Question]:
    name = row.text("sample_id")
    parts = _SAMPLE.fullmatch(name)
    if parts is None:
        raise ValueError(
            f"{row.where}: sample_id must be as in age-001a-002-amb-bsd (category, template and version, "
            f"sample, amb or dis, bsd or cnt); got {name!r}."
        )
    options = texts_in(row.cell("choices"), "choices", row.where)
    if options.count(_KO_UNKNOWN) != 1 or len(options) != 3:
        raise ValueError(f"{row.where}: choices must be three, one of them {_KO_UNKNOWN!r}; got {options}.")
    unknown = options.index(_KO_UNKNOWN)
    biased, label = _place(row, "biased_answer", options), _place(row, "answer", options)
    ambiguous = parts["context"] == "amb"
    if ambiguous and label != unknown:
        raise ValueError(
            f"{row.where}: the answer of an ambiguous row must be {_KO_UNKNOWN!r}; got {options[label]!r}."
        )
    negative = parts["asked"] == "bsd"
    other = next(k for k in range(3) if k not in (unknown, biased))
    return question(
        row,
        id=name,
        cluster=parts["template"],
        context=row.text("context"),
        question=row.text("question"),
        options=options,
        unknown=unknown,
        label=label,
        biased=biased,
        stereotyped=biased if negative else other,
        polarity="neg" if negative else "nonneg",
        ambiguous=ambiguous,
        category=parts["template"].rpartition("-")[0],
    )


def _place(row: Row, name: str, options: list[str]) -> int:
    text = row.text(name)
    if text not in options:
        raise ValueError(f"{row.where}: {name} must be one of the choices {options}; got {text!r}.")
    return options.index(text)


# ------------------------------------------------------------------------------------------------- CBBQ
def _cbbq(rows: Iterable[Row], subset: str) -> list[Placed]:
    return kept(map(_cbbq_question, rows), subset)


def _cbbq_question(row: Row) -> tuple[str, Question]:
    conditions = {"ambiguous": True, "ambig": True, "disambiguous": False, "disambig": False}
    ambiguous = row.one_of("context_condition", conditions)
    polarity = row.one_of("question_polarity", {"neg": "neg", "non_neg": "nonneg", "nonneg": "nonneg"})
    category, label = row.text("category"), row.index("label")
    if ambiguous != (label == 2):
        raise ValueError(
            f"{row.where}: in CBBQ the answer is ans2, that it cannot be known, exactly where the context is "
            f"ambiguous; got label {label} in a context that is {row.text('context_condition')}."
        )
    condition = "ambiguous" if ambiguous else "disambiguated"
    return question(
        row,
        id=f"{category}/{condition}/{row.text('example_id')}",
        cluster=f"{category}/{row.text('question_index')}",
        context=row.text("context"),
        question=row.text("question"),
        options=[row.text(name) for name in ("ans0", "ans1", "ans2")],
        unknown=2,
        label=label,
        polarity=polarity,
        ambiguous=ambiguous,
        category=category,
    )


SETS = (
    DataSet(
        name="kobbq",
        title="KoBBQ",
        kind="questions",
        licence="MIT",
        citation="Jin et al. 2024, arXiv 2307.16778",
        address="https://github.com/naver-ai/KoBBQ",
        hub="naver-ai/kobbq",
        columns="sample_id, context, question, choices, biased_answer, answer",
        cluster="Category and template, of which sample_id has the number; its versions a and b name the "
        "same two groups in the other order.",
        quirks="A TSV whose choices are a list as Python writes it; the answers are texts. The unknown "
        "option stands last: permute the options. A folder gives the test samples, one of each "
        "template; the file of all samples, of which they are part, is read where it is given itself. "
        "KoBBQ_templates.tsv has placeholders and is not read.",
        languages=("ko",),
        subsets=CONTEXTS,
        checked="data/KoBBQ_test_samples.tsv in naver-ai/KoBBQ",
        files=("*KoBBQ_test_samples.tsv", "*test*.parquet"),
        keys=frozenset({"sample_id", "choices", "biased_answer", "answer"}),
        reader=_kobbq,
        language=only_language("ko"),
    ),
    DataSet(
        name="cbbq",
        title="CBBQ",
        kind="questions",
        licence="none found",
        citation="Huang and Xiong 2024, arXiv 2306.16244",
        address="https://github.com/YFHuangxxxx/CBBQ",
        columns="example_id, question_index, question_polarity, context_condition, category, context, "
        "question, ans0, ans1, ans2, label",
        cluster="Category and question_index. The numbers are those of a file: where the ambiguous and "
        "the disambiguated file number their templates apart, two templates are taken for one cluster, "
        "which costs precision and no validity.",
        quirks="JSON arrays, in some copies with a byte order mark, all values texts. The contexts "
        "are called ambiguous and disambiguous, the polarities neg and non_neg. ans2 is the unknown option "
        "throughout: permute the options. The groups are named in free words, so which answer expresses the "
        "bias is not known, and bias scores are refused.",
        languages=("zh",),
        subsets=CONTEXTS,
        checked="three files of data/ in YFHuangxxxx/CBBQ: SES, age, religion",
        files=("*ambiguous.json", "*ambiguous.csv"),
        folder="data",
        keys=frozenset({"bias_targeted_groups", "ans0", "ans1", "ans2", "label"}),
        reader=_cbbq,
        language=only_language("zh"),
    ),
)
