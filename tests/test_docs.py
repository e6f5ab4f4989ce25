"""What people read: every example runs and shows what it says, links lead somewhere, nothing is fetched."""

import doctest
import inspect
import runpy
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_public_surface import SURFACE, module

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LOOSE = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def public_callables() -> dict[str, Any]:
    """Every public function and class, by its package and name; a name in two places once."""
    found: dict[str, Any] = {}
    for package in sorted(SURFACE, key=lambda name: name == "ml"):
        for name in SURFACE[package].split():
            value = getattr(module(package), name)
            if callable(value) and not any(value is other for other in found.values()):
                found[f"{package}.{name}"] = value
    return found


CALLABLES = public_callables()


def examples_of(value: Any) -> list[doctest.Example]:
    text = inspect.getdoc(value) or ""
    return doctest.DocTestParser().get_examples(text.partition("Examples:\n")[2])


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The names that the examples use, made once as the reference says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("examples")))
        yield runpy.run_path(str(DOCS / "examples.py"))


def test_the_surface_has_callables():
    assert len(CALLABLES) > 150


@pytest.mark.parametrize("name", CALLABLES)
def test_every_public_callable_has_an_example_that_shows_a_result(name):
    examples = examples_of(CALLABLES[name])
    assert examples, f"{name} has no Examples: in its docstring"
    assert any(example.want for example in examples), f"the example of {name} shows nothing"
    assert not any(doctest.SKIP in example.options for example in examples)


@pytest.mark.slow(seconds=80)
@pytest.mark.parametrize("name", CALLABLES)
def test_the_example_runs_and_shows_what_it_says(name, stage):
    examples = examples_of(CALLABLES[name])
    test = doctest.DocTest(examples, dict(stage), name, None, None, None)
    said: list[str] = []
    doctest.DocTestRunner(optionflags=LOOSE, verbose=False).run(test, out=said.append)
    assert not said, "".join(said)
