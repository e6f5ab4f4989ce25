"""What becomes of each model family: a markdown table of loading, exactness, splitting and patching.

    python benchmarks/families.py [FAMILY ...] [--out FILE]

Each is a tiny random model of the architecture with a real tokenizer (`make models`) and the family's chat
template; the judge is plain transformers on the stored token ids.
"""

import argparse
import importlib
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch


def row(name: str, tokenizer: str, found: Any) -> str:
    """A line of the table."""
    if found.loaded != "yes":
        return f"| {name} | {tokenizer} | refused: {found.loaded} | | | | | |"
    transcript = "well-formed" if not found.faults else "; ".join(sorted(set(found.faults)))
    kept = "kept" if found.reuse else "read again"
    split = f"{found.completeness:.0e}" if found.split == "adds up" else f"refused: {found.split}"
    patched = found.patched if found.patched == "yes" else f"refused: {found.patched}"
    return (
        f"| {name} | {tokenizer} | {transcript}, {found.replies} replies | {kept} | {found.residual:.0e} | "
        f"{found.probability:.0e} | {split} | {patched} |"
    )


def main() -> None:
    """Print the table."""
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("family", nargs="*", help="names out of the table (default: all)")
    given.add_argument("--out", type=Path, help="a file to write the table to")
    options = given.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    families: Any = importlib.import_module("families")
    lines = [
        "| family | real tokenizer | transcripts | earlier turns | residuals | option probabilities | "
        "parts of an answer's log-odds | patching |",
        "|---|---|---|---|---|---|---|---|",
    ]
    began = time.process_time()
    for name in options.family or families.FAMILIES:
        family = families.FAMILIES[name]
        with tempfile.TemporaryDirectory() as folder:
            lines.append(row(name, family.voice.tokenizer, families.measured(family, Path(folder))))
        print(lines[-1], file=sys.stderr)
    table = "\n".join(lines)
    print(table)
    print(f"\n{time.process_time() - began:.0f} s of CPU")
    if options.out:
        options.out.write_text(f"{table}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
