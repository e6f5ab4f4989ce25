"""Factorial effects of a projection, split over the components and segments that make it."""

import re
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
import xarray as xr

from morality_lens.interactions.contrasts import Comparison
from morality_lens.interactions.effects import Method, factorial_effects
from morality_lens.interactions.names import effect_called
from morality_lens.interactions.numbers import interval_of, signed

Detail = Literal["component", "layer", "segment", "layer and segment", "head and segment"]
LEVELS_OF_DETAIL: tuple[Detail, ...] = get_args(Detail)
CONSTANT = "constant"
"""Component of an answer's log-odds that no head or MLP writes: biases, and the entropy of the tokens that a
letter can begin with. Where letters have one token each no condition changes it."""
TOKENS = "tokens of a letter"
"""The name of that component where conditions do change it."""


def regroup(parts: xr.Dataset, by: str) -> xr.DataArray:
    """Contributions to a projection, added up; at every level of detail they make the same whole.

    Args:
        parts: from :func:`morality_lens.circuits.attribute` or ``attribute_answer``.
        by: ``component`` (embedding, every head, MLP and bias); ``layer`` (embedding, attention and MLP of
            every layer); ``segment`` (what all heads take from each segment, all MLPs, ...); ``layer and
            segment`` or ``head and segment`` (the same for every layer's heads, for every head).

    Returns:
        [item, conditions, round, component] without constants that no condition changes (a probe's midpoint);
        what depends on which of its tokens a letter begins with is ``tokens of a letter``. Along
        ``component`` the coordinates ``kind`` (embedding, position, head, attention, bias, MLP, tokens),
        ``block`` (-1 where none), ``head`` (-1 where none or several) and ``segment`` (empty where none).

    Raises:
        ValueError: another level of detail.
    """
    if by not in LEVELS_OF_DETAIL:
        raise ValueError(f"contributions can be seen by {', '.join(LEVELS_OF_DETAIL)}; got {by!r}.")
    rows: list[tuple[str, str, int, int, str, xr.DataArray]] = []
    split = by.endswith("segment")
    for name in map(str, parts["component"].values):
        kind, block, head = _read_name(name)
        one = parts["contribution"].sel(component=name, drop=True)
        if name == "midpoint" or (kind == "head" and split) or (name == CONSTANT and not _varies(one)):
            continue
        if name == CONSTANT:
            rows.append((TOKENS, "tokens", -1, -1, "", one))
            continue
        grouped = {"component": name, "head and segment": name}.get(by) or _grouped(kind, block, by)
        rows.append((grouped, _kind_in(kind, by), -1 if by == "segment" else block, head, "", one))
    if split:
        for name in map(str, parts["head"].values):
            _, block, head = _read_name(name)
            who = {"segment": "heads", "layer and segment": f"L{block} heads"}.get(by, name)
            for segment in map(str, parts["segment"].values):
                one = parts["by_segment"].sel(head=name, segment=segment, drop=True)
                where = -1 if by == "segment" else block
                rows.append((f"{who} reading {segment}", "head", where, head, segment, one))
    names = list(dict.fromkeys(row[0] for row in rows))
    first = {row[0]: row for row in reversed(rows)}
    dims = [d for d in parts["contribution"].dims if d != "component"]
    total = {name: np.zeros([parts.sizes[d] for d in dims]) for name in names}
    for name, *_, one in rows:
        total[name] = total[name] + one.transpose(*dims).values
    single = by in ("component", "head and segment")
    coords = {
        "component": names,
        "kind": ("component", [first[n][1] for n in names]),
        "block": ("component", [first[n][2] for n in names]),
        "head": ("component", [first[n][3] if single else -1 for n in names]),
        "segment": ("component", [first[n][4] for n in names]),
    }
    template = parts["contribution"].isel(component=0, drop=True)
    return xr.DataArray(
        np.stack([total[name] for name in names], axis=-1),
        dims=(*dims, "component"),
        coords={**template.coords, **coords},
        name="contribution",
        attrs=dict(parts["contribution"].attrs),
    )


def attribute_effects(
    parts: xr.Dataset,
    factors: Sequence[str] | None = None,
    *,
    by: Detail = "component",
    at: Mapping[str, str] | None = None,
    compare: Comparison | Mapping[str, str | tuple[str, str]] = "total",
    family: Sequence[str] = ("component", "round"),
    method: Method = "auto",
    draws: int = 2000,
    alpha: float = 0.05,
    seed: int = 0,
) -> xr.Dataset:
    """Which components carry each factorial effect: a split that adds up, with the same draws for all.

    An effect is linear in the projection and the projection is the sum of its components, so the effects of
    the components add up to the effect of the projection; that is checked.

    Args:
        parts: from :func:`morality_lens.circuits.attribute` or ``attribute_answer``, of all cells.
        factors: as in :func:`morality_lens.interactions.factorial_effects`, as are the next ones.
        by: the level of detail, see :func:`regroup`.
        at: levels at which factors are held.
        compare: which levels a contrast is between.
        family: dims over which p is corrected together.
        method: of resampling.
        draws: resamples.
        alpha: level of intervals and bands.
        seed: of the draws.

    Returns:
        As ``factorial_effects``, with the dim ``component`` and its coordinates, and the effect of the whole
        projection as ``whole``, ``whole_low`` and ``whole_high`` (pointwise). ``attrs["sum_error"]`` is the
        largest distance of the components' sum to it.

    Raises:
        ValueError: what ``factorial_effects`` refuses, or parts that do not add up.

    Examples:
        >>> split = ml.interactions.attribute_effects(parts, by="layer", draws=200)
        >>> split["estimate"].dims
        ('effect', 'round', 'component')
        >>> place = {"effect": "instruction", "round": 2}
        >>> whole = effects["estimate"].sel(site="answer_start", layer=3, **place)
        >>> bool(abs(split["estimate"].sel(place).sum() - whole) < 1e-4)
        True
    """
    split = regroup(parts, by)
    settings = {"at": at, "compare": compare, "method": method, "draws": draws, "alpha": alpha, "seed": seed}
    effects = factorial_effects(split, factors, family=family, **settings)
    whole = factorial_effects(
        parts["projection"], factors, family=[d for d in family if d == "round"], **settings
    )
    gap = float(np.abs(effects["estimate"].sum("component") - whole["estimate"]).max())
    # Every cell misses by rounding alone; the contrast of eight cells by eight times as much at most.
    largest = float(np.abs(parts["contribution"]).max())
    allowed = (1e-9 + 8 * float(parts.attrs["completeness"])) * largest
    if not gap <= allowed:
        raise ValueError(
            f"the components' effects add up to the projection's but for {gap:.1e}, where rounding allows "
            f"{allowed:.1e}; the parts were changed after they were read."
        )
    kept = {name: split.coords[name] for name in ("kind", "block", "head", "segment")}
    return (
        effects.assign(whole=whole["estimate"], whole_low=whole["ci_low"], whole_high=whole["ci_high"])
        .assign_coords(kept)
        .assign_attrs(
            by=by,
            sum_error=gap,
            layer=parts.attrs.get("layer", ""),
            option_note=parts.attrs.get("option_note", ""),
        )
    )


def describe_components(effects: xr.Dataset, effect: str, *, round: int | None = None, top: int = 3) -> str:
    """Which components carry an effect, in a sentence, with the note on the options' letters if there is one.

    Args:
        effects: from :func:`attribute_effects`.
        effect: its name.
        round: the round; None: the last.
        top: components that are named.

    Examples:
        >>> split = ml.interactions.attribute_effects(parts, by="layer", draws=200)
        >>> print(ml.interactions.describe_components(split, "instruction", top=1))
        instruction in round 2: ... moral-immoral gap. Carried by L3 attention ...
    """
    found = _sentence(effects, effect, round=round, top=top)
    return " ".join(text for text in (found, str(effects.attrs.get("option_note", ""))) if text)


def _sentence(effects: xr.Dataset, effect: str, *, round: int | None, top: int) -> str:
    """The components that carry an effect."""
    one = at_place(effects, effect, round)
    level = f"{100 * (1 - float(effects.attrs['alpha'])):g} %"
    when = f" in round {int(one['round'])}" if "round" in one.coords else ""
    whole = interval_of(one, "whole", "whole_low", "whole_high", signed=True)
    estimate = f"{one['effect'].item()}{when}: {whole} {effects.attrs.get('units', '')}".rstrip()
    order = np.argsort(-np.abs(one["estimate"].values), kind="stable")
    clear = [i for i in order if float(one["p_adj"][i]) <= float(effects.attrs["alpha"])]
    if not clear:
        return f"{estimate}. No {effects.attrs['by']} is distinguishable from zero."
    named = [
        f"{one['component'].values[i]} "
        + interval_of(one.isel(component=i), "estimate", "band_low", "band_high", signed=True)
        for i in clear[:top]
    ]
    rest = float(one["whole"]) - float(one["estimate"][clear[:top]].sum())
    return (
        f"{estimate}. Carried by {'; '.join(named)} (simultaneous {level} bands; {len(clear)} of "
        f"{one.sizes['component']} are distinguishable from zero); all others together {signed(rest)}."
    )


def at_place(effects: xr.Dataset, effect: str, round: int | None) -> xr.Dataset:
    """One effect of one round.

    Raises:
        ValueError: the result has no such effect or round.
    """
    one = effects.sel(effect=effect_called(effect, effects["effect"].values, "a result by component"))
    if "round" not in one.dims:
        return one
    rounds = one["round"].values.tolist()
    if round is not None and round not in rounds:
        raise ValueError(f"no round {round} here; choose out of {rounds}.")
    return one.sel(round=rounds[-1] if round is None else round)


def _varies(constant: xr.DataArray) -> bool:
    """Whether a constant differs between the conditions of an item by more than rounding."""
    places = [dim for dim in constant.dims if dim != "item"]
    return bool((constant.max(places) - constant.min(places) > 1e-9 * (1 + abs(constant).max())).any())


def _read_name(name: str) -> tuple[str, int, int]:
    """Kind, block and head of a component."""
    found = re.fullmatch(r"L(\d+)(?:H(\d+)| (MLP|attention bias))", name)
    if found is None:
        return name, -1, -1
    block, head, rest = found.groups()
    if head is not None:
        return "head", int(block), int(head)
    return ("MLP" if rest == "MLP" else "bias"), int(block), -1


def _grouped(kind: str, block: int, by: str) -> str:
    """The name of what a component is added to."""
    if kind in ("embedding", "position"):
        return kind
    if by == "layer":
        return f"L{block} {'MLP' if kind == 'MLP' else 'attention'}"
    if by == "segment":
        return {"MLP": "all MLPs", "bias": "all attention biases"}[kind]
    return f"L{block} {'MLP' if kind == 'MLP' else 'attention bias'}"


def _kind_in(kind: str, by: str) -> str:
    return "attention" if by == "layer" and kind in ("head", "bias") else kind
