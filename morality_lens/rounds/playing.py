"""Play every condition's rounds with one shared prefix, and capture residuals as they are made.

Round 0 is the same in all conditions: it is played once and its cache expanded to the cells. From then on
each dialogue only adds its new turns to the cache it has.
"""

import hashlib
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from morality_lens import dialogues, rendering, store
from morality_lens.behaviour import Judge
from morality_lens.design import Condition, Protocol
from morality_lens.feedback import Critic, FromFile, Oracle, Source, read_remarks
from morality_lens.items import Item, items_hash, refuse_unplayable
from morality_lens.model import ModelRecord, load_model, record_of
from morality_lens.player import Player
from morality_lens.rendering import Renderer, Transcript
from morality_lens.row import reply_tokens
from morality_lens.script import Script
from morality_lens.wording import Wording, load_wording

MOST_ITEMS = 16
"""Items of a batch where memory allows."""


def play(
    model: TransformerBridge,
    items: Sequence[Item],
    *,
    out: str | Path,
    rounds: int | None = None,
    protocol: Protocol | None = None,
    batch_size: int | None = None,
    drop_long: bool = False,
    judge: Judge | None = None,
    progress: bool = True,
) -> store.Run:
    """Play all conditions over all rounds into a folder, or go on with a run that was begun there.

    Args:
        model: from ``load_model``.
        items: questions, ratings or open prompts, of one kind.
        out: the run's folder.
        rounds: correction rounds; replaces the protocol's own number.
        protocol: how to play; None is ``Protocol()``.
        batch_size: items played together (each becomes one row a condition); None fits it to memory.
        drop_long: leave out items whose dialogues could outgrow the model's window, rather than refuse.
        judge: tells toxic texts; needed where an oracle gives feedback on open prompts.
        progress: show a bar with the time left.

    Raises:
        ValueError: no items, ids that are not unique, items of several kinds or outcomes, dialogues that
            could outgrow the window, oracle feedback where no reply is right or for prompts without a judge,
            feedback that the source does not have, or a folder with another run.
        ConnectionError: a server that gives feedback does not answer; finished batches are kept.
        TypeError: the model is not from ``load_model``.
    """
    record = record_of(model)
    protocol = protocol or Protocol()
    if rounds is not None:
        protocol = replace(protocol, design=replace(protocol.design, rounds=rounds))
    wording = load_wording(protocol.wording)
    _check_items(items, protocol, judge)
    source = make_source(record, protocol, wording, items, Path(out), judge)
    lengths, kept, left_out = _fit_window(record, items, protocol, wording, drop_long=drop_long)
    ordered = [item for _, item in sorted(zip(lengths, kept, strict=True), key=lambda x: (x[0], x[1].id))]
    size = batch_size or _batch_size(record, protocol, max(lengths))
    path = Path(out)
    about = {
        "order": [item.id for item in kept],
        "left_out": left_out,
        "self_test": [{**asdict(c), "passed": c.passed} for c in record.checks],
        "versions": _versions(),
        "device": str(record.lm.device),
        "prefix_reuse": record.prefix_reuse,
    }
    study = study_of(record, kept, protocol, wording) | {"source": origin(source, protocol)}
    manifest = store.create(path, study=study, about=about, items=ordered, batch_size=min(size, len(ordered)))
    size = int(manifest["batch_size"])
    batches = [ordered[i : i + size] for i in range(0, len(ordered), size)]
    done = store.done_batches(path)
    each = len(protocol.design.conditions) * protocol.design.n_rounds
    before = sum(len(batches[n]) for n in done) * each
    total = len(ordered) * each
    with tqdm(desc="dialogue rounds", total=total, initial=before, disable=not progress) as bar:
        for number, batch in enumerate(batches):
            if number not in done:
                player = Player(record=record, protocol=protocol, wording=wording, source=source)
                played = _play_fitting(player, batch, bar.update)
                store.commit(path, number, played)
    store.finish(path)
    return store.open_run(path)


def study_of(
    record: ModelRecord, items: Sequence[Item], protocol: Protocol, wording: Wording
) -> dict[str, object]:
    """What makes two runs the same study, as it stands in the manifest."""
    return {
        "model": {
            "name": record.name,
            "revision": record.revision,
            "fingerprint": record.fingerprint,
            "architecture": record.architecture,
            "organism": record.organism,
            "n_layers": record.n_layers,
            "d_model": record.d_model,
            "dtype": record.dtype,
            # bfloat16 has no place in the store; as float32 its values are exact and the rest compresses.
            "stored_as": "float16" if record.dtype == "float16" else "float32",
            "template_sha256": hashlib.sha256(record.renderer.template.encode()).hexdigest(),
            "plain_template": record.renderer.plain,
        },
        "items": {"kind": type(items[0]).__name__, "n": len(items), "sha256": items_hash(items)},
        "design": protocol.design.manifest(),
        "wording": {
            "name": wording.name,
            "index": protocol.wording_index,
            "sha256": wording.hash_of(items[0].task),
        },
        "feedback": protocol.feedback,
        "limits": {
            "answer_tokens": protocol.answer_tokens,
            "rationale_tokens": protocol.rationale_tokens,
            "feedback_tokens": protocol.feedback_tokens,
        },
        "temperature": protocol.temperature,
    }


def _versions() -> dict[str, str]:
    names = ("morality-lens", "torch", "transformers", "transformer-lens", "numpy", "xarray", "zarr")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def make_source(
    record: ModelRecord,
    protocol: Protocol,
    wording: Wording,
    items: Sequence[Item],
    path: Path,
    judge: Judge | None = None,
) -> Source:
    """Who gives feedback.

    Args:
        record: the model that plays.
        protocol: where feedback comes from.
        wording: the words.
        items: what is played.
        path: the run's folder, in which a server's answers are kept.
        judge: of texts, for an oracle.

    Raises:
        ValueError: a file that lacks an item, or holds a remark that is too long.
        FileNotFoundError: no such model or file.
    """
    if protocol.feedback == "oracle":
        return Oracle(wording=wording, index=protocol.wording_index, judge=judge)
    if protocol.feedback == "file":
        source = read_remarks(str(protocol.feedback_from), items)
        said = (row["feedback"] for rows in source.rows.values() for row in rows)
        longest = max(len(rendering.encode(record.renderer, text)[0]) for text in said)
        if longest > protocol.feedback_tokens:
            raise ValueError(
                f"{source.path} holds feedback of up to {longest} tokens and at most "
                f"{protocol.feedback_tokens} are read; raise feedback_tokens to {longest}."
            )
        return source
    if protocol.feedback == "endpoint":
        from morality_lens.endpoint import Endpoint  # its client takes a while to import

        path.parent.mkdir(parents=True, exist_ok=True)
        cache = path.with_name(f"{path.name}.feedback.jsonl")
        return Endpoint(protocol=protocol, wording=wording, cache=cache)
    if protocol.feedback == "model":
        other = load_model(protocol.feedback_from, device=str(record.lm.device))
        return Critic(record=record_of(other), protocol=protocol, wording=wording)
    return Critic(record=record, protocol=protocol, wording=wording)


def origin(source: Source, protocol: Protocol) -> dict[str, str | None]:
    """Where feedback came from, as it stands in the manifest."""
    exact = None
    if isinstance(source, FromFile):
        exact = hashlib.sha256(source.path.read_bytes()).hexdigest()
    elif isinstance(source, Critic) and protocol.feedback == "model":
        exact = source.record.fingerprint
    return {
        "from": protocol.feedback_from,
        "model": protocol.feedback_model,
        "exact": exact,
        "placebo": protocol.feedback_placebo,
        "named": protocol.feedback_named,
    }


def _check_items(items: Sequence[Item], protocol: Protocol, judge: Judge | None) -> None:
    if not items:
        raise ValueError("play needs at least one item; got none. Check the file and its filters.")
    ids = pd.Series([item.id for item in items])
    if ids.duplicated().any():
        again = sorted(set(ids[ids.duplicated()]))[:3]
        raise ValueError(f"item ids must be unique; {', '.join(again)} came more than once.")
    refuse_unplayable(items, oracle=protocol.feedback == "oracle", judged=judge is not None)


# --------------------------------------------------------------------------------------------- lengths
def _fit_window(
    record: ModelRecord, items: Sequence[Item], protocol: Protocol, wording: Wording, *, drop_long: bool
) -> tuple[list[int], list[Item], list[dict[str, object]]]:
    """Longest possible dialogue of each item that fits, those items, and those left out."""
    bounds = longest_dialogues(record.renderer, items, protocol, wording)
    window = record.lm.window
    kept = [(n, item) for n, item in zip(bounds, items, strict=True) if n <= window]
    left = [{"id": item.id, "tokens": n} for n, item in zip(bounds, items, strict=True) if n > window]
    if left and (not drop_long or not kept):
        worst = max(bounds)
        raise ValueError(
            f"{len(left)} of {len(items)} items could outgrow the model's window of {window} tokens (up to "
            f"{worst} tokens, for example item {left[0]['id']}). Play fewer rounds, lower the token limits, "
            + (
                "or take another model: none fits."
                if not kept
                else "or leave them out with drop_long (--drop-long)."
            )
        )
    return [n for n, _ in kept], [item for _, item in kept], left


def longest_dialogues(
    renderer: Renderer, items: Sequence[Item], protocol: Protocol, wording: Wording
) -> list[int]:
    """An upper bound of the tokens of each item's longest dialogue, known before anything is played."""
    slack = 4  # tokens that differ where a reply meets the template
    if any(factor.place == "system" for factor in protocol.design.factors):
        rendering.check_system(renderer)
    script, blank = Script.of(protocol, wording), Transcript()
    growth = max(
        _round_tokens(renderer, script, protocol, items[0], condition, slack)
        for condition in protocol.design.conditions
    )
    openings = {protocol.design.opening(condition) for condition in protocol.design.conditions}
    bounds = []
    for item in items:
        begun = [
            rendering.append_turn(renderer, blank, *script.round(item, opening, 0)[0].turns, round=0)
            for opening in openings
        ]
        critique = rendering.append_turn(
            renderer, blank, dialogues.critique_turn(item, "a", wording, protocol.wording_index), round=0
        )
        opened = max(len(transcript.token_ids) for transcript in begun)
        played = opened + protocol.answer_tokens + protocol.design.rounds * growth
        asked = len(critique.token_ids) + protocol.answer_tokens + protocol.feedback_tokens + slack
        bounds.append(max(played, asked if protocol.feedback == "self" else 0))
    return bounds


def _round_tokens(
    renderer: Renderer, script: Script, protocol: Protocol, item: Item, condition: Condition, slack: int
) -> int:
    """An upper bound of the tokens that one correction round adds under a condition."""
    append = rendering.rerender if rendering.rewrites_history(renderer) else rendering.append_turn
    word = tuple(rendering.encode(renderer, " a")[0][-1:])
    said = rendering.append_turn(renderer, Transcript(), dialogues.statement_turn("a"), round=0)
    said = rendering.append_reply(renderer, said, word, "answer", round=0)
    size = protocol.answer_tokens
    if script.level(condition, "feedback") != "off":
        size += protocol.feedback_tokens
    for exchange in script.round(item, condition, 1, "a"):
        after = append(renderer, said, *exchange.turns, round=1)
        size += len(after.token_ids) - len(said.token_ids) + slack
        said = rendering.append_reply(renderer, after, word, exchange.reply, round=1)
        if exchange.reply != "answer":
            given = [] if exchange.given is None else reply_tokens(renderer, exchange.given)
            size += max(protocol.rationale_tokens, len(given))
    return size


def _batch_size(record: ModelRecord, protocol: Protocol, longest: int) -> int:
    """Items whose caches fill at most a quarter of the memory that is free."""
    config = record.lm.module.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = torch.finfo(record.lm.module.dtype).bits // 8
    item = 2 * record.n_layers * heads * size * width * longest * len(protocol.design.conditions)
    cuda = record.lm.device.type == "cuda"
    free = torch.cuda.mem_get_info(record.lm.device)[0] if cuda else 8e9
    return int(max(1, min(MOST_ITEMS, free / 4 // item)))


# --------------------------------------------------------------------------------------------- a batch
def _play_fitting(
    player: Player, items: Sequence[Item], advance: Callable[[int], object]
) -> store.PlayedBatch:
    """Play a batch; where memory runs out, its halves one after the other."""
    try:
        return player.play(items, advance)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        if len(items) == 1:
            raise MemoryError(
                "a single item does not fit into memory; play fewer rounds, fewer conditions, a smaller "
                "dtype, or spread the model with device_map."
            ) from error
    torch.cuda.empty_cache()
    half = len(items) // 2
    parts = [_play_fitting(player, part, advance) for part in (items[:half], items[half:])]
    return store.PlayedBatch(
        residuals=np.concatenate([p.residuals for p in parts]),
        option_probabilities=np.concatenate([p.option_probabilities for p in parts]),
        option_mass=np.concatenate([p.option_mass for p in parts]),
        answers=pd.concat([p.answers for p in parts], ignore_index=True),
        transcripts=pd.concat([p.transcripts for p in parts], ignore_index=True),
        seconds=sum(p.seconds for p in parts),
        tokens=sum(p.tokens for p in parts),
    )


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return "out of memory" in text or "not enough memory" in text
