"""Tuned lenses as they are published: an affine map for each layer, read from a folder."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor

from morality_lens.items.files import read_json, reading

FILES = ("params.safetensors", "model.safetensors", "params.pt")
"""Files of weights, the safest format first."""
ADVICE = "take the folder that tuned_lens saved, with config.json and params.pt or params.safetensors."


@dataclass(frozen=True, kw_only=True, eq=False)
class TunedLens:
    """An affine map of the residual for each layer but the last (Belrose et al. 2023).

    A residual x of a layer becomes x + W x + b before the final norm.

    Attributes:
        weight: W by layer, -1 the embedding.
        bias: b by layer.
        base_model: the model that it was tuned on, as its files say.

    Examples:
        >>> import torch
        >>> zero = {layer: torch.zeros(128, 128) for layer in range(-1, 5)}
        >>> bias = {layer: torch.zeros(128) for layer in range(-1, 5)}
        >>> same = ml.circuits.TunedLens(weight=zero, bias=bias, base_model="bundled")
        >>> odds = ml.circuits.lens(model, run, tuned=same)
        >>> bool((odds == ml.circuits.lens(model, run)).all())
        True
    """

    weight: Mapping[int, Float[Tensor, "d_model d_model"]]
    bias: Mapping[int, Float[Tensor, " d_model"]]
    base_model: str

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return len(next(iter(self.bias.values())))

    def at(self, layer: int, residuals: Float[Tensor, "point d_model"]) -> Float[Tensor, "point d_model"]:
        """What the residuals of a layer become."""
        weight, bias = self.weight[layer].to(residuals), self.bias[layer].to(residuals)
        return residuals + residuals @ weight.T + bias

    def refuse_other_model(self, d_model: int, n_layers: int) -> None:
        """Nothing, where the lens has the shape of a model.

        Raises:
            ValueError: it was tuned on a model of another width or depth.
        """
        if (self.d_model, len(self.weight)) != (d_model, n_layers):
            raise ValueError(
                f"the tuned lens of {self.base_model} has {len(self.weight)} layers x {self.d_model}, "
                f"and the run's model {n_layers} layers x {d_model}; take a lens tuned on this model."
            )

    def __repr__(self) -> str:
        return f"<TunedLens of {self.base_model}: {len(self.weight)} layers x {self.d_model}>"


def load_tuned_lens(folder: str | Path) -> TunedLens:
    """The tuned lens in a folder that the library tuned_lens saved, or one like it in safetensors.

    ``config.json`` names the model, ``d_model`` and ``num_hidden_layers``; the weights are ``0.weight``,
    ``0.bias``, ... with 0 for the embedding. Nothing but tensors is read from ``params.pt``.

    Raises:
        FileNotFoundError: there is no such folder, or a file is missing.
        ValueError: the files are no tuned lens of affine maps, or do not fit together.

    Examples:
        >>> import json, torch
        >>> saved = folder / "lens"
        >>> saved.mkdir()
        >>> config = {"base_model_name_or_path": "bundled", "d_model": 128, "num_hidden_layers": 6}
        >>> _ = (saved / "config.json").write_text(json.dumps(config))
        >>> maps = {f"{i}.weight": torch.zeros(128, 128) for i in range(6)}
        >>> maps |= {f"{i}.bias": torch.zeros(128) for i in range(6)}
        >>> torch.save(maps, saved / "params.pt")
        >>> ml.circuits.load_tuned_lens(saved)
        <TunedLens of bundled: 6 layers x 128>
    """
    place = Path(folder)
    if not place.is_dir():
        raise FileNotFoundError(f"there is no folder {place}; {ADVICE}")
    file = next((place / name for name in FILES if (place / name).is_file()), None)
    missing = [name for name in ("config.json",) if not (place / name).is_file()]
    if file is None or missing:
        raise FileNotFoundError(f"{place} lacks {', '.join(missing or FILES[-1:])}; {ADVICE}")
    with reading(place / "config.json", "configuration of a tuned lens", ADVICE):
        config = dict(read_json(place / "config.json"))
        width, count = int(config["d_model"]), int(config["num_hidden_layers"])
    kind = config.get("lens_type", "linear_tuned_lens")
    if kind != "linear_tuned_lens":
        raise ValueError(
            f"{place} is a lens of type {kind!r}; only affine ones (linear_tuned_lens) can be read."
        )
    with reading(file, "file of tensors", ADVICE):
        state = _tensors(file)
    maps = _maps(state, width, count, file)
    return TunedLens(
        weight={layer - 1: maps[layer, "weight"] for layer in range(count)},
        bias={layer - 1: maps.get((layer, "bias"), torch.zeros(width)) for layer in range(count)},
        base_model=str(config.get("base_model_name_or_path", "an unnamed model")),
    )


def _tensors(file: Path) -> dict[str, Any]:
    """The tensors of a file; no code in it is run."""
    if file.suffix == ".safetensors":
        return load_file(file)
    return dict(torch.load(file, map_location="cpu", weights_only=True))


def _maps(state: Mapping[str, Tensor], width: int, count: int, file: Path) -> dict[tuple[int, str], Tensor]:
    """Weights and biases by the number of the layer, in single precision.

    Raises:
        ValueError: other tensors, or some that are missing or of another shape.
    """
    found = {}
    for name, value in state.items():
        parts = re.fullmatch(r"(?:layer_translators\.)?(\d+)\.(weight|bias)", name)
        if parts is None:
            raise ValueError(
                f"{file} holds {name!r}, which is no part of a lens of affine maps (0.weight, 0.bias, ...); "
                + ADVICE
            )
        shape = (width, width) if parts[2] == "weight" else (width,)
        if tuple(value.shape) != shape:
            raise ValueError(
                f"{file}: {name} has the shape {tuple(value.shape)}, and config.json needs {shape}."
            )
        found[int(parts[1]), parts[2]] = value.float()
    there = {number for number, kind in found if kind == "weight"}
    if there != set(range(count)) or not {number for number, _ in found} <= there:
        raise ValueError(f"{file} has maps for {len(there)} layers, and config.json names {count}; {ADVICE}")
    return found
