"""The command that does everything: ``morality-lens study``."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from morality_lens.design import FeedbackSource

if TYPE_CHECKING:
    from morality_lens.experiments.evidence import Evidence
    from morality_lens.items.kinds import OpenPrompt, Question
    from morality_lens.judges.toxicity import Judge

console = Console()


def study(
    model: Annotated[
        str | None, typer.Option(help="Hub name or folder [default: the bundled model].")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Questions: BBQ files or your own.")] = None,
    prompts: Annotated[str | None, typer.Option(help="Open prompts for detoxification.")] = None,
    statements: Annotated[str | None, typer.Option(help="Labelled statements for the probe.")] = None,
    evidence: Annotated[str | None, typer.Option(help="Weak evidence for the questions, as JSONL.")] = None,
    judge: Annotated[list[str] | None, typer.Option(help="Toxicity classifier; may be given twice.")] = None,
    profile: Annotated[Literal["full", "quick"], typer.Option(help="How much of everything.")] = "full",
    rounds: Annotated[int | None, typer.Option(min=1, help="Correction rounds of the main runs.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Questions, and prompts, to draw.")] = None,
    feedback: Annotated[FeedbackSource, typer.Option(help="Who gives feedback.")] = "self",
    feedback_from: Annotated[
        str | None, typer.Option(help="The other model, the server's address, or the file.")
    ] = None,
    feedback_model: Annotated[str | None, typer.Option(help="The server's model.")] = None,
    feedback_named: Annotated[
        Literal["kept", "withheld"], typer.Option(help="What becomes of feedback that names an option.")
    ] = "kept",
    feedback_placebo: Annotated[
        Literal["neutral", "yoked"], typer.Option(help="Neutral words, or another item's feedback.")
    ] = "neutral",
    wording: Annotated[str | None, typer.Option(help="Another wording, as TOML.")] = None,
    drop_long: Annotated[bool, typer.Option("--drop-long", help="Leave out items too long.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of every drawing.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16, ...")] = "auto",
    out: Annotated[Path, typer.Option(help="Folder of the study.")] = Path("runs/study"),
) -> None:
    """Everything, with a verdict for each of the five claims; the same command goes on where it stopped.

    Without --data and --prompts the bundled questions and prompts are played.
    """
    from dataclasses import replace

    from morality_lens.design import Protocol
    from morality_lens.dialogues.wording import load_wording
    from morality_lens.items.loaders import load_statements
    from morality_lens.models.loading import load_model, record_of
    from morality_lens.studies.plan import PROFILES
    from morality_lens.studies.running import study as run_study

    questions, texts, given = _material(data, prompts, evidence, seed)
    labelled = load_statements(statements)
    load_wording(wording)

    plan = PROFILES[profile]
    if rounds is not None:
        plan = replace(
            plan,
            rounds=rounds,
            placebo_rounds=min(rounds, plan.placebo_rounds),
            wording_rounds=min(rounds, plan.wording_rounds),
            sample_rounds=min(rounds, plan.sample_rounds),
        )
    if limit is not None:
        plan = replace(plan, items=limit)
    protocol = Protocol(
        wording=wording,
        feedback=feedback,
        feedback_from=feedback_from,
        feedback_model=feedback_model,
        feedback_named=feedback_named,
        feedback_placebo=feedback_placebo,
    )

    with console.status("loading the model and letting it prove itself"):
        loaded = load_model(model, device=device, dtype=dtype)
    record = record_of(loaded)
    console.print(f"model {record.name}: {record.n_layers} layers x {record.d_model}, self-test passed")
    try:
        report = run_study(
            loaded,
            out=out,
            questions=questions,
            prompts=texts,
            statements=labelled,
            evidence=given,
            judges=[_judge(name) for name in judge or ()],
            plan=plan,
            protocol=protocol,
            drop_long=drop_long,
            seed=seed,
            say=lambda line: console.print(line, highlight=False, markup=False),
        )
    except KeyboardInterrupt:
        print("stopped; what is finished is kept: give the same command again to go on.", file=sys.stderr)
        raise typer.Exit(130) from None
    _say_verdicts(out)
    console.print(f"\nreport: {report.resolve()}", soft_wrap=True, highlight=False)


def _material(
    data: str | None, prompts: str | None, evidence: str | None, seed: int
) -> "tuple[tuple[Question, ...], tuple[OpenPrompt, ...], tuple[Evidence, ...]]":
    """Questions, prompts and weak evidence: the bundled ones where none are named."""
    from morality_lens.items.kinds import OpenPrompt, Question
    from morality_lens.items.loaders import load_data, load_items, load_prompts

    if data is None and prompts is None:
        questions = load_items()
        return questions, load_prompts(), _given(evidence or None)
    items = load_data(data, seed=seed) if data else ()
    found = tuple(item for item in items if isinstance(item, Question))
    if len(found) < len(items):
        raise ValueError(
            f"{data} holds items that are no questions, and --data wants questions; give open prompts as "
            "--prompts, and play ratings with: morality-lens run."
        )
    texts = load_data(prompts, seed=seed) if prompts else ()
    kept = tuple(item for item in texts if isinstance(item, OpenPrompt))
    if len(kept) < len(texts):
        raise ValueError(
            f"{prompts} holds items that are no open prompts, and --prompts wants those; give questions as "
            "--data."
        )
    if evidence and not found:
        raise ValueError("--evidence is for questions; give them as --data.")
    return found, kept, _given(evidence) if evidence else ()


def _given(path: str | None) -> "tuple[Evidence, ...]":
    from morality_lens.experiments.evidence import load_evidence

    return load_evidence(path)


def _judge(name: str) -> "Judge":
    from morality_lens.judges.classifier import load_toxicity_classifier

    return load_toxicity_classifier(name)


def _say_verdicts(folder: Path) -> None:
    import json

    from morality_lens.studies.verdicts import Verdict

    table = Table("claim", "verdict", "estimate", "95 % interval", title="Five claims")
    for row in json.loads((folder / "verdicts.json").read_text(encoding="utf-8")):
        one = Verdict.from_json(row)
        known = one.estimate == one.estimate
        table.add_row(
            f"{one.number}. {one.claim}",
            one.verdict,
            f"{one.estimate:+.3f}" if known else "none",
            f"{one.low:+.3f} to {one.high:+.3f}" if known else "",
        )
    console.print(table)
