"""A batch of dialogues in one key-value cache: feed tokens, generate, and read residuals on the way.

Every token passes through the model once. Turns of unequal length would leave padding between old and new
tokens of a row, which models with a sliding window silently process wrongly (their masks count slots, not
positions); so each turn is padded on the right, and afterwards all padding is moved to the left edge and
columns with padding only are dropped.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

Ends = Callable[[int, Sequence[int]], bool]
"""Whether a reply ends: of a row number and its tokens so far."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LanguageModel:
    """A plain transformers causal model and what is needed to feed it piece by piece.

    Attributes:
        module: the transformers model.
        blocks: its transformer blocks in order.
        head: the unembedding: the module that maps the last hidden state to logits.
        window: length of the context window.
        cached: whether keys and values are its whole state; otherwise every step reads the whole text.
        positions: whether it is told positions; otherwise it counts the tokens that it may attend to.
    """

    module: Any
    blocks: tuple[torch.nn.Module, ...]
    head: torch.nn.Module
    window: int
    cached: bool = True
    positions: bool = True

    @property
    def device(self) -> torch.device:
        """The device of the token ids."""
        return next(self.module.parameters()).device


@dataclass(kw_only=True, eq=False)
class Batch:
    """Unfinished dialogues: one row each.

    Attributes:
        tokens: all tokens fed so far, row by row.
        mask: which slots of the cache hold a token; between turns all padding is at the left edge.
        cache: keys and values, one slot a column.
    """

    tokens: list[list[int]]
    mask: Bool[Tensor, "row slot"]
    cache: Any


@dataclass(frozen=True, kw_only=True, eq=False)
class Reply:
    """What a batch generated.

    Attributes:
        tokens: the new tokens of each row, without the stop token.
        stopped: whether the row ended by a stop token rather than by the limit.
        end: residuals at the last new token, layer -1 (embedding) first; NaN where there is none.
        mean: residuals averaged over the new tokens; NaN where there is none.
    """

    tokens: list[list[int]]
    stopped: list[bool]
    end: Float[Tensor, "row layer d_model"]
    mean: Float[Tensor, "row layer d_model"]


def widened(values: Tensor) -> Tensor:
    """Half precision as float32, in which sums keep their precision; float32 and float64 unchanged."""
    return values if values.dtype in (torch.float32, torch.float64) else values.float()


def start(lm: LanguageModel, rows: int) -> Batch:
    """An empty batch."""
    mask = torch.zeros(rows, 0, dtype=torch.bool, device=lm.device)
    return Batch(tokens=[[] for _ in range(rows)], mask=mask, cache=roomy_cache())


class RoomyLayer(DynamicLayer):
    """Keys and values of one block, with room for further slots: a step copies what is new, not all.

    The rows that still write can be moved to the front and be shown alone: the others stay where they are.
    """

    ROOM = 32
    """Slots that are added when there is no room left; an eighth of all, where that is more."""
    _buffers: tuple[Tensor, Tensor] | None = None
    _shown: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Keep the new keys and values after those that are there; all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        kept, rows = self.get_seq_length(), key_states.shape[0]
        slots = kept + key_states.shape[-2]
        held = self._held()
        if not kept or slots > held[0].shape[-2]:
            size = slots + (room(slots) if kept else 0)
            held = (_moved(held[0], kept, key_states, size), _moved(held[1], kept, value_states, size))
        for buffer, states in zip(held, (key_states, value_states), strict=True):
            buffer[:rows, :, kept:slots] = states
        self.show(held, rows, slots)
        return self.keys, self.values

    def show(self, buffers: tuple[Tensor, Tensor], rows: int, slots: int) -> None:
        """Take the first rows and slots of these buffers as the keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(*buffers)
        self._buffers = buffers
        self.keys, self.values = (buffer[:rows, :, :slots] for buffer in buffers)
        self._shown = (self.keys, self.values)

    def lead(self, places: Sequence[int], others: Sequence[int], rows: int) -> None:
        """Exchange some rows for others, and show the first ones alone."""
        slots, here, there = self.get_seq_length(), [*places, *others], [*others, *places]
        for buffer in self._held():
            buffer[here, :, :slots] = buffer[there, :, :slots]
        self.show(self._held(), rows, slots)

    def show_all(self) -> None:
        """Show every row again, those that :meth:`lead` left out too."""
        held = self._held()
        self.show(held, held[0].shape[0], self.get_seq_length())

    def reordered(self, order: Int[Tensor, "new kept"], rows: Int[Tensor, " new"] | None = None) -> None:
        """Give each row its slots in an order of its own, and room: everything is copied once."""
        self.show(self.copied(order, rows), *order.shape)

    def copied(
        self, order: Int[Tensor, "new kept"], rows: Int[Tensor, " new"] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Buffers with some slots of each row, in an order of its own, and room."""
        # What lies in the room is never read, so it may be any slot.
        wide = torch.nn.functional.pad(order, (0, room(order.shape[1])))
        assert self.keys is not None
        assert self.values is not None
        return _reorder(self.keys, wide, rows), _reorder(self.values, wide, rows)

    def _held(self) -> tuple[Tensor, Tensor]:
        """The buffers; the keys and values themselves where something else than this layer set them."""
        assert self.keys is not None
        assert self.values is not None
        ours = self._shown is not None and self._shown[0] is self.keys and self._shown[1] is self.values
        return self._buffers if ours and self._buffers is not None else (self.keys, self.values)


def room(slots: int) -> int:
    """Free slots that are kept after so many."""
    return max(RoomyLayer.ROOM, slots // 8)


def _moved(held: Tensor, kept: int, new: Tensor, size: int) -> Tensor:
    """A buffer of so many slots, with those that are kept in front; the free ones are zero.

    A row that no longer writes gets no more keys and values, and what gets no attention must be finite.
    """
    rows = held.shape[0] if kept else new.shape[0]
    buffer = new.new_zeros(rows, *new.shape[1:-2], size, new.shape[-1])
    if kept:
        buffer[..., :kept, :] = held[..., :kept, :]
    return buffer


def roomy_cache() -> DynamicCache:
    """An empty cache that keeps every slot; one built from a model's config drops some (sliding windows)."""
    cache = DynamicCache()
    cache.layer_class_to_replicate = RoomyLayer
    return cache


def take(lm: LanguageModel, batch: Batch, rows: Sequence[int]) -> Batch:
    """A new batch of the given rows, in that order, copied once; a row may occur several times."""
    return cropped(lm, batch, rows, [len(batch.tokens[r]) for r in rows])


def cropped(lm: LanguageModel, batch: Batch, rows: Sequence[int], lengths: Sequence[int]) -> Batch:
    """:func:`take`, but only the first tokens of each row (no more than it has)."""
    chosen = torch.tensor(list(rows), device=lm.device)
    keep = torch.tensor(list(lengths), device=lm.device)
    mask = batch.mask[chosen]
    mask = mask & (mask.cumsum(dim=1) <= keep[:, None])
    order = _to_the_left(mask)
    cache = roomy_cache()
    for layer in batch.cache.layers:
        copy = RoomyLayer()
        copy.show(layer.copied(order, chosen), *order.shape)
        cache.layers.append(copy)
    tokens = [list(batch.tokens[r][:n]) for r, n in zip(rows, lengths, strict=True)]
    return Batch(tokens=tokens, mask=mask.gather(1, order), cache=cache)


@dataclass(kw_only=True, eq=False)
class _Reader:
    """Hooks of one forward pass: residuals summed with weights, and logits for each row's last token only."""

    lm: LanguageModel
    weights: Float[Tensor, "row read new"] | None
    real: Bool[Tensor, "row new"]
    last: Int[Tensor, " row"]
    sink: list[Tensor]

    def keep(self, hidden: Tensor) -> None:
        # Padding may hold NaN, so it is set to zero before it is multiplied by zero.
        clean = torch.where(self.real.to(hidden.device).unsqueeze(-1), widened(hidden), 0.0)
        assert self.weights is not None  # the hooks that come here are on only then
        read = einsum(self.weights.to(clean), clean, "row read new, row new d -> row read d")
        self.sink.append(read.to(self.lm.device))

    def before_first_block(self, _: Any, args: tuple, kwargs: dict) -> None:
        self.keep(args[0] if args else kwargs["hidden_states"])

    def after_block(self, _: Any, args: tuple, output: Any) -> None:
        self.keep(output[0] if isinstance(output, tuple) else output)

    def without_padding(self, _: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        """Zeros in place of padding, which would be NaN where it attends to nothing (see :func:`_hooked`)."""
        hidden = args[0] if args else kwargs["hidden_states"]
        clean = torch.where(self.real.to(hidden.device).unsqueeze(-1), hidden, 0.0)
        return ((clean, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": clean})

    def before_head(self, _: Any, args: tuple) -> tuple:
        hidden = args[0]
        rows = torch.arange(hidden.shape[0], device=hidden.device)
        return (hidden[rows, self.last.to(hidden.device)].unsqueeze(1), *args[1:])


@contextmanager
def _hooked(reader: _Reader) -> Iterator[None]:
    """While open, the reader's hooks are on the model; only they are removed afterwards.

    Some attention computes its softmax in float32. A float64 mask is minus infinity there, so padding that
    attends to nothing (under a sliding window, for example) becomes NaN, and so does NaN times a weight of
    zero.
    """
    lm = reader.lm
    handles: list[Any] = [lm.head.register_forward_pre_hook(reader.before_head)]
    if next(lm.module.parameters()).dtype == torch.float64:
        handles += [
            block.register_forward_pre_hook(reader.without_padding, with_kwargs=True) for block in lm.blocks
        ]
    if reader.weights is not None:
        handles.append(lm.blocks[0].register_forward_pre_hook(reader.before_first_block, with_kwargs=True))
        handles += [block.register_forward_hook(reader.after_block) for block in lm.blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def feed(
    lm: LanguageModel,
    batch: Batch,
    new: Sequence[Sequence[int]],
    weights: Float[Tensor, "row read new"] | None = None,
    hidden: Bool[Tensor, "row new"] | None = None,
) -> tuple[Float[Tensor, "row vocab"], Float[Tensor, "row read layer d_model"] | None]:
    """Feed each row its new tokens; the logits after its last one, and weighted sums of the residuals.

    Args:
        lm: the model.
        batch: the rows, changed in place.
        new: new tokens of each row; rows may differ in length, and one without any is left as it is
            (its logits are meaningless).
        weights: for each row and read, a weight for each of its new tokens.
        hidden: new tokens that no token attends to; they keep their positions, as do all others.

    Raises:
        ValueError: tokens are hidden from a model that counts those that it may attend to.
    """
    if hidden is not None and not lm.positions:
        raise ValueError(
            f"{type(lm.module).__name__} measures distances by counting the tokens that can be attended to, "
            "so hiding some would move the others; take a model with positions of its own."
        )
    counts = [len(tokens) for tokens in new]
    old = [len(tokens) for tokens in batch.tokens]
    for row, tokens in zip(batch.tokens, new, strict=True):
        row.extend(tokens)
    fed: Sequence[Sequence[int]] = new if lm.cached else batch.tokens
    if not lm.cached:
        counts, old = [len(tokens) for tokens in fed], [0] * len(old)
        if weights is not None:
            weights = _shift(weights, [len(t) - len(n) for t, n in zip(fed, new, strict=True)], max(counts))
    width = max(counts)
    device = lm.device
    ids = torch.tensor([[*tokens, *[0] * (width - len(tokens))] for tokens in fed], device=device)
    count = torch.tensor(counts, device=device)
    step = torch.arange(width, device=device)
    real = step < count[:, None]
    last = (count - 1).clamp(min=0)
    # A position past a row's last token is never read; it is clamped to the window for learned positions.
    positions = torch.tensor(old, device=device)[:, None] + torch.minimum(step[None], last[:, None])
    seen = real if hidden is None else real & ~hidden
    mask = torch.cat([batch.mask, seen], dim=1) if lm.cached else seen
    sink: list[Tensor] = []
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask.long(), "use_cache": lm.cached}
    if lm.cached:
        inputs |= {"position_ids": positions.clamp(max=lm.window - 1), "past_key_values": batch.cache}
    reader = _Reader(lm=lm, weights=weights, real=real, last=last, sink=sink)
    with torch.no_grad(), _hooked(reader):
        logits = widened(lm.module(**inputs).logits[:, 0])
    if lm.cached:
        batch.mask = mask
    reads = rearrange(sink, "layer row read d -> row read layer d") if weights is not None else None
    return logits.to(device), reads


def _shift(weights: Tensor, by: Sequence[int], width: int) -> Tensor:
    """The weights of new tokens as weights over the whole row."""
    moved = torch.zeros(*weights.shape[:2], width, device=weights.device)
    for row, offset in enumerate(by):
        size = min(weights.shape[2], width - offset)
        moved[row, :, offset : offset + size] = weights[row, :, :size]
    return moved


def prefill(
    lm: LanguageModel,
    batch: Batch,
    new: Sequence[Sequence[int]],
    weights: Float[Tensor, "row read new"] | None = None,
) -> tuple[Float[Tensor, "row vocab"], Float[Tensor, "row read layer d_model"] | None]:
    """:func:`feed` a turn, then move the padding it left to the left edge."""
    result = feed(lm, batch, new, weights)
    compact(batch)
    return result


def compact(batch: Batch) -> None:
    """Move all padding to the left edge, and drop columns that hold nothing else."""
    if batch.mask.numel() and not bool(batch.mask.all()):
        _sorted_slots(batch, _to_the_left(batch.mask))


def _to_the_left(mask: Bool[Tensor, "row slot"]) -> Int[Tensor, "row kept"]:
    """The order of each row's slots with all padding first; no more columns than the longest row needs."""
    if not mask.shape[1]:
        return torch.zeros(mask.shape, dtype=torch.long, device=mask.device)
    keep = max(1, int(mask.sum(1).max()))
    return torch.argsort(mask.byte(), dim=1, stable=True)[:, -keep:]


def _sorted_slots(
    batch: Batch, order: Int[Tensor, "row kept"], rows: Int[Tensor, " row"] | None = None
) -> None:
    """Give each row its slots in an order of its own; ``rows``: where the cache holds each row now."""
    for layer in batch.cache.layers:
        layer.reordered(order, rows)
    batch.mask = batch.mask.gather(1, order)


def _reorder(
    stored: Float[Tensor, "row head slot size"],
    order: Int[Tensor, "new kept"],
    rows: Int[Tensor, " new"] | None = None,
) -> Float[Tensor, "new head kept size"]:
    """Each row's slots in its own order, as whole vectors (`gather` would copy number by number)."""
    _, heads, slots, size = stored.shape
    order = order.to(stored.device)
    chosen = torch.arange(len(order), device=stored.device) if rows is None else rows.to(stored.device)
    first = (chosen[:, None] * heads + torch.arange(heads, device=stored.device)) * slots
    index = first[:, :, None] + order[:, None, :]
    flat = stored.reshape(-1, size).index_select(0, index.reshape(-1))
    return flat.view(len(order), heads, -1, size)


@dataclass(frozen=True, kw_only=True, eq=False)
class Draws:
    """Random numbers for sampling tokens by the inverse of their cumulative distribution.

    Attributes:
        uniforms: one number in [0, 1) for each row and step.
        temperature: divides the logits.
    """

    uniforms: Float[Tensor, "row step"]
    temperature: float

    @staticmethod
    def of(seed: int, keys: Sequence[str], limit: int, temperature: float) -> "Draws | None":
        """Random numbers of each row that do not depend on the rows beside it; None at temperature 0."""
        if temperature == 0:
            return None
        seeds = [hashlib.sha256(f"{seed}|{key}".encode()).digest() for key in keys]
        drawn = [np.random.default_rng(list(seed)).random(limit) for seed in seeds]
        return Draws(uniforms=torch.tensor(np.stack(drawn), dtype=torch.float64), temperature=temperature)

    def token(
        self, logits: Float[Tensor, "place vocab"], step: int, rows: Sequence[int]
    ) -> Int[Tensor, " place"]:
        """The token of some rows at a step; ``rows``: which ones the logits are of."""
        mass = torch.softmax(logits.double() / self.temperature, dim=-1).cumsum(-1)
        point = self.uniforms[list(rows), step].to(mass)[:, None] * mass[:, -1:]
        return torch.searchsorted(mass, point, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)


@dataclass(kw_only=True, eq=False)
class _Replies:
    """Replies while they are generated.

    Attributes:
        tokens: of each row so far.
        active: rows that have not ended.
        stopped: rows that ended by a stop token.
        end: residuals at the last token.
        total: their sum over the tokens.
    """

    tokens: list[list[int]]
    active: list[bool]
    stopped: list[bool]
    end: Tensor | None = None
    total: Tensor | None = None

    @staticmethod
    def none(done: Sequence[bool]) -> "_Replies":
        """Replies without tokens; those that are done stay so."""
        rows = len(done)
        return _Replies(
            tokens=[[] for _ in range(rows)], active=[not d for d in done], stopped=[False] * rows
        )

    def add(
        self, rows: Sequence[int], chosen: Sequence[int], stops: frozenset[int], ends: Ends | None
    ) -> None:
        """Add a token to each of these rows that has not ended; a stop token ends it."""
        for row, token in zip(rows, chosen, strict=True):
            if not self.active[row]:
                continue
            if token in stops or (ends is not None and ends(row, [*self.tokens[row], token])):
                self.active[row], self.stopped[row] = False, True
            else:
                self.tokens[row].append(token)

    def new(self, rows: Sequence[int]) -> list[list[int]]:
        """The last token of each of these rows; none where the row has ended."""
        return [self.tokens[row][-1:] if self.active[row] else [] for row in rows]

    def read(self, rows: Sequence[int], here: Float[Tensor, "place layer d_model"]) -> None:
        """Add the residuals at the tokens just fed to these rows; those of rows that ended are zero."""
        if self.total is None or self.end is None:
            self.total, self.end = (here.new_zeros(len(self.tokens), *here.shape[1:]) for _ in range(2))
        where = torch.tensor(list(rows), device=here.device)
        wrote = torch.tensor([self.active[row] for row in rows], device=here.device)
        self.total[where] += here
        self.end[where[wrote]] = here[wrote]

    def finished(self, lm: LanguageModel) -> Reply:
        """The replies; residuals are NaN where a reply is empty or nothing was read."""
        count = torch.tensor([float(len(tokens)) for tokens in self.tokens], device=lm.device)[:, None, None]
        end, total = self.end, self.total
        if end is None or total is None:
            size = int(lm.module.config.get_text_config().hidden_size)
            shape = (len(self.tokens), len(lm.blocks) + 1, size)
            end = total = torch.full(shape, torch.nan, device=lm.device)
        nothing = count == 0
        return Reply(
            tokens=self.tokens,
            stopped=self.stopped,
            end=torch.where(nothing, torch.nan, end),
            mean=torch.where(nothing, torch.nan, total / count.clamp(min=1)),
        )


@dataclass(kw_only=True, eq=False)
class Front:
    """The rows of a batch that still write: they are in its first places, so that the others cost nothing.

    Attributes:
        lm: the model.
        batch: all rows, in their own order again after :meth:`close`.
        part: the rows in the first places.
        order: the row in each place.
        mask: the slots of all places; of the first ones up to the last time that rows left.
    """

    lm: LanguageModel
    batch: Batch
    part: Batch
    order: list[int]
    mask: Bool[Tensor, "place slot"]

    @staticmethod
    def of(lm: LanguageModel, batch: Batch) -> "Front":
        """All rows, in their own places."""
        order = list(range(len(batch.tokens)))
        return Front(lm=lm, batch=batch, part=batch, order=order, mask=batch.mask)

    @property
    def rows(self) -> list[int]:
        """The rows that are fed."""
        return self.order[: len(self.part.tokens)]

    def narrow(self, active: Sequence[bool]) -> None:
        """Let rows that have ended leave, once they are a quarter; where all text is read again, at once.

        The last rows take the places of those that leave, and nothing else is copied.
        """
        rows = self.rows
        ended = [place for place, row in enumerate(rows) if not active[row]]
        if not ended or (self.lm.cached and 4 * len(ended) < len(rows)):
            return
        size = len(rows) - len(ended)
        free = [place for place in ended if place < size]
        late = [place for place in range(size, len(rows)) if active[rows[place]]]
        mask, here, there = self._all_slots(), [*free, *late], [*late, *free]
        mask[here] = mask[there]
        for layer in self.batch.cache.layers:
            layer.lead(free, late, size)
        for one, other in zip(free, late, strict=True):
            self.order[one], self.order[other] = self.order[other], self.order[one]
        tokens = [self.batch.tokens[row] for row in self.order[:size]]
        self.mask, self.part = mask, Batch(tokens=tokens, mask=mask[:size], cache=self.batch.cache)

    def close(self) -> None:
        """Put all rows back where they were, with their padding at the left edge: one copy."""
        batch, narrowed = self.batch, self.part is not self.batch
        if not narrowed or not self.lm.cached:
            return compact(batch)
        where = sorted(range(len(self.order)), key=lambda place: self.order[place])
        rows = torch.tensor(where, device=batch.mask.device)
        batch.mask = self._all_slots()[rows]
        for layer in batch.cache.layers:
            layer.show_all()
        return _sorted_slots(batch, _to_the_left(batch.mask), rows)

    def _all_slots(self) -> Bool[Tensor, "place slot"]:
        """The slots of all places; rows that left have none of the last ones."""
        more = self.part.mask.shape[1] - self.mask.shape[1]
        return torch.cat(
            [self.part.mask, torch.nn.functional.pad(self.mask[len(self.part.tokens) :], (0, more))]
        )


def generate(
    lm: LanguageModel,
    batch: Batch,
    logits: Float[Tensor, "row vocab"],
    *,
    limit: int,
    stops: frozenset[int],
    draws: Draws | None = None,
    done: Sequence[bool] | None = None,
    ends: Ends | None = None,
    read: bool = True,
) -> Reply:
    """Generate up to ``limit`` tokens in every row; each is fed and its residual read in the same pass.

    Rows that have ended leave the passes and come back at the end. Fewer rows in a pass change the last bits
    of sums, not which rows are read: the choice depends on nothing but the tokens.

    Args:
        lm: the model.
        batch: the rows, changed in place.
        logits: what the last fed token predicts.
        limit: most tokens of a reply.
        stops: tokens that end a reply; they are not fed.
        draws: random numbers for sampling; None takes the most probable token.
        done: rows that write nothing; None lets all write.
        ends: whether a row's reply ends at the last of its tokens, which is then neither kept nor fed, as a
            stop token.
        read: whether residuals are read.
    """
    replies = _Replies.none(done or [False] * len(batch.tokens))
    front = Front.of(lm, batch)
    for step in range(limit):
        rows = front.rows
        chosen = logits.argmax(-1) if draws is None else draws.token(logits, step, rows)
        replies.add(rows, chosen.tolist(), stops, ends)
        if not any(replies.active):
            break
        front.narrow(replies.active)
        new = replies.new(front.rows)
        wrote = [[[float(len(tokens))]] for tokens in new]
        logits, reads = feed(lm, front.part, new, torch.tensor(wrote, device=lm.device) if read else None)
        if reads is not None:
            replies.read(front.rows, reads[:, 0])
    front.close()
    return replies.finished(lm)
