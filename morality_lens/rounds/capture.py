"""What is captured of a batch while it is played: residuals at the sites, and probabilities of replies."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from morality_lens.design import Design
from morality_lens.dialogues import rendering
from morality_lens.dialogues.rendering import Renderer
from morality_lens.items.kinds import Item
from morality_lens.models.loading import ModelRecord
from morality_lens.rounds.row import Row


class Capture:
    """Arrays of one batch, filled while it is played; what is not captured stays NaN."""

    def __init__(
        self,
        record: ModelRecord,
        design: Design,
        items: Sequence[Item],
        prefix: str = "",
        layers: Sequence[int] | None = None,
    ) -> None:
        self.design = design
        everything = range(-1, len(record.lm.blocks))
        self.layers = [layer + 1 for layer in (everything if layers is None else layers)]
        shape = (len(items), len(design.conditions), design.n_rounds)
        signs = sign_tokens(record.renderer, items, prefix)
        size = (*shape, len(design.sites), len(self.layers), record.d_model)
        self.residuals = np.full(size, np.nan, np.float32)
        self.probabilities = np.full((*shape, len(signs)), np.nan)
        self.mass = np.full(shape, np.nan)
        self.signs = tuple(signs.values()) if all(signs.values()) else ()

    def sites(self, *, answering: bool) -> list[str]:
        """The sites that the next turns may contain; ``answering``: their reply is the answer."""
        segments = [s for s in self.design.sites if s in self.design.segments]
        return segments + [s for s in self.design.sites if s == "answer_start" and answering]

    def store(
        self,
        rows: Sequence[Row],
        site: str,
        values: Tensor | np.ndarray,
        present: Bool[np.ndarray, " row"] | None = None,
    ) -> None:
        """Store one site's residuals of all rows, for every cell that a row represents."""
        if site not in self.design.sites:
            return
        where = self.design.sites.index(site)
        block = (values.cpu().numpy() if isinstance(values, Tensor) else values)[:, self.layers]
        for r, row in enumerate(rows):
            if present is None or present[r]:
                for cell in row.cells:
                    self.residuals[row.place, cell, row.number, where] = block[r]

    def options(self, rows: Sequence[Row], logits: Float[Tensor, "row vocab"]) -> None:
        """Exact probability of each reply's sign, a letter or a digit, as the answer's first token."""
        if not self.signs:
            return
        shares = torch.softmax(logits.double(), dim=-1)
        each = torch.stack([shares[:, list(t)].sum(-1) for t in self.signs], dim=-1).cpu().numpy()
        for r, row in enumerate(rows):
            if row.thinking:
                continue
            own = each[r, : len(row.item.replies)]
            for cell in row.cells:
                self.probabilities[row.place, cell, row.number, : len(own)] = own / own.sum()
                self.mass[row.place, cell, row.number] = own.sum()


def sign_tokens(renderer: Renderer, items: Sequence[Item], prefix: str = "") -> dict[str, list[int]]:
    """The tokens that begin a reply with each of its signs, letter or digit; empty without signs.

    Args:
        renderer: of the model.
        items: of a run.
        prefix: how every answer begins.
    """
    signs = max((item.replies for item in items), key=len, default=())
    return dict(zip(signs, map(list, rendering.first_tokens(renderer, signs, prefix)), strict=True))


def site_weights(
    rows: Sequence[Row],
    sites: Sequence[str],
    offsets: Sequence[int],
    new: Sequence[Sequence[int]],
) -> tuple[Float[np.ndarray, "row site token"], Bool[np.ndarray, "row site"]]:
    """The new tokens that make up each site, as weights of a mean, and which sites are present.

    What the model generated is read while it is; it is among the new tokens only where the template changed
    what was said before it, and then holds for the dialogue as it is now.

    Args:
        rows: the dialogues, their transcripts with the new tokens.
        sites: what may be read.
        offsets: number of tokens that each row had before.
        new: the tokens that are new.
    """
    weights = np.zeros((len(rows), len(sites), max(map(len, new))), np.float32)
    present = np.zeros((len(rows), len(sites)), bool)
    for r, row in enumerate(rows):
        for s, site in enumerate(sites):
            if site == "answer_start":
                start, stop = len(new[r]) - 1, len(new[r])
            else:
                span = row.transcript.span(site, row.number)
                if span is None:
                    continue
                start, stop = span.start - offsets[r], span.stop - offsets[r]
            if 0 <= start < stop:
                weights[r, s, start:stop] = 1.0 / (stop - start)
                present[r, s] = True
    return weights, present
