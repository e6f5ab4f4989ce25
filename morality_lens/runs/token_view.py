"""One dialogue with its tokens, segments and a projection per layer and token."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from morality_lens.design import RESERVED, Condition

MODEL_SEGMENTS = ("answer", "rationale")
"""Segments that the model wrote; every other one was said to it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenView:
    """One dialogue, and a value per layer and token to colour it by.

    Attributes:
        item: the item's id.
        condition: a level per factor.
        tokens: each token's display text.
        spans: the segments: ``name``, ``round``, ``start``, ``stop`` (token positions, ``stop`` excluded).
            Tokens in no segment count as template; of two segments that share a token the first owns it.
        layers: the layers of ``values``.
        values: the projection at each layer and token, or None where there is none.
        title: a line above the dialogue.
        notes: lines below the title.
        token_ids: the vocabulary's ids, or () where unknown.
        units: what the values are measured in.
        direction: the name of what the values are projected on, where there are several.
        opening: the layer that is shown first; None where none is better than another.
        refused: the layers about which nothing is claimed.

    Raises:
        ValueError: a span outside the tokens, lengths that do not agree, or an opening layer without values.
    """

    item: str
    condition: Mapping[str, str]
    tokens: Sequence[str]
    spans: Sequence[Mapping]
    layers: Sequence[int] = ()
    values: Float[np.ndarray, "layer token"] | None = None
    title: str = ""
    notes: Sequence[str] = ()
    token_ids: Sequence[int] = ()
    units: str = "moral-immoral gap"
    direction: str = ""
    opening: int | None = None
    refused: Sequence[int] = ()

    def __repr__(self) -> str:
        levels = ", ".join(f"{name} {level}" for name, level in self.condition.items())
        layers = f"{len(self.layers)} layers" if self.layers else "no projection"
        return f"<TokenView {self.item} ({levels}): {len(self.tokens)} tokens, {layers}>"

    def __post_init__(self) -> None:
        who = f"TokenView of item {self.item!r}"
        for span in self.spans:
            if not 0 <= span["start"] <= span["stop"] <= len(self.tokens):
                raise ValueError(f"{who} has {len(self.tokens)} tokens: the span {dict(span)} lies outside.")
        if self.values is not None and self.values.shape != (len(self.layers), len(self.tokens)):
            raise ValueError(
                f"{who} needs values of shape (layers, tokens) = {(len(self.layers), len(self.tokens))}: "
                f"got {self.values.shape}."
            )
        if len(self.token_ids) not in (0, len(self.tokens)):
            raise ValueError(f"{who} has {len(self.tokens)} tokens: got {len(self.token_ids)} token ids.")
        if self.opening is not None and self.opening not in self.layers:
            raise ValueError(f"{who} cannot open at layer {self.opening}; choose one of {list(self.layers)}.")

    @property
    def condition_label(self) -> str:
        """The components that are present, joined by ``+`` (``none`` for no component)."""
        return Condition(**self.condition).label


def token_view(
    row: pd.Series,
    *,
    layers: Sequence[int] = (),
    values: Float[np.ndarray, "layer token"] | None = None,
    title: str = "",
    notes: Sequence[str] = (),
    units: str = "moral-immoral gap",
    direction: str = "",
    opening: int | None = None,
    refused: Sequence[int] = (),
) -> TokenView:
    """The view of one row of ``run.transcripts``, coloured by ``values`` where they are given."""
    return TokenView(
        item=str(row["item"]),
        condition={str(name): str(row[name]) for name in row.index if name not in RESERVED},
        tokens=tuple(map(str, row["tokens"])),
        spans=tuple(dict(span) for span in row["spans"]),
        token_ids=tuple(map(int, row["token_ids"])),
        layers=tuple(layers),
        values=values,
        title=title,
        notes=tuple(notes),
        units=units,
        direction=direction,
        opening=opening,
        refused=tuple(refused),
    )
