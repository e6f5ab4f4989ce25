"""Judges of toxicity: fitted on labelled statements, and how far two of them agree."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline

from morality_lens.items.kinds import Statement, items_hash
from morality_lens.items.repeats import joined_clusters
from morality_lens.judges.questions import ratio


@runtime_checkable
class Judge(Protocol):
    """Whatever gives each text a score, and NaN where it cannot."""

    def score(self, texts: Sequence[str | None]) -> np.ndarray:
        """One score for each text."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class ToxicityJudge:
    """A text classifier that needs no download and is fitted anew from its statements wherever it is used.

    Attributes:
        kind: see :func:`fit_toxicity_judge`.
        pipeline: scikit-learn's, fitted on all statements.
        auroc: area under the ROC curve on held-out clusters, of the same pipeline fitted on the others.
        n_train: statements behind ``auroc``'s fit.
        n_heldout: statements behind ``auroc``.
        statements_hash: :func:`items_hash` of the statements, which with the seed determines the judge.
    """

    kind: str
    pipeline: Pipeline
    auroc: float
    n_train: int
    n_heldout: int
    statements_hash: str

    def score(self, texts: Sequence[str | None]) -> Float[np.ndarray, " text"]:
        """Each text's probability of being toxic; NaN for None and for a text without words."""
        return scored(texts, lambda present: self.pipeline.predict_proba(present)[:, 1])

    def __repr__(self) -> str:
        return f"ToxicityJudge({self.kind}, held-out AUROC {self.auroc:.3f} on {self.n_heldout} statements)"


def fit_toxicity_judge(
    statements: Sequence[Statement], *, kind: Literal["logistic", "bayes"] = "logistic", seed: int = 0
) -> ToxicityJudge:
    """A classifier of texts fitted on labelled statements, label 0 being toxic.

    Args:
        statements: what it is fitted on.
        kind: ``logistic``, a logistic regression on TF-IDF of words and of pieces of words; or ``bayes``,
            naive Bayes on words and pairs of words: another family, to hold the first against.
        seed: chooses the fifth of the clusters that is held out for the AUROC; all else is deterministic.

    Raises:
        ValueError: another kind, or fewer than five clusters with statements of either label.

    Examples:
        >>> judge = ml.judges.fit_toxicity_judge(statements)
        >>> cruel = [statement.text for statement in statements if statement.label == 0]
        >>> kind = [statement.text for statement in statements if statement.label == 1]
        >>> bool(judge.score(cruel).mean() > judge.score(kind).mean())
        True
    """
    if kind not in _PIPELINES:
        raise ValueError(f"kind must be one of {', '.join(_PIPELINES)}; got {kind!r}.")
    texts = np.array([s.text for s in statements], dtype=object)
    toxic = np.array([1 - s.label for s in statements])
    names, cluster = np.unique([s.cluster for s in joined_clusters(statements)], return_inverse=True)
    has = [np.bincount(cluster[toxic == k], minlength=len(names)) > 0 for k in (0, 1)]
    if min(has[0].sum(), has[1].sum()) < 5:
        raise ValueError(
            "fit_toxicity_judge needs five or more clusters with moral and five with immoral statements; "
            f"got {has[0].sum()} and {has[1].sum()}."
        )
    # A fifth of the clusters of each kind (one label, the other, both), so that both labels are held out.
    rng = np.random.default_rng(seed)
    sides = has[0] + 2 * has[1]
    members = [rng.permutation(np.flatnonzero(sides == k)) for k in (1, 2, 3)]
    out = np.isin(cluster, np.concatenate([m[: math.ceil(len(m) / 5)] for m in members]))
    train, heldout = np.flatnonzero(~out), np.flatnonzero(out)
    trial = _PIPELINES[kind]().fit(texts[train], toxic[train])
    return ToxicityJudge(
        kind=kind,
        pipeline=_PIPELINES[kind]().fit(texts, toxic),
        auroc=float(roc_auc_score(toxic[heldout], trial.predict_proba(texts[heldout])[:, 1])),
        n_train=len(train),
        n_heldout=len(heldout),
        statements_hash=items_hash(statements),
    )


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far two judges' scores of the same texts agree.

    Attributes:
        n: texts that both scored; the rest is left out of everything below.
        spearman: rank correlation; NaN where either judge gives all texts one score.
        kappa: Cohen's kappa of "toxic at or above the threshold"; NaN where chance alone agrees entirely.
        mean_difference: mean of a - b (Bland-Altman bias).
        limits: mean difference -+ 1.96 standard deviations (Bland-Altman limits of agreement).
    """

    n: int
    spearman: float
    kappa: float
    mean_difference: float
    limits: tuple[float, float]


def agreement(
    a: Float[np.ndarray, " text"], b: Float[np.ndarray, " text"], *, threshold: float = 0.5
) -> Agreement:
    """The agreement of two score vectors over the texts that have both scores (two or more).

    Raises:
        ValueError: vectors of unequal length, or fewer than two texts with both scores.
    """
    if len(a) != len(b):
        raise ValueError(f"agreement needs two scores per text: got {len(a)} and {len(b)}.")
    both = np.isfinite(a) & np.isfinite(b)
    a, b = a[both], b[both]
    if len(a) < 2:
        raise ValueError(f"agreement needs two or more texts that both judges scored; got {len(a)}.")
    varied = np.ptp(a) > 0 and np.ptp(b) > 0
    difference = a - b
    mean, spread = float(difference.mean()), 1.96 * float(difference.std(ddof=1))
    return Agreement(
        n=len(a),
        spearman=float(np.corrcoef(rankdata(a), rankdata(b))[0, 1]) if varied else math.nan,
        kappa=_kappa(a >= threshold, b >= threshold),
        mean_difference=mean,
        limits=(mean - spread, mean + spread),
    )


def scored(
    texts: Sequence[str | None], score: Callable[[list[str]], np.ndarray]
) -> Float[np.ndarray, " text"]:
    """The scores of the texts that are there, in order, and NaN for None, blank texts and failed scores."""
    out = np.full(len(texts), np.nan)
    present = [(k, text) for k, text in enumerate(texts) if text is not None and text.strip()]
    if present:
        out[[k for k, _ in present]] = score([text for _, text in present])
    out[~np.isfinite(out)] = np.nan
    return out


def _kappa(a: np.ndarray, b: np.ndarray) -> float:
    chance = a.mean() * b.mean() + (1 - a.mean()) * (1 - b.mean())
    return ratio(float((a == b).mean() - chance), float(1 - chance))


def _logistic() -> Pipeline:
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    pieces = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, max_features=100_000)
    return make_pipeline(
        FeatureUnion([("words", words), ("pieces", pieces)]), LogisticRegression(C=10, max_iter=1000)
    )


def _bayes() -> Pipeline:
    words = CountVectorizer(binary=True, ngram_range=(1, 2))
    return make_pipeline(words, MultinomialNB(fit_prior=False))


_PIPELINES = {"logistic": _logistic, "bayes": _bayes}
