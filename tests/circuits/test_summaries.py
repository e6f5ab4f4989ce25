"""Summaries of interventions against hand arithmetic on made-up results."""

import numpy as np
import pytest
import xarray as xr

from morality_lens.circuits.summaries import (
    best_dose,
    causal_lines,
    cost_of_dose,
    describe_cost,
    describe_mediation,
    mediated_share,
)

FRACTIONS = [0.25, 0.5, 1.0]


def mediated(pure: float, quarter: float, n: int = 40) -> xr.Dataset:
    """An interaction of 1 of which .8 is mediated at layer 3; the checks give these numbers."""
    rng = np.random.default_rng(0)
    noise = 0.1 * rng.standard_normal(n)
    dosed = np.stack([quarter + 0.25 * noise, 0.4 + 0.5 * noise, 0.8 + noise], axis=-1)
    return xr.Dataset(
        {
            "tau": ("item", 1.0 + noise),
            "mediated": (("item", "layer", "way"), dosed[:, None, None, -1]),
            "pure": (("item", "layer", "way"), pure + noise[:, None, None]),
            "dosed": (("item", "layer", "way", "fraction"), dosed[:, None, None]),
            "interaction": (("item", "layer"), np.ones((n, 1))),
            "gain": (("item", "layer"), np.ones((n, 1))),
        },
        coords={
            "item": np.arange(n),
            "cluster": ("item", np.arange(n)),
            "layer": [3],
            "way": ["whole site"],
            "fraction": FRACTIONS,
        },
        attrs={"effect": "a:b", "held_at": "c=off", "round": 1, "units": "log-odds", "trust": ""},
    )


def test_the_mediated_interaction_and_the_departure_from_linear_are_told_apart():
    found = mediated_share(mediated(pure=0.5, quarter=0.15)).sel(layer=3, way="whole site")
    mean = float(found["mediated"])
    assert float(found["pure"]) + float(found["with_prompt"]) == pytest.approx(mean)
    assert float(found["with_prompt"]) == pytest.approx(0.3)
    assert float(found["beyond_linear"].sel(fraction=0.25)) == pytest.approx(0.8 - 4 * 0.15)
    assert float(found["beyond_linear"].sel(fraction=0.5)) == pytest.approx(0.0)
    text = describe_mediation(mediated(pure=0.5, quarter=0.15))
    assert "so that +0.30 [+0." in text
    assert (
        "] is an interaction of the residual with the prompt; 0.25 of the distance foretells +0.594" in text
    )
    assert "and +0.20 [+0." in text


def test_a_result_of_an_earlier_version_is_described_without_the_checks():
    old = mediated(0.5, 0.2).drop_vars(["pure", "dosed", "fraction"])
    assert "pure" not in mediated_share(old)
    assert describe_mediation(old).splitlines()[1].startswith("Layer 3 mediates: whole site")


DOSES = [-1.0, 0.0, 1.0, 2.0]


def steered(gains: list[float], prompted: float, n: int = 30) -> xr.Dataset:
    """Steering that gains this much at each dose, and an instruction that gains this much."""
    rng = np.random.default_rng(1)
    own = rng.standard_normal(n)
    odds = own[:, None, None] + np.array([gains, [0.0] * 4]) + 0.1 * rng.standard_normal((n, 2, 4))
    odds[:, :, 1] = own[:, None]
    by_prompt = np.stack([own, own + prompted + 0.1 * rng.standard_normal(n)], axis=1)
    return xr.Dataset(
        {
            "log_odds": (("item", "direction", "dose"), odds),
            "prompted": (("item", "condition"), by_prompt),
        },
        coords={
            "item": np.arange(n),
            "cluster": ("item", np.arange(n)),
            "direction": ["probe", "random 0"],
            "dose": DOSES,
            "condition": ["none", "instruction"],
        },
        attrs={"layer": 5, "prompting": "instruction", "option_note": ""},
    )


def cost(rise: float, lost: int, before: int = 12, n: int = 16) -> xr.Dataset:
    """A dose of 2 raises perplexity by this share and loses so many of the right answers."""
    surprise = 3.0 + np.zeros((8, 2, 4)) + 0.001 * np.random.default_rng(2).standard_normal((8, 2, 4))
    surprise[:, 0, 3] += np.log1p(rise)
    right = np.zeros((n, 2, 4))
    right[:before] = 1.0
    right[before - lost : before, 0, 3] = 0.0
    return xr.Dataset(
        {
            "surprise": (("text", "direction", "dose"), surprise),
            "right": (("question", "direction", "dose"), right),
        },
        coords={
            "text": np.arange(8),
            "question": [f"s{i}" for i in range(n)],
            "cluster": ("question", [f"s{i}" for i in range(n)]),
            "direction": ["probe", "random 0"],
            "dose": DOSES,
        },
        attrs={"layer": 5, "guessing": 1 / 3},
    )


def ablated(n: int = 30) -> dict[str, xr.Dataset]:
    """An ablation that removes everything."""
    coords = {"item": np.arange(n), "cluster": ("item", np.arange(n)), "ablation": ["direction"]}
    rng = np.random.default_rng(3)
    off = rng.standard_normal(n)
    return {
        which: xr.Dataset(
            {
                "log_odds": (("item", "ablation"), off[:, None] + 0.01 * rng.standard_normal((n, 1))),
                "target_log_odds": ("item", off + add),
            },
            coords=coords,
            attrs={"layers": [5]},
        )
        for which, add in (("on", 1.0), ("off", 0.0))
    }


@pytest.mark.parametrize(("prompted", "verdict"), [(0.3, "pass"), (1.0, "warn"), (2.0, "fail")])
def test_steering_stands_beside_what_an_instruction_in_the_prompt_reaches(prompted, verdict):
    one = steered([-0.5, 0.0, 0.6, 1.0], prompted)
    assert best_dose(one) == 2.0
    line = causal_lines(one, ablated()).set_index("line").loc["beats prompting"]
    assert line["verdict"] == verdict
    assert line["value"] == pytest.approx(1.0 - prompted, abs=0.06)
    assert "at dose 2, prompting with instruction" in line["detail"]


def test_without_an_instruction_to_compare_with_nothing_is_claimed():
    one = steered([-0.5, 0.0, 0.6, 1.0], 1.0).assign_attrs(prompting="")
    line = causal_lines(one, ablated()).set_index("line").loc["beats prompting"]
    assert line["verdict"] == "not checked"


@pytest.mark.parametrize(
    ("rise", "lost", "verdict"),
    [(0.05, 0, "warn"), (0.05, 2, "warn"), (0.3, 0, "warn"), (0.05, 4, "fail"), (0.8, 0, "fail")],
)
def test_the_cost_is_that_of_the_dose_that_gains_most(rise, lost, verdict):
    one, price = steered([-0.5, 0.0, 0.6, 1.0], 1.0), cost(rise, lost)
    line = causal_lines(one, ablated(), price).set_index("line").loc["steering cost"]
    assert line["verdict"] == verdict
    assert line["value"] == pytest.approx(rise, abs=0.01)
    assert f"accuracy on 16 settled questions 0.75 to {0.75 - lost / 16:.2f}" in line["detail"]
    assert cost_of_dose(price, 2.0)["accuracy"] == pytest.approx(-lost / 16)
    said = f"dose +2: perplexity {100 * line['value']:+.1f} % ["
    assert said in describe_cost(price)
    assert f"accuracy {100 * -lost / 16:+.0f} points" in describe_cost(price).partition(said)[2]


def test_accuracy_is_kept_only_where_the_questions_are_enough_to_show_it():
    for n, lost, verdict in ((96, 0, "pass"), (96, 4, "warn"), (16, 0, "warn")):
        price = cost(0.05, lost, before=12 * n // 16, n=n)
        line = causal_lines(steered([-0.5, 0.0, 0.6, 1.0], 1.0), ablated(), price).set_index("line")
        assert line.loc["steering cost", "verdict"] == verdict
    found = cost_of_dose(cost(0.05, 0), 2.0)
    room = 1 - 0.025 ** (1 / 16)
    assert (found["accuracy_low"], found["accuracy_high"]) == pytest.approx((-room, room))
    assert (
        "[-21, +21 points]"
        in causal_lines(steered([-0.5, 0.0, 0.6, 1.0], 1.0), ablated(), cost(0.05, 0))
        .set_index("line")
        .loc["steering cost", "detail"]
    )


def test_prompting_without_any_log_odds_is_not_checked():
    one = steered([-0.5, 0.0, 0.6, 1.0], 1.0)
    one["prompted"][:] = np.nan
    line = causal_lines(one, ablated()).set_index("line").loc["beats prompting"]
    assert line["verdict"] == "not checked"
    assert "no item has log-odds" in line["detail"]


def test_a_layer_without_a_gain_of_steering_has_no_prediction_and_keeps_the_rest():
    one = mediated(0.5, 0.2)
    known = mediated_share(one)
    assert "unpredicted" not in known.attrs
    assert np.isfinite(known["predicted_low"]).all()
    one["gain"][:] = np.nan
    found = mediated_share(one)
    assert np.isnan(found["predicted"]).all()
    assert np.isnan(found["predicted_high"]).all()
    assert float(found["share"].squeeze()) == pytest.approx(float(known["share"].squeeze()))
    assert "Nothing is predicted at layers [3]" in describe_mediation(one)


def test_a_model_that_guesses_has_nothing_to_lose_and_that_is_said():
    line = causal_lines(steered([0, 0, 0, 1.0], 1.0), ablated(), cost(0.0, 0, before=5)).set_index("line")
    assert "no better than guessing before steering" in line.loc["steering cost", "detail"]


def test_the_cost_of_other_steering_is_refused():
    one = steered([-0.5, 0.0, 0.6, 1.0], 1.0)
    with pytest.raises(ValueError, match="the cost of the same steering, at layer 5"):
        causal_lines(one, ablated(), cost(0.1, 0).assign_attrs(layer=4))
    with pytest.raises(ValueError, match="the cost of the same steering"):
        causal_lines(one, ablated(), cost(0.1, 0).sel(dose=[0.0, 1.0]))
