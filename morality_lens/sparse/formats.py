"""Sparse autoencoders read from the folders in which they are published."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from morality_lens.items.files import read_json, reading
from morality_lens.sparse.autoencoder import SparseAutoencoder
from morality_lens.sparse.tensors import read_tensors

ADVICE = (
    "take the folder of one autoencoder: SAELens (cfg.json, sae_weights.safetensors), Gemma Scope "
    "(params.npz) or Gemma Scope 2 (config.json, params.safetensors)."
)
FILES = {"sae_weights.safetensors": "cfg.json", "params.safetensors": "config.json", "params.npz": None}
"""Files of weights, and the configuration beside each."""
BEFORE = {
    "standard": "relu",
    "relu": "relu",
    "jumprelu": "jumprelu",
    "jump_relu": "jumprelu",
    "topk": "topk",
}
"""Architectures that can be read, as their files name them, and their activation."""


def load_sae(
    folder: str | Path, *, hook: str | None = None, input_scale: float | None = None
) -> SparseAutoencoder:
    """The sparse autoencoder in a folder, in the format of SAELens, Gemma Scope or Gemma Scope 2.

    It must have been trained on the residual stream: ``hook_resid_post`` of block l is this package's layer
    l, ``hook_resid_pre`` of block l its layer l - 1, ``model.layers.l.output`` its layer l.

    Args:
        folder: the folder.
        hook: where it was trained, for a format that does not say it (Gemma Scope's ``params.npz``, unless
            its path names ``layer_12`` and no attention or MLP); else None.
        input_scale: by what residuals were multiplied, where the training made their mean norm the root of
            d_model (``expected_average_only_in``) and that number was not folded into the weights; else None.

    Raises:
        FileNotFoundError: there is no such folder, or a file is missing.
        ValueError: another hook, architecture or scaling than those that can be read, or damaged files.

    Examples:
        >>> import json
        >>> from safetensors.numpy import save_file
        >>> saved = folder / "sae"
        >>> saved.mkdir()
        >>> hook = "blocks.3.hook_resid_post"
        >>> config = {"architecture": "standard", "d_in": 128, "d_sae": 4, "hook_name": hook}
        >>> _ = (saved / "cfg.json").write_text(json.dumps(config))
        >>> shapes = {"W_enc": (128, 4), "b_enc": 4, "W_dec": (4, 128), "b_dec": 128}
        >>> weights = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
        >>> save_file(weights, saved / "sae_weights.safetensors")
        >>> ml.load_sae(saved)
        <SparseAutoencoder relu: 4 features of 128 at layer 3, of an unnamed model>
    """
    place = Path(folder)
    if not place.is_dir():
        raise FileNotFoundError(f"there is no folder {place}; {ADVICE}")
    name = next((name for name in FILES if (place / name).is_file()), None)
    if name is None:
        raise FileNotFoundError(f"{place} has none of the files {', '.join(FILES)}; {ADVICE}")
    beside = FILES[name]
    if beside is not None and not (place / beside).is_file():
        raise FileNotFoundError(f"{place} has {name} but no {beside}; {ADVICE}")
    config: dict[str, Any] = {}
    if beside is not None:
        with reading(place / beside, "configuration of an autoencoder", ADVICE):
            config = _flat(dict(read_json(place / beside)))
    with reading(place / name, "file of an autoencoder's weights", ADVICE):
        arrays = {key: np.asarray(value) for key, value in read_tensors(place / name).items()}
    scope = name != "sae_weights.safetensors"
    told = {"architecture": "jumprelu", "apply_b_dec_to_input": False, **config} if scope else config
    return _made(place, told, _named(arrays), hook=hook or _hook(told, place), input_scale=input_scale)


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration in today's names: older versions had others, newer ones nest some."""
    nested = [
        config.pop(name) for name in ("metadata", "meta", "sae", "activation_fn_kwargs") if name in config
    ]
    for more in nested:
        config = {**(more if isinstance(more, Mapping) else {}), **config}
    older = {
        "hook_point": "hook_name",
        "hf_hook_point_in": "hook_name",
        "hook_point_layer": "hook_layer",
        "activation_fn_str": "activation_fn",
    }
    for old, new in older.items():
        if old in config:
            config.setdefault(new, config[old])
    return config


def _named(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays by the names of SAELens, in single precision (or double, where they are)."""
    found = {}
    for key, value in arrays.items():
        name = f"W_{key[2:]}" if key.startswith("w_") else key
        found[name] = value if value.dtype == np.float64 else value.astype(np.float32)
    return found


def _hook(told: Mapping[str, Any], place: Path) -> str:
    """Where an autoencoder was trained, as its configuration says, or the path of Gemma Scope."""
    if told.get("hook_name"):
        return str(told["hook_name"])
    path = place.resolve().as_posix()
    found = re.findall(r"layer_(\d+)(?:/|_|$)", path)
    if found and not re.search(r"transcoder|crosscoder|[-_/](?:att|attn|mlp)(?:[-_/]|$)", path):
        return f"blocks.{found[-1]}.hook_resid_post"
    raise ValueError(
        f"{place} does not say where its autoencoder was trained; name it, for example as "
        "hook='blocks.12.hook_resid_post'."
    )


def layer_of_hook(hook: str, source: object) -> int:
    """The layer of this package at which an autoencoder reads.

    Raises:
        ValueError: it does not read the residual stream after a block.
    """
    found = re.fullmatch(r"blocks\.(\d+)\.hook_resid_(pre|post)", hook)
    if found is not None:
        return int(found[1]) - (found[2] == "pre")
    plain = re.fullmatch(r"(?:\w+\.)*(?:layers|h)\.(\d+)(?:\.output)?", hook)
    if plain is not None:
        return int(plain[1])
    raise ValueError(
        f"the autoencoder from {source} reads {hook!r}; a run stores the residual stream alone "
        "(blocks.l.hook_resid_post, blocks.l.hook_resid_pre, model.layers.l.output). Take one of those."
    )


def _made(
    place: Path,
    told: Mapping[str, Any],
    arrays: dict[str, np.ndarray],
    *,
    hook: str,
    input_scale: float | None,
) -> SparseAutoencoder:
    """The autoencoder that a configuration and arrays describe."""
    activation = _activation(told, place)
    missing = [name for name in ("W_enc", "b_enc", "W_dec", "b_dec") if name not in arrays]
    if missing:
        raise ValueError(f"{place} lacks {', '.join(missing)} among its weights; {ADVICE}")
    if not np.allclose(
        arrays.pop("finetuning_scaling_factor", arrays.pop("scaling_factor", np.ones(1))), 1.0
    ):
        raise ValueError(
            f"{place} scales its features after a finetuning, which is not read; take it without."
        )
    threshold = None
    if activation == "jumprelu":
        held = arrays.get("threshold")
        threshold = np.exp(arrays["log_threshold"]) if held is None and "log_threshold" in arrays else held
    scaling = _scaling(told, place, input_scale)
    encoder, bias, decoder = arrays["W_enc"], arrays["b_enc"], arrays["W_dec"]
    size = encoder.dtype.type(input_scale or 1.0)
    if told.get("rescale_acts_by_decoder_norm"):
        norm = np.linalg.norm(decoder, axis=1)
        encoder, bias, decoder = encoder * norm, bias * norm, decoder / norm[:, None]
    return SparseAutoencoder(
        encoder=encoder * size,
        encoder_bias=bias,
        decoder=decoder / size,
        decoder_bias=arrays["b_dec"] / size,
        layer=layer_of_hook(hook, place),
        activation=activation,
        threshold=threshold,
        k=int(told["k"]) if activation == "topk" else None,
        subtract_bias=bool(told.get("apply_b_dec_to_input", True)),
        scaling=scaling,
        trained_on=str(told.get("model_name") or "an unnamed model"),
        source=str(place),
    )


def _activation(told: Mapping[str, Any], place: Path) -> Any:
    """The activation that a configuration names.

    Raises:
        ValueError: one that is not read.
    """
    kind = str(told.get("architecture", "standard"))
    function = str(told.get("activation_fn", "relu"))
    if kind == "standard" and function.startswith("topk"):
        kind, function = "topk", "relu"
    if kind not in BEFORE or function not in ("relu", "topk", "jumprelu"):
        raise ValueError(
            f"the autoencoder from {place} has the architecture {kind!r} with {function!r}; standard (ReLU), "
            "jumprelu and topk are read."
        )
    if told.get("affine_connection") or told.get("type", "sae") not in ("sae", "standard"):
        raise ValueError(f"{place} holds no autoencoder but a transcoder or the like, which is not read.")
    if BEFORE[kind] == "topk" and not told.get("k"):
        raise ValueError(f"{place} keeps the k largest features and does not say k; {ADVICE}")
    return BEFORE[kind]


def _scaling(told: Mapping[str, Any], place: Path, input_scale: float | None) -> Any:
    """What is done to each input.

    Raises:
        ValueError: a scaling whose number is not known.
    """
    given = told.get("normalize_activations") or "none"
    given = "expected_average_only_in" if given is True else str(given)
    if input_scale is not None and not (np.isfinite(input_scale) and input_scale > 0):
        raise ValueError(f"input_scale is a positive number; got {input_scale}.")
    if given == "expected_average_only_in":
        if input_scale is None:
            raise ValueError(
                f"the autoencoder from {place} was trained on residuals whose mean norm over its training "
                "text was made the root of d_model (expected_average_only_in), and the number they were "
                "multiplied by is not in its files; give it as input_scale."
            )
        return "none"
    if given not in ("none", "constant_norm_rescale", "layer_norm"):
        raise ValueError(
            f"the autoencoder from {place} scales its inputs by {given!r}; none, expected_average_only_in, "
            "constant_norm_rescale and layer_norm are read."
        )
    if input_scale is not None:
        raise ValueError(
            f"the autoencoder from {place} scales its inputs by {given!r}, so input_scale is not used; leave "
            "it out."
        )
    return given
