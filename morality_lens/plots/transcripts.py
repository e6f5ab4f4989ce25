"""Dialogues to read: rounds side by side, named segments, tokens coloured by a value of every layer."""

import base64
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np

from morality_lens.runs.token_view import MODEL_SEGMENTS, TokenView

STEPS = 32767
"""Values are embedded as 16-bit steps of each layer's largest magnitude."""
SPREADS = 4
"""Median absolute deviations from the white to the full colour."""


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


def forms(views: Iterable[TokenView]) -> list[tuple[TokenView, list[Piece]]]:
    """The stored forms of one dialogue, each with the pieces of the rounds that no earlier form holds.

    Where a chat template rewrites what was said before, a dialogue is stored as it was before each time.
    """
    stored = [(view, pieces(view)) for view in views]
    found, covered = [], -1
    for view, every in sorted(stored, key=lambda pair: max((p.round for p in pair[1]), default=0)):
        last = max((piece.round for piece in every), default=0)
        own = [piece for piece in every if piece.round > covered]
        if own:
            found.append((view, own))
        covered = max(covered, last)
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Strings:
    """Texts that a page holds once, and their numbers.

    Attributes:
        numbers: of each text.
    """

    numbers: dict[str, int] = field(default_factory=dict)

    def number(self, text: str) -> int:
        """The number of a text, which is added where it is new."""
        return self.numbers.setdefault(text, len(self.numbers))


class TranscriptView:
    """Dialogues displayed in a notebook.

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

    def __repr__(self) -> str:
        items = len({view.item for view in self.views})
        return f"<TranscriptView: {len(by_dialogue(self.views))} dialogues of {items} items>"

    def _repr_html_(self) -> str:
        return transcript_html(self.views)


def transcript_html(views: Sequence[TokenView]) -> str:
    """An HTML fragment that shows the views, with its style and script inside and no network access.

    Without scripts it reads as plain text. A page can hold any number of fragments. Values are
    rounded to 1/32767 of the largest magnitude in their layer. Views of one dialogue that differ in their
    ``direction`` are shown as one, with a choice of directions.

    Raises:
        ValueError: no views, or views of one dialogue with different tokens.
    """
    if not views:
        raise ValueError("transcript_html needs at least one view: got none.")
    strings, found = Strings(), by_dialogue(views)
    data = {
        "dialogues": [packed(own, strings) for own in found.values()],
        "scales": color_scales(views),
        "strings": list(strings.numbers),
        "about": {"conditions": list(dict.fromkeys(condition for _, condition in found))},
    }
    return fragment(data, in_one_direction(views))


def fragment(data: dict[str, Any], plain: Sequence[TokenView], more: str = "") -> str:
    """The HTML fragment of some data, which its script shows.

    Args:
        data: the ``dialogues``, each from :func:`packed`, their ``strings`` and ``scales``, and ``about``:
            what there is to choose from.
        plain: the views that are there to be read without scripts.
        more: HTML beside these.
    """
    return (
        f'<div class="ml-transcript"><style>{asset("transcripts.css")}</style>'
        f'<div class="mlt-plain">{"".join(_plain(view) for view in plain)}{more}</div>'
        f'<script type="application/json" class="mlt-data">{json_for_script(data)}</script>'
        f"<script>{asset('transcripts.js')}</script></div>"
    )


def json_for_script(data: object) -> str:
    """JSON that is safe inside a script element: it cannot close it, open a comment or end a line."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    # A lone surrogate (half of a character split between tokens) cannot be written as UTF-8.
    return "".join(c if not 0xD800 <= ord(c) < 0xE000 else f"\\u{ord(c):04x}" for c in text)


def asset(name: str) -> str:
    """The text of a style or script of this package."""
    return files("morality_lens.plots").joinpath(name).read_text(encoding="utf-8")


def by_dialogue(views: Iterable[TokenView]) -> dict[tuple[str, str], list[TokenView]]:
    """The views of each dialogue, by item and condition, in the order in which they are given."""
    found: dict[tuple[str, str], list[TokenView]] = {}
    for view in views:
        found.setdefault((view.item, view.condition_label), []).append(view)
    return found


def in_one_direction(views: Iterable[TokenView]) -> list[TokenView]:
    """The views without those that repeat a dialogue for a further direction."""
    return [view for own in by_dialogue(views).values() for view in own if view.direction == own[0].direction]


def color_scales(views: Iterable[TokenView]) -> dict[str, dict[str, list[float]]]:
    """How values become colours: for each direction and layer the median and two distances to a full colour.

    The first distance is from the median, the second from zero. Both hold some median absolute deviations, so
    that a few tokens (often the first) with values far from all others do not leave these white. Shared by
    the views, so that colours compare between conditions.
    """
    found: dict[str, dict[int, list[np.ndarray]]] = {}
    for view in views:
        if view.values is not None:
            layers = found.setdefault(view.direction, {})
            for layer, row in zip(view.layers, view.values, strict=True):
                layers.setdefault(int(layer), []).append(row[np.isfinite(row)])
    return {
        name: {str(layer): _scale(np.concatenate(rows)) for layer, rows in layers.items()}
        for name, layers in found.items()
    }


def _scale(values: np.ndarray) -> list[float]:
    if not len(values):
        return [0.0, 0.0, 0.0]
    middle = float(np.median(values))
    spread = SPREADS * float(np.median(np.abs(values - middle)))
    return [float(f"{one:.4g}") for one in (middle, spread, abs(middle) + spread)]


def packed(views: Sequence[TokenView], strings: Strings, *, tokens: bool = True) -> dict[str, Any]:
    """One dialogue as the script takes it.

    Args:
        views: of one item and condition: a view for each stored form and direction.
        strings: of the page.
        tokens: whether single tokens and values are given; else whole segments.

    Raises:
        ValueError: views of different directions differ in their tokens.
    """
    by_direction: dict[str, list[tuple[TokenView, list[Piece]]]] = {}
    for name in dict.fromkeys(view.direction for view in views):
        by_direction[name] = forms(view for view in views if view.direction == name)
    first = next(iter(by_direction.values()))
    one = first[0][0] if first else views[0]
    found: dict[str, Any] = {
        "item": one.item,
        "condition": one.condition_label,
        "title": one.title,
        "notes": list(one.notes),
        "spaced": _needs_spaces(one),
        "pieces": [_packed_piece(view, piece, strings, tokens) for view, own in first for piece in own],
    }
    if not tokens:
        return found
    found["ids"] = [int(view.token_ids[i]) for view, own in first if view.token_ids for i in _places(own)]
    found["colours"] = {}
    for name, own in by_direction.items():
        if _shape(own) != _shape(first):
            raise ValueError(
                f"the views of item {one.item!r} under {one.condition_label} need the same tokens for every "
                f"direction; those of {name!r} differ."
            )
        if own and all(view.values is not None for view, _ in own):
            found["colours"][name] = _packed_values(own)
    return found


def _shape(own: Sequence[tuple[TokenView, list[Piece]]]) -> list[tuple[Any, ...]]:
    return [(tuple(view.tokens), tuple(found)) for view, found in own]


def _places(own: Iterable[Piece]) -> Iterator[int]:
    for piece in own:
        yield from range(piece.start, piece.stop)


def _packed_piece(view: TokenView, piece: Piece, strings: Strings, tokens: bool) -> list[Any]:
    texts = view.tokens[piece.start : piece.stop]
    content = (
        [strings.number(text) for text in texts]
        if tokens
        else strings.number((" " if _needs_spaces(view) else "").join(texts))
    )
    return [piece.name, piece.round, piece.speaker, content]


def _packed_values(own: Sequence[tuple[TokenView, list[Piece]]]) -> dict[str, Any]:
    """The values of one direction, in the order of the tokens that are shown."""
    parts = [view.values[:, list(_places(found))] for view, found in own if view.values is not None]
    every, first = np.concatenate(parts, axis=1), own[0][0]
    finite = np.isfinite(every)
    values = np.where(finite, every, 0.0)
    scale = np.abs(values).max(axis=1, initial=0.0) / STEPS
    steps = np.rint(values / np.where(scale > 0, scale, 1.0)[:, None]).astype("<i2")
    steps[~finite] = -STEPS - 1
    return {
        "units": first.units,
        "layers": list(map(int, first.layers)),
        "opening": first.opening,
        "refused": list(map(int, first.refused)),
        "scale": [float(f"{s:.8g}") for s in scale],
        "values": base64.b64encode(steps.tobytes()).decode("ascii"),
    }


def _needs_spaces(view: TokenView) -> bool:
    """Whether the tokens are bare words, which need a gap between them to be read."""
    return len(view.tokens) > 1 and not any(c.isspace() for token in view.tokens for c in token)


def _plain(view: TokenView) -> str:
    return f'<article class="mlt-view">{"".join(_plain_parts(view))}</article>'


def _plain_parts(view: TokenView) -> Iterator[str]:
    yield f"<h4>{safe(view.title or view.item)}</h4>"
    yield f"<p>Item {safe(view.item)}; components: {safe(view.condition_label)}.</p>"
    yield from (f"<p>{safe(note)}</p>" for note in view.notes)
    shown, gap = None, " " if _needs_spaces(view) else ""
    for piece in pieces(view):
        if piece.round != shown:
            yield f"<h5>Round {piece.round}</h5>"
            shown = piece.round
        if piece.speaker != "template":
            text = gap.join(view.tokens[piece.start : piece.stop])
            yield f"<p><b>{safe(piece.name.replace('_', ' '))}:</b> <bdi>{safe(text)}</bdi></p>"


def safe(text: str) -> str:
    """Escaped text; halves of characters become the replacement character."""
    return escape(text.encode("utf-8", "replace").decode("utf-8"))
