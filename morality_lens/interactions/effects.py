"""Factorial effects of the factors, with intervals, families and bands."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import xarray as xr
from einops import einsum, rearrange
from jaxtyping import Bool, Float

from morality_lens.interactions.caveats import (
    check_input,
    note_on_failures,
    notes_on_cube,
    notes_on_result,
    reason_to_withhold,
    scope,
)
from morality_lens.interactions.contrasts import Contrasts, at_suffix, difference_contrasts, read_contrasts
from morality_lens.interactions.cube import REPEATS, Cube, check_dims, factors_of, read_cube
from morality_lens.interactions.missing_cells import Available, available_cells, worst_case_bounds
from morality_lens.interactions.refitted import (
    effects_of_refits,
    refused_features,
    refused_layers,
    resolve_refits,
)
from morality_lens.interactions.resampling import (
    MIN_CLUSTERS,
    Draws,
    FamilyWise,
    Pointwise,
    Resampling,
    choose_resampling,
    cluster_sums,
    family_wise,
    mean_over_clusters,
    with_variance,
    without_variance,
)

METHODS = ("auto", "pointwise", "sign-flip", "bootstrap-t")
MISSING = ("refuse", "available", "complete_items")
ADJUSTED = ("p_adj", "band_low", "band_high")


def factorial_effects(
    y: xr.DataArray,
    factors: Sequence[str] | None = None,
    *,
    at: Mapping[str, str] | None = None,
    compare: str | Mapping[str, str | tuple[str, str]] = "total",
    contrasts: xr.DataArray | None = None,
    link: str = "identity",
    refits: xr.DataArray | None = None,
    method: str = "auto",
    draws: int = 2000,
    alpha: float = 0.05,
    family: Sequence[str] = ("round", "layer"),
    seed: int = 0,
    missing: str = "refuse",
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
            ``trust`` (what is known of the direction); a coordinate ``split_half`` along ``layer``, how well
            directions fitted on halves of the training data agree.
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
            direction moves and not whether this one does.
        method: ``pointwise`` (no corrected p), ``sign-flip`` or ``bootstrap-t`` of whole clusters, or
            ``auto``, which takes bootstrap-t from 30 clusters on and where 8 to 29 are visibly skewed, else
            sign-flips.
        draws: resamples, the observed data among them.
        alpha: level of the intervals (pointwise) and bands (simultaneous).
        family: dims over which p is corrected together (step-down max-|t|); every effect and every index of
            the other dims is a family of its own, unless ``effect`` is named too.
        seed: seed of the draws.
        missing: ``refuse`` NaN; use the ``available`` cells by least squares with item fixed effects and a
            cluster jackknife; or ``complete_items`` only (a sensitivity check).
        accept_missing: give p-values though more than 10 % of the items are incomplete, or failure rates
            differ by more than 5 points between conditions.
        accept_normalised: take values normalised per cell, on which additive effects look like interactions.

    Returns:
        Dataset over effect and the other dims: ``estimate``, its standard error ``se`` (from items and,
        with refits, ``se_probe``), ``df`` (Bell-McCaffrey; with refits Welch-Satterthwaite), pointwise
        ``p``, ``ci_low``, ``ci_high``; within the family ``p_adj``, ``band_low``, ``band_high``; per family
        ``critical``, the band's half-width in ``se``; and ``cell_mean`` over the factors and the other dims.
        Where cells are missing also ``failure`` and ``failure_p``, the same contrasts of the failure rate,
        and for 0/1 outcomes ``worst_low`` and ``worst_high``, what any values of the missing cells could
        give. ``attrs`` hold the scale, the clusters, the method and ``notes``.

    Raises:
        ValueError: the request cannot be answered from ``y``; the message says what to do.
        TypeError: ``y`` does not hold real numbers.
    """
    inference = _Inference(method=method, draws=draws, alpha=alpha, family=tuple(family), seed=seed)
    if missing not in MISSING:
        raise ValueError(
            f"factorial_effects takes missing= one of {MISSING}; got {missing!r}. Never impute: analyse "
            "y.isnull() as an outcome first, then use 'available'."
        )
    wanted = read_contrasts(factors_of(y) if factors is None else factors, at, compare, contrasts, y)
    check_dims(y, wanted.levels, wanted.at, family)
    notes = check_input(y, accept_normalised=accept_normalised)
    cube = read_cube(y.sel(wanted.at), wanted.levels, missing=missing, link=link)
    notes += notes_on_cube(cube, missing)
    refits, stale = resolve_refits(y, refits)
    refused, unstable = refused_layers(y.sel(wanted.at), refits)
    notes += stale + unstable
    drawn = None if refits is None else effects_of_refits(refits.sel(wanted.at), cube, wanted)
    tests = _test(cube, wanted, drawn, alpha, 0 if refits is None else int(refits.attrs.get("n_clusters", 0)))
    tests = replace(tests, refused=refused_features(refused, cube, len(wanted.names)))
    dims, shape = ("effect", *cube.rest), (len(wanted.names), *cube.rest_shape)
    families = Families.over(dims, shape, family)
    corrected = _correct(tests, families, inference)
    variables = _variables(tests, families, corrected.tests)
    if cube.n_incomplete:
        variables |= _failures(y, cube, wanted, alpha)
        notes += note_on_failures(wanted.names, variables)
        if cube.binary and cube.holes and link == "identity":
            low, high = worst_case_bounds(cube.values, wanted.matrix)
            variables |= {"worst_low": low.ravel(), "worst_high": high.ravel()}
    withheld = "" if accept_missing else reason_to_withhold(cube)
    for name in ("se", "p", "ci_low", "ci_high", *ADJUSTED):
        variables[name] = np.where(tests.refused, np.nan, variables[name])
    if withheld:
        variables |= dict.fromkeys(("p", "ci_low", "ci_high", *ADJUSTED), np.full(tests.live.size, np.nan))
    notes += notes_on_result(
        wanted.names, shape, zero=tests.zero, constant=tests.constant, estimate=tests.point.estimate
    )
    notes += [withheld] if withheld else []
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
        "notes": [scope(y, refits), *notes],
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

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(
                f"factorial_effects knows the methods {METHODS}; got {self.method!r}. Cluster-mass and FDR "
                "are not offered (they name no place with a known error rate): use 'auto' for step-down "
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
        zero: features that are zero in every cluster.
        constant: features that are the same number other than zero in every cluster.
        point: estimates with the standard error of the clusters' contrasts.
        judged: the same with every source of variance (jackknife, refits).
        se_probe: standard deviation over refits of the probe, where some were given.
    """

    sums: Float[np.ndarray, "cluster feature"]
    sizes: Float[np.ndarray, "cluster"]
    cells: Float[np.ndarray, "cell place"]
    zero: Bool[np.ndarray, "feature"]
    constant: Bool[np.ndarray, "feature"]
    point: Pointwise
    judged: Pointwise
    se_probe: Float[np.ndarray, "feature"] | None
    refused: Bool[np.ndarray, "feature"]

    @property
    def live(self) -> Bool[np.ndarray, "feature"]:
        """Features that vary between clusters."""
        return ~(self.zero | self.constant | self.refused)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Corrected:
    """Family-wise tests, the method that made them, and why it was chosen."""

    method: Resampling | Literal["pointwise"]
    reason: str
    tests: FamilyWise


def _test(
    cube: Cube,
    wanted: Contrasts,
    drawn: Float[np.ndarray, "draw effect place"] | None,
    alpha: float,
    trained: int = 0,
) -> _Tests:
    """Pointwise tests of all contrasts.

    Args:
        cube: the cells.
        wanted: the contrasts.
        drawn: the effects on refits of the probe, or None.
        alpha: level of the intervals.
    """
    scores = _read_scores(cube, wanted)
    rounding = np.tile(cube.rounding, len(wanted.names))
    zero, constant = without_variance(scores.sums, scores.sizes, rounding)
    point = mean_over_clusters(scores.sums, scores.sizes, alpha=alpha)
    judged = point if scores.se is None else with_variance(point, scores.se, alpha=alpha)
    se_probe = None
    if drawn is not None:
        se_probe = drawn.std(axis=0, ddof=1).ravel()
        judged = with_variance(judged, se_probe, alpha=alpha, draws=len(drawn), clusters=trained, added=True)
    return _Tests(
        sums=scores.sums,
        sizes=scores.sizes,
        cells=scores.cells,
        zero=zero,
        constant=constant,
        point=point,
        judged=judged,
        se_probe=se_probe,
        refused=np.zeros_like(zero),
    )


def _correct(tests: _Tests, families: "Families", inference: _Inference) -> _Corrected:
    """Step-down p and bands of every family, or none where nothing is to be corrected."""
    method, reason = _pick_method(inference.method, tests.sums[:, tests.live], tests.sizes)
    if method == "pointwise":
        absent = FamilyWise.absent(families.n_families, families.n_tests)
        return _Corrected(method=method, reason=reason, tests=absent)
    raw_tests = 1 if inference.family else families.n_families // families.n_effects
    _check_draws(inference.draws, inference.alpha, raw_tests)
    point, judged = tests.point, tests.judged
    ratio = np.divide(point.se, judged.se, out=np.ones_like(point.se), where=judged.se > 0)
    found = family_wise(
        families.split(np.where(tests.live, tests.sums, 0.0), leading=True),
        tests.sizes,
        Draws(method=method, count=inference.draws, seed=inference.seed),
        alpha=inference.alpha,
        shrink=None if judged is point else families.split(ratio**2),
    )
    return _Corrected(method=method, reason=reason, tests=found)


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
        se: standard errors by the jackknife, where cells are missing.
    """

    sums: Float[np.ndarray, "cluster feature"]
    sizes: Float[np.ndarray, "cluster"]
    cells: Float[np.ndarray, "cell place"]
    se: Float[np.ndarray, "feature"] | None = None


def _read_scores(cube: Cube, wanted: Contrasts) -> _Scores:
    """Contrasts of the cells, by cluster."""
    sizes = np.bincount(cube.codes).astype(np.float64)
    if cube.holes:
        found: Available = available_cells(cube.values, cube.codes, wanted.matrix)
        sums = rearrange(found.sums, "cluster effect feature -> cluster (effect feature)")
        return _Scores(sums=sums, sizes=sizes, cells=found.cells, se=found.se.ravel())
    if wanted.crossed is not None:
        per_item = difference_contrasts(cube.values, len(wanted.held), wanted.crossed)
    else:
        per_item = einsum(wanted.matrix, cube.values, "effect cell, item cell feature -> effect item feature")
    table = rearrange(per_item, "effect item feature -> item (effect feature)")
    return _Scores(sums=cluster_sums(table, cube.codes)[0], sizes=sizes, cells=cube.values.mean(axis=0))


def _failures(
    y: xr.DataArray, cube: Cube, wanted: Contrasts, alpha: float
) -> dict[str, Float[np.ndarray, "feature"]]:
    """The same contrasts of the failure rate, which come before those of what did not fail."""
    failed = y.isnull().astype(float).mean([d for d in y.dims if d in REPEATS]).assign_attrs(oriented=True)
    cells = wanted.matrix.reshape(len(wanted.names), *map(len, wanted.levels.values()))
    weights = xr.DataArray(
        cells, dims=("effect", *wanted.held), coords={"effect": wanted.names, **wanted.levels}
    )
    found = factorial_effects(
        failed.sel(wanted.at), wanted.held, contrasts=weights, method="pointwise", alpha=alpha, family=()
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


def _pick_method(
    method: str, sums: Float[np.ndarray, "cluster feature"], sizes: Float[np.ndarray, "cluster"]
) -> tuple[Resampling | Literal["pointwise"], str]:
    """The method that is used, and why."""
    n_clusters = len(sizes)
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
    if too_few:
        return "pointwise", too_few
    if method == "auto":
        chosen, why = choose_resampling(sums, sizes)
        return chosen, f"auto: {why}"
    return cast("Resampling", method), "requested"


def _variables(
    tests: _Tests, families: "Families", corrected: FamilyWise
) -> dict[str, Float[np.ndarray, "feature"]]:
    """The result's variables; features without variance have no t, so their p is 1 or unknown."""
    zero, constant, judged = tests.zero, tests.constant, tests.judged

    def settle(values: np.ndarray, at_zero: np.ndarray | float) -> np.ndarray:
        if np.isnan(values).all():
            return values
        return np.where(zero, at_zero, np.where(constant, np.nan, values))

    critical = families.join(np.repeat(corrected.critical[:, None], families.n_tests, axis=1))
    estimate, half, band = judged.estimate, judged.critical * judged.se, judged.se * critical
    variables = {
        "estimate": estimate,
        "se": np.where(tests.live, judged.se, 0.0),
        "df": judged.df,
        "p": np.where(zero, 1.0, np.where(constant, np.nan, judged.p)),
        "ci_low": np.where(zero, estimate, np.where(constant, np.nan, estimate - half)),
        "ci_high": np.where(zero, estimate, np.where(constant, np.nan, estimate + half)),
        "p_adj": settle(families.join(corrected.p), 1.0),
        "band_low": settle(estimate - band, estimate),
        "band_high": settle(estimate + band, estimate),
    }
    return variables if tests.se_probe is None else {**variables, "se_probe": tests.se_probe}


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
            f"{n} {dim}{'s' * (n > 1)}" for dim, n in zip(dims, shape, strict=True) if dim in family
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
