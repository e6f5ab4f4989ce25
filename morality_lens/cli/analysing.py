"""The commands that read a finished run without a model: analyze and report."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from morality_lens.cli.console import print_json, print_lines, print_path, print_report, records, shown
from morality_lens.cli.model_options import MOST_SEED
from morality_lens.cli.places import RunFolder, open_whole, refuse_missing

if TYPE_CHECKING:
    from morality_lens.probes.probe import Probe
    from morality_lens.report.analysis import Analysis
    from morality_lens.runs.run import Run


def analyze(
    folder: RunFolder,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Random seed of the resampling.")] = 0,
) -> None:
    """Print the effects of a run, and write them to effects.csv in its folder; --verbose: all in sentences.

    --json prints {"run": ..., "behaviour_effects": rows, "text_effects": rows, "effects": rows,
    "refused": [...], "files": [...]}. Rows are those of effects.csv (effect, round, ..., estimate, low, high,
    p, ...), null where nothing was estimated: of behaviour, of the right option's full text, and of the
    projection.
    """
    refuse_missing(runs=[folder])
    from morality_lens.items.files import write_text
    from morality_lens.report import analysis as estimates

    played = open_whole(folder)
    probe = _kept_probe(played)
    analysis = estimates.analyze(played, probe=probe, seed=seed)
    found = {
        name: None if effects is None else effects.drop_vars("cell_mean").to_dataframe()
        for name, effects in (
            ("behaviour_effects", analysis.behaviour_effects),
            ("text_effects", analysis.text_effects),
            ("effects", analysis.effects),
        )
    }
    print_analysis(analysis, probe=probe)
    written = []
    for name in ("effects", "behaviour_effects"):
        table = found[name]
        if table is not None:
            written.append(write_text(played.path / f"{name}.csv", table.to_csv()))
            print_path("wrote ", written[-1])
    if shown.json:
        rows = {
            name: None if table is None else records(table.reset_index()) for name, table in found.items()
        }
        files = list(map(str, written))
        print_json({"run": str(folder), **rows, "refused": analysis.refused, "files": files})


def report(
    folder: RunFolder,
    out: Annotated[
        Path | None,
        typer.Option(help="The HTML file to write.", show_default="report.html in the run's folder"),
    ] = None,
) -> None:
    """Write the report of a run; needs no model."""
    refuse_missing(runs=[folder])
    if out is not None and out.is_dir():
        raise ValueError(f"--out is the HTML file to write; {out} is a folder.")
    from morality_lens.report.writing import write_report

    played = open_whole(folder)
    written = write_report(played, path=out or played.path / "report.html", probe=_kept_probe(played))
    print_report(written)


def _kept_probe(played: "Run") -> "Probe | None":
    from morality_lens.probes.probe import load_probe

    file = played.path / "probe.safetensors"
    return load_probe(file) if file.is_file() else None


def print_analysis(analysis: "Analysis", *, probe: "Probe | None") -> None:
    """Print the result in at most five lines; where all is wanted, every finding in sentences."""
    from morality_lens.report.summary import result_lines

    if shown.verbose:
        _print_findings(analysis)
    else:
        print_lines("", *result_lines(analysis, probe=probe))


def _print_findings(analysis: "Analysis") -> None:
    from morality_lens.interactions.describing import describe
    from morality_lens.judges.positions import describe_positions

    for title, effects in (
        ("Behaviour", analysis.behaviour_effects),
        ("Full text of the right option", analysis.text_effects),
        ("Projection", analysis.effects),
    ):
        if effects is None:
            continue
        print_lines(f"\n{title}", style="bold")
        site = "answer_start" if "site" in effects.dims and "answer_start" in effects["site"].values else None
        footing = ""
        for name in effects["effect"].values:
            *lines, footing = describe(effects, str(name), site=site).splitlines()
            print_lines(f"- {' '.join(lines)}")
        print_lines(footing, style="dim")
    if analysis.positions is not None:
        print_lines(f"\n{describe_positions(analysis.positions)}")
    print_lines(*analysis.option_lines, style="yellow")
    for line in analysis.refused:
        print_lines(f"not answered: {line}", style="yellow")
