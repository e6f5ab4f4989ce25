import re

import numpy as np
import pytest
from synthetic import EFFECTS, make_effects, make_probe

from morality_lens.report.analysis import Analysis
from morality_lens.report.sparks import spark
from morality_lens.report.summary import result_lines, shown_layer, summarize


@pytest.fixture
def found():
    behaviour = make_effects(sites=None, layers=None, seed=3)
    behaviour.attrs |= {"units": "share", "outcome": "share correct"}
    return Analysis(effects=make_effects(), behaviour_effects=behaviour)


def test_every_effect_has_a_row_with_the_numbers_of_the_last_round(found):
    summary = summarize(found, probe=make_probe(), layer=3)
    assert [row.effect for row in summary.rows] == list(EFFECTS)
    assert (summary.outcome, summary.round, summary.layer, summary.site) == (
        "share correct",
        4,
        3,
        "answer_start",
    )
    row = summary.rows[0]
    here = found.behaviour_effects.sel(effect="instruction", round=4)
    estimate = float(row.behaviour.estimate.split(" ")[0])
    assert estimate == pytest.approx(float(here["estimate"]), abs=0.05)
    assert row.behaviour.curve.x == (0, 1, 2, 3, 4)
    assert row.behaviour.curve.at == 4
    assert row.inside.curve.x[row.inside.curve.at] == 3
    assert row.inside.curve.estimate[row.inside.curve.at] == pytest.approx(
        float(found.effects["estimate"].sel(effect="instruction", round=4, layer=3, site="answer_start"))
    )


def test_the_sentences_name_exactly_the_places_that_are_found(found):
    for row in summarize(found, layer=3).rows:
        here = found.effects.isel(site=0, round=-1).sel(effect=row.effect)
        seen = here["layer"].to_numpy()[(here["p_adj"] <= 0.05).to_numpy()].tolist()
        named = []
        for low, high in re.findall(r"(-?\d+)(?: to (-?\d+))?", row.inside.words):
            named += range(int(low), int(high or low) + 1)
        assert sorted(named) == seen


def of_rounds(p, estimate=0.2):
    """Behaviour with these adjusted p over rounds."""
    one = make_effects(rounds=len(p) - 1, sites=None, layers=None)
    one.attrs |= {"outcome": "share correct"}
    one["p_adj"] = one["p_adj"] * 0 + 1.0
    one["p_adj"].loc[{"effect": "cot"}] = p
    one["estimate"].loc[{"effect": "cot"}] = estimate
    return next(r for r in summarize(Analysis(behaviour_effects=one)).rows if r.effect == "cot")


@pytest.mark.parametrize(
    ("p", "words"),
    [
        ([1, 0.01, 0.01, 0.01], "Raises the share correct from round 1 on."),
        ([1, 0.01, 1, 0.01], "Raises the share correct in rounds 1 and 3."),
        ([1, 1, 1, 0.01], "Raises the share correct in round 3."),
        ([1, 0.01, 0.01, 1], "Raises the share correct in rounds 1 to 2."),
        ([1, 1, 1, 1], "Not distinguishable from zero in behaviour."),
        ([np.nan] * 4, "No corrected p on behaviour, so nothing is claimed."),
    ],
)
def test_the_words_tell_from_which_round_an_effect_is_there(p, words):
    assert of_rounds([float(x) for x in p]).sentence == words


def test_an_effect_that_lowers_is_said_to_lower():
    assert of_rounds([1.0, 0.01, 0.01], -0.2).sentence == "Lowers the share correct from round 1 on."


def test_the_console_gets_at_most_five_lines(found):
    lines = result_lines(Analysis(**{**vars(found), "refused": ("one thing: because.", "another.")}))
    assert 1 <= len(lines) <= 5
    assert any(line.startswith("Behaviour (share correct, round 4): instruction +") for line in lines)
    assert lines[-1] == "Not answered: one thing: because. (and 1 more)"
    assert result_lines(Analysis()) == ["No effects were estimated."]


def test_the_layer_is_never_chosen_by_an_effect(found):
    probe = make_probe()
    probe.quality["auroc"][:] = [0.5, 0.6, 0.9, 0.9, 0.7, 0.8, 0.6]
    assert shown_layer(found.effects, probe) == 1
    assert shown_layer(found.effects.isel(layer=[0, 1, 5]), probe) == 4
    assert shown_layer(found.effects, None) == 5
    assert shown_layer(None, probe) is None


def test_a_spark_draws_every_known_place_and_reads_as_text(found):
    curve = summarize(found, layer=3).rows[0].inside.curve
    drawn = str(spark(curve, color="#0072B2", name="<instruction>"))
    assert len(re.search(r'polyline points="([^"]+)"', drawn)[1].split()) == len(curve.x)
    assert "&lt;instruction&gt; by layer" in drawn
    assert "nan" not in drawn


def test_where_nothing_was_tested_nothing_is_said_to_be_absent(found):
    few = found.behaviour_effects
    for name in ("p_adj", "band_low", "band_high"):
        few[name] = few[name] * np.nan
    lines = result_lines(Analysis(behaviour_effects=few))
    assert lines == ["Behaviour (share correct, round 4): there is no corrected p, so nothing is claimed."]


def test_an_interaction_is_told_by_its_sign_alone():
    one = make_effects(rounds=2, sites=None, layers=None)
    one.attrs |= {"outcome": "share correct"}
    one["p_adj"] = one["p_adj"] * 0 + 0.01
    one["estimate"] = one["estimate"] * 0 - 0.1
    rows = {r.effect: r.sentence for r in summarize(Analysis(behaviour_effects=one)).rows}
    assert rows["cot:feedback"] == "Negative from round 0 on."
    assert rows["cot"] == "Lowers the share correct from round 0 on."


def test_an_effect_that_is_the_same_everywhere_is_told_as_such():
    one = make_effects(rounds=1, sites=None, layers=None)
    one.attrs |= {"outcome": "share correct"}
    one["p_adj"] = one["p_adj"] * 0 + 0.01
    one["estimate"] = one["estimate"] * 0 + 1.0
    one["se"] = one["se"] * 0
    assert "signature of position or template" in summarize(Analysis(behaviour_effects=one)).rows[0].sentence
