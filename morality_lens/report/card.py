"""A run's summary as a data set of the Hub: a card, the tables behind it, and nothing of the residuals."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from morality_lens.interactions.tabulating import effects_table
from morality_lens.items.files import write_json, write_text
from morality_lens.probes.probe import Probe
from morality_lens.report.analysis import Analysis
from morality_lens.report.methods import bibtex, methods_paragraph, shown_name
from morality_lens.report.summary import result_lines
from morality_lens.runs.run import Run

PRIVATE = ("text", "rationale", "feedback_text", "thought")
"""Columns of the answers that hold what the model wrote, and repeat the items' texts."""


PUBLIC = ("model", "items", "design", "wording", "feedback", "limits", "temperature")
"""Entries of a run's identity that are shared."""


def write_dataset_card(
    run: Run, analysis: Analysis, folder: str | Path, *, probe: Probe | None = None, texts: bool = False
) -> Path:
    """A folder that can be a data set of the Hub: README, answers, cell means and effects of a run.

    Args:
        run: the run.
        analysis: its estimates, from ``analyze``.
        folder: where to write; made if it is not there.
        probe: the direction of the estimates.
        texts: whether the answers come with what the model wrote. It repeats the items, which have a licence
            of their own and may hold stereotypes and slurs, so it is left out unless asked for.

    Returns:
        The card: ``README.md``. Beside it ``answers.parquet``, ``effects.csv``, ``behaviour.csv`` and
        ``manifest.json``, those that there are.

    Examples:
        >>> card = ml.report.write_dataset_card(run, ml.analyze(run, probe=probe), folder / "shared-run")
        >>> sorted(path.name for path in card.parent.iterdir())[:3]
        ['README.md', 'answers.parquet', 'behaviour.csv']
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    answers = run.answers
    left_out = [] if texts else [name for name in PRIVATE if name in answers]
    answers.drop(columns=left_out).to_parquet(target / "answers.parquet", index=False)
    tables = {"effects": analysis.effects, "behaviour": analysis.behaviour_effects}
    written = {name: effects_table(found) for name, found in tables.items() if found is not None}
    for name, table in written.items():
        table.to_csv(target / f"{name}.csv", index=False)
    write_json(target / "manifest.json", _public(run.manifest))
    return write_text(target / "README.md", _card(run, analysis, probe, written, left_out))


def push_run_to_hub(
    run: Run,
    analysis: Analysis,
    repo_id: str,
    *,
    probe: Probe | None = None,
    texts: bool = False,
    private: bool = True,
    message: str = "Add a run",
    api: Any = None,
) -> str:
    """Upload a run's summary as a data set, see :func:`write_dataset_card`; the repository's address.

    Args:
        run: the run.
        analysis: its estimates.
        repo_id: ``owner/name``; made if it is not there.
        probe: the direction of the estimates.
        texts: whether what the model wrote comes along.
        private: whether a repository made here is seen by its owner alone.
        message: of the commit.
        api: what to upload with, an ``HfApi``; None makes one with the token that is logged in.

    Examples:
        >>> class Hub:  # stands in for huggingface_hub.HfApi()
        ...     def create_repo(self, *, repo_id, repo_type, private, exist_ok):
        ...         return f"https://hub.example/{repo_type}s/{repo_id}"
        ...     def upload_folder(self, *, repo_id, repo_type, folder_path, commit_message):
        ...         pass
        ...
        >>> ml.report.push_run_to_hub(run, ml.analyze(run), "someone/run", api=Hub())
        'https://hub.example/datasets/someone/run'
    """
    if api is None:
        from huggingface_hub import HfApi  # slow to import, and seldom used

        api = HfApi()
    address = api.create_repo(repo_id=repo_id, repo_type="dataset", private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        write_dataset_card(run, analysis, folder, probe=probe, texts=texts)
        api.upload_folder(repo_id=repo_id, repo_type="dataset", folder_path=folder, commit_message=message)
    return str(address)


def _public(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest without what belongs to the machine: paths and addresses."""
    kept = {key: manifest[key] for key in ("format", "versions", "stored") if key in manifest}
    study = {key: value for key, value in manifest["study"].items() if key in PUBLIC}
    study["model"] = {**study["model"], "name": shown_name(study["model"])}
    return {**kept, "study": study}


def _card(
    run: Run,
    analysis: Analysis,
    probe: Probe | None,
    tables: dict[str, pd.DataFrame],
    left_out: list[str],
) -> str:
    """The card's text: metadata, the result in lines, what was done, the files, and whom to cite."""
    configs = [{"config_name": "answers", "data_files": "answers.parquet"}]
    configs += [{"config_name": name, "data_files": f"{name}.csv"} for name in tables]
    head = {
        "tags": ["morality-lens", "moral-self-correction", "interpretability"],
        "pretty_name": f"Moral self-correction of {shown_name(run.manifest['study']['model'])}",
        "configs": configs,
    }
    found = [f"- {line.strip()}" for line in result_lines(analysis, probe=probe)]
    refused = [f"- {line}" for line in analysis.refused]
    without = f" The columns {', '.join(left_out)} are left out: they repeat the items." if left_out else ""
    lines = [
        "---",
        *(f"{key}: {json.dumps(value)}" for key, value in head.items()),  # JSON is YAML too
        "---",
        "",
        f"# {head['pretty_name']}",
        "",
        "## Result",
        *(found or ["Nothing was estimated."]),
        *(["", "## Not estimated", *refused] if refused else []),
        "",
        "## How it was made",
        methods_paragraph(run, analysis, probe=probe),
        "",
        "## Files",
        f"- `answers.parquet`: a row for each answer, with its condition and round.{without}",
        *[f"- `{name}.csv`: effects with intervals, adjusted p and units." for name in tables],
        "- `manifest.json`: model, items, design and versions.",
        "",
        "The licence of the items holds for their texts; name it in this card before it is made public.",
        "",
        "## Citation",
        "```bibtex",
        bibtex(run, analysis).strip(),
        "```",
        "",
    ]
    return "\n".join(lines)
