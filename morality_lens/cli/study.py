"""The command for a whole study: ``morality-lens study``."""

import sys
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from morality_lens.cli.console import (
    LEAST_PARSED,
    load_and_show,
    phase,
    print_json,
    print_lines,
    print_report,
    print_table,
    shown,
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
    Feedback,
    FeedbackFrom,
    FeedbackModel,
    FeedbackTokens,
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
from morality_lens.cli.statements import (
    Statements,
    Toxicity,
    bundled,
    read_directions,
    statements_file,
    statements_of,
    toxicity_of,
)
from morality_lens.dialogues.languages import wording_file
from morality_lens.items.files import read_json
from morality_lens.progress import listening

if TYPE_CHECKING:
    from morality_lens.cli.study_config import StudyConfig
    from morality_lens.judges.toxicity import Judge
    from morality_lens.studies.plan import Estimate, Plan
    from morality_lens.studies.settings import Material, Settings


def study(
    config: Annotated[
        Path | None, typer.Option(help="TOML file of a study; options replace its entries.")
    ] = None,
    model: ModelName = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Questions: BBQ files or JSON lines.",
            show_default="without --prompts, the bundled questions and prompts",
        ),
    ] = None,
    dataset: Dataset = None,
    subset: Subset = None,
    language: Language = None,
    prompts: Annotated[str | None, typer.Option(help="Open prompts for detoxification.")] = None,
    statements: Statements = None,
    toxicity: Toxicity = None,
    direction: Annotated[
        list[str] | None,
        typer.Option(help="A direction beside the first: NAME=FILE of labelled statements; may be repeated."),
    ] = None,
    evidence: Annotated[
        str | None, typer.Option(help="Weak evidence for the questions (JSON lines).")
    ] = None,
    judge: Annotated[
        list[str] | None,
        typer.Option(
            help="Toxicity classifier: name or folder; may be repeated.",
            show_default="two, fitted on --toxicity",
        ),
    ] = None,
    profile: Annotated[
        Literal["full", "quick"] | None, typer.Option(help="Preset: full or quick.", show_default="full")
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            min=1, help="Correction rounds of the main runs.", show_default="5; of the quick profile 2"
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of questions, and of prompts, to draw.",
            show_default="all; of the quick profile 40",
        ),
    ] = None,
    plan: Annotated[
        list[str] | None,
        typer.Option(
            help="Another number of the profile: KEY=NUMBER, such as prompts=20 or placebo_items=12; may "
            "be repeated."
        ),
    ] = None,
    feedback: Feedback = None,
    feedback_from: FeedbackFrom = None,
    feedback_model: FeedbackModel = None,
    feedback_named: Annotated[
        Literal["kept", "withheld"] | None,
        typer.Option(help="Keep or withhold feedback that names an option.", show_default="kept"),
    ] = None,
    feedback_placebo: Annotated[
        Literal["neutral", "yoked"] | None,
        typer.Option(
            help="Placebo of feedback: neutral words, or the feedback on another item.",
            show_default="neutral",
        ),
    ] = None,
    wording: Wording = None,
    drop_long: DropLong = None,
    seed: DrawSeed = None,
    device: Device = None,
    dtype: Dtype = None,
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
    anyway: Anyway = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the parts, and time and space by a trial; keep nothing."),
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask before a study that takes long.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the study.", show_default="runs/study")] = None,
) -> None:
    """A whole study with a verdict for each of the five claims; the same command resumes it.

    Before a new study is played, a trial tells how long it takes; in a terminal a long one is asked about.

    --json prints {"study": folder, "report": file, "verdicts": [{"number", "claim", "verdict", "estimate",
    "low", "high", ...}]}; with --dry-run {"seconds", "bytes", "parts": [{"part", "runs", "items", "turns"}]}.
    """
    from morality_lens.cli.run_config import replaced
    from morality_lens.cli.study_config import StudyConfig, load_study_config

    chosen = replaced(
        StudyConfig() if config is None else load_study_config(config),
        protocol={
            "wording": wording,
            "feedback": feedback,
            "feedback_from": feedback_from,
            "feedback_model": feedback_model,
            "feedback_named": feedback_named,
            "feedback_placebo": feedback_placebo,
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
            "prompts": prompts,
            "statements": statements,
            "toxicity": toxicity,
            "directions": read_directions(direction or ()) or None,
            "evidence": evidence,
            "judges": judge,
            "profile": profile,
            "rounds": rounds,
            "limit": limit,
            "plan": dict(map(_number_of_plan, plan)) if plan else None,
            "seed": seed,
            "drop_long": drop_long,
            "device": device,
            "dtype": dtype,
            "revision": revision,
            "device_map": device_map,
            "template_keywords": read_template_keywords(template) or None,
            "quantization": quantization,
            "out": None if out is None else str(out),
        },
    )
    models, files = asked(chosen.protocol.feedback, chosen.protocol.feedback_from)
    refuse_missing(
        models=[chosen.model, *models],
        files=[
            *(data_file(chosen), chosen.prompts, chosen.evidence),
            *(wording_file(chosen.protocol.wording), *files),
            *map(statements_file, (chosen.statements, chosen.toxicity, *chosen.directions.values())),
        ],
        judges=chosen.judges,
    )
    refuse_in_the_way(chosen.out, "study")
    from morality_lens.dialogues.wording import load_wording

    material = _material(chosen, world=bundled(chosen.model))
    load_wording(chosen.protocol.wording)
    settings = settings_of(chosen, least_parsed=0.0 if anyway else LEAST_PARSED)
    for name, found in material.sets.items():
        refuse_unfittable(found, "mean_difference", f"the statements of {name}")
    steps.start(0)
    loaded = load_and_show(chosen.model_options)
    if dry_run:
        _estimate(loaded, material, settings)
        return
    report = _study(loaded, material, settings, chosen, agree=partial(_agree, yes=yes))
    _print_verdicts(Path(chosen.out))
    print_report(report)
    if shown.json:
        verdicts = read_json(Path(chosen.out) / "verdicts.json")
        print_json({"study": chosen.out, "report": str(report), "verdicts": verdicts})


LONG = 30 * 60
"""Seconds from which a study is long: in a terminal it begins when that is agreed to."""


def _agree(told: "Estimate", *, yes: bool) -> None:
    """Ask whether a long study is to begin, where somebody can be asked.

    Raises:
        typer.Exit: it is not.
    """
    if told.seconds < LONG or yes:
        return
    if not sys.stdin.isatty():
        steps.say("this is long; nobody can be asked (standard input is no terminal), so it begins")
        return
    if not typer.confirm(f"This study takes {told}. Begin? It can be stopped and resumed.", err=True):
        print_lines("nothing was played; --profile quick, --limit and --rounds make it shorter")
        raise typer.Exit(1)


def _estimate(loaded: Any, material: "Material", settings: "Settings") -> None:
    """Print the parts of a study, and how long they take by a trial."""
    from morality_lens.studies.running import estimate

    design = settings.protocol.design
    there = {"questions": len(material.questions), "prompts": len(material.prompts)}
    of = {"questions": "questions", "placebo": "questions", "wording": "questions"}
    parts = [
        {"part": name, "runs": runs, "items": min(most, there[of.get(name, "prompts")]), "turns": turns}
        for name, (runs, most, turns) in settings.plan.dialogues(design).items()
        if there[of.get(name, "prompts")] and runs * most
    ]
    with phase("playing a trial of a few items"):
        told = estimate(loaded, material, settings)
    columns = ("part", "runs", "items of each", "dialogue rounds of an item")
    print_table(columns, ([str(value) for value in part.values()] for part in parts), title="What is played")
    print_lines(f"this takes {told}; nothing was kept")
    if shown.json:
        print_json({"seconds": told.seconds, "bytes": told.bytes, "parts": parts})


def _study(
    loaded: Any,
    material: "Material",
    settings: "Settings",
    config: "StudyConfig",
    *,
    agree: "Callable[[Estimate], object]",
) -> Path:
    """The report of a study, whose configuration is kept in its folder from its beginning on."""
    from morality_lens.items.files import write_text
    from morality_lens.studies.running import study as run_study

    out = Path(config.out)
    new = not (out / "study.json").is_file()
    try:
        with listening(steps.say):
            return run_study(loaded, material, settings, out=out, say=steps.say, agree=agree)
    finally:
        if new and (out / "study.json").is_file():
            write_text(out / "study.toml", config.to_toml())


def settings_of(config: "StudyConfig", *, least_parsed: float = LEAST_PARSED) -> "Settings":
    """The settings of a study with this configuration.

    Raises:
        ValueError: a number of the plan that is none, or too small.
    """
    from morality_lens.studies.settings import Settings

    return Settings(
        plan=_plan(config),
        protocol=config.protocol,
        drop_long=config.drop_long,
        least_parsed=least_parsed,
        seed=config.seed,
    )


def _plan(config: "StudyConfig") -> "Plan":
    """A profile with the configuration's numbers in place of its own."""
    from morality_lens.studies.plan import PROFILES

    plan, rounds = PROFILES[config.profile], config.rounds
    numbers: dict[str, Any] = dict(_number_of_plan(f"{name}={n}") for name, n in config.plan.items())
    if rounds is not None:
        plan = replace(
            plan,
            rounds=rounds,
            placebo_rounds=min(rounds, plan.placebo_rounds),
            wording_rounds=min(rounds, plan.wording_rounds),
            sample_rounds=min(rounds, plan.sample_rounds),
        )
    return replace(plan if config.limit is None else replace(plan, items=config.limit), **numbers)


def _number_of_plan(given: str) -> tuple[str, int]:
    """A number of the plan and its name.

    Raises:
        ValueError: no such number, or not a whole number from 0 (for rounds, items and prompts, from 1).
    """
    from morality_lens.studies.plan import AT_LEAST_ONE, Plan

    names = [one.name for one in fields(Plan) if one.name != "evidence_rounds"]
    name, _, number = given.partition("=")
    least = 1 if name in AT_LEAST_ONE else 0
    if name not in names or not number.isdecimal() or int(number) < least:
        raise ValueError(
            f"--plan needs KEY=NUMBER, the number {least} or more and the key one of "
            f"{', '.join(names)}; got {given!r}."
        )
    return name, int(number)


def _material(asked: "StudyConfig", *, world: bool) -> "Material":
    """Questions, prompts, statements and weak evidence: the bundled ones where none are given."""
    data, prompts, evidence, seed = asked.data, asked.prompts, asked.evidence, asked.seed
    from morality_lens.experiments.evidence import load_evidence
    from morality_lens.items.data import load_data
    from morality_lens.items.kinds import OpenPrompt, Question
    from morality_lens.items.loaders import load_items, load_prompts, load_statements
    from morality_lens.studies.settings import Material

    items = data_of(asked, limit=None)
    if not world and data is None and prompts is None:
        raise ValueError(
            "the bundled questions are of the bundled models' invented world, whose words this model does "
            "not know; give --data, --prompts or both."
        )
    labelled = statements_of(asked.statements, world=world)
    played = prompts is not None or data is None
    judged: dict[str, Any] = {
        "statements": labelled,
        "toxicity": toxicity_of(asked.toxicity, world=world, needed=played and not asked.judges),
        "directions": {name: load_statements(path) for name, path in asked.directions.items()},
        "judges": list(map(_judge, asked.judges)),
    }
    if data is None and prompts is None:
        return Material(
            questions=load_items(),
            prompts=load_prompts(),
            **judged,
            evidence=load_evidence(evidence or None),
        )
    found = tuple(item for item in items if isinstance(item, Question))
    if len(found) < len(items):
        raise ValueError(
            f"{data} holds items that are no questions, and --data needs questions; pass open prompts as "
            "--prompts, and play ratings with: morality-lens run."
        )
    texts = load_data(prompts, seed=seed) if prompts else ()
    kept = tuple(item for item in texts if isinstance(item, OpenPrompt))
    if len(kept) < len(texts):
        raise ValueError(
            f"{prompts} holds items that are no open prompts, and --prompts needs open prompts; "
            "pass questions as --data."
        )
    if evidence and not found:
        raise ValueError("--evidence is for questions; pass them as --data.")
    return Material(
        questions=found,
        prompts=kept,
        **judged,
        evidence=load_evidence(evidence) if evidence else (),
    )


def _judge(name: str) -> "Judge":
    from morality_lens.judges.classifier import load_toxicity_classifier

    return load_toxicity_classifier(name)


def _print_verdicts(folder: Path) -> None:
    from morality_lens.studies.rules import Verdict

    rows = []
    for row in read_json(folder / "verdicts.json"):
        one = Verdict.from_json(row)
        known = one.estimate == one.estimate
        rows.append(
            (
                f"{one.number}. {one.claim}",
                one.verdict,
                f"{one.estimate:+.3f}" if known else "none",
                f"{one.low:+.3f} to {one.high:+.3f}" if known else "",
            )
        )
    print_table(("claim", "verdict", "estimate", "95 % interval"), rows, title="Five claims")
