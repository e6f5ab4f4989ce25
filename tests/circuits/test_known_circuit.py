"""On a transformer with known weights every tool gives the numbers worked out by hand."""

import numpy as np
import pytest
from circuit import BOTH, FEEDBACK, INSTRUCTION, LOGIT, circuit_probe, save_circuit
from conftest import make_questions
from tiny import tiny_run

from morality_lens.circuits.ablation import ablate
from morality_lens.circuits.attribution import attribute, attribute_answer
from morality_lens.circuits.mediation import mediate
from morality_lens.circuits.patching import patch
from morality_lens.circuits.settings import Activations, Batching, Doses, RandomDirections, Reading
from morality_lens.circuits.steering import steer
from morality_lens.circuits.summaries import (
    ablated_share,
    causal_lines,
    mediated_share,
    recovered,
    steering_slopes,
)
from morality_lens.design import Condition
from morality_lens.interactions.by_component import attribute_effects
from morality_lens.rounds.selection import Execution, Selection

CLOSE = {"abs": 2e-6}
NONE, BOTH_ON = Condition(), Condition(instruction="on", feedback="on")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = save_circuit(tmp_path_factory.mktemp("circuit"))
    model, run = tiny_run(folder, tmp_path_factory.mktemp("run") / "r", make_questions(6), dtype="float64")
    return model, run, circuit_probe(model)


def test_the_circuit_does_what_was_written_down(world):
    _, run, probe = world
    found = probe.project(run).sel(site="answer_start", round=1, cot="off")
    for i, f, after_heads, after_all in (
        ("off", "off", 0.0, 0.0),
        ("on", "off", INSTRUCTION, INSTRUCTION),
        ("off", "on", FEEDBACK, FEEDBACK),
        ("on", "on", INSTRUCTION + FEEDBACK, INSTRUCTION + FEEDBACK + BOTH),
    ):
        cell = found.sel(instruction=i, feedback=f)
        np.testing.assert_allclose(cell.sel(layer=0), after_heads, atol=2e-6)
        np.testing.assert_allclose(cell.sel(layer=1), after_all, atol=2e-6)


def test_attribution_names_exactly_those_components(world):
    model, run, probe = world
    parts = attribute(
        model, run, probe, layer=1, selection=Selection(rounds=[1]), execution=Execution(progress=False)
    )
    one = parts["contribution"].sel(round=1, item="q0")
    on = {"instruction": (one["instruction"] == "on") * 1.0, "feedback": (one["feedback"] == "on") * 1.0}
    want = {
        "L0H0": INSTRUCTION * on["instruction"],
        "L0H1": FEEDBACK * on["feedback"],
        "L1 MLP": BOTH * on["instruction"] * on["feedback"],
    }
    for name in one["component"].values:
        gap = one.sel(component=name) - want.get(name, 0.0)
        assert float(np.abs(gap).max()) < 2e-6, name
    read = parts["by_segment"].sel(round=1, item="q0", instruction="on", feedback="on", cot="off")
    for head, segment, size in (("L0H0", "instruction", INSTRUCTION), ("L0H1", "feedback", FEEDBACK)):
        assert float(read.sel(head=head, segment=segment)) == pytest.approx(size, **CLOSE)
        others = read.sel(head=head).drop_sel(segment=segment)
        assert float(np.abs(others).max()) < 2e-6


def test_the_interaction_sits_wholly_in_the_mlp(world):
    model, run, probe = world
    parts = attribute(
        model, run, probe, layer=1, selection=Selection(rounds=[1]), execution=Execution(progress=False)
    )
    effects = attribute_effects(parts, draws=100).sel(round=1)
    both = effects["estimate"].sel(effect="instruction:feedback")
    assert float(both.sel(component="L1 MLP")) == pytest.approx(BOTH, **CLOSE)
    assert float(np.abs(both.drop_sel(component="L1 MLP")).max()) < 2e-6
    main = effects["estimate"].sel(effect="instruction")
    assert float(main.sel(component="L0H0")) == pytest.approx(INSTRUCTION, **CLOSE)
    assert float(main.sel(component="L1 MLP")) == pytest.approx(BOTH / 2, **CLOSE)
    assert float(effects["whole"].sel(effect="instruction")) == pytest.approx(INSTRUCTION + BOTH / 2, **CLOSE)


def test_the_direct_path_to_the_answer_is_the_same_times_the_unembedding(world):
    model, run, _ = world
    parts = attribute_answer(model, run, selection=Selection(rounds=[1]), execution=Execution(progress=False))
    one = parts["contribution"].sel(round=1, item="q3", instruction="on", feedback="on", cot="off")
    for name, size in (("L0H0", INSTRUCTION), ("L0H1", FEEDBACK), ("L1 MLP", BOTH), ("L0 MLP", 0.0)):
        assert float(one.sel(component=name)) == pytest.approx(LOGIT * size, abs=1e-5)


@pytest.mark.parametrize(
    ("what", "layer", "head", "share"),
    [
        ("residual", -1, None, 0.0),
        ("residual", 0, None, 1.0),  # I and F come along, so the neuron fires
        ("residual", 1, None, 1.0),
        ("attention", 0, None, 1.0),
        ("attention", 1, None, 0.0),
        ("mlp", 0, None, 0.0),
        ("mlp", 1, None, BOTH / (INSTRUCTION + FEEDBACK + BOTH)),
        ("head", 0, 0, INSTRUCTION / (INSTRUCTION + FEEDBACK + BOTH)),
        ("head", 0, 1, FEEDBACK / (INSTRUCTION + FEEDBACK + BOTH)),
        ("head", 1, 0, 0.0),
    ],
)
def test_patching_brings_back_the_share_worked_out_by_hand(world, what, layer, head, share):
    model, run, probe = world
    patched = patch(
        model,
        run,
        source=BOTH_ON,
        target=NONE,
        activations=Activations(what=what),
        reading=Reading(probe=probe),
        batching=Batching(progress=False),
    )
    for of in ("log_odds", "projection"):
        found = recovered(patched, of=of)["ratio"].sel(place="answer_start", layer=layer)
        assert float(found if head is None else found.sel(head=head)) == pytest.approx(share, abs=1e-5)


def test_tokens_that_no_head_reads_move_nothing(world):
    """The words of the request hold D, I and F where both components are on, but nothing copies from them."""
    model, run, _ = world
    patched = patch(
        model,
        run,
        source=BOTH_ON,
        target=NONE,
        activations=Activations(at="answer_request"),
        batching=Batching(progress=False),
    )
    want = np.broadcast_to(patched["target_log_odds"].values[:, None, None], patched["log_odds"].shape)
    np.testing.assert_allclose(patched["log_odds"], want, atol=1e-6)


def test_steering_and_ablation_give_the_hand_made_numbers(world):
    model, run, probe = world
    steered = steer(
        model,
        run,
        probe,
        condition=NONE,
        doses=Doses(layer=0),
        random=RandomDirections(count=25),
        batching=Batching(progress=False),
    )
    slopes = steering_slopes(steered)
    np.testing.assert_allclose(slopes.sel(direction="probe"), LOGIT, atol=1e-5)
    for dose in steered["dose"].values:
        own = steered["log_odds"].sel(direction="probe", dose=dose)
        np.testing.assert_allclose(own, LOGIT * dose, atol=1e-5)
    assert float(steered["baseline"].sel(condition="instruction")) == pytest.approx(
        LOGIT * INSTRUCTION, abs=1e-5
    )
    ablated = {
        key: ablate(
            model,
            run,
            probe,
            condition=c,
            layers=[1],
            random=RandomDirections(count=3),
            batching=Batching(progress=False),
        )
        for key, c in (("on", BOTH_ON), ("off", NONE))
    }
    mean = LOGIT * (0.0 + INSTRUCTION + FEEDBACK + INSTRUCTION + FEEDBACK + BOTH) / 4
    for one in ablated.values():
        np.testing.assert_allclose(one["log_odds"].sel(ablation="direction"), mean, atol=1e-5)
        np.testing.assert_allclose(one["log_odds"].sel(ablation="mean"), mean, atol=1e-5)
        np.testing.assert_allclose(
            one["log_odds"].sel(ablation="complement"), one["target_log_odds"], atol=1e-5
        )
    share = ablated_share(ablated)["ratio"]
    assert float(share.sel(ablation="direction")) == pytest.approx(1.0, abs=1e-5)
    assert float(share.sel(ablation="complement")) == pytest.approx(0.0, abs=1e-5)
    lines = causal_lines(steered, ablated).set_index("line")
    assert lines.loc["steer", "verdict"] == "fail"  # two clusters that agree show nothing
    own = steered.assign_coords(cluster=("item", steered["item"].values))
    lines = causal_lines(own, ablated).set_index("line")
    assert lines.loc["steer", "verdict"] == "pass"
    assert lines.loc["ablation", "verdict"] == "pass"


def test_mediation_is_what_the_circuit_says(world):
    model, run, probe = world
    mediated = mediate(model, run, probe, batching=Batching(progress=False))
    tau = LOGIT * BOTH
    np.testing.assert_allclose(mediated["tau"], tau, atol=1e-5)
    for layer, share in ((-1, 0.0), (0, 0.0), (1, 1.0)):
        for way in ("whole site", "direction"):
            mediated_here = mediated["mediated"].sel(layer=layer, way=way)
            np.testing.assert_allclose(mediated_here, share * tau, atol=1e-5)
    np.testing.assert_allclose(mediated["interaction"].sel(layer=0), 0.0, atol=2e-6)
    np.testing.assert_allclose(mediated["interaction"].sel(layer=1), BOTH, atol=2e-6)
    np.testing.assert_allclose(mediated["gain"], LOGIT, atol=1e-4)
    found = mediated_share(mediated).sel(layer=1, way="whole site")
    assert float(found["share"]) == pytest.approx(1.0, abs=1e-4)
    assert float(found["rest"]) == pytest.approx(0.0, abs=1e-5)
    assert float(found["predicted"]) == pytest.approx(tau, abs=1e-4)
