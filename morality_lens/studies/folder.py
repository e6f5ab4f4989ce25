"""The folder of a study: its runs and results, and the tasks that its claims are about."""

import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeVar

import xarray as xr

from morality_lens.items.files import read_json
from morality_lens.probes.probe import Probe, load_probe
from morality_lens.report.refusals import Refusals
from morality_lens.runs.results import read_result
from morality_lens.runs.run import Run, open_run

T = TypeVar("T")
QUESTIONS, PROMPTS, PLACEBO = "questions", "prompts", "placebo"
RESULTS = "results"
DIRECTIONS = "directions"
MAIN, TOXICITY = "moral", "toxicity"
"""The names of the direction that the claims are about, and of that of toxic language."""


def direction_file(folder: Path, name: str) -> Path:
    """Where a study keeps the probe of a set of statements."""
    return folder / "probe.safetensors" if name == MAIN else folder / DIRECTIONS / f"{name}.safetensors"


def refuse_direction(name: str, used: Collection[str] = ()) -> None:
    """Nothing, where a further direction can have this name, which is a file's name too.

    Raises:
        ValueError: it is used already, whatever its case, or holds other characters than letters, digits and
            hyphens.
    """
    if not re.fullmatch("[A-Za-z0-9]+(-[A-Za-z0-9]+)*", name):
        raise ValueError(f"a direction needs a name of letters, digits and hyphens; got {name!r}.")
    # Some file systems know no case; "own" is a trust card's name for its own statements.
    if name.casefold() in {MAIN, TOXICITY, "own", *map(str.casefold, used)}:
        raise ValueError(
            f"a further direction cannot be named so: {name!r} is used already; choose another name."
        )


class StudyFolder:
    """The stored parts of a study, each opened on request."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.refusals = Refusals()
        self.questions, self.prompts = self.run(QUESTIONS), self.run(PROMPTS)
        main = self.questions or self.prompts
        if main is None:
            raise FileNotFoundError(f"no study at {folder}: it holds neither questions nor prompts.")
        self.main = main
        file = direction_file(folder, MAIN)
        self.probe: Probe | None = load_probe(file) if file.is_file() else None
        beside = sorted((folder / DIRECTIONS).glob("*.safetensors"))
        self.directions = {one.stem: load_probe(one) for one in beside}
        skipped = folder / "left_out.json"
        if skipped.is_file():
            self.refusals.add(*read_json(skipped))

    @property
    def refused(self) -> tuple[str, ...]:
        """What was not estimated and why, one sentence each."""
        return self.refusals.lines

    def run(self, name: str) -> Run | None:
        """A run of the study; None where it was not played."""
        return open_run(self.folder / name) if (self.folder / name / "manifest.json").is_file() else None

    def runs(self, name: str) -> list[Run]:
        """Runs of one kind, by their number."""
        found = [p for p in self.folder.glob(f"{name}-*") if (p / "manifest.json").is_file()]
        return [open_run(p) for p in sorted(found, key=lambda p: int(p.name.rpartition("-")[2]))]

    def result(self, name: str) -> xr.Dataset | None:
        """A stored result; None where there is none."""
        return read_result(self.folder / RESULTS, name)

    def attempt(self, what: str, make: Callable[[], T | None]) -> T | None:
        """The result, or None and a sentence that gives the reason."""
        return self.refusals.attempt(what, make)
