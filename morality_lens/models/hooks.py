"""Changes of activations in the plain model: where they are possible, and hooks that make or read them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.models.decoding import LanguageModel
from morality_lens.models.loading import record_of

KINDS = ("residual", "attention", "mlp", "head")
"""What can be changed: the residual after a block (layer -1: the embedding), the output of its attention or
MLP, or one head's part of the input of the attention's output projection."""

Change = Callable[[Float[Tensor, "row place size"]], Float[Tensor, "row place size"]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """The plain model's modules by block.

    Attributes:
        lm: the plain model.
        attention: attention of each block.
        mlp: MLP of each block.
        output: output projection of each block's attention.
        heads: heads of a block.
    """

    lm: LanguageModel
    attention: tuple[torch.nn.Module, ...]
    mlp: tuple[torch.nn.Module, ...]
    output: tuple[torch.nn.Module, ...]
    heads: int


def parts_of(bridge: TransformerBridge) -> Parts:
    """The modules whose activations can be changed.

    Raises:
        ValueError: the model has more state than keys and values, or its blocks are not known.
    """
    record = record_of(bridge)
    lm = record.lm
    if not lm.cached:
        raise ValueError(
            f"{record.architecture} has more state than keys and values, so the end of a prompt cannot be "
            "run by itself; activations of such models cannot be changed here."
        )
    mapping: Any = bridge.adapter.component_mapping
    inside = getattr(mapping["blocks"], "submodules", {})
    if "attn" not in inside or "mlp" not in inside or "o" not in inside["attn"].submodules:
        raise ValueError(f"attention and MLP of {record.architecture} are not known by name.")
    attention = tuple(block.get_submodule(inside["attn"].name) for block in lm.blocks)
    return Parts(
        lm=lm,
        attention=attention,
        mlp=tuple(block.get_submodule(inside["mlp"].name) for block in lm.blocks),
        output=tuple(a.get_submodule(inside["attn"].submodules["o"].name) for a in attention),
        heads=int(bridge.cfg.n_heads),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Edit:
    """A change of activations in some rows of a pass.

    Attributes:
        layer: the block; -1: the embedding, for the residual.
        rows: rows of the pass.
        places: positions in the whole dialogue, for each of these rows; repeats are allowed.
        change: maps the activations there to new ones.
        what: see :data:`KINDS`.
        head: index of the head, for a head.
    """

    layer: int
    rows: Int[Tensor, " row"]
    places: Int[Tensor, "row place"]
    change: Change
    what: str = "residual"
    head: int = -1


def _edited(values: Tensor, edits: Sequence[Edit], offsets: Int[Tensor, " row"], heads: int) -> Tensor:
    """A copy of [row, token, size] with the edits made."""
    out = values.clone()
    for edit in edits:
        rows = edit.rows.to(values.device)
        at = (edit.places - offsets[edit.rows][:, None]).to(values.device)
        size = values.shape[-1] // heads
        own = slice(edit.head * size, (edit.head + 1) * size) if edit.what == "head" else slice(None)
        part = values[rows[:, None], at][..., own]
        out[rows[:, None], at, own] = edit.change(part).to(out)
    return out


@contextmanager
def edited(parts: Parts, edits: Sequence[Edit], offsets: Int[Tensor, " row"]) -> Iterator[None]:
    """While open, passes have these edits; ``offsets`` are the positions of the rows' first fed tokens."""
    found: dict[tuple[str, int], list[Edit]] = {}
    for edit in edits:
        found.setdefault((edit.what, edit.layer), []).append(edit)
    handles = []
    try:
        for (what, layer), own in found.items():
            handles.append(_attach(parts, what, layer, own, offsets))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _attach(parts: Parts, what: str, layer: int, own: Sequence[Edit], offsets: Tensor) -> Any:
    def change(values: Tensor) -> Tensor:
        return _edited(values, own, offsets, parts.heads)

    def after(_: Any, args: tuple, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    def before(_: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    if what == "head":
        return parts.output[layer].register_forward_pre_hook(before, with_kwargs=True)
    if what == "residual" and layer == -1:
        return parts.lm.blocks[0].register_forward_pre_hook(before, with_kwargs=True)
    modules = {"residual": parts.lm.blocks, "attention": parts.attention, "mlp": parts.mlp}[what]
    return modules[layer].register_forward_hook(after)


@contextmanager
def caught(parts: Parts, what: str, at: Int[Tensor, "row place"]) -> Iterator[list[Tensor]]:
    """While open, a pass leaves here the activations at some places: [row, place, size], layer by layer.

    Residuals begin with the embedding; the heads of a layer are one vector.
    """
    kept: list[Tensor] = []
    rows = torch.arange(len(at), device=at.device)[:, None]

    def keep(values: Tensor) -> None:
        kept.append(values[rows.to(values.device), at.to(values.device)].to(at.device))

    def after(_: Any, args: tuple, output: Any) -> None:
        keep(output[0] if isinstance(output, tuple) else output)

    def before(_: Any, args: tuple, kwargs: dict) -> None:
        keep(args[0] if args else kwargs["hidden_states"])

    handles = []
    try:
        if what == "residual":
            handles.append(parts.lm.blocks[0].register_forward_pre_hook(before, with_kwargs=True))
        if what == "head":
            handles += [o.register_forward_pre_hook(before, with_kwargs=True) for o in parts.output]
        else:
            modules = {"residual": parts.lm.blocks, "attention": parts.attention, "mlp": parts.mlp}[what]
            handles += [module.register_forward_hook(after) for module in modules]
        yield kept
    finally:
        for handle in handles:
            handle.remove()
