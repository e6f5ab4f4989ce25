"""RTP-LX and PolygloToxicityPrompts: the beginnings of texts in many languages."""

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from morality_lens.items.kinds import OpenPrompt, item_from_row
from morality_lens.items.published.values import DataSet, Placed, Row


def _rtp_lx(rows: Iterable[Row], subset: str) -> list[Placed]:
    return [_translated(row) for row in _with_text(rows, "Prompt")]


def _translated(row: Row) -> Placed:
    notes = row.cells.get("Annotations")
    score = (notes if isinstance(notes, dict) else row.cells).get("Toxicity")
    names = (row.text("Locale"), str(row.cells.get("Dialect") or ""), str(row.index("Index")))
    return _prompt(
        row,
        id="/".join(name for name in names if name),
        cluster=f"prompt {names[-1]}",
        text=row.text("Prompt"),
        toxicity=None if score is None else (_number(row, score) - 1) / 4,
        category=row.text("Locale"),
    )


def _polyglo(rows: Iterable[Row], subset: str) -> list[Placed]:
    return [_scraped(row) for row in _with_text(rows, "prompt")]


def _with_text(rows: Iterable[Row], column: str) -> Iterator[Row]:
    """The rows whose prompt has text; a warning says how many have none."""
    blank: list[str] = []
    for row in rows:
        if row.text(column):
            yield row
        else:
            blank.append(row.where)
    if blank:
        warnings.warn(
            f"rows without a prompt are left out: {len(blank)} of them, the first at {blank[0]}", stacklevel=2
        )


def _scraped(row: Row) -> Placed:
    about = row.cells.get("meta_data")
    url = about.get("url") if isinstance(about, dict) else None
    name = f"{_language(row)}/{row.name}"
    score = _summary(row.cells.get("prompt_perspective"))
    score = row.cells.get("prompt_toxicity") if score is None else score
    return _prompt(
        row,
        id=name,
        cluster=str(url or name),
        text=row.text("prompt"),
        toxicity=None if score is None else _number(row, score),
        category=_language(row),
    )


def _summary(perspective: Any) -> Any:
    """The score of the whole text for toxicity, as Perspective gives it; None where it is not there."""
    for name in ("attributeScores", "TOXICITY", "summaryScore", "value"):
        perspective = perspective.get(name) if isinstance(perspective, dict) else None
    return perspective


def _language(row: Row) -> str:
    about = row.cell("meta_data")
    if not isinstance(about, dict) or not about.get("lang"):
        raise ValueError(
            f"{row.where}: meta_data must be an object with the language as lang; got {about!r}."
        )
    return str(about["lang"]).casefold()


def _number(row: Row, score: Any) -> float:
    try:
        return float(score)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{row.where}: the toxicity must be a number; got {score!r}.") from error


def _prompt(row: Row, **fields: Any) -> Placed:
    return row.where, item_from_row(OpenPrompt, fields, row.where)


SETS = (
    DataSet(
        name="rtp-lx",
        title="RTP-LX",
        kind="open prompts",
        licence="MIT; what is translated from RealToxicityPrompts, Apache 2.0; parts in Korean (BEEP!, "
        "CC BY-SA 4.0), Danish, Hebrew and Brazilian Portuguese come from other corpora, see its NOTICE",
        citation="de Wynter et al. 2024, arXiv 2404.14397",
        address="https://github.com/microsoft/RTP-LX",
        columns="Prompt, Index, Locale, Dialect, Annotations",
        cluster="Index: a prompt and its translations. That numbers agree over languages was not compared: "
        "where they do not, a run in several languages joins prompts that are not related, which costs "
        "precision and no validity.",
        quirks="JSON lines in files that end in .json, packed in a ZIP with a password. The toxicity is the "
        "annotators' mean from 1 to 5, put on 0 to 1. Rows without a prompt are left "
        "out, with a warning. A code such as zh stands for zh-hans and zh-hant.",
        languages=(
            *("ar", "cs", "da", "de", "en", "es", "fi", "fr", "he", "hi", "hu", "id", "it", "ja", "ko", "nl"),
            *("no", "pl", "pt", "ru", "sv", "th", "tr", "uk", "zh"),
        ),
        checked="RTP-LX/RTP_LX_NL.json in microsoft/RTP-LX; later languages by their names alone",
        files=("*RTP_LX_*.json", "*RTP_LX_*.jsonl", "*.parquet"),
        keys=frozenset({"Prompt", "Index", "Locale"}),
        reader=_rtp_lx,
        language=lambda row: row.text("Locale").casefold(),
    ),
    DataSet(
        name="polyglo-toxicity-prompts",
        title="PolygloToxicityPrompts",
        kind="open prompts",
        licence="AI2 ImpACT, low risk",
        citation="Jain et al. 2024, arXiv 2405.09373",
        address="https://github.com/kpriyanshu256/polyglo-toxicity-prompts",
        hub="ToxicityPrompts/PolygloToxicityPrompts",
        columns="prompt, meta_data, prompt_perspective or prompt_toxicity",
        cluster="The page that the text was taken from, where its address is there; else the prompt.",
        quirks="The column toxicity is that of the prompt and its continuation together, and is not "
        "read; the prompt's own is in prompt_perspective. Rows without a prompt are left out, with a "
        "warning. The hub has a configuration for each language "
        "and size: name one, as in owner/name:ptp-en, or everything is fetched.",
        languages=(
            *("ar", "cs", "de", "en", "es", "fr", "hi", "id", "it", "ja", "ko", "nl", "pl", "pt", "ru"),
            *("sv", "zh"),
        ),
        checked="its description with one example; no file was compared",
        files=("*.jsonl", "*.parquet", "*.json"),
        keys=frozenset({"prompt", "meta_data", "toxicity_bucket"}),
        reader=_polyglo,
        language=_language,
    ),
)
