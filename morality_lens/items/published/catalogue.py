"""All published data sets, by name and as a table; the one whose columns a row has."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from morality_lens.items.published import bias, bias_other_formats, coreference, decisions, ethics, toxicity
from morality_lens.items.published.values import DataSet

if TYPE_CHECKING:
    import pandas as pd

DATA_SETS: dict[str, DataSet] = {
    one.name: one
    for family in (bias, bias_other_formats, coreference, decisions, ethics, toxicity)
    for one in family.SETS
}
"""By name."""

_SHOWN = (
    *("title", "kind", "languages", "subsets", "licence", "citation", "address", "hub", "columns"),
    *("cluster", "quirks", "checked"),
)


def data_sets() -> "pd.DataFrame":
    """One row per published data set that :func:`load_data` knows by name.

    Columns: ``title``; ``kind``, what its rows become; ``languages``; ``subsets``, of which the first one is
    loaded where none is named; ``licence``; ``citation``; ``address``, where to get it; ``hub``, a name on
    the hub whose rows have the same columns; ``columns``, those that are read; ``cluster``, which items are
    one cluster and why; ``quirks``; ``checked``, what the schema was compared with.

    Examples:
        >>> ml.items.data_sets().loc["mbbq", "languages"]
        'en, es, nl, tr'
    """
    import pandas as pd

    rows = {name: {field: _plain(getattr(one, field)) for field in _SHOWN} for name, one in DATA_SETS.items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("name")


def _plain(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else ", ".join(value)


def named(name: str) -> DataSet:
    """The data set of that name.

    Raises:
        ValueError: none is called so; names those that are known.
    """
    found = DATA_SETS.get(name.strip().casefold())
    if found is None:
        raise ValueError(f"no data set is known as {name!r}; known are {', '.join(DATA_SETS)}.")
    return found


def recognised(file: Path, row: dict[str, Any]) -> DataSet | None:
    """The data set that a file is known to be of, by its columns or its name; None where it is of none.

    Raises:
        ValueError: it is one of several.
    """
    if {"instance_id", "template_id", "ans0"} <= row.keys():
        found = {"data_es": DATA_SETS["esbbq"], "data_ca": DATA_SETS["cabbq"]}.get(file.parent.name)
        if found is None:
            raise ValueError(
                f"{file} has the columns of EsBBQ and of CaBBQ, which do not tell them apart; say "
                f"which, as in load_data('esbbq', {str(file)!r})."
            )
        return found
    keyed = next((one for one in DATA_SETS.values() if one.keys and one.keys <= row.keys()), None)
    if keyed is None and "ans0" in row:
        stem = file.name.partition(".")[0]
        return DATA_SETS["mbbq" if bias.MBBQ_FILE.fullmatch(stem) else "bbq"]
    if keyed is None and {"context", "question", "choices", "answer"} <= row.keys():
        return DATA_SETS["bbq"]
    return keyed


def describe_data_sets() -> str:
    """The table of the documentation, as Markdown: an overview, then each data set by itself."""
    lines = ["| name | data set | becomes | languages | subsets | licence |", "|---|---|---|---|---|---|"]
    for one in DATA_SETS.values():
        link = f"[{one.title}](#{one.title.casefold().replace(' ', '-')})"
        cells = (f"`{one.name}`", link, one.kind, _plain(one.languages), _plain(one.subsets), one.licence)
        lines.append(f"| {' | '.join(cells)} |")
    for one in DATA_SETS.values():
        lines += ["", f"### {one.title}", f"{one.citation}. <{one.address}>", ""]
        lines += [f"- **Name**: `{one.name}`" + (f"; on the hub `{one.hub}`" if one.hub else "")]
        lines += [f"- **{name.capitalize()}**: {getattr(one, name)}" for name in ("licence", "columns")]
        lines += [f"- **{name.capitalize()}**: {getattr(one, name)}" for name in ("cluster", "quirks")]
        lines += [f"- **Schema checked against**: {one.checked}"]
    return "\n".join(lines) + "\n"
