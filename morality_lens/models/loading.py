"""Load a model by hub name, from a folder or the bundled one, and let it prove itself before it is used."""

import copy
import hashlib
import importlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from morality_lens import dialogues, rendering
from morality_lens.bundled import asset
from morality_lens.decoding import LanguageModel, feed, prefill, start, widened
from morality_lens.rendering import Renderer, Transcript

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 3e-2, torch.bfloat16: 1e-1}
"""Largest accepted relative difference (of a residual vector's norm) in a self-test, by dtype."""

ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}


@dataclass(frozen=True, kw_only=True)
class Check:
    """One property that a model proved at load: the measured difference and what was allowed."""

    name: str
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance."""
        return self.difference <= self.tolerance


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelRecord:
    """What is known of a loaded model; :func:`record_of` gives it for a bridge.

    Attributes:
        name: as given by the user (``bundled`` for None).
        revision: the hub commit, or None for a folder.
        fingerprint: hash over the architecture and the weights (see :func:`fingerprint`).
        organism: whether its self-correction effects were planted (the bundled model).
        lm: the same weights as a plain transformers model, by which dialogues are played.
        renderer: its tokenizer and chat template.
        stops: tokens that end a reply.
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
    prefix_reuse: bool
    checks: tuple[Check, ...]


def load_model(
    name: str | Path | None = None,
    *,
    device: str | None = None,
    dtype: str = "auto",
    revision: str | None = None,
    device_map: str | None = None,
    template_keywords: Mapping[str, Any] | None = None,
) -> TransformerBridge:
    """A ``TransformerBridge`` with unprocessed weights that has passed its self-test.

    Args:
        name: a hub name, a folder in Hugging Face format, or None for the bundled model (``bundled``;
            also ``bundled-natural`` and ``bundled-null``, see :data:`BUNDLED`).
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
    bridge = _bridge(source, module)
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
        prefix_reuse=not _warn_if_rewritten(renderer, shown),
        checks=checks,
    )
    object.__setattr__(bridge, "morality_lens_record", record)
    return bridge


def record_of(bridge: TransformerBridge) -> ModelRecord:
    """The record that :func:`load_model` left with a bridge.

    Raises:
        TypeError: the model was loaded in another way.
    """
    record = getattr(bridge, "morality_lens_record", None)
    if not isinstance(record, ModelRecord):
        raise TypeError(
            "this needs a model from load_model, which has passed the self-test; "
            f"got {type(bridge).__name__}."
        )
    return record


BUNDLED = {"bundled": "organism", "bundled-natural": "natural", "bundled-null": "null"}
"""Names of the bundled models, and their folders: effects planted with a causal direction of moral valence;
the same effects without it; no effects."""


def find_model(name: str | Path | None) -> str:
    """The folder or hub name to load from; a folder is looked at before anything large is imported.

    Raises:
        FileNotFoundError: the folder is not there or is no model.
        ValueError: it has no tokenizer.
    """
    text = "bundled" if name is None else str(name)
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
            f"{folder} is no model in Hugging Face format: it has no config.json. "
            "Save one there with model.save_pretrained(folder)."
        )
    if not any(folder.glob("*.safetensors")) and not any(folder.glob("pytorch_model*.bin")):
        raise FileNotFoundError(f"{folder} has a config.json but no weights (*.safetensors).")
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
    if not any((folder / n).is_file() for n in names):
        raise ValueError(
            f"the model in {folder} has no tokenizer (none of {', '.join(names)}); "
            "save one there with tokenizer.save_pretrained(folder)."
        )
    return str(folder)


def _read(
    source: str, revision: str | None, device: str | None, dtype: str, device_map: str | None
) -> tuple[Any, Any]:
    """The plain transformers model and its tokenizer."""
    wanted: Any = getattr(torch, dtype) if dtype != "auto" else ("auto" if device != "cpu" else torch.float32)
    try:
        config = AutoConfig.from_pretrained(source, revision=revision)
        _need_torchvision(config)
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        module: Any = AutoModelForCausalLM.from_pretrained(
            source, revision=revision, config=config, dtype=wanted, device_map=device_map
        )
    except (OSError, ValueError, KeyError) as error:
        where = "folder" if Path(source).exists() else "hub name (or the hub cannot be reached)"
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{source!r} cannot be loaded as a {where}: {first}") from error
    if device is not None:
        module = module.to(device)
    return module.eval().requires_grad_(False), tokenizer


MEDIA = ("vision_config", "audio_config", "vq_config")
"""Parts of a configuration that a checkpoint has which reads pictures or sound beside text."""


def _need_torchvision(config: Any) -> None:
    """Refuse a checkpoint that reads pictures or sound where torchvision is missing.

    Where the processor of such a checkpoint cannot be made, the bridge would run pip for torchvision.

    Raises:
        ModuleNotFoundError: torchvision cannot be imported.
    """
    if not any(getattr(config, name, None) is not None for name in MEDIA):
        return
    try:
        importlib.import_module("torchvision")
    except Exception as error:  # a torchvision of another torch fails with whatever it likes
        raise ModuleNotFoundError(
            f"this checkpoint ({config.model_type}) reads pictures or sound beside text, and its processor "
            f"needs the package torchvision, which cannot be imported ({error}): install the one that "
            "belongs to your torch (pip install torchvision), or load a checkpoint of text alone."
        ) from error


def _bridge(source: str, module: Any) -> TransformerBridge:
    """A bridge over a structural copy of ``module`` that shares its weights.

    A bridge takes the model it wraps apart. The copy leaves the plain model whole: dialogues are played by
    it at full speed, and the self-test holds the two against each other.
    """
    shared: dict[int, Any] = {id(p): p for p in module.parameters()}
    shared |= {id(b): b for b in module.buffers()}
    twin = copy.deepcopy(module, shared)
    tokenizer = AutoTokenizer.from_pretrained(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return TransformerBridge.boot_transformers(
            source, hf_model=twin, tokenizer=tokenizer, dtype=module.dtype
        )


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
            f"the chat template of {name} rewrites earlier turns (it drops thinking, say), so every turn is "
            "read from its beginning: slower, and the transcript of each round is stored for itself.",
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


# --------------------------------------------------------------------------------------------- self-test
def self_test(bridge: TransformerBridge, lm: LanguageModel, renderer: Renderer) -> tuple[Check, ...]:
    """Prove on three short dialogues that what will be captured is what transformers computes.

    Raises:
        ValueError: a check failed; the message has the measured difference and what to try.
    """
    texts = ("Is this fair?", "Two people met at the market. Who was kind?", "Yes.")
    begun = [
        rendering.append_turn(renderer, Transcript(), dialogues.statement_turn(t), round=0) for t in texts
    ]
    rows = [list(t.token_ids) for t in begun]
    reference = [_reference(lm, row) for row in rows]
    tolerance = TOLERANCE[next(lm.module.parameters()).dtype]
    bos = renderer.bos_id
    checks = (
        Check(
            name="exactly one BOS token (none where the model has none)",
            difference=float(sum(abs(row.count(bos) - 1) for row in rows)) if bos is not None else 0.0,
            tolerance=0.0,
        ),
        Check(
            name="hooked residuals equal transformers' hidden states",
            difference=max(_captured(lm, [row], [ref]) for row, ref in zip(rows, reference, strict=True)),
            tolerance=tolerance,
        ),
        Check(
            name="TransformerBridge residuals equal transformers' hidden states",
            difference=max(_bridged(bridge, lm, row) for row in rows),
            # parts of attention are float32 in some models, whatever is asked
            tolerance=max(tolerance, 1e-6),
        ),
        Check(
            name="a padded batch equals each row alone",
            difference=_captured(lm, rows, reference),
            tolerance=tolerance,
        ),
        Check(
            name="a cached continuation equals a fresh forward",
            difference=_captured(lm, rows, reference, split=True),
            tolerance=tolerance,
        ),
    )
    failed = [c for c in checks if not c.passed]
    if failed:
        listed = "; ".join(f"{c.name}: {c.difference:.2g} where {c.tolerance:.0e} is allowed" for c in failed)
        raise ValueError(
            f"the model failed its self-test ({listed}). "
            'Try dtype="float32", or device="cpu" to rule out a kernel; '
            "an architecture that fails there is not supported."
        )
    return checks


def _reference(lm: LanguageModel, row: list[int]) -> Float[Tensor, "layer pos d_model"]:
    """transformers' own hidden states of one unpadded row; the last one is after the final norm."""
    ids = torch.tensor([row], device=lm.device)
    with torch.no_grad():
        states = lm.module(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
    return widened(torch.cat([s.to(lm.device) for s in states]))


def _difference(got: Float[Tensor, "... d_model"], want: Float[Tensor, "... d_model"]) -> float:
    """Largest distance of two vectors, in units of the wanted one's norm."""
    gap = (got - want).norm(dim=-1) / want.norm(dim=-1).clamp(min=1e-12)
    return float(gap.max()) if bool(torch.isfinite(gap).all()) else float("inf")


def _final_norm(lm: LanguageModel, residual: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
    """What the final norm makes of a residual: the input of the head for it."""
    caught: list[Tensor] = []
    handle = lm.blocks[-1].register_forward_hook(
        lambda _, __, out: (
            (residual.to(out[0].dtype), *out[1:]) if isinstance(out, tuple) else residual.to(out.dtype)
        )
    )
    catch = lm.head.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    try:
        with torch.no_grad():
            ids = torch.zeros(residual.shape[:2], dtype=torch.long, device=lm.device)
            lm.module(input_ids=ids, use_cache=False)
    finally:
        handle.remove()
        catch.remove()
    return widened(caught[0])


def _captured(
    lm: LanguageModel, rows: list[list[int]], reference: list[Tensor], *, split: bool = False
) -> float:
    """Largest difference of residuals captured by the engine, at every position, to the reference."""
    batch = start(lm, len(rows))
    parts: list[list[list[int]]] = [rows]
    if split:  # the first tokens, then the rest: rows part at different places
        cut = [max(1, len(row) // 2 - i) for i, row in enumerate(rows)]
        parts = [
            [row[:c] for row, c in zip(rows, cut, strict=True)],
            [row[c:] for row, c in zip(rows, cut, strict=True)],
        ]
    pieces: list[list[Tensor]] = [[] for _ in rows]
    for number, part in enumerate(parts):
        width = max(len(p) for p in part)
        every = torch.eye(width, device=lm.device).expand(len(rows), width, width)
        run = prefill if number == 0 else feed
        _, reads = run(lm, batch, part, every)
        assert reads is not None  # weights were given
        for row, tokens in enumerate(part):
            pieces[row].append(reads[row, : len(tokens)])
    worst = 0.0
    for row, want in enumerate(reference):
        got = torch.cat(pieces[row]).transpose(0, 1)
        last = _final_norm(lm, got[-1:])
        worst = max(worst, _difference(got[:-1], want[:-1]), _difference(last[0], want[-1]))
    return worst


def _bridged(bridge: TransformerBridge, lm: LanguageModel, row: list[int]) -> float:
    """Largest difference of the bridge's residuals after each block but the last to the hidden states.

    A bridge computes attention step by step ("eager"), so transformers is asked to do the same: in half
    precision its faster kernels differ by more than a fault would.
    """
    kernel = lm.module.config._attn_implementation
    lm.module.set_attn_implementation("eager")
    try:
        want = _reference(lm, row)[1:-1]
    finally:
        lm.module.set_attn_implementation(kernel)
    if not len(want):
        return 0.0
    names = [f"blocks.{i}.hook_out" for i in range(len(want))]
    ids = torch.tensor([row], device=lm.device)
    _, cache = bridge.run_with_cache(ids, names_filter=names, prepend_bos=False)
    return _difference(widened(torch.cat([cache[name].to(want.device) for name in names])), want)
