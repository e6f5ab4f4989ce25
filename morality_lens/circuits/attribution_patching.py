"""Attribution patching: the effect of every patch to first order, from one gradient."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.circuits.decomposition import padded
from morality_lens.circuits.measuring import (
    good_log_odds,
    read_layers,
    reply_log_probabilities,
    widened_places,
)
from morality_lens.circuits.pairing import Aligned, Pairing
from morality_lens.circuits.patching import patch
from morality_lens.circuits.settings import Activations, Batching, Moment
from morality_lens.design import Condition
from morality_lens.items.kinds import Item
from morality_lens.models.loading import ModelRecord
from morality_lens.progress import counted
from morality_lens.rounds.replay import option_letters, same_model
from morality_lens.runs.option_notes import option_note
from morality_lens.runs.run import Run

HOOKS = {
    "residual": "blocks.{}.hook_out",
    "attention": "blocks.{}.hook_attn_out",
    "mlp": "blocks.{}.hook_mlp_out",
    "head": "blocks.{}.attn.hook_z",
}


def patch_gradient(
    model: TransformerBridge,
    run: Run,
    *,
    source: Condition,
    target: Condition | Moment,
    activations: Activations = Activations(),
    check: int = 4,
    batching: Batching = Batching(),
) -> xr.Dataset:
    """Patches to first order: two passes and one gradient for all layers and places.

    The change of the log-odds is taken to be (source - target activation) . gradient at the target (Nanda
    2023, Attribution Patching). It is an approximation, so some items are also patched exactly.

    Args:
        model: the run's model.
        run: a run of questions.
        source: the condition that activations are taken from.
        target: the condition that is run, in the last round and for all items; or a :class:`Moment`.
        activations: places, kind and layers, as in :func:`morality_lens.circuits.patch`.
        check: items that are also patched exactly, the first ones; 0 for none.
        batching: items of a pass.

    Returns:
        ``log_odds`` over item, place, layer (and head) as the gradient predicts them, ``target_log_odds`` and
        ``source_log_odds``; ``patched_log_odds`` by exact patching where that was done, else NaN. ``attrs``
        hold ``error``, the mean distance of predicted to exact changes over the mean size of exact ones, and
        ``correlation``.

    Raises:
        ValueError: as :func:`morality_lens.circuits.patch`, or items without options.

    Examples:
        >>> guessed = ml.circuits.patch_gradient(model, run, source=both, target=none, batching=batching)
        >>> guessed.attrs["correlation"] > 0.9
        True
    """
    record = same_model(model, run, None)
    moment = Moment.of(target, run)
    layers = read_layers(record, activations.layers, activations.what)
    names = ["blocks.0.hook_in" if layer == -1 else HOOKS[activations.what].format(layer) for layer in layers]
    slopes = _Slopes(
        model=model,
        record=record,
        items=run.asked,
        letters=option_letters(record, run),
        names=names,
        what=activations.what,
    )
    pairing = Pairing.of(run, source, moment, activations.places)
    read = counted(slopes.of, pairing.batches(batching), "gradients", shown=batching.progress)
    target_odds, source_odds, change = (np.concatenate(arrays) for arrays in zip(*read, strict=True))
    split = activations.what == "head"
    dims = ("item", "place", "layer", *(("head",) if split else ()))
    coords: dict[str, Any] = {"item": pairing.items, "place": list(pairing.places), "layer": layers}
    if split:
        coords["head"] = list(range(change.shape[-1]))
    clusters = run.residuals["cluster"].sel(item=pairing.items).values
    found = xr.Dataset(
        {
            "log_odds": (dims, target_odds.reshape(-1, *[1] * (change.ndim - 1)) + change),
            "target_log_odds": ("item", target_odds),
            "source_log_odds": ("item", source_odds),
        },
        coords={**coords, "cluster": ("item", clusters)},
        attrs={
            "source": source.label,
            "target": moment.condition.label,
            "round": moment.number,
            "what": activations.what,
            "trust": "",
            "option_note": option_note(
                run, items=pairing.items, conditions=[source, moment.condition], rounds=[moment.number]
            ),
        },
    )
    if not check:
        return found
    few = replace(moment, items=pairing.items[:check])
    quiet = replace(batching, progress=False)
    exact = patch(model, run, source=source, target=few, activations=activations, batching=quiet)
    return _checked(found, exact)


def _checked(found: xr.Dataset, exact: xr.Dataset) -> xr.Dataset:
    """The predictions with the exact patches of some items, and how far the two differ."""
    some = exact["log_odds"].transpose(*found["log_odds"].dims)
    few = some["item"].values
    moved = (some - exact["target_log_odds"]).values.ravel()
    guessed = (found["log_odds"] - found["target_log_odds"]).sel(item=few).values.ravel()
    size, varied = float(np.abs(moved).mean()), np.ptp(moved) and np.ptp(guessed)
    return found.assign(patched_log_odds=some.reindex(item=found["item"])).assign_attrs(
        error=float(np.abs(guessed - moved).mean()) / size if size else float("nan"),
        correlation=float(np.corrcoef(guessed, moved)[0, 1]) if varied else float("nan"),
        checked=len(few),
    )


# --------------------------------------------------------------------------------------------- a batch
@dataclass(frozen=True, kw_only=True, eq=False)
class _Slopes:
    """Predicted changes of the log-odds, from gradients at the target.

    Attributes:
        model: the model.
        record: its record.
        items: by their ids.
        letters: tokens of each option's letter.
        names: of the hooks, one a layer.
        what: kind of activation.
    """

    model: TransformerBridge
    record: ModelRecord
    items: Mapping[str, Item]
    letters: Sequence[Sequence[int]]
    names: Sequence[str]
    what: str

    def of(
        self, pairing: Pairing
    ) -> tuple[
        Float[np.ndarray, " item"], Float[np.ndarray, " item"], Float[np.ndarray, "item place layer ..."]
    ]:
        """The targets' log-odds, the sources', and the predicted changes, of some items."""
        sources, targets = pairing.prompts()
        items = [self.items[name] for name in pairing.items]
        source_odds, here = self._read(sources, items, grad=False)
        target_odds, there = self._read(targets, items, grad=True)
        acts = [there[name] for name in self.names]
        slopes = torch.autograd.grad(target_odds.sum(), acts)
        differences = [
            (here[name], act.detach(), slope)
            for name, act, slope in zip(self.names, acts, slopes, strict=True)
        ]
        by_place = []
        for place in pairing.places:
            shift = _Shift.of(pairing.tokens(place), self.record.lm.device)
            changes = [
                shift.along(source, target, slope, heads=self.what == "head")
                for source, target, slope in differences
            ]
            by_place.append(torch.stack(changes, dim=1))
        change = torch.stack(by_place, dim=1).double().cpu().numpy()
        return target_odds.detach().cpu().numpy(), source_odds.detach().cpu().numpy(), change

    def _read(
        self, prompts: Sequence[Sequence[int]], items: Sequence[Item], *, grad: bool
    ) -> tuple[Float[Tensor, " item"], dict[str, Tensor]]:
        """The log-odds of some prompts and their activations by name; with ``grad``, on the graph."""
        device = self.record.lm.device
        ends = torch.tensor([len(p) - 1 for p in prompts], device=device)
        logits, kept = _pass(self.model, padded(prompts, device), ends, self.names, grad=grad)
        return _log_odds(logits, self.letters, items), kept


def _pass(
    model: TransformerBridge,
    ids: Int[Tensor, "row token"],
    ends: Int[Tensor, " row"],
    names: Sequence[str],
    *,
    grad: bool,
) -> tuple[Float[Tensor, "row vocab"], dict[str, Tensor]]:
    """Logits at the rows' ends and activations by name; with ``grad``, both on the graph."""
    kept: dict[str, Tensor] = {}
    rows = torch.arange(len(ids), device=ids.device)

    def keep(value: Tensor, hook: Any, name: str) -> Tensor:
        kept[name] = value  # a hook's own name may be another one for the same place
        return value  # what a hook sees can be a reshaped copy, which is on the graph only if it goes back

    def begin(value: Tensor, hook: Any) -> Tensor:
        return value.detach().requires_grad_(grad)

    def ends_only(_: Any, args: tuple) -> tuple:
        return (args[0][rows.to(args[0].device), ends.to(args[0].device)].unsqueeze(1), *args[1:])

    handle = model.unembed.register_forward_pre_hook(ends_only)
    hooks = [("blocks.0.hook_in", begin), *((name, partial(keep, name=name)) for name in names)]
    try:
        with torch.set_grad_enabled(grad), model.hooks(fwd_hooks=hooks):
            logits = model(ids, prepend_bos=False, return_type="logits")
    finally:
        handle.remove()
    return logits[:, 0].to(ids.device), kept


def _log_odds(
    logits: Float[Tensor, "row vocab"], letters: Sequence[Sequence[int]], items: Sequence[Item]
) -> Float[Tensor, " row"]:
    """Log of the correct option's probability less the mean log of the others'."""
    each = reply_log_probabilities(logits, letters)
    return torch.stack([good_log_odds(each[row], item) for row, item in enumerate(items)])


@dataclass(frozen=True, kw_only=True, eq=False)
class _Shift:
    """The tokens of a place in each row of a pass.

    Attributes:
        here: in the source.
        there: in the target.
        once: 1 at the tokens, 0 where a shorter row repeats its first one.
    """

    here: Int[Tensor, "row place"]
    there: Int[Tensor, "row place"]
    once: Float[Tensor, "row place"]

    @staticmethod
    def of(tokens: Sequence[Aligned], device: torch.device) -> "_Shift":
        """The tokens of every row."""
        here = widened_places([source for source, _ in tokens]).to(device)
        there = widened_places([target for _, target in tokens]).to(device)
        count = torch.tensor([len(source) for source, _ in tokens], device=device)
        once = (torch.arange(there.shape[1], device=device) < count[:, None]).float()
        return _Shift(here=here, there=there, once=once)

    def along(
        self, source: Tensor, target: Tensor, slope: Tensor, *, heads: bool
    ) -> Float[Tensor, "row ..."]:
        """(source - target) . gradient, summed over the tokens; for each head by itself with ``heads``."""
        rows = torch.arange(len(self.here), device=source.device)[:, None]
        here, there = self.here.to(source.device), self.there.to(source.device)
        product = (source[rows, here] - target[rows, there]) * slope[rows, there]
        axes = "row place head d, row place -> row head" if heads else "row place d, row place -> row"
        return einsum(product, self.once.to(product), axes).to(self.here.device)
