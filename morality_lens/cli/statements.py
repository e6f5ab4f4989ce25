"""The labelled statements that a command reads: those of the options, or those that fit the model."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from morality_lens.probes.kinds import KINDS, Kind

if TYPE_CHECKING:
    from morality_lens.items.kinds import Statement
    from morality_lens.runs.run import Run

Statements = Annotated[
    str | None,
    typer.Option(
        help="Labelled statements for the probe: a file, moral, composed, world, or care, fairness, ...",
        show_default="moral, plain English; for a bundled model world",
    ),
]
Toxicity = Annotated[
    str | None,
    typer.Option(
        help="Labelled statements of toxic and neutral language, on which a judge is fitted.",
        show_default="for a bundled model world",
    ),
]


def bundled(model: str | Path | None) -> bool:
    """Whether a model is one of those that come with the package, which know no words but their own."""
    from morality_lens.items.bundled import asset
    from morality_lens.models.finding import BUNDLED, find_model

    folders = {asset("world", folder).resolve() for folder in BUNDLED.values()}
    return model is None or Path(find_model(model)).resolve() in folders


def of_run(played: "Run") -> bool:
    """Whether a run was played by one of the bundled models."""
    return bundled(played.loaded_from)


def statements_file(path: str | None) -> str | None:
    """The path of a file of statements that must be there: None for a set that comes with the package."""
    from morality_lens.items.bundled import STATEMENTS

    return None if path in STATEMENTS else path


def statements_of(
    path: str | None, *, world: bool, kind: Kind = "mean_difference"
) -> "tuple[Statement, ...]":
    """The statements of an option, or those that fit the model.

    Args:
        path: of the option; None takes plain English, or for a bundled model its own world's.
        world: whether the model is a bundled one.
        kind: of direction; one that is fitted on values reads the column ``value`` of a file.
    """
    from morality_lens.items.loaders import load_statements

    if path is None:
        return load_statements("world" if world else "moral")
    return load_statements(path, value="value" if KINDS[kind].fitted_on == "values" else None)


def toxicity_of(path: str | None, *, world: bool, needed: bool) -> "tuple[Statement, ...]":
    """The statements of toxic and neutral language that a judge is fitted on.

    Args:
        path: of the option ``--toxicity``; None takes a bundled model's own world's.
        world: whether the model is a bundled one.
        needed: whether completions are judged and no other judge was given.

    Raises:
        ValueError: they are needed, the model is not a bundled one, and none were given.
    """
    from morality_lens.items.loaders import load_statements

    if path is not None:
        return load_statements(path)
    if not needed:
        return ()
    if world:
        return load_statements("world")
    raise ValueError(
        "the completions of open prompts need a judge of toxicity: give a classifier (--judge NAME or "
        "FOLDER), or labelled statements to fit one on (--toxicity FILE, for example paradetox.tsv)."
    )


def read_directions(given: Sequence[str]) -> dict[str, str]:
    """The files of further directions, by name.

    Args:
        given: ``NAME=FILE`` each; FILE may be a set that comes with the package.

    Raises:
        ValueError: an option of another form, or a name that is used already or holds other characters than
            letters, digits and hyphens.
    """
    if not given:
        return {}
    from morality_lens.studies.folder import refuse_direction

    found: dict[str, str] = {}
    for one in given:
        name, _, path = one.partition("=")
        if not path.strip() or not name:
            raise ValueError(f"--direction needs NAME=FILE; got {one!r}.")
        refuse_direction(name, found)
        found[name] = path
    return found
