"""Play every condition's rounds with one shared prefix, and capture residuals as they are computed.

Round 0 is played once for all conditions that open alike, and its cache expanded to the cells. From then on
each dialogue only adds its new turns to its cache.
"""

import hashlib
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.design import Protocol
from morality_lens.dialogues.wording import Wording, load_wording
from morality_lens.items.kinds import Item, items_hash
from morality_lens.judges.toxicity import Judge
from morality_lens.models.loading import ModelRecord, record_of
from morality_lens.progress import Counter
from morality_lens.rounds.capture import sign_tokens
from morality_lens.rounds.pacing import Pace, missing_stretches, outlook, refuse_unparsed
from morality_lens.rounds.player import Player
from morality_lens.rounds.preflight import Fitting, affordable_batch, check_items, fit_window
from morality_lens.rounds.replay import on_day
from morality_lens.rounds.sources import make_player, make_source, origin, writer
from morality_lens.runs import writing
from morality_lens.runs.agreement import agreement
from morality_lens.runs.manifest import read_manifest
from morality_lens.runs.run import Run, open_run

RULES = 2
"""Which rules replies are played by: raised where answers or feedback end elsewhere than before, so that no
run is played by two of them. Runs of earlier versions name none."""


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
        progress: show how far the run is and, after the first items, its speed, time left and how replies
            come out.

    Raises:
        ValueError: no items, ids that are not unique, items of several kinds or outcomes, dialogues that
            could exceed the context window, oracle feedback where no reply is right or for prompts without a
            judge, feedback that the source does not have, a folder with another run, or fewer answers that
            parse than ``fitting`` asks for; finished batches are kept. Or the rest of a run that another
            version began by other rules.
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
        "batches": "fixed" if fitting.batch_size or protocol.feedback_placebo == "yoked" else "by time",
        "window": asdict(record.window),
        "reply_tokens": sign_tokens(record.renderer, kept, protocol.answer_prefix),
        "today": record.renderer.today.isoformat(),
        "control_tokens": _spelled(record, kept, protocol, wording),
        "rules": RULES,
    }
    player = make_player(record, protocol, wording, source, path)
    study = study_of(record, kept, protocol, wording) | {"source": origin(source, protocol)}
    manifest = writing.create(
        path, study=study, about=about, items=ordered, batch_size=min(size, len(ordered))
    )
    _refuse_mixed(path, manifest)
    # A yoked placebo comes from the same batch, so there the batches must not depend on time.
    pace = Pace(most=int(manifest["batch_size"]), fixed=manifest.get("batches", "fixed") == "fixed")
    playing = _Playing(player=player, path=path, items=ordered, pace=pace, least_parsed=fitting.least_parsed)
    playing.rest(progress=progress)
    writing.finish(path)
    run = open_run(path)
    if protocol.generate == "endpoint":
        writing.keep_in_manifest(path, agreement=agreement(run.answers, run.design))
        return open_run(path)
    return run


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
            # Only what was chosen: runs of earlier versions had no such choice, and open.
            **record.options,
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
        **({} if protocol.system_prompt is None else {"system_prompt": protocol.system_prompt}),
        **({} if protocol.generate == "engine" else {"generate": writer(protocol)}),
    }


def _refuse_mixed(path: Path, manifest: dict[str, Any]) -> None:
    """Nothing, where a run is new, finished, or was begun under the same rules.

    Raises:
        ValueError: the rest of its items would be played by other rules than the first ones.
    """
    if manifest.get("rules") != RULES and missing_stretches(path, manifest["study"]["items"]["n"]):
        raise ValueError(
            f"the run in {path} was begun by another version of this package, which ends answers and "
            "feedback at other places (and may print another date), so its rest would not be comparable. "
            "Finish it with that version, or play it anew in another folder; finished items stay readable."
        )


def _begun_on(path: Path) -> str | None:
    """The day on which the run in a folder was begun, for templates that print it; None if there is none."""
    return read_manifest(path).get("today") if (path / "manifest.json").is_file() else None


def _spelled(
    record: ModelRecord, items: Sequence[Item], protocol: Protocol, wording: Wording
) -> dict[str, object]:
    """Which items and words spell a control token of the model; it is read as text."""
    control = record.renderer.control
    texts = {item.id: item.format_prompt("{text}") for item in items}
    return {
        "items": [name for name, text in texts.items() if control.found_in(text)],
        "wording": control.found_in(f"{wording.model_dump_json()}\n{protocol}"),
    }


def _versions() -> dict[str, str]:
    names = ("morality-lens", "torch", "transformers", "transformer-lens", "numpy", "xarray", "zarr")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


# --------------------------------------------------------------------------------------------- batches
@dataclass(kw_only=True, eq=False)
class _Playing:
    """A run in progress: its items in playing order, how they are divided, and the tokens so far."""

    player: Player
    path: Path
    items: Sequence[Item]
    pace: Pace
    least_parsed: float
    tokens: int = 0

    def rest(self, *, progress: bool) -> None:
        """Play the items that the run does not have yet, batch by batch, and store each batch."""
        design, total = self.player.protocol.design, len(self.items)
        each = len(design.conditions) * design.n_rounds
        done = total - sum(map(len, missing_stretches(self.path, total)))
        with Counter("dialogue rounds", total * each, done=done * each, shown=progress) as counter:
            if done:
                self._look_ahead(counter, progress=progress)
            while stretches := missing_stretches(self.path, total):
                self._batch(stretches[0], counter)
                if not done:
                    self._look_ahead(counter, progress=progress)
                    done = 1

    def _batch(self, stretch: range, counter: Counter) -> None:
        """Play and store the first items of a stretch."""
        first, size = stretch.start, self.pace.size(len(stretch))
        chosen = self.items[first : first + size]

        def advance(n: int) -> None:
            counter.advance(n, tokens=self.tokens + self.player.tokens)

        batch = _play_fitting(self.player, chosen, advance)
        writing.commit(self.path, first, batch)
        self.tokens, self.pace.each = self.tokens + batch.tokens, batch.seconds / size

    def _look_ahead(self, counter: Counter, *, progress: bool) -> None:
        """Say what the finished items tell of the others, and stop where too few of their answers parse."""
        run = open_run(self.path)
        if len(run.items) < len(self.items) and progress:
            for line in outlook(run, len(self.items)):
                counter.note(line)
        refuse_unparsed(run, len(self.items), self.least_parsed)


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
