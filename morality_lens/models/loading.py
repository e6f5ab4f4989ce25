"""Load a model by hub name, from a folder or the bundled one, and run its self-test."""

import copy
import hashlib
import inspect
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge

from morality_lens.design import ReplyLimits
from morality_lens.dialogues import rendering
from morality_lens.dialogues.rendering import Renderer
from morality_lens.models.checkpoints import Dtype, Loading, Quantization, read_checkpoint
from morality_lens.models.decoding import LanguageModel
from morality_lens.models.finding import BUNDLED as BUNDLED, find_model as find_model
from morality_lens.models.self_test import Check, self_test
from morality_lens.models.windows import Window, context_window, warn_if_limited
from morality_lens.progress import stage

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
        window: its context window, and why it is shorter than stated where it is.
        options: what was chosen when it was loaded: the template's keywords, quantization, map of devices and
            merged adapter; only those that were given.
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
    window: Window
    options: dict[str, Any]

    def __repr__(self) -> str:
        shape = f"{self.n_layers} layers x {self.d_model}, {self.dtype}"
        return f"<ModelRecord {self.name}: {self.architecture}, {shape}, window {self.window.tokens} tokens>"


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
    dtype: Dtype = "auto",
    revision: str | None = None,
    device_map: str | None = None,
    template_keywords: Mapping[str, Any] | None = None,
    quantization: Quantization | None = None,
) -> LoadedBridge:
    """A ``TransformerBridge`` with unprocessed weights that has passed its self-test.

    Args:
        name: a hub name, a folder in Hugging Face format, the folder of a LoRA adapter (merged into its base
            model), a .gguf file, or None for the bundled model (``bundled``; also ``bundled-natural`` and
            ``bundled-null``, see :data:`BUNDLED`).
        device: for example ``cpu`` or ``cuda``; None takes a GPU where there is one.
        dtype: ``auto`` (the checkpoint's own; float32 on a CPU), ``float32``, ``bfloat16``, ``float16``
            or ``float64``.
        revision: hub branch, tag or commit.
        device_map: ``auto`` spreads a large model over several GPUs; excludes ``device``.
        template_keywords: further variables for the chat template, such as ``{"enable_thinking": False}``.
        quantization: ``4bit`` or ``8bit`` loads the weights so, through bitsandbytes.

    Raises:
        FileNotFoundError: the folder does not exist or holds no model.
        ModuleNotFoundError: a package that this checkpoint needs is missing.
        ValueError: no tokenizer, an option that does not exist, or a failed self-test.

    Examples:
        >>> model = ml.load_model()
        >>> model.cfg.n_layers, model.cfg.d_model
        (6, 128)
    """
    loading = Loading(
        device=device, dtype=dtype, revision=revision, device_map=device_map, quantization=quantization
    )
    keywords = _checked_keywords(template_keywords)
    stage("reading the weights")
    read = read_checkpoint(name, loading)
    module, shown = read.module, "bundled" if name is None else str(name)
    _refuse_recurrent(module)
    window = context_window(module.config.get_text_config())
    warn_if_limited(window, shown)
    renderer = rendering.make_renderer(read.tokenizer, keywords)
    bridge = _bridge(read.source, module, read.tokenizer)
    lm = _language_model(module, bridge, window)
    tested = self_test(bridge, lm, renderer)
    options = {
        "template_keywords": keywords,
        "quantization": quantization,
        "device_map": device_map,
        "adapter": read.adapter,
    }
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
        stops=rendering.stop_tokens(renderer, _eos_ids(module, read.tokenizer)),
        reply_limits=BUNDLED_LIMITS if shown in BUNDLED else ReplyLimits(),
        prefix_reuse=not _warn_if_rewritten(renderer, shown),
        checks=tested,
        window=window,
        options={key: value for key, value in options.items() if value},
    )
    object.__setattr__(bridge, "morality_lens_record", record)
    return bridge


def _checked_keywords(given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The template's keywords, as a manifest holds them.

    Raises:
        TypeError: a value that JSON cannot hold.
    """
    try:
        return json.loads(json.dumps(dict(given or {})))
    except TypeError as error:
        raise TypeError(
            f"template_keywords are kept in a run's manifest, so their values are texts, numbers, true or "
            f"false, lists or tables of these; got {dict(given or {})!r}."
        ) from error


def reload_model(recorded: Mapping[str, Any], *, device: str | None = None) -> LoadedBridge:
    """The model of a run, loaded as the run loaded it.

    Args:
        recorded: what the run's manifest says about its model.
        device: for example ``cpu``; None takes a GPU where there is one, or the run's own map of devices.
    """
    name, mapped = recorded["name"], recorded.get("device_map")
    source = find_model(None if name == "bundled" else name)
    return load_model(
        None if name == "bundled" else name,
        device=device,
        dtype=recorded["dtype"],
        revision=None if Path(source).exists() else recorded.get("revision"),
        device_map=mapped if device is None else None,
        template_keywords=recorded.get("template_keywords"),
        quantization=recorded.get("quantization"),
    )


def record_of(bridge: TransformerBridge) -> ModelRecord:
    """The record that :func:`load_model` attached to a bridge.

    Raises:
        TypeError: the model was loaded in another way.

    Examples:
        >>> record = ml.models.record_of(model)
        >>> record.name, record.n_layers
        ('bundled', 6)
        >>> all(check.difference <= check.tolerance for check in record.checks)
        True
    """
    record = getattr(bridge, "morality_lens_record", None)
    if not isinstance(record, ModelRecord):
        raise TypeError(
            "this needs a model from load_model, which has passed the self-test; got "
            f"{type(bridge).__name__}."
        )
    return record


BUNDLED_LIMITS = ReplyLimits(answer=16, rationale=48, feedback=32)
"""Most tokens of the replies of the bundled models: theirs are shorter, and so is their context window."""


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
            source,
            hf_model=copied,
            tokenizer=copy.deepcopy(tokenizer),
            dtype=module.dtype,
            trust_remote_code=False,
        )
    object.__setattr__(bridge, "__class__", LoadedBridge)
    assert isinstance(bridge, LoadedBridge)
    return bridge


def _language_model(module: Any, bridge: TransformerBridge, window: Window) -> LanguageModel:
    mapping: Any = bridge.adapter.component_mapping
    blocks: Any = module.get_submodule(str(mapping["blocks"].name))
    config = module.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    return LanguageModel(
        module=module,
        blocks=tuple(blocks),
        head=module.get_output_embeddings(),
        window=window.tokens,
        positions="position_ids" in inspect.signature(module.forward).parameters
        and not getattr(config, "alibi", False),
        cached=not getattr(bridge.cfg, "is_stateful", False) and kinds <= ATTENTION,
    )


def _refuse_recurrent(module: Any) -> None:
    """Refuse a model without attention, whose state padding and a shared beginning would change.

    Raises:
        ValueError: such a model.
    """
    heads = getattr(module.config.get_text_config(), "num_attention_heads", None)
    if getattr(type(module), "_is_stateful", False) and not heads:
        raise ValueError(
            f"{type(module).__name__} has no attention: it passes on a recurrent state, of which no position "
            "can be masked or patched alone. Take a model with attention (hybrid ones, such as Jamba, too)."
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
