"""A transformer whose weights are written down, so that every component's part is known beforehand.

The residual has named axes. ``C`` is one large constant that keeps the norms' factor the same everywhere.
Head 0 of block 0 looks for the word *stereotype*, which only the instruction says, and copies ``HAS_I`` = 1
and .7 of the direction ``D``; head 1 looks for *feedback* and copies ``HAS_F`` = 1 and .5 of ``D``. A neuron
of block 1 fires where both are there and writes -.4 along ``D``. The letter B, which is the correct option of
every question, has the logit 2 ``D``; another letter has none.
"""

from pathlib import Path

import numpy as np
import torch
import xarray as xr
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from morality_lens.models.loading import record_of
from morality_lens.probes.probe import Probe

SIZE, HEAD = 16, 8
C, IS_I, IS_F, HAS_I, HAS_F, D = range(6)
LARGE = 1e4
INSTRUCTION, FEEDBACK, BOTH, LOGIT = 0.7, 0.5, -0.4, 2.0
TEXT = """A B C D Vel Tor the Not known met at market and a It was late rain did not stop They had come long
way on foot Who kind User Assistant Answer with letter of one option Please look your answer again Make sure
that is fair does rest stereotype First explain how you reason about question step by Here feedback stays what
text says each person The assumes something group name options . : ? ,"""


def save_circuit(folder: Path) -> Path:
    """The transformer and a tokenizer of whole words, in Hugging Face format."""
    special = ["<s>", "</s>", "<unk>"]
    words = list(dict.fromkeys([*special, *TEXT.split()]))
    vocabulary = {word: number for number, word in enumerate(words)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+|[^\w\s]"), "removed", invert=True)
    PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=SIZE,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=HEAD,
        intermediate_size=4,
        hidden_act="relu",
        rms_norm_eps=1e-30,
        rope_parameters={"rope_type": "default", "rope_theta": 1e18},  # its last pair does not turn
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
    )
    module = AutoModelForCausalLM.from_config(config).double()
    weights = {name: torch.zeros_like(value) for name, value in module.state_dict().items()}
    for name in weights:
        if name.endswith("norm.weight"):
            weights[name] += LARGE / SIZE**0.5
    embed, head = weights["model.embed_tokens.weight"], weights["lm_head.weight"]
    embed[:, C] = LARGE
    embed[vocabulary["stereotype"], IS_I] = 1.0
    embed[vocabulary["feedback"], IS_F] = 1.0
    head[vocabulary["B"], D] = LOGIT
    head[vocabulary["the"], C] = 0.05 / LARGE  # said where nothing else is to say
    attn = "model.layers.0.self_attn"
    for number, (marker, axis, size) in enumerate(((IS_I, HAS_I, INSTRUCTION), (IS_F, HAS_F, FEEDBACK))):
        first = number * HEAD
        weights[f"{attn}.q_proj.weight"][first + 3, C] = 13.0 / LARGE
        weights[f"{attn}.k_proj.weight"][first + 3, marker] = 13.0
        weights[f"{attn}.v_proj.weight"][first, marker] = 1.0
        weights[f"{attn}.o_proj.weight"][axis, first] = 1.0
        weights[f"{attn}.o_proj.weight"][D, first] = size
    mlp = "model.layers.1.mlp"
    weights[f"{mlp}.gate_proj.weight"][0, [HAS_I, HAS_F]] = 1.0
    weights[f"{mlp}.gate_proj.weight"][0, C] = -1.0 / LARGE
    weights[f"{mlp}.up_proj.weight"][0, C] = 1.0 / LARGE
    weights[f"{mlp}.down_proj.weight"][D, 0] = BOTH
    module.load_state_dict(weights)
    module.save_pretrained(folder)
    return folder


def circuit_probe(model) -> Probe:
    """The direction D at every layer; its gap is 1."""
    layers = np.array([-1, 0, 1])
    direction = np.zeros((3, SIZE))
    direction[:, D] = 1.0
    names = ("auroc", "auroc_low", "auroc_high", "gap")
    return Probe(
        kind="mean_difference",
        direction=xr.DataArray(direction, dims=("layer", "d_model"), coords={"layer": layers}),
        intercept=xr.DataArray(np.zeros(3), dims=("layer",), coords={"layer": layers}),
        quality=xr.Dataset({n: ("layer", np.array([0.5, 0.8, 0.9])) for n in names}, {"layer": layers}),
        training={"source": "statements", "n": 10, "model_fingerprint": record_of(model).fingerprint},
    )
