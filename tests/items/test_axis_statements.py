"""The sets of statements for named axes: what their card says of them."""

import re
from collections import Counter, defaultdict

import numpy as np
import pytest

import morality_lens as ml
from morality_lens.items.bundled import AXES, FOUNDATIONS, STATEMENTS, asset
from morality_lens.probes import controls

CARD = asset("moral", "README.md").read_text()
COLUMNS = ("bag of words", "TF-IDF", "number of words")


@pytest.fixture(params=AXES)
def named(request):
    return request.param, ml.load_statements(request.param)


def test_each_is_64_minimal_pairs_in_16_families_of_four(named):
    name, rows = named
    pairs = defaultdict(list)
    for row in rows:
        pairs[row.id[:-2]].append(row)
    assert len(pairs) == 64
    assert all(sorted(row.label for row in pair) == [0, 1] for pair in pairs.values())
    assert all(len({row.cluster for row in pair}) == 1 for pair in pairs.values())
    assert set(Counter(row.cluster for row in rows).values()) == {8}
    assert len({row.cluster for row in rows}) == 16
    assert len({row.text.casefold() for row in rows}) == 128
    assert all(row.value is None for row in rows)
    assert all(row.id.startswith(f"{name}-{row.cluster}-") for row in rows)
    # Which of a pair comes first tells nothing.
    assert sum(row.label for row in rows if row.id.endswith("a")) == pytest.approx(32, abs=1)
    # The two statements of a pair share their words but for one place or two.
    for one, other in pairs.values():
        words = [Counter(re.findall(r"\w+", row.text.casefold())) for row in (one, other)]
        assert (words[0] & words[1]).total() >= 2


def test_sentences_end_and_none_is_in_two_sets():
    every = [(name, row) for name in AXES for row in ml.load_statements(name)]
    assert len({row.text for _, row in every}) == len(every)
    assert all(row.text[-1] in ('."?' if name in ("care", "refusal") else ".") for name, row in every)
    assert not [row.text for _, row in every if re.search(r"\s\s|\s[.,?]|[\[\]|]", row.text)]


def test_what_words_alone_tell_is_what_the_card_says(named):
    name, rows = named
    labels = np.array([row.label for row in rows])
    pairs, families = (
        np.unique(groups, return_inverse=True)[1]
        for groups in ([row.id[:-2] for row in rows], [row.cluster for row in rows])
    )
    texts = [row.text for row in rows]
    scores = controls.lexical_scores(texts, labels, pairs % 8)
    found = [controls.auroc(scores[how], labels) for how in COLUMNS]
    found.append(controls.auroc(controls.lexical_scores(texts, labels, families % 8)["bag of words"], labels))
    words = [np.mean([len(row.text.split()) for row in rows if row.label == label]) for label in (1, 0)]
    (line,) = re.findall(rf"^\| {name} \| ([\d.| ]+) \|$", CARD, re.MULTILINE)
    assert [float(cell) for cell in line.split("|")] == pytest.approx([*found, *words], abs=0.051 / 10 + 0.05)
    assert [float(cell) for cell in line.split("|")][:4] == pytest.approx(found, abs=0.006)
    assert max(found[0], found[1], found[3]) < (0.75 if name == "purity" else 0.68)
    assert found[2] <= 0.605


def test_the_foundations_are_five_and_all_sets_have_a_file():
    assert FOUNDATIONS == ("care", "fairness", "loyalty", "authority", "purity")
    assert AXES[:5] == FOUNDATIONS
    assert all(STATEMENTS[name] == ("moral", f"{name}.jsonl") for name in AXES)
