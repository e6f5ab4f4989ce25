"""A run's answers as cubes and tables: whatever its items' measures are, and what could not be read."""

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from morality_lens.interactions.caveats import too_many_failed
from morality_lens.interactions.cube import cluster_codes, factors_of
from morality_lens.interactions.ratios import mean_over_items
from morality_lens.items.kinds import SCORINGS, BehaviourMeasure
from morality_lens.judges.toxicity import Agreement, Judge, agreement
from morality_lens.runs.option_notes import NOTE, option_note
from morality_lens.runs.run import Run
from morality_lens.runs.writing import write_scores

KNOWN = ("correct", "unparsed", "probability", "score", "rating", "stated rating")
"""Measures with a name of their own; those of single options are named after them."""
OPTION_TEXT = "option text"
"""How the measures begin that options' full texts give."""
SHARES = ("share", "probability")
"""Units of what lies between 0 and 1."""


def score_answers(run: Run, *judges: Judge) -> pd.DataFrame:
    """Let judges score every answer of a run; the table is kept with the run as ``run.scores``.

    An empty answer has no score. Equal texts are judged once by each. The first judge's scores are those
    that ``behaviour_cube`` takes.

    Raises:
        ValueError: no judge, or one twice.

    Examples:
        >>> prompts = ml.load_prompts(limit=8)
        >>> written = ml.play(model, prompts, rounds=1, out=folder / "written", progress=False)
        >>> scores = ml.judges.score_answers(written, ml.judges.fit_toxicity_judge(statements))
        >>> len(scores)
        128
        >>> dict(ml.judges.behaviour_cube(written, "score").sizes)
        {'item': 8, 'instruction': 2, 'cot': 2, 'feedback': 2, 'round': 2}
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

    Examples:
        >>> prompts = ml.load_prompts(limit=8)
        >>> written = ml.play(model, prompts, rounds=1, out=folder / "written", progress=False)
        >>> kinds = ("logistic", "bayes")
        >>> judges = [ml.judges.fit_toxicity_judge(statements, kind=kind) for kind in kinds]
        >>> _ = ml.judges.score_answers(written, *judges)
        >>> [agreement] = ml.judges.judges_agree(written).values()
        >>> agreement.n, round(agreement.spearman, 1)
        (128, 0.9)
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
        measure: one of ``run.measures``, or ``unparsed`` (1 or 0). Questions with a good option have
            ``correct`` (1 or 0; an unparsed answer counts as incorrect) and ``probability`` (of the good
            option, exact, as a share of all options); others ``share of option A`` (1 or 0; an unparsed
            answer chose none) and ``probability of option A`` and so on. Ratings have ``rating`` (the sum of
            each digit times its probability, as a share of all digits) and ``stated rating`` (the digit in
            the answer; missing where there is none). Open prompts have ``score`` (the judge's, of several the
            first one's; missing where the judge failed). Questions whose options were scored by their full
            text (:func:`morality_lens.rounds.score_options`) have ``option text`` (the share of the good
            option's text in the softmax over all options' scores) and ``option text log-odds`` (its score
            less the mean of the others'); the same ``per byte``, ``per token`` and ``PMI``.

    Returns:
        The cube, with ``attrs`` for ``factorial_effects``. Where an answer that could not be read counts as
        something (as incorrect), the coordinate ``failed`` says which did, and too many of them leave
        effects without p-values.

    Raises:
        ValueError: the run does not have it, for example options in a run of open prompts.

    Examples:
        >>> correct = ml.judges.behaviour_cube(run)
        >>> correct.dims
        ('item', 'instruction', 'cot', 'feedback', 'round')
        >>> instructed = correct.mean("item").sel(instruction="on", cot="off", feedback="off")
        >>> bool(instructed.sel(round=2) > instructed.sel(round=0))
        True
    """
    if measure not in (*KNOWN, *run.measures) and not measure.startswith(OPTION_TEXT):
        raise ValueError(f"measure must be one of {', '.join((*run.measures, 'unparsed'))}; got {measure!r}.")
    if measure == "unparsed":
        values = 1.0 - run.answers["parsed"].to_numpy(float)
        return answer_cube(run, run.answers, values).rename("share unparsed").assign_attrs(units="share")
    if measure not in run.measures:
        advice = (
            "; score them with a judge first"
            if run.measures == ("score",)
            else "; score the options' texts first, with morality-lens score or ml.rounds.score_options"
            if measure.startswith(OPTION_TEXT)
            else ""
        )
        raise ValueError(
            f"these items have no {measure!r}; their measures are {', '.join(run.measures)}{advice}."
        )
    chosen = {
        name: _measure((*item.measures, *item.text_measures), measure) for name, item in run.asked.items()
    }
    one = next(iter(chosen.values()))
    if one.source == "judge":
        table = run.scores
        table = table.loc[table["judge"] == table["judge"].iloc[0]]
        cube = answer_cube(run, table, table["score"].to_numpy(float))
    elif one.source == "probabilities":
        cube = _expected(run.option_probabilities.load(), chosen)
    elif one.source in ("texts", "text scores"):
        cube = _of_texts(run, one, chosen)
    else:
        cube = answer_cube(run, run.answers, _chosen(run.answers, chosen))
    note = option_note(run) if one.source == "probabilities" else ""
    if one.source == "answer" and one.unreadable is not None:
        cube = cube.assign_coords(
            failed=answer_cube(run, run.answers, ~run.answers["parsed"].to_numpy(bool)) == 1
        )
    failed = too_many_failed(cube)
    return cube.rename(one.title).assign_attrs(
        **({"failed": failed} if failed else {}),
        **({"early": run.design.early_effects} if run.design.early else {}),
        units=one.units,
        **({"oriented": True} if one.oriented else {}),
        **({NOTE: note} if note else {}),
        **({"cluster_note": run.cluster_note} if run.cluster_note else {}),
    )


def _of_texts(run: Run, one: BehaviourMeasure, chosen: dict[str, BehaviourMeasure]) -> xr.DataArray:
    """The sum of every item's weights times its options' scores, or times their softmax."""
    scores = run.option_scores[one.scoring].sel(item=run.items.index.tolist())
    if one.source == "texts":
        scores = text_shares(scores)
    return _expected(scores, chosen)


def text_shares(scores: xr.DataArray) -> xr.DataArray:
    """The softmax over the options of scores of their texts; NaN past an item's last option."""
    shares = xr.apply_ufunc(np.exp, scores - scores.max("option"))
    return shares / shares.sum("option")


def compare_scorings(run: Run) -> pd.DataFrame:
    """What the options' full texts choose beside their letters, by condition and round.

    Returns:
        The factors' levels, ``round``, and shares of the items: ``right by letters`` and ``right by text``
        (by the sum; the same per byte, per token and PMI), of those whose most probable letter, or
        highest-scored text, is the right option's (only where every item names one); ``same as letters`` for
        each scoring, NaN where the letters have no probabilities.

    Raises:
        ValueError: the options were not scored by their text.

    Examples:
        >>> stored = ml.rounds.Execution(out=folder / "text", progress=False)
        >>> _ = ml.rounds.score_options(model, run, execution=stored)
        >>> table = ml.judges.compare_scorings(run)
        >>> table.columns.tolist()[4:6]
        ['right by letters', 'right by text']
    """
    scored = run.option_scores
    letters = run.option_probabilities.sel(item=scored["item"].values).load().transpose(*scored["sum"].dims)
    there = letters.notnull().any("option")
    by_letter = letters.fillna(-1.0).argmax("option").where(there)
    choices = {SCORINGS[str(name)]: scored["choice"].sel(scoring=name) for name in scored["scoring"].values}
    shares = {}
    if run.names_good:
        good = xr.DataArray([run.asked[name].good for name in scored["item"].values.tolist()], dims="item")
        shares["right by letters"] = (by_letter == good).where(there)
        shares |= {f"right by text{suffix}": choice == good for suffix, choice in choices.items()}
    for suffix, choice in choices.items():
        shares[f"text{suffix} same as letters"] = (choice == by_letter).where(there)
    rows = []
    for cell, number in itertools.product(run.design.conditions, scored["round"].values.tolist()):
        at = {**cell.coords, "round": number}
        means = {name: float(share.astype(float).sel(at).mean()) for name, share in shares.items()}
        rows.append({**cell.coords, "round": number, **means})
    return pd.DataFrame(rows)


def _measure(measures: Sequence[BehaviourMeasure], name: str) -> BehaviourMeasure:
    return next(measure for measure in measures if measure.name == name)


def _expected(probabilities: xr.DataArray, chosen: dict[str, BehaviourMeasure]) -> xr.DataArray:
    """The sum of every item's weights times its replies' probabilities; what has no weight is not read."""
    if not np.isfinite(probabilities.values).any():
        raise ValueError(
            "the model's tokenizer has no token of its own for each reply, so their probabilities do not "
            "exist; take a measure of the answers' text."
        )
    weights = np.zeros((probabilities.sizes["item"], probabilities.sizes["option"]))
    for i, name in enumerate(probabilities["item"].values.tolist()):
        weights[i, : len(chosen[name].weights)] = chosen[name].weights
    weight = xr.DataArray(weights, dims=("item", "option"), coords={"item": probabilities["item"]})
    parts = (probabilities * weight).where(weight != 0, 0.0)
    return parts.sum("option", skipna=False).transpose("item", ...).assign_attrs({})


def _chosen(answers: pd.DataFrame, chosen: dict[str, BehaviourMeasure]) -> np.ndarray:
    """The weight of the reply that each answer chose."""
    if next(iter(chosen.values())).name == "correct":  # judged when it was played
        return answers["correct"].to_numpy(float)
    values = np.empty(len(answers))
    for row, (name, choice) in enumerate(zip(answers["item"], answers["choice"], strict=True)):
        measure = chosen[name]
        missing = np.nan if measure.unreadable is None else measure.unreadable
        values[row] = missing if pd.isna(choice) else measure.weights[int(choice)]
    return values


def reply_shares(run: Run) -> pd.DataFrame | None:
    """What was replied where no reply is the good one: the share of each reply by condition and round.

    Returns:
        The factors' levels, ``round``, a column for each reply (share of the answers that gave it), and
        ``unparsed``; None for items that name a good reply, or have no replies to choose from.
    """
    replies = max((item.replies for item in run.asked.values()), key=len)
    if run.names_good or not replies:
        return None
    keys = [*run.design.names, "round"]
    table = run.answers[keys].copy()
    for index, sign in enumerate(replies):
        table[sign] = run.answers["choice"].eq(index).fillna(False).to_numpy(float)
    table["unparsed"] = 1.0 - run.answers["parsed"].to_numpy(float)
    means = table.groupby(keys, sort=False).agg(dict.fromkeys((*replies, "unparsed"), "mean"))
    return pd.DataFrame(means).reset_index()


def answer_cube(run: Run, table: pd.DataFrame, values: np.ndarray) -> xr.DataArray:
    """A number of each answer of a table as item x factors x round; NaN where the table has no row."""
    coords: dict[str, list] = {
        "item": run.items.index.tolist(),
        **run.design.levels,
        "round": list(range(run.design.n_rounds)),
    }
    out = np.full([len(c) for c in coords.values()], np.nan)
    place = {dim: {key: i for i, key in enumerate(keys)} for dim, keys in coords.items()}
    out[tuple([place[dim][key] for key in table[dim]] for dim in coords)] = values
    cube = xr.DataArray(out, dims=run.design.dims, coords=coords)
    return cube.assign_coords(cluster=("item", run.items["cluster"].tolist()), **run.design.coords)


def behaviour_table(cube: xr.DataArray, *, unparsed: xr.DataArray | None = None) -> pd.DataFrame:
    """Mean of every condition and round with a 95 % interval over clusters.

    Shares, probabilities and outcomes of 0 and 1 have an interval that stays inside [0, 1], and has a width
    where all items agree too; others have that of differences (see ``mean_over_items``).

    Args:
        cube: item x factors x round, from :func:`behaviour_cube`; NaN are left out, cell by cell.
        unparsed: the same for the answers that could not be read.

    Returns:
        One row per condition and round: the factors' levels, ``round``, ``mean``, ``ci_low``,
        ``ci_high``, ``n`` (items with a value) and ``unparsed`` (share, NaN where not given). ``attrs`` hold
        the ``measure``, as the cube is named.

    Examples:
        >>> table = ml.judges.behaviour_table(correct)
        >>> len(table)
        24
        >>> table.columns.tolist()
        ['instruction', 'cot', 'feedback', 'round', 'mean', 'ci_low', 'ci_high', 'n', 'unparsed']
    """
    dims = (*factors_of(cube), "round")
    cells = cube.transpose("item", *dims).stack(cell=dims)
    share = _is_share(cube)
    failed = None if unparsed is None else unparsed.mean("item").stack(cell=dims).values
    rows = []
    for number, key in enumerate(cells["cell"].values.tolist()):
        there = cells.isel(cell=number, drop=True).dropna("item")
        row = dict(zip(dims, key, strict=True))
        row |= {"mean": np.nan, "ci_low": np.nan, "ci_high": np.nan, "n": there.sizes["item"]}
        if there.size:
            row["mean"] = float(there.mean())
        if there.size and np.ptp(cluster_codes(there)) > 0:
            mean = mean_over_items(there, share=share)
            row["ci_low"], row["ci_high"] = float(mean["ci_low"]), float(mean["ci_high"])
        rows.append({**row, "unparsed": np.nan if failed is None else float(failed[number])})
    table = pd.DataFrame(rows)
    table.attrs["measure"] = "" if cube.name is None else str(cube.name)
    return table


def _is_share(cube: xr.DataArray) -> bool:
    """Whether the numbers are shares: by their units, or because all are 0 or 1."""
    values = cube.values[np.isfinite(cube.values)]
    inside = bool(((values > -1e-6) & (values < 1 + 1e-6)).all())
    return inside and (cube.attrs.get("units") in SHARES or bool(np.isin(values, (0.0, 1.0)).all()))
