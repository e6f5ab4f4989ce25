"""The commands that look inside a model: attribute and patch."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

if TYPE_CHECKING:
    from morality_lens.probes.probe import Probe
    from morality_lens.runs.run import Run

console = Console()
RunFolder = Annotated[Path, typer.Argument(help="The folder of a run that has a probe.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, ...")]
Layer = Annotated[int | None, typer.Option(help="Layer of the direction [default: the best held-out one].")]
Round = Annotated[int | None, typer.Option(min=1, help="Round of the answer [default: the last].")]
Limit = Annotated[int | None, typer.Option(min=2, help="Items, from the first on [default: all].")]
Seed = Annotated[int, typer.Option(help="Seed of every drawing.")]


def attribute(
    folder: RunFolder,
    effect: Annotated[str, typer.Option(help="The effect that the figures show.")] = "instruction:feedback",
    site: Annotated[str, typer.Option(help="Where the residual is read.")] = "answer_start",
    layer: Layer = None,
    round: Round = None,
    limit: Limit = None,
    device: Device = None,
    seed: Seed = 0,
) -> None:
    """Which heads and MLPs, reading which words, carry each effect; joins the run's report. Resumes."""
    played, fitted = _open(folder)
    number = played.design.rounds if round is None else round
    items = played.items.index.tolist()[:limit]
    loaded = _load(played, device)
    from morality_lens.circuits.attribution import attribute as split, attribute_answer
    from morality_lens.interactions.by_component import (
        LEVELS_OF_DETAIL,
        attribute_effects,
        describe_components,
    )
    from morality_lens.probes.layers import best_layer
    from morality_lens.rounds.selection import Execution, Selection
    from morality_lens.runs.results import FOLDER, keep_result

    selection = Selection(items=items, rounds=[number])
    chosen = best_layer(fitted, layer)
    questions = played.names_good
    (played.path / FOLDER).mkdir(exist_ok=True)
    key = f"{site}-L{chosen}-round{number}-{len(items)}"
    found: dict[str, Any] = {
        "effects": split(
            loaded,
            played,
            fitted,
            site=site,
            layer=chosen,
            selection=selection,
            execution=Execution(out=played.path / FOLDER / f"parts-{key}"),
        )
    }
    if questions:
        out = played.path / FOLDER / f"parts-answer-round{number}-{len(items)}"
        found["answer"] = attribute_answer(loaded, played, selection=selection, execution=Execution(out=out))
    for which, parts in found.items():
        title = f"projection at {site}, layer {chosen}" if which == "effects" else "log-odds of the answer"
        console.print(f"\n[bold]{title}[/bold] (completeness {parts.attrs['completeness']:.1e})")
        finest = None
        for by in LEVELS_OF_DETAIL:
            name = f"{which}-{by.replace(' ', '-')}"
            if by == "segment" or (which == "answer" and by.startswith("layer")):
                continue
            finest = attribute_effects(parts, by=by, seed=seed)
            known = finest["effect"].values.tolist()
            if effect not in known:
                raise ValueError(f"no effect {effect!r} here; choose out of {', '.join(known)}.")
            keep_result(played, name, finest.assign_attrs(shown=effect))
        assert finest is not None  # the last level of detail is always there
        for name in finest["effect"].values:
            console.print(f"- {describe_components(finest, str(name))}", highlight=False, markup=False)
    _report(played, fitted)


def patch(
    folder: RunFolder,
    source: Annotated[
        str, typer.Option(help="Condition that activations come from.")
    ] = "instruction+feedback",
    target: Annotated[str, typer.Option(help="Condition that they are put into.")] = "none",
    at: Annotated[
        list[str] | None, typer.Option(help="Places of the residual; repeat [default: answer_start].")
    ] = None,
    factors: Annotated[str, typer.Option(help="The interaction that is mediated.")] = "instruction:feedback",
    layer: Layer = None,
    round: Round = None,
    limit: Limit = None,
    random: Annotated[int, typer.Option(min=0, help="Random directions beside the probe's.")] = 20,
    where: Annotated[
        Literal["turn", "answer_start", "all"], typer.Option(help="Tokens that are steered.")
    ] = "turn",
    device: Device = None,
    seed: Seed = 0,
) -> None:
    """Patch, steer, ablate and mediate; joins the run's report and its trust card."""
    played, fitted = _open(folder)
    origin, aim = played.design.condition(source), played.design.condition(target)
    pair = played.design.two_way(factors.split(":"))[:2]
    if not played.names_good:
        raise ValueError(
            "patch needs questions with options and a correct one, whose log-odds are exact; this run has "
            "none."
        )
    items = played.items.index.tolist()[:limit]
    loaded = _load(played, device)
    from morality_lens.circuits.ablation import ablate
    from morality_lens.circuits.mediation import mediate
    from morality_lens.circuits.patching import patch as put_in
    from morality_lens.circuits.settings import Activations, Doses, Moment, RandomDirections, Reading
    from morality_lens.circuits.steering import steer
    from morality_lens.circuits.summaries import causal_lines, describe_mediation, recovered
    from morality_lens.probes.layers import best_layer
    from morality_lens.runs.results import keep_result

    chosen = best_layer(fitted, layer)
    source_moment = Moment(condition=origin, round=round, items=items)
    target_moment = Moment(condition=aim, round=round, items=items)
    for what in ("residual", "attention", "mlp", "head"):
        wanted = at or [] if what == "residual" else []
        places = ["answer_start", *(place for place in wanted if place != "answer_start")]
        patched = put_in(
            loaded,
            played,
            source=origin,
            target=target_moment,
            activations=Activations(at=places, what=what),
            reading=Reading(probe=fitted if what == "residual" else None),
        )
        keep_result(played, f"patched-{what}", patched)
        if what == "residual":
            found = recovered(patched).sel(place="answer_start")
            console.print(f"\n[bold]{source} into {target}, share of the difference recovered[/bold]")
            for one in found["layer"].values.tolist():
                part = found.sel(layer=one)
                console.print(
                    f"- layer {one}: {float(part['ratio']):.2f} "
                    f"[{float(part['low']):.2f}, {float(part['high']):.2f}]",
                    highlight=False,
                    markup=False,
                )
            if found.attrs["refused"]:
                console.print(found.attrs["refused"], highlight=False, markup=False)
    directions, doses = RandomDirections(count=random, seed=seed), Doses(layer=chosen, at=where)
    steered = steer(loaded, played, fitted, condition=target_moment, doses=doses, random=directions)
    keep_result(played, "steered", steered)
    ablated = {}
    layers = list(range(chosen, len(fitted.direction["layer"]) - 1))
    for name, moment in (("on", source_moment), ("off", target_moment)):
        ablated[name] = ablate(loaded, played, fitted, condition=moment, layers=layers, random=directions)
        keep_result(played, f"ablated-{name}", ablated[name])
    lines = causal_lines(steered, ablated)
    if fitted.card is not None:
        fitted = fitted.with_card(fitted.card.with_lines(lines))
        fitted.save(played.path / "probe.safetensors")
    console.print(f"\n[bold]The direction at layer {chosen}[/bold]")
    for line in lines.to_dict("records"):
        console.print(
            f"- {line['line']}: {line['verdict']}; {line['value']:.2f} [{line['low']:.2f}, "
            f"{line['high']:.2f}]; {line['detail']}",
            highlight=False,
            markup=False,
        )
    mediated = mediate(loaded, played, fitted, factors=pair, at=Moment(round=round, items=items))
    keep_result(played, "mediated", mediated)
    console.print(f"\n{describe_mediation(mediated)}", highlight=False, markup=False)
    _report(played, fitted)


def _open(folder: Path) -> "tuple[Run, Probe]":
    from morality_lens.probes.probe import load_probe
    from morality_lens.runs.run import open_run

    played = open_run(folder)
    file = played.path / "probe.safetensors"
    if not file.is_file():
        raise ValueError(f"the run in {folder} has no probe yet; make one with: morality-lens probe {folder}")
    return played, load_probe(file)


def _load(played: "Run", device: str | None) -> Any:
    from morality_lens.models.loading import load_model

    study = played.manifest["study"]["model"]
    with console.status("loading the model and letting it prove itself"):
        return load_model(study["name"], device=device, dtype=study["dtype"])


def _report(played: "Run", fitted: "Probe") -> None:
    from morality_lens.report.analysis import write_report

    with console.status("writing the report"):
        report = write_report(played, path=played.path / "report.html", probe=fitted)
    console.print(f"\nreport: {report.resolve()}", soft_wrap=True, highlight=False)
