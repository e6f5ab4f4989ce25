"""Tiny random models of many architectures, saved to folders in Hugging Face format."""

from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TRIMMING = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n\n{{ m.content | trim }}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}"
)
FORGETTING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content.split('</think>')[-1] if not loop.last else m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = """Answer with the letter of one option. Please look at your answer again. Make sure that it is fair
and does not rest on a stereotype. First explain how you reason about the question, step by step. Here is
feedback on your answer: The text says nothing. User: Assistant: Who was kind? A. B. C. Not known"""

SHAPE = {
    "vocab_size": 400,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 768,
    "initializer_range": 0.5,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
GROUPED = {**SHAPE, "num_key_value_heads": 2, "head_dim": 8}
WINDOW = 24

CONFIGS = {
    "gpt2": lambda: GPT2Config(
        vocab_size=400,
        n_embd=32,
        n_layer=3,
        n_head=4,
        n_positions=768,
        initializer_range=0.5,
        bos_token_id=0,
        eos_token_id=1,
    ),
    "llama": lambda: LlamaConfig(**GROUPED),
    "mistral": lambda: MistralConfig(**GROUPED, sliding_window=WINDOW),
    "qwen3": lambda: Qwen3Config(**GROUPED),
    "gemma2": lambda: Gemma2Config(**GROUPED, sliding_window=WINDOW, query_pre_attn_scalar=8),
    "gemma3": lambda: Gemma3TextConfig(**GROUPED, sliding_window=WINDOW, query_pre_attn_scalar=8),
    "neox": lambda: GPTNeoXConfig(**SHAPE),
}
TEMPLATES = {
    "gpt2": None, "neox": None, "llama": TRIMMING, "mistral": TRIMMING, "qwen3": CHATML,
    "gemma2": TRIMMING, "gemma3": TRIMMING,
}  # fmt: skip
ARCHITECTURES = tuple(CONFIGS)


@cache
def byte_tokenizer() -> Tokenizer:
    """A small byte-level BPE tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([WORDS] * 4, trainer)
    return tokenizer


def make_tokenizer(template: str | None) -> PreTrainedTokenizerFast:
    """The same with Hugging Face's surface and a chat template."""
    made = PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(), bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    made.chat_template = template
    return made


def save_model(folder: Path, architecture: str, *, template: str | None = "own", seed: int = 0) -> Path:
    """A random model of that architecture in ``folder``."""
    torch.manual_seed(seed)
    config = CONFIGS[architecture]()
    module = AutoModelForCausalLM.from_config(config)
    module.save_pretrained(folder)
    make_tokenizer(TEMPLATES[architecture] if template == "own" else template).save_pretrained(folder)
    return folder


def fresh_pass(record, token_ids):
    """Residuals [layer, pos, d_model] and logits of one unpadded row, by hooks on plain transformers."""
    caught: list[torch.Tensor] = []
    blocks = record.lm.blocks
    handles = [
        blocks[0].register_forward_pre_hook(
            lambda _, a, k: caught.append(a[0] if a else k["hidden_states"]), with_kwargs=True
        )
    ]
    handles += [
        b.register_forward_hook(lambda _, a, out: caught.append(out[0] if isinstance(out, tuple) else out))
        for b in blocks
    ]
    with torch.no_grad():
        logits = record.lm.module(torch.tensor([list(token_ids)]), use_cache=False).logits[0]
    for handle in handles:
        handle.remove()
    return torch.cat(caught).numpy(), logits
