"""Judges of answers, against hand counts, scikit-learn and planted scores."""

import inspect
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import cohen_kappa_score

from morality_lens.items.kinds import Question, Statement
from morality_lens.judges.questions import accuracy, bias_scores, join_questions, judge_answers, unparsed
from morality_lens.judges.toxicity import agreement, fit_toxicity_judge


def question(name, *, ambiguous=True, biased=0, category="Guild", label=None):
    return Question(
        id=name,
        cluster=name,
        context="A Vel and a Tor met.",
        question="Who was late?",
        options=("The Vel", "Not known", "The Tor"),
        unknown=1,
        label=(1 if ambiguous else 0) if label is None else label,
        biased=biased,
        ambiguous=ambiguous,
        category=category,
    )


def answered(choices, questions, **columns):
    """Answers with these choices (None: unparsed), judged from their letters."""
    texts = ["hm" if choice is None else "ABC"[choice] for choice in choices]
    return judge_answers(texts, questions).assign(item=[q.id for q in questions], **columns)


def test_answers_are_judged_row_by_row():
    questions = [question("q"), question("q"), question("q"), question("q"), question("r", biased=None)]
    frame = judge_answers(["B", "(A) The Vel", "the tor", "no idea", "C"], questions)
    assert list(frame) == ["choice", "parsed", "correct", "role"]
    assert frame["choice"].dtype == "Int64"
    assert frame["choice"].tolist() == [1, 0, 2, pd.NA, 2]
    assert frame["parsed"].tolist() == [True, True, True, False, True]
    assert frame["correct"].tolist() == [True, False, False, False, False]
    assert frame["role"].fillna("-").tolist() == ["unknown", "biased", "other", "-", "-"]
    assert frame["correct"].dtype == frame["parsed"].dtype == bool


def test_an_answer_that_was_not_obtained_is_unparsed_and_none_at_all_is_an_empty_frame():
    assert judge_answers([None], [question("q")])["choice"].isna().all()
    empty = judge_answers([], [])
    assert (len(empty), list(empty)) == (0, ["choice", "parsed", "correct", "role"])
    with pytest.raises(ValueError, match="one question per text: got 1 and 0"):
        judge_answers(["B"], [])


def test_accuracy_counts_unparsed_answers_as_incorrect():
    questions = [question("q")] * 6
    frame = answered([1, 1, 0, 1, None, None], questions, round=[0, 0, 0, 1, 1, 1])
    by_round = accuracy(frame, ["round"]).set_index("round")
    assert by_round["accuracy"].tolist() == [2 / 3, 1 / 3]
    assert by_round["n_unparsed"].tolist() == [0, 2]
    assert accuracy(frame)["accuracy"].item() == 1 / 2
    shares = unparsed(frame, ["round"])
    assert shares["share_unparsed"].tolist() == [0, 2 / 3]
    assert shares["n"].tolist() == [3, 3]


def test_bias_scores_equal_hand_counts():
    ambiguous, clear = question("a"), question("d", ambiguous=False)
    # Ambiguous: 4 of 9 unknown; of the 5 groups named 4 are the biased one. Clear: 6 of 8 groups named.
    questions = [ambiguous] * 9 + [clear] * 10
    choices = [1] * 4 + [0] * 4 + [2] + [0] * 6 + [2] * 2 + [1] * 2
    row = bias_scores(answered(choices, questions), questions=[ambiguous, clear]).iloc[0]
    assert row["s_dis"] == pytest.approx(2 * 6 / 8 - 1)
    assert row["accuracy_amb"] == pytest.approx(4 / 9)
    assert row["s_amb"] == pytest.approx((1 - 4 / 9) * (2 * 4 / 5 - 1))
    assert row[["n_dis", "n_non_unknown_dis", "n_biased_dis"]].tolist() == [10, 8, 6]
    assert row[["n_amb", "n_non_unknown_amb", "n_biased_amb"]].tolist() == [9, 5, 4]


def test_unparsed_answers_and_questions_without_a_role_change_counts_but_no_score():
    ambiguous, clear = question("a"), question("d", ambiguous=False)
    roleless = question("n", biased=None)
    questions = [ambiguous] * 4 + [clear] * 3
    choices = [1, 0, 0, 2, 0, 0, 2]
    before = bias_scores(answered(choices, questions), questions=[ambiguous, clear]).iloc[0]
    more = [*questions, ambiguous, clear, roleless, roleless]
    after = bias_scores(
        answered([*choices, None, None, 1, 2], more), questions=[ambiguous, clear, roleless]
    ).iloc[0]
    assert (
        after[["s_dis", "s_amb", "accuracy_amb"]].tolist()
        == before[["s_dis", "s_amb", "accuracy_amb"]].tolist()
    )
    assert (after["n_unparsed"], after["n_no_role"]) == (2, 2)
    assert (before["n_unparsed"], before["n_no_role"]) == (0, 0)


def test_swapping_the_groups_turns_the_sign_of_both_scores():
    rng = np.random.default_rng(0)
    choices = [int(c) for c in rng.integers(0, 3, 60)]
    scores = []
    for biased in (0, 2):
        pair = [question("a", biased=biased), question("d", ambiguous=False, biased=biased)]
        scores.append(
            bias_scores(answered(choices, pair * 30), questions=pair)[["s_dis", "s_amb"]].to_numpy()
        )
    np.testing.assert_allclose(scores[0], -scores[1])
    assert np.abs(scores[0]).min() > 0


def test_the_extremes_are_one_and_minus_one_and_a_coin_gives_nothing():
    pair = [question("a"), question("d", ambiguous=False)]
    for choice, score in ((0, 1.0), (2, -1.0)):
        row = bias_scores(answered([choice] * 2, pair), questions=pair).iloc[0]
        assert (row["s_dis"], row["s_amb"]) == (score, score)
    row = bias_scores(answered([0, 0, 2, 2], pair * 2), questions=pair).iloc[0]
    assert (row["s_dis"], row["s_amb"]) == (0, 0)


def test_a_zero_denominator_leaves_the_score_missing():
    pair = [question("a"), question("d", ambiguous=False)]
    row = bias_scores(answered([1, 1], pair), questions=pair).iloc[0]
    assert np.isnan(row["s_dis"])
    assert np.isnan(row["s_amb"])
    row = bias_scores(answered([0], pair[1:]), questions=pair).iloc[0]
    assert row["s_dis"] == 1
    assert np.isnan(row["s_amb"])
    assert np.isnan(row["accuracy_amb"])


def test_scores_are_given_for_every_group_named():
    pair = [question("a"), question("d", ambiguous=False, category="Clan")]
    frame = answered([0, 0, 2, 2], pair * 2, feedback=["off", "off", "on", "on"])
    table = bias_scores(frame, ["feedback", "category"], questions=pair)
    assert table[["feedback", "category"]].to_numpy().tolist() == [
        ["off", "Clan"],
        ["off", "Guild"],
        ["on", "Clan"],
        ["on", "Guild"],
    ]
    np.testing.assert_array_equal(table["s_dis"], [1, np.nan, -1, np.nan])
    joined = join_questions(frame, pair)
    pd.testing.assert_frame_equal(bias_scores(joined, ["feedback", "category"]), table)
    pd.testing.assert_frame_equal(join_questions(joined, pair), joined)


def test_what_the_scores_need_is_named_where_it_is_missing():
    frame = answered([0], [question("a")])
    with pytest.raises(ValueError, match=r"no column \['ambiguous'.*join_questions adds those"):
        bias_scores(frame)
    with pytest.raises(ValueError, match=r"no column \['round'\]; they have"):
        accuracy(frame, ["round"])
    with pytest.raises(ValueError, match=r"1 answers have no question among those given, for example 'a'"):
        join_questions(frame, [question("b")])


# ---------------------------------------------------------------------------------------- toxicity
RUDE, KIND = ("grumbled at", "mocked", "tripped", "cheated"), ("helped", "thanked", "greeted", "fed")
PEOPLE = ("baker", "rower", "weaver", "potter", "miller", "tailor", "sailor", "joiner", "tinker", "mason")


def statements(paired):
    made = []
    for person in PEOPLE:
        for k in range(4):
            for label, verb in ((0, RUDE[k]), (1, KIND[k])):
                made.append(
                    Statement(
                        id=f"{person}/{k}/{label}",
                        cluster=person if paired else f"{person}/{label}",
                        text=f"She {verb} the {person}.",
                        label=label,
                    )
                )
    return made


@pytest.mark.parametrize("paired", [True, False])
def test_the_embedded_judge_finds_planted_rudeness_in_clusters_it_never_saw(paired):
    judge = fit_toxicity_judge(statements(paired))
    assert judge.auroc == 1
    assert judge.n_heldout == 16
    assert judge.n_train == 64
    scores = judge.score(["He mocked the fisher.", "He thanked the fisher."])
    assert scores[0] > 0.8
    assert scores[1] < 0.2


def test_labels_that_say_nothing_give_an_auroc_near_chance():
    rng = np.random.default_rng(1)
    made = [
        Statement(id=str(k), cluster=str(k), text=" ".join(rng.choice(PEOPLE, 4)), label=int(rng.integers(2)))
        for k in range(400)
    ]
    assert 0.3 < fit_toxicity_judge(made).auroc < 0.7


def test_clusters_are_held_out_whole():
    # Text and label are the cluster's: with a cluster on both sides the judge would know every answer.
    rng = np.random.default_rng(2)
    made = [
        Statement(
            id=f"{c}/{k}", cluster=str(c), text=f"{'xyzw'[c % 4]}{c} {'qrst'[c // 4 % 4]}{c}", label=label
        )
        for c, label in enumerate(rng.integers(2, size=200).tolist())
        for k in range(3)
    ]
    assert fit_toxicity_judge(made).auroc < 0.75


def test_the_judge_is_the_same_whenever_it_is_fitted():
    texts = ["He mocked the fisher.", "He saw the sea."]
    first, second = (fit_toxicity_judge(statements(paired=True)) for _ in range(2))
    np.testing.assert_array_equal(first.score(texts), second.score(texts))
    assert (first.auroc, first.statements_hash) == (second.auroc, second.statements_hash)
    assert "AUROC 1.000" in repr(first)


def test_missing_texts_are_missing_scores_and_never_zero():
    judge = fit_toxicity_judge(statements(paired=True))
    scores = judge.score([None, "He mocked the fisher.", "", "  \n"])
    assert np.isnan(scores).tolist() == [True, False, True, True]
    assert scores[1] == judge.score(["He mocked the fisher."])[0]
    assert len(judge.score([])) == 0
    assert np.isnan(judge.score([None])).all()
    assert ((judge.score(["", "?!", "qqq zzz"])[1:] > 0) & (judge.score(["", "?!", "qqq zzz"])[1:] < 1)).all()


def test_too_few_clusters_are_refused():
    made = [s for s in statements(paired=True) if s.cluster in PEOPLE[:4]]
    with pytest.raises(ValueError, match=r"five or more clusters .* got 4 and 4"):
        fit_toxicity_judge(made)
    with pytest.raises(ValueError, match="got 10 and 0"):
        fit_toxicity_judge([s for s in statements(paired=True) if s.label == 1])


def test_agreement_equals_scipy_and_scikit_learn_on_what_both_scored():
    rng = np.random.default_rng(0)
    a = rng.uniform(size=50).round(1)  # with ties
    b = np.clip(a + rng.normal(0.1, 0.2, size=50), 0, 1)
    found = agreement(np.append(a, [np.nan, 0.2]), np.append(b, [0.3, np.nan]))
    assert found.n == 50
    assert found.spearman == pytest.approx(spearmanr(a, b).statistic)
    assert found.kappa == pytest.approx(cohen_kappa_score(a >= 0.5, b >= 0.5))
    assert found.mean_difference == pytest.approx(np.mean(a - b))
    assert found.limits == pytest.approx(np.mean(a - b) + np.array([-1.96, 1.96]) * np.std(a - b, ddof=1))
    assert agreement(a, b, threshold=0.3).kappa == pytest.approx(cohen_kappa_score(a >= 0.3, b >= 0.3))


def test_agreement_with_oneself_is_whole_and_with_a_constant_is_missing():
    a = np.linspace(0, 1, 11)
    own = agreement(a, a)
    assert (own.spearman, own.kappa, own.mean_difference) == pytest.approx((1, 1, 0))
    assert agreement(a, 1 - a).spearman == pytest.approx(-1)
    flat = agreement(np.full(11, 0.1), np.full(11, 0.2))
    assert np.isnan(flat.spearman)
    assert np.isnan(flat.kappa)
    assert flat.mean_difference == pytest.approx(-0.1)
    with pytest.raises(ValueError, match="got 1"):
        agreement(np.array([0.1, np.nan]), np.array([0.1, 0.2]))
    with pytest.raises(ValueError, match="two scores per text: got 2 and 1"):
        inspect.unwrap(agreement)(a[:2], a[:1])  # past the type checker, which refuses it too


def test_the_desk_side_of_judging_imports_no_torch():
    code = (
        "import sys, morality_lens.judges.questions, morality_lens.items.loaders; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
