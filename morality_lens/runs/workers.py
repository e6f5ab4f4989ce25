"""Several processes that share the parts of one folder, on one machine or on a Ray cluster.

The folder is what they share: every worker claims a part, computes it and stores it. So whoever starts the
workers touches no array, and a worker that dies loses the part it was at, which another one takes over.
"""

import logging
import os
import pickle
import signal
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
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
            on this machine alone. On a cluster, every machine needs this package and the same folders, at the
            same paths.
        cpus_per_worker: CPU cores of each.

    Raises:
        ValueError: fewer than one worker, or a negative number.

    Examples:
        >>> ml.runs.Pool(workers=4, gpus_per_worker=0.5).placement
        {'device': 'cuda', 'threads': 1}
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

    A worker that dies is replaced; one that raises an error ends the others.

    Args:
        load: makes what ``work`` gets, in the worker.
        work: does what is unclaimed and returns when nothing is left.
        pool: how many workers, and where.
        watch: called about every second while they work.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        ConnectionError: no cluster at the address.
        ValueError: fewer cores or GPUs than the workers need.
        RuntimeError: workers cannot be started, or die again and again.
        Exception: what ``load`` or ``work`` raised in a worker, with the worker's traceback as a note.
    """
    ray = _ray()
    with _connected(ray, pool):
        _refuse_crowded(ray, pool)
        _run(ray, (load, work, str(Path.cwd())), pool, watch)


def _ray() -> Any:
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "several workers need the package ray: pip install 'morality-lens[ray]'. Without it, start the "
            "same command in several terminals: they share the work."
        ) from error
    return ray


@contextmanager
def _connected(ray: Any, pool: Pool) -> Iterator[None]:
    """Inside, there is a Ray session: the caller's, or one of this call, which ends with it."""
    if ray.is_initialized():
        yield
        return
    try:
        with _undisturbed():
            _connect(ray, pool)
        yield
    finally:
        with _undisturbed():
            ray.shutdown()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Inside, Ray says nothing but errors; afterwards, signals do what they did before."""
    logger, main = logging.getLogger("ray"), threading.current_thread() is threading.main_thread()
    level, handler = logger.level, signal.getsignal(signal.SIGTERM)
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        if main:
            signal.signal(signal.SIGTERM, handler)


def _connect(ray: Any, pool: Pool) -> None:
    quiet = {"log_to_driver": False, "configure_logging": False}
    if pool.address is None:
        ray.init(num_cpus=pool.workers * pool.cpus_per_worker, include_dashboard=False, **quiet)
        return
    try:
        _reach(pool.address)
        ray.init(address=pool.address, **quiet)
    except OSError as error:
        raise ConnectionError(
            f"no Ray cluster at {pool.address!r} ({error}); start one with `ray start --head`, or leave the "
            "address out for workers on this machine."
        ) from error


def _reach(address: str) -> None:
    """Nothing, where something listens at an address; Ray itself would try for minutes.

    Raises:
        OSError: nothing does.
    """
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _refuse_crowded(ray: Any, pool: Pool) -> None:
    """Nothing, where every worker has a place; without one, it would be waited for without end.

    Raises:
        ValueError: the machines have too few cores or GPUs.
    """
    needs = {"CPU": float(pool.cpus_per_worker), "GPU": pool.gpus_per_worker}
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    places = sum(
        min(int(has.get(name, 0.0) / each + 1e-9) for name, each in needs.items() if each) for has in machines
    )
    if places < pool.workers:
        raise ValueError(
            f"{pool.workers} workers are asked for, each with {pool.cpus_per_worker} CPU cores and "
            f"{pool.gpus_per_worker:g} GPUs; on {len(machines)} machine{'s' * (len(machines) > 1)} with "
            f"{_total(machines, 'CPU'):g} cores and {_total(machines, 'GPU'):g} GPUs together, there is room "
            f"for {places}."
        )


def _total(machines: list[dict[str, float]], name: str) -> float:
    return sum(has.get(name, 0.0) for has in machines)


# --------------------------------------------------------------------------------------------- workers
Job = tuple[Callable[[], Any], Callable[[Any], object], str]
"""What makes the model, what is done with it, and the folder in which relative paths begin."""


class _Worker:
    """What an actor does."""

    def do(self, job: Job) -> Exception | None:
        """None when a job is done, or the error that ended it."""
        load, work, folder = job
        try:
            if Path(folder).is_dir():
                os.chdir(folder)
            work(load())
        except Exception as error:
            return _sendable(error)
        return None


def _sendable(error: Exception) -> Exception:
    """An error as another process can get it, with its traceback as a note."""
    said = "".join(traceback.format_exception(error))
    sent: Exception = RuntimeError(f"{type(error).__name__}: {error}")
    with suppress(Exception):  # whatever an error's own class may raise here
        copy = pickle.loads(pickle.dumps(error))
        if type(copy) is type(error) and str(copy) == str(error):
            sent = copy
    sent.add_note(f"in a worker on {socket.gethostname()}:\n{said}")
    return sent


def _run(ray: Any, job: Job, pool: Pool, watch: Callable[[], object]) -> None:
    actor = ray.remote(_Worker).options(num_gpus=pool.gpus_per_worker, num_cpus=pool.cpus_per_worker)
    running: dict[Any, Any] = {}
    deaths = 0

    def start() -> None:
        worker = actor.remote()
        running[worker.do.remote(job)] = worker

    for _ in range(pool.workers):
        start()
    try:
        while running:
            done, _ = ray.wait(list(running), timeout=POLL)
            watch()
            for task in done:
                worker, death = running.pop(task), _death(ray, task)
                ray.kill(worker)
                if death is None:
                    continue
                deaths += 1
                if deaths > DEATHS * pool.workers:
                    raise RuntimeError(
                        f"{deaths} workers died (of lack of memory, perhaps; the last one: {death}). What is "
                        "finished is kept; start fewer workers, or take smaller batches."
                    )
                start()
    finally:
        for worker in running.values():
            ray.kill(worker)


def _death(ray: Any, task: Any) -> str | None:
    """None where a worker did its job; how it died, where it died.

    Raises:
        RuntimeError: it could not begin.
        Exception: what it raised.
    """
    try:
        error = ray.get(task)
    except ray.exceptions.RayTaskError as failed:
        raise RuntimeError(f"a worker could not begin: {_in_short(failed)}") from failed
    except ray.exceptions.RayError as died:
        if getattr(died, "actor_init_failed", False):
            raise RuntimeError(
                f"a worker could not begin ({_in_short(died)}); every machine needs this package and Python."
            ) from died
        return _in_short(died)
    if error is not None:
        raise error
    return None


def _in_short(error: Exception) -> str:
    """The last line of what Ray says, which is what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
