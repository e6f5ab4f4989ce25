"""From a model and labelled statements to a probe with its held-out quality, refits and trust card."""

from collections.abc import Sequence

from transformer_lens.model_bridge import TransformerBridge

from morality_lens.items.kinds import Statement
from morality_lens.probes.fitting import fit_directions
from morality_lens.probes.kinds import CARDED, KINDS, check_kind
from morality_lens.probes.probe import Probe
from morality_lens.probes.random_models import random_model_residuals
from morality_lens.probes.refits import with_refits
from morality_lens.probes.statements import read_pairs, read_statements
from morality_lens.probes.trust_checks import trust_card


def fit_probe(
    model: TransformerBridge,
    statements: Sequence[Statement],
    *,
    kind: str = "mean_difference",
    read: str = "end",
    refits: int | None = None,
    card: bool = False,
    random_models: int = 3,
    seed: int = 0,
) -> Probe:
    """A moral direction per layer, fitted on statements read through the model.

    Args:
        model: from ``load_model``.
        statements: labelled statements.
        kind: one of :data:`morality_lens.probes.kinds.KINDS`; ``ridge`` needs statements with values, and
            for ``ccs`` the statements are read by :func:`morality_lens.probes.read_pairs`.
        read: as in :func:`morality_lens.probes.read_statements`; pairs are read at their end.
        refits: refits on bootstrap samples of the statements, whose variance belongs into every claim about
            the morality direction; None: 50 for a mean difference, which cost next to nothing, else none.
        card: whether a trust card is made; the kinds ``ridge`` and ``ccs`` have none.
        random_models: random-initialised models that the card holds the direction against; each is a copy of
            the model, beside it in memory; 0 leaves that line of the card open.
        seed: of folds, draws and random_models.

    Raises:
        ValueError: what those functions refuse.
    """
    about = KINDS[check_kind(kind)]
    if about.fitted_on == "pairs" and read != "end":
        raise ValueError(f"pairs are read at their end, so {kind} needs read='end'; got {read!r}.")
    if card and not about.card:
        raise ValueError(f"a trust card can be made for {', '.join(CARDED)}; got {kind!r} with card=True.")
    if about.fitted_on == "pairs":
        residuals = read_pairs(model, statements)
    else:
        residuals = read_statements(model, statements, read=read)
    probe = fit_directions(residuals, kind=kind, seed=seed)
    draws = about.refits or 0 if refits is None else refits
    if draws:
        probe = with_refits(probe, residuals, draws=draws, seed=seed)
    if card:
        seeds = range(seed, seed + random_models)
        random = random_model_residuals(model, statements, seeds=seeds, read=read) if random_models else None
        texts = [statement.text for statement in statements]
        probe = probe.with_card(trust_card(residuals, texts, kind=kind, random=random, seed=seed))
    return probe
