"""From a model and labelled statements to a probe with its held-out quality, refits and trust card."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import xarray as xr
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.dialogues import rendering
from morality_lens.dialogues.rendering import Transcript
from morality_lens.dialogues.turns import statement_turn
from morality_lens.items.files import spread
from morality_lens.items.kinds import Statement, items_hash
from morality_lens.items.repeats import joined_clusters
from morality_lens.models.loading import record_of
from morality_lens.probes.axes import Axes
from morality_lens.probes.axes_fitting import Fit, axes_of
from morality_lens.probes.fitting import fit_directions
from morality_lens.probes.kinds import CARDED, KINDS, ON_LABELS, Kind, Method, check_kind, check_method
from morality_lens.probes.probe import Probe
from morality_lens.probes.random_models import random_model_residuals
from morality_lens.probes.refits import with_refits
from morality_lens.probes.statements import Read, read_pairs, read_statements
from morality_lens.probes.training_data import check_statements
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


def fit_axes(
    model: TransformerBridge,
    sets: Mapping[str, Sequence[Statement]],
    *,
    together: bool = False,
    remove: Sequence[str] = (),
    method: Method = "project",
    kind: Kind = "mean_difference",
    read: Read = "end",
    refits: int | None = None,
    seed: int = 0,
) -> Axes:
    """Several named directions of one model, each fitted on statements of its own.

    Every statement is read once, those of all sets in one pass. Fitted apart, each axis is what
    :func:`fit_probe` makes of its statements, and directions may overlap: a projection on one then moves with
    another. Fitted ``together``, what lies along the mean differences of all other axes is taken out of each
    (of the residuals of its statements too, so its quality and its unit are those of what is left): the axis
    is the partial direction given the others, as coefficients of a multiple regression are. If a residual
    changes by any sum of the axes' mean differences, each projection says how much of its own was in it, and
    does not move with the others.

    A nuisance in ``remove`` is taken out of every axis and is none itself. Of what that costs
    :attr:`Axes.relations` has the numbers: each axis's AUROC before and after, the cosine between its old and
    its new direction, and what a new direction still finds of the nuisance in statements that the removal has
    not seen. An axis of which nothing is left is refused, in words, in :attr:`Axes.refused`. Refits take the
    nuisances and the other axes out anew, on samples of their statements, so that this error is in the
    intervals of ``factorial_effects`` too.

    Args:
        model: from ``load_model``.
        sets: labelled statements by name, of axes and nuisances: 1 for the pole that + stands for.
        together: whether the other axes are taken out of each.
        remove: names of sets that are nuisances.
        method: ``project`` takes out the component along a nuisance's mean difference; ``leace`` takes it out
            where linear classifiers look for it (:func:`fit_leace`, with a shrunk covariance).
        kind: ``mean_difference``, ``lda`` or ``logistic``.
        read: as in :func:`read_statements`.
        refits: refits on bootstrap samples; None: 50 for mean differences, else none.
        seed: of folds and draws.

    Raises:
        ValueError: no axis, a nuisance that is not among the sets, a set without both labels or with fewer
            than three clusters in a class, another kind or method, refits of another kind without nuisances
            or other axes, or nothing left of any axis.

    Examples:
        >>> sets = {"first": statements[::2], "second": statements[1::2]}
        >>> axes = ml.probes.fit_axes(model, sets)
        >>> bool(axes.cosines.sel(first="first", second="second", layer=3) > 0.8)
        True
        >>> partial = ml.probes.fit_axes(model, {**sets, "third": statements[:60]}, remove=["second"])
        Traceback (most recent call last):
        ValueError: Nothing is left of the axis 'first' without second: ...
    """
    fit = check_axes(
        sets, together=together, remove=remove, method=method, kind=kind, refits=refits, seed=seed
    )
    stage(f"reading {sum(map(len, sets.values())):,} statements of {len(sets)} sets")
    residuals = read_sets(model, sets, read=read)
    stage("fitting the axes")
    return axes_of(residuals, fit)


def check_axes(
    sets: Mapping[str, Sequence[Statement]],
    *,
    together: bool,
    remove: Sequence[str],
    method: str,
    kind: str,
    refits: int | None,
    seed: int,
) -> Fit:
    """How axes are fitted, where they can be; needs no model.

    Raises:
        ValueError: as :func:`fit_axes`.
    """
    chosen = check_kind(kind)
    if isinstance(remove, str):
        raise ValueError(f"remove needs a list of names, as remove=({remove!r},).")
    if chosen not in ON_LABELS:
        raise ValueError(f"axes are fitted as {', '.join(ON_LABELS)}; got {kind!r}.")
    unknown = [name for name in remove if name not in sets]
    if unknown or len(sets) <= len(set(remove)):
        raise ValueError(
            f"fit_axes needs an axis or more, and statements of every nuisance; got the sets {list(sets)}, "
            f"of which {list(remove)} are to be removed."
        )
    for name, statements in sets.items():
        if not re.fullmatch(r"\w[\w-]*", name):
            raise ValueError(f"an axis needs a name of letters, digits, _ and -; got {name!r}.")
        try:
            check_statements(statements, chosen)
        except ValueError as error:
            raise ValueError(f"the axis {name!r}: {error}") from error
    draws = KINDS[chosen].refits or 0 if refits is None else refits
    if draws and (together or remove) and chosen != "mean_difference":
        raise ValueError(
            "refits without nuisances or other axes can be made of mean differences; got the kind "
            f"{kind!r} with refits={draws}. Leave refits out, or fit mean differences."
        )
    return Fit(
        together=together,
        remove=tuple(sorted(set(remove))),
        method=check_method(method),
        kind=chosen,
        refits=draws,
        seed=seed,
    )


def read_sets(
    model: TransformerBridge, sets: Mapping[str, Sequence[Statement]], *, read: Read = "end"
) -> dict[str, xr.DataArray]:
    """The residuals of several sets of statements, read in one pass, by name."""
    every = [replace(one, id=f"{name}/{one.id}") for name, statements in sets.items() for one in statements]
    residuals = read_statements(model, every, read=read)
    found, start = {}, 0
    for name, statements in sets.items():
        mine = residuals.isel(statement=slice(start, start + len(statements)))
        start += len(statements)
        clusters = [one.cluster for one in joined_clusters(statements)]
        mine = mine.assign_coords(statement=[one.id for one in statements], cluster=("statement", clusters))
        found[name] = mine.assign_attrs(statements_sha256=items_hash(statements))
    return found
