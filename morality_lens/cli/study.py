"""The command for a whole study: ``morality-lens study``."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from morality_lens.cli.console import (
    LEAST_PARSED,
    load_and_show,
    print_report,
    print_table,
    steps,
)
from morality_lens.cli.model_options import (
    MOST_SEED,
    AnswerPrefix,
    AnswerTokens,
    DeviceMap,
    FeedbackTokens,
    ModelOptions,
    Quantization,
    RationaleTokens,
    Revision,
    SystemPrompt,
    TemplateKeywords,
    ThinkingTokens,
    read_template_keywords,
)
from morality_lens.cli.places import asked, refuse_in_the_way, refuse_missing, refuse_unfittable
from morality_lens.design import FeedbackSource
from morality_lens.progress import listening

if TYPE_CHECKING:
    from morality_lens.judges.toxicity import Judge
    from morality_lens.studies.plan import Plan
    from morality_lens.studies.settings import Material, Settings


def study(
    model: Annotated[
        str | None, typer.Option(help="Hub name or folder (default: the bundled model).")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Questions: BBQ files or JSON lines.")] = None,
    prompts: Annotated[str | None, typer.Option(help="Open prompts for detoxification.")] = None,
    statements: Annotated[str | None, typer.Option(help="Labelled statements for the probe.")] = None,
    evidence: Annotated[
        str | None, typer.Option(help="Weak evidence for the questions (JSON lines).")
    ] = None,
    judge: Annotated[
        list[str] | None, typer.Option(help="Toxicity classifier: name or folder; may be repeated.")
    ] = None,
    profile: Annotated[Literal["full", "quick"], typer.Option(help="Preset: full or quick.")] = "full",
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Correction rounds of the main runs (default: by profile).")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Number of questions, and of prompts, to draw.")
    ] = None,
    feedback: Annotated[FeedbackSource, typer.Option(help="Source of feedback.")] = "self",
    feedback_from: Annotated[
        str | None, typer.Option(help="Other model, server address, or file of feedback.")
    ] = None,
    feedback_model: Annotated[str | None, typer.Option(help="Model on the server.")] = None,
    feedback_named: Annotated[
        Literal["kept", "withheld"], typer.Option(help="Keep or withhold feedback that names an option.")
    ] = "kept",
    feedback_placebo: Annotated[
        Literal["neutral", "yoked"],
        typer.Option(help="Placebo of feedback: neutral words, or the feedback on another item."),
    ] = "neutral",
    wording: Annotated[str | None, typer.Option(help="TOML file of a wording (default: bundled).")] = None,
    drop_long: Annotated[
        bool, typer.Option("--drop-long", help="Skip items that may exceed the context window.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Random seed.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, ...")] = "auto",
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
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Play on where fewer than half of the first answers parse.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder of the study.")] = Path("runs/study"),
) -> None:
    """A whole study with a verdict for each of the five claims; the same command resumes it.

    Without --data and --prompts the bundled questions and prompts are played.
    """
    models, files = asked(feedback, feedback_from)
    refuse_missing(
        models=[model, *models],
        files=[data, prompts, statements, evidence, wording, *files],
        judges=judge or (),
    )
    refuse_in_the_way(out, "study")
    from morality_lens.design import Protocol
    from morality_lens.dialogues.wording import load_wording
    from morality_lens.studies.settings import Settings

    material = _material(data=data, prompts=prompts, evidence=evidence, statements=statements, seed=seed)
    load_wording(wording)
    protocol = Protocol(
        wording=wording,
        feedback=feedback,
        feedback_from=feedback_from,
        feedback_model=feedback_model,
        feedback_named=feedback_named,
        feedback_placebo=feedback_placebo,
        system_prompt=system_prompt,
        answer_tokens=answer_tokens,
        rationale_tokens=rationale_tokens,
        feedback_tokens=feedback_tokens,
        thinking_tokens=thinking_tokens,
        answer_prefix=answer_prefix or "",
    )
    settings = Settings(
        plan=_plan(profile, rounds, limit),
        protocol=protocol,
        drop_long=drop_long,
        least_parsed=0.0 if anyway else LEAST_PARSED,
        seed=seed,
    )
    refuse_unfittable(material.statements, "mean_difference", statements)
    steps.start(0)
    loaded = load_and_show(
        ModelOptions(
            model=model,
            device=device,
            dtype=dtype,
            revision=revision,
            device_map=device_map,
            template_keywords=read_template_keywords(template),
            quantization=quantization,
        )
    )
    report = _study(loaded, replace(material, judges=list(map(_judge, judge or ()))), settings, out)
    _print_verdicts(out)
    print_report(report)


def _study(loaded: Any, material: "Material", settings: "Settings", out: Path) -> Path:
    from morality_lens.studies.running import study as run_study

    with listening(steps.say):
        return run_study(loaded, material, settings, out=out, say=steps.say)


def _plan(profile: str, rounds: int | None, limit: int | None) -> "Plan":
    """A profile with the options of the command line in place of its own numbers."""
    from morality_lens.studies.plan import PROFILES

    plan = PROFILES[profile]
    if rounds is not None:
        plan = replace(
            plan,
            rounds=rounds,
            placebo_rounds=min(rounds, plan.placebo_rounds),
            wording_rounds=min(rounds, plan.wording_rounds),
            sample_rounds=min(rounds, plan.sample_rounds),
        )
    return plan if limit is None else replace(plan, items=limit)


def _material(
    *, data: str | None, prompts: str | None, evidence: str | None, statements: str | None, seed: int
) -> "Material":
    """Questions, prompts, statements and weak evidence: the bundled ones where none are given."""
    from morality_lens.experiments.evidence import load_evidence
    from morality_lens.items.kinds import OpenPrompt, Question
    from morality_lens.items.loaders import load_data, load_items, load_prompts, load_statements
    from morality_lens.studies.settings import Material

    if data is None and prompts is None:
        return Material(
            questions=load_items(),
            prompts=load_prompts(),
            statements=load_statements(statements),
            evidence=load_evidence(evidence or None),
        )
    items = load_data(data, seed=seed) if data else ()
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
        statements=load_statements(statements),
        evidence=load_evidence(evidence) if evidence else (),
    )


def _judge(name: str) -> "Judge":
    from morality_lens.judges.classifier import load_toxicity_classifier

    return load_toxicity_classifier(name)


def _print_verdicts(folder: Path) -> None:
    from morality_lens.items.files import read_json
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
