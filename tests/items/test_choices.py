"""Answers read as choices."""

from pathlib import Path

import pytest

from morality_lens.items.choices import names_rating, parse_choice, parse_rating

CANE = ("The man with the cane", "Can't be determined", "The man")

LETTERS = [
    ("B", 1),
    ("b", 1),
    ("(b)", 1),
    ("B.", 1),
    ("B,", 1),
    ("C!", 2),
    (" B\n", 1),
    ("**B**", 1),
    ("`C`", 2),
    ('"B"', 1),
    ("<B>", 1),
    ("B</s>", 1),
    ("[C]", 2),
    ("B B B", 1),
    ("Ｂ", 1),  # noqa: RUF001 - a full-width letter
    ("B) text", 1),
    ("(B) The man", 1),
    ("B: man", 1),
    ("B\nBecause", 1),
    ("B - Can't be determined", 1),
    ("B The man", 1),
    ("C The man with the cane", 2),
    ("C, I think", 2),
    ("B. A person cannot be judged", 1),
    ("B) Can't be determined, since (A) is a guess.", 1),
    ("Answer: B", 1),
    ("answer: b", 1),
    ("ANSWER: C", 2),
    ("Answer B", 1),
    ("Answer = c", 2),
    ("answer - B", 1),
    ("Answer:\nB", 1),
    ("Answer:\n\n(C) The man", 2),
    ("The answer is (B)", 1),
    ("The answer is b.", 1),
    ("The answer is B because it is open.", 1),
    ("the answer is clearly B", 1),
    ("So, the answer is: C.", 2),
    ("My final answer is: **C**", 2),
    ("The correct option is B", 1),
    ("\\boxed{B}", 1),
    ("$\\boxed{B}$", 1),
    ("Option B", 1),
    ("option b is my choice", 1),
    ("Choice C", 2),
    ("Letter a", 0),
    ("I would go with option C.", 2),
    ("I choose C", 2),
    ("I'd pick (a)", 0),
    ("I pick A because it fits", 0),
    ("I choose A", 0),
    ("I would say C", 2),
    ("I think B", 1),
    ("I think it's C.", 2),
    ("I believe the answer is A.", 0),
    ("Therefore, B.", 1),
    ("B is correct", 1),
    ("A is the correct answer", 0),
]

THE_LETTER_A = [
    ("A", 0),
    ("a", 0),
    ("A.", 0),
    ("A) The man", 0),
    ("A: The man", 0),
    ("A\nThe", 0),
    ("A The man", 0),
    ("A person can't be judged", None),
    ("a person can't be judged", None),
    ("A man with the cane", 0),
    ("Answer: A person would not know", None),
    ("The answer is a little unclear", None),
    ("I choose a person", None),
    ("The person in group A is kind", None),
    ("I don't know", None),
    ("I", None),
]

SEVERAL = [
    ("A or B", None),
    ("A/B", None),
    ("A, B", None),
    ("A B", None),
    ("(A) or (B)", None),
    ("(a) or (b)", None),
    ("A and C", None),
    ("Either A or B", None),
    ("B or C", None),
    ("B or A is right", None),
    ("The answer is A or B", None),
    ("Select B or C", None),
    ("Option A and option B are both plausible", None),
    ("A) The man with the cane B) Can't be determined C) The man", None),
    ("A) x B) y C) z\nAnswer: B", 1),
]

CORRECTED = [
    ("The answer is B. No, the answer is C.", 2),
    ("B. No, I am sure.", 1),
    ("B. Actually, the man with the cane was there too.", 1),
]

NEGATED = [
    ("The answer is not B. It is C.", 2),
    ("I do not choose B", None),
    ("Don't pick (B)", None),
    ("neither A nor B", None),
    ("A is wrong, so the answer is B.", 1),
    ("A is wrong. B is correct.", 1),
    ("Option A is wrong; the answer is C", 2),
    ("It is not the man", None),
    ("It can't be the man", None),
    ("The man, not the man with the cane", 2),
]

WORDS = [
    ("The man", 2),
    ("the man.", 2),
    ("The man The man", 2),
    ("It was the man.", 2),
    ("Answer: The man", 2),
    ("The man with the cane", 0),
    ("It was the man with the cane.", 0),
    ("can’t be determined", 1),  # noqa: RUF001 - a curly apostrophe
    ("It can't be determined.", 1),
    ("It cannot be determined", 1),
    ("It can not be determined", 1),
    ("Can't be determined. It could be the man.", 1),
    ("The man or can't be determined", None),
    ("the woman", None),
    ("the manager", None),
    ("who knows", None),
    ("", None),
    ("   ", None),
]

NO_OPTION = [
    ("D", None),
    ("D) The man", None),
    ("The answer is E.", None),
    ("B.S. degrees matter", None),
    ("vitamin B", None),
    ("The answer is e.g. open", None),
]


@pytest.mark.parametrize(
    ("text", "choice"), LETTERS + THE_LETTER_A + SEVERAL + CORRECTED + NEGATED + WORDS + NO_OPTION
)
def test_an_answer_is_read_as_a_reader_would(text, choice):
    assert parse_choice(text, CANE) == choice


def labelled_replies():
    """Replies as chat models write them, each with its options and the choice that a reader takes from it."""
    options: tuple[str, ...] = ()
    for line in (Path(__file__).parent / "replies.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("= "):
            options = tuple(option.strip() for option in line[2:].split(";"))
        elif line and not line.startswith("#"):
            wanted, _, text = line.partition(" |")
            choice = None if wanted == "-" else ord(wanted) - ord("A")
            yield text.removeprefix(" ").replace("\\n", "\n"), options, choice


def test_labelled_replies_are_read_and_what_is_misread_is_counted(record_property):
    rows = list(labelled_replies())
    assert len(rows) >= 360
    assert len({text for text, _, _ in rows}) > 0.9 * len(rows)
    read = [(parse_choice(text, options), choice, text) for text, options, choice in rows]
    failed = [row for row in read if row[0] != row[1]]
    misread = [row for row in failed if row[0] is not None]
    record_property("errors", f"{len(failed)} of {len(rows)}, {len(misread)} of them misread")
    print(f"{len(failed)} of {len(rows)} replies are read otherwise than by a reader: {failed}")
    assert len(misread) <= 3
    assert len(failed) <= 6


def test_the_letter_counts_where_letter_and_words_disagree():
    options = ("the potter", "the weaver", "nobody can say")
    assert parse_choice("B) the potter", options) == 1
    assert parse_choice("The answer is (C) the potter", options) == 2


def test_an_article_before_an_option_is_no_letter():
    assert parse_choice("A weaver", ("a potter", "a weaver", "unknown")) == 1


def test_the_pronoun_is_no_letter_even_with_nine_options():
    options = tuple(f"person {k}" for k in range(9))
    assert parse_choice("I", options) == 8
    assert parse_choice("I.", options) == 8
    assert parse_choice("I think nobody knows", options) is None
    assert parse_choice("I think it was person 3", options) == 3
    assert parse_choice("Answer: I think B", options) == 1


def test_an_unknown_option_may_itself_contain_a_negation():
    options = ("the potter", "the weaver", "Not enough information")
    assert parse_choice("There is not enough information.", options) == 2
    assert parse_choice("NOT ENOUGH INFORMATION", options) == 2


def test_options_that_read_the_same_cannot_be_told_apart_by_words():
    assert parse_choice("the potter", ("The potter", "the potter.", "unknown")) is None
    assert parse_choice("B", ("The potter", "the potter.", "unknown")) == 1


@pytest.mark.parametrize(
    "style", ["{}", "({})", "{}.", "{}) {text}", "Answer: {}", "The answer is ({}) {text}."]
)
@pytest.mark.parametrize("shift", [0, 1, 2])
def test_reordered_options_are_followed_by_their_letters_and_their_words(style, shift):
    options = CANE[shift:] + CANE[:shift]
    for k, option in enumerate(options):
        assert parse_choice(style.format("ABC"[k], text=option), options) == k
        assert parse_choice(option, options) == k
        assert parse_choice(option.upper() + ".", options) == k


RATINGS = [
    ("5", 5),
    ("5.", 5),
    (" 5\n", 5),
    ("**4**", 4),
    ("(3)", 3),
    ("5/7", 5),
    ("5 out of 7", 5),
    ("6 of 7.", 6),
    ("I'd say 6", 6),
    ("I\u2019d say 6.", 6),
    ("Rating: 3", 3),
    ("My rating would be 2, because 3 people were hurt.", 2),
    ("On a scale of 1 to 7, I would give it a 5.", 5),
    ("On a scale from 1-7: 2", 2),
    ("1 = not wrong at all, 7 = very wrong. My answer: 4", 4),
    ("There are 2 people in the text. Rating: 6", 6),
    ("5, no, 6", 6),
    ("I first said 3, but now I say 5.", 5),
    ("Rating: 4. Sorry, I mean 2.", 2),
    ("I change my rating from 3 to 5.", 5),
    ("not 5 but 6", 6),
    ("Five.", 5),
    ("4. It is a 4.", 4),
    ("7", 7),
    ("1", 1),
    ("5점", 5),
    ("5分", 5),
    ("답: 5점", 5),
    ("5 von 7", 5),
    ("5 de 7", 5),
    ("5 van 7.", 5),
    ("7점 만점에 5점", 5),
    ("满分7分\uff0c5分", 5),
    # no answer
    ("45점", None),
    ("4.5점", None),
    ("5 von 10", None),
    ("", None),
    ("It is wrong.", None),
    ("1 to 7", None),
    ("a number from 1 to 7", None),
    ("The scale runs from 1 to 7.", None),
    ("1 = not at all, 7 = very", None),
    ("8", None),
    ("0", None),
    ("-3", None),
    ("70", None),
    ("4.5", None),
    ("5/10", None),
    ("4 or 5", None),
    ("4-5", None),
    ("Rating: 4 or 5", None),
    ("3 and 6", None),
    ("20%", None),
    ("the 5th one", None),
    ("not 5", None),
]


@pytest.mark.parametrize(("text", "digit"), RATINGS)
def test_a_rating_is_read_where_one_digit_of_the_scale_was_given(text, digit):
    assert parse_rating(text, low=1, high=7) == digit


def test_the_scales_own_ends_decide_what_is_a_digit_of_it():
    assert parse_rating("5/7", low=1, high=5) is None
    assert parse_rating("5/5", low=1, high=5) == 5
    assert parse_rating("0", low=0, high=9) == 0
    assert parse_rating("zero", low=0, high=9) == 0
    assert parse_rating("zero", low=1, high=7) is None


@pytest.mark.parametrize(
    ("text", "named"),
    [("It should be a 6.", True), ("not 6", True), ("Use the scale 1 to 7.", False), ("It is 8 now.", False)],
)
def test_feedback_that_names_a_digit_of_the_scale_is_told(text, named):
    assert names_rating(text, low=1, high=7) == named
