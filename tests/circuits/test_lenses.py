"""A lens reads stored residuals as the model's last step does, in every architecture, or says why not."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import zoo
from circuit import BOTH as OF_BOTH, FEEDBACK, INSTRUCTION, LOGIT, save_circuit
from conftest import make_questions
from safetensors.torch import save_file
from tiny import made_up_probe, tiny_run

import morality_lens as ml
from morality_lens.circuits import lenses
from morality_lens.circuits.forming import (
    answer_onsets,
    describe_lens,
    lens_agreement,
    lens_curves,
)
from morality_lens.circuits.lenses import LastStep, lens, outcome_of
from morality_lens.circuits.tuned_lenses import TunedLens, load_tuned_lens
from morality_lens.design import Design, Protocol
from morality_lens.interactions.curves import item_contrasts
from morality_lens.interactions.effects import factorial_effects
from morality_lens.items.kinds import OpenPrompt, Rating
from morality_lens.models.loading import load_model, record_of
from morality_lens.rounds.playing import play
from morality_lens.rounds.replay import reply_tokens
from morality_lens.runs.passages import passages
from morality_lens.runs.storage import Storage

CELLS = ("item", "instruction", "cot", "feedback", "round")


@pytest.fixture(scope="module")
def played(zoo_folder, tmp_path_factory):
    """A function that gives a model and its run, each architecture once."""
    made = {}

    def get(architecture, dtype="auto"):
        key = (architecture, dtype)
        if key not in made:
            out = tmp_path_factory.mktemp("lens") / "run"
            made[key] = tiny_run(zoo_folder(architecture), out, make_questions(3), dtype=dtype)
        return made[key]

    return get


@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
def test_the_last_layer_gives_the_probabilities_of_the_run(played, architecture):
    model, run = played(architecture)
    shares = lens(model, run, of="shares")
    stored = run.option_probabilities.transpose(*CELLS, "option").values
    last = shares.sel(layer=2).transpose(*CELLS, "option").values
    np.testing.assert_allclose(np.exp(last), stored, atol=1e-5)
    odds = lens(model, run).sel(layer=2).transpose(*CELLS)
    logs = np.log(stored)
    want = logs[..., 1] - logs[..., [0, 2]].mean(-1)  # the second option is the good one
    np.testing.assert_allclose(odds, want, atol=1e-4)
    assert shares.attrs["checked"].startswith("The last layer gives the option probabilities")


def plain_reading(module, hidden, letters):
    """Log shares of the letters from a hidden state, through a plain transformers model's own tail."""
    inner = getattr(module, "transformer", None) or getattr(module, "gpt_neox", None) or module.model
    norm = next(getattr(inner, n) for n in ("ln_f", "final_layer_norm", "norm") if hasattr(inner, n))
    head = module.get_output_embeddings()
    logits = head(norm(hidden))
    cap = getattr(module.config, "final_logit_softcapping", None)
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    shares = torch.softmax(logits.double(), -1)
    each = torch.stack([shares[..., list(t)].sum(-1) for t in letters], -1)
    return (each / each.sum(-1, keepdim=True)).log()


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "gemma2", "neox", "qwen3"])
def test_every_layer_is_read_as_plain_transformers_reads_its_hidden_states(played, architecture):
    model, run = played(architecture)
    record = record_of(model)
    letters, shares = reply_tokens(record, run), lens(model, run, of="shares")
    (passage,) = passages(run, items=["q1"], conditions=[run.design.conditions[-1]], rounds=[1])
    (place,) = passage.places("answer_start", 1)
    ids = torch.tensor([passage.token_ids])
    with torch.no_grad():
        states = record.lm.module(ids, output_hidden_states=True, use_cache=False).hidden_states
        here = shares.sel(item="q1", round=1, **passage.condition.coords)
        for layer in (-1, 0, 1):  # the last state of transformers is after the final norm
            want = plain_reading(record.lm.module, states[layer + 1][0, place], letters)
            np.testing.assert_allclose(here.sel(layer=layer), want, atol=1e-4)


def test_a_letter_of_several_tokens_counts_with_their_sum(played):
    record = record_of(model := played("llama")[0])
    step = LastStep.of(model, record, [(10, 20), (30,), (40, 41, 42)])
    x = torch.randn(5, record.d_model, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = record.lm.head(record.lm.module.model.norm(x)).double()
    want = torch.stack([logits[:, list(g)].exp().sum(-1).log() for g in ((10, 20), (30,), (40, 41, 42))], -1)
    np.testing.assert_allclose(step.options(x), want, atol=1e-5)


def test_a_factor_and_a_cap_of_the_logits_are_those_of_the_model(played):
    model, run = played("gemma2")
    step = LastStep.of(model, record_of(model), reply_tokens(record_of(model), run))
    assert step.cap == 30.0
    x = torch.randn(4, 32) * 50
    plain = replace(step, cap=None)
    assert float((plain.options(x) - step.options(x)).abs().max()) > 1e-3
    twice = replace(step, factor=2.0, cap=None)
    one = replace(step, groups=step.groups[:1], cap=None)
    np.testing.assert_allclose(replace(one, factor=2.0).options(x)[:, 0], twice.options(x)[:, 0], atol=1e-9)


@pytest.mark.parametrize("broken", ["norm", "cap", "rows", "factor"])
def test_a_last_step_that_is_not_the_models_is_refused(played, monkeypatch, broken):
    model, run = played("gemma2")
    change = {
        "norm": lambda s: replace(s, norm=torch.nn.Identity()),
        "cap": lambda s: replace(s, cap=3.0),
        "rows": lambda s: replace(s, rows=s.rows.roll(1, 0)),
        "factor": lambda s: replace(s, factor=0.5),
    }[broken]
    right = LastStep.of
    monkeypatch.setattr(lenses.LastStep, "of", lambda *given: change(right(*given)))
    with pytest.raises(ValueError, match=r"must read the last layer as the model does.*No layer is read"):
        lens(model, run)
    monkeypatch.setattr(lenses, "SITE", "answer_start")


def test_halved_residuals_pass_within_what_their_rounding_can_change(zoo_folder, tmp_path):
    model = load_model(zoo_folder("llama"))
    protocol = Protocol(design=Design(rounds=1), feedback="oracle", answer_tokens=3, rationale_tokens=4)
    small = play(
        model,
        make_questions(3),
        out=tmp_path / "half",
        protocol=protocol,
        storage=Storage(dtype="float16"),
        progress=False,
    )
    shares = lens(model, small, of="shares")
    stored = small.option_probabilities.transpose(*CELLS, "option")
    gap = np.abs(np.exp(shares.sel(layer=2)) - stored)
    assert 1e-6 < float(gap.max()) < 0.05


def test_layers_that_were_not_stored_are_refused_and_the_last_step_is_checked_all_the_same(
    zoo_folder, tmp_path
):
    model = load_model(zoo_folder("gpt2"))
    protocol = Protocol(design=Design(rounds=1), feedback="oracle", answer_tokens=3, rationale_tokens=4)
    storage = Storage(layers=(0, 1))
    run = play(
        model, make_questions(3), out=tmp_path / "some", protocol=protocol, storage=storage, progress=False
    )
    odds = lens(model, run)
    assert odds["layer"].values.tolist() == [0, 1]
    assert "The last layer was not stored; on one dialogue" in odds.attrs["checked"]
    assert not odds.attrs["final"]
    with pytest.raises(ValueError, match="stored the layers 0, 1; a lens cannot read 2"):
        lens(model, run, layers=[1, 2])
    with pytest.raises(ValueError, match="stored the rounds 0, 1; a lens cannot read 5"):
        lens(model, run, rounds=[5])
    with pytest.raises(ValueError, match="did not store that"):
        answer_onsets(odds)
    right = LastStep.of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lenses.LastStep, "of", lambda *given: replace(right(*given), norm=torch.nn.Identity()))
        with pytest.raises(ValueError, match="must read the last block as the model does"):
            lens(model, run)


def test_another_model_and_another_site_are_refused(played, zoo_folder, tmp_path):
    _, run = played("llama")
    other = load_model(zoo.save_model(tmp_path / "other", "llama", seed=1))
    with pytest.raises(ValueError, match="made with another model"):
        lens(other, run)
    protocol = Protocol(design=Design(rounds=1, sites=("answer_mean",)), feedback="oracle", answer_tokens=3)
    model = load_model(zoo_folder("gpt2"))
    bare = play(model, make_questions(2), out=tmp_path / "bare", protocol=protocol, progress=False)
    with pytest.raises(ValueError, match="this run stored answer_mean"):
        lens(model, bare)


def test_ratings_give_the_expected_rating_and_open_prompts_nothing(played, zoo_folder, tmp_path):
    model = load_model(zoo_folder("llama"))
    ends = {"question": "How kind is it?", "low_label": "not kind", "high_label": "kind"}
    ratings = [
        Rating(id=f"r{i}", cluster=f"c{i}", context=f"A Vel helps a Tor with task {i}.", **ends)
        for i in range(3)
    ]
    limits = {"answer_tokens": 3, "rationale_tokens": 4, "feedback_tokens": 4}
    protocol = Protocol(design=Design(rounds=1), feedback="self", **limits)
    run = play(model, ratings, out=tmp_path / "ratings", protocol=protocol, progress=False)
    found = lens(model, run)
    assert found.attrs["of"] == "rating"
    want = ml.judges.behaviour_cube(run, "rating").transpose(*CELLS)
    np.testing.assert_allclose(found.sel(layer=2).transpose(*CELLS), want, atol=1e-4)
    prompts = [OpenPrompt(id=f"p{i}", cluster=f"p{i}", text="A Vel said that") for i in range(2)]
    free = play(model, prompts, out=tmp_path / "prompts", protocol=protocol, progress=False)
    with pytest.raises(ValueError, match="these items are answered freely"):
        lens(model, free)
    with pytest.raises(ValueError, match="these items are no ratings"):
        outcome_of(played("llama")[1], "rating")
    with pytest.raises(ValueError, match="name no good option"):
        outcome_of(run, "good")


@pytest.fixture(scope="module")
def circuit(tmp_path_factory):
    """The transformer whose weights are written down, and a run of it."""
    root = tmp_path_factory.mktemp("circuit")
    model = load_model(save_circuit(root / "model"), dtype="float64")
    questions = make_questions(8)
    protocol = Protocol(design=Design(rounds=1), feedback="oracle", answer_tokens=1, rationale_tokens=1)
    return model, play(model, questions, out=root / "run", protocol=protocol, progress=False)


def test_a_planted_circuit_shows_each_effect_at_the_layer_that_makes_it(circuit):
    model, run = circuit
    odds = lens(model, run)
    found = factorial_effects(odds, method="pointwise")["estimate"].sel(round=1)
    # block 0 writes .7 and .5 along D, block 1 takes .4 away where both are there; the logit is 2 D
    want = {
        "instruction": (0.0, LOGIT * INSTRUCTION, LOGIT * (INSTRUCTION + OF_BOTH / 2)),
        "feedback": (0.0, LOGIT * FEEDBACK, LOGIT * (FEEDBACK + OF_BOTH / 2)),
        "instruction:feedback": (0.0, 0.0, LOGIT * OF_BOTH),
        "cot": (0.0, 0.0, 0.0),
    }
    for name, values in want.items():
        np.testing.assert_allclose(found.sel(effect=name), values, atol=2e-2)


def spread_odds(layers=5, items=40, seed=0):
    """Made-up lens values: the answer comes up at layer 3, factor a at layer 1, factor b at layer 3."""
    rng = np.random.default_rng(seed)
    base = np.array([0.0, 0.1, 0.3, 1.5, 2.0])[:layers]
    a, b = np.array([0.0, 0.8, 1.0, 1.0, 1.0]), np.array([0.0, 0.0, 0.1, 1.8, 2.0])
    on = np.array([-0.5, 0.5])
    cells = base + on[:, None, None] * a + on[None, :, None] * b
    values = cells[None, :, :, None] + 0.05 * rng.standard_normal((items, 2, 2, 1, layers))
    import xarray as xr

    return xr.DataArray(
        values,
        dims=("item", "a", "b", "round", "layer"),
        coords={
            "item": [f"i{i}" for i in range(items)], "a": ["off", "on"], "b": ["off", "on"], "round": [1],
            "layer": range(-1, layers - 1), "cluster": ("item", [f"c{i // 2}" for i in range(items)]),
        },
        attrs={"units": "log-odds", "lens": "logit lens", "of": "good", "final": True},
    )  # fmt: skip


def test_an_effect_before_the_answer_is_told_from_one_with_it():
    found = answer_onsets(spread_odds())
    half = found["half"].sel(round=1)
    assert half.sel(curve="answer") == 2
    assert half.sel(curve="a") == 0
    assert half.sel(curve="b") == 2
    assert found["later_high"].sel(curve="a", round=1) < 0
    assert found["later"].sel(curve="b", round=1) == 0
    assert not bool(found["told"].sel(curve="a:b", round=1))
    text = describe_lens(found)
    assert "the effect of a is +1.0" in text
    assert "before the answer does (-2 layers" in text
    assert "the effect of a:b" in text
    assert "so no layer is named" in text


def test_contrasts_of_items_have_the_means_of_the_factorial_effects():
    odds = spread_odds()
    want = factorial_effects(odds, method="pointwise")["estimate"]
    found = item_contrasts(odds, ("a", "b")).mean("item")
    np.testing.assert_allclose(found.transpose(*want.dims), want, atol=1e-12)


def test_few_clusters_give_no_layer():
    odds = spread_odds(items=12).assign_coords(cluster=("item", [f"c{i % 4}" for i in range(12)]))
    found = answer_onsets(odds)
    assert "4 clusters are fewer than 8" in found.attrs["refused"]
    assert bool(np.isnan(found["half"]).all())
    assert "no layer is named" in describe_lens(found)


def test_an_answer_without_the_letters_leaning_is_zero_where_one_letter_is_always_chosen(played):
    model, run = played("llama")
    answer = lens(model, run, of="answer")
    chosen = run.option_probabilities.load().argmax("option")
    for number in (0, 1):
        if np.unique(chosen.sel(round=number)).size == 1:
            means = answer.sel(round=number).mean("item")
            assert float(np.abs(means).max()) < 1e-9
            assert f"in round {number} in 100.0%" in answer.attrs["letters"]
    shares = lens(model, run, of="shares")
    centred = shares - shares.mean("item")
    place = {"item": "q0", "instruction": "on", "cot": "off", "feedback": "on", "round": 1}
    own, at = centred.sel(place).sel(layer=1).values, int(chosen.sel(place))
    want = own[at] - np.delete(own, at).mean()
    assert float(answer.sel(place).sel(layer=1)) == pytest.approx(want, abs=1e-9)


def test_a_probe_that_reads_the_answer_agrees_with_the_lens(circuit):
    model, run = circuit
    odds = lens(model, run)
    same = odds.rename("projection").expand_dims(site=["answer_start"])
    agreed = lens_agreement(odds, same)
    np.testing.assert_allclose(agreed["r"].sel(across="conditions", round=1, layer=[0, 1]), 1.0, atol=1e-9)
    assert bool(np.isnan(agreed["r"].sel(across="conditions", layer=-1)).all())
    assert bool(np.isnan(agreed["r"].sel(across="conditions", round=0)).all())
    opposite = lens_agreement(odds, -same)
    np.testing.assert_allclose(opposite["r"].sel(across="conditions", round=1, layer=1), -1.0, atol=1e-9)


def test_curves_hold_the_means_within_their_bands():
    odds = spread_odds()
    curves = lens_curves(odds)
    np.testing.assert_allclose(curves["estimate"], odds.mean("item"), atol=1e-12)
    assert bool((curves["band_low"] <= curves["ci_low"]).all())
    assert bool((curves["band_high"] >= curves["ci_high"]).all())
    with pytest.raises(ValueError, match="one number per item, round and layer"):
        lens_curves(odds.expand_dims(option=3))


# ------------------------------------------------------------------------------------------- tuned
def write_lens(folder, width, count, *, safe=False, seed=0, **changes):
    """A tuned lens in the published format, and its tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = torch.Generator().manual_seed(seed)
    state = {}
    for i in range(count):
        state[f"{i}.weight"] = 0.1 * torch.randn(width, width, generator=rng)
        state[f"{i}.bias"] = 0.1 * torch.randn(width, generator=rng)
    config = {"base_model_name_or_path": "tiny", "d_model": width, "num_hidden_layers": count, "bias": True,
              "base_model_revision": None, "unembed_hash": "x", "lens_type": "linear_tuned_lens"}  # fmt: skip
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    if safe:
        save_file(state, folder / "params.safetensors")
    else:
        torch.save(state, folder / "params.pt")
    return state


@pytest.mark.parametrize("safe", [False, True])
def test_a_tuned_lens_maps_each_layer_before_the_norm(played, tmp_path, safe):
    model, run = played("llama")
    state = write_lens(tmp_path / "lens", 32, 3, safe=safe)
    tuned = load_tuned_lens(tmp_path / "lens")
    shares = lens(model, run, of="shares", tuned=tuned)
    plain = lens(model, run, of="shares")
    np.testing.assert_array_equal(shares.sel(layer=2), plain.sel(layer=2))  # the last layer has no map
    place = {"item": "q1", "instruction": "on", "cot": "on", "feedback": "off", "round": 1}
    letters, module = reply_tokens(record_of(model), run), record_of(model).lm.module
    for layer in (-1, 0, 1):
        x = torch.tensor(run.residuals.sel(site="answer_start", layer=layer, **place).values)
        moved = x + x @ state[f"{layer + 1}.weight"].T + state[f"{layer + 1}.bias"]
        with torch.no_grad():
            want = plain_reading(module, moved, letters)
        np.testing.assert_allclose(shares.sel(layer=layer, **place), want, atol=1e-4)
    assert shares.attrs["lens"] == "tuned lens"


def test_tuned_lenses_of_other_kinds_and_shapes_are_refused(played, tmp_path):
    model, run = played("llama")
    write_lens(tmp_path / "deep", 32, 4)
    with pytest.raises(ValueError, match=r"has 4 layers x 32, and the run's model 3 layers x 32"):
        lens(model, run, tuned=load_tuned_lens(tmp_path / "deep"))
    write_lens(tmp_path / "odd", 32, 3, lens_type="mlp")
    with pytest.raises(ValueError, match="only affine ones"):
        load_tuned_lens(tmp_path / "odd")
    write_lens(tmp_path / "short", 32, 2, num_hidden_layers=3)
    with pytest.raises(ValueError, match=r"has maps for 2 layers, and config\.json names 3"):
        load_tuned_lens(tmp_path / "short")
    write_lens(tmp_path / "wide", 32, 2, d_model=16)
    with pytest.raises(ValueError, match=r"config\.json needs"):
        load_tuned_lens(tmp_path / "wide")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        load_tuned_lens(tmp_path / "none")
    (tmp_path / "short" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks config\.json"):
        load_tuned_lens(tmp_path / "short")
    torch.save(
        {"0.weight": torch.zeros(2, 2), "model": torch.nn.Linear(2, 2)}, tmp_path / "odd" / "params.pt"
    )
    (tmp_path / "odd" / "config.json").write_text(
        json.dumps({"d_model": 2, "num_hidden_layers": 1, "base_model_name_or_path": "x"})
    )
    with pytest.raises(ValueError, match="damaged or no file of tensors"):
        load_tuned_lens(tmp_path / "odd")
    assert repr(TunedLens(weight={-1: torch.zeros(2, 2)}, bias={-1: torch.zeros(2)}, base_model="m")) == (
        "<TunedLens of m: 1 layers x 2>"
    )


def test_the_probe_of_a_tiny_model_has_an_agreement_at_every_layer(played):
    model, run = played("gpt2")
    agreed = lens_agreement(lens(model, run), made_up_probe(model).project(run))
    assert agreed["r"].dims == ("across", "round", "layer")
    assert bool(np.isnan(agreed["low"]).all())  # two clusters say nothing about others


def test_the_command_refuses_before_it_loads_a_model(played, tmp_path, zoo_folder, command):
    code, _, err = command("lens", tmp_path / "none")
    assert code == 2
    assert "none" in err
    _, run = played("gpt2")
    code, _, err = command("lens", run.path, "--tuned", tmp_path / "nolens")
    assert code == 2
    assert "nolens does not exist" in err
