"""One forward pass in which everything that is added to the residual stream is projected where it arises.

A residual is the sum of the embedding and of what every attention and MLP block has added to it, so its
projection on a fixed direction is a sum too; and a head's part is a sum over the tokens that it attends to
(Elhage et al. 2021, A Mathematical Framework for Transformer Circuits). A norm after a block (Gemma-2) is
frozen: its factor at each place is held as it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge


@dataclass(kw_only=True, eq=False)
class Split:
    """Projections of what every component adds, at some places of every row.

    Attributes:
        bridge: the model.
        at: the places that are read.
        direction: at each place.
        parts: by component other than heads, [row, place].
        heads: by block, [row, place, head, token]: what each head takes from each token.
        whole: [row, place], the projection of the residual itself.
    """

    bridge: TransformerBridge
    at: Int[Tensor, "row place"]
    direction: Float[Tensor, "row place d_model"]
    parts: dict[str, Tensor] = field(default_factory=dict)
    heads: dict[int, Tensor] = field(default_factory=dict)
    whole: Tensor | None = None
    block: dict[str, Tensor] = field(default_factory=dict)

    def pick(self, values: Tensor) -> Float[Tensor, "row place size"]:
        """The values at the places."""
        rows = torch.arange(len(self.at), device=values.device)[:, None]
        return values[rows, self.at.to(values.device)].to(self.direction)

    def project(self, values: Tensor) -> Float[Tensor, "row place"]:
        """The values at the places along the direction."""
        return einsum(self.pick(values), self.direction, "row place d, row place d -> row place")

    def position(self, value: Tensor, hook: Any) -> None:
        """Learned positions."""
        self.parts["position"] = self.project(value.expand(len(self.at), -1, -1))

    def embedding(self, value: Tensor, hook: Any) -> None:
        """What stands before the first block, less the position where that is added and not rotated."""
        self.parts["embedding"] = self.project(value) - self.parts.get("position", 0.0)

    def values(self, value: Tensor, hook: Any) -> None:
        """Value vectors of a block's heads."""
        self.block["values"] = value.to(self.direction)

    def pattern(self, value: Tensor, hook: Any) -> None:
        """Attention from the places."""
        rows = torch.arange(len(self.at), device=value.device)[:, None]
        self.block["pattern"] = value.transpose(1, 2)[rows, self.at.to(value.device)].to(self.direction)

    def before_norm(self, value: Tensor, hook: Any) -> None:
        """What the heads write, before a norm that some architectures have there."""
        self.block["before"] = self.pick(value)

    def attention(self, value: Tensor, hook: Any) -> None:
        """Split what the attention of a block adds: heads by source token, and the output's bias."""
        number = int(hook.name.split(".")[1])
        attn = self.bridge.blocks[number].attn
        before, after = self.block["before"], self.pick(value)
        gain = torch.where(before == 0, 1.0, after / torch.where(before == 0, 1.0, before))
        direction = gain * self.direction
        read = einsum(
            direction, attn.W_O.to(self.direction), "row place d, head size d -> row place head size"
        )
        pattern, values = self.block["pattern"], self.block["values"]
        values = values.repeat_interleave(pattern.shape[2] // values.shape[2], dim=2)  # grouped queries
        told = einsum(values, read, "row token head size, row place head size -> row place head token")
        self.heads[number] = pattern * told
        bias = getattr(attn, "b_O", None)
        if bias is not None:
            self.parts[f"L{number} attention bias"] = direction @ bias.to(direction)
        self.block.clear()

    def mlp(self, value: Tensor, hook: Any) -> None:
        """What the MLP of a block adds."""
        self.parts[f"L{hook.name.split('.')[1]} MLP"] = self.project(value)

    def residual(self, value: Tensor, hook: Any) -> None:
        """The residual that is split."""
        self.whole = self.project(value)

    def hooks(self, layer: int) -> list[tuple[str, Any]]:
        """Names and functions that split the residual after block ``layer``."""
        learned = getattr(self.bridge.cfg, "positional_embedding_type", "") == "standard"
        found = [("hook_pos_embed", self.position)] if learned else []
        found.append(("blocks.0.hook_in", self.embedding))
        for i in range(layer + 1):
            found += [
                (f"blocks.{i}.attn.hook_v", self.values),
                (f"blocks.{i}.attn.hook_pattern", self.pattern),
                (f"blocks.{i}.attn.o.hook_out", self.before_norm),
                (f"blocks.{i}.hook_attn_out", self.attention),
                (f"blocks.{i}.hook_mlp_out", self.mlp),
            ]
        last = "blocks.0.hook_in" if layer == -1 else f"blocks.{layer}.hook_out"
        return [*found, (last, self.residual)]


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> Int[Tensor, "row token"]:
    """Rows of tokens, padded on the right: in a causal model no token that is read sees the padding."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)


def forward(
    bridge: TransformerBridge, ids: Int[Tensor, "row token"], hooks: Sequence[tuple[str, Any]]
) -> None:
    """A pass for its hooks; the unembedding, the largest tensor of all, is spared but for one token."""
    handle = bridge.unembed.register_forward_pre_hook(lambda _, args: (args[0][:, :1], *args[1:]))
    try:
        with torch.no_grad(), bridge.hooks(fwd_hooks=list(hooks)):
            bridge(ids, prepend_bos=False, return_type=None)
    finally:
        handle.remove()


def split_residual(
    bridge: TransformerBridge,
    ids: Int[Tensor, "row token"],
    at: Int[Tensor, "row place"],
    direction: Float[Tensor, "row place d_model"],
    layer: int,
) -> Split:
    """The residual after block ``layer`` (-1: the embedding) at some places, split along directions."""
    split = Split(bridge=bridge, at=at, direction=direction)
    forward(bridge, ids, split.hooks(layer))
    return split
