"""Several directions side by side: their cosines, and the lines of their trust cards in one table."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from morality_lens.probes.card import interval_text, short
from morality_lens.probes.probe import Probe


def direction_cosines(probes: Mapping[str, Probe]) -> xr.DataArray:
    """The cosine between the directions of every two probes at every layer that all have.

    Two random directions of ``d_model`` dimensions have a cosine of 0 +- 1/sqrt(d_model); residuals lie in
    few of them, so that directions of unrelated sets can be further apart from 0 than that. The cosine says
    how far two directions are one, not whether one reads the other's statements: for that see ``transfer`` in
    the trust card.

    Args:
        probes: by name, all of one model.

    Returns:
        first x second x layer, with ``units`` ``cosine``.

    Raises:
        ValueError: fewer than two probes, probes of several models, or no common layer.

    Examples:
        >>> lda = ml.fit_probe(model, statements, kind="lda")
        >>> cosines = ml.probes.direction_cosines({"mean": probe, "lda": lda})
        >>> bool(cosines.sel(first="mean", second="lda", layer=3) > 0.3)
        True
    """
    names = list(probes)
    models = {str(probe.training["model_fingerprint"]) for probe in probes.values()}
    if len(names) < 2 or len(models) > 1:
        raise ValueError(
            f"direction_cosines needs two probes or more of one model; got {len(names)} of {len(models)}."
        )
    shared = set.intersection(*(set(p.direction["layer"].values.tolist()) for p in probes.values()))
    if not shared:
        raise ValueError("direction_cosines needs probes with a layer in common; these have none.")
    layers = sorted(shared)
    stacked = np.stack([p.direction.sel(layer=layers).values.astype(np.float64) for p in probes.values()])
    length = np.linalg.norm(stacked, axis=-1, keepdims=True)
    unit = stacked / np.where(length > 0, length, np.nan)  # a direction of length 0 has no cosine
    return xr.DataArray(
        np.einsum("aln,bln->abl", unit, unit),
        dims=("first", "second", "layer"),
        coords={"first": names, "second": names, "layer": layers},
        name="cosine",
        attrs={"units": "cosine", "model_fingerprint": models.pop()},
    )


def card_table(probes: Mapping[str, Probe]) -> pd.DataFrame:
    """The trust cards of several probes in one table: a row for each check, a column for each probe.

    A cell holds the value with its interval and the verdict.

    Raises:
        ValueError: a probe has no trust card.

    Examples:
        >>> sets = {"one": statements, "other": ml.load_statements("world", limit=120, seed=1)}
        >>> probes = ml.probes.fit_probes(model, sets, random_models=0)
        >>> ml.probes.card_table(probes).columns.tolist()
        ['check', 'one', 'other']
    """
    missing = [name for name, probe in probes.items() if probe.card is None]
    if missing or not probes:
        raise ValueError(f"card_table needs probes with trust cards; without one: {missing or 'all'}.")
    columns = {}
    for name, probe in probes.items():
        assert probe.card is not None
        told = {"statements": str(probe.card.training["n"]), "layer": str(probe.card.layer)}
        for row in probe.card.rows():
            value = f"{short(row['value'])} {interval_text(row)}".strip()
            told[row["line"]] = (
                "not checked" if row["verdict"] == "not checked" else f"{value}: {row['verdict']}"
            )
        columns[name] = pd.Series(told)
    checks = list(dict.fromkeys(check for told in columns.values() for check in told.index))
    return pd.DataFrame(columns, checks).fillna("not checked").rename_axis("check").reset_index()
