"""From a model and labelled statements to a probe with its held-out quality, refits and trust card."""

from collections.abc import Mapping, Sequence

import xarray as xr
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.dialogues import rendering
from morality_lens.dialogues.rendering import Transcript
from morality_lens.dialogues.turns import statement_turn
from morality_lens.items.files import spread
from morality_lens.items.kinds import Statement
from morality_lens.models.loading import record_of
from morality_lens.probes.fitting import fit_directions
from morality_lens.probes.kinds import CARDED, KINDS, Kind, check_kind
from morality_lens.probes.probe import Probe
from morality_lens.probes.random_models import random_model_residuals
from morality_lens.probes.refits import with_refits
from morality_lens.probes.statements import Read, read_pairs, read_statements
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
    kind: Kind = "mean_difference",
    read: Read = "end",
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

    Examples:
        >>> probe = ml.fit_probe(model, statements)
        >>> probe.kind, probe.refits.sizes["probe_draw"]
        ('mean_difference', 50)
        >>> round(float(probe.quality["auroc"].max()), 1)
        1.0
    """
    found = fit_probes(
        model,
        {"own": statements},
        kind=kind,
        read=read,
        refits=refits,
        card=card,
        random_models=random_models,
        given={"own": given},
        seed=seed,
    )
    return found["own"]


def fit_probes(
    model: TransformerBridge,
    sets: Mapping[str, Sequence[Statement]],
    *,
    kind: Kind = "mean_difference",
    read: Read = "end",
    refits: int | None = None,
    card: bool = True,
    random_models: int = 3,
    given: Mapping[str, Sequence[Statement]] | None = None,
    seed: int = 0,
) -> dict[str, Probe]:
    """A direction for each of several sets of statements, with trust cards that hold each against the others.

    Every set is read once; the line ``transfer`` of a card says how far its direction reads the other sets
    and theirs its own.

    Args:
        model: from ``load_model``.
        sets: labelled statements by name, such as ``{"moral": ..., "toxicity": ...}``.
        kind: as in :func:`fit_probe`, which says what the others mean too.
        read: at the statement's end or averaged.
        refits: on bootstrap samples.
        card: whether trust cards are made.
        random_models: random-initialised models that each card holds its direction against.
        given: by name, all statements of which those of a set are a sample.
        seed: of folds, draws and random_models.

    Raises:
        ValueError: no set, one of several named ``own``, or what :func:`fit_probe` refuses.

    Examples:
        >>> sets = {"world": statements, "again": ml.load_statements("world", limit=120, seed=1)}
        >>> probes = ml.probes.fit_probes(model, sets, card=False)
        >>> list(probes)
        ['world', 'again']
    """
    about = KINDS[check_kind(kind)]
    if not sets:
        raise ValueError("fit_probes needs a set of statements or more; got none.")
    if card and len(sets) > 1 and "own" in sets:
        raise ValueError("'own' is a trust card's name for its own statements; name that set otherwise.")
    if about.fitted_on == "pairs" and read != "end":
        raise ValueError(f"pairs are read at their end, so {kind} needs read='end'; got {read!r}.")
    if card and not about.card:
        raise ValueError(f"a trust card can be made for {', '.join(CARDED)}; got {kind!r} with card=True.")
    residuals: dict[str, xr.DataArray] = {}
    for name, statements in sets.items():
        stage(f"reading {len(statements):,} statements" + f" ({name})" * (len(sets) > 1))
        pairs = about.fitted_on == "pairs"
        residuals[name] = (
            read_pairs(model, statements) if pairs else read_statements(model, statements, read=read)
        )
    draws = about.refits or 0 if refits is None else refits
    probes = {name: fit_directions(array, kind=kind, seed=seed) for name, array in residuals.items()}
    if draws:
        probes = {
            name: with_refits(probe, residuals[name], draws=draws, seed=seed)
            for name, probe in probes.items()
        }
    if not card:
        return probes
    for name, statements in sets.items():
        seeds = range(seed, seed + random_models)
        if seeds:
            stage(f"reading them in {random_models} random-initialised models for the trust card")
        random = random_model_residuals(model, statements, seeds=seeds, read=read) if seeds else None
        stage("making the trust card")
        made = trust_card(
            residuals[name],
            [statement.text for statement in statements],
            kind=kind,
            random=random,
            others={other: array for other, array in residuals.items() if other != name},
            given=(given or {}).get(name, ()),
            seed=seed,
        )
        probes[name] = probes[name].with_card(made)
    return probes
