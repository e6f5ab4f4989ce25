"""The engine compared with the usual way and with a lower bound, in one run.

    python benchmarks/engine.py [--items 16] [--rounds 5] [--sample 4] [--large-items 2]

Three ways to the same residuals, each in a separate process, over the same dialogues token by token:

* engine: `morality_lens.rounds.play`, everything it does (judging, rendering, writing the store) included;
* today: `TransformerBridge.generate` of every reply from scratch, then `run_with_cache` of the transcript for
  the residuals of all layers; measured on a sample of dialogues and scaled to all of them. Each represents a
  batch of 16 of its length (it is repeated 16 times), so that this way has no padding;
* floor: plain transformers, the distinct tokens only, prefilled and decoded batch by batch, nothing captured.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")

TOGETHER = 16
"""Dialogues of the usual way that are run as one batch."""


def peak_mb() -> float:
    """Peak memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def save_large(folder: Path) -> None:
    """A random Llama of 12 layers x 768 with the bundled model's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from morality_lens.items.bundled import asset

    tokenizer = AutoTokenizer.from_pretrained(asset("world", "organism"))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=2048,
        max_position_embeddings=4096,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def engine(model: str | None, run: Path, items: int, rounds: int) -> dict:
    """Time of a whole run."""
    import morality_lens as ml
    from morality_lens.rounds.playing import play

    loaded = ml.load_model(model)
    questions = ml.load_items(limit=items)
    began = time.perf_counter()
    played = play(loaded, questions, out=run, rounds=rounds, progress=False)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "tokens": played.manifest["timings"]["tokens"], "peak_mb": peak_mb()}


def replies(row) -> list[tuple[int, int]]:
    """The positions of the model's own words in a transcript."""
    return [(s["start"], s["stop"]) for s in row["spans"] if s["name"] in ("answer", "rationale")]


def today(model: str | None, run: Path, sample: int) -> dict:
    """Generate every reply from scratch, then read the transcript with a cache of residuals."""
    import torch

    import morality_lens as ml

    loaded = ml.load_model(model)
    table = ml.open_run(run).transcripts
    rows = table.sample(min(sample, len(table)), random_state=0)
    tokens, began = 0, time.perf_counter()
    for _, row in rows.iterrows():
        ids = torch.tensor([row["token_ids"].tolist()]).repeat(TOGETHER, 1)
        for start, stop in replies(row):
            if stop > start:
                loaded.generate(
                    ids[:, :start],
                    max_new_tokens=stop - start,
                    stop_at_eos=False,
                    do_sample=False,
                    prepend_bos=False,
                    return_type="tokens",
                    verbose=False,
                )
                tokens += stop
        loaded.run_with_cache(ids, names_filter=lambda n: n.endswith("hook_resid_post") or n == "hook_embed")
        tokens += ids.shape[1]
    scale = len(table) / len(rows)
    seconds = (time.perf_counter() - began) / TOGETHER * scale
    return {"seconds": seconds, "tokens": int(tokens * scale), "peak_mb": peak_mb(), "sampled": len(rows)}


def floor(model: str | None, run: Path) -> dict:
    """Prefill and decode the distinct tokens with plain transformers, in the engine's batches."""
    import torch
    from transformers import DynamicCache

    import morality_lens as ml
    from morality_lens.models.loading import record_of

    played = ml.open_run(run)
    module = record_of(ml.load_model(model)).lm.module
    order = [item.id for item in played._stored]
    size = played.manifest["batch_size"]
    table = played.transcripts
    fed = 0

    def feed(cache, mask, parts):
        nonlocal fed
        width = max(len(p) for p in parts)
        ids = torch.tensor([[*p, *[0] * (width - len(p))] for p in parts])
        real = torch.arange(width)[None] < torch.tensor([len(p) for p in parts])[:, None]
        mask = torch.cat([mask, real], 1)
        fed += int(real.sum())
        module(input_ids=ids, attention_mask=mask.long(), past_key_values=cache, logits_to_keep=1)
        return mask

    def say(cache, mask, rows, at):
        """Feed one stretch of prompt, then the reply token by token."""
        spans = [replies(r) for r in rows]
        begin = [0 if at == 0 else s[at - 1][1] for s in spans]
        ids = [r["token_ids"].tolist() for r in rows]
        mask = feed(cache, mask, [t[b : s[at][0]] for t, b, s in zip(ids, begin, spans, strict=True)])
        said = [t[s[at][0] : s[at][1]] for t, s in zip(ids, spans, strict=True)]
        for step in range(max(map(len, said))):
            mask = feed(cache, mask, [t[step : step + 1] for t in said])
        return mask

    began = time.perf_counter()
    with torch.no_grad():
        for first in range(0, len(order), size):
            items = order[first : first + size]
            opening = [table[table["item"] == i].iloc[0] for i in items]
            shared = DynamicCache()
            begun = say(shared, torch.zeros(len(items), 0, dtype=torch.bool), opening, 0)
            for thinking in ("off", "on"):
                group = table[table["item"].isin(items) & (table["cot"] == thinking)]
                rows = [r for _, r in group.iterrows()]
                index = torch.tensor([items.index(r["item"]) for r in rows])
                cache, mask = DynamicCache(), begun[index]
                for number, layer in enumerate(shared.layers):
                    cache.update(layer.keys[index], layer.values[index], number)
                for at in range(1, len(replies(rows[0]))):
                    mask = say(cache, mask, rows, at)
    return {"seconds": time.perf_counter() - began, "tokens": fed, "peak_mb": peak_mb()}


def measure(mode: str, *arguments: object) -> dict:
    """Run one way in a separate process."""
    command = [sys.executable, __file__, "--way", mode, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


def compare(title: str, model: str | None, items: int, rounds: int, sample: int) -> None:
    """Print a table of the three ways."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        ours = measure("engine", model or "-", run, items, rounds)
        old = measure("today", model or "-", run, sample)
        least = measure("floor", model or "-", run)
    print(f"\n{title}: {items} items x 8 conditions x {rounds} correction rounds")
    print(f"{'':8}{'seconds':>10}{'x engine':>10}{'tokens':>12}{'peak MB':>10}")
    for name, one in (("engine", ours), ("today", old), ("floor", least)):
        note = f"  scaled from {one['sampled']} of {items * 8} dialogues" if "sampled" in one else ""
        print(
            f"{name:8}{one['seconds']:10.1f}{one['seconds'] / ours['seconds']:10.2f}"
            f"{one['tokens']:12,}{one['peak_mb']:10,.0f}{note}"
        )
    print(
        f"engine is {old['seconds'] / ours['seconds']:.1f} times faster than today's way and takes "
        f"{ours['seconds'] / least['seconds']:.2f} times the floor"
    )


def main() -> None:
    """Compare on the bundled model and on a random larger one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--items", type=int, default=16)
    parser.add_argument("--large-items", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sample", type=int, default=6)
    parser.add_argument("--way", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        mode, model, run, *rest = given.way
        ways = {"engine": engine, "today": today, "floor": floor}
        chosen = None if model == "-" else model
        print(json.dumps(ways[mode](chosen, Path(run), *map(int, rest))))
        return
    compare("bundled model", None, given.items, given.rounds, given.sample)
    with tempfile.TemporaryDirectory() as folder:
        save_large(Path(folder))
        title = "random Llama, 12 layers x 768"
        compare(title, folder, given.large_items, given.rounds, given.sample)


if __name__ == "__main__":
    main()
