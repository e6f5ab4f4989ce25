"""A batch of dialogues, each site split into what components add and what heads read from which segment."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components import MLAAttentionBridge

from morality_lens.circuits.targets import AnswerTarget, ProbeTarget
from morality_lens.models.loading import ModelRecord, record_of
from morality_lens.runs.passages import Passage

INCOMPLETE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 5e-2, torch.bfloat16: 3e-1}
"""Largest distance of the parts' sum to the whole, in units of the largest part."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """One site of one passage, split."""

    passage: Passage
    round: int
    components: list[str]
    heads: list[str]
    contribution: Float[np.ndarray, " component"]
    by_segment: Float[np.ndarray, "head segment"]
    projection: float
    scale: float
    completeness: float


@dataclass(kw_only=True, eq=False)
class Split:
    """Projections of what every component adds, at some places of every row.

    Attributes:
        bridge: the model.
        at: the places that are read.
        direction: at each place.
        parts: by component other than heads, [row, place].
        heads: by block, [row, place, head, token]: what each head moves from each token.
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
        """The residual before the first block, less the position where that is added and not rotated."""
        self.parts["embedding"] = self.project(value) - self.parts.get("position", 0.0)

    def values(self, value: Tensor, hook: Any) -> None:
        """Value vectors of a block's heads; latent attention has them head by head."""
        if isinstance(self.attention_of(hook), MLAAttentionBridge):
            value = rearrange(value, "row head token size -> row token head size")
        self.block["values"] = value.to(self.direction)

    def attention_of(self, hook: Any) -> Any:
        """The attention of the block that a hook is in."""
        return self.bridge.blocks[int(hook.name.split(".")[1])].attn

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
        attn = self.attention_of(hook)
        before, after = self.block["before"], self.pick(value)
        gain = torch.where(before == 0, 1.0, after / torch.where(before == 0, 1.0, before))
        direction = gain * self.direction
        pattern, values = self.block["pattern"], self.block["values"]
        output = _output_weight(attn, pattern.shape[2]).to(self.direction)
        read = einsum(direction, output, "row place d, head size d -> row place head size")
        values = values.repeat_interleave(pattern.shape[2] // values.shape[2], dim=2)  # grouped queries
        written = einsum(values, read, "row token head size, row place head size -> row place head token")
        self.heads[number] = pattern * written
        bias = attn.o.bias if isinstance(attn, MLAAttentionBridge) else getattr(attn, "b_O", None)
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


def _output_weight(attn: Any, heads: int) -> Float[Tensor, "head size d_model"]:
    """What maps each head's result to the residual; transformer-lens names none for latent attention."""
    if isinstance(attn, MLAAttentionBridge):
        return rearrange(attn.o.weight, "d (head size) -> head size d", head=heads)
    return attn.W_O


def refuse_unsplittable(bridge: TransformerBridge, names: Sequence[str]) -> None:
    """Refuse a model whose blocks are not all attention and an MLP, or whose weights cannot be read.

    Args:
        bridge: the model.
        names: of the hooks that a split needs.

    Raises:
        ValueError: such a model.
    """
    record = record_of(bridge)
    if not all(weights.is_floating_point() for weights in record.lm.module.parameters()):
        raise ValueError(
            "what heads add is computed from the weights of their output, which are quantized here; load the "
            "model without quantization."
        )
    known = bridge.hook_dict
    missing = [name for name in names if name not in known]
    if missing:
        block = missing[0].split(".")[1] if missing[0].startswith("blocks.") else "0"
        raise ValueError(
            f"{record.architecture} is not split into heads and MLPs: block {block} has no "
            f"{missing[0]}, so it is no block of attention and an MLP (a state-space layer or a "
            "convolution, for example). Only models all of whose blocks are can be split."
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Splitting:
    """Which residual is split, and along what.

    Attributes:
        model: the model.
        record: its record.
        site: where the residual is read.
        layer: of the residual.
        target: what it is split along.
        constant: name of what is added to the projection.
    """

    model: TransformerBridge
    record: ModelRecord
    site: str
    layer: int
    target: ProbeTarget | AnswerTarget
    constant: str


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitRead:
    """One forward pass of some dialogues.

    Attributes:
        split: the split at all places; those of a row run through its reads, one after the other.
        weight: of each place in the mean of its read.
        constant: what is added to the projection, at each place.
        scale: size of the frozen norm's factor at each place; None where no norm is passed.
    """

    split: Split
    weight: Float[Tensor, "row read place"]
    constant: Float[Tensor, "row _"]
    scale: Float[Tensor, "row _"] | None

    def averaged(self, values: Float[Tensor, "row _"]) -> Float[Tensor, "row read"]:
        """Means over the places of every read."""
        return (values.reshape(self.weight.shape) * self.weight).sum(-1).cpu().double()


def read_split(splitting: Splitting, batch: Sequence[Passage]) -> SplitRead:
    """The residuals of some dialogues at the site, split in one forward pass."""
    record, site = splitting.record, splitting.site
    reads = max(len(p.rounds) for p in batch)
    spots = [[p.places(site, r) for r in p.rounds] for p in batch]
    widest = max(len(s) for row in spots for s in row)
    at, weight = np.zeros((len(batch), reads, widest), np.int64), np.zeros((len(batch), reads, widest))
    for row, places in enumerate(spots):
        for read, spot in enumerate(places):
            at[row, read, : len(spot)] = spot
            weight[row, read, : len(spot)] = 1 / max(len(spot), 1)
    device = record.lm.device
    dtype = torch.float64 if record.lm.module.dtype == torch.float64 else torch.float32
    ids = padded([p.token_ids for p in batch], device)
    flat = torch.tensor(at.reshape(len(batch), -1), device=device)
    along = splitting.target.at(splitting.model, ids, flat, batch, dtype)
    return SplitRead(
        split=split_residual(splitting.model, ids, flat, along.direction, splitting.layer),
        weight=torch.tensor(weight, dtype=dtype, device=device),
        constant=along.constant,
        scale=along.scale,
    )


def split_batch(splitting: Splitting, batch: Sequence[Passage], segments: Sequence[str]) -> Iterator[Part]:
    """The sites of some dialogues, each split; those that do not have the site are skipped.

    Args:
        splitting: what is split, and along what.
        batch: dialogues read in one pass.
        segments: names in the order of the result.

    Raises:
        ValueError: the parts do not add up.
    """
    site = splitting.site
    if not any(p.places(site, r) for p in batch for r in p.rounds):
        return
    read = read_split(splitting, batch)
    heads, by_segment = _by_segment(read, batch, segments)
    parts = {name: read.averaged(value) for name, value in read.split.parts.items()}
    parts |= {name: by_segment[:, :, i].sum(-1) for i, name in enumerate(heads)}
    parts[splitting.constant] = read.averaged(read.constant)
    assert read.split.whole is not None  # its hook is always on
    whole = read.averaged(read.split.whole) + parts[splitting.constant]
    order = sorted(parts, key=lambda name: _rank(name, splitting.constant))
    stacked = torch.stack([parts[name] for name in order], dim=-1)
    gaps = (stacked.sum(-1) - whole).abs() / stacked.abs().amax(-1).clamp(min=1e-30)
    scale = torch.full_like(whole, torch.nan) if read.scale is None else read.averaged(read.scale)
    for row, passage in enumerate(batch):
        for number, round in enumerate(passage.rounds):
            if not passage.places(site, round):
                continue
            gap = float(gaps[row, number])
            _refuse_incomplete(gap, splitting.record)
            yield Part(
                passage=passage,
                round=round,
                components=order,
                heads=heads,
                contribution=stacked[row, number].numpy(),
                by_segment=by_segment[row, number].numpy(),
                projection=float(whole[row, number]),
                scale=float(scale[row, number]),
                completeness=gap,
            )


def _by_segment(
    read: SplitRead, batch: Sequence[Passage], segments: Sequence[str]
) -> tuple[list[str], Float[Tensor, "row read head segment"]]:
    """Names of all heads, and the part of each that it reads from each segment."""
    size, reads, widest = read.weight.shape
    rank = {name: i for i, name in enumerate(segments)}
    member = np.zeros((size, reads, max(len(p.token_ids) for p in batch), len(segments)))
    for row, passage in enumerate(batch):
        for number, round in enumerate(passage.rounds):
            names = passage.segments(round)
            member[row, number, range(len(names)), [rank[name] for name in names]] = 1
    belongs = torch.tensor(member).to(read.weight)
    heads: list[str] = []
    found = [torch.zeros(size, reads, 0, len(segments)).to(read.weight)]
    for block, value in sorted(read.split.heads.items()):
        by_token = value.reshape(size, reads, widest, *value.shape[2:])
        axes = "row read place head token, row read place, row read token segment -> row read head segment"
        found.append(einsum(by_token, read.weight, belongs, axes))
        heads += [f"L{block}H{h}" for h in range(value.shape[2])]
    return heads, torch.cat(found, dim=2).cpu().double()


def _refuse_incomplete(gap: float, record: ModelRecord) -> None:
    """Refuse parts whose sum misses the whole by more than rounding."""
    allowed = INCOMPLETE[record.lm.module.dtype]
    if not gap <= allowed:
        raise ValueError(
            f"the parts of {record.architecture} do not add up: they miss the whole by {gap:.1e} of the "
            f"largest part, where {allowed:.0e} is allowed. It adds something to the residual that is "
            "neither an embedding, attention nor an MLP, or scales it; or its precision is too low: try "
            'dtype="float32".'
        )


def _rank(name: str, constant: str) -> tuple[int, int, int]:
    """Embedding and position first; then block by block heads, bias and MLP; the constant last."""
    if name in ("embedding", "position"):
        return (-1, 0, int(name == "position"))
    if name == constant:
        return (10**9, 0, 0)
    block, _, rest = name[1:].replace("H", " H").partition(" ")
    kind = 0 if rest.startswith("H") else 1 if "bias" in rest else 2
    return (int(block), kind, int(rest[1:]) if kind == 0 else 0)


def padded(rows: Sequence[Sequence[int]], device: torch.device) -> Int[Tensor, "row token"]:
    """Rows of tokens, padded on the right: in a causal model no token that is read attends to it."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)


def forward(
    bridge: TransformerBridge, ids: Int[Tensor, "row token"], hooks: Sequence[tuple[str, Any]]
) -> None:
    """A pass for its hooks; the unembedding, the largest tensor of all, is computed for one token only."""
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
    hooks = split.hooks(layer)
    refuse_unsplittable(bridge, [name for name, _ in hooks])
    forward(bridge, ids, hooks)
    return split
