"""``python -m morality_lens.world``: the items of the bundled world, or a larger sample of them, as files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from morality_lens.items.files import write_text
from morality_lens.items.kinds import AnyItem, item_row
from morality_lens.world import sampling

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def items(
    out: Annotated[Path, typer.Option(help="Folder to write to.")],
    n: Annotated[
        int | None, typer.Option(help="Draw this many questions and statements, not the bundled ones.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of drawn items.")] = 0,
) -> None:
    """Write questions, statements, prompts and weak evidence as JSONL: the bundled ones, or a sample."""
    questions = sampling.questions(n, seed=seed) if n is not None else sampling.bundled_questions()
    statements = sampling.statements(n, seed=seed) if n is not None else sampling.bundled_statements()
    files = {
        "questions": _rows(questions),
        "statements": _rows(statements),
        "prompts": _rows(sampling.bundled_prompts()),
        "evidence": sampling.evidence(questions),
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        write_text(out / f"{name}.jsonl", "".join(lines))
        typer.echo(f"{out / name}.jsonl: {len(rows)} lines")


def _rows(items: Sequence[AnyItem]) -> tuple[dict[str, Any], ...]:
    return tuple(map(item_row, items))


if __name__ == "__main__":
    app()
