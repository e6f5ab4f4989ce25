"""The command that lists the runs and studies in a folder: ``morality-lens list``."""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from morality_lens.cli.console import print_json, print_lines, print_table, shown
from morality_lens.cli.places import main_runs, refuse_empty
from morality_lens.design import design_from
from morality_lens.items.files import read_json
from morality_lens.runs.manifest import missing_parts, read_manifest

MARKS = {"run": "manifest.json", "study": "study.json"}
"""The file by which each is known."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A run or a study in a folder.

    Attributes:
        path: its folder.
        kind: what it is; ``folder`` where it cannot be looked into.
        state: ``finished`` with all parts (a study: with its verdicts), ``unfinished``, or ``unreadable``.
        model: as it was loaded; None where that cannot be read, and so for the next three.
        items: so many (of a study: of its main runs).
        conditions: of its design.
        rounds: correction rounds.
        date: day and time of its last change.
        bytes: of all its files.
        report: the file of its report; None where it has none.
        problem: why it is unreadable; else empty.
    """

    path: str
    kind: Literal["run", "study", "folder"]
    state: Literal["finished", "unfinished", "unreadable"]
    model: str | None = None
    items: int | None = None
    conditions: int | None = None
    rounds: int | None = None
    date: str
    bytes: int
    report: str | None
    problem: str = ""


def list_folder(
    folder: Annotated[Path, typer.Argument(help="The folder that holds them, at any depth.")] = Path("runs"),
) -> None:
    """The runs and studies in a folder: state, model, size, and whether there is a report.

    A study is one line; give its own folder to see its runs. What cannot be read is listed with the reason.

    --json prints {"folder": ..., "entries": [{"path", "kind" (run or study), "state" (finished, unfinished or
    unreadable), "model", "items", "conditions", "rounds", "date", "bytes", "report", "problem"}]}.
    """
    refuse_empty(folder, "the folder to list")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; give one that holds runs or studies.")
    found = [_entry(one) for one in _places(folder, folder)]
    if shown.json:
        print_json({"folder": str(folder), "entries": [asdict(one) for one in found]})
        return
    if not found:
        print_lines(f"{folder} holds no run and no study.")
        return
    columns = ("folder", "what", "model", "items", "conditions", "rounds", "changed", "size", "report")
    print_table(columns, (_row(one, folder) for one in found))
    print_lines(*(f"{one.path} cannot be read: {one.problem}" for one in found if one.problem))


def _places(folder: Path, top: Path) -> Iterator[Path]:
    """Every folder with a run or a study; what is inside a run is passed over, and inside a study below."""
    held = [kind for kind, name in MARKS.items() if (folder / name).is_file()]
    if held:
        yield folder
        if "run" in held or folder != top:
            return
    try:
        below = sorted(folder.iterdir())
    except PermissionError:
        yield folder
        return
    for one in below:
        if one.is_dir() and not one.is_symlink() and not one.name.startswith("."):
            yield from _places(one, top)


def _entry(folder: Path) -> Entry:
    """What is known of a run or a study; a damaged one is unreadable, and says why."""
    kind = next((k for k, name in MARKS.items() if (folder / name).is_file()), "folder")
    files = [one.stat() for one in folder.rglob("*") if one.is_file() and not one.is_symlink()]
    changed = max((one.st_mtime for one in files), default=folder.stat().st_mtime)
    report = folder / "report.html"
    known: dict[str, Any] = {
        "path": str(folder),
        "kind": kind,
        "date": time.strftime("%Y-%m-%d %H:%M", time.localtime(changed)),
        "bytes": sum(one.st_size for one in files),
        "report": str(report) if report.is_file() else None,
    }
    try:
        told = _of_run(folder) if kind == "run" else _of_study(folder)
    except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        return Entry(
            **known, state="unreadable", problem=" ".join(str(error).split()) or type(error).__name__
        )
    return Entry(**known, **told)


def _of_run(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder)
    study, design = manifest["study"], design_from(manifest["study"]["design"])
    return {
        "state": "unfinished" if missing_parts(folder, manifest) else "finished",
        "model": str(study["model"]["name"]),
        "items": len(manifest["order"]),
        "conditions": len(design.conditions),
        "rounds": design.rounds,
    }


def _of_study(folder: Path) -> dict[str, Any]:
    read_json(folder / "study.json")
    runs = [_of_run(place) for place in main_runs(folder)]
    done = (folder / "verdicts.json").is_file() and all(one["state"] == "finished" for one in runs)
    told = {} if not runs else {**runs[0], "items": sum(one["items"] for one in runs)}
    return {**told, "state": "finished" if done and runs else "unfinished"}


def _row(one: Entry, top: Path) -> tuple[str, ...]:
    path = Path(one.path)
    numbers = ("" if n is None else f"{n:,}" for n in (one.items, one.conditions, one.rounds))
    return (
        str(path.relative_to(top)) if path != top else str(top),
        f"{one.state} {one.kind}",
        _short(one.model),
        *numbers,
        one.date,
        f"{one.bytes / 1e6:,.1f} MB",
        "" if one.report is None else Path(one.report).name,
    )


def _short(model: str | None) -> str:
    """The name of a model without the folders above it; a hub name is whole."""
    name = model or ""
    return Path(name).name if name.count("/") > 1 else name
