"""The kinds of direction: what each is fitted on, and what it can be used for. Nothing heavy is imported."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["mean_difference", "logistic", "lda", "ridge", "ccs"]
"""The names of :data:`KINDS`, for signatures and the command line."""
Method = Literal["project", "leace"]
"""How a nuisance is taken out of residuals; see :func:`morality_lens.probes.removal.removal_of`."""


@dataclass(frozen=True, kw_only=True)
class ProbeKind:
    """One way to fit a direction.

    Attributes:
        summary: what it is, in a line.
        fitted_on: the statements' labels, their graded values, or pairs (every statement with two
            contradictory endings), where labels choose nothing but the sign.
        refits: default number of refits on bootstrap samples; None where a refit has no sign of its own.
        card: whether a trust card can be made for it.
    """

    summary: str
    fitted_on: Literal["labels", "values", "pairs"] = "labels"
    refits: int | None = 0
    card: bool = False


KINDS: Mapping[Kind, ProbeKind] = {
    "mean_difference": ProbeKind(
        summary="difference of the class means (Marks and Tegmark 2023, arXiv 2310.06824)",
        refits=50,
        card=True,
    ),
    "logistic": ProbeKind(
        summary="logistic regression with an L2 penalty on standardised features", card=True
    ),
    "lda": ProbeKind(summary="linear discriminant with Ledoit-Wolf shrinkage", card=True),
    "ridge": ProbeKind(summary="ridge regression of graded values", fitted_on="values"),
    "ccs": ProbeKind(
        summary="contrast-consistent search on pairs, without labels (Burns et al. 2022, arXiv 2212.03827)",
        fitted_on="pairs",
        refits=None,
    ),
}
"""Every kind; the fit, refits, trust cards, fits on runs and the command line read this table alone."""

CARDED: tuple[Kind, ...] = tuple(kind for kind, one in KINDS.items() if one.card)
"""Kinds that a trust card can be made for, and that it compares with each other."""
ON_LABELS: tuple[Kind, ...] = tuple(kind for kind, one in KINDS.items() if one.fitted_on == "labels")
"""Kinds that need residuals and labels and nothing else."""


def check_kind(kind: str) -> Kind:
    """The kind of that name.

    Raises:
        ValueError: there is none.
    """
    for known in KINDS:
        if known == kind:
            return known
    raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}.")


def check_method(method: str) -> Method:
    """The way to take out a nuisance that has that name.

    Raises:
        ValueError: there is none.
    """
    for known in get_args(Method):
        if known == method:
            return known
    raise ValueError(f"method must be one of {', '.join(get_args(Method))}; got {method!r}.")
