"""The command that fits a direction on a run's model, and what it shares with ``run``."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from morality_lens.cli.console import phase, print_lines, print_table, reload, steps
from morality_lens.cli.model_options import MOST_SEED, Device
from morality_lens.cli.places import RunFolder, open_whole, refuse_missing, refuse_unfittable
from morality_lens.cli.statements import Statements, of_run, statements_file, statements_of
from morality_lens.probes.kinds import KINDS, Kind

if TYPE_CHECKING:
    from morality_lens.items.kinds import Statement
    from morality_lens.probes.probe import Probe
    from morality_lens.runs.run import Run

RANDOM_MODELS = 3
"""Random-initialised controls of a trust card."""


def probe(
    folder: RunFolder,
    kind: Annotated[Kind, typer.Option(help="Kind of direction.")] = "mean_difference",
    statements: Statements = None,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Random seed of the folds.")] = 0,
    device: Device = None,
) -> None:
    """Fit a direction on the run's model and keep it, with coloured transcripts, in the run's folder."""
    refuse_missing(runs=[folder], files=[statements_file(statements)])
    played = open_whole(folder)
    labelled = statements_of(statements, world=of_run(played), kind=kind)
    refuse_unfittable(labelled, kind, statements)
    steps.start(3)

    with phase("loading the model"):
        loaded = reload(played, device)
    fitted = keep_probe(loaded, played, fit_for(loaded, played, labelled, kind, seed))
    layers = [fitted.quality.sel(layer=layer) for layer in fitted.quality["layer"].values]
    rows = [
        (
            str(int(q["layer"])),
            f"{float(q['auroc']):.3f}",
            f"{float(q['auroc_low']):.3f} to {float(q['auroc_high']):.3f}",
        )
        for q in layers
    ]
    print_table(("layer", "held-out AUROC", "95 % interval"), rows)


def random_models_of(loaded: Any) -> int:
    """How many random-initialised copies of a model are made for a trust card: none of a large one."""
    from morality_lens.studies.plan import LARGEST_RANDOM_MODEL

    parameters = sum(p.numel() for p in loaded.original_model.parameters())
    if parameters <= LARGEST_RANDOM_MODEL:
        return RANDOM_MODELS
    print_lines(
        f"the model has {parameters / 1e9:.1f} billion parameters, so no random-initialised copies of it "
        "are made; ml.fit_probe(..., card=True) makes them."
    )
    return 0


def fit_for(loaded: Any, played: "Run", labelled: "tuple[Statement, ...]", kind: Kind, seed: int) -> "Probe":
    """Fit the probe on as many statements as the run's own length affords."""
    from morality_lens.probes.from_statements import affordable_statements, fit_probe
    from morality_lens.runs.manifest import amend
    from morality_lens.runs.writing import timings

    card = KINDS[kind].card
    if not card:
        print_lines(f"a {kind} direction has no trust card")
    random_models = random_models_of(loaded) if card else 0
    with phase("reading statements and fitting the probe"):
        few = affordable_statements(
            loaded,
            labelled,
            random_models=random_models,
            tokens=timings(played.path)["tokens"],
            seed=seed,
        )
        fitted = fit_probe(
            loaded, few, kind=kind, card=card, random_models=random_models, given=labelled, seed=seed
        )
        fitted = fitted.drawn_from(len(labelled))
        amend(played.path, statements={"read": len(few), "given": len(labelled), "seed": seed})
    return fitted


def keep_probe(loaded: Any, played: "Run", fitted: "Probe") -> "Probe":
    """Keep the probe and some coloured transcripts in the run's folder."""
    from morality_lens.report.writing import keep_transcripts
    from morality_lens.rounds.rereading import read_transcripts, sample_dialogues

    fitted.save(played.path / "probe.safetensors")
    if fitted.card is not None:
        print_lines(fitted.card.sentence)
    with phase("reading some transcripts"):
        keep_transcripts(played, read_transcripts(loaded, played, fitted, rows=sample_dialogues(played)))
    return fitted
