"""Trust cards: planted signals pass, words and random models expose, and every number has a reference."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings, strategies as st
from probes.test_probe import apart
from sklearn.metrics import roc_auc_score

from morality_lens import plots
from morality_lens.items.kinds import Statement
from morality_lens.probes import controls
from morality_lens.probes.card import card_from_json, short
from morality_lens.probes.fitting import fit_directions
from morality_lens.probes.kinds import CARDED
from morality_lens.probes.probe import load_probe
from morality_lens.probes.refits import split_half_cosine, with_refits
from morality_lens.probes.trust_checks import trust_card

WORDS = ("river", "stone", "lamp", "bread", "cloud", "chair", "paper", "wheel")


def statements(n=240, *, layers=3, width=12, gap=0.0, lexical=0.0, label_word=False, seed=0, axis=0):
    """Residuals and texts: ``gap`` along ``axis`` at layer 1, ``lexical`` along the vector of a word."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.tile([0, 1], n // 2))
    drawn = rng.integers(len(WORDS), size=(n, 3))
    texts = [" ".join(WORDS[i] for i in row) for row in drawn]
    if label_word:
        texts = [f"{'kindly' if y else 'rudely'} {t}" for y, t in zip(labels, texts, strict=True)]
    x = rng.normal(size=(n, layers, width))
    x[:, 1, axis] += gap * (labels - 0.5)
    x[:, 1, 1] += lexical * (labels - 0.5)
    array = xr.DataArray(
        x,
        dims=("statement", "layer", "d_model"),
        coords={
            "statement": [f"s{i}" for i in range(n)],
            "label": ("statement", labels),
            "cluster": ("statement", [f"c{i // 2}" for i in range(n)]),
            "layer": np.arange(-1, layers - 1),
        },
        attrs={"model_fingerprint": "f", "statements_sha256": f"s{seed}", "read": "end"},
    )
    return array, texts


def verdicts(card) -> dict[str, str]:
    return dict(zip(card.lines["line"], card.lines["verdict"], strict=True))


def row(card, name):
    return card.lines.set_index("line").loc[name]


@pytest.mark.slow(seconds=4)
def test_a_signal_that_neither_words_nor_random_models_hold_passes():
    own, texts = statements(gap=5.0)
    random, _ = statements(seed=9)
    random = random.assign_coords(label=own["label"])
    card = trust_card(own, texts, random=random, draws=200)
    said = verdicts(card)
    for name in ("held-out AUROC", "beats words", "beats random models", "shuffled labels", "split halves"):
        assert said[name] == "pass", (name, row(card, name))
    assert card.layer == 0  # the second of the layers, where the signal was put
    assert card.conclusion == "more than words and architecture"
    assert trust_card(own, texts, draws=50).conclusion.endswith("random-initialised models not tried")
    assert row(card, "held-out AUROC")["value"] > 0.98
    assert said["transfer"] == said["nuisance"] == "not checked"


def test_what_a_word_gives_away_is_called_mostly_lexical():
    own, texts = statements(gap=3.0, label_word=True)
    card = trust_card(own, texts, draws=200)
    assert verdicts(card)["beats words"] == "fail"
    assert row(card, "beats words")["detail"].endswith("1.00")
    assert card.conclusion == "mostly lexical: words alone do as well or better"
    assert card.verdict == "fail"


def test_a_random_model_that_reads_as_well_is_not_beaten():
    own, texts = statements(gap=3.0)
    card = trust_card(own, texts, random=own, draws=200)
    line = row(card, "beats random models")
    assert (line["value"], line["low"], line["high"], line["verdict"]) == (0, 0, 0, "warn")
    assert card.conclusion == "mostly lexical: random-initialised models do as well or better"


@pytest.mark.slow(seconds=20)
def test_nothing_planted_is_no_direction():
    said = []
    for seed in range(20):
        own, texts = statements(n=120, gap=0.0, layers=4, seed=seed)
        said.append(trust_card(own, texts, draws=100))
    assert np.mean([card.conclusion.startswith("no direction") for card in said]) >= 0.85
    assert all(card.verdict == "fail" for card in said)
    assert np.mean([verdicts(card)["beats words"] == "pass" for card in said]) <= 0.2


def test_the_choice_of_a_layer_makes_no_auroc_out_of_nothing():
    nested, best = [], []
    for seed in range(12):
        own, _ = statements(n=80, layers=20, width=4, seed=seed)
        labels = own["label"].values
        fold = controls.make_folds(labels, own["cluster"].values, 5, seed)
        scores, chosen = controls.held_out(own, labels, fold, "mean_difference")
        best.append(max(controls.auroc(s, labels) for s in scores))
        nested.append(controls.auroc(chosen, labels))
    assert np.mean(best) > 0.6
    assert abs(np.mean(nested) - 0.5) < 0.05


@pytest.mark.parametrize("kind", CARDED)
def test_held_out_scores_are_those_of_fits_without_the_fold(kind):
    own, _ = statements(n=100, gap=2.0)
    labels, clusters = own["label"].values, own["cluster"].values
    fold = controls.make_folds(labels, clusters, 4, 0)
    scores, chosen = controls.held_out(own, labels, fold, kind)
    for number in range(4):
        train, test = fold != number, fold == number
        probe = fit_directions(own.isel(statement=train), kind=kind, draws=2)
        unit = apart(probe.project(own.isel(statement=train)), labels[train])  # of what it was fitted on
        want = probe.project(own.isel(statement=test)).transpose("layer", "statement").values / unit[:, None]
        np.testing.assert_allclose(scores[:, test], want, atol=1e-9)
        inner = np.zeros((3, len(labels)))
        for other in set(range(4)) - {number}:
            rest, here = train & (fold != other), fold == other
            deeper = fit_directions(own.isel(statement=rest), kind=kind, draws=2)
            inner[:, here] = deeper.project(own.isel(statement=here)).transpose("layer", "statement").values
        told = [roc_auc_score(labels[train], s[train]) for s in inner]
        np.testing.assert_array_equal(chosen[test], scores[int(np.argmax(told)), test])


def test_by_layer_numbers_are_those_of_their_own_functions():
    own, texts = statements(gap=2.0)
    card = trust_card(own, texts, draws=50, seed=3)
    np.testing.assert_allclose(card.by_layer["split_half"], split_half_cosine(own, seed=3))
    labels = own["label"].values
    fold = controls.make_folds(labels, own["cluster"].values.astype(str), 5, 3)
    scores, _ = controls.held_out(own, labels, fold, "mean_difference")
    np.testing.assert_allclose(card.by_layer["auroc"], [roc_auc_score(labels, s) for s in scores])
    assert (card.by_layer["low"] < card.by_layer["auroc"]).all()


@pytest.mark.slow(seconds=6)
def test_transfer_knows_a_set_that_points_the_other_way():
    own, texts = statements(gap=4.0)
    alike, _ = statements(gap=4.0, seed=1)
    against, _ = statements(gap=-4.0, seed=2)
    card = trust_card(own, texts, others={"alike": alike}, draws=200)
    assert row(card, "transfer")["verdict"] == "pass"
    card = trust_card(own, texts, others={"alike": alike, "against": against}, draws=200)
    line = row(card, "transfer")
    assert (line["verdict"], "against" in line["detail"]) == ("fail", True)
    at = card.transfer.sel(layer=0)
    assert float(at.sel(train="own", test="alike")) > 0.9
    assert float(at.sel(train="own", test="against")) < 0.1
    assert float(at.sel(train="against", test="against")) > 0.9
    probe = fit_directions(own, draws=2)
    want = roc_auc_score(alike["label"].values, probe.project(alike).sel(layer=0).values)
    assert float(at.sel(train="own", test="alike")) == pytest.approx(want)


@pytest.mark.slow(seconds=4)
def test_a_nuisance_along_the_same_axis_is_named():
    own, texts = statements(gap=6.0)
    lengthy, _ = statements(gap=6.0, seed=4)
    other, _ = statements(gap=6.0, axis=5, seed=5)
    card = trust_card(own, texts, nuisance={"length": lengthy, "formality": other}, draws=50)
    line = row(card, "nuisance")
    assert (line["verdict"], line["detail"]) == ("fail", "length")
    found = card.cosines.query("second == 'formality' and layer == 0")["cosine"].item()
    assert abs(found) < 0.4


@pytest.mark.slow(seconds=4)
def test_kinds_that_rank_alike_agree_and_those_on_noise_do_not():
    strong, texts = statements(gap=6.0, width=4)
    assert verdicts(trust_card(strong, texts, draws=50))["kinds agree"] == "pass"
    table = trust_card(strong, texts, draws=50).cosines
    assert table[["first", "second"]].to_numpy().tolist() == [
        ["mean_difference", "logistic"],
        ["mean_difference", "lda"],
        ["logistic", "lda"],
    ]


def test_memorised_last_words_lower_selectivity():
    own, texts = statements(n=240, gap=0.0, width=12)
    rng = np.random.default_rng(0)
    vector = {word: rng.normal(size=12) * 8 for word in WORDS}
    x = own.values.copy()
    for i, text in enumerate(texts):
        x[i, 1] = vector[text.split()[-1]] + rng.normal(size=12)
    card = trust_card(own.copy(data=x), texts, draws=100)
    at = card.by_layer.sel(layer=0)
    assert float(at["selectivity"]) < -0.2  # single words can be told apart, and nothing else
    signal, texts = statements(n=240, gap=6.0)
    assert verdicts(trust_card(signal, texts, draws=100))["selectivity"] == "pass"


def test_statements_with_one_last_word_have_no_control_task():
    own, texts = statements(gap=3.0)
    card = trust_card(own, [f"{t} today." for t in texts], draws=50)
    assert verdicts(card)["selectivity"] == "not checked"


# --------------------------------------------------------------------------------------------- controls
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), pure=st.integers(0, 6), mixed=st.integers(0, 6))
def test_shuffling_keeps_what_clusters_hold(seed, pure, mixed):
    rng = np.random.default_rng(seed)
    clusters, labels = [], []
    for i in range(pure):
        clusters += [f"p{i}"] * 3
        labels += [int(rng.integers(2))] * 3
    for i in range(mixed):
        clusters += [f"m{i}"] * 3
        labels += [0, 1, int(rng.integers(2))]
    names, y = np.array(clusters, str), np.array(labels, np.int64)
    if not len(y):
        return
    drawn = controls.shuffle_labels(y, names, rng)
    assert drawn.sum() == y.sum()
    for name in set(clusters):
        here = drawn[names == name]
        assert len(set(here.tolist())) == 1 if name[0] == "p" else here.sum() == y[names == name].sum()


def test_a_control_task_gives_every_last_word_one_label_and_both_labels_a_half():
    _, texts = statements(n=400)
    given_labels = controls.control_labels([f"{t}." for t in texts], np.random.default_rng(0))
    last = np.array([t.split()[-1] for t in texts])
    assert all(len(set(given_labels[last == word].tolist())) == 1 for word in WORDS)
    assert 0.35 < given_labels.mean() < 0.65


def test_words_and_punctuation_give_labels_away_and_lengths_where_they_differ():
    labels = np.tile([0, 1], 60)
    fold = np.repeat(np.arange(4), 30)
    marks = [f"same words{'!' if y else '.'}" for y in labels]
    found = controls.lexical_scores(marks, labels, fold)
    assert controls.auroc(found["bag of words"], labels) == 1
    assert controls.auroc(found["number of words"], labels) == 0.5
    longer = ["word " * (1 + 2 * y) for y in labels]
    assert controls.auroc(controls.lexical_scores(longer, labels, fold)["number of words"], labels) == 1


def test_calibration_is_small_for_true_chances_and_large_for_boasts():
    rng = np.random.default_rng(0)
    probabilities = rng.uniform(size=4000)
    labels = (rng.uniform(size=4000) < probabilities).astype(np.int64)
    assert controls.calibration_error(probabilities, labels) < 0.03
    coin = rng.integers(2, size=4000)
    assert controls.calibration_error(np.where(probabilities > 0.5, 1.0, 0.0), coin) == pytest.approx(
        0.5, abs=0.03
    )


def test_platts_chances_never_see_their_own_fold():
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=200)
    scores, fold = rng.normal(size=200) + labels, np.repeat(np.arange(4), 50)
    first = controls.calibrated(scores, labels, fold)
    turned = labels.copy()
    turned[fold == 2] = 1 - turned[fold == 2]
    again = controls.calibrated(scores, turned, fold)
    np.testing.assert_array_equal(first[fold == 2], again[fold == 2])
    assert not np.array_equal(first[fold == 1], again[fold == 1])


# --------------------------------------------------------------------------------------------- the card
@pytest.fixture(scope="module")
def full():
    own, texts = statements(gap=4.0)
    random, _ = statements(seed=9)
    random_models = xr.concat([random, random], "seed").assign_coords(label=own["label"])
    other, _ = statements(gap=4.0, seed=1)
    return trust_card(
        own, texts, random=random_models, others={"other": other}, nuisance={"n": other}, draws=50
    )


def test_a_card_comes_back_from_json_as_it_was(full):
    back = card_from_json(full.to_json())
    assert back.sentence == full.sentence
    assert back.lines.equals(full.lines)
    xr.testing.assert_identical(back.by_layer, full.by_layer)
    xr.testing.assert_identical(back.transfer, full.transfer)
    assert back.cosines.equals(full.cosines)
    assert back.lexical.equals(full.lexical)
    assert dict(back.training) == dict(full.training)


@pytest.mark.parametrize("text", ["no", "{}", '{"format": 2, "cosines": []}', "[]"])
def test_what_is_no_card_is_refused(text):
    with pytest.raises(ValueError, match="no trust card"):
        card_from_json(text)


def test_the_sentence_names_every_line_that_did_not_pass():
    own, texts = statements(gap=3.0, label_word=True)
    card = trust_card(own, texts, random=own, draws=50)
    assert card.headline.startswith("trust card: fail; mostly lexical: words alone and random-initialised")
    assert "fails: AUROC above words alone -.0" in card.sentence
    assert "warns: AUROC above random models .00" in card.sentence
    assert card.sentence.endswith("not checked: transfer, nuisance")
    assert all(rule for rule in card.lines["rule"])
    assert "<table>" in card._repr_html_()


def test_a_probe_carries_its_card_and_shows_it_on_what_it_projects(tmp_path):
    own, texts = statements(gap=4.0)
    probe = with_refits(fit_directions(own, draws=20), own, draws=20)
    probe = probe.with_card(trust_card(own, texts, draws=50))
    back = load_probe(probe.save(tmp_path / "probe.safetensors"))
    assert back.trust == probe.trust == probe.card.headline
    assert back.card.sentence == probe.card.sentence
    assert back.project(own).attrs["trust"] == probe.trust
    np.testing.assert_array_equal(back.project(own)["split_half"], probe.quality["split_half"])
    np.testing.assert_allclose(back.refits, probe.refits, rtol=1e-6)


def test_a_card_of_another_direction_is_refused():
    own, texts = statements(gap=4.0)
    other, _ = statements(gap=4.0, seed=1)
    card = trust_card(own, texts, draws=50)
    with pytest.raises(ValueError, match="statements_sha256"):
        fit_directions(other, draws=2).with_card(card)
    with pytest.raises(ValueError, match="kind mean_difference for lda"):
        fit_directions(own, kind="lda", draws=2).with_card(card)
    with pytest.raises(ValueError, match="other statements"):
        with_refits(fit_directions(own, draws=2), other)


def test_the_figure_holds_every_line_and_the_rivals(full):
    fig = plots.trust_card(full)
    names = [trace.name for trace in fig.data if trace.name]
    assert names[:3] == ["direction", "random-initialised controls", "shuffled labels"]
    assert names[3].startswith("words alone")
    table = fig.data[-1]
    assert list(table.cells.values[0]) == full.lines["line"].tolist()
    assert [v.strip("</b>") for v in table.cells.values[1]] == full.lines["verdict"].tolist()
    assert full.headline in fig.layout.title.subtitle.text
    heat = plots.transfer(full).data[0]
    np.testing.assert_array_equal(heat.z, full.transfer.sel(layer=full.layer))


def test_a_transfer_figure_needs_another_set():
    own, texts = statements(gap=4.0)
    with pytest.raises(ValueError, match="made with `others`"):
        plots.transfer(trust_card(own, texts, draws=50))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"kind": "ridge"}, "can be made for mean_difference"),
        ({"texts": ["one"]}, "one text per statement"),
        ({"others": {"own": None}}, "name the other set otherwise"),
        ({"others": {"b": "layers"}}, "'b' must have the layers"),
        ({"random": "labels"}, "same statements in the same order"),
        ({"others": {"b": "one label"}}, "both labels"),
        ({"residuals": "clusters"}, "three clusters in each class"),
        ({"residuals": "no cluster"}, "coordinates label and cluster"),
        ({"folds": 2}, "three folds or more"),
    ],
)
def test_what_cannot_be_carded_is_refused_in_words(changed, words):
    own, texts = statements(n=40, gap=2.0)
    made = {
        None: own,
        "layers": own.isel(layer=slice(1, None)),
        "labels": own.assign_coords(label=1 - own["label"]),
        "one label": own.isel(statement=own["label"].values == 1),
        "clusters": own.assign_coords(cluster=("statement", [f"c{i % 2}" for i in range(40)])),
        "no cluster": own.drop_vars("cluster"),
    }
    given = {"residuals": own, "texts": texts, "draws": 20} | {
        key: {n: made[v] for n, v in value.items()}
        if isinstance(value, dict)
        else made[value]
        if key in ("residuals", "random")
        else value
        for key, value in changed.items()
    }
    with pytest.raises(ValueError, match=words):
        trust_card(given.pop("residuals"), given.pop("texts"), **given)


def test_short_numbers_read_as_a_card_prints_them():
    assert [short(v) for v in (0.934, -0.04, 1.0, 0.0, float("nan"))] == [
        ".93",
        "-.04",
        "1.00",
        ".00",
        "none",
    ]


def test_a_projection_without_a_card_says_nothing_of_trust():
    own, _ = statements(gap=2.0)
    probe = fit_directions(own, draws=2)
    assert probe.trust == ""
    assert "split_half" not in probe.project(own).coords
    assert replace(probe, card=None).project(own).attrs["trust"] == ""


def test_words_learn_from_all_statements_that_were_given():
    """Each text has one of 60 telling words: a sample of 60 shows every word about once."""
    rng = np.random.default_rng(0)
    words = [f"{letter}{n}" for n in range(30) for letter in "mi"]
    every = [
        Statement(id=f"s{i}", cluster=f"c{i}", text=f"{word} {other}", label=int(word[0] == "m"))
        for i, (word, other) in enumerate(zip(10 * words, rng.choice(WORDS, 600), strict=True))
    ]
    some = rng.choice(600, 60, replace=False)
    own, _ = statements(n=60)
    own = own.assign_coords(
        label=("statement", [every[i].label for i in some]),
        cluster=("statement", [every[i].cluster for i in some]),
    )
    texts = [every[i].text for i in some]
    alone = trust_card(own, texts, draws=50)
    all_of_them = trust_card(own, texts, draws=50, given=every)
    assert float(alone.lexical["auroc"].iloc[0]) < 0.8
    assert float(all_of_them.lexical["auroc"].iloc[0]) > 0.95
    assert "learnt" not in row(alone, "beats words")["detail"]
    detail = row(all_of_them, "beats words")["detail"]
    assert detail.endswith("learnt from 600 statements, the direction from 60")
    assert row(all_of_them, "held-out AUROC")["value"] == row(alone, "held-out AUROC")["value"]


def test_words_do_not_learn_from_further_statements_of_a_held_out_cluster():
    own, texts = statements(n=60, label_word=True)
    labels, fold = own["label"].values, np.arange(60) // 2 % 3
    plain = controls.lexical_scores(texts, labels, fold)
    against = controls.MoreTexts(texts=texts, labels=1 - labels, fold=np.ones(60, np.int64))
    told = controls.lexical_scores(texts, labels, fold, against)
    for name, scores in plain.items():
        np.testing.assert_array_equal(told[name][fold == 1], scores[fold == 1])
        assert not np.allclose(told[name][fold != 1], scores[fold != 1])
