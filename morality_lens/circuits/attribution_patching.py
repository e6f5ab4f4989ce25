"""Attribution patching: the effect of every patch to first order, from one gradient."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.circuits.decomposition import padded
from morality_lens.circuits.measuring import (
    good_log_odds,
    passage_prompt,
    read_layers,
    reply_log_probabilities,
    widened_places,
)
from morality_lens.circuits.patching import patch
from morality_lens.design import Condition
from morality_lens.items.kinds import Item
from morality_lens.rounds.replay import option_letters, same_model
from morality_lens.runs.alignment import align, paired
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
    target: Condition,
    at: str | Sequence[str] = "answer_start",
    round: int | None = None,
    what: str = "residual",
    layers: Sequence[int] | None = None,
    items: Sequence[str] | None = None,
    check: int = 4,
    batch_size: int = 8,
    progress: bool = True,
) -> xr.Dataset:
    """Patches to first order: two passes and one gradient for all layers and places.

    The change of the log-odds is taken to be (source - target activation) . gradient at the target (Nanda
    2023, Attribution Patching). It is an approximation, so some items are patched truly beside it.

    Args:
        model: the run's model.
        run: a run of questions.
        source: the condition that activations are taken from.
        target: the condition that is run.
        at: places, as in :func:`morality_lens.circuits.patch`.
        round: the round whose answer is looked at; None: the last.
        what: ``residual``, ``attention``, ``mlp`` or ``head``.
        layers: blocks, -1 for the embedding; None takes all.
        items: ids; None takes all.
        check: items that are patched truly, the first ones; 0 for none.
        batch_size: items of a pass.
        progress: whether to show a bar.

    Returns:
        ``log_odds`` over item, place, layer (and head) as the gradient predicts them, ``target_log_odds`` and
        ``source_log_odds``; ``patched_log_odds`` by true patching where that was done, else NaN. ``attrs``
        tell ``error``, the mean distance of predicted to true changes over the mean size of true ones, and
        ``correlation``.

    Raises:
        ValueError: as :func:`morality_lens.circuits.patch`, or items without options.
    """
    record = same_model(model, run, None)
    number = run.design.rounds if round is None else round
    places = (at,) if isinstance(at, str) else tuple(at)
    chosen = read_layers(record, layers, what)
    letters = option_letters(record, run)
    couples = paired(run, source=source, target=target, round=number, items=items)
    spots = {(t.item, place): align(s, t, place, number) for s, t in couples for place in places}
    names = ["blocks.0.hook_in" if layer == -1 else HOOKS[what].format(layer) for layer in chosen]
    device = record.lm.device
    estimates, odds = [], {"target": [], "source": []}
    chunks = [couples[i : i + batch_size] for i in range(0, len(couples), batch_size)]
    for chunk in tqdm(chunks, desc="gradients", disable=not progress):
        rows = [run.asked[t.item] for _, t in chunk]
        prompts = {"source": [passage_prompt(s, number) for s, _ in chunk]}
        prompts["target"] = [passage_prompt(t, number) for _, t in chunk]
        kept: dict[str, dict[str, Tensor]] = {}
        values: dict[str, Tensor] = {}
        for who in ("source", "target"):
            ends = torch.tensor([len(p) - 1 for p in prompts[who]], device=device)
            logits, kept[who] = _pass(model, padded(prompts[who], device), ends, names, grad=who == "target")
            values[who] = _log_odds(logits, letters, rows)
            odds[who].append(values[who].detach().cpu().numpy())
        acts = [kept["target"][name] for name in names]
        slopes = torch.autograd.grad(values["target"].sum(), acts)
        by_place = []
        for place in places:
            here = widened_places([spots[t.item, place][0] for _, t in chunk]).to(device)
            there = widened_places([spots[t.item, place][1] for _, t in chunk]).to(device)
            # A shorter row repeats its first place, which counts once.
            count = torch.tensor([len(spots[t.item, place][0]) for _, t in chunk], device=device)
            once = (torch.arange(there.shape[1], device=device) < count[:, None]).to(acts[0])
            by_place.append(
                torch.stack(
                    [
                        _change(kept["source"][name], act.detach(), slope, here, there, once, what)
                        for name, act, slope in zip(names, acts, slopes, strict=True)
                    ],
                    dim=1,
                )
            )
        estimates.append(torch.stack(by_place, dim=1).double().cpu().numpy())
    target_odds, source_odds = (np.concatenate(odds[who]) for who in ("target", "source"))
    change = np.concatenate(estimates)
    ids = [t.item for _, t in couples]
    dims = ("item", "place", "layer", *(("head",) if what == "head" else ()))
    coords: dict[str, Any] = {"item": ids, "place": list(places), "layer": chosen}
    if what == "head":
        coords["head"] = list(range(change.shape[-1]))
    whole = target_odds.reshape(-1, *[1] * (change.ndim - 1)) + change
    found = xr.Dataset(
        {
            "log_odds": (dims, whole),
            "target_log_odds": ("item", target_odds),
            "source_log_odds": ("item", source_odds),
        },
        coords={**coords, "cluster": ("item", run.residuals["cluster"].sel(item=ids).values)},
        attrs={"source": source.label, "target": target.label, "round": number, "what": what, "trust": ""},
    )
    if not check:
        return found
    true = patch(
        model,
        run,
        source=source,
        target=target,
        at=places,
        round=number,
        what=what,
        layers=chosen,
        items=ids[:check],
        progress=False,
    )
    some = true["log_odds"].transpose(*dims)
    moved = (some - true["target_log_odds"]).values.ravel()
    guessed = (found["log_odds"] - found["target_log_odds"]).sel(item=ids[:check]).values.ravel()
    size = float(np.abs(moved).mean())
    return found.assign(patched_log_odds=some.reindex(item=ids)).assign_attrs(
        error=float(np.abs(guessed - moved).mean()) / size if size else float("nan"),
        correlation=float(np.corrcoef(guessed, moved)[0, 1])
        if np.ptp(moved) and np.ptp(guessed)
        else float("nan"),
        checked=len(ids[:check]),
    )


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


def _change(
    source: Tensor,
    target: Tensor,
    slope: Tensor,
    here: Int[Tensor, "row place"],
    there: Int[Tensor, "row place"],
    once: Float[Tensor, "row place"],
    what: str,
) -> Float[Tensor, "row ..."]:
    """(source - target) . gradient, summed over the places."""
    rows = torch.arange(len(here), device=source.device)[:, None]
    here, there = here.to(source.device), there.to(source.device)
    product = (source[rows, here] - target[rows, there]) * slope[rows, there]
    if what == "head":
        return einsum(product, once.to(product), "row place head d, row place -> row head").to(once.device)
    return einsum(product, once.to(product), "row place d, row place -> row").to(once.device)
