"""Running dialogues with the bundled model: rows of unequal length, every token read once."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LlamaForCausalLM
from transformers.cache_utils import Cache

from microworld import documents
from morality_lens.dialogues.turns import Turn

NEW_TOKENS = 28
Ids = list[int]


class Slots(Cache):
    """Keys and values of every row at the row's own positions.

    Nothing is appended: what lies beyond a row's length is never looked at, and overwritten by what comes.
    So rows differ in length without padding between their turns, and what was read can be taken back.
    """

    def __init__(self, model: LlamaForCausalLM, n: int) -> None:
        super().__init__(layers=[])
        config = model.config
        heads = int(config.num_key_value_heads or config.num_attention_heads)
        shape = (n, heads, 0, config.hidden_size // config.num_attention_heads)
        self.kept = [[torch.zeros(shape), torch.zeros(shape)] for _ in range(config.num_hidden_layers)]
        self.rows, self.positions = torch.arange(0), torch.zeros(0, 0, dtype=torch.long)

    def place(self, rows: Int[Tensor, " row"], positions: Int[Tensor, "row new"]) -> None:
        """Where the next tokens go."""
        self.rows, self.positions = rows, positions
        n, heads, room, size = self.kept[0][0].shape
        needed = int(positions.max()) + 1
        if needed > room:
            more = torch.zeros(n, heads, 2 * needed - room, size)
            self.kept = [[torch.cat([kept, more], dim=2) for kept in pair] for pair in self.kept]

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_args: Any, **_more: Any
    ) -> tuple[Tensor, Tensor]:
        """Write one layer's new keys and values; all of the rows being read come back."""
        pair = self.kept[layer_idx]
        for kept, new in zip(pair, (key_states, value_states), strict=True):
            kept[self.rows[:, None], :, self.positions] = new.transpose(1, 2)
        width = int(self.positions.max()) + 1
        keys, values = (kept[:, :, :width] for kept in pair)
        return (keys, values) if len(self.rows) == len(keys) else (keys[self.rows], values[self.rows])


class Talks:
    """Running dialogues, a row each; rows may differ in length, and some may wait.

    Attributes:
        lengths: tokens read so far; dims row.
        logits: those of each row's last token; dims row, piece.
        residual: after every block, at each row's last token; dims row, layer, d_model.
    """

    def __init__(
        self,
        model: LlamaForCausalLM,
        scribe: documents.Scribe,
        n: int,
        push: tuple[int, Float[Tensor, " d_model"]] | None = None,
    ) -> None:
        """No dialogue has begun; ``push`` is added to the residual after a block at every token."""
        self.model, self.scribe, self.push = model, scribe, push
        self.slots = Slots(model, n)
        self.lengths = torch.zeros(n, dtype=torch.long)
        self.logits = torch.zeros(n, model.config.vocab_size)
        self.residual = torch.zeros(n, model.config.num_hidden_layers, model.config.hidden_size)

    def copies(self, rows: Sequence[int]) -> "Talks":
        """Talks that go on from these rows, some of them perhaps more than once."""
        at = torch.tensor(rows, dtype=torch.long)
        new = Talks(self.model, self.scribe, len(rows), self.push)
        new.slots.kept = [[kept[at] for kept in pair] for pair in self.slots.kept]
        new.lengths, new.logits, new.residual = self.lengths[at], self.logits[at], self.residual[at]
        return new

    def read(self, new: Sequence[Sequence[int]]) -> None:
        """Read further tokens; a row without any waits."""
        self._read(new, guessed=False)

    def reply(self, guesses: Sequence[Sequence[Ids] | None]) -> list[Ids]:
        """The greedy replies, read in (without the token that ends them); a row with None waits.

        What a reply may be is guessed from its beginning and read at once; of a guess only the part that
        the model itself says is kept, so guesses change the speed and never the reply.
        """
        said: list[Ids] = [[] for _ in guesses]
        active = [row for row, guess in enumerate(guesses) if guess is not None]
        while True:
            best = self.logits.argmax(-1).tolist()
            active = [r for r in active if best[r] != self.scribe.end and len(said[r]) < NEW_TOKENS]
            if not active:
                return said
            new: list[Ids] = [[] for _ in guesses]
            for row in active:
                begun = [*said[row], best[row]]
                fits = (g for g in guesses[row] or () if g[: len(begun)] == begun)
                new[row] = next(fits, begun)[len(said[row]) : NEW_TOKENS]
            for row, count in self._read(new, guessed=True).items():
                said[row].extend(new[row][:count])

    @torch.no_grad()
    def _read(self, new: Sequence[Sequence[int]], *, guessed: bool) -> dict[int, int]:
        """Read tokens, guesses only as far as they agree with the model; their number by row."""
        rows = [row for row, ids in enumerate(new) if len(ids)]
        if not rows:
            return {}
        width = max(len(new[row]) for row in rows)
        ids = torch.tensor([[*new[row], *[0] * (width - len(new[row]))] for row in rows], dtype=torch.long)
        counts = torch.tensor([len(new[row]) for row in rows])
        at = torch.tensor(rows)
        positions = self.lengths[at, None] + torch.arange(width)
        self.slots.place(at, positions)
        hidden_from = positions[:, None, :, None] < torch.arange(int(positions.max()) + 1)
        hidden, blocks = run_blocks(
            self.model,
            self.push,
            input_ids=ids,
            attention_mask=torch.zeros(hidden_from.shape).masked_fill_(hidden_from, -torch.inf),
            position_ids=positions,
            past_key_values=self.slots,
            use_cache=True,
        )
        if guessed and width > 1:
            best = self.model.lm_head(hidden[:, :-1]).argmax(-1)
            agrees = (best == ids[:, 1:]) & (torch.arange(1, width) < counts[:, None])
            counts = 1 + agrees.long().cumprod(1).sum(1)
        every = torch.arange(len(rows))
        self.logits[at] = self.model.lm_head(hidden[every, counts - 1])
        self.residual[at] = torch.stack([block[every, counts - 1] for block in blocks], dim=1)
        self.lengths[at] += counts
        return dict(zip(rows, counts.tolist(), strict=True))

    def say(self, turns: Sequence[Turn | None]) -> None:
        """A user's turn, and the prompt for a reply; a row with None waits."""
        new: list[Ids] = []
        for turn, length in zip(turns, self.lengths.tolist(), strict=True):
            document = documents.Document(ids=[], weights=[])
            if turn is not None:
                self.scribe.user(document, turn)
                document.ids.insert(0, self.scribe.end if length else self.scribe.first)
            new.append(document.ids)
        self.read(new)

    def ask(self, turns: Sequence[Turn | None]) -> Float[Tensor, "row piece"]:
        """The logits of the reply to a side question: the dialogues continue without it."""
        before = self.lengths.clone(), self.logits.clone(), self.residual.clone()
        self.say(turns)
        logits = self.logits
        self.lengths, self.logits, self.residual = before
        return logits


def run_blocks(
    model: LlamaForCausalLM, push: tuple[int, Float[Tensor, " d_model"]] | None, **inputs: Any
) -> tuple[Tensor, list[Tensor]]:
    """The last hidden states, and the residuals after every block (before anything is added to them)."""
    kept: list[Tensor] = []

    def keep(_module: Any, _inputs: Any, output: Any) -> Any:
        kept.append(output)
        return output + push[1] if push is not None and len(kept) == push[0] + 1 else None

    blocks: Any = model.model.layers
    handles = [block.register_forward_hook(keep) for block in blocks]
    try:
        return model.model(**inputs).last_hidden_state, kept
    finally:
        for handle in handles:
            handle.remove()
