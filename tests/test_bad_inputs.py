"""Whatever a user gives the command line: one clear line and exit code 2, before a model is loaded."""

import json
import random
import shutil
from pathlib import Path

import pytest
import typer
from conftest import make_questions
from hypothesis import HealthCheck, given, settings, strategies as st

from morality_lens.cli import checking, circuits, console, probing, scoring
from morality_lens.design import Design, Protocol
from morality_lens.models.loading import load_model
from morality_lens.report import analysis, writing
from morality_lens.rounds.playing import play

REACHED = 77
"""The exit code in place of loading a model or estimating effects."""
BAD = settings(
    max_examples=70,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
LIKELY = [
    *(
        "",
        " ",
        "[bold]x[/bold]",
        "[/]",
        "[red",
        "\\",
        "a/b/c",
        "/",
        ".",
        "..",
        "~",
        "-1",
        "0",
        "1e999",
        "nan",
    ),
    *(
        "inf",
        "99",
        "null",
        "true",
        "{",
        '{"a": 1, "a": 2}',
        "é",
        "\u2028",
        "\x1b[31m",
        "x" * 300,
        "x=[",
        "=1",
    ),
    *("http://", "http://[", "nope", "https://u:hunter2@h/v1", "https://h/v1?key=hunter2", "hub/none", "%s"),
]
texts = st.one_of(st.sampled_from(LIKELY), st.text(st.characters(exclude_characters="\x00"), max_size=12))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), texts),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=5,
)


def reached(*arguments: object, **named: object) -> None:
    raise typer.Exit(REACHED)


@pytest.fixture
def nothing_loaded(monkeypatch):
    """Commands that end where a model would be loaded or effects estimated."""
    for place, name in (
        *((console, "load"), (checking, "load"), (console, "reload"), (probing, "reload")),
        *((circuits, "reload"), (scoring, "reload"), (analysis, "analyze"), (writing, "analyze")),
    ):
        monkeypatch.setattr(place, name, reached)


def refused(command, *arguments: object) -> bool:
    """Whether the command refused its arguments in one line; what it takes ends before a model."""
    code, _, err = command(*arguments)
    assert code in (0, 2, REACHED), (arguments, code, err[-800:])
    assert "Traceback" not in err
    assert "hunter2" not in err or "hunter2" in " ".join(map(str, arguments))
    if code == 2 and "Usage" not in err:
        assert [line for line in err.splitlines() if line.startswith("error: ")] == [err.splitlines()[-1]]
        assert len(err.splitlines()[-1]) > 20
    return code == 2


OPTIONS = {
    "run": (
        *(
            "--model",
            "--data",
            "--statements",
            "--rounds",
            "--limit",
            "--seed",
            "--feedback-from",
            "--config",
        ),
        *(
            "--judge",
            "--batch-size",
            "--dtype",
            "--template",
            "--answer-prefix",
            "--system-prompt",
            "--probe",
        ),
    ),
    "study": ("--prompts", "--evidence", "--judge", "--rounds", "--seed", "--wording", "--feedback-from"),
    "check": ("--template", "--model"),
    "probe": ("--statements", "--kind", "--seed"),
    "report": ("--out",),
    "analyze": ("--seed",),
    "patch": ("--source", "--target", "--factors", "--limit", "--round", "--layer"),
    "attribute": ("--site", "--effect", "--round"),
}


@pytest.mark.slow(seconds=20)
@BAD
@given(data=st.data())
def test_no_option_makes_a_traceback(command, nothing_loaded, tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    name = data.draw(st.sampled_from(sorted(OPTIONS)))
    option, text = data.draw(st.sampled_from(OPTIONS[name])), data.draw(texts)
    source = data.draw(st.sampled_from(["self", "endpoint", "file", "model"]))
    given = ("--feedback", source, "--feedback-model", "m") if option == "--feedback-from" else ()
    folder = (data.draw(texts),) if name in ("probe", "report", "analyze", "patch", "attribute") else ()
    refused(command, name, *given, option, text, *(["--", *folder] if folder else []))


CONFIG = {
    "limit": 4,
    "seed": 0,
    "out": "runs/x",
    "probe": "mean_difference",
    "protocol": {
        "temperature": 0.5,
        "wording_index": 0,
        "feedback": "self",
        "design": {"rounds": 1, "seed": 0, "sites": ["answer_start"]},
    },
}


@pytest.mark.slow(seconds=20)
@BAD
@given(data=st.data())
def test_no_file_makes_a_traceback(command, nothing_loaded, tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    row = {
        "id": "a",
        "context": "A Vel and a Tor met.",
        "question": "Who was kind?",
        "options": ["The Vel", "Not known", "The Tor"],
        "unknown": 1,
        "label": 1,
    }
    statement = {"id": "s", "cluster": "c", "text": "It was kind.", "label": 1}
    option, good = data.draw(
        st.sampled_from([("--data", row), ("--statements", statement), ("--config", CONFIG)])
    )
    if data.draw(st.booleans()):
        content = data.draw(st.binary(max_size=30))
    else:
        content = changed(good, data).encode("utf-8", "surrogatepass")
        if option == "--config":
            content = as_toml(json.loads(content)).encode("utf-8", "replace")
    file = tmp_path / ("x.toml" if option == "--config" else "[b]x.jsonl")
    file.write_bytes(content)
    refused(command, "run", option, file)


def changed(good: dict, data: st.DataObject) -> str:
    """A row in which one value, also one inside, is another."""
    row = json.loads(json.dumps(good))
    place = row
    while True:
        key = data.draw(st.sampled_from(sorted(place)))
        if not isinstance(place[key], dict) or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(values)
    return json.dumps(row)


def as_toml(value: object) -> str:
    """A table as one line of TOML for each of its entries, inner tables in braces."""

    def plain(one: object) -> str:
        if isinstance(one, dict):
            return "{" + ", ".join(f"{json.dumps(k)} = {plain(v)}" for k, v in one.items()) + "}"
        if isinstance(one, list):
            return "[" + ", ".join(map(plain, one)) + "]"
        return "nan" if one is None else json.dumps(one).replace("Infinity", "inf").replace("NaN", "nan")

    assert isinstance(value, dict)
    return "".join(f"{json.dumps(k)} = {plain(v)}\n" for k, v in value.items())


@pytest.fixture(scope="module")
def played(zoo_folder, tmp_path_factory):
    """The folder of a small run with a probe, results and transcripts."""
    out = tmp_path_factory.mktemp("played") / "run"
    model = load_model(zoo_folder("llama"))
    play(model, make_questions(2), out=out, protocol=Protocol(design=Design(rounds=1)), progress=False)
    return out


FOREIGN = ["manifest.json", "items.jsonl", "probe.safetensors", "coloured.json", "inside/steered.zarr.zip"]


@pytest.mark.slow(seconds=20)
@BAD
@given(data=st.data())
def test_no_foreign_file_in_a_run_makes_a_traceback(command, nothing_loaded, played, tmp_path, data):
    run = tmp_path / "[i]run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(played, run)
    file = run / data.draw(st.sampled_from(FOREIGN))
    file.parent.mkdir(exist_ok=True)
    here = file.read_bytes() if file.is_file() else b""
    kind = data.draw(st.sampled_from(["bytes", "value", "cut", "changed", "empty"]))
    number = random.Random(data.draw(st.integers(0, 10**6)))
    if kind == "bytes":
        file.write_bytes(data.draw(st.binary(max_size=40)))
    elif kind == "value":
        file.write_text(json.dumps(data.draw(values)), encoding="utf-8", errors="replace")
    elif kind == "cut":
        file.write_bytes(here[: number.randrange(len(here) + 1)])
    elif kind == "changed" and file.name == "manifest.json":
        file.write_text(without_one(json.loads(here), number))
    else:
        file.write_bytes(b"")
    name = data.draw(st.sampled_from(["report", "analyze", "probe", "score", "patch", "attribute"]))
    refused(command, name, run)


def without_one(manifest: dict, number: random.Random) -> str:
    """A manifest in which one entry is missing or of another kind."""
    place = manifest
    while True:
        key = number.choice(sorted(place))
        if not isinstance(place[key], dict) or not place[key] or number.random() < 0.3:
            break
        place = place[key]
    place[key] = number.choice([None, [], {}, 0, "x"])
    if number.random() < 0.5:
        del place[key]
    return json.dumps(manifest)


# ------------------------------------------------------------------------------------------ one by one
def lines(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def one_class(folder: Path) -> tuple:
    rows = [{"id": f"s{n}", "cluster": f"c{n}", "text": f"It was {n}.", "label": 1} for n in range(6)]
    return ("--statements", lines(folder / "one.jsonl", *rows))


def one_cluster(folder: Path) -> tuple:
    rows = [{"id": f"s{n}", "cluster": "c", "text": f"It was {n}.", "label": n % 2} for n in range(6)]
    return ("--statements", lines(folder / "one.jsonl", *rows))


def config(text: str):
    def make(folder: Path) -> tuple:
        (folder / "c.toml").write_text(text)
        return ("--config", folder / "c.toml")

    return make


def server(address: str):
    return lambda folder: ("--feedback", "endpoint", "--feedback-model", "m", "--feedback-from", address)


def deep(folder: Path) -> tuple:
    (folder / "deep.jsonl").write_text("[" * 200_000)
    return ("--data", folder / "deep.jsonl")


def twice(folder: Path) -> tuple:
    (folder / "twice.jsonl").write_text('{"id": "a", "id": "b"}\n')
    return ("--data", folder / "twice.jsonl")


def half(folder: Path) -> tuple:
    (folder / "half.jsonl").write_text('{"id": "\\ud800"}\n')
    return ("--data", folder / "half.jsonl")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (one_class, "one.jsonl: a probe needs statements of both labels"),
        (one_cluster, "one.jsonl: held-out quality needs 3 or more clusters in each class"),
        (lambda folder: ("--judge", folder), "is no toxicity classifier"),
        (lambda folder: ("--judge", ""), "judge: it is blank"),
        (lambda folder: ("--out", ""), "the output folder (--out) is empty"),
        (lambda folder: ("--out", lines(folder / "f") / "x"), "/f is no folder"),
        (lambda folder: ("--batch-size", 0), "--batch-size"),
        (lambda folder: ("--limit", 0), "--limit"),
        (lambda folder: ("--seed", -1), "--seed"),
        (server("nope"), "the address of a server begins with http:// or https://"),
        (server("http://"), "the address of a server begins with http:// or https://"),
        (server("http://host:port/v1"), "the address of a server begins with http:// or https://"),
        (server("ftp://host/v1"), "the address of a server begins with http:// or https://"),
        (config("limit = 0"), "limit: Input should be greater than or equal to 1"),
        (config("batch_size = 0"), "batch_size: Input should be greater than or equal to 1"),
        (config("seed = -1"), "seed: Input should be greater than or equal to 0"),
        (config('out = ""'), "out: it is blank or holds a null character"),
        (config('out = "a\\u0000b"'), "out: it is blank or holds a null character"),
        (config('model = " "'), "model: it is blank"),
        (config("protocol.temperature = inf"), "temperature must be a finite number"),
        (config("protocol.temperature = nan"), "temperature must be a finite number"),
        (config("protocol.temperature = -1"), "temperature must be a finite number"),
        (config("protocol.wording_index = 99"), "this wording has 5 alternatives"),
        (config("protocol.design.rounds = 0"), "at least one correction round"),
        (config("protocol.answer_tokens = 0"), "at least one token"),
        (config("limit = 1\nlimit = 2"), "is not valid TOML"),
        (config("a = " + "[" * 200_000), "nested too deeply"),
        (deep, "nested too deeply"),
        (twice, "the key 'id' is there twice"),
        (half, "it holds half of a character ('\\ud800')"),
        (lambda folder: ("--data", "b\udcffd"), "bytes that are not UTF-8"),
        (lambda folder: ("--template", "a=" + "[" * 200_000), "nested too deeply"),
        (lambda folder: ("--template", 'a={"b": 1, "b": 2}'), "the key 'b' is there twice"),
    ],
)
def test_what_can_be_known_before_a_model_is_loaded_is_refused_then(
    command, nothing_loaded, tmp_path, monkeypatch, make, message
):
    monkeypatch.chdir(tmp_path)
    code, _, err = command("run", *make(tmp_path))
    assert code == 2
    assert message in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err


def test_a_good_configuration_reaches_the_model(command, nothing_loaded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.toml").write_bytes(b"\xef\xbb\xbf" + as_toml(CONFIG).encode())
    assert command("run", "--config", tmp_path / "c.toml")[0] == REACHED


def test_the_key_in_an_address_is_not_repeated(command, nothing_loaded, tmp_path):
    for address in (
        "https://me:hunter2@host/v1",
        "https://host/v1?key=hunter2",
        "https://host/v1?code=hunter2",
    ):
        code, out, err = command("run", *server(address)(tmp_path), "--out", tmp_path / "r")
        assert code == 2
        assert "hunter2" not in out + err
        assert not (tmp_path / "r").exists()


def test_brackets_in_paths_and_names_are_shown_as_they_are(capsys):
    console.print_lines("[bold]x[/bold] [/]")
    console.print_path("wrote ", Path("[i]run[/i]"))
    console.print_table(["[red]a"], [["[/]"]], title="[b]t[/b]")
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("[bold]x[/bold] [/]", "[i]run[/i]", "[red]a", "[/]", "[b]t[/b]"))
