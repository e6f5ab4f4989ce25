"""The commands for circuits inside the model: attribute and patch."""

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from morality_lens.cli.console import phase, print_lines, print_report, reload, steps
from morality_lens.cli.model_options import MOST_SEED, Device
from morality_lens.cli.places import open_whole, refuse_missing
from morality_lens.cli.running import GpusPerWorker, RayAddress, Workers, computed_by, pool_of
from morality_lens.design import Condition

if TYPE_CHECKING:
    import xarray as xr

    from morality_lens.circuits.settings import Moment
    from morality_lens.probes.probe import Probe
    from morality_lens.runs.run import Run

RunFolder = Annotated[Path, typer.Argument(help="The folder of a run that has a probe.")]
Layer = Annotated[
    int | None, typer.Option(help="Layer of the direction.", show_default="highest held-out AUROC")
]
Round = Annotated[int | None, typer.Option(min=1, help="Round of the answer.", show_default="the last")]
Limit = Annotated[
    int | None, typer.Option(min=2, help="Number of items, from the first on.", show_default="all")
]
Seed = Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Random seed.")]


def attribute(
    folder: RunFolder,
    effect: Annotated[str, typer.Option(help="Effect that the figures show.")] = "instruction:feedback",
    site: Annotated[str, typer.Option(help="Token position at which the residual is read.")] = "answer_start",
    layer: Layer = None,
    round: Round = None,
    limit: Limit = None,
    device: Device = None,
    seed: Seed = 0,
    workers: Workers = None,
    gpus_per_worker: GpusPerWorker = None,
    ray_address: RayAddress = None,
) -> None:
    """Which heads and MLPs, reading which words, carry each effect; the result joins the run's report."""
    pool = pool_of(workers, gpus_per_worker, ray_address)
    played, fitted = _open(folder)
    number = played.design.rounds if round is None else round
    items = played.items.index.tolist()[:limit]
    from morality_lens.items.files import own_folder
    from morality_lens.probes.layers import best_layer
    from morality_lens.runs.results import FOLDER

    chosen = best_layer(fitted, layer)
    asked = _Attribution(
        played=played,
        fitted=fitted,
        site=site,
        layer=chosen,
        items=items,
        round=number,
        kept=own_folder(played.path / FOLDER),
    )
    steps.start(2 + (pool is not None))
    computed_by(
        pool, played, *([asked.projection, asked.answer] if played.names_good else [asked.projection])
    )
    loaded = _load(played, device)
    parts = asked.projection(loaded)
    print_lines(f"\nprojection at {site}, layer {chosen}", style="bold")
    _keep_attribution(played, "effects", parts, effect, seed)
    if played.names_good:
        parts = asked.answer(loaded)
        print_lines("\nlog-odds of the answer", style="bold")
        _keep_attribution(played, "answer", parts, effect, seed)
    _report(played, fitted)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Attribution:
    """What is attributed; finished items are kept in folders under ``kept``."""

    played: "Run"
    fitted: "Probe"
    site: str
    layer: int
    items: list[str]
    round: int
    kept: Path

    def projection(self, loaded: Any) -> "xr.Dataset":
        """The parts of the projection."""
        from morality_lens.circuits.attribution import attribute as split
        from morality_lens.rounds.selection import Execution, Selection

        name = f"parts-{self.site}-L{self.layer}-round{self.round}-{len(self.items)}"
        return split(
            loaded,
            self.played,
            self.fitted,
            site=self.site,
            layer=self.layer,
            selection=Selection(items=self.items, rounds=[self.round]),
            execution=Execution(out=self.kept / name),
        )

    def answer(self, loaded: Any) -> "xr.Dataset":
        """The parts of the answer's log-odds."""
        from morality_lens.circuits.attribution import attribute_answer
        from morality_lens.rounds.selection import Execution, Selection

        return attribute_answer(
            loaded,
            self.played,
            selection=Selection(items=self.items, rounds=[self.round]),
            execution=Execution(out=self.kept / f"parts-answer-round{self.round}-{len(self.items)}"),
        )


def _keep_attribution(played: "Run", which: str, parts: "xr.Dataset", effect: str, seed: int) -> None:
    """Keep the effects at every level of detail, and print those of the finest in sentences."""
    from morality_lens.interactions.by_component import (
        LEVELS_OF_DETAIL,
        Detail,
        attribute_effects,
        describe_components,
    )
    from morality_lens.interactions.names import effect_called
    from morality_lens.runs.results import keep_result

    print_lines(f"completeness {parts.attrs['completeness']:.1e}")
    levels: list[Detail] = [by for by in LEVELS_OF_DETAIL if by != "segment"]
    if which == "answer":
        levels = [by for by in levels if not by.startswith("layer")]
    for by in levels:
        found = attribute_effects(parts, by=by, seed=seed)
        known = found["effect"].values.tolist()
        shown = effect_called(effect, known, "--effect")
        keep_result(played, f"{which}-{by.replace(' ', '-')}", found.assign_attrs(shown=shown))
        if by == levels[-1]:
            print_lines(*(f"- {describe_components(found, str(name))}" for name in known))


def patch(
    folder: RunFolder,
    source: Annotated[
        str, typer.Option(help="Condition that the activations are taken from.")
    ] = "instruction+feedback",
    target: Annotated[str, typer.Option(help="Condition that is patched, steered and ablated.")] = "none",
    at: Annotated[
        list[str] | None,
        typer.Option(help="Further places of the residual, beside answer_start; may be repeated."),
    ] = None,
    factors: Annotated[
        str, typer.Option(help="Interaction whose mediation is estimated.")
    ] = "instruction:feedback",
    layer: Layer = None,
    round: Round = None,
    limit: Limit = None,
    random: Annotated[int, typer.Option(min=0, help="Random directions used as controls.")] = 20,
    where: Annotated[
        Literal["turn", "answer_start", "all"], typer.Option(help="Tokens that are steered.")
    ] = "turn",
    device: Device = None,
    seed: Seed = 0,
    workers: Workers = None,
    gpus_per_worker: GpusPerWorker = None,
    ray_address: RayAddress = None,
) -> None:
    """Patch, steer, ablate and mediate; the results join the run's report and its trust card."""
    pool = pool_of(workers, gpus_per_worker, ray_address)
    played, fitted = _open(folder)
    experiment = _Experiment(
        source=played.design.condition(source),
        target=played.design.condition(target),
        items=played.items.index.tolist()[:limit],
        round=round,
        random=random,
        seed=seed,
    )
    pair = played.design.two_way(factors.split(":"))[:2]
    if not played.names_good:
        raise ValueError(
            "patch needs questions with options and a correct one, whose log-odds are exact; "
            "this run has none."
        )
    from morality_lens.probes.layers import best_layer

    chosen = best_layer(fitted, layer)
    patches = {
        what: partial(_patched, played, fitted, experiment, at or [], what)
        for what in ("residual", "attention", "mlp", "head")
    }
    steps.start(2 + (pool is not None))
    computed_by(pool, played, *patches.values())
    loaded = _load(played, device)
    _keep_patches(played, experiment, {what: compute(loaded) for what, compute in patches.items()})
    fitted = _steer_and_ablate(loaded, played, fitted, experiment, layer=chosen, at=where)
    _mediate(loaded, played, fitted, experiment, pair)
    _report(played, fitted)


@dataclass(frozen=True, kw_only=True)
class _Experiment:
    """Which dialogues are intervened on, and the random directions used as controls."""

    source: Condition
    target: Condition
    items: list[str]
    round: int | None
    random: int
    seed: int

    def moment(self, condition: Condition) -> "Moment":
        """The dialogues of one condition."""
        from morality_lens.circuits.settings import Moment

        return Moment(condition=condition, round=self.round, items=self.items)


def _patched(
    played: "Run",
    fitted: "Probe",
    experiment: _Experiment,
    at: list[str],
    what: Literal["residual", "attention", "mlp", "head"],
    loaded: Any,
) -> "xr.Dataset":
    """What patching one kind of activation gives; finished items are kept with the run."""
    from morality_lens.circuits.patching import patch as patch_run
    from morality_lens.circuits.settings import Activations, Reading
    from morality_lens.items.files import own_folder
    from morality_lens.rounds.selection import Execution
    from morality_lens.runs.results import FOLDER

    further = [place for place in at if place != "answer_start"] if what == "residual" else []
    places = ["answer_start", *further]
    asked = [experiment.source.label, experiment.target.label, experiment.round, experiment.items, places]
    name = hashlib.sha256(json.dumps([*asked, fitted.fingerprint]).encode()).hexdigest()[:8]
    return patch_run(
        loaded,
        played,
        source=experiment.source,
        target=experiment.moment(experiment.target),
        activations=Activations(at=places, what=what),
        reading=Reading(probe=fitted if what == "residual" else None),
        execution=Execution(out=own_folder(played.path / FOLDER) / f"parts-patched-{what}-{name}"),
    )


def _keep_patches(played: "Run", experiment: _Experiment, patched: "dict[str, xr.Dataset]") -> None:
    """Keep what patching gave with the run; print the recovered shares of the residual."""
    from morality_lens.runs.results import keep_result

    for what, found in patched.items():
        keep_result(played, f"patched-{what}", found)
    _print_recovered(patched["residual"], experiment)


def _print_recovered(patched: "xr.Dataset", experiment: _Experiment) -> None:
    from morality_lens.circuits.summaries import recovered

    found = recovered(patched).sel(place="answer_start")
    pair = f"{experiment.source.label} into {experiment.target.label}"
    print_lines(f"\n{pair}, share of the difference recovered", style="bold")
    for layer in found["layer"].values.tolist():
        share, low, high = (float(found[name].sel(layer=layer)) for name in ("ratio", "low", "high"))
        print_lines(f"- layer {layer}: {share:.2f} [{low:.2f}, {high:.2f}]")
    for note in filter(None, (found.attrs["refused"], found.attrs["option_note"])):
        print_lines(note)


def _steer_and_ablate(
    loaded: Any, played: "Run", fitted: "Probe", experiment: _Experiment, *, layer: int, at: str
) -> "Probe":
    """Steer along the direction and ablate it; the probe with both verdicts on its trust card."""
    from morality_lens.circuits.ablation import ablate
    from morality_lens.circuits.costs import steering_cost
    from morality_lens.circuits.settings import Doses, RandomDirections
    from morality_lens.circuits.steering import steer
    from morality_lens.circuits.summaries import causal_lines, describe_cost
    from morality_lens.runs.results import keep_result

    random = RandomDirections(count=experiment.random, seed=experiment.seed)
    target, doses = experiment.moment(experiment.target), Doses(layer=layer, at=at)
    steered = steer(loaded, played, fitted, condition=target, doses=doses, random=random)
    keep_result(played, "steered", steered)
    ablated = {}
    layers = list(range(layer, len(fitted.direction["layer"]) - 1))
    for name, condition in (("on", experiment.source), ("off", experiment.target)):
        moment = experiment.moment(condition)
        ablated[name] = ablate(loaded, played, fitted, condition=moment, layers=layers, random=random)
        keep_result(played, f"ablated-{name}", ablated[name])
    few = RandomDirections(count=min(2, experiment.random), seed=experiment.seed)
    cost = steering_cost(loaded, fitted, doses=doses, random=few)
    keep_result(played, "steering-cost", cost)
    lines = causal_lines(steered, ablated, cost)
    print_lines(f"\nThe direction at layer {layer}", style="bold")
    for line in lines.to_dict("records"):
        print_lines(
            f"- {line['line']}: {line['verdict']}; {line['value']:.2f} [{line['low']:.2f}, "
            f"{line['high']:.2f}]; {line['detail']}"
        )
    print_lines(f"- {describe_cost(cost)}")
    if fitted.card is None:
        return fitted
    checked = fitted.with_card(fitted.card.with_lines(lines))
    checked.save(played.path / "probe.safetensors")
    return checked


def _mediate(
    loaded: Any, played: "Run", fitted: "Probe", experiment: _Experiment, factors: tuple[str, str]
) -> None:
    from morality_lens.circuits.mediation import mediate
    from morality_lens.circuits.summaries import describe_mediation
    from morality_lens.runs.results import keep_result

    moment = experiment.moment(Condition())
    mediated = mediate(loaded, played, fitted, factors=factors, at=moment)
    keep_result(played, "mediated", mediated)
    print_lines(f"\n{describe_mediation(mediated)}")


def _open(folder: Path) -> "tuple[Run, Probe]":
    refuse_missing(runs=[folder])
    from morality_lens.probes.probe import load_probe

    played = open_whole(folder)
    file = played.path / "probe.safetensors"
    if not file.is_file():
        raise ValueError(f"the run in {folder} has no probe yet; make one with: morality-lens probe {folder}")
    _ = played.residuals  # refused before a model is loaded, where a run kept none
    return played, load_probe(file)


def _load(played: "Run", device: str | None) -> Any:
    with phase("loading the model and running its self-test"):
        return reload(played, device)


def _report(played: "Run", fitted: "Probe") -> None:
    from morality_lens.report.writing import write_report

    with phase("writing the report"):
        written = write_report(played, path=played.path / "report.html", probe=fitted)
    print_report(written)
