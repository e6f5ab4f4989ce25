"""Trust cards of directions fitted on real statements, and their cost.

    python benchmarks/trust.py --model FOLDER --paradetox paradetox.tsv --ratings ratings.csv

Toxic sentences against their neutral paraphrases (ParaDetox), scenarios with human moral ratings, and the
package's own sets in plain English, each read by the model and by models of its architecture with random
weights; each set is the others' test of transfer. Without --model: the bundled model and its own statements.
"""

import argparse
import time
from pathlib import Path

import morality_lens as ml


def main() -> None:
    """Print the trust card of every set of statements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default=None)
    parser.add_argument("--paradetox", type=Path)
    parser.add_argument("--ratings", type=Path)
    parser.add_argument("--limit", type=int, default=2000)
    parser.add_argument("--read", default="end", choices=["end", "mean"])
    given = parser.parse_args()
    own = ("moral", "composed") if given.model else ("world",)  # the words of that world are invented
    sets = {name: ml.load_statements(name) for name in own}
    if given.paradetox:
        sets["ParaDetox"] = ml.load_statements(given.paradetox, limit=given.limit, seed=0)
    if given.ratings:
        sets["moral ratings"] = ml.load_statements(given.ratings)
    model = ml.load_model(given.model)
    read = {name: ml.probes.read_statements(model, found, read=given.read) for name, found in sets.items()}
    for name, statements in sets.items():
        random_models = ml.probes.random_model_residuals(model, statements, read=given.read)
        began = time.perf_counter()
        card = ml.probes.trust_card(
            read[name],
            [s.text for s in statements],
            random=random_models,
            others={other: residuals for other, residuals in read.items() if other != name},
        )
        took = time.perf_counter() - began
        print(f"\n{name}: {len(statements)} statements, {took:.1f} s\n{card.sentence}")
        print(
            card.lines[["line", "value", "low", "high", "verdict", "detail"]].round(3).to_string(index=False)
        )
        print(card.by_layer.to_dataframe().round(3).to_string())


if __name__ == "__main__":
    main()
