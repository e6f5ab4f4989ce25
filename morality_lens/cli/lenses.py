"""The command that reads a run's residuals through a lens: ``morality-lens lens``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from morality_lens.cli.console import phase, print_lines, print_report, reload, steps
from morality_lens.cli.model_options import MOST_SEED, Device
from morality_lens.cli.places import open_whole, probe_of, refuse_missing

if TYPE_CHECKING:
    import xarray as xr

    from morality_lens.probes.probe import Probe
    from morality_lens.runs.run import Run


def lens(
    folder: Annotated[Path, typer.Argument(help="The folder of a run of questions or ratings.")],
    tuned: Annotated[
        Path | None,
        typer.Option(help="The folder of a tuned lens of the run's model.", show_default="the logit lens"),
    ] = None,
    device: Device = None,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Random seed.")] = 0,
) -> None:
    """What each layer would answer, and when the answer and the effects on it are there; joins the report."""
    refuse_missing(runs=[folder], files=[tuned])
    played = open_whole(folder)
    from morality_lens.circuits.lenses import outcome_of, places_of
    from morality_lens.circuits.tuned_lenses import load_tuned_lens

    outcome = outcome_of(played)
    places_of(played)
    read = None if tuned is None else load_tuned_lens(tuned)
    fitted = probe_of(played)
    steps.start(3)
    with phase("loading the model and running its self-test"):
        loaded = reload(played, device)
    with phase("reading the stored residuals through the lens"):
        _keep(played, loaded, read, "answer" if outcome == "shares" else outcome, fitted, seed)
    from morality_lens.report.writing import write_report

    with phase("writing the report"):
        written = write_report(played, path=played.path / "report.html", probe=fitted)
    print_report(written)


def _keep(played: "Run", loaded: Any, tuned: Any, outcome: Any, fitted: "Probe | None", seed: int) -> None:
    """Keep curves, effects, onsets and agreement with the run, and print when the answer forms."""
    from morality_lens.circuits.forming import (
        answer_onsets,
        describe_lens,
        lens_agreement,
        lens_curves,
    )
    from morality_lens.circuits.lenses import lens as read_lens
    from morality_lens.interactions.curves import Resampled
    from morality_lens.interactions.effects import factorial_effects
    from morality_lens.runs.results import keep_result

    how = Resampled(seed=seed)
    odds = _complete(read_lens(loaded, played, of=outcome, tuned=tuned))
    answer = _complete(read_lens(loaded, played, of="answer", tuned=tuned))
    keep_result(played, "lens-curves", lens_curves(odds, how=how))
    keep_result(played, "lens-answer", lens_curves(answer, how=how))
    effects = factorial_effects(odds, seed=seed)
    told = {name: odds.attrs.get(name, "") for name in ("lens", "of", "option_note")}
    keep_result(played, "lens-effects", effects.assign_attrs(told))
    if odds.attrs["final"]:
        found = answer_onsets(odds, answer, how=how)
        keep_result(played, "lens-onsets", found)
        print_lines("\nWhen the answer forms", style="bold")
        print_lines(*(f"- {line}" for line in describe_lens(found).splitlines()))
    else:
        print_lines(str(odds.attrs["checked"]))
    if fitted is not None:
        projected = fitted.project(played.residuals.sel(site=["answer_start"], item=odds["item"].values))
        keep_result(played, "lens-agreement", lens_agreement(odds, projected))


def _complete(odds: "xr.DataArray") -> "xr.DataArray":
    """The items that have a value at every place; how many have not is said."""
    whole = odds.dropna("item")
    left_out = odds.sizes["item"] - whole.sizes["item"]
    if left_out:
        print_lines(f"{left_out} items without an answer in some condition are left out.")
    return whole
