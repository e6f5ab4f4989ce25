"""How well an autoencoder rebuilds a run's residuals, and when it is refused."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float

from morality_lens.runs.choosing import chosen_labels
from morality_lens.runs.run import Run
from morality_lens.sparse.autoencoder import SparseAutoencoder

LIMIT = 0.5
"""Share of the residuals' variance that may be left unexplained."""
NUMBERS = 2**24
"""Numbers of residuals that are read at once."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """The residuals of some items.

    Attributes:
        items: their places in the run's own order.
        values: item, factors, round, site, d_model.
    """

    items: list[int]
    values: np.ndarray

    @property
    def points(self) -> Float[np.ndarray, "point d_model"]:
        """One row each."""
        return self.values.reshape(-1, self.values.shape[-1])


def check_sae(
    run: Run,
    sae: SparseAutoencoder,
    *,
    sites: Sequence[str] | None = None,
    rounds: Sequence[int] | None = None,
) -> xr.Dataset:
    """How well an autoencoder rebuilds a run's residuals, by round and site, and how often features are on.

    Args:
        run: a run that stored residuals at the autoencoder's layer.
        sae: the autoencoder.
        sites: of the residuals; None takes all.
        rounds: of the residuals; None takes all.

    Returns:
        ``fvu``, the share of the variance around the mean of that round and site that is left unexplained
        (0: rebuilt exactly, 1: no better than that mean); ``error``, the same share of the squared norm;
        ``norm_ratio``, mean norm of what is rebuilt over that of the residuals; ``active``, features of one
        residual that are on; by feature ``frequency``, the share of residuals where it is on, and
        ``power``, its mean squared activation times its decoder's squared norm.

    Raises:
        ValueError: an autoencoder of another width or layer, or an unknown site or round.

    Examples:
        >>> found = ml.sparse.check_sae(run, sae, sites=["answer_start"])
        >>> found["fvu"].dims, bool((found["fvu"] < 0.5).all())
        (('round', 'site'), True)
    """
    places = places_of(run, sae, sites, rounds)
    shape = (len(places["round"]), len(places["site"]))
    sums = {name: np.zeros(shape) for name in ("n", "squares", "left", "norm", "rebuilt", "active")}
    total = np.zeros((*shape, sae.d_model))
    on, power = np.zeros(sae.n_features), np.zeros(sae.n_features)
    for batch in batches(run, sae, places):
        at = np.indices(batch.values.shape[:-1])[-2:].reshape(2, -1)
        there = np.isfinite(batch.points).all(axis=1)
        points, at = batch.points[there], at[:, there]
        for part in sae.steps(len(points)):
            x, where = points[part].astype(np.float64), tuple(at[:, part])
            active = sae.encode(points[part])
            rebuilt = sae.decode(active, points[part]).astype(np.float64)
            np.add.at(total, where, x)
            for name, value in (
                ("n", np.ones(len(x))),
                ("squares", (x**2).sum(axis=1)),
                ("left", ((x - rebuilt) ** 2).sum(axis=1)),
                ("norm", np.linalg.norm(x, axis=1)),
                ("rebuilt", np.linalg.norm(rebuilt, axis=1)),
                ("active", (active > 0).sum(axis=1)),
            ):
                np.add.at(sums[name], where, value)
            on += (active > 0).sum(axis=0)
            power += (active.astype(np.float64) ** 2).sum(axis=0)
    n = np.maximum(sums["n"], 1)
    around = sums["squares"] - (total**2).sum(axis=-1) / n
    varies = around > 1e-10 * sums["squares"]
    with np.errstate(invalid="ignore", divide="ignore"):
        found = {
            "fvu": np.where(varies, sums["left"] / around, np.nan),
            "error": sums["left"] / sums["squares"],
            "norm_ratio": sums["rebuilt"] / sums["norm"],
            "active": sums["active"] / n,
        }
    every = max(float(sums["n"].sum()), 1.0)
    size = (sae.decoder.astype(np.float64) ** 2).sum(axis=1)
    return xr.Dataset(
        {
            **{name: (("round", "site"), value) for name, value in found.items()},
            "frequency": ("feature", on / every),
            "power": ("feature", power / every * size),
        },
        coords={**places, "feature": np.arange(sae.n_features)},
        attrs={"sae": repr(sae), "layer": sae.layer, "residuals": int(sums["n"].sum())},
    )


def describe_check(checked: xr.Dataset) -> str:
    """How well the residuals are rebuilt, in a sentence."""
    fvu = checked["fvu"].values
    ratio, active = checked["norm_ratio"].values, checked["active"].values
    return (
        f"{checked.attrs['sae']} leaves {_range(fvu)} of the residuals' variance unexplained (by round and "
        f"site, around their means), with {_range(ratio)} of their norm and {_range(active, 1)} features on."
    )


def refuse_mismatch(checked: xr.Dataset, *, anyway: bool) -> str:
    """What is said of how well the residuals are rebuilt, where they are rebuilt well enough or ``anyway``.

    Raises:
        ValueError: more than half of the variance is left unexplained, or nothing varies.
    """
    fvu = checked["fvu"]
    said = describe_check(checked)
    bad = fvu.where(~(fvu <= LIMIT))
    if not bool((~(fvu <= LIMIT)).any()):
        return said
    if anyway:
        return f"{said} More than {LIMIT:g} is unexplained: these may not be the features that it learnt."
    worst = fvu.where(bad.notnull() | fvu.isnull(), drop=True)
    places = [
        f"{site} of round {number}: {float(fvu.sel(round=number, site=site)):.2f}"
        for number in worst["round"].values.tolist()
        for site in worst["site"].values.tolist()
        if not float(fvu.sel(round=number, site=site)) <= LIMIT
    ]
    raise ValueError(
        f"the autoencoder must rebuild the residuals with at most {LIMIT:g} of their variance unexplained, "
        f"and leaves more ({'; '.join(places[:4])}; nan: the residuals do not vary). {said} It may be of "
        "another model, layer or scaling, or trained on other texts; choose sites that it knows, or take its "
        "features all the same with anyway=True."
    )


def places_of(
    run: Run, sae: SparseAutoencoder, sites: Sequence[str] | None, rounds: Sequence[int] | None
) -> dict[str, list]:
    """The rounds and sites asked for.

    Raises:
        ValueError: one is not there, or the autoencoder does not fit the run.
    """
    sae.refuse_other_run(run)
    return {
        **chosen_labels({"round": range(run.design.n_rounds)}, {"round": rounds}),
        **chosen_labels({"site": run.design.sites}, {"site": sites}),
    }


def batches(run: Run, sae: SparseAutoencoder, places: dict[str, list]) -> Iterator[Batch]:
    """The residuals at an autoencoder's layer, some items at a time, as they lie on disk."""
    residuals = run.residuals.sel(layer=sae.layer, site=places["site"], round=places["round"], drop=True)
    residuals = residuals.transpose(*run.design.dims[:-1], "round", "site", "d_model")
    own = {name: i for i, name in enumerate(residuals["item"].values.tolist())}
    played = [own[item.id] for item in run.stored if item.id in own]
    each = max(1, residuals.size // max(1, residuals.sizes["item"]))
    size = max(1, NUMBERS // each)
    for start in range(0, len(played), size):
        some = played[start : start + size]
        yield Batch(items=some, values=residuals.isel(item=some).values)


def _range(values: np.ndarray, places: int = 2) -> str:
    """The smallest and the largest, once where they are alike."""
    known = values[np.isfinite(values)]
    if not known.size:
        return "an unknown share"
    low, high = (f"{v:.{places}f}" for v in (known.min(), known.max()))
    return low if low == high else f"{low} to {high}"
