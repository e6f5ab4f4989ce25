"""A preference for positions is found where it was planted, and content is not taken for one."""

import numpy as np
import pandas as pd
import pytest
from conftest import make_questions
from written import write_run

from morality_lens.design import Design
from morality_lens.items.permuting import permute_options, reordered
from morality_lens.judges.positions import _Cell, describe_positions, position_bias

DESIGN = Design(rounds=1)
CONTENT = {"The Vel": 0.5, "Not known": 0.35, "The Tor": 0.15}


@pytest.fixture
def written(tmp_path):
    """A function that writes a run of questions whose answers are given as probabilities [item, option]."""
    number = iter(range(100))

    def write(items, probabilities, choices=None):
        chosen = probabilities.argmax(1) if choices is None else choices
        rows = [
            {"item": q.id, **c.coords, "round": r, "choice": k, "correct": k == q.label, "parsed": True}
            for q, k in zip(items, chosen, strict=True)
            for c in DESIGN.conditions
            for r in range(2)
        ]
        table = pd.DataFrame(rows)
        table = table.assign(choice=pd.array(table["choice"], dtype="Int64"))
        return write_run(tmp_path / f"run{next(number)}", items, table, probabilities)

    return write


def by_content(items, bump=(0.0, 0.0, 0.0)):
    """Probabilities that follow the options' words, and a preference for positions in points."""
    return np.array([[CONTENT[o] + b for o, b in zip(q.options, bump, strict=True)] for q in items])


def test_a_model_that_looks_at_content_alone_has_no_preference(written):
    items = permute_options(make_questions(18))
    bias = position_bias(written(items, by_content(items)))
    np.testing.assert_allclose(bias["estimate"].values, 0, atol=1e-9)
    assert bias.attrs["chance"] == pytest.approx(1 / 3)
    assert "balanced over roles" in describe_positions(bias)


def test_a_planted_preference_comes_back_whatever_the_content(written):
    items = permute_options(make_questions(24), seed=3)
    bump = np.array([0.1, 0.02, -0.12])
    bias = position_bias(written(items, by_content(items, bump), np.zeros(24, int)))
    found = bias["estimate"].sel(measure="probability")
    np.testing.assert_allclose(found.values, np.broadcast_to(bump, found.shape), atol=1e-9)
    always = bias.sel(measure="choice", round=1)["estimate"]
    np.testing.assert_allclose(
        always.transpose(..., "position").values[0, 0, 0], [2 / 3, -1 / 3, -1 / 3], atol=1e-9
    )
    assert "position A" in describe_positions(bias)
    assert "+67 points" in describe_positions(bias)


def test_the_interval_holds_what_hand_arithmetic_gives():
    """Two roles, four clusters of one item each: the post-stratified mean and its CR2 error."""
    values = np.array([[1.0, 0], [0, 1], [1, 0], [1, 0]])
    roles = np.array([["x", "y"], ["x", "y"], ["y", "x"], ["y", "x"]])
    cell = _Cell(values=values, roles=roles, clusters=np.arange(4), balanced=False)
    estimate, low, high, p = cell.beyond_chance(0, 0.05)
    assert estimate == pytest.approx((0.5 * 0.5 + 0.5 * 1.0) - 0.5)
    spread = np.array([0.5, -0.5, 0, 0])  # distance to the mean of the role
    se = np.sqrt((spread**2).sum() / (1 - 1 / 4)) / 4
    half = 3.182446305284263 * se  # t with three degrees of freedom
    assert (low, high) == pytest.approx((estimate - half, estimate + half))
    assert 0 < p < 1


def test_without_a_preference_one_in_twenty_is_found():
    rng = np.random.default_rng(0)
    items = permute_options(list(make_questions(60)), seed=1)
    roles = np.array([[("right", "other")[i != q.label] for i in range(3)] for q in items])
    clusters = np.arange(60) // 3
    rejected = []
    for _ in range(300):
        taste = rng.dirichlet([4.0, 2.0], size=20)[clusters]  # clusters differ in how they like the right one
        weights = np.where(roles == "right", taste[:, :1], taste[:, 1:] / 2)
        chosen = np.array([rng.choice(3, p=w) for w in weights])
        cell = _Cell(values=np.eye(3)[chosen], roles=roles, clusters=clusters, balanced=True)
        rejected.append(cell.beyond_chance(0, 0.05)[3] < 0.05)
    assert 0.02 <= np.mean(rejected) <= 0.09


def test_content_bound_to_positions_is_refused_and_shuffled_data_are_not(written):
    items = make_questions(12)  # the unknown option is always B
    with pytest.raises(ValueError, match=r"cannot tell content from position .*--permute-options"):
        position_bias(written(items, by_content(items)))
    rotated = [reordered(q, np.roll(range(3), i % 3).tolist()) for i, q in enumerate(items)]
    shuffled = [type(q)(**{**vars(q), "order": None}) for q in rotated]
    bias = position_bias(written(shuffled, by_content(shuffled)))
    assert "as the data give them" in bias.attrs["basis"]
    np.testing.assert_allclose(bias["estimate"].values, 0, atol=1e-9)
    blank = [type(q)(**{**vars(q), "label": None, "unknown": None, "biased": None}) for q in shuffled]
    with pytest.raises(ValueError, match="no role is known"):
        position_bias(written(blank, by_content(blank)))
    known = permute_options(blank)
    assert position_bias(written(known, by_content(known)))["estimate"].shape[-1] == 3
