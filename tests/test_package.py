"""The package as a user meets it: imports, assets, command line, README and documentation."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from types import ModuleType

import house
import pytest

import morality_lens
from morality_lens.items.bundled import asset

ROOT = Path(__file__).parents[1]


def in_fresh_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_the_package_loads_nothing_heavy():
    heavy = ("torch", "transformers", "transformer_lens", "xarray", "pandas", "sklearn", "plotly")
    code = f"import sys, morality_lens; print([m for m in {heavy!r} if m in sys.modules])"
    assert in_fresh_python(code) == "[]"


@pytest.mark.parametrize(
    "name",
    [
        "open_run", "write_report", "factorial_effects", "plots.effects", "load_probe", "items.load_data",
        "judges.behaviour_cube", "probes.trust_card", "studies.analyze_study", "interactions.claim_ladder",
    ],
)  # fmt: skip
def test_the_analysis_side_never_loads_torch(name):
    code = (
        f"import sys, morality_lens; morality_lens.{name}; "
        "print([m for m in ('torch', 'transformers', 'transformer_lens') if m in sys.modules])"
    )
    assert in_fresh_python(code) == "[]"


def test_every_exported_name_is_there_and_typed():
    stub = ast.parse(Path(morality_lens.__file__).with_suffix(".pyi").read_text())
    typed = {a.asname for node in ast.walk(stub) if isinstance(node, ast.ImportFrom) for a in node.names}
    assert set(morality_lens.__all__) == typed
    assert set(morality_lens.__all__) <= set(dir(morality_lens))
    for name in morality_lens.__all__:
        assert getattr(morality_lens, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = morality_lens.nothing


def test_the_bundled_assets_are_found_and_small():
    files = [p for p in asset("world").rglob("*") if p.is_file()]
    bundled = {"questions.jsonl", "statements.jsonl", "prompts.jsonl", "evidence.jsonl"}
    assert bundled <= {p.name for p in files}
    assert sum(p.stat().st_size for p in asset("world", "organism").rglob("*") if p.is_file()) < 12e6
    with pytest.raises(FileNotFoundError, match="reinstall the package"):
        asset("world", "absent")


def test_the_wheel_configuration_takes_the_assets_along():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    included = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included == {f"assets/{name}": f"morality_lens/assets/{name}" for name in ("moral", "world")}


def test_the_training_of_the_bundled_models_is_no_part_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["morality_lens"]
    for path in (ROOT / "morality_lens").rglob("*.py"):
        assert "microworld" not in path.read_text(), path


def test_no_import_defers_annotations():
    """Shape checks would be switched off by it."""
    paths = list((ROOT / "morality_lens").rglob("*.py"))
    assert len(paths) > 60, "no modules were found: the layout changed and this test did not"
    for path in paths:
        assert "from __future__ import annotations" not in path.read_text(), path


def imported(files) -> set[str]:
    """Every package that an import in these files names, beside the standard library and our own."""
    found = set()
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found.add(node.module.split(".")[0])
    own = {p.stem for p in (ROOT / "tests").rglob("*")} | {"morality_lens", "microworld"}
    return found - set(sys.stdlib_module_names) - own


def declared(*extras: str) -> set[str]:
    """The distributions that pyproject asks for, by their names in one spelling."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(d for e in extras for d in project["optional-dependencies"][e])]
    return {re.split(r"[\[<>=!~ ;]", line)[0].lower().replace("_", "-") for line in lines}


def undeclared(names: set[str], asked: set[str]) -> set[str]:
    given = packages_distributions()
    return {n for n in names if not {d.lower().replace("_", "-") for d in given.get(n, [n])} & asked}


def test_what_the_package_imports_is_declared():
    files = [*(ROOT / "morality_lens").rglob("*.py")]
    assert not undeclared(imported(files), declared("datasets", "endpoint", "gguf", "ray", "view"))
    without = [
        path
        for path in files
        if path.name
        not in ("interchange.py", "server.py", "serving.py", "source.py", "view.py", "workers.py")
    ]
    assert not undeclared(imported(without), declared())


def test_what_tests_training_and_benchmarks_import_is_declared():
    files = [p for name in ("tests", "microworld", "benchmarks") for p in (ROOT / name).rglob("*.py")]
    assert not undeclared(imported(files), declared("dev", "notebook", "endpoint", "gguf", "lora", "view"))


def test_one_library_draws_every_bar():
    for path in [*(ROOT / "morality_lens").rglob("*.py"), *(ROOT / "microworld").rglob("*.py")]:
        assert "rich.progress" not in path.read_text(), path


def test_feedback_from_a_server_names_the_extra_it_needs():
    code = (
        "import sys; sys.modules['openai'] = None\n"
        "try:\n    import morality_lens.rounds.endpoint\n"
        "except ModuleNotFoundError as error:\n    print(error)"
    )
    assert in_fresh_python(code).endswith('pip install "morality_lens[endpoint]"')


def packages() -> list[Path]:
    """Folders of the package's packages."""
    found = sorted(path.parent for path in (ROOT / "morality_lens").rglob("__init__.py"))
    assert len(found) > 10, "no packages were found: the layout changed and this test did not"
    return [folder for folder in found if folder != ROOT / "morality_lens"]


def test_the_tree_in_the_reference_names_every_package():
    reference = (ROOT / "docs" / "reference" / "index.md").read_text()
    tree = reference[reference.index("## What is where") : reference.index("```{toctree}")]
    missing = [folder.name for folder in packages() if not re.search(rf"(?m)^  {folder.name}/? ", tree)]
    assert not missing
    modules = {path.name for path in (ROOT / "morality_lens").glob("*.py") if not path.name.startswith("__")}
    assert not [name for name in modules if name not in tree]


def test_the_docstring_of_a_package_names_its_modules():
    for folder in packages():
        said = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
        modules = {path.stem for path in folder.glob("*.py")} - {"__init__", "__main__"}
        assert modules, folder
        missing = [m for m in sorted(modules) if not re.search(rf"\b{m}\b", said)]
        assert not missing, folder


def test_every_module_has_its_tests_in_the_folder_of_its_package():
    names = {folder.name for folder in packages()}
    found = [path for path in (ROOT / "tests").rglob("test_*.py") if path.parent != ROOT / "tests"]
    assert len(found) > 40
    assert {path.parent.name for path in found} <= names | {"microworld"}


def test_readme_documentation_and_notebooks_import_the_package_alone():
    """What a user needs is `ml.<name>` or `ml.<package>.<name>`, and public."""
    blocks = {
        str(path.relative_to(ROOT)): "".join(re.findall(r"(?ms)^```python\n(.*?)^```", path.read_text()))
        for path in (ROOT / "README.md", *house.documentation())
    }
    texts = {name: text for name, text in blocks.items() if text}
    assert {"README.md", "docs/tutorial.md"} <= texts.keys()
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        texts[path.name] = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    assert len(texts) > 3
    for name, text in texts.items():
        assert "ml." in text, name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("morality_lens"), name
            if isinstance(node, ast.Import):
                assert not [a.name for a in node.names if a.name.startswith("morality_lens.")], name
        for dotted in re.findall(r"\bml\.(\w+(?:\.\w+)?)", text):
            first, _, second = dotted.partition(".")
            assert first in morality_lens.__all__, f"{name}: ml.{dotted}"
            value = getattr(morality_lens, first)
            if second and isinstance(value, ModuleType) and first != "design":
                assert second in value.__all__, f"{name}: ml.{dotted}"


def test_a_banned_word_is_found_as_a_whole_word_over_line_ends_and_with_its_replacement(monkeypatch):
    monkeypatch.setattr(house, "BANNED", {"told from zero": "distinguishable from zero", "twin": "control"})
    text = "Twine is no match.\nThis is not told\n    from zero; a Twin is."
    monkeypatch.setattr(house, "texts", lambda: [("page", text)])
    assert house.banned_words() == [
        "page:2: 'told from zero'; write 'distinguishable from zero'",
        "page:3: 'twin'; write 'control'",
    ]


def test_the_checked_texts_are_the_sources_the_readme_the_documentation_and_the_notebooks():
    names = {name for name, _ in house.texts()}
    assert {"README.md", "morality_lens/design.py", "morality_lens/report/report.html.j2"} <= names
    assert {"docs/tutorial.md", "docs/howto/slurm.md"} <= names
    assert len([name for name in names if name.endswith(".ipynb")]) == 5


def test_functions_over_a_limit_are_counted(monkeypatch, tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "one.py").write_text(
        "def f(a, b, c, d, e, f, g):\n    return a\n\n\ndef g(a):\n    return a\n"
    )
    monkeypatch.setattr(house, "ROOT", tmp_path)
    monkeypatch.setattr(house, "PACKAGE", package)
    assert house.lines() == 6
    assert house.breaches() == ["package/one.py:1: Too many arguments in function definition (7 > 6)"]
