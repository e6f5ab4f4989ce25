"""What a study's main run takes by size of the model: tokens, hours of a GPU, disk, smallest effects.

    python benchmarks/sizes.py RUN --probe PROBE.safetensors --layer 15

RUN is a finished run of questions on a small model: its tokens an item and the spread of its items are
carried over to larger models, whose own may differ. Hours are computed, not measured: 40 % of the 989 TFLOPS
(dense bfloat16) that NVIDIA's data sheet gives for an H100 SXM for every token read, and one pass over the
weights at 60 % of its 3.35 TB/s for each step in which the rows of a batch write a token; the GPUs of a model
that needs several work one after the other. A lower bound: no GPU was at hand.
"""

import argparse
import math
from dataclasses import replace
from pathlib import Path

import morality_lens as ml
from morality_lens.runs import Storage
from morality_lens.runs.writing import timings

SIZES = {  # parameters, width of the residual stream
    "135 M (SmolLM2)": (134_515_008, 576),
    "1.5 B (Qwen2.5)": (1_543_714_304, 1536),
    "7 B (Qwen2.5)": (7_615_616_512, 3584),
    "70 B (Llama 3.1)": (70_553_706_496, 8192),
}
FLOPS, BANDWIDTH, ROWS = 0.4 * 989e12, 0.6 * 3.35e12, 256
ITEMS = (64, 250, 1000, 4000)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--probe", type=Path, required=True)
    parser.add_argument("--layer", type=int, required=True)
    given = parser.parse_args()
    run = ml.open_run(given.run)
    probe = replace(ml.load_probe(given.probe), refits=None)  # their error does not shrink with the items
    n, tokens = len(run.items), timings(run.path)["tokens"]
    answers = run.answers
    written = int(answers["n_tokens"].sum())  # of answers; rationales and feedback are counted as texts
    texts = answers[["rationale", "feedback_text"]].agg("sum", axis=1)
    written += int(texts.str.len().sum() / 4.2)
    print(f"{n} items: {tokens / n:,.0f} tokens an item read or written, {written / n:,.0f} of them written")

    last = {"round": run.design.rounds}
    behaviour = ml.judges.behaviour_cube(run, "probability").sel(last, drop=True)
    moral = probe.project(run.residuals.sel(site=["answer_start"], layer=[given.layer]))
    moral = moral.sel(last, drop=True).squeeze(drop=True)
    places = run.design.n_rounds * len(run.layers)
    print("\nsmallest effect found with power .8, by number of items")
    for what, cube, tests in (
        ("probability of the right option, one test", behaviour, 1),
        ("projection in gaps, one test", moral, 1),
        (f"projection in gaps, corrected over {places} layers and rounds", moral, places),
    ):
        table = ml.interactions.plan(ITEMS, pilot=cube, n_tests=tests)
        print(
            f"{what}\n{table.pivot(index='effect', columns='n_items', values='family').round(3).to_string()}"
        )

    head = ("model", "items", "M tokens", "H100 hours", "GPUs", "GB, 4 layers, float16")
    print(f"\n{head[0]:18} {head[1]:>6} {head[2]:>9} {head[3]:>11} {head[4]:>5} {head[5]:>22}")
    for name, (parameters, width) in SIZES.items():
        gpus = max(1, math.ceil(2.4 * parameters / 80e9))
        for items in ITEMS:
            reading = 2 * parameters * tokens / n * items / FLOPS
            writing = 2 * parameters * written / n * items / ROWS / BANDWIDTH
            kept = ml.runs.estimate(
                run.design,
                items=items,
                d_model=width,
                layers=range(4),
                storage=Storage(layers=tuple(range(4)), dtype="float16"),
            )
            hours = gpus * (reading + writing) / 3600
            print(
                f"{name:18} {items:6,} {tokens / n * items / 1e6:9.1f} {hours:11.2f} {gpus:5} "
                f"{kept.bytes / 1e9:22.2f}"
            )


if __name__ == "__main__":
    main()
