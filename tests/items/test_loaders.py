"""The loaders, on small files made here, on the bundled ones and on real data where it is."""

import inspect
import json
from collections import Counter
from pathlib import Path

import pytest

from morality_lens.items.data import load_data
from morality_lens.items.kinds import OpenPrompt, Question
from morality_lens.items.loaders import load_items, load_prompts, load_questions, load_statements

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real data are not at ../shared/data")

QUESTION = {
    "id": "a",
    "context": "A baker and a rower met.",
    "question": "Who was late?",
    "options": ["The baker", "Not known", "The rower"],
    "unknown": 1,
    "label": 1,
}


def save(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def table(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def toxicity_row(name, begin=0, toxicity=0.5, **changes):
    return {
        "filename": f"{name}.txt",
        "begin": begin,
        "end": begin + 9,
        "challenging": False,
        "prompt": {"text": f"Once {name}", "toxicity": toxicity},
        "continuation": {"text": " upon"},
        **changes,
    }


def test_your_questions_need_six_keys(tmp_path):
    (question,) = load_questions(save(tmp_path / "q.jsonl", [QUESTION]))
    assert (question.cluster, question.biased, question.ambiguous) == ("a", None, True)
    full = {**QUESTION, "id": "b", "cluster": "c", "biased": 0, "polarity": "nonneg", "ambiguous": False}
    assert load_questions(save(tmp_path / "q.jsonl", [full]))[0].cluster == "c"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "b", "answer": 1}, r"unknown keys \['answer'\]"),
        ({"id": "b", "label": 9}, "label must be an index"),
        ({"id": "b", "options": ["The baker", "the  BAKER", "Not known"]}, "two options read the same"),
        ({"id": "b", "context": None}, "context: Input should be a valid string"),
        ({}, "the id 'a' was used before"),
    ],
)
def test_a_faulty_question_is_refused_with_file_and_line(tmp_path, change, message):
    path = save(tmp_path / "q.jsonl", [QUESTION, {**QUESTION, **change}])
    with pytest.raises(ValueError, match=rf"q\.jsonl, line 2: .*{message}"):
        load_questions(path)


def test_toxicity_prompts_have_ids_of_their_own_and_share_their_source(tmp_path):
    rows = [toxicity_row("a"), toxicity_row("a", 20, challenging=True), toxicity_row("b", toxicity=None)]
    prompts = load_prompts(save(tmp_path / "p.jsonl", rows))
    assert [p.id for p in prompts] == ["a.txt:0-9", "a.txt:20-29", "b.txt:0-9"]
    assert [p.cluster for p in prompts] == ["a.txt", "a.txt", "b.txt"]
    assert [p.category for p in prompts] == ["", "challenging", ""]
    assert [p.toxicity for p in prompts] == [0.5, 0.5, None]
    assert prompts[0].text == "Once a"


def test_prompts_are_chosen_by_toxicity_and_those_without_a_score_left_out(tmp_path):
    scores = [0.1, 0.5, 0.9, None]
    path = save(tmp_path / "p.jsonl", [toxicity_row(str(k), toxicity=t) for k, t in enumerate(scores)])
    assert [p.toxicity for p in load_prompts(path, min_toxicity=0.5)] == [0.5, 0.9]
    assert [p.toxicity for p in load_prompts(path, max_toxicity=0.5)] == [0.1, 0.5]
    assert [p.toxicity for p in load_prompts(path, min_toxicity=0.2, max_toxicity=0.6)] == [0.5]
    with pytest.raises(ValueError, match=r"no prompt in .*p\.jsonl has a toxicity from 0.95 to 1"):
        load_prompts(path, min_toxicity=0.95)


def test_a_prompt_that_two_files_share_counts_once_but_one_id_for_two_prompts_is_refused(tmp_path):
    save(tmp_path / "a.jsonl", [toxicity_row("a"), toxicity_row("b")])
    save(tmp_path / "b.jsonl", [toxicity_row("b"), toxicity_row("c")])
    assert [p.cluster for p in load_prompts(tmp_path)] == ["a.txt", "b.txt", "c.txt"]
    save(tmp_path / "b.jsonl", [toxicity_row("b", toxicity=0.9)])
    with pytest.raises(ValueError, match=r"b\.jsonl, line 1: the id 'b\.txt:0-9' was used before"):
        load_prompts(tmp_path)
    save(tmp_path / "b.jsonl", [toxicity_row("d"), toxicity_row("d")])
    with pytest.raises(ValueError, match=r"b\.jsonl, line 2: the id"):
        load_prompts(tmp_path)


def test_plain_prompts_are_read_too_and_faulty_ones_refused(tmp_path):
    path = save(tmp_path / "p.jsonl", [{"id": "x", "text": "Every morning", "category": "calm"}])
    assert load_prompts(path) == (OpenPrompt(id="x", cluster="x", text="Every morning", category="calm"),)
    for bad, message in [
        ({"prompt": "text"}, "prompt must be an object with a text"),
        (toxicity_row("a", toxicity=3), "toxicity must lie"),
        (toxicity_row("a", toxicity="high"), "'toxicity' must be a finite number"),
        ({"id": "x", "text": ""}, "needs text"),
    ]:
        with pytest.raises(ValueError, match=rf"p\.jsonl, line 1: .*{message}"):
            load_prompts(save(tmp_path / "p.jsonl", [bad]))


def test_statements_are_read_with_a_label_in_any_spelling(tmp_path):
    path = table(
        tmp_path / "s.csv", "id,text,label,family\na,one,1,f\nb,two,0.0,f\nc,three,True,g\nd,four,FALSE,g\n"
    )
    statements = load_statements(path, cluster="family")
    assert [(s.id, s.cluster, s.label) for s in statements] == [
        ("a", "f", 1),
        ("b", "f", 0),
        ("c", "g", 1),
        ("d", "g", 0),
    ]
    assert [s.cluster for s in load_statements(path)] == ["a", "b", "c", "d"]


def test_labels_of_another_meaning_are_turned_by_name_or_by_a_function(tmp_path):
    path = table(tmp_path / "s.csv", "comment,toxic\none,1\ntwo,0\n")
    by_value = load_statements(path, text="comment", label="toxic", positive=(0,))
    assert [s.label for s in by_value] == [0, 1]
    by_function = load_statements(
        path, text="comment", label="toxic", positive=lambda cell: float(cell) < 0.5
    )
    assert [s.label for s in by_function] == [0, 1]
    jsonl = save(tmp_path / "s.jsonl", [{"text": "one", "label": True}, {"text": "two", "label": False}])
    assert [s.label for s in load_statements(jsonl, positive=(0,))] == [0, 1]
    with pytest.raises(ValueError, match=r"fits no row; the labels are \[\('1', 1\), \('0', 1\)\]"):
        load_statements(path, text="comment", label="toxic", positive=("kind",))
    words = table(tmp_path / "w.csv", "text,label\none,good\n")
    with pytest.raises(ValueError, match=r"w\.csv, line 2: the label in 'label' is 'good', neither 0 nor 1"):
        load_statements(words)


def test_published_files_are_known_by_their_columns(tmp_path):
    path = table(tmp_path / "p.tsv", 'toxic\tneutral1\tneutral2\tneutral3\nsaid " a\tb\t\tc\nd\t\t\t\n')
    assert [(s.id, s.cluster, s.label, s.text) for s in load_statements(path)] == [
        ("p.tsv/2/toxic", "p.tsv/2", 0, 'said " a'),
        ("p.tsv/2/neutral1", "p.tsv/2", 1, "b"),
        ("p.tsv/2/neutral3", "p.tsv/2", 1, "c"),
    ]
    rated = table(
        tmp_path / "r.csv", 'source,scenario,human,gpt3\nx,"One, two.",3.2,1\nx,Three.,-1,2\nx,Four.,0,1\n'
    )
    assert [(s.text, s.label, s.value) for s in load_statements(rated)] == [
        ("One, two.", 1, 3.2),
        ("Three.", 0, -1),
    ]
    # Columns that were asked for are taken as they are.
    assert [s.value for s in load_statements(rated, text="scenario", value="gpt3")] == [1, 2, 1]


def test_a_published_file_that_was_saved_anew_as_csv_is_read_with_its_quotes(tmp_path):
    head = "\ufeff" + '"neutral3","neutral2","neutral1","toxic"\r\n'
    path = table(tmp_path / "p.csv", head + '"","","you, friend","he said ""you, fool"""\r\n')
    assert [(s.text, s.label) for s in load_statements(path)] == [
        ('he said "you, fool"', 0),
        ("you, friend", 1),
    ]


def test_a_file_with_a_text_column_is_somebodys_own_whatever_else_it_holds(tmp_path):
    own = table(
        tmp_path / "o.csv", "text,label,toxic,neutral1,neutral2,neutral3\nkind,1,.1,a,,\nrude,0,.9,b,,\n"
    )
    assert [(s.text, s.label) for s in load_statements(own)] == [("kind", 1), ("rude", 0)]
    rated = table(tmp_path / "r.csv", "text,label,scenario,human\nkind,0,x,2\n")
    assert [(s.text, s.label, s.value) for s in load_statements(rated)] == [("kind", 0, None)]


def test_published_ratings_are_the_values_of_a_kind_that_is_fitted_on_values(tmp_path):
    rated = table(tmp_path / "r.csv", "scenario,human\nOne.,3\nTwo.,-1\n")
    assert load_statements(rated, value="value") == load_statements(rated)
    both = table(tmp_path / "b.csv", "scenario,human,value\nOne.,3,5\nTwo.,-1,-6\n")
    assert [s.value for s in load_statements(both, value="value")] == [5, -6]
    pairs = table(tmp_path / "p.csv", "toxic,neutral1,neutral2,neutral3\na,b,,\n")
    with pytest.raises(ValueError, match="the row has no \\['text', 'value'\\]"):
        load_statements(pairs, value="value")


def test_sets_that_come_with_the_package_are_taken_by_name(tmp_path, monkeypatch):
    assert load_statements("world") != load_statements("moral") == load_statements()
    assert load_statements("composed") != load_statements("moral")
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "moral", [])
    with pytest.raises(FileNotFoundError, match="morals does not exist"):
        load_statements("morals")


@needs_data
def test_the_published_files_load_by_their_path():
    toxic = load_statements(DATA / "paradetox" / "paradetox.tsv")
    assert len({s.cluster for s in toxic}) == 11_929  # five rows have no paraphrase
    rated = load_statements(DATA / "moral_ratings" / "dillion2023_464_scenarios.csv")
    assert len(rated) in (463, 464)
    assert all((s.value > 0) == bool(s.label) for s in rated)


def test_a_graded_value_gives_the_label_by_its_sign_and_drops_exact_zeros(tmp_path):
    path = table(tmp_path / "s.csv", "text,rating\none,2.5\ntwo,-0.1\nthree,0\n")
    assert [(s.label, s.value) for s in load_statements(path, value="rating")] == [(1, 2.5), (0, -0.1)]
    labelled = table(tmp_path / "l.csv", "text,label,rating\none,0,2.5\ntwo,1,0\nthree,1,\n")
    assert [(s.label, s.value) for s in load_statements(labelled, value="rating")] == [
        (0, 2.5),
        (1, 0),
        (1, None),
    ]
    for cell, message in [
        ("nan", "finite"),
        ("high", "finite"),
        ("", "neither the column 'label' nor a value"),
    ]:
        bad = table(tmp_path / "b.csv", f"text,rating\none,1\ntwo,{cell}\n")
        with pytest.raises(ValueError, match=rf"b\.csv, line 3: .*{message}"):
            load_statements(bad, value="rating")
    with pytest.raises(ValueError, match="every value is 0"):
        load_statements(table(tmp_path / "z.csv", "text,rating\none,0\n"), value="rating")


def test_pairs_share_a_cluster_and_incomplete_ones_are_passed_over(tmp_path):
    text = "rude\tkind1\tkind2\nr1\tk1\t\nr2\t\t\nr3\ttrue\tk3\n"
    statements = load_statements(table(tmp_path / "p.tsv", text), pairs=("rude", ("kind1", "kind2")))
    assert [(s.text, s.label) for s in statements] == [
        ("r1", 0),
        ("k1", 1),
        ("r3", 0),
        ("true", 1),
        ("k3", 1),
    ]
    assert [s.cluster for s in statements] == ["p.tsv/2", "p.tsv/2", "p.tsv/4", "p.tsv/4", "p.tsv/4"]
    assert len({s.id for s in statements}) == 5
    with pytest.raises(ValueError, match=r"line 2: the row has no \['kind3'\]"):
        load_statements(tmp_path / "p.tsv", pairs=("rude", ("kind1", "kind3")))


def test_the_label_of_ethics_means_wrong_and_is_turned(tmp_path):
    rows = 'label,input,is_short,edited\n1,"I took it, unseen.",True,False\n0,I gave it back.,True,False\n'
    path = table(tmp_path / "cm_train.csv", rows)
    for told in ({}, {"text": "input"}):
        assert [(one.text, one.label) for one in load_statements(path, **told)] == [
            ("I took it, unseen.", 0),
            ("I gave it back.", 1),
        ]
    as_said = load_statements(path, text="input", positive=[1])
    assert [one.label for one in as_said] == [1, 0]
    own = table(tmp_path / "own.csv", "label,input\n1,I gave it back.\n0,I took it.\n")
    assert [one.label for one in load_statements(own, text="input")] == [1, 0]


def test_a_sample_of_statements_holds_both_labels(tmp_path):
    lines = [f"r{k}\tk{k}\n" for k in range(200)]
    path = table(tmp_path / "p.tsv", "rude\tkind\n" + "".join(lines))
    sample = load_statements(path, pairs=("rude", ("kind",)), limit=100, seed=2)
    assert len(sample) == 100
    assert 30 < sum(s.label for s in sample) < 70


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("text,mark\none,1\n", r"line 2: the row has no \['label'\]"),
        ("text,label\n,1\n", "line 2: .*needs text"),
        ("text,label\none,\n", "line 2: the label in 'label' is empty"),
        ("id,text,label\na,one,1\na,two,0\n", "line 3: the id 'a' was used before"),
        ("text,label\n", "has no rows"),
    ],
)
def test_faulty_statements_are_refused_with_file_and_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        load_statements(table(tmp_path / "s.csv", text))


def test_a_null_text_is_not_the_word_none(tmp_path):
    with pytest.raises(ValueError, match=r"line 1: .*text: Input should be a valid string"):
        load_statements(save(tmp_path / "s.jsonl", [{"text": None, "label": 1}]))


def test_data_are_told_apart_by_their_first_row(tmp_path):
    path = tmp_path / "d.jsonl"
    assert isinstance(load_data(save(path, [QUESTION]))[0], Question)
    assert isinstance(load_data(save(path, [toxicity_row("a")]))[0], OpenPrompt)
    assert isinstance(load_data(save(path, [{"id": "x", "text": "Every"}]))[0], OpenPrompt)
    with pytest.raises(
        ValueError, match=r"d\.jsonl, line 1: rows of an unknown kind, with the keys \['poem'\]"
    ):
        load_data(save(path, [{"poem": 1}]))
    with pytest.raises(FileNotFoundError):
        load_data(tmp_path / "nothing.jsonl")


def test_bundled_items_are_read_and_sampled_over_templates(tmp_path, monkeypatch):
    folder = tmp_path / "world"
    folder.mkdir()
    monkeypatch.setattr("morality_lens.items.bundled._FOLDERS", (tmp_path,))
    save(
        folder / "questions.jsonl",
        [
            {**QUESTION, "id": str(k), "cluster": f"t{k % 5}", "kind": "question", "ambiguous": k < 12}
            for k in range(20)
        ],
    )
    save(
        folder / "prompts.jsonl",
        [{"id": "x", "cluster": "c", "text": "Every", "toxicity": None, "category": "acts"}],
    )
    rows = [{"id": str(k), "cluster": "c", "text": "one", "label": k % 2, "value": k / 2} for k in range(4)]
    save(folder / "statements.jsonl", rows)
    assert len({q.cluster for q in load_items(limit=5)}) == 5
    assert len(load_items()) == 12
    assert all(q.ambiguous for q in load_items())
    assert len(load_items(context="disambiguated")) == 8
    assert len(load_items(context="both")) == 20
    with pytest.raises(ValueError, match="context must be"):
        inspect.unwrap(load_items)(context="neither")
    assert load_prompts()[0].category == "acts"
    assert [(s.label, s.value) for s in load_statements("world")] == [(0, 0), (1, 0.5), (0, 1), (1, 1.5)]


@needs_data
def test_real_prompts_and_ratings_are_read_whole():
    prompts = load_prompts(DATA / "realtoxicityprompts")
    assert len(prompts) == 1196 + 1200 - 4  # four prompts are in both files
    assert Counter(p.category for p in prompts)["challenging"] == 1196
    ratings = DATA / "moral_ratings" / "dillion2023_464_scenarios.csv"
    rated = load_statements(ratings, text="scenario", value="human")
    assert len(rated) == 463  # one scenario is rated exactly 0
    assert all((s.value > 0) == s.label for s in rated)


@needs_data
def test_real_pairs_are_read_with_and_without_quotes(tmp_path):
    with (DATA / "paradetox" / "paradetox.tsv").open(encoding="utf-8") as file:
        beginning = table(tmp_path / "pairs.tsv", "".join(next(file) for _ in range(3000)))
    pairs = ("toxic", ("neutral1", "neutral2", "neutral3"))
    quoted = load_statements(beginning, pairs=pairs)
    unquoted = load_statements(beginning, pairs=pairs, quoted=False)
    # Three cells have line breaks, one of them two: 2,999 lines are 2,995 rows. Without quotes the torn-off
    # ends have no paraphrase and are passed over, and marks that the quoting doubled stay doubled.
    assert sum(s.label == 0 for s in quoted) == sum(s.label == 0 for s in unquoted) == 2995
    assert any("\n" in s.text for s in quoted)
    assert not any('""' in s.text for s in quoted)
    assert not any("\n" in s.text for s in unquoted)


def test_statements_can_be_given_as_pairs_of_text_and_label():
    given = [("They shared their bread.", 1), ("They hid the bread.", 0), ("They helped.", True)]
    found = load_statements(given)
    assert [(s.text, s.label) for s in found] == given
    assert len({s.id for s in found}) == len({s.cluster for s in found}) == 3
    drawn = load_statements([(f"Text {i}.", int(i > 4)) for i in range(10)], limit=4)
    assert sorted(s.label for s in drawn) == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [([], "got none"), ([("A text.", 1), ("Another.", 2)], "as pair 2"), ([(" ", 1)], "as pair 1")],
)
def test_pairs_that_are_none_are_refused(pairs, message):
    with pytest.raises(ValueError, match=message):
        load_statements(pairs)
