"""One-sided tests of effects against a bound."""

import numpy as np
import xarray as xr
from scipy.special import stdtr


def one_sided(
    effects: xr.Dataset, bound: float | xr.DataArray = 0.0
) -> tuple[xr.DataArray, xr.DataArray]:
    """p that the effect lies below the bound, and p that it lies above; NaN where there is no inference."""
    se = effects.se.values
    away = (effects.estimate - bound).transpose(*effects.estimate.dims).values
    t = np.divide(away, se, out=np.full_like(se, np.nan), where=se > 0)
    t = np.where(np.isnan(effects.p.values), np.nan, t)
    below, above = (stdtr(effects.df.values, sign * t) for sign in (1, -1))
    return effects.estimate.copy(data=below), effects.estimate.copy(data=above)
