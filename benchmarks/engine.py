"""The engine compared with the usual way and with a lower bound, in one run.

    python benchmarks/engine.py [--items 16] [--rounds 5] [--sample 4] [--large-items 1] [--large-rounds 1]
    python benchmarks/engine.py --model MODEL --data FOLDER --items 8 --rounds 1

Ways to the same residuals, each in a separate process, over the same dialogues token by token, the
model's feedback on its own answers included:

* engine: `morality_lens.rounds.play`, everything it does (judging, rendering, writing the store) included;
* usual: `TransformerBridge.generate` of every reply and feedback from scratch, then `run_with_cache` of the
  transcript for the residuals of all layers; measured on a sample of dialogues and scaled to all of them.
  Each represents a batch of as many rows as the engine's (it is repeated, so that this way has no padding);
* alone (with `--alone`): the same, one dialogue at a time, as in most scripts;
* floor: plain transformers, the distinct tokens only, prefilled and decoded batch by batch, nothing captured;
  as in the engine, its cache is not copied at every step, and rows that have ended leave.
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


def questions(data: str | None, items: int) -> tuple:
    """The questions that are played."""
    import morality_lens as ml

    return ml.load_items(limit=items) if data is None else ml.items.load_data(data, limit=items)


def engine(model: str | None, run: Path, data: str | None, items: int, rounds: int) -> dict:
    """Time of a whole run."""
    import morality_lens as ml
    from morality_lens.rounds.playing import play

    loaded, asked = ml.load_model(model), questions(data, items)
    began, spent = time.perf_counter(), time.process_time()
    played = play(loaded, asked, out=run, rounds=rounds, progress=False)
    return {
        "seconds": time.perf_counter() - began,
        "cpu": time.process_time() - spent,
        "tokens": played.manifest["timings"]["tokens"],
        "peak_mb": peak_mb(),
        "parsed": float(played.answers["parsed"].eq(True).mean()),
    }


def replies(row) -> list[tuple[int, int]]:
    """The positions of the model's own words in a transcript."""
    return [(s["start"], s["stop"]) for s in row["spans"] if s["name"] in ("answer", "rationale")]


def critiques(run, renderer, row) -> list[tuple[list[int], int]]:
    """The requests for feedback on a dialogue's answers: the prompt's tokens, and how many were written."""
    from morality_lens.dialogues import rendering
    from morality_lens.dialogues.turns import critique_turn
    from morality_lens.dialogues.wording import load_wording

    if row["feedback"] != "on":
        return []
    mine = run.answers
    for name in ("item", *run.design.names):
        mine = mine[mine[name] == row[name]]
    mine, wording, found = mine.sort_values("round"), load_wording(), []
    heard = mine["feedback_text"].tolist()[1:]
    for answer, text in zip(mine["text"].tolist(), heard, strict=False):
        turn = critique_turn(run.asked[row["item"]], answer, wording)
        begun = rendering.append_turn(renderer, rendering.Transcript(), turn, round=0)
        found.append((list(begun.token_ids), len(rendering.encode_words(renderer, text))))
    return found


def usual(model: str | None, run: Path, sample: int, together: int) -> dict:
    """Generate every reply from scratch, then read the transcript with a cache of residuals.

    With 0 dialogues together, they are as many as the rows of the engine's batches: four conditions.
    """
    import torch

    import morality_lens as ml
    from morality_lens.models.loading import record_of
    from morality_lens.runs.manifest import parts_of

    loaded, played = ml.load_model(model), ml.open_run(run)
    renderer, table = record_of(loaded).renderer, played.transcripts
    together = together or 4 * max(len(part.places) for part in parts_of(played.manifest))
    rows = table.sample(min(sample, len(table)), random_state=0)
    prompts = []
    for _, row in rows.iterrows():
        ids = row["token_ids"].tolist()
        said = [(ids[:start], stop - start) for start, stop in replies(row)]
        prompts.append((ids, [*said, *critiques(played, renderer, row)]))
    tokens, began, spent = 0, time.perf_counter(), time.process_time()
    for whole, written in prompts:
        for prompt, new in written:
            if new:
                loaded.generate(
                    torch.tensor([prompt]).repeat(together, 1),
                    max_new_tokens=new,
                    stop_at_eos=False,
                    do_sample=False,
                    prepend_bos=False,
                    return_type="tokens",
                    verbose=False,
                )
                tokens += len(prompt) + new
        ids = torch.tensor([whole]).repeat(together, 1)
        loaded.run_with_cache(ids, names_filter=lambda n: n.endswith("hook_resid_post") or n == "hook_embed")
        tokens += ids.shape[1]
    scale = len(table) / len(rows)
    return {
        "seconds": (time.perf_counter() - began) / together * scale,
        "cpu": (time.process_time() - spent) / together * scale,
        "tokens": int(tokens * scale),
        "peak_mb": peak_mb(),
        "sampled": len(rows),
        "of": len(table),
        "together": together,
    }


def floor(model: str | None, run: Path) -> dict:
    """Prefill and decode the distinct tokens with plain transformers, in the engine's batches."""
    import torch

    import morality_lens as ml
    from morality_lens.models import beginnings, decoding
    from morality_lens.models.decoding import Batch, Front
    from morality_lens.models.loading import record_of
    from morality_lens.runs.manifest import parts_of

    played = ml.open_run(run)
    record = record_of(ml.load_model(model))
    lm, renderer = record.lm, record.renderer
    order = [item.id for item in played._stored]
    table = played.transcripts
    reviews = {n: critiques(played, renderer, row) for n, row in enumerate(table.to_dict("records"))}
    fed = 0

    def feed(batch: Batch, parts):
        nonlocal fed
        width = max(len(p) for p in parts)
        ids = torch.tensor([[*p, *[0] * (width - len(p))] for p in parts])
        real = torch.arange(width)[None] < torch.tensor([len(p) for p in parts])[:, None]
        batch.mask = torch.cat([batch.mask, real], 1)
        for said, part in zip(batch.tokens, parts, strict=True):
            said.extend(part)
        fed += int(real.sum())
        inputs = {"input_ids": ids, "attention_mask": batch.mask.long(), "past_key_values": batch.cache}
        lm.module(**inputs, logits_to_keep=1)

    def write(batch: Batch, prompts, said):
        """Feed prompts, then the replies token by token."""
        feed(batch, prompts)
        decoding.compact(batch)
        front = Front.of(lm, batch)
        for step in range(max(map(len, said))):
            front.narrow([len(t) > step for t in said])
            feed(front.part, [said[row][step : step + 1] for row in front.rows])
        front.close()

    def say(batch: Batch, rows, at):
        """Feed one stretch of prompt, then the reply."""
        spans = [replies(r) for r in rows]
        begin = [0 if at == 0 else s[at - 1][1] for s in spans]
        ids = [r["token_ids"].tolist() for r in rows]
        prompts = [t[b : s[at][0]] for t, b, s in zip(ids, begin, spans, strict=True)]
        write(batch, prompts, [t[s[at][0] : s[at][1]] for t, s in zip(ids, spans, strict=True)])

    def review(group, number):
        """The requests for feedback of a round that are new in this batch; what is common is read once."""
        new = {tuple(p): n for r in group for p, n in reviews[r][number - 1 : number]}
        new = {prompt: n for prompt, n in new.items() if prompt not in known}
        known.update(new)
        if not new:
            return
        texts, said = [list(p) for p in new], [[0] * n for n in new.values()]
        stems = beginnings.stems_of(texts)
        if stems is None:
            write(decoding.start(lm, len(texts)), texts, said)
            return
        roots = decoding.start(lm, len(stems.lengths))
        feed(roots, [texts[i][:n] for i, n in zip(stems.first, stems.lengths, strict=True)])
        rest = [text[stems.lengths[stem] :] for text, stem in zip(texts, stems.owner, strict=True)]
        write(decoding.take(lm, roots, stems.owner), rest, said)

    known, began, spent = {}, time.perf_counter(), time.process_time()
    with torch.inference_mode():
        for part in parts_of(played.manifest):
            items = [order[n] for n in part.places]
            opening = [table[table["item"] == i].iloc[0] for i in items]
            shared = decoding.start(lm, len(items))
            say(shared, opening, 0)
            for thinking in ("off", "on"):
                group = table[table["item"].isin(items) & (table["cot"] == thinking)]
                rows = [r for _, r in group.iterrows()]
                batch = decoding.take(lm, shared, [items.index(r["item"]) for r in rows])
                each = 2 if thinking == "on" else 1  # replies of a correction round
                for at in range(1, len(replies(rows[0]))):
                    if (at - 1) % each == 0:
                        review(group.index, (at - 1) // each + 1)
                    say(batch, rows, at)
    return {
        "seconds": time.perf_counter() - began,
        "cpu": time.process_time() - spent,
        "tokens": fed,
        "peak_mb": peak_mb(),
    }


def measure(mode: str, *arguments: object) -> dict:
    """Run one way in a separate process."""
    command = [sys.executable, __file__, "--way", mode, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


def compare(title: str, model: str | None, given: argparse.Namespace, items: int) -> None:
    """Print a table of the ways."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        found = {"engine": measure("engine", model or "-", run, given.data or "-", items, given.rounds)}
        found["floor"] = measure("floor", model or "-", run)
        found["usual"] = measure("usual", model or "-", run, given.sample, 0)
        if given.alone:
            found["alone"] = measure("usual", model or "-", run, given.sample, 1)
    ours = found["engine"]
    print(f"\n{title}: {items} items x 8 conditions x {given.rounds} correction rounds")
    print(f"{'':8}{'seconds':>10}{'CPU s':>10}{'x engine':>10}{'tokens':>12}{'tokens/s':>10}{'peak MB':>10}")
    for name, one in found.items():
        scaled = "  {together} rows at once, scaled from {sampled} of {of} dialogues"
        print(
            f"{name:8}{one['seconds']:10.1f}{one['cpu']:10.1f}{one['cpu'] / ours['cpu']:10.2f}"
            f"{one['tokens']:12,}{one['tokens'] / one['seconds']:10.0f}{one['peak_mb']:10,.0f}"
            f"{scaled.format(**one) if 'sampled' in one else ''}"
        )
    print(
        f"by CPU time the engine is {found['usual']['cpu'] / ours['cpu']:.1f} times as fast as the usual way "
        f"and takes {ours['cpu'] / found['floor']['cpu']:.2f} times the floor; {ours['parsed']:.0%} of its "
        "answers parse",
        flush=True,
    )


def main() -> None:
    """Compare on the bundled model and on a random larger one, or on the model that is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", help="compare on this model alone")
    parser.add_argument("--data", help="its questions (default: the bundled ones)")
    parser.add_argument("--items", type=int, default=16)
    parser.add_argument("--large-items", type=int, default=1)
    parser.add_argument("--large-rounds", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sample", type=int, default=4)
    parser.add_argument("--alone", action="store_true", help="also the usual way, one dialogue at a time")
    parser.add_argument("--way", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        mode, model, run, *rest = given.way
        ways = {"engine": engine, "usual": usual, "floor": floor}
        named = [None if text == "-" else int(text) if text.isdigit() else text for text in rest]
        print(json.dumps(ways[mode](None if model == "-" else model, Path(run), *named)))
        return
    if given.model:
        compare(Path(given.model).stem, given.model, given, given.items)
        return
    compare("bundled model", None, given, given.items)
    with tempfile.TemporaryDirectory() as folder:
        save_large(Path(folder))
        title = "random Llama, 12 layers x 768"
        given.rounds, given.sample = given.large_rounds, min(given.sample, 2)
        compare(title, folder, given, given.large_items)


if __name__ == "__main__":
    main()
