"""Whether answers prefer a position: how much more often each is chosen than its content explains."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from morality_lens.interactions.intervals import cluster_sums, mean_over_clusters, settle
from morality_lens.items.kinds import LETTERS, Question
from morality_lens.runs.run import Run

LEAST = 2
"""Fewest options of a role that have to stand at a position for the role to be accounted for there."""
TINY = 1e-12
"""A standard error below this is none: every item adds the same."""
MEASURES = ("choice", "probability")


def position_bias(run: Run, *, alpha: float = 0.05) -> xr.Dataset:
    """By how much each position is chosen beyond chance, in every condition and round.

    At a position, the share chosen is averaged over the roles that options have there (right, unknown,
    biased, other), each with its weight among all options, so that what the model prefers by content cancels;
    chance is one over the number of options. 0 for a model that looks at content alone.

    That needs options whose position does not tell their role. Permuted options
    (:func:`morality_lens.items.permute_options`) are so by design, and where no role is known the index that
    an option had before takes its place. Options in their given order can be used where every role stands at
    every position (BBQ's files are shuffled already); then what else differs between positions, such as which
    group is named first in the context, is not excluded, and ``basis`` says so.

    Args:
        run: a run of questions.
        alpha: level of the intervals (CR2 with Bell-McCaffrey degrees of freedom, by clusters, pointwise).

    Returns:
        ``estimate``, ``ci_low``, ``ci_high``, ``p`` over ``measure`` (``choice``, among the answers that
        could be parsed, and ``probability`` of the letters), the factors, ``round`` and ``position`` (its
        letter); NaN without a value or with fewer than two clusters. ``attrs``: ``basis``, ``chance``,
        ``n_items``, ``alpha``.

    Raises:
        ValueError: items that are no questions or have unequal numbers of options, or an order in which
            content and position cannot be told apart.

    Examples:
        >>> permuted = ml.items.permute_options(items[:8])
        >>> shuffled = ml.play(model, permuted, rounds=1, out=folder / "permuted", progress=False)
        >>> bias = ml.judges.position_bias(shuffled)
        >>> bias["position"].values.tolist(), bias.attrs["basis"]
        (['A', 'B', 'C'], 'The options were permuted, balanced over roles and positions.')
    """
    questions = _questions(run)
    roles, basis = _roles(questions)
    balanced = all(question.order is not None for question in questions)
    size = roles.shape[1]
    _, clusters = np.unique(run.items["cluster"].to_numpy(str), return_inverse=True)
    design = run.design
    shape = (len(MEASURES), *map(len, design.levels.values()), design.n_rounds, size)
    parts = {name: np.full(shape, np.nan) for name in ("estimate", "ci_low", "ci_high", "p")}
    for m, chosen in enumerate(_chosen(run, size)):
        for cell in np.ndindex(shape[1:-1]):
            at = (slice(None), *cell)
            table = _Cell(values=chosen[at], roles=roles, clusters=clusters, balanced=balanced)
            for position in range(size):
                found = table.beyond_chance(position, alpha)
                for array, value in zip(parts.values(), found, strict=True):
                    array[(m, *cell, position)] = value
    return xr.Dataset(
        {name: (("measure", *design.names, "round", "position"), array) for name, array in parts.items()},
        coords={
            "measure": list(MEASURES),
            **design.levels,
            "round": np.arange(design.n_rounds),
            "position": list(LETTERS[:size]),
        },
        attrs={"basis": basis, "chance": 1 / size, "n_items": len(roles), "alpha": alpha},
    )


def describe_positions(bias: xr.Dataset) -> str:
    """The position that is preferred most in the last round, by choice, and what that rests on.

    Args:
        bias: from :func:`position_bias`.

    Examples:
        >>> bias = ml.judges.position_bias(run)
        >>> print(ml.judges.describe_positions(bias))
        In the last round the largest preference is for position ...
    """
    last = bias.sel(measure="choice").isel(round=-1)
    size = np.where(np.isfinite(last["estimate"].values), np.abs(last["estimate"].values), -1.0)
    if size.max() < 0:
        return f"No answer of the last round could be parsed. {bias.attrs['basis']}"
    at = np.unravel_index(int(size.argmax()), size.shape)
    one = last.isel(dict(zip(last["estimate"].dims, at, strict=True)))
    factors = ", ".join(f"{d} {one[d].item()}" for d in last["estimate"].dims if d != "position")
    value, low, high = (100 * float(one[name]) for name in ("estimate", "ci_low", "ci_high"))
    return (
        f"In the last round the largest preference is for position {one['position'].item()} ({factors}): "
        f"{value:+.0f} points beyond chance [{low:+.0f}, {high:+.0f}], content held equal. "
        f"{bias.attrs['basis']}"
    )


def _questions(run: Run) -> list[Question]:
    """The run's questions, which have as many options each.

    Raises:
        ValueError: other items, or unequal numbers of options.
    """
    found = [item for item in run.asked.values() if isinstance(item, Question)]
    if len(found) < len(run.asked) or not found:
        raise ValueError(
            "position_bias needs questions, whose options have positions; these items have none."
        )
    sizes = Counter(len(question.options) for question in found)
    if len(sizes) > 1:
        listed = ", ".join(f"{n} with {size}" for size, n in sorted(sizes.items()))
        raise ValueError(
            f"position_bias needs questions with as many options each; got {listed}. Play them in runs of "
            "their own."
        )
    return found


def _roles(questions: Sequence[Question]) -> tuple[np.ndarray, str]:
    """The role of the option at each position of each question, and how roles and positions are related.

    Raises:
        ValueError: the options were not permuted, and their roles are not known or bound to positions.
    """
    permuted = all(question.order is not None for question in questions)
    known = any(q.label is not None or q.unknown is not None or q.biased is not None for q in questions)
    if not permuted and not known:
        raise ValueError(f"position_bias cannot tell content from position: no role is known. {_ADVICE}")
    named = [[_role(q, i) if known else _index(q, i) for i in range(len(q.options))] for q in questions]
    roles = np.array(named)
    if permuted:
        return roles, "The options were permuted, balanced over roles and positions."
    bound = [
        f"{role!r} is at {LETTERS[p]} in {int(np.sum(roles[:, p] == role))}"
        for role in np.unique(roles).tolist()
        for p in range(roles.shape[1])
        if np.sum(roles[:, p] == role) < LEAST
    ]
    if bound:
        raise ValueError(
            "position_bias cannot tell content from position in these questions, whose options were not "
            f"permuted: of {len(roles)}, {'; '.join(bound[:3])}. {_ADVICE}"
        )
    return roles, (
        "The options stand as the data give them; roles vary over the positions, and what else differs "
        "between positions is not excluded."
    )


_ADVICE = (
    "Play the run with permuted options (--permute-options, or items.permute_options), which average the "
    "position out."
)


def _role(question: Question, option: int) -> str:
    if option == question.label:
        return "right"
    return question.role(option) or ("biased" if option == question.biased else "other")


def _index(question: Question, option: int) -> str:
    """What stands for a role where none is known: the index before the permutation."""
    assert question.order is not None  # others were refused
    return f"option {question.order[option]}"


def _chosen(run: Run, size: int) -> list[np.ndarray]:
    """Item x factors x round x position: 1 where an answer chose the position; and its probability."""
    design = run.design
    place = {name: i for i, name in enumerate(run.items.index)}
    choice = np.full((len(place), *map(len, design.levels.values()), design.n_rounds, size), np.nan)
    read = run.answers.dropna(subset=["choice"])
    cells = [np.array([place[name] for name in read["item"]], int)]
    for name, levels in design.levels.items():
        cells.append(np.array([levels.index(level) for level in read[name]], int))
    cells.append(read["round"].to_numpy(int))
    choice[tuple(cells)] = np.eye(size)[read["choice"].to_numpy(int)]
    probability = run.option_probabilities.transpose(*design.dims, "option").values
    return [choice, probability]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Cell:
    """The answers of one condition and round.

    Attributes:
        values: how far each position was chosen, NaN where no choice could be read.
        roles: of the option at each position.
        clusters: of the items.
        balanced: whether the options were permuted, so that roles are balanced by design.
    """

    values: Float[np.ndarray, "item position"]
    roles: np.ndarray
    clusters: Int[np.ndarray, " item"]
    balanced: bool

    def beyond_chance(self, position: int, alpha: float) -> tuple[float, float, float, float]:
        """Estimate, ends of the interval and p of one position; NaN where there is none.

        The estimate is the sum over roles of their share times the mean at this position; what each item
        adds to it is its distance to the mean of its role, weighted by the share over the role's frequency
        here (the linearised post-stratified mean).
        """
        nothing = (np.nan, np.nan, np.nan, np.nan)
        there = np.isfinite(self.values).all(axis=1)
        if len(np.unique(self.clusters[there])) < 2:
            return nothing
        values, here = self.values[there, position], self.roles[there, position]
        names, codes = np.unique(here, return_inverse=True)
        shares = np.array([np.mean(self.roles[there] == name) for name in names])
        counts = np.bincount(codes, minlength=len(names))
        clusters = np.unique(self.clusters[there], return_inverse=True)[1]
        if len(names) < len(np.unique(self.roles[there])) or counts.min() < LEAST:
            if not self.balanced:
                return nothing
            # Too few answers to tell roles apart: all together, as the design balances them.
            names, codes, shares, counts = (
                names[:1],
                np.zeros_like(codes),
                np.ones(1),
                counts.sum(keepdims=True),
            )
        means = np.bincount(codes, weights=values, minlength=len(names)) / counts
        estimate = float(shares @ means) - 1 / self.values.shape[1]
        spread = (shares / counts)[codes] * len(values) * (values - means[codes])
        sums, sizes = cluster_sums((estimate + spread)[:, None], clusters)
        point = mean_over_clusters(sums, sizes, alpha=alpha)
        still = np.array([point.se[0] <= TINY])
        none = np.array([abs(estimate) < TINY])
        point = settle(
            point,
            still & none,
            still & ~none,
            n_clusters=len(sizes),
            alpha=alpha,
            span=1 - 1 / self.values.shape[1],
        )
        return estimate, float(point.low[0]), float(point.high[0]), float(point.p[0])
