"""One moral direction per layer: its file, its quality, its projection of a run."""

import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float
from safetensors import safe_open
from safetensors.numpy import save_file

from morality_lens.design import condition_of
from morality_lens.interactions.carried import GUARDS, REFITS, CarriedRefits
from morality_lens.interactions.cube import factors_of
from morality_lens.items.files import parse_json, reading, replace_file
from morality_lens.probes.card import TrustCard, card_from_json
from morality_lens.probes.kept import directions_hash, directions_of
from morality_lens.probes.kinds import Kind, check_kind
from morality_lens.probes.projecting import cell_means, projection, projections
from morality_lens.probes.quality import highest
from morality_lens.runs.manifest import DIRECTIONS
from morality_lens.runs.run import Run

UNITS = "moral-immoral gap"
"""The unit of projections on a probe that was fitted with labels."""
FORMAT = "3"
"""Of files that :meth:`Probe.save` writes."""
OWN_GAP = ("1", "2")
"""Formats whose unit was the gap of the statements that the direction was fitted on."""
OWN_GAP_NOTE = (
    "Warning: the unit of these projections is the gap of the statements that the direction was fitted on, "
    "as the probe was saved by an earlier version; unseen statements lie closer together, so effects look "
    "smaller than in the gap of unseen statements. Fit the probe again to compare."
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
    """A direction and a midpoint per layer; + is more moral.

    Projections are in units of the distance between the two class means along the direction, the same
    constant for every item, condition and round of a layer: the mean immoral statement lies at -1/2, the mean
    moral one at +1/2. Meant are statements that the direction has not seen; those that it was fitted on lie
    further apart along it, the more so the fewer they are. A layer at which the classes do not differ at all
    (the embedding of a shared last token, say) has the direction zero.

    Attributes:
        kind: how the direction was fitted.
        direction: [layer, d_model].
        intercept: [layer], added to the dot product.
        quality: by layer: held-out ``auroc`` with its interval ``auroc_low`` and ``auroc_high`` (NaN without
            both labels), where graded values exist their held-out rank correlation ``spearman`` with
            ``spearman_low`` and ``spearman_high``, and the ``gap``: the distance of the class means of unseen
            statements along the unit direction, in units of the residual stream. NaN where it cannot be told
            from none; the unit there is the gap of the statements themselves, and nothing is claimed in it.
        training: what it was fitted on: ``source`` (``statements`` or ``run``), ``statements_sha256``,
            ``items`` and ``conditions`` (of a run, else empty), ``demeaned`` (condition means were removed
            first), ``oriented`` (labels chose the sign), model fingerprint, counts, where it was read.
        refits: [probe_draw, layer, d_model], the direction fitted again on bootstrap samples of its training
            clusters (:func:`morality_lens.probes.refits.with_refits`); None where that was not done.
        card: the controls it was compared with (``trust_card``); None where none was made.
        unit_note: what is special about the unit (of a probe from an earlier version); else nothing. It comes
            with every projection.

    Examples:
        >>> dict(probe.direction.sizes)
        {'layer': 7, 'd_model': 128}
        >>> probe.project(run).dims
        ('item', 'instruction', 'cot', 'feedback', 'round', 'site', 'layer')
    """

    kind: Kind
    direction: xr.DataArray
    intercept: xr.DataArray
    quality: xr.Dataset
    training: Mapping[str, Any]
    refits: xr.DataArray | None = None
    card: TrustCard | None = None
    unit_note: str = ""

    @property
    def trust(self) -> str:
        """The headline of the trust card, shown on every figure that uses the direction."""
        return "" if self.card is None else self.card.headline

    @property
    def fingerprint(self) -> str:
        """Hash over the directions."""
        return hashlib.sha256(self.direction.values.tobytes()).hexdigest()

    @property
    def directions(self) -> Float[np.ndarray, "n layer d_model"]:
        """The direction and its refits, as a run keeps projections on them."""
        return directions_of(self.direction, self.refits)

    @property
    def told(self) -> dict[str, Any]:
        """The attributes of every projection on it: units, orientation, trust and kind."""
        return {
            "units": self.training.get("units", UNITS),
            "oriented": bool(self.training.get("oriented", True)),
            "trust": self.trust,
            "probe": self.kind,
            **({"unit_note": self.unit_note} if self.unit_note else {}),
        }

    def drawn_from(self, given: int) -> "Probe":
        """The probe with the number of statements that its own were drawn from, on its card too."""
        if given == self.training["n"]:
            return self
        more = {"drawn_from": given}
        card = self.card and replace(self.card, training={**self.card.training, **more})
        return replace(self, training={**self.training, **more}, card=card)

    def with_card(self, card: TrustCard) -> "Probe":
        """The probe with the card of its own statements.

        Raises:
            ValueError: the card is of another kind of direction, or of other statements or weights.
        """
        names = ("model_fingerprint", "statements_sha256", "read")
        differ = [n for n in names if str(self.training.get(n, "")) != str(card.training.get(n, ""))]
        if card.kind != self.kind or differ:
            raise ValueError(
                f"this trust card is of another direction: kind {card.kind} for {self.kind}, and it differs "
                f"in {', '.join(differ) or 'nothing else'}. Make the card from the residuals the probe was "
                "fitted on."
            )
        return replace(self, card=card)

    def project(self, run: Run | xr.DataArray) -> xr.DataArray:
        """Projections with the residuals' dims without ``d_model``, in moral-immoral gaps.

        One site and layer is read at a time, so memory does not grow with their number. The attributes say
        ``units``, ``oriented``, ``trust`` and ``leakage``: why effects of these conditions must not be
        estimated with this probe, or nothing. Where the probe has refits, ``attrs["refits"]`` carries the
        cell means on them, so that ``factorial_effects`` has the sampling error of the direction in every
        interval; a file cannot hold them: ``probes.for_file(y)`` leaves them out and keeps the rest. Along
        ``layer`` there are the coordinates ``gap``, and ``split_half`` where halves of the training
        statements were compared: layers that they refuse have no intervals.

        Raises:
            ValueError: the run is of another model, has layers that the probe lacks, or kept projections on
                another probe alone.
        """
        if isinstance(run, Run):
            self.refuse_other_model(run)
            kept = run.manifest["stored"]["keep"] == "projections"
            residuals = run.projections if kept else run.residuals
        else:
            kept, residuals = False, run
        last = "direction" if kept else "d_model"
        missing = {"layer", last} - set(residuals.dims)
        if missing:
            raise ValueError(f"project needs dims layer and d_model; got {residuals.dims}.")
        probe = self.at_layers(residuals["layer"].values.tolist())
        if isinstance(run, Run) and kept:
            probe._refuse_other_directions(run)
        return probe._projected(residuals, last)

    def refuse_other_model(self, run: Run, *, called: str = "the probe") -> None:
        """Nothing, where the probe was fitted on the run's model.

        Args:
            run: a run.
            called: what the message calls the probe, such as its file.

        Raises:
            ValueError: it was fitted on other weights.
        """
        ran, fitted = run.manifest["study"]["model"]["fingerprint"], self.training["model_fingerprint"]
        if ran != fitted:
            raise ValueError(
                f"{called} was fitted on another model (weights {fitted[:12]}, the run's are {ran[:12]}); "
                "fit it with the run's own model."
            )

    def at_layers(self, layers: Sequence[int]) -> "Probe":
        """The probe at some of its layers, in that order.

        Raises:
            ValueError: it was not fitted at one of them.
        """
        there = self.direction["layer"].values.tolist()
        if list(layers) == there:
            return self
        if not set(layers) <= set(there) or not layers:
            named = ", ".join(str(layer) for layer in layers if layer not in there) or "none"
            raise ValueError(
                f"the probe has layers {_span(self.direction)}, and these are needed: {named}; select the "
                "same ones."
            )
        at = {"layer": list(layers)}
        return replace(
            self,
            direction=self.direction.sel(at),
            intercept=self.intercept.sel(at),
            quality=self.quality.sel(at),
            refits=None if self.refits is None else self.refits.sel(at),
        )

    def _refuse_other_directions(self, run: Run) -> None:
        """Nothing, where a run's projections were made on this probe's directions.

        Raises:
            ValueError: they were made on others.
        """
        if run.manifest["stored"]["directions_sha256"] != directions_hash(self.directions):
            raise ValueError(
                f"the run in {run.path} kept its projections on another probe, and no residuals; take the "
                f"probe in {run.path / DIRECTIONS}."
            )

    def _projected(self, residuals: xr.DataArray, last: str) -> xr.DataArray:
        """Projections of residuals, or of dot products that were made before, of this probe's layers."""
        return projected([self], residuals, last)[0]

    def room_for(self, residuals: xr.DataArray, last: str) -> tuple[np.ndarray, np.ndarray]:
        """Where the projections of residuals go, and the cell means on the refits: layer last."""
        dims = [d for d in residuals.dims if d not in (last, "layer")]
        draws = 0 if self.refits is None or "item" not in dims else self.refits.sizes["probe_draw"]
        layers = residuals.sizes["layer"]
        cells = [residuals.sizes[d] for d in dims if d != "item"] if draws else []
        return np.empty([*(residuals.sizes[d] for d in dims), layers]), np.empty([draws, *cells, layers])

    def labelled(
        self, values: np.ndarray, drawn: np.ndarray, residuals: xr.DataArray, last: str
    ) -> xr.DataArray:
        """Projections with the labels of the residuals, and with what this probe says of them."""
        dims = tuple(str(d) for d in residuals.dims if d not in (last, "layer"))
        coords = {name: c for name, c in residuals.coords.items() if last not in c.dims}
        for name in GUARDS:
            if name in self.quality:
                coords[name] = ("layer", self.quality[name].values)
        attrs = {**self.told, "leakage": _leakage(self.training, residuals), **_flat(self.training)}
        attrs |= {name: note for name, note in residuals.attrs.items() if name == "cluster_note"}
        found = xr.DataArray(values, dims=(*dims, "layer"), coords=coords, name="projection", attrs=attrs)
        return found.assign_attrs({REFITS: self._carried(found, drawn)}) if len(drawn) else found

    def _carried(self, found: xr.DataArray, drawn: np.ndarray) -> CarriedRefits:
        """The cell means on the refits, with those of the projections."""
        own = found.mean("item")
        coords = {name: c for name, c in own.coords.items() if name in own.dims}
        refits = xr.DataArray(
            drawn,
            dims=("probe_draw", *own.dims),
            coords={"probe_draw": np.arange(len(drawn)), **coords},
            name="refits",
            attrs=_drawn_from_clusters(self.training),
        )
        own = own.drop_vars(set(own.coords) - set(coords)).drop_attrs()
        known = self.quality[[name for name in GUARDS if name in self.quality]].drop_attrs()
        return CarriedRefits(refits=refits, own=own, guards=known)

    def project_all(
        self, residuals: Float[np.ndarray, "*place layer d_model"]
    ) -> Float[np.ndarray, "*place layer"]:
        """Projections of residuals of all the probe's layers, as plain arrays."""
        return projections(residuals, self.direction.values, self.intercept.values)

    def project_place(
        self, read: np.ndarray, item: int | None, number: int, *, made: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Projections of the residuals of one layer and site, and their cell means on the refits.

        Args:
            read: residuals, or dot products that were made before, on the last axis.
            item: the axis of the items; None where there is none.
            number: the layer's place among the probe's.
            made: whether they are dot products.
        """
        intercept = float(self.intercept[number])
        values = (
            read[..., 0] + intercept if made else projection(read, self.direction.values[number], intercept)
        )
        if self.refits is None or item is None:
            return values, None
        means = cell_means(read, item)
        refits = self.refits.values[:, number].astype(np.float64)
        return values, np.moveaxis(means[..., 1:] if made else means @ refits.T, -1, 0)

    def save(self, path: str | Path) -> Path:
        """Write the probe as safetensors with its training record as metadata."""
        target = Path(path)
        arrays = {
            "direction": self.direction.values,
            "intercept": self.intercept.values,
            "layer": self.direction["layer"].values,
            **{f"quality.{name}": array.values for name, array in self.quality.items()},
            **({} if self.refits is None else {"refits": self.refits.values.astype(np.float32)}),
        }
        training = json.dumps(dict(self.training))
        metadata = {"kind": self.kind, "training": training, "format": FORMAT}
        if self.unit_note:
            metadata["unit_note"] = self.unit_note
        if self.card is not None:
            metadata["card"] = self.card.to_json()
        plain = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
        return replace_file(target, lambda draft: save_file(plain, draft, metadata=metadata))

    def __repr__(self) -> str:
        auroc = self.quality["auroc"].values
        best = highest(auroc)
        quality = "no labels to measure its quality with"
        if best is not None:
            layer = int(self.direction["layer"][best])
            quality = f"best held-out AUROC {float(auroc[best]):.3f} at layer {layer}"
        examples = "answers of a run" if self.training.get("source") == "run" else "statements"
        layers = self.direction.sizes["layer"]
        return f"<Probe {self.kind}: {layers} layers, {self.training['n']} {examples}, {quality}>"

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{h}</th>" for h in ("layer", "held-out AUROC", "95 % interval", "gap"))
        rows = "".join(
            f"<tr><td>{int(q['layer'])}</td><td>{float(q['auroc']):.3f}</td>"
            f"<td>{float(q['auroc_low']):.3f} to {float(q['auroc_high']):.3f}</td>"
            f"<td>{float(q['gap']):.3g}</td></tr>"
            for q in (self.quality.isel(layer=i) for i in range(self.quality.sizes["layer"]))
        )
        caption = f"{repr(self)[1:-1]}{'. ' if self.trust else ''}{self.trust}"
        return f"<p>{html.escape(caption)}</p><table><tr>{head}</tr>{rows}</table>"


def projected(probes: Sequence[Probe], residuals: xr.DataArray, last: str) -> list[xr.DataArray]:
    """Projections of residuals on several probes that have their layers, in one pass over them.

    One site and layer is read at a time, once for all probes.

    Args:
        probes: at the layers of the residuals.
        residuals: with ``layer`` and the dim ``last``.
        last: ``d_model``, or ``direction`` for dot products that were made before.
    """
    dims = tuple(str(d) for d in residuals.dims if d not in (last, "layer"))
    item = dims.index("item") if "item" in dims else None
    rooms = [probe.room_for(residuals, last) for probe in probes]
    sites = range(residuals.sizes["site"]) if "site" in dims else (0,)
    for number in range(residuals.sizes["layer"]):
        at_layer = residuals.isel(layer=number).transpose(*dims, last)
        for site in sites:
            at = tuple(slice(site, site + 1) if d == "site" else slice(None) for d in dims)
            read = (at_layer.isel(site=[site]) if "site" in dims else at_layer).values
            places = tuple(here for here, d in zip(at, dims, strict=True) if d != "item")
            for probe, (values, drawn) in zip(probes, rooms, strict=True):
                found, refits = probe.project_place(read, item, number, made=last == "direction")
                values[(*at, number)] = found
                if refits is not None:
                    drawn[(slice(None), *places, number)] = refits
    return [
        probe.labelled(values, drawn, residuals, last)
        for probe, (values, drawn) in zip(probes, rooms, strict=True)
    ]


def load_probe(path: str | Path) -> Probe:
    """The probe in a file that :meth:`Probe.save` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no probe.

    Examples:
        >>> file = probe.save(folder / "probe.safetensors")
        >>> bool((ml.load_probe(file).direction == probe.direction).all())
        True
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"no probe at {file}; fit one and save it there.")
    with reading(file, "probe of this package", "fit one and save it there."):
        return _load(file)


def _load(file: Path) -> Probe:
    with safe_open(file, framework="numpy") as opened:
        metadata = opened.metadata() or {}
        if metadata.get("format") not in (*OWN_GAP, FORMAT):
            raise ValueError(f"{file} is no probe of this package (its metadata says {metadata}).")
        arrays = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - not a mapping
    layer, training = {"layer": arrays["layer"]}, parse_json(metadata["training"], file, nan=True)
    quality = {
        k.removeprefix("quality."): ("layer", v) for k, v in arrays.items() if k.startswith("quality.")
    }
    return Probe(
        kind=check_kind(metadata["kind"]),
        direction=xr.DataArray(arrays["direction"], dims=("layer", "d_model"), coords=layer),
        intercept=xr.DataArray(arrays["intercept"], dims="layer", coords=layer),
        quality=xr.Dataset(quality, coords=layer),
        training=training,
        refits=_refits(arrays["refits"], layer, training) if "refits" in arrays else None,
        card=card_from_json(metadata["card"]) if "card" in metadata else None,
        unit_note=_unit_note(metadata, training),
    )


def _unit_note(metadata: Mapping[str, str], training: Mapping[str, Any]) -> str:
    """What a file says of the unit; of an earlier format, that it is the gap of the probe's own statements.

    Without classes (``folds`` is 0) the unit has always been that of the projections themselves.
    """
    if metadata["format"] in OWN_GAP and training.get("folds", 1):
        return OWN_GAP_NOTE
    return metadata.get("unit_note", "")


def _refits(values: np.ndarray, layer: Mapping[str, Any], training: Mapping[str, Any]) -> xr.DataArray:
    """Refits as they were made, with the number of clusters that they were drawn from."""
    return xr.DataArray(
        values,
        dims=("probe_draw", "layer", "d_model"),
        coords={"probe_draw": np.arange(len(values)), **layer},
        attrs=_drawn_from_clusters(training),
    )


def _drawn_from_clusters(training: Mapping[str, Any]) -> dict[str, int]:
    """How many clusters refits are drawn from, as an attribute; nothing where the probe does not say."""
    return {"n_clusters": int(training["n_clusters"])} if "n_clusters" in training else {}


def _span(array: xr.DataArray) -> str:
    layers = array["layer"].values
    return f"{layers[0]} to {layers[-1]}" if len(layers) else "none"


def _flat(training: Mapping[str, Any]) -> dict[str, Any]:
    """The training record as attributes, which hold no lists; of the items there may be thousands."""
    kept = {key: value for key, value in training.items() if key != "items"}
    return {f"probe_{k}": ", ".join(v) if isinstance(v, list) else v for k, v in kept.items()}


def _leakage(training: Mapping[str, Any], residuals: xr.DataArray) -> str:
    """Why effects of these residuals' conditions must not be estimated with the probe; else nothing."""
    cells = list(training.get("conditions", ()))
    if training.get("source") != "run" or training.get("demeaned") or len(cells) < 2:
        return ""
    # A factor that was averaged over may be at any level, one that was selected is at that level.
    levels = {str(n): np.atleast_1d(c.values).tolist() for n, c in residuals.coords.items()}
    trained = [condition_of(label) for label in cells]
    factors = {name for condition in trained for name in condition.coords} & set(levels)
    factors |= set(factors_of(residuals))
    if not factors or not any(all(c[name] in levels[name] for name in factors) for c in trained):
        return ""
    return (
        f"the probe was trained on {len(cells)} conditions of a run ({', '.join(cells)}) whose means were "
        "not removed, so it holds their differences and gives them back as effects."
    )
