"""The ends of prompts, run again with changed activations while everything before is kept.

A change at position p of layer l alters nothing before p. So the keys and values of the clean prompt are kept
up to p, and only the rest is run, once for each change: a sweep over layers is one short pass. All changes of
a prompt are branches of one row, each of which sees the kept part and itself, so that nothing is copied.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache

from morality_lens.models import decoding
from morality_lens.models.decoding import Batch, LanguageModel
from morality_lens.models.hooks import Edit, Parts, caught, edited


@dataclass(frozen=True, kw_only=True, eq=False)
class Outcome:
    """What some ends of prompts led to.

    Attributes:
        logits: after the last token.
        residuals: at the last token, the embedding first.
        batch: from which replies can be generated; None where that was not asked for.
    """

    logits: Float[Tensor, "row vocab"]
    residuals: Float[Tensor, "row layer d_model"]
    batch: Batch | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Shared:
    """What two prompts of each item begin with alike, read once.

    Attributes:
        batch: its keys and values.
        lengths: tokens of each item; at least one of both prompts comes after.
    """

    batch: Batch
    lengths: tuple[int, ...]


def read_shared(parts: Parts, prompts: Sequence[Sequence[int]], others: Sequence[Sequence[int]]) -> Shared:
    """Read what each item's two prompts have in common at their beginning."""
    lengths = []
    for one, two in zip(prompts, others, strict=True):
        same = (i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b)
        lengths.append(min(next(same, len(one)), len(one) - 1, len(two) - 1))
    batch = decoding.start(parts.lm, len(prompts))
    if max(lengths):
        decoding.prefill(parts.lm, batch, [p[:n] for p, n in zip(prompts, lengths, strict=True)])
    return Shared(batch=batch, lengths=tuple(lengths))


def read_source(
    parts: Parts,
    shared: Shared,
    prompts: Sequence[Sequence[int]],
    at: Int[Tensor, "row place"],
    what: str,
) -> tuple[Outcome, Float[Tensor, "row layer place size"]]:
    """What whole prompts lead to, and what stands at some places; of residuals the embedding comes first.

    Places in what is shared are not read (something else is given there): no patch there changes anything.
    """
    batch = _continued(parts, shared)
    new = [p[n:] for p, n in zip(prompts, shared.lengths, strict=True)]
    offset = torch.tensor(shared.lengths, device=at.device)[:, None]
    with caught(parts, what, (at - offset).clamp(min=0)) as kept:
        logits, reads = decoding.prefill(parts.lm, batch, new, _last(parts, new))
    assert reads is not None  # weights were given
    return Outcome(logits=logits, residuals=reads[:, 0], batch=batch), torch.stack(kept, dim=1)


def _continued(parts: Parts, shared: Shared) -> Batch:
    if not max(shared.lengths):
        return decoding.start(parts.lm, len(shared.lengths))
    return decoding.take(parts.lm, shared.batch, range(len(shared.lengths)))


def _last(parts: Parts, rows: Sequence[Sequence[int]]) -> Float[Tensor, "row read new"]:
    """Weights that read each row's last token."""
    weights = torch.zeros(len(rows), 1, max(map(len, rows)), device=parts.lm.device)
    weights[range(len(rows)), 0, [len(tokens) - 1 for tokens in rows]] = 1.0
    return weights


def prefix(parts: Parts, prompts: Sequence[Sequence[int]], shared: Shared | None = None) -> Batch:
    """The prompts but for their last tokens, read once; what is shared is not read again."""
    lengths = (0,) * len(prompts) if shared is None else shared.lengths
    batch = decoding.start(parts.lm, len(prompts)) if shared is None else _continued(parts, shared)
    new = [p[n:-1] for p, n in zip(prompts, lengths, strict=True)]
    if max(map(len, new)):
        decoding.prefill(parts.lm, batch, new)
    return batch


def run_suffixes(
    parts: Parts,
    kept: Batch,
    prompts: Sequence[Sequence[int]],
    *,
    first: Sequence[int],
    rows: Sequence[int],
    edits: Sequence[Edit],
    speaking: bool = False,
) -> Outcome:
    """The prompts from given positions on, with edits.

    Args:
        parts: the model.
        kept: the prompts' keys and values, from :func:`prefix`.
        prompts: whole prompts.
        first: of each prompt the first position that is run again.
        rows: which prompt each row of the outcome is; one may come several times.
        edits: in terms of these rows.
        speaking: whether the outcome's batch is needed, to generate from it.
    """
    branched = max(rows.count(r) for r in set(rows)) * _longest(prompts, first, set(rows))
    if not speaking and branches_work(parts.lm) and branched <= kept.mask.shape[1]:
        return _run_branches(parts, kept, prompts, first=first, rows=rows, edits=edits)
    batch = decoding.cropped(parts.lm, kept, rows, [first[r] for r in rows])
    offsets = torch.tensor([len(tokens) for tokens in batch.tokens], device=parts.lm.device)
    new = [list(prompts[r][first[r] :]) for r in rows]
    with edited(parts, edits, offsets):
        logits, reads = decoding.prefill(parts.lm, batch, new, _last(parts, new))
    assert reads is not None  # weights were given
    return Outcome(logits=logits, residuals=reads[:, 0], batch=batch)


def units_at_once(
    parts: Parts, kept: Batch, prompts: Sequence[Sequence[int]], first: Sequence[int], *, rows: int
) -> int:
    """How many changes of every prompt one pass should take, with at most so many rows.

    Branches of one row all compute scores with each other, so together they should not be longer than what is
    kept of the prompts; where not even two are as short, each change gets a row of its own.
    """
    many = max(1, rows // max(1, len(prompts)))
    fit = kept.mask.shape[1] // _longest(prompts, first, range(len(prompts)))
    return min(many, fit) if fit >= 2 and branches_work(parts.lm) else many


def _longest(prompts: Sequence[Sequence[int]], first: Sequence[int], which: Iterable[int]) -> int:
    return max(len(prompts[i]) - first[i] for i in which)


# --------------------------------------------------------------------------------------------- branches
def branches_work(lm: LanguageModel) -> bool:
    """Whether the model's attention takes any mask, and its layers attend to all or to a sliding window."""
    config = lm.module.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    kernel = lm.module.config._attn_implementation
    return kernel in ("eager", "sdpa") and kinds <= {"full_attention", "sliding_attention"}


def _run_branches(
    parts: Parts,
    kept: Batch,
    prompts: Sequence[Sequence[int]],
    *,
    first: Sequence[int],
    rows: Sequence[int],
    edits: Sequence[Edit],
) -> Outcome:
    """All rows of a prompt side by side in one, each seeing the prompt's kept part and itself only."""
    lm = parts.lm
    device = lm.device
    own = sorted(set(rows))
    line = {prompt: i for i, prompt in enumerate(own)}
    size = max(len(prompts[p]) - first[p] for p in own)
    seen = dict.fromkeys(own, 0)
    branch = []
    for prompt in rows:
        branch.append(seen[prompt])
        seen[prompt] += 1
    width = max(seen.values()) * size
    index = torch.tensor(own, device=device)
    ids = torch.zeros(len(own), width, dtype=torch.long, device=device)
    step = torch.arange(width, device=device)
    starts = torch.tensor([first[p] for p in own], device=device)
    lengths = torch.tensor([len(prompts[p]) - first[p] for p in own], device=device)
    for i, prompt in enumerate(own):
        ids[i] = torch.tensor([*prompts[prompt][first[prompt] :], *[0] * (size - int(lengths[i]))]).repeat(
            width // size
        )
    real = (step % size)[None] < lengths[:, None]
    inside = torch.minimum(step[None] % size, lengths[:, None] - 1)
    positions = starts[:, None] + inside
    before = kept.mask[index]
    place = before.cumsum(dim=1) - 1
    before = before & (place < starts[:, None])
    same = (step[:, None] // size == step[None] // size) & (step[None] <= step[:, None])
    to_new = same[None] & (real[:, None, :] | torch.eye(width, dtype=torch.bool, device=device))
    visible = torch.cat([before[:, None, :].expand(-1, width, -1), to_new], dim=-1)
    distance = positions[:, :, None] - torch.cat([place, positions], dim=1)[:, None, :]
    cache = DynamicCache()
    for number, layer in enumerate(kept.cache.layers):
        where = index.to(layer.keys.device)
        cache.update(layer.keys[where], layer.values[where], number)
    moved = []
    spot = torch.tensor(branch, device=device)
    at_line = torch.tensor([line[p] for p in rows], device=device)
    for edit in edits:
        in_line = at_line[edit.rows]
        places = edit.places - starts[in_line][:, None] + spot[edit.rows][:, None] * size
        moved.append(replace(edit, rows=in_line, places=places))
    ends = spot * size + lengths[at_line] - 1
    reads: list[Tensor] = []

    def read(hidden: Tensor) -> Tensor:
        return decoding.widened(hidden[at_line.to(hidden.device), ends.to(hidden.device)]).to(device)

    def before_first(_: Any, args: tuple, kwargs: dict) -> None:
        reads.append(read(args[0] if args else kwargs["hidden_states"]))

    def after(_: Any, args: tuple, output: Any) -> None:
        reads.append(read(output[0] if isinstance(output, tuple) else output))

    def before_head(_: Any, args: tuple) -> tuple:
        picked = args[0][at_line.to(args[0].device), ends.to(args[0].device)]
        return (picked.unsqueeze(1), *args[1:])

    with edited(parts, moved, torch.zeros(len(own), dtype=torch.long, device=device)):
        handles = [
            lm.head.register_forward_pre_hook(before_head),
            lm.blocks[0].register_forward_pre_hook(before_first, with_kwargs=True),
            *(block.register_forward_hook(after) for block in lm.blocks),
        ]
        try:
            with torch.no_grad():
                found = lm.module(
                    input_ids=ids,
                    attention_mask=_mask(lm, visible, distance),
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                )
        finally:
            for handle in handles:
                handle.remove()
    logits = decoding.widened(found.logits[:, 0]).to(device)
    return Outcome(logits=logits, residuals=torch.stack(reads, dim=1), batch=None)


def _mask(
    lm: LanguageModel, visible: Bool[Tensor, "row new slot"], distance: Int[Tensor, "row new slot"]
) -> Any:
    """What is added to attention scores; by kind of layer, where a model has several."""
    config = lm.module.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    dtype = lm.module.dtype

    def added(allowed: Tensor) -> Tensor:
        mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
        return mask.masked_fill(~allowed, torch.finfo(dtype).min)[:, None]

    near = visible if window is None else visible & (distance < window)
    if len(kinds) == 2:
        return {"full_attention": added(visible), "sliding_attention": added(near)}
    return added(visible if kinds == {"full_attention"} else near)
