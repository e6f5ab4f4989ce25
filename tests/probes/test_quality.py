"""Rank statistics equal scikit-learn's and SciPy's on the repeated cases; intervals cover."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import rankdata, spearmanr
from sklearn.metrics import roc_auc_score

from morality_lens.probes import quality

numbers = st.lists(st.integers(0, 6), min_size=6, max_size=25)
times = st.lists(st.integers(0, 3), min_size=25, max_size=25)


@settings(max_examples=30, deadline=None)
@given(scores=numbers, weights=times)
def test_the_weighted_auroc_is_scikit_learns_on_repeated_cases(scores, weights):
    score = np.array(scores, float)
    label = np.arange(len(score)) % 2
    weight = np.array(weights[: len(score)])
    repeated = np.repeat(np.arange(len(score)), weight)
    got = quality.weighted_auroc(score, label, weight[None].astype(float))[0]
    if len(set(label[repeated])) < 2:
        assert np.isnan(got)
    else:
        assert got == pytest.approx(roc_auc_score(label[repeated], score[repeated]))


@settings(max_examples=30, deadline=None)
@given(scores=numbers, values=st.lists(st.integers(0, 4), min_size=25, max_size=25), weights=times)
def test_the_weighted_rank_correlation_is_scipys_on_repeated_cases(scores, values, weights):
    score = np.array(scores, float)
    value = np.array(values[: len(score)], float)
    weight = np.array(weights[: len(score)])
    repeated = np.repeat(np.arange(len(score)), weight)
    got = quality.weighted_spearman(score, value, weight[None].astype(float))[0]
    if len(set(score[repeated])) < 2 or len(set(value[repeated])) < 2:
        assert np.isnan(got)
    else:
        assert got == pytest.approx(spearmanr(score[repeated], value[repeated]).statistic, abs=1e-9)


def test_the_interval_of_the_rank_correlation_covers_and_narrows():
    rng = np.random.default_rng(0)
    widths = {}
    for n, repeats in ((60, 60), (240, 20)):
        covered, width = 0, []
        for _ in range(repeats):
            value = rng.normal(size=n)
            score = (value + rng.normal(size=n))[None]
            point, low, high = quality.spearman(score, value, np.arange(n), draws=200, seed=0)
            covered += low[0] < 0.69 < high[0]  # of two normals that correlate .71
            width.append(high[0] - low[0])
            assert low[0] < point[0] < high[0]
        widths[n] = np.mean(width)
        assert covered / repeats > 0.85
    assert widths[240] < 0.6 * widths[60]


def test_the_interval_resamples_clusters_and_not_cases():
    rng = np.random.default_rng(0)
    value = np.repeat(rng.normal(size=10), 20)
    score = (np.repeat(rng.normal(size=10), 20) + value)[None] + rng.normal(size=200) * 0.01
    clusters = np.repeat(np.arange(10), 20)
    by_cluster, by_case = (
        np.ptp(quality.spearman(score, value, c, draws=300, seed=0)[1:]) for c in (clusters, np.arange(200))
    )
    assert by_cluster > 2 * by_case


def test_scores_that_are_all_equal_order_nothing():
    flat = np.zeros((1, 20))
    label = np.arange(20) % 2
    assert quality.auroc(flat, label, np.arange(20), draws=20, seed=0)[0][0] == 0.5
    found = quality.spearman(flat, rankdata(label), np.arange(20), draws=20, seed=0)
    assert [float(f[0]) for f in found] == [0, 0, 0]
