"""A section of the report as a value: its heading, sentences, figures and tables."""

from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading with its sentences and figures.

    Attributes:
        title: the heading.
        lines: sentences.
        figures: name, figure and note of each.
        tables: caption, columns and rows of each.
    """

    title: str
    lines: tuple[str, ...]
    figures: tuple[tuple[str, go.Figure, str], ...] = ()
    tables: tuple[dict[str, Any], ...] = ()
