"""Shared pieces of the tests."""

from pathlib import Path

import pytest
import torch
import zoo

from morality_lens.items import Question

torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a file's tests on one worker, which makes its fixtures once, and let the long files begin first.

    A test that stands alone in its file and takes long says so with a group of its own.
    """
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.path.name))
    longest: dict[str, float] = {}
    for item in items:
        group, slow = str(_group(item)), item.get_closest_marker("slow")
        seconds = float(slow.kwargs.get("seconds", 0.0)) if slow else 0.0
        longest[group] = longest.get(group, 0.0) + seconds
    items.sort(key=lambda item: -longest[str(_group(item))])


def _group(item: pytest.Item) -> object:
    marker = item.get_closest_marker("xdist_group")
    assert marker is not None
    return marker.args[0]


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
    """Questions of visibly unequal length about invented people."""
    extra = ("", " It was late and the rain did not stop.", " They had come a long way on foot.")
    return tuple(
        Question(
            id=f"q{i}",
            cluster=f"t{i % 2}",
            context=f"A Vel and a Tor met at the market.{extra[i % 3] * (1 + i // 3)}",
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
