"""Whether a folder holds what is requested, the same request begun earlier, or something else."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from morality_lens.items.files import read_json, write_json
from morality_lens.runs.manifest import LOCKS, locked


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a folder is to hold.

    Attributes:
        what: the kind of result, for messages: ``run``, ``study``, ``attribution``.
        settings: what makes two results the same, as JSON can hold it.
    """

    what: str
    settings: Mapping[str, Any]

    def refuse_other(self, folder: Path, stored: Mapping[str, Any]) -> None:
        """Nothing, where the stored settings are the requested ones.

        Raises:
            ValueError: they differ; the message names each difference with both values.
        """
        different = differences(stored, json.loads(json.dumps(dict(self.settings))))
        if different:
            raise ValueError(
                f"{folder} holds another {self.what}; it differs in {'; '.join(different)}. "
                "Give another output folder, or remove this one."
            )

    def refuse_foreign(self, folder: Path) -> None:
        """Nothing, where the folder is new or empty.

        Raises:
            ValueError: it is a file, or holds something.
        """
        if folder.exists() and (not folder.is_dir() or {p.name for p in folder.iterdir()} - LOCKS):
            raise ValueError(f"{folder} exists and is no {self.what}; give a new or an empty output folder.")

    def begin(self, folder: Path, name: str) -> Path:
        """The folder, made if it is new, with the settings in its file ``name``.

        Raises:
            ValueError: the folder holds another result of this kind, or something else.
        """
        file = folder / name
        if file.is_file():
            stored = read_json(file)
            if not isinstance(stored, dict):
                raise ValueError(
                    f"{file} is damaged or no record of a {self.what}; remove the folder {folder}."
                )
            self.refuse_other(folder, stored)
            return folder
        if not folder.is_dir():
            self.refuse_foreign(folder)
            folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            if file.is_file():
                return self.begin(folder, name)
            self.refuse_foreign(folder)
            write_json(file, dict(self.settings))
        return folder


def differences(stored: Mapping[str, Any], requested: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The keys at which two nested mappings differ, with both values."""
    found = []
    for key in sorted({*stored, *requested}):
        a, b = stored.get(key), requested.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}: there {str(a)[:60]}, now {str(b)[:60]}")
    return found
