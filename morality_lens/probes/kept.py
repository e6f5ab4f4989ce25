"""Projections made while a run is played, for runs that do not keep their residuals."""

import hashlib

import numpy as np
import xarray as xr
from jaxtyping import Float


def directions_of(
    direction: xr.DataArray, refits: xr.DataArray | None
) -> Float[np.ndarray, "n layer d_model"]:
    """A direction and its refits as a probe's file holds them, in that order, each with all layers."""
    own = direction.transpose("layer", "d_model").values[None].astype(np.float64)
    if refits is None:
        return own
    drawn = refits.transpose("probe_draw", "layer", "d_model").values.astype(np.float32)
    return np.concatenate([own, drawn.astype(np.float64)])


def directions_hash(directions: Float[np.ndarray, "n layer d_model"]) -> str:
    """A hash over directions: projections made on others are not theirs."""
    return hashlib.sha256(np.ascontiguousarray(directions).tobytes()).hexdigest()


def on_directions(
    residuals: Float[np.ndarray, "*place layer d_model"], directions: Float[np.ndarray, "n layer d_model"]
) -> Float[np.ndarray, "*place layer n"]:
    """The dot products with all directions of the same layer, computed in float64."""
    each = [
        residuals[..., layer, :].astype(np.float64) @ directions[:, layer].T
        for layer in range(directions.shape[1])
    ]
    return np.stack(each, axis=-2)
