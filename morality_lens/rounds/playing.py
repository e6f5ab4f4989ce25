"""Play every condition's rounds with one shared prefix, and capture residuals as they are computed.

Round 0 is played once for all conditions that open alike, and its cache expanded to the cells. From then on
each dialogue only adds its new turns to its cache.
"""

import hashlib
import json
import platform
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from pydantic import TypeAdapter
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.design import Protocol, design_from
from morality_lens.dialogues.wording import Wording, load_wording
from morality_lens.items.files import file_hash
from morality_lens.items.kinds import Item, items_hash
from morality_lens.judges.toxicity import Judge
from morality_lens.models.finding import BUNDLED
from morality_lens.models.loading import ModelRecord, record_of
from morality_lens.probes.kept import directions_hash, on_directions
from morality_lens.probes.probe import Probe, load_probe
from morality_lens.progress import Counter, stage
from morality_lens.rounds.capture import sign_tokens
from morality_lens.rounds.pacing import outlook, refuse_unparsed
from morality_lens.rounds.player import Player
from morality_lens.rounds.preflight import Fitting, affordable_batch, check_items, fit_window
from morality_lens.rounds.replay import begun_row, on_day, same_model
from morality_lens.rounds.row import Row
from morality_lens.rounds.sources import make_player, make_source, meet_server, origin, writer
from morality_lens.rounds.spreading import play_on_workers
from morality_lens.runs import claims, writing
from morality_lens.runs.agreement import agreement
from morality_lens.runs.manifest import (
    DIRECTIONS,
    PARTS,
    Part,
    done_parts,
    missing_parts,
    parts_of,
    read_manifest,
)
from morality_lens.runs.requests import differences
from morality_lens.runs.run import Run, open_run
from morality_lens.runs.storage import ALL, Storage
from morality_lens.runs.verifying import set_damaged_aside
from morality_lens.runs.workers import Pool

TRIAL = 2
"""Items of the first part, where no batch size is asked for: they tell early how long the others take, and
whether their replies can be read."""
RULES = 2
"""Which rules replies are played by: raised where answers or feedback end elsewhere than before, so that no
run is played by two of them. Runs of earlier versions name none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """What is needed to play the parts of a run: everything but the model comes from its folder.

    Attributes:
        path: the run's folder.
        player: plays a part.
        items: in playing order.
        least_parsed: the share of the first answers that must parse.
        directions: on which projections are kept; None where they are not.
    """

    path: Path
    player: Player
    items: Sequence[Item]
    least_parsed: float
    directions: Float[np.ndarray, "n layer d_model"] | None = None


def play(
    model: TransformerBridge,
    items: Sequence[Item],
    *,
    out: str | Path,
    rounds: int | None = None,
    protocol: Protocol | None = None,
    judge: Judge | None = None,
    fitting: Fitting = Fitting(),
    storage: Storage = ALL,
    probe: Probe | None = None,
    workers: int | Pool = 1,
    progress: bool = True,
) -> Run:
    """Play all conditions over all rounds into a folder; resumes or extends the run that was begun there.

    :func:`prepare`, :func:`play_parts` and :func:`finish` in one. Several processes may do this at once on
    one folder: they share the parts, and each returns when all are played.

    Args:
        model: from ``load_model``.
        items: questions, ratings or open prompts, of one kind.
        out: the run's folder.
        rounds: correction rounds; replaces the protocol's own number.
        protocol: how to play; None is ``Protocol()``.
        judge: scores texts; needed where an oracle gives feedback on open prompts.
        fitting: batch size, and whether items that could exceed the context window are skipped.
        storage: which layers are kept, and in which form.
        probe: whose projections are kept, where ``storage`` keeps them; with its refits.
        workers: processes that play, each with a model of its own; a :class:`morality_lens.runs.workers.Pool`
            says on which devices and machines. 1 plays here.
        progress: show how far the run is and, after the first items, its speed, time left and how replies
            come out.

    Raises:
        ValueError: no items, ids that are not unique, items of several kinds or outcomes, dialogues that
            could exceed the context window, oracle feedback where no reply is right or for prompts without a
            judge, feedback that the source does not have, a folder with another run, or fewer answers that
            parse than ``fitting`` asks for; finished parts are kept. Or the rest of a run that another
            version began by other rules.
        ConnectionError: a server that gives feedback does not answer; finished parts are kept.
        TypeError: the model is not from ``load_model``.

    Examples:
        >>> small = ml.play(model, items[:2], rounds=1, out=folder / "small", progress=False)
        >>> longer = ml.play(model, items[:2], rounds=2, out=folder / "small", progress=False)
        >>> small.residuals.sizes["round"], longer.residuals.sizes["round"]
        (2, 3)
    """
    pool = Pool(workers=workers) if isinstance(workers, int) else workers
    run = prepare(
        model,
        items,
        out=out,
        rounds=rounds,
        protocol=protocol,
        judge=judge,
        fitting=fitting,
        storage=storage,
        probe=probe,
    )
    more = {"judge": judge, "least_parsed": fitting.least_parsed, "progress": progress}
    while True:
        if workers == 1:
            play_parts(model, out, **more)
        else:
            play_on_workers(run, pool=pool, **more)
        run = open_run(out)
        if not missing_parts(run.path, run.manifest):  # another process may have extended it meanwhile
            break
    return finish(out)


def prepare(
    model: TransformerBridge,
    items: Sequence[Item],
    *,
    out: str | Path,
    rounds: int | None = None,
    protocol: Protocol | None = None,
    judge: Judge | None = None,
    fitting: Fitting = Fitting(),
    storage: Storage = ALL,
    probe: Probe | None = None,
) -> Run:
    """The run in a folder, with all its parts named and none of the missing ones played.

    A run that is there is extended by items and rounds that it lacks. Damaged parts are set aside (their
    names end in ``.damaged``), so that they are played again.

    Args and errors are those of :func:`play`.

    Examples:
        >>> waiting = ml.rounds.prepare(model, items[:4], rounds=1, out=folder / "prepared")
        >>> ml.runs.verify_run(waiting.path).parts
        2
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
        "loaded_from": _place(record.name),
        "protocol": _with_places(protocol),
        "words": wording.model_dump(mode="json"),
        "prefix_reuse": record.prefix_reuse,
        "window": asdict(record.window),
        "reply_tokens": sign_tokens(record.renderer, kept, protocol.answer_prefix),
        "today": record.renderer.today.isoformat(),
        "control_tokens": _spelled(record, kept, protocol, wording),
        "rules": RULES,
    }
    meet_server(record, protocol, wording, source, path)
    study = study_of(record, kept, protocol, wording) | {"source": origin(source, protocol)}
    told = _directions(record, storage, probe)
    manifest = writing.create(
        path,
        study=study,
        about=about,
        items=ordered,
        batch_size=min(size, len(ordered)),
        # A yoked placebo comes from the same batch, which should not be tiny.
        trial=0 if fitting.batch_size or protocol.feedback_placebo == "yoked" else TRIAL,
        stored=storage.manifest(n_layers=record.n_layers, dtype=record.dtype, **told),
    )
    if probe is not None and told and not (path / DIRECTIONS).exists():
        probe.save(path / DIRECTIONS)
        writing.amend(path, directions_file=file_hash(path / DIRECTIONS))
    room = writing.room(manifest)
    stage(f"this run has {room}; {shutil.disk_usage(path).free / 1e9:.1f} GB are free")
    if done := len(done_parts(path, manifest)):
        stage(f"checking {done} stored parts")
    for problem in set_damaged_aside(path):
        warnings.warn(f"{problem} It is played again.", stacklevel=2)
    _refuse_mixed(path, manifest)
    return open_run(path)


def play_parts(
    model: TransformerBridge,
    out: str | Path,
    *,
    numbers: Sequence[int] | None = None,
    judge: Judge | None = None,
    least_parsed: float = 0.0,
    progress: bool = True,
) -> None:
    """Play the parts of a prepared run that are missing and that no other process plays.

    Everything but the model comes from the folder: protocol, words, items and parts. It returns when all
    chosen parts are stored, by this process or by others; a part of a process that died is taken over.

    Args:
        model: the one the run was prepared with.
        out: the run's folder.
        numbers: which of the run's parts, counted from 0; None is all. Parts with earlier rounds of their
            items belong to them.
        judge: as :func:`play` was given it.
        least_parsed: the share of the first answers that must parse for the others to be played.
        progress: whether to show how far the run is.

    Raises:
        ValueError: another model, a number that no part has, or what :func:`play` refuses.

    Examples:
        >>> waiting = ml.rounds.prepare(model, items[:4], rounds=1, out=folder / "by-parts")
        >>> ml.rounds.play_parts(model, waiting.path, progress=False)
        >>> len(ml.rounds.finish(waiting.path).answers)
        64
    """
    path = Path(out)
    manifest = read_manifest(path)
    prepared = _prepared(model, path, judge, least_parsed)
    parts = parts_of(manifest)
    if numbers is not None:
        odd = [n for n in numbers if not 0 <= n < len(parts)]
        if odd:
            raise ValueError(f"the run in {path} has the parts 0 to {len(parts) - 1}; got {odd[0]}.")
        chosen = {parts[n] for n in numbers}
        parts = tuple(part for part in parts if any(part in (c, *_earlier(parts, c)) for c in chosen))
    _Playing(prepared=prepared, parts=parts).rest(progress=progress)


def finish(out: str | Path) -> Run:
    """The finished run, with its times in the manifest.

    Raises:
        ValueError: parts are missing.

    Examples:
        >>> waiting = ml.rounds.prepare(model, items[:2], rounds=1, out=folder / "finished")
        >>> ml.rounds.play_parts(model, waiting.path, progress=False)
        >>> ml.rounds.finish(waiting.path).design.rounds
        1
    """
    writing.finish(Path(out))
    run = open_run(out)
    if "generate" not in run.manifest["study"]:
        return run
    found = agreement(run.answers, run.design)
    writing.amend(Path(out), agreement=found)
    return open_run(out)


def _prepared(
    model: TransformerBridge,
    path: Path,
    judge: Judge | None,
    least_parsed: float,
) -> Prepared:
    """A player of the run in a folder, by its manifest.

    Raises:
        ValueError: the model is not the run's, or something else that changes a token is not.
    """
    run, manifest = open_run(path), read_manifest(path)
    record = same_model(model, run, None)
    protocol = protocol_of(manifest)
    wording = Wording.model_validate(manifest["words"])
    items = writing.read_items(path, manifest)
    check_items(items, protocol, judge)
    source = make_source(record, protocol, wording, items, path, judge)
    study = study_of(record, items, protocol, wording) | {"source": origin(source, protocol)}
    _refuse_changed(path, manifest["study"], study)
    _refuse_mixed(path, manifest)
    layers = tuple(manifest["stored"]["layers"])
    player = make_player(record, protocol, wording, source, path, layers=layers)
    return Prepared(
        path=path,
        player=player,
        items=items,
        least_parsed=least_parsed,
        directions=_kept_directions(path, manifest),
    )


def _directions(record: ModelRecord, storage: Storage, probe: Probe | None) -> dict[str, Any]:
    """What the manifest says of the directions that projections are made on; nothing where none are kept.

    Raises:
        ValueError: projections without a probe, a probe without projections, or one of another model.
    """
    if (probe is None) != (storage.keep == "residuals"):
        raise ValueError(
            f"keep={storage.keep!r} and {'no probe' if probe is None else 'a probe'} do not go together: "
            "give the probe whose projections are kept as probe, with keep='projections' or 'both'."
        )
    if probe is None:
        return {}
    fitted = probe.training["model_fingerprint"]
    if fitted != record.fingerprint:
        raise ValueError(
            f"the probe was fitted on another model (weights {fitted[:12]}, this one has "
            f"{record.fingerprint[:12]}); fit it with this model."
        )
    directions = probe.at_layers(storage.layers_of(record.n_layers)).directions
    return {"directions": len(directions), "directions_sha256": directions_hash(directions)}


def _kept_directions(path: Path, manifest: Mapping[str, Any]) -> Float[np.ndarray, "n layer d_model"] | None:
    """The directions on which a run keeps projections; None where it keeps none.

    Raises:
        ValueError: the file with them is not the run's.
    """
    stored = manifest["stored"]
    if stored["keep"] == "residuals":
        return None
    directions = load_probe(path / DIRECTIONS).at_layers(stored["layers"]).directions
    if directions_hash(directions) != stored["directions_sha256"]:
        raise ValueError(f"{path / DIRECTIONS} is not the probe that this run was begun with; put it back.")
    return directions


def protocol_of(manifest: Mapping[str, Any]) -> Protocol:
    """The protocol of a run, with the rounds that it has now."""
    protocol = TypeAdapter(Protocol).validate_python(manifest["protocol"])
    return replace(protocol, design=design_from(manifest["study"]["design"]))


def _with_places(protocol: Protocol) -> dict[str, Any]:
    """The protocol as a manifest holds it, readable from another folder."""
    held = TypeAdapter(Protocol).dump_python(protocol, mode="json")
    if protocol.feedback in ("model", "file"):
        held["feedback_from"] = _place(str(protocol.feedback_from))
    return held


def _place(name: str) -> str:
    """A file or folder with its whole path, a name as it is."""
    return str(Path(name).absolute()) if name not in BUNDLED and Path(name).exists() else name


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
            "template_sha256": hashlib.sha256(record.renderer.template.encode()).hexdigest(),
            "plain_template": record.renderer.plain,
            "tokenizer_sha256": tokenizer_hash(record.renderer.tokenizer),
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


def tokenizer_hash(tokenizer: Any) -> str:
    """A hash over all by which a tokenizer makes tokens of texts, however it is cut or padded now."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    told: Any = sorted(tokenizer.get_vocab().items())
    if fast is not None:
        told = json.loads(fast.to_str())
        told = {name: value for name, value in told.items() if name not in ("truncation", "padding")}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _refuse_changed(path: Path, stored: Mapping[str, Any], study: Mapping[str, Any]) -> None:
    """Nothing, where all that changes a token is as it was when the run was prepared.

    Raises:
        ValueError: another tokenizer, template or file of feedback, say.
    """
    found = differences(writing.identity(stored), json.loads(json.dumps(writing.identity(study))))
    if found:
        raise ValueError(
            f"the run in {path} was prepared with something else: {'; '.join(found)}. Put back what it was "
            "prepared with, or play the run anew in another folder."
        )


def _refuse_mixed(path: Path, manifest: dict[str, Any]) -> None:
    """Nothing, where a run is new, finished, or was begun under the same rules.

    Raises:
        ValueError: the rest of its items would be played by other rules than the first ones.
    """
    if manifest.get("rules") != RULES and missing_parts(path, manifest):
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
        "wording": control.found_in(f"{wording.model_dump_json()}\n{asdict(protocol)}"),
    }


def _versions() -> dict[str, str]:
    names = ("morality-lens", "torch", "transformers", "transformer-lens", "numpy", "xarray", "zarr")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


# --------------------------------------------------------------------------------------------- parts
@dataclass(kw_only=True, eq=False)
class _Playing:
    """Parts of a run that are played, those with earlier rounds of the same items among them, and tokens."""

    prepared: Prepared
    parts: Sequence[Part]
    tokens: int = 0

    def rest(self, *, progress: bool) -> None:
        """Play what is missing and unclaimed until nothing is missing; store each part."""
        design = self.prepared.player.protocol.design
        each = len(design.conditions)
        size = {part: part.items * each * (part.stop - part.start) for part in self.parts}
        seen = {part for part in self.parts if part.done(self.path)}
        done = sum(size[part] for part in seen)
        with Counter(
            "dialogue rounds", sum(size.values()), done=done, shown=progress, kept=self.path
        ) as counter:
            judged = self._look_ahead(counter, progress=progress) if seen else False
            told: set[claims.Worker] = set()
            while missing := [part for part in self.parts if not part.done(self.path)]:
                _tell(counter, told, self.path)
                before = len(seen)
                for part in missing:
                    if self._play(part, counter):
                        seen.add(part)
                        judged = judged or self._look_ahead(counter, progress=progress)
                others = {part for part in self.parts if part.done(self.path)} - seen
                counter.advance(sum(size[part] for part in others), tokens=self.tokens)
                seen |= others
                if len(seen) == before:
                    time.sleep(WAIT)

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.prepared.path

    def _play(self, part: Part, counter: Counter) -> bool:
        """Whether a part was played and stored now: not where it is there, or another process plays it."""
        if not all(p.done(self.path) for p in _earlier(self.parts, part)):
            return False
        with claims.claimed(part.file(self.path)) as mine:
            if not mine or part.done(self.path):
                return False
            player = _up_to(self.prepared.player, part.stop - 1)

            def advance(n: int) -> None:
                counter.advance(n, tokens=self.tokens + player.tokens)

            chosen = self.prepared.items[part.first : part.first + part.items]
            batch = _play_fitting(player, chosen, advance, begun_dialogues(self.path, player, part))
            if self.prepared.directions is not None:
                batch = replace(batch, projections=on_directions(batch.residuals, self.prepared.directions))
            writing.commit(self.path, part, batch)
            self.tokens += batch.tokens
        return True

    def _look_ahead(self, counter: Counter, *, progress: bool) -> bool:
        """Say what the finished items tell of the others, and stop where too few of their answers parse."""
        run, total = open_run(self.path), len(self.prepared.items)
        if not len(run.items):
            return False
        if len(run.items) < total and progress:
            for line in outlook(run, total):
                counter.note(line)
        refuse_unparsed(run, total, self.prepared.least_parsed)
        return True


WAIT = 1.0
"""Seconds until it is looked again whether other processes have finished their parts."""


def _up_to(player: Player, rounds: int) -> Player:
    """The player of so many rounds: a run that was extended before it was finished has parts with fewer."""
    design = replace(player.protocol.design, rounds=rounds)
    if design == player.protocol.design:
        return player
    return replace(player, protocol=replace(player.protocol, design=design))


def _earlier(parts: Sequence[Part], part: Part) -> list[Part]:
    """Those parts that hold earlier rounds of the same items."""
    return [p for p in parts if p.first == part.first and p.stop <= part.start]


def _tell(counter: Counter, told: set[claims.Worker], path: Path) -> None:
    """Say once of every other process that it plays here."""
    for worker in claims.claimants(path / PARTS):
        if worker not in told:
            told.add(worker)
            counter.note(f"{worker} plays parts of this run too: they are shared")


def begun_dialogues(path: Path, player: Player, part: Part) -> tuple[Row, ...]:
    """The dialogues of a part at the end of the round before its first; none where it begins with round 0."""
    if not part.start:
        return ()
    manifest = read_manifest(path)
    before = [list(p) for p in _earlier(parts_of(manifest), part)]
    study = manifest["study"]
    design = {**study["design"], "rounds": part.start - 1}
    run = Run(path=path, manifest={**manifest, "study": {**study, "design": design}, "parts": before})
    return tuple(
        begun_row(player.record, run, item, cell, player.wording)
        for cell in range(len(run.design.conditions))
        for item in run.asked.values()
    )


def _play_fitting(
    player: Player, items: Sequence[Item], advance: Callable[[int], object], begun: Sequence[Row]
) -> writing.PlayedBatch:
    """Play a batch; if memory runs out, its halves one after the other."""
    try:
        return player.play(items, advance, begun=begun)
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
    parts = [_play_fitting(player, part, advance, begun) for part in (items[:half], items[half:])]
    return writing.PlayedBatch(
        residuals=np.concatenate([p.residuals for p in parts]),
        option_probabilities=np.concatenate([p.option_probabilities for p in parts]),
        option_mass=np.concatenate([p.option_mass for p in parts]),
        answers=pd.concat([p.answers for p in parts], ignore_index=True),
        transcripts=pd.concat([p.transcripts for p in parts], ignore_index=True),
        seconds=sum(p.seconds for p in parts),
        tokens=sum(p.tokens for p in parts),
        together=tuple(n for p in parts for n in p.together),
        device=parts[0].device,
    )


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return "out of memory" in text or "not enough memory" in text
