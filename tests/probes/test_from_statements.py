"""A direction costs no more to check than what it is meant for."""

from collections import Counter

import pytest

from morality_lens.items.loaders import load_statements
from morality_lens.models.loading import load_model, record_of
from morality_lens.probes import from_statements
from morality_lens.probes.from_statements import FEWEST, affordable_statements, fit_probe
from morality_lens.probes.probe import load_probe
from morality_lens.probes.statements import read_statements


@pytest.fixture(scope="module")
def llama(zoo_folder):
    return load_model(zoo_folder("llama"), device="cpu")


def draw(model, statements, *, tokens, random_models=3, seed=0):
    return affordable_statements(model, statements, random_models=random_models, tokens=tokens, seed=seed)


def test_the_bundled_model_reads_all_of_its_statements():
    statements = load_statements("world")
    assert draw(load_model(), statements, tokens=1) == statements


def test_a_large_model_reads_what_the_play_cost_spread_over_clusters_and_labels(llama, monkeypatch):
    statements = load_statements("world")
    assert draw(llama, statements, tokens=1) == statements
    monkeypatch.setattr(from_statements, "CHEAP", 0.0)
    few = draw(llama, statements, tokens=1)
    assert len(few) == FEWEST
    assert few == draw(llama, statements, tokens=1)
    assert few != draw(llama, statements, tokens=1, seed=1)
    labels = Counter(s.label for s in few)
    assert abs(labels[0] - labels[1]) <= 0.1 * FEWEST
    assert len({s.cluster for s in few}) == len({s.cluster for s in statements})
    more = draw(llama, statements, tokens=100_000)
    assert FEWEST < len(more) < len(statements)
    assert set(few) < set(more)
    alone = draw(llama, statements, tokens=100_000, random_models=0)
    assert len(alone) == pytest.approx(min(4 * len(more), len(statements)), rel=0.02)
    assert draw(llama, statements, tokens=10**9) == statements
    assert draw(llama, statements[:100], tokens=1) == statements[:100]


def test_the_tokens_read_are_those_of_the_play(llama, monkeypatch):
    monkeypatch.setattr(from_statements, "CHEAP", 0.0)
    fed = []
    real = from_statements.read_statements
    few = draw(llama, load_statements("world"), tokens=100_000)
    from morality_lens.models import decoding

    feed = decoding.feed

    def counting(lm, batch, rows, weights=None):
        fed.append(sum(map(len, rows)))
        return feed(lm, batch, rows, weights)

    monkeypatch.setattr(decoding, "feed", counting)
    real(llama, few)
    assert 4 * sum(fed) == pytest.approx(100_000, rel=0.1)


def test_the_card_and_the_probe_say_that_the_statements_are_a_sample(llama, tmp_path):
    statements = load_statements("world")[:60]
    fitted = fit_probe(llama, statements, card=True, random_models=1)
    assert fitted.drawn_from(60) is fitted
    assert fitted.card is not None
    assert "drawn by cluster" not in fitted.card.sentence
    sampled = fitted.drawn_from(2400)
    assert sampled.card is not None
    assert sampled.card.sentence.endswith("on 60 of 2400 statements, drawn by cluster")
    sampled.save(tmp_path / "probe.safetensors")
    kept = load_probe(tmp_path / "probe.safetensors")
    assert kept.card is not None
    assert kept.card.sentence == sampled.card.sentence
    assert kept.training["drawn_from"] == 2400
    assert record_of(llama).fingerprint == kept.training["model_fingerprint"]
    assert read_statements(llama, statements).attrs["statements_sha256"] == kept.training["statements_sha256"]


def test_several_sets_are_read_once_and_each_card_holds_the_others(monkeypatch):
    world = load_statements("world")
    sets = {"first": world[:240], "second": world[240:480]}
    read = []
    real = from_statements.read_statements
    monkeypatch.setattr(
        from_statements, "read_statements", lambda m, s, **how: read.append(len(s)) or real(m, s, **how)
    )
    model = load_model()
    found = from_statements.fit_probes(model, sets, random_models=1, refits=3)
    assert read == [240, 240]
    for name, other in (("first", "second"), ("second", "first")):
        card = found[name].card
        assert card.transfer["train"].values.tolist() == ["own", other]
        assert (
            "not checked"
            not in card.lines.set_index("line").loc[["transfer", "beats random models"], "verdict"].tolist()
        )
        assert found[name].refits.sizes["probe_draw"] == 3
    alone = fit_probe(model, sets["first"], refits=3)
    assert alone.fingerprint == found["first"].fingerprint
    with pytest.raises(ValueError, match="got none"):
        from_statements.fit_probes(model, {})
    with pytest.raises(ValueError, match="name that set otherwise"):
        from_statements.fit_probes(model, {**sets, "own": world[:240]})
    assert len(read) == 3  # nothing was read for the refusals
