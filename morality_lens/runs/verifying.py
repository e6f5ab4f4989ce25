"""Whether everything that a run says it holds is there, byte by byte."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from morality_lens.items.files import file_hash, set_aside
from morality_lens.items.kinds import Item
from morality_lens.runs.archives import DamagedError, check_archive, refuse_foreign
from morality_lens.runs.manifest import (
    DIRECTIONS,
    ITEMS,
    Part,
    done_parts,
    missing_parts,
    parts_of,
    read_manifest,
)
from morality_lens.runs.writing import owner_of, read_items, same_items_file


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was found.

    Attributes:
        path: the run's folder.
        parts: number of all parts.
        missing: names of parts that are not there.
        problems: a sentence for every file that is damaged, each with its path.

    Examples:
        >>> found = ml.runs.verify_run(run.path)
        >>> found.parts, found.missing, found.problems
        (2, (), ())
    """

    path: Path
    parts: int
    missing: tuple[str, ...]
    problems: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether nothing is missing or damaged."""
        return not self.missing and not self.problems

    def __str__(self) -> str:
        if self.whole:
            return f"{self.path}: all {self.parts} parts are there and as they were written"
        lines = list(self.problems)
        if self.missing:
            more = ", ..." if len(self.missing) > 3 else ""
            names = ", ".join(self.missing[:3])
            lines.append(f"{self.path} lacks {len(self.missing)} of {self.parts} parts: {names}{more}")
        return "\n".join(lines)


def verify_run(path: str | Path) -> Verification:
    """Every file of a run checked against its checksum, and against the run that it belongs to.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: the manifest is damaged or of another format.

    Examples:
        >>> ml.runs.verify_run(run.path).problems
        ()
    """
    folder = Path(path)
    manifest = read_manifest(folder)
    problems: list[str] = []
    try:
        items: tuple[Item, ...] = read_items(folder, manifest)
        if not same_items_file(folder, manifest) and read_manifest(folder) == manifest:
            problems.append(f"{folder / ITEMS} holds other lines after those of the run's items.")
    except ValueError as error:
        problems.append(str(error))
        items = ()
    problems += _other_directions(folder, manifest)
    problems += _damaged(folder, manifest, items).values()
    return Verification(
        path=folder,
        parts=len(parts_of(manifest)),
        missing=tuple(part.name for part in missing_parts(folder, manifest)),
        problems=tuple(problems),
    )


def _other_directions(path: Path, manifest: Mapping[str, Any]) -> list[str]:
    """What is wrong with the file of directions on which the run keeps projections; nothing without one."""
    told, file = manifest.get("directions_file"), path / DIRECTIONS
    if told is None or (file.is_file() and file_hash(file) == told):
        return []
    return [f"{file} is {'damaged' if file.is_file() else 'missing'}; put a copy of it back."]


def set_damaged_aside(path: Path) -> list[str]:
    """Rename damaged parts, so that they are played again; a sentence for each."""
    manifest = read_manifest(path)
    found = _damaged(path, manifest, read_items(path, manifest))
    for part in found:
        set_aside(part.file(path))
    return list(found.values())


def _damaged(path: Path, manifest: Mapping[str, Any], items: tuple[Item, ...]) -> dict[Part, str]:
    """The parts that are there and damaged, or that belong to another run, with a sentence."""
    found = {}
    for part in done_parts(path, dict(manifest)):
        try:
            record, owner = check_archive(part.file(path)), owner_of(part, manifest, items)
            if not items:  # their file is damaged
                owner["items"] = record.get("items")
            refuse_foreign(part.file(path), record, owner)
        except DamagedError as error:
            found[part] = f"{error}"
    return found
