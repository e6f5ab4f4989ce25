"""Logs of Inspect: every form of the file, grades as numbers, and what makes no cube is refused."""

import json
import struct
import zipfile
import zlib

import numpy as np
import pyarrow as pa
import pytest

import morality_lens as ml
from morality_lens.interactions.effects import factorial_effects
from morality_lens.runs.inspect_logs import inspect_cube, read_inspect_log


def sample(k: int, value, *, epoch=1, error=None, **more) -> dict:
    return {
        "id": f"q{k}",
        "epoch": epoch,
        "metadata": {"template": f"t{k // 2}"},
        "output": {"choices": [{"message": {"role": "assistant", "content": [{"text": f"say {value}"}]}}]},
        "scores": {"choice": {"value": value, "answer": "C"}},
        "error": error,
        **more,
    }


def header(model="some/model") -> dict:
    return {"version": 2, "status": "success", "eval": {"task": "bbq", "model": model}}


def entries(samples) -> dict[str, bytes]:
    named = {f"samples/{s['id']}_epoch_{s['epoch']}.json": s for s in samples}
    whole = {"_journal/start.json": header(), **named, "summaries.json": [], "header.json": header()}
    return {name: json.dumps(value).encode() for name, value in whole.items()}


def write_zip(path, samples):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries(samples).items():
            archive.writestr(name, data)


def write_zstandard(path, samples, *, damaged=False):
    """A zip whose entries are compressed with Zstandard (number 93), written by hand."""
    body, directory, count = b"", b"", 0
    for name, data in entries(samples).items():
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(data)
        packed, crc = sink.getvalue().to_pybytes(), zlib.crc32(data) ^ damaged
        fields = (20, 0, 93, 0, 0, crc, len(packed), len(data), len(name), 0)
        directory += (
            struct.pack("<4sH5H3I5H2I", b"PK\1\2", 20, *fields, 0, 0, 0, 0, len(body)) + name.encode()
        )
        body += struct.pack("<4s5H3I2H", b"PK\3\4", *fields) + name.encode() + packed
        count += 1
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(directory), len(body), 0)
    path.write_bytes(body + directory + end)


def write_json(path, samples, model="some/model"):
    path.write_text(json.dumps({**header(model), "samples": samples}))


@pytest.mark.parametrize("write", [write_zip, write_zstandard, write_json])
def test_every_form_of_a_log_is_read_alike(write, tmp_path):
    path = tmp_path / "log.eval"
    write(path, [sample(0, "C"), sample(1, "I")])
    log = read_inspect_log(path)
    assert (log.task, log.model, log.status, log.scorers) == ("bbq", "some/model", "success", ["choice"])
    assert log.samples["value"].tolist() == [1.0, 0.0]
    assert log.samples["text"].tolist() == ["say C", "say I"]
    assert log.samples["metadata.template"].tolist() == ["t0", "t0"]


def test_grades_truth_values_numbers_and_dictionaries_are_numbers(tmp_path):
    values = ["C", "I", "P", "N", True, False, 0.25, "0.5", "great", None]
    write_json(tmp_path / "log.json", [sample(k, value) for k, value in enumerate(values)])
    read = read_inspect_log(tmp_path / "log.json").samples["value"].tolist()
    assert read[:8] == [1, 0, 0.5, 0, 1, 0, 0.25, 0.5]
    assert np.isnan(read[8:]).all()
    write_json(tmp_path / "log.json", [sample(0, {"harm": 2, "help": "C"})])
    log = read_inspect_log(tmp_path / "log.json")
    assert dict(zip(log.samples["scorer"], log.samples["value"], strict=True)) == {
        "choice.harm": 2.0,
        "choice.help": 1.0,
    }


def test_a_sample_that_failed_has_no_value_and_is_refused_as_missing(tmp_path):
    good = [sample(k, "C") for k in range(9)]
    write_json(tmp_path / "none.json", good)
    write_json(tmp_path / "on.json", [*good[:8], sample(8, "C", error={"message": "gone"})])
    cube = inspect_cube({"none": tmp_path / "none.json", "instruction": tmp_path / "on.json"})
    assert np.isnan(cube.sel(item="q8", instruction="on"))
    with pytest.raises(ValueError, match="needs a number in every cell"):
        factorial_effects(cube)


def four(folder, **right):
    """Logs of four conditions in which the first ``right`` samples are right."""
    logs = {}
    for label, count in {"none": 2, "instruction": 6, "feedback": 4, "instruction+feedback": 12}.items():
        logs[label] = folder / f"{label}.eval"
        write_zip(logs[label], [sample(k, "C" if k < right.get(label, count) else "I") for k in range(20)])
    return logs


def test_a_cube_has_the_conditions_clusters_and_effects_of_the_logs(tmp_path):
    cube = inspect_cube(four(tmp_path), cluster="template")
    assert cube.dims == ("item", "instruction", "feedback")
    assert cube["instruction"].values.tolist() == ["off", "on"]
    assert len(set(cube["cluster"].values)) == 10
    found = factorial_effects(cube)["estimate"]
    shares = {"none": 0.1, "instruction": 0.3, "feedback": 0.2, "both": 0.6}
    added = shares["both"] - shares["feedback"] - shares["instruction"] + shares["none"]
    assert float(found.sel(effect="instruction:feedback")) == pytest.approx(added)


def test_logs_per_round_and_epochs_have_dims_of_their_own(tmp_path):
    paths = {}
    for label in ("none", "feedback"):
        paths[label] = []
        for number in range(3):
            path = tmp_path / f"{label}-{number}.json"
            kept = [
                sample(k, "C" if k < 3 + number and label == "feedback" else "I", epoch=epoch)
                for k in range(8)
                for epoch in (1, 2)
            ]
            write_json(path, kept)
            paths[label].append(path)
    cube = inspect_cube(paths)
    assert dict(cube.sizes) == {"item": 8, "feedback": 2, "round": 3, "seed": 2}
    assert cube.sel(feedback="on").mean(("item", "seed")).values.tolist() == [3 / 8, 4 / 8, 5 / 8]
    assert factorial_effects(cube)["estimate"].dims == ("effect", "round")


def test_what_makes_no_cube_is_refused_with_what_to_do(tmp_path):
    logs = four(tmp_path)
    three = {label: path for label, path in logs.items() if label != "feedback"}
    with pytest.raises(
        ValueError, match=r"every combination of instruction \(off, on\) x feedback.*4 of them"
    ):
        inspect_cube(three)
    with pytest.raises(ValueError, match="as many logs, one per round"):
        inspect_cube({**logs, "none": [logs["none"], logs["none"]]})
    with pytest.raises(ValueError, match=r"all logs have \(choice\); got 'match'"):
        inspect_cube(logs, scorer="match")
    with pytest.raises(ValueError, match=r"20 of 20 have none or several \(first 'q0'"):
        inspect_cube(logs, cluster="family")
    write_json(tmp_path / "other.json", [sample(0, "C")], model="other/model")
    with pytest.raises(ValueError, match=r"these logs are of other/model, some/model"):
        inspect_cube({"none": logs["none"], "instruction": tmp_path / "other.json"})
    write_json(tmp_path / "twice.json", [sample(0, "C"), sample(0, "I")])
    with pytest.raises(ValueError, match="'q0' is there twice in epoch 1"):
        inspect_cube({"none": tmp_path / "twice.json", "instruction": tmp_path / "twice.json"})


def test_files_that_are_no_log_are_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="a log that Inspect wrote"):
        read_inspect_log(tmp_path / "none.eval")
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(ValueError, match="needs the keys 'eval' and 'samples'"):
        read_inspect_log(tmp_path / "a.json")
    with zipfile.ZipFile(tmp_path / "b.eval", "w") as archive:
        archive.writestr("notes.txt", "x")
    with pytest.raises(ValueError, match=r"no header\.json"):
        read_inspect_log(tmp_path / "b.eval")
    write_zip(tmp_path / "c.eval", [])
    with pytest.raises(ValueError, match=r"holds no sample \(status 'success'\)"):
        read_inspect_log(tmp_path / "c.eval")
    write_zstandard(tmp_path / "d.eval", [sample(0, "C")], damaged=True)
    with pytest.raises(ValueError, match=r"is damaged, or compressed.*inspect log convert"):
        read_inspect_log(tmp_path / "d.eval")


def test_words_for_truth_are_one_and_zero(tmp_path):
    values = ["yes", "No", " TRUE ", "false", "Yes", "no"]
    write_json(tmp_path / "log.json", [sample(k, value) for k, value in enumerate(values)])
    log = read_inspect_log(tmp_path / "log.json")
    assert log.samples["value"].tolist() == [1, 0, 1, 0, 1, 0]
    assert log.samples["given"].tolist() == values


@pytest.mark.parametrize(
    ("value", "told"), [("great", "'great'"), ([1, 0], r"\[1, 0\]"), (None, "None"), ({"a": [1]}, r"\[1\]")]
)
def test_a_scorer_without_any_number_in_a_log_is_refused_with_what_it_gave(tmp_path, value, told):
    write_json(
        tmp_path / "none.json", [sample(k, {"a": 1} if isinstance(value, dict) else 1) for k in (0, 1)]
    )
    write_json(tmp_path / "on.json", [sample(k, value) for k in (0, 1)])
    with pytest.raises(ValueError, match=rf"on\.json: no score of 'choice.*is a number.*got {told}"):
        inspect_cube({"none": tmp_path / "none.json", "instruction": tmp_path / "on.json"})


def asking(k, question, target="A", choices=None):
    return sample(k, "C", input=question, target=target, choices=choices)


def message(text, name):
    return [{"id": name, "role": "user", "content": [{"type": "text", "text": text}]}]


@pytest.mark.parametrize(
    ("one", "other", "differs"),
    [
        (asking(1, "Who forgot?"), asking(1, "Who forgot?"), None),
        (asking(1, message("Who?", "m1")), asking(1, message("Who?", "m2")), None),
        (asking(1, "Who forgot?"), asking(1, "Who knew?"), "input"),
        (asking(1, message("Who?", "m1")), asking(1, message("When?", "m1")), "input"),
        (asking(1, "Who?", choices=["a", "b"]), asking(1, "Who?", choices=["a", "c"]), "input"),
        (asking(1, "Who?", "A"), asking(1, "Who?", "B"), "target"),
        (asking(1, "Who?", ["A"]), asking(1, "Who?", ["B"]), "target"),
    ],
)
def test_samples_of_one_id_that_ask_other_things_are_not_paired(tmp_path, one, other, differs):
    logs = {"none": tmp_path / "none.json", "instruction": tmp_path / "on.json"}
    for path, last in zip(logs.values(), (one, other), strict=True):
        write_json(path, [asking(0, "Who slept?"), last])
    if differs is None:
        assert inspect_cube(logs).sizes["item"] == 2
        return
    with pytest.raises(
        ValueError,
        match=rf"(?s)sample 'q1' has the {differs} .*on\.json, and .*none\.json: .*other_inputs=True",
    ):
        inspect_cube(logs)
    assert inspect_cube(logs, other_inputs=True).sizes["item"] == 2


@pytest.mark.parametrize("status", ["error", "cancelled", "started", None])
def test_an_evaluation_that_did_not_run_to_its_end_is_refused_unless_accepted(tmp_path, status):
    logs = {"none": tmp_path / "none.json", "instruction": tmp_path / "on.json"}
    for path in logs.values():
        write_json(path, [sample(0, "C"), sample(1, "I")])
    assert "unfinished" not in inspect_cube(logs).attrs
    whole = {**json.loads(logs["none"].read_text()), "status": status}
    logs["none"].write_text(json.dumps(whole))
    told = status or "started"
    assert read_inspect_log(logs["none"]).status == told
    with pytest.raises(ValueError, match=rf"none\.json .*\(status '{told}'\), one of 1 .*unfinished=True"):
        inspect_cube(logs)
    assert inspect_cube(logs, unfinished=True).attrs["unfinished"] == f"{logs['none']} ({told})"


def test_an_archive_without_its_last_entry_is_of_an_unfinished_evaluation(tmp_path):
    start = {"version": 2, "eval": {"task": "bbq", "model": "some/model"}}
    with zipfile.ZipFile(tmp_path / "a.eval", "w") as archive:
        archive.writestr("_journal/start.json", json.dumps(start))
        archive.writestr("samples/q0_epoch_1.json", json.dumps(sample(0, "C")))
    assert read_inspect_log(tmp_path / "a.eval").status == "started"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eval": None}, "eval must be an object; got None"),
        ({"eval": []}, "eval must be an object"),
        ({"samples": [None]}, "each sample must be an object; got None"),
        ({"samples": {"id": 1}}, "samples must be a list"),
        ({"samples": [{"id": None}]}, "a sample without an id"),
        ({"samples": [{"id": 1, "scores": [1]}]}, "scores of sample 1 must be an object"),
        ({"samples": [{"id": 1, "metadata": "x"}]}, "metadata of sample 1 must be an object"),
        ({"samples": [{"id": 1, "output": "x"}]}, "output of sample 1 must be an object"),
        ({"samples": [{"id": 1, "epoch": None}]}, "the epoch of sample 1 must be a whole number"),
    ],
)
def test_entries_that_are_not_as_inspect_writes_them_are_refused_by_name(tmp_path, change, message):
    path = tmp_path / "log.json"
    path.write_text(json.dumps({**header(), "samples": [sample(0, "C")], **change}))
    with pytest.raises(ValueError, match=rf"log\.json.*{message}"):
        read_inspect_log(path)


@pytest.mark.parametrize(
    "output", [{"choices": [None]}, {"choices": [{"message": None}]}, {"choices": {}}, None]
)
def test_an_output_without_a_message_is_no_text(tmp_path, output):
    write_json(tmp_path / "log.json", [sample(0, "C", output=output)])
    assert read_inspect_log(tmp_path / "log.json").samples["text"].tolist() == [""]


def test_a_header_that_is_no_object_is_refused_in_an_archive_too(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.eval", "w") as archive:
        archive.writestr("header.json", "null")
        archive.writestr("samples/q0_epoch_1.json", json.dumps(sample(0, "C")))
    with pytest.raises(ValueError, match=r"a\.eval .*the header must be an object; got None"):
        read_inspect_log(tmp_path / "a.eval")


def test_a_cube_of_logs_can_be_joined_with_another_models(tmp_path):
    cube = inspect_cube(four(tmp_path))
    both = ml.interactions.cross_runs({"small": cube, "large": cube + 0.0}, "size")
    assert both.dims == ("item", "size", "instruction", "feedback")
