"""Questions without an unknown option and ratings, from their files to the report."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, strategies as st
from tiny import made_up_probe
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

import morality_lens as ml
from morality_lens.circuits.measuring import log_odds_of
from morality_lens.circuits.patching import patch
from morality_lens.circuits.settings import Activations, Batching, Doses, RandomDirections
from morality_lens.circuits.steering import steer
from morality_lens.design import COMPONENTS, Condition, Design, Protocol
from morality_lens.dialogues import rendering, wording
from morality_lens.dialogues.turns import correction_turn, critique_turn, distinguish_turn, opening_turn
from morality_lens.dialogues.wording import load_wording
from morality_lens.experiments.evidence import Evidence, weak_evidence
from morality_lens.experiments.masking import component_words
from morality_lens.experiments.self_distinguish import name_groups, own_pairs
from morality_lens.items.data import load_data
from morality_lens.items.kinds import (
    OpenPrompt,
    Question,
    Rating,
    forced_choice,
    item_from_row,
    items_from_jsonl,
    items_hash,
    items_to_jsonl,
    refuse_unplayable,
)
from morality_lens.items.loaders import load_items, load_prompts, load_questions, load_ratings
from morality_lens.judges.outcomes import behaviour_cube, reply_shares
from morality_lens.judges.questions import accuracy, bias_scores, join_questions, judge_answers
from morality_lens.models.loading import load_model, record_of
from morality_lens.report.analysis import analyze
from morality_lens.report.writing import write_report
from morality_lens.rounds.feedback import Oracle, ReviewedAnswer
from morality_lens.rounds.playing import play
from morality_lens.rounds.selection import Execution

WORDING = load_wording()
BARE = Question(id="b", cluster="t", context="A and B met.", question="Who left?", options=("A one", "B one"))
RATING = Rating(
    id="r", cluster="t", context="She lied.", question="How wrong?", low_label="not at all", high_label="very"
)
PROMPT = OpenPrompt(id="p", cluster="p", text="The man said")
SHORT = Protocol(design=Design(rounds=1), answer_tokens=1, rationale_tokens=4, feedback_tokens=4)


# --------------------------------------------------------------------------------------------- values
def test_an_item_says_what_may_be_replied_and_what_is_measured():
    assert BARE.replies == ("A", "B")
    assert [m.name for m in BARE.measures] == [
        "share of option A",
        "share of option B",
        "probability of option A",
        "probability of option B",
    ]
    assert [m.name for m in replace(BARE, label=1).measures] == ["correct", "probability"]
    assert RATING.replies == tuple("1234567")
    assert [m.name for m in RATING.measures] == ["rating", "stated rating"]
    assert (PROMPT.replies, [m.name for m in PROMPT.measures]) == ((), ["score"])
    assert (BARE.good, replace(BARE, label=0).good, RATING.good, PROMPT.good) == (None, 0, None, None)
    assert (BARE.read("(B) B one"), RATING.read("I'd say 6"), PROMPT.read("A")) == (1, 5, None)
    assert RATING.read("8") is None


def test_more_options_than_letters_are_refused_by_name():
    with pytest.raises(ValueError, match=r"item 'b' has 27 options; at most 26"):
        _ = replace(BARE, options=tuple(f"option {i}" for i in range(27))).replies


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"low": 7}, "from a digit to a higher one"),
        ({"high": 10}, "within 0 to 9"),
        ({"low": -1}, "within 0 to 9"),
        ({"high_label": " "}, "needs text in"),
        ({"question": ""}, "needs text in"),
    ],
)
def test_a_scale_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(RATING, **change)


def test_the_prompt_of_every_kind_holds_what_is_asked_in_the_template_of_its_task():
    assert BARE.format_prompt("> {text}") == "> A and B met.\nWho left?\nA. A one\nB. B one"
    assert RATING.format_prompt("{text}") == "She lied.\nHow wrong?\n1 = not at all\n7 = very"
    told = opening_turn(RATING, WORDING).content
    assert told.endswith(f"7 = very\n{WORDING.rating.answer_request[0]}")
    for turn in (
        correction_turn(RATING, Condition(instruction="on", cot="on"), WORDING),
        critique_turn(RATING, "4", WORDING),
        distinguish_turn(RATING, "4", "6", WORDING),
    ):
        assert turn.content


TEXT = st.text(min_size=1, max_size=20).filter(lambda text: bool(text.strip()))
QUESTIONS = st.tuples(
    st.just("question"), st.lists(TEXT, min_size=2, max_size=5), st.tuples(*[st.booleans()] * 3)
)
RATINGS = st.tuples(
    st.just("rating"), st.sets(st.integers(0, 9), min_size=2, max_size=2), st.tuples(TEXT, TEXT)
)
PROMPTS = st.tuples(st.just("prompt"), TEXT, st.none() | st.floats(0, 1))


def built(kind, id, one, two):
    """An item of drawn parts."""
    if kind == "question":
        last = len(one) - 1
        unknown, label, biased = (n if there else None for n, there in zip((last, last, 0), two, strict=True))
        return Question(
            id=id,
            cluster=id,
            context="",
            question=id,
            options=tuple(one),
            unknown=unknown,
            label=label,
            biased=biased,
        )
    if kind == "rating":
        ends = {"low": min(one), "high": max(one), "low_label": two[0], "high_label": two[1]}
        return Rating(id=id, cluster=id, context="", question=id, **ends)
    return OpenPrompt(id=id, cluster=id, text=one, toxicity=two)


@given(drawn=st.dictionaries(TEXT, QUESTIONS | RATINGS | PROMPTS, min_size=1, max_size=4))
def test_stored_items_of_every_kind_come_back_as_they_were(tmp_path_factory, drawn):
    items = [built(kind, id, one, two) for id, (kind, one, two) in drawn.items()]
    path = tmp_path_factory.mktemp("items") / "items.jsonl"
    items_to_jsonl(items, path)
    assert items_from_jsonl(path) == tuple(items)
    assert items_hash(items_from_jsonl(path)) == items_hash(items)


def test_items_and_words_of_earlier_runs_keep_their_hashes():
    assert items_hash(load_items()) == "93db99c149373b1a0417a80ab282cca0d5eaca42d3d70d7e92eb3b14043ed42b"
    assert items_hash(load_prompts()) == "514aa3b3ba899818f864ceb3c6303560c4a28d91a34c32bb2f5dca9038ae8635"
    told = "15b38bd4fdc65b42cc2d77eeef726798c94aa0caccdf5ddac93b13794b3a68f0"
    assert {WORDING.sha256, WORDING.hash_of("choice"), WORDING.hash_of("continuation")} == {told}
    old = '{"kind":"question","id":"a","cluster":"a","context":"","question":"Who?","options":["x","y"],'
    row = json.loads(
        old + '"unknown":1,"label":1,"biased":null,"stereotyped":null,"polarity":"neg",'
        '"ambiguous":true,"category":""}'
    )
    assert item_from_row(Question, row, "here").unknown == 1


def test_words_of_a_rating_identify_runs_of_ratings_only(tmp_path):
    source = Path(wording.__file__).with_name("wording.toml").read_text()
    request = "Answer with one digit of the scale."
    (tmp_path / "other.toml").write_text(source.replace(request, "One digit, please."))
    other = load_wording(tmp_path / "other.toml")
    assert other.sha256 == WORDING.sha256
    assert other.hash_of("rating") != WORDING.hash_of("rating")
    (tmp_path / "old.toml").write_text(source[: source.index("[rating]")])
    old = load_wording(tmp_path / "old.toml")
    assert old.sha256 == WORDING.sha256
    with pytest.raises(ValueError, match=r"has no table \[rating\]"):
        opening_turn(RATING, old)
    assert opening_turn(BARE, old) == opening_turn(BARE, WORDING)


def test_the_words_of_ratings_have_five_wordings_and_placebos_as_long_as_those_of_choice():
    words, choice = WORDING.rating, WORDING.choice
    for name in type(words).model_fields:
        if name != "stereotype_request":
            assert len(getattr(words, name)) == len(getattr(choice, name)), name
    for said, neutral in zip(words.instruction, words.instruction_placebo, strict=True):
        assert abs(len(said.split()) - len(neutral.split())) <= 3
    for name in ("rationale_placebo", "feedback_placebo"):
        for here, there in zip(getattr(words, name), getattr(choice, name), strict=True):
            assert abs(len(here.split()) - len(there.split())) <= 2
    assert {"prejudice", "harm"} <= component_words(WORDING, "rating")


# --------------------------------------------------------------------------------------------- files
def write(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_files_of_both_kinds_are_loaded_and_told_by_their_keys(tmp_path):
    row = {"id": "d", "context": "", "question": "What?", "options": ["Tell", "Keep quiet"]}
    bare = write(tmp_path / "q.jsonl", [{**row, "unknown": None, "label": None}])
    assert load_data(bare) == load_questions(bare)
    assert (load_questions(bare)[0].unknown, load_questions(bare)[0].label) == (None, None)
    with pytest.raises(ValueError, match=r"line 1.*unknown: Field required \(null says that there is none\)"):
        load_questions(write(tmp_path / "forgotten.jsonl", [{**row, "label": None}]))
    row = {"id": "r", "context": "", "question": "How wrong?", "low_label": "not", "high_label": "very"}
    rated = write(tmp_path / "r.jsonl", [row, {**row, "id": "s", "low": 0, "high": 9, "kind": "rating"}])
    assert load_data(rated) == load_ratings(rated)
    assert [(r.low, r.high) for r in load_ratings(rated)] == [(1, 7), (0, 9)]
    with pytest.raises(ValueError, match=r"r\.jsonl, line 1.*not a valid Rating .*high: Input should be"):
        load_ratings(write(tmp_path / "r.jsonl", [{**row, "high": "7"}]))
    with pytest.raises(ValueError, match=r"line 1.*digit"):
        load_ratings(write(tmp_path / "r.jsonl", [{**row, "high": 11}]))


def test_bundled_questions_can_be_had_without_unknown_and_ratings_are_bundled():
    whole, forced = load_items(context="both"), load_items(context="both", unknown=False)
    assert [q.id for q in forced] == [q.id for q in whole]
    for before, after in zip(whole, forced, strict=True):
        assert after.unknown is None
        assert len(after.options) == 2
        assert after.options == tuple(o for i, o in enumerate(before.options) if i != before.unknown)
        assert (after.label is None) == (before.label == before.unknown)
        if after.label is not None:
            assert after.options[after.label] == before.options[before.label]
        assert after.options[after.biased] == before.options[before.biased]
    with pytest.raises(ValueError, match="no unknown option"):
        forced_choice(forced[0])
    ratings = load_ratings()
    assert len(ratings) == 16
    assert len({r.cluster for r in ratings}) == 4


# --------------------------------------------------------------------------------------------- refusals
def test_what_cannot_be_played_together_is_refused_in_words():
    refuse_unplayable([BARE, replace(BARE, id="c")])
    for items, message in [
        ([BARE, RATING], "need a run each; got both Question and Rating"),
        ([BARE, replace(BARE, id="c", label=1)], "need one outcome"),
        ([BARE, replace(BARE, id="c", options=("x", "y", "z"))], "need one outcome"),
        ([RATING, replace(RATING, id="s", high=5)], "need one outcome"),
    ]:
        with pytest.raises(ValueError, match=message):
            refuse_unplayable(items)
    for item in (BARE, RATING):
        with pytest.raises(ValueError, match=r"oracle feedback .*name none"):
            refuse_unplayable([item], oracle=True)
        with pytest.raises(ValueError, match="an oracle cannot judge it"):
            Oracle(wording=WORDING, index=0).feedback(
                [ReviewedAnswer(item=item, answer="A", condition="", round=0)]
            )
    refuse_unplayable([replace(BARE, label=1)], oracle=True)
    with pytest.raises(ValueError, match="no right answer"):
        WORDING.oracle(RATING)


def test_what_no_reply_is_right_of_is_missing_and_never_zero():
    frame = judge_answers(["A", "nothing"], [BARE, BARE])
    assert frame["choice"].tolist()[0] == 0
    assert frame["parsed"].tolist() == [True, False]
    assert frame["correct"].isna().all()
    assert judge_answers(["3"], [RATING])["choice"].tolist() == [2]
    with pytest.raises(ValueError, match="needs items that name a good reply"):
        accuracy(frame)
    answers = frame.assign(item="b")
    with pytest.raises(
        ValueError, match="bias scores need questions with a biased option and an unknown one"
    ):
        bias_scores(answers, questions=[replace(BARE, biased=0)])
    with pytest.raises(ValueError, match="got none"):
        join_questions(answers, [])
    known = replace(BARE, id="u", options=("x", "y", "z"), unknown=2, label=2, biased=0)
    mixed = [replace(BARE, biased=0), known]
    both = judge_answers(["A", "A"], mixed).assign(item=["b", "u"])
    scored = bias_scores(both, questions=mixed)
    assert (scored["n_no_role"].item(), scored["n_amb"].item()) == (1, 1)


# --------------------------------------------------------------------------------------------- runs
def model_that_says(zoo_folder, folder: Path, signs) -> Path:
    """A tiny random Llama whose every token is one of these signs."""
    model = AutoModelForCausalLM.from_pretrained(zoo_folder("llama"))
    renderer = record_of(load_model(zoo_folder("llama"))).renderer
    renderer.tokenizer.save_pretrained(folder)
    rows = [t for tokens in rendering.first_tokens(renderer, signs) for t in tokens]
    head = torch.zeros_like(model.lm_head.weight)
    drawn = torch.randn(len(rows), head.shape[1], generator=torch.Generator().manual_seed(0))
    head[rows] = (drawn - drawn.mean(0)) / 4  # sum zero, so that one of them is always above the rest
    model.lm_head.weight = torch.nn.Parameter(head)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def digits(zoo_folder, tmp_path_factory):
    """The folder of a model that says nothing but digits from 1 to 7."""
    return model_that_says(zoo_folder, tmp_path_factory.mktemp("digits"), RATING.replies)


@pytest.fixture(scope="module")
def letters(zoo_folder, tmp_path_factory):
    """The folder of a model that says nothing but A and B."""
    return model_that_says(zoo_folder, tmp_path_factory.mktemp("letters"), BARE.replies)


def some_ratings(count: int = 12) -> tuple[Rating, ...]:
    return tuple(
        replace(RATING, id=f"r{i}", cluster=f"t{i % 6}", context="She lied. " * (1 + i % 3) + f"Day {i}.")
        for i in range(count)
    )


@pytest.fixture(scope="module")
def rated(digits, tmp_path_factory):
    """A model that says digits, and its run of ratings."""
    model = load_model(digits)
    out = tmp_path_factory.mktemp("rated") / "run"
    return model, play(model, some_ratings(), out=out, protocol=SHORT, progress=False)


@pytest.fixture(scope="module")
def forced(letters, tmp_path_factory):
    """A model that says letters, and its run of questions with two options."""
    model = load_model(letters)
    out = tmp_path_factory.mktemp("forced") / "run"
    return model, play(model, load_items(unknown=False, limit=16), out=out, protocol=SHORT, progress=False)


def test_the_probabilities_of_digits_are_those_of_plain_transformers(rated, digits):
    _, run = rated
    plain = AutoModelForCausalLM.from_pretrained(digits).eval()
    tokenizer = record_of(rated[0]).renderer.tokenizer
    ids = [tokenizer(str(digit), add_special_tokens=False).input_ids for digit in range(1, 8)]
    assert all(len(one) == 1 for one in ids)
    for row in run.transcripts.iloc[::11].to_dict("records"):
        with torch.no_grad():
            logits = plain(torch.tensor([row["token_ids"].tolist()])).logits[0].double()
        for span in (s for s in row["spans"] if s["name"] == "answer"):
            whole = torch.softmax(logits[span["start"] - 1], -1)[[one[0] for one in ids]].numpy()
            where = {"item": row["item"], **{c: row[c] for c in COMPONENTS}, "round": span["round"]}
            stored = run.option_probabilities.sel(where).values
            np.testing.assert_allclose(stored, whole / whole.sum(), atol=1e-5)
            by_hand = sum((1 + k) * float(p) for k, p in enumerate(stored))
            assert float(behaviour_cube(run, "rating").sel(where)) == pytest.approx(by_hand, abs=1e-12)
            assert float(run.option_mass.sel(where)) == pytest.approx(whole.sum(), abs=1e-5)


def test_the_stated_rating_is_the_digit_that_was_written(rated):
    _, run = rated
    cube = behaviour_cube(run, "stated rating")
    for row in run.answers.to_dict("records"):
        where = {"item": row["item"], **{c: row[c] for c in COMPONENTS}, "round": row["round"]}
        assert float(cube.sel(where)) == int(row["text"])
    likeliest = run.option_probabilities.argmax("option") + 1
    assert (likeliest == cube).all()
    assert cube.attrs["units"] == "points of the scale"
    assert "oriented" not in cube.attrs


def test_an_unreadable_rating_is_missing_and_an_unreadable_choice_is_no_option(forced, rated, monkeypatch):
    for (_, run), measure, expected in [
        (rated, "stated rating", np.nan),
        (forced, "share of option A", 0.0),
    ]:
        answers = run.answers.copy()
        answers.loc[0, "choice"] = pd.NA
        monkeypatch.setitem(vars(run), "answers", answers)
        first = behaviour_cube(run, measure).values[0, 0, 0, 0, 0]
        np.testing.assert_equal(first, expected)
        monkeypatch.undo()


def test_ratings_go_from_the_model_to_the_report(rated, tmp_path):
    model, run = rated
    assert run.manifest["study"]["items"]["kind"] == "Rating"
    assert run.manifest["study"]["wording"]["sha256"] == WORDING.hash_of("rating")
    cube = behaviour_cube(run, "rating")
    assert cube.min() >= 1
    assert cube.max() <= 7
    probe = made_up_probe(model)
    done = analyze(run, probe=probe, draws=200)
    assert done.behaviour_odds is None  # a rating is no share
    assert done.claims == ()  # and nobody said that more is better
    direct = ml.factorial_effects(cube, COMPONENTS, family=("round",), draws=200)
    np.testing.assert_array_equal(done.behaviour_effects["estimate"], direct["estimate"])
    by_hand = (cube.sel(instruction="on") - cube.sel(instruction="off")).isel(round=1).mean()
    assert float(direct["estimate"].sel(effect="instruction", round=1)) == pytest.approx(float(by_hand))
    assert "in points of the scale" in ml.describe(direct, "instruction")
    page = write_report(run, path=tmp_path / "report.html", probe=probe, analysis=done).read_text()
    assert "Expected rating (1 to 7)" in page
    assert "Share of each reply in the last round" in page
    other = analyze(run, measure="stated rating", draws=200)
    assert other.behaviour.attrs["measure"] == "stated rating (1 to 7)"
    assert not np.allclose(other.behaviour["mean"], done.behaviour["mean"])
    shares = reply_shares(run)
    np.testing.assert_allclose(shares[list(RATING.replies)].sum(axis=1) + shares["unparsed"], 1)


def test_questions_without_unknown_go_from_the_model_to_the_report(forced, tmp_path):
    _, run = forced
    assert run.measures[0] == "share of option A"
    assert run.answers["correct"].isna().all()
    a, b = (behaviour_cube(run, f"probability of option {letter}") for letter in "AB")
    np.testing.assert_allclose(a + b, 1, atol=1e-12)
    np.testing.assert_array_equal(a, run.option_probabilities.isel(option=0))
    chose = [behaviour_cube(run, f"share of option {letter}") for letter in "AB"]
    np.testing.assert_array_equal(chose[0] + chose[1], 1 - behaviour_cube(run, "unparsed"))
    place = {"item": run.items.index[3], "instruction": "on", "cot": "off", "feedback": "on", "round": 1}
    row = run.answers.set_index(["item", *COMPONENTS, "round"]).loc[tuple(place.values())]
    assert float(chose[0].sel(place)) == (row["choice"] == 0)
    done = analyze(run, draws=200)
    assert done.behaviour.attrs["measure"] == "share of option A"
    direct = ml.factorial_effects(chose[0], COMPONENTS, family=("round",), draws=200)
    np.testing.assert_array_equal(done.behaviour_effects["estimate"], direct["estimate"])
    assert done.behaviour_odds is not None  # a share has log-odds
    page = write_report(run, path=tmp_path / "report.html", analysis=done).read_text()
    assert "Share of option A over rounds" in page
    assert "no reply is designated as the good one" in page
    with pytest.raises(ValueError, match="have no 'correct'; their measures are share of option A"):
        behaviour_cube(run, "correct")
    with pytest.raises(ValueError, match="measure must be one of share of option A"):
        behaviour_cube(run, "share of option C")


def test_a_named_good_option_without_unknown_is_measured_as_correct(zoo_folder, tmp_path):
    model = load_model(zoo_folder("llama"))
    items = [replace(BARE, id=f"b{i}", cluster=f"t{i % 2}", label=i % 2) for i in range(4)]
    run = play(model, items, out=tmp_path / "run", protocol=replace(SHORT, feedback="oracle"), progress=False)
    cube = behaviour_cube(run, "probability")
    for i, item in enumerate(items):
        np.testing.assert_array_equal(
            cube.isel(item=i), run.option_probabilities.isel(item=i, option=item.good)
        )
    assert run.answers["correct"].dtype == bool
    odds = log_odds_of(run, [items[1].id], 1).values
    p = run.option_probabilities.sel(item=[items[1].id], round=1).values
    np.testing.assert_allclose(odds, np.log(p[..., 1] / p[..., 0]))
    patched = patch(
        model,
        run,
        source=Condition(instruction="on"),
        target=Condition(),
        activations=Activations(layers=[0, 1]),
        batching=Batching(progress=False),
    )
    stored = log_odds_of(run, [q.id for q in items], 1)
    there = stored.sel(instruction="on", cot="off", feedback="off")
    np.testing.assert_allclose(patched["source_log_odds"], there, atol=1e-4)
    evidence = [Evidence(item="b0", texts=("x", "y"), named=(0, 1))]
    with pytest.raises(ValueError, match="item b0 has no unknown option"):
        weak_evidence(model, run, evidence, execution=Execution(progress=False))


def test_where_no_reply_is_good_what_needs_one_is_refused_in_words(rated, forced, tmp_path):
    model, run = rated
    on = Condition(instruction="on")
    for trained, played in (rated, forced):
        probe = made_up_probe(trained)
        with pytest.raises(ValueError, match="options and a correct one"):
            ml.circuits.attribute_answer(trained, played, execution=ml.rounds.Execution(progress=False))
        with pytest.raises(ValueError, match="options and a correct one"):
            ml.circuits.patch_gradient(
                trained, played, source=on, target=Condition(), batching=ml.circuits.Batching(progress=False)
            )
        with pytest.raises(ValueError, match="options and a correct one"):
            ml.mediate(
                trained,
                played,
                probe,
                factors=("instruction", "feedback"),
                batching=ml.circuits.Batching(progress=False),
            )
        with pytest.raises(ValueError, match="need items that name one"):
            log_odds_of(played, played.items.index.tolist(), 1)
        with pytest.raises(ValueError, match="no reply to these items is better"):
            own_pairs(played)
        with pytest.raises(ValueError, match="beside an unknown option"):
            name_groups(trained, played, execution=Execution(progress=False))
    patched = patch(
        model,
        run,
        source=on,
        target=Condition(),
        activations=Activations(layers=[0, 2]),
        batching=Batching(progress=False),
    )
    assert "log_odds" not in patched
    stored = behaviour_cube(run, "rating").isel(round=1)
    np.testing.assert_allclose(
        patched["target_rating"], stored.sel(instruction="off", cot="off", feedback="off"), atol=1e-4
    )
    np.testing.assert_allclose(
        patched["rating"].sel(layer=2, place="answer_start"), patched["source_rating"], atol=1e-4
    )
    steered = steer(
        model,
        run,
        made_up_probe(model),
        condition=on,
        random=RandomDirections(count=1),
        doses=Doses(sizes=[1.0]),
        batching=Batching(progress=False),
    )
    assert "baseline" not in steered
    assert "rating" in steered
    with pytest.raises(ValueError, match="log-odds steering changes"):
        ml.circuits.steering_slopes(steered)


def test_a_tokenizer_without_the_digits_has_no_expected_rating_but_a_stated_one(tmp_path):
    model = load_model()  # its tokenizer knows the digits 1 and 2 only
    run = ml.play(model, some_ratings(2), rounds=1, out=tmp_path / "run", progress=False)
    with pytest.raises(ValueError, match="no token of its own for each reply"):
        behaviour_cube(run, "rating")
    assert behaviour_cube(run, "stated rating").shape == (2, 2, 2, 2, 2)
    done = analyze(run)
    assert done.behaviour is None
    assert any("no token of its own" in line for line in done.refused)


# --------------------------------------------------------------------------------------------- commands
def test_the_bundled_model_plays_its_own_questions_without_unknown(tmp_path):
    run = ml.play(
        load_model(), load_items(unknown=False, limit=4), rounds=1, out=tmp_path / "r", progress=False
    )
    probability = behaviour_cube(run, "probability of option A")
    assert probability.notnull().all()
    assert float(probability.std()) > 0.05
    assert behaviour_cube(run, "unparsed").mean() < 1


def test_ratings_and_two_option_questions_go_through_the_command_line(command, digits, letters, tmp_path):
    items_to_jsonl(some_ratings(), tmp_path / "ratings.jsonl")
    items_to_jsonl(load_items(unknown=False, limit=16), tmp_path / "forced.jsonl")
    (tmp_path / "config.toml").write_text("[protocol]\nanswer_tokens = 1\nrationale_tokens = 4\n")
    config = ("--config", tmp_path / "config.toml", "--rounds", 1)
    for data, model, said in (
        ("ratings.jsonl", digits, "points of the scale"),
        ("forced.jsonl", letters, "share of option A"),
    ):
        out = tmp_path / data.removesuffix(".jsonl")
        code, text, err = command("run", "--data", tmp_path / data, "--model", model, *config, "--out", out)
        assert code == 0, err
        assert (out / "report.html").is_file()
        assert said in " ".join(text.split())
        code, _, err = command("patch", out)
        assert code == 2
        assert "options and a correct one" in err


def test_an_oracle_that_cannot_know_is_refused_before_a_model_is_loaded(command, tmp_path):
    items_to_jsonl([RATING], tmp_path / "ratings.jsonl")
    broken = tmp_path / "broken"  # its files are there, so it is refused no earlier than it is loaded
    broken.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (broken / name).write_text("{}")
    code, _, err = command(
        "run", "--data", tmp_path / "ratings.jsonl", "--model", broken, "--feedback", "oracle",
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert code == 2
    assert "these items name none" in err
    code, _, err = command("study", "--data", tmp_path / "ratings.jsonl", "--model", broken)
    assert code == 2
    assert "morality-lens run" in err


def test_claims_about_items_without_a_good_option_are_undecided_with_a_reason(forced, rated, tmp_path):
    for name, (_, run) in (("forced", forced), ("rated", rated)):
        shutil.copytree(run.path, tmp_path / name / "questions")
        done = ml.studies.analyze_study(tmp_path / name, draws=100)
        assert {verdict.verdict for verdict in done.verdicts} == {"undecided"}
        assert all(verdict.why for verdict in done.verdicts)
        told = " ".join(done.refused)
        assert "Claims about questions: these items have no 'probability'" in told or "no 'correct'" in told
        assert "Judges of questions: " in told
        assert ml.studies.write_study_report(tmp_path / name, analysis=done).is_file()
