"""A run, or a long computation over one, shared by several workers, each with a model of its own."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.judges.toxicity import Judge
from morality_lens.models.loading import reload_model
from morality_lens.progress import Counter
from morality_lens.runs.manifest import done_parts, parts_of, read_manifest
from morality_lens.runs.run import Run
from morality_lens.runs.workers import Pool, on_workers


def load_for(
    run: Run, *, device: str | None = None, device_map: str | None = None, threads: int | None = None
) -> TransformerBridge:
    """The model of a run, loaded from where the run found it.

    Args:
        run: a run.
        device: for example ``cpu``; None takes a GPU where there is one.
        device_map: ``auto`` spreads a large model over several GPUs; excludes ``device``.
        threads: CPU threads of this process; None leaves them.

    Raises:
        FileNotFoundError: it is there no more.
        ValueError: it is another model now.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    recorded: Mapping[str, Any] = run.manifest["study"]["model"]
    place = {**recorded, "name": run.loaded_from}
    if device_map is not None:
        place["device_map"] = device_map
    return reload_model(place, device=device)


def spread(run: Run, work: Callable[[TransformerBridge], object], *, pool: Pool) -> None:
    """Let workers do a computation over a run together; afterwards all its parts are stored.

    Every function that takes an ``Execution`` with a folder shares its parts so: call it here in each worker,
    and then once more yourself, which reads what is stored.

    Args:
        run: whose model the workers load.
        work: gets the model, and does the computation with an ``Execution`` whose folder all workers see.
        pool: how many workers, and where.

    Raises:
        ModuleNotFoundError: Ray is not installed.

    Examples:
        >>> shared = ml.rounds.Execution(out=folder / "spread", progress=False)
        >>> def work(model):
        ...     return ml.attribute(model, run, probe, layer=3, selection=last, execution=shared)
        ...
        >>> ml.rounds.spread(run, work, pool=ml.runs.Pool(workers=1))
        >>> bool(abs(work(model)["contribution"] - parts["contribution"]).max() < 1e-5)
        True
    """
    on_workers(partial(load_for, run, **pool.placement), work, pool=pool)


def play_on_workers(
    run: Run, *, pool: Pool, judge: Judge | None = None, least_parsed: float = 0.0, progress: bool = True
) -> None:
    """Play the missing parts of a prepared run on workers; how far they are is read from the folder.

    Args:
        run: from :func:`morality_lens.rounds.prepare`.
        pool: how many workers, and where.
        judge: as :func:`morality_lens.rounds.play` was given it.
        least_parsed: the share of the first answers that must parse for the others to be played.
        progress: whether to show how far the run is.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        Exception: what playing raised in a worker; finished parts are kept.
    """
    from morality_lens.rounds.playing import play_parts

    path = run.path.absolute()
    parts, seen = parts_of(run.manifest), [_played(path)]
    with Counter("parts", len(parts), done=seen[0], shown=progress, kept=path) as counter:

        def watch() -> None:
            now = _played(path)
            counter.advance(now - seen[0])
            seen[0] = now

        if seen[0] < len(parts):
            work = partial(play_parts, out=path, judge=judge, least_parsed=least_parsed, progress=False)
            on_workers(partial(load_for, run, **pool.placement), work, pool=pool, watch=watch)
        watch()


def _played(path: Path) -> int:
    return len(done_parts(path, read_manifest(path)))
