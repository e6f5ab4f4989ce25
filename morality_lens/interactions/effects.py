"""Factorial effects of the components, with intervals, families and bands."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import xarray as xr
from einops import einsum, rearrange
from jaxtyping import Bool, Float

from morality_lens.interactions.caveats import (
    POPULATION,
    check_input,
    note_on_failures,
    notes_on_cube,
    notes_on_result,
    reason_to_withhold,
    scope,
    split_halves,
)
from morality_lens.interactions.contrasts import Request, at_suffix, difference_contrasts, read_request
from morality_lens.interactions.cube import REPEATS, Cube, check_dims, factors_of, read_cube
from morality_lens.interactions.missing_cells import Available, available_cells, worst_case_bounds
from morality_lens.interactions.resampling import (
    MIN_CLUSTERS,
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
    compare: str | Mapping[str, str] = "total",
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
        ValueError: what is asked for cannot be answered honestly from ``y``; the words say what to do.
        TypeError: ``y`` does not hold real numbers.
    """
    _check_request(method, draws, alpha, missing)
    asked = read_request(factors_of(y) if factors is None else factors, at, compare, contrasts, y)
    names = asked.names
    check_dims(y, asked.levels, asked.at, family)
    notes = check_input(y, accept_normalised=accept_normalised)
    cube = read_cube(y.sel(asked.at), asked.levels, missing=missing, link=link)
    notes += notes_on_cube(cube, missing)
    scores = _read_scores(cube, asked)
    sums, sizes = scores.sums, scores.sizes
    zero, constant = without_variance(sums, sizes, np.tile(cube.rounding, len(names)))
    live = ~(zero | constant)
    point = mean_over_clusters(sums, sizes, alpha=alpha)
    judged = point
    if scores.se is not None:
        judged = with_variance(point, scores.se, alpha=alpha)
    se_probe = None
    if refits is not None:
        se_probe = _se_of_probe(refits.sel(asked.at), y, cube, asked)
        judged = with_variance(judged, se_probe, alpha=alpha, draws=refits.sizes["probe_draw"], added=True)

    dims, shape = ("effect", *cube.rest), (len(names), *cube.rest_shape)
    families = Families.over(dims, shape, family)
    resampling, reason = _pick_method(method, sums[:, live], sizes)
    if resampling == "pointwise":
        corrected = FamilyWise.absent(families.n_families, families.n_tests)
    else:
        _check_draws(draws, alpha, live.size // len(names) if not family else 1)
        grouped = families.split(np.where(live, sums, 0.0), leading=True)
        ratio = np.divide(point.se, judged.se, out=np.ones_like(point.se), where=judged.se > 0)
        corrected = family_wise(
            grouped,
            sizes,
            method=resampling,
            draws=draws,
            alpha=alpha,
            seed=seed,
            shrink=None if judged is point else families.split(ratio**2),
        )
    half_width = judged.se * families.join(np.repeat(corrected.critical[:, None], families.n_tests, axis=1))
    variables = _variables(judged, families.join(corrected.p), half_width, zero=zero, constant=constant)
    if se_probe is not None:
        variables["se_probe"] = se_probe
    if cube.n_incomplete:
        variables |= _failures(y, cube, asked, alpha)
        notes += note_on_failures(names, variables)
        if cube.binary and cube.holes and link == "identity":
            low, high = worst_case_bounds(cube.values, asked.matrix)
            variables |= {"worst_low": low.ravel(), "worst_high": high.ravel()}
    withheld = "" if accept_missing else reason_to_withhold(cube)
    if withheld:
        variables |= dict.fromkeys(("p", "ci_low", "ci_high", *ADJUSTED), np.full(live.size, np.nan))

    notes += notes_on_result(names, shape, zero=zero, constant=constant, estimate=point.estimate)
    notes += [withheld] if withheld else []
    if method == "auto" and resampling == "pointwise":
        notes.append(f"No corrected p and no band: {reason}.")
    data: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
        name: (dims, values.reshape(shape)) for name, values in variables.items()
    }
    critical = np.where(families.split(live).any(axis=1), corrected.critical, np.nan)
    data["critical"] = families.label(critical, dims)
    data["cell_mean"] = (
        (*asked.held, *cube.rest),
        scores.cells.reshape([len(v) for v in asked.levels.values()] + list(cube.rest_shape)),
    )
    coords = {**cube.coords, "effect": names, **asked.levels}
    attrs = {
        "outcome": str(y.name or "y"),
        "scale": {"identity": "difference scale", "logit": "log-odds scale", "log1m": "-log(1 - p) scale"}[
            link
        ],
        "units": str(y.attrs.get("units", "")) if link == "identity" else "",
        "factors": list(asked.held),
        "held_at": at_suffix(asked.at).removeprefix("@"),
        "compared": asked.words,
        "question": "direction" if refits is not None else "this direction",
        "trust": str(y.attrs.get("trust", "")),
        "n_items": int(sizes.sum()),
        "n_clusters": len(sizes),
        "method": resampling,
        "method_reason": reason,
        "alpha": float(alpha),
        "draws": draws,
        "draws_used": corrected.draws_used,
        "seed": seed,
        "family": families.words,
        "critical_pointwise": float(np.min(judged.critical)),
        "notes": [scope(y, refits), *notes],
    }
    return xr.Dataset(data, coords=coords, attrs=attrs)


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


def _read_scores(
    cube: Cube,
    asked: Request,
) -> _Scores:
    """Contrasts of the cells, by cluster."""
    sizes = np.bincount(cube.codes).astype(np.float64)
    if cube.holes:
        found: Available = available_cells(cube.values, cube.codes, asked.matrix)
        sums = rearrange(found.sums, "cluster effect feature -> cluster (effect feature)")
        return _Scores(sums=sums, sizes=sizes, cells=found.cells, se=found.se.ravel())
    if asked.crossed is not None:
        per_item = difference_contrasts(cube.values, len(asked.held), asked.crossed)
    else:
        per_item = einsum(asked.matrix, cube.values, "effect cell, item cell feature -> effect item feature")
    table = rearrange(per_item, "effect item feature -> item (effect feature)")
    return _Scores(sums=cluster_sums(table, cube.codes)[0], sizes=sizes, cells=cube.values.mean(axis=0))


def _se_of_probe(
    refits: xr.DataArray,
    y: xr.DataArray,
    cube: Cube,
    asked: Request,
) -> Float[np.ndarray, "feature"]:
    """Standard deviation of every effect over refits of the probe."""
    wanted = {"probe_draw", *asked.levels, *cube.rest}
    if not wanted <= set(refits.dims) or refits.sizes.get("probe_draw", 0) < 20:
        raise ValueError(
            f"factorial_effects needs refits with the dims {sorted(wanted)} and at least 20 draws; got "
            f"{dict(refits.sizes)}. Use project_means(refit_directions(...), run_cell_means(run)), 50 to 100 "
            "draws."
        )
    for dim in cube.rest:
        here = cube.coords[dim].values if dim in cube.coords else None
        if here is not None and not (dim in refits.coords and np.isin(here, refits[dim].values).all()):
            raise ValueError(
                f"factorial_effects needs refits at the places of y; they lack some along {dim!r}."
            )
    chosen = refits.sel({**asked.levels, **{d: cube.coords[d].values for d in cube.rest if d in cube.coords}})
    cells = chosen.transpose("probe_draw", *asked.levels, *cube.rest).values
    if not np.isfinite(cells).all():
        raise ValueError(
            "factorial_effects needs finite refits; got NaN or infinities. Select the rounds and sites that "
            "exist, "
            "or leave refits out and claim no more than that this direction moves."
        )
    halves = split_halves(y)
    weak = halves[halves.values < POPULATION]
    if weak.size:
        where = weak["layer"].values.tolist() if "layer" in weak.coords else "the one given"
        raise ValueError(
            f"a claim about the morality direction needs directions that agree between halves of their "
            f"training data (split-half cosine {POPULATION} or more); got {float(weak.min()):.2f} at the "
            f"lowest of the layers {where}. Train the probe on more clusters, leave those layers out with "
            "y.sel(layer=...), or leave refits out."
        )
    draws = einsum(
        asked.matrix,
        cells.reshape(len(cells), asked.matrix.shape[1], -1),
        "effect cell, draw cell feature -> draw effect feature",
    )
    return draws.std(axis=0, ddof=1).ravel()


def _failures(
    y: xr.DataArray, cube: Cube, asked: Request, alpha: float
) -> dict[str, Float[np.ndarray, "feature"]]:
    """The same contrasts of the failure rate, which come before those of what did not fail."""
    failed = y.isnull().astype(float).mean([d for d in y.dims if d in REPEATS]).assign_attrs(oriented=True)
    cells = asked.matrix.reshape(len(asked.names), *map(len, asked.levels.values()))
    weights = xr.DataArray(
        cells, dims=("effect", *asked.held), coords={"effect": asked.names, **asked.levels}
    )
    found = factorial_effects(
        failed.sel(asked.at), asked.held, contrasts=weights, method="pointwise", alpha=alpha, family=()
    )
    flat = found.transpose("effect", *cube.rest, ...)
    return {"failure": flat.estimate.values.ravel(), "failure_p": flat.p.values.ravel()}


def _check_request(method: str, draws: int, alpha: float, missing: str) -> None:
    if method not in METHODS:
        raise ValueError(
            f"factorial_effects knows the methods {METHODS}; got {method!r}. Cluster-mass and FDR are not "
            "offered "
            "(they name no place with a known error rate): use 'auto' for step-down max-|t| over the family; "
            "for the absence of an effect use equivalence(...)."
        )
    if missing not in MISSING:
        raise ValueError(
            f"factorial_effects takes missing= one of {MISSING}; got {missing!r}. Never impute: analyse "
            "y.isnull() as an outcome first, then use 'available'."
        )
    if not 0 < alpha < 1:
        raise ValueError(f"factorial_effects needs alpha between 0 and 1; got {alpha}. Use for example 0.05.")
    if draws < 2:
        raise ValueError(f"factorial_effects needs at least 2 draws; got {draws}. Use 2000 or more.")


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
        return "pointwise", "asked for"
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
    return cast("Resampling", method), "asked for"


def _variables(
    point: Pointwise,
    adjusted: Float[np.ndarray, "feature"],
    half_width: Float[np.ndarray, "feature"],
    *,
    zero: Bool[np.ndarray, "feature"],
    constant: Bool[np.ndarray, "feature"],
) -> dict[str, Float[np.ndarray, "feature"]]:
    """The result's variables; features without variance have no t, so their p is 1 or unknown."""
    flat = zero | constant

    def settle(values: np.ndarray, at_zero: np.ndarray | float) -> np.ndarray:
        if np.isnan(values).all():
            return values
        return np.where(zero, at_zero, np.where(constant, np.nan, values))

    estimate, half = point.estimate, point.critical * point.se
    return {
        "estimate": estimate,
        "se": np.where(flat, 0.0, point.se),
        "df": point.df,
        "p": np.where(zero, 1.0, np.where(constant, np.nan, point.p)),
        "ci_low": np.where(zero, estimate, np.where(constant, np.nan, estimate - half)),
        "ci_high": np.where(zero, estimate, np.where(constant, np.nan, estimate + half)),
        "p_adj": settle(adjusted, 1.0),
        "band_low": settle(estimate - half_width, estimate),
        "band_high": settle(estimate + half_width, estimate),
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class Families:
    """How the tests, laid out over ``effect`` and the other dims, fall into families."""

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
