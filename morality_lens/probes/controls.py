"""Controls of a direction: fits that have not seen the statement, words alone, random labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import xarray as xr
from jaxtyping import Float, Int
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from morality_lens.probes.closed_form import class_means, class_sums, in_gaps
from morality_lens.probes.estimators import raw_directions
from morality_lens.probes.kinds import Kind
from morality_lens.probes.quality import highest, weighted_auroc

Labels = Int[np.ndarray, " statement"]
Scores = Float[np.ndarray, " statement"]
Weights = Float[np.ndarray, "draw statement"]
WORD = r"(?u)\w+|[^\w\s]+"
"""A word, or a run of punctuation, which can give a label away as well."""


def make_folds(labels: Labels, clusters: np.ndarray, folds: int, seed: int) -> Labels:
    """The fold of each statement: whole clusters, the shares of labels alike.

    Raises:
        ValueError: fewer than three clusters in a class, or fewer than three folds.
    """
    each = [len(set(clusters[labels == label])) for label in (0, 1)]
    if min(folds, *each) < 3:
        raise ValueError(
            "trust_card chooses a layer inside the training folds, which needs three folds or more and three "
            f"clusters in each class; got {folds} folds, {each[1]} moral and {each[0]} immoral clusters."
        )
    splitter = StratifiedGroupKFold(n_splits=min(folds, *each), shuffle=True, random_state=seed)
    fold = np.zeros(len(labels), np.int64)
    for number, (_, test) in enumerate(splitter.split(labels, labels, clusters)):
        fold[test] = number
    return fold


def directions(residuals: xr.DataArray, labels: Labels, kind: Kind) -> Float[np.ndarray, "layer d_model"]:
    """Directions fitted on all statements, in gaps of these labels."""
    one = np.zeros(len(labels), np.int64)
    each = range(residuals.sizes["layer"])
    return np.concatenate(
        [_fits(features(residuals, i), labels, one, np.ones((1, 1)), kind)[0] for i in each]
    )


def features(residuals: xr.DataArray, layer: int) -> Float[np.ndarray, "1 statement d_model"]:
    """One layer in float64: what is held of a large set at a time."""
    return residuals.isel(layer=[layer]).transpose("layer", "statement", "d_model").values.astype(np.float64)


def _fits(
    x: Float[np.ndarray, "1 statement d_model"],
    labels: Labels,
    fold: Labels,
    weights: Float[np.ndarray, "fit fold"],
    kind: Kind,
) -> tuple[Float[np.ndarray, "fit d_model"], Float[np.ndarray, " fit"]]:
    """Directions of each fit and their midpoints; a fit takes the folds whose weight is 1."""
    raw = raw_directions(kind, x, labels.astype(np.float64), fold, groups=fold, weights=weights)
    means = class_means(*class_sums(x, labels, fold), weights)
    found, _ = in_gaps(raw, means, np.abs(x).max((1, 2)))
    return found[:, 0], (means.mean(1) * found).sum(-1)[:, 0]


def held_out(
    residuals: xr.DataArray, labels: Labels, fold: Labels, kind: Kind
) -> tuple[Float[np.ndarray, "layer statement"], Scores]:
    """Scores of every statement by directions fitted without its fold, in gaps.

    Returns:
        Those of every layer; and those of the layer that the training folds prefer: for each fold the layer
        with the highest AUROC under directions that have seen neither that fold nor the statement. No choice
        has seen the second scores.
    """
    count, layers = int(fold.max()) + 1, residuals.sizes["layer"]
    left_out = list(combinations_with_replacement(range(count), 2))
    weights = np.ones((len(left_out), count))
    for row, pair in zip(weights, left_out, strict=True):
        row[list(pair)] = 0
    outer = np.zeros((layers, len(labels)))
    inner = np.full((layers, count, len(labels)), np.nan)
    for layer in range(layers):
        x = features(residuals, layer)
        found, middle = _fits(x, labels, fold, weights, kind)
        for (one, two), direction, at in zip(left_out, found, middle, strict=True):
            for hidden, test in {(one, two), (two, one)}:
                scores = x[0, fold == test] @ direction - at
                if one == two:
                    outer[layer, fold == test] = scores
                else:
                    inner[layer, hidden, fold == test] = scores
    chosen = np.zeros(len(labels))
    for hidden in range(count):
        rest = fold != hidden
        layer = highest([auroc(scores[hidden, rest], labels[rest]) for scores in inner])
        assert layer is not None  # the training folds hold statements of both labels
        chosen[~rest] = outer[layer, ~rest]
    return outer, chosen


def auroc(scores: Scores, labels: Labels) -> float:
    """The AUROC of all statements, ties counted half."""
    return float(weighted_auroc(scores, labels, np.ones((1, len(labels))))[0])


def cluster_weights(clusters: np.ndarray, draws: int, seed: int) -> Weights:
    """How often each bootstrap draw of whole clusters holds each statement; the first row is the sample."""
    names, member = np.unique(clusters, return_inverse=True)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    return np.concatenate([np.ones((1, len(clusters))), drawn[:, member]]).astype(np.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class MoreTexts:
    """Labelled texts that no model has read, which classifiers of words learn from besides.

    Attributes:
        texts: one for each.
        labels: 1 or 0.
        fold: the fold in which their cluster is held out; -1 for clusters that none of the others belongs to.
    """

    texts: Sequence[str]
    labels: Labels
    fold: Labels


NO_MORE = MoreTexts(texts=(), labels=np.zeros(0, np.int64), fold=np.zeros(0, np.int64))


def lexical_scores(
    texts: Sequence[str], labels: Labels, fold: Labels, more: MoreTexts = NO_MORE
) -> dict[str, Scores]:
    """Held-out scores of what needs no model: logistic regressions on words and on lengths.

    Args:
        texts: what is scored.
        labels: 1 or 0.
        fold: what is held out together.
        more: texts to learn from besides, which are not scored.
    """
    learnt = [*texts, *more.texts]
    every_label, every_fold = np.append(labels, more.labels), np.append(fold, more.fold)
    words = {"bag of words": CountVectorizer, "TF-IDF": TfidfVectorizer}
    makers = {name: make(token_pattern=WORD) for name, make in words.items()}
    lengths = {
        "number of words": np.array([[len(text.split())] for text in learnt], float),
        "number of characters": np.array([[len(text)] for text in learnt], float),
    }
    scores = {name: np.zeros(len(labels)) for name in (*makers, *lengths)}
    every = np.array(learnt, dtype=object)
    for number in np.unique(fold):
        train, test = every_fold != number, np.flatnonzero(fold == number)
        for name, out in scores.items():
            first = makers.get(name) or StandardScaler()
            given = lengths.get(name, every)
            model = make_pipeline(first, LogisticRegression(solver="liblinear"))
            out[test] = model.fit(given[train], every_label[train]).decision_function(given[test])
    return scores


def shuffle_labels(labels: Labels, clusters: np.ndarray, rng: np.random.Generator) -> Labels:
    """Labels shuffled at the level at which they vary, so that they are unrelated to the residuals.

    A cluster with both labels (a toxic sentence and its paraphrases) keeps them in a new order;
    clusters of one label exchange theirs whole. Shuffling single statements over clusters would undo the
    dependence within clusters, and the control would look narrower than it is.
    """
    out = labels.copy()
    _, member = np.unique(clusters, return_inverse=True)
    shares = np.bincount(member, weights=labels) / np.bincount(member)
    pure = np.isin(shares, (0, 1))
    of_cluster = np.full(len(shares), -1)
    of_cluster[pure] = rng.permutation(shares[pure])
    whole = pure[member]
    out[whole] = of_cluster[member[whole]]
    rest = np.flatnonzero(~whole)
    by_cluster = rest[np.argsort(member[rest], kind="stable")]
    dealt = rest[np.lexsort((rng.random(len(rest)), member[rest]))]
    out[by_cluster] = labels[dealt]
    return out


def control_labels(texts: Sequence[str], rng: np.random.Generator) -> Labels:
    """A random label for each last word, the two about equally frequent over statements.

    A control task (Hewitt and Liang 2019, arXiv 1909.03368) whose types are the words at which a statement
    is read: it can be learnt by memory alone.
    """
    last = [(text.split() or [""])[-1].casefold().strip(".,;:!?\"'()") for text in texts]
    names, member, counts = np.unique(last, return_inverse=True, return_counts=True)
    given, totals = np.zeros(len(names), np.int64), [0, 0]
    for name in rng.permutation(len(names)):
        side = int(totals[1] < totals[0]) if totals[0] != totals[1] else int(rng.integers(2))
        given[name] = side
        totals[side] += int(counts[name])
    return given[member]


def correct(
    residuals: xr.DataArray, labels: Labels, folds: int, kind: Kind, seed: int
) -> Float[np.ndarray, "layer statement"]:
    """1 where a held-out statement lies on its label's side of the midpoint; single statements held out."""
    fold = np.zeros(len(labels), np.int64)
    splitter = StratifiedKFold(n_splits=folds, shuffle=True, random_state=seed)
    for number, (_, test) in enumerate(splitter.split(labels, labels)):
        fold[test] = number
    right = np.zeros((residuals.sizes["layer"], len(labels)))
    for layer in range(len(right)):
        x = features(residuals, layer)
        found, middle = _fits(x, labels, fold, 1 - np.eye(folds), kind)
        scores = (x[0] * found[fold]).sum(-1) - middle[fold]
        right[layer] = (scores > 0) == (labels == 1)
    return right


def calibrated(scores: Scores, labels: Labels, fold: Labels) -> Scores:
    """Probabilities by Platt's sigmoid, fitted on the held-out scores of the other folds."""
    out = np.zeros(len(scores))
    for number in np.unique(fold):
        train, test = fold != number, fold == number
        model = LogisticRegression(C=100.0, max_iter=1000).fit(scores[train, None], labels[train])
        out[test] = model.predict_proba(scores[test, None])[:, 1]
    return out


def calibration_error(probabilities: Scores, labels: Labels) -> float:
    """Expected calibration error: the mean distance of a predicted and an observed share over equal bins.

    Ten bins, or fewer so that each holds 50 statements, where chance alone makes up to .06.
    """
    bins = int(np.clip(len(labels) // 50, 2, 10))
    order = np.argsort(probabilities, kind="stable")
    gaps = [abs((probabilities[part] - labels[part]).sum()) for part in np.array_split(order, bins)]
    return float(sum(gaps) / len(labels))


def cosine(a: Float[np.ndarray, "layer d_model"], b: Float[np.ndarray, "layer d_model"]) -> np.ndarray:
    """By layer; 0 where a direction is zero."""
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return (a * b).sum(-1) / np.where(lengths > 0, lengths, 1.0)
