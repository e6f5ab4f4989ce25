"""What every layer would answer: stored residuals read through the final norm and the unembedding."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.circuits.measuring import good_log_odds, passage_prompt, reply_log_probabilities
from morality_lens.circuits.targets import factor_and_cap
from morality_lens.circuits.tuned_lenses import TunedLens
from morality_lens.items.kinds import Rating
from morality_lens.models.loading import ModelRecord
from morality_lens.rounds.replay import reply_tokens, same_model
from morality_lens.runs.choosing import chosen_labels
from morality_lens.runs.option_notes import NOTE, option_note
from morality_lens.runs.passages import passages
from morality_lens.runs.run import Run

Outcome = Literal["good", "answer", "rating", "shares"]
"""What is read at every layer; see :func:`lens`."""
SITE = "answer_start"
MOSTLY = 0.9
"""Share of the dialogues of a round from which on a letter that is always the most probable is spoken of."""
ROWS = 8192
"""Residuals read together."""
NAMES = {"good": "lens log-odds", "answer": "lens log-odds of the answer", "rating": "lens rating"}
UNITS = {"good": "log-odds", "answer": "log-odds", "rating": "points", "shares": "log share"}


def lens(
    model: TransformerBridge,
    run: Run,
    *,
    of: Outcome | None = None,
    tuned: TunedLens | None = None,
    rounds: Sequence[int] | None = None,
    layers: Sequence[int] | None = None,
) -> xr.DataArray:
    """What every layer would answer, by item, condition and round, from the residuals that a run stored.

    The residual at ``answer_start`` of each stored layer goes through the model's own final norm and
    unembedding (the logit lens, nostalgebraist 2020), and the options are read by the same tokens of their
    letters as in the run. What the last layer says must be what the run stored as the options'
    probabilities; that is checked every time. A middle layer need not use the last layer's terms: what a
    logit lens does not show may be there all the same.

    Args:
        model: the run's model.
        run: a run of questions or ratings that kept residuals at ``answer_start``.
        of: ``good``: log-odds of the good option against the mean log of the others; ``answer``: the same of
            the option that the run itself found most probable there, after every letter's mean log share
            over the items, in that condition, round and layer, is taken away (a letter that a layer prefers
            whatever is asked is no answer); ``rating``: the rating expected from the digits' shares;
            ``shares``: the log share of every option, along ``option``. None: ``good`` where every item
            names a good option, ``rating`` for ratings, else ``shares``.
        tuned: from ``load_tuned_lens``: an affine map for each layer before the norm; None is the logit lens.
        rounds: the rounds; None takes all.
        layers: the layers, of those stored; None takes all.

    Returns:
        item x factors x round x layer (x option), with what ``factorial_effects`` asks of attributes;
        ``attrs["checked"]`` says how the read-out was checked.

    Raises:
        ValueError: another model; items without a set of replies (open prompts); nothing stored at
            ``answer_start``; a layer or round that is not there; or a last layer that does not give the
            probabilities of the run.

    Examples:
        >>> odds = ml.circuits.lens(model, run)
        >>> odds.dims
        ('item', 'instruction', 'cot', 'feedback', 'round', 'layer')
        >>> stored = run.option_probabilities.load()
        >>> shares = ml.circuits.lens(model, run, of="shares", layers=[5])
        >>> bool(abs(np.exp(shares.isel(layer=0)) - stored).max() < 1e-5)
        True
    """
    outcome = outcome_of(run, of)
    record = same_model(model, run, None)
    at = places_of(run, rounds, layers)
    if tuned is not None:
        tuned.refuse_other_model(record.d_model, record.n_layers)
    reading = LastStep.of(model, record, reply_tokens(record, run))
    shares, checked = _shares(reading, run, at, tuned)
    checked = checked or _checked_by_pass(reading, record, run)
    chosen = _chosen(run, shares) if outcome == "answer" else None
    found = _measured(run, shares, outcome, chosen)
    name = "logit lens" if tuned is None else "tuned lens"
    return found.rename(NAMES.get(outcome, "lens log shares")).assign_attrs(
        units=UNITS[outcome],
        oriented=outcome == "good",
        lens=name,
        of=outcome,
        checked=checked,
        final=at.layers[-1] == record.n_layers - 1,
        **({} if chosen is None else {"letters": _one_letter(chosen)}),
        **({"tuned_on": tuned.base_model} if tuned is not None else {}),
        **({NOTE: note} if (note := option_note(run, rounds=at.rounds)) else {}),
        **({"early": run.design.early_effects} if run.design.early else {}),
        **({"cluster_note": run.cluster_note} if run.cluster_note else {}),
    )


# --------------------------------------------------------------------------------------------- read-out
@dataclass(frozen=True, kw_only=True, eq=False)
class LastStep:
    """The way from a residual to the options, as a model's last layer takes it.

    Attributes:
        norm: the final norm.
        rows: of the unembedding, one for each token that a letter can begin with.
        bias: of the same tokens.
        groups: for each option, where its tokens are among them.
        factor: of the logits.
        cap: of the logits; None for none.
        eps: precision in which the model computes.
        last: the last layer.
    """

    norm: torch.nn.Module
    rows: Float[Tensor, "token d_model"]
    bias: Float[Tensor, " token"]
    groups: tuple[tuple[int, ...], ...]
    factor: float
    cap: float | None
    eps: float
    last: int

    @classmethod
    def of(
        cls, model: TransformerBridge, record: ModelRecord, letters: Sequence[Sequence[int]]
    ) -> "LastStep":
        """The read-out of a model for the tokens of each option's letter."""
        head: Any = record.lm.head
        tokens = [token for group in letters for token in group]
        ends = np.cumsum([0, *map(len, letters)])
        factor, cap = factor_and_cap(record)
        rows = head.weight.detach()[tokens].double()
        bias = getattr(head, "bias", None)
        return cls(
            norm=_final_norm(model),
            rows=rows,
            bias=torch.zeros_like(rows[:, 0]) if bias is None else bias.detach()[tokens].to(rows),
            groups=tuple(tuple(range(a, b)) for a, b in itertools.pairwise(ends)),
            factor=factor,
            cap=cap,
            eps=float(torch.finfo(next(record.lm.module.parameters()).dtype).eps),
            last=record.n_layers - 1,
        )

    def options(self, residuals: Float[Tensor, "point d_model"]) -> Float[Tensor, "point option"]:
        """The log of each option's summed probability but for what all tokens share."""
        weight = next(self.norm.parameters(), self.rows)
        with torch.no_grad():
            y = self.norm(residuals.to(weight.device, weight.dtype))
            logits = self.factor * (y.to(self.rows) @ self.rows.T + self.bias)
        capped = logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)
        return torch.stack([capped[:, list(group)].logsumexp(-1) for group in self.groups], dim=-1)

    def rounding(self, residuals: Float[Tensor, "point d_model"], eps: float) -> float:
        """How far the options' logs can move where residuals and sums are rounded to that precision."""
        plain = self.options(residuals)
        rng = torch.Generator().manual_seed(0)
        signs = [torch.randint(0, 2, residuals.shape, generator=rng) * 2.0 - 1.0 for _ in range(4)]
        moved = [self.options(residuals * (1 + eps * sign.to(residuals))) - plain for sign in signs]
        largest = max(float(one.abs().max()) for one in moved)
        return 1e-4 + 8 * largest + 4 * eps * float(plain.abs().max())


def _final_norm(model: TransformerBridge) -> torch.nn.Module:
    """The model's final norm; a model without one passes its residual on."""
    norm = getattr(model, "ln_final", None)
    return torch.nn.Identity() if norm is None else norm.original_component


# --------------------------------------------------------------------------------------------- reading
@dataclass(frozen=True, kw_only=True)
class Places:
    """The rounds and layers that are read."""

    rounds: list[int]
    layers: list[int]


def places_of(run: Run, rounds: Sequence[int] | None = None, layers: Sequence[int] | None = None) -> Places:
    """The rounds and layers that a lens reads of a run; None takes all that are there.

    Raises:
        ValueError: no residuals at ``answer_start``, or an unknown round or layer.
    """
    if SITE not in run.design.sites:
        raise ValueError(
            f"a lens reads the residual at {SITE}, and this run stored {', '.join(run.design.sites)}; play "
            f"it with the site {SITE} too."
        )
    _ = run.residuals  # refused where a run kept projections alone
    known = {"round": range(run.design.n_rounds), "layer": run.layers}
    refusal = "this run stored the {name}s {there}; a lens cannot read {wrong}."
    chosen = chosen_labels(known, {"round": rounds, "layer": layers}, refusal=refusal)
    return Places(rounds=sorted(chosen["round"]), layers=sorted(chosen["layer"]))


def outcome_of(run: Run, of: Outcome | None = None) -> Outcome:
    """What a lens reads of a run; see :func:`lens`.

    Raises:
        ValueError: the run's items do not have it.
    """
    items = list(run.asked.values())
    if not all(item.replies for item in items):
        raise ValueError(
            "a lens reads the letters or digits of a set of replies; these items are answered freely. Ask "
            "questions with options or ratings, or read a direction at every layer with probe.project(run)."
        )
    ratings = all(isinstance(item, Rating) for item in items)
    if of is None:
        return "good" if run.names_good else "rating" if ratings else "shares"
    if of not in get_args(Outcome):
        raise ValueError(f"a lens is of one of {', '.join(get_args(Outcome))}; got {of!r}.")
    if of == "good" and not run.names_good:
        raise ValueError("these items name no good option; use of='answer' or of='shares'.")
    if of == "rating" and not ratings:
        raise ValueError("these items are no ratings; use of='good', of='answer' or of='shares'.")
    return of


def _shares(reading: LastStep, run: Run, at: Places, tuned: TunedLens | None) -> tuple[xr.DataArray, str]:
    """Log shares of every item's own options at each layer, and how the last was checked, if it was."""
    residuals = run.residuals.sel(site=SITE, round=at.rounds, drop=True)
    dims = tuple(str(d) for d in residuals.dims if d not in ("layer", "d_model"))
    sizes = [residuals.sizes[d] for d in dims]
    several = np.array([len(item.replies) for item in run.asked.values()])
    values = np.full([*sizes, len(at.layers), len(reading.groups)], np.nan)
    checked = ""
    for number, layer in enumerate(at.layers):
        table = residuals.sel(layer=layer).transpose(*dims, "d_model").values
        flat = torch.from_numpy(table.reshape(-1, table.shape[-1]).astype(np.float32))
        there = torch.isfinite(flat).all(-1)
        mapped = flat[there] if tuned is None or layer == reading.last else tuned.at(layer, flat[there])
        read = [reading.options(part) for part in mapped.split(ROWS)]
        logs = np.full((len(flat), len(reading.groups)), np.nan)
        if read:
            logs[there.numpy()] = torch.cat(read).cpu().numpy()
        values[..., number, :] = _normalised(logs.reshape(*sizes, -1), several)
        if layer == reading.last and read:
            checked = _checked(reading, run, values[..., number, :], flat[there], at)
    found = xr.DataArray(
        values,
        dims=(*dims, "layer", "option"),
        coords={**{n: c for n, c in residuals.coords.items() if "layer" not in c.dims}, "layer": at.layers},
    )
    return found, checked


def _normalised(
    logs: Float[np.ndarray, "item *cell option"], several: Int[np.ndarray, " item"]
) -> Float[np.ndarray, "item *cell option"]:
    """Log shares among each item's own options; NaN past its last one."""
    own = np.arange(logs.shape[-1]) < several[:, None]
    own = own.reshape(len(several), *[1] * (logs.ndim - 2), -1)
    kept = np.where(own, logs, -np.inf)
    most = np.max(kept, axis=-1, keepdims=True)
    total = most + np.log(np.exp(kept - most).sum(axis=-1, keepdims=True))
    return np.where(own, logs - total, np.nan)


def _checked(
    reading: LastStep,
    run: Run,
    last: Float[np.ndarray, "item *cell option"],
    residuals: Float[Tensor, "point d_model"],
    at: Places,
) -> str:
    """That the last layer gives the run's own probabilities, in words.

    Raises:
        ValueError: it does not.
    """
    stored = run.option_probabilities.sel(round=at.rounds).transpose(*run.design.dims, "option").values
    with np.errstate(divide="ignore"):
        gap = np.abs(last - np.log(stored))
    known = np.isfinite(gap)
    if not known.any():
        return ""
    eps = max(reading.eps, float(np.finfo(run.manifest["stored"]["dtype"]).eps))
    few = residuals[:: max(1, len(residuals) // 256)]
    allowed = reading.rounding(few, eps)
    largest = float(gap[known].max())
    if not largest <= allowed:
        raise ValueError(
            "a lens must read the last layer as the model does, and its log shares of the options differ "
            f"from those that the run stored by up to {largest:.2g}, where rounding allows {allowed:.2g}: "
            "what this model does between its last block and its logits is not its final norm and its "
            "unembedding alone, or the run was played otherwise than its manifest says. No layer is read."
        )
    return (
        f"The last layer gives the option probabilities that the run stored (largest difference of their "
        f"logs {largest:.1e})."
    )


def _checked_by_pass(reading: LastStep, record: ModelRecord, run: Run) -> str:
    """That the read-out gives a model's own logits, from one dialogue read once more, in words.

    Raises:
        ValueError: it does not, or no dialogue has an answer.
    """
    for passage in passages(run, items=list(run.asked)[:1], conditions=run.design.conditions[:1]):
        number = passage.rounds[-1]
        if passage.places(SITE, number):
            break
    else:
        raise ValueError(
            "a lens could not be checked: the last layer was not stored, and no dialogue has an answer."
        )
    letters = reply_tokens(record, run)
    ids = torch.tensor([passage_prompt(passage, number)], device=record.lm.device)
    kept: list[Tensor] = []

    def keep(_: Any, given: Any, output: Any) -> None:
        kept.append((output[0] if isinstance(output, tuple) else output)[:, -1])

    handle = record.lm.blocks[-1].register_forward_hook(keep)
    try:
        with torch.no_grad():
            logits = record.lm.module(input_ids=ids, use_cache=False).logits[:, -1]
    finally:
        handle.remove()
    own = reply_log_probabilities(logits, letters).cpu()
    read = reading.options(kept[0]).cpu()
    gap = (own - own.mean(-1, keepdim=True)) - (read - read.mean(-1, keepdim=True))
    largest, allowed = float(gap.abs().max()), reading.rounding(kept[0], reading.eps)
    if not largest <= allowed:
        raise ValueError(
            f"a lens must read the last block as the model does, and on {passage.described} it differs by "
            f"{largest:.2g} in the options' logs, where rounding allows {allowed:.2g}. No layer is read."
        )
    return (
        "The last layer was not stored; on one dialogue, read again, the last block's residual gives the "
        f"model's own option probabilities (largest difference of their logs {largest:.1e})."
    )


# --------------------------------------------------------------------------------------------- outcomes
def _measured(run: Run, shares: xr.DataArray, outcome: Outcome, chosen: xr.DataArray | None) -> xr.DataArray:
    """What is asked, from log shares of every option; ``chosen`` where that is the answer."""
    if outcome == "shares":
        return shares
    dims = tuple(str(d) for d in shares.dims if d != "option")
    told = shares if chosen is None else shares - shares.mean("item")  # a letter's leaning is no answer
    moved = told.transpose("item", ..., "layer", "option")
    values = np.empty(moved.shape[:-1])
    for i, name in enumerate(moved["item"].values.tolist()):
        item = run.asked[name]
        own = moved.values[i, ..., : len(item.replies)]
        if chosen is not None:
            values[i] = _odds_of(own, chosen.transpose(*moved.dims[:-2]).values[i])
        elif isinstance(item, Rating):
            values[i] = np.exp(own) @ np.array(item.measures[0].weights)
        else:
            values[i] = good_log_odds(own, item)
    return moved.isel(option=0, drop=True).copy(data=values).transpose(*dims)


def _chosen(run: Run, shares: xr.DataArray) -> xr.DataArray:
    """The option that the run itself found most probable at every place, by item, condition and round."""
    stored = run.option_probabilities.sel(round=shares["round"].values).load()
    return stored.fillna(-1.0).argmax("option")


def _one_letter(chosen: xr.DataArray) -> str:
    """The rounds in which one and the same letter is nearly always the most probable; empty where none is."""
    found = []
    for number in chosen["round"].values.tolist():
        share = np.bincount(chosen.sel(round=number).values.ravel()).max() / chosen.sel(round=number).size
        if share >= MOSTLY:
            found.append(f"in round {number} in {share:.1%} of the dialogues")
    if not found:
        return ""
    return (
        f"One and the same letter is the most probable option {', '.join(found)}: what is answered there "
        "depends little on the question."
    )


def _odds_of(
    own: Float[np.ndarray, "*cell layer option"], chosen: Int[np.ndarray, "*cell"]
) -> Float[np.ndarray, "*cell layer"]:
    """Log share of the chosen option less the mean of the others'."""
    at = np.broadcast_to(chosen[..., None, None], (*own.shape[:-1], 1))
    picked = np.take_along_axis(own, at, axis=-1)[..., 0]
    return picked - (own.sum(axis=-1) - picked) / (own.shape[-1] - 1)
