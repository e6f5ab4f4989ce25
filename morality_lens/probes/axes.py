"""Several named directions of one model as one value: its folder, its projection of a run."""

import html
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from morality_lens.interactions.carried import GUARDS, REFITS, CarriedRefits
from morality_lens.probes.probe import Probe, load_probe, projected
from morality_lens.probes.quality import highest
from morality_lens.runs.results import read_result, write_result
from morality_lens.runs.run import Run

UNITS = "gap of the axis"
"""The unit of a projection on an axis: the distance between the means of its two kinds of statements."""
RELATIONS = "axes"
SHARED = ("units", "oriented", "trust", "probe", "leakage", "cluster_note")
"""Attributes of projections that are those of any axis."""
OF_ALL = ("probe_model_fingerprint", "probe_read", "probe_source", "probe_together", "probe_removed")
"""What the training records of all axes agree on."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Axes(Mapping[str, Probe]):
    """Named directions of one model, read as a mapping from name to :class:`Probe`.

    Attributes:
        probes: the axes by name.
        relations: what is known of them together, by ``layer``. ``auroc`` with ``auroc_low`` and
            ``auroc_high`` over ``train`` and ``test``: how well each reads the statements of each set, held
            out on the diagonal. ``cosine`` over ``first`` and ``second``, and ``null``, the 95 % quantile of
            its size where labels mean nothing. Where something was taken out of the axes also what that cost,
            see :func:`morality_lens.probes.relations.cost_table`. ``attrs`` hold ``together``, ``removed``,
            ``method``, ``refused``, and for every axis the number of its statements, ``statements``.
        nuisances: the directions of what was taken out, by name; empty where nothing was.

    Examples:
        >>> axes = ml.probes.fit_axes(model, {"all": statements, "half": statements[::2]})
        >>> list(axes), axes["half"].kind
        (['all', 'half'], 'mean_difference')
        >>> axes.project(run).sizes["axis"]
        2
    """

    probes: Mapping[str, Probe]
    relations: xr.Dataset
    nuisances: Mapping[str, Probe] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Probe:
        if name not in self.probes:
            why = self.refused.get(name)
            raise KeyError(why or f"there is no axis {name!r}; choose among {', '.join(self.probes)}.")
        return self.probes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.probes)

    def __len__(self) -> int:
        return len(self.probes)

    @property
    def refused(self) -> dict[str, str]:
        """Axes of which nothing is left once something was taken out, and why; one sentence each."""
        return dict(self.relations.attrs["refused"])

    @property
    def together(self) -> bool:
        """Whether each axis is that part of its direction that the others do not hold."""
        return bool(self.relations.attrs["together"])

    @property
    def removed(self) -> tuple[str, ...]:
        """The nuisances that were taken out."""
        return tuple(self.relations.attrs["removed"])

    @property
    def cosines(self) -> xr.DataArray:
        """The cosine between every two directions, nuisances among them: first x second x layer."""
        return self.relations["cosine"].assign_attrs(units="cosine")

    @property
    def transfer(self) -> xr.DataArray:
        """The AUROC of every direction on every set of statements: train x test x layer."""
        return self.relations["auroc"].assign_attrs(units="AUROC")

    @property
    def layer(self) -> int:
        """The layer that is shown first, see :func:`shown_layer`."""
        return int(self.relations.attrs["layer"])

    def project(self, run: Run | xr.DataArray) -> xr.DataArray:
        """Projections on all axes, with the residuals' dims without ``d_model`` and with ``axis``.

        The residuals are read once for all axes. What the attributes and coordinates say is as for
        :meth:`Probe.project`, with ``gap`` and ``split_half`` along ``axis`` too, so that
        ``factorial_effects`` corrects over axes, layers and rounds in one family and has the sampling error
        of every direction in its intervals. Of that the degrees of freedom are those of the axis with the
        fewest clusters of statements.

        Raises:
            ValueError: the run is of another model, has layers that the axes lack, or kept no residuals.
        """
        first = next(iter(self.probes.values()))
        if isinstance(run, Run):
            first.refuse_other_model(run, called="these axes: each")
            if run.manifest["stored"]["keep"] == "projections":
                raise ValueError(
                    f"the run in {run.path} kept projections on one probe and no residuals, which other axes "
                    "need; play it again with --keep residuals."
                )
            residuals = run.residuals
        else:
            residuals = run
        missing = {"layer", "d_model"} - set(residuals.dims)
        if missing:
            raise ValueError(f"project needs dims layer and d_model; got {residuals.dims}.")
        layers = residuals["layer"].values.tolist()
        cubes = projected([p.at_layers(layers) for p in self.probes.values()], residuals, "d_model")
        return _beside(dict(zip(self.probes, cubes, strict=True)))

    def save(self, folder: str | Path) -> Path:
        """Write a folder with a probe's file for each direction, and what is known of them together.

        A folder that holds axes already is replaced.

        Raises:
            FileExistsError: there is a folder with something else.
        """
        target = Path(folder)
        if target.exists() and not _holds_axes(target) and any(target.iterdir()):
            raise FileExistsError(f"{target} exists and holds no axes; give a new folder.")
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.part")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        for name, probe in {**self.probes, **self.nuisances}.items():
            probe.save(draft / f"{name}.safetensors")
        names = {"axes": list(self.probes), "nuisances": list(self.nuisances)}
        write_result(draft, RELATIONS, self.relations.assign_attrs(**self.relations.attrs, **names))
        if target.exists():
            shutil.rmtree(target)
        return draft.rename(target)

    def rows(self) -> list[tuple[str, ...]]:
        """Name, number of statements, and held-out AUROC at the shown layer."""
        rows = []
        for name, probe in self.probes.items():
            at = probe.quality.sel(layer=self.layer)
            band = f"[{float(at['auroc_low']):.2f}, {float(at['auroc_high']):.2f}]"
            rows.append((name, str(probe.training["n"]), f"{float(at['auroc']):.2f}", band))
        return rows

    def __repr__(self) -> str:
        how = "together" if self.together else "apart"
        without = f", without {', '.join(self.removed)} ({self.relations.attrs['method']})" * bool(
            self.removed
        )
        read = ", ".join(f"{name} {auroc}" for name, _, auroc, _ in self.rows())
        return f"<Axes, {how}{without}; held-out AUROC at layer {self.layer}: {read}>"

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{h}</th>" for h in ("axis", "statements", "held-out AUROC", "95 % interval"))
        cells = ("".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in self.rows())
        rows = "".join(f"<tr>{row}</tr>" for row in cells)
        refused = "".join(f"<p>{html.escape(line)}</p>" for line in self.refused.values())
        return f"<p>{html.escape(repr(self)[1:-1])}</p><table><tr>{head}</tr>{rows}</table>{refused}"


def shown_layer(probes: Mapping[str, Probe]) -> int:
    """The layer at which several axes are shown: the first with the highest mean held-out AUROC of them."""
    layers = next(iter(probes.values())).quality["layer"].values
    best = highest(np.mean([probe.quality["auroc"].values for probe in probes.values()], axis=0))
    return int(layers[best or 0])


def load_axes(folder: str | Path) -> Axes:
    """The axes in a folder that :meth:`Axes.save` wrote.

    Raises:
        FileNotFoundError: there are none.

    Examples:
        >>> axes = ml.probes.fit_axes(model, {"all": statements, "half": statements[::2]})
        >>> ml.probes.load_axes(axes.save(folder / "axes"))
        <Axes, apart; held-out AUROC at layer ...: all 1.00, half 1.00>
    """
    place = Path(folder)
    if not _holds_axes(place):
        raise FileNotFoundError(f"no axes in {place}; fit them and save them there.")
    relations = read_result(place, RELATIONS)
    assert relations is not None
    sets = {kind: relations.attrs.pop(kind) for kind in ("axes", "nuisances")}
    probes = {
        kind: {name: load_probe(place / f"{name}.safetensors") for name in names}
        for kind, names in sets.items()
    }
    return Axes(probes=probes["axes"], nuisances=probes["nuisances"], relations=relations)


def _holds_axes(folder: Path) -> bool:
    return any(folder.glob(f"{RELATIONS}.*"))


def _beside(cubes: Mapping[str, xr.DataArray]) -> xr.DataArray:
    """Projections of several axes as one cube, with the last dim ``axis``."""
    first, names = next(iter(cubes.values())), list(cubes)
    guards = _guards({name: cube.coords.to_dataset() for name, cube in cubes.items()})
    coords: dict[str, Any] = {str(name): c for name, c in first.coords.items() if name not in GUARDS}
    found = xr.DataArray(
        np.stack([cube.values for cube in cubes.values()], axis=-1),
        dims=(*first.dims, "axis"),
        coords={**coords, "axis": names, **{str(n): (g.dims, g.values) for n, g in guards.items()}},
        name=first.name,
        attrs={name: first.attrs[name] for name in (*SHARED, *OF_ALL) if name in first.attrs},
    )
    carried = [cube.attrs.get(REFITS) for cube in cubes.values()]
    if not all(isinstance(one, CarriedRefits) for one in carried):
        return found
    along = xr.Variable("axis", names)
    refits, own = (
        xr.concat([getattr(one, part) for one in carried], along, coords="minimal", compat="override")
        for part in ("refits", "own")
    )
    fewest = [one.refits.attrs["n_clusters"] for one in carried if one and "n_clusters" in one.refits.attrs]
    refits = refits.transpose("probe_draw", ..., "axis").drop_attrs()
    refits = refits.assign_attrs({"n_clusters": min(fewest)} if fewest else {})
    own = own.transpose(..., "axis").drop_attrs()
    return found.assign_attrs({REFITS: CarriedRefits(refits=refits, own=own, guards=guards)})


def _guards(known: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """What is known of every direction by layer, along ``axis``."""
    found = {}
    for name in GUARDS:
        if all(name in one for one in known.values()):
            values = np.stack([one[name].values for one in known.values()])
            found[name] = (("axis", "layer"), values)
    layer = next(iter(known.values()))["layer"].values
    return xr.Dataset(found, coords={"axis": list(known), "layer": layer})
