"""Loading, the self-test, and errors before anything is lost."""

import inspect
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import zoo
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources.transformers import helpers
from transformers import Gemma4Config, LlavaConfig, Qwen2AudioConfig

from morality_lens.dialogues import rendering
from morality_lens.dialogues.rendering import Transcript
from morality_lens.dialogues.turns import statement_turn
from morality_lens.dialogues.wording import load_wording
from morality_lens.models import loading
from morality_lens.models.loading import BUNDLED, find_model, fingerprint, load_model, record_of
from morality_lens.models.self_test import Check, self_test

STORIES = Path(__file__).parents[3] / "shared" / "models" / "stories260K"


@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
def test_every_architecture_proves_itself(architecture, zoo_folder):
    record = record_of(load_model(zoo_folder(architecture), device="cpu"))
    assert len(record.checks) == 6
    assert all(check.passed for check in record.checks)
    assert max(check.difference for check in record.checks) < 2e-5
    assert record.lm.cached
    assert record.prefix_reuse
    assert (record.n_layers, record.d_model) == (3, 32)


def test_the_real_checkpoint_proves_itself():
    if not STORIES.is_dir():
        pytest.skip(f"the real checkpoint is not at {STORIES}")
    record = record_of(load_model(STORIES, device="cpu"))
    assert record.renderer.plain
    assert record.lm.window == 512
    assert not record.organism
    ids = rendering.encode(record.renderer, "Once upon a time")[0]
    with torch.no_grad():
        out = record.lm.module.generate(
            torch.tensor([[record.renderer.bos_id, *ids]]), max_new_tokens=12, do_sample=False
        )
    assert "there was a little girl named" in record.renderer.tokenizer.decode(out[0])


@pytest.mark.parametrize("name", [None, *BUNDLED])
def test_the_bundled_models_are_found_by_name(name):
    folder = Path(find_model(name))
    assert folder.name == BUNDLED[name or "bundled"]
    assert json.loads((folder / "training.json").read_text())["model"] == folder.name


def test_the_bridge_is_a_transformer_bridge_with_the_plain_models_weights(zoo_folder):
    from transformer_lens.model_bridge import TransformerBridge

    bridge = load_model(zoo_folder("llama"), device="cpu")
    assert isinstance(bridge, TransformerBridge)
    plain = record_of(bridge).lm.module
    shared = {p.data_ptr() for p in plain.parameters()}
    assert {p.data_ptr() for p in bridge.original_model.parameters()} <= shared
    assert not any(p.requires_grad for p in plain.parameters())


def test_the_self_test_fails_when_the_bridge_differs_from_transformers(zoo_folder):
    bridge = load_model(zoo_folder("gpt2"), device="cpu")
    record = record_of(bridge)
    bridge.add_hook("blocks.0.mlp.hook_out", lambda value, hook: value * 1.01)
    with pytest.raises(ValueError, match=r"TransformerBridge residuals.*0\.0.*allowed.*float32"):
        self_test(bridge, record.lm, record.renderer)


def test_the_self_test_fails_when_layers_are_shifted(zoo_folder):
    bridge = load_model(zoo_folder("llama"), device="cpu")
    record = record_of(bridge)
    swapped = replace(record.lm, blocks=(record.lm.blocks[1], record.lm.blocks[0], record.lm.blocks[2]))
    with pytest.raises(ValueError, match="hooked residuals equal"):
        self_test(bridge, swapped, record.renderer)


def test_the_self_test_fails_when_positions_are_wrong(zoo_folder):
    bridge = load_model(zoo_folder("gpt2"), device="cpu")
    record = record_of(bridge)

    class Shifted(torch.nn.Module):
        config = record.lm.module.config

        def forward(self, position_ids=None, **kwargs):
            if position_ids is not None:
                kwargs["position_ids"] = position_ids + 1
            return record.lm.module(**kwargs)

        def parameters(self, recurse=True):
            return record.lm.module.parameters()

        def set_attn_implementation(self, kernel):
            record.lm.module.set_attn_implementation(kernel)

    with pytest.raises(ValueError, match="a padded batch equals"):
        self_test(bridge, replace(record.lm, module=Shifted()), record.renderer)


def test_a_check_passes_up_to_its_tolerance():
    assert Check(name="a", difference=1e-4, tolerance=1e-4).passed
    assert not Check(name="a", difference=2e-4, tolerance=1e-4).passed
    assert not Check(name="a", difference=float("nan"), tolerance=1e-4).passed


def test_half_precision_proves_itself_within_its_own_tolerance(zoo_folder):
    record = record_of(load_model(zoo_folder("llama"), device="cpu", dtype="bfloat16"))
    assert record.dtype == "bfloat16"
    assert all(check.passed for check in record.checks)


def test_the_fingerprint_changes_with_one_weight(zoo_folder):
    plain = record_of(load_model(zoo_folder("llama"), device="cpu")).lm.module
    before = fingerprint(plain)
    assert before == fingerprint(plain)
    with torch.no_grad():
        next(plain.parameters()).view(-1)[0] += 1e-3
    assert fingerprint(plain) != before


def test_a_template_that_rewrites_history_is_run_without_reuse_and_warns(tmp_path):
    folder = zoo.save_model(tmp_path / "m", "llama", template=zoo.FORGETTING)
    with pytest.warns(UserWarning, match="rewrites earlier turns"):
        record = record_of(load_model(folder, device="cpu"))
    assert not record.prefix_reuse


def test_the_models_own_eos_and_control_tokens_end_a_reply(zoo_folder):
    record = record_of(load_model(zoo_folder("llama"), device="cpu"))
    assert {0, 1, 2, 3} <= record.stops


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda f: shutil.rmtree(f), FileNotFoundError, "no model folder at"),
        (lambda f: (f / "config.json").unlink(), FileNotFoundError, "has no config.json"),
        (lambda f: (f / "model.safetensors").unlink(), FileNotFoundError, "no weights"),
        (lambda f: (f / "tokenizer.json").unlink(), ValueError, "has no tokenizer"),
        (
            lambda f: (f / "config.json").write_text(json.dumps({"model_type": "nothing"})),
            ValueError,
            "cannot be loaded as a folder",
        ),
    ],
)
def test_a_folder_that_is_no_model_is_refused_in_words(tmp_path, spoil, error, message):
    folder = zoo.save_model(tmp_path / "m", "llama")
    spoil(folder)
    with pytest.raises(error, match=message):
        load_model(folder, device="cpu")


def test_options_that_cannot_be_are_refused_at_once():
    with pytest.raises(ValueError, match="dtype must be"):
        inspect.unwrap(load_model)(dtype="int8")
    with pytest.raises(ValueError, match="exclude each other"):
        load_model(device="cpu", device_map="auto")


def test_a_model_loaded_in_another_way_is_not_taken():
    with pytest.raises(TypeError, match="needs a model from load_model"):
        record_of(object.__new__(loading.TransformerBridge))


def test_every_wording_keeps_its_spans_on_the_bundled_tokenizer():
    record = record_of(load_model(device="cpu"))
    wording = load_wording()
    for task in (wording.choice, wording.continuation):
        for variants in (task.review, task.instruction, task.cot_request, task.instruction_placebo):
            for text in variants:
                opened = rendering.append_turn(record.renderer, Transcript(), statement_turn(text), round=0)
                span = opened.span("statement", 0)
                ids = opened.token_ids[span.start : span.stop]
                assert record.renderer.tokenizer.decode(ids).strip() == text
                assert record.renderer.tokenizer.unk_token_id not in ids


def test_a_loaded_model_is_shown_in_one_line(zoo_folder):
    model = load_model(zoo_folder("llama"), device="cpu")
    record = record_of(model)
    assert repr(model) == f"TransformerBridge({record.name}, 3 layers x {record.d_model}, float32, cpu)"
    assert isinstance(model, TransformerBridge)
    assert "blocks" in str(model)  # the list of components remains


@pytest.fixture
def no_torchvision(monkeypatch):
    """No torchvision, and a list of every program that is started or asked for."""
    started: list[object] = []

    def start(command, *args, **kwargs):
        started.append(command)
        raise OSError("nothing may be started")

    monkeypatch.setitem(sys.modules, "torchvision", None)
    for name in ("Popen", "check_call", "run"):
        monkeypatch.setattr(subprocess, name, start)
    return started


@pytest.mark.parametrize("made", [LlavaConfig, Qwen2AudioConfig, Gemma4Config])
def test_a_checkpoint_of_pictures_or_sound_never_has_anything_installed(
    made, tmp_path, zoo_folder, no_torchvision
):
    folder = tmp_path / "media"
    shutil.copytree(zoo_folder("llama"), folder)
    made(architectures=["LlavaForConditionalGeneration"]).save_pretrained(folder)
    with pytest.raises(ModuleNotFoundError, match="pip install torchvision"):
        load_model(folder)
    assert not no_torchvision


def test_the_bridge_itself_would_install_torchvision(tmp_path, no_torchvision):
    """What the refusal is for; once this fails, the refusal can go."""
    bridge, config = SimpleNamespace(), SimpleNamespace(is_multimodal=True)
    helpers.load_modality_processor(bridge, config, str(tmp_path), False, None)
    assert "torchvision" in no_torchvision[0]


def test_a_checkpoint_of_text_needs_no_torchvision(zoo_folder, no_torchvision):
    load_model(zoo_folder("llama"))
    assert not no_torchvision
