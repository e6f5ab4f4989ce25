"""Whether what a command is given is there and can be used: checked before anything large is imported."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from morality_lens.items.files import reading
from morality_lens.models.finding import find_model
from morality_lens.runs.manifest import read_manifest

if TYPE_CHECKING:
    from morality_lens.items.kinds import Statement
    from morality_lens.probes.kinds import Kind
    from morality_lens.probes.probe import Probe
    from morality_lens.runs.run import Run

RunFolder = Annotated[Path, typer.Argument(help="The folder of a run.")]
REPAIR = "repair it, or play the run again into a new folder."


def refuse_missing(
    *,
    models: Iterable[str | None] = (),
    files: Iterable[str | Path | None] = (),
    runs: Iterable[Path] = (),
    judges: Iterable[str | None] = (),
) -> None:
    """Nothing, where every model, file and run is there; a hub name is looked up later.

    Args:
        models: names and folders; None is the bundled model.
        files: files and folders; None is passed over.
        runs: folders that hold a run.
        judges: names and folders of toxicity classifiers; None is passed over.

    Raises:
        FileNotFoundError: one is missing.
        ValueError: a folder is no whole model, or a manifest is damaged or of another format.
    """
    for model in models:
        refuse_empty(model, "the name of a model")
        find_model(model)
    for judge in judges:
        if judge is not None:
            refuse_empty(judge, "the name of a judge")
            _refuse_missing_judge(judge)
    for file in files:
        refuse_empty(file, "the path of a file")
        if file is not None and not Path(file).exists():
            raise FileNotFoundError(
                f"{file} does not exist: give the path of a file or of a folder with files."
            )
    for folder in runs:
        refuse_empty(folder, "the folder of a run")
        with reading(folder / "manifest.json", "manifest of a run", REPAIR):
            read_manifest(folder)


def _refuse_missing_judge(name: str) -> None:
    try:
        find_model(name)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f"{name} is no toxicity classifier: {error}") from error


def refuse_empty(given: str | Path | None, what: str) -> None:
    """Nothing, where something is given or nothing at all.

    An empty text becomes the path of the working directory, which is seldom meant.

    Raises:
        ValueError: an empty or blank text.
    """
    if given is not None and (not str(given).strip() or given == Path()):
        raise ValueError(f"{what} is empty; give it, or leave the option out.")


def refuse_in_the_way(out: str | Path, what: str) -> None:
    """Nothing, where a folder can be made there.

    Args:
        out: the folder.
        what: what it is to hold, for messages: ``run`` or ``study``.

    Raises:
        ValueError: the path is empty, or it or what should be a folder above it is a file.
    """
    refuse_empty(out, "the output folder (--out)")
    folder = Path(out)
    if folder == Path():
        raise ValueError("the output folder (--out) is empty or the working directory; give a folder in it.")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} exists and is no {what}; give a new or an empty output folder.")
    above = next((one for one in folder.parents if one.exists()), None)
    if above is not None and not above.is_dir():
        raise ValueError(f"{above} is no folder, so {folder} cannot be made; give another output folder.")


def main_runs(study: Path) -> list[Path]:
    """The folders of a study's main runs that are there, its questions first."""
    return [study / name for name in ("questions", "prompts") if (study / name / "manifest.json").is_file()]


def probe_of(played: "Run") -> "Probe | None":
    """The probe in a run's folder, where there is one."""
    from morality_lens.probes.probe import load_probe

    file = played.path / "probe.safetensors"
    return load_probe(file) if file.is_file() else None


def open_whole(folder: Path) -> "Run":
    """The run in a folder, whose manifest and items could be read.

    Raises:
        ValueError: one of them is damaged or foreign.
    """
    from morality_lens.runs.run import open_run

    with reading(folder / "manifest.json", "manifest of a run", REPAIR):
        played = open_run(folder)
        _ = played.design, played.wording_index, played.fingerprint, repr(played.manifest["study"]["model"])
    with reading(folder / "items.jsonl", "list of the items of this run", REPAIR):
        _ = played.asked, played.measures
    return played


def refuse_unfittable(statements: "Sequence[Statement]", kind: "Kind", source: str | None) -> None:
    """Nothing, where a probe can be fitted on the statements; known before a model is loaded.

    Raises:
        ValueError: see :func:`morality_lens.probes.training_data.check_statements`.
    """
    from morality_lens.probes.training_data import check_statements

    try:
        check_statements(statements, kind)
    except ValueError as error:
        raise ValueError(f"{source or 'the bundled statements'}: {error}") from error


def asked(feedback: str, source: str | None) -> tuple[list[str | None], list[str | None]]:
    """The models and the files that a source of feedback names."""
    return ([source] if feedback == "model" else []), ([source] if feedback == "file" else [])
