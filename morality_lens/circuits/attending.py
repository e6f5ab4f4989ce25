"""What one head reads: its attention from every token of a text to those before it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.circuits.decomposition import forward, padded
from morality_lens.models.loading import record_of


def attention_pattern(
    model: TransformerBridge, token_ids: Sequence[int], *, layer: int, head: int
) -> Float[np.ndarray, "token token"]:
    """How much each token (first axis) reads from each token before it in one head; every row's sum is 1.

    Args:
        model: the model.
        token_ids: of the text.
        layer: the head's block.
        head: its index in the block.

    Raises:
        ValueError: no such block or head, or a block without attention.
    """
    record, heads = record_of(model), heads_of(model)
    if not (0 <= layer < record.n_layers and 0 <= head < heads):
        raise ValueError(
            f"this model has blocks 0 to {record.n_layers - 1} with heads 0 to {heads - 1}; got head {head} "
            f"of block {layer}."
        )
    name, kept = f"blocks.{layer}.attn.hook_pattern", []
    if name not in model.hook_dict:
        raise ValueError(f"block {layer} of {record.architecture} has no attention that can be read.")

    def keep(value: Float[Tensor, "row head to_token from_token"], hook: Any) -> None:
        kept.append(value[0, head].float().cpu().numpy())

    forward(model, padded([token_ids], record.lm.device), [(name, keep)])
    return kept[0]


def heads_of(model: TransformerBridge) -> int:
    """How many heads each block of a model has."""
    return int(model.cfg.n_heads)
