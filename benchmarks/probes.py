"""Effects in gaps by probes of few statements: bias, coverage and type I error, through fit, refits and test.

    python benchmarks/probes.py --runs 400
    python benchmarks/probes.py --runs 200 --kinds lda logistic ridge

Statements come in pairs, a moral and an immoral one that share what is not moral about them; pairs of one
cluster share a part of their difference too. Items move by a known number of gaps under one component, and by
as much across the moral direction, which is what makes a noisy probe report effects that are none. Where the
halves of the statements do not agree on a direction, or no gap can be told from 0, it is refused.
"""

import argparse

import numpy as np
import xarray as xr

from morality_lens.interactions.effects import factorial_effects
from morality_lens.probes.fitting import fit_directions
from morality_lens.probes.kinds import KINDS
from morality_lens.probes.refits import project_means, with_refits

WIDTH = 64
EFFECT = 0.3
STATEMENTS, CLUSTERS = (60, 200, 600), (10, 12, 20, 50)
OF_CLUSTER, OF_STATEMENT, OF_PAIR = 0.2, 0.25, 0.5
"""Standard deviations per coordinate, in gaps: a cluster's difference, a statement, a pair's common part."""
ITEMS, ITEM_CLUSTERS = 120, 24
FACTORS = ("instruction", "feedback")
STABLE, REFUSED = 0.8, 0.5
"""Split-half cosines below which a probe comes with a warning, and is refused."""


def statements(rng: np.random.Generator, count: int, clusters: int) -> xr.DataArray:
    """Residuals of pairs; the moral direction is the first coordinate, its gap 1."""
    pairs = count // 2
    cluster = np.repeat(np.arange(pairs) % clusters, 2)
    sign = np.tile([0.5, -0.5], pairs)
    moral = np.zeros(WIDTH)
    moral[0] = 1.0
    difference = moral + OF_CLUSTER * rng.standard_normal((clusters, WIDTH))
    shared = np.repeat(OF_PAIR * rng.standard_normal((pairs, WIDTH)), 2, axis=0)
    own = OF_STATEMENT * rng.standard_normal((count, WIDTH))
    return xr.DataArray(
        (sign[:, None] * difference[cluster] + shared + own)[:, None],
        dims=("statement", "layer", "d_model"),
        coords={
            "label": ("statement", (sign > 0).astype(int)),
            "value": ("statement", sign + 0.2 * rng.standard_normal(count)),
            "cluster": ("statement", cluster.astype(str)),
            "layer": [0],
        },
    )


def items(rng: np.random.Generator, effect: float) -> xr.DataArray:
    """Residuals of items under two components; the first moves them."""
    codes = np.repeat(np.arange(ITEM_CLUSTERS), ITEMS // ITEM_CLUSTERS)
    moved = 0.2 * rng.standard_normal((ITEM_CLUSTERS, WIDTH))[codes]
    moved += 0.2 * rng.standard_normal((ITEMS, WIDTH))
    moved[:, 0] += effect
    moved[:, 1] += EFFECT
    x = np.repeat(rng.standard_normal((ITEMS, 1, 1, WIDTH)), 4, axis=1).reshape(ITEMS, 2, 2, WIDTH)
    x = x + 0.1 * rng.standard_normal(x.shape)
    x[:, 1] += moved[:, None]
    return xr.DataArray(
        x[:, :, :, None],
        dims=("item", *FACTORS, "layer", "d_model"),
        coords={
            "item": np.arange(ITEMS),
            "cluster": ("item", codes),
            "layer": [0],
            **{name: ["off", "on"] for name in FACTORS},
        },
    )


def one(rng: np.random.Generator, kind: str, count: int, clusters: int) -> dict[str, float] | None:
    """What one draw of statements and items gives; None where the product refuses it."""
    data = statements(rng, count, clusters)
    probe = with_refits(fit_directions(data, kind=kind, draws=2), data)
    halves = float(probe.quality["split_half"][0])
    if halves < REFUSED or not np.isfinite(probe.quality["gap"].values[0]):
        return None
    assert probe.refits is not None
    found = {"warned": float(halves < STABLE)}
    for name, effect in (("effect", EFFECT), ("zero", 0.0)):
        residuals = items(rng, effect)
        refits = project_means(probe.refits, residuals.mean("item"))
        got = factorial_effects(probe.project(residuals), refits=refits, method="pointwise", family=())
        at = got.sel(effect="instruction").isel(layer=0)
        found[name] = float(at["estimate"])
        found[f"{name} missed"] = float(not at["ci_low"] <= effect <= at["ci_high"])
    return found


def main() -> None:
    """A line for each kind, number of statements and number of clusters."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--kinds", nargs="+", default=["mean_difference"], choices=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    print(f"true effect {EFFECT}; {asked.runs} draws; 95 % intervals")
    print("kind              statements clusters  refused warned    mean coverage  zero: mean type I")
    for kind in asked.kinds:
        for count in STATEMENTS:
            for clusters in sorted({min(n, count // 2) for n in CLUSTERS}):
                rng = np.random.default_rng([asked.seed, count, clusters])
                drawn = [one(rng, kind, count, clusters) for _ in range(asked.runs)]
                kept = [found for found in drawn if found is not None]
                line = f"{kind:17} {count:10} {clusters:8} {1 - len(kept) / len(drawn):8.2f}"
                if kept:
                    mean = {name: float(np.mean([found[name] for found in kept])) for name in kept[0]}
                    line += f" {mean['warned']:6.2f} {mean['effect']:7.3f} {1 - mean['effect missed']:8.3f}"
                    line += f" {mean['zero']:+11.3f} {mean['zero missed']:6.3f}"
                print(line, flush=True)


if __name__ == "__main__":
    main()
