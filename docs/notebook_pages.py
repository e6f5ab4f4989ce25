"""Pages made of the notebooks: executed once for every state of the package, with live figures."""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from plotly.offline import get_plotlyjs
from sphinx.application import Sphinx
from sphinx.config import Config

DOCS = Path(__file__).parent
ROOT = DOCS.parent
KEPT = DOCS / "_build" / "executed"
"""Executed notebooks, each named after what it was executed with."""
PAGES = DOCS / "notebooks"
FIGURE = "application/vnd.plotly.v1+json"
HIDDEN = ("stderr",)
WIDE = "---\nhtml_theme.sidebar_secondary.remove: true\n---"
"""At the head of a page: figures have the room of the list of headings."""


def state() -> str:
    """A hash of all that a notebook's output depends on, beside the notebook itself."""
    files = [*(ROOT / "morality_lens").rglob("*.[pjc]*"), *(ROOT / "assets").rglob("*.*")]
    digest = hashlib.sha256()
    for file in sorted(file for file in files if file.is_file() and "__pycache__" not in file.parts):
        digest.update(str(file.relative_to(ROOT)).encode() + file.read_bytes())
    return digest.hexdigest()


def executed(path: Path, package: str) -> nbformat.NotebookNode:
    """The notebook with its outputs: those that are kept, or else those of running it now."""
    key = hashlib.sha256(path.read_bytes() + package.encode()).hexdigest()[:16]
    kept = KEPT / f"{path.stem}-{key}.ipynb"
    if kept.is_file():
        return nbformat.read(kept, as_version=4)
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(path.parent)}}
    quiet = ["--log-level=ERROR"]
    NotebookClient(
        notebook, timeout=1200, startup_timeout=300, extra_arguments=quiet, resources=place
    ).execute()
    KEPT.mkdir(parents=True, exist_ok=True)
    for old in KEPT.glob(f"{path.stem}-*.ipynb"):
        old.unlink()
    nbformat.write(notebook, kept)
    return notebook


def fenced(text: str, kind: str) -> str:
    """Text as a block of Markdown, whatever marks it holds itself."""
    most = max((len(run) for run in re.findall(r"`+", text)), default=2)
    mark = "`" * max(most + 1, 3)
    return f"{mark}{kind}\n{text.rstrip()}\n{mark}"


def shown(output: nbformat.NotebookNode) -> Iterator[str]:
    """One output of a cell as Markdown: a figure, HTML, an image or text."""
    if output.output_type == "stream":
        if output.name not in HIDDEN:
            yield fenced(output.text, "text")
        return
    data: dict[str, Any] = output.get("data", {})
    if FIGURE in data:
        figure = json.dumps(data[FIGURE]).replace("</", "<\\/")
        height = data[FIGURE].get("layout", {}).get("height", 450)
        script = f'<script type="application/json">{figure}</script>'
        yield fenced(f'<div class="figure-alive" style="min-height:{height}px">{script}</div>', "{raw} html")
    elif "text/html" in data:
        yield fenced(f'<div class="cell-html">{data["text/html"]}</div>', "{raw} html")
    elif "image/png" in data:
        yield fenced(f'<img alt="" src="data:image/png;base64,{data["image/png"].strip()}">', "{raw} html")
    elif "text/plain" in data:
        yield fenced(data["text/plain"], "text")


def page(notebook: nbformat.NotebookNode) -> str:
    """The notebook as one page of Markdown."""
    parts = [WIDE]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(re.sub(r"\]\((\d\d_\w+)\.ipynb\)", r"](\1.md)", cell.source))
        elif cell.source.strip():
            parts.append(fenced(cell.source, "python"))
            parts += [text for output in cell.get("outputs", []) for text in shown(output)]
    scripts = '<script src="../_static/plotly.min.js"></script><script src="../_static/figures.js"></script>'
    return "\n\n".join([*parts, fenced(scripts, "{raw} html")]) + "\n"


def write_pages(app: Sphinx, config: Config) -> None:
    """Write a page for every notebook, and plotly's script as the installed package has it."""
    PAGES.mkdir(exist_ok=True)
    package = state()
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        text = page(executed(path, package))
        target = PAGES / f"{path.stem}.md"
        if not target.is_file() or target.read_text(encoding="utf-8") != text:
            target.write_text(text, encoding="utf-8")
    script = DOCS / "_build" / "static" / "plotly.min.js"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(get_plotlyjs(), encoding="utf-8")


def own_links(app: Sphinx, name: str, source: list[str]) -> None:
    """Links that lead to files of the repository lead, in the site, to the pages made of them."""
    up = "../" * (name.count("/") + 1)
    text = re.sub(rf"\]\({re.escape(up)}notebooks/(\w+)\.ipynb", rf"]({up[3:]}notebooks/\1.md", source[0])
    pages = {"assets/gallery/smollm2/README.md": "gallery.md", "BENCHMARKS.md": "benchmarks.md"}
    pages |= {"CHANGELOG.md": "changelog.md", "assets/moral/README.md": "moral-statements.md"}
    for file, its_page in pages.items():
        text = text.replace(f"]({up}{file}", f"]({up[3:]}{its_page}")
    source[0] = text


def setup(app: Sphinx) -> dict[str, bool]:
    """Make the pages before Sphinx looks for its sources."""
    app.connect("config-inited", write_pages)
    app.connect("source-read", own_links)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
