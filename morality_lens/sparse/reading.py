"""The features of a run's residuals as a cube, and the effects on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Int

from morality_lens.interactions.contrasts import Comparison
from morality_lens.interactions.cube import cluster_codes, factors_of
from morality_lens.interactions.curves import Resampled
from morality_lens.interactions.effects import factorial_effects
from morality_lens.runs.run import Run
from morality_lens.sparse.autoencoder import SparseAutoencoder
from morality_lens.sparse.checking import batches, check_sae, places_of, refuse_mismatch


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which features are kept; the rule looks at how often and how much they are on, never at conditions.

    Attributes:
        named: these; empty takes those that the next two leave.
        least: of features that are on in at least this share of the residuals read,
        most: those with the largest mean squared activation times their decoder's squared norm, so many.

    Examples:
        >>> ml.sparse.Choice(least=0.05, most=100).words
        'on in at least 5 % of the residuals; of these the 100 that write most'
    """

    named: Sequence[int] = ()
    least: float = 0.01
    most: int = 512

    @property
    def words(self) -> str:
        """The rule in words."""
        if self.named:
            return "named beforehand"
        share = f"{100 * self.least:g} %"
        return f"on in at least {share} of the residuals; of these the {self.most} that write most"

    def of(self, checked: xr.Dataset) -> Int[np.ndarray, " feature"]:
        """The features, in the order of their numbers.

        Raises:
            ValueError: a number that no feature has, or no feature is on often enough.
        """
        count = checked.sizes["feature"]
        if self.named:
            wrong = [n for n in self.named if not 0 <= n < count]
            if wrong:
                raise ValueError(f"the autoencoder has the features 0 to {count - 1}; got {wrong[0]}.")
            return np.unique(np.asarray(list(self.named), dtype=np.int64))
        often = np.flatnonzero(checked["frequency"].values >= max(self.least, 1e-12))
        if not often.size:
            raise ValueError(
                f"no feature is {self.words.partition(';')[0]}; the largest share is "
                f"{float(checked['frequency'].max()):.2g}. Lower least, or name features."
            )
        order = np.argsort(-checked["power"].values[often], kind="stable")[: self.most]
        return np.sort(often[order]).astype(np.int64)


def features(
    run: Run,
    sae: SparseAutoencoder,
    *,
    sites: Sequence[str] | None = None,
    rounds: Sequence[int] | None = None,
    choice: Choice = Choice(),
    anyway: bool = False,
) -> xr.DataArray:
    """Activations of sparse features, by item, condition, round and site.

    The stored residuals are read twice, some items at a time: once to see how well they are rebuilt and how
    often each feature is on, once for the features that are kept. A site that is a mean over tokens is
    encoded as it is: its features are those of the mean, and not the mean of the tokens' features.

    Args:
        run: a run that stored residuals at the autoencoder's layer.
        sae: from ``load_sae``.
        sites: of the residuals; None takes all.
        rounds: of the residuals; None takes all.
        choice: which features are kept.
        anyway: keep them though more than half of the residuals' variance is left unexplained.

    Returns:
        item x factors x round x site x feature; the coordinates ``frequency`` and ``power`` along
        ``feature``; ``attrs["checked"]`` says how well the residuals are rebuilt. What was not stored is NaN.

    Raises:
        ValueError: an autoencoder of another width, layer or hook, one that does not rebuild the residuals,
            or an unknown site, round or feature.

    Examples:
        >>> found = ml.features(run, sae, sites=["answer_start"])
        >>> found.dims
        ('item', 'instruction', 'cot', 'feedback', 'round', 'site', 'feature')
    """
    checked = check_sae(run, sae, sites=sites, rounds=rounds)
    said = refuse_mismatch(checked, anyway=anyway)
    kept = choice.of(checked)
    places = places_of(run, sae, sites, rounds)
    cells = [len(levels) for levels in run.design.levels.values()]
    shape = (len(run.asked), *cells, *map(len, places.values()))
    values = np.full((*shape, len(kept)), np.nan, np.float32)
    for batch in batches(run, sae, places):
        points = batch.points
        there = np.flatnonzero(np.isfinite(points).all(axis=1))
        found = np.full((len(points), len(kept)), np.nan, np.float32)
        for part in sae.steps(len(there)):
            found[there[part]] = sae.encode(points[there[part]])[:, kept]
        values[batch.items] = found.reshape(*batch.values.shape[:-1], len(kept))
    clusters = run.residuals["cluster"].values
    return xr.DataArray(
        values,
        dims=("item", *run.design.levels, "round", "site", "feature"),
        coords={
            "item": list(run.asked),
            "cluster": ("item", clusters),
            **run.design.coords,
            **places,
            "feature": kept,
            "frequency": ("feature", checked["frequency"].values[kept]),
            "power": ("feature", checked["power"].values[kept]),
        },
        name="feature",
        attrs={
            "units": "activation",
            "sae": repr(sae),
            "layer": sae.layer,
            "checked": said,
            "rule": choice.words,
            **({"early": run.design.early_effects} if run.design.early else {}),
            **({"cluster_note": run.cluster_note} if run.cluster_note else {}),
        },
    )


def feature_effects(
    y: xr.DataArray,
    factors: Sequence[str] | None = None,
    *,
    compare: Comparison | Mapping[str, str | tuple[str, str]] = "total",
    family: Sequence[str] = ("round", "feature"),
    how: Resampled = Resampled(),
) -> xr.Dataset:
    """Factorial effects on every feature, with p corrected over features.

    A feature that hardly any cluster changes between conditions cannot be tested: with m clusters that show
    a change at all, no test by signs reaches a p below 2 / 2^m. Where that is above ``alpha`` the feature is
    left out of its family, with no numbers of its own (NaN); ``attrs["refused_features"]`` names them.

    Args:
        y: from :func:`morality_lens.sparse.features`, complete.
        factors: as in ``factorial_effects``, as is the next one.
        compare: which levels a contrast is between.
        family: dims over which p is corrected together.
        how: resampling.

    Returns:
        As ``factorial_effects``, with ``feature``, and the coordinate ``moved``: clusters in which the
        feature differs between conditions in any round.

    Raises:
        ValueError: no feature can be tested, or what ``factorial_effects`` refuses.

    Examples:
        >>> found = ml.sparse.feature_effects(ml.features(run, sae, sites=["answer_start"]))
        >>> bool((found["p_adj"].sel(effect="instruction", round=2).min("feature") < 0.05).all())
        True
    """
    names = factors_of(y)
    moved = _moved(y, names)
    tested = 2.0 ** (1 - moved.astype(np.float64)) <= how.alpha
    if not tested.any():
        raise ValueError(
            f"no feature differs between the conditions in more than {int(moved.max(initial=0))} clusters, "
            "too few for any p at this level; add items, or take features that are on more often."
        )
    found = factorial_effects(
        y.isel(feature=np.flatnonzero(tested)),
        factors,
        compare=compare,
        family=family,
        draws=how.draws,
        alpha=how.alpha,
        seed=how.seed,
    )
    refused = y["feature"].values[~tested].tolist()
    note = (
        f"{len(refused)} of {len(tested)} features differ between conditions in too few clusters for any p "
        "and are not tested."
    )
    told = {name: y.attrs.get(name, "") for name in ("sae", "layer", "checked", "rule")}
    whole = found.drop_vars(["frequency", "power"]).reindex(feature=y["feature"].values)
    return whole.assign_coords(
        moved=("feature", moved), frequency=y["frequency"].variable, power=y["power"].variable
    ).assign_attrs(
        **told,
        refused_features=refused,
        notes=[*found.attrs["notes"], str(y.attrs.get("checked", "")), *([note] if refused else [])],
    )


def _moved(y: xr.DataArray, factors: Sequence[str]) -> Int[np.ndarray, " feature"]:
    """In how many clusters each feature differs between conditions, at any place."""
    spread = y.max(factors) - y.min(factors)
    size = abs(y).max([str(d) for d in y.dims if d != "feature"])
    each = (spread > 1e-6 * size).any([str(d) for d in spread.dims if d not in ("item", "feature")])
    table = each.transpose("item", "feature").values
    codes = cluster_codes(y)
    by = [table[codes == code].any(axis=0) for code in range(int(codes.max()) + 1)]
    return np.sum(by, axis=0).astype(np.int64)
