"""The shift from round to round: planted along the direction, and not."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import make_questions
from tiny import made_up_probe, tiny_run

from morality_lens.experiments.shifts import describe_shifts, round_shifts


@pytest.fixture(scope="module")
def small(zoo_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("shifts") / "run"
    model, run = tiny_run(zoo_folder("llama"), out, make_questions(6), rounds=2)
    return made_up_probe(model), run


def test_the_cosine_is_that_of_the_mean_shift(small):
    probe, run = small
    found = round_shifts(run, probe, layer=1, draws=200)
    cell = {"instruction": "on", "cot": "off", "feedback": "on"}
    x = run.residuals.sel(site="answer_start", layer=1, **cell).transpose("item", "round", "d_model").values
    mean = (x[:, 2] - x[:, 1]).mean(0).astype(float)
    w = probe.direction.sel(layer=1).values
    cosine = mean @ w / np.linalg.norm(mean) / np.linalg.norm(w)
    here = found.sel(round=2, **cell)
    assert float(here["alignment"]) == pytest.approx(cosine, abs=1e-6)
    assert float(here["length"]) == pytest.approx(np.linalg.norm(mean), rel=1e-5)
    assert found["round"].values.tolist() == [1, 2]
    assert float(here["ci_low"]) <= float(here["ci_high"])
    assert len(describe_shifts(found).splitlines()) == 8


def test_a_shift_along_the_direction_stands_out_and_one_beside_it_does_not(small, monkeypatch):
    probe, run = small
    rng = np.random.default_rng(0)
    cube = run.residuals.load().copy(deep=True)
    w = probe.direction.sel(layer=1).values
    w = w / np.linalg.norm(w)
    v = rng.standard_normal(len(w))
    v = v - (v @ w) * w
    for direction, low, high in ((w, 0.95, 1.01), (v, -0.2, 0.2)):
        base = rng.standard_normal((cube.sizes["item"], len(w)))
        values = np.zeros((cube.sizes["item"], 3, len(w)))
        for number in range(3):
            values[:, number] = base + 10 * number * direction + rng.normal(0, 0.1, base.shape)
        new = cube.copy(deep=True)
        moved = new.transpose("item", "instruction", "cot", "feedback", "site", "layer", "round", "d_model")
        moved.values[...] = values[:, None, None, None, None, None]
        monkeypatch.setattr(type(run), "residuals", property(lambda _, c=new: c))
        found = round_shifts(run, probe, layer=1, draws=300)
        monkeypatch.undo()
        assert ((found["alignment"] > low) & (found["alignment"] < high)).all()
        assert (found["p"] < 0.02).all() == (low > 0.5)
        if low > 0.5:
            assert (found["ci_low"] > found["random_high"].sel(kind="any direction")).all()


def test_what_has_no_answer_is_refused(small):
    probe, run = small
    nothing = probe.direction.copy(deep=True)
    nothing.loc[{"layer": 1}] = 0.0
    with pytest.raises(ValueError, match="zero at layer 1"):
        round_shifts(run, replace(probe, direction=nothing), layer=1)
    other = replace(probe, training={**probe.training, "model_fingerprint": "x" * 64})
    with pytest.raises(ValueError, match="another model"):
        round_shifts(run, other, layer=1)
