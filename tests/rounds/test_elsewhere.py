"""Replies from a server: the run is the one that the engine plays, and what differs is counted."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from server import ModelServer

import morality_lens as ml
from morality_lens.design import SITES, Design, Protocol
from morality_lens.models.loading import load_model, record_of
from morality_lens.rounds import elsewhere
from morality_lens.rounds.playing import play
from morality_lens.rounds.preflight import Fitting

SERVED = ("served_tokens", "served_differ", "served_recoded", "served_prompts")
DESIGN = Design(rounds=2, sites=SITES + Design().segments)
PROTOCOL = Protocol(design=DESIGN, answer_tokens=12, rationale_tokens=16, feedback_tokens=16)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(elsewhere, "RETRIES", 0)


@pytest.fixture(scope="module")
def model():
    return load_model(None, device="cpu")


@pytest.fixture
def server(model):
    one = serve(model)
    yield one
    one.close()


def serve(model) -> ModelServer:
    record = record_of(model)
    return ModelServer(record.lm.module, record.renderer.tokenizer, stops=sorted(record.stops))


def served(protocol: Protocol, server: ModelServer, **more) -> Protocol:
    where = {"generate_from": server.address, "generate_model": "m", **more}
    return replace(protocol, generate="endpoint", **where)


def assert_same(one, two, tolerance: float = 1e-4) -> None:
    """Two runs with the same texts, tokens, probabilities and residuals."""
    columns = [c for c in one.answers.columns if c not in SERVED]
    assert columns == [c for c in two.answers.columns if c not in SERVED]
    pd.testing.assert_frame_equal(one.answers[columns], two.answers[columns])
    assert len(one.transcripts) == len(two.transcripts)
    for ours, theirs in zip(
        one.transcripts.to_dict("records"), two.transcripts.to_dict("records"), strict=True
    ):
        assert list(ours["token_ids"]) == list(theirs["token_ids"])
        assert list(ours["spans"]) == list(theirs["spans"])
    for name in ("residuals", "option_probabilities", "option_mass"):
        np.testing.assert_allclose(
            getattr(one, name).values, getattr(two, name).values, rtol=1e-4, atol=tolerance, err_msg=name
        )


def test_a_server_with_the_same_model_makes_the_run_that_the_engine_makes(model, server, tmp_path):
    items = ml.load_items(limit=4)
    fitting = Fitting(batch_size=3)
    own = play(model, items, out=tmp_path / "own", protocol=PROTOCOL, fitting=fitting, progress=False)
    run = play(
        model,
        items,
        out=tmp_path / "run",
        protocol=served(PROTOCOL, server),
        fitting=fitting,
        progress=False,
    )
    assert_same(own, run)
    assert np.isfinite(run.residuals.values).any()
    found = run.manifest["agreement"]
    assert found == {"tokens": found["tokens"], "differ": 0, "recoded": 0, "prompts": 0, "share": 0.0}
    assert found["tokens"] > run.answers["n_tokens"].sum() / 2
    assert run.manifest["study"]["generate"] == {"from": server.address, "model": "m"}
    asked = [(str(body["messages"]), body["max_tokens"]) for body in server.asked]
    assert len(set(asked)) == len(asked), "nothing is asked twice"
