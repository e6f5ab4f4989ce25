"""A projection is split exactly: over components, over what heads read, in every architecture of the zoo."""

import numpy as np
import pytest
import torch
import xarray as xr
import zoo
from conftest import make_questions
from tiny import made_up_probe, tiny_run

from morality_lens.circuits import attribution, decomposition
from morality_lens.circuits.attribution import attribute, attribute_answer, attribute_tokens
from morality_lens.design import Condition
from morality_lens.interactions.by_component import (
    LEVELS_OF_DETAIL,
    attribute_effects,
    describe_components,
    regroup,
)
from morality_lens.models.loading import record_of
from morality_lens.rounds.selection import Execution, Selection
from morality_lens.runs.passages import by_length, passages

QUIET = Execution(progress=False)

CELLS = ("item", "instruction", "cot", "feedback", "round")
BOTH = Condition(instruction="on", feedback="on")


@pytest.fixture(scope="module")
def played(zoo_folder, tmp_path_factory):
    """A function that gives a model, its run and a probe, each architecture once."""
    made = {}

    def get(architecture, dtype="auto"):
        key = (architecture, dtype)
        if key not in made:
            out = tmp_path_factory.mktemp("attr") / "run"
            model, run = tiny_run(zoo_folder(architecture), out, make_questions(3), dtype=dtype)
            made[key] = (model, run, made_up_probe(model))
        return made[key]

    return get


@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
def test_the_parts_are_the_stored_projection(played, architecture):
    model, run, probe = played(architecture)
    stored = probe.project(run)
    for site, layer in (("answer_start", 2), ("answer_mean", 1), ("answer_end", -1)):
        parts = attribute(model, run, probe, site=site, layer=layer, execution=QUIET)
        want = stored.sel(site=site, layer=layer).transpose(*CELLS)
        scale = float(np.abs(parts["contribution"]).max())
        np.testing.assert_allclose(
            parts["contribution"].sum("component", skipna=False).transpose(*CELLS), want, atol=2e-5 * scale
        )
        assert np.array_equal(np.isnan(want), np.isnan(parts["projection"].transpose(*CELLS)))
        assert parts.attrs["completeness"] < 1e-4
        if layer >= 0:
            heads = parts["contribution"].sel(component=parts["head"].values).values
            np.testing.assert_allclose(parts["by_segment"].sum("segment", skipna=False), heads, atol=1e-9)


@pytest.mark.parametrize("architecture", ["gpt2", "neox", "gemma2", "mistral"])
def test_in_double_precision_nothing_is_missing(played, architecture):
    model, run, probe = played(architecture, "float64")
    assert record_of(model).dtype == "float64"
    parts = attribute(model, run, probe, layer=2, selection=Selection(items=["q0", "q2"]), execution=QUIET)
    assert bool(np.isfinite(run.residuals.sel(site="answer_start")).all())
    assert parts.attrs["completeness"] < 1e-9
    gap = parts["contribution"].sum("component", skipna=False) - parts["projection"]
    assert bool(np.isfinite(gap).all())
    assert float(np.abs(gap).max()) < 1e-9 * float(np.abs(parts["contribution"]).max())


@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
def test_the_answers_log_odds_are_split(played, architecture):
    model, run, _ = played(architecture)
    parts = attribute_answer(model, run, execution=QUIET)
    odds = np.log(run.option_probabilities.transpose(*CELLS, "option").values)
    correct = run.items["label"].to_numpy()
    for i, label in enumerate(correct):
        want = odds[i][..., label] - np.delete(odds[i], label, axis=-1).mean(-1)
        np.testing.assert_allclose(
            parts["projection"].transpose(*CELLS).values[i], want, atol=2e-3, rtol=1e-4
        )
    assert bool((parts["scale"] > 0).all())


def test_heads_are_those_of_plain_transformers(played):
    """What goes into the output projection, head by head, caught in the plain model."""
    model, run, probe = played("llama")
    record = record_of(model)
    parts = attribute(
        model,
        run,
        probe,
        layer=2,
        selection=Selection(items=["q1"], rounds=[1], conditions=[BOTH]),
        execution=QUIET,
    )
    (passage,) = passages(run, items=["q1"], rounds=[1], conditions=[BOTH])
    at = passage.places("answer_start", 1)[0]
    caught = []
    projections = [block.self_attn.o_proj for block in record.lm.blocks]
    handles = [o.register_forward_pre_hook(lambda _, a: caught.append(a[0][0, at])) for o in projections]
    with torch.no_grad():
        record.lm.module(torch.tensor([passage.token_ids]), use_cache=False)
    for handle in handles:
        handle.remove()
    direction = torch.tensor(probe.direction.sel(layer=2).values, dtype=torch.float32)
    one = parts["contribution"].sel(item="q1", instruction="on", cot="off", feedback="on", round=1)
    for block in range(3):
        width = caught[block].numel() // 4
        for head in range(4):
            own = slice(head * width, (head + 1) * width)
            want = float(projections[block].weight[:, own] @ caught[block][own] @ direction)
            assert float(one.sel(component=f"L{block}H{head}")) == pytest.approx(want, abs=2e-5)


def test_segments_are_whose_words_they_are(played):
    """What a head takes from a segment is what its pattern and values give there, computed from scratch."""
    model, run, probe = played("gpt2")
    parts = attribute(
        model,
        run,
        probe,
        layer=0,
        selection=Selection(items=["q1"], rounds=[1], conditions=[BOTH]),
        execution=QUIET,
    )
    (passage,) = passages(run, items=["q1"], rounds=[1], conditions=[BOTH])
    at = passage.places("answer_start", 1)[0]
    ids = torch.tensor([passage.token_ids])
    attn = record_of(model).lm.blocks[0].attn
    caught = []
    handle = attn.c_attn.register_forward_hook(lambda _, a, out: caught.append(out[0]))
    with torch.no_grad():
        record_of(model).lm.module(ids, use_cache=False)
    handle.remove()
    query, key, value = (x.view(-1, 4, 8) for x in caught[0].split(32, dim=-1))
    direction = torch.tensor(probe.direction.sel(layer=0).values, dtype=torch.float32)
    one = parts["by_segment"].sel(item="q1", instruction="on", cot="off", feedback="on", round=1)
    for head in range(4):
        weight = torch.softmax(key[: at + 1, head] @ query[at, head] / 8**0.5, dim=0)
        told = value[: at + 1, head] @ attn.c_proj.weight[head * 8 : head * 8 + 8] @ direction
        for name, start, stop in (
            ("instruction", *_span(passage, "instruction")),
            ("review", *_span(passage, "review")),
        ):
            want = float((weight * told)[start:stop].sum())
            assert float(one.sel(head=f"L0H{head}", segment=name)) == pytest.approx(want, abs=2e-6)


def _span(passage, name):
    return next((a, b) for n, r, a, b in passage.spans if (n, r) == (name, 1))


def test_it_goes_on_where_it_stopped_and_refuses_another_folder(played, tmp_path, monkeypatch):
    model, run, probe = played("gpt2")
    monkeypatch.setattr(attribution, "ITEMS", 1)
    whole = attribute(model, run, probe, layer=1, execution=QUIET)
    out, real = tmp_path / "parts", decomposition.split_batch
    calls = []

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(attribution, "split_batch", failing)
    with pytest.raises(KeyboardInterrupt):
        attribute(model, run, probe, layer=1, execution=Execution(out=out, progress=False))
    done = len(list(out.glob("part-*.zarr.zip")))
    assert 0 < done < 3
    again = attribute(model, run, probe, layer=1, execution=Execution(out=out, progress=False))
    assert len(calls) == 3 + 3 - done
    xr.testing.assert_allclose(again, whole, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="another attribution"):
        attribute(model, run, probe, layer=2, execution=Execution(out=out, progress=False))
    with pytest.raises(ValueError, match="is no attribution"):
        attribute(model, run, probe, layer=2, execution=Execution(out=run.path, progress=False))


def test_what_cannot_be_split_is_refused(played, monkeypatch):
    model, run, probe = played("gpt2")
    for words, asked in (
        ("no layer 9", {"layer": 9}),
        ("no site 'nowhere'", {"site": "nowhere"}),
        ("no item zz", {"selection": Selection(items=["zz"])}),
        ("no round 4", {"selection": Selection(rounds=[4])}),
        ("none given", {"selection": Selection(items=[])}),
    ):
        with pytest.raises(ValueError, match=words):
            attribute(model, run, probe, execution=QUIET, **asked)
    with pytest.raises(ValueError, match="another model"):
        attribute(played("llama")[0], run, probe, execution=QUIET)
    monkeypatch.setattr(decomposition, "INCOMPLETE", {torch.float32: 0.0})
    with pytest.raises(ValueError, match="do not add up"):
        attribute(model, run, probe, layer=2, execution=QUIET)


def test_one_dialogue_is_coloured_by_what_heads_take(played):
    model, run, probe = played("neox")
    view = attribute_tokens(model, run, probe, item="q2", condition=BOTH, layer=2)
    parts = attribute(
        model,
        run,
        probe,
        layer=2,
        selection=Selection(items=["q2"], rounds=[1], conditions=[BOTH]),
        execution=QUIET,
    )
    one = parts["contribution"].sel(item="q2", instruction="on", cot="off", feedback="on", round=1)
    for layer in range(3):
        want = float(one.sel(component=[f"L{layer}H{h}" for h in range(4)]).sum())
        assert view.values[layer].sum() == pytest.approx(want, abs=2e-5)
    (passage,) = passages(run, items=["q2"], rounds=[1], conditions=[BOTH])
    assert not view.values[:, passage.places("answer_start", 1)[0] + 1 :].any()
    with pytest.raises(ValueError, match="no 'rationale' in round 1"):
        attribute_tokens(model, run, probe, item="q2", condition=BOTH, site="rationale")


def test_batches_hold_few_rows_where_dialogues_are_long(played):
    _, run, _ = played("gpt2")
    found = list(passages(run))
    longest = max(len(p.token_ids) for p in found)
    batches = by_length(found, rows=4, squares=2 * longest**2)
    assert sorted(id(p) for batch in batches for p in batch) == sorted(map(id, found))
    for batch in batches:
        width = max(len(p.token_ids) for p in batch)
        assert len(batch) <= 4
        assert len(batch) == 1 or len(batch) * width**2 <= 2 * longest**2


# ------------------------------------------------------------------------------------------- effects
@pytest.fixture(scope="module")
def planted() -> xr.Dataset:
    """40 items in which head L1H0 carries instruction x feedback, reading feedback; L0H0 the instruction."""
    rng = np.random.default_rng(1)
    levels, shape = ["off", "on"], (40, 2, 2, 2, 2)
    i, f = np.zeros(shape), np.zeros(shape)
    i[:, 1], f[..., 1, :] = 1, 1
    i[..., 0] = f[..., 0] = 0  # round 0 knows no component
    noise = 0.1 * rng.standard_normal((*shape, 2, 2))
    noise[..., 0, :, :] = 0.0
    heads = noise.copy()
    heads[..., 0, 0] += 0.5 * i  # L0H0 reading instruction
    heads[..., 1, 1] -= 0.8 * i * f  # L1H0 reading feedback
    embedding = np.broadcast_to(rng.standard_normal((40, 1, 1, 1, 1)), shape)
    mlp = 0.1 * rng.standard_normal(shape) * (i + f > 0)
    names = ["embedding", "L0H0", "L0 MLP", "L1H0", "midpoint"]
    sums = heads.sum(-1)
    parts = np.stack([embedding, sums[..., 0], mlp, sums[..., 1], np.full(shape, 0.3)], axis=-1)
    return xr.Dataset(
        {
            "contribution": ((*CELLS, "component"), parts, {"units": "moral-immoral gap", "oriented": True}),
            "by_segment": ((*CELLS, "head", "segment"), heads),
            "projection": (CELLS, parts.sum(-1), {"units": "moral-immoral gap", "oriented": True}),
        },
        coords={
            "item": [f"i{n}" for n in range(40)],
            **dict.fromkeys(CELLS[1:4], levels),
            "round": [0, 1],
            "component": names,
            "head": ["L0H0", "L1H0"],
            "segment": ["instruction", "feedback"],
        },
        attrs={"completeness": 1e-12, "layer": 1},
    )


@pytest.mark.parametrize("by", LEVELS_OF_DETAIL)
def test_effects_of_the_parts_add_up_to_the_effect_of_the_whole(planted, by):
    parts = regroup(planted, by)
    want = planted["projection"] - 0.3
    np.testing.assert_allclose(parts.sum("component"), want, atol=1e-12)
    effects = attribute_effects(planted, by=by, draws=200)
    gap = np.abs(effects["estimate"].sum("component") - effects["whole"])
    assert float(gap.max()) < 1e-9
    assert effects.attrs["sum_error"] < 1e-9


def test_the_head_that_carries_the_interaction_is_named(planted):
    effects = attribute_effects(planted, by="head and segment", draws=500)
    one = effects.sel(effect="instruction:feedback", round=1)
    named = one["component"].values[one["p_adj"].values < 0.05].tolist()
    assert named == ["L1H0 reading feedback"]
    assert float(one["estimate"].sel(component=named[0])) == pytest.approx(-0.8, abs=0.1)
    said = describe_components(effects, "instruction:feedback")
    assert "L1H0 reading feedback -0." in said
    assert "in round 1" in said
    assert "No component is distinguishable from zero" in describe_components(
        attribute_effects(planted, draws=200), "instruction:cot", round=1
    )
    with pytest.raises(ValueError, match="no effect 'nothing'"):
        describe_components(effects, "nothing")
    with pytest.raises(ValueError, match="no round 7"):
        describe_components(effects, "cot", round=7)
    with pytest.raises(ValueError, match="layer and segment"):
        regroup(planted, "neuron")


def test_parts_that_were_changed_are_refused(planted):
    changed = planted.assign(contribution=planted["contribution"] + 0.1 * (planted["instruction"] == "on"))
    with pytest.raises(ValueError, match="were changed"):
        attribute_effects(changed, draws=200)


def test_figures_show_the_named_head_and_refuse_another_level_of_detail(planted):
    from morality_lens import plots

    effect = "instruction:feedback"
    by = {b: attribute_effects(planted, by=b, draws=200) for b in LEVELS_OF_DETAIL}
    fig = plots.attribution(by["head and segment"], effect=effect, top=2)
    labels = [y for trace in fig.data for y in trace.y]
    assert labels[:2] == ["total effect", "L1H0 reading feedback"]
    assert "4 others together" in labels
    layers = plots.attribution_layers(by["layer"], effect=effect, round=1)
    whole = float(by["layer"]["whole"].sel(effect=effect, round=1))
    assert layers.data[-1].y[-1] == pytest.approx(whole)
    heads = plots.attribution_heads(by["component"], effect=effect).data[0]
    assert heads.z.shape == (1, 2)
    assert heads.z[0, 1] == pytest.approx(-0.8, abs=0.1)
    segments = plots.attribution_segments(by["layer and segment"], effect=effect).data[0]
    at = list(segments.y).index("feedback"), list(segments.x).index("L1")
    assert segments.z[at] == pytest.approx(-0.8, abs=0.1)
    assert "●" in segments.text[at]
    with pytest.raises(ValueError, match="by='layer'"):
        plots.attribution_layers(by["component"], effect=effect)
