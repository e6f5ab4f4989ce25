"""Where a model lies: a bundled one, a folder, a .gguf file or a hub name; checked without loading it."""

import importlib.util
from pathlib import Path

from morality_lens.items.bundled import asset

BUNDLED = {"bundled": "organism", "bundled-natural": "natural", "bundled-null": "null"}
"""Names of the bundled models, and their folders: effects planted with a causal direction of moral valence;
the same effects without it; no effects."""
ADAPTER = "adapter_config.json"
"""What makes a folder an adapter."""
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
"""Files one of which a folder needs for its tokenizer."""


def find_model(name: str | Path | None) -> str:
    """The folder or hub name to load from; a folder is checked before anything large is imported.

    Raises:
        FileNotFoundError: the folder is not there or is no model.
        ValueError: it has no tokenizer, or holds both a model and an adapter.
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
    if (folder / ADAPTER).is_file():
        _check_adapter(folder)
    else:
        _check_folder(folder)
    return str(folder)


def _has_weights(folder: Path) -> bool:
    files = [*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]
    return any(not file.name.startswith("adapter_") for file in files)


def _check_folder(folder: Path) -> None:
    """Refuse a folder that is no model."""
    if not (folder / "config.json").is_file():
        held = sorted(folder.glob("*.gguf"))
        advice = (
            f"Give the file itself: {held[0]}"
            if held
            else "Save one there with model.save_pretrained(folder)."
        )
        raise FileNotFoundError(
            f"{folder} is no model in Hugging Face format: it has no config.json. {advice}"
        )
    if not _has_weights(folder):
        raise FileNotFoundError(f"{folder} has a config.json but no weights (*.safetensors).")
    if not any((folder / n).is_file() for n in TOKENIZERS):
        raise ValueError(
            f"the model in {folder} has no tokenizer (none of {', '.join(TOKENIZERS)}); save one there with "
            "tokenizer.save_pretrained(folder)."
        )


def _check_adapter(folder: Path) -> None:
    """Refuse an adapter that cannot be merged: without weights or peft, or beside a model."""
    if _has_weights(folder):
        raise ValueError(
            f"{folder} holds both a model and an adapter ({ADAPTER}), so it is not clear whether the "
            "adapter is to be merged; put its files into a folder of their own and give that one, or remove "
            "them."
        )
    if not any(folder.glob("adapter_model*")):
        raise FileNotFoundError(f"the adapter in {folder} has no weights (adapter_model.safetensors).")
    if importlib.util.find_spec("peft") is None:
        raise ModuleNotFoundError(
            f"{folder} holds a LoRA adapter, and merging it into its base model needs the package peft: pip "
            'install peft (or pip install "morality-lens[lora]").'
        )
