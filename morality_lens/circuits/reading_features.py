"""Which tokens of the dialogues switch a sparse feature on: the transcripts read once more."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.models.loading import ModelRecord
from morality_lens.rounds.replay import same_model
from morality_lens.rounds.selection import Selection
from morality_lens.runs.passages import Passage, by_length, passages
from morality_lens.runs.run import Run
from morality_lens.sparse.autoencoder import SparseAutoencoder

AROUND = 8
"""Tokens shown before a token, and after it."""
ROWS, SQUARES = 16, 2**22


def feature_tokens(
    model: TransformerBridge,
    run: Run,
    sae: SparseAutoencoder,
    features: Sequence[int],
    *,
    top: int = 5,
    selection: Selection = Selection(),
) -> dict[int, list[dict[str, Any]]]:
    """The tokens on which each feature is on most, at most one for each item, with the words around them.

    A run stores residuals at its sites; here its dialogues go through the model once more, up to the last
    token of each, and every token's residual is encoded.

    Args:
        model: the run's model.
        run: a run.
        sae: from ``ml.load_sae``.
        features: numbers of the features.
        top: tokens of each.
        selection: items, conditions and rounds.

    Returns:
        By feature: ``activation``, ``token``, ``text``, ``item``, ``condition``, ``place`` (among the
        dialogue's tokens); what ``ml.sparse.feature_cards`` takes as ``tokens``.

    Raises:
        ValueError: another model, an autoencoder of another width or layer, or an unknown feature.

    Examples:
        >>> few = ml.rounds.Selection(rounds=[2], conditions=[none])
        >>> found = ml.circuits.feature_tokens(model, run, sae, [3], top=2, selection=few)
        >>> sorted(found[3][0])
        ['activation', 'condition', 'item', 'place', 'text', 'token']
    """
    record = same_model(model, run, None)
    sae.refuse_other_run(run)
    wrong = [n for n in features if not 0 <= n < sae.n_features]
    if wrong or not features:
        raise ValueError(
            f"the autoencoder has the features 0 to {sae.n_features - 1}; got {wrong or 'none'}."
        )
    found = list(
        passages(run, items=selection.items, conditions=selection.conditions, rounds=selection.rounds)
    )
    best: dict[int, dict[str, dict[str, Any]]] = {n: {} for n in features}
    for batch in by_length(found, rows=ROWS, squares=SQUARES):
        for passage, residuals in zip(batch, _residuals(record, batch, sae.layer), strict=True):
            _take(best, passage, _encoded(sae, residuals, features), record)
    return {n: sorted(rows.values(), key=lambda row: -row["activation"])[:top] for n, rows in best.items()}


def _residuals(
    record: ModelRecord, batch: Sequence[Passage], layer: int
) -> list[Float[np.ndarray, "token d_model"]]:
    """The residual stream after a block, at every token of every dialogue."""
    ids = torch.zeros(len(batch), max(len(p.token_ids) for p in batch), dtype=torch.long)
    for row, passage in enumerate(batch):  # what comes after a token does not change its residual
        ids[row, : len(passage.token_ids)] = torch.tensor(passage.token_ids)
    kept: list[Tensor] = []

    def before(_: Any, args: tuple, given: dict[str, Any]) -> None:
        kept.append(args[0] if args else given["hidden_states"])

    def after(_: Any, args: tuple, output: Any) -> None:
        kept.append(output[0] if isinstance(output, tuple) else output)

    def before_head(_: Any, args: tuple) -> tuple:
        return (args[0][:, :1], *args[1:])  # the logits are not used

    blocks = record.lm.blocks
    head = record.lm.head.register_forward_pre_hook(before_head)
    if layer == -1:
        handle = blocks[0].register_forward_pre_hook(before, with_kwargs=True)
    else:
        handle = blocks[layer].register_forward_hook(after)
    try:
        with torch.no_grad():
            record.lm.module(input_ids=ids.to(record.lm.device), use_cache=False)
    finally:
        handle.remove()
        head.remove()
    whole = kept[0].float().cpu().numpy()
    return [whole[row, : len(p.token_ids)] for row, p in enumerate(batch)]


def _encoded(
    sae: SparseAutoencoder, residuals: Float[np.ndarray, "token d_model"], features: Sequence[int]
) -> Float[np.ndarray, "token feature"]:
    """Activations of some features at every token."""
    chosen = list(features)
    return np.concatenate([sae.encode(residuals[part])[:, chosen] for part in sae.steps(len(residuals))])


def _take(
    best: dict[int, dict[str, dict[str, Any]]],
    passage: Passage,
    active: Float[np.ndarray, "token feature"],
    record: ModelRecord,
) -> None:
    """Keep a dialogue's largest activation of each feature, where its item has none that is larger."""
    decode = record.renderer.tokenizer.decode
    for column, rows in enumerate(best.values()):
        place = int(active[:, column].argmax())
        value = float(active[place, column])
        held = rows.get(passage.item)
        if value <= 0 or (held is not None and held["activation"] >= value):
            continue
        start, stop = max(0, place - AROUND), place + AROUND + 1
        rows[passage.item] = {
            "activation": value,
            "token": decode([passage.token_ids[place]]),
            "text": decode(list(passage.token_ids[start:stop])),
            "item": passage.item,
            "condition": passage.condition.label,
            "place": place,
        }
