"""Factorial effects of the factors, with intervals, families and bands."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr
from einops import einsum, rearrange
from jaxtyping import Bool, Float

from morality_lens.interactions.carried import REFITS
from morality_lens.interactions.caveats import (
    check_input,
    note_on_failures,
    notes_on_cube,
    notes_on_result,
    reason_to_withhold,
    scope,
    too_many_failed,
    words_on_aliases,
    words_on_skew,
)
from morality_lens.interactions.contrasts import (
    Comparison,
    Contrasts,
    Link,
    at_suffix,
    difference_contrasts,
    read_contrasts,
)
from morality_lens.interactions.cube import (
    REPEATS,
    Cube,
    check_dims,
    check_labelled,
    factors_of,
    failed_trials,
    read_cube,
)
from morality_lens.interactions.fractions import with_aliases
from morality_lens.interactions.intervals import (
    Pointwise,
    cluster_sums,
    half_widths,
    mean_over_clusters,
    settle,
    skewness,
    unseen_share,
    with_variance,
    without_variance,
)
from morality_lens.interactions.missing_cells import Available, available_cells, worst_case_bounds
from morality_lens.interactions.refitted import (
    Refitted,
    RefusedLayers,
    effects_of_refits,
    refused_layers,
    resolve_refits,
)
from morality_lens.interactions.resampling import (
    MIN_CLUSTERS,
    Draws,
    FamilyWise,
    family_wise,
    visibly_skewed,
)

Method = Literal["auto", "pointwise", "sign-flip", "bootstrap-t"]
Missing = Literal["refuse", "available", "complete_items"]
METHODS, MISSING = get_args(Method), get_args(Missing)
ADJUSTED = ("p_adj", "band_low", "band_high")


def factorial_effects(
    y: xr.DataArray,
    factors: Sequence[str] | None = None,
    *,
    at: Mapping[str, str] | None = None,
    compare: Comparison | Mapping[str, str | tuple[str, str]] = "total",
    contrasts: xr.DataArray | None = None,
    link: Link = "identity",
    refits: xr.DataArray | None = None,
    method: Method = "auto",
    draws: int = 2000,
    alpha: float = 0.05,
    family: Sequence[str] = ("round", "layer", "axis"),
    seed: int = 0,
    missing: Missing = "refuse",
    symmetric: bool = False,
    accept_missing: bool = False,
    accept_normalised: bool = False,
) -> xr.Dataset:
    """Main effects and interactions of factors, or any contrasts of their cells, per round, site and layer.

    An effect is the mean over items of a per-item contrast on the difference scale: mean(on) - mean(off)
    over the other factors; a two-way is the difference of those simple effects, a three-way the difference of
    two-ways. This equals least squares with +-1/2 coding and item fixed effects, and (estimate/se)^2 equals
    the F of a repeated-measures ANOVA where each item is its own cluster.

    Args:
        y: one number per item and cell, with the dim ``item`` (unique ids as coordinate), a dim per factor
            with its levels as coordinate, and any other dims (round, site, layer, or none), each place of
            which gets its own effects. Repeats along ``seed`` are averaged within item and cell. Items of one
            ``cluster`` (a coordinate along ``item``) are dependent; without that coordinate each item is its
            own cluster. ``y.attrs`` may say ``units``, ``oriented`` (+ is more moral), ``normalised``,
            ``leakage`` (why these cells must not be analysed with the probe they are projected on) and
            ``trust`` (what is known of the direction), ``refits`` (as below) and ``early`` (factors that
            speak before the answer of round 0); a coordinate ``split_half`` along ``layer``, how well
            directions fitted on halves of the training data agree; a coordinate ``failed`` along items,
            factors and rounds, which answers could not be read but were counted all the same.
        factors: the names of the factors; None takes all that ``y`` has.
        at: levels at which some factors are held: simple effects, named ``instruction@cot=off``.
        compare: which levels a factor's contrast is between: ``total`` (on - off), ``content`` (on - placebo:
            what the words say) or ``format`` (placebo - off: what any words in that place do); one for all
            factors, or a mapping. Interactions are products of these contrasts, and other factors are
            averaged over their own two levels.
        contrasts: explicit weights instead, with the dim ``effect`` and a dim per factor; every row sums to
            zero, its levels may be any that ``y`` has.
        link: ``identity``; for probabilities ``logit``, or ``log1m`` = -log(1 - p).
        refits: cell means of ``y`` on refits of its direction (dim ``probe_draw``), from ``project_means``:
            their variance enters every interval, so that the question becomes whether *the* morality
            direction moves and not whether this one does. None takes those that ``y`` carries. Layers at
            which halves of the training data do not agree on a direction have an estimate only.
        method: ``pointwise`` (no corrected p), ``sign-flip`` or ``bootstrap-t`` of whole clusters, or
            ``auto``: sign-flips, and the bootstrap-t for families that are visibly skewed; no correction
            with fewer than 8 clusters.
        draws: resamples, the observed data among them.
        alpha: level of the intervals (pointwise) and bands (simultaneous).
        family: dims over which p is corrected together (max-|t|), those of them that ``y`` has; every effect
            and every index of the other dims is a family of its own, unless ``effect`` is named too.
        seed: seed of the draws.
        missing: ``refuse`` NaN; use the ``available`` cells by least squares with item fixed effects and a
            cluster jackknife; or ``complete_items`` only (a sensitivity check).
        symmetric: take the contrasts for symmetric: p and intervals of t itself, as a repeated-measures ANOVA
            gives them, without the correction for skewness.
        accept_missing: give p-values though more than 10 % of the items are incomplete, or failure rates
            (or of ``failed``) differ by more than 5 points between conditions.
        accept_normalised: take values normalised per cell, on which additive effects look like interactions.

    Returns:
        Dataset over effect and the other dims: ``estimate``, its standard error ``se`` (from items and,
        with refits, ``se_probe``), ``df`` (Bell-McCaffrey; with refits Welch-Satterthwaite), ``skew`` (of the
        estimate), pointwise ``p``, ``ci_low``, ``ci_high``; within the family ``p_adj``, ``band_low``,
        ``band_high``; per family ``critical``, the quantile of the largest |t| of its draws; and
        ``cell_mean`` over the factors and the other dims. An interval holds 0 exactly where its p is above
        ``alpha``, and a band lies around the interval. Where nothing varies between clusters the interval is
        that of :func:`morality_lens.interactions.intervals.settle`.
        Where cells are missing also ``failure`` and ``failure_p``, the same contrasts of the failure rate,
        and for 0/1 outcomes ``worst_low`` and ``worst_high``, what any values of the missing cells could
        give. ``attrs`` hold the scale, the clusters, the method, ``notes``, and ``vouch``: how far the level
        can be relied on where contrasts are skewed, else nothing.

    Raises:
        ValueError: the request cannot be answered from ``y``; the message says what to do.
        TypeError: ``y`` does not hold real numbers.

    Examples:
        >>> effects = ml.factorial_effects(moral, draws=500)
        >>> effects["effect"].values.tolist()[:4]
        ['instruction', 'cot', 'feedback', 'instruction:cot']
        >>> place = {"site": "answer_start", "layer": 3, "round": 2}
        >>> bool(effects["band_low"].sel(effect="instruction", **place) > 0)
        True
    """
    check_labelled(y, "factorial_effects")
    factors = (factors,) if isinstance(factors, str) else factors
    family = (family,) if isinstance(family, str) else family
    inference = _Inference(
        method=method, draws=draws, alpha=alpha, family=tuple(family), seed=seed, symmetric=symmetric
    )
    if missing not in MISSING:
        raise ValueError(
            f"factorial_effects takes missing= one of {MISSING}; got {missing!r}. Never impute: analyse "
            "y.isnull() as an outcome first, then use 'available'."
        )
    wanted = read_contrasts(factors_of(y) if factors is None else factors, at, compare, contrasts, y)
    wanted = with_aliases(wanted, y)
    check_dims(y, wanted.levels, wanted.at, family)
    notes = check_input(y, accept_normalised=accept_normalised)
    cube = read_cube(y.sel(wanted.at), wanted.levels, missing=missing, link=link)
    notes += notes_on_cube(cube, missing)
    refits, stale = resolve_refits(y, refits)
    if refits is not None and link != "identity":
        raise ValueError(
            f"refits of a direction are on the scale of its projections; got link={link!r}. Leave out one of "
            "the two."
        )
    refused = refused_layers(cube, REFITS in y.attrs or refits is not None, refits)
    refitted = None if refits is None else effects_of_refits(refits.sel(wanted.at), cube, wanted)
    tests = _test(cube, wanted, refitted, inference, y, refused)
    dims, shape = ("effect", *cube.rest), (len(wanted.names), *cube.rest_shape)
    families = Families.over(dims, shape, family)
    corrected = _correct(tests, families, inference)
    variables = _variables(tests, families, corrected.tests, alpha)
    if cube.n_incomplete:
        variables |= _failures(y, cube, wanted, alpha)
        notes += note_on_failures(wanted.names, variables)
        if cube.binary and cube.holes and link == "identity":
            low, high = worst_case_bounds(cube.values, wanted.matrix)
            variables |= {"worst_low": low.ravel(), "worst_high": high.ravel()}
    withheld = "" if accept_missing else reason_to_withhold(cube) or too_many_failed(y, wanted)
    if withheld:
        variables |= dict.fromkeys(("p", "ci_low", "ci_high", *ADJUSTED), np.full(tests.live.size, np.nan))
    notes += notes_on_result(
        wanted.names, shape, zero=tests.zero, constant=tests.constant, estimate=tests.judged.estimate
    )
    notes += [words_on_aliases(wanted.aliases)] if wanted.aliases else []
    notes += [*stale, *([withheld] if withheld else []), *refused.words]
    vouch = "" if symmetric or withheld else words_on_skew(wanted.names, shape, tests.skewness, tests.sizes)
    notes += [vouch] if vouch else []
    if method == "auto" and corrected.method == "pointwise":
        notes.append(f"No corrected p and no band: {corrected.reason}.")
    data: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
        name: (dims, values.reshape(shape)) for name, values in variables.items()
    }
    some = families.split(tests.live).any(axis=1)
    data["critical"] = families.label(np.where(some, corrected.tests.critical, np.nan), dims)
    lengths = [len(levels) for levels in wanted.levels.values()]
    data["cell_mean"] = ((*wanted.held, *cube.rest), tests.cells.reshape([*lengths, *cube.rest_shape]))
    attrs = {
        **_about_outcome(y, wanted, link),
        "question": "direction" if refits is not None else "this direction",
        "trust": str(y.attrs.get("trust", "")),
        "n_items": int(tests.sizes.sum()),
        "n_clusters": len(tests.sizes),
        "method": corrected.method,
        "method_reason": corrected.reason,
        "alpha": float(alpha),
        "draws": draws,
        "draws_used": corrected.tests.draws_used,
        "seed": seed,
        "family": families.words,
        "critical_pointwise": float(np.min(tests.judged.critical)),
        "vouch": vouch,
        "notes": [scope(y, refits), *notes],
        **({"aliases": wanted.aliases} if wanted.aliases else {}),
    }
    return xr.Dataset(data, coords={**cube.coords, "effect": wanted.names, **wanted.levels}, attrs=attrs)


@dataclass(frozen=True, kw_only=True)
class _Inference:
    """How p-values and bands are made; see :func:`factorial_effects`."""

    method: str
    draws: int
    alpha: float
    family: tuple[str, ...]
    seed: int
    symmetric: bool

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(
                f"factorial_effects knows the methods {METHODS}; got {self.method!r}. Cluster-mass and FDR "
                "are not offered (they name no place with a known error rate): use 'auto' for "
                "max-|t| over the family; for the absence of an effect use equivalence(...)."
            )
        if not 0 < self.alpha < 1:
            raise ValueError(
                f"factorial_effects needs alpha between 0 and 1; got {self.alpha}. Use for example 0.05."
            )
        if self.draws < 2:
            raise ValueError(f"factorial_effects needs at least 2 draws; got {self.draws}. Use 2000 or more.")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Tests:
    """One test per feature; features are effects times places.

    Attributes:
        sums: contrasts summed over the items of each cluster, on which all inference rests.
        sizes: items of each cluster.
        cells: mean of each cell.
        zero: features whose mean is zero in every cluster.
        constant: features that are the same number other than zero in every cluster.
        refused: features at layers whose direction is not that of a population of statements.
        span: the largest contrast that an item can or does show, where no change is no certainty.
        judged: estimates with every source of variance (clusters or their jackknife, refits).
        se_probe: standard deviation over refits of the probe, where some were given.
    """

    sums: Float[np.ndarray, "cluster feature"]
    sizes: Float[np.ndarray, "cluster"]
    cells: Float[np.ndarray, "cell place"]
    zero: Bool[np.ndarray, "feature"]
    constant: Bool[np.ndarray, "feature"]
    refused: Bool[np.ndarray, "feature"]
    span: Float[np.ndarray, "feature"]
    judged: Pointwise
    se_probe: Float[np.ndarray, "feature"] | None

    @property
    def live(self) -> Bool[np.ndarray, "feature"]:
        """Features that are tested by their variance between clusters."""
        return ~(self.zero | self.constant | self.refused)

    @property
    def skewness(self) -> Float[np.ndarray, "feature"]:
        """Skewness of the clusters' contrasts; 0 where they are not tested by it."""
        return np.where(self.live, skewness(self.sums - self.sizes[:, None] * self.judged.estimate), 0.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Corrected:
    """Family-wise tests, the method that made them, and why it was chosen."""

    method: str
    reason: str
    tests: FamilyWise


def _test(
    cube: Cube,
    wanted: Contrasts,
    refitted: Refitted | None,
    inference: _Inference,
    y: xr.DataArray,
    refused: RefusedLayers,
) -> _Tests:
    """Pointwise tests of all contrasts."""
    alpha = inference.alpha
    scores = _read_scores(cube, wanted)
    rounding = np.tile(cube.rounding, len(wanted.names))
    zero, constant = without_variance(scores.sums, scores.sizes, rounding)
    judged = mean_over_clusters(scores.sums, scores.sizes, alpha=alpha, symmetric=inference.symmetric)
    se = judged.se if scores.se is None else scores.se
    judged = with_variance(judged, np.where(zero | constant, 0.0, se), alpha=alpha)
    se_probe = None
    if refitted is not None:
        se_probe = refitted.se
        judged = with_variance(judged, se_probe, alpha=alpha, df=refitted.df)
    span = np.maximum(_span(cube, wanted, y), scores.largest)
    return _Tests(
        sums=scores.sums,
        sizes=scores.sizes,
        cells=scores.cells,
        zero=zero,
        constant=constant,
        refused=np.tile(refused.places, len(wanted.names)),
        span=span,
        judged=settle(judged, zero, constant, n_clusters=len(scores.sizes), alpha=alpha, span=span),
        se_probe=se_probe,
    )


def _span(cube: Cube, wanted: Contrasts, y: xr.DataArray) -> Float[np.ndarray, "feature"]:
    """The largest contrast of an outcome of whole numbers that an item can show; 0 for other outcomes.

    At round 0 all conditions share one answer, but for factors that speak before it, so no change there is
    no observation.
    """
    largest = cube.room * np.clip(wanted.matrix, 0, None).sum(axis=1)
    span = np.repeat(largest[:, None], cube.rounding.size, axis=1).reshape(-1, *cube.rest_shape)
    early = set(y.attrs.get("early", ()))
    crossed = wanted.crossed or [tuple(range(len(wanted.held)))] * len(wanted.names)
    late = [not {wanted.held[i] for i in effect} <= early for effect in crossed]
    if "round" in cube.coords:
        first = xr.DataArray(np.ones(cube.rest_shape), dims=cube.rest, coords=cube.coords)
        span[late] *= first.where(cube.coords["round"] != 0, 0.0).transpose(*cube.rest).values
    return span.ravel()


def _correct(tests: _Tests, families: "Families", inference: _Inference) -> _Corrected:
    """p and bands of every family, or none where nothing is to be corrected."""
    method, reason = _pick_method(inference.method, len(tests.sizes))
    if method == "pointwise":
        absent = FamilyWise.absent(families.n_families, families.n_tests)
        return _Corrected(method=method, reason=reason, tests=absent)
    raw_tests = 1 if inference.family else families.n_families // families.n_effects
    _check_draws(inference.draws, inference.alpha, raw_tests)
    judged = tests.judged
    sums = families.split(np.where(tests.live, tests.sums, 0.0), leading=True)
    t = np.divide(
        judged.estimate, judged.se, out=np.zeros_like(judged.se), where=tests.live & (judged.se > 0)
    )
    skewed = np.full(families.n_families, method == "bootstrap-t")
    if method == "auto" and not inference.symmetric:
        skewed = visibly_skewed(sums, tests.sizes)
    found = family_wise(
        sums,
        tests.sizes,
        families.split(t),
        families.split(judged.skew),
        skewed,
        Draws(count=inference.draws, seed=inference.seed),
        alpha=inference.alpha,
    )
    used = [name for name, some in (("sign-flip", ~skewed), ("bootstrap-t", skewed)) if some.any()]
    if method == "auto":
        reason = (
            f"auto: {int(skewed.sum())} of {len(skewed)} famil{'y' if len(skewed) == 1 else 'ies'} visibly "
            "skewed"
        )
    return _Corrected(method=" and ".join(used), reason=reason, tests=found)


def _about_outcome(y: xr.DataArray, wanted: Contrasts, link: str) -> dict[str, Any]:
    """What is compared, on which scale, as attributes of the result."""
    scales = {"identity": "difference scale", "logit": "log-odds scale", "log1m": "-log(1 - p) scale"}
    return {
        "outcome": str(y.name or "y"),
        "scale": scales[link],
        "units": str(y.attrs.get("units", "")) if link == "identity" else "",
        "factors": list(wanted.held),
        "held_at": at_suffix(wanted.at).removeprefix("@"),
        "compared": wanted.words,
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class _Scores:
    """What all inference rests on: sums of contrasts by cluster, effects along the features.

    Attributes:
        sums: of the items of each cluster.
        sizes: items of each cluster.
        cells: mean of each cell.
        largest: contrast of an item, where it exceeds rounding; 0 where cells are missing.
        se: standard errors by the jackknife, where cells are missing.
    """

    sums: Float[np.ndarray, "cluster feature"]
    sizes: Float[np.ndarray, "cluster"]
    cells: Float[np.ndarray, "cell place"]
    largest: Float[np.ndarray, "feature"]
    se: Float[np.ndarray, "feature"] | None = None


def _read_scores(cube: Cube, wanted: Contrasts) -> _Scores:
    """Contrasts of the cells, by cluster."""
    sizes = np.bincount(cube.codes).astype(np.float64)
    if cube.holes:
        found: Available = available_cells(cube.values, cube.codes, wanted.matrix)
        sums = rearrange(found.sums, "cluster effect feature -> cluster (effect feature)")
        none = np.zeros(sums.shape[1])
        return _Scores(sums=sums, sizes=sizes, cells=found.cells, largest=none, se=found.se.ravel())
    if wanted.crossed is not None:
        per_item = difference_contrasts(cube.values, len(wanted.held), wanted.crossed)
    else:
        per_item = einsum(wanted.matrix, cube.values, "effect cell, item cell feature -> effect item feature")
    table = rearrange(per_item, "effect item feature -> item (effect feature)")
    largest = np.maximum(table.max(axis=0), -table.min(axis=0))
    return _Scores(
        sums=cluster_sums(table, cube.codes)[0],
        sizes=sizes,
        cells=cube.values.mean(axis=0),
        largest=np.where(largest > np.tile(cube.rounding, len(wanted.names)), largest, 0.0),
    )


def _failures(
    y: xr.DataArray, cube: Cube, wanted: Contrasts, alpha: float
) -> dict[str, Float[np.ndarray, "feature"]]:
    """The same contrasts of the failure rate, which come before those of what did not fail."""
    failed = failed_trials(y).mean([d for d in y.dims if d in REPEATS])
    failed = failed.drop_vars("failed", errors="ignore").assign_attrs(oriented=True)
    cells = wanted.matrix.reshape(len(wanted.names), *map(len, wanted.levels.values()))
    weights = xr.DataArray(
        cells, dims=("effect", *wanted.held), coords={"effect": wanted.names, **wanted.levels}
    )
    found = factorial_effects(
        failed.sel(wanted.at),
        wanted.held,
        contrasts=weights,
        method="pointwise",
        alpha=alpha,
        family=(),
        missing="available" if bool(failed.isnull().any()) else "refuse",
    )
    flat = found.transpose("effect", *cube.rest, ...)
    return {"failure": flat.estimate.values.ravel(), "failure_p": flat.p.values.ravel()}


def _check_draws(draws: int, alpha: float, raw_tests: int) -> None:
    """Refuse draws that cannot reach alpha, or alpha over the tests of raw (uncorrected) resampled p."""
    if 1 / draws <= alpha / raw_tests:
        return
    raise ValueError(
        f"factorial_effects needs at least {math.ceil(raw_tests / alpha - 1e-9)} draws for "
        + (f"raw resampled p of {raw_tests} tests at " if raw_tests > 1 else "")
        + f"alpha {alpha:g}; got draws={draws}, whose smallest p is {1 / draws:.2g}. Raise draws"
        + (", or name the dims of a family." if raw_tests > 1 else ".")
    )


def _pick_method(method: str, n_clusters: int) -> tuple[str, str]:
    """The method that is used, and why."""
    too_few = (
        f"{n_clusters} clusters are fewer than {MIN_CLUSTERS}, whose sign-flips reach no p below 2/2^G = "
        f"{2 / 2**n_clusters:.3g}"
        if n_clusters < MIN_CLUSTERS
        else ""
    )
    if method == "pointwise":
        return "pointwise", "requested"
    if too_few and method != "auto":
        raise ValueError(
            f"factorial_effects needs at least {MIN_CLUSTERS} clusters for method={method!r}: {too_few}. "
            "Add items from other clusters, or use method='pointwise' for uncorrected p."
        )
    return ("pointwise", too_few) if too_few else (method, "requested")


def _variables(
    tests: _Tests, families: "Families", corrected: FamilyWise, alpha: float
) -> dict[str, Float[np.ndarray, "feature"]]:
    """The result's variables: every p with the interval, or the band, that holds 0 where p is above alpha."""
    judged = tests.judged
    variables = {
        "estimate": judged.estimate,
        "se": judged.se,
        "df": judged.df,
        "skew": judged.skew,
        "p": judged.p,
        "ci_low": judged.low,
        "ci_high": judged.high,
        **_adjusted(tests, families, corrected, alpha),
    }
    if tests.se_probe is not None:
        variables["se_probe"] = tests.se_probe
    unknown = [name for name in variables if name not in ("estimate", "se_probe")]
    return variables | {name: np.where(tests.refused, np.nan, variables[name]) for name in unknown}


def _adjusted(
    tests: _Tests, families: "Families", corrected: FamilyWise, alpha: float
) -> dict[str, Float[np.ndarray, "feature"]]:
    """p and band of the family; never less cautious than the pointwise ones."""
    judged = tests.judged
    if not corrected.draws_used:
        return dict.fromkeys(ADJUSTED, np.full(judged.p.size, np.nan))
    critical = families.join(np.repeat(corrected.critical[:, None], families.n_tests, axis=1))
    below, above = half_widths(np.maximum(critical, judged.critical), families.join(corrected.skew))
    unseen = unseen_share(len(tests.sizes), alpha / families.n_tests) * tests.span
    below, above = (
        np.where(tests.zero, unseen, below * judged.se),
        np.where(tests.zero, unseen, above * judged.se),
    )
    p = np.where(tests.constant, 1 / corrected.draws_used, families.join(corrected.p))
    adjusted = {
        "p_adj": np.maximum(p, judged.p),
        "band_low": np.minimum(judged.low, judged.estimate - below),
        "band_high": np.maximum(judged.high, judged.estimate + above),
    }
    unbounded = tests.live & ~np.isfinite(critical)
    return {
        name: np.where(unbounded & (name != "p_adj"), np.nan, values) for name, values in adjusted.items()
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class Families:
    """How the tests, one for each ``effect`` and place, fall into families."""

    pattern: str
    sizes: dict[str, int]
    outside: tuple[int, ...]
    n_tests: int
    words: str

    @classmethod
    def over(cls, dims: tuple[str, ...], shape: tuple[int, ...], family: Sequence[str]) -> "Families":
        """Families of the tests that agree in every dim but those of ``family``."""
        axes = {f"d{i}": length for i, length in enumerate(shape)}
        inside = [f"d{i}" for i, dim in enumerate(dims) if dim in family]
        outside = [axis for axis in axes if axis not in inside]
        pattern = f"({' '.join(axes)}) -> ({' '.join(outside)}) ({' '.join(inside)})"
        together = " x ".join(
            f"{n} {'axes' if dim == 'axis' and n > 1 else dim + 's' * (n > 1)}"
            for dim, n in zip(dims, shape, strict=True)
            if dim in family
        )
        apart = [dim for dim in dims if dim not in family]
        n_tests = math.prod(axes[axis] for axis in inside)
        words = f"{n_tests} test{'s' if n_tests > 1 else ''}" + (f" ({together})" if together else "")
        if apart:
            words += f", separately for each {' and '.join(apart)}"
        places = tuple(i for i, dim in enumerate(dims) if dim not in family)
        return cls(pattern=pattern, sizes=axes, outside=places, n_tests=n_tests, words=words)

    @property
    def n_families(self) -> int:
        """How many families there are."""
        return math.prod(self.sizes.values()) // self.n_tests

    @property
    def n_effects(self) -> int:
        """How many effects there are."""
        return next(iter(self.sizes.values()))

    def label(
        self, values: Float[np.ndarray, "family"], dims: tuple[str, ...]
    ) -> tuple[tuple[str, ...], np.ndarray]:
        """One number per family with its dims."""
        lengths = tuple(self.sizes.values())
        return tuple(dims[i] for i in self.outside), values.reshape([lengths[i] for i in self.outside])

    def split(self, flat: np.ndarray, *, leading: bool = False) -> np.ndarray:
        """Tests [... feature] as [... family test]; ``leading`` where clusters come first."""
        left, right = self.pattern.split(" -> ")
        pattern = f"cluster {left} -> cluster {right}" if leading else self.pattern
        return rearrange(flat, pattern, **self.sizes)

    def join(self, grouped: Float[np.ndarray, "family test"]) -> Float[np.ndarray, "feature"]:
        """Undo :meth:`split`."""
        left, right = self.pattern.split(" -> ")
        return rearrange(grouped, f"{right} -> {left}", **self.sizes)
