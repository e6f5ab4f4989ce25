"""Whether what a command is given is there: checked before anything large is imported."""

from collections.abc import Iterable
from pathlib import Path

from morality_lens.models.finding import find_model
from morality_lens.runs.manifest import read_manifest


def refuse_missing(*, models: Iterable[str | None] = (), files: Iterable[str | Path | None] = ()) -> None:
    """Nothing, where every model and file is there; a hub name is looked up later.

    Args:
        models: names and folders; None is the bundled model.
        files: files and folders; None is passed over.

    Raises:
        FileNotFoundError: one is missing.
        ValueError: a folder is no whole model.
    """
    for model in models:
        find_model(model)
    for file in files:
        if file is not None and not Path(file).exists():
            raise FileNotFoundError(
                f"{file} does not exist: give the path of a file or of a folder with files."
            )


def refuse_missing_run(folder: Path) -> None:
    """Nothing, where the folder holds a run.

    Raises:
        FileNotFoundError: it holds none.
        ValueError: the manifest is damaged or of another format.
    """
    read_manifest(folder)


def asked(feedback: str, source: str | None) -> tuple[list[str | None], list[str | None]]:
    """The models and the files that a source of feedback names."""
    return ([source] if feedback == "model" else []), ([source] if feedback == "file" else [])
