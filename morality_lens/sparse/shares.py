"""A direction's projection split exactly over features and what they leave, and their effects."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from morality_lens.interactions.carried import without_refits
from morality_lens.interactions.cube import factors_of
from morality_lens.interactions.curves import Resampled, item_contrasts
from morality_lens.interactions.effects import factorial_effects
from morality_lens.interactions.numbers import interval_of, with_bounds
from morality_lens.interactions.ratios import ratio_of_means
from morality_lens.probes.probe import Probe
from morality_lens.runs.run import Run
from morality_lens.sparse.autoencoder import SparseAutoencoder
from morality_lens.sparse.checking import batches, check_sae, places_of, refuse_mismatch

OTHERS, ERROR, BIAS = "other features", "error", "decoder bias"
SUMS = ("named features", OTHERS, ERROR, BIAS)
"""The parts whose shares are given."""
SHARES = ("share", "share_low", "share_high")


def split_direction(
    run: Run,
    sae: SparseAutoencoder,
    probe: Probe,
    *,
    features: Sequence[int],
    site: str = "answer_start",
    rounds: Sequence[int] | None = None,
    anyway: bool = False,
) -> xr.Dataset:
    """Projections on a probe's direction as a sum over sparse features and what they leave.

    A residual is the sum over features of activation times decoder row, the decoder's bias and the error; so
    its projection is the sum of each one's projection, exactly.

    Args:
        run: a run that stored residuals at the autoencoder's layer.
        sae: from ``load_sae``.
        probe: fitted on the same model; its direction at the autoencoder's layer is taken.
        features: the features that are shown one by one.
        site: of the residuals.
        rounds: of the residuals; None takes all.
        anyway: split them though more than half of their variance is left unexplained.

    Returns:
        ``contribution`` [item, factors, round, component] with components ``feature 7`` and so on, ``other
        features``, ``error`` and ``decoder bias``; ``projection`` [...], the probe's own;
        ``attrs["completeness"]``: the largest distance of the sum and the midpoint to the projection.

    Raises:
        ValueError: another model, no direction at that layer, or what ``features`` refuses.

    Examples:
        >>> parts = ml.sparse.split_direction(run, sae, probe, features=[0, 1])
        >>> parts["component"].values.tolist()
        ['feature 0', 'feature 1', 'other features', 'error', 'decoder bias']
        >>> parts.attrs["completeness"] < 1e-4
        True
    """
    probe.refuse_other_model(run)
    own = probe.at_layers([sae.layer])
    named = list(dict.fromkeys(int(n) for n in features))
    wrong = [n for n in named if not 0 <= n < sae.n_features]
    if wrong or not named:
        raise ValueError(
            f"the autoencoder has the features 0 to {sae.n_features - 1}; got "
            f"{wrong[0] if wrong else 'none'}."
        )
    places = places_of(run, sae, [site], rounds)
    said = refuse_mismatch(check_sae(run, sae, sites=[site], rounds=rounds), anyway=anyway)
    direction = own.direction.values[0].astype(np.float64)
    names = [*(f"feature {n}" for n in named), OTHERS, ERROR, BIAS]
    shape = (len(run.asked), *map(len, run.design.levels.values()), len(places["round"]))
    values, whole = np.full((*shape, len(names)), np.nan), np.full(shape, np.nan)
    for batch in batches(run, sae, places):
        points = batch.points
        there = np.flatnonzero(np.isfinite(points).all(axis=1))
        parts, sums = np.full((len(points), len(names)), np.nan), np.full(len(points), np.nan)
        for step in sae.steps(len(there)):
            at = there[step]
            parts[at], sums[at] = _parts(sae, points[at], direction, named)
        values[batch.items] = parts.reshape(len(batch.items), *shape[1:], len(names))
        whole[batch.items] = sums.reshape(len(batch.items), *shape[1:])
    found = xr.Dataset(
        {
            "contribution": (("item", *run.design.levels, "round", "component"), values),
            "projection": (("item", *run.design.levels, "round"), whole + float(own.intercept[0])),
        },
        coords={
            "item": list(run.asked),
            "cluster": ("item", run.residuals["cluster"].values),
            **run.design.coords,
            "round": places["round"],
            "component": names,
        },
    )
    sample = run.residuals.isel(item=[0], round=[0], site=[0]).sel(layer=[sae.layer])
    attrs = {**without_refits(own.project(sample).attrs), "checked": said, "layer": sae.layer, "site": site}
    for name in found.data_vars:
        found[name].attrs.update(attrs)
    gap = np.nanmax(np.abs(values.sum(axis=-1) - whole), initial=0.0)
    return found.assign_attrs({**attrs, "completeness": float(gap), "sae": repr(sae)})


def _parts(
    sae: SparseAutoencoder, points: np.ndarray, direction: np.ndarray, named: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Each part's projection, and that of the residual itself."""
    scale, shift = sae.scales(points)
    active = sae.encode(points).astype(np.float64) * scale[:, None]
    along = sae.decoder.astype(np.float64) @ direction
    each = active[:, list(named)] * along[list(named)]
    every = active @ along
    bias = scale * float(sae.decoder_bias.astype(np.float64) @ direction) + shift * direction.sum()
    whole = points.astype(np.float64) @ direction
    others = every - each.sum(axis=1)
    return np.column_stack([each, others, whole - every - bias, bias]), whole


def direction_shares(
    parts: xr.Dataset, factors: Sequence[str] | None = None, *, how: Resampled = Resampled()
) -> xr.Dataset:
    """The effect of every part of a split projection, and the share of the whole effect that it carries.

    An effect is linear, so that the parts' effects add up to the projection's.

    Args:
        parts: from :func:`morality_lens.sparse.split_direction`.
        factors: as in ``factorial_effects``.
        how: resampling.

    Returns:
        As ``factorial_effects`` by ``component`` (p corrected over components and rounds), the effect of the
        whole projection as ``whole``, ``whole_low``, ``whole_high`` (pointwise), and by ``part`` (``named
        features`` together, ``other features``, ``error``, ``decoder bias``) ``share``, ``share_low``,
        ``share_high``: of the whole effect, with Fieller's interval. No share where the whole effect is not
        distinguishable from zero; ``attrs["refused"]`` says so.

    Raises:
        ValueError: what ``factorial_effects`` refuses, or parts that do not add up.

    Examples:
        >>> parts = ml.sparse.split_direction(run, sae, probe, features=[0, 1])
        >>> found = ml.sparse.direction_shares(parts)
        >>> total = found["share"].sel(effect="instruction", round=2).sum("part")
        >>> bool(abs(total - 1) < 1e-4)
        True
    """
    names = factors_of(parts["projection"]) if factors is None else tuple(factors)
    settings = {"draws": how.draws, "alpha": how.alpha, "seed": how.seed}
    effects = factorial_effects(parts["contribution"], names, family=("component", "round"), **settings)
    whole = factorial_effects(parts["projection"], names, family=("round",), **settings)
    gap = float(np.abs(effects["estimate"].sum("component") - whole["estimate"]).max())
    allowed = 1e-9 + 8 * float(parts.attrs["completeness"])
    if not gap <= allowed + 1e-9 * float(np.abs(parts["contribution"]).max()):
        raise ValueError(
            f"the parts' effects add up to the projection's but for {gap:.1e}, where rounding allows "
            f"{allowed:.1e}; the parts were changed after they were read."
        )
    sums = _sums(parts["contribution"])
    top, bottom = item_contrasts(sums, names), item_contrasts(parts["projection"], names)
    shares = ratio_of_means(top, bottom, alpha=how.alpha)
    moves = np.abs(whole["estimate"]) > 1e-9 * np.abs(whole["cell_mean"]).max()
    found = effects.assign(whole=whole["estimate"], whole_low=whole["ci_low"], whole_high=whole["ci_high"])
    for name, part in (("share", "ratio"), ("share_low", "low"), ("share_high", "high")):
        found[name] = shares[part].where(moves)
    return found.assign_attrs(
        sum_error=gap,
        refused=shares.attrs["refused"],
        **{name: parts.attrs.get(name, "") for name in ("layer", "site", "sae", "checked")},
    )


def _sums(contribution: xr.DataArray) -> xr.DataArray:
    """The named features together, and the other parts."""
    names = [str(n) for n in contribution["component"].values]
    own = [n for n in names if n.startswith("feature ")]
    together = contribution.sel(component=own).sum("component", skipna=False)
    rest = contribution.sel(component=list(SUMS[1:])).rename(component="part")
    return xr.concat(
        [together.expand_dims(part=[SUMS[0]]), rest], "part", coords="minimal", compat="override"
    )


def describe_shares(found: xr.Dataset, effect: str, *, round: int | None = None) -> str:
    """Which share of an effect on the direction named features carry, in a sentence.

    Args:
        found: from :func:`direction_shares`.
        effect: its name.
        round: the round; None: the last.

    Examples:
        >>> parts = ml.sparse.split_direction(run, sae, probe, features=[0, 1])
        >>> print(ml.sparse.describe_shares(ml.sparse.direction_shares(parts), "instruction"))
        instruction in round 2: ... moral-immoral gap. Of it named features carry ...
    """
    number = found["round"].values.tolist()[-1] if round is None else round
    one = found.sel(effect=effect, round=number)
    whole = interval_of(one, "whole", "whole_low", "whole_high", signed=True)
    head = f"{effect} in round {number}: {whole} {found.attrs.get('units', '')}".rstrip()
    if not np.isfinite(one["share"]).all():
        return f"{head}, not distinguishable from zero, so no share is given."
    ends = {part: [float(one[name].sel(part=part)) for name in SHARES] for part in SUMS[:3]}
    said = [f"{part} carry {with_bounds(*three)}" for part, three in ends.items()]
    return f"{head}. Of it {', '.join(said).replace('error carry', 'what they leave carries')}."
