"""How Sphinx builds the documentation: `make docs`."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path[:0] = [str(DOCS), str(ROOT)]

project = "morality_lens"
author = "the authors of morality_lens"
version = release = version_of("morality-lens")

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_parser",
    "public_names",
    "notebook_pages",
]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
nitpicky = False

autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autosummary_generate = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
add_module_names = False
toc_object_entries_show_parents = "hide"

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

html_theme = "pydata_sphinx_theme"
html_title = "morality_lens"
html_static_path = ["_static", "_build/static"]
html_css_files = ["own.css"]
html_sidebars = {"tutorial": [], "concepts": [], "index": []}
html_show_search_summary = False
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "morality_lens"},
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_toc_level": 2,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
copyright = "MIT licence"
html_context = {"default_mode": "auto"}
