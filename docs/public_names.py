"""The directive `public`: a package's public names in a table, then each with its docstring and source."""

import importlib
import inspect
import re
from types import ModuleType

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import SphinxDirective

PACKAGE = "morality_lens"


def public_names(module: ModuleType) -> list[str]:
    """The public names of a package that are no packages themselves, in the order of the alphabet."""
    own = [
        name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__
    ]
    names = getattr(module, "__all__", None) or [name for name in own if not name.startswith("_")]
    return sorted(name for name in names if not isinstance(getattr(module, name), ModuleType))


def described(module: ModuleType, name: str) -> list[str]:
    """Lines of reStructuredText that describe one name; a class with its properties and methods."""
    value = getattr(module, name)
    if inspect.isclass(value):
        return [f".. autoclass:: {module.__name__}.{name}", "   :members:", ""]
    if callable(value):
        return [f".. autofunction:: {module.__name__}.{name}", ""]
    return [
        f".. py:data:: {module.__name__}.{name}",
        "",
        f"   {', '.join(f'``{key!r}``' for key in value)}.",
        "",
    ]


class Public(SphinxDirective):
    """``{public} circuits`` stands for everything public in ``ml.circuits``."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """The nodes of the table and of the descriptions."""
        module = importlib.import_module(f"{PACKAGE}.{self.arguments[0]}")
        names = public_names(module)
        lines = [f".. currentmodule:: {module.__name__}", "", ".. autosummary::", ""]
        lines += [*(f"   {name}" for name in names if callable(getattr(module, name))), ""]
        lines += [line for name in names for line in described(module, name)]
        return self.parse_text_to_nodes("\n".join(["`````{eval-rst}", *lines, "`````"]))


def bars_as_they_are(
    app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]
) -> None:
    """``max-|t|`` in a docstring is no substitution of reStructuredText."""
    for number, line in enumerate(lines):
        parts = line.split("``")
        parts[::2] = [re.sub(r"\|(\w+)\|", r"\\|\1\\|", part) for part in parts[::2]]
        lines[number] = "``".join(parts)


def by_last_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """A reference to where a name is defined leads to where it is public."""
    last = node.get("reftarget", "").rsplit(".", 1)[-1]
    domain = env.domains["py"]
    found = [full for full, *_ in domain.get_objects() if full.rsplit(".", 1)[-1] == last]
    if node.get("refdomain") != "py" or len(found) != 1 or not last:
        return None
    at = {**node.attributes, "reftarget": found[0]}
    return domain.resolve_xref(
        env, node["refdoc"], app.builder, "obj", found[0], pending_xref("", **at), content
    )


def setup(app: Sphinx) -> dict[str, bool]:
    """Make the directive known."""
    app.add_directive("public", Public)
    app.connect("autodoc-process-docstring", bars_as_they_are)
    app.connect("missing-reference", by_last_name)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
