"""Room and files of runs, measured and estimated; the store's own share of the time.

    python benchmarks/storage.py [--items 16] [--rounds 2]

One run of the bundled model is played whole. Its residuals are then stored again in every form, so that all
forms hold the same dialogues; a 7B shape is stored the same way with random numbers of that width in place of
the model's, and the numbers of a large run are the estimator's, compared with the measured bytes of one part.
"""

import argparse
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np

from morality_lens.design import Design, Protocol
from morality_lens.items.loaders import load_items
from morality_lens.models.loading import load_model
from morality_lens.rounds.playing import play
from morality_lens.runs import writing
from morality_lens.runs.archives import read_table
from morality_lens.runs.manifest import parts_of
from morality_lens.runs.run import Run
from morality_lens.runs.storage import Storage, estimate

warnings.filterwarnings("ignore")


def stored_again(run: Run, out: Path, storage: Storage, width: int) -> dict[str, float]:
    """Bytes, files and CPU seconds of the run's parts stored in another form, with residuals of a width."""
    manifest = run.manifest
    model = {**manifest["study"]["model"], "d_model": width}
    study = {**manifest["study"], "model": model}
    layers = storage.layers_of(model["n_layers"])
    about = {key: manifest[key] for key in ("order", "left_out", "prefix_reuse")}
    kept = storage.manifest(n_layers=model["n_layers"], dtype="float32")
    made = writing.create(
        out, study=study, about=about, items=run._stored, batch_size=manifest["batch_size"], stored=kept
    )
    rng, seconds = np.random.default_rng(0), 0.0
    for part in parts_of(made):
        cube = run.residuals.isel(item=[int(np.flatnonzero(run._order == p)[0]) for p in part.places])
        values = cube.sel(layer=list(layers)).values
        if width != values.shape[-1]:
            there = np.isfinite(values[..., :1])
            drawn = rng.standard_normal((*values.shape[:-1], width), np.float32)
            drawn[:, :, :, :, 0] = drawn[:, :1, :1, :1, 0]  # round 0 is shared
            values = np.where(there, drawn, np.nan).astype(np.float32)
        ids = cube["item"].values
        batch = writing.PlayedBatch(
            residuals=values,
            option_probabilities=run.option_probabilities.sel(item=ids).values,
            option_mass=run.option_mass.sel(item=ids).values,
            answers=read_table(part.file(run.path), "answers"),
            transcripts=read_table(part.file(run.path), "transcripts"),
            seconds=0.0,
            tokens=0,
        )
        began = time.process_time()
        writing.commit(out, part, batch)
        seconds += time.process_time() - began
    files = [p for p in out.rglob("*") if p.is_file() and p.name != ".lock"]
    return {"bytes": sum(p.stat().st_size for p in files), "files": len(files), "seconds": seconds}


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--items", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    protocol = Protocol(design=Design(rounds=args.rounds))
    began = time.process_time()
    run = play(load_model(), load_items(limit=args.items), out=folder / "run", protocol=protocol)
    whole = time.process_time() - began
    print(f"played {args.items} items x 8 conditions x {args.rounds} rounds in {whole:.1f} CPU s")
    forms = {
        "all layers, float32": Storage(),
        "all layers, float16": Storage(dtype="float16"),
        "four layers, float16": Storage(dtype="float16", layers=(1, 2, 3, 4)),
    }
    print("| form | d_model | MB | estimated MB | files | CPU s to store |")
    for width in (run.residuals.sizes["d_model"], 4096):
        for name, storage in forms.items():
            found = stored_again(run, folder / f"{name}-{width}", storage, width)
            told = estimate(
                run.design,
                items=args.items,
                d_model=width,
                layers=storage.layers_of(run.manifest["study"]["model"]["n_layers"]),
                storage=replace(storage, dtype=storage.dtype or "float32"),
                batch_size=run.manifest["batch_size"],
            )
            print(
                f"| {name} | {width} | {found['bytes'] / 1e6:.1f} | {told.bytes / 1e6:.1f} | "
                f"{found['files']:.0f} | {found['seconds']:.2f} |"
            )
    print("10,000 items, 32 blocks x 4,096, default sites:")
    for rounds in (1, 5):
        for name, storage in (
            ("all layers, float32", Storage()),
            ("four layers, float32", Storage(layers=(8, 16, 24, 31))),
            ("four layers, float16", Storage(layers=(8, 16, 24, 31), dtype="float16")),
            (
                "four layers, projections on a probe and 50 refits",
                Storage(layers=(8, 16, 24, 31), keep="projections"),
            ),
        ):
            told = estimate(
                Design(rounds=rounds),
                items=10_000,
                d_model=4096,
                layers=storage.layers_of(32),
                storage=storage,
                directions=51,
            )
            print(f"| {rounds} rounds | {name} | {told.bytes / 1e9:.1f} GB | {told.files} files |")


if __name__ == "__main__":
    main()
