"""The command that fits several named axes on a run's model, and keeps their effects with the run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from morality_lens.cli.console import phase, print_lines, print_path, print_table, reload, steps
from morality_lens.cli.model_options import MOST_SEED, Device
from morality_lens.cli.places import RunFolder, open_whole, refuse_missing
from morality_lens.cli.statements import of_run, statements_file
from morality_lens.items.bundled import FOUNDATIONS, STATEMENTS
from morality_lens.probes.kinds import Method

if TYPE_CHECKING:
    from morality_lens.items.kinds import Statement

FOLDER = "axes"
"""Where axes are kept in a run's folder."""


def axes(
    folder: RunFolder,
    statements: Annotated[
        list[str] | None,
        typer.Option(
            help="An axis: a set that comes with the package (care, fairness, ...) or NAME=FILE; repeat it.",
            show_default="the five moral foundations",
        ),
    ] = None,
    remove: Annotated[
        list[str] | None,
        typer.Option(help="A nuisance that is taken out of every axis: as --statements; repeat it."),
    ] = None,
    method: Annotated[
        Method, typer.Option(help="How nuisances are taken out: project or leace.")
    ] = "project",
    together: Annotated[
        bool, typer.Option("--together", help="Make each axis what the others do not hold.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Random seed of the folds.")] = 0,
    device: Device = None,
) -> None:
    """Fit several named axes on the run's model, and keep them with the effects on each in its folder."""
    refuse_missing(runs=[folder])
    played = open_whole(folder)
    if not statements and of_run(played):
        raise ValueError("the bundled models know no words but their own; give axes, --statements NAME=FILE.")
    sets = read_axes([*(statements or FOUNDATIONS), *(remove or ())])
    nuisances = [one.partition("=")[0] for one in remove or ()]
    from morality_lens.items.files import own_folder
    from morality_lens.probes.from_statements import check_axes, fit_axes
    from morality_lens.runs.results import keep_result

    check_axes(
        sets,
        together=together,
        remove=nuisances,
        method=method,
        kind="mean_difference",
        refits=None,
        seed=seed,
    )
    refuse_without_residuals(played.manifest["stored"]["keep"], folder)
    steps.start(3)
    with phase("loading the model"):
        loaded = reload(played, device)
    with phase("reading statements and fitting the axes"):
        fitted = fit_axes(loaded, sets, together=together, remove=nuisances, method=method, seed=seed)
    own_folder(played.path / FOLDER)
    fitted.save(played.path / FOLDER)
    with phase("estimating effects on the axes"):
        from morality_lens.report.axes import cost_lines, effect_lines, effects_on_axes

        effects = effects_on_axes(played, fitted, seed=seed)
    keep_result(played, "axes", fitted.relations)
    if effects is not None:
        keep_result(played, "axes-effects", effects)
    print_table(("axis", "statements", f"AUROC, layer {fitted.layer}", "95 % interval"), fitted.rows())
    print_lines(*fitted.refused.values(), *cost_lines(fitted.relations))
    print_lines(
        *(effect_lines(effects) if effects is not None else ["no effect on the axes could be estimated"])
    )
    print_path("kept in ", played.path / FOLDER)


def read_axes(given: list[str]) -> "dict[str, tuple[Statement, ...]]":
    """Sets of statements by the name of their axis.

    Args:
        given: the names of sets that come with the package, or ``NAME=FILE``.

    Raises:
        ValueError: a name twice, or neither form.
        FileNotFoundError: there is no such file.
    """
    from morality_lens.items.loaders import load_statements

    found = {}
    for one in given:
        name, equals, path = one.partition("=")
        if not equals and name not in STATEMENTS:
            raise ValueError(f"an axis is one of {', '.join(STATEMENTS)}, or NAME=FILE; got {one!r}.")
        if name in found or not name or (equals and not path.strip()):
            raise ValueError(f"every axis needs a name of its own, once: NAME or NAME=FILE; got {one!r}.")
        source = path or name
        refuse_missing(files=[statements_file(source)])
        found[name] = load_statements(source)
    return found


def refuse_without_residuals(keep: str, folder: Path) -> None:
    """Nothing, where a run kept residuals.

    Raises:
        ValueError: it kept projections on one direction alone.
    """
    if keep == "projections":
        raise ValueError(
            f"the run in {folder} kept projections on one direction and no residuals, which axes need; play "
            "it again with --keep residuals."
        )
