"""From a model and labelled statements to a probe with its held-out quality, refits and trust card."""

from collections.abc import Sequence

from transformer_lens.model_bridge import TransformerBridge

from morality_lens.dialogues import rendering
from morality_lens.dialogues.rendering import Transcript
from morality_lens.dialogues.turns import statement_turn
from morality_lens.items.files import spread
from morality_lens.items.kinds import Statement
from morality_lens.models.loading import record_of
from morality_lens.probes.fitting import fit_directions
from morality_lens.probes.kinds import CARDED, KINDS, check_kind
from morality_lens.probes.probe import Probe
from morality_lens.probes.random_models import random_model_residuals
from morality_lens.probes.refits import with_refits
from morality_lens.probes.statements import read_pairs, read_statements
from morality_lens.probes.trust_checks import trust_card
from morality_lens.progress import stage

CHEAP = 2e12
"""Parameters times tokens up to which all statements are read: about a minute on one core."""
FEWEST = 300
"""Statements that are read in any case: the 95 % interval of an AUROC of .8 is then about .1 wide."""


def affordable_statements(
    model: TransformerBridge,
    statements: Sequence[Statement],
    *,
    random_models: int,
    tokens: int,
    seed: int = 0,
) -> tuple[Statement, ...]:
    """Statements whose reading costs no more than the play that the direction is meant for.

    All of them where they are cheap to read. Else as many as the model and its random-initialised controls
    read with the play's number of tokens, at least :data:`FEWEST`, spread over clusters and labels.

    Args:
        model: from ``load_model``.
        statements: labelled statements.
        random_models: controls, each of which reads the statements again.
        tokens: of the play.
        seed: of the draw.
    """
    record = record_of(model)
    some = spread(statements, min(64, len(statements)), seed, lambda s: (s.cluster, s.label))
    rows = [
        rendering.append_turn(record.renderer, Transcript(), statement_turn(s.text), round=0) for s in some
    ]
    each = sum(row.spans[-1].stop for row in rows) / len(rows) * (1 + random_models)
    parameters = sum(p.numel() for p in record.lm.module.parameters())
    if each * len(statements) * parameters <= CHEAP:
        return tuple(statements)
    most = max(FEWEST, int(tokens / each))
    return spread(statements, most, seed, lambda s: (s.cluster, s.label))


def fit_probe(
    model: TransformerBridge,
    statements: Sequence[Statement],
    *,
    kind: str = "mean_difference",
    read: str = "end",
    refits: int | None = None,
    card: bool = False,
    random_models: int = 3,
    given: Sequence[Statement] = (),
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
        given: all statements of which these are a sample: the card's classifiers of words learn from all.
        seed: of folds, draws and random_models.

    Raises:
        ValueError: what those functions refuse.
    """
    about = KINDS[check_kind(kind)]
    if about.fitted_on == "pairs" and read != "end":
        raise ValueError(f"pairs are read at their end, so {kind} needs read='end'; got {read!r}.")
    if card and not about.card:
        raise ValueError(f"a trust card can be made for {', '.join(CARDED)}; got {kind!r} with card=True.")
    stage(f"reading {len(statements):,} statements")
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
        stage(f"reading them in {random_models} random-initialised models for the trust card")
        random = random_model_residuals(model, statements, seeds=seeds, read=read) if random_models else None
        stage("making the trust card")
        texts = [statement.text for statement in statements]
        made = trust_card(residuals, texts, kind=kind, random=random, given=given, seed=seed)
        probe = probe.with_card(made)
    return probe
