"""Statements read through a model once, for probes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import torch
import xarray as xr
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.dialogues import rendering
from morality_lens.dialogues.rendering import Transcript
from morality_lens.dialogues.turns import statement_turn
from morality_lens.items.kinds import Statement, items_hash
from morality_lens.items.repeats import joined_clusters
from morality_lens.models import decoding
from morality_lens.models.loading import record_of

ROWS = 64
"""Statements read together."""


Read = Literal["end", "mean"]
"""Where a statement is read: at its last token, or the mean over its tokens."""


def read_statements(
    model: TransformerBridge, statements: Sequence[Statement], *, read: Read = "end"
) -> xr.DataArray:
    """Residuals of statements, each said by the user under the model's own chat template.

    Args:
        model: from ``load_model``.
        statements: labelled statements.
        read: at the statement's last token (``end``), or averaged over its tokens (``mean``).

    Returns:
        statement x layer x d_model, with ``label``, ``cluster`` and ``value`` along ``statement``.

    Raises:
        ValueError: no statements, ids that are not unique, or a statement longer than the window.

    Examples:
        >>> residuals = ml.probes.read_statements(model, statements[:8])
        >>> dict(residuals.sizes)
        {'statement': 8, 'layer': 7, 'd_model': 128}
    """
    record = record_of(model)
    if read not in get_args(Read):
        raise ValueError(f"read must be 'end' or 'mean'; got {read!r}.")
    if not statements or len({s.id for s in statements}) < len(statements):
        raise ValueError(
            f"read_statements needs statements with unique ids; got {len(statements)} statements."
        )
    begun = [
        rendering.append_turn(record.renderer, Transcript(), statement_turn(s.text), round=0)
        for s in statements
    ]
    spans = [t.spans[-1] for t in begun]
    longest = int(np.argmax([span.stop for span in spans]))
    if spans[longest].stop > record.lm.window:
        raise ValueError(
            f"statement {statements[longest].id!r} has {spans[longest].stop} tokens, the model's window "
            f"{record.lm.window}; leave it out."
        )
    # What follows the statement cannot change it, so it is not read.
    rows = [list(t.token_ids[: span.stop]) for t, span in zip(begun, spans, strict=True)]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    out = np.empty((len(rows), record.n_layers + 1, record.d_model), np.float32)
    for first in range(0, len(order), ROWS):
        chosen = order[first : first + ROWS]
        weights = torch.zeros(len(chosen), 1, max(len(rows[i]) for i in chosen), device=record.lm.device)
        for r, i in enumerate(chosen):
            begin = spans[i].start if read == "mean" else spans[i].stop - 1
            weights[r, 0, begin : spans[i].stop] = 1.0 / (spans[i].stop - begin)
        batch = decoding.start(record.lm, len(chosen))
        _, reads = decoding.feed(record.lm, batch, [rows[i] for i in chosen], weights)
        assert reads is not None  # weights were given
        out[chosen] = reads[:, 0].cpu().numpy()
    along = "statement"
    return xr.DataArray(
        out,
        dims=(along, "layer", "d_model"),
        coords={
            along: [s.id for s in statements],
            "label": (along, [s.label for s in statements]),
            "cluster": (along, [s.cluster for s in joined_clusters(statements)]),
            "value": (along, [np.nan if s.value is None else s.value for s in statements]),
            "layer": np.arange(-1, record.n_layers),
        },
        name="residuals",
        attrs={
            "model_fingerprint": record.fingerprint,
            "statements_sha256": items_hash(statements),
            "read": read,
        },
    )


def read_pairs(
    model: TransformerBridge,
    statements: Sequence[Statement],
    *,
    endings: tuple[str, str] = ("This is kind.", "This is cruel."),
) -> xr.DataArray:
    """Residuals of statements ended in two contradictory ways, at the last token, for a ``ccs`` direction.

    Args:
        model: from ``load_model``.
        statements: labelled statements; their labels are carried along.
        endings: what is said after each statement; the first is true of a moral one.

    Returns:
        statement x side x layer x d_model with what :func:`read_statements` has, side 0 for the first ending.

    Raises:
        ValueError: equal or empty endings, or what :func:`read_statements` refuses.

    Examples:
        >>> pairs = ml.probes.read_pairs(model, statements[:8])
        >>> dict(pairs.sizes)
        {'statement': 8, 'side': 2, 'layer': 7, 'd_model': 128}
    """
    if endings[0].strip() == endings[1].strip() or not all(ending.strip() for ending in endings):
        raise ValueError(f"read_pairs needs two different endings; got {endings}.")
    sides = [
        read_statements(model, [replace(s, text=f"{s.text} {ending.strip()}") for s in statements])
        for ending in endings
    ]
    pairs = xr.concat(sides, "side", coords="minimal", compat="override", combine_attrs="override")
    pairs = pairs.assign_coords(side=[0, 1]).transpose("statement", "side", "layer", "d_model")
    return pairs.assign_attrs(statements_sha256=items_hash(statements), endings=list(endings))
