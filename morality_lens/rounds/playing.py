"""Play every condition's rounds with one shared prefix, and capture residuals as they are computed.

Round 0 is played once for all conditions that open alike, and its cache expanded to the cells. From then on
each dialogue only adds its new turns to its cache.
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

from morality_lens.design import Protocol
from morality_lens.dialogues.wording import Wording, load_wording
from morality_lens.items.kinds import Item, items_hash
from morality_lens.judges.toxicity import Judge
from morality_lens.models.loading import ModelRecord, record_of
from morality_lens.rounds.capture import sign_tokens
from morality_lens.rounds.player import Player
from morality_lens.rounds.preflight import Fitting, affordable_batch, check_items, fit_window
from morality_lens.rounds.replay import on_day
from morality_lens.rounds.sources import make_source, origin
from morality_lens.runs import writing
from morality_lens.runs.manifest import done_batches, read_manifest
from morality_lens.runs.run import Run, open_run


def play(
    model: TransformerBridge,
    items: Sequence[Item],
    *,
    out: str | Path,
    rounds: int | None = None,
    protocol: Protocol | None = None,
    judge: Judge | None = None,
    fitting: Fitting = Fitting(),
    progress: bool = True,
) -> Run:
    """Play all conditions over all rounds into a folder, or resume the run that was begun there.

    Args:
        model: from ``load_model``.
        items: questions, ratings or open prompts, of one kind.
        out: the run's folder.
        rounds: correction rounds; replaces the protocol's own number.
        protocol: how to play; None is ``Protocol()``.
        judge: scores texts; needed where an oracle gives feedback on open prompts.
        fitting: batch size, and whether items that could exceed the context window are skipped.
        progress: show a progress bar with the remaining time.

    Raises:
        ValueError: no items, ids that are not unique, items of several kinds or outcomes, dialogues that
            could exceed the context window, oracle feedback where no reply is right or for prompts without a
            judge, feedback that the source does not have, or a folder with another run.
        ConnectionError: a server that gives feedback does not answer; finished batches are kept.
        TypeError: the model is not from ``load_model``.
    """
    record = record_of(model)
    protocol = (protocol or Protocol()).with_limits(record.reply_limits)
    if rounds is not None:
        protocol = replace(protocol, design=replace(protocol.design, rounds=rounds))
    wording, path = load_wording(protocol.wording), Path(out)
    record = on_day(record, _begun_on(path))
    check_items(items, protocol, judge)
    source = make_source(record, protocol, wording, items, path, judge)
    lengths, kept, left_out = fit_window(record, items, protocol, wording, drop_long=fitting.drop_long)
    ordered = [item for _, item in sorted(zip(lengths, kept, strict=True), key=lambda x: (x[0], x[1].id))]
    size = fitting.batch_size or affordable_batch(record, protocol, max(lengths))
    about = {
        "order": [item.id for item in kept],
        "left_out": left_out,
        "self_test": [{**asdict(c), "passed": c.passed} for c in record.checks],
        "versions": _versions(),
        "device": str(record.lm.device),
        "prefix_reuse": record.prefix_reuse,
        "reply_tokens": sign_tokens(record.renderer, kept, protocol.answer_prefix),
        "today": record.renderer.today.isoformat(),
        "control_tokens": _spelled(record, kept, protocol, wording),
    }
    study = study_of(record, kept, protocol, wording) | {"source": origin(source, protocol)}
    manifest = writing.create(
        path, study=study, about=about, items=ordered, batch_size=min(size, len(ordered))
    )
    size = int(manifest["batch_size"])
    batches = [ordered[i : i + size] for i in range(0, len(ordered), size)]
    player = Player(record=record, protocol=protocol, wording=wording, source=source)
    _play_missing(player, path, batches, progress=progress)
    writing.finish(path)
    return open_run(path)


def study_of(
    record: ModelRecord, items: Sequence[Item], protocol: Protocol, wording: Wording
) -> dict[str, object]:
    """What identifies a study, as recorded in the manifest."""
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
            # Zarr has no bfloat16; as float32 its values are exact and the empty bits compress.
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
            "answer_tokens": protocol.limits.answer,
            "rationale_tokens": protocol.limits.rationale,
            "feedback_tokens": protocol.limits.feedback,
            **({"thinking_tokens": protocol.limits.thinking} if record.renderer.thinking else {}),
        },
        **({"answer_prefix": protocol.answer_prefix} if protocol.answer_prefix else {}),
        "temperature": protocol.temperature,
    }


def _begun_on(path: Path) -> str | None:
    """The day on which the run in a folder was begun, for templates that print it; None if there is none."""
    return read_manifest(path).get("today") if (path / "manifest.json").is_file() else None


def _spelled(
    record: ModelRecord, items: Sequence[Item], protocol: Protocol, wording: Wording
) -> dict[str, object]:
    """The control tokens of the model, and which items and words spell one (it is read as text)."""
    control = record.renderer.control
    texts = {item.id: item.format_prompt("{text}") for item in items}
    return {
        "texts": list(control.texts),
        "items": [name for name, text in texts.items() if control.found_in(text)],
        "wording": control.found_in(f"{wording.model_dump_json()}\n{protocol}"),
    }


def _versions() -> dict[str, str]:
    names = ("morality-lens", "torch", "transformers", "transformer-lens", "numpy", "xarray", "zarr")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


# --------------------------------------------------------------------------------------------- batches
def _play_missing(player: Player, path: Path, batches: Sequence[Sequence[Item]], *, progress: bool) -> None:
    """Play the batches that the run in a folder does not have yet, and store each."""
    done = done_batches(path)
    design = player.protocol.design
    each = len(design.conditions) * design.n_rounds
    before, total = sum(len(batches[n]) for n in done) * each, sum(map(len, batches)) * each
    with tqdm(desc="dialogue rounds", total=total, initial=before, disable=not progress) as bar:
        for number, batch in enumerate(batches):
            if number not in done:
                writing.commit(path, number, _play_fitting(player, batch, bar.update))


def _play_fitting(
    player: Player, items: Sequence[Item], advance: Callable[[int], object]
) -> writing.PlayedBatch:
    """Play a batch; if memory runs out, its halves one after the other."""
    try:
        return player.play(items, advance)
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        if len(items) == 1:
            raise MemoryError(
                "a single item does not fit into memory; play fewer rounds or conditions, use a smaller "
                "dtype, or spread the model with device_map."
            ) from error
    torch.cuda.empty_cache()
    half = len(items) // 2
    parts = [_play_fitting(player, part, advance) for part in (items[:half], items[half:])]
    return writing.PlayedBatch(
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
