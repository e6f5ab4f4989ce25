"""A run on disk, extended, damaged, claimed, begun twice: no value is lost without a word."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import make_questions
from rounds.test_playing import SHORT, assert_same_run
from tiny import made_up_probe

from morality_lens.items.kinds import items_from_jsonl, items_to_jsonl
from morality_lens.models.loading import load_model
from morality_lens.probes.probe import load_probe
from morality_lens.rounds import playing
from morality_lens.rounds.playing import finish, play, play_parts, prepare
from morality_lens.rounds.preflight import Fitting
from morality_lens.runs import archives, claims, storage, writing
from morality_lens.runs.manifest import Part, locked, parts_of, read_manifest
from morality_lens.runs.run import open_run
from morality_lens.runs.storage import Storage, estimate
from morality_lens.runs.verifying import verify_run

TWO = Fitting(batch_size=2)
QUICK = replace(SHORT, design=replace(SHORT.design, rounds=1), feedback="oracle")


@pytest.fixture(scope="module")
def llama(zoo_folder):
    return load_model(zoo_folder("llama"), device="cpu")


@pytest.fixture(scope="module")
def whole(llama, tmp_path_factory):
    """Five items in parts of two."""
    return played(llama, tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def copy(whole, tmp_path):
    """The same run, to be harmed."""
    shutil.copytree(whole.path, tmp_path / "copy")
    return open_run(tmp_path / "copy")


def played(model, out, *, items=5, protocol=SHORT, **more):
    asked = make_questions(items) if isinstance(items, int) else items
    return play(model, asked, out=out, protocol=protocol, fitting=TWO, progress=False, **more)


def archives_of(run):
    return sorted((run.path / "parts").glob("*.zip"))


# ------------------------------------------------------------------------------------------- files
def test_a_run_is_three_files_and_one_for_every_part(whole):
    names = {p.relative_to(whole.path).as_posix() for p in whole.path.rglob("*") if p.is_file()}
    assert names == {
        ".lock",
        "manifest.json",
        "items.jsonl",
        "parts/items-00000-00001.rounds-0-2.zip",
        "parts/items-00002-00003.rounds-0-2.zip",
        "parts/items-00004-00004.rounds-0-2.zip",
    }


def test_the_record_of_a_part_says_where_and_how_it_was_played(whole):
    record = archives.check_archive(archives_of(whole)[0])
    assert record["device"] == "cpu"
    assert record["host"] == socket.gethostname()
    assert record["together"] == [2]


def test_what_is_chosen_of_a_lazy_cube_is_what_is_chosen_of_the_loaded_one(whole):
    lazy, loaded = whole.residuals, whole.residuals.load()
    rng = np.random.default_rng(0)
    for _ in range(20):
        choice = {}
        for dim, size in loaded.sizes.items():
            kind = rng.integers(4)
            if kind == 1:
                choice[dim] = int(rng.integers(-size, size))
            if kind == 2:
                choice[dim] = rng.permutation(size)[: rng.integers(1, size + 1)].tolist()
            if kind == 3:
                choice[dim] = slice(None, None, int(rng.choice([-1, 2, 1])))
        np.testing.assert_array_equal(lazy.isel(choice).values, loaded.isel(choice).values)


# ------------------------------------------------------------------------------------------- size
def test_chosen_layers_are_those_of_the_whole_run(llama, whole, tmp_path):
    run = played(llama, tmp_path / "run", storage=Storage(layers=(2, 0)))
    assert run.layers == (0, 2)
    np.testing.assert_array_equal(run.residuals, whole.residuals.sel(layer=[0, 2]))
    assert run.residuals["layer"].values.tolist() == [0, 2]
    pd.testing.assert_frame_equal(run.answers, whole.answers)
    with pytest.raises(ValueError, match=r"layers -1 \(the embedding\) to 2; got 7"):
        played(llama, tmp_path / "none", storage=Storage(layers=(7,)))


def test_half_precision_on_request_has_its_stated_error(llama, whole, tmp_path):
    run = played(llama, tmp_path / "run", storage=Storage(dtype="float16"))
    exact, rounded = whole.residuals.values, run.residuals.values
    assert rounded.dtype == np.float16
    there = np.isfinite(exact)
    assert (np.isfinite(rounded) == there).all()
    normal = there & (np.abs(exact) > 1e-4)  # below, float16 has fewer digits
    assert (np.abs(rounded - exact)[normal] <= 2.0**-11 * np.abs(exact)[normal]).all()


def test_values_beyond_half_precision_are_refused_not_stored_as_infinite(llama, tmp_path, monkeypatch):
    real = writing.commit

    def larger(path, part, batch):
        real(path, part, replace(batch, residuals=batch.residuals * np.float32(1e9)))

    monkeypatch.setattr(writing, "commit", larger)
    with pytest.raises(ValueError, match="do not fit into float16, whose largest number is 65504"):
        played(llama, tmp_path / "run", storage=Storage(dtype="float16"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("keep", ["projections", "both"])
def test_projections_made_while_playing_are_those_of_the_residuals(llama, whole, tmp_path, keep, dtype):
    probe = made_up_probe(llama)
    rng = np.random.default_rng(0)
    drawn = np.stack([probe.direction.values + rng.normal(size=probe.direction.shape) for _ in range(4)])
    refits = probe.direction.expand_dims(probe_draw=4).copy(data=drawn.astype(dtype))
    probe = replace(probe, refits=refits)
    run = played(llama, tmp_path / keep, storage=Storage(keep=keep, layers=(0, 1)), probe=probe)
    kept = replace(probe, refits=refits.astype(np.float32))  # as a file has them
    want = kept.project(whole).sel(layer=[0, 1])
    got = load_probe(run.path / "directions.safetensors").project(run)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)
    carried, wanted = got.attrs["refits"].refits, want.attrs["refits"].refits.sel(layer=[0, 1])
    np.testing.assert_allclose(carried, wanted, rtol=1e-6, atol=1e-8)
    assert (got["item"] == want["item"]).all()
    file = run.path / "directions.safetensors"
    content = file.read_bytes()
    assert verify_run(run.path).whole
    flip(file, [len(content) - 20])
    assert "directions.safetensors is damaged" in str(verify_run(run.path))
    file.write_bytes(content)
    if keep == "projections":
        with pytest.raises(ValueError, match="kept projections alone"):
            _ = run.residuals
        with pytest.raises(ValueError, match="kept its projections on another probe"):
            replace(probe, direction=probe.direction * 2).project(run)


def test_projections_need_a_probe_of_this_model(llama, tmp_path):
    with pytest.raises(ValueError, match="no probe do not go together"):
        played(llama, tmp_path / "run", storage=Storage(keep="projections"))
    probe = made_up_probe(llama)
    with pytest.raises(ValueError, match="a probe do not go together"):
        played(llama, tmp_path / "run", probe=probe)
    other = replace(probe, training={**probe.training, "model_fingerprint": "another"})
    with pytest.raises(ValueError, match="fitted on another model"):
        played(llama, tmp_path / "run", storage=Storage(keep="both"), probe=other)


def test_the_estimate_is_an_upper_bound_of_the_room_that_a_run_takes(llama, whole):
    design, model = whole.design, whole.manifest["study"]["model"]
    told = estimate(
        design, items=5, d_model=model["d_model"], layers=whole.layers, batch_size=2, directions=1
    )
    files = [p for p in whole.path.rglob("*") if p.is_file()]
    arrays = sum(a.nbytes for file in archives_of(whole) for _, a in archives.open_arrays(file).arrays())
    assert arrays <= told.bytes
    assert told.files == len(files) - 1  # the lock is empty
    assert told.dialogue_rounds == 5 * 8 * 3


# ------------------------------------------------------------------------------------------- extended
def test_more_items_are_played_and_what_is_there_is_kept(llama, tmp_path):
    first = played(llama, tmp_path / "run", items=3)
    before = {p.name: p.read_bytes() for p in archives_of(first)}
    run = played(llama, tmp_path / "run", items=5)
    assert run.complete
    assert run.residuals["item"].values.tolist() == [f"q{i}" for i in range(5)]
    assert {name: (run.path / "parts" / name).read_bytes() for name in before} == before
    at_once = played(llama, tmp_path / "once", items=5)
    pd.testing.assert_frame_equal(run.answers, at_once.answers)
    np.testing.assert_allclose(run.residuals, at_once.residuals, rtol=1e-3, atol=1e-4)
    assert verify_run(run.path).whole


@pytest.mark.filterwarnings("ignore:the chat template of")
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "rewriting", "late"])
def test_more_rounds_carry_every_dialogue_on(zoo_folder, tmp_path, architecture):
    import zoo

    late = "{% if messages | length > 6 %}(a long dialogue) {% endif %}" + zoo.CHATML
    template = {"rewriting": zoo.FORGETTING, "late": late}.get(architecture)
    folder = (
        zoo.save_model(tmp_path / "m", "llama", template=template) if template else zoo_folder(architecture)
    )
    model = load_model(folder, device="cpu")
    one = replace(SHORT, design=replace(SHORT.design, rounds=1))
    first = played(model, tmp_path / "run", items=3, protocol=one)
    before = {p.name: p.read_bytes() for p in archives_of(first)}
    three = replace(SHORT, design=replace(SHORT.design, rounds=3))
    run = played(model, tmp_path / "run", items=3, protocol=three)
    assert {name: (run.path / "parts" / name).read_bytes() for name in before} == before
    at_once = played(model, tmp_path / "once", items=3, protocol=three)
    pd.testing.assert_frame_equal(run.answers, at_once.answers)
    columns = ["item", "instruction", "cot", "feedback", "round"]
    a, b = (r.transcripts.sort_values(columns) for r in (run, at_once))
    assert a[columns].values.tolist() == b[columns].values.tolist()
    assert [t.tolist() for t in a["token_ids"]] == [t.tolist() for t in b["token_ids"]]
    np.testing.assert_allclose(run.residuals, at_once.residuals, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(run.option_mass, at_once.option_mass, rtol=1e-3, atol=1e-5)
    assert verify_run(run.path).whole
    more = played(model, tmp_path / "run", items=4, protocol=three)
    assert more.complete
    assert len(more.items) == 4


def test_an_extension_that_is_interrupted_goes_on(llama, tmp_path, monkeypatch):
    one = replace(SHORT, design=replace(SHORT.design, rounds=1))
    played(llama, tmp_path / "run", items=4, protocol=one)
    real = writing.commit

    def once(path, part, batch):
        real(path, part, batch)
        raise KeyboardInterrupt

    monkeypatch.setattr(writing, "commit", once)
    with pytest.raises(KeyboardInterrupt):
        played(llama, tmp_path / "run", items=4)
    half = open_run(tmp_path / "run")
    assert not half.complete
    assert len(half.items) == 2, "items that lack rounds are not shown"
    monkeypatch.undo()
    run = played(llama, tmp_path / "run", items=4)
    pd.testing.assert_frame_equal(run.answers, played(llama, tmp_path / "once", items=4).answers)


def test_a_run_is_extended_never_cut(llama, copy):
    with pytest.raises(ValueError, match="holds 5 items, and 2 of them are not among the 3"):
        played(llama, copy.path, items=3)
    fewer = replace(SHORT, design=replace(SHORT.design, rounds=1))
    with pytest.raises(ValueError, match="a run of 2 correction rounds, and 1 are asked for"):
        played(llama, copy.path, protocol=fewer)
    other = [replace(q, question="Who was not kind?") for q in make_questions(5)]
    with pytest.raises(ValueError, match="holds 5 items with other words"):
        played(llama, copy.path, items=other)
    assert verify_run(copy.path).whole


# ------------------------------------------------------------------------------------------- identity
def test_the_same_model_at_another_path_resumes_the_run(zoo_folder, whole, copy, tmp_path):
    shutil.copytree(zoo_folder("llama"), tmp_path / "moved")
    archives_of(copy)[0].unlink()
    run = played(load_model(tmp_path / "moved", device="cpu"), copy.path)
    np.testing.assert_array_equal(run.residuals, whole.residuals)
    pd.testing.assert_frame_equal(run.answers, whole.answers)
    assert run.manifest["loaded_from"] == str(tmp_path / "moved")


CHANGES = {
    "temperature": lambda p: replace(p, temperature=0.5),
    "system_prompt": lambda p: replace(p, system_prompt="Be fair."),
    "answer_tokens": lambda p: replace(p, answer_tokens=5),
    "wording": lambda p: replace(p, wording_index=1),
    "feedback": lambda p: replace(p, feedback="oracle"),
    "seed": lambda p: replace(p, design=replace(p.design, seed=9)),
    "sites": lambda p: replace(p, design=replace(p.design, sites=("answer_end",))),
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_changes_a_token_or_a_site_makes_another_run(llama, whole, what):
    with pytest.raises(ValueError, match=f"holds another run; it differs in .*{what}"):
        played(llama, whole.path, protocol=CHANGES[what](SHORT))


def test_other_template_keywords_tokenizers_and_storage_make_another_run(llama, whole, zoo_folder, tmp_path):
    with pytest.raises(ValueError, match="template_keywords"):
        played(load_model(zoo_folder("llama"), device="cpu", template_keywords={"x": 1}), whole.path)
    with pytest.raises(ValueError, match=r"stored\.layers"):
        played(llama, whole.path, storage=Storage(layers=(0,)))
    folder = shutil.copytree(zoo_folder("llama"), tmp_path / "other")
    file = folder / "tokenizer.json"
    told = json.loads(file.read_text())
    told["normalizer"] = {"type": "Lowercase"}
    file.write_text(json.dumps(told))
    with pytest.raises(ValueError, match="tokenizer_sha256"):
        played(load_model(folder, device="cpu"), whole.path)


# ------------------------------------------------------------------------------------------- damage
def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file, places):
    content = bytearray(file.read_bytes())
    for place in places:
        content[place] ^= 0xFF
    file.write_bytes(bytes(content))


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("harm", ["deleted", "cut", "empty", "flipped", "foreign"])
def test_a_part_that_is_lost_or_damaged_is_named_and_played_again(llama, whole, copy, harm, which):
    file = archives_of(copy)[which]
    if harm == "deleted":
        file.unlink()
    elif harm == "cut":
        cut(file)
    elif harm == "empty":
        file.write_bytes(b"")
    elif harm == "flipped":
        flip(file, range(200, 203))
    else:
        shutil.copy(archives_of(whole)[(which + 1) % 3], file)
    found = verify_run(copy.path)
    assert not found.whole
    assert file.name in str(found)
    assert open_run(copy.path).complete is (harm != "deleted")
    if harm == "deleted":
        run = played(llama, copy.path)
    else:
        with pytest.warns(UserWarning, match=f"{file.name}.*played again"):
            run = played(llama, copy.path)
    assert_same_run(whole, run)
    assert verify_run(copy.path).whole


def test_no_three_bytes_of_a_part_change_a_value_in_silence(whole, copy):
    """A read gives the right values or says what is damaged; the check always says it."""
    file = archives_of(copy)[0]
    good = file.read_bytes()
    rng = np.random.default_rng(0)
    want = whole.residuals.values
    table = whole.answers.drop(columns="rationale", errors="ignore")
    said = []
    for _ in range(60):
        place = int(rng.integers(len(good) - 3))
        flip(file, range(place, place + 3))
        os.utime(file, ns=(time.time_ns(), time.time_ns()))
        with pytest.raises(archives.DamagedError, match=file.name):
            archives.check_archive(file)
        run = open_run(copy.path)
        try:
            np.testing.assert_array_equal(run.residuals.values, want)
            pd.testing.assert_frame_equal(run.answers.drop(columns="rationale", errors="ignore"), table)
        except archives.DamagedError as error:
            said.append(str(error))
        file.write_bytes(good)
    assert len(said) > 40
    assert all(file.name in line for line in said)


@pytest.mark.parametrize("harm", ["reordered", "relabelled", "gone", "cut"])
def test_items_that_are_not_those_that_were_played_are_never_used(llama, whole, copy, harm):
    file = copy.path / "items.jsonl"
    items = items_from_jsonl(file)
    if harm == "reordered":
        items_to_jsonl(items[::-1], file)
    elif harm == "relabelled":
        items_to_jsonl([replace(item, label=0) for item in items], file)
    elif harm == "gone":
        file.unlink()
    else:
        cut(file)
    with pytest.raises(ValueError, match=r"items\.jsonl is (damaged|missing)"):
        _ = open_run(copy.path).answers
    assert "items.jsonl" in str(verify_run(copy.path))
    assert_same_run(whole, played(llama, copy.path))
    assert verify_run(copy.path).whole


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "is no manifest of a run"),
        ("3", "is no manifest of a run"),
        ("{", "is damaged"),
        ('{"format": 1}', "has format 1; this version reads format 2"),
        ('{"format": 2}', "lacks study, order, parts, items_sha256, stored"),
        ("[" * 100_000, "is damaged"),
        ("\x00\x01", "is damaged"),
    ],
)
def test_a_manifest_of_another_kind_is_one_clear_line(llama, copy, content, message):
    (copy.path / "manifest.json").write_text(content)
    for act in (lambda: open_run(copy.path), lambda: played(llama, copy.path), lambda: verify_run(copy.path)):
        with pytest.raises(ValueError, match=message) as error:
            act()
        assert "manifest.json" in str(error.value)


@pytest.mark.parametrize("lost", ["order", "parts", "study", "items_sha256", "stored"])
def test_a_manifest_that_lacks_something_is_damaged(copy, lost):
    file = copy.path / "manifest.json"
    file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != lost}))
    with pytest.raises(ValueError, match=f"is damaged: it lacks {lost}"):
        open_run(copy.path)


def test_parts_without_a_manifest_are_never_removed(llama, copy):
    (copy.path / "manifest.json").unlink()
    with pytest.raises(ValueError, match="holds parts of a run without its manifest"):
        played(llama, copy.path)
    assert len(archives_of(copy)) == 3


# ------------------------------------------------------------------------------------------- many processes
def test_a_prepared_run_is_played_by_numbers_and_finished_when_it_is_complete(llama, whole, tmp_path):
    out = tmp_path / "run"
    run = prepare(llama, make_questions(5), out=out, protocol=SHORT, fitting=TWO)
    assert len(parts_of(run.manifest)) == 3
    assert not run.complete
    play_parts(llama, out, numbers=[2, 0], progress=False)
    with pytest.raises(ValueError, match=r"lacks 1 parts, items-00002-00003"):
        finish(out)
    with pytest.raises(ValueError, match="has the parts 0 to 2; got 3"):
        play_parts(llama, out, numbers=[3])
    play_parts(llama, out, numbers=[1], progress=False)
    assert_same_run(whole, finish(out))


def test_a_claim_is_held_by_one_and_taken_over_when_its_process_is_gone(tmp_path, monkeypatch):
    file = tmp_path / "part.zip"
    claim = file.with_name("part.zip.claim")
    with claims.claimed(file) as mine:
        assert mine
        with claims.claimed(file) as second:
            assert not second
        claim.write_text(json.dumps({"host": "elsewhere", "pid": 1}))
        assert [str(worker) for worker in claims.claimants(tmp_path)] == ["process 1 on elsewhere"]
    assert not claim.exists()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    claim.write_text(json.dumps({"host": socket.gethostname(), "pid": ended.pid}))
    with claims.claimed(file) as mine:
        assert mine, "its process is gone"
    claim.write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    with claims.claimed(file) as mine:
        assert not mine, "it may live"
    os.utime(claim, (time.time() - 1000, time.time() - 1000))
    with claims.claimed(file) as mine:
        assert mine, "it gave no sign of life"
    claim.write_text("")
    with claims.claimed(file) as mine:
        assert not mine, "it is just being written"


def test_the_lock_names_itself_when_it_is_held_for_too_long(tmp_path):
    with (
        locked(tmp_path),
        pytest.raises(TimeoutError, match=r"remove .*\.lock"),
        locked(tmp_path, seconds=0.1),
    ):
        pass


RACE = """
import random, sys, time, torch
sys.path.insert(0, {tests!r})
torch.set_num_threads(1)
from conftest import make_questions
from morality_lens.items import files, kinds
from morality_lens.models.loading import load_model
from morality_lens.rounds.playing import play
from morality_lens.rounds.preflight import Fitting
from morality_lens.runs import archives, claims, manifest, writing
from runs.test_store import QUICK
model = load_model({model!r}, device="cpu")
number = int(sys.argv[1])

def stalled(module, name, chance):
    real = getattr(module, name)
    def slow(*given, **more):
        if chance.random() < 0.5:
            time.sleep(chance.random() * 0.05)
        try:
            return real(*given, **more)
        finally:
            if chance.random() < 0.5:
                time.sleep(chance.random() * 0.05)
    setattr(module, name, slow)

print("ready", flush=True)
for line in sys.stdin:
    out = line.strip()
    chance = random.Random(out + str(number))
    if not getattr(writing, "stalls", False):
        writing.stalls = True
        for name in ("_make_folder", "_refuse_foreign", "read_manifest", "write_json", "items_to_jsonl",
                     "commit", "write_archive"):
            stalled(writing, name, chance)
        for name in ("_create", "_is_stale"):
            stalled(claims, name, chance)
    run = play(model, make_questions(3), out=out, protocol=QUICK, fitting=Fitting(batch_size=1))
    print("done", run.complete, flush=True)
"""


@pytest.mark.slow(seconds=40)
def test_two_processes_that_begin_one_run_at_once_make_one_whole_store(zoo_folder, llama, tmp_path):
    single = play(
        llama,
        make_questions(3),
        out=tmp_path / "single",
        protocol=QUICK,
        fitting=Fitting(batch_size=1),
        progress=False,
    )
    script = RACE.format(tests=str(Path(__file__).parents[1]), model=str(zoo_folder("llama")))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with ExitStack() as stack:
        racers = [
            stack.enter_context(subprocess.Popen([sys.executable, "-c", script, str(n)], **pipes))
            for n in range(2)
        ]
        for racer in racers:
            assert racer.stdout.readline() == "ready\n"
        for trial in range(20):
            out = tmp_path / f"race{trial}"
            for racer in racers:
                racer.stdin.write(f"{out}\n")
                racer.stdin.flush()
            for racer in racers:
                assert racer.stdout.readline() == "done True\n"
            assert verify_run(out).whole
            assert_same_run(single, open_run(out))
            assert not list((out / "parts").glob("*.claim"))
        for racer in racers:
            racer.stdin.close()
        told = [racer.stderr.read() for racer in racers]
    assert all("plays parts of this run too" in text for text in told), told
    tokens = [read_manifest(tmp_path / f"race{t}")["timings"]["tokens"] for t in range(20)]
    assert set(tokens) == {single.manifest["timings"]["tokens"]}


def test_a_part_of_a_process_that_died_is_taken_over(llama, whole, copy, monkeypatch):
    monkeypatch.setattr(playing, "WAIT", 0.01)
    part = parts_of(copy.manifest)[1]
    part.file(copy.path).unlink()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    claim = part.file(copy.path).with_name(part.name + claims.SUFFIX)
    claim.write_text(json.dumps({"host": socket.gethostname(), "pid": ended.pid}))
    assert_same_run(whole, played(llama, copy.path))
    assert not claim.exists()


def test_parts_have_names_that_sort_in_playing_order():
    parts = [Part(0, 4, 0, 3), Part(4, 4, 0, 3), Part(0, 4, 3, 6)]
    assert parts[0].name == "items-00000-00003.rounds-0-2.zip"
    assert sorted(parts, key=lambda p: p.name) == [parts[0], parts[2], parts[1]]


# ------------------------------------------------------------------------------------------- not silently
@pytest.mark.parametrize("read", [lambda run: run.residuals.values, lambda run: run.answers])
def test_parts_that_were_swapped_are_not_read_as_each_other(copy, read):
    first, second, _ = archives_of(copy)
    first.rename(first.with_suffix(".aside"))
    second.rename(first)
    first.with_suffix(".aside").rename(second)
    with pytest.raises(archives.DamagedError, match=f"{first.name} belongs to .* other items or rounds"):
        read(open_run(copy.path))


def test_a_part_of_another_run_is_not_read(llama, copy, tmp_path):
    other = played(llama, tmp_path / "other", protocol=replace(SHORT, temperature=1.0))
    for mine, its in zip(archives_of(copy), archives_of(other), strict=True):
        shutil.copy(its, mine)
    with pytest.raises(archives.DamagedError, match="belongs to another run"):
        _ = open_run(copy.path).residuals.values


def edited(copy, change):
    file = copy.path / "manifest.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))
    return copy.path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["study"]["design"].update(rounds=9), "do not hold every item in every round"),
        (lambda m: m["study"]["design"].update(rounds=1), "do not hold every item in every round"),
        (lambda m: m["study"]["design"].update(rounds=10**9), "do not hold every item in every round"),
        (lambda m: m["study"]["design"].update(rounds="2"), "lacks rounds"),
        (lambda m: m.update(parts=m["parts"] * 2), "do not hold every item in every round"),
        (lambda m: m["parts"].append([0, 1, 0, 3]), "do not hold every item in every round"),
        (lambda m: m["parts"].append([5, 9, 0, 3]), "do not hold every item in every round"),
        (lambda m: m["parts"].pop(), "do not hold every item in every round"),
        (lambda m: m["parts"].clear(), "do not hold every item in every round"),
        (lambda m: m["order"].append("none"), "do not name the same items"),
        (lambda m: m["order"].append(m["order"][0]), "do not name the same items"),
        (lambda m: m["order"].pop(), "do not name the same items"),
        (lambda m: m["places"].pop(), "do not name the same items"),
        (lambda m: m.update(order=[[1]] * 5), "do not name the same items"),
        (lambda m: m.update(stored={}), "lacks layers, keep, dtype"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_damaged(copy, change, message):
    with pytest.raises(ValueError, match=rf"manifest\.json is damaged: .*{message}"):
        open_run(edited(copy, change))


@pytest.mark.parametrize(
    "change", [lambda m: m["stored"].update(layers=[0, 1]), lambda m: m["study"]["model"].update(d_model=16)]
)
def test_a_manifest_with_other_layers_gives_no_values_under_wrong_names(copy, change):
    with pytest.raises(archives.DamagedError, match="belongs to another run"):
        _ = open_run(edited(copy, change)).residuals.values


def test_a_copy_of_the_lazy_residuals_can_be_written_to(whole):
    mine = whole.residuals.copy()
    mine[0] = 0.0
    assert not mine[0].values.any()
    assert whole.residuals[0].values.any()


def test_a_part_is_played_by_number_after_the_earlier_rounds_of_its_items(llama, tmp_path):
    """Nobody else plays those, so waiting for them would never end."""
    one = replace(QUICK, design=replace(QUICK.design, rounds=1))
    two = replace(QUICK, design=replace(QUICK.design, rounds=2))
    for protocol in (one, two):
        run = prepare(llama, make_questions(4), out=tmp_path / "run", protocol=protocol, fitting=TWO)
    play_parts(llama, run.path, numbers=[3], progress=False)
    assert [part.done(run.path) for part in parts_of(run.manifest)] == [False, True, False, True]


@pytest.mark.parametrize("what", ["tokenizer", "feedback"])
def test_parts_are_not_played_with_another_tokenizer_or_file_of_feedback(zoo_folder, tmp_path, what):
    folder, said = shutil.copytree(zoo_folder("llama"), tmp_path / "m"), tmp_path / "feedback.jsonl"
    said.write_text("".join(json.dumps({"item": f"q{i}", "feedback": "Look."}) + "\n" for i in range(3)))
    protocol = replace(QUICK, feedback="file", feedback_from=str(said), feedback_tokens=20)
    model = load_model(folder, device="cpu")
    run = prepare(model, make_questions(3), out=tmp_path / "run", protocol=protocol, fitting=TWO)
    if what == "tokenizer":
        told = json.loads((folder / "tokenizer.json").read_text())
        told["normalizer"] = {"type": "Lowercase"}
        (folder / "tokenizer.json").write_text(json.dumps(told))
    else:
        said.write_text(said.read_text().replace("Look", "Read"))
    named = {"tokenizer": r"model\.tokenizer_sha256", "feedback": r"source\.exact"}[what]
    with pytest.raises(ValueError, match=f"was prepared with something else: {named}"):
        play_parts(load_model(folder, device="cpu"), run.path, progress=False)


@pytest.mark.parametrize(("items", "rounds"), [(5, 1), (3, 2)])
def test_who_plays_while_another_process_extends_the_run_plays_that_too(
    llama, tmp_path, monkeypatch, items, rounds
):
    more = replace(QUICK, design=replace(QUICK.design, rounds=rounds))
    real, extended = writing.commit, []

    def extending(path, part, batch):
        real(path, part, batch)
        if not extended:
            extended.append(prepare(llama, make_questions(items), out=path, protocol=more, fitting=TWO))

    monkeypatch.setattr(writing, "commit", extending)
    run = played(llama, tmp_path / "run", items=3, protocol=QUICK)
    assert run.complete
    assert (len(run.items), run.design.rounds) == (items, rounds)
    assert verify_run(run.path).whole


def test_a_run_is_read_while_its_items_are_written_and_its_manifest_is_not_yet(llama, tmp_path, monkeypatch):
    out = played(llama, tmp_path / "run", items=3, protocol=QUICK).path
    before, real, seen = open_run(out), writing.write_json, []

    def slow(path, *given, **more):
        seen.append(len(open_run(out).answers))
        return real(path, *given, **more)

    monkeypatch.setattr(writing, "write_json", slow)
    prepare(llama, make_questions(5), out=out, protocol=QUICK, fitting=TWO)
    assert seen == [3 * 8 * 2]
    assert len(before.answers) == 3 * 8 * 2, "a run that was open stays what it was"


def test_lines_after_the_items_are_no_items_and_are_named(copy, whole):
    file = copy.path / "items.jsonl"
    file.write_text(file.read_text() + file.read_text().splitlines()[0].replace('"q0"', '"z0"') + "\n")
    pd.testing.assert_frame_equal(open_run(copy.path).answers, whole.answers)
    assert "items.jsonl holds other lines" in str(verify_run(copy.path))


@pytest.mark.parametrize("layers", [(2.0, 1), (True,), ("1",), "12", (1.5,), (0, 0), ()])
def test_layers_are_whole_numbers(layers):
    with pytest.raises(ValueError, match="layers must be one or more different whole numbers"):
        storage.whole_numbers(layers)


def test_integers_of_every_kind_are_layers():
    assert json.dumps(storage.whole_numbers(np.array([1, -1]))) == "[1, -1]"


def test_nothing_is_written_through_a_link_in_a_run_s_folder(llama, copy, tmp_path):
    target = tmp_path / "precious"
    target.write_text("precious")
    part = parts_of(copy.manifest)[0].file(copy.path)
    part.unlink()
    for name in (".lock", f"parts/{part.name}.claim", f"parts/{part.name}", "manifest.json", "items.jsonl"):
        link = copy.path / name
        content = link.read_bytes() if link.is_file() else None
        link.unlink(missing_ok=True)
        if content is not None:
            target.write_bytes(content)
        before = target.read_bytes()
        link.symlink_to(target)
        with suppress(ValueError, OSError):
            played(llama, copy.path)
        assert target.read_bytes() == before, name
        link.unlink(missing_ok=True)
        if content is not None:
            link.write_bytes(content)
    linked = tmp_path / "linked"
    shutil.copytree(copy.path, linked)
    shutil.move(linked / "parts", tmp_path / "elsewhere")
    (linked / "parts").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="is a symbolic link"):
        played(llama, linked)


def test_a_run_that_is_extended_before_it_is_played_has_every_round_once(llama, tmp_path):
    for rounds in (1, 2):
        more = replace(SHORT, design=replace(SHORT.design, rounds=rounds))
        prepare(llama, make_questions(4), out=tmp_path / "run", protocol=more, fitting=TWO)
    play_parts(llama, tmp_path / "run", progress=False)
    run, once = finish(tmp_path / "run"), played(llama, tmp_path / "once", items=4)
    pd.testing.assert_frame_equal(run.answers, once.answers)
    assert len(run.transcripts) == len(once.transcripts)
    assert not run.answers.duplicated(["item", "instruction", "cot", "feedback", "round"]).any()
