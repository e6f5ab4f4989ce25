"""Small runs of tiny random models, and probes with made-up directions on them."""

from pathlib import Path

import numpy as np
import xarray as xr

from morality_lens.design import Design, Protocol
from morality_lens.models.loading import load_model, record_of
from morality_lens.probes.probe import Probe
from morality_lens.rounds.playing import play


def tiny_run(folder: Path, out: Path, questions, *, dtype: str = "auto", rounds: int = 1):
    """The model in ``folder`` and a run of it with short replies."""
    model = load_model(folder, dtype=dtype)
    protocol = Protocol(
        design=Design(rounds=rounds),
        feedback="oracle",
        answer_tokens=3,
        rationale_tokens=4,
        feedback_tokens=4,
    )
    return model, play(model, questions, out=out, protocol=protocol, progress=False)


def made_up_probe(model, seed: int = 0) -> Probe:
    """A random direction at every layer."""
    record, rng = record_of(model), np.random.default_rng(seed)
    layers = np.arange(-1, record.n_layers)
    direction = rng.standard_normal((len(layers), record.d_model)) / record.d_model
    names = ("auroc", "auroc_low", "auroc_high", "gap")
    quality = xr.Dataset({n: ("layer", np.linspace(0.6, 0.9, len(layers))) for n in names}, {"layer": layers})
    return Probe(
        kind="mean_difference",
        direction=xr.DataArray(direction, dims=("layer", "d_model"), coords={"layer": layers}),
        intercept=xr.DataArray(rng.standard_normal(len(layers)), dims=("layer",), coords={"layer": layers}),
        quality=quality,
        training={"source": "statements", "n": 10, "model_fingerprint": record.fingerprint},
    )
