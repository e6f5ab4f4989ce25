"""The manifest of a run: what is played, by what, in which parts, and how far it is."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, SoftFileLock, Timeout

from morality_lens.items.files import read_json, write_json

FORMAT = 2
"""Version of the folder's layout."""
FILE = "manifest.json"
ITEMS = "items.jsonl"
LOCK = ".lock"
LOCKS = {LOCK, f"{LOCK}.soft"}
DIRECTIONS = "directions.safetensors"
"""The probe on which a run keeps projections, where it does."""
PARTS = "parts"
"""The folder of the finished parts, one file each."""
_NEEDED = {"study": dict, "order": list, "parts": list, "items_sha256": str, "stored": dict, "places": list}
_OF_STUDY = {"model": dict, "items": dict, "design": dict, "wording": dict}
_OF_STORED = {"layers": list, "keep": str, "dtype": str}


class Part(NamedTuple):
    """What is played and stored in one piece: some items of the playing order over some rounds.

    Attributes:
        first: place of its first item in the playing order.
        items: their number.
        start: its first round.
        stop: the round after its last one.
    """

    first: int
    items: int
    start: int
    stop: int

    @property
    def places(self) -> range:
        """Places of its items in the playing order."""
        return range(self.first, self.first + self.items)

    @property
    def name(self) -> str:
        """The name of its file."""
        rounds = f"{self.start}-{self.stop - 1}"
        return f"items-{self.first:05d}-{self.first + self.items - 1:05d}.rounds-{rounds}.zip"

    def file(self, run: Path) -> Path:
        """Its file in the folder of a run."""
        return run / PARTS / self.name

    def done(self, run: Path) -> bool:
        """Whether it is stored."""
        return self.file(run).is_file()


def parts_of(manifest: dict[str, Any]) -> tuple[Part, ...]:
    """All parts of a run, in the order in which they are played."""
    return tuple(Part(*part) for part in manifest["parts"])


def done_parts(run: Path, manifest: dict[str, Any]) -> tuple[Part, ...]:
    """The parts that are stored."""
    return tuple(part for part in parts_of(manifest) if part.done(run))


def missing_parts(run: Path, manifest: dict[str, Any]) -> tuple[Part, ...]:
    """The parts that are not stored yet."""
    return tuple(part for part in parts_of(manifest) if not part.done(run))


@contextmanager
def locked(run: Path, *, seconds: float = 60) -> Iterator[None]:
    """Within it, no other process creates, extends or amends the run.

    The lock is the operating system's: it ends with the process that holds it. Where the file system has
    none, a file is the lock.

    Raises:
        TimeoutError: another process has held it for too long.
    """
    file = str(run / LOCK)
    lock: FileLock | SoftFileLock = FileLock(file, timeout=seconds)
    try:
        try:
            lock.acquire()
        except NotImplementedError:
            lock = SoftFileLock(f"{file}.soft", timeout=seconds)
            lock.acquire()
    except Timeout as error:
        raise TimeoutError(
            f"another process has held the lock of {run} for {seconds:.0f} s; if none is running, remove "
            f"{lock.lock_file}."
        ) from error
    try:
        yield
    finally:
        lock.release()


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the run in ``path``.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: the manifest is damaged, of another kind or of another format.
    """
    file = path / FILE
    if not file.is_file():
        raise FileNotFoundError(f"no run at {path} (it has no {FILE}); give a folder that play() made.")
    try:
        manifest = read_json(file)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged ({error}); {_REMEDY}.") from error
    if not isinstance(manifest, dict) or "format" not in manifest:
        raise ValueError(f"{file} is no manifest of a run; {_REMEDY}.")
    if manifest["format"] != FORMAT:
        raise ValueError(
            f"{file} has format {manifest['format']}; this version reads format {FORMAT}. Read the run with "
            "the version that made it (its manifest names it under versions), or play it anew elsewhere."
        )
    _refuse_incomplete(file, manifest, _NEEDED)
    _refuse_incomplete(file, manifest["study"], _OF_STUDY)
    _refuse_incomplete(file, manifest["study"]["design"], {"rounds": int})
    _refuse_incomplete(file, manifest["stored"], _OF_STORED)
    if not all(_is_part(part) for part in manifest["parts"]):
        raise ValueError(f"{file} is damaged: its parts are no lists of four numbers; {_REMEDY}.")
    if not _same_ids(manifest["places"], manifest["order"]):
        raise ValueError(f"{file} is damaged: places and order do not name the same items; {_REMEDY}.")
    if not _is_tiled(parts_of(manifest), len(manifest["places"]), manifest["study"]["design"]["rounds"]):
        raise ValueError(
            f"{file} is damaged: its parts do not hold every item in every round once; {_REMEDY}."
        )
    return manifest


def amend(path: Path, **entries: Any) -> None:
    """Add entries to the manifest, which are no part of what identifies the run."""
    with locked(path):
        write_json(path / FILE, {**read_manifest(path), **entries})


_REMEDY = "put a copy of it back, or play the run anew in another folder"


def _refuse_incomplete(file: Path, held: dict[str, Any], needed: dict[str, type]) -> None:
    odd = [name for name, kind in needed.items() if not isinstance(held.get(name), kind)]
    if odd:
        raise ValueError(f"{file} is damaged: it lacks {', '.join(odd)}; {_REMEDY}.")


def _is_part(value: Any) -> bool:
    whole = isinstance(value, list) and len(value) == 4 and all(type(n) is int for n in value)
    return whole and value[0] >= 0 and value[1] > 0 and 0 <= value[2] < value[3]


def _same_ids(places: list[Any], order: list[Any]) -> bool:
    named = all(isinstance(name, str) for name in (*places, *order))
    return named and len(set(places)) == len(places) and sorted(places) == sorted(order)


def _is_tiled(parts: Sequence[Part], items: int, rounds: int) -> bool:
    """Whether parts hold every one of so many items in every round, 0 to ``rounds``, once."""
    place = 0
    for span, group in groupby(sorted(parts), key=lambda part: part[:2]):
        same = list(group)
        bounds = [0, *(part.stop for part in same)]
        if span[0] != place or [*(part.start for part in same), rounds + 1] != bounds:
            return False
        place += span[1]
    return place == items
