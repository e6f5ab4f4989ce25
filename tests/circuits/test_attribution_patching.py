"""Gradients are those of the true patches: exact where the model is linear, and for small steps anywhere."""

import inspect

import numpy as np
import pytest
import zoo
from circuit import BOTH, FEEDBACK, INSTRUCTION, save_circuit
from conftest import make_questions
from tiny import tiny_run

from morality_lens.circuits.attribution_patching import patch_gradient
from morality_lens.circuits.settings import Activations, Batching
from morality_lens.design import Condition

QUIET = Batching(progress=False)

NONE, BOTH_ON = Condition(), Condition(instruction="on", feedback="on")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_on_the_circuit_a_gradient_sees_the_heads_and_misses_the_neuron(tmp_path):
    """Without components the neuron is off and flat, so its part is what the gradient misses."""
    model, run = tiny_run(save_circuit(tmp_path / "c"), tmp_path / "r", make_questions(4), dtype="float64")
    found = patch_gradient(
        model, run, source=BOTH_ON, target=NONE, activations=Activations(layers=[0, 1]), batching=QUIET
    )
    change = (found["log_odds"] - found["target_log_odds"]).sel(place="answer_start")
    np.testing.assert_allclose(change.sel(layer=0), 2 * (INSTRUCTION + FEEDBACK), atol=1e-4)
    np.testing.assert_allclose(change.sel(layer=1), 2 * (INSTRUCTION + FEEDBACK + BOTH), atol=1e-4)
    true = (found["patched_log_odds"] - found["target_log_odds"]).sel(place="answer_start")
    np.testing.assert_allclose(true.sel(layer=0), 2 * (INSTRUCTION + FEEDBACK + BOTH), atol=1e-4)
    assert found.attrs["error"] == pytest.approx(0.25, abs=1e-3)  # .8 too much at one layer of two
    heads = patch_gradient(
        model, run, source=BOTH_ON, target=NONE, activations=Activations(what="head"), check=2, batching=QUIET
    )
    change = (heads["log_odds"] - heads["target_log_odds"]).sel(place="answer_start", layer=0)
    np.testing.assert_allclose(change.sel(head=0), 2 * INSTRUCTION, atol=1e-4)
    np.testing.assert_allclose(change.sel(head=1), 2 * FEEDBACK, atol=1e-4)
    assert int(heads["patched_log_odds"].notnull().any(["place", "layer", "head"]).sum()) == 2


@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
def test_at_the_last_layer_and_for_itself(zoo_folder, tmp_path, architecture):
    """A dialogue patched into itself changes nothing; the target's own log-odds are the run's."""
    model, run = tiny_run(zoo_folder(architecture), tmp_path / "run", make_questions(2))
    for what in ("residual", "attention", "mlp", "head"):
        found = patch_gradient(
            model,
            run,
            source=BOTH_ON,
            target=BOTH_ON,
            activations=Activations(at=["turn", "review"], what=what),
            check=0,
            batching=QUIET,
        )
        gap = np.abs(found["log_odds"] - found["target_log_odds"])
        assert float(gap.max()) < 1e-6
    stored = np.log(run.option_probabilities.sel(instruction="on", cot="off", feedback="on", round=1).values)
    want = stored[:, 1] - stored[:, [0, 2]].mean(-1)
    np.testing.assert_allclose(found["target_log_odds"], want, atol=2e-3, rtol=1e-4)
    with pytest.raises(ValueError, match="one of residual"):
        inspect.unwrap(Activations.__init__)(object.__new__(Activations), what="neuron")


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "neox"])
def test_the_gradient_is_the_slope_of_true_patches(zoo_folder, tmp_path, architecture, monkeypatch):
    """Moved a thousandth of the way, true patching changes the log-odds by a thousandth of the prediction."""
    from morality_lens.circuits import patching

    model, run = tiny_run(zoo_folder(architecture), tmp_path / "run", make_questions(2), dtype="float64")
    activations = Activations(at=["answer_start", "review"])
    asked = {"source": BOTH_ON, "target": Condition(feedback="on"), "activations": activations}
    found = patch_gradient(model, run, **asked, check=0, batching=QUIET)
    real, share = patching._moves, 1e-4

    def a_little(values, there, units, what, parts):
        edits = real(values, there, units, what, parts)
        return [
            type(e)(
                layer=e.layer, rows=e.rows, places=e.places, what=e.what, head=e.head,
                change=lambda here, e=e: here + share * (e.change(here) - here),
            )
            for e in edits
        ]  # fmt: skip

    monkeypatch.setattr(patching, "_moves", a_little)
    true = patching.patch(model, run, **asked, batching=QUIET)
    slope = (true["log_odds"] - true["target_log_odds"]) / share
    want = found["log_odds"] - found["target_log_odds"]
    np.testing.assert_allclose(slope, want, rtol=0.02, atol=0.02 * float(np.abs(want).max()))
