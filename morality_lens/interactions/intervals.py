"""One test for p and interval of a mean over clusters: Hall's transform of t."""

import numpy as np
import xarray as xr
from jaxtyping import Float
from scipy.special import stdtr, stdtrit


def hall(t: Float[np.ndarray, "*n"], skew: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """Hall's (1992) transform of a studentised mean, which removes its skewness ``skew``."""
    return np.asarray(t + skew * t**2 / 3 + skew**2 * t**3 / 27 + skew / 6)


def inverse_hall(x: Float[np.ndarray, "*n"], skew: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """The t of which :func:`hall` makes ``x``."""
    safe = np.where(np.abs(skew) < 1e-9, 1.0, skew)
    return np.where(np.abs(skew) < 1e-9, x, 3 / safe * (np.cbrt(1 + safe * (x - safe / 6)) - 1))


def one_sided(effects: xr.Dataset, bound: float | xr.DataArray = 0.0) -> tuple[xr.DataArray, xr.DataArray]:
    """The p that an effect lies below a bound, and the p that it lies above; NaN without inference."""
    se = effects["se"].where(effects["se"] > 0)
    t = (effects["estimate"] - bound) / se
    skew = effects["skew"] if "skew" in effects else xr.zeros_like(se)
    x = xr.apply_ufunc(hall, t, skew.broadcast_like(t))
    df = effects["df"].broadcast_like(t)
    return xr.apply_ufunc(stdtr, df, x), xr.apply_ufunc(stdtr, df, -x)


def ends(
    estimate: Float[np.ndarray, " n"],
    se: Float[np.ndarray, " n"],
    skew: Float[np.ndarray, " n"],
    df: Float[np.ndarray, " n"],
    alpha: float,
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Both ends of the interval that inverts the test."""
    critical = stdtrit(df, 1 - alpha / 2)
    return estimate - se * inverse_hall(critical, skew), estimate - se * inverse_hall(-critical, skew)
