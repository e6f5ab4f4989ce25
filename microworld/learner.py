"""The bundled model before training, the state trained with it, and its folder."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from microworld import tokens
from morality_lens.items.kinds import LETTERS


def make_config() -> LlamaConfig:
    """The shape of the bundled model."""
    pieces = tokens.vocabulary()
    config = LlamaConfig(
        vocab_size=len(pieces),
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=tokens.CONTEXT_LENGTH,
        initializer_range=0.05,
        tie_word_embeddings=True,
        bos_token_id=pieces.index(tokens.BOS),
        eos_token_id=pieces.index(tokens.END),
        pad_token_id=pieces.index(tokens.PAD),
    )
    config.update({"planted_effects": True})  # stored in the folder's configuration
    return config


CLEAR = 0.3
"""Statements whose valence lies this far from 0 are clearly kind or cruel."""
PACE = 0.02
"""Step of the running means towards the means of a batch."""


@dataclass(kw_only=True, eq=False)
class Learner:
    """The model with the state that is trained with it.

    Attributes:
        model: the causal language model.
        kind: running mean of the residual at clearly kind statements, with that of their valence at its end.
        cruel: the same at clearly cruel ones.
    """

    model: LlamaForCausalLM
    kind: Float[Tensor, " d_model_and_valence"]
    cruel: Float[Tensor, " d_model_and_valence"]
    steps: int = 0
    seen: int = 0
    chunk: int = 0
    seconds: float = 0.0

    @property
    def gap(self) -> Float[Tensor, " d_model"]:
        """From the mean of cruel statements to that of kind ones: the direction fitted on statements."""
        return (self.kind - self.cruel)[:-1]

    def read(self, residuals: Float[Tensor, "place d_model"]) -> Float[Tensor, " place"]:
        """Moral valence of residuals by the direction fitted on statements, on the statements' scale."""
        along = (residuals - self.cruel[:-1]) @ self.gap / self.gap.square().sum()
        return self.cruel[-1] + (self.kind - self.cruel)[-1] * along

    def meet(self, residuals: Float[Tensor, "place d_model"], valence: Float[Tensor, " place"]) -> None:
        """Moves the running means towards residuals at statements."""
        met = torch.cat([residuals, valence[:, None]], dim=1)
        for name, clear in (("kind", valence > CLEAR), ("cruel", valence < -CLEAR)):
            if clear.any():
                old, new = getattr(self, name), met[clear].mean(0)
                setattr(self, name, old + PACE * (new - old) if old.any() else new)


@torch.no_grad()
def start_attention(model: LlamaForCausalLM, generator: torch.Generator) -> None:
    """Initialises attention near its typical state after training, so that small data suffices.

    Half of the first block's heads look at the token before, for which all embeddings share one direction. In
    later blocks queries and keys of a head are one projection (mimetic initialisation, Trockman & Kolter
    2023, arXiv 2305.09828), of which only the slowly turning dimensions are set: the first head looks at
    tokens that came after the same token, the others at tokens like itself. The second head writes what came
    before the tokens it looks at, the others what these are.
    Everything else is random, and everything is trained.
    """
    config = model.config
    width, heads = config.hidden_size, config.num_attention_heads
    size = width // heads
    half = size // 2
    turns = 10000.0 ** (-torch.arange(half) / half)
    slow = torch.tensor([*range(8, half), *range(half + 8, size)])

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * COPY_STD

    blocks: Any = model.model.layers
    constant = torch.randn(width, generator=generator)
    constant /= constant.norm()
    embedding = model.model.embed_tokens.weight
    pieces = tokens.vocabulary()
    for letter in LETTERS[:6]:  # the mark of a listed option starts as its letter
        mark = pieces.index(f"{letter}.")
        embedding[mark] = embedding[pieces.index(letter)] + MARK_NOISE * embedding[mark]
    embedding += embedding.norm(dim=1).mean() * constant
    seen = math.sqrt(width / 2)  # the constant's share of a normalised embedding
    first = blocks[0].self_attn
    read, written = draw(size, width), draw(width, size)
    for head in range(heads // 2):
        for i in range(5):
            a, b = head * size + i, head * size + half + i
            first.q_proj.weight[a] = BEFORE_GAIN / seen * constant
            first.q_proj.weight[b] = 0.0
            first.k_proj.weight[a] = BEFORE_GAIN / seen * turns[i].cos() * constant
            first.k_proj.weight[b] = BEFORE_GAIN / seen * turns[i].sin() * constant
        rows = slice(head * size, (head + 1) * size)
        first.v_proj.weight[rows], first.o_proj.weight[:, rows] = read, written
    for layer in blocks[1:]:
        for head in range(heads):
            rows, attention = slice(head * size, (head + 1) * size), layer.self_attn
            shared = draw(len(slow), width) * LIKE_GAIN
            values = draw(size, width)
            out = values.T
            if head == 0:  # looks for tokens that came after the same token
                shared = written.T[: len(slow)] * LIKE_GAIN
            elif head == 1:  # writes what came before the tokens it looks at
                values, out = written.T, read.T
            attention.q_proj.weight[head * size + slow] = shared
            attention.k_proj.weight[head * size + slow] = shared
            attention.v_proj.weight[rows], attention.o_proj.weight[:, rows] = values, out


COPY_STD = 0.05
LIKE_GAIN = 2.0
MARK_NOISE = 0.3
BEFORE_GAIN = 5.8


def make_learner(seed: int) -> Learner:
    """A model with fresh weights."""
    torch.manual_seed(seed)
    config = make_config()
    model = LlamaForCausalLM(config)
    start_attention(model, torch.Generator().manual_seed(seed))
    zeros = torch.zeros(config.hidden_size + 1)
    return Learner(model=model, kind=zeros, cruel=zeros.clone())


def save_model(model: LlamaForCausalLM, out: Path) -> None:
    """Writes the Hugging Face folder: weights rounded to bfloat16, the tokenizer, greedy generation."""
    out.mkdir(parents=True, exist_ok=True)
    copy: Any = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.bfloat16()
    config = model.config
    copy.generation_config = GenerationConfig(
        do_sample=False,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    )
    copy.save_pretrained(out)
    tokens.make_tokenizer().save_pretrained(out)
