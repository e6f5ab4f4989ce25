"""Stored transcripts read again by their model, every token with its projection."""

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.models import decoding
from morality_lens.probes.layers import opening_layer, sound_layers
from morality_lens.probes.probe import Probe
from morality_lens.rounds.replay import same_model
from morality_lens.runs.run import Run
from morality_lens.runs.token_view import TokenView, token_view

STRETCH = 64
"""Tokens of a transcript read together."""


def read_transcripts(
    model: TransformerBridge,
    run: Run,
    probe: Probe | Mapping[str, Probe],
    *,
    rows: pd.DataFrame | None = None,
) -> tuple[TokenView, ...]:
    """Dialogues of a run, read again, with every token's projection at every layer.

    Args:
        model: the run's model.
        run: a run.
        probe: fitted on the same model; or several by name, which gives a view of each dialogue for each.
        rows: the rows of ``run.transcripts`` to read; None reads those of one item.

    Raises:
        ValueError: the model is not the run's or not a probe's, or there is no probe.

    Examples:
        >>> views = ml.rounds.read_transcripts(model, run, probe)
        >>> view = views[0]
        >>> view.values.shape == (len(view.layers), len(view.tokens))
        True
    """
    probes = {"": probe} if isinstance(probe, Probe) else dict(probe)
    if not probes:
        raise ValueError("read_transcripts needs a probe, or several by name; got none.")
    records = [same_model(model, run, one) for one in probes.values()]
    table = sample_dialogues(run, items=1) if rows is None else rows
    views = []
    for _, row in table.iterrows():
        values: dict[str, list[np.ndarray]] = {name: [] for name in probes}
        for read in _stretches(records[0].lm, [int(t) for t in row["token_ids"]]):
            for name, one in probes.items():
                values[name].append(one.project_all(read))
        views += [
            _coloured(row, name, probes[name], np.concatenate(parts).T) for name, parts in values.items()
        ]
    return tuple(views)


@torch.inference_mode()
def _stretches(
    lm: decoding.LanguageModel, ids: list[int]
) -> Iterator[Float[np.ndarray, "token layer d_model"]]:
    """The residuals of every token at every layer, some tokens at a time."""
    stretch = STRETCH if lm.cached else len(ids)
    batch = decoding.start(lm, 1)
    for first in range(0, len(ids), stretch):
        part = ids[first : first + stretch]
        _, reads = decoding.feed(lm, batch, [part], torch.eye(len(part), device=lm.device)[None])
        assert reads is not None  # weights were given
        yield reads[0].double().cpu().numpy()


def _coloured(row: pd.Series, name: str, probe: Probe, values: Float[np.ndarray, "layer token"]) -> TokenView:
    """The view of a dialogue, each token with its projection on a direction."""
    layers, sound = probe.direction["layer"].values.tolist(), sound_layers(probe)
    return token_view(
        row,
        values=values,
        units=str(probe.told["units"]),
        direction=name,
        layers=layers,
        opening=opening_layer(probe),
        refused=[layer for layer in layers if layer not in sound],
    )


def sample_dialogues(run: Run, *, items: int = 3, seed: int = 0) -> pd.DataFrame:
    """Rows of ``run.transcripts``: all conditions of a few items, drawn with a random seed."""
    names = list(dict.fromkeys(run.transcripts["item"]))
    ranked = sorted(names, key=lambda n: hashlib.sha256(f"{seed}|{n}".encode()).digest())
    return run.transcripts.loc[run.transcripts["item"].isin(ranked[:items])]
