"""The command that scores the options of a run by their full text."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from morality_lens.cli.console import phase, print_lines, reload
from morality_lens.cli.model_options import Device
from morality_lens.cli.places import open_whole, refuse_missing
from morality_lens.cli.running import GpusPerWorker, RayAddress, Workers, computed_by, pool_of

if TYPE_CHECKING:
    from morality_lens.items.kinds import Item
    from morality_lens.runs.run import Run


def score(
    folder: Annotated[Path, typer.Argument(help="The folder of a run of questions.")],
    device: Device = None,
    workers: Workers = None,
    gpus_per_worker: GpusPerWorker = None,
    ray_address: RayAddress = None,
) -> None:
    """Score each option by the probability of its full text; analyze and report use it from then on."""
    pool = pool_of(workers, gpus_per_worker, ray_address)
    refuse_missing(runs=[folder])
    played = open_whole(folder)
    refuse_unscorable(list(played.asked.values()))
    computed_by(pool, played, partial(compute_scores, played))
    with phase("loading the model and running its self-test"):
        loaded = reload(played, device)
    score_run(loaded, played)


def refuse_unscorable(items: "Sequence[Item]") -> None:
    """Refuse items without options, before a model is loaded.

    Raises:
        ValueError: an item that is no question.
    """
    from morality_lens.items.kinds import Question

    other = [item for item in items if not isinstance(item, Question)]
    if other:
        raise ValueError(
            f"only the options of questions can be scored by their text; item {other[0].id!r} is a "
            f"{type(other[0]).__name__}. Leave score_options out for these items."
        )


def score_run(loaded: Any, played: "Run") -> None:
    """Score the options of a run, keep the scores with it, and print what they choose; resumes."""
    from morality_lens.judges.outcomes import compare_scorings

    with phase("scoring the options by their full text"):
        compute_scores(played, loaded)
    found = compare_scorings(played)
    shown = [name for name in found.columns if name not in (*played.design.names, "round")]
    print_lines("\nOptions scored by their full text, all conditions and rounds", style="bold")
    print_lines(*(f"- {name}: {found[name].mean():.1%}" for name in shown))


def compute_scores(played: "Run", loaded: Any) -> None:
    """Score the options, keep the parts and the scores with the run."""
    from morality_lens.items.files import own_folder
    from morality_lens.rounds.scoring import score_options
    from morality_lens.rounds.selection import Execution
    from morality_lens.runs.results import FOLDER

    kept = own_folder(played.path / FOLDER)
    score_options(loaded, played, execution=Execution(out=kept / "parts-option-text"))
