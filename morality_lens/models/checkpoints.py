"""A checkpoint as a plain transformers model and its tokenizer: folders, hub names, .gguf files, adapters."""

import hashlib
import importlib
import importlib.util
import warnings
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from morality_lens.items.files import first_line, read_json
from morality_lens.models.finding import ADAPTER, TOKENIZERS, find_model
from morality_lens.progress import without_bars

Dtype = Literal["auto", "float32", "bfloat16", "float16", "float64"]
Quantization = Literal["4bit", "8bit"]
DTYPES, QUANTIZATIONS = get_args(Dtype), get_args(Quantization)
TEXT_INSIDE = {"gemma3"}
"""Checkpoints that read images too, whose text model is a causal model of its own: it is loaded alone."""
MEDIA = {"vision_config", "audio_config", "vq_config"}
"""Parts of a configuration that belong to checkpoints which read images or sound as well as text."""


@dataclass(frozen=True, kw_only=True)
class Loading:
    """How a checkpoint is read.

    Attributes:
        device: for example ``cpu`` or ``cuda``; None takes a GPU where there is one.
        dtype: one of :data:`DTYPES`.
        revision: hub branch, tag or commit.
        device_map: ``auto`` spreads a large model over several GPUs.
        quantization: one of :data:`QUANTIZATIONS`, or None.

    Raises:
        ValueError: an option that does not exist, or options that exclude each other.
    """

    device: str | None = None
    dtype: str = "auto"
    revision: str | None = None
    device_map: str | None = None
    quantization: str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be {', '.join(DTYPES[:-1])} or {DTYPES[-1]}; got {self.dtype!r}.")
        if self.device is not None and self.device_map is not None:
            raise ValueError("device and device_map exclude each other; give one of them.")
        if self.device is not None:
            _refuse_device(self.device)
        if self.quantization not in (None, *QUANTIZATIONS):
            raise ValueError(f"quantization must be 4bit or 8bit; got {self.quantization!r}.")
        if self.quantization and self.dtype in ("float32", "float64"):
            raise ValueError(
                f"quantization={self.quantization!r} computes in half precision; give dtype auto, bfloat16 "
                f"or float16 with it, not {self.dtype}."
            )

    @property
    def target(self) -> str | None:
        """The device; None where a map spreads the model."""
        if self.device_map is not None:
            return None
        return self.device or ("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def weights(self) -> Any:
        """The dtype as transformers takes it."""
        if self.quantization and self.dtype == "auto":
            return torch.bfloat16
        if self.dtype != "auto":
            return getattr(torch, self.dtype)
        return "auto" if self.target != "cpu" else torch.float32


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """What was read.

    Attributes:
        source: folder, file or hub name of the model, without an adapter.
        module: the plain transformers model.
        tokenizer: its tokenizer.
        adapter: folder, hash, and base of the adapter that was merged into it; empty where there was none.
    """

    source: str
    module: Any
    tokenizer: Any
    adapter: dict[str, str] = field(default_factory=dict)


def _refuse_device(name: str) -> None:
    """Nothing, where tensors can be made on a device of that name.

    Raises:
        ValueError: there is none here.
    """
    try:
        if torch.device(name).type == "meta":
            raise RuntimeError("it holds no values")
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, ImportError, NotImplementedError, ValueError) as error:
        there = ["cpu", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))]
        raise ValueError(
            f"no model can be put on the device {name!r} here ({first_line(error)[:120]}); this machine has "
            f"{', '.join(there)}."
        ) from error


# ---------------------------------------------------------------------------------------------- reading
def read_checkpoint(name: str | Path | None, loading: Loading) -> Checkpoint:
    """The plain transformers model of a checkpoint, and its tokenizer.

    Raises:
        FileNotFoundError: the folder does not exist or holds no model.
        ModuleNotFoundError: a package that this checkpoint needs is missing.
        ValueError: it cannot be loaded.
    """
    source = find_model(name)
    _refuse_revision(source, loading.revision)
    if not (Path(source) / ADAPTER).is_file():
        module, tokenizer = _read(source, loading)
        return Checkpoint(source=source, module=module, tokenizer=tokenizer)
    folder = Path(source)
    base = _base_of(folder)
    if loading.quantization:
        raise ValueError(
            "an adapter is merged into weights that are not quantized: load the adapter's folder without "
            "quantization."
        )
    module, tokenizer = _read(base, loading)
    if any((folder / n).is_file() for n in TOKENIZERS):
        tokenizer = _tokenizer(folder)
    digest = hashlib.sha256()
    for file in sorted([folder / ADAPTER, *folder.glob("adapter_model*")]):
        digest.update(file.read_bytes())
    return Checkpoint(
        source=base,
        module=_merged(module, folder).eval().requires_grad_(False),
        tokenizer=tokenizer,
        adapter={"folder": str(name), "sha256": digest.hexdigest(), "base": base},
    )


def read_shape(name: str | Path | None) -> tuple[int, int]:
    """Blocks and width of a model, from its configuration; its weights are not read.

    Raises:
        FileNotFoundError: the folder does not exist or holds no model.
        ValueError: the configuration does not say them.
    """
    source = Path(find_model(name))
    if (source / ADAPTER).is_file():
        source = Path(_base_of(source))
    kind: dict[str, Any] = {"gguf_file": source.name} if source.suffix == ".gguf" else {}
    where = str(source.parent if kind else source)
    config: Any = AutoConfig.from_pretrained(where, trust_remote_code=False, **kind).get_text_config()
    if not (getattr(config, "num_hidden_layers", None) and getattr(config, "hidden_size", None)):
        raise ValueError(f"the configuration of {source} names no number of layers and no width.")
    return int(config.num_hidden_layers), int(config.hidden_size)


def _refuse_revision(source: str, revision: str | None) -> None:
    if revision is not None and Path(source).exists():
        raise ValueError(
            f"revision={revision!r} names a version on a hub, and {source} is a folder or file, which has "
            "one version only; leave it out."
        )


def _base_of(folder: Path) -> str:
    """The base model that an adapter's configuration names; a relative folder may lie beside the adapter.

    Raises:
        ValueError: it names none.
        FileNotFoundError: the base is a folder that is not there.
    """
    stated = read_json(folder / ADAPTER)
    named = stated.get("base_model_name_or_path") if isinstance(stated, dict) else None
    if not named or not isinstance(named, str):
        raise ValueError(
            f"the adapter in {folder} names no base model; write its folder or hub name into {ADAPTER} as "
            "base_model_name_or_path."
        )
    beside = folder / str(named)
    if not Path(named).expanduser().exists() and beside.is_dir():
        named = beside
    try:
        base = find_model(str(named))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"the base model of the adapter in {folder}: {error}") from error
    if (Path(base) / ADAPTER).is_file():
        raise ValueError(f"the base model of the adapter in {folder} is an adapter itself ({base}).")
    return base


def _merged(module: Any, folder: Path) -> Any:
    """The model with an adapter's changes added to its weights.

    Raises:
        ValueError: the adapter does not fit the model, or is of a kind that cannot be merged.
    """
    peft: Any = importlib.import_module("peft")
    try:
        with warnings.catch_warnings():  # of names that peft still uses and transformers will drop
            warnings.simplefilter("ignore", FutureWarning)
            wrapped = peft.PeftModel.from_pretrained(module, str(folder), trust_remote_code=False)
    except (ModuleNotFoundError, MemoryError):
        raise
    except Exception as error:  # what a damaged file raises is of any type
        raise ValueError(
            f"the adapter in {folder} is damaged or does not fit its base model {type(module).__name__}: "
            f"{first_line(error)}"
        ) from error
    merge = getattr(wrapped.base_model, "merge_and_unload", None)
    if not callable(merge):
        kind = wrapped.active_peft_config.peft_type
        raise ValueError(
            f"the adapter in {folder} is of the kind {getattr(kind, 'value', kind)}, which changes no "
            "weights and cannot be merged; give a LoRA adapter."
        )
    return merge(safe_merge=True)


def _read(source: str, loading: Loading) -> tuple[Any, Any]:
    """The plain transformers model in a folder, file or hub, and its tokenizer."""
    # A download is worth a bar; what is here is read in seconds.
    with without_bars() if Path(source).exists() else nullcontext():
        return _read_here(source, loading)


def _read_here(source: str, loading: Loading) -> tuple[Any, Any]:
    more = _quantized(loading)
    try:
        where, place = _place(source, loading.revision)
        place["trust_remote_code"] = False
        config = AutoConfig.from_pretrained(where, **place)
        _refuse_fetched_kernel(config)
        tokenizer = AutoTokenizer.from_pretrained(where, **place)
        more |= {"dtype": loading.weights, "device_map": loading.device_map, **more, **place}
        if config.model_type in TEXT_INSIDE and MEDIA & set(vars(config)):
            module: Any = _text_inside(where, config, more)
        else:
            need_torchvision(config)
            module = AutoModelForCausalLM.from_pretrained(where, config=config, **more)
    except (ModuleNotFoundError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # what a damaged or foreign file raises is of any type
        raise _unreadable(source, error) from error
    if loading.target is not None and loading.quantization is None:
        module = module.to(loading.target)
    return module.eval().requires_grad_(False), tokenizer


def _tokenizer(folder: Path) -> Any:
    """The tokenizer in an adapter's folder."""
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (ModuleNotFoundError, MemoryError):
        raise
    except Exception as error:
        raise _unreadable(str(folder), error) from error


def _unreadable(source: str, error: Exception) -> ValueError:
    """Why a checkpoint cannot be loaded, in one line."""
    if "trust_remote_code" in str(error):
        return ValueError(
            f"{source!r} needs Python code of its own, and no code that comes with a model is run; take a "
            "model whose architecture is part of transformers."
        )
    place = Path(source)
    where = "hub name (or the hub cannot be reached)"
    if place.exists():
        where = "folder" if place.is_dir() else "file"
    return ValueError(f"{source!r} cannot be loaded as a {where}: {first_line(error)}")


def _refuse_fetched_kernel(config: Any) -> None:
    """Refuse a configuration whose attention is computed by code that would be fetched from a hub.

    Raises:
        ValueError: such a configuration.
    """
    named = getattr(config, "_attn_implementation_internal", None) or ""
    if any("/" in str(one) for one in (named.values() if isinstance(named, dict) else [named])):
        raise ValueError(
            f"its configuration names attention that is code on a hub ({named}), and no code that comes with "
            'a model is run; remove "attn_implementation" from its config.json.'
        )


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


def _quantized(loading: Loading) -> dict[str, Any]:
    """What makes transformers load 4- or 8-bit weights; nothing where none were asked for.

    Raises:
        ModuleNotFoundError: bitsandbytes is missing.
    """
    if loading.quantization is None:
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModuleNotFoundError(
            f"quantization={loading.quantization!r} needs the package bitsandbytes: pip install "
            "bitsandbytes, or load the model without quantization."
        )
    made = BitsAndBytesConfig(
        load_in_4bit=loading.quantization == "4bit",
        load_in_8bit=loading.quantization == "8bit",
        bnb_4bit_compute_dtype=loading.weights,
        bnb_4bit_quant_type="nf4",
    )
    found: dict[str, Any] = {"quantization_config": made}
    return found if loading.device_map else {**found, "device_map": {"": loading.target}}


def _text_inside(where: str, config: Any, more: dict[str, Any]) -> Any:
    """The text model of a checkpoint that reads images too, as the causal model that it is.

    The whole checkpoint is read, so that transformers itself maps the weights, and the text model is taken
    out of it: same weights, and no processor of images that a package would have to be installed for.
    """
    whole: Any = AutoModelForCausalLM.from_pretrained(where, config=config, **more)
    text = config.get_text_config()
    kind: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(text)]
    text.architectures = [kind.__name__]
    with torch.device("meta"):
        module = kind(text)
    setattr(module, module.base_model_prefix, whole.model.language_model)
    module.set_output_embeddings(whole.get_output_embeddings())
    module.generation_config = whole.generation_config
    return module


def need_torchvision(config: Any) -> None:
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
