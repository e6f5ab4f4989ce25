"""Shared pieces of the tests."""

import sys
from pathlib import Path

import pytest
import torch
import zoo

from morality_lens.cli.main import main
from morality_lens.items.kinds import Question

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the long files begin first: a worker that is given one last would keep the others waiting."""
    seconds: dict[object, float] = {}
    for item in items:
        slow = item.get_closest_marker("slow")
        seconds[item.path] = seconds.get(item.path, 0.0) + (slow.kwargs["seconds"] if slow else 0.0)
    items.sort(key=lambda item: -seconds[item.path])


@pytest.fixture
def command(monkeypatch, capsys):
    """A function that runs the command line and gives exit code, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["morality-lens", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return run


@pytest.fixture(scope="session")
def zoo_folder(tmp_path_factory: pytest.TempPathFactory):
    """A function that gives the folder of a tiny random model of an architecture."""
    root = tmp_path_factory.mktemp("zoo")
    made: dict[str, Path] = {}

    def folder(architecture: str) -> Path:
        if architecture not in made:
            made[architecture] = zoo.save_model(root / architecture, architecture)
        return made[architecture]

    return folder


def make_questions(count: int = 3) -> tuple[Question, ...]:
    """Questions of visibly unequal length about invented people, no two alike."""
    extra = (" It was late.", " It was late and the rain did not stop.", " They had come a long way on foot.")
    return tuple(
        Question(
            id=f"q{i}",
            cluster=f"t{i % 2}",
            context=f"A Vel and a Tor met at the market.{extra[i % 3] * ((i + 2) // 3)}",
            question="Who was kind?",
            options=("The Vel", "Not known", "The Tor"),
            unknown=1,
            label=1,
            biased=i % 2 * 2,
        )
        for i in range(count)
    )


@pytest.fixture
def questions() -> tuple[Question, ...]:
    """Three such questions."""
    return make_questions()
