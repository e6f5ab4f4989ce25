"""Stored transcripts read again by their model, every token with its projection."""

import hashlib

import numpy as np
import pandas as pd
import torch
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.models import decoding
from morality_lens.probes.probe import UNITS, Probe
from morality_lens.rounds.replay import same_model
from morality_lens.runs.run import Run
from morality_lens.runs.token_view import TokenView, token_view

STRETCH = 64
"""Tokens of a transcript read together."""


@torch.inference_mode()
def read_transcripts(
    model: TransformerBridge, run: Run, probe: Probe, *, rows: pd.DataFrame | None = None
) -> tuple[TokenView, ...]:
    """Dialogues of a run, read again, with every token's projection at every layer.

    Args:
        model: the run's model.
        run: a run.
        probe: fitted on the same model.
        rows: the rows of ``run.transcripts`` to read; None reads those of one item.

    Raises:
        ValueError: the model is not the run's or not the probe's.

    Examples:
        >>> views = ml.rounds.read_transcripts(model, run, probe)
        >>> view = views[0]
        >>> view.values.shape == (len(view.layers), len(view.tokens))
        True
    """
    record = same_model(model, run, probe)
    table = sample_dialogues(run, items=1) if rows is None else rows
    views = []
    for _, row in table.iterrows():
        ids = [int(t) for t in row["token_ids"]]
        stretch = STRETCH if record.lm.cached else len(ids)
        batch, parts = decoding.start(record.lm, 1), []
        for first in range(0, len(ids), stretch):
            part = ids[first : first + stretch]
            every = torch.eye(len(part), device=record.lm.device)[None]
            _, reads = decoding.feed(record.lm, batch, [part], every)
            assert reads is not None  # weights were given
            parts.append(probe.project_all(reads[0].double().cpu().numpy()))
        values = np.concatenate(parts).T
        views.append(
            token_view(row, layers=probe.direction["layer"].values.tolist(), values=values, units=UNITS)
        )
    return tuple(views)


def sample_dialogues(run: Run, *, items: int = 3, seed: int = 0) -> pd.DataFrame:
    """Rows of ``run.transcripts``: all conditions of a few items, drawn with a random seed."""
    names = list(dict.fromkeys(run.transcripts["item"]))
    ranked = sorted(names, key=lambda n: hashlib.sha256(f"{seed}|{n}".encode()).digest())
    return run.transcripts.loc[run.transcripts["item"].isin(ranked[:items])]
