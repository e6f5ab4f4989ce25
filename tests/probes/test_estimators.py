"""Estimators keep scikit-learn's contract, closed forms equal refits, planted directions are found."""

import numpy as np
import pytest
from scipy.optimize import check_grad
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import LeaveOneGroupOut
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from morality_lens.probes.closed_form import class_means, class_sums, lda_directions
from morality_lens.probes.estimators import (
    CCSDirection,
    LDADirection,
    LogisticDirection,
    MeanDifference,
    RidgeDirection,
    _ccs_loss,
    raw_directions,
)

# Their data have 3 or 5 features, which are no pairs; the laws they test stand below for pairs.
ODD = dict.fromkeys(
    (
        "check_fit_score_takes_y",
        "check_dont_overwrite_parameters",
        "check_estimators_dtypes",
        "check_pipeline_consistency",
        "check_estimators_nan_inf",
        "check_estimators_pickle",
        "check_f_contiguous_array_estimator",
        "check_methods_sample_order_invariance",
        "check_methods_subset_invariance",
        "check_dict_unchanged",
        "check_fit2d_predict1d",
    ),
    "an odd number of features holds no pairs",
)


@parametrize_with_checks(
    [MeanDifference(), LDADirection(), LogisticDirection(), RidgeDirection(), CCSDirection(restarts=3)],
    expected_failed_checks=lambda e: ODD if isinstance(e, CCSDirection) else {},
)
def test_the_estimators_keep_the_contract_of_scikit_learn(estimator, check):
    check(estimator)


def cases(n=60, width=10, layers=3, shift=1.0, seed=0):
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % 3 > 0).astype(np.int64)
    x = rng.normal(size=(layers, n, width)) @ rng.normal(size=(layers, width, width)) + 5
    x[:, :, 0] += shift * labels
    return x, labels, np.arange(n) // 4 % 6


@pytest.mark.parametrize(("n", "width"), [(60, 10), (40, 90), (9, 30)])
def test_the_discriminants_of_all_layers_are_scikit_learns_to_1e_6(n, width):
    x, labels, _ = cases(n, width)
    x[0, :, 1] = 2.0  # does not vary
    x[1, labels == 0, 2] = 3.0  # does not vary within a class
    ours = lda_directions(x, labels, np.zeros(n, np.int64), np.ones((1, 1)))[0]
    for layer, got in zip(x, ours, strict=True):
        reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        if (layer[:, 1] == 2.0).all():
            with np.errstate(all="ignore"):
                reference.fit(layer, labels)
        want = reference.fit(layer, labels).coef_[0]
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6 * np.abs(want).max())
        mine = LDADirection().fit(layer, labels)
        np.testing.assert_allclose(
            mine.decision_function(layer), reference.decision_function(layer), rtol=1e-6, atol=1e-6
        )


@pytest.mark.parametrize("kind", ["mean_difference", "lda", "logistic", "ridge"])
@pytest.mark.parametrize("width", [10, 80])
def test_weights_of_groups_are_refits_on_the_repeated_cases(kind, width):
    x, labels, groups = cases(width=width)
    weights = np.array([[1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1], [2, 0, 1, 3, 1, 0]], float)
    got = raw_directions(kind, x, labels.astype(float), groups, groups=groups, weights=weights)
    estimator = {
        "mean_difference": MeanDifference(),
        "lda": LDADirection(),
        "logistic": LogisticDirection(Cs=(1.0,)),
        "ridge": RidgeDirection(),
    }[kind]
    for fit, weight in enumerate(weights):
        rows = np.repeat(np.arange(len(labels)), weight[groups].astype(int))
        for layer in range(len(x)):
            inner = (groups[rows],) if kind in ("logistic", "ridge") else ()
            want = np.ravel(estimator.fit(x[layer, rows], labels[rows], *inner).coef_)
            np.testing.assert_allclose(got[fit, layer], want, rtol=1e-6, atol=1e-6 * np.abs(want).max())


def test_class_means_from_sums_are_the_means_of_the_repeated_cases():
    x, labels, groups = cases()
    weight = np.array([[2, 0, 1, 3, 1, 0]], float)
    rows = np.repeat(np.arange(len(labels)), weight[0, groups].astype(int))
    got = class_means(*class_sums(x, labels, groups), weight)[0]
    for label in (0, 1):
        np.testing.assert_allclose(got[label], x[:, rows[labels[rows] == label]].mean(1))


def test_the_mean_difference_is_the_difference_of_means_cut_halfway():
    x, labels, _ = cases()
    fit = MeanDifference().fit(x[0], labels)
    means = [x[0][labels == label].mean(0) for label in (0, 1)]
    np.testing.assert_allclose(fit.coef_[0], means[1] - means[0])
    above, below = fit.decision_function(np.array([means[1], means[0]]))
    assert above == pytest.approx(-below)
    assert above > 0


@pytest.mark.parametrize("width", [6, 90])
def test_one_c_is_plain_logistic_regression_on_standardised_features(width):
    """Also where there are fewer cases than features and the fit happens in the span of the cases."""
    x, labels, _ = cases(width=width)
    ours = LogisticDirection(Cs=(0.3,)).fit(x[0], labels)
    scaled = StandardScaler().fit_transform(x[0])
    want = LogisticRegression(C=0.3, max_iter=5000, tol=1e-8).fit(scaled, labels).decision_function(scaled)
    np.testing.assert_allclose(ours.decision_function(x[0]), want, atol=5e-3 * np.abs(want).max())


def test_the_inner_choice_keeps_groups_together():
    """Groups that differ at random favour a weak penalty only as long as their cases are split up."""
    rng = np.random.default_rng(3)
    group = np.repeat(np.arange(20), 8)
    labels = group % 2
    x = rng.normal(size=(20, 60))[group] * 2 + rng.normal(size=(160, 60)) * 0.2
    assert LogisticDirection().fit(x, labels).C_ == 10.0
    assert LogisticDirection().fit(x, labels, group).C_ <= 0.1


def test_a_choice_without_two_groups_of_each_class_is_refused():
    x, labels, _ = cases()
    with pytest.raises(ValueError, match="two or more groups of each class; got 1 and 1"):
        LogisticDirection().fit(x[0], labels, labels)
    with pytest.raises(ValueError, match="two or more groups to choose"):
        RidgeDirection().fit(x[0], labels, np.zeros(60))


@pytest.mark.parametrize("width", [8, 70])
@pytest.mark.parametrize("grouped", [True, False])
def test_the_held_out_error_of_ridge_is_that_of_real_refits(width, grouped):
    x, labels, groups = cases(width=width)
    y = labels + np.random.default_rng(1).normal(size=60)
    groups = groups if grouped else np.arange(60)
    fit = RidgeDirection(alphas=(0.5, 30.0)).fit(x[0], y, groups)
    scaled = StandardScaler().fit_transform(x[0])
    for alpha, error in zip(fit.alphas, fit.errors_, strict=True):
        held_out = [
            (y[test] - Ridge(alpha=alpha).fit(scaled[train], y[train]).predict(scaled[test])) ** 2
            for train, test in LeaveOneGroupOut().split(scaled, y, groups)
        ]
        assert error == pytest.approx(np.concatenate(held_out).mean(), rel=1e-8)
    assert fit.alpha_ == fit.alphas[int(np.argmin(fit.errors_))]
    want = Ridge(alpha=fit.alpha_).fit(scaled, y).predict(scaled)
    np.testing.assert_allclose(fit.predict(x[0]), want)


def pairs(n=120, width=12, shift=2.0, seed=0):
    """Claims ended in two ways, and the directions of truth and of the ending."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 2, n)
    first, second = rng.normal(size=(2, n, width))
    truth, ending = np.linalg.qr(rng.normal(size=(width, 2)))[0].T
    first += np.outer(shift * (true - 0.5), truth) + 5 * ending
    second -= np.outer(shift * (true - 0.5), truth)
    return np.hstack([first, second]), true, truth, ending


@pytest.mark.parametrize("width", [12, 400])
def test_ccs_finds_the_planted_truth_and_not_the_ending(width):
    x, true, truth, ending = pairs(width=width, shift=6.0)
    fit = CCSDirection().fit(x)
    told = (fit.decision_function(x) > 0).astype(int)
    assert max((told == true).mean(), (told != true).mean()) > 0.97
    first, second = np.split(fit.coef_[0], 2)
    np.testing.assert_array_equal(first, -second)
    assert abs(first @ truth) > 5 * abs(first @ ending)
    assert not fit.oriented_


def test_labels_turn_ccs_and_change_nothing_else():
    x, true, *_ = pairs(shift=6.0)
    plain, up, down = CCSDirection().fit(x), CCSDirection().fit(x, true), CCSDirection().fit(x, 1 - true)
    np.testing.assert_array_equal(up.coef_, -down.coef_)
    np.testing.assert_array_equal(np.abs(plain.coef_), np.abs(up.coef_))
    assert up.oriented_
    assert up.decision_function(x)[true == 1].mean() > 0


def test_ccs_finds_nothing_where_no_claim_is_true_or_false():
    x, true, *_ = pairs(n=400, shift=0.0)
    told = CCSDirection().fit(x).decision_function(x) > 0
    assert 0.35 < (told == true).mean() < 0.65


def test_swapping_the_halves_or_the_order_of_pairs_leaves_ccs_as_it_was():
    x, *_ = pairs(shift=6.0)
    swapped = np.hstack([x[:, 12:], x[:, :12]])
    mixed = np.random.default_rng(0).permutation(len(x))
    want = np.abs(CCSDirection().fit(x).decision_function(x))
    got = np.abs(CCSDirection().fit(swapped).decision_function(swapped))
    np.testing.assert_allclose(got, want, atol=2e-3 * want.max())
    got = np.abs(CCSDirection().fit(x[mixed]).decision_function(x))
    np.testing.assert_allclose(got, want, atol=2e-3 * want.max())


def test_more_restarts_never_reach_a_worse_loss():
    x, *_ = pairs(shift=1.0)
    losses = [CCSDirection(restarts=count).fit(x).loss_ for count in (1, 3, 10)]
    assert losses == sorted(losses, reverse=True)


def test_the_gradient_of_the_ccs_loss_is_its_slope():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 30, 5))
    error = check_grad(
        lambda t: _ccs_loss(t, first, second, 0.1)[0],
        lambda t: _ccs_loss(t, first, second, 0.1)[1],
        rng.normal(size=6),
    )
    assert error < 1e-6


def test_features_that_are_no_pairs_are_refused():
    with pytest.raises(ValueError, match="an even number of features; got n_features = 3"):
        CCSDirection().fit(np.ones((4, 3)))
