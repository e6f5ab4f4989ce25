"""The report of a run as a file, and the coloured transcripts kept for it."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from morality_lens.items.files import read_json, reading, write_json
from morality_lens.probes.probe import Probe
from morality_lens.report.analysis import Analysis, analyze
from morality_lens.report.page import Page, write_page
from morality_lens.report.sections import inside_groups
from morality_lens.runs.results import kept_results
from morality_lens.runs.run import Run
from morality_lens.runs.token_view import TokenView, token_view


def write_report(
    run: Run,
    *,
    path: str | Path,
    probe: Probe | None = None,
    analysis: Analysis | None = None,
    transcripts: Sequence[TokenView] | None = None,
) -> Path:
    """One self-contained HTML file about a run, including the kept results from inside the model.

    Args:
        run: a run.
        path: the file to write.
        probe: fitted on the run's model; without one the report is about behaviour only.
        analysis: from :func:`analyze`; None runs it.
        transcripts: dialogues to browse; None takes those kept with the run by :func:`keep_transcripts`, or
            those of the first item without colours.

    Examples:
        >>> report = ml.write_report(run, probe=probe, path=folder / "report.html")
        >>> "</html>" in report.read_text(encoding="utf-8")
        True
    """
    done = analysis or analyze(run, probe=probe)
    views = kept_transcripts(run) if transcripts is None else tuple(transcripts)
    page = Page(
        run=run,
        analysis=done,
        probe=probe,
        transcripts=views,
        inside=inside_groups(kept_results(run)),
    )
    return write_page(page, path=path)


def keep_transcripts(run: Run, views: Sequence[TokenView]) -> Path:
    """Keep coloured transcripts in the run's folder, so that a report needs no model.

    Examples:
        >>> views = ml.rounds.read_transcripts(model, run, probe)
        >>> ml.report.keep_transcripts(run, views).is_relative_to(run.path)
        True
    """
    target = run.path / "coloured.json"
    rows = []
    for view in views:
        row = asdict(view)
        row["values"] = None if view.values is None else np.round(view.values, 4).tolist()
        rows.append(row)
    return write_json(target, rows, indent=None)


def kept_transcripts(run: Run) -> tuple[TokenView, ...]:
    """The transcripts kept with a run, or those of its first item without colours."""
    file = run.path / "coloured.json"
    if not file.is_file():
        first = run.transcripts[run.transcripts["item"] == run.transcripts["item"].iloc[0]]
        return tuple(token_view(row) for _, row in first.iterrows())
    with reading(file, "list of coloured transcripts", "remove it, or make it again: morality-lens probe."):
        return tuple(
            TokenView(**{**row, "values": None if row["values"] is None else np.array(row["values"])})
            for row in read_json(file)
        )
