"""Where the files that come with the package lie, installed or in a checkout."""

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
# In a wheel the assets lie inside the package; in a checkout they lie beside it.
_FOLDERS = (_PACKAGE / "assets", _PACKAGE.parent / "assets")
STATEMENTS = {
    "moral": ("moral", "statements.jsonl"),
    "composed": ("moral", "composed.jsonl"),
    "world": ("world", "statements.jsonl"),
}
"""Sets of statements that come with the package: short and explicit ones in plain English; subtle ones whose
words stand on both sides; the bundled world's."""


def asset(*parts: str) -> Path:
    """The path of a bundled file or folder, for example ``asset("world", "questions.jsonl")``.

    Raises:
        FileNotFoundError: nothing of that name is bundled.
    """
    for folder in _FOLDERS:
        path = folder.joinpath(*parts)
        if path.exists():
            return path
    raise FileNotFoundError(
        f"the bundled {'/'.join(parts)} was not found in {' or '.join(map(str, _FOLDERS))}: "
        "reinstall the package, or give a path of your own."
    )
