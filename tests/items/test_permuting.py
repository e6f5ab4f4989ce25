"""Permuted options: balanced, reversible, and nothing but the order changes."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from conftest import make_questions
from hypothesis import given, settings, strategies as st

from morality_lens.experiments.evidence import Evidence, _by_item
from morality_lens.items.kinds import (
    OpenPrompt,
    Question,
    forced_choice,
    items_from_jsonl,
    items_hash,
    items_to_frame,
    items_to_jsonl,
)
from morality_lens.items.permuting import original_options, permute_options, reordered

ROLES = ("unknown", "label", "biased", "stereotyped")


@st.composite
def fields(draw) -> list[dict]:
    """The fields of questions of unequal numbers of options, in clusters, with roles that may be missing."""
    found = []
    for i in range(draw(st.integers(1, 14))):
        size = draw(st.integers(2, 5))
        places = draw(st.permutations(range(size)))
        index = st.sampled_from([None, *range(size)])
        unknown = draw(st.sampled_from([None, places[0]]))
        found.append(
            {
                "id": f"q{i}",
                "cluster": draw(st.sampled_from("abc")),
                "options": tuple(f"{i} {o}" for o in range(size)),
                "unknown": unknown,
                "label": draw(index),
                "biased": draw(st.sampled_from([None, places[1]])),
                "stereotyped": draw(st.sampled_from([None, places[1]])),
            }
        )
    return found


def made(rows: list[dict]) -> tuple[Question, ...]:
    """The questions with these fields."""
    return tuple(Question(context="", question="Who?", **row) for row in rows)


def texts(question: Question) -> dict[str, str | None]:
    """The text of the option in each role."""
    roles = {role: getattr(question, role) for role in ROLES}
    return {role: None if i is None else question.options[i] for role, i in roles.items()}


@settings(max_examples=60, deadline=None)
@given(fields(), st.integers(0, 5))
def test_permuted_options_keep_their_roles_and_can_be_put_back(rows, seed):
    items = made(rows)
    permuted = permute_options(items, seed=seed)
    assert [q.id for q in permuted] == [q.id for q in items]
    for before, after in zip(items, permuted, strict=True):
        assert texts(after) == texts(before)
        assert after.good == after.label
        assert after.order is not None
        assert after.options == tuple(before.options[i] for i in after.order)
        assert original_options(after) == before
    assert permute_options(permuted, seed=seed) == permuted  # the same seed gives the same order again
    assert permute_options(items, seed=seed) == permuted


@settings(max_examples=60, deadline=None)
@given(fields(), st.integers(0, 99))
def test_one_order_after_the_other_is_their_composition(rows, seed):
    rng = np.random.default_rng(seed)
    for question in made(rows):
        one, two = (rng.permutation(len(question.options)).tolist() for _ in range(2))
        both = reordered(reordered(question, one), two)
        assert both == reordered(question, [one[i] for i in two])
        assert replace(reordered(both, np.argsort(both.order).tolist()), order=None) == question


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 25), st.integers(1, 5), st.integers(0, 9))
def test_every_role_stands_at_every_position_equally_often_in_each_cluster(count, clusters, seed):
    items = [replace(q, cluster=f"t{i % clusters}") for i, q in enumerate(make_questions(count))]
    permuted = permute_options(items, seed=seed)

    def places(role: str, chosen: list[Question]) -> list[int]:
        found = Counter(getattr(q, role) for q in chosen)
        return [found[place] for place in range(3)]

    assert np.ptp(places("label", list(permuted))) <= 1
    for cluster in {q.cluster for q in permuted}:
        mine = [q for q in permuted if q.cluster == cluster]
        for role in ("label", "biased"):
            assert np.ptp(places(role, mine)) <= 1


def test_other_seeds_and_clusters_give_other_orders():
    items = make_questions(12)
    orders = {tuple(q.order for q in permute_options(items, seed=seed)) for seed in range(5)}
    assert len(orders) == 5
    apart = permute_options([replace(q, cluster=q.id) for q in make_questions(30)])
    assert len({q.order for q in apart}) == 6  # not the rotations of one order alone


def test_items_that_were_never_permuted_keep_their_hash(tmp_path):
    items = make_questions(4)
    assert items_hash(items) == "05410d867263455ca8f4cbf87b0cc97137e035a4b3c59f417f6b752b7085add9"
    assert "order" not in items_to_frame(items)
    permuted = permute_options(items)
    assert items_hash(permuted) != items_hash(items)
    items_to_jsonl([*permuted], tmp_path / "items.jsonl")
    assert items_from_jsonl(tmp_path / "items.jsonl") == permuted
    assert items_to_frame(permuted)["order"].tolist() == [q.order for q in permuted]


def test_an_order_without_the_unknown_option_counts_without_it():
    for question in permute_options(make_questions(6)):
        assert original_options(forced_choice(question)) == forced_choice(original_options(question))


def test_what_has_no_options_is_refused():
    prompt = OpenPrompt(id="p", cluster="p", text="Once")
    with pytest.raises(ValueError, match="item 'p' is a OpenPrompt"):
        permute_options([prompt])
    with pytest.raises(ValueError, match="order holds the index"):
        replace(make_questions(1)[0], order=(0, 0, 1))


def test_weak_evidence_favours_the_same_options_wherever_they_stand():
    items = make_questions(6)
    given_by = _by_item(
        [Evidence(item=q.id, texts=("the Vel", "the Tor"), named=(0, 2)) for q in items],
        {q.id: q for q in permute_options(items)},
    )
    for question in permute_options(items):
        named = given_by[question.id][0.0].named
        assert [question.options[i] for i in named] == ["The Vel", "The Tor"]
