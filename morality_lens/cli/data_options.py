"""Which data a command plays: a file, or a published data set by its name."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from morality_lens.cli.run_config import Config
    from morality_lens.items.kinds import AnyItem

Dataset = Annotated[
    str | None,
    typer.Option(
        help="Published data set that --data holds, such as mbbq.", show_default="told by its columns"
    ),
]
Subset = Annotated[
    str | None,
    typer.Option(help="Subset of the data set, such as disambiguated.", show_default="its first one"),
]
Language = Annotated[
    str | None, typer.Option(help="Language of the data set to keep, such as es.", show_default="all")
]


def data_file(asked: "Config") -> str | None:
    """The file or folder of the data, which has to be there; None without one, or for a name on a hub."""
    if asked.data is None or asked.dataset is None:
        return asked.data
    from morality_lens.items.data import is_on_hub

    return None if is_on_hub(asked.data) else asked.data


def data_of(asked: "Config", *, limit: int | None) -> "tuple[AnyItem, ...]":
    """The items of the data; none where none is asked for.

    Raises:
        FileNotFoundError: no such file, or a data set by name without its files; says where they are.
        ValueError: subset or language without data; no such data set, subset or language; or what the loader
            refuses.
    """
    from morality_lens.items.data import load_data

    if asked.data is None and asked.dataset is None:
        if asked.subset is not None or asked.language is not None:
            raise ValueError("subset and language are those of a published data set; give it as data.")
        return ()
    first, where = (asked.data or "", None) if asked.dataset is None else (asked.dataset, asked.data)
    return load_data(first, where, subset=asked.subset, language=asked.language, limit=limit, seed=asked.seed)
