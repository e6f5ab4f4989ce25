"""Adapters, quantization, revisions and text models inside of others."""

import ast
import contextlib
import importlib.util
import json
import shutil
import sys
from pathlib import Path

import peft
import pytest
import torch
import zoo
from conftest import make_questions
from tiny import tiny_run
from transformers import AutoModelForCausalLM, Gemma3Config, Gemma3TextConfig

from morality_lens.judges.classifier import load_toxicity_classifier
from morality_lens.models import checkpoints
from morality_lens.models.checkpoints import Loading, read_checkpoint
from morality_lens.models.finding import find_model
from morality_lens.models.loading import load_model, record_of, reload_model

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.fixture
def adapter(tmp_path, zoo_folder):
    """The folder of a LoRA adapter of the tiny Llama, with weights that change something."""
    base = AutoModelForCausalLM.from_pretrained(zoo_folder("llama"))
    torch.manual_seed(1)
    config = peft.LoraConfig(
        r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
    )
    peft.get_peft_model(base, config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_is_merged_into_its_base_and_named_in_the_manifest(adapter, zoo_folder, tmp_path):
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        plain = AutoModelForCausalLM.from_pretrained(zoo_folder("llama"))
        before = plain(ids).logits
        want = peft.PeftModel.from_pretrained(plain, str(adapter))(ids).logits
        model, run = tiny_run(adapter, tmp_path / "run", make_questions(1))
        record = record_of(model)
        got = record.lm.module(ids).logits
    torch.testing.assert_close(got, want)
    assert not torch.allclose(got, before, atol=1e-2)
    stored = run.manifest["study"]["model"]
    assert stored["name"] == str(adapter)
    assert stored["adapter"]["folder"] == str(adapter)
    assert stored["adapter"]["base"] == str(zoo_folder("llama"))
    assert len(stored["adapter"]["sha256"]) == 64
    assert record_of(reload_model(stored, device="cpu")).fingerprint == record.fingerprint


def test_a_base_beside_the_adapter_is_found_by_its_relative_name(adapter, zoo_folder):
    shutil.copytree(zoo_folder("llama"), adapter.parent / "base")
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "../base"}))
    read = read_checkpoint(adapter, Loading(device="cpu"))
    assert read.source.endswith("base")


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (
            lambda f, base: shutil.copytree(base, f, dirs_exist_ok=True),
            ValueError,
            "both a model and an adapter",
        ),
        (lambda f, base: (f / "adapter_model.safetensors").unlink(), FileNotFoundError, "has no weights"),
        (lambda f, base: rename(f, None), ValueError, "names no base model"),
        (lambda f, base: rename(f, "/nowhere/at/all"), FileNotFoundError, "the base model of the adapter in"),
        (lambda f, base: rename(f, str(f)), ValueError, "is an adapter itself"),
    ],
)
def test_an_adapter_is_never_left_out_in_silence(adapter, zoo_folder, spoil, error, message):
    spoil(adapter, zoo_folder("llama"))
    with pytest.raises(error, match=message):
        load_model(adapter, device="cpu")


def rename(folder, base):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": base}))


def test_an_adapter_of_another_shape_is_refused(adapter, zoo_folder):
    rename(adapter, str(zoo_folder("neox")))
    with pytest.raises(ValueError, match="does not fit its base model GPTNeoXForCausalLM"):
        load_model(adapter, device="cpu")


def test_an_adapter_that_changes_no_weights_is_refused(zoo_folder, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(zoo_folder("llama"))
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    peft.get_peft_model(base, config).save_pretrained(tmp_path / "prompt")
    with pytest.raises(ValueError, match="PROMPT_TUNING, which changes no weights"):
        load_model(tmp_path / "prompt", device="cpu")


@pytest.fixture
def missing(monkeypatch):
    """A function that makes a package look absent."""
    found = importlib.util.find_spec

    def hide(package):
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *more: None if name == package else found(name, *more)
        )
        monkeypatch.setitem(sys.modules, package, None)

    return hide


def test_without_peft_the_refusal_says_what_to_install(adapter, missing):
    missing("peft")
    with pytest.raises(ModuleNotFoundError, match=r"LoRA adapter.*pip install peft"):
        find_model(adapter)


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_without_bitsandbytes_the_refusal_says_what_to_install(zoo_folder, missing, quantization):
    missing("bitsandbytes")
    with pytest.raises(ModuleNotFoundError, match="pip install bitsandbytes"):
        load_model(zoo_folder("llama"), quantization=quantization)


def test_options_that_cannot_be_are_refused_before_anything_is_read(adapter, zoo_folder):
    with pytest.raises(ValueError, match="quantization must be 4bit or 8bit"):
        Loading(quantization="2bit")
    with pytest.raises(ValueError, match="computes in half precision"):
        Loading(quantization="4bit", dtype="float32")
    with pytest.raises(ValueError, match="a folder or file, which has one version only"):
        load_model(zoo_folder("llama"), revision="main")
    with pytest.raises(ValueError, match="merged into weights that are not quantized"):
        load_model(adapter, quantization="8bit")
    with pytest.raises(TypeError, match="kept in a run's manifest"):
        load_model(zoo_folder("llama"), template_keywords={"date": object()})


def test_the_text_model_inside_of_one_for_images_is_loaded_alone(tmp_path):
    text = Gemma3TextConfig(**zoo.GROUPED, sliding_window=24, query_pre_attn_scalar=8)
    vision = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
        "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    whole = AutoModelForCausalLM.from_config(
        Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    )
    whole.eval().save_pretrained(tmp_path / "m")
    zoo.make_tokenizer(zoo.TRIMMING).save_pretrained(tmp_path / "m")
    record = record_of(load_model(tmp_path / "m", device="cpu"))
    assert record.architecture == "Gemma3ForCausalLM"
    assert record.n_layers == 3
    ids = torch.tensor([[0, 5, 6, 7]])
    with torch.no_grad():
        torch.testing.assert_close(record.lm.module(ids).logits, whole(input_ids=ids).logits)
    assert not any("vision" in name for name, _ in record.lm.module.named_parameters())


def test_a_folder_with_a_gguf_file_says_which_name_to_give(tmp_path):
    (tmp_path / "weights.gguf").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"Give the file itself: .*weights\.gguf"):
        find_model(tmp_path)


def with_code(folder):
    """A folder whose model needs Python code that lies in it; loading it would leave a file there."""
    file = folder / "config.json"
    auto = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}
    auto["AutoModelForSequenceClassification"] = "own.Own"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"auto_map": auto, "model_type": "own"}))
    (folder / "own.py").write_text(f"open({str(folder / 'run')!r}, 'w')\n")
    return folder


def test_code_that_comes_with_a_model_is_not_run_and_nobody_is_asked(zoo_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda question="": "y")
    folder = with_code(shutil.copytree(zoo_folder("llama"), tmp_path / "m"))
    with pytest.raises(ValueError, match="needs Python code of its own, and no code that comes with a model"):
        read_checkpoint(folder, Loading(device="cpu"))
    with pytest.raises(ValueError, match="needs Python code of its own, and no code that comes with a class"):
        load_toxicity_classifier(folder)
    assert not (folder / "run").exists()


def test_code_that_comes_with_a_tokenizer_is_not_run(zoo_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda question="": "y")
    folder = shutil.copytree(zoo_folder("llama"), tmp_path / "m")
    file = folder / "tokenizer_config.json"
    stated = json.loads(file.read_text()) | {
        "tokenizer_class": "Own",
        "auto_map": {"AutoTokenizer": ["own.Own", None]},
    }
    file.write_text(json.dumps(stated))
    (folder / "own.py").write_text(f"open({str(folder / 'run')!r}, 'w')\n")
    with contextlib.suppress(ValueError):  # transformers may take a tokenizer of its own instead
        read_checkpoint(folder, Loading(device="cpu"))
    assert not (folder / "run").exists()


def test_every_call_that_reads_a_checkpoint_forbids_its_code():
    package = Path(checkpoints.__file__).parents[1]
    calls = [
        ast.unparse(node)
        for file in package.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("from_pretrained", "from_config", "boot_transformers", "pipeline")
    ]
    assert len(calls) >= 8
    forbidden = ("trust_remote_code=False", "**place", "**more")  # the latter hold it: see _read
    assert not [call for call in calls if not any(word in call for word in forbidden)]


def test_attention_that_is_fetched_from_a_hub_is_refused(zoo_folder, tmp_path):
    folder = shutil.copytree(zoo_folder("llama"), tmp_path / "m")
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"attn_implementation": "someone/kernel"}))
    with pytest.raises(ValueError, match="attention that is code on a hub"):
        read_checkpoint(folder, Loading(device="cpu"))


def test_an_attention_kernel_that_is_not_installed_is_one_line(zoo_folder, tmp_path):
    folder = shutil.copytree(zoo_folder("llama"), tmp_path / "m")
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"attn_implementation": "flash_attention_2"}))
    with pytest.raises(ValueError, match="cannot be loaded as a folder: FlashAttention2"):
        read_checkpoint(folder, Loading(device="cpu"))


@pytest.mark.parametrize("name", ["nope", "cuda:99", "meta", "", "cpu:x"])
def test_a_device_that_is_not_there_is_refused_before_anything_is_read(name):
    with pytest.raises(ValueError, match="no model can be put on the device"):
        Loading(device=name)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "tokenizer.json", "config.json"])
@pytest.mark.parametrize("content", [b"", b"junk" * 9, b"[" * 100_000, b"PK\x03\x04", b"null"])
def test_a_damaged_file_of_a_checkpoint_is_one_line(zoo_folder, tmp_path, name, content):
    folder = shutil.copytree(zoo_folder("llama"), tmp_path / "m")
    if name.endswith(".bin"):
        (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match="cannot be loaded as a folder: ") as caught:
        read_checkpoint(folder, Loading(device="cpu"))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("content", [b"", b"GGUF", b"GGUF" + b"\xff" * 60, b"junk"])
def test_a_damaged_gguf_file_is_one_line(tmp_path, content):
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(ValueError, match="cannot be loaded as a file: "):
        read_checkpoint(tmp_path / "m.gguf", Loading(device="cpu"))


@pytest.mark.parametrize("content", ["[]", "{", "[" * 100_000, '{"base_model_name_or_path": 3}'])
def test_a_damaged_adapter_is_one_line(adapter, content):
    (adapter / "adapter_config.json").write_text(content)
    with pytest.raises(ValueError, match=r"names no base model|not JSON"):
        read_checkpoint(adapter, Loading(device="cpu"))


def test_damaged_weights_of_an_adapter_are_one_line(adapter):
    (adapter / "adapter_model.safetensors").write_bytes(b"junk" * 9)
    with pytest.raises(ValueError, match="is damaged or does not fit its base model"):
        read_checkpoint(adapter, Loading(device="cpu"))
