"""Context windows: their names, and rope that changes with the length of a batch."""

from dataclasses import replace

import pytest
import torch
import zoo
from conftest import make_questions
from transformers import BloomConfig, LlamaConfig, MptConfig, Phi3Config
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from morality_lens.design import Design, Protocol
from morality_lens.models import decoding
from morality_lens.models.loading import load_model, record_of
from morality_lens.models.self_test import self_test
from morality_lens.models.suffixes import branches_work
from morality_lens.models.windows import context_window
from morality_lens.rounds import play

LONG = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 4,
    "long_factor": [1.0, 2.0, 4.0, 8.0],
}
SIZES = {**zoo.SHAPE, "max_position_embeddings": 4096}


def phi3(switch: int) -> Phi3Config:
    scaling = LONG | {"original_max_position_embeddings": switch}
    return Phi3Config(
        **SIZES, num_key_value_heads=4, original_max_position_embeddings=switch, rope_parameters=scaling
    )


def llama(kind: str) -> LlamaConfig:
    return LlamaConfig(
        max_position_embeddings=512, rope_parameters={"rope_type": kind, "rope_theta": 1e4, "factor": 4.0}
    )


def save(config, folder):
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    zoo.make_tokenizer(zoo.CHATML).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        (LlamaConfig(max_position_embeddings=300), 300),
        (BloomConfig(seq_length=2048), 2048),
        (MptConfig(max_seq_len=1024), 1024),
        (phi3(512), 512),
        (phi3(4096), 4096),
        (llama("dynamic"), 512),
        (llama("linear"), 512),
    ],
)
def test_the_window_is_read_under_the_name_that_a_configuration_has_for_it(config, tokens):
    window = context_window(config)
    assert window.tokens == tokens
    assert bool(window.reason) == (window.tokens < window.stated)


def test_rope_of_several_kinds_of_layers_is_read_layer_by_layer():
    held = {"full": LONG | {"original_max_position_embeddings": 99}, "near": {"rope_type": "default"}}

    class Config:
        model_type = "made up"
        max_position_embeddings = 500
        rope_parameters = held

    assert context_window(Config()).tokens == 99


def test_a_configuration_without_a_window_is_refused():
    with pytest.raises(ValueError, match="states no context window"):
        context_window(BloomConfig())


@pytest.fixture(scope="module")
def longrope(tmp_path_factory):
    folder = save(phi3(512), tmp_path_factory.mktemp("phi3"))
    with pytest.warns(UserWarning, match="limited to 512 of the 4096 tokens"):
        return load_model(folder, device="cpu")


def test_a_long_row_would_change_the_short_one_beside_it(longrope):
    """What the limit is for, and that the self-test reads past the switch."""
    record = record_of(longrope)
    beyond = replace(record.lm, window=4096)
    with pytest.raises(ValueError, match="a row beside one at the end of the context window"):
        self_test(longrope, beyond, record.renderer)
    self_test(longrope, record.lm, record.renderer)  # and the model is as it was


def test_no_item_is_played_past_the_switch(longrope, tmp_path):
    protocol = Protocol(design=Design(rounds=1), answer_tokens=4, rationale_tokens=5, feedback_tokens=5)
    long = [replace(q, context="A Vel came. " * 60) for q in make_questions(1)]
    with pytest.raises(ValueError, match="context window of 512 tokens"):
        play(longrope, long, out=tmp_path / "long", protocol=protocol, progress=False)
    run = play(longrope, make_questions(1), out=tmp_path / "run", protocol=protocol, progress=False)
    assert run.manifest["window"]["tokens"] == 512
    assert "longrope" in run.manifest["window"]["reason"]


@pytest.mark.parametrize(
    "config",
    [
        BloomConfig(vocab_size=400, hidden_size=32, n_layer=2, n_head=4, seq_length=768),
        MptConfig(vocab_size=400, d_model=32, n_layers=2, n_heads=4, expansion_ratio=2, max_seq_len=768),
    ],
)
def test_models_that_count_tokens_share_no_positions_and_hide_none(config, tmp_path):
    config.eos_token_id = config.bos_token_id = config.pad_token_id = 1
    lm = record_of(load_model(save(config, tmp_path / "m"), device="cpu")).lm
    assert not lm.positions
    assert not branches_work(lm)
    hidden = torch.tensor([[False, True, False]])
    with pytest.raises(ValueError, match="hiding some would move the others"):
        decoding.feed(lm, decoding.start(lm, 1), [[5, 6, 7]], hidden=hidden)
