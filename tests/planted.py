"""A run whose residuals hold planted things: what components do, and what tells good answers from bad."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from morality_lens.design import COMPONENTS, Design
from morality_lens.runs.run import Run


@dataclass(frozen=True, kw_only=True, eq=False)
class PlantedRun(Run):
    """A run whose residuals lie in memory."""

    cube: xr.DataArray

    @property
    def residuals(self) -> xr.DataArray:
        return self.cube


def planted_run(
    *, items=40, rounds=1, width=8, levels=("off", "on"), moved=3.0, outcome=0.0, seed=0
) -> PlantedRun:
    """Residuals at two sites and three layers.

    On axis 0 each component moves them by ``moved``; on axis 1 answers with ``label`` 1 lie ``outcome``
    higher. The labels are more often 1 where more components are on. They are a coordinate of the cube.
    """
    rng = np.random.default_rng(seed)
    shape = (items, *[len(levels)] * 3, rounds + 1, 2, 3, width)
    values = rng.normal(size=shape)
    on = np.array([level == "on" for level in levels], float)
    count = on[:, None, None] + on[None, :, None] + on[None, None, :]
    values[..., 0] += moved * count[None, ..., None, None, None]
    label = (rng.random(shape[:5]) < (0.2 + 0.2 * count)[None, ..., None]).astype(float)
    values[..., 1] += outcome * label[..., None, None]
    cube = xr.DataArray(
        values,
        dims=Design().cube_dims,
        coords={
            "item": [f"q{i:02d}" for i in range(items)],
            "cluster": ("item", [f"t{i // 2}" for i in range(items)]),
            **{name: list(levels) for name in COMPONENTS},
            "round": np.arange(rounds + 1),
            "site": ["answer_start", "answer_end"],
            "layer": [-1, 0, 1],
            "label": (Design().dims, label),
        },
    )
    design = {
        "factors": [{"name": name, "levels": list(levels)} for name in COMPONENTS],
        "rounds": rounds,
        "sites": ["answer_start", "answer_end"],
    }
    model = {"fingerprint": "f", "n_layers": 2, "d_model": width, "name": "planted"}
    stored = {"keep": "residuals", "layers": cube["layer"].values.tolist(), "dtype": "float32"}
    manifest = {"study": {"design": design, "model": model}, "stored": stored}
    return PlantedRun(path=Path("nowhere"), manifest=manifest, cube=cube)
