"""What a residual is split along: a probe's direction, or the path through the final norm to an answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.items.kinds import Item
from morality_lens.models.loading import ModelRecord
from morality_lens.runs.passages import Passage


@dataclass(frozen=True, kw_only=True, eq=False)
class Along:
    """Directions, and what is added to the projections on them.

    Attributes:
        direction: at each place.
        constant: at each place.
        scale: size of the frozen norm's factor at each place; None where no norm is passed.
    """

    direction: Float[Tensor, "row place d_model"]
    constant: Float[Tensor, "row place"]
    scale: Float[Tensor, "row place"] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class ProbeTarget:
    """One direction for all places."""

    direction: Float[np.ndarray, " d_model"]
    intercept: float

    def at(
        self,
        bridge: TransformerBridge,
        ids: Int[Tensor, "row token"],
        at: Int[Tensor, "row place"],
        batch: Sequence[Passage],
        dtype: torch.dtype,
    ) -> Along:
        """The same direction everywhere."""
        one = torch.tensor(self.direction, dtype=dtype, device=ids.device)
        constant = torch.full(at.shape, self.intercept, dtype=dtype, device=ids.device)
        return Along(direction=one.expand(*at.shape, -1), constant=constant)


@dataclass(frozen=True, kw_only=True, eq=False)
class AnswerTarget:
    """Log-odds of the correct option against the others, through the final norm as it is at each place.

    A letter's tokens have the log of their summed probability: sum_i w_i z_i + H(w) for logits z, their
    softmax w and its entropy H. The norm's factors, w and the factor of a soft cap are frozen.

    Attributes:
        record: of the model.
        items: by their ids; each names a good reply.
        letters: tokens of each option's letter.
    """

    record: ModelRecord
    items: Mapping[str, Item]
    letters: tuple[tuple[int, ...], ...]

    def at(
        self,
        bridge: TransformerBridge,
        ids: Int[Tensor, "row token"],
        at: Int[Tensor, "row place"],
        batch: Sequence[Passage],
        dtype: torch.dtype,
    ) -> Along:
        """A direction for each place."""
        x, y = self._around_final_norm(ids, at, dtype)
        pull, constant = self._pull(y, batch)
        shift = getattr(bridge.ln_final, "bias", None)
        centred = getattr(bridge.cfg, "normalization_type", "") in ("LN", "LNPre")
        shift = torch.zeros_like(y[0, 0]) if shift is None or not centred else shift.to(y)
        inner = x - x.mean(-1, keepdim=True) if centred else x
        gain = torch.where(inner == 0, 0.0, (y - shift) / torch.where(inner == 0, 1.0, inner))
        direction = gain * pull
        if centred:
            direction = direction - direction.mean(-1, keepdim=True)
        return Along(direction=direction, constant=constant + pull @ shift, scale=gain.abs().mean(-1))

    def _around_final_norm(
        self, ids: Int[Tensor, "row token"], at: Int[Tensor, "row place"], dtype: torch.dtype
    ) -> tuple[Float[Tensor, "row place d_model"], Float[Tensor, "row place d_model"]]:
        """What goes into the final norm at the places and what comes out, in the plain model."""
        lm, kept = self.record.lm, []
        rows = torch.arange(len(at), device=ids.device)[:, None]

        def keep(values: Tensor) -> None:
            where = rows.to(values.device), at.to(values.device)
            kept.append(values[where].to(ids.device, dtype))

        def after_last_block(_: Any, args: tuple, output: Any) -> None:
            keep(output[0] if isinstance(output, tuple) else output)

        def before_head(_: Any, args: tuple) -> tuple:
            keep(args[0])
            return (args[0][:, :1], *args[1:])  # the logits are not used

        handles = [
            lm.blocks[-1].register_forward_hook(after_last_block),
            lm.head.register_forward_pre_hook(before_head),
        ]
        try:
            with torch.no_grad():
                lm.module(input_ids=ids, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        return kept[0], kept[1]

    def _pull(
        self, y: Float[Tensor, "row place d_model"], batch: Sequence[Passage]
    ) -> tuple[Float[Tensor, "row place d_model"], Float[Tensor, "row place"]]:
        """The answer's log-odds as a linear function of the final norm's output, at each place."""
        head: Any = self.record.lm.head
        factor, cap = factor_and_cap(self.record)
        pulls, constants = [], []
        for row, passage in enumerate(batch):
            item = self.items[passage.item]
            pull, constant = torch.zeros_like(y[row]), torch.zeros_like(y[row, :, 0])
            tokens_of = self.letters[: len(item.replies)]
            for option, tokens in enumerate(tokens_of):
                unembed = factor * head.weight[list(tokens)].to(y)
                bias = getattr(head, "bias", None)
                own = torch.zeros_like(unembed[:, 0]) if bias is None else factor * bias[list(tokens)].to(y)
                logits = y[row] @ unembed.T + own
                capped = logits if cap is None else cap * torch.tanh(logits / cap)
                ratio = torch.where(logits == 0, 1.0, capped / torch.where(logits == 0, 1.0, logits))
                weight = torch.softmax(capped, dim=-1)
                entropy = -torch.xlogy(weight, weight).sum(-1)
                sign = 1.0 if option == item.good else -1.0 / (len(tokens_of) - 1)
                pull = pull + sign * (weight * ratio) @ unembed
                constant = constant + sign * ((weight * ratio) @ own + entropy)
            pulls.append(pull)
            constants.append(constant)
        return torch.stack(pulls), torch.stack(constants)


def factor_and_cap(record: ModelRecord) -> tuple[float, float | None]:
    """What a model does to its logits after the unembedding: a factor, then a soft cap or None.

    Cohere's models multiply (``logit_scale``), Granite's divide (``logits_scaling``), Gemma's cap
    (``final_logit_softcapping``).
    """
    config = record.lm.module.config.get_text_config()
    cap = getattr(config, "final_logit_softcapping", None)
    factor = float(getattr(config, "logit_scale", None) or 1.0)
    return factor / float(getattr(config, "logits_scaling", None) or 1.0), cap
