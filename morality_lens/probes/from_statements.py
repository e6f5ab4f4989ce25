"""From a model and labelled statements to a probe that knows its own error and what it was held against."""

from collections.abc import Sequence

from transformer_lens.model_bridge import TransformerBridge

from morality_lens.items.kinds import Statement
from morality_lens.probes.fitting import fit_directions
from morality_lens.probes.probe import Probe
from morality_lens.probes.random_models import random_model_residuals
from morality_lens.probes.refits import with_refits
from morality_lens.probes.statements import read_statements
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
        kind: as in :func:`morality_lens.probes.fitting.fit_directions`.
        read: as in :func:`morality_lens.probes.read_statements`.
        refits: refits on bootstrap samples of the statements, whose variance belongs into every claim about
            the morality direction; None: 50 for a mean difference, which cost next to nothing, else none.
        card: whether a trust card is made.
        random_models: random-initialised models that the card holds the direction against; each is a copy of
            the model, beside it in memory; 0 leaves that line of the card open.
        seed: of folds, draws and random_models.

    Raises:
        ValueError: what those functions refuse.
    """
    residuals = read_statements(model, statements, read=read)
    probe = fit_directions(residuals, kind=kind, seed=seed)
    draws = (50 if kind == "mean_difference" else 0) if refits is None else refits
    if draws:
        probe = with_refits(probe, residuals, draws=draws, seed=seed)
    if card:
        seeds = range(seed, seed + random_models)
        random = random_model_residuals(model, statements, seeds=seeds, read=read) if random_models else None
        texts = [statement.text for statement in statements]
        probe = probe.with_card(trust_card(residuals, texts, kind=kind, random=random, seed=seed))
    return probe
