"""Replies from a server: the run is the one that the engine plays, and what differs is counted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import zoo
from conftest import make_questions
from rounds import test_thinking as thinking
from server import ModelServer
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

import morality_lens as ml
from morality_lens.design import SITES, Design, Protocol
from morality_lens.models.loading import load_model, record_of
from morality_lens.rounds import elsewhere
from morality_lens.rounds.playing import play
from morality_lens.rounds.preflight import Fitting

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
    pd.testing.assert_frame_equal(one.answers[columns], two.answers[columns])
    assert len(one.transcripts) == len(two.transcripts)
    for ours, theirs in zip(
        one.transcripts.to_dict("records"), two.transcripts.to_dict("records"), strict=True
    ):
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
