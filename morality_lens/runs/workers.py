"""Several processes that share the parts of one folder, on one machine or on a Ray cluster.

The folder is what they share: every worker claims a part, computes it and stores it. So whoever starts the
workers touches no array, and a worker that dies loses the part it was at, which another one takes over.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

DEATHS = 3
"""Workers that may die, for each that was asked for."""
POLL = 1.0
"""Seconds between two looks at the folder."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """How many workers there are, and where.

    Attributes:
        workers: processes, each with a model of its own.
        gpus_per_worker: GPUs of each; 0 is a CPU, and a fraction shares a GPU. Above 1, the model is spread
            over them.
        address: of a Ray cluster (``auto`` finds the one that this machine belongs to); None starts workers
            on this machine alone. On a cluster, every machine needs this package and the same folders.
        cpus_per_worker: CPU cores of each.

    Raises:
        ValueError: fewer than one worker, or a negative number.
    """

    workers: int
    gpus_per_worker: float = 0.0
    address: str | None = None
    cpus_per_worker: int = 1

    def __post_init__(self) -> None:
        if self.workers < 1 or self.gpus_per_worker < 0 or self.cpus_per_worker < 1:
            raise ValueError(
                "a pool needs at least one worker, one CPU core for each and no negative number of GPUs; got "
                f"workers={self.workers}, cpus_per_worker={self.cpus_per_worker}, "
                f"gpus_per_worker={self.gpus_per_worker}."
            )

    @property
    def placement(self) -> dict[str, Any]:
        """How a worker loads its model: on which devices, and by how many CPU threads."""
        threads = {"threads": self.cpus_per_worker}
        if not self.gpus_per_worker:
            return {"device": "cpu", **threads}
        return {**({"device_map": "auto"} if self.gpus_per_worker > 1 else {"device": "cuda"}), **threads}


def on_workers(
    load: Callable[[], Any],
    work: Callable[[Any], object],
    *,
    pool: Pool,
    watch: Callable[[], object] = lambda: None,
) -> None:
    """Let every worker load a model and do the work, which they share by claiming parts of a folder.

    Args:
        load: makes what ``work`` gets, in the worker.
        work: does what is unclaimed and returns when nothing is left.
        pool: how many workers, and where.
        watch: called about every second while they work.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        ConnectionError: no cluster at the address.
        RuntimeError: workers die again and again.
        Exception: what ``work`` raised in a worker; the others are stopped.
    """
    ray = _ray()
    own = not ray.is_initialized()
    if own:
        _connect(ray, pool)
    try:
        _run(ray, load, work, pool, watch)
    finally:
        if own:
            ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "several workers need the package ray: pip install 'morality-lens[ray]'. Without it, start the "
            "same command in several terminals: they share the work."
        ) from error
    return ray


def _connect(ray: Any, pool: Pool) -> None:
    quiet = {"log_to_driver": False, "include_dashboard": False, "configure_logging": False}
    if pool.address is None:
        cores = pool.workers * pool.cpus_per_worker
        ray.init(num_cpus=cores, **quiet)
        return
    try:
        ray.init(address=pool.address, log_to_driver=False, configure_logging=False)
    except ConnectionError as error:
        raise ConnectionError(
            f"no Ray cluster at {pool.address!r} ({error}); start one with `ray start --head`, or leave the "
            "address out for workers on this machine."
        ) from error


class _Worker:
    """What an actor does."""

    def __init__(self, load: Callable[[], Any]) -> None:
        self.model = load()

    def work(self, work: Callable[[Any], object]) -> None:
        """The work, with the model."""
        work(self.model)


def _run(
    ray: Any,
    load: Callable[[], Any],
    work: Callable[[Any], object],
    pool: Pool,
    watch: Callable[[], object],
) -> None:
    options = {"num_gpus": pool.gpus_per_worker, "num_cpus": pool.cpus_per_worker}
    actor = ray.remote(_Worker).options(**options)
    running: dict[Any, Any] = {}
    left = DEATHS * pool.workers

    def start() -> None:
        worker = actor.remote(load)
        running[worker.work.remote(work)] = worker

    for _ in range(pool.workers):
        start()
    try:
        while running:
            done, _ = ray.wait(list(running), timeout=POLL)
            watch()
            for task in done:
                worker = running.pop(task)
                if _ended_well(ray, task):
                    ray.kill(worker)
                    continue
                left -= 1
                if left < 0:
                    raise RuntimeError(
                        f"{DEATHS * pool.workers} workers died (of lack of memory, perhaps); what is "
                        "finished is kept. Start fewer workers, or smaller batches."
                    )
                start()
    finally:
        for worker in running.values():
            ray.kill(worker)


def _ended_well(ray: Any, task: Any) -> bool:
    """Whether a worker did its work; False where it died.

    Raises:
        Exception: what it raised.
    """
    try:
        ray.get(task)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayActorError as error:
        if getattr(error, "cause", None) is not None and not isinstance(error, ray.exceptions.ActorDiedError):
            raise
        return False
    return True
