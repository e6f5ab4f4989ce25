from dataclasses import replace

import numpy as np
import xarray as xr
from conftest import make_questions

from morality_lens.interactions.describing import describe
from morality_lens.interactions.effects import factorial_effects
from morality_lens.items.kinds import OpenPrompt, Statement
from morality_lens.items.repeats import joined_clusters, repeated_note


def prompts(*texts: str) -> list[OpenPrompt]:
    return [OpenPrompt(id=f"p{i}", cluster=f"c{i}", text=text) for i, text in enumerate(texts)]


def test_one_text_under_two_ids_is_in_one_cluster():
    items = prompts("The man came", "A dog ran", "the  man came")
    assert [item.cluster for item in joined_clusters(items)] == ["c0", "c1", "c0"]
    assert "1 text stands under ids of several clusters (such as c0 and c2)" in repeated_note(items)
    assert "2 in place of 3" in repeated_note(items)


def test_clusters_are_joined_as_wholes_and_along_chains():
    items = [
        *prompts("one", "two", "three"),
        OpenPrompt(id="a", cluster="c2", text="two"),
        OpenPrompt(id="b", cluster="c1", text="one"),
        OpenPrompt(id="d", cluster="other", text="four"),
    ]
    assert [item.cluster for item in joined_clusters(items)] == ["c0"] * 5 + ["other"]


def test_different_texts_and_repeats_within_a_cluster_are_left_as_they_are():
    items = [replace(item, cluster="same") for item in prompts("one", "one")]
    assert joined_clusters(items) == tuple(items)
    assert repeated_note(items) == ""
    questions = make_questions(6)
    assert joined_clusters(questions) == tuple(questions)


def test_the_order_of_options_makes_no_other_question():
    question = make_questions(1)[0]
    turned = replace(question, id="turned", cluster="far", options=question.options[::-1])
    clusters = {item.cluster for item in joined_clusters([question, turned])}
    assert clusters == {min(question.cluster, "far")}
    other = replace(turned, context="Something else happened.")
    assert len({item.cluster for item in joined_clusters([question, other])}) == 2


def test_statements_are_joined_too():
    pair = [Statement(id=n, cluster=n, text="They helped.", label=1) for n in ("x", "y")]
    assert {item.cluster for item in joined_clusters(pair)} == {"x"}


def twice(same: bool) -> xr.DataArray:
    """Numbers of twelve items, each there under two ids, in clusters of their own or in one."""
    rng = np.random.default_rng(0)
    once = rng.standard_normal((12, 2, 2))
    ids = [f"{copy}{i}" for copy in "ab" for i in range(12)]
    clusters = [name[1:] if same else name for name in ids]
    return xr.DataArray(
        np.concatenate([once, once]),
        dims=("item", "instruction", "feedback"),
        coords={
            "item": ids,
            "cluster": ("item", clusters),
            "instruction": ["off", "on"],
            "feedback": ["off", "on"],
        },
        attrs={"oriented": True},
    )


def test_repeated_numbers_in_different_clusters_are_noted_in_results_and_sentences():
    apart, joined = (factorial_effects(twice(same), draws=200) for same in (False, True))
    assert (apart.se < 0.75 * joined.se).all()
    (note,) = [note for note in apart.attrs["notes"] if note.startswith("Repeated items: 12 have")]
    assert note in describe(apart)
    assert not any(note.startswith("Repeated items") for note in joined.attrs["notes"])


def noted(values: np.ndarray, clusters: int = 10) -> bool:
    """Whether items with these numbers are said to be repeated."""
    items = np.arange(len(values))
    cube = xr.DataArray(
        values,
        dims=("item", "instruction", "feedback"),
        coords={
            "item": items,
            "cluster": ("item", items % clusters),
            "instruction": ["off", "on"],
            "feedback": ["off", "on"],
        },
        attrs={"oriented": True},
    )
    notes = factorial_effects(cube, draws=200, missing="available").attrs["notes"]
    return any(note.startswith("Repeated items") for note in notes)


def test_discrete_outcomes_are_equal_by_chance_and_no_repeats():
    rng = np.random.default_rng(0)
    answers = (rng.random((60, 2, 2)) < 0.5).astype(float)
    answers[0, 0, 0] = np.nan
    of_seeds = (rng.random((60, 2, 2, 5)) < 0.95).mean(axis=-1)
    of_many_seeds = np.round(30 * rng.beta(4, 0.5, (200, 2, 2))) / 30
    assert len(np.unique(of_many_seeds)) > 20
    for values in (answers, rng.integers(1, 6, (40, 2, 2)).astype(float), of_seeds, of_many_seeds):
        assert not noted(values)


def test_twins_are_found_whatever_the_first_item_is_and_with_missing_values():
    values = np.random.default_rng(1).random((40, 2, 2))
    values[0] = values[1] = 1.0  # sure in every cell, and so no twins
    assert not noted(values, 9)
    values[20] = values[10]
    assert noted(values, 9)
    values[[10, 20], 0, 0] = np.nan
    assert noted(values, 9)


def test_the_note_on_an_effect_that_never_varies_says_what_it_has():
    values = np.zeros((24, 2, 2))
    values[:, 1] = 1.0
    cube = twice(same=True).isel(item=slice(24)).copy(data=values)
    found = factorial_effects(cube, draws=200)
    (note,) = [note for note in found.attrs["notes"] if "same non-zero number in every cluster" in note]
    one = found.sel(effect="instruction")
    assert float(one["p"]) == 2 / 2 ** found.attrs["n_clusters"]
    assert bool(np.isfinite([one["ci_low"], one["band_high"]]).all())
    assert "their p is that of signs alone, 2 / 2^clusters, and their interval leaves room" in note
