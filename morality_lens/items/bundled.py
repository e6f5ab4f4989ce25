"""Where the files that come with the package lie, installed or in a checkout."""

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
# In a wheel the assets lie inside the package; in a checkout they lie beside it.
_FOLDERS = (_PACKAGE / "assets", _PACKAGE.parent / "assets")
FOUNDATIONS = ("care", "fairness", "loyalty", "authority", "purity")
"""Sets of statements for an axis each: deeds that keep or break one moral foundation."""
AXES = (*FOUNDATIONS, "truth", "refusal", "sentiment")
"""All sets for named axes, none of them graded."""
STATEMENTS = {
    "moral": ("moral", "statements.jsonl"),
    "composed": ("moral", "composed.jsonl"),
    "world": ("world", "statements.jsonl"),
    **{name: ("moral", f"{name}.jsonl") for name in AXES},
}
"""Sets of statements that come with the package: short and explicit ones in plain English; subtle ones whose
words stand on both sides; the bundled world's; those of the named axes."""


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
