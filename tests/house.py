"""``python tests/house.py``: the complexity of the package and the wording of its texts; exits 1 on a breach.

The complexity ratio is the number of functions that exceed one of ruff's limits below, per 1,000 lines of the
package. The wording is a list of words that the package no longer uses, each with the field's word for it.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "morality_lens"

LIMITS = {
    "lint.mccabe.max-complexity": 8,  # C901
    "lint.pylint.max-args": 6,  # PLR0913
    "lint.pylint.max-branches": 8,  # PLR0912
    "lint.pylint.max-statements": 30,  # PLR0915
}
MOST_PER_1000_LINES = 2.5

BANNED = {
    "twin": "random-initialised control",
    "twins": "random-initialised controls",
    "asides": "side questions",
    "put in passing": "given in a side question",
    "the desk": "the analysis side",
    "borne": "mediated",
    "bears": "mediates",
    "silences": "removes the effect",
    "silenced": "removed the effect",
    "silencing": "ablation",
    "prove itself": "run the self-test",
    "prove themselves": "run the self-test",
    "told from zero": "distinguishable from zero",
    "readout": "describe",
    "chances": "probabilities",
    "is an organism": "is a model organism",
    "an organism with": "a model organism with",
    "are organisms": "are model organisms",
    "stands before the data": "is pre-specified",
    "worth speaking of": "smallest relevant",
    "nothing to speak of": "smaller than the smallest relevant",
    "none to speak of": "smaller than the smallest relevant",
    "items too long": "items that exceed the context window",
    "seed of every drawing": "random seed",
    "how much of everything": "preset",
    "goes on where it stopped": "resumes",
    "go on where it stopped": "resume",
}
"""Words of earlier versions, and the standard ones. Only words that are gone everywhere stand here."""


def breaches() -> list[str]:
    """Functions of the package that exceed a limit, one line each."""
    config = [part for name, most in LIMITS.items() for part in ("--config", f"{name}={most}")]
    rules = ["--isolated", "--select", "C901,PLR0912,PLR0913,PLR0915", "--output-format", "json"]
    command = [sys.executable, "-m", "ruff", "check", str(PACKAGE), *rules, *config]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"ruff failed: {done.stderr.strip()}")
    return [
        f"{Path(one['filename']).relative_to(ROOT)}:{one['location']['row']}: {one['message']}"
        for one in json.loads(done.stdout)
    ]


def lines() -> int:
    """Lines of the package."""
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py"))


def documentation() -> list[Path]:
    """The pages of the documentation that are written, not made."""
    made = {ROOT / "docs" / "_build", ROOT / "docs" / "notebooks"}
    return [path for path in sorted((ROOT / "docs").rglob("*.md")) if not made & {*path.parents}]


def texts() -> Iterator[tuple[str, str]]:
    """Name and text of every source of the package, of README, documentation and notebooks."""
    for suffix in ("py", "pyi", "j2", "js"):
        for path in sorted(PACKAGE.rglob(f"*.{suffix}")):
            yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
    yield "README.md", (ROOT / "README.md").read_text(encoding="utf-8")
    for path in documentation():
        yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        yield str(path.relative_to(ROOT)), "\n".join("".join(cell["source"]) for cell in cells)


def banned_words() -> list[str]:
    """Every use of a banned word, one line each."""
    found = []
    for name, text in texts():
        for word, instead in BANNED.items():
            pattern = r"\b" + word.replace(" ", r"\s+") + r"\b"
            for use in re.finditer(pattern, text, re.IGNORECASE):
                line = text.count("\n", 0, use.start()) + 1
                found.append(f"{name}:{line}: {word!r}; write {instead!r}")
    return found


def main() -> int:
    """Print both findings; 1 where the ratio is too high or a banned word is used."""
    found, size, words = breaches(), lines(), banned_words()
    ratio = 1000 * len(found) / size
    print(f"complexity: {len(found)} in {size} lines, {ratio:.2f} per 1,000 (at most {MOST_PER_1000_LINES})")
    if ratio > MOST_PER_1000_LINES:
        print(*found, sep="\n")
    print(f"banned words: {len(words)}", *words, sep="\n")
    return int(ratio > MOST_PER_1000_LINES or bool(words))


if __name__ == "__main__":
    sys.exit(main())
