"""A patched suffix equals a full patched forward through the bridge's own hooks, in every architecture."""

import inspect

import numpy as np
import pytest
import torch
import xarray as xr
import zoo
from conftest import make_questions
from tiny import made_up_probe, tiny_run

from morality_lens.circuits.ablation import ablate
from morality_lens.circuits.measuring import passage_prompt
from morality_lens.circuits.patching import patch
from morality_lens.circuits.settings import Activations, Batching, Doses, Moment, RandomDirections, Reading
from morality_lens.circuits.steering import steer
from morality_lens.circuits.summaries import recovered
from morality_lens.design import Condition
from morality_lens.models.loading import record_of
from morality_lens.rounds.selection import Execution
from morality_lens.runs import resuming
from morality_lens.runs.alignment import align, alignable, paired, positions

QUIET = Batching(progress=False)
NONE = Condition()
SOURCE = Condition(instruction="on", feedback="on")
TARGET = Condition(feedback="on")
HOOKS = {
    "residual": "blocks.{}.hook_out",
    "attention": "blocks.{}.hook_attn_out",
    "mlp": "blocks.{}.hook_mlp_out",
    "head": "blocks.{}.attn.hook_z",
}


@pytest.fixture(scope="module")
def played(zoo_folder, tmp_path_factory):
    """A function that gives a model, its run and a probe, each architecture once."""
    made = {}

    def get(architecture):
        if architecture not in made:
            out = tmp_path_factory.mktemp("patch") / "run"
            made[architecture] = tiny_run(zoo_folder(architecture), out, make_questions(3))
        model, run = made[architecture]
        return model, run, made_up_probe(model)

    return get


def test_patches_kept_in_a_folder_resume_and_are_the_same(played, tmp_path, monkeypatch):
    model, run, probe = played("llama")
    for what in ("residual", "head"):
        asked = {
            "source": SOURCE,
            "target": TARGET,
            "activations": Activations(at=["answer_start", "answer_request"], what=what),
            "reading": Reading(probe=probe, answers=True),
            "batching": Batching(batch_size=2, progress=False),
        }
        execution = Execution(out=tmp_path / what, progress=False)
        alone = patch(model, run, **asked)
        kept = patch(model, run, **asked, execution=execution)
        xr.testing.assert_identical(alone, kept)
        (tmp_path / what / "part-0001.zarr.zip").unlink()
        xr.testing.assert_identical(alone, patch(model, run, **asked, execution=execution))
        with monkeypatch.context() as patched:
            patched.setattr(resuming, "_made", None)  # all is there
            xr.testing.assert_identical(alone, patch(model, run, **asked, execution=execution))
        other = {**asked, "batching": Batching(batch_size=3, progress=False)}
        with pytest.raises(ValueError, match=r"another patching of .* it differs in batch_size"):
            patch(model, run, **other, execution=execution)


def bridge_patched(model, run, item, place, layer, what, head):
    """Probabilities of options after a whole forward of the bridge with activations overwritten."""
    ((source, target),) = paired(run, source=SOURCE, target=TARGET, round=1, items=[item])
    here, there = align(source, target, place, 1)
    name = "blocks.0.hook_in" if layer == -1 else HOOKS[what].format(layer)
    ids = [torch.tensor([passage_prompt(p, 1)]) for p in (source, target)]
    _, cache = model.run_with_cache(ids[0], names_filter=[name], prepend_bos=False)

    def put_in(value, hook):
        value = value.clone()
        if head is None:
            value[:, there] = cache[name][:, here]
        else:
            value[:, there, head] = cache[name][:, here, head]
        return value

    with torch.no_grad():
        logits = model.run_with_hooks(ids[1], fwd_hooks=[(name, put_in)], prepend_bos=False)
    from morality_lens.rounds.replay import option_letters

    spread = torch.log_softmax(logits[0, -1].double(), -1)
    letters = option_letters(record_of(model), run)
    shares = torch.stack([spread[list(t)].logsumexp(-1) for t in letters]).softmax(-1)
    return shares.numpy()


@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
def test_a_patched_suffix_equals_a_whole_patched_forward(played, architecture):
    model, run, probe = played(architecture)
    for what, place, layers in (
        ("residual", "answer_start", [-1, 0, 2]),
        ("residual", "answer_request", [0, 1]),
        ("attention", "answer_start", [1]),
        ("mlp", "review", [0]),
        ("head", "answer_request", [1]),
    ):
        patched = patch(
            model,
            run,
            source=SOURCE,
            target=TARGET,
            activations=Activations(at=place, what=what, layers=layers),
            reading=Reading(probe=probe),
            batching=Batching(batch_size=2, rows=3, progress=False),
        )
        for item in ("q0", "q2"):
            for layer in layers:
                head = 3 if what == "head" else None
                want = bridge_patched(model, run, item, place, layer, what, head)
                found = patched["probability"].sel(item=item, place=place, layer=layer)
                found = found if head is None else found.sel(head=head)
                np.testing.assert_allclose(found, want, atol=2e-5, err_msg=f"{what} {place} {layer}")


@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
def test_identities(played, architecture):
    model, run, probe = played(architecture)
    last = record_of(model).n_layers - 1
    for what in ("residual", "attention", "mlp", "head"):
        same = patch(
            model,
            run,
            source=SOURCE,
            target=SOURCE,
            activations=Activations(at=["turn", "answer@0", "answer_start"], what=what),
            reading=Reading(probe=probe),
            batching=QUIET,
        )
        for name in ("log_odds", "projection"):
            want = same[f"target_{name}"]
            gap = np.abs(same[name] - want).max() / np.abs(want).max()
            assert float(gap) < 1e-4, what
    patched = patch(
        model,
        run,
        source=SOURCE,
        target=NONE,
        activations=Activations(layers=[last]),
        reading=Reading(answers=True),
        batching=QUIET,
    )
    np.testing.assert_allclose(
        patched["probability"].sel(layer=last, place="answer_start"), patched["source_probability"], atol=1e-6
    )
    assert set(patched["answer"].dims) == {"item", "place", "layer"}


@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
def test_branches_of_one_row_equal_rows_of_their_own(played, architecture, monkeypatch):
    """Side by side in one row, past a sliding window and of unequal lengths, or each in a row of its own."""
    model, run, probe = played(architecture)
    from morality_lens.models import suffixes

    activations = Activations(at=["review", "answer_request", "answer_start"])
    asked = {"source": SOURCE, "target": TARGET, "activations": activations}
    taken = []
    real = suffixes._run_branches
    monkeypatch.setattr(suffixes, "_run_branches", lambda *a, **k: taken.append(1) or real(*a, **k))
    one = patch(model, run, **asked, reading=Reading(probe=probe), batching=QUIET)
    assert len(taken) >= 2
    monkeypatch.setattr(suffixes, "branches_work", lambda _: False)
    two = patch(model, run, **asked, reading=Reading(probe=probe), batching=QUIET)
    for name in ("log_odds", "projection", "target_projection"):
        scale = float(np.abs(two[name]).max())
        np.testing.assert_allclose(one[name], two[name], atol=2e-5 * scale)


def test_without_a_patch_the_run_itself_comes_back(played):
    model, run, probe = played("mistral")
    patched = patch(
        model,
        run,
        source=SOURCE,
        target=TARGET,
        reading=Reading(probe=probe, answers=True),
        batching=QUIET,
    )
    cells = {
        "source": {"instruction": "on", "cot": "off", "feedback": "on"},
        "target": {"instruction": "off", "cot": "off", "feedback": "on"},
    }
    for who, cell in cells.items():
        stored = run.option_probabilities.sel(round=1, item=patched["item"].values, **cell)
        np.testing.assert_allclose(patched[f"{who}_probability"], stored, atol=1e-5)
        want = probe.project(run).sel(site="answer_start", round=1, item=patched["item"].values, **cell)
        np.testing.assert_allclose(patched[f"{who}_projection"], want, atol=1e-4)
        table = run.answers[run.answers["round"] == 1].set_index("item")
        own = table[(table[list(cell)] == list(cell.values())).all(axis=1)]
        assert patched[f"{who}_answer"].values.tolist() == own.loc[patched["item"].values, "text"].tolist()


def test_the_projection_can_be_read_in_the_patched_answer(played):
    model, run, probe = played("llama")
    patched = patch(
        model,
        run,
        source=TARGET,
        target=TARGET,
        reading=Reading(probe=probe, site="answer_end"),
        activations=Activations(layers=[1]),
        batching=QUIET,
    )
    cell = {"instruction": "off", "cot": "off", "feedback": "on"}
    want = probe.project(run).sel(site="answer_end", round=1, item=patched["item"].values, **cell)
    np.testing.assert_allclose(patched["target_projection"], want, atol=1e-4)
    np.testing.assert_allclose(patched["projection"].sel(layer=1, place="answer_start"), want, atol=1e-4)


def test_what_does_not_correspond_is_refused_with_the_reason(played):
    model, run, _ = played("gpt2")
    asked = {"source": SOURCE, "target": TARGET, "batching": QUIET}
    for words, more in (
        ("tokens of 'turn' are not the same", {"activations": Activations(at="turn")}),
        ("no 'instruction' in round 1", {"activations": Activations(at="instruction")}),
        ("no 'rationale' in round 1", {"activations": Activations(at="rationale")}),
        ("a place is a name", {"activations": Activations(at="answer@x")}),
        ("comes after the answer's start", {"activations": Activations(at="answer_end")}),
        ("layers of mlp are 0 to 2", {"activations": Activations(what="mlp", layers=[-1])}),
        ("no item zz", {"target": Moment(condition=TARGET, items=["zz"])}),
        ("projection is read at", {"reading": Reading(site="review")}),
    ):
        with pytest.raises(ValueError, match=words):
            patch(model, run, **{**asked, **more})
    with pytest.raises(ValueError, match="one of residual, attention, mlp, head"):
        inspect.unwrap(Activations.__init__)(object.__new__(Activations), what="neuron")
    with pytest.raises(ValueError, match="another model"):
        patch(played("llama")[0], run, **asked)
    table = alignable(run, source=SOURCE, target=TARGET, at=["turn", "review", "question"], round=1)
    assert (table["review"] == "").all()
    assert (table["question"] == "").all()
    assert table["turn"].str.contains("differ in token").all()
    ((one, two), *_) = paired(run, source=SOURCE, target=TARGET, round=1, items=["q0", "q1"])
    assert positions(one, "turn", 1)[-1] == positions(one, "answer_start", 1)[0]
    assert positions(two, "all", 1) == tuple(range(positions(two, "answer_start", 1)[0] + 1))
    other = paired(run, source=SOURCE, target=TARGET, round=1, items=["q1"])[0][1]
    with pytest.raises(ValueError, match="only dialogues of one item"):
        align(one, other, "answer_start", 1)


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2", "neox"])
def test_steering_equals_adding_through_the_bridge(played, architecture):
    model, run, probe = played(architecture)
    steered = steer(
        model,
        run,
        probe,
        condition=TARGET,
        doses=Doses(layer=1, sizes=[-1.0, 2.0]),
        random=RandomDirections(count=2),
        batching=QUIET,
    )
    ((_, target),) = paired(run, source=TARGET, target=TARGET, round=1, items=["q1"])
    where = list(positions(target, "turn", 1))
    direction = probe.direction.sel(layer=1).values
    step = torch.tensor(2.0 * direction / (direction @ direction), dtype=torch.float32)

    def add(value, hook):
        value = value.clone()
        value[:, where] += step
        return value

    ids = torch.tensor([passage_prompt(target, 1)])
    _, clean = model.run_with_cache(ids, names_filter=["blocks.2.hook_out"], prepend_bos=False)
    with model.hooks(fwd_hooks=[("blocks.1.hook_out", add)]):
        _, cache = model.run_with_cache(ids, names_filter=["blocks.2.hook_out"], prepend_bos=False)
    at = probe.direction.sel(layer=2).values
    for dose, found in ((2.0, cache), (0.0, clean)):
        want = float(
            found["blocks.2.hook_out"][0, -1].numpy().astype(float) @ at + probe.intercept.sel(layer=2)
        )
        got = steered["projection"].sel(item="q1", direction="probe", dose=dose, read_layer=2)
        assert float(got) == pytest.approx(want, abs=2e-3, rel=1e-4)
    moved = steered["projection"].sel(direction="probe", read_layer=1)
    np.testing.assert_allclose(moved.sel(dose=2.0) - moved.sel(dose=0.0), 2.0, atol=1e-3)
    assert steered["dose"].values.tolist() == [-1.0, 0.0, 2.0]
    with pytest.raises(ValueError, match="doses other than 0"):
        steer(model, run, probe, condition=TARGET, doses=Doses(sizes=[0.0]), batching=QUIET)


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2"])
def test_the_cost_of_steering_equals_adding_through_the_bridge(played, architecture):
    from morality_lens.circuits import costs as module
    from morality_lens.circuits.intervening import gap_vector
    from morality_lens.dialogues import rendering
    from morality_lens.dialogues.wording import load_wording
    from morality_lens.items.bundled import asset
    from morality_lens.items.loaders import load_questions

    model, _, probe = played(architecture)
    record = record_of(model)
    some = load_questions(asset("world", "settled.jsonl"))[:3]
    doses = Doses(layer=1, sizes=[-4.0, 4.0])
    cost = module.steering_cost(
        model, probe, doses=doses, random=RandomDirections(count=1), questions=some, batching=QUIET
    )
    assert dict(cost.sizes) == {"text": 8, "direction": 2, "dose": 3, "question": 3}
    step = torch.tensor(gap_vector(probe, 1))

    def steered(tokens, dose):
        def add(value, hook):
            value = value.clone()
            value[:, 1:] += (dose * step).to(value)
            return value

        with torch.no_grad():
            return model.run_with_hooks(
                torch.tensor([tokens]), fwd_hooks=[("blocks.1.hook_out", add)], prepend_bos=False
            )[0]

    begin = record.renderer.tokenizer("a").input_ids[0]
    begin = begin if begin == record.renderer.tokenizer.bos_token_id else None
    text = asset("world", "neutral.txt").read_text(encoding="utf-8").split("\n\n")[2]
    ids = [*([] if begin is None else [begin]), *rendering.encode_words(record.renderer, text)]
    letters = rendering.letter_tokens(record.renderer, 3)
    for dose in (-4.0, 0.0, 4.0):
        log = torch.log_softmax(steered(ids, dose)[:-1].double(), -1)
        want = -log[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].mean()
        found = cost.sel(direction="probe", dose=dose)
        assert float(found["surprise"][2]) == pytest.approx(float(want), abs=2e-5)
        prompt = module._prompt(record, some[1], load_wording(None))
        log = torch.log_softmax(steered(prompt, dose)[-1].double(), -1)
        shares = torch.stack([log[list(t)].logsumexp(-1) for t in letters]).softmax(-1)
        assert float(found["probability"][1]) == pytest.approx(float(shares[some[1].label]), abs=2e-5)
        assert float(found["right"][1]) == float(shares.argmax() == some[1].label)
    xr.testing.assert_equal(
        cost.sel(dose=0.0, direction="probe", drop=True), cost.sel(dose=0.0, direction="random 0", drop=True)
    )
    assert float(np.abs(cost["surprise"].diff("dose")).min()) > 1e-6


def test_only_settled_questions_of_the_probes_model_show_a_cost(played):
    from morality_lens.circuits.costs import steering_cost

    model, run, probe = played("gpt2")
    with pytest.raises(ValueError, match="questions that their context settles"):
        steering_cost(model, probe, questions=[run.asked["q0"]])
    with pytest.raises(ValueError, match=r"settles.*got none"):
        steering_cost(model, probe, questions=[])
    with pytest.raises(ValueError, match="doses other than 0"):
        steering_cost(model, probe, doses=Doses(sizes=[0.0]))


def residual_put_in(model, run, condition, item, layer, change):
    """Log-odds of the right option after a whole forward of the bridge with one residual changed."""
    from morality_lens.circuits.measuring import good_log_odds
    from morality_lens.rounds.replay import option_letters
    from morality_lens.runs.passages import answering

    (passage,) = answering(run, items=[item], condition=condition, round=1)
    ids = torch.tensor([passage_prompt(passage, 1)])
    name = "blocks.0.hook_in" if layer == -1 else HOOKS["residual"].format(layer)

    def put_in(value, hook):
        value = value.clone()
        value[:, -1] = change(value[:, -1])
        return value

    with torch.no_grad():
        logits = model.run_with_hooks(ids, fwd_hooks=[(name, put_in)], prepend_bos=False)
    spread = torch.log_softmax(logits[0, -1].double(), -1)
    letters = option_letters(record_of(model), run)
    log = torch.stack([spread[list(t)].logsumexp(-1) for t in letters])
    return float(good_log_odds(log, run.asked[item]))


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2"])
def test_mediation_and_its_checks_equal_exchanging_residuals_through_the_bridge(played, architecture):
    from morality_lens.circuits.mediation import mediate

    model, run, probe = played(architecture)
    found = mediate(model, run, probe, layers=[-1, 0, 2], batching=QUIET)
    stored = run.residuals.sel(item="q1", site="answer_start", round=1, cot="off").load()
    for layer in (-1, 0, 2):
        m = {
            (a, b): torch.tensor(stored.sel(instruction=a, feedback=b, layer=layer).values).double()
            for a in ("off", "on")
            for b in ("off", "on")
        }
        full = m["on", "on"]
        additive = m["on", "off"] + m["off", "on"] - m["off", "off"]
        w = torch.tensor(probe.direction.sel(layer=layer).values).double()

        def along(target, part, w=w):
            return lambda v: (v + part * ((target - v.double()) @ w / (w @ w))[:, None] * w).to(v.dtype)

        def whole(target, part):
            return lambda v: (v + part * (target - v.double())).to(v.dtype)

        for way, to in (("whole site", whole), ("direction", along)):
            here = found.sel(item="q1", layer=layer, way=way)
            clean = residual_put_in(model, run, SOURCE, "q1", layer, lambda v: v)
            for part in (0.25, 0.5, 1.0):
                moved = residual_put_in(model, run, SOURCE, "q1", layer, to(additive, part))
                assert float(here["dosed"].sel(fraction=part)) == pytest.approx(clean - moved, abs=2e-5)
            assert float(here["mediated"]) == float(here["dosed"].sel(fraction=1.0))
            ends = [residual_put_in(model, run, NONE, "q1", layer, to(end, 1.0)) for end in (full, additive)]
            assert float(here["pure"]) == pytest.approx(ends[0] - ends[1], abs=2e-5)
    last = found.sel(layer=2, way="whole site")
    np.testing.assert_allclose(last["pure"], last["mediated"], atol=2e-5)


def test_ablation_leaves_what_it_says(played):
    model, run, probe = played("qwen3")
    ablated = ablate(
        model,
        run,
        probe,
        condition=TARGET,
        layers=[2],
        random=RandomDirections(count=2),
        batching=QUIET,
    )
    stored = probe.project(run).sel(site="answer_start", round=1, layer=2)
    found = ablated["projection"].sel(read_layer=2)
    np.testing.assert_allclose(found.sel(ablation="direction"), float(stored.mean()), atol=1e-4)
    np.testing.assert_allclose(found.sel(ablation="mean"), float(stored.mean()), atol=1e-4)
    np.testing.assert_allclose(
        found.sel(ablation="complement"), ablated["target_projection"].sel(read_layer=2), atol=1e-4
    )
    assert not np.allclose(ablated["log_odds"].sel(ablation="random 0"), ablated["target_log_odds"])


def test_recovered_shares_are_ratios_of_means():
    rng = np.random.default_rng(0)
    target, size = rng.standard_normal(30), 2.0 + 0.1 * rng.standard_normal(30)
    part = np.stack([0.0 * size, 0.5 * size, size], axis=-1)[:, None]
    patched = xr.Dataset(
        {
            "target_log_odds": ("item", target),
            "source_log_odds": ("item", target + size),
            "log_odds": (("item", "place", "layer"), target[:, None, None] + part),
        },
        coords={"item": np.arange(30), "place": ["answer_start"], "layer": [0, 1, 2]},
    )
    found = recovered(patched).sel(place="answer_start")
    np.testing.assert_allclose(found["ratio"], [0.0, 0.5, 1.0], atol=1e-12)
    with pytest.raises(ValueError, match="have log_odds; got 'projection'"):
        recovered(patched, of="projection")
    nothing = patched.assign(source_log_odds=("item", target + rng.standard_normal(30) * 0.1))
    assert np.isnan(recovered(nothing)["ratio"]).all()
    assert "not distinguishable from zero" in recovered(nothing).attrs["refused"]


def test_figures(played):
    from morality_lens import plots
    from morality_lens.circuits.mediation import mediate

    model, run, probe = played("llama")
    patched = patch(
        model,
        run,
        source=SOURCE,
        target=NONE,
        reading=Reading(probe=probe),
        batching=QUIET,
    )
    heads = patch(
        model,
        run,
        source=SOURCE,
        target=NONE,
        activations=Activations(what="head"),
        batching=QUIET,
    )
    assert plots.patching_map(patched).data[0].z.shape == (1, 4)
    assert plots.patching_map(heads).data[0].z.shape == (4, 3)
    layers = plots.patching_layers(patched)
    assert len(layers.data) in (0, 2, 4)  # a band and a line for each metric that has a share
    steered = steer(model, run, probe, condition=NONE, random=RandomDirections(count=3), batching=QUIET)
    names = [trace.name for trace in plots.dose_response(steered).data]
    assert "the direction" in names
    assert "unsteered: instruction+feedback" in names
    ablated = ablate(model, run, probe, condition=NONE, random=RandomDirections(count=3), batching=QUIET)
    assert list(plots.ablations(ablated).data[1].y) == ["direction", "complement", "mean"]
    mediated = mediate(model, run, probe, batching=QUIET)
    assert len(plots.mediation(mediated).data) == 5
    with pytest.raises(ValueError, match="not of heads"):
        plots.patching_layers(heads)
