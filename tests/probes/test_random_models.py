"""Random random_models: the same architecture and words, other weights, and the model itself left alone."""

import numpy as np
import pytest
import torch

from morality_lens.dialogues import rendering
from morality_lens.dialogues.rendering import Transcript
from morality_lens.dialogues.turns import statement_turn
from morality_lens.items.kinds import Statement
from morality_lens.models.loading import fingerprint, load_model, record_of
from morality_lens.probes.random_models import _control, random_model_residuals
from morality_lens.probes.statements import read_statements

STATEMENTS = tuple(
    Statement(id=f"{verb}{i}", cluster=verb, text=f"The Vel {verb} the {who}.", label=label)
    for label, verb in ((1, "helped"), (1, "thanked"), (0, "robbed"), (0, "mocked"))
    for i, who in enumerate(("child", "stranger"))
)


@pytest.fixture(scope="module")
def organism():
    return load_model(device="cpu")


@pytest.fixture(scope="module")
def residuals(organism):
    return random_model_residuals(organism, STATEMENTS, seeds=(0, 1))


def test_controls_are_labelled_like_the_statements_read_by_the_model(organism, residuals):
    own = read_statements(organism, STATEMENTS)
    assert residuals.dims == ("seed", *own.dims)
    assert residuals["seed"].values.tolist() == [0, 1]
    for name in ("statement", "label", "cluster", "layer"):
        np.testing.assert_array_equal(residuals[name].values, own[name].values)
        assert residuals[name].dims == own[name].dims
    assert residuals.attrs["random_model_of"] == record_of(organism).fingerprint
    assert residuals.attrs["statements_sha256"] == own.attrs["statements_sha256"]
    assert "model_fingerprint" not in residuals.attrs


def test_a_twin_differs_from_the_model_and_from_other_seeds_at_every_layer(organism, residuals):
    own = read_statements(organism, STATEMENTS)
    for a, b in ((own, residuals[0]), (own, residuals[1]), (residuals[0], residuals[1])):
        assert (np.abs(a.values - b.values).max(axis=(0, 2)) > 1e-3).all()


def test_equal_seeds_give_equal_controls_whatever_was_drawn_before(organism, residuals):
    torch.manual_seed(99)
    state = torch.get_rng_state()
    again = random_model_residuals(organism, STATEMENTS, seeds=(1,))
    np.testing.assert_array_equal(again[0].values, residuals.sel(seed=1).values)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_model_keeps_its_weights_and_its_residuals(organism):
    before = read_statements(organism, STATEMENTS)
    random_model_residuals(organism, STATEMENTS, seeds=(3,))
    assert fingerprint(record_of(organism).lm.module) == record_of(organism).fingerprint
    np.testing.assert_array_equal(read_statements(organism, STATEMENTS).values, before.values)


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2"])
def test_a_twin_computes_what_a_fresh_model_of_its_config_computes(architecture, zoo_folder):
    from transformers import AutoModelForCausalLM

    model = load_model(zoo_folder(architecture), device="cpu")
    record = record_of(model)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        fresh = AutoModelForCausalLM.from_config(record.lm.module.config, dtype=torch.float32).eval()
    got = random_model_residuals(model, STATEMENTS[:3], seeds=(5,))[0]
    for number, statement in enumerate(STATEMENTS[:3]):
        turn = statement_turn(statement.text)
        begun = rendering.append_turn(record.renderer, Transcript(), turn, round=0)
        ids = torch.tensor([begun.token_ids[: begun.spans[-1].stop]])
        with torch.no_grad():
            states = fresh(ids, output_hidden_states=True).hidden_states
        want = np.stack([s[0, -1].numpy() for s in states])  # the last is after the final norm
        np.testing.assert_allclose(got.values[number][:-1], want[:-1], rtol=1e-4, atol=1e-4)


def test_a_twin_speaks_by_the_models_chat_template_and_knows_its_own_weights(organism):
    twin, record = _control(organism, 0), record_of(organism)
    renewed = record_of(twin)
    begun = [
        rendering.append_turn(r.renderer, Transcript(), statement_turn("Be fair."), round=0)
        for r in (record, renewed)
    ]
    assert begun[0].token_ids == begun[1].token_ids
    assert renewed.stops == record.stops
    assert renewed.fingerprint == fingerprint(renewed.lm.module) != record.fingerprint
    assert record_of(organism) is record


def test_seeds_that_cannot_serve_are_refused(organism):
    for seeds in ((), (1, 1)):
        with pytest.raises(ValueError, match="one seed or more, each once"):
            random_model_residuals(organism, STATEMENTS, seeds=seeds)
