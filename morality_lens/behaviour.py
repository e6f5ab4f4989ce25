"""A run's answers as cubes and tables: correct, parsed, probability of the right option, scores."""

import itertools
from collections.abc import Sequence
from typing import Literal, Protocol, get_args, runtime_checkable

import numpy as np
import pandas as pd
import xarray as xr

from morality_lens.cube import factors_of
from morality_lens.judges import Agreement, agreement
from morality_lens.resampling import cluster_sums, mean_over_clusters
from morality_lens.store import Run, write_scores

Measure = Literal["correct", "unparsed", "probability", "score"]

MOST_UNPARSED, MOST_GAP = 0.10, 0.05
"""Above either (share of unparsed answers, gap between conditions) behaviour carries no p-values."""


@runtime_checkable
class Judge(Protocol):
    """Whatever gives each text a score, and NaN where it cannot."""

    def score(self, texts: Sequence[str | None]) -> np.ndarray:
        """One score for each text."""
        ...


def score_answers(run: Run, *judges: Judge) -> pd.DataFrame:
    """Let judges score every answer of a run; the table is kept with the run as ``run.scores``.

    An empty answer has no score. Equal texts are judged once by each. The first judge's scores are those
    that ``behaviour_cube`` takes.

    Raises:
        ValueError: no judge, or one twice.
    """
    names = [repr(judge)[:200] for judge in judges]
    if not judges or len(set(names)) < len(names):
        raise ValueError(f"score_answers needs one judge or different ones; got {names}.")
    table = run.answers
    texts = sorted(set(table["text"]) - {""})
    parts = []
    for name, judge in zip(names, judges, strict=True):
        scores = dict(zip(texts, judge.score(texts), strict=True)) if texts else {}
        given = [scores.get(text, np.nan) for text in table["text"]]
        parts.append(table[list(run.design.dims)].assign(judge=name, score=given))
    kept = pd.concat(parts, ignore_index=True)
    write_scores(run.path, kept)
    return kept


def judges_agree(run: Run, *, threshold: float = 0.5) -> dict[tuple[str, str], Agreement]:
    """How far every two judges of a run agree, over all its answers.

    Raises:
        ValueError: fewer than two judges have scored the run.
    """
    table = run.scores
    names = list(dict.fromkeys(table["judge"]))
    if len(names) < 2:
        raise ValueError("judges_agree needs the scores of two judges; score_answers(run, one, two).")
    scores = {name: table.loc[table["judge"] == name, "score"].to_numpy(float) for name in names}
    return {
        (a, b): agreement(scores[a], scores[b], threshold=threshold)
        for a, b in itertools.combinations(names, 2)
    }


def behaviour_cube(run: Run, measure: str = "correct") -> xr.DataArray:
    """One number per item, condition and round.

    Args:
        run: a run.
        measure: ``correct`` (1 or 0; an unparsed answer counts as incorrect), ``unparsed`` (1 or 0),
            ``probability`` (of the right option, exact, as a share of all options), or ``score`` (the
            judge's, of several the first one's, for open prompts; missing where the judge failed).

    Raises:
        ValueError: the run does not have it, for example options in a run of open prompts.
    """
    if measure not in get_args(Measure):
        raise ValueError(f"measure must be one of {', '.join(get_args(Measure))}; got {measure!r}.")
    if measure == "probability":
        chances = run.option_probabilities
        right = xr.DataArray(run.items["label"].to_numpy(int), dims="item", coords={"item": chances["item"]})
        cube = chances.load().isel(option=right).drop_vars("option", errors="ignore")
        return cube.rename("probability of the right option").assign_attrs(units="probability", oriented=True)
    if measure == "score":
        table = run.scores
        table = table.loc[table["judge"] == table["judge"].iloc[0]]
        return _cube(run, table, table["score"].to_numpy(float), "judge's score", oriented=False)
    table = run.answers
    if measure == "unparsed":
        values = 1.0 - table["parsed"].to_numpy(float)
        return _cube(run, table, values, "share unparsed", oriented=False)
    if table["correct"].isna().to_numpy().all():
        raise ValueError(
            "open prompts have no right answer; score them with a judge and use measure='score'."
        )
    return _cube(run, table, table["correct"].to_numpy(float), "share correct", oriented=True)


def _cube(run: Run, table: pd.DataFrame, values: np.ndarray, name: str, *, oriented: bool) -> xr.DataArray:
    coords: dict[str, list] = {
        "item": run.items.index.tolist(),
        **run.design.levels,
        "round": list(range(run.design.n_rounds)),
    }
    out = np.full([len(c) for c in coords.values()], np.nan)
    place = {dim: {key: i for i, key in enumerate(keys)} for dim, keys in coords.items()}
    out[tuple([place[dim][key] for key in table[dim]] for dim in coords)] = values
    cube = xr.DataArray(out, dims=run.design.dims, coords=coords, name=name)
    cube = cube.assign_coords(cluster=("item", run.items["cluster"].tolist()))
    # A score may run the other way (toxicity), so only shares of right answers are oriented.
    return cube.assign_attrs(units="share", **({"oriented": True} if oriented else {}))


def behaviour_table(cube: xr.DataArray, *, unparsed: xr.DataArray | None = None) -> pd.DataFrame:
    """Mean of every condition and round with a 95 % interval (CR2, clusters as in the cube).

    Returns:
        One row per condition and round: the factors' levels, ``round``, ``mean``, ``ci_low``,
        ``ci_high``, ``n`` (items with a value) and ``unparsed`` (share, NaN where not given).
    """
    dims = (*factors_of(cube), "round")
    cells = cube.transpose("item", *dims).stack(cell=dims)
    clusters = cube["cluster"].values if "cluster" in cube.coords else cube["item"].values
    failed = None if unparsed is None else unparsed.mean("item").stack(cell=dims).values
    rows = []
    for number, key in enumerate(cells["cell"].values.tolist()):
        values = cells.values[:, number]
        there = np.isfinite(values)
        row = dict(zip(dims, key, strict=True))
        row |= {"mean": np.nan, "ci_low": np.nan, "ci_high": np.nan, "n": int(there.sum())}
        _, codes = np.unique(clusters[there], return_inverse=True)
        if there.any():
            row["mean"] = float(values[there].mean())
        if there.any() and codes.max() > 0:
            sums, sizes = cluster_sums(values[there, None], codes)
            point = mean_over_clusters(sums, sizes, alpha=0.05)
            half = float(point.critical[0] * point.se[0])
            row["ci_low"], row["ci_high"] = row["mean"] - half, row["mean"] + half
        rows.append({**row, "unparsed": np.nan if failed is None else float(failed[number])})
    return pd.DataFrame(rows)


def too_many_unparsed(unparsed: xr.DataArray) -> str:
    """Why no effect on behaviour is claimed, in words; empty where nothing stands against it."""
    share = float(unparsed.mean())
    cells = unparsed.mean("item")
    factors = factors_of(cells)
    gap = float((cells.max(factors) - cells.min(factors)).max())
    if share > MOST_UNPARSED:
        return (
            f"{share:.0%} of the answers could not be parsed (more than {MOST_UNPARSED:.0%}), so no effect "
            "on behaviour is claimed; use a model that answers in form, or raise answer_tokens."
        )
    if gap > MOST_GAP:
        return (
            f"the share of unparsed answers differs by {100 * gap:.0f} points between conditions (more than "
            f"{100 * MOST_GAP:.0f}), so no effect on behaviour is claimed: what could be parsed is not "
            "comparable."
        )
    return ""
