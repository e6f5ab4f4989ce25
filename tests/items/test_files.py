"""Rows of files, their places, and samples spread over groups."""

import gzip
import json
import os
import stat
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from pydantic import BaseModel
from safetensors.numpy import save_file

from morality_lens.items import files
from morality_lens.items.bundled import asset
from morality_lens.items.files import (
    append_text,
    data_files,
    kind_of,
    own_folder,
    parse_json,
    read_jsonl,
    read_rows,
    read_table,
    read_toml,
    reading,
    replace_file,
    spread,
    write_json,
    write_text,
)
from morality_lens.items.loaders import load_prompts


def write(path, text):
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_a_file_is_itself_and_a_folder_its_files_by_name(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "notes.txt"):
        write(tmp_path / name, "{}\n")
    assert [file.name for file in data_files(tmp_path)] == ["a.jsonl", "b.jsonl"]
    assert data_files(tmp_path / "notes.txt") == (tmp_path / "notes.txt",)
    with pytest.raises(FileNotFoundError, match="does not exist: give the path"):
        data_files(tmp_path / "c.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"has no \.jsonl or "):
        data_files(tmp_path / "empty")


def test_json_lines_are_counted_with_blank_ones_and_odd_line_separators_inside_text(tmp_path):
    file = write(tmp_path / "a.jsonl", '\ufeff{"x": "one\u2028two"}\r\n\n{"x": 2}')
    assert [(where.rpartition(" ")[2], row) for where, row in read_jsonl(file)] == [
        ("1", {"x": "one\u2028two"}),
        ("3", {"x": 2}),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"x": 1}\n{"x": \n', r"a\.jsonl, line 2: not a line of JSON"),
        ('{"x": NaN}\n', r"a\.jsonl, line 1: .*NaN is not a number"),
        ("[1]\n", r"line 1: each line must hold a JSON object; got list"),
        (b'{"x": 1}\n{"x": "\xff"}\n', r"line 2: not a line of JSON"),
        ("\n", r"a\.jsonl has no rows"),
    ],
)
def test_a_bad_json_line_is_refused_with_its_place(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        list(read_jsonl(write(tmp_path / "a.jsonl", text)))


def test_a_table_is_read_with_and_without_quotes(tmp_path):
    text = 'x\ty\n"one\ttwo"\t"three\nfour"\nfive\n'
    rows = list(read_table(write(tmp_path / "a.tsv", text)))
    assert [row for _, row in rows] == [{"x": "one\ttwo", "y": "three\nfour"}, {"x": "five", "y": ""}]
    assert rows[1][0].endswith("line 4")
    text = 'x\ty\n"one\ttwo\nthree "\tfour\n'
    unquoted = [row for _, row in read_rows(write(tmp_path / "a.tsv", text), quoted=False)]
    assert unquoted == [{"x": '"one', "y": "two"}, {"x": 'three "', "y": "four"}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y\n1,2\n1,2,3\n", r"a\.csv, line 3: the row has 3 cells and the header 2"),
        ('x,y\n1,"2" or so\n', r"a\.csv, line 2: .*pass quoted=False"),
        (b"x,y\n1,\xff\n", "not UTF-8 text"),
        ("x,y,x\n1,2,3\n", r"a\.csv, line 1: the columns \['x'\] are there twice"),
        ("x,y\n\n", "has no rows"),
        ("", "has no rows"),
    ],
)
def test_a_bad_table_is_refused_with_its_place(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        list(read_table(write(tmp_path / "a.csv", text)))


def test_files_of_other_kinds_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"got the suffix '\.xlsx'"):
        read_rows(write(tmp_path / "a.xlsx", "x"))


def test_a_sample_takes_one_of_each_group_before_a_second_of_any():
    values = [(group, k) for group in range(10) for k in range(1 + group)]
    for limit in (5, 10, 19, 30, len(values)):
        sample = spread(values, limit, 0, lambda v: v[0])
        counts = Counter(group for group, _ in sample)
        assert len(sample) == limit
        assert len(counts) == min(10, limit)
        # No group is ahead of another that still has something to give.
        assert all(n >= min(max(counts.values()) - 1, 1 + group) for group, n in counts.items())


def test_a_sample_keeps_the_order_repeats_under_its_seed_and_grows_by_its_limit():
    values = [(k % 7, k) for k in range(70)]
    samples = [spread(values, limit, 3, lambda v: v[0]) for limit in (5, 20, 40)]
    assert all(sample == tuple(sorted(sample, key=lambda v: v[1])) for sample in samples)
    assert set(samples[0]) < set(samples[1]) < set(samples[2])
    assert samples[1] == spread(values, 20, 3, lambda v: v[0])
    assert samples[1] != spread(values, 20, 4, lambda v: v[0])
    assert spread(values, None, 3, lambda v: v[0]) == spread(values, 100, 3, lambda v: v[0]) == tuple(values)
    with pytest.raises(ValueError, match="limit must be at least 1"):
        spread(values, 0, 3, lambda v: v[0])


def test_every_value_of_a_group_is_as_likely_to_be_drawn():
    counts = Counter(spread(range(8), 2, seed, lambda v: v % 2)[0] for seed in range(400))
    counts.update(spread(range(8), 2, seed, lambda v: v % 2)[1] for seed in range(400))
    assert all(60 < counts[value] < 140 for value in range(8))


def test_an_asset_that_is_not_bundled_is_named():
    with pytest.raises(FileNotFoundError, match=r"the bundled world/no-such-file was not found"):
        asset("world", "no-such-file")


def test_a_file_is_replaced_whole_or_not_at_all_and_no_draft_stays(tmp_path):
    file = tmp_path / "a.json"
    assert write_json(file, {"x": "\u00e9"}) == file
    assert file.read_text(encoding="utf-8") == '{\n "x": "\u00e9"\n}\n'

    def half(draft):
        draft.write_text("half of it")
        assert draft.parent == tmp_path
        assert draft != file
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_file(file, half)
    assert write_text(tmp_path / "b.txt", "a lone \ud800", errors="replace").read_text() == "a lone ?"
    assert file.read_text(encoding="utf-8") == '{\n "x": "\u00e9"\n}\n'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.txt"]


def test_a_file_takes_the_place_of_a_link_and_what_it_points_to_stays(tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("kept")
    (tmp_path / "study.toml").symlink_to(other)
    write_text(tmp_path / "study.toml", "new")
    assert other.read_text() == "kept"
    assert not (tmp_path / "study.toml").is_symlink()
    assert (tmp_path / "study.toml").read_text() == "new"


def test_a_draft_that_someone_laid_out_before_is_not_written_to(tmp_path, monkeypatch):
    other = tmp_path / "other.txt"
    other.write_text("kept")
    monkeypatch.setattr(files.secrets, "token_hex", lambda size: "00")
    (tmp_path / ".a.json.00.part").symlink_to(other)
    with pytest.raises(FileExistsError):
        write_json(tmp_path / "a.json", {})
    assert other.read_text() == "kept"


def test_nothing_is_written_through_a_link(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "inside").symlink_to(tmp_path / "there")
    (tmp_path / "cache.jsonl").symlink_to(tmp_path / "there" / "x")
    with pytest.raises(ValueError, match="inside is a symbolic link"):
        own_folder(tmp_path / "inside")
    with pytest.raises(ValueError, match=r"cache\.jsonl is a symbolic link"):
        append_text(tmp_path / "cache.jsonl", "x")
    assert not any((tmp_path / "there").iterdir())
    append_text(tmp_path / "own.jsonl", "a\n")
    append_text(tmp_path / "own.jsonl", "b\n")
    assert (tmp_path / "own.jsonl").read_text() == "a\nb\n"


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_are_as_open_as_the_umask_says(tmp_path, mask):
    former = os.umask(mask)
    try:
        write_text(tmp_path / "a.txt", "x")
        replace_file(tmp_path / "b.safetensors", lambda draft: save_file({"a": np.zeros(2)}, draft))
        append_text(tmp_path / "c.txt", "x")
    finally:
        os.umask(former)
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~mask


def test_a_byte_order_mark_is_no_part_of_a_toml_file(tmp_path):
    class Model(BaseModel):
        a: int

    (tmp_path / "a.toml").write_bytes(b"\xef\xbb\xbfa = 1\n")
    assert read_toml(tmp_path / "a.toml", Model, "file").a == 1
    (tmp_path / "a.toml").write_bytes(b"a = 1\xff\n")
    with pytest.raises(ValueError, match="is not UTF-8 text"):
        read_toml(tmp_path / "a.toml", Model, "file")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' is there twice"),
        ("[" * 200_000, "nested too deeply"),
        ('["\\udc00"]', "half of a character"),
        ("[NaN]", "NaN is not a number"),
        (b"\xff", "not JSON"),
    ],
)
def test_json_that_cannot_be_kept_is_refused_with_its_place(text, message):
    with pytest.raises(ValueError, match=f"here: .*{message}"):
        parse_json(text, "here")


def test_what_a_reader_raises_becomes_one_error_that_names_the_file(tmp_path):
    wanted = r"x is damaged or no list \(KeyError: 'a'\); remove it"
    with pytest.raises(ValueError, match=wanted), reading(tmp_path / "x", "list", "remove it."):
        {}["a"]
    with pytest.raises(MemoryError), reading(tmp_path / "x", "list", "remove it."):
        raise MemoryError


ROWS = [{"id": "a", "text": "One, \u201ctwo\u201d."}, {"id": "b", "text": "Drei: \u00e4."}]


def written(file):
    """The rows in a file of the kind that its name says."""
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
    table = ("id\ttext\n" + "".join(f"{row['id']}\t{row['text']}\n" for row in ROWS)).encode()
    plain = {
        ".jsonl": lines,
        ".ndjson": lines,
        ".json": b"\xef\xbb\xbf " + json.dumps(ROWS, ensure_ascii=False).encode(),
        ".tsv": table,
        ".tab": table,
        ".csv": pd.DataFrame(ROWS).to_csv(index=False).encode(),
    }
    if file.suffix == ".parquet":
        pd.DataFrame(ROWS).to_parquet(file)
    elif file.suffix == ".gz":
        file.write_bytes(gzip.compress(plain[kind_of(file)]))
    else:
        file.write_bytes(plain[file.suffix])
    return file


@pytest.mark.parametrize(
    "name",
    [
        "r.jsonl",
        "r.ndjson",
        "r.json",
        "r.csv",
        "r.tsv",
        "r.tab",
        "r.parquet",
        "r.jsonl.gz",
        "r.json.gz",
        "r.csv.gz",
    ],
)
def test_the_same_rows_come_from_every_kind_of_file(tmp_path, name):
    file = written(tmp_path / name)
    assert [row for _, row in read_rows(file)] == ROWS
    assert [prompt.text for prompt in load_prompts(file)] == [row["text"] for row in ROWS]
    (tmp_path / "notes.txt").write_text("not data")
    assert data_files(tmp_path) == (file,)


def test_lines_of_json_are_read_from_a_file_that_is_named_as_an_array(tmp_path):
    file = tmp_path / "lines.json"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert [row for _, row in read_rows(file)] == ROWS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"[1]", r"a\.json, entry 1: each entry must be a JSON object; got int"),
        ("a.json", b"[]", "has no rows"),
        ("a.json", b'[{"a": 1}', r"a\.json: not a JSON array"),
        ("a.parquet", b"no", r"a\.parquet is damaged or no Parquet file"),
        ("a.xml", b"<a/>", "expected one of"),
    ],
)
def test_a_damaged_file_of_rows_is_refused_by_its_name(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(read_rows(tmp_path / name))
