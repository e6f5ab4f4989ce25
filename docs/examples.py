"""What the examples of the reference start from: a small run of the bundled model, and its study."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

import morality_lens as ml

folder = Path(tempfile.mkdtemp())
model = ml.load_model()
items = ml.load_items(limit=16)
statements = ml.load_statements("world", limit=120)

run = ml.play(model, items, rounds=2, out=folder / "run", progress=False)
probe = ml.fit_probe(model, statements)
moral = probe.project(run)
effects = ml.factorial_effects(moral, draws=500)
correct = ml.judges.behaviour_cube(run)

none, both = ml.Condition(), ml.Condition(instruction="on", feedback="on")
quiet = ml.rounds.Execution(progress=False)
batching = ml.circuits.Batching(progress=False)
last = ml.rounds.Selection(rounds=[2])
parts = ml.attribute(model, run, probe, layer=3, selection=last, execution=quiet)
doses = ml.circuits.Doses(layer=3, sizes=(-1.0, 1.0))
few = ml.circuits.RandomDirections(count=2)
evidence = ml.experiments.load_evidence()
given = ml.experiments.weak_evidence(model, run, evidence, selection=last, execution=quiet)

# an autoencoder of principal axes, in both signs, which stands for a trained one
points = run.residuals.sel(site="answer_start", layer=3).values.reshape(-1, 128)
_, _, axes = np.linalg.svd(points - points.mean(axis=0), full_matrices=False)
both_signs = np.concatenate([axes[:32], -axes[:32]])
sae = ml.sparse.SparseAutoencoder(
    encoder=both_signs.T.copy(), encoder_bias=np.zeros(64, np.float32), decoder=both_signs,
    decoder_bias=points.mean(axis=0), layer=3, subtract_bias=True,
)  # fmt: skip

plan = ml.studies.Plan(
    rounds=1, placebo_items=8, placebo_rounds=1, wordings=2, wording_items=8, wording_rounds=1,
    samples=2, sample_rounds=1, random_models=0,
)  # fmt: skip
material = ml.studies.Material(questions=items[:8], statements=statements)
settings = ml.studies.Settings(plan=plan)
ml.study(model, material, settings, out=folder / "study", progress=False)

logs = {}
for label, right in {"none": 2, "instruction": 5, "feedback": 4, "instruction+feedback": 9}.items():
    logs[label] = folder / f"{label}.json"
    samples = [
        {
            "id": f"q{k}",
            "epoch": 1,
            "metadata": {"template": f"t{k}"},
            "scores": {"choice": {"value": "C" if k < right else "I"}},
        }
        for k in range(10)
    ]
    log = {"status": "success", "eval": {"task": "bbq", "model": "some/model"}, "samples": samples}
    logs[label].write_text(json.dumps(log))
