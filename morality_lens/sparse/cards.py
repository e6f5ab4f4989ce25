"""What a feature is in one run: how often it is on, and the dialogues where it is on most."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import xarray as xr

from morality_lens.design import Condition
from morality_lens.interactions.cube import factors_of
from morality_lens.runs.passages import passages
from morality_lens.runs.run import Run

AROUND = 12
"""Tokens shown before and with a site."""
AT_SITES = (
    "A run stores residuals at its sites alone: shown are the items, conditions and sites where the feature "
    "is on most, with the text there. Which tokens switch it on is told by reading the dialogues once more "
    "(ml.circuits.feature_tokens(model, run, sae, features))."
)


@dataclass(frozen=True, kw_only=True)
class FeatureCard:
    """What is known of one feature in one run.

    Attributes:
        feature: its number.
        frequency: share of the residuals read where it is on.
        mean: its mean activation there.
        largest: its largest.
        top: the places where it is on most, at most one for each item: item, condition, round, site,
            activation, text.
        tokens: the tokens that switch it on most, where the dialogues were read once more.
        note: what the places are.

    Examples:
        >>> found = ml.features(run, sae, sites=["answer_start"])
        >>> (card,) = ml.sparse.feature_cards(run, found, features=[3], top=1)
        >>> print(card)
        feature 3: on in ...
          ...
    """

    feature: int
    frequency: float
    mean: float
    largest: float
    top: tuple[dict[str, Any], ...]
    tokens: tuple[dict[str, Any], ...] = ()
    note: str = AT_SITES

    def plain(self) -> dict[str, Any]:
        """The card as JSON holds it."""
        return asdict(self)

    def __str__(self) -> str:
        head = f"feature {self.feature}: on in {self.frequency:.1%}, mean {self.mean:.3g}"
        head += f", at most {self.largest:.3g}"
        rows = [
            f"  {row['activation']:.3g}  {row['item']}, {row['condition']}, round {row['round']}, "
            f"{row['site']}: {row['text']!r}"
            for row in self.top
        ]
        rows += [
            f"  {row['activation']:.3g}  token {row['token']!r} in {row['text']!r}" for row in self.tokens
        ]
        return "\n".join([head, *rows])


def feature_cards(
    run: Run,
    y: xr.DataArray,
    *,
    features: Sequence[int],
    top: int = 5,
    tokens: Mapping[int, Sequence[dict[str, Any]]] | None = None,
) -> list[FeatureCard]:
    """A card for each named feature: how often it is on, and where most.

    Args:
        run: the run.
        y: from :func:`morality_lens.sparse.features`, which holds these features.
        features: their numbers.
        top: places shown of each, at most one for each item.
        tokens: from ``ml.circuits.feature_tokens``; None where the dialogues were not read again.

    Raises:
        ValueError: a feature that ``y`` does not hold.

    Examples:
        >>> found = ml.features(run, sae, sites=["answer_start"])
        >>> (card,) = ml.sparse.feature_cards(run, found, features=[0], top=2)
        >>> len(card.top), sorted(card.top[0])
        (2, ['activation', 'condition', 'item', 'round', 'site', 'text'])
    """
    known = y["feature"].values.tolist()
    wanted = [int(n) for n in features]
    wrong = [n for n in wanted if n not in known]
    if wrong:
        raise ValueError(f"feature {wrong[0]} was not kept; read it with choice=Choice(named=[...]).")
    return [_card(run, y.sel(feature=n), top, (tokens or {}).get(n, ())) for n in wanted]


def _card(run: Run, one: xr.DataArray, top: int, tokens: Sequence[dict[str, Any]]) -> FeatureCard:
    """The card of one feature."""
    moved = one.transpose("item", *factors_of(one), "round", "site")
    table = np.nan_to_num(moved.values.reshape(moved.sizes["item"], -1), nan=-np.inf)
    best = table.argmax(axis=1)
    value = table[np.arange(len(table)), best]
    order = [i for i in np.argsort(-value, kind="stable")[:top] if value[i] > 0]
    on = one.values[np.isfinite(one.values) & (one.values > 0)]
    return FeatureCard(
        feature=int(one["feature"]),
        frequency=float(one["frequency"]),
        mean=float(on.mean()) if on.size else 0.0,
        largest=float(on.max(initial=0.0)),
        top=tuple(_place(run, moved, int(i), int(best[i]), float(value[i])) for i in order),
        tokens=tuple(dict(row) for row in tokens),
        note="" if tokens else AT_SITES,
    )


def _place(run: Run, moved: xr.DataArray, item: int, at: int, value: float) -> dict[str, Any]:
    """One place where a feature is on: its names, and the text there."""
    where = np.unravel_index(at, moved.shape[1:])
    labels = {d: moved[d].values[i].item() for d, i in zip(moved.dims[1:], where, strict=True)}
    number, site = int(labels.pop("round")), str(labels.pop("site"))
    condition = Condition(**{str(name): str(level) for name, level in labels.items()})
    name = str(moved["item"].values[item])
    return {
        "item": name,
        "condition": condition.label,
        "round": number,
        "site": site,
        "activation": value,
        "text": _text(run, name, condition, number, site),
    }


def _text(run: Run, item: str, condition: Condition, number: int, site: str) -> str:
    """The tokens of a site; of a single one also those before it."""
    (passage,) = passages(run, items=[item], conditions=[condition], rounds=[number])
    rows = run.select(run.transcripts, item, condition).sort_values("round")
    row = rows.iloc[0] if len(rows) == 1 else rows[rows["round"] == number].iloc[0]
    places = passage.places(site, number)
    if not places:
        return ""
    start = min(places[0], max(0, places[-1] + 1 - AROUND))
    return "".join(str(t) for t in row["tokens"][start : places[-1] + 1])
