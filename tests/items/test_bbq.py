"""BBQ's rows as questions: on rows in its schema made here, and on the real files where they are."""

import csv
import gzip
import inspect
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from morality_lens.items.bbq import load_bbq
from morality_lens.items.files import columns_of, read_rows

DATA = Path(__file__).parents[3] / "shared" / "data" / "bbq"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the real BBQ files are not at ../shared/data/bbq")


def row(example=0, *, template=1, polarity="neg", context="ambig", category="Age", **changes):
    made = {
        "example_id": example,
        "question_index": str(template),
        "question_polarity": polarity,
        "context_condition": context,
        "category": category,
        "answer_info": {
            "ans0": ["the baker", "nonOld"],
            "ans1": ["Not known", "unknown"],
            "ans2": ["the rower", "old"],
        },
        "additional_metadata": {"subcategory": "None", "stereotyped_groups": ["old"]},
        "context": "A baker and a rower met.",
        "question": "Who forgot the key?",
        "ans0": "The baker",
        "ans1": "Not known",
        "ans2": "The rower",
        "label": 1 if context == "ambig" else 0,
    }
    return {**made, **changes}


def save(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def save_roles(path, header, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def test_a_row_becomes_a_question_with_ids_that_hold_over_categories(tmp_path):
    save(tmp_path / "a.jsonl", [row(0), row(2, polarity="nonneg")])
    save(tmp_path / "b.jsonl", [row(0, category="SES", template=4)])
    questions = load_bbq(tmp_path)
    assert [q.id for q in questions] == ["Age/0", "Age/2", "SES/0"]
    assert [q.cluster for q in questions] == ["Age/1", "Age/1", "SES/4"]
    assert questions[0].options == ("The baker", "Not known", "The rower")
    assert [(q.unknown, q.label, q.ambiguous) for q in questions] == [(1, 1, True)] * 3


def test_the_biased_option_turns_with_the_polarity_and_old_is_not_found_in_non_old(tmp_path):
    questions = load_bbq(save(tmp_path / "a.jsonl", [row(0), row(1, polarity="nonneg")]))
    assert [(q.biased, q.stereotyped) for q in questions] == [(2, 2), (0, 2)]


@pytest.mark.parametrize(
    ("groups", "biased"),
    [
        (["Old"], 2),
        (["the rower"], 2),
        (["o l d"], 2),
        (["older"], None),
        (["old", "nonOld"], None),
        ([], None),
    ],
)
def test_the_group_is_matched_by_its_exact_name_or_not_at_all(tmp_path, groups, biased):
    made = row(0, additional_metadata={"stereotyped_groups": groups})
    assert load_bbq(save(tmp_path / "a.jsonl", [made]))[0].biased == biased


@pytest.mark.parametrize(
    ("groups", "biased"),
    [
        ("trans_F", 2),
        ("['trans_F']", 2),
        ('["trans_F"]', 2),
        (" Trans F ", 2),
        ("['F']", 0),
        ("F", 0),
        ("[]", None),
        ("", None),
        (None, None),
        ("['F', 'trans_F']", None),
    ],
)
def test_groups_that_are_a_text_are_a_list_or_one_name_and_never_letters(tmp_path, groups, biased):
    tags = {"ans0": ["Ann", "F"], "ans1": ["Not known", "unknown"], "ans2": ["Bea", "trans_F"]}
    made = row(0, answer_info=tags, additional_metadata={"stereotyped_groups": groups})
    as_texts = made | {name: str(made[name]) for name in ("answer_info", "additional_metadata")}
    for one in (made, as_texts):
        assert load_bbq(save(tmp_path / "a.jsonl", [one]))[0].biased == biased


def test_metadata_that_are_null_or_absent_name_no_group(tmp_path):
    null, absent = row(0, additional_metadata=None), row(1)
    del absent["additional_metadata"]
    assert [q.biased for q in load_bbq(save(tmp_path / "a.jsonl", [null, absent]))] == [None, None]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"additional_metadata": ["old"]}, r"must be an object with stereotyped_groups; got \['old'\]"),
        ({"additional_metadata": {"stereotyped_groups": 5}}, "stereotyped_groups must be a list of texts"),
        (
            {"additional_metadata": {"stereotyped_groups": "['F' 'trans_F']"}},
            "stereotyped_groups must be a list of texts",
        ),
        ({"additional_metadata": {"stereotyped_groups": "['old'"}}, "stereotyped_groups must be a list"),
        ({"answer_info": None}, r"answer_info must be an object with the keys .*got None"),
        (
            {"answer_info": {f"ans{k}": "old" for k in range(3)}},
            "answer_info of ans0 must be a list of texts",
        ),
    ],
)
def test_metadata_of_another_kind_are_refused_with_what_was_needed(tmp_path, change, message):
    with pytest.raises(ValueError, match=rf"a\.jsonl, line 1: .*{message}"):
        load_bbq(save(tmp_path / "a.jsonl", [row(0, **change)]))


def test_a_label_may_be_a_whole_number_as_text(tmp_path):
    rows = [row(0, label="1"), row(1, label="1.0"), row(2, label="2", context_condition="disambig")]
    assert [q.label for q in load_bbq(save(tmp_path / "a.jsonl", rows), context="both")] == [1, 1, 2]
    with pytest.raises(ValueError, match="line 1: the label of an ambiguous row must be"):
        load_bbq(save(tmp_path / "a.jsonl", [row(0, label="1.5")]))


@pytest.mark.parametrize("damage", ["no gzip", "cut", "changed"])
def test_a_damaged_compressed_file_is_refused_by_name(tmp_path, damage):
    whole = gzip.compress(json.dumps(row(0)).encode() * 50)
    data = {"no gzip": b"not compressed", "cut": whole[:-20], "changed": whole[:-8] + b"12345678"}[damage]
    for name in ("a.jsonl.gz", "a.json.gz", "a.csv.gz"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=rf"{name} is damaged or no gzip file .*give another copy"):
            list(read_rows(tmp_path / name))
        if name.endswith("csv.gz"):
            with pytest.raises(ValueError, match=rf"{name} is damaged or no gzip file"):
                columns_of(tmp_path / name)


def test_filters_keep_what_they_name(tmp_path):
    rows = [
        row(k, polarity=polarity, context=context)
        for k, (polarity, context) in enumerate(
            (p, c) for p in ("neg", "nonneg") for c in ("ambig", "disambig")
        )
    ]
    save(tmp_path / "a.jsonl", [*rows, *({**r, "category": "SES"} for r in rows)])
    assert len(load_bbq(tmp_path)) == 4
    assert len(load_bbq(tmp_path, context="both")) == 8
    assert all(not q.ambiguous for q in load_bbq(tmp_path, context="disambiguated"))
    only = load_bbq(tmp_path, categories=["SES"], context="both", polarity="nonneg")
    assert [(q.category, q.polarity) for q in only] == [("SES", "nonneg")] * 2
    with pytest.raises(ValueError, match=r"no rows of \['Religion'\].*it has \['Age', 'SES'\]"):
        load_bbq(tmp_path, categories=["Religion"])


def test_filters_that_leave_nothing_are_refused(tmp_path):
    with pytest.raises(ValueError, match="has no row with context='disambiguated'"):
        load_bbq(save(tmp_path / "a.jsonl", [row(0)]), context="disambiguated")


def test_a_table_of_roles_beside_the_files_is_read_in_both_forms(tmp_path):
    nameless = {"additional_metadata": {"stereotyped_groups": ["somebody"]}}
    save(
        tmp_path / "a.jsonl", [row(0, **nameless), row(1, polarity="nonneg", **nameless), row(2, **nameless)]
    )
    official = tmp_path / "additional_metadata.csv"
    save_roles(
        official,
        ["category", "question_index", "example_id", "target_loc"],
        [["Age", 1, 0, 2], ["Age", 1, 1, 0]],
    )
    assert [(q.biased, q.stereotyped) for q in load_bbq(tmp_path)] == [(2, 2), (0, 2), (None, None)]
    header = ["category", "example_id", "target_loc", "stereotyped_group_loc"]
    save_roles(
        tmp_path / "answer_roles.csv",
        header,
        [["Age", 0, "0.0", "0.0"], ["Age", 1, "", "0.0"], ["Age", 2, "NA", "x"]],
    )
    assert [(q.biased, q.stereotyped) for q in load_bbq(tmp_path)] == [(0, 0), (2, 0), (None, None)]
    assert [q.biased for q in load_bbq(tmp_path, roles=official)] == [2, 0, None]
    with pytest.raises(FileNotFoundError, match=r"roles\.csv does not exist"):
        load_bbq(tmp_path, roles=tmp_path / "roles.csv")


def test_a_table_that_says_two_things_of_a_row_says_nothing(tmp_path):
    save(tmp_path / "a.jsonl", [row(k, additional_metadata={}) for k in range(2)])
    rows = [["Age", 0, 0], ["Age", 0, 2], ["Age", 1, 2], ["Age", 1, 2]]
    save_roles(tmp_path / "answer_roles.csv", ["category", "example_id", "target_loc"], rows)
    assert [q.biased for q in load_bbq(tmp_path)] == [None, 2]


def test_a_table_that_names_the_stereotyped_group_instead_of_the_biased_answer_is_refused(tmp_path):
    save(tmp_path / "a.jsonl", [row(k, polarity=("neg", "nonneg")[k % 2]) for k in range(6)])
    save_roles(
        tmp_path / "answer_roles.csv",
        ["category", "example_id", "target_loc"],
        [["Age", k, 2] for k in range(6)],
    )
    with pytest.raises(ValueError, match="target_loc in the table of roles is not the biased answer"):
        load_bbq(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"answer_info": {f"ans{k}": ["x", "y"] for k in range(3)}},
            "exactly one answer must have the tag 'unknown'",
        ),
        ({"answer_info": {"ans0": ["x", "unknown"]}}, "answer_info or additional_metadata is not as in BBQ"),
        ({"label": 3}, "the label of an ambiguous row must be the unknown answer"),
        ({"label": 3, "context_condition": "disambig"}, "label must be an index from 0 to 2"),
        (
            {"question_polarity": "positive"},
            "unknown context_condition 'ambig' or question_polarity 'positive'",
        ),
        ({"question": 5}, "question: Input should be a valid string"),
    ],
)
def test_a_malformed_row_is_refused_with_file_and_line(tmp_path, change, message):
    with pytest.raises(ValueError, match=rf"a\.jsonl, line 2: .*{message}"):
        load_bbq(save(tmp_path / "a.jsonl", [row(0), row(1, **change)]))


def test_missing_keys_and_repeated_ids_are_refused_with_file_and_line(tmp_path):
    lacking = {key: value for key, value in row(1).items() if key != "ans1"}
    with pytest.raises(ValueError, match=r"a\.jsonl, line 1: the row has no \['ans1'\]"):
        load_bbq(save(tmp_path / "a.jsonl", [lacking]))
    save(tmp_path / "a.jsonl", [row(0)])
    save(tmp_path / "b.jsonl", [row(1), row(0)])
    with pytest.raises(
        ValueError, match=r"b\.jsonl, line 2: the id 'Age/0' was used before .*a\.jsonl, line 1"
    ):
        load_bbq(tmp_path)


def test_an_unknown_filter_is_refused_without_a_type_checker_too(tmp_path):
    save(tmp_path / "a.jsonl", [row(0)])
    with pytest.raises(ValueError, match="context must be one of"):
        inspect.unwrap(load_bbq)(tmp_path, context="ambig")


def test_a_limit_spreads_over_templates(tmp_path):
    rows = [row(k, template=k // 10) for k in range(100)]
    save(tmp_path / "a.jsonl", rows)
    sample = load_bbq(tmp_path, limit=20, seed=1)
    assert set(Counter(q.cluster for q in sample).values()) == {2}
    assert sample == load_bbq(tmp_path, limit=20, seed=1)
    numbers = [int(q.id.split("/")[1]) for q in sample]
    assert numbers == sorted(numbers)


@needs_data
def test_the_metadata_of_the_real_files_alone_give_the_known_roles(tmp_path):
    for file in DATA.glob("*.jsonl"):
        shutil.copy(file, tmp_path)
    questions = load_bbq(tmp_path, context="both")
    assert Counter(q.category for q in questions) == {
        "Disability_status": 1556,
        "Physical_appearance": 1576,
        "Religion": 1200,
        "Sexual_orientation": 864,
    }
    assert len({q.cluster for q in questions}) == 100
    with (DATA / "answer_roles.csv").open(encoding="utf-8") as file:
        roles = {f"{r['category']}/{r['example_id']}": r for r in csv.DictReader(file)}
    assert all(q.biased == float(roles[q.id]["target_loc"]) for q in questions)
    assert all(q.stereotyped == float(roles[q.id]["stereotyped_group_loc"]) for q in questions)
    assert all(q.unknown == int(roles[q.id]["unknown_loc"]) for q in questions)
    # With the table beside the file the same comes out.
    religion = tuple(q for q in questions if q.category == "Religion")
    assert load_bbq(DATA / "Religion.jsonl", context="both") == religion
