"""Directions in the forms of other tools: control vectors of llama.cpp and repeng, steering vectors.

All three add a vector to the residual stream after a block, counted from 0: their layer l is this package's
layer l. The embedding (-1) has no place in any of them, and a control vector has none for block 0 either.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal, get_args

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from safetensors import safe_open
from safetensors.numpy import save_file

from morality_lens.items.files import reading, replace_file
from morality_lens.probes.probe import Probe
from morality_lens.probes.projecting import projections
from morality_lens.runs.run import Run

Form = Literal["gguf", "steering-vectors", "safetensors"]
"""``gguf`` is what llama.cpp and repeng read; ``steering-vectors`` a file of ``torch.save``."""
FORMS = get_args(Form)
ENDINGS: Mapping[str, Form] = {
    ".gguf": "gguf",
    ".pt": "steering-vectors",
    ".pth": "steering-vectors",
    ".safetensors": "safetensors",
}
"""The form that a file's ending stands for."""
CONTROL, DIRECTION = "controlvector", "direction."
"""The architecture of a GGUF file that holds a control vector, and how its tensors' names begin."""
FIRST_BLOCK = {"gguf": 1, "steering-vectors": 0, "safetensors": 0}
"""The first block that a form has a place for."""
LAYER_TYPE = "decoder_block"
TOLD = "morality_lens"
"""Under what a file says where it comes from, where its form has room for more."""
UNITS = "units of the file"
SAVE_PLAIN = (
    "Save a SteeringVector v by "
    'torch.save({"layer_activations": v.layer_activations, "layer_type": v.layer_type}, path).'
)


def export_direction(
    probe: Probe, path: str | Path, *, form: Form | None = None, model_type: str = "", gaps: float = 1.0
) -> Path:
    """Write a direction as a vector for other tools to add; the file's path.

    The vector of a layer is the shortest one that moves the projection there by ``gaps``: added once, it
    takes a residual from the mean immoral statement to the mean moral one, as far as the direction says. It
    is to be added after block l, for this package's layer l; + is the pole with the label 1. Layers at which
    nothing is claimed for lack of a gap are left out, and so are those that the form has no place for: the
    embedding, and in ``gguf`` block 0, as llama.cpp refuses ``direction.0``.

    - ``gguf``: ``general.architecture`` is ``controlvector``, ``controlvector.model_hint`` a model type,
      ``controlvector.layer_count`` how many directions there are, and ``direction.{l}`` their float32
      vectors. Read by ``llama-cli --control-vector`` and by repeng's ``ControlVector.import_gguf``. Needs the
      extra ``gguf``.
    - ``steering-vectors``: ``torch.save`` of {"layer_activations": {l: tensor}, "layer_type":
      "decoder_block"}: ``SteeringVector(**torch.load(path, weights_only=True))`` of that package takes it.
    - ``safetensors``: tensors ``layer_activations.{l}`` and the metadata ``layer_type``, for either, without
      pickle.

    Args:
        probe: the direction.
        path: the file; it is replaced whole.
        form: None takes that of the file's ending.
        model_type: of the model's configuration (``llama``, ``qwen3``, ...), which repeng compares.
        gaps: how far one addition moves the projection.

    Raises:
        ValueError: an unknown form, no finite ``gaps`` other than 0, or no layer to write.
        ModuleNotFoundError: ``gguf`` is not installed.

    Examples:
        >>> file = ml.probes.export_direction(probe, folder / "moral.gguf", model_type="llama")
        >>> back = ml.probes.import_direction(file)
        >>> back["layer"].values.tolist(), back.attrs["model_type"]
        ([1, 2, 3, 4], 'llama')
    """
    target, kind = Path(path), _form(path, form)
    if not np.isfinite(gaps) or gaps == 0:
        raise ValueError(f"export_direction needs a number of gaps other than 0; got {gaps}.")
    vectors = {
        layer: (gaps * vector).astype(np.float32)
        for layer, vector in added_vectors(probe).items()
        if layer >= FIRST_BLOCK[kind]
    }
    if not vectors:
        raise ValueError(
            f"no layer of this probe can be written as {kind}: it has none from {FIRST_BLOCK[kind]} on with "
            "a gap that can be told from none."
        )
    about = {"model_type": model_type, "kind": probe.kind, "gaps": float(gaps)}
    about |= {name: str(probe.training.get(name, "")) for name in ("model_fingerprint", "axis")}
    write = {"gguf": _write_gguf, "steering-vectors": _write_torch, "safetensors": _write_safetensors}[kind]
    return replace_file(target, lambda draft: write(draft, vectors, about))


def added_vectors(probe: Probe) -> dict[int, Float[np.ndarray, " d_model"]]:
    """By layer, the shortest vector that moves the projection by one gap; without layers that have no gap."""
    found = {}
    for layer in probe.direction["layer"].values.tolist():
        direction = probe.direction.sel(layer=layer).values.astype(np.float64)
        if float(probe.quality["gap"].sel(layer=layer)) > 0:
            found[layer] = direction / (direction @ direction)
    return found


def import_direction(path: str | Path, *, form: Form | None = None) -> xr.DataArray:
    """The vectors in a file of another tool, as they are: layer x d_model.

    They are no probe: nothing is known of what they read, how well, on which scale or with which sign, so
    they have no unit, quality, refits or trust card; :func:`project_direction` says so with every projection.

    Args:
        path: a file as :func:`export_direction` writes it, or as repeng, llama.cpp's generator or
            steering-vectors do.
        form: None takes that of the file's ending.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is of another kind, its vectors differ in width or are not finite, or it was
            written for other places than the residual stream after a block.

    Examples:
        >>> file = ml.probes.export_direction(probe, folder / "moral.pt")
        >>> back = ml.probes.import_direction(file)
        >>> along = back.sel(layer=3) @ probe.direction.sel(layer=3)  # one gap
        >>> round(float(along), 4)
        1.0
    """
    file, kind = Path(path), _form(path, form)
    if not file.is_file():
        raise FileNotFoundError(f"no file at {file}; give the path of a {kind} file with directions.")
    read = {"gguf": _read_gguf, "steering-vectors": _read_torch, "safetensors": _read_safetensors}[kind]
    with reading(file, f"{kind} file with directions", "export it again, or name its form."):
        vectors, about = read(file)
    widths = {vector.shape for vector in vectors.values()}
    if len(widths) != 1 or len(next(iter(widths))) != 1:
        raise ValueError(f"{file} needs vectors of one width, one per layer; got {sorted(widths)}.")
    stacked = np.stack([vectors[layer] for layer in sorted(vectors)])
    if not np.isfinite(stacked).all():
        raise ValueError(f"{file} holds NaN or infinite numbers.")
    return xr.DataArray(
        stacked,
        dims=("layer", "d_model"),
        coords={"layer": sorted(vectors)},
        name="direction",
        attrs={"form": kind, "source": str(file), "units": "unknown", "quality": "unknown", **about},
    )


def project_direction(direction: xr.DataArray, run: Run | xr.DataArray) -> xr.DataArray:
    """Dot products of a run's residuals with a direction of which nothing else is known.

    A run's layers that the direction lacks are left out. The attributes say that the sign is not known
    (``oriented`` False) and the quality neither. ``factorial_effects`` refuses it until you say that + is the
    pole you mean (``.assign_attrs(oriented=True)``); effects then say whether this one direction moves.

    Args:
        direction: layer x d_model, from :func:`import_direction`.
        run: a run, or residuals with ``layer`` and ``d_model``.

    Raises:
        ValueError: another width, no layer in common, or a direction that was exported from another model.

    Examples:
        >>> back = ml.probes.import_direction(ml.probes.export_direction(probe, folder / "moral.pt"))
        >>> ml.probes.project_direction(back, run).attrs["trust"]
        'An imported direction: how well it reads anything is unknown.'
    """
    made_for = str(direction.attrs.get("model_fingerprint", ""))
    if isinstance(run, Run):
        ran = str(run.manifest["study"]["model"]["fingerprint"])
        if made_for and made_for != ran:
            raise ValueError(
                f"this direction was exported from another model (weights {made_for[:12]}, the run's are "
                f"{ran[:12]})."
            )
        run = run.residuals
    layers = [one for one in run["layer"].values.tolist() if one in direction["layer"].values]
    if not layers or run.sizes["d_model"] != direction.sizes["d_model"]:
        raise ValueError(
            f"project_direction needs a layer in common and one width; got layers "
            f"{direction['layer'].values.tolist()} of width {direction.sizes['d_model']}, and residuals of "
            f"{run['layer'].values.tolist()}, {run.sizes['d_model']}."
        )
    chosen = run.sel(layer=layers)
    dims = [str(d) for d in chosen.dims if d not in ("layer", "d_model")]
    values = [
        projections(
            chosen.sel(layer=[one]).transpose(*dims, "layer", "d_model").values,
            direction.sel(layer=[one]).values,
        )
        for one in layers
    ]
    coords = {name: c for name, c in chosen.coords.items() if "d_model" not in c.dims}
    attrs = {
        "units": UNITS,
        "oriented": False,
        "trust": "An imported direction: how well it reads anything is unknown.",
        "probe": "imported",
        "probe_source": str(direction.attrs.get("source", "")),
    }
    return xr.DataArray(
        np.concatenate(values, axis=-1), dims=(*dims, "layer"), coords=coords, name="projection", attrs=attrs
    )


def _form(path: str | Path, form: str | None) -> Form:
    """The form asked for, or that of the ending."""
    found = ENDINGS.get(Path(path).suffix.lower()) if form is None else form
    for known in FORMS:
        if known == found:
            return known
    raise ValueError(f"form must be one of {', '.join(FORMS)}; got {form!r} for {path}.")


def _gguf() -> Any:
    """The package gguf, an extra.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        import gguf
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "control vectors of llama.cpp and repeng need the package gguf: pip install morality-lens[gguf]; "
            "or take the form safetensors."
        ) from error
    return gguf


def _write_gguf(path: Path, vectors: Mapping[int, np.ndarray], about: Mapping[str, Any]) -> None:
    gguf = _gguf()
    writer = gguf.GGUFWriter(path, CONTROL)
    writer.add_string(f"{CONTROL}.model_hint", about["model_type"])
    writer.add_uint32(f"{CONTROL}.layer_count", len(vectors))
    writer.add_string(f"{CONTROL}.{TOLD}", json.dumps(dict(about)))
    for layer, vector in vectors.items():
        writer.add_tensor(f"{DIRECTION}{layer}", vector)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _read_gguf(path: Path) -> tuple[dict[int, np.ndarray], dict[str, Any]]:
    gguf = _gguf()
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    if fields.get("general.architecture") != CONTROL:
        raise ValueError(
            f"{path} is no control vector: its architecture is {fields.get('general.architecture')!r}."
        )
    vectors = {}
    for tensor in reader.tensors:
        name = str(tensor.name)
        if name.startswith(DIRECTION):
            vectors[_block(name.removeprefix(DIRECTION), path, 1)] = np.array(tensor.data, np.float32)
    if not vectors:
        raise ValueError(f"{path} holds no tensor {DIRECTION}1 or any other direction.")
    told = json.loads(fields[f"{CONTROL}.{TOLD}"]) if f"{CONTROL}.{TOLD}" in fields else {}
    return vectors, {**told, "model_type": str(fields.get(f"{CONTROL}.model_hint", ""))}


def _write_torch(path: Path, vectors: Mapping[int, np.ndarray], about: Mapping[str, Any]) -> None:
    activations = {layer: torch.from_numpy(vector) for layer, vector in vectors.items()}
    torch.save({"layer_activations": activations, "layer_type": LAYER_TYPE}, path)


def _read_torch(path: Path) -> tuple[dict[int, np.ndarray], dict[str, Any]]:
    """What is in a file of ``torch.save``, read without running anything that it holds."""
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ValueError(
            f"{path} holds objects other than tensors, which are not read, as reading can run anything. "
            f"{SAVE_PLAIN}"
        ) from error
    activations = held.get("layer_activations") if isinstance(held, dict) else None
    if not isinstance(activations, dict) or not activations:
        raise ValueError(f"{path} needs a dictionary with layer_activations. {SAVE_PLAIN}")
    _refuse_other_place(held.get("layer_type", LAYER_TYPE), path)
    return {_block(n, path, 0): one.float().numpy().reshape(-1) for n, one in activations.items()}, {}


def _write_safetensors(path: Path, vectors: Mapping[int, np.ndarray], about: Mapping[str, Any]) -> None:
    tensors = {f"layer_activations.{layer}": vector for layer, vector in vectors.items()}
    save_file(tensors, path, metadata={"layer_type": LAYER_TYPE, TOLD: json.dumps(dict(about))})


def _read_safetensors(path: Path) -> tuple[dict[int, np.ndarray], dict[str, Any]]:
    with safe_open(path, framework="numpy") as opened:
        metadata = opened.metadata() or {}
        names = list(opened.keys())
        named = {key: opened.get_tensor(key) for key in names}
    _refuse_other_place(metadata.get("layer_type", ""), path)
    vectors = {
        _block(key.removeprefix("layer_activations."), path, 0): value.astype(np.float32)
        for key, value in named.items()
        if key.startswith("layer_activations.")
    }
    if not vectors:
        raise ValueError(f"{path} holds no tensor layer_activations.0 or any other.")
    return vectors, json.loads(metadata.get(TOLD, "{}"))


def _refuse_other_place(layer_type: object, path: Path) -> None:
    if layer_type != LAYER_TYPE:
        raise ValueError(
            f"{path} was made for the place {layer_type!r}; directions here are of the residual stream after "
            f"a block, {LAYER_TYPE!r}."
        )


def _block(name: object, path: Path, first: int) -> int:
    """The block that a vector's name stands for."""
    text = str(name)
    if not text.isdecimal() or int(text) < first:
        raise ValueError(f"{path} names a layer {text!r}; layers are numbers from {first} on.")
    return int(text)
