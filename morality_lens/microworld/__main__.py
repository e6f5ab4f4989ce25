"""``python -m morality_lens.microworld``: train the bundled model, write the items, verify both."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from morality_lens.bundled import asset
from morality_lens.items import AnyItem
from morality_lens.microworld import card as model_card
from morality_lens.microworld import stages, training, verifying, world

app = typer.Typer(add_completion=False, help=__doc__)
ASSETS = Path(__file__).parents[2] / "assets" / "world"


@app.command()
def items(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = ASSETS,
    n: Annotated[
        int | None, typer.Option(help="Draw this many questions and statements, not the bundled ones.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of drawn items.")] = 0,
) -> None:
    """Write questions.jsonl, statements.jsonl and prompts.jsonl: the bundled ones, or a larger sample."""
    if n is not None and out == ASSETS:
        raise typer.BadParameter("drawn items need a folder of their own; give --out.")
    out.mkdir(parents=True, exist_ok=True)
    files: dict[str, tuple[AnyItem, ...]] = {
        "questions": world.questions(n, seed=seed) if n is not None else world.bundled_questions(),
        "statements": world.statements(n, seed=seed) if n is not None else world.bundled_statements(),
        "prompts": world.bundled_prompts(),
    }
    for name, rows in files.items():
        lines = [json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows]
        part = out / f"{name}.jsonl.part"
        part.write_text("".join(lines), encoding="utf-8")
        part.replace(out / f"{name}.jsonl")
        typer.echo(f"{out / name}.jsonl: {len(rows)} items")


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Folder that gets a folder for each model.")] = ASSETS,
    checkpoints: Annotated[Path, typer.Option(help="Folder for the states to resume from.")] = Path(
        "runs/world-training"
    ),
    scale: Annotated[float, typer.Option(help="Training tokens as a multiple of the recipe's.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Seed of weights and documents.")] = 0,
    processes: Annotated[int, typer.Option(help="Processes, a thread each.")] = 2,
) -> None:
    """Train the three models from nothing, or go on where a training was interrupted."""
    recipe = stages.Recipe(seed=seed, scale=scale)
    training.train(out, recipe=recipe, checkpoints=checkpoints, processes=processes)
    typer.echo(f"models: {', '.join(str(out / name) for name in stages.MODELS)}")


@app.command()
def verify(
    model: Annotated[
        str, typer.Option(help="organism, natural or null, or the folder of a model.")
    ] = "organism",
    threads: Annotated[int, typer.Option(help="Threads of torch.")] = 2,
    card: Annotated[
        bool, typer.Option("--card", help="Write what was measured into the model's card.")
    ] = False,
) -> None:
    """Measure a model against the planted truth; exit 1 where a required aim is missed."""
    torch.set_num_threads(threads)
    folder = asset("world", model) if model in stages.MODELS else Path(model)
    console = Console(width=150)
    report = verifying.verify(folder)
    for name, lines in report.tables.items():
        console.print(f"\n{name}: reached (planted) in rounds 0 to {verifying.ROUNDS}")
        console.print("\n".join(lines), highlight=False)
    table = Table("property", "aim", "reached", "")
    for finding in report.findings:
        mark = "" if finding.holds is None else ("yes" if finding.holds else "no")
        table.add_row(finding.name + (" *" if finding.required else ""), finding.aim, finding.reached, mark)
    console.print(table)
    console.print("* required")
    if card:
        model_card.write_card(report, folder)
    raise typer.Exit(0 if report.holds else 1)


if __name__ == "__main__":
    app()
