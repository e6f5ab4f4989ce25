"""``python -m microworld``, from the repository's root: train the bundled models, measure one of them."""

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from microworld import card as model_card, stages, training, verifying
from morality_lens.items.bundled import asset

app = typer.Typer(add_completion=False, help=__doc__)
ASSETS = Path(__file__).parents[1] / "assets" / "world"


@app.command()
def train(
    out: Annotated[Path, typer.Option(help="Folder with a subfolder for each model.")] = ASSETS,
    checkpoints: Annotated[Path, typer.Option(help="Folder of the checkpoints.")] = Path(
        "runs/world-training"
    ),
    scale: Annotated[float, typer.Option(help="Training tokens as a multiple of those in the recipe.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Random seed of weights and documents.")] = 0,
    processes: Annotated[int, typer.Option(help="Processes of one thread each.")] = 2,
) -> None:
    """Train the three models from scratch; an interrupted training is resumed."""
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
        bool, typer.Option("--card", help="Write the measurements into the model's card.")
    ] = False,
) -> None:
    """Measure a model against the planted truth; exit 1 where a required target is missed."""
    torch.set_num_threads(threads)
    folder = asset("world", model) if model in stages.MODELS else Path(model)
    console = Console(width=150)
    report = verifying.verify(folder)
    for name, lines in report.tables.items():
        console.print(f"\n{name}: measured (planted) in rounds 0 to {verifying.ROUNDS}")
        console.print("\n".join(lines), highlight=False)
    table = Table("property", "target", "measured", "")
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
