"""The sets of moral statements in plain English: what their card says of them."""

import json
import re
from collections import Counter, defaultdict

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold

import morality_lens as ml
from morality_lens.items.bundled import STATEMENTS, asset

FOUNDATIONS = {"care", "fairness", "honesty", "loyalty", "property", "promises", "respect"}
WORD = r"(?u)\w+|[^\w\s]+"


def rows_of(name: str) -> list[dict]:
    return [json.loads(line) for line in asset(*STATEMENTS[name]).read_text().splitlines()]


@pytest.fixture(params=["moral", "composed"])
def rows(request):
    return rows_of(request.param)


def held_out(rows: list[dict], features) -> float:
    """AUROC of a logistic regression on families it has not seen."""
    labels = np.array([row["label"] for row in rows])
    families = [row["cluster"] for row in rows]
    scores = np.zeros(len(labels))
    for train, test in GroupKFold(10).split(labels, labels, families):
        fitted = LogisticRegression(max_iter=2000).fit(features[train], labels[train])
        scores[test] = fitted.decision_function(features[test])
    return float(roc_auc_score(labels, scores))


def test_the_first_is_the_default_and_all_load_as_statements():
    assert ml.load_statements() == ml.load_statements("moral")
    for name in ("moral", "composed"):
        statements = ml.load_statements(name)
        assert [s.text for s in statements] == [row["text"] for row in rows_of(name)]
        assert {s.value for s in statements} == {-3, -2, -1, 1, 2, 3}
        assert all((s.value > 0) == bool(s.label) for s in statements)
    families = [{s.cluster for s in ml.load_statements(name)} for name in ("moral", "composed")]
    assert not families[0] & families[1]


def test_there_are_600_minimal_pairs_in_60_families_over_seven_foundations(rows):
    pairs = defaultdict(list)
    for row in rows:
        pairs[row["id"][:-2]].append(row)
    assert len(pairs) >= 600
    assert all(sorted(row["label"] for row in pair) == [0, 1] for pair in pairs.values())
    assert all(len({row[k] for row in pair}) == 1 for pair in pairs.values() for k in ("cluster", "person"))
    families = Counter(row["cluster"] for row in rows)
    assert len(families) >= 60
    assert set(families.values()) == {20}
    assert {row["foundation"] for row in rows} == FOUNDATIONS
    assert len({row["text"].casefold() for row in rows}) == len(rows)
    persons = Counter(row["person"] for row in rows)
    assert set(persons) == {"first", "third"}
    assert persons["first"] > len(rows) / 4
    # Which of a pair comes first tells nothing.
    assert sum(row["label"] for row in rows if row["id"].endswith("a")) == pytest.approx(len(rows) / 4, abs=5)


@pytest.mark.parametrize("form", ["crossed", "order"])
def test_forms_whose_words_cannot_tell(form):
    """In crossed quartets every phrase, and in turned pairs nearly every word, is on both sides as often."""
    rows = [row for row in rows_of("composed") if row["form"] == form]
    difference, words = Counter(), 0
    for row in rows:
        for word in re.findall(WORD, row["text"].casefold()):
            difference[word] += 1 if row["label"] else -1
            words += 1
    assert sum(map(abs, difference.values())) < 0.02 * words


@pytest.mark.parametrize(
    "vectorizer",
    [
        CountVectorizer(token_pattern=WORD),
        TfidfVectorizer(token_pattern=WORD),
        TfidfVectorizer(token_pattern=WORD, ngram_range=(1, 2)),
        TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4)),
    ],
    ids=["bag of words", "TF-IDF", "word pairs", "characters"],
)
def test_words_alone_do_not_tell_them(rows, vectorizer):
    assert held_out(rows, vectorizer.fit_transform([row["text"] for row in rows])) < 0.65


def test_neither_their_length_nor_their_last_words_tell_them(rows):
    lengths = np.array([[len(row["text"].split())] for row in rows], float)
    assert held_out(rows, lengths) < 0.55
    last = [" ".join(re.findall(WORD, row["text"])[-3:]) for row in rows]
    assert held_out(rows, CountVectorizer(token_pattern=WORD).fit_transform(last)) < 0.6
    assert all(row["text"].endswith(".") for row in rows)


def test_a_set_that_words_tell_is_seen_by_the_same_measure(rows):
    told = [row["text"] + (" That was well done." if row["label"] else " What a shame.") for row in rows]
    assert held_out(rows, CountVectorizer(token_pattern=WORD).fit_transform(told)) > 0.99
