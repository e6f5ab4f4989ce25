"""The command line: runs, studies, their analysis and what is known of a folder or a model."""

import sys
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from morality_lens.cli import (
    circuits as circuit_commands,
    running as running_commands,
    scoring as scoring_commands,
    study as study_commands,
    view as view_commands,
)
from morality_lens.cli.console import (
    LEAST_PARSED,
    load,
    load_and_show,
    phase,
    print_lines,
    print_path,
    print_report,
    print_table,
    reload,
    steps,
)
from morality_lens.cli.model_options import (
    MOST_SEED,
    AnswerPrefix,
    AnswerTokens,
    DeviceMap,
    FeedbackTokens,
    GenerateFrom,
    GenerateModel,
    ModelOptions,
    Quantization,
    RationaleTokens,
    Revision,
    SystemPrompt,
    TemplateKeywords,
    ThinkingTokens,
    read_template_keywords,
)
from morality_lens.cli.places import (
    asked,
    open_whole,
    refuse_in_the_way,
    refuse_missing,
    refuse_unfittable,
)
from morality_lens.cli.running import (
    GpusPerWorker,
    Keep,
    Layers,
    RayAddress,
    StoreAs,
    Workers,
    computed_by,
    pool_of,
    read_layers,
)
from morality_lens.cli.statements import (
    Statements,
    Toxicity,
    bundled,
    of_run,
    statements_file,
    statements_of,
    toxicity_of,
)
from morality_lens.cli.stopping import Commands, end_by, refuse_undecodable, say_stopped, stopped_by_signals
from morality_lens.design import FeedbackSource
from morality_lens.probes.kinds import KINDS, Kind
from morality_lens.progress import listening, stage

if TYPE_CHECKING:
    from morality_lens.cli.run_config import RunConfig
    from morality_lens.items.kinds import Item, Statement
    from morality_lens.probes.probe import Probe
    from morality_lens.runs.run import Run
    from morality_lens.runs.workers import Pool

# Everything heavy is imported inside the commands: `--help` and mistyped options answer at once.

app = typer.Typer(
    help="Mechanistic interpretability of moral self-correction in language models.",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command(name="attribute")(circuit_commands.attribute)
app.command(name="patch")(circuit_commands.patch)
app.command(name="study")(study_commands.study)
app.command(name="score")(scoring_commands.score)
app.command(name="work")(running_commands.work)
app.command(name="verify")(running_commands.verify)
app.command(name="estimate")(running_commands.estimate)
app.command(name="view")(view_commands.view)
BUNDLED_LIMIT = 80
RANDOM_MODELS = 3
"""Random-initialised controls of a trust card."""
RunFolder = Annotated[Path, typer.Argument(help="The folder of a run.")]


@app.command()
def run(
    config: Annotated[
        Path | None, typer.Option(help="TOML file of a study; options replace its entries.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Hub name or folder (default: the bundled model).")
    ] = None,
    data: Annotated[str | None, typer.Option(help="File or folder of items (default: bundled).")] = None,
    statements: Statements = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Correction rounds (default: 5).")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Number of items to draw.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, max=MOST_SEED, help="Random seed.")] = None,
    drop_long: Annotated[
        bool | None, typer.Option("--drop-long", help="Skip items that may exceed the context window.")
    ] = None,
    feedback: Annotated[FeedbackSource | None, typer.Option(help="Source of feedback.")] = None,
    feedback_from: Annotated[
        str | None, typer.Option(help="Other model, server address, or file of feedback.")
    ] = None,
    feedback_model: Annotated[str | None, typer.Option(help="Model on the server.")] = None,
    generate_from: GenerateFrom = None,
    generate_model: GenerateModel = None,
    permute_options: Annotated[
        bool | None,
        typer.Option("--permute-options", help="Permute the options of each question, balanced by position."),
    ] = None,
    score_options: Annotated[
        bool | None,
        typer.Option("--score-options", help="Score the options by their full text too."),
    ] = None,
    probe: Annotated[Kind | None, typer.Option(help="Kind of direction.")] = None,
    judge: Annotated[
        str | None, typer.Option(help="Toxicity classifier for open prompts: name or folder.")
    ] = None,
    toxicity: Toxicity = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Items played together.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16, ...")] = None,
    revision: Revision = None,
    device_map: DeviceMap = None,
    template: TemplateKeywords = None,
    quantization: Quantization = None,
    system_prompt: SystemPrompt = None,
    answer_tokens: AnswerTokens = None,
    rationale_tokens: RationaleTokens = None,
    feedback_tokens: FeedbackTokens = None,
    thinking_tokens: ThinkingTokens = None,
    answer_prefix: AnswerPrefix = None,
    layers: Layers = None,
    keep: Keep = None,
    store_as: StoreAs = None,
    workers: Workers = None,
    gpus_per_worker: GpusPerWorker = None,
    ray_address: RayAddress = None,
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Prepare the folder for `work`, and play nothing.")
    ] = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Play on where fewer than half of the first answers parse.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the run (default: runs/first).")] = None,
) -> None:
    """Play all conditions, fit the probe, estimate the effects and write the report. Resumes."""
    study = _config(
        config,
        protocol={
            "rounds": rounds,
            "feedback": feedback,
            "feedback_from": feedback_from,
            "feedback_model": feedback_model,
            "generate": "endpoint" if generate_from or generate_model else None,
            "generate_from": generate_from,
            "generate_model": generate_model,
            "system_prompt": system_prompt,
            "answer_tokens": answer_tokens,
            "rationale_tokens": rationale_tokens,
            "feedback_tokens": feedback_tokens,
            "thinking_tokens": thinking_tokens,
            "answer_prefix": answer_prefix,
        },
        entries={
            "model": model,
            "data": data,
            "statements": statements,
            "limit": limit,
            "seed": seed,
            "drop_long": drop_long,
            "permute_options": permute_options,
            "score_options": score_options,
            "judge": judge,
            "toxicity": toxicity,
            "probe": probe,
            "batch_size": batch_size,
            "device": device,
            "dtype": dtype,
            "revision": revision,
            "device_map": device_map,
            "template_keywords": read_template_keywords(template) or None,
            "quantization": quantization,
            "layers": None if layers is None else list(read_layers(layers)),
            "keep": keep,
            "store_as": store_as,
            "out": None if out is None else str(out),
        },
    )
    models, files = asked(study.protocol.feedback, study.protocol.feedback_from)
    refuse_missing(
        models=[study.model, *models],
        files=[
            *(study.data, statements_file(study.statements), statements_file(study.toxicity)),
            *(study.protocol.wording, *files),
        ],
        judges=[study.judge],
    )
    refuse_in_the_way(study.out, "run")
    world = bundled(study.model)
    items, labelled = _items(study), statements_of(study.statements, world=world, kind=study.probe)
    refuse_unfittable(labelled, study.probe, study.statements)
    _refuse_early(study, items)
    judged = "score" in {measure.name for measure in items[0].measures}
    toxic = toxicity_of(study.toxicity, world=world, needed=judged and study.judge is None)
    from morality_lens.runs.run import open_run

    pool = pool_of(workers, gpus_per_worker, ray_address)
    early = study.keep != "residuals"
    scored = study.score_options * (1 if pool is None else 2)
    steps.start(2 + early if prepare else 5 + scored + judged)
    loaded = load_and_show(study.model_options)
    kept = _first_probe(loaded, study, labelled) if early else None
    how = _HowPlayed(probe=kept, pool=pool, least_parsed=0.0 if anyway else LEAST_PARSED)
    if prepare:
        _prepare(loaded, items, study, how)
        return
    played = _play(loaded, items, study, how)
    if study.score_options:
        computed_by(pool, played, partial(scoring_commands.compute_scores, played))
        scoring_commands.score_run(loaded, played)
    fitted = _keep(loaded, played, kept or _fit(loaded, played, labelled, study.probe, study.seed))
    played = open_run(played.path)  # with what its manifest says of the statements
    if "score" in played.measures:
        _score(played, study, toxic)
    _analyze_and_report(played, fitted, study.seed)


def _refuse_early(study: "RunConfig", items: "tuple[Item, ...]") -> None:
    """Raise what is wrong with the wording or the items before a model is loaded."""
    from morality_lens.dialogues.wording import load_wording
    from morality_lens.items.kinds import refuse_unplayable

    if study.score_options:
        scoring_commands.refuse_unscorable(items)
    words = load_wording(study.protocol.wording)
    refuse_unplayable(items, oracle=study.protocol.feedback == "oracle")
    words.task(items[0]).refuse_index(study.protocol.wording_index)


@dataclass(frozen=True, kw_only=True, eq=False)
class _HowPlayed:
    """What of a command is no part of the run: its workers, and how many answers must parse.

    Attributes:
        probe: whose projections are kept; None where residuals are.
        pool: the workers; None plays here.
        least_parsed: the share of the first answers that must parse.
    """

    probe: "Probe | None"
    pool: "Pool | None"
    least_parsed: float

    def options(self, study: "RunConfig") -> dict[str, Any]:
        """Arguments that ``play`` and ``prepare`` share."""
        from morality_lens.rounds.preflight import Fitting
        from morality_lens.runs.storage import Storage

        fitting = Fitting(
            batch_size=study.batch_size, drop_long=study.drop_long, least_parsed=self.least_parsed
        )
        storage = Storage(layers=study.layers, keep=study.keep, dtype=study.store_as)
        return {
            "out": study.out,
            "protocol": study.protocol,
            "fitting": fitting,
            "storage": storage,
            "probe": self.probe,
        }


def _prepare(loaded: Any, items: "tuple[Item, ...]", study: "RunConfig", how: _HowPlayed) -> None:
    from morality_lens.rounds.playing import prepare
    from morality_lens.runs.manifest import parts_of

    with phase("preparing the run"):
        prepared = prepare(loaded, items, **how.options(study))
    parts = len(parts_of(prepared.manifest))
    print_lines(f"{prepared.path}: {parts} parts to play with `morality-lens work {prepared.path}`")


def _first_probe(loaded: Any, study: "RunConfig", labelled: "tuple[Statement, ...]") -> "Probe":
    """The probe whose projections a run keeps: fitted before it is played, on all statements."""
    from morality_lens.probes.from_statements import fit_probe
    from morality_lens.probes.probe import load_probe
    from morality_lens.runs.manifest import DIRECTIONS

    file = Path(study.out) / DIRECTIONS
    if file.is_file():
        return load_probe(file)
    with phase("reading statements and fitting the probe, whose projections are kept"):
        return fit_probe(
            loaded,
            labelled,
            kind=study.probe,
            card=KINDS[study.probe].card,
            random_models=_random_models(loaded),
            seed=study.seed,
        )


def _play(loaded: Any, items: "tuple[Item, ...]", study: "RunConfig", how: _HowPlayed) -> "Run":
    from morality_lens.items.files import write_text
    from morality_lens.rounds.playing import play
    from morality_lens.runs.rates import failures

    steps.say(f"playing {len(items)} items", step=True)
    with listening(steps.say):
        played = play(loaded, items, workers=how.pool or 1, **how.options(study))
    _print_failures(failures(played.answers, played.design))
    write_text(played.path / "study.toml", study.to_toml())
    return played


def _analyze_and_report(played: "Run", fitted: "Probe", seed: int) -> None:
    from morality_lens.report.analysis import analyze
    from morality_lens.report.writing import write_report

    with phase("estimating effects and writing the report"):
        analysis = analyze(played, probe=fitted, seed=seed)
        stage("writing the report")
        written = write_report(played, path=played.path / "report.html", probe=fitted, analysis=analysis)
    _print_left_out(played)
    _print_findings(analysis)
    print_report(written)


@app.command()
def probe(
    folder: RunFolder,
    kind: Annotated[Kind, typer.Option(help="Kind of direction.")] = "mean_difference",
    statements: Statements = None,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Random seed of the folds.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...")] = None,
) -> None:
    """Fit a direction on the run's model and keep it, with coloured transcripts, in the run's folder."""
    refuse_missing(runs=[folder], files=[statements_file(statements)])
    played = open_whole(folder)
    labelled = statements_of(statements, world=of_run(played), kind=kind)
    refuse_unfittable(labelled, kind, statements)
    steps.start(3)

    with phase("loading the model"):
        loaded = reload(played, device)
    fitted = _keep(loaded, played, _fit(loaded, played, labelled, kind, seed))
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


@app.command(name="analyze")
def analyze_run(
    folder: RunFolder,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Random seed of the resampling.")] = 0,
) -> None:
    """Print the effects of a run in sentences, and write them to effects.csv in its folder."""
    refuse_missing(runs=[folder])
    from morality_lens.items.files import write_text
    from morality_lens.report.analysis import analyze

    played = open_whole(folder)
    analysis = analyze(played, probe=_kept_probe(played), seed=seed)
    _print_findings(analysis)
    for name, effects in (
        ("effects.csv", analysis.effects),
        ("behaviour_effects.csv", analysis.behaviour_effects),
    ):
        if effects is not None:
            write_text(played.path / name, effects.drop_vars("cell_mean").to_dataframe().to_csv())
            print_path("wrote ", played.path / name)


@app.command()
def report(
    folder: RunFolder, out: Annotated[Path | None, typer.Option(help="The HTML file to write.")] = None
) -> None:
    """Write the report of a run; needs no model."""
    refuse_missing(runs=[folder])
    if out is not None and out.is_dir():
        raise ValueError(f"--out is the HTML file to write; {out} is a folder.")
    from morality_lens.report.writing import write_report

    played = open_whole(folder)
    written = write_report(played, path=out or played.path / "report.html", probe=_kept_probe(played))
    print_report(written)


@app.command()
def check(
    model: Annotated[str | None, typer.Option(help="Hub name or folder (default: bundled).")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, ...")] = "auto",
    revision: Revision = None,
    device_map: DeviceMap = None,
    template: TemplateKeywords = None,
    quantization: Quantization = None,
    system_prompt: SystemPrompt = None,
) -> None:
    """Load a model and print its self-test."""
    refuse_missing(models=[model])
    options = ModelOptions(
        model=model,
        device=device,
        dtype=dtype,
        revision=revision,
        device_map=device_map,
        template_keywords=read_template_keywords(template),
        quantization=quantization,
    )
    from morality_lens.dialogues.rendering import check_system
    from morality_lens.models.loading import record_of

    steps.start(1)
    with phase("loading the model and running its self-test"):
        record = record_of(load(options))
    if system_prompt is not None:
        check_system(record.renderer)
    rows = [(one.name, f"{one.difference:.2g}", f"{one.tolerance:.0e}") for one in record.checks]
    title = f"{record.name} ({record.architecture})"
    print_table(("check", "largest difference", "allowed"), rows, title=title)
    reuse = "cached from round to round" if record.prefix_reuse else "recomputed in every round"
    print_lines(f"chat template: {'plain' if record.renderer.plain else 'own'}; earlier turns are {reuse}")
    print_lines(f"context window: {record.window.tokens} tokens")


# --------------------------------------------------------------------------------------------- parts
def _config(config: Path | None, *, protocol: dict[str, Any], entries: dict[str, Any]) -> "RunConfig":
    """The entries of a config file, replaced by the options of the command line."""
    from pydantic import ValidationError

    from morality_lens.cli.run_config import RunConfig, load_study
    from morality_lens.items.files import problems

    base = load_study(config).model_dump(mode="json") if config else RunConfig().model_dump(mode="json")
    base |= {key: value for key, value in entries.items() if value is not None}
    settings = {key: value for key, value in protocol.items() if value is not None}
    if "rounds" in settings:
        base["protocol"]["design"]["rounds"] = settings.pop("rounds")
    base["protocol"] |= settings
    try:
        return RunConfig.model_validate(base)
    except ValidationError as error:
        raise ValueError(f"these options make no study: {problems(error)}.") from error


def _items(study: "RunConfig") -> "tuple[Item, ...]":
    from morality_lens.items.loaders import load_data, load_items
    from morality_lens.items.permuting import permute_options

    items: tuple[Item, ...]
    if study.data is None:
        items = load_items(limit=study.limit or BUNDLED_LIMIT, seed=study.seed)
    else:
        items = load_data(study.data, limit=study.limit, seed=study.seed)
    return permute_options(items, seed=study.seed) if study.permute_options else items


def _random_models(loaded: Any) -> int:
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


def _fit(loaded: Any, played: "Run", labelled: "tuple[Statement, ...]", kind: Kind, seed: int) -> "Probe":
    """Fit the probe on as many statements as the run's own length affords."""
    from morality_lens.probes.from_statements import affordable_statements, fit_probe
    from morality_lens.runs.manifest import amend
    from morality_lens.runs.writing import timings

    card = KINDS[kind].card
    if not card:
        print_lines(f"a {kind} direction has no trust card")
    random_models = _random_models(loaded) if card else 0
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


def _keep(loaded: Any, played: "Run", fitted: "Probe") -> "Probe":
    """Keep the probe and some coloured transcripts in the run's folder."""
    from morality_lens.report.writing import keep_transcripts
    from morality_lens.rounds.rereading import read_transcripts, sample_dialogues

    fitted.save(played.path / "probe.safetensors")
    if fitted.card is not None:
        print_lines(fitted.card.sentence)
    with phase("reading some transcripts"):
        keep_transcripts(played, read_transcripts(loaded, played, fitted, rows=sample_dialogues(played)))
    return fitted


def _score(played: "Run", study: "RunConfig", toxic: "tuple[Statement, ...]") -> None:
    """Score the completions with a toxicity judge."""
    from morality_lens.judges.classifier import load_toxicity_classifier
    from morality_lens.judges.outcomes import score_answers
    from morality_lens.judges.toxicity import fit_toxicity_judge

    with phase("judging the completions"):
        if study.judge is None:
            judge = fit_toxicity_judge(toxic, seed=study.seed)
        else:
            judge = load_toxicity_classifier(study.judge)
        score_answers(played, judge)
    print_lines(f"completions judged by {judge!r}"[:200])


def _kept_probe(played: "Run") -> "Probe | None":
    from morality_lens.probes.probe import load_probe

    file = played.path / "probe.safetensors"
    return load_probe(file) if file.is_file() else None


def _print_left_out(played: "Run") -> None:
    left = played.manifest["left_out"]
    if left:
        names = ", ".join(row["id"] for row in left[:3]) + (", ..." if len(left) > 3 else "")
        print_lines(f"left out, longer than the context window: {len(left)} items ({names})")


def _print_failures(found: Any) -> None:
    """Print how many replies were cut, not read or missing under each condition; nothing where none was."""
    if len(found.columns) > 1:
        rows = found.astype(str).to_numpy().tolist()
        print_table(map(str, found.columns), rows, title="replies that failed, all rounds")


def _print_findings(analysis: Any) -> None:
    from morality_lens.interactions.describing import describe
    from morality_lens.judges.positions import describe_positions

    for title, effects in (
        ("Behaviour", analysis.behaviour_effects),
        ("Full text of the right option", analysis.text_effects),
        ("Projection", analysis.effects),
    ):
        if effects is None:
            continue
        print_lines(f"\n{title}", style="bold")
        site = "answer_start" if "site" in effects.dims and "answer_start" in effects["site"].values else None
        footing = ""
        for name in effects["effect"].values:
            *lines, footing = describe(effects, str(name), site=site).splitlines()
            print_lines(f"- {' '.join(lines)}")
        print_lines(footing, style="dim")
    if analysis.positions is not None:
        print_lines(f"\n{describe_positions(analysis.positions)}")
    print_lines(*analysis.option_lines, style="yellow")
    for line in analysis.refused:
        print_lines(f"not answered: {line}", style="yellow")


def main() -> None:
    """Run the command line; an error is one line and exit code 2, an interruption 130 (SIGTERM: 143)."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        with stopped_by_signals():
            refuse_undecodable(sys.argv[1:])
            app()
    except KeyboardInterrupt as stopped:
        sys.exit(say_stopped(stopped))
    except Exception as error:
        sys.exit(end_by(error))
