"""A direction compared with rival explanations: words, random models, chance, other sets, its own refits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float
from scipy.stats import spearmanr, t

from morality_lens.items.kinds import Statement
from morality_lens.probes import controls
from morality_lens.probes.card import COSINES, RULES, TrustCard, short, transfer_array
from morality_lens.probes.kinds import CARDED, Kind, check_kind
from morality_lens.probes.quality import highest, weighted_auroc
from morality_lens.probes.refits import split_half_cosine

SHUFFLES, CONTROL_TASKS, CONTROL_FOLDS = 19, 5, 5
"""How often labels are shuffled (19: a test at .05) and control tasks drawn, and the folds of those tasks."""

Line = dict[str, Any]
Draws = Float[np.ndarray, " draw"]
"""A number for the sample, which stands first, and for each bootstrap draw."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Statements:
    """What every check needs: the statements, how they are divided, and how they are drawn."""

    residuals: xr.DataArray
    texts: Sequence[str]
    labels: controls.Labels
    clusters: np.ndarray
    fold: controls.Labels
    weights: controls.Weights
    kind: Kind
    seed: int
    more: controls.MoreTexts = controls.NO_MORE

    def auroc(self, scores: controls.Scores) -> Draws:
        return weighted_auroc(scores, self.labels, self.weights)


def trust_card(
    residuals: xr.DataArray,
    texts: Sequence[str],
    *,
    kind: Kind = "mean_difference",
    random: xr.DataArray | None = None,
    others: Mapping[str, xr.DataArray] | None = None,
    nuisance: Mapping[str, xr.DataArray] | None = None,
    given: Sequence[Statement] = (),
    folds: int = 5,
    draws: int = 500,
    seed: int = 0,
) -> TrustCard:
    """What a direction fitted on these statements can be trusted with, line by line.

    Intervals are 95 % percentile intervals of a bootstrap over clusters, of the held-out scores. They leave
    out the noise of the fit, so that without any signal the AUROC's interval lies above .5 in about one case
    of eight; whether there is a direction at all is tested by ``shuffled labels``, which repeats every step.

    Args:
        residuals: statement x layer x d_model with ``label`` and ``cluster``, from ``read_statements``.
        texts: the statements' texts, in the same order.
        kind: how directions are fitted: ``mean_difference``, ``logistic`` or ``lda``.
        random: the same statements' residuals in random-initialised models of the architecture, from
            ``random_model_residuals``; ``seed`` as a dimension, or one model without it.
        others: other labelled statements read by the same model.
        nuisance: residuals labelled 0 and 1 by a contrast that is not the one meant (long and short, say).
        given: all labelled statements, where these are a sample of them: text-only classifiers cost nothing,
            so they learn from all whose cluster is not held out, and are compared on the sample.
        folds: groups of clusters held out in turn, three or more.
        draws: bootstrap draws.
        seed: of folds, draws, shuffles and control tasks.

    Raises:
        ValueError: another kind, texts of another number, labels that are not 0 and 1, fewer than three
            clusters in a class, or residuals of other layers or statements.

    Examples:
        >>> residuals = ml.probes.read_statements(model, statements)
        >>> texts = [statement.text for statement in statements]
        >>> card = ml.probes.trust_card(residuals, texts, draws=100)
        >>> verdicts = card.lines.set_index("line")["verdict"]
        >>> verdicts["beats words"], verdicts["split halves"], verdicts["transfer"]
        ('pass', 'pass', 'not checked')
    """
    others, nuisance = dict(others or {}), dict(nuisance or {})
    _check(residuals, texts, kind, random, {**others, **nuisance})
    chosen = check_kind(kind)
    s = _with_more(_divided(residuals, texts, chosen, folds, draws, seed), given)
    layers = residuals["layer"].values
    scores, nested_scores = controls.held_out(residuals, s.labels, s.fold, chosen)
    curves, nested = np.array([s.auroc(one) for one in scores]), s.auroc(nested_scores)
    at = highest(curves[:, 0])
    assert at is not None  # there are statements of both labels
    low, high = np.nanpercentile(curves[:, 1:], [2.5, 97.5], axis=1)
    own = controls.directions(residuals, s.labels, chosen)

    lexical, words = _words(s, nested)
    random_auroc, baselines = _random(s, random, nested)
    shuffled, shuffles = _shuffled(s, nested[0])
    selectivity, control = _selectivity(s, at)
    transfer, moved = _transfer(s, own, curves[:, 0], others, at)
    halves = split_half_cosine(residuals, seed=seed).values
    cosines, agree = _kinds(s, at)
    errors = _calibration_errors(s, scores)
    overlaps, nuisances = _nuisance(own, layers, nuisance, chosen, at)
    first = _ends(nested)
    lines = [
        _line("held-out AUROC", *first, _above(first[1], 0.7, 0.5)),
        words,
        baselines,
        shuffles,
        control,
        moved,
        _line("split halves", halves[at], verdict=_above(halves[at], 0.8, 0.5)),
        agree,
        _line("calibration", errors[at], verdict=_above(-errors[at], -0.1, -0.2)),
        nuisances,
    ]
    names = ["line", "layer", "value", "low", "high", "rule", "verdict", "detail"]
    by_layer = {
        "auroc": curves[:, 0],
        "low": low,
        "high": high,
        "random_auroc": random_auroc,
        "shuffled": shuffled,
        "selectivity": selectivity,
        "split_half": halves,
        "calibration_error": errors,
    }
    return TrustCard(
        kind=chosen,
        layer=int(layers[at]),
        lines=pd.DataFrame(lines).assign(layer=int(layers[at])).reindex(columns=names),
        by_layer=xr.Dataset({k: ("layer", v) for k, v in by_layer.items()}, coords={"layer": layers}),
        lexical=lexical,
        transfer=transfer,
        cosines=pd.DataFrame([*cosines, *overlaps], columns=list(COSINES)).astype(COSINES),
        training=_training(s),
    )


def _divided(
    residuals: xr.DataArray, texts: Sequence[str], kind: Kind, folds: int, draws: int, seed: int
) -> _Statements:
    """The statements with their folds and bootstrap draws."""
    labels, clusters = residuals["label"].values.astype(np.int64), residuals["cluster"].values.astype(str)
    return _Statements(
        residuals=residuals,
        texts=texts,
        labels=labels,
        clusters=clusters,
        fold=controls.make_folds(labels, clusters, folds, seed),
        weights=controls.cluster_weights(clusters, draws, seed),
        kind=kind,
        seed=seed,
    )


def _with_more(s: _Statements, given: Sequence[Statement]) -> _Statements:
    """The same with the statements that were given and not read, each in the fold of its cluster."""
    read = set(zip(s.texts, s.labels.tolist(), s.clusters.tolist(), strict=True))
    rest = [one for one in given if (one.text, one.label, one.cluster) not in read]
    fold = dict(zip(s.clusters.tolist(), s.fold.tolist(), strict=True))
    more = controls.MoreTexts(
        texts=[one.text for one in rest],
        labels=np.array([one.label for one in rest], np.int64),
        fold=np.array([fold.get(one.cluster, -1) for one in rest], np.int64),
    )
    return replace(s, more=more)


def _training(s: _Statements) -> dict[str, Any]:
    """What the direction was fitted on, for the card."""
    names = ("model_fingerprint", "statements_sha256", "read")
    return {
        "n": len(s.labels),
        "n_moral": int(s.labels.sum()),
        "n_clusters": len(set(s.clusters)),
        "folds": len(set(s.fold.tolist())),
        "draws": len(s.weights) - 1,
        "seed": s.seed,
        **{name: str(s.residuals.attrs.get(name, "")) for name in names},
    }


def _check(
    residuals: xr.DataArray,
    texts: Sequence[str],
    kind: str,
    random: xr.DataArray | None,
    sets: Mapping[str, xr.DataArray],
) -> None:
    """Refuse what would fail late or silently."""
    if kind not in CARDED:
        raise ValueError(
            f"a trust card can be made for {', '.join(CARDED)}; got {kind!r}. For other kinds make the card "
            "of a mean difference on the same statements."
        )
    missing = [c for c in ("label", "cluster") if c not in residuals.coords]
    if missing or set(residuals.dims) != {"statement", "layer", "d_model"}:
        raise ValueError(
            "trust_card needs statement x layer x d_model with coordinates label and cluster, as "
            f"read_statements gives it; got {residuals.dims}, without {missing}."
        )
    if len(texts) != residuals.sizes["statement"]:
        raise ValueError(
            f"trust_card needs one text per statement, in the order of the residuals: got {len(texts)} texts "
            f"for {residuals.sizes['statement']} statements."
        )
    if "own" in sets:
        raise ValueError("'own' is the card's name for its own statements; name the other set otherwise.")
    with_random = sets if random is None else {**sets, "random": random}
    _check_sets(residuals["layer"].values, {"own": residuals, **with_random})
    if random is not None and not np.array_equal(random["label"].values, residuals["label"].values):
        raise ValueError("`random` must hold the same statements in the same order; read them again.")


def _check_sets(layers: np.ndarray, sets: Mapping[str, xr.DataArray]) -> None:
    """Refuse sets of other layers, or without statements of both labels."""
    for name, array in sets.items():
        if "layer" not in array.dims or not np.array_equal(array["layer"].values, layers):
            raise ValueError(f"{name!r} must have the layers of the residuals; select the same ones.")
        if "label" not in array.coords or set(np.unique(array["label"].values).tolist()) != {0, 1}:
            raise ValueError(f"{name!r} must have statements of both labels, 1 and 0, as `label`.")


# --------------------------------------------------------------------------------------------- lines
def _line(
    name: str,
    value: float,
    low: float = np.nan,
    high: float = np.nan,
    verdict: str = "not checked",
    detail: str = "",
) -> Line:
    numbers = {"value": float(value), "low": float(low), "high": float(high)}
    return {"line": name, **numbers, "rule": RULES[name], "verdict": verdict, "detail": detail}


def _above(value: float, good: float, fair: float) -> str:
    return "pass" if value >= good else "warn" if value >= fair else "fail"


def _ends(draws: Draws) -> tuple[float, float, float]:
    """The sample's value and the percentile interval of the draws."""
    low, high = np.nanpercentile(draws[1:], [2.5, 97.5])
    return float(draws[0]), float(low), float(high)


def _paired(name: str, differences: Draws, detail: str) -> Line:
    value, low, high = _ends(differences)
    verdict = "pass" if low > 0 else "fail" if high < 0 else "warn"
    return _line(name, value, low, high, verdict, detail)


def _absent(name: str, detail: str = "no such input was given") -> Line:
    return _line(name, np.nan, detail=detail)


# --------------------------------------------------------------------------------------------- checks
def _words(s: _Statements, nested: Draws) -> tuple[pd.DataFrame, Line]:
    """Text alone, on the same folds."""
    scores = controls.lexical_scores(s.texts, s.labels, s.fold, s.more)
    found = {name: s.auroc(one) for name, one in scores.items()}
    table = pd.DataFrame([(name, *_ends(w)) for name, w in found.items()], columns=["baseline", *_NUMBERS])
    table = table.sort_values("auroc", ascending=False, ignore_index=True)
    best = str(table["baseline"].iloc[0])
    detail = f"best: {best}, {short(float(table['auroc'].iloc[0]))}"
    if s.more.texts:
        read = len(s.texts)
        detail += f", learnt from {read + len(s.more.texts):,} statements, the direction from {read:,}"
    return table, _paired("beats words", nested - found[best], detail)


_NUMBERS = ("auroc", "low", "high")


def _random(
    s: _Statements, random: xr.DataArray | None, nested: Draws
) -> tuple[Float[np.ndarray, " layer"], Line]:
    """Random-initialised controls, the layer chosen as for the model itself."""
    if random is None:
        return np.full(s.residuals.sizes["layer"], np.nan), _absent("beats random models")
    every = random if "seed" in random.dims else random.expand_dims("seed")
    by_layer, reached = [], []
    for i in range(every.sizes["seed"]):
        scores, chosen = controls.held_out(every.isel(seed=i), s.labels, s.fold, s.kind)
        by_layer.append([controls.auroc(one, s.labels) for one in scores])
        reached.append(s.auroc(chosen))
    mean = np.mean(reached, axis=0)
    detail = f"{len(reached)} random: {short(float(mean[0]))}"
    return np.mean(by_layer, axis=0), _paired("beats random models", nested - mean, detail)


def _shuffled(s: _Statements, true: float) -> tuple[Float[np.ndarray, " layer"], Line]:
    """The same steps on shuffled labels, folds and choice of layer included."""
    rng, by_layer, found = np.random.default_rng(s.seed), [], []
    for _ in range(SHUFFLES):
        drawn = controls.shuffle_labels(s.labels, s.clusters, rng)
        fold = controls.make_folds(drawn, s.clusters, int(s.fold.max()) + 1, s.seed)
        scores, chosen = controls.held_out(s.residuals, drawn, fold, s.kind)
        by_layer.append([controls.auroc(one, drawn) for one in scores])
        found.append(controls.auroc(chosen, drawn))
    mean, highest = float(np.mean(found)), float(np.max(found))
    half = float(t.ppf(0.975, SHUFFLES - 1) * np.std(found, ddof=1) / np.sqrt(SHUFFLES))
    near = mean + half >= 0.45 and mean - half <= 0.55
    verdict = "fail" if highest >= true else "pass" if near else "warn"
    detail = f"{SHUFFLES} shuffles, the highest {short(highest)}"
    return np.mean(by_layer, axis=0), _line(
        "shuffled labels", mean, mean - half, mean + half, verdict, detail
    )


def _selectivity(s: _Statements, at: int) -> tuple[Float[np.ndarray, " layer"], Line]:
    """Accuracy above that on a control task that can only be memorised."""
    rng = np.random.default_rng(s.seed)
    tasks = [controls.control_labels(s.texts, rng) for _ in range(CONTROL_TASKS)]
    if min(np.bincount(y, minlength=2).min() for y in (*tasks, s.labels)) < 2 * CONTROL_FOLDS:
        nothing = np.full(s.residuals.sizes["layer"], np.nan)
        return nothing, _absent("selectivity", "the last words do not divide the statements into two classes")
    right, *wrong = (
        controls.correct(s.residuals, y, CONTROL_FOLDS, s.kind, s.seed) for y in (s.labels, *tasks)
    )
    control = np.mean(wrong, axis=0)
    difference = right - control
    drawn = s.weights @ difference[at] / s.weights.sum(axis=1)
    detail = f"accuracy {short(float(right[at].mean()))}, control {short(float(control[at].mean()))}"
    return difference.mean(axis=1), _paired("selectivity", drawn, detail)


def _transfer(
    s: _Statements, own: np.ndarray, curve: np.ndarray, others: Mapping[str, xr.DataArray], at: int
) -> tuple[xr.DataArray, Line]:
    """AUROC from every set to every set, and the worst way between the card's set and another one."""
    sets, names = {"own": s.residuals, **others}, ["own", *others]
    labels = {name: array["label"].values.astype(np.int64) for name, array in sets.items()}
    fitted = {"own": own, **{n: controls.directions(others[n], labels[n], s.kind) for n in others}}
    values = np.zeros((len(names), len(names), len(own)))
    values[0, 0] = curve
    worst = None
    for i, train in enumerate(names):
        for j, test in enumerate(names):
            if i == j == 0:
                continue
            y, clusters = labels[test], sets[test]["cluster"].values.astype(str)
            if i == j:
                scores, _ = controls.held_out(
                    sets[test], y, controls.make_folds(y, clusters, 5, s.seed), s.kind
                )
            else:
                scores = np.array(
                    [controls.features(sets[test], n)[0] @ d for n, d in enumerate(fitted[train])]
                )
            values[i, j] = [controls.auroc(one, y) for one in scores]
            if i != j and 0 in (i, j) and (worst is None or values[i, j, at] < worst[0]):
                weights = controls.cluster_weights(clusters, len(s.weights) - 1, s.seed)
                worst = (*_ends(weighted_auroc(scores[at], y, weights)), f"from {train} to {test}")
    matrix = transfer_array(values, names, s.residuals["layer"].values.tolist())
    if worst is None:
        return matrix, _absent("transfer")
    value, low, high, where = worst
    verdict = "fail" if low <= 0.5 else "pass" if value > 0.7 else "warn"
    return matrix, _line("transfer", value, low, high, verdict, where)


def _kinds(s: _Statements, at: int) -> tuple[list[tuple], Line]:
    """How far the kinds of fit agree at the card's layer."""
    here = s.residuals.isel(layer=[at])
    x = controls.features(here, 0)[0]
    held, fitted, inside = {}, {}, {}
    for kind in CARDED:
        held[kind] = controls.held_out(here, s.labels, s.fold, kind)[0][0]
        fitted[kind] = controls.directions(here, s.labels, kind)
        scores = x @ fitted[kind][0]
        inside[kind] = scores - np.array([scores[s.labels == y].mean() for y in (0, 1)])[s.labels]
    rows = []
    for one, two in combinations(CARDED, 2):
        lengths = np.linalg.norm(inside[one]) * np.linalg.norm(inside[two])
        within = float(inside[one] @ inside[two] / lengths) if lengths > 0 else 0.0
        varied = min(np.ptp(held[one]), np.ptp(held[two])) > 0
        rank = float(np.asarray(spearmanr(held[one], held[two]))[0]) if varied else 0.0
        plain = float(controls.cosine(fitted[one], fitted[two])[0])
        rows.append((int(here["layer"][0]), one, two, plain, within, rank))
    worst = min(rows, key=lambda row: row[5])
    detail = f"{worst[1].replace('_', ' ')} and {worst[2]}"
    return rows, _line("kinds agree", worst[5], verdict=_above(worst[5], 0.8, 0.5), detail=detail)


def _calibration_errors(
    s: _Statements, scores: Float[np.ndarray, "layer statement"]
) -> Float[np.ndarray, " layer"]:
    return np.array(
        [controls.calibration_error(controls.calibrated(one, s.labels, s.fold), s.labels) for one in scores]
    )


def _nuisance(
    own: np.ndarray, layers: np.ndarray, nuisance: Mapping[str, xr.DataArray], kind: Kind, at: int
) -> tuple[list[tuple], Line]:
    """Cosines to the directions of other contrasts, by layer; and the largest at the card's layer."""
    if not nuisance:
        return [], _absent("nuisance")
    rows, largest = [], (-1.0, "")
    for name, array in nuisance.items():
        other = controls.directions(array, array["label"].values.astype(np.int64), kind)
        found = controls.cosine(own, other).tolist()
        pairs = zip(layers.tolist(), found, strict=True)
        rows += [(layer, "own", name, cosine, np.nan, np.nan) for layer, cosine in pairs]
        largest = max(largest, (abs(found[at]), name))
    value, name = largest
    return rows, _line("nuisance", value, verdict=_above(-value, -0.5, -0.7), detail=name)
