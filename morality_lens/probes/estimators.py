"""Estimators of a direction with the interface of scikit-learn."""

from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler
from sklearn.utils import Tags, check_consistent_length, column_or_1d
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, validate_data

from morality_lens.probes.closed_form import (
    Directions,
    Groups,
    Weights,
    class_means,
    class_sums,
    lda_directions,
)
from morality_lens.probes.kinds import Kind

CHOICES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Values of C that :class:`LogisticDirection` chooses from."""
ALPHAS = (0.1, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5)
"""Penalties that :class:`RidgeDirection` chooses from."""


class _LinearClassifier(ClassifierMixin, BaseEstimator):
    """Two classes separated by the sign of X @ coef_ + intercept_; the second class lies above."""

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags

    def _checked(self, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """X in float64 and y as 0 and 1; learns ``classes_``."""
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        if type_of_target(y, input_name="y") != "binary":
            raise ValueError(
                f"Only binary classification is supported. The type of the target is {type_of_target(y)}."
            )
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"{type(self).__name__} needs examples of two classes; y has one class, {self.classes_[0]!r}."
            )
        return X, codes

    def _between(self, coef: np.ndarray, X: np.ndarray, codes: np.ndarray) -> None:
        """Keep a direction whose threshold lies halfway between the class means."""
        middle = (X[codes == 1].mean(0) + X[codes == 0].mean(0)) / 2
        self.coef_, self.intercept_ = coef[None], np.array([-middle @ coef])

    def decision_function(self, X: Any) -> np.ndarray:
        """[case]: above 0 for the second class."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        return X @ self.coef_[0] + self.intercept_[0]

    def predict(self, X: Any) -> np.ndarray:
        """[case]: the class on whose side of the threshold an example lies."""
        above = self.decision_function(X) > 0
        return self.classes_[above.astype(np.int64)]


class MeanDifference(_LinearClassifier):
    """The difference of the class means, cut halfway (Marks and Tegmark 2023, arXiv 2310.06824).

    Attributes:
        coef_: [1, feature].
        intercept_: [1].
    """

    def fit(self, X: Any, y: Any) -> "MeanDifference":
        """Fit on examples of two classes."""
        X, codes = self._checked(X, y)
        one = np.zeros(len(codes), np.int64)
        means = class_means(*class_sums(X[None], codes, one), np.ones((1, 1)))
        self._between(means[0, 1, 0] - means[0, 0, 0], X, codes)
        return self


class LDADirection(_LinearClassifier):
    """Linear discriminant with Ledoit-Wolf shrinkage; the threshold knows the share of each class.

    Equal to scikit-learn's ``LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")`` on two classes.

    Attributes:
        coef_: [1, feature].
        intercept_: [1].
    """

    def fit(self, X: Any, y: Any) -> "LDADirection":
        """Fit on examples of two classes."""
        X, codes = self._checked(X, y)
        one = np.zeros(len(codes), np.int64)
        self._between(lda_directions(X[None], codes, one, np.ones((1, 1)))[0, 0], X, codes)
        self.intercept_ = self.intercept_ + np.log(codes.mean() / (1 - codes.mean()))
        return self


class LogisticDirection(_LinearClassifier):
    """Logistic regression with an L2 penalty on standardised features, its strength chosen inside ``fit``.

    Args:
        Cs: inverse penalties to choose from by held-out log loss; a single one is taken as it is.
        folds: of the choice; whole groups are held out.
        random_state: seed of the folds.

    Attributes:
        coef_: [1, feature], of the features as given.
        intercept_: [1].
        C_: the chosen inverse penalty.
    """

    # scikit-learn checks what it is given in fit and never here; so nothing is typed here either.
    def __init__(self, Cs: Any = CHOICES, folds: Any = 5, random_state: Any = 0):
        self.Cs = Cs
        self.folds = folds
        self.random_state = random_state

    def fit(self, X: Any, y: Any, groups: Any = None) -> "LogisticDirection":
        """Fit on examples of two classes; examples of one group are held out together.

        Raises:
            ValueError: there is a choice to make and a class is in fewer than two groups.
        """
        X, codes = self._checked(X, y)
        inner = _groups(groups, codes)
        self.C_ = float(self.Cs[0]) if len(self.Cs) == 1 else self._choose(X, codes, inner)
        self.coef_, self.intercept_ = _logistic(X, codes, self.C_)
        return self

    def _choose(self, X: np.ndarray, codes: np.ndarray, inner: np.ndarray) -> float:
        each = [len(np.unique(inner[codes == label])) for label in (0, 1)]
        if min(each) < 2:
            raise ValueError(
                f"choosing C needs two or more groups of each class; got {each[0]} and {each[1]}. Give more "
                "examples, or one C."
            )
        folds = StratifiedGroupKFold(
            n_splits=max(2, min(self.folds, *each)), shuffle=True, random_state=self.random_state
        )
        losses = np.zeros(len(self.Cs))
        for train, test in folds.split(X, codes, inner):
            if len(np.unique(codes[train])) < 2:
                continue
            for number, strength in enumerate(self.Cs):
                coef, intercept = _logistic(X[train], codes[train], float(strength))
                probability = expit(X[test] @ coef[0] + intercept[0])
                losses[number] += len(test) * log_loss(codes[test], probability, labels=[0, 1])
        return float(self.Cs[int(np.argmin(losses))])


def _logistic(X: np.ndarray, codes: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray]:
    z, mean, scale = _standardised(X)
    z, basis = _within_span(z)
    model = LogisticRegression(C=strength, max_iter=5000).fit(z, codes)
    coef = model.coef_ @ basis / scale
    return coef, model.intercept_ - coef @ mean


def _standardised(X: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The features standardised, their means and their scales."""
    scaler = StandardScaler().fit(X)
    return np.asarray(scaler.transform(X)), np.asarray(scaler.mean_), np.asarray(scaler.scale_)


def _within_span(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates in the rows' own span and its basis: an L2 penalty leaves every solution inside it."""
    if z.shape[0] >= z.shape[1]:
        return z, np.eye(z.shape[1])
    left, size, basis = np.linalg.svd(z, full_matrices=False)
    return left * size, basis


def _groups(groups: Any, y: np.ndarray) -> np.ndarray:
    """Numbers of the groups; each example its own where none are given."""
    if groups is None:
        return np.arange(len(y))
    check_consistent_length(groups, y)
    return np.unique(column_or_1d(groups), return_inverse=True)[1]


class RidgeDirection(RegressorMixin, BaseEstimator):
    """Ridge regression of a graded rating on standardised features, its penalty chosen inside ``fit``.

    The penalty with the least squared error under leaving out one group at a time is taken. That error is
    exact and needs no refit: a group's held-out residuals are (I - H_gg)^-1 times its fitted ones, with H the
    hat matrix.

    Args:
        alphas: penalties to choose from.

    Attributes:
        coef_: [feature], of the features as given.
        intercept_: a number.
        alpha_: the chosen penalty.
        errors_: [alpha], mean squared held-out error of each.
    """

    def __init__(self, alphas: Any = ALPHAS):
        self.alphas = alphas

    def fit(self, X: Any, y: Any, groups: Any = None) -> "RidgeDirection":
        """Fit on examples with a rating; examples of one group are left out together.

        Raises:
            ValueError: fewer than two groups.
        """
        X, y = validate_data(self, X, y, dtype=np.float64, y_numeric=True, ensure_min_samples=2)
        inner = _groups(groups, y)
        names = np.unique(inner)
        if len(names) < 2:
            raise ValueError("RidgeDirection needs two or more groups to choose its penalty; got 1.")
        z, mean, scale = _standardised(X)
        left, size, basis = np.linalg.svd(z, full_matrices=False)
        y = np.asarray(y, np.float64)
        rating = left.T @ (y - y.mean())
        self.errors_ = np.zeros(len(self.alphas))
        members = [np.flatnonzero(inner == name) for name in names]
        for number, alpha in enumerate(self.alphas):
            kept = size**2 / (size**2 + alpha)
            residual = y - y.mean() - left @ (kept * rating)
            for rows in members:
                hat = (left[rows] * kept) @ left[rows].T + 1 / len(y)
                out = np.linalg.solve(np.eye(len(rows)) - hat, residual[rows])
                self.errors_[number] += out @ out / len(y)
        self.alpha_ = float(self.alphas[int(np.argmin(self.errors_))])
        self.coef_ = basis.T @ (size / (size**2 + self.alpha_) * rating) / scale
        self.intercept_ = float(y.mean() - mean @ self.coef_)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """[case]: the expected rating."""
        check_is_fitted(self)
        return validate_data(self, X, reset=False, dtype=np.float64) @ self.coef_ + self.intercept_


class CCSDirection(BaseEstimator):
    """Contrast-consistent search: a direction found without labels (Burns et al. 2022, arXiv 2212.03827).

    Each example is a claim with two contradictory endings. The search is for a probability p of truth with
    p(first) = 1 - p(second) and which is not undecided: the mean of (p1 + p2 - 1)^2 + min(p1, p2)^2 is made
    small. Each half loses its own mean first, which would tell the endings apart. With more dimensions
    than pairs there are many poor minima: an L2 penalty and a start along the main component of the pairs'
    differences lead past them, as far as it is the truth that differs most.

    Args:
        restarts: random starts beside that one; the one with the least loss is kept.
        weight_decay: the penalty is half of it times the squared length, on standardised features.
        random_state: seed of the starts.

    Attributes:
        coef_: [1, 2 * d_model]; its second half is minus its first.
        intercept_: [1].
        loss_: what the kept start reached.
        oriented_: whether labels chose the sign; without them either sign is as good.
    """

    def __init__(self, restarts: Any = 10, weight_decay: Any = 0.1, random_state: Any = 0):
        self.restarts = restarts
        self.weight_decay = weight_decay
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> "CCSDirection":
        """Fit on pairs, [case, 2 * d_model]; labels, where given, choose nothing but the sign.

        Raises:
            ValueError: the number of features is odd.
        """
        X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        if X.shape[1] % 2:
            raise ValueError(
                f"CCSDirection needs the two halves of a pair side by side, an even number of features; got "
                f"n_features = {X.shape[1]}."
            )
        centre = X.mean(0)
        halves = np.stack(np.split(X - centre, 2, axis=1))
        scale = np.sqrt((halves**2).mean((0, 1)))
        scale[scale <= 1e-12 * max(1.0, float(np.abs(X).max()))] = 1.0
        flat, basis = _within_span((halves / scale).reshape(-1, len(scale)))
        first, second = np.split(flat, 2)
        starts = np.random.default_rng(self.random_state).normal(size=(self.restarts, len(scale)))
        starts = starts @ basis.T / np.sqrt(len(scale))
        main = np.linalg.svd(first - second, full_matrices=False)[2][:1]
        tried = [
            minimize(
                _ccs_loss,
                np.append(start, 0.0),
                args=(first, second, self.weight_decay),
                jac=True,
                method="L-BFGS-B",
            )
            for start in [*main, *starts]
        ]
        best = min(tried, key=lambda found: found.fun)
        direction = best.x[:-1] @ basis / scale / 2
        self.loss_, self.oriented_ = float(best.fun), y is not None
        self.coef_ = np.concatenate([direction, -direction])[None]
        if y is not None:
            check_consistent_length(X, y)
            codes = np.unique(column_or_1d(y), return_inverse=True)[1]
            if (X - centre) @ self.coef_[0] @ (codes - codes.mean()) < 0:
                self.coef_ = -self.coef_
        self.intercept_ = -self.coef_ @ centre
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """[pair]: above 0 where the first half is the true one (or, not oriented, the false one)."""
        check_is_fitted(self)
        return validate_data(self, X, reset=False, dtype=np.float64) @ self.coef_[0] + self.intercept_[0]


def _ccs_loss(
    theta: np.ndarray, first: np.ndarray, second: np.ndarray, decay: float
) -> tuple[float, np.ndarray]:
    """Equation 1 and 2 of the paper with the penalty, and the gradient."""
    w, n = theta[:-1], len(first)
    p, q = expit(first @ w + theta[-1]), expit(second @ w + theta[-1])
    gap, least = p + q - 1, np.minimum(p, q)
    loss = (gap**2 + least**2).mean() + decay / 2 * (w @ w)
    dp = (2 * gap + 2 * p * (p <= q)) * p * (1 - p) / n
    dq = (2 * gap + 2 * q * (q < p)) * q * (1 - q) / n
    return float(loss), np.append(dp @ first + dq @ second + decay * w, (dp + dq).sum())


def raw_directions(
    kind: Kind,
    features: Float[np.ndarray, "layer case feature"],
    targets: Float[np.ndarray, " case"],
    clusters: Groups,
    *,
    groups: Groups,
    weights: Weights,
    regularisation: float | None = 1.0,
) -> Directions:
    """Directions of every fit and layer, before they are scaled.

    Args:
        kind: the estimator.
        features: one example per row (for ``ccs`` both halves of a pair side by side).
        targets: 1 or 0, for ``ridge`` the rating; NaN for ``ccs`` without labels.
        clusters: what the inner cross-validation keeps together.
        groups: what is left out or drawn whole.
        weights: how often each fit takes each group.
        regularisation: C of ``logistic``; None chooses it.
    """
    labels = np.nan_to_num(targets).astype(np.int64)
    if kind == "mean_difference":
        means = class_means(*class_sums(features, labels, groups), weights)
        return means[:, 1] - means[:, 0]
    if kind == "lda":
        return lda_directions(features, labels, groups, weights)
    found = []
    for weight in weights:
        rows = np.repeat(np.arange(len(targets)), weight[groups].astype(np.int64))
        y, inner = targets[rows], clusters[rows]
        for x in features[:, rows]:
            if kind == "ridge":
                raw = RidgeDirection().fit(x, y, inner).coef_
            elif kind == "ccs":
                pair = CCSDirection().fit(x, None if np.isnan(y).any() else y).coef_[0]
                raw = 2 * pair[: len(pair) // 2]
            else:
                choices = (regularisation,) if regularisation is not None else CHOICES
                raw = LogisticDirection(Cs=choices).fit(x, y.astype(np.int64), inner).coef_[0]
            found.append(raw)
    return np.array(found).reshape(len(weights), features.shape[0], -1)
