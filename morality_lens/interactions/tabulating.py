"""Effects as a table: a row for every effect and place, as numbers or as they are printed."""

import numpy as np
import pandas as pd
import xarray as xr

from morality_lens.interactions.numbers import p_value, with_bounds

NUMBERS = ("estimate", "se", "df", "p", "ci_low", "ci_high", "p_adj", "band_low", "band_high")
"""The columns of numbers, where a result has them."""


def effects_table(effects: xr.Dataset, *, text: bool = False) -> pd.DataFrame:
    """A row for every effect and place, without the cell means; for a file, or for a paper.

    Pandas writes the table: ``to_csv(index=False)``, ``to_latex(index=False)``, ``to_markdown(index=False,
    disable_numparse=True)`` (which needs the extra ``export``).

    Args:
        effects: from ``factorial_effects`` or ``marginal_log_odds``; select places first where there are
            many, such as ``effects.sel(round=5, layer=12)``.
        text: printed numbers in place of plain ones: the estimate with its simultaneous band (or pointwise
            interval) and the adjusted (or pointwise) p.

    Returns:
        The columns ``effect`` and one for each dimension, then either the numbers ``estimate``, ``se``,
        ``df``, ``p``, ``ci_low``, ``ci_high``, ``p_adj``, ``band_low``, ``band_high`` (those that there are)
        and ``units``, or the texts ``estimate``, the name of the interval, and ``p``.

    Raises:
        ValueError: there is no ``effect`` or ``estimate`` in what was given.

    Examples:
        >>> table = ml.interactions.effects_table(effects.sel(round=2, layer=3))
        >>> table[["effect", "site"]].head(2).values.tolist()
        [['instruction', 'answer_start'], ['instruction', 'answer_end']]
        >>> table["units"].unique().tolist()
        ['moral-immoral gap']
    """
    needed = ("estimate", "p", "ci_low", "ci_high")
    known = set(effects) if isinstance(effects, xr.Dataset) else set()
    if not known >= set(needed) or "effect" not in effects.coords:
        raise ValueError(
            f"effects_table needs a result of factorial_effects, a Dataset over effect with {needed}: got "
            f"{type(effects).__name__} with {sorted(map(str, known))}."
        )
    effects = effects if "effect" in effects.dims else effects.expand_dims("effect")
    dims = ["effect", *(str(dim) for dim in effects["estimate"].dims if dim != "effect")]
    kept = effects[[name for name in NUMBERS if name in effects]].reset_coords(drop=True)
    frame = kept.to_dataframe(dim_order=dims).reset_index()
    aliases = effects.attrs.get("aliases")
    if aliases:
        frame["aliases"] = [aliases.get(str(name), "") for name in frame["effect"]]
        dims = [*dims, "aliases"]
    if not text:
        return frame.assign(units=str(effects.attrs.get("units", "")))
    corrected = "p_adj" in effects and bool(effects["p_adj"].notnull().any())
    low, high = ("band_low", "band_high") if corrected else ("ci_low", "ci_high")
    level = f"{100 * (1 - float(effects.attrs.get('alpha', 0.05))):g} %"
    kind = f"simultaneous {level} band" if corrected else f"pointwise {level} interval"
    draws = float(effects.attrs.get("draws_used", 0)) if corrected else 0.0
    numbers = zip(frame["estimate"], frame[low], frame[high], strict=True)
    parted = [with_bounds(*three, signed=True).partition(" [") for three in numbers]
    p = frame["p_adj" if corrected else "p"] if "p" in frame else np.full(len(frame), np.nan)
    return frame[dims].assign(
        **{
            "estimate": [estimate for estimate, _, _ in parted],
            kind: [f"[{ends}" if ends else "none" for _, _, ends in parted],
            "adjusted p" if corrected else "p": [p_value(float(one), draws=draws) for one in p],
        }
    )
