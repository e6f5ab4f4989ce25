"""Named axes fitted on the residuals of their statements: together or apart, with or without nuisances."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from jaxtyping import Float

from morality_lens.probes.axes import UNITS, Axes, shown_layer
from morality_lens.probes.fitting import fit_directions
from morality_lens.probes.kinds import Kind, Method
from morality_lens.probes.probe import Probe
from morality_lens.probes.refits import refit_directions, split_half_cosine, with_refits
from morality_lens.probes.relations import cosine_table, cost_table, transfer_table
from morality_lens.probes.removal import (
    Removal,
    drawn_again,
    mean_differences,
    nothing_removed,
    projecting,
    removal_of,
    seed_of,
)

Sets = Mapping[str, xr.DataArray]
"""Residuals of labelled statements by name."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How axes are fitted; see :func:`morality_lens.probes.fit_axes`.

    Attributes:
        together: whether the other axes are taken out of each.
        remove: names of nuisances.
        method: how nuisances are taken out.
        kind: of the fits.
        refits: refits on bootstrap samples.
        seed: of folds and draws.
    """

    together: bool
    remove: tuple[str, ...]
    method: Method
    kind: Kind
    refits: int
    seed: int

    def taken_out(self, name: str, sets: Sets) -> tuple[str, ...]:
        """The names of what is taken out of an axis: nuisances, and fitted together the other axes."""
        if name in self.remove:
            return ()
        others = sorted(one for one in sets if one not in (name, *self.remove))
        return (*self.remove, *(others if self.together else ()))

    def removal(self, name: str, sets: Sets) -> Removal:
        """What is taken out of an axis, from the given statements: the nuisances, then the other axes."""
        differences = {one: mean_differences(sets[one]) for one in self.taken_out(name, sets)}
        return self.composed(name, self.of_nuisances(sets), differences)

    def of_nuisances(self, sets: Sets) -> Removal:
        """What takes out the nuisances."""
        if not self.remove:
            return nothing_removed(next(iter(sets.values())).sizes["layer"])
        return removal_of({name: sets[name] for name in self.remove}, self.method)

    def composed(
        self, name: str, first: Removal, differences: Mapping[str, Float[np.ndarray, "layer d_model"]]
    ) -> Removal:
        """What takes out the nuisances, and then what the other axes are without them."""
        if name in self.remove:
            return nothing_removed(len(first.erasers))
        others = [one for one in sorted(differences) if one not in (name, *self.remove)]
        after = [first.moved(differences[one]) for one in others] if self.together else []
        return first.then(projecting(len(first.erasers), after))


def axes_of(residuals: Sets, fit: Fit) -> Axes:
    """Axes fitted on the residuals of labelled statements.

    Args:
        residuals: of axes and nuisances, as :func:`morality_lens.probes.fitting.fit_directions` takes them.
        fit: how they are fitted.

    Raises:
        ValueError: nothing is left of any axis.
    """
    plain = {
        name: _told(name, fit_directions(one, kind=fit.kind, seed=fit.seed), (), fit)
        for name, one in residuals.items()
    }
    names = [name for name in residuals if name not in fit.remove]
    removals = {name: fit.removal(name, residuals) for name in residuals}
    used = {name: fit.taken_out(name, residuals) for name in residuals}
    fitted = {
        name: _without(plain[name], residuals[name], removals[name], used[name], fit)
        if used[name]
        else plain[name]
        for name in names
    }
    refused = {name: _nothing_left(name, used[name]) for name in names if _lost(plain[name], fitted[name])}
    if len(refused) == len(names):
        raise ValueError(" ".join(refused.values()))
    kept = {name: probe for name, probe in fitted.items() if name not in refused}
    kept = with_errors(kept, plain, residuals, removals, fit)
    every = {**kept, **{name: plain[name] for name in fit.remove}}
    relations = transfer_table(every, residuals, fit.removal, used, fit.kind, fit.seed)
    if len(every) > 1:
        relations = relations.merge(cosine_table(every, residuals, removals, fit.seed))
    if any(used[name] for name in kept):
        taken = {name: residuals[name] for name in fit.remove}
        relations = relations.merge(cost_table(plain, kept, taken, fit.method, fit.kind, fit.seed))
    about = {
        "together": fit.together,
        "removed": list(fit.remove),
        "method": fit.method if fit.remove else "",
        "refused": refused,
        "kind": fit.kind,
        "layer": shown_layer(kept),
        "statements": {name: int(probe.training["n"]) for name, probe in every.items()},
        "model_fingerprint": next(iter(plain.values())).training["model_fingerprint"],
    }
    nuisances = {name: plain[name] for name in fit.remove}
    return Axes(probes=kept, nuisances=nuisances, relations=relations.assign_attrs(about))


def _told(name: str, probe: Probe, used: tuple[str, ...], fit: Fit) -> Probe:
    """The probe that says which axis it is, and what was taken out of it."""
    removed = [f"{one} ({fit.method})" for one in used if one in fit.remove]
    others = [one for one in used if one not in fit.remove]
    more = {"axis": name, "units": UNITS, "removed": removed, "together": others}
    return replace(probe, training={**probe.training, **more})


def _without(
    plain: Probe, residuals: xr.DataArray, removal: Removal, used: tuple[str, ...], fit: Fit
) -> Probe:
    """The direction fitted on residuals from which something was taken out, as it reads whole residuals."""
    inside = fit_directions(removal(residuals), kind=fit.kind, seed=fit.seed)
    direction = removal.read(inside.direction.values)
    length = np.linalg.norm(direction, axis=-1)
    gap = inside.quality["gap"].values
    gap = np.where(gap > 0, 1 / np.where(length > 0, length, np.inf), gap)
    probe = replace(
        inside,
        direction=inside.direction.copy(data=direction),
        intercept=inside.intercept + removal.constant(inside.direction.values),
        quality=inside.quality.assign(gap=("layer", gap)),
    )
    return _told(str(plain.training["axis"]), probe, used, fit)


def _lost(before: Probe, after: Probe) -> bool:
    """Whether there was a gap at some layer, and now there is none at any."""
    return bool((before.quality["gap"] > 0).any()) and not bool((after.quality["gap"] > 0).any())


def _nothing_left(name: str, used: tuple[str, ...]) -> str:
    return (
        f"Nothing is left of the axis {name!r} without {', '.join(used)}: at no layer do its statements have "
        "a gap that can be told from none. Leave the axis out, or take less out."
    )


def with_errors(
    fitted: Mapping[str, Probe],
    plain: Mapping[str, Probe],
    residuals: Sets,
    removals: Mapping[str, Removal],
    fit: Fit,
) -> dict[str, Probe]:
    """The axes with refits on bootstrap samples, and with how far halves of their statements agree.

    What is taken out of an axis is fitted again too, in each draw on a sample of its own statements: the
    choice of the nuisances' statements, and of the other axes', is in the error as well.
    """
    if not fit.refits:
        return dict(fitted)
    changed = [name for name in fitted if fit.taken_out(name, residuals)]
    found = {
        name: with_refits(probe, residuals[name], draws=fit.refits, seed=fit.seed)
        for name, probe in fitted.items()
        if name not in changed
    }
    if changed:
        drawn = _refits_without(changed, plain, residuals, fit)
    for name in changed:
        inside = removals[name]
        whole = fitted[name].direction.values
        again = inside.read(inside.moved(plain[name].direction.values))
        along = (again * whole).sum(-1)
        scale = np.divide((whole * whole).sum(-1), along, out=np.zeros_like(along), where=along != 0)
        refits = drawn[name]
        halves = split_half_cosine(inside(residuals[name]), seed=fit.seed).values
        found[name] = replace(
            fitted[name],
            refits=refits.copy(data=refits.values * scale[:, None]),
            quality=fitted[name].quality.assign(split_half=("layer", halves)),
        )
    return {name: found[name] for name in fitted}


def _refits_without(
    names: list[str], plain: Mapping[str, Probe], residuals: Sets, fit: Fit
) -> dict[str, xr.DataArray]:
    """Refits of mean differences, each without what is taken out of it, fitted again."""
    found = {
        name: refit_directions(
            residuals[name], draws=fit.refits, seed=fit.seed, direction=plain[name].direction
        )
        for name in names
    }
    rng = {name: np.random.default_rng(seed_of(name, fit.seed)) for name in residuals}
    for draw in range(fit.refits):
        sets = {
            name: drawn_again(one, rng[name])
            for name, one in residuals.items()
            if fit.together or name in fit.remove
        }
        first = fit.of_nuisances(sets or residuals)
        differences = {one: mean_differences(sets[one]) for one in sets if one not in fit.remove}
        for name in names:
            removal = fit.composed(name, first, differences)
            values = found[name].values
            values[draw] = removal.read(removal.moved(values[draw]))
    return found
