"""Published data sets by name: on small invented rows in their published columns, one after another."""

import csv
import gzip
import json
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest

import morality_lens as ml
from morality_lens.items.data import is_on_hub, load_data
from morality_lens.items.kinds import OpenPrompt, Question, Rating, Statement, refuse_unplayable
from morality_lens.items.published.catalogue import DATA_SETS, describe_data_sets
from morality_lens.items.published.source import rows_of_hub
from morality_lens.items.published.values import Row

DOCS = Path(__file__).parents[2] / "docs"


def lines(path, rows, *, ending="\n", mark=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = mark + "".join(json.dumps(row, ensure_ascii=False) + ending for row in rows)
    data = text.encode("utf-8")
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def table(path, rows, *, columns=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        names = columns or list(rows[0])
        writer.writerow(names)
        writer.writerows([row[name] for name in names] for row in rows)
    return path


def bbq_row(number=0, *, template=1, polarity="neg", context="ambig", **changes):
    return {
        "example_id": number,
        "question_index": str(template),
        "question_polarity": polarity,
        "context_condition": context,
        "category": "Age",
        "answer_info": {
            "ans0": ["the baker", "tall"],
            "ans1": ["Not known", "unknown"],
            "ans2": ["the rower", "short"],
        },
        "additional_metadata": {"subcategory": "None", "stereotyped_groups": ["short"]},
        "context": "A baker and a rower met.",
        "question": "Who forgot the key?" if polarity == "neg" else "Who had the key?",
        "ans0": "The baker",
        "ans1": "Not known",
        "ans2": "The rower",
        "label": 1 if context == "ambig" else 0,
        **changes,
    }


def four(template=1, first=0):
    asked = [(p, c) for p in ("neg", "nonneg") for c in ("ambig", "disambig")]
    return [bbq_row(first + k, template=template, polarity=p, context=c) for k, (p, c) in enumerate(asked)]


# ------------------------------------------------------------------------------------ every data set
def test_the_table_says_everything_of_every_data_set():
    shown = ml.items.data_sets()
    assert list(shown.index) == list(DATA_SETS)
    assert len(shown) == 16
    assert not (shown.drop(columns="hub") == "").any(axis=None)
    assert shown["address"].str.startswith("https://").all()
    assert shown["citation"].str.contains(r"20\d\d, (?:arXiv|doi) ").all()
    assert {kind: (shown["kind"] == kind).sum() for kind in shown["kind"].unique()} == {
        "questions": 11,
        "statements": 2,
        "ratings": 1,
        "open prompts": 2,
    }


def test_the_documentation_holds_the_table_as_it_is():
    page = (DOCS / "reference" / "datasets.md").read_text(encoding="utf-8")
    assert page.endswith(describe_data_sets()), "run: python docs/data_sets.py"


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_name_alone_says_where_to_get_the_data_and_fetches_nothing(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(FileNotFoundError) as refused:
        load_data(name.upper())
    said = str(refused.value)
    assert DATA_SETS[name].address in said
    assert f"load_data('{name}', FOLDER)" in said


@pytest.mark.parametrize("name", DATA_SETS)
def test_a_folder_without_its_files_is_refused_with_what_was_looked_for(name, tmp_path):
    (tmp_path / "notes.md").write_text("nothing here")
    with pytest.raises(FileNotFoundError, match="has no file of") as refused:
        load_data(name, tmp_path)
    assert DATA_SETS[name].files[0] in str(refused.value)
    assert DATA_SETS[name].address in str(refused.value)


WRONG = {
    "bbq": "Age.jsonl",
    "mbbq": "Age_es.jsonl",
    "esbbq": "data_es/Age.full.jsonl",
    "cabbq": "data_ca/Age.full.jsonl",
    "kobbq": "KoBBQ_test_samples.tsv",
    "cbbq": "age/ambiguous/ambiguous.json",
    "winogender": "all_sentences.tsv",
    "moralchoice": "moralchoice_low_ambiguity.csv",
    "moral-stories": "moral_stories_full.jsonl",
    "discrim-eval": "explicit.jsonl",
    "ethics": "commonsense/cm_test.csv",
    "social-chem-101": "social-chem-101.v1.0.tsv",
    "moral-foundations-vignettes": "vignettes.csv",
    "rtp-lx": "RTP_LX_NL.json",
    "polyglo-toxicity-prompts": "ptp-en.jsonl",
}


@pytest.mark.parametrize("name", WRONG)
def test_other_columns_are_refused_with_the_place_and_what_was_needed(name, tmp_path):
    file = tmp_path / WRONG[name]
    row = {"one": "1", "two": "2"}
    if file.suffix in (".csv", ".tsv"):
        table(file, [row])
    else:
        lines(file, [row])
    with pytest.raises(ValueError, match=r"(?:line|entry) \d+: the row has no .*it has \['one', 'two'\]"):
        load_data(name, tmp_path)


def test_a_wrong_name_subset_language_or_place_is_refused_with_what_there_is(tmp_path):
    lines(tmp_path / "Age_es.jsonl", four())
    with pytest.raises(ValueError, match=r"no data set is known as 'mbq'; known are bbq, mbbq"):
        load_data("mbq", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"mbq does not exist.*Known by name are bbq, mbbq"):
        load_data("mbq")
    with pytest.raises(ValueError, match="MBBQ has no subset 'hard'; it has 'ambiguous', 'disambiguated'"):
        load_data("mbbq", tmp_path, subset="hard")
    with pytest.raises(ValueError, match="MBBQ has no rows in 'tr' here; there are es"):
        load_data("mbbq", tmp_path, language="tr")
    with pytest.raises(ValueError, match="no item of the subset 'control ambiguous'"):
        load_data("mbbq", tmp_path, subset="control ambiguous")
    with pytest.raises(FileNotFoundError, match=r"'nowhere' does not exist.*github\.com/Veranep/MBBQ"):
        load_data("mbbq", "nowhere")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_data("mbbq", f"{tmp_path}/nowhere")
    with pytest.raises(FileNotFoundError, match="'' does not exist"):
        load_data("mbbq", "")


def test_subset_and_language_are_refused_for_files_of_your_own(tmp_path):
    file = lines(tmp_path / "p.jsonl", [{"id": "a", "text": "Every morning"}])
    with pytest.raises(ValueError, match="give its name before its path"):
        load_data(file, language="es")


# ------------------------------------------------------------------------------------------------ BBQ
def test_the_official_files_by_name_are_those_of_load_bbq_and_other_contexts_can_be_asked_for(tmp_path):
    lines(tmp_path / "data" / "Age.jsonl", four(1) + four(2, first=4))
    (tmp_path / "results").mkdir()
    lines(tmp_path / "results" / "answers.jsonl", [{"answer": 1}])
    by_name = load_data("bbq", tmp_path)
    assert by_name == ml.load_bbq(tmp_path / "data")
    assert [one.id for one in by_name] == ["Age/0", "Age/2", "Age/4", "Age/6"]
    assert len(load_data("bbq", tmp_path, subset="both")) == 8
    apart = load_data("bbq", tmp_path / "data" / "Age.jsonl", subset="disambiguated")
    assert apart == ml.load_bbq(tmp_path / "data", context="disambiguated")
    assert load_data(tmp_path / "data", subset="disambiguated") == apart


def test_a_table_of_roles_beside_the_files_is_read_by_name_too(tmp_path):
    lines(tmp_path / "Age.jsonl", [bbq_row(0)])
    roles = [{"category": "Age", "example_id": 0, "target_loc": 0}]
    table(tmp_path / "additional_metadata.csv", roles)
    assert load_data("bbq", tmp_path)[0].biased == 0
    assert load_data("bbq", tmp_path) == ml.load_bbq(tmp_path)


def mirrored(context, question, answer, *, category="Age"):
    return {
        "context": context,
        "question": question,
        "choices": ["The baker", "Can't be determined", "The rower"],
        "answer": answer,
        "category": category,
    }


def test_a_mirror_with_choices_and_answer_gets_clusters_from_shared_questions_and_contexts(tmp_path):
    one, two = "A baker and a rower met.", "A rower and a baker met."
    rows = [
        mirrored(one, "Who forgot?", 1),
        mirrored(one, "Who knew?", 1),
        mirrored(one + " The baker forgot.", "Who forgot?", 0),
        mirrored(two, "Who knew?", 1),
        mirrored("Two people slept.", "Who woke?", 1),
        mirrored("Two people slept.", "Who woke?", 1, category="SES"),
    ]
    (tmp_path / "data").mkdir()
    pd.DataFrame(rows).to_parquet(tmp_path / "data" / "age-00000-of-00001.parquet")
    questions = load_data("bbq", tmp_path, subset="both")
    clusters = [q.cluster for q in questions]
    assert len(set(clusters[:4])) == 1
    assert len(set(clusters)) == 3
    assert [q.ambiguous for q in questions] == [True, True, False, True, True, True]
    assert [(q.unknown, q.label, q.biased) for q in questions[:3]] == [
        (1, 1, None),
        (1, 1, None),
        (1, 0, None),
    ]
    assert len({q.id for q in questions}) == 6
    assert [q.ambiguous for q in load_data(tmp_path / "data")] == [True] * 5
    rows[0]["choices"][1] = "Perhaps"
    pd.DataFrame(rows).to_parquet(tmp_path / "data" / "age-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="row 1: one option must say that the answer cannot be known"):
        load_data("bbq", tmp_path)


def test_a_mirror_whose_choices_are_a_text_is_read_and_files_of_mbbq_are_not_taken_for_bbq(tmp_path):
    row = mirrored("A baker and a rower met.", "Who forgot?", 1)
    plain = lines(tmp_path / "age.jsonl", [row])
    as_text = table(tmp_path / "age.csv", [row | {"choices": str(row["choices"])}])
    (question,) = load_data("bbq", as_text)
    assert question.options == ("The baker", "Can't be determined", "The rower")
    assert (question,) == load_data("bbq", plain) == load_data(as_text)
    assert (question.polarity, question.biased) == ("neg", None)
    assert "every item carries the polarity neg, which says nothing" in DATA_SETS["bbq"].quirks
    printed = table(tmp_path / "age.csv", [row | {"choices": "['The baker' 'Unknown' 'The rower']"}])
    with pytest.raises(ValueError, match="line 2: choices must be a list of texts"):
        load_data("bbq", printed)
    with pytest.raises(ValueError, match=r"line 1: a file of MBBQ by its name.*load_data\('mbbq', "):
        load_data("bbq", lines(tmp_path / "Age_es.jsonl", four()))


# ----------------------------------------------------------------------------------------------- MBBQ
@pytest.fixture
def mbbq(tmp_path):
    for language in ("en", "es", "nl", "tr"):
        lines(tmp_path / "data" / f"Age_{language}.jsonl", four(1) + four(2, first=4))
        lines(tmp_path / "data" / f"Age_control_{language}.jsonl", four(1))
    return tmp_path


def test_four_languages_are_one_folder_with_ids_by_language_and_clusters_across_them(mbbq):
    questions = load_data("MBBQ", mbbq)
    assert len({q.id for q in questions}) == len(questions) == 16
    assert questions[0].id == "en/Age/0"
    assert {q.cluster for q in questions} == {"Age/1", "Age/2"}
    assert {q.id.partition("/")[0] for q in load_data("mbbq", mbbq, language="ES")} == {"es"}
    assert {(q.polarity, q.biased, q.stereotyped) for q in questions} == {("neg", 2, 2), ("nonneg", 0, 2)}
    assert load_data(mbbq / "data" / "Age_es.jsonl") == load_data("mbbq", mbbq, language="es")


def test_control_files_are_left_out_unless_asked_for_and_no_answer_of_theirs_is_biased(mbbq):
    controls = load_data("mbbq", mbbq, subset="control both", language="nl")
    assert [q.id for q in controls] == [f"nl/control/Age/{k}" for k in range(4)]
    assert {(q.biased, q.stereotyped) for q in controls} == {(None, None)}
    assert not any("control" in q.id for q in load_data("mbbq", mbbq, subset="both"))


def test_compressed_files_byte_order_marks_and_windows_line_ends_are_read(tmp_path):
    plain = lines(tmp_path / "a" / "Age_en.jsonl", four())
    lines(tmp_path / "b" / "Age_en.jsonl.gz", four(), ending="\r\n", mark="\ufeff")
    assert load_data("mbbq", tmp_path / "b") == load_data("mbbq", plain)


def test_files_that_do_not_tell_their_language_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"Age\.jsonl, line 1: MBBQ tells its languages by its files' names"):
        load_data("mbbq", lines(tmp_path / "Age.jsonl", four()))


# -------------------------------------------------------------------------------------- EsBBQ and CaBBQ
def peninsular(number, *, polarity="neg", context="ambig", template=3):
    row = bbq_row(number, polarity=polarity, context=context)
    del row["example_id"], row["question_index"], row["additional_metadata"]
    return row | {
        "instance_id": number,
        "template_id": template,
        "version": "a",
        "stereotyped_groups": ["short"],
        "answer_info": {"ans0": ["alta", "tall"], "ans1": ["baja", "short"], "ans2": ["unknown", "unknown"]},
        "ans0": "La alta",
        "ans1": "La baja",
        "ans2": "unknown",
        "label": 2 if context == "ambig" else 0,
        "question_type": "n/a",
    }


def test_the_english_word_for_unknown_is_said_in_the_language(tmp_path):
    rows = [peninsular(0), peninsular(1, polarity="nonneg"), peninsular(2, context="disambig")]
    for folder in ("data_es", "data_ca"):
        lines(tmp_path / folder / "Age.full.jsonl", rows)
        table(tmp_path / folder / "Age.full.csv", [{"instance_id": 0}])
    spanish, catalan = load_data("esbbq", tmp_path), load_data("cabbq", tmp_path)
    assert [q.id for q in spanish + catalan] == ["es/Age/0", "es/Age/1", "ca/Age/0", "ca/Age/1"]
    assert [q.options[q.unknown] for q in spanish + catalan] == ["No se sabe"] * 2 + ["No se sap"] * 2
    assert {q.cluster for q in spanish + catalan} == {"Age/3"}
    assert [(q.biased, q.stereotyped) for q in spanish] == [(1, 1), (0, 1)]
    assert load_data(tmp_path / "data_ca") == catalan
    with pytest.raises(ValueError, match="EsBBQ and of CaBBQ, which do not tell them apart; say which"):
        load_data(lines(tmp_path / "Age.jsonl", rows))


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("data_es/Age.full.jsonl", "esbbq"),
        ("data_ca/Age.full.jsonl", "cabbq"),
        ("EsBBQ/test.jsonl", "esbbq"),
        ("BSC/CaBBQ-1.0/part/test.jsonl", "cabbq"),
        ("cabbq.jsonl", "cabbq"),
        ("EsBBQ-CaBBQ/test.jsonl", None),
        ("data_ca/EsBBQ/test.jsonl", "esbbq"),
    ],
)
def test_a_place_that_is_named_as_the_other_languages_is_refused(tmp_path, place, told):
    file = lines(tmp_path / place, [peninsular(0)])
    for name in ("esbbq", "cabbq"):
        for where in (tmp_path, file.parent, file):
            if told in (None, name):
                assert len(load_data(name, where)) == 1
            else:
                message = rf"line 1: by its place a row of {told}, not of {name}"
                with pytest.raises(ValueError, match=message):
                    load_data(name, where)


def test_the_other_languages_name_on_the_hub_is_refused(monkeypatch):
    def rows(name):
        yield Row(cells=peninsular(0), where=f"{name}, Age, test, row 1", origin="Age/test", number=1)

    monkeypatch.setattr("morality_lens.items.data.rows_of_hub", rows)
    assert len(load_data("esbbq", "BSC-LT/EsBBQ")) == 1
    with pytest.raises(ValueError, match="BSC-LT/EsBBQ, Age, test, row 1: by its place a row of esbbq"):
        load_data("cabbq", "BSC-LT/EsBBQ")


def test_stereotyped_groups_that_are_a_text_are_read(tmp_path):
    rows = [peninsular(k) | {"stereotyped_groups": text} for k, text in enumerate(("['short']", "short"))]
    assert [q.biased for q in load_data("esbbq", lines(tmp_path / "a.jsonl", rows))] == [1, 1]


# ---------------------------------------------------------------------------------------------- KoBBQ
def korean(name, answer, *, biased="나무", choices="['나무', '바위', '알 수 없음']"):
    return {
        "sample_id": name,
        "label_annotation": "NC",
        "context": "나무와 바위가 있었습니다.",
        "question": "무엇이 컸습니까?",
        "choices": choices,
        "biased_answer": biased,
        "answer": answer,
        "bbq_id": "",
        "bbq_category": "",
        "prediction": "",
    }


def test_the_korean_table_gives_choices_roles_and_templates(tmp_path):
    rows = [
        korean("age-001a-002-amb-bsd", "알 수 없음"),
        korean("age-001b-002-amb-cnt", "알 수 없음", biased="바위"),
        korean("age-002a-002-dis-bsd", "바위"),
    ]
    file = table(tmp_path / "data" / "KoBBQ_test_samples.tsv", rows)
    questions = load_data("kobbq", tmp_path, subset="both")
    assert [q.cluster for q in questions] == ["age-001", "age-001", "age-002"]
    assert [(q.unknown, q.label, q.biased, q.stereotyped) for q in questions] == [
        (2, 2, 0, 0),
        (2, 2, 1, 0),
        (2, 1, 0, 0),
    ]
    assert [q.polarity for q in questions] == ["neg", "nonneg", "neg"]
    assert load_data(file) == questions[:2]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (korean("age-1", "나무"), "sample_id must be as in age-001a-002-amb-bsd"),
        (korean("age-001a-002-amb-bsd", "나무"), "the answer of an ambiguous row must be '알 수 없음'"),
        (korean("age-001a-002-amb-bsd", "구름"), "answer must be one of the choices"),
        (korean("age-001a-002-amb-bsd", "나무", choices="나무, 바위"), "choices must be a list of texts"),
        (korean("age-001a-002-amb-bsd", "나무", choices="['나무', '바위']"), "choices must be three"),
    ],
)
def test_a_faulty_korean_row_is_refused_with_its_line(tmp_path, row, message):
    with pytest.raises(ValueError, match=rf"samples\.tsv, line 2: {message}"):
        load_data("kobbq", table(tmp_path / "KoBBQ_test_samples.tsv", [row]))


# ----------------------------------------------------------------------------------------------- CBBQ
def chinese(number, condition, label, *, polarity="neg"):
    return {
        "example_id": str(number),
        "question_index": "1",
        "question_polarity": polarity,
        "context_condition": condition,
        "category": "age",
        "subcategory": "日常",
        "bias_targeted_groups": "高的人",
        "source": "无",
        "context": "两个人相遇了。",
        "question": "谁忘了钥匙",
        "ans0": "高的人",
        "ans1": "矮的人",
        "ans2": "不确定",
        "label": str(label),
    }


def test_the_chinese_arrays_with_a_byte_order_mark_are_read_and_leave_the_bias_open(tmp_path):
    for condition, label in (("ambiguous", 2), ("disambiguous", 1)):
        rows = [chinese(1, condition, label), chinese(2, condition, label, polarity="non_neg")]
        file = tmp_path / "data" / "age" / condition / f"{condition}.json"
        file.parent.mkdir(parents=True)
        file.write_text("\ufeff" + json.dumps(rows, ensure_ascii=False), encoding="utf-8")
        table(file.with_suffix(".csv"), rows[:1])  # the same in another format: one of them is read
        table(file.parent / "templates_generate_neg.csv", [{"template": 1}])
    questions = load_data("cbbq", tmp_path, subset="both")
    assert [q.id for q in questions] == [
        *("age/ambiguous/1", "age/ambiguous/2", "age/disambiguated/1", "age/disambiguated/2"),
    ]
    assert {q.cluster for q in questions} == {"age/1"}
    assert [(q.unknown, q.label, q.biased) for q in questions] == [(2, 2, None)] * 2 + [(2, 1, None)] * 2
    assert [q.polarity for q in questions] == ["neg", "nonneg"] * 2
    assert load_data(tmp_path / "data" / "age" / "ambiguous") == questions[:2]


@pytest.mark.parametrize(("condition", "label"), [("ambiguous", 0), ("disambiguous", 2)])
def test_a_chinese_answer_that_contradicts_its_context_is_refused(tmp_path, condition, label):
    with pytest.raises(ValueError, match="line 1: in CBBQ the answer is ans2"):
        load_data("cbbq", lines(tmp_path / "ambiguous.json", [chinese(1, condition, label)]))


# -------------------------------------------------------------------------------- Winogender and WinoBias
def test_one_sentence_of_each_occupation_asks_for_the_pronoun(tmp_path):
    told = [
        ("baker.guest.0.male.txt", "The baker told the guest that he had left."),
        ("baker.guest.0.female.txt", "The baker told the guest that she had left."),
        ("baker.guest.1.male.txt", "The baker told the guest that he could sit."),
        ("baker.someone.0.male.txt", "The baker told someone that he had left."),
        ("rower.guest.0.male.txt", "The rower gave the guest his oar."),
    ]
    file = table(tmp_path / "data" / "all_sentences.tsv", [{"sentid": a, "sentence": b} for a, b in told])
    stats = [
        {"occupation": "baker", "bergsma_pct_female": 1, "bls_pct_female": 60.2, "bls_year": 2015},
        {"occupation": "rower", "bergsma_pct_female": 1, "bls_pct_female": 3.1, "bls_year": 2015},
    ]
    baker, rower = load_data("winogender", file)
    assert (baker.biased, baker.category) == (None, "")
    table(file.parent / "occupations-stats.tsv", stats)
    baker, rower = load_data("winogender", tmp_path)
    assert baker.context == "The baker told the guest that ___ had left."
    assert (baker.options, rower.options) == (("she", "he", "they"), ("her", "his", "their"))
    assert [(q.id, q.cluster, q.label, q.unknown) for q in (baker, rower)] == [
        ("baker/guest", "baker", None, None),
        ("rower/guest", "rower", None, None),
    ]
    assert [(q.biased, q.category) for q in (baker, rower)] == [(0, "mostly women"), (1, "mostly men")]
    table(file.parent / "occupations-stats.tsv", [one | {"occupation": "Baker"} for one in stats[:1]])
    assert load_data("winogender", tmp_path)[0].biased == 0
    refuse_unplayable((baker, rower))


@pytest.mark.parametrize(
    ("name", "sentence", "message"),
    [
        ("baker.male", "He left.", "sentid must be as in"),
        ("baker.guest.0.male.txt", "The baker left.", "must have it once"),
    ],
)
def test_a_faulty_sentence_is_refused_with_its_line(tmp_path, name, sentence, message):
    file = table(tmp_path / "all_sentences.tsv", [{"sentid": name, "sentence": sentence}])
    with pytest.raises(ValueError, match=rf"line 2: .*{message}"):
        load_data("winogender", file)


PRO = """[The baker] met the rower because [she] was free.
The baker met [the rower] because of [his] boat.
1 [The baker] helped the rower to find [her] 's oar.
[The baker] asked the rower if [she] could have [her] oar.
[The baker] stands in one file because [she] can.
"""
ANTI = """[The baker] met the rower because [he] was free.
The baker met [the rower] because of [her] boat.
1 [The baker] helped the rower to find [him] 's oar.
[The baker] asked the rower if [he] could have [his] oar.
"""


def test_sentences_of_both_files_ask_for_the_pronoun_in_the_form_that_their_pair_tells(tmp_path):
    folder = tmp_path / "wino" / "data"
    (folder / ".ipynb_checkpoints").mkdir(parents=True)
    for name, text in (("pro", PRO), ("anti", ANTI)):
        (folder / f"{name}_stereotyped_type1.txt.dev").write_text(text)
        (folder / ".ipynb_checkpoints" / f"{name}_stereotyped_type1.txt.dev").write_text("An old draft.")
    one, two, three = load_data("winobias", tmp_path)
    assert one.context == "The baker met the rower because ___ was free."
    assert [q.id for q in (one, two, three)] == ["type1/dev/1", "type1/dev/2", "type1/dev/3"]
    assert [q.cluster for q in (one, two, three)] == ["baker", "rower", "baker"]
    assert [q.options for q in (one, two, three)] == [
        ("she", "he", "they"),
        ("her", "his", "their"),
        ("her", "him", "them"),
    ]
    assert [q.biased for q in (one, two, three)] == [0, 1, 0]
    zipped = tmp_path / "zipped"
    zipped.mkdir()
    for file in folder.glob("*.dev"):
        (zipped / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
    assert load_data("winobias", zipped) == (one, two, three)
    shutil.rmtree(zipped)
    with pytest.raises(ValueError, match="give the folder with both"):
        load_data("winobias", folder / "pro_stereotyped_type1.txt.dev")
    bad = folder / "pro_stereotyped_type2.txt.dev"
    bad.write_text("\nThe baker met her.\n")
    with pytest.raises(ValueError, match=r"type2\.txt\.dev, line 2: .*in brackets"):
        load_data("winobias", tmp_path)


# ------------------------------------------------------------------------------------------- decisions
def scenario(name, ambiguity):
    return {
        "scenario_id": name,
        "ambiguity": ambiguity,
        "generation_type": "Generated",
        "generation_rule": "Do not cheat",
        "context": "You sell bread, a loaf is light.",
        "action1": "I say so.",
        "action2": "I say nothing.",
        "a1_cheat": "No",
    }


def test_scenarios_have_a_right_action_only_where_the_ambiguity_is_low(tmp_path):
    table(tmp_path / "moralchoice_low_ambiguity.csv", [scenario("C_001", "low"), scenario("C_002", "low")])
    table(tmp_path / "moralchoice_high_ambiguity.csv", [scenario("C_001", "high")])
    low, high = load_data("moralchoice", tmp_path), load_data("moralchoice", tmp_path, subset="high")
    assert [(q.id, q.cluster, q.label, q.unknown) for q in low] == [
        ("low/C_001", "low/C_001", 0, None),
        ("low/C_002", "low/C_002", 0, None),
    ]
    assert [(q.id, q.label, q.unknown) for q in high] == [("high/C_001", None, None)]
    assert low[0].options == ("I say so.", "I say nothing.")
    assert load_data(tmp_path / "moralchoice_low_ambiguity.csv") == low
    bad = scenario("C_003", "middling")
    with pytest.raises(ValueError, match="line 2: ambiguity must be one of"):
        load_data("moralchoice", table(tmp_path / "moralchoice_low_ambiguity.csv", [bad]))


def test_stories_ask_for_the_action_and_keep_the_norm_to_themselves(tmp_path):
    story = {
        "ID": "a1",
        "norm": "It is good to return what was lent.",
        "situation": "A baker lent a rower a pan.",
        "intention": "The rower wants to cook.",
        "moral_action": "The rower brings the pan back.",
        "moral_consequence": "The baker is glad.",
        "immoral_action": "The rower sells the pan.",
        "immoral_consequence": "The baker is sad.",
    }
    file = lines(tmp_path / "moral_stories_full.jsonl", [story, story | {"ID": "a2"}])
    one, two = load_data("moral-stories", tmp_path)
    assert one.cluster == two.cluster == story["norm"]
    assert story["norm"] not in one.format_prompt("{text}")
    assert (one.options[one.label], one.unknown) == (story["moral_action"], None)
    assert load_data(file) == (one, two)
    with pytest.raises(ValueError, match="line 1: a story needs its moral and its immoral action"):
        load_data("moral-stories", lines(file, [story | {"immoral_action": None}]))


def test_decisions_about_persons_share_their_cluster_and_split_off_the_question(tmp_path):
    def decision(number, age, text="The person bakes. Should the oven be lent?"):
        person = {"age": age, "gender": "female", "race": "any"}
        return {"filled_template": text, "decision_question_id": number, **person}

    lines(tmp_path / "explicit.jsonl", [decision(1, 20), decision(1, 30), decision(2, 20)])
    lines(tmp_path / "implicit.jsonl", [decision(1, 20), decision(1, 20)])
    shown = load_data("discrim-eval", tmp_path)
    assert [q.cluster for q in shown] == ["decision 1", "decision 1", "decision 2"]
    assert shown[0].id == "explicit/1/female/any/20"
    assert (shown[0].context, shown[0].question) == ("The person bakes.", "Should the oven be lent?")
    assert (shown[0].options, shown[0].label, shown[0].unknown) == (("Yes", "No"), None, None)
    hidden = load_data("discrim-eval", tmp_path, subset="implicit")
    assert [q.id for q in hidden] == ["implicit/1/female/any/20", "implicit/1/female/any/20/2"]
    assert load_data(tmp_path / "explicit.jsonl") == shown
    with pytest.raises(ValueError, match="line 1: rows do not tell whether they are explicit or implicit"):
        load_data("discrim-eval", lines(tmp_path / "rows.jsonl", [decision(1, 20)]))
    with pytest.raises(ValueError, match="line 1: filled_template must end in a question"):
        load_data("discrim-eval", lines(tmp_path / "explicit.jsonl", [decision(1, 20, "Lend it.")]))


# ---------------------------------------------------------------------------------------------- ETHICS
@pytest.fixture
def ethics(tmp_path):
    sure = {"is_short": "True", "edited": "False"}
    rows = [
        {"label": 1, "input": "I kept the purse.", **sure},
        {"label": 0, "input": "I gave it back.", **sure},
    ]
    table(tmp_path / "commonsense" / "cm_test.csv", rows)
    table(tmp_path / "commonsense" / "cm_ambig.csv", [{"input": "I looked away."}])
    bread = "I usually bring the baker flour, but I did not today because"
    told = [
        (1, f"{bread} the mill is shut."),
        (0, f"{bread} the sky is blue."),
        (1, "I used to row at noon."),
    ]
    table(tmp_path / "justice" / "justice_test.csv", [{"label": a, "scenario": b} for a, b in told])
    duty = {"label": 1, "scenario": "Could you row the boat?", "excuse": "But it has no oars."}
    table(
        tmp_path / "deontology" / "deontology_train.csv",
        [duty, duty | {"label": 0, "excuse": "But it is red."}],
    )
    trait = [(1, "Ann shared her bread. [SEP] generous"), (0, "Ann shared her bread. [SEP] greedy")]
    table(tmp_path / "virtue" / "virtue_test.csv", [{"label": a, "scenario": b} for a, b in trait])
    pairs = tmp_path / "utilitarianism" / "util_test.csv"
    pairs.parent.mkdir()
    pairs.write_text('I found bread.,"I found bread, and it was old."\nI slept.,I woke.\n', encoding="utf-8")
    return tmp_path


def test_in_commonsense_one_means_wrong_and_the_label_is_turned(ethics):
    wrong, right = load_data("ethics", ethics)
    assert (wrong.text, wrong.label) == ("I kept the purse.", 0)
    assert (right.text, right.label) == ("I gave it back.", 1)
    assert wrong.cluster != right.cluster
    file = ethics / "commonsense" / "cm_test.csv"
    assert [one.label for one in load_data(file)] == [0, 1]
    assert [one.label for one in ml.load_statements(file)] == [0, 1]


def test_the_other_parts_keep_their_labels_and_have_clusters_of_their_own(ethics):
    justice = load_data("ethics", ethics, subset="justice")
    assert [one.label for one in justice] == [1, 0, 1]
    assert justice[0].cluster == justice[1].cluster != justice[2].cluster
    duties = load_data("ethics", ethics, subset="deontology")
    assert [(one.text, one.label) for one in duties] == [
        ("Could you row the boat? But it has no oars.", 1),
        ("Could you row the boat? But it is red.", 0),
    ]
    assert len({one.cluster for one in duties}) == 1
    traits = load_data("ethics", ethics, subset="virtue")
    assert [(one.text, one.label) for one in traits] == [
        ("Ann shared her bread. Trait: generous", 1),
        ("Ann shared her bread. Trait: greedy", 0),
    ]
    assert {one.cluster for one in traits} == {"Ann shared her bread."}


def test_of_a_pair_the_first_scenario_is_the_more_pleasant_one(ethics):
    pairs = load_data("ethics", ethics, subset="utilitarianism")
    assert [one.label for one in pairs] == [1, 0, 1, 0]
    assert pairs[1].text == "I found bread, and it was old."
    assert [one.cluster for one in pairs] == [pairs[0].cluster] * 2 + [pairs[2].cluster] * 2
    assert len({one.id for one in pairs}) == 4
    file = ethics / "utilitarianism" / "util_test.csv"
    whole = file.read_bytes()
    for data in (b"\xff" + whole, b"\0" * 5 + gzip.compress(whole)):
        bad = file.with_name("util_test.csv" if data[0] else "util_test.csv.gz")
        bad.write_bytes(data)
        with pytest.raises(ValueError, match=rf"{bad.name} is damaged or no (?:CSV|gzip) file"):
            load_data("ethics", bad, subset="utilitarianism")
    bad.unlink()
    file.write_bytes(whole)
    file.write_text(file.read_text(encoding="utf-8").replace("\nI slept", "\n\n , \nI slept") + "\n")
    assert [one.text for one in load_data("ethics", file, subset="utilitarianism")] == [p.text for p in pairs]
    bad = ethics / "utilitarianism" / "util_test.csv"
    bad.write_text("one,two\none,two,three\n")
    with pytest.raises(ValueError, match=r"util_test\.csv, line 2: .*two scenarios.*got 3 cells"):
        load_data("ethics", ethics, subset="utilitarianism")


def test_a_folder_without_the_subset_names_those_that_are_there(ethics):
    for name in ("cm_test.csv", "cm_ambig.csv"):
        (ethics / "commonsense" / name).unlink()
    (ethics / "justice" / "justice_test.csv").unlink()
    message = "'commonsense' of ETHICS; of its subsets it has 'deontology', 'virtue', 'utilitarianism'"
    with pytest.raises(ValueError, match=message):
        load_data("ethics", ethics)


def test_a_label_beside_zero_and_one_or_a_trait_without_its_mark_is_refused(ethics):
    file = ethics / "virtue" / "virtue_test.csv"
    with pytest.raises(ValueError, match=r"line 2: a row of the virtues is a scenario, \[SEP\] and a trait"):
        load_data("ethics", table(file, [{"label": 1, "scenario": "Ann ate."}]), subset="virtue")
    with pytest.raises(ValueError, match="line 2: label must be one of"):
        load_data("ethics", table(file, [{"label": 2, "scenario": "Ann ate. [SEP] calm"}]), subset="virtue")


def test_statements_are_drawn_over_both_labels(ethics):
    scenarios = [(k % 3 == 0, f"Ann baked. [SEP] trait {k}") for k in range(30)]
    rows = [{"label": int(fits), "scenario": text} for fits, text in scenarios]
    table(ethics / "virtue" / "virtue_test.csv", rows)
    for seed in range(5):
        drawn = load_data("ethics", ethics, subset="virtue", limit=2, seed=seed)
        assert {one.label for one in drawn} == {0, 1}


def test_judged_actions_leave_out_what_was_not_judged(tmp_path):
    def rule(number, judgment, *, bad=0, action="lending a pan"):
        return {
            "rot-id": f"rot/{number}",
            "situation-short-id": "story/1",
            "rot-bad": bad,
            "action": action,
            "action-moral-judgment": judgment,
            "rot": "It is good to lend a pan.",
        }

    rows = [rule(1, "2.0"), rule(2, -1), rule(3, 0), rule(4, ""), rule(5, 1, bad=1), rule(6, 1, action="")]
    file = table(tmp_path / "social-chem-101.v1.0.tsv", rows)
    good, ill = load_data("social-chem-101", tmp_path)
    assert [(one.label, one.value, one.text) for one in (good, ill)] == [
        (1, 2.0, "lending a pan"),
        (0, -1.0, "lending a pan"),
    ]
    assert good.cluster == ill.cluster == "story/1"
    assert load_data(file) == (good, ill)
    with pytest.raises(ValueError, match="line 2: action-moral-judgment must be a whole number; got 'good'"):
        load_data("social-chem-101", table(file, [rule(1, "good")]))


def test_vignettes_are_rated_from_zero_to_four(tmp_path):
    rows = [{"Foundation": "Fairness", "Scenario": "You see a boy take two loaves and pay for one."}]
    (rating,) = load_data("moral-foundations-vignettes", table(tmp_path / "mine.csv", rows))
    assert isinstance(rating, Rating)
    assert (rating.low, rating.high, rating.category) == (0, 4, "Fairness")
    assert load_data(tmp_path) == (rating,)


# -------------------------------------------------------------------------------------- open prompts
def test_translated_prompts_have_ids_by_language_and_share_their_number(tmp_path):
    def prompt(locale, number, toxicity):
        notes = {"Toxicity": toxicity, "Insult": 1.0}
        return {
            "Prompt": "Elke morgen",
            "Index": number,
            "Locale": locale,
            "Dialect": "",
            "Annotations": notes,
        }

    lines(tmp_path / "RTP-LX" / "RTP_LX_NL.json", [prompt("NL", 0, 1.0), prompt("NL", 1, 3.0)])
    lines(tmp_path / "RTP-LX" / "RTP_LX_ZH-Hans.json", [prompt("ZH-Hans", 0, 5.0)])
    prompts = load_data("rtp-lx", tmp_path)
    assert [p.id for p in prompts] == ["NL/0", "NL/1", "ZH-Hans/0"]
    assert [p.toxicity for p in prompts] == [0, 0.5, 1]
    assert prompts[0].cluster == prompts[2].cluster != prompts[1].cluster
    assert [p.id for p in load_data("rtp-lx", tmp_path, language="zh")] == ["ZH-Hans/0"]
    assert load_data(tmp_path / "RTP-LX" / "RTP_LX_NL.json") == prompts[:2]
    bad = lines(tmp_path / "RTP_LX_NL.json", [prompt("NL", 0, "much")])
    with pytest.raises(ValueError, match="line 1: the toxicity must be a number; got 'much'"):
        load_data("rtp-lx", bad)


def test_scraped_prompts_have_the_toxicity_of_the_prompt_alone_and_share_their_page(tmp_path):
    def scraped(language, url, score):
        summary = {"attributeScores": {"TOXICITY": {"summaryScore": {"value": score}}}}
        return {
            "prompt": "Every morning",
            "continuation": " the baker",
            "toxicity": 0.9,
            "toxicity_bucket": 3,
            "meta_data": {"lang": language, "url": url},
            "prompt_perspective": summary,
        }

    wild = {"prompt": "Hello", "prompt_toxicity": 0.2, "toxicity_bucket": 0, "meta_data": {"lang": "en"}}
    page = "https://example.org/bread"
    rows = [scraped("en", page, 0.25), scraped("en", page, 0.5), scraped("de", None, 0.1), wild]
    file = lines(tmp_path / "ptp.jsonl", rows)
    prompts = load_data("polyglo-toxicity-prompts", file)
    assert all(isinstance(p, OpenPrompt) for p in prompts)
    assert [p.toxicity for p in prompts] == [0.25, 0.5, 0.1, 0.2]
    assert prompts[0].cluster == prompts[1].cluster == page
    assert len({p.cluster for p in prompts}) == 3
    assert len(load_data("polyglo-toxicity-prompts", file, language="de")) == 1
    assert load_data(file) == prompts
    blank = [row | {"prompt": prompt} for row, prompt in zip(rows, ("", "a", " ", None), strict=True)]
    with pytest.warns(UserWarning, match=r"without a prompt are left out: 3 of them.*line 1"):
        (only,) = load_data("polyglo-toxicity-prompts", lines(file, blank))
    assert only.text == "a"
    with (
        pytest.warns(UserWarning, match="1 of them"),
        pytest.raises(ValueError, match="has no item of the subset 'all'"),
    ):
        load_data("polyglo-toxicity-prompts", lines(file, blank[:1]))
    with pytest.raises(ValueError, match="line 1: meta_data must be an object with the language"):
        load_data("polyglo-toxicity-prompts", lines(file, [wild | {"meta_data": {}}]))


# --------------------------------------------------------------------------------------------- the hub
def test_names_on_a_hub_are_told_from_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_on_hub("owner/name")
    assert is_on_hub("owner/name:part")
    assert not is_on_hub("name")
    assert not is_on_hub("./name")
    assert not is_on_hub(Path("owner/name"))
    (tmp_path / "owner").mkdir()
    assert not is_on_hub("owner/name")


def test_a_hub_without_the_extra_says_which_one_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"owner/name from a hub needs.*morality-lens\[datasets\]"):
        load_data("bbq", "owner/name")


def test_a_data_set_laid_out_as_on_the_hub_is_read_like_its_files(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    folder = tmp_path / "set"
    rows = four(1) + four(2, first=4)
    for name in ("Age_en", "Age_es"):
        lines(folder / name / "test.jsonl", rows)
    card = "---\nconfigs:\n" + "".join(
        f"- config_name: {name}\n  data_files:\n  - split: test\n    path: {name}/test.jsonl\n"
        for name in ("Age_en", "Age_es")
    )
    (folder / "README.md").write_text(card + "---\n")
    read = list(rows_of_hub(str(folder)))
    assert [row.origin for row in read] == ["Age_en/test"] * 8 + ["Age_es/test"] * 8
    assert read[0].cells == rows[0]
    assert len(list(rows_of_hub(f"{folder}:Age_es"))) == 8
    plain = tmp_path / "plain"
    for language in ("en", "es"):
        lines(plain / f"Age_{language}.jsonl", rows)
    monkeypatch.setattr("morality_lens.items.data.rows_of_hub", lambda name: rows_of_hub(str(folder)))
    assert load_data("mbbq", "owner/name") == load_data("mbbq", plain)
    with pytest.raises(ValueError, match="could not be read from the hub"):
        list(rows_of_hub(f"{folder}:Age_tr"))


# ------------------------------------------------------------------------------------- what they become
def test_a_data_set_becomes_the_kind_that_the_table_says(mbbq, ethics):
    kinds = {"questions": Question, "statements": Statement}
    for name, place in (("mbbq", mbbq / "data"), ("ethics", ethics)):
        assert all(isinstance(one, kinds[DATA_SETS[name].kind]) for one in load_data(name, place))


def test_a_smaller_draw_is_part_of_a_larger_one_and_spread_over_templates(mbbq):
    two, four_drawn = (load_data("mbbq", mbbq, limit=n, seed=1) for n in (2, 4))
    assert {q.cluster for q in two} == {"Age/1", "Age/2"}
    assert set(two) <= set(four_drawn)
