"""The commands about a run's folder and who fills it: work, verify and estimate."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from morality_lens.cli.console import phase, print_lines, steps
from morality_lens.cli.model_options import Device, DeviceMap, ModelName
from morality_lens.cli.places import RunFolder, refuse_missing
from morality_lens.progress import listening

if TYPE_CHECKING:
    from morality_lens.runs.run import Run
    from morality_lens.runs.storage import Storage
    from morality_lens.runs.workers import Pool

Layers = Annotated[
    str | None, typer.Option(help="Layers that are kept: -1,4,8-12; -1 is the embedding.", show_default="all")
]
Keep = Annotated[
    Literal["residuals", "projections", "both"] | None,
    typer.Option(
        help="What is kept of them; projections are on the probe, which is then fitted first.",
        show_default="residuals",
    ),
]
StoreAs = Annotated[
    Literal["float16", "float32"] | None,
    typer.Option(help="Type of the residuals on disk.", show_default="as computed"),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1, help="Processes that do the work, each with a model of its own.", show_default="this one"
    ),
]
GpusPerWorker = Annotated[
    float | None,
    typer.Option(min=0, help="GPUs of each worker; a fraction shares one.", show_default="0: a CPU"),
]
RayAddress = Annotated[
    str | None, typer.Option(help="Address of a Ray cluster, or auto.", show_default="this machine alone")
]


def work(
    folder: RunFolder,
    part: Annotated[
        str | None,
        typer.Option(
            help="K/N: every Nth part from the Kth on, as the tasks of an array do.",
            show_default="all that nobody plays yet",
        ),
    ] = None,
    device: Device = None,
    device_map: DeviceMap = None,
) -> None:
    """Play parts of a prepared run that nobody plays yet; start it as often as you like, on any machine."""
    chosen = None if part is None else read_share(part)
    refuse_missing(runs=[folder])
    from morality_lens.rounds.playing import finish, play_parts
    from morality_lens.rounds.spreading import load_for
    from morality_lens.runs.manifest import missing_parts, parts_of, read_manifest
    from morality_lens.runs.run import open_run

    run, total = open_run(folder), len(parts_of(read_manifest(folder)))
    numbers = None if chosen is None else list(range(chosen[0] - 1, total, chosen[1]))
    if not missing_parts(folder, run.manifest):
        print_lines(f"{folder}: all {total} parts are played")
        return
    steps.start(2)
    with phase("loading the run's model and running its self-test"):
        model = load_for(run, device=device, device_map=device_map)
    steps.say(f"playing {total if numbers is None else len(numbers)} of {total} parts", step=True)
    with listening(steps.say):
        play_parts(model, folder, numbers=numbers)
    left = len(missing_parts(folder, read_manifest(folder)))
    if left:
        print_lines(f"{left} of {total} parts are left to others")
        return
    finish(folder)
    print_lines(
        f"{folder}: all {total} parts are played; `morality-lens run` with the options that prepared it goes "
        "on with the analysis"
    )


def verify(folder: RunFolder) -> None:
    """Check every file of a run against its checksum; exit code 1 where something is missing or damaged."""
    refuse_missing(runs=[folder])
    from morality_lens.runs.verifying import verify_run

    found = verify_run(folder)
    print_lines(*str(found).splitlines())
    if not found.whole:
        print_lines("the command that played the run plays what is missing or damaged again")
        raise typer.Exit(1)


def estimate(
    model: ModelName = None,
    items: Annotated[int, typer.Option(min=1, help="Number of items.")] = 100,
    rounds: Annotated[int, typer.Option(min=1, help="Correction rounds.")] = 5,
    n_layers: Annotated[
        int | None, typer.Option(min=1, help="Blocks of the model, in place of a model.")
    ] = None,
    d_model: Annotated[
        int | None, typer.Option(min=1, help="Width of its residual stream, in place of a model.")
    ] = None,
    layers: Layers = None,
    keep: Keep = None,
    store_as: StoreAs = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Items of a part.")] = 16,
) -> None:
    """Print the room that a run would take; no weights are read."""
    from morality_lens.design import Design
    from morality_lens.probes.kinds import KINDS
    from morality_lens.runs.storage import estimate as room

    if (n_layers is None) != (d_model is None) or (model is not None and d_model is not None):
        raise ValueError("give a model, or n_layers and d_model together.")
    blocks, width = (n_layers, d_model) if n_layers and d_model else _shape(model)
    storage = storage_of(layers, keep, store_as)
    told = room(
        Design(rounds=rounds),
        items=items,
        d_model=width,
        layers=storage.layers_of(blocks),
        storage=storage,
        directions=1 + (KINDS["mean_difference"].refits or 0),
        batch_size=batch_size,
    )
    print_lines(f"{items} items, {blocks} layers x {width}: {told}")


def _shape(model: str | None) -> tuple[int, int]:
    """Blocks and width of a model, from its configuration."""
    refuse_missing(models=[model])
    from morality_lens.models.checkpoints import read_shape

    return read_shape(model)


def storage_of(layers: str | None, keep: str | None, store_as: str | None) -> "Storage":
    """What is kept of a run's residuals, from the command line."""
    from morality_lens.runs.storage import Storage

    given: dict[str, Any] = {"keep": keep or "residuals", "dtype": store_as}
    return Storage(layers=None if layers is None else read_layers(layers), **given)


MOST_LAYERS = 9_999
"""The highest layer that a command takes; no model has as many."""


def read_layers(text: str) -> tuple[int, ...]:
    """Layers as ``-1,4,8-12`` names them.

    Raises:
        ValueError: a piece that is neither a layer nor a span of layers, or a layer that is named twice.
    """
    found: list[int] = []
    for piece in text.split(","):
        first, dash, last = piece.strip().rpartition("-")
        try:
            span = (int(first), int(last)) if dash and first else (int(piece),) * 2
        except ValueError:
            span = (1, 0)
        if span[0] > span[1] or span[1] > MOST_LAYERS:
            raise ValueError(f"--layers takes numbers and spans, such as -1,4,8-12; got {piece.strip()!r}.")
        found += range(span[0], span[1] + 1)
    if len(set(found)) < len(found):
        raise ValueError(f"--layers names a layer twice; got {text!r}.")
    return tuple(found)


def read_share(text: str) -> tuple[int, int]:
    """K and N of ``K/N``.

    Raises:
        ValueError: other text, or K outside 1 to N.
    """
    k, slash, n = text.partition("/")
    if not (slash and k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n)):
        raise ValueError(f"--part takes K/N with K from 1 to N, such as 3/8; got {text!r}.")
    return int(k), int(n)


def pool_of(workers: int | None, gpus_per_worker: float | None, address: str | None) -> "Pool | None":
    """The workers of a command; None where the command itself does the work.

    Raises:
        ValueError: GPUs or a cluster without a number of workers.
    """
    if workers is None:
        if gpus_per_worker is not None or address is not None:
            raise ValueError("--gpus-per-worker and --ray-address go with --workers; give their number.")
        return None
    from morality_lens.runs.workers import Pool

    return Pool(workers=workers, gpus_per_worker=gpus_per_worker or 0.0, address=address)


def computed_by(pool: "Pool | None", run: "Run", *computations: Callable[[Any], object]) -> None:
    """Let workers compute the parts of what is computed next, where there are workers.

    Args:
        pool: the workers; None leaves everything to this process.
        run: whose model they load.
        computations: each gets a model, and keeps its parts in a folder; what another process can be sent,
            so no functions within functions.
    """
    if pool is None:
        return
    from morality_lens.rounds.spreading import spread

    with phase(f"computing on {pool.workers} workers"):
        spread(run, partial(_all, computations), pool=pool)


def _all(computations: tuple[Callable[[Any], object], ...], model: Any) -> None:
    for compute in computations:
        compute(model)
