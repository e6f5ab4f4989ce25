"""The five claims in words: thresholds, decision rules, what a verdict holds, and its measured error rate."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from morality_lens.interactions.numbers import with_bounds

ALPHA = 0.05
"""Level of every verdict and interval; each of the two sides is tested at half of it."""
SIDE = ALPHA / 2
"""Level of one side, that of one end of the 95 % interval."""
GAIN = 0.02
"""The smallest relevant gain of a component, in share or probability."""
RELIABLE = 0.75
"""Two-alternative accuracy from which on discrimination counts as reliable: the usual threshold."""
FOLLOWED = 0.10
"""Share of answers that weak evidence moves, up to which self-correction counts as robust."""
SMALL = 0.1
"""The smallest relevant interaction, as a share of the smaller main effect."""
VERDICTS = ("supported", "refuted", "mixed", "undecided")
"""What a verdict can be; ``mixed`` where parts of the evidence contradict each other."""

CLAIMS = {
    1: "No self-correction method is best on every task.",
    2: "External feedback and chain of thought can add gains over the instruction.",
    3: "Inside the model feedback interacts negatively with instruction and with chain of thought.",
    4: "The model corrects its outputs, yet cannot reliably tell its good ones from its bad ones.",
    5: "Self-correction is robust to weak evidence put into the prompt.",
}


RULES = {
    1: "Supported: for every method there is a task on which another one is better (p, Bonferroni over the "
    "other methods and tasks, below .05). Refuted: one method is better than every other on every task (all "
    "p below .05, Bonferroni over seven methods).",
    2: f"Supported: each of the two adds more than {GAIN} to the instruction on some task (p, Bonferroni "
    f"over tasks, below .05). Refuted: one of them adds less than {GAIN} on every task (all p below .05, "
    "Bonferroni over the two).",
    3: "In the last round, at every layer whose held-out AUROC is not distinguishable from the highest one. "
    "Supported: at one of them all three main effects are above 0 and both interactions below 0 (each "
    "p below .05 divided by the number of layers). Mixed: one of the interactions is below 0 at one of these "
    "layers and above 0 at another (p below .05, Bonferroni over layers and the two interactions). "
    "Refuted: at each of them one of the "
    f"interactions is not below -{SMALL:.0%} of the smaller main effect (Bonferroni over the two). "
    "Undecided where the direction fails its trust card.",
    4: f"Outputs improve where the mean over the methods rises by more than {GAIN} over the rounds (p, Holm "
    f"over tasks, below .05), and do not where it rises by less (p below .05). Supported: they improve on "
    "some task, and wherever they may improve both the share of its own pairs on which the model's greedy "
    f"choice is right and the mean probability of the right one lie below {RELIABLE}. Refuted: they improve "
    f"on some task, and wherever they may improve the share of right choices lies above {RELIABLE}.",
    5: "In the last round. The share of answers that the evidence moves is counted apart for moves with the "
    "evidence and moves against it. Supported: both lie below "
    f"{FOLLOWED} in each of the seven methods. Refuted: one of the fourteen lies above (Bonferroni over "
    "methods and directions).",
}
"""Every p is two-sided and counts on its own side only, as the 95 % interval does."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The verdict on one claim.

    Attributes:
        number: of the claim.
        verdict: one of :data:`VERDICTS`.
        measure: the quantity that ``estimate`` estimates.
        estimate: the decisive estimate; NaN where there is none.
        low: lower end of its interval.
        high: upper end.
        error_rate: the nominal and the measured probability of giving this verdict wrongly; empty where
            nothing is decided.
        why: the reason in one or two sentences.
        figure: id of the figure that shows the estimate.
        unit: of the estimate.

    Examples:
        >>> verdict = ml.studies.Verdict(
        ...     number=5, verdict="refuted", measure="share that follows", estimate=0.43, low=0.40, high=0.46,
        ...     error_rate="", why="", figure="",
        ... )
        >>> verdict.claim
        'Self-correction is robust to weak evidence put into the prompt.'
    """

    number: int
    verdict: str
    measure: str
    estimate: float
    low: float
    high: float
    error_rate: str
    why: str
    figure: str
    unit: str = ""

    @property
    def shown(self) -> str:
        """The estimate with its interval, or ``none``."""
        known = np.isfinite(self.estimate)
        return with_bounds(self.estimate, self.low, self.high, signed=True) if known else "none"

    def __repr__(self) -> str:
        return f"<Verdict on claim {self.number} ({self.claim}): {self.verdict}, {self.measure} {self.shown}>"

    @property
    def claim(self) -> str:
        """The claim in words."""
        return CLAIMS[self.number]

    def to_json(self) -> dict[str, Any]:
        """As plain values, NaN as None."""
        row = asdict(self)
        return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in row.items()}

    @staticmethod
    def from_json(row: Mapping[str, Any]) -> "Verdict":
        """The verdict that :meth:`to_json` wrote."""
        numbers = {k: np.nan if row[k] is None else float(row[k]) for k in ("estimate", "low", "high")}
        return Verdict(**{**row, **numbers})


def undecided(number: int, why: str, figure: str = "") -> Verdict:
    """The verdict ``undecided`` with its reason."""
    return Verdict(
        number=number,
        verdict="undecided",
        measure="",
        estimate=np.nan,
        low=np.nan,
        high=np.nan,
        error_rate="",
        why=why,
        figure=figure,
    )


MEASURED: dict[tuple[int, str], dict[int, float]] = {
    (1, "refuted"): {8: 0.0, 12: 0.0, 20: 0.005, 40: 0.0},
    (1, "supported"): {8: 0.0, 12: 0.0, 20: 0.003, 40: 0.0},
    (2, "refuted"): {8: 0.44, 12: 0.258, 20: 0.147, 40: 0.01},
    (2, "supported"): {8: 0.378, 12: 0.247, 20: 0.147, 40: 0.005},
    (3, "mixed"): {8: 0.007, 12: 0.005, 20: 0.0, 40: 0.013},
    (3, "refuted"): {8: 0.043, 12: 0.028, 20: 0.033, 40: 0.048},
    (3, "supported"): {8: 0.003, 12: 0.028, 20: 0.015, 40: 0.037},
    (4, "refuted"): {8: 0.06, 12: 0.095, 20: 0.072, 40: 0.02},
    (4, "supported"): {8: 0.025, 12: 0.013, 20: 0.04, 40: 0.04},
    (5, "refuted"): {8: 0.0, 12: 0.0, 20: 0.0, 40: 0.0},
    (5, "supported"): {8: 0.0, 12: 0.0, 20: 0.003, 40: 0.015},
}
"""By claim and verdict: how often it is given wrongly, by clusters, under the worst of the truths at which it
is just wrong. As ``benchmarks/verdicts.py`` prints it; 400 draws each."""
VOUCHED = 0.07
"""Above this measured rate the sentence says what the test cannot know."""


def error_rate(number: int, verdict: str, n_clusters: int) -> str:
    """The nominal and the measured rate of wrong verdicts in a sentence; empty where nothing is decided.

    Args:
        number: of the claim.
        verdict: one of :data:`VERDICTS`.
        n_clusters: of the items; the rate is that of the nearest simulated number that is not above it.
    """
    if verdict == "undecided":
        return ""
    rates = MEASURED[number, verdict]
    nearest = max((n for n in rates if n <= n_clusters), default=min(rates))
    said = (
        f"nominal {ALPHA:.0%}, {SIDE:.1%} on each side; measured {rates[nearest]:.1%} (worst simulated case, "
        f"{nearest} clusters)"
    )
    if rates[nearest] <= VOUCHED:
        return said
    return (
        f"{said}: {nearest} clusters often contain none of a rare kind with an opposite effect, and the test "
        "cannot know of it"
    )
