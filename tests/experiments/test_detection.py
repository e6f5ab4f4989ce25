"""Signal detection by hand, its laws, and its intervals' coverage."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings, strategies as st
from scipy.stats import norm

from morality_lens.experiments.detection import describe_detection, signal_detection


def made(first, second, clusters=None):
    values = np.stack([first, second], axis=1).astype(float)
    items = [f"i{k}" for k in range(len(values))]
    return xr.DataArray(
        values,
        dims=("item", "better"),
        coords={
            "item": items,
            "better": ["first", "second"],
            "cluster": ("item", items if clusters is None else clusters),
        },
    )


def value(found, name, of="estimate"):
    return float(found[of].sel(measure=name))


def test_measures_by_hand():
    # 8 of 10 say the first when it is the better one, 4 of 10 when it is not
    found = signal_detection(made([1] * 8 + [0] * 2, [1] * 4 + [0] * 6))
    assert value(found, "accuracy") == pytest.approx(0.7)
    assert value(found, "position_bias") == pytest.approx(0.1)
    z = norm.ppf
    assert value(found, "d_prime") == pytest.approx((z(0.8) - z(0.4)) / np.sqrt(2))
    assert value(found, "criterion") == pytest.approx(-(z(0.8) + z(0.4)) / 2)


def test_perfect_answers_are_held_off_the_ends_and_the_probe_stands_beside():
    says, reading = (
        made(np.ones(20), np.zeros(20)),
        xr.DataArray(np.r_[np.ones(15), -np.ones(5)], dims="item"),
    )
    found = signal_detection(says, reading)
    z = norm.ppf
    assert value(found, "d_prime") == pytest.approx(np.sqrt(2) * z(1 - 0.5 / 20))
    assert value(found, "probe_accuracy") == pytest.approx(0.75)
    assert value(found, "probe_d_prime") == pytest.approx(np.sqrt(2) * z(0.75))
    assert value(found, "gap") == pytest.approx(value(found, "probe_d_prime") - value(found, "d_prime"))
    assert "more than the model's answers" in describe_detection(found)


def test_the_greedy_choice_is_right_every_time_at_a_probability_of_six_tenths():
    found = signal_detection(made(np.full(20, 0.6), np.full(20, 0.4)))
    assert value(found, "accuracy") == pytest.approx(0.6)
    assert value(found, "choice_accuracy") == 1
    assert (value(found, "choice_accuracy", "ci_high"), value(found, "accuracy", "se")) == (1, 0)
    assert value(found, "choice_accuracy", "ci_low") == pytest.approx(0.025 ** (1 / 20))  # rule of three
    assert "0.60" in describe_detection(found)
    assert "1.00" in describe_detection(found)


def test_greedy_replies_are_counted_and_what_could_not_be_read_is_the_more_probable():
    says = made([0.6, 0.6, 0.6, 0.4, 0.5], [0.6, 0.6, 0.4, 0.4, 0.5])
    said = says.copy(data=[[1, 1], [1, 2], [0, 0], [0, 0], [0, 0]])
    # by reply: right, wrong; right, right; by probability: right, right; wrong, right; half, half
    assert value(signal_detection(says, said=said), "choice_accuracy") == pytest.approx(3.5 / 5)
    assert value(signal_detection(says), "choice_accuracy") == pytest.approx(3 / 5)


def test_intervals_of_accuracies_stay_inside_one():
    rng = np.random.default_rng(4)
    found = signal_detection(made(rng.random(12) < 0.95, rng.random(12) < 0.05))
    for name in ("accuracy", "choice_accuracy"):
        assert 0 <= value(found, name, "ci_low") < value(found, name, "ci_high") <= 1


def test_without_variance_a_bias_has_room_and_d_prime_has_no_interval():
    one = signal_detection(made(np.full(12, 0.9), np.full(12, 0.1)), xr.DataArray(np.ones(12), dims="item"))
    room = 0.5 * (1 - 0.025 ** (1 / 12))
    ends = [value(one, "position_bias", end) for end in ("ci_low", "ci_high")]
    assert ends == pytest.approx([-room, room])
    for name in ("d_prime", "criterion", "probe_d_prime", "gap"):
        assert np.isfinite(value(one, name))
        assert np.isnan([value(one, name, of) for of in ("se", "ci_low", "ci_high")]).all()
    text = describe_detection(one)
    assert "(no interval) more than the model's answers" in text
    assert "no variance to judge by" in text
    always = signal_detection(made(np.ones(12), np.ones(12)))
    assert (value(always, "position_bias"), value(always, "position_bias", "ci_high")) == (0.5, 0.5)
    assert value(always, "position_bias", "ci_low") == pytest.approx(0.5 - 2 * room)


def test_a_rate_at_its_end_has_no_d_prime_interval_and_the_probes_has_one():
    rng = np.random.default_rng(5)
    says, read = made(np.ones(12), rng.random(12)), xr.DataArray(rng.normal(1, 1, 12), dims="item")
    found = signal_detection(says, read)
    assert np.isnan(value(found, "d_prime", "se"))  # leaving out a cluster moves the rate's end alone
    assert np.isnan(value(found, "gap", "ci_low"))
    assert np.isfinite(value(found, "probe_d_prime", "ci_low"))
    fine = signal_detection(made(rng.random(12), rng.random(12)), read)
    assert bool(fine["ci_low"].notnull().all())
    assert fine.attrs["note"] == ""


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31))
def test_a_change_of_places_turns_the_bias_and_keeps_the_rest(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.random(12), rng.random(12)
    one, other = signal_detection(made(a, b)), signal_detection(made(1 - b, 1 - a))
    for name in ("accuracy", "d_prime"):
        assert value(one, name) == pytest.approx(value(other, name))
        assert value(one, name, "se") == pytest.approx(value(other, name, "se"))
    for name in ("position_bias", "criterion"):
        assert value(one, name) == pytest.approx(-value(other, name))


def test_accuracy_has_the_se_of_its_cluster_means():
    rng = np.random.default_rng(2)
    first, second = rng.random(30), rng.random(30)
    found = signal_detection(made(first, second))
    own = (first + 1 - second) / 2
    assert value(found, "accuracy", "se") == pytest.approx(own.std(ddof=1) / np.sqrt(30))


@pytest.mark.parametrize("sizes", [1, 4])
def test_intervals_of_d_prime_cover_it(sizes):
    rng, truth, hits, n = np.random.default_rng(3), 0.8, 0, 300
    for _ in range(n):
        level = np.repeat(rng.normal(0, 0.3 if sizes > 1 else 0, 30), sizes)
        h = rng.random(30 * sizes) < norm.cdf((truth / np.sqrt(2)) + 0.1 + level)
        f = rng.random(30 * sizes) < norm.cdf((-truth / np.sqrt(2)) + 0.1 + level)
        found = signal_detection(made(h, f, np.repeat(np.arange(30), sizes).astype(str)))
        hits += value(found, "d_prime", "ci_low") < truth < value(found, "d_prime", "ci_high")
    # with a spread between clusters the mean d' is a little below the one of each cluster
    assert 0.90 <= hits / n <= 0.99


@pytest.mark.parametrize(
    ("says", "match"),
    [
        (made(np.ones(6), np.ones(6), list("aabbcc")), "five or more clusters"),
        (made(np.r_[np.nan, np.ones(5)], np.ones(6)), "both orders"),
        (made(np.ones(6), np.ones(6)).rename(better="order"), "item x better"),
    ],
)
def test_what_has_no_answer_is_refused(says, match):
    with pytest.raises(ValueError, match=match):
        signal_detection(says)
