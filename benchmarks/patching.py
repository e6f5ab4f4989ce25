"""Patching of prompt ends against a loop of whole forwards, and gradients against exact patching.

    python benchmarks/patching.py [--model FOLDER] [--items 16] [--loop 2]

Both ways patch the residual of one condition into another's run. The loop is what scripts do: for each item,
place and layer one `run_with_hooks` over the whole prompt, with the source's activations from one
`run_with_cache`; it is timed on a few items and scaled.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import morality_lens as ml
from morality_lens.circuits.measuring import passage_prompt
from morality_lens.models.loading import find_model
from morality_lens.runs.alignment import align, paired

SOURCE, TARGET = ml.Condition(instruction="on", feedback="on"), ml.Condition(feedback="on")
MAP = ("review@1", "answer_request@1", "review", "answer_request", "answer_start")
"""Segments whose words are the same in both dialogues but follow words that differ."""


def loop(
    model, run: ml.Run, items: Sequence[str], places: Sequence[str], round: int
) -> tuple[float, np.ndarray]:
    """Seconds and log-probabilities of a loop of whole forwards."""
    layers = [-1, *range(ml.models.record_of(model).n_layers)]
    names = ["blocks.0.hook_in", *(f"blocks.{layer}.hook_out" for layer in layers[1:])]
    found = []
    began = time.perf_counter()
    with torch.no_grad():
        for source, target in paired(run, source=SOURCE, target=TARGET, round=round, items=items):
            ids = [torch.tensor([passage_prompt(p, round)]) for p in (source, target)]
            _, cache = model.run_with_cache(ids[0], names_filter=names, prepend_bos=False)
            for place in places:
                here, there = align(source, target, place, round)
                for name in names:

                    def put_in(value, hook, name=name, here=here, there=there, cache=cache):
                        value = value.clone()
                        value[:, there] = cache[name][:, here]
                        return value

                    logits = model.run_with_hooks(ids[1], fwd_hooks=[(name, put_in)], prepend_bos=False)
                    found.append(torch.log_softmax(logits[0, -1].double(), -1).numpy())
    return time.perf_counter() - began, np.array(found)


def _random_model(folder: Path, layers: int) -> Path:
    """A random Llama with the bundled model's tokenizer."""
    source = find_model(None)
    tokenizer = AutoTokenizer.from_pretrained(source)
    config = AutoConfig.from_pretrained(source)
    config.num_hidden_layers, config.hidden_size, config.intermediate_size = layers, 256, 688
    config.num_attention_heads = config.num_key_value_heads = 8
    config.head_dim = 32
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default=None)
    parser.add_argument("--items", type=int, default=16)
    parser.add_argument("--loop", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--layers", type=int, default=0, help="a random Llama of so many layers x 256 instead"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = ml.load_model(
            _random_model(Path(folder) / "model", given.layers) if given.layers else given.model
        )
        items = ml.load_items(limit=given.items)
        run = ml.play(
            model,
            items,
            rounds=given.rounds,
            out=Path(folder) / "run",
            progress=False,
            fitting=ml.rounds.Fitting(drop_long=True),
        )
        names, quiet = run.items.index.tolist(), ml.circuits.Batching(progress=False)
        tokens = np.mean([len(ids) for ids in run.transcripts["token_ids"]])
        print(f"{len(names)} items, dialogues of {tokens:.0f} tokens on average, round {given.rounds}")
        print("| what | ours, s | loop, s (scaled) | ratio |\n|---|---|---|---|")
        for what, places in (
            ("all layers at answer_start", ("answer_start",)),
            ("all layers x 5 places", MAP),
        ):
            asked = {"source": SOURCE, "activations": ml.circuits.Activations(at=places), "batching": quiet}
            ml.patch(
                model, run, target=ml.circuits.Moment(condition=TARGET, items=names[:2]), **asked
            )  # once for warmth
            began = time.perf_counter()
            ml.patch(model, run, target=ml.circuits.Moment(condition=TARGET, items=names), **asked)
            ours = time.perf_counter() - began
            took, _ = loop(model, run, names[: given.loop], places, given.rounds)
            theirs = took * len(names) / given.loop
            print(f"| {what} | {ours:.2f} | {theirs:.1f} | {theirs / ours:.1f} |")
        for what in ("residual", "attention", "mlp", "head"):
            began = time.perf_counter()
            guessed = ml.circuits.patch_gradient(
                model,
                run,
                source=SOURCE,
                target=TARGET,
                activations=ml.circuits.Activations(what=what),
                check=8,
                batching=quiet,
            )
            took = time.perf_counter() - began
            print(
                f"gradient, {what}: correlation {guessed.attrs['correlation']:.2f} with exact patches of 8 "
                f"items, mean distance {guessed.attrs['error']:.2f} of their mean size ({took:.1f} s, the "
                "check included)"
            )


if __name__ == "__main__":
    main()
