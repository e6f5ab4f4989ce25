"""Transcripts to read: turns, named segments, tokens coloured by the projection, a slider of layers."""

import base64
import itertools
import json
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from typing import NamedTuple

import numpy as np

from morality_lens.runs.token_view import MODEL_SEGMENTS, TokenView

STEPS = 32767
"""Values are embedded as 16-bit steps of each layer's largest magnitude."""


class Piece(NamedTuple):
    """Neighbouring tokens of one segment."""

    name: str
    round: int
    start: int
    stop: int

    @property
    def speaker(self) -> str:
        """``model`` for text written by the model, ``template`` for the chat template, else ``user``."""
        if self.name == "template":
            return "template"
        return "model" if self.name in MODEL_SEGMENTS else "user"


def pieces(view: TokenView) -> list[Piece]:
    """The tokens of the view from first to last, partitioned into pieces."""
    owner: list[tuple[str, int, int] | None] = [None] * len(view.tokens)
    for number, span in enumerate(view.spans):
        for position in range(span["start"], span["stop"]):
            if owner[position] is None:
                owner[position] = (str(span["name"]), int(span["round"]), number)
    # Unnamed tokens belong to the round before them.
    filled: list[tuple[str, int, int]] = []
    for one in owner:
        filled.append(one or ("template", filled[-1][1] if filled else 0, -1))
    cuts = [i for i in range(len(filled)) if i == 0 or filled[i] != filled[i - 1]] + [len(filled)]
    return [Piece(*filled[a][:2], a, b) for a, b in itertools.pairwise(cuts)]


class TranscriptView:
    """Transcripts displayed in a notebook.

    Attributes:
        views: the dialogues to choose from.

    Examples:
        >>> views = ml.rounds.read_transcripts(model, run, probe)
        >>> shown = ml.TranscriptView(views)._repr_html_()
        >>> len(views) > 1, views[0].item in shown
        (True, True)
    """

    def __init__(self, views: Sequence[TokenView]) -> None:
        self.views = tuple(views)

    def _repr_html_(self) -> str:
        return transcript_html(self.views)


def transcript_html(views: Sequence[TokenView]) -> str:
    """An HTML fragment that shows the views, with its style and script inside and no network access.

    Without scripts it reads as plain text. A page can hold any number of fragments. Values are
    rounded to 1/32767 of the largest magnitude in their layer.

    Raises:
        ValueError: no views.
    """
    if not views:
        raise ValueError("transcript_html needs at least one view: got none.")
    data = {"limits": _color_limits(views), "views": [_packed(view) for view in views]}
    return (
        f'<div class="ml-transcript"><style>{_asset("transcripts.css")}</style>'
        f'<div class="mlt-plain">{"".join(_plain(view) for view in views)}</div>'
        f'<script type="application/json" class="mlt-data">{json_for_script(data)}</script>'
        f"<script>{_asset('transcripts.js')}</script></div>"
    )


def json_for_script(data: object) -> str:
    """JSON that is safe inside a script element: it cannot close it, open a comment or end a line."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    # A lone surrogate (half of a character split between tokens) cannot be written as UTF-8.
    return "".join(c if not 0xD800 <= ord(c) < 0xE000 else f"\\u{ord(c):04x}" for c in text)


def _asset(name: str) -> str:
    return files("morality_lens.plots").joinpath(name).read_text(encoding="utf-8")


def _color_limits(views: Sequence[TokenView]) -> dict[str, float]:
    """Per layer, the magnitude with the full colour: the 98th percentile over all views.

    Shared by the views, so that colours compare between conditions; a percentile, since a few tokens
    (often the first) have values that would leave all others white.
    """
    magnitudes: dict[int, list[np.ndarray]] = {}
    for view in views:
        if view.values is not None:
            for layer, row in zip(view.layers, view.values, strict=True):
                magnitudes.setdefault(layer, []).append(np.abs(row[np.isfinite(row)]))
    joined = {layer: np.concatenate(rows) for layer, rows in magnitudes.items()}
    return {str(k): float(f"{np.quantile(v, 0.98):.4g}") if len(v) else 0.0 for k, v in joined.items()}


def _packed(view: TokenView) -> dict:
    packed: dict = {
        "item": view.item,
        "condition": view.condition_label,
        "title": view.title,
        "notes": list(view.notes),
        "units": view.units,
        "spaced": _needs_spaces(view),
        "tokens": list(view.tokens),
        "ids": list(map(int, view.token_ids)),
        "pieces": [[*piece, piece.speaker] for piece in pieces(view)],
        "layers": list(map(int, view.layers)),
        "values": None,
    }
    if view.values is not None:
        finite = np.isfinite(view.values)
        values = np.where(finite, view.values, 0.0)
        scale = np.abs(values).max(axis=1, initial=0.0) / STEPS
        steps = np.rint(values / np.where(scale > 0, scale, 1.0)[:, None]).astype("<i2")
        steps[~finite] = -STEPS - 1
        packed["scale"] = [float(f"{s:.8g}") for s in scale]
        packed["values"] = base64.b64encode(steps.tobytes()).decode("ascii")
    return packed


def _needs_spaces(view: TokenView) -> bool:
    """Whether the tokens are bare words, which need a gap between them to be read."""
    return len(view.tokens) > 1 and not any(c.isspace() for token in view.tokens for c in token)


def _plain(view: TokenView) -> str:
    return f'<article class="mlt-view">{"".join(_plain_parts(view))}</article>'


def _plain_parts(view: TokenView) -> Iterator[str]:
    yield f"<h4>{_safe(view.title or view.item)}</h4>"
    yield f"<p>Item {_safe(view.item)}; components: {_safe(view.condition_label)}.</p>"
    yield from (f"<p>{_safe(note)}</p>" for note in view.notes)
    shown, gap = None, " " if _needs_spaces(view) else ""
    for piece in pieces(view):
        if piece.round != shown:
            yield f"<h5>Round {piece.round}</h5>"
            shown = piece.round
        if piece.speaker != "template":
            text = gap.join(view.tokens[piece.start : piece.stop])
            yield f"<p><b>{_safe(piece.name.replace('_', ' '))}:</b> <bdi>{_safe(text)}</bdi></p>"


def _safe(text: str) -> str:
    """Escaped text; halves of characters become the replacement character."""
    return escape(text.encode("utf-8", "replace").decode("utf-8"))
