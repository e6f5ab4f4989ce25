"""The command for a whole study: ``morality-lens study``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
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
from morality_lens.cli.statements import (
    Statements,
    Toxicity,
    bundled,
    read_directions,
    statements_file,
    statements_of,
    toxicity_of,
)
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
        list[str] | None, typer.Option(help="Toxicity classifier: name or folder; may be repeated.")
    ] = None,
    profile: Annotated[Literal["full", "quick"], typer.Option(help="Preset: full or quick.")] = "full",
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Correction rounds of the main runs (default: by profile).")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Number of questions, and of prompts, to draw.")
    ] = None,
    plan: Annotated[
        list[str] | None,
        typer.Option(
            help="Another number of the profile: KEY=NUMBER, such as prompts=20 or placebo_items=12; may "
            "be repeated."
        ),
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
    beside = read_directions(direction or ())
    refuse_missing(
        models=[model, *models],
        files=[
            *(data, prompts, evidence, wording, *files),
            *map(statements_file, (statements, toxicity, *beside.values())),
        ],
        judges=judge or (),
    )
    refuse_in_the_way(out, "study")
    from morality_lens.design import Protocol
    from morality_lens.dialogues.wording import load_wording
    from morality_lens.studies.settings import Settings

    material = _material(
        _Asked(
            data=data,
            prompts=prompts,
            evidence=evidence,
            statements=statements,
            toxicity=toxicity,
            directions=beside,
            judges=tuple(judge or ()),
        ),
        world=bundled(model),
        seed=seed,
    )
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
        plan=_plan(profile, rounds, limit, plan or ()),
        protocol=protocol,
        drop_long=drop_long,
        least_parsed=0.0 if anyway else LEAST_PARSED,
        seed=seed,
    )
    for name, found in material.sets.items():
        refuse_unfittable(found, "mean_difference", f"the statements of {name}")
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
    report = _study(loaded, material, settings, out)
    _print_verdicts(out)
    print_report(report)


def _study(loaded: Any, material: "Material", settings: "Settings", out: Path) -> Path:
    from morality_lens.studies.running import study as run_study

    with listening(steps.say):
        return run_study(loaded, material, settings, out=out, say=steps.say)


def _plan(profile: str, rounds: int | None, limit: int | None, given: Sequence[str]) -> "Plan":
    """A profile with the options of the command line in place of its own numbers."""
    from morality_lens.studies.plan import PROFILES

    plan, numbers = PROFILES[profile], dict(map(_number_of_plan, given))
    if rounds is not None:
        plan = replace(
            plan,
            rounds=rounds,
            placebo_rounds=min(rounds, plan.placebo_rounds),
            wording_rounds=min(rounds, plan.wording_rounds),
            sample_rounds=min(rounds, plan.sample_rounds),
        )
    return replace(plan if limit is None else replace(plan, items=limit), **numbers)


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


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What the options name: paths, and names of judges."""

    data: str | None
    prompts: str | None
    evidence: str | None
    statements: str | None
    toxicity: str | None
    directions: Mapping[str, str]
    judges: tuple[str, ...]


def _material(asked: _Asked, *, world: bool, seed: int) -> "Material":
    """Questions, prompts, statements and weak evidence: the bundled ones where none are given."""
    data, prompts, evidence = asked.data, asked.prompts, asked.evidence
    from morality_lens.experiments.evidence import load_evidence
    from morality_lens.items.kinds import OpenPrompt, Question
    from morality_lens.items.loaders import load_data, load_items, load_prompts, load_statements
    from morality_lens.studies.settings import Material

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
        **judged,
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
