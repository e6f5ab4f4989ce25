"""What is measured when activations are changed: log-odds, probabilities, projections."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from morality_lens.circuits.settings import Reading
from morality_lens.design import SITES
from morality_lens.items.kinds import Item, Rating
from morality_lens.models import decoding
from morality_lens.models.hooks import KINDS
from morality_lens.models.loading import ModelRecord
from morality_lens.models.suffixes import Outcome
from morality_lens.probes.projecting import projections
from morality_lens.rounds.endings import line_ends
from morality_lens.rounds.replay import reply_tokens
from morality_lens.runs.passages import Passage
from morality_lens.runs.run import Run

TAIL = {"probability": "option", "projection": "read_layer"}
"""The own dim of an array of :meth:`Measure.read`."""


def reply_log_probabilities(
    logits: Float[Tensor, "row vocab"], letters: Sequence[Sequence[int]]
) -> Float[Tensor, "row reply"]:
    """Log-probability, in float64, that an answer begins with each reply's sign, by any of its tokens."""
    log = torch.log_softmax(logits.double(), dim=-1)
    return torch.stack([log[:, list(tokens)].logsumexp(-1) for tokens in letters], dim=-1)


def good_log_odds(log: Any, item: Item) -> Any:
    """Log-odds of the item's good reply: its log-probability less the mean of the other replies'.

    Args:
        log: [..., reply], log-probabilities as an array or a tensor; entries past the item's last reply are
            ignored.
        item: names a good reply.
    """
    assert item.good is not None  # callers refuse items that name none
    others = [reply for reply in range(len(item.replies)) if reply != item.good]
    return log[..., item.good] - log[..., others].mean(-1)


def log_odds_of(run: Run, items: Sequence[str], round: int) -> xr.DataArray:
    """The run's own log-odds of the correct option in a round, by item and the factors.

    The log of its probability less the mean log of the others'.

    Raises:
        ValueError: items that name no correct option.
    """
    if not run.names_good:
        raise ValueError("log-odds of the correct option need items that name one; these name none.")
    stored = run.option_probabilities.sel(item=list(items), round=round).load()
    stored = stored.transpose("item", *run.design.names, "option")
    log = np.log(stored.values)
    values = np.empty(log.shape[:-1])
    for i, item in enumerate(run.asked[name] for name in items):
        values[i] = good_log_odds(log[i], item)
    return stored.isel(option=0, drop=True).copy(data=values).rename("log_odds")


def read_layers(record: ModelRecord, layers: Sequence[int] | None, what: str) -> list[int]:
    """The requested layers.

    Raises:
        ValueError: an unknown kind of activation or layer.
    """
    if what not in KINDS:
        raise ValueError(f"what is patched is one of {', '.join(KINDS)}; got {what!r}.")
    known = list(range(-1 if what == "residual" else 0, record.n_layers))
    chosen = known if layers is None else list(layers)
    wrong = [layer for layer in chosen if layer not in known]
    if wrong or not chosen:
        raise ValueError(f"layers of {what} are {known[0]} to {known[-1]}; got {wrong or 'none'}.")
    return chosen


# --------------------------------------------------------------------------------------------- measures
@dataclass(frozen=True, kw_only=True, eq=False)
class Measure:
    """What is read of a pass: options, projections, answers.

    Attributes:
        record: of the model.
        letters: tokens of each reply's sign; none where items have no replies.
        items: by their ids.
        direction: [layer, d_model], or None.
        intercept: [layer].
        site: where the projection is read.
        answers: whether answers are generated.
        limit: most tokens of an answer.
    """

    record: ModelRecord
    letters: tuple[tuple[int, ...], ...]
    items: Mapping[str, Item] = field(default_factory=dict)
    direction: Float[np.ndarray, "layer d_model"] | None = None
    intercept: Float[np.ndarray, " layer"] | None = None
    site: str = "answer_start"
    answers: bool = False
    limit: int = 16

    @classmethod
    def of(cls, record: ModelRecord, run: Run, reading: Reading) -> "Measure":
        """What can be read of a run's items.

        Raises:
            ValueError: nothing can, or an unknown site.
        """
        letters, probe = reply_tokens(record, run), reading.probe
        if reading.site not in SITES:
            raise ValueError(f"the projection is read at {', '.join(SITES)}; got {reading.site!r}.")
        if not letters and probe is None and not reading.answers:
            raise ValueError("these items have no options; give a probe, or answers=True.")
        return cls(
            record=record,
            letters=letters,
            items=run.asked,
            direction=None if probe is None else probe.direction.values.astype(np.float64),
            intercept=None if probe is None else probe.intercept.values.astype(np.float64),
            site=reading.site,
            answers=reading.answers,
            limit=int(run.manifest["study"]["limits"]["answer_tokens"]),
        )

    @property
    def speaking(self) -> bool:
        """Whether replies have to be generated."""
        return self.answers or (self.direction is not None and self.site != "answer_start")

    def read(self, passed: Outcome, names: Sequence[str], shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Arrays [*shape, item, ...] of a pass in whose rows the item varies fastest."""
        size = (*shape, len(names))
        items = [self.items[name] for name in names]
        found = self._replies(passed, items, size) if self.letters else {}
        reply = self._generated(passed, items * math.prod(shape)) if self.speaking else None
        if self.direction is not None and self.intercept is not None:
            at = self._residuals(passed, reply).double().cpu().numpy()
            values = projections(at, self.direction, self.intercept)
            found["projection"] = values.reshape(*size, -1)
        if reply is not None and self.answers:
            texts = self.record.renderer.tokenizer.batch_decode(reply.tokens, skip_special_tokens=True)
            found["answer"] = np.array([t.strip() for t in texts], dtype=object).reshape(size)
        return found

    def _replies(
        self, passed: Outcome, items: Sequence[Item], size: tuple[int, ...]
    ) -> dict[str, np.ndarray]:
        """Probabilities of the replies, and what follows from them for items of this kind."""
        log = reply_log_probabilities(passed.logits, self.letters).cpu().numpy().reshape(*size, -1)
        odds, rating, probability = (np.full(s, np.nan) for s in (size, size, log.shape))
        for i, item in enumerate(items):
            own = log[..., i, : len(item.replies)]
            shares = np.exp(own - own.max(-1, keepdims=True))
            shares /= shares.sum(-1, keepdims=True)
            probability[..., i, : len(item.replies)] = shares
            if item.good is not None:
                odds[..., i] = good_log_odds(own, item)
            if isinstance(item, Rating):
                rating[..., i] = shares @ np.array(item.measures[0].weights)
        found = {}
        if all(item.good is not None for item in items):
            found["log_odds"] = odds
        if all(isinstance(item, Rating) for item in items):
            found["rating"] = rating
        return {**found, "probability": probability}

    def _generated(self, passed: Outcome, items: Sequence[Item]) -> decoding.Reply:
        assert passed.batch is not None  # kept whenever replies are generated
        return decoding.generate(
            self.record.lm,
            passed.batch,
            passed.logits,
            limit=self.limit,
            stops=self.record.stops,
            ends=line_ends(self.record.renderer, items),
            read=self.direction is not None and self.site != "answer_start",
        )

    def _residuals(self, passed: Outcome, reply: decoding.Reply | None) -> Float[Tensor, "row layer d_model"]:
        """Where the projection is read: at the prompt's last token, or in the answer."""
        if reply is None or self.site == "answer_start":
            return passed.residuals
        return reply.end if self.site == "answer_end" else reply.mean


# --------------------------------------------------------------------------------------------- pieces
def dims_of(name: str, *outer: str) -> tuple[str, ...]:
    """Dims of an array of :meth:`Measure.read` that was measured with an intervention.

    Without one, its name begins with ``target_`` or ``source_``, and it has no outer dims.
    """
    plain = name.removeprefix("target_").removeprefix("source_")
    tail = (TAIL[plain],) if plain in TAIL else ()
    return ("item", *(outer if name == plain else ()), *tail)


def widened_places(rows: Sequence[Int[np.ndarray, " _"]]) -> Int[Tensor, "row place"]:
    """Rows of places of one length; shorter ones repeat their first place."""
    width = max(map(len, rows))
    return torch.tensor(np.stack([np.concatenate([r, np.full(width - len(r), r[0])]) for r in rows]))


def slices(units: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """The units, ``size`` at a time."""
    iterator = iter(units)
    while some := list(itertools.islice(iterator, size)):
        yield some


def passage_prompt(passage: Passage, round: int) -> tuple[int, ...]:
    """The tokens up to and with the one whose logits choose the answer's first."""
    return passage.token_ids[: passage.places("answer_start", round)[0] + 1]
