"""What a command about a run's storage refuses before it loads a model."""

import pytest
import zoo
from conftest import make_questions
from rounds.test_playing import SHORT
from tiny import made_up_probe

from morality_lens.cli.running import read_layers
from morality_lens.models.loading import load_model
from morality_lens.rounds.playing import play
from morality_lens.runs.storage import Storage


@pytest.mark.parametrize("text", ["4-2", "", "1,", "a", "1.5", "0-", "--1", "1-99999999999"])
def test_what_is_no_layer_is_named(text):
    with pytest.raises(ValueError, match=r"--layers takes numbers and spans, such as -1,4,8-12; got"):
        read_layers(text)


@pytest.mark.parametrize("text", ["1,1", "0-3,2"])
def test_a_layer_that_is_named_twice_is_refused(text):
    with pytest.raises(ValueError, match="--layers names a layer twice"):
        read_layers(text)


def test_layers_are_read_with_their_spans():
    assert read_layers("-1-1, 4") == (-1, 0, 1, 4)


@pytest.mark.parametrize("name", ["attribute", "patch"])
def test_what_needs_residuals_is_refused_before_a_model_is_loaded(command, tmp_path, name):
    model = load_model(zoo.save_model(tmp_path / "m", "llama"), device="cpu")
    probe, kept = made_up_probe(model), Storage(keep="projections")
    given = {"protocol": SHORT, "storage": kept, "probe": probe, "progress": False}
    run = play(model, make_questions(2), out=tmp_path / "run", **given)
    probe.save(run.path / "probe.safetensors")
    code, out, err = command(name, run.path)
    assert code == 2
    assert "kept projections alone" in err
    assert "loading the model" not in out
