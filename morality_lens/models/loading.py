"""Load a model by hub name, from a folder or the bundled one, and run its self-test."""

import copy
import hashlib
import importlib
import importlib.util
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from morality_lens.design import ReplyLimits
from morality_lens.dialogues import rendering
from morality_lens.dialogues.rendering import Renderer
from morality_lens.items.bundled import asset
from morality_lens.models.decoding import LanguageModel
from morality_lens.models.self_test import Check, self_test

ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelRecord:
    """Properties of a loaded model; :func:`record_of` gives it for a bridge.

    Attributes:
        name: as given by the user (``bundled`` for None).
        revision: the hub commit, or None for a folder.
        fingerprint: hash over the architecture and the weights (see :func:`fingerprint`).
        organism: whether it is a model organism: its self-correction effects were planted.
        architecture: class of the transformers model.
        n_layers: blocks.
        d_model: width of the residual stream.
        dtype: of the weights.
        lm: the same weights as a plain transformers model, by which dialogues are played.
        renderer: its tokenizer and chat template.
        stops: tokens that end a reply.
        reply_limits: most tokens of its replies, where a protocol names none.
        prefix_reuse: whether later turns keep earlier tokens as they are (no rewriting chat template).
        checks: the self-test.
    """

    name: str
    revision: str | None
    fingerprint: str
    organism: bool
    architecture: str
    n_layers: int
    d_model: int
    dtype: str
    lm: LanguageModel
    renderer: Renderer
    stops: frozenset[int]
    reply_limits: ReplyLimits
    prefix_reuse: bool
    checks: tuple[Check, ...]


class LoadedBridge(TransformerBridge):
    """A bridge that :func:`load_model` returns; it is shown in one line."""

    def __repr__(self) -> str:
        record = record_of(self)
        shape = f"{record.n_layers} layers x {record.d_model}"
        return f"TransformerBridge({record.name}, {shape}, {record.dtype}, {record.lm.device})"


def load_model(
    name: str | Path | None = None,
    *,
    device: str | None = None,
    dtype: str = "auto",
    revision: str | None = None,
    device_map: str | None = None,
    template_keywords: Mapping[str, Any] | None = None,
) -> LoadedBridge:
    """A ``TransformerBridge`` with unprocessed weights that has passed its self-test.

    Args:
        name: a hub name, a folder in Hugging Face format, a .gguf file, or None for the bundled model
            (``bundled``; also ``bundled-natural`` and ``bundled-null``, see :data:`BUNDLED`).
        device: for example ``cpu`` or ``cuda``; None takes a GPU where there is one.
        dtype: ``auto`` (the checkpoint's own; float32 on a CPU), ``float32``, ``bfloat16``, ``float16``
            or ``float64``.
        revision: hub branch, tag or commit.
        device_map: ``auto`` spreads a large model over several GPUs; excludes ``device``.
        template_keywords: further variables for the chat template, such as ``{"enable_thinking": False}``.

    Raises:
        FileNotFoundError: the folder does not exist or holds no model.
        ValueError: no tokenizer, a dtype that does not exist, or a failed self-test.
    """
    if dtype not in ("auto", "float32", "bfloat16", "float16", "float64"):
        raise ValueError(f"dtype must be auto, float32, bfloat16, float16 or float64; got {dtype!r}.")
    if device is not None and device_map is not None:
        raise ValueError("device and device_map exclude each other; give one of them.")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    source = find_model(name)
    module, tokenizer = _read(source, revision, device if device_map is None else None, dtype, device_map)
    shown = "bundled" if name is None else str(name)
    renderer = rendering.make_renderer(tokenizer, dict(template_keywords or {}))
    bridge = _bridge(source, module, tokenizer)
    lm = _language_model(module, bridge)
    checks = self_test(bridge, lm, renderer)
    record = ModelRecord(
        name=shown,
        revision=getattr(module.config, "_commit_hash", None),
        fingerprint=fingerprint(module),
        organism=bool(getattr(module.config, "planted_effects", False)),
        architecture=type(module).__name__,
        n_layers=len(lm.blocks),
        d_model=int(module.config.hidden_size),
        dtype=str(module.dtype).removeprefix("torch."),
        lm=lm,
        renderer=renderer,
        stops=rendering.stop_tokens(renderer, _eos_ids(module, tokenizer)),
        reply_limits=BUNDLED_LIMITS if shown in BUNDLED else ReplyLimits(),
        prefix_reuse=not _warn_if_rewritten(renderer, shown),
        checks=checks,
    )
    object.__setattr__(bridge, "morality_lens_record", record)
    return bridge


def record_of(bridge: TransformerBridge) -> ModelRecord:
    """The record that :func:`load_model` attached to a bridge.

    Raises:
        TypeError: the model was loaded in another way.
    """
    record = getattr(bridge, "morality_lens_record", None)
    if not isinstance(record, ModelRecord):
        raise TypeError(
            "this needs a model from load_model, which has passed the self-test; got "
            f"{type(bridge).__name__}."
        )
    return record


BUNDLED = {"bundled": "organism", "bundled-natural": "natural", "bundled-null": "null"}
"""Names of the bundled models, and their folders: effects planted with a causal direction of moral valence;
the same effects without it; no effects."""
BUNDLED_LIMITS = ReplyLimits(answer=16, rationale=48, feedback=32)
"""Most tokens of the replies of the bundled models: theirs are shorter, and so is their context window."""


def find_model(name: str | Path | None) -> str:
    """The folder or hub name to load from; a folder is checked before anything large is imported.

    Raises:
        FileNotFoundError: the folder is not there or is no model.
        ValueError: it has no tokenizer.
    """
    text = "bundled" if name is None else str(name)
    if text.endswith(".gguf"):
        file = Path(text).expanduser()
        if not file.is_file():
            raise FileNotFoundError(f"no model file at {file}; give a .gguf file, a folder or a hub name.")
        return str(file)
    if text in BUNDLED:
        folder = asset("world", BUNDLED[text])
    else:
        folder = Path(text).expanduser()
        looks_local = isinstance(name, Path) or text.startswith((".", "/", "~")) or text.count("/") > 1
        if not folder.exists() and not looks_local:
            return text
        if not folder.is_dir():
            raise FileNotFoundError(f"no model folder at {folder}; give a folder, a hub name, or nothing.")
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} is no model in Hugging Face format: it has no config.json. Save one there with "
            "model.save_pretrained(folder)."
        )
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("pytorch_model*.bin")):
        raise FileNotFoundError(f"{folder} has a config.json but no weights (*.safetensors).")
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
    if not any((folder / n).is_file() for n in names):
        raise ValueError(
            f"the model in {folder} has no tokenizer (none of {', '.join(names)}); save one there with "
            "tokenizer.save_pretrained(folder)."
        )
    return str(folder)


def _read(
    source: str, revision: str | None, device: str | None, dtype: str, device_map: str | None
) -> tuple[Any, Any]:
    """The plain transformers model and its tokenizer."""
    wanted: Any = getattr(torch, dtype) if dtype != "auto" else ("auto" if device != "cpu" else torch.float32)
    try:
        where, more = _place(source, revision)
        config = AutoConfig.from_pretrained(where, **more)
        _need_torchvision(config)
        tokenizer = AutoTokenizer.from_pretrained(where, **more)
        module: Any = AutoModelForCausalLM.from_pretrained(
            where, config=config, dtype=wanted, device_map=device_map, **more
        )
    except (OSError, ValueError, KeyError) as error:
        where = "folder" if Path(source).exists() else "hub name (or the hub cannot be reached)"
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{source!r} cannot be loaded as a {where}: {first}") from error
    if device is not None:
        module = module.to(device)
    return module.eval().requires_grad_(False), tokenizer


def _place(source: str, revision: str | None) -> tuple[str, dict[str, Any]]:
    """The folder or hub name, and what says which file or revision of it.

    Raises:
        ModuleNotFoundError: a .gguf file without the package that reads it.
    """
    if not source.endswith(".gguf"):
        return source, {"revision": revision}
    if importlib.util.find_spec("gguf") is None:
        raise ModuleNotFoundError(
            f'reading {Path(source).name} needs the package gguf: pip install "morality-lens[gguf]", or load '
            "the model from a folder in Hugging Face format."
        )
    return str(Path(source).parent), {"gguf_file": Path(source).name}


MEDIA = {"vision_config", "audio_config", "vq_config"}
"""Parts of a configuration that belong to checkpoints which read images or sound as well as text."""


def _need_torchvision(config: Any) -> None:
    """Refuse a checkpoint that reads images or sound where torchvision is missing.

    Where the processor of such a checkpoint cannot be made, the bridge would run pip to install torchvision.
    It decides by the class of the checkpoint, whether or not this one has the part that reads them.

    Raises:
        ModuleNotFoundError: torchvision cannot be imported.
    """
    given = {name for name in MEDIA if getattr(config, name, None) is not None}
    if not given | (MEDIA & set(type(config).sub_configs)):
        return
    try:
        importlib.import_module("torchvision")
    except Exception as error:  # a torchvision built for another torch fails with errors of any type
        raise ModuleNotFoundError(
            f"this checkpoint ({config.model_type}) reads images or sound as well as text, and its processor "
            f"needs the package torchvision, which cannot be imported ({error}): install the version that "
            "matches your torch (pip install torchvision), or load a text-only checkpoint."
        ) from error


def _bridge(source: str, module: Any, tokenizer: Any) -> LoadedBridge:
    """A bridge over a structural copy of ``module`` that shares its weights.

    A bridge takes the model it wraps apart. The copy leaves the plain model intact: dialogues are played by
    it at full speed, and the self-test compares the two.
    """
    shared: dict[int, Any] = {id(p): p for p in module.parameters()}
    shared |= {id(b): b for b in module.buffers()}
    copied = copy.deepcopy(module, shared)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bridge = TransformerBridge.boot_transformers(
            source, hf_model=copied, tokenizer=copy.deepcopy(tokenizer), dtype=module.dtype
        )
    object.__setattr__(bridge, "__class__", LoadedBridge)
    assert isinstance(bridge, LoadedBridge)
    return bridge


def _language_model(module: Any, bridge: TransformerBridge) -> LanguageModel:
    mapping: Any = bridge.adapter.component_mapping
    blocks: Any = module.get_submodule(str(mapping["blocks"].name))
    config = module.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    return LanguageModel(
        module=module,
        blocks=tuple(blocks),
        head=module.get_output_embeddings(),
        window=int(config.max_position_embeddings),
        cached=not getattr(bridge.cfg, "is_stateful", False) and kinds <= ATTENTION,
    )


def _eos_ids(module: Any, tokenizer: Any) -> list[int]:
    ids: list[int] = []
    for value in (module.generation_config.eos_token_id, module.config.eos_token_id, tokenizer.eos_token_id):
        ids += value if isinstance(value, list) else [] if value is None else [value]
    return ids


def _warn_if_rewritten(renderer: Renderer, name: str) -> bool:
    rewritten = rendering.rewrites_history(renderer)
    if rewritten:
        warnings.warn(
            f"the chat template of {name} rewrites earlier turns (by dropping thinking, for example), so the "
            "whole dialogue is read again in every turn: this is slower, and the transcript of each round is "
            "stored separately.",
            stacklevel=3,
        )
    return rewritten


def fingerprint(module: Any) -> str:
    """Hash over the config and each weight tensor's name, shape and up to 4,096 evenly spaced values."""
    config = module.config.to_diff_dict()
    for name in ("_name_or_path", "transformers_version", "dtype", "torch_dtype"):
        config.pop(name, None)
    described = f"{type(module).__name__} {json.dumps(config, sort_keys=True, default=str)}"
    digest = hashlib.sha256(described.encode())
    for name, tensor in sorted(module.state_dict().items()):
        flat = tensor.detach().reshape(-1)
        index = torch.linspace(0, flat.numel() - 1, min(4096, flat.numel()), dtype=torch.float64).long()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(flat[index.to(flat.device)].double().cpu().numpy().tobytes())
    return digest.hexdigest()
