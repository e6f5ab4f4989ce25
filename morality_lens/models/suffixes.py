"""The ends of prompts, run again with changed activations while everything before is kept.

A change at position p of layer l alters nothing before p. So the keys and values of the clean prompt are kept
up to p, and only the rest is run, once for each change: a sweep over layers is one short pass. All changes of
a prompt are branches of one row, each of which attends to the kept part and to itself, so that nothing is
copied.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
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
    """The results of running some ends of prompts.

    Attributes:
        logits: after the last token.
        residuals: at the last token, the embedding first.
        batch: from which replies can be generated; None where that was not requested.
    """

    logits: Float[Tensor, "row vocab"]
    residuals: Float[Tensor, "row layer d_model"]
    batch: Batch | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Shared:
    """The common beginning of two prompts of each item, read once.

    Attributes:
        batch: its keys and values.
        lengths: tokens of each item; at least one token of both prompts follows.
    """

    batch: Batch
    lengths: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Ends:
    """The ends of prompts that are run again.

    Attributes:
        kept: the prompts' keys and values, from :func:`prefix`.
        prompts: whole prompts.
        first: of each prompt the first position that is run again.
    """

    kept: Batch
    prompts: Sequence[Sequence[int]]
    first: Sequence[int]

    def tokens(self, prompt: int) -> list[int]:
        """The tokens of a prompt that are run again."""
        return list(self.prompts[prompt][self.first[prompt] :])

    def longest(self, prompts: Iterable[int]) -> int:
        """Most tokens that are run again of any of these prompts."""
        return max(len(self.prompts[i]) - self.first[i] for i in prompts)


def read_shared(parts: Parts, prompts: Sequence[Sequence[int]], others: Sequence[Sequence[int]]) -> Shared:
    """Read the common beginning of each item's two prompts."""
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
    """The results of whole prompts, and activations at some places; of residuals the embedding comes first.

    Places in the common beginning are not read (other values are given there): a patch there has no effect.
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
    """The prompts without their last tokens, read once; the common beginning is not read again."""
    lengths = (0,) * len(prompts) if shared is None else shared.lengths
    batch = decoding.start(parts.lm, len(prompts)) if shared is None else _continued(parts, shared)
    new = [p[n:-1] for p, n in zip(prompts, lengths, strict=True)]
    if max(map(len, new)):
        decoding.prefill(parts.lm, batch, new)
    return batch


def run_suffixes(
    parts: Parts, ends: Ends, *, rows: Sequence[int], edits: Sequence[Edit], speaking: bool = False
) -> Outcome:
    """The ends of prompts, with edits.

    Args:
        parts: the model.
        ends: what is run again.
        rows: which prompt each row of the outcome is; one may come several times.
        edits: in terms of these rows.
        speaking: whether the outcome's batch is needed, to generate from it.
    """
    branched = max(rows.count(r) for r in set(rows)) * ends.longest(set(rows))
    if not speaking and branches_work(parts.lm) and branched <= ends.kept.mask.shape[1]:
        return _run_branches(parts, ends, rows, edits)
    batch = decoding.cropped(parts.lm, ends.kept, rows, [ends.first[r] for r in rows])
    offsets = torch.tensor([len(tokens) for tokens in batch.tokens], device=parts.lm.device)
    new = [ends.tokens(r) for r in rows]
    with edited(parts, edits, offsets):
        logits, reads = decoding.prefill(parts.lm, batch, new, _last(parts, new))
    assert reads is not None  # weights were given
    return Outcome(logits=logits, residuals=reads[:, 0], batch=batch)


def units_at_once(parts: Parts, ends: Ends, *, rows: int) -> int:
    """How many changes of every prompt one pass should take, with at most so many rows.

    Branches of one row all compute attention scores with each other, so together they should not be longer
    than the kept part of the prompts; where not even two are short enough, each change gets its own row.
    """
    count = len(ends.prompts)
    many = max(1, rows // max(1, count))
    fit = ends.kept.mask.shape[1] // ends.longest(range(count))
    return min(many, fit) if fit >= 2 and branches_work(parts.lm) else many


# --------------------------------------------------------------------------------------------- branches
def branches_work(lm: LanguageModel) -> bool:
    """Whether branches can share positions: attention is told these and takes any mask, and its layers attend
    to all or to a sliding window."""
    config = lm.module.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    kernel = lm.module.config._attn_implementation
    return lm.positions and kernel in ("eager", "sdpa") and kinds <= {"full_attention", "sliding_attention"}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Lines:
    """The places of rows in a pass: all rows of one prompt follow each other in one line.

    Attributes:
        prompts: the prompt of each line.
        starts: position of the first token that is run again, by line.
        lengths: tokens of each branch, by line.
        size: tokens that a branch may take.
        width: tokens of a line.
        line: the line of each row.
        branch: index of each row in its line.
    """

    prompts: list[int]
    starts: Int[Tensor, " line"]
    lengths: Int[Tensor, " line"]
    size: int
    width: int
    line: Int[Tensor, " row"]
    branch: Int[Tensor, " row"]

    @staticmethod
    def of(ends: Ends, rows: Sequence[int], device: torch.device) -> "_Lines":
        """The lines of some rows."""
        prompts = sorted(set(rows))
        seen = dict.fromkeys(prompts, 0)
        branch = []
        for prompt in rows:
            branch.append(seen[prompt])
            seen[prompt] += 1
        size = ends.longest(prompts)
        line = {prompt: i for i, prompt in enumerate(prompts)}
        return _Lines(
            prompts=prompts,
            starts=torch.tensor([ends.first[p] for p in prompts], device=device),
            lengths=torch.tensor([len(ends.tokens(p)) for p in prompts], device=device),
            size=size,
            width=max(seen.values()) * size,
            line=torch.tensor([line[p] for p in rows], device=device),
            branch=torch.tensor(branch, device=device),
        )

    @property
    def last(self) -> Int[Tensor, " row"]:
        """Where in its line each row ends."""
        return self.branch * self.size + self.lengths[self.line] - 1

    def ids(self, ends: Ends) -> Int[Tensor, "line token"]:
        """The tokens of all lines: each branch is padded on the right."""
        rows = [(ends.tokens(p) + [0] * self.size)[: self.size] for p in self.prompts]
        return torch.tensor(rows, device=self.starts.device).repeat(1, self.width // self.size)

    def moved(self, edit: Edit) -> Edit:
        """An edit of rows as one of lines."""
        line = self.line[edit.rows]
        places = edit.places - self.starts[line][:, None] + self.branch[edit.rows][:, None] * self.size
        return replace(edit, rows=line, places=places)

    def picked(self, hidden: Tensor) -> Float[Tensor, "row d_model"]:
        """The values of a tensor over lines at the end of every row."""
        return hidden[self.line.to(hidden.device), self.last.to(hidden.device)]

    def positions(self) -> Int[Tensor, "line token"]:
        """The position of every token in its dialogue."""
        step = torch.arange(self.width, device=self.starts.device)
        inside = torch.minimum(step[None] % self.size, self.lengths[:, None] - 1)
        return self.starts[:, None] + inside

    def attention(
        self, kept: Bool[Tensor, "line slot"]
    ) -> tuple[Bool[Tensor, "line new seen"], Int[Tensor, "line new seen"]]:
        """What every token attends to, kept slots first, then its branch; and the distances to it."""
        step = torch.arange(self.width, device=self.starts.device)
        real = (step % self.size)[None] < self.lengths[:, None]
        place = kept.cumsum(dim=1) - 1
        before = kept & (place < self.starts[:, None])
        same = (step[:, None] // self.size == step[None] // self.size) & (step[None] <= step[:, None])
        itself = torch.eye(self.width, dtype=torch.bool, device=step.device)
        to_new = same[None] & (real[:, None, :] | itself)
        visible = torch.cat([before[:, None, :].expand(-1, self.width, -1), to_new], dim=-1)
        positions = self.positions()
        distance = positions[:, :, None] - torch.cat([place, positions], dim=1)[:, None, :]
        return visible, distance


def _run_branches(parts: Parts, ends: Ends, rows: Sequence[int], edits: Sequence[Edit]) -> Outcome:
    """All rows of a prompt in one line, each attending only to the prompt's kept part and to itself."""
    lm = parts.lm
    lines = _Lines.of(ends, rows, lm.device)
    index = torch.tensor(lines.prompts, device=lm.device)
    visible, distance = lines.attention(ends.kept.mask[index])
    cache = DynamicCache()
    for number, layer in enumerate(ends.kept.cache.layers):
        where = index.to(layer.keys.device)
        cache.update(layer.keys[where], layer.values[where], number)
    nowhere = torch.zeros(len(lines.prompts), dtype=torch.long, device=lm.device)
    with (
        torch.no_grad(),
        edited(parts, [lines.moved(edit) for edit in edits], nowhere),
        _reading_ends(lm, lines) as reads,
    ):
        found = lm.module(
            input_ids=lines.ids(ends),
            attention_mask=_mask(lm, visible, distance),
            position_ids=lines.positions(),
            past_key_values=cache,
            use_cache=True,
        )
    logits = decoding.widened(found.logits[:, 0]).to(lm.device)
    return Outcome(logits=logits, residuals=torch.stack(reads, dim=1), batch=None)


@contextmanager
def _reading_ends(lm: LanguageModel, lines: _Lines) -> Iterator[list[Tensor]]:
    """While open, a pass leaves here the residuals at the rows' ends, and its logits are of these alone."""
    reads: list[Tensor] = []

    def read(hidden: Tensor) -> None:
        reads.append(decoding.widened(lines.picked(hidden)).to(lm.device))

    def before_first(_: Any, args: tuple, kwargs: dict) -> None:
        read(args[0] if args else kwargs["hidden_states"])

    def after(_: Any, args: tuple, output: Any) -> None:
        read(output[0] if isinstance(output, tuple) else output)

    def before_head(_: Any, args: tuple) -> tuple:
        return (lines.picked(args[0]).unsqueeze(1), *args[1:])

    handles = [
        lm.head.register_forward_pre_hook(before_head),
        lm.blocks[0].register_forward_pre_hook(before_first, with_kwargs=True),
        *(block.register_forward_hook(after) for block in lm.blocks),
    ]
    try:
        yield reads
    finally:
        for handle in handles:
            handle.remove()


def _mask(
    lm: LanguageModel, visible: Bool[Tensor, "row new slot"], distance: Int[Tensor, "row new slot"]
) -> Any:
    """What is added to attention scores; by kind of layer where a model has several."""
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
