"""Sparse features: published formats, exact numbers, a check that refuses, effects, shares that add up."""

import json
import re
import sys

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

import morality_lens as ml
from morality_lens.interactions.curves import Resampled
from morality_lens.sparse.autoencoder import SparseAutoencoder
from morality_lens.sparse.cards import feature_cards
from morality_lens.sparse.checking import check_sae
from morality_lens.sparse.formats import layer_of_hook, load_sae
from morality_lens.sparse.reading import Choice, feature_effects, features
from morality_lens.sparse.shares import describe_shares, direction_shares, split_direction
from morality_lens.sparse.tensors import read_tensors

LAYER = 3


def by_hand(**changes) -> SparseAutoencoder:
    """Three features of a residual of width two."""
    given = {
        "encoder": np.array([[1.0, 0.0, -1.0], [0.0, 2.0, 0.0]]),
        "encoder_bias": np.array([0.0, -1.0, 0.5]),
        "decoder": np.array([[1.0, 0.0], [0.0, 0.5], [-1.0, 0.0]]),
        "decoder_bias": np.array([0.25, 0.0]),
        "layer": 0,
    }
    return SparseAutoencoder(**{**given, **changes})


POINTS = np.array([[2.0, 1.0], [-1.0, 0.5], [0.5, 0.5]])


def test_relu_by_hand():
    sae = by_hand()
    active = sae.encode(POINTS)
    np.testing.assert_array_equal(active, [[2, 1, 0], [0, 0, 1.5], [0.5, 0, 0]])
    np.testing.assert_array_equal(sae.decode(active, POINTS), [[2.25, 0.5], [-1.25, 0], [0.75, 0]])
    less = by_hand(subtract_bias=True).encode(POINTS)
    np.testing.assert_array_equal(less, [[1.75, 1, 0], [0, 0, 1.75], [0.25, 0, 0.25]])


def test_jumprelu_is_off_at_its_threshold_and_on_above_it():
    sae = by_hand(activation="jumprelu", threshold=np.array([0.5, 0.5, 0.0]))
    np.testing.assert_array_equal(sae.encode(POINTS), [[2, 1, 0], [0, 0, 1.5], [0, 0, 0]])
    above = np.array([[np.nextafter(0.5, 1), 0.5]])
    assert sae.encode(above)[0, 0] == above[0, 0]
    low = by_hand(activation="jumprelu", threshold=np.array([-3.0, -3.0, -3.0]))
    assert low.encode(np.array([[-1.0, 0.0]]))[0].tolist() == [0, 0, 1.5]  # never below zero


def test_topk_keeps_the_first_of_equal_features_and_none_below_zero():
    sae = by_hand(activation="topk", k=1)
    np.testing.assert_array_equal(sae.encode(POINTS), [[2, 0, 0], [0, 0, 1.5], [0.5, 0, 0]])
    tied = by_hand(activation="topk", k=2, encoder=np.ones((2, 3)), encoder_bias=np.zeros(3)).encode(
        np.array([[1.0, 1.0], [-1.0, 0.0]])
    )
    np.testing.assert_array_equal(tied, [[2, 2, 0], [0, 0, 0]])


def test_a_topk_agrees_with_torch_where_nothing_ties():
    rng = np.random.default_rng(0)
    made = {
        "encoder": rng.normal(size=(8, 40)), "encoder_bias": rng.normal(size=40),
        "decoder": rng.normal(size=(40, 8)), "decoder_bias": rng.normal(size=8),
    }  # fmt: skip
    x = rng.normal(size=(50, 8))
    found = SparseAutoencoder(**made, layer=0, activation="topk", k=5).encode(x)
    before = torch.tensor(x @ made["encoder"] + made["encoder_bias"])
    top = torch.topk(before, k=5, dim=-1)
    want = torch.zeros_like(before).scatter_(-1, top.indices, top.values.relu())
    np.testing.assert_allclose(found, want)


@pytest.mark.parametrize("scaling", ["constant_norm_rescale", "layer_norm"])
def test_what_is_scaled_is_scaled_back(scaling):
    rng = np.random.default_rng(1)
    axes = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    whole = {"encoder": np.hstack([axes, -axes]), "encoder_bias": np.zeros(12), "decoder_bias": np.zeros(6)}
    sae = SparseAutoencoder(**whole, decoder=np.vstack([axes.T, -axes.T]), layer=0, scaling=scaling)
    x = 50 * rng.normal(size=(20, 6)) + 10
    np.testing.assert_allclose(sae.decode(sae.encode(x), x), x, rtol=1e-4)
    if scaling == "constant_norm_rescale":
        np.testing.assert_allclose((sae.encode(x) ** 2).sum(axis=1), 6.0)
    else:
        t = torch.tensor(x)
        centred = t - t.mean(-1, keepdim=True)
        scaled = centred / (centred.std(-1, keepdim=True) + 1e-5)
        np.testing.assert_allclose(sae.encode(x), (scaled.numpy() @ whole["encoder"]).clip(0))


def test_arrays_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"encoder_bias of shape \(3,\)"):
        by_hand(encoder_bias=np.zeros(2))
    with pytest.raises(ValueError, match=r"threshold of shape \(3,\); got None"):
        by_hand(activation="jumprelu")
    with pytest.raises(ValueError, match="keeps the k largest of 3 features; got k=4"):
        by_hand(activation="topk", k=4)


# ------------------------------------------------------------------------------------------- formats
WEIGHTS = {
    "W_enc": np.arange(6, dtype=np.float32).reshape(2, 3) - 2,
    "b_enc": np.array([0.5, -1, 0], np.float32),
    "W_dec": np.arange(6, dtype=np.float32).reshape(3, 2) / 2,
    "b_dec": np.array([0.25, -0.5], np.float32),
}
NEW = {
    "d_in": 2, "d_sae": 3, "dtype": "float32",
    "metadata": {"hook_name": "blocks.4.hook_resid_post", "model_name": "m"},
}  # fmt: skip
OLD = {
    "d_in": 2, "d_sae": 3, "hook_point": "blocks.4.hook_resid_pre", "hook_point_layer": 4,
    "model_name": "gpt2-small",
    "activation_fn_str": "relu", "normalize_activations": False,
}  # fmt: skip


def write(folder, config, weights=WEIGHTS):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text(json.dumps(config))
    save_file(
        {name: np.ascontiguousarray(value) for name, value in weights.items()},
        folder / "sae_weights.safetensors",
    )
    return folder


def test_saelens_in_its_new_and_its_old_layout(tmp_path):
    new = load_sae(
        write(tmp_path / "new", {**NEW, "architecture": "standard", "apply_b_dec_to_input": False})
    )
    assert (new.layer, new.activation, new.subtract_bias, new.trained_on) == (4, "relu", False, "m")
    np.testing.assert_array_equal(new.encoder, WEIGHTS["W_enc"])
    x = np.array([[1.0, -2.0]], np.float32)
    np.testing.assert_allclose(new.encode(x), np.maximum(x @ WEIGHTS["W_enc"] + WEIGHTS["b_enc"], 0))
    old = load_sae(write(tmp_path / "old", OLD))
    assert (old.layer, old.subtract_bias, old.trained_on) == (3, True, "gpt2-small")
    np.testing.assert_allclose(
        old.encode(x), np.maximum((x - WEIGHTS["b_dec"]) @ WEIGHTS["W_enc"] + WEIGHTS["b_enc"], 0)
    )


def test_saelens_jumprelu_and_topk(tmp_path):
    threshold = np.array([0.1, 2.0, 0.3], np.float32)
    jump = {**NEW, "architecture": "jumprelu"}
    plain = load_sae(write(tmp_path / "a", jump, {**WEIGHTS, "threshold": threshold}))
    logs = load_sae(write(tmp_path / "b", jump, {**WEIGHTS, "log_threshold": np.log(threshold)}))
    np.testing.assert_allclose(plain.threshold, logs.threshold, rtol=1e-6)
    new = load_sae(write(tmp_path / "c", {**NEW, "architecture": "topk", "k": 2}))
    old = load_sae(
        write(
            tmp_path / "d",
            {
                **OLD,
                "architecture": "standard",
                "activation_fn_str": "topk",
                "activation_fn_kwargs": {"k": 2},
            },
        )
    )
    assert (new.activation, new.k, old.activation, old.k) == ("topk", 2, "topk", 2)


def test_a_decoder_whose_norms_scale_the_features_is_folded(tmp_path):
    config = {**NEW, "architecture": "topk", "k": 2, "rescale_acts_by_decoder_norm": True}
    weights = {**WEIGHTS, "W_dec": WEIGHTS["W_dec"] + 1}
    sae = load_sae(write(tmp_path / "a", config, weights))
    x = np.array([[1.5, -2.0], [0.3, 4.0]], np.float32)
    norm = np.linalg.norm(weights["W_dec"], axis=1)
    before = ((x - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]) * norm
    order = np.argsort(-before, axis=1)[:, :2]
    want = np.zeros_like(before)
    np.put_along_axis(want, order, np.maximum(np.take_along_axis(before, order, 1), 0), 1)
    active = sae.encode(x)
    np.testing.assert_allclose(active, want, rtol=1e-5)
    np.testing.assert_allclose(
        sae.decode(active, x), (want / norm) @ weights["W_dec"] + weights["b_dec"], rtol=1e-4
    )


def test_an_expected_average_needs_its_number_which_is_folded(tmp_path):
    folder = write(
        tmp_path / "a",
        {**NEW, "architecture": "standard", "normalize_activations": "expected_average_only_in"},
    )
    with pytest.raises(ValueError, match="give it as input_scale"):
        load_sae(folder)
    sae = load_sae(folder, input_scale=0.5)
    x = np.array([[3.0, -2.0]], np.float32)
    active = np.maximum((0.5 * x - WEIGHTS["b_dec"]) @ WEIGHTS["W_enc"] + WEIGHTS["b_enc"], 0)
    np.testing.assert_allclose(sae.encode(x), active, rtol=1e-5)
    np.testing.assert_allclose(
        sae.decode(active, x), (active @ WEIGHTS["W_dec"] + WEIGHTS["b_dec"]) / 0.5, rtol=1e-5
    )
    plain = write(tmp_path / "b", {**NEW, "architecture": "standard"})
    with pytest.raises(ValueError, match="input_scale is not used"):
        load_sae(plain, input_scale=2.0)
    for scaling in ("constant_norm_rescale", "layer_norm"):
        other = write(
            tmp_path / scaling, {**NEW, "architecture": "standard", "normalize_activations": scaling}
        )
        assert load_sae(other).scaling == scaling
    odd = write(tmp_path / "odd", {**NEW, "architecture": "standard", "normalize_activations": "whitened"})
    with pytest.raises(ValueError, match="scales its inputs by 'whitened'"):
        load_sae(odd)


SCOPE = {f"w_{k[2:]}" if k.startswith("W_") else k: v for k, v in WEIGHTS.items()}
SCOPE["threshold"] = np.array([0.1, 2.0, 0.3], np.float32)


def test_gemma_scope_and_gemma_scope_2(tmp_path):
    first = tmp_path / "layer_12" / "width_16k" / "average_l0_82"
    first.mkdir(parents=True)
    np.savez(first / "params.npz", **{k.replace("w_", "W_"): v for k, v in SCOPE.items()})
    one = load_sae(first)
    assert (one.layer, one.activation, one.subtract_bias) == (12, "jumprelu", False)
    other = tmp_path / "plain"
    other.mkdir()
    np.savez(other / "params.npz", **SCOPE)
    with pytest.raises(ValueError, match="does not say where its autoencoder was trained"):
        load_sae(other)
    assert load_sae(other, hook="blocks.0.hook_resid_pre").layer == -1
    heads = tmp_path / "gemma-scope-2b-pt-att" / "layer_3"
    heads.mkdir(parents=True)
    np.savez(heads / "params.npz", **SCOPE)
    with pytest.raises(ValueError, match="does not say"):
        load_sae(heads)
    second = tmp_path / "resid_post" / "layer_7_width_16k_l0_medium"
    second.mkdir(parents=True)
    config = {"architecture": "jump_relu", "model_name": "google/gemma-3-1b-it", "l0": 60, "width": 3,
              "type": "sae", "hf_hook_point_in": "model.layers.7.output",
              "hf_hook_point_out": "model.layers.7.output"}  # fmt: skip
    (second / "config.json").write_text(json.dumps(config))
    save_file(SCOPE, second / "params.safetensors")
    two = load_sae(second)
    assert (two.layer, two.trained_on, two.activation) == (7, "google/gemma-3-1b-it", "jumprelu")
    x = np.array([[1.0, -2.0]], np.float32)
    np.testing.assert_array_equal(one.encode(x), two.encode(x))
    (second / "config.json").write_text(json.dumps({**config, "affine_connection": True}))
    with pytest.raises(ValueError, match="holds no autoencoder"):
        load_sae(second)


@pytest.mark.parametrize(
    ("hook", "layer"),
    [
        ("blocks.0.hook_resid_pre", -1),
        ("blocks.5.hook_resid_pre", 4),
        ("blocks.5.hook_resid_post", 5),
        ("model.layers.9.output", 9),
        ("transformer.h.2", 2),
    ],
)
def test_hooks_are_layers(hook, layer):
    assert layer_of_hook(hook, "here") == layer


@pytest.mark.parametrize(
    "hook", ["blocks.5.hook_mlp_out", "blocks.5.attn.hook_z", "hook_embed", "model.layers.5.mlp.output", ""]
)
def test_other_hooks_are_refused(hook, tmp_path):
    with pytest.raises(ValueError, match="a run stores the residual stream alone"):
        layer_of_hook(hook, "here")


def test_what_cannot_be_read_is_refused_in_words(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        load_sae(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="has none of the files"):
        load_sae(tmp_path)
    for name, change, words in (
        ("gated", {"architecture": "gated"}, "architecture 'gated'"),
        ("tanh", {"architecture": "standard", "activation_fn": "tanh-relu"}, "'tanh-relu'"),
        ("nok", {"architecture": "topk"}, "does not say k"),
    ):
        with pytest.raises(ValueError, match=words):
            load_sae(write(tmp_path / name, {**NEW, **change}))
    with pytest.raises(ValueError, match="lacks b_enc"):
        load_sae(write(tmp_path / "part", NEW, {k: v for k, v in WEIGHTS.items() if k != "b_enc"}))
    (tmp_path / "part" / "cfg.json").write_text("{")
    with pytest.raises(ValueError, match=r"cfg\.json is damaged|cfg\.json: not JSON"):
        load_sae(tmp_path / "part")
    (tmp_path / "part" / "cfg.json").write_text(json.dumps(NEW))
    (tmp_path / "part" / "sae_weights.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(ValueError, match=r"damaged or no file|is no file of safetensors"):
        load_sae(tmp_path / "part")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_tensors_of_every_precision_are_read_as_torch_reads_them(tmp_path, dtype):
    given = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    save_torch({"a": given, "b": given[0].clone()}, tmp_path / "x.safetensors")
    found = read_tensors(tmp_path / "x.safetensors")
    np.testing.assert_array_equal(found["a"].astype(np.float32), given.float().numpy())
    assert found["b"].shape == (7,)


# ------------------------------------------------------------------------------------------- runs
@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """The bundled model, a run of it, a probe, and everything that its statements' residuals say."""
    out = tmp_path_factory.mktemp("sparse") / "run"
    model = ml.load_model()
    run = ml.play(model, ml.load_items(limit=24), rounds=1, out=out, progress=False)
    return model, run, ml.fit_probe(model, ml.load_statements("world", limit=240))


def train(x: np.ndarray, *, width: int, penalty: float, steps: int = 400, seed: int = 0) -> SparseAutoencoder:
    """A small autoencoder trained on residuals: ReLU, an L1 penalty, Adam."""
    torch.manual_seed(seed)
    data = torch.tensor(x, dtype=torch.float32)
    mean, size = data.mean(0), float((data - data.mean(0)).pow(2).sum(1).mean().sqrt())
    data = (data - mean) / size
    decoder = torch.nn.functional.normalize(torch.randn(width, x.shape[1]), dim=1).requires_grad_()
    encoder = decoder.detach().T.clone().requires_grad_()
    bias = torch.zeros(width, requires_grad=True)
    fit = torch.optim.Adam([decoder, encoder, bias], lr=3e-3)
    for _ in range(steps):
        some = data[torch.randint(len(data), (256,))]
        active = torch.relu(some @ encoder + bias)
        unit = torch.nn.functional.normalize(decoder, dim=1)
        loss = (some - active @ unit).pow(2).sum(1).mean() + penalty * active.sum(1).mean()
        fit.zero_grad()
        loss.backward()
        fit.step()
    unit = torch.nn.functional.normalize(decoder, dim=1).detach()
    return SparseAutoencoder(
        encoder=(encoder.detach() / size).numpy(),
        encoder_bias=bias.detach().numpy(),
        decoder=(unit * size).numpy(),
        decoder_bias=mean.numpy(),
        layer=LAYER,
        subtract_bias=True,
    )


SIMPLE = re.compile(r"^(?:[A-Z]\w+|The \w+ \w+) \w+ the \w+( woman| man)?\.$")
"""Someone did something to someone, and no more was said."""


@pytest.mark.slow(seconds=12)
def test_a_trained_autoencoder_names_the_planted_valence(played):
    """The world gives every act a valence in [-2, 2]; of unseen acts two features say which sign it has."""
    model = played[0]
    every = [one for one in ml.load_statements("world") if SIMPLE.match(one.text)]
    x = ml.probes.read_statements(model, every).sel(layer=LAYER).values
    valence = np.array([one.value for one in every])
    rng = np.random.default_rng(0)
    seen = rng.permutation(len(every)) < len(every) // 2
    sae = train(x[seen], width=16, penalty=0.3)
    active, known = sae.encode(x[~seen]), valence[~seen]

    def correlations(values):
        return np.nan_to_num([np.corrcoef(one, values)[0, 1] if one.any() else 0.0 for one in active.T])

    r = correlations(known)
    for_moral, for_immoral = int(r.argmax()), int(r.argmin())
    assert r[for_moral] > 0.45
    assert r[for_immoral] < -0.45
    assert np.abs(correlations(rng.permutation(known))).max() < 0.25  # what chance gives
    on = active > 0.1 * active.max(axis=0)
    assert (known[on[:, for_moral]] > 0).mean() > 0.95
    assert (known[on[:, for_immoral]] < 0).mean() > 0.95
    along = x[seen][valence[seen] > 0].mean(axis=0) - x[seen][valence[seen] < 0].mean(axis=0)
    assert sae.decoder[for_moral] @ along > 0 > sae.decoder[for_immoral] @ along
    rebuilt = sae.decode(active, x[~seen])
    assert ((x[~seen] - rebuilt) ** 2).sum() < 0.25 * ((x[~seen] - x[~seen].mean(axis=0)) ** 2).sum()


@pytest.fixture(scope="module")
def trained(played):
    """A small autoencoder trained on the run's residuals."""
    _, run, _ = played
    here = run.residuals.sel(site="answer_start", layer=LAYER).values.reshape(-1, 128)
    return train(np.unique(here, axis=0), width=48, penalty=0.05)


@pytest.mark.slow(seconds=3)
def test_the_trained_autoencoder_rebuilds_the_run_and_its_features_move(trained, played):
    sae = trained
    _, run, _ = played
    checked = check_sae(run, sae, sites=["answer_start"])
    assert float(checked["fvu"].max()) < 0.3
    x = run.residuals.sel(site="answer_start", layer=LAYER, round=1).values.reshape(-1, 128).astype(float)
    rebuilt = sae.decode(sae.encode(x), x)
    want = ((x - rebuilt) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    assert float(checked["fvu"].sel(round=1, site="answer_start")) == pytest.approx(want, rel=1e-4)
    y = features(run, sae, sites=["answer_start"])
    effects = feature_effects(y, how=Resampled(draws=500))
    assert float(effects["p_adj"].sel(effect="instruction", round=1).min()) < 0.05
    assert "of the residuals' variance unexplained" in y.attrs["checked"]


def axes_sae(run, layer=LAYER, count=24, site="answer_start") -> SparseAutoencoder:
    """Principal axes in both signs."""
    x = run.residuals.sel(site=site, layer=layer).values.reshape(-1, 128)
    _, _, axes = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    both = np.concatenate([axes[:count], -axes[:count]])
    return SparseAutoencoder(
        encoder=both.T.copy(), encoder_bias=np.zeros(2 * count, np.float32), decoder=both,
        decoder_bias=x.mean(axis=0), layer=layer, subtract_bias=True,
    )  # fmt: skip


def test_features_are_what_is_encoded_one_by_one(played, monkeypatch):
    _, run, _ = played
    sae = axes_sae(run)
    from morality_lens.sparse import autoencoder, checking

    whole = features(run, sae, sites=["answer_start"])
    monkeypatch.setattr(checking, "NUMBERS", 128 * 8 * 2 * 5)  # five items at a time
    monkeypatch.setattr(autoencoder, "CELLS", 48 * 7)
    small = features(run, sae, sites=["answer_start"])
    np.testing.assert_allclose(small, whole, atol=1e-4)
    for item in (run.asked and list(run.asked))[:3]:
        here = {
            "item": item,
            "instruction": "on",
            "cot": "off",
            "feedback": "on",
            "round": 1,
            "site": "answer_start",
        }
        x = run.residuals.sel(here).sel(layer=LAYER).values[None]
        np.testing.assert_allclose(whole.sel(here), sae.encode(x)[0][whole["feature"].values], atol=1e-4)


def test_the_rule_looks_at_frequency_and_power_and_names_are_kept(played):
    _, run, _ = played
    sae = axes_sae(run)
    few = features(run, sae, sites=["answer_start"], choice=Choice(most=5))
    assert few.sizes["feature"] == 5
    every = features(run, sae, sites=["answer_start"], choice=Choice(least=0.0))
    busiest = every["feature"].values[np.argsort(-every["power"].values)[:5]]
    assert set(few["feature"].values) == set(busiest)
    on = (every > 0).mean([d for d in every.dims if d != "feature"])
    np.testing.assert_allclose(on, every["frequency"])
    assert features(run, sae, sites=["answer_start"], choice=Choice(named=[7, 3]))[
        "feature"
    ].values.tolist() == [3, 7]
    with pytest.raises(ValueError, match="features 0 to 47; got 48"):
        features(run, sae, sites=["answer_start"], choice=Choice(named=[48]))
    with pytest.raises(ValueError, match=r"no feature is on in at least 99 %"):
        features(run, sae, sites=["answer_start"], choice=Choice(least=0.99))


def test_another_layer_width_model_or_scaling_is_refused(played):
    _, run, _ = played
    sae = axes_sae(run)
    from dataclasses import replace

    wrong = replace(sae, layer=5)
    with pytest.raises(ValueError, match=r"at most 0\.5 of their variance unexplained, and leaves more"):
        features(run, wrong, sites=["answer_start"])
    assert (
        "may not be the features that it learnt"
        in features(run, wrong, sites=["answer_start"], anyway=True).attrs["checked"]
    )
    with pytest.raises(ValueError, match="of layer 9, and this run stored the layers -1, 0"):
        features(run, replace(sae, layer=9), sites=["answer_start"])
    with pytest.raises(ValueError, match=r"residuals of width 2 .* of this run have 128"):
        features(run, by_hand())
    with pytest.raises(ValueError, match="this run has the sites"):
        features(run, sae, sites=["nowhere"])
    with pytest.raises(ValueError, match="residuals do not vary"):  # one token, whatever was said
        features(run, replace(sae, layer=-1), sites=["answer_start"])


def test_halved_residuals_give_nearly_the_same_features(played, tmp_path):
    model, run, _ = played
    half = ml.play(
        model, ml.load_items(limit=24), rounds=1, out=tmp_path / "half",
        storage=ml.runs.Storage(layers=(LAYER,), dtype="float16"), progress=False,
    )  # fmt: skip
    sae = axes_sae(run)
    one, other = (features(r, sae, sites=["answer_start"], choice=Choice(named=[0, 5])) for r in (run, half))
    assert other.dtype == np.float32
    np.testing.assert_allclose(one, other, atol=2e-2 * float(one.max()))


def made_up(on: np.ndarray, clusters: int = 20) -> xr.DataArray:
    """Features [item, a, feature] of one round and site."""
    items = len(on)
    return xr.DataArray(
        on[:, :, None, None, :], dims=("item", "a", "round", "site", "feature"),
        coords={
            "item": [f"i{i}" for i in range(items)], "a": ["off", "on"], "round": [1],
            "site": ["answer_start"],
            "feature": [4, 8, 15, 16], "cluster": ("item", [f"c{i % clusters}" for i in range(items)]),
            "frequency": ("feature", np.full(4, 0.5)), "power": ("feature", np.ones(4)),
        },
        attrs={"units": "activation", "checked": "", "sae": "s", "layer": 0, "rule": "r"},
    )  # fmt: skip


def test_features_that_hardly_move_are_not_tested_and_the_others_keep_their_family():
    rng = np.random.default_rng(3)
    on = rng.exponential(size=(20, 1, 4)).repeat(2, axis=1)
    on[:, 1, 0] += 1 + 0.1 * rng.normal(size=20)  # moves everywhere
    on[:4, 1, 1] += 2.0  # moves in four clusters: 2 / 2^4 is above .05
    on[:, 1, 2] += 0.3 * rng.normal(size=20)  # moves without an effect; the last never moves
    y = made_up(on)
    found = feature_effects(y)
    assert found["moved"].values.tolist() == [20, 4, 20, 0]
    assert found.attrs["refused_features"] == [8, 16]
    p = found["p_adj"].sel(effect="a", round=1, site="answer_start").values
    assert p[0] < 0.001
    assert p[2] > 0.05
    assert np.isnan(p[[1, 3]]).all()
    assert "2 of 4 features differ between conditions in too few clusters" in " ".join(found.attrs["notes"])
    alone = ml.factorial_effects(y.sel(feature=[4, 15]), family=("round", "feature"))
    np.testing.assert_array_equal(found["p_adj"].sel(feature=[4, 15]), alone["p_adj"])
    with pytest.raises(ValueError, match="no feature differs between the conditions"):
        feature_effects(y.sel(feature=[8, 16]))


def test_many_null_features_rarely_give_a_corrected_p():
    rng, hits = np.random.default_rng(5), 0
    for _ in range(40):
        on = np.maximum(rng.normal(size=(24, 2, 4)), 0.0)
        found = feature_effects(made_up(on, clusters=24), how=Resampled(draws=400))
        hits += bool(np.nanmin(found["p_adj"]) < 0.05)
    assert hits <= 6


def test_a_direction_is_split_exactly_and_its_shares_add_up(played):
    _, run, probe = played
    sae = axes_sae(run)
    parts = split_direction(run, sae, probe, features=[0, 1, 2])
    want = probe.project(run).sel(site="answer_start", layer=LAYER)
    np.testing.assert_allclose(
        parts["projection"].transpose(*want.dims), want, atol=1e-9 * float(np.abs(want).max() + 1)
    )
    intercept = float(probe.intercept.sel(layer=LAYER))
    np.testing.assert_allclose(
        parts["contribution"].sum("component") + intercept, parts["projection"], atol=1e-6
    )
    here = {"item": next(iter(run.asked)), "instruction": "on", "cot": "off", "feedback": "off", "round": 1}
    x = run.residuals.sel(site="answer_start", layer=LAYER, **here).values[None]
    direction = probe.direction.sel(layer=LAYER).values
    one = float(sae.encode(x)[0, 1] * (sae.decoder[1] @ direction))
    assert float(parts["contribution"].sel(component="feature 1", **here)) == pytest.approx(one, abs=1e-5)
    found = direction_shares(parts, how=Resampled(draws=300))
    place = {"effect": "instruction", "round": 1}
    assert float(found["share"].sel(place).sum()) == pytest.approx(1.0, abs=1e-6)
    effects = ml.factorial_effects(want.sel(round=[1]), method="pointwise")["estimate"]
    np.testing.assert_allclose(
        found["estimate"].sel(round=1).sum("component"), effects.sel(round=1), atol=1e-6
    )
    named = found["estimate"].sel(place).sel(component=[f"feature {n}" for n in (0, 1, 2)]).sum()
    assert float(found["share"].sel(place).sel(part="named features")) == pytest.approx(
        float(named / found["whole"].sel(place)), rel=1e-6
    )
    assert bool(np.isnan(found["share"].sel(round=0)).all())  # nothing moves there
    assert "no share is given" in describe_shares(found, "instruction", round=0)
    assert "Of it named features carry" in describe_shares(found, "instruction")
    changed = parts.assign(projection=parts["projection"] * 1.5)
    with pytest.raises(ValueError, match="the parts were changed"):
        direction_shares(changed)


@pytest.mark.parametrize("scaling", ["layer_norm", "constant_norm_rescale"])
def test_the_split_is_exact_where_inputs_are_scaled(played, scaling):
    _, run, probe = played
    from dataclasses import replace

    sae = replace(axes_sae(run), scaling=scaling)
    parts = split_direction(run, sae, probe, features=[0], anyway=True)
    assert parts.attrs["completeness"] < 1e-4


def test_cards_show_where_a_feature_is_on(played):
    model, run, _ = played
    sae = axes_sae(run)
    y = features(run, sae, sites=["answer_start"])
    (card,) = feature_cards(run, y, features=[3], top=4)
    largest = y.sel(feature=3).max([d for d in y.dims if d not in ("item", "feature")])
    want = largest.sortby(largest, ascending=False)["item"].values[:4].tolist()
    assert [row["item"] for row in card.top] == want
    assert card.top[0]["activation"] == pytest.approx(card.largest)
    assert card.top[0]["text"]
    assert "at its sites alone" in card.note
    few = ml.rounds.Selection(rounds=[1], items=want[:2])
    tokens = ml.circuits.feature_tokens(model, run, sae, [3, 5], top=2, selection=few)
    (told,) = feature_cards(run, y, features=[3], tokens=tokens)
    assert len(told.tokens) == 2
    assert told.note == ""
    row = tokens[3][0]
    assert row["token"] in row["text"]
    with pytest.raises(ValueError, match="feature 999 was not kept"):
        feature_cards(run, y, features=[999])


def test_tokens_are_read_where_the_site_is(played):
    """At the token before an answer the dialogue, read again, has the feature that the run stored."""
    model, run, _ = played
    sae = axes_sae(run)
    item, cell = next(iter(run.asked)), run.design.conditions[-1]
    y = features(run, sae, sites=["answer_start"], choice=Choice(named=[0, 1, 2]))
    from morality_lens.circuits.reading_features import _residuals
    from morality_lens.models.loading import record_of
    from morality_lens.runs.passages import passages

    (passage,) = passages(run, items=[item], conditions=[cell], rounds=[1])
    (read,) = _residuals(record_of(model), [passage], LAYER)
    place = passage.places("answer_start", 1)[0]
    want = y.sel(item=item, round=1, site="answer_start", **cell.coords)
    np.testing.assert_allclose(sae.encode(read[place][None])[0, :3], want, atol=1e-3)


@pytest.mark.slow(seconds=15)
def test_the_command_keeps_effects_cards_and_shares(played, tmp_path, command):
    model, _, probe = played
    run = ml.play(model, ml.load_items(limit=16), rounds=1, out=tmp_path / "run", progress=False)
    probe.save(run.path / "probe.safetensors")
    sae = axes_sae(run)
    weights = {
        "W_enc": sae.encoder,
        "b_enc": sae.encoder_bias,
        "W_dec": sae.decoder,
        "b_dec": sae.decoder_bias,
    }
    config = {
        "architecture": "standard",
        "hook_name": f"blocks.{LAYER}.hook_resid_post",
        "model_name": "bundled",
    }
    folder = write(tmp_path / "sae", config, {k: v.astype(np.float32) for k, v in weights.items()})
    code, out, err = command("features", run.path, "--sae", folder, "--tokens")
    assert code == 0, out + err
    assert "tested features move" in out
    assert "Of it named features carry" in out
    kept = ml.runs.kept_results(run)
    assert {"features-effects", "features-shares"} <= set(kept)
    html = (run.path / "report.html").read_text()
    assert "Sparse features" in html
    assert html.count('data-figure="inside-features-') == 2
    wrong = write(tmp_path / "wrong", {**config, "hook_name": "blocks.2.hook_mlp_out"}, weights)
    code, out, err = command("features", run.path, "--sae", wrong)
    assert code == 2
    assert "a run stores the residual stream alone" in err
    assert "torch" in sys.modules
