"""The languages in which the package has a wording, by their names; imports nothing large."""

from pathlib import Path

ENGLISH = "en"
"""The name, where one is given, of the default wording."""

LANGUAGES = {
    "de": "German",
    "es": "Spanish",
    "ko": "Korean",
    "nl": "Dutch",
    "tr": "Turkish",
    "zh": "Chinese",
}
"""The languages, beside English, in which the package has a wording, by its name."""


def wording_file(path: str | Path | None) -> Path | None:
    """The file of a user's own wording; None where it is one of the package's, by name or by default."""
    return None if path is None or str(path) in (ENGLISH, *LANGUAGES) else Path(path)
