"""Replies from a server: the run is the one that the engine plays, and what differs is counted."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import zoo
from conftest import make_questions
from rounds import test_thinking as thinking
from server import ModelServer, Server, completion
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

import morality_lens as ml
from morality_lens.design import SITES, Design, Protocol
from morality_lens.items.bundled import asset
from morality_lens.models.loading import load_model, record_of
from morality_lens.progress import listening
from morality_lens.rounds import elsewhere
from morality_lens.rounds.playing import play
from morality_lens.rounds.preflight import Fitting
from morality_lens.runs.run import open_run

SERVED = ("served_tokens", "served_differ", "served_recoded", "served_prompts")
DESIGN = Design(rounds=2, sites=SITES + Design().segments)
PROTOCOL = Protocol(design=DESIGN, answer_tokens=12, rationale_tokens=16, feedback_tokens=16)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(elsewhere, "RETRIES", 0)


@pytest.fixture(scope="module")
def model():
    return load_model(None, device="cpu")


@pytest.fixture
def server(model):
    one = serve(model)
    yield one
    one.close()


def serve(model) -> ModelServer:
    record = record_of(model)
    return ModelServer(record.lm.module, record.renderer.tokenizer, stops=sorted(record.stops))


def served(protocol: Protocol, server: ModelServer, **more) -> Protocol:
    where = {"generate_from": server.address, "generate_model": "m", **more}
    return replace(protocol, generate="endpoint", **where)


def assert_same(one, two) -> None:
    """Two runs with the same texts, tokens, probabilities and residuals."""
    columns = [c for c in one.answers.columns if c not in SERVED]
    assert columns == [c for c in two.answers.columns if c not in SERVED]
    keys = ["item", *one.design.names, "round"]  # rounds that were added later stand behind

    def ordered(table: pd.DataFrame) -> pd.DataFrame:
        return table.sort_values(keys).reset_index(drop=True)

    pd.testing.assert_frame_equal(ordered(one.answers)[columns], ordered(two.answers)[columns])
    first, second = (ordered(run.transcripts).to_dict("records") for run in (one, two))
    for ours, theirs in zip(first, second, strict=True):
        assert list(ours["token_ids"]) == list(theirs["token_ids"])
        assert list(ours["spans"]) == list(theirs["spans"])
    ours, theirs = one.residuals.values, two.residuals.values
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    gap = np.linalg.norm(ours - theirs, axis=-1) / np.linalg.norm(ours, axis=-1)
    assert np.nanmax(gap) < 1e-4
    for name in ("option_probabilities", "option_mass"):
        ours, theirs = getattr(one, name).values, getattr(two, name).values
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6, err_msg=name)


def test_a_server_with_the_same_model_makes_the_run_that_the_engine_makes(model, server, tmp_path):
    items = ml.load_items(limit=4)
    fitting = Fitting(batch_size=3)
    own = play(model, items, out=tmp_path / "own", protocol=PROTOCOL, fitting=fitting, progress=False)
    run = play(
        model,
        items,
        out=tmp_path / "run",
        protocol=served(PROTOCOL, server),
        fitting=fitting,
        progress=False,
    )
    assert_same(own, run)
    assert np.isfinite(run.residuals.values).any()
    found = run.manifest["agreement"]
    assert found == {"tokens": found["tokens"], "differ": 0, "recoded": 0, "prompts": 0, "share": 0.0}
    assert found["tokens"] > run.answers["n_tokens"].sum() / 2
    assert run.manifest["study"]["generate"] == {"from": server.address, "model": "m"}
    asked = [(str(body["messages"]), body["max_tokens"]) for body in server.asked]
    assert len(set(asked)) == len(asked), "nothing is asked twice"


# --------------------------------------------------------------- any template, thoughts, other tokenizers
SHORTENING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content if m.role == 'user' or loop.last else m.content[:4] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PLAY = {
    "kept": (zoo.CHATML, {}),
    "trimmed": (zoo.TRIMMING, {}),
    "plain": (None, {}),
    "rewritten": (SHORTENING, {}),
    "thoughts kept": (thinking.KEEPING, {"thinking_tokens": 8}),
    "thoughts forgotten": (thinking.FORGETTING, {"thinking_tokens": 8}),
    "thoughts begun": (thinking.BEGUN, {"thinking_tokens": 8}),
}


def letters_tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    """A tokenizer with a token a character: whatever it decodes is encoded as it was."""
    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    signs = [*special, *map(chr, range(32, 127)), "\n"]
    backend = Tokenizer(models.WordLevel({sign: n for n, sign in enumerate(signs)}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="?",
        additional_special_tokens=special[2:],
    )
    made.add_tokens(["<think>", "</think>"])
    made.chat_template = template
    return made


def letters_model(folder: Path, template: str | None):
    """A random model with such a tokenizer, for which a fifth of all tokens end a reply."""
    tokenizer = letters_tokenizer(template)
    torch.manual_seed(1)
    config = LlamaConfig(**{**zoo.GROUPED, "vocab_size": len(tokenizer), "max_position_embeddings": 6000})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    found = load_model(folder, device="cpu")
    record = record_of(found)
    odd = tokenizer.convert_tokens_to_ids(["?", "<think>"])  # decoding leaves one out, and spells the other
    stops = record.stops | {*range(40, 100, 5), *odd}
    object.__setattr__(found, "morality_lens_record", replace(record, stops=stops))
    return found


@pytest.mark.filterwarnings("ignore:the chat template of")
@pytest.mark.parametrize("name", PLAY)
def test_every_template_gives_the_same_run_from_a_server(name, tmp_path):
    template, more = PLAY[name]
    found = letters_model(tmp_path / "m", template)
    record = record_of(found)
    tokenizer = record.renderer.tokenizer
    tokenizer.chat_template = record.renderer.template
    server = ModelServer(record.lm.module, tokenizer, stops=sorted(record.stops))
    if more:
        opening = "" if name == "thoughts begun" else "<think>\n"
        server.marks = (opening, "</think>\n\n", tokenizer.convert_tokens_to_ids("</think>"))
    sites = SITES + Design().segments
    protocol = replace(
        PROTOCOL, design=Design(rounds=2, sites=sites), answer_tokens=6, rationale_tokens=8, **more
    )
    fitting = Fitting(batch_size=2)
    try:
        own, run = (
            play(found, make_questions(2), out=tmp_path / o, protocol=p, fitting=fitting, progress=False)
            for o, p in (("own", protocol), ("run", served(protocol, server)))
        )
    finally:
        server.close()
    assert record.prefix_reuse == (name in ("kept", "trimmed", "plain", "thoughts kept"))
    assert_same(own, run)
    assert run.manifest["agreement"]["differ"] == 0
    assert run.manifest["agreement"]["recoded"] == 0
    assert run.manifest["agreement"]["tokens"] > 100
    assert 0 < run.answers["stopped"].mean() < 1
    if more:
        assert 0 < run.answers["thinking_cut"].mean() < 1


# ------------------------------------------------------------------------------------- what goes wrong
SHORT = replace(PROTOCOL, design=Design(rounds=1), answer_tokens=6, rationale_tokens=6, feedback_tokens=6)


def played(model, server, out: Path, protocol: Protocol = SHORT, count: int = 2, **more):
    """A run of a few questions, an item a batch."""
    return play(
        model,
        ml.load_items(limit=count),
        out=out,
        protocol=served(protocol, server, **more),
        fitting=Fitting(batch_size=1),
        progress=False,
    )


def test_a_server_that_writes_other_tokens_is_seen_in_every_answer(model, server, tmp_path):
    (fair,) = record_of(model).renderer.tokenizer(" fair", add_special_tokens=False).input_ids
    server.change = lambda ids: [*ids[:-1], fair] if ids else ids
    heard: list[str] = []
    with listening(heard.append):
        run = played(model, server, tmp_path / "run")
    answers = run.answers
    assert (answers["served_differ"] <= answers["served_tokens"]).all()
    assert (answers["served_differ"] > 0).mean() > 0.5
    assert run.manifest["agreement"]["share"] > 0.1
    assert sum("not the most probable ones" in line for line in heard) == 1


def test_token_ids_of_a_server_are_used_as_they_are(model, server, tmp_path):
    tokenizer = record_of(model).renderer.tokenizer
    ids = tokenizer.convert_tokens_to_ids(["B", "A"])
    assert tokenizer(tokenizer.decode(ids), add_special_tokens=False).input_ids != ids
    server.ids = True
    server.change = lambda _: ids
    run = played(model, server, tmp_path / "run", generate_request={"return_token_ids": True})
    row = run.transcripts.iloc[0]
    span = next(s for s in row["spans"] if s["name"] == "answer")
    assert list(row["token_ids"][span["start"] : span["stop"]]) == ids
    assert all(body["return_token_ids"] for body in server.asked)
    assert run.manifest["study"]["generate"]["request"] == {"return_token_ids": True}


def test_a_server_with_another_template_or_counts_is_seen(model, server, tmp_path):
    tokenizer = server.tokenizer
    server.tokenizer = type(tokenizer)(
        tokenizer_object=tokenizer.backend_tokenizer, **tokenizer.special_tokens_map
    )
    server.tokenizer.chat_template = tokenizer.chat_template.replace("<user>", "<user>Hello. ")
    heard: list[str] = []
    with listening(heard.append):
        run = played(model, server, tmp_path / "run")
    assert "another template or tokenizer" in heard[0]
    found = run.manifest["agreement"]
    opening, later = run.answers["round"] == 0, run.answers["round"] == 1
    assert (run.answers.loc[opening, "served_prompts"] == 1).all()
    assert (run.answers.loc[later, "served_prompts"] >= 1).all()
    assert found["prompts"] == run.answers.loc[later, "served_prompts"].sum() + 2


def test_a_run_that_was_interrupted_asks_only_for_what_is_missing(model, server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    whole = played(model, server, tmp_path / "whole")
    every = len(server.asked)
    server.asked.clear()
    server.fail = lambda number: 500 if number > every * 2 // 3 else None
    with pytest.raises(ConnectionError) as caught:
        played(model, server, tmp_path / "run")
    line = str(caught.value)
    assert "m at http://127.0.0.1" in line
    assert "(key)" in line
    assert "Finished batches and its earlier replies are kept" in line
    assert "\n" not in line
    assert len(open_run(tmp_path / "run").items) == 1
    answered = every * 2 // 3
    server.asked.clear()
    server.fail = lambda _: None
    assert_same(whole, played(model, server, tmp_path / "run"))
    assert len(server.asked) == every - answered, "replies that came are not asked for again"
    held = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert b"sk-secret" not in held
    server.asked.clear()
    assert played(model, server, tmp_path / "run").complete
    assert not server.asked


def test_a_server_that_is_gone_is_one_line_before_anything_is_written(model, server, tmp_path):
    server.close()
    with pytest.raises(ConnectionError, match=r"no reply from m at .*: repair the connection"):
        played(model, server, tmp_path / "run")
    assert not (tmp_path / "run").exists()


ODD = [
    (completion(None), "of 8 replies are empty"),
    (completion("", reasoning_content=""), "of 8 replies are empty"),
    (completion(None, refusal="I cannot."), "the server refuses: I cannot."),
    (completion("It", "content_filter"), "its content filter was on"),
    ({"error": {"message": "no such model: m"}, "choices": None}, "it says: no such model: m"),
    ({**completion(""), "choices": []}, "a reply without a choice"),
]


@pytest.mark.parametrize(("reply", "said"), ODD, ids=[said for _, said in ODD])
def test_replies_that_cannot_be_used_are_one_line(model, tmp_path, reply, said):
    server = Server()
    server.replies = [completion("A")]  # the first one is that of the trial
    server.always = reply
    items = make_questions(8)
    try:
        with pytest.raises(ConnectionError) as caught:
            play(
                model,
                items,
                out=tmp_path / "run",
                protocol=served(SHORT, server),
                fitting=Fitting(batch_size=8),
                progress=False,
            )
    finally:
        server.server.shutdown()
        server.server.server_close()
    assert said in str(caught.value)
    assert "Finished batches and its earlier replies are kept" in str(caught.value)


def test_answers_begin_as_wanted_only_where_the_server_continues_them(model, server, tmp_path):
    protocol = replace(SHORT, answer_prefix="Answer:")
    for continues in (None, False):
        server.continues = continues
        with pytest.raises(ValueError, match="does not continue a reply that is begun for it") as caught:
            played(model, server, tmp_path / "refused", protocol)
        assert "generate='engine'" in str(caught.value)
        assert not (tmp_path / "refused").exists()
    server.continues = True
    run = played(model, server, tmp_path / "run", protocol)
    fitting = Fitting(batch_size=1)
    items = ml.load_items(limit=2)
    own = play(model, items, out=tmp_path / "own", protocol=protocol, fitting=fitting, progress=False)
    assert_same(own, run)
    assert run.manifest["agreement"]["differ"] == 0


@pytest.mark.filterwarnings("ignore:the chat template of")
def test_thoughts_are_skipped_by_the_template_alone(tmp_path):
    found = letters_model(tmp_path / "m", thinking.FORGETTING)
    record = record_of(found)
    server = ModelServer(record.lm.module, record.renderer.tokenizer, stops=sorted(record.stops))
    protocol = replace(SHORT, thinking_tokens=0)
    try:
        with pytest.raises(ValueError, match="enable_thinking=false"):
            played(found, server, tmp_path / "refused", protocol)
        prefixed = replace(SHORT, thinking_tokens=4, answer_prefix="Answer:")
        with pytest.raises(ValueError, match="leave out answer_prefix"):
            played(found, server, tmp_path / "refused", prefixed)
        found = load_model(tmp_path / "m", device="cpu", template_keywords={"enable_thinking": False})
        assert played(found, server, tmp_path / "run", protocol, count=1).complete
        assert all(b["chat_template_kwargs"] == {"enable_thinking": False} for b in server.asked)
    finally:
        server.close()


def test_draws_have_seeds_of_their_own_and_nothing_is_asked_twice_at_temperature_zero(
    model, server, tmp_path
):
    run = played(model, server, tmp_path / "hot", replace(SHORT, temperature=0.7), count=1)
    seeds = [body["seed"] for body in server.asked[1:]]
    assert len(set(seeds)) == len(seeds) > 10
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert run.manifest["agreement"]["tokens"] > 0
    server.asked.clear()
    played(model, server, tmp_path / "cold", count=1)
    assert {body["seed"] for body in server.asked} == {0}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"generate": "endpoint"}, "needs the name of the server's model"),
        ({"generate_from": "http://x/v1"}, "with them generate='endpoint' is needed"),
        ({"generate_model": "m"}, "with them generate='endpoint' is needed"),
        ({"generate_request": {"top_p": 1}}, "got generate='engine' and top_p"),
        (
            {"generate": "endpoint", "generate_model": "m", "generate_request": {"seed": 1}},
            "settings of their",
        ),
        ({"generate": "endpoint", "generate_model": "m", "generate_from": "http://u:p@x"}, "no secret"),
        (
            {"generate": "endpoint", "generate_model": "m", "generate_request": {"api_key": "x"}},
            "no secret",
        ),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(more, said):
    with pytest.raises(ValueError, match=said):
        Protocol(**more)


def test_a_run_is_extended_by_rounds_that_a_server_writes(model, server, tmp_path):
    longer = replace(SHORT, design=Design(rounds=2))
    played(model, server, tmp_path / "run")
    once = len(server.asked)
    run = played(model, server, tmp_path / "run", longer)
    assert run.design.rounds == 2
    items, fitting = ml.load_items(limit=2), Fitting(batch_size=1)
    own = play(model, items, out=tmp_path / "own", protocol=longer, fitting=fitting, progress=False)
    assert_same(own, run)
    assert run.manifest["agreement"]["differ"] == 0
    assert run.manifest["agreement"]["tokens"] > 0
    assert once < len(server.asked) < 2.5 * once


def test_the_command_line_plays_with_a_server(server, command, tmp_path):
    config = tmp_path / "short.toml"
    config.write_text("[protocol]\nanswer_tokens = 4\nrationale_tokens = 4\nfeedback_tokens = 4\n")
    options = ["--config", config, "--limit", 2, "--rounds", 1, "--device", "cpu", "--anyway"]
    code, _, err = command("run", *options, "--out", tmp_path / "a", "--generate-from", server.address)
    assert (code, "needs the name of the server's model as generate_model" in err) == (2, True)
    server.fail = lambda _: 404
    where = ["--generate-from", server.address, "--generate-model", "m"]
    code, _, err = command("run", *options, "--out", tmp_path / "a", *where)
    assert code == 2
    assert err.strip().splitlines()[-1].startswith("error: no reply from m at http://127.0.0.1")
    assert not (tmp_path / "a").exists()


# ---------------------------------------------------------------------------------- transformers' server
@pytest.fixture
def transformers_serve(tmp_path):
    """The address of `transformers serve`, and the folder of the model that it serves."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [str(Path(sys.executable).with_name("transformers")), "serve", "--device", "cpu"]
    command += ["--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    try:
        for _ in range(240):
            assert process.poll() is None, (tmp_path / "log").read_text()[-2000:]
            try:
                urllib.request.urlopen(f"{address}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.5)
        yield f"{address}/v1"
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.mark.slow(seconds=60)
def test_transformers_own_server_makes_the_run_that_the_engine_makes(model, transformers_serve, tmp_path):
    items, fitting = ml.load_items(limit=2), Fitting(batch_size=2)
    own = play(model, items, out=tmp_path / "own", protocol=SHORT, fitting=fitting, progress=False)
    protocol = replace(
        SHORT,
        generate="endpoint",
        generate_from=transformers_serve,
        generate_model=str(asset("world", "organism")),
    )
    run = play(model, items, out=tmp_path / "run", protocol=protocol, fitting=fitting, progress=False)
    assert_same(own, run)
    found = run.manifest["agreement"]
    assert (found["differ"], found["recoded"], found["prompts"]) == (0, 0, 0)
    prefixed = replace(protocol, answer_prefix="Answer:")
    with pytest.raises(ValueError, match="does not continue a reply that is begun for it"):
        play(model, items, out=tmp_path / "refused", protocol=prefixed, progress=False)
