"""The command that plays a whole run: ``morality-lens run``."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from morality_lens.cli import scoring as scoring_commands
from morality_lens.cli.analysing import print_analysis
from morality_lens.cli.console import (
    LEAST_PARSED,
    load_and_show,
    phase,
    print_lines,
    print_report,
    print_table,
    steps,
)
from morality_lens.cli.data_options import Dataset, Language, Subset, data_file, data_of
from morality_lens.cli.model_options import (
    AnswerPrefix,
    AnswerTokens,
    Anyway,
    Device,
    DeviceMap,
    DrawSeed,
    DropLong,
    Dtype,
    Factors,
    Feedback,
    FeedbackFrom,
    FeedbackModel,
    FeedbackTokens,
    GenerateFrom,
    GenerateModel,
    ModelName,
    Quantization,
    RationaleTokens,
    Revision,
    SystemPrompt,
    TemplateKeywords,
    ThinkingTokens,
    Wording,
    read_template_keywords,
)
from morality_lens.cli.places import asked, refuse_in_the_way, refuse_missing, refuse_unfittable
from morality_lens.cli.probing import fit_for, keep_probe, random_models_of
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
    statements_file,
    statements_of,
    toxicity_of,
)
from morality_lens.dialogues.languages import wording_file
from morality_lens.probes.kinds import KINDS, Kind
from morality_lens.progress import listening, stage

if TYPE_CHECKING:
    from morality_lens.cli.run_config import RunConfig
    from morality_lens.items.kinds import Item, Statement
    from morality_lens.probes.probe import Probe
    from morality_lens.runs.run import Run
    from morality_lens.runs.workers import Pool

BUNDLED_LIMIT = 80


def run(
    config: Annotated[
        Path | None, typer.Option(help="TOML file of a study; options replace its entries.")
    ] = None,
    model: ModelName = None,
    data: Annotated[
        str | None, typer.Option(help="File or folder of items.", show_default="the bundled questions")
    ] = None,
    dataset: Dataset = None,
    subset: Subset = None,
    language: Language = None,
    statements: Statements = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Correction rounds.", show_default="5")] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of items to draw.",
            show_default=f"all; of the bundled questions {BUNDLED_LIMIT}",
        ),
    ] = None,
    seed: DrawSeed = None,
    drop_long: DropLong = None,
    feedback: Feedback = None,
    feedback_from: FeedbackFrom = None,
    feedback_model: FeedbackModel = None,
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
    probe: Annotated[
        Kind | None, typer.Option(help="Kind of direction.", show_default="mean_difference")
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            help="Toxicity classifier for open prompts: name or folder.",
            show_default="one, fitted on --toxicity",
        ),
    ] = None,
    toxicity: Toxicity = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Items played together.", show_default="what the memory affords"),
    ] = None,
    device: Device = None,
    dtype: Dtype = None,
    revision: Revision = None,
    device_map: DeviceMap = None,
    template: TemplateKeywords = None,
    quantization: Quantization = None,
    wording: Wording = None,
    factor: Factors = None,
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
    anyway: Anyway = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.", show_default="runs/first")] = None,
) -> None:
    """Play all conditions, fit the probe, estimate the effects and write the report. Resumes."""
    from morality_lens.cli.run_config import RunConfig, load_study, replaced

    base = RunConfig() if config is None else load_study(config)
    study = replaced(
        base,
        protocol={
            "design": _design(base, rounds, factor),
            "wording": wording,
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
            "dataset": dataset,
            "subset": subset,
            "language": language,
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
            *(data_file(study), statements_file(study.statements), statements_file(study.toxicity)),
            *(wording_file(study.protocol.wording), *files),
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
    fitted = keep_probe(loaded, played, kept or fit_for(loaded, played, labelled, study.probe, study.seed))
    played = open_run(played.path)  # with what its manifest says of the statements
    if "score" in played.measures:
        _score(played, study, toxic)
    _analyze_and_report(played, fitted, study.seed)


def _design(base: "RunConfig", rounds: int | None, factors: list[str] | None) -> dict[str, Any] | None:
    """The design's entries with these rounds and factors; None where neither is given."""
    given = {
        **({} if rounds is None else {"rounds": rounds}),
        **({} if not factors else {"factors": [{"name": name} for name in factors]}),
    }
    return base.plain()["protocol"]["design"] | given if given else None


def _refuse_early(study: "RunConfig", items: "tuple[Item, ...]") -> None:
    """Raise what is wrong with the wording or the items before a model is loaded."""
    from morality_lens.dialogues.script import Script
    from morality_lens.dialogues.wording import load_wording
    from morality_lens.items.kinds import refuse_unplayable

    if study.score_options:
        scoring_commands.refuse_unscorable(items)
    words = load_wording(study.protocol.wording)
    refuse_unplayable(items, oracle=study.protocol.feedback == "oracle")
    words.task(items[0]).refuse_index(study.protocol.wording_index)
    script = Script.of(study.protocol, words)
    for condition in study.protocol.design.conditions:
        script.round(items[0], condition, 1, feedback="any")


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
            random_models=random_models_of(loaded),
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
    print_analysis(analysis, probe=fitted)
    print_report(written)


def _items(study: "RunConfig") -> "tuple[Item, ...]":
    from morality_lens.items.kinds import Statement
    from morality_lens.items.loaders import load_items
    from morality_lens.items.permuting import permute_options

    found = data_of(study, limit=study.limit) or load_items(
        limit=study.limit or BUNDLED_LIMIT, seed=study.seed
    )
    items = tuple(item for item in found if not isinstance(item, Statement))
    if len(items) < len(found):
        raise ValueError(
            f"{study.dataset or study.data} holds labelled statements, which are no items to play; a "
            "direction is fitted on them: pass a file of them as --statements, or use ml.fit_probe with "
            "ml.load_data."
        )
    return permute_options(items, seed=study.seed) if study.permute_options else items


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
