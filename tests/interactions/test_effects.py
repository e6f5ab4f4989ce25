import inspect
import itertools
import json
import subprocess
import sys
from collections.abc import Callable

import mne
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings, strategies as st
from scipy import stats
from statsmodels.stats.anova import AnovaRM

from morality_lens.interactions.contrasts import between
from morality_lens.interactions.describing import describe, negative_control
from morality_lens.interactions.effects import factorial_effects

FACTORS = ("instruction", "cot", "feedback")
EFFECTS = [":".join(parts) for k in (1, 2, 3) for parts in itertools.combinations(FACTORS, k)]


def cube(
    values: np.ndarray, *rest: str, factors: tuple[str, ...] = FACTORS, clusters=None, **attrs
) -> xr.DataArray:
    """Label items x off/on per factor x rest."""
    coords: dict = {name: ["off", "on"] for name in factors}
    coords["item"] = [f"q{i}" for i in range(len(values))]
    sites = ["answer_start", "answer_end"]
    for dim, length in zip(rest, values.shape[len(factors) + 1 :], strict=True):
        coords[dim] = sites[:length] if dim == "site" else np.arange(length)
    if clusters is not None:
        coords["cluster"] = ("item", clusters)
    return xr.DataArray(
        values, dims=("item", *factors, *rest), coords=coords, attrs={"oriented": True, **attrs}
    )


def noise(n_items: int, *lengths: int, seed: int = 0, n_factors: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    own = rng.standard_normal((n_items, *[1] * n_factors, *lengths))
    return own + rng.standard_normal((n_items, *[2] * n_factors, *lengths))


def planted(n_items: int = 60, seed: int = 0, scale: float = 1.0) -> xr.DataArray:
    """Round 0 shared by all cells; two helping components that are sub-additive at round 2, layers 3 to 5."""
    y = 0.5 * noise(n_items, 3, 1, 8, seed=seed)
    y[:, :, :, :, 0] = y[:, :1, :1, :1, 0]
    y[:, 1, :, :, 1:] += 1
    y[:, :, :, 1, 1:] += 1
    y[:, 1, :, 1, 2, 0, 3:6] -= 1.2
    return cube(scale * y, "round", "site", "layer", units="sd")


# --- published cases -------------------------------------------------------------------------------------


def test_squared_t_gives_the_published_f_of_the_random_state_42_table():
    values = np.random.RandomState(42).standard_normal(160).reshape(20, 2, 2, 2)
    result = factorial_effects(
        cube(values, factors=("a", "b", "g")), factors=("a", "b", "g"), method="pointwise"
    )
    f = dict(zip(result.effect.values.tolist(), ((result.estimate / result.se) ** 2).values, strict=True))
    expected = {
        "a": 0.74784,
        "b": 0.20895,
        "a:b": 0.21378,
        "g": 0.99404,
        "a:g": 0.09404,
        "b:g": 0.11685,
        "a:b:g": 2.78749,
    }
    for name, value in expected.items():
        assert f[name] == pytest.approx(value, abs=5e-6)


def test_squared_t_and_p_equal_anova_rm_and_f_mway_rm():
    values = noise(15)
    result = factorial_effects(cube(values), method="pointwise", symmetric=True)
    f_mne, p_mne = mne.stats.f_mway_rm(values.reshape(15, 8, 1), [2, 2, 2], effects="all", correction=False)
    names = dict(zip(["A", "B", "A:B", "C", "A:C", "B:C", "A:B:C"], range(7), strict=True))
    lettered = [
        name.replace("instruction", "A").replace("cot", "B").replace("feedback", "C") for name in EFFECTS
    ]
    order = [names[name] for name in lettered]
    np.testing.assert_allclose((result.estimate / result.se) ** 2, np.ravel(f_mne)[order], rtol=1e-9)
    np.testing.assert_allclose(result.p, np.ravel(p_mne)[order], rtol=1e-9)
    table = cube(values).to_dataframe("value").reset_index()
    anova = AnovaRM(table, "value", "item", within=list(FACTORS)).fit().anova_table
    np.testing.assert_allclose((result.estimate / result.se) ** 2, anova["F Value"].loc[EFFECTS], rtol=1e-8)
    assert result.effect.values.tolist() == EFFECTS


def test_the_pilot_plant_gives_its_published_effects_on_the_difference_scale():
    factors = ("temperature", "concentration", "catalyst")
    plant = np.array([60, 72, 54, 68, 52, 83, 45, 80.0]).reshape(2, 2, 2).transpose(2, 1, 0)
    values = plant[None] + np.array([-1.0, 0.0, 1.0])[:, None, None, None]
    result = factorial_effects(cube(values, factors=factors), factors, method="pointwise")
    np.testing.assert_allclose(result.estimate, [23, -5, 1.5, 2 * 1.5, 2 * 10, 2 * 0, 4 * 0.5], atol=1e-12)
    assert result.cell_mean.mean().item() == 64.25
    assert result.cell_mean.sel(temperature="on", concentration="off", catalyst="on").item() == 83


def test_darwins_maize_is_one_factor_with_fifteen_pairs():
    pairs = np.array([49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48.0])
    y = cube(np.stack([np.zeros(15), pairs], axis=1), factors=("crossed",))
    result = factorial_effects(y, ("crossed",), symmetric=True, draws=2**15).sel(effect="crossed")
    assert (result.estimate / result.se).item() == pytest.approx(2.148, abs=5e-4)
    assert result.p.item() == pytest.approx(0.0497, abs=5e-5)
    assert result.p_adj.item() == pytest.approx(0.0497, abs=0.004)
    reference = stats.ttest_1samp(pairs, 0).confidence_interval(0.95)
    assert (result.ci_low.item(), result.ci_high.item()) == pytest.approx((reference.low, reference.high))
    skewed = factorial_effects(y, ("crossed",), draws=2**15).sel(effect="crossed")
    assert skewed.skew.item() == pytest.approx(stats.skew(pairs, bias=False) / np.sqrt(15))
    assert skewed.p.item() >= result.p.item()


def test_the_largest_adjusted_t_is_near_mnes_max_t_p():
    values = noise(10, 6, seed=2)
    values[:, 1, :, :, 4] += 0.7
    result = factorial_effects(cube(values, "layer"), symmetric=True, draws=2**10).sel(effect="instruction")
    contrast = values[:, 1].mean((1, 2)) - values[:, 0].mean((1, 2))
    _, p, _ = mne.stats.permutation_t_test(contrast, n_permutations=2**9, verbose=False)
    np.testing.assert_allclose(result.p_adj, p, atol=0.08)


# --- laws ------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.floats(-50, 50))
@settings(max_examples=15, deadline=None)
def test_a_constant_per_item_changes_nothing(seed, size):
    values = noise(9, 2, seed=seed)
    shift = size * np.random.default_rng(seed).standard_normal((9, 1, 1, 1, 2))
    plain, moved = (factorial_effects(cube(v, "layer"), draws=100) for v in (values, values + shift))
    for name in ("estimate", "se", "p", "band_low", "p_adj"):
        np.testing.assert_allclose(moved[name], plain[name], atol=1e-9)


@given(st.integers(0, 10_000), st.floats(0.01, 1000))
@settings(max_examples=15, deadline=None)
def test_scaling_the_outcome_scales_estimates_and_bands_and_keeps_p(seed, factor):
    values = noise(9, 2, seed=seed)
    plain, scaled = (factorial_effects(cube(v, "layer"), draws=100) for v in (values, values * factor))
    for name in ("estimate", "se", "ci_high", "band_low"):
        np.testing.assert_allclose(scaled[name], plain[name] * factor, rtol=1e-6)
    for name in ("p", "p_adj", "df"):
        np.testing.assert_allclose(scaled[name], plain[name], rtol=1e-6)


@given(st.randoms(use_true_random=False))
@settings(max_examples=10, deadline=None)
def test_the_order_of_items_and_levels_changes_nothing_pointwise(random):
    y = cube(noise(12, 2), "layer", clusters=np.arange(12) // 2)
    order = list(range(12))
    random.shuffle(order)
    plain = factorial_effects(y, method="pointwise")
    mixed = factorial_effects(
        y.isel(item=order).sel(cot=["on", "off"]).transpose("layer", ...), method="pointwise"
    )
    xr.testing.assert_allclose(mixed, plain)


@pytest.mark.parametrize("name", FACTORS)
def test_swapping_off_and_on_flips_the_signs_of_the_effects_with_that_factor(name):
    y = cube(noise(10, 2), "layer")
    plain = factorial_effects(y, draws=200)
    swapped = factorial_effects(y.assign_coords({name: ["on", "off"]}), draws=200)
    sign = np.array([-1.0 if name in effect.split(":") else 1.0 for effect in EFFECTS])[:, None]
    np.testing.assert_allclose(swapped.estimate, sign * plain.estimate, atol=1e-12)
    np.testing.assert_allclose(swapped.p_adj, plain.p_adj)


def test_effects_are_means_of_simple_effects_which_carry_their_own_name():
    y = cube(noise(12, 3), "layer")
    whole = factorial_effects(y, method="pointwise")
    parts = [factorial_effects(y, at={"cot": level}, method="pointwise") for level in ("off", "on")]
    assert parts[0].effect.values.tolist() == [
        "instruction@cot=off",
        "feedback@cot=off",
        "instruction:feedback@cot=off",
    ]
    assert parts[0].cell_mean.dims == ("instruction", "feedback", "layer")
    for name in ("instruction", "instruction:feedback"):
        off, on = (
            p.estimate.sel(effect=f"{name}@cot={lv}") for p, lv in zip(parts, ("off", "on"), strict=True)
        )
        np.testing.assert_allclose((off + on) / 2, whole.estimate.sel(effect=name))
    name = "instruction:cot:feedback"
    off, on = (p.estimate.isel(effect=2) for p in parts)
    np.testing.assert_allclose(on - off, whole.estimate.sel(effect=name))
    both = factorial_effects(y, at={"cot": "on", "feedback": "off"}, method="pointwise")
    assert both.effect.values.tolist() == ["instruction@cot=on,feedback=off"]


def test_any_number_of_factors_of_any_name_works():
    y = cube(noise(8, n_factors=4), factors=("a", "b", "d", "e"))
    assert factorial_effects(y, ("a", "b", "d", "e"), method="pointwise").sizes == {
        "effect": 15, "a": 2, "b": 2, "d": 2, "e": 2
    }  # fmt: skip
    per_level = factorial_effects(y, ("a", "b"), method="pointwise")
    assert per_level.estimate.dims == ("effect", "d", "e")


def test_items_of_one_cluster_widen_the_interval():
    rng = np.random.default_rng(1)
    clusters = np.repeat(np.arange(12), 5)
    values = noise(60)
    values[:, 1] += 2 * rng.standard_normal(12)[clusters][:, None, None]
    alone = factorial_effects(cube(values), method="pointwise").sel(effect="instruction")
    together = factorial_effects(cube(values, clusters=clusters), method="pointwise").sel(
        effect="instruction"
    )
    assert together.se > 1.5 * alone.se
    assert (together.df.item(), alone.df.item()) == pytest.approx((11, 59))
    assert together.attrs["n_clusters"] == 12


# --- families --------------------------------------------------------------------------------------------


def test_planted_effects_are_found_where_they_are_and_nowhere_else():
    result = factorial_effects(planted())
    assert result.estimate.dims == ("effect", "round", "site", "layer")
    found = result.p_adj.isel(site=0) < 0.05
    both = found.sel(effect="instruction:feedback").values
    assert [tuple(map(int, index)) for index in np.argwhere(both)] == [(2, 3), (2, 4), (2, 5)]
    assert found.sel(effect="instruction").values[1:].all()
    assert not found.sel(effect="cot").values.any()
    band = result.sel(effect="instruction:feedback", round=2).isel(site=0, layer=slice(3, 6))
    assert (band.band_low < -1.2).all()
    assert (band.band_high > -1.2).all()


@pytest.mark.parametrize("n_items", [10, 40])
def test_families_of_pure_noise_are_rarely_rejected(n_items):
    repeats, rejected = 60, 0
    for seed in range(repeats):
        y = cube(noise(n_items, 2, 10, seed=seed, n_factors=2), "round", "layer", factors=("a", "b"))
        result = factorial_effects(y, ("a", "b"), draws=200, seed=seed)
        rejected += int((result.p_adj.min(["round", "layer"]) <= 0.05).sum())
    assert rejected / (3 * repeats) < 0.11


def test_the_method_is_chosen_by_the_skewness_of_families_and_says_why():
    def chosen(values: np.ndarray, **options) -> dict:
        return factorial_effects(cube(values, "layer"), draws=100, **options).attrs

    quiet = noise(12, 20)
    assert chosen(quiet)["method"] == "sign-flip"
    assert "0 of 7 families visibly skewed" in chosen(quiet)["method_reason"]
    one = quiet.copy()
    one[:, 1] += np.exp(2 * np.random.default_rng(0).standard_normal((12, 1, 1, 20)))
    assert chosen(one)["method"] == "sign-flip and bootstrap-t"
    assert "1 of 7 families visibly skewed" in chosen(one)["method_reason"]
    assert "instruction" in chosen(one)["vouch"]
    assert "missed in up to 8%" in chosen(one)["vouch"]
    assert chosen(one, symmetric=True)["method"] == "sign-flip"
    assert chosen(one, method="bootstrap-t")["method"] == "bootstrap-t"
    assert chosen(quiet, method="sign-flip")["method_reason"] == "requested"
    few = factorial_effects(cube(noise(7, 4), "layer"))
    assert few.attrs["method"] == "pointwise"
    assert few.p_adj.isnull().all()
    assert few.band_low.isnull().all()
    assert few.p.notnull().all()
    assert any("2/2^G = 0.0156" in note for note in few.attrs["notes"])


def test_the_family_decides_what_is_corrected_together():
    y = planted().sel(round=[1, 2])
    default = factorial_effects(y)
    raw = factorial_effects(y, family=())
    wide = factorial_effects(y, family=("effect", "round", "site", "layer"))
    assert default.critical.dims == ("effect", "site")
    assert raw.critical.dims == ("effect", "round", "site", "layer")
    assert wide.critical.dims == ()
    assert (raw.p_adj <= default.p_adj).all()
    assert (default.p_adj <= wide.p_adj).all()
    assert raw.critical.max() < default.critical.min() < wide.critical
    assert default.attrs["family"].startswith(
        "16 tests (2 rounds x 8 layers), separately for each effect and site"
    )


def test_the_result_can_be_written_and_read(tmp_path):
    result = factorial_effects(planted(), draws=100)
    result.to_netcdf(tmp_path / "effects.nc")
    again = xr.load_dataset(tmp_path / "effects.nc")
    xr.testing.assert_equal(again, result)
    assert describe(again, "instruction:feedback") == describe(result, "instruction:feedback")
    json.dumps(result.attrs, allow_nan=False)


# --- features without variance ---------------------------------------------------------------------------


def test_round_zero_is_exactly_zero_and_leaves_the_familys_maximum_alone():
    y = planted()
    result, later = factorial_effects(y), factorial_effects(y.sel(round=[1, 2]))
    first = result.sel(round=0)
    for name, value in {
        "estimate": 0,
        "se": 0,
        "p": 1,
        "p_adj": 1,
        "band_low": 0,
        "band_high": 0,
        "ci_high": 0,
    }.items():
        assert (first[name] == value).all(), name
    xr.testing.assert_equal(result.p_adj.sel(round=[1, 2]), later.p_adj)
    assert any("56 of 168 tests have an effect of zero" in note for note in result.attrs["notes"])
    control = negative_control(result)
    assert control["exactly_zero"]
    assert control["largest"] == 0


def test_an_effect_that_is_the_same_for_every_item_has_the_exact_flip_test_and_a_warning():
    values = noise(20, 4)
    values[..., 2] = values[:, :1, :1, :1, 2] + np.array([0, 0.7])[:, None, None]
    result = factorial_effects(cube(values, "layer"), draws=100)
    constant = result.sel(effect="instruction", layer=2)
    assert constant.estimate.item() == pytest.approx(0.7)
    assert constant.se.item() == 0
    assert constant.p.item() == 2.0**-19
    assert constant.p_adj.item() == 1 / 100
    share = 1 - 0.025 ** (1 / 20)
    for low, high in (("ci_low", "ci_high"), ("band_low", "band_high")):
        assert constant[low].item() == pytest.approx(0.7 - 1.4 * share)
        assert constant[high].item() == pytest.approx(0.7 + 1.4 * share)
    others = factorial_effects(cube(values[..., [0, 1, 3]], "layer"), draws=100)
    for name in ("p_adj", "band_low"):
        np.testing.assert_array_equal(result[name].isel(layer=[0, 1, 3]), others[name])
    assert any("signature of position or template" in note for note in result.attrs["notes"])
    assert "signature of position or template" in describe(result, "instruction")


def test_an_effect_that_is_zero_everywhere_has_no_critical_value():
    values = np.repeat(noise(10, 2)[:, :1], 2, axis=1)
    result = factorial_effects(cube(values, "layer"), draws=100)
    assert np.isnan(result.critical.sel(effect="instruction").item())
    assert (result.p_adj.sel(effect="instruction") == 1).all()
    assert describe(result, "instruction").startswith("instruction: exactly zero at all of the 2 places")


def test_rounding_in_single_precision_is_not_an_effect():
    item = np.random.default_rng(0).standard_normal((20, 1, 1, 1)).astype(np.float32)
    values = np.repeat(item, 8).reshape(20, 2, 2, 2)
    values[:, 1] = np.nextafter(values[:, 1], np.float32(9))
    result = factorial_effects(cube(values), draws=100).sel(effect="instruction")
    assert result.estimate != 0
    assert (result.p, result.p_adj) == (1, 1)
    assert "1 of them are zero up to rounding" in " ".join(result.attrs["notes"])


# --- missing values --------------------------------------------------------------------------------------


def test_complete_items_are_used_by_name_and_counted():
    values = noise(40, 3)
    holed = values.copy()
    holed[[4, 9], 1, 0, 1, 2] = np.nan
    result = factorial_effects(cube(holed, "layer"), missing="complete_items", draws=100)
    kept = np.delete(np.arange(40), [4, 9])
    reference = factorial_effects(cube(values[kept], "layer"), draws=100)
    for name in reference.data_vars:
        np.testing.assert_allclose(result[name], reference[name])
    assert any("2 items (5.0%)" in note for note in result.attrs["notes"])


@pytest.mark.parametrize(("n_holes", "spread"), [(5, True), (3, False)])
def test_much_or_unequal_missing_withholds_p_until_accepted(n_holes, spread):
    values = noise(40)
    for i in range(n_holes):
        values[i, i % 2 if spread else 0, i // 4 % 2 if spread else 0, i // 2 % 2 if spread else 0] = np.nan
    y = cube(values)
    withheld = factorial_effects(y, missing="complete_items", draws=100)
    for name in ("p", "p_adj", "ci_low", "band_high"):
        assert withheld[name].isnull().all()
    assert withheld.estimate.notnull().all()
    assert any("accept_missing=True" in note for note in withheld.attrs["notes"])
    assert "no p-values are given" in describe(withheld, "cot")
    accepted = factorial_effects(y, missing="complete_items", draws=100, accept_missing=True)
    assert accepted.p_adj.notnull().all()


# --- refusals --------------------------------------------------------------------------------------------

BASE = cube(noise(40, 2, 3), "round", "layer")


def with_value(value: float, **place) -> xr.DataArray:
    y = BASE.copy(deep=True)
    y.loc[place] = value
    return y


def placebo() -> xr.DataArray:
    return xr.concat([BASE.sel(cot="off"), BASE.sel(cot="off"), BASE.sel(cot="on")], "cot").assign_coords(
        cot=["off", "placebo", "on"]
    )


def weights(rows) -> xr.DataArray:
    """Rows of weights of the instruction's levels, the other factors averaged."""
    table = np.array(rows)[:, :, None, None] * np.full((1, 1, 2, 2), 0.25)
    coords = {name: ["off", "on"] for name in FACTORS}
    names = [f"row {i}" for i in range(len(table))]
    return xr.DataArray(table, dims=("effect", *FACTORS), coords={"effect": names, **coords})


def refits_of(y: xr.DataArray, sd: float = 0.0, draws: int = 60, seed: int = 0) -> xr.DataArray:
    """Cell means of refits whose projections differ by a factor of their own."""
    factor = 1 + sd * np.random.default_rng(seed).standard_normal(draws)
    return y.mean("item") * xr.DataArray(factor, dims="probe_draw")


def unjoined() -> xr.DataArray:
    """Half of the items were only run without the instruction, the other half only with it."""
    y = BASE.copy(deep=True)
    y.loc[{"item": [f"q{i}" for i in range(20)], "instruction": "on"}] = np.nan
    y.loc[{"item": [f"q{i}" for i in range(20, 40)], "instruction": "off"}] = np.nan
    return y


def clusters(labels) -> xr.DataArray:
    return BASE.assign_coords(cluster=("item", labels))


REFUSED: dict[str, tuple[Callable[[], xr.Dataset], str]] = {
    "no such factor": (
        lambda: factorial_effects(BASE, ("instruction", "hint")),
        r"needs the factor 'hint' as a dim .*Choose factors",
    ),
    "other levels": (
        lambda: factorial_effects(BASE.assign_coords(cot=["on", "yes"])),
        r"'cot' at the levels \['off', 'on'\], once each; got \['on', 'yes'\].*relabel",
    ),
    "content without placebo": (
        lambda: factorial_effects(placebo(), compare="content"),
        r"'instruction' at the levels \['placebo', 'on'\].*another comparison",
    ),
    "other comparison": (
        lambda: factorial_effects(placebo(), compare={"hint": "content"}),
        r"compare needs one of .*content.*got \{'hint': 'content'\}",
    ),
    "no contrast": (
        lambda: factorial_effects(BASE, contrasts=weights([[1.0, 1.0]])),
        r"sum to zero in every row.*got others in \['row 0'\].*Subtract",
    ),
    "contrasts without a factor": (
        lambda: factorial_effects(BASE, contrasts=weights([[1.0, -1.0]]).isel(cot=0)),
        "contrasts needs the dims effect and .*Build it as",
    ),
    "other link": (
        lambda: inspect.unwrap(factorial_effects)(BASE, link="probit"),
        "link must be one of .*got 'probit'",
    ),
    "logit of zeros and ones": (
        lambda: factorial_effects((BASE > 0).astype(float), link="logit"),
        "probability strictly inside .*got .* outside.*marginal_log_odds",
    ),
    "leakage": (
        lambda: factorial_effects(BASE.assign_attrs(leakage="It saw the answers of 8 conditions.")),
        "not trained on the analysed cells: It saw the answers.*demean=True",
    ),
    "too few refits": (
        lambda: factorial_effects(BASE, refits=BASE.mean("item").expand_dims(probe_draw=5)),
        "at least 20 draws; got .*project_means",
    ),
    "refits of other places": (
        lambda: factorial_effects(BASE, refits=refits_of(BASE).sel(layer=[0, 1])),
        "refits at the places of y; they lack some along 'layer'",
    ),
    "refits with holes": (
        lambda: factorial_effects(BASE, refits=refits_of(BASE).where(BASE.layer < 2)),
        "finite refits.*Select the rounds and sites",
    ),
    "an unstable direction": (
        lambda: factorial_effects(
            BASE.assign_coords(split_half=("layer", [0.4, 0.3, 0.2])), refits=refits_of(BASE)
        ),
        r"agree between halves.*got at most 0.40 .*no more than that this direction moves",
    ),
    "cells that nothing joins": (
        lambda: factorial_effects(unjoined(), missing="available", accept_missing=True),
        "joined by items which have several of them.*analyse a subset",
    ),
    "two items": (
        lambda: between(BASE, item=("q0", "q1")),
        r"two labels of a dim of y other than items",
    ),
    "no such layer": (lambda: between(BASE, layer=(0, 9)), r"got layer=\(0, 9\).*labels \[0, 1, 2\]"),
    "between nothing": (lambda: between(BASE), r"between\(y, layer=\(12, 3\)\)"),
    "level not run": (
        lambda: factorial_effects(BASE, at={"cot": "placebo"}),
        r"'cot' at the levels \['placebo'\].*Run these levels",
    ),
    "every factor held": (
        lambda: factorial_effects(BASE, ("cot",), at={"cot": "on"}),
        "one or more different factors",
    ),
    "colon in name": (
        lambda: factorial_effects(BASE.rename(cot="c:t"), ("c:t",)),
        r"without ':', '@' or '\[' in their names",
    ),
    "cell never run": (
        lambda: factorial_effects(with_value(np.nan, cot="on", instruction="off", feedback="off")),
        r"no value at all in 1 of 8 cells \(instruction off, cot on, feedback off\), first at round 0, "
        r"layer 0.*at=\{'cot': 'off'\}",
    ),
    "infinity": (
        lambda: factorial_effects(with_value(np.inf, item="q3")),
        "finite numbers; got 48 infinite values.*as NaN",
    ),
    "missing value": (
        lambda: factorial_effects(with_value(np.nan, item="q3", cot="on")),
        r"NaN in 1 of 40 items.*isnull.*missing='available'.*'complete_items'",
    ),
    "least squares": (
        lambda: inspect.unwrap(factorial_effects)(BASE, missing="least_squares"),
        "got 'least_squares'. Never impute: analyse .*'available'",
    ),
    "other method": (
        lambda: inspect.unwrap(factorial_effects)(BASE, method="cluster-mass"),
        "got 'cluster-mass'.*use 'auto'",
    ),
    "duplicated ids": (
        lambda: factorial_effects(BASE.assign_coords(item=["a"] * 2 + [f"q{i}" for i in range(38)])),
        r"40 rows with 1 ids more than once \(first: 'a'\).*seeds, give them a dim of their own",
    ),
    "refits in y": (
        lambda: factorial_effects(BASE.expand_dims(probe_draw=[0, 1])),
        r"the fitted direction itself; got a dim 'probe_draw'.*refits=project_means",
    ),
    "no ids": (
        lambda: factorial_effects(BASE.drop_vars("item")),
        "needs a dim 'item' with ids.*assign_coords",
    ),
    "clusters along another dim": (
        lambda: factorial_effects(BASE.assign_coords(cluster=("layer", ["a", "b", "c"]))),
        r"one cluster label per item; got 3 labels along \('layer',\) for 40 items",
    ),
    "missing label": (
        lambda: factorial_effects(clusters([None, "", *[f"t{i}" for i in range(38)]])),
        "label for every item; got 2 of 40 without one",
    ),
    "nan label": (
        lambda: factorial_effects(clusters([np.nan, *range(39)])),
        "label for every item; got 1 of 40 without one",
    ),
    "seven clusters": (
        lambda: factorial_effects(clusters(np.arange(40) % 7), method="sign-flip"),
        r"at least 8 clusters for method='sign-flip': 7 clusters .*2/2\^G = 0\.0156.*'pointwise'",
    ),
    "one cluster": (lambda: factorial_effects(clusters(np.zeros(40))), "at least two clusters.*got 1"),
    "no items": (lambda: factorial_effects(BASE.isel(item=slice(0, 0))), "at least two clusters.*got 0"),
    "no layers": (lambda: factorial_effects(BASE.sel(layer=[])), r"nothing along \['layer'\].*selection"),
    "a cluster above half": (
        lambda: factorial_effects(clusters([0] * 21 + list(range(1, 20)))),
        "more than half of the items; got one with 21 of 40",
    ),
    "unoriented": (
        lambda: factorial_effects(BASE.assign_attrs(oriented=False)),
        r"oriented direction .*y\.attrs\['oriented'\] = False.*flip the sign",
    ),
    "normalised per cell": (
        lambda: factorial_effects(BASE.assign_attrs(normalised="cell")),
        "raw projections.*normalised per cell.*accept_normalised=True",
    ),
    "too few draws": (
        lambda: factorial_effects(BASE, draws=19),
        "at least 20 draws for alpha 0.05; got draws=19",
    ),
    "too few draws for raw p": (
        lambda: factorial_effects(BASE, draws=100, family=()),
        "at least 120 draws for raw resampled p of 6 tests.*name the dims of a family",
    ),
    "alpha": (lambda: factorial_effects(BASE, alpha=5.0), "alpha between 0 and 1; got 5"),
    "family of no dim": (
        lambda: factorial_effects(BASE, family=("layers",)),
        r"got family=\('layers',\).*Choose among",
    ),
    "no such effect": (
        lambda: describe(factorial_effects(BASE, draws=100), "hint"),  # type: ignore[dict-item]
        r"one of the effects \['instruction'.*got 'hint'",
    ),
    "no such site": (
        lambda: describe(factorial_effects(planted(), draws=100), "cot", site="question"),
        r"one of the sites \['answer_start'\]; got 'question'",
    ),
    "no round 0": (
        lambda: negative_control(factorial_effects(BASE.sel(round=[1]), draws=100)),
        "needs effects at round 0; got none.*Keep round 0",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_answered_honestly_is_refused_with_what_to_do(case):
    ask, words = REFUSED[case]
    with pytest.raises(ValueError, match=f"(?s){words}"):
        ask()


def test_words_instead_of_numbers_are_a_type_error():
    with pytest.raises(TypeError, match=r"needs real numbers; got dtype .*astype\(float\)"):
        factorial_effects(BASE.astype(str))


def test_a_factor_with_two_levels_of_its_own_is_compared_in_their_order():
    named = factorial_effects(BASE.assign_coords(cot=["no", "yes"]), method="pointwise")
    assert "cot[yes-no]" in named["effect"].values
    plain = factorial_effects(BASE, method="pointwise")
    np.testing.assert_array_equal(named["estimate"], plain["estimate"])


def test_values_normalised_per_cell_are_taken_when_accepted_and_noted():
    result = factorial_effects(BASE.assign_attrs(normalised="cell"), accept_normalised=True, draws=100)
    assert any("per cell were accepted" in note for note in result.attrs["notes"])


def test_zeros_and_ones_are_noted_as_proportions():
    result = factorial_effects((BASE > 0).astype(int), draws=100)
    assert any("marginal_log_odds gives them" in note for note in result.attrs["notes"])


def test_cell_means_near_the_ceiling_are_noted():
    y = cube(np.random.default_rng(3).random((200, 2, 2, 2)) < 0.98).astype(float)
    notes = factorial_effects(y, draws=100).attrs["notes"]
    assert any("may be a ceiling" in note for note in notes)


# --- levels, links, places, refits -----------------------------------------------------------------------


def three_levels(n_items: int = 60, seed: int = 0) -> xr.DataArray:
    """A placebo of any factor moves the outcome by .5, what the instruction says by 1 more."""
    rng = np.random.default_rng(seed)
    y = rng.standard_normal((n_items, 1, 1, 1)) + 0.3 * rng.standard_normal((n_items, 3, 3, 3))
    for axis in (1, 2, 3):
        y += np.array([0, 0.5, 0.5]).reshape([3 if i == axis else 1 for i in range(4)])
    y[:, 2] += 1.0
    levels = ["off", "placebo", "on"]
    coords = {"item": [f"q{i}" for i in range(n_items)], **dict.fromkeys(FACTORS, levels)}
    return xr.DataArray(y, dims=("item", *FACTORS), coords=coords, attrs={"oriented": True})


def test_content_format_and_total_are_told_apart_and_add_up():
    y = three_levels()
    found = {
        how: factorial_effects(y, compare=how, method="pointwise") for how in ("total", "content", "format")
    }
    content = found["content"].estimate.sel(effect="instruction[on-placebo]")
    assert content.item() == pytest.approx(1.0, abs=0.06)
    assert found["content"].estimate.sel(effect="feedback[on-placebo]").item() == pytest.approx(0, abs=0.06)
    assert found["format"].estimate.sel(effect="feedback[placebo-off]").item() == pytest.approx(0.5, abs=0.06)
    assert found["content"].cell_mean.feedback.values.tolist() == ["placebo", "on"]
    assert found["content"].attrs["compared"] == "on - placebo"
    one = factorial_effects(
        y, ("instruction",), at={"cot": "off", "feedback": "off"}, compare="total", method="pointwise"
    )
    parts = [
        factorial_effects(
            y, ("instruction",), at={"cot": "off", "feedback": "off"}, compare=how, method="pointwise"
        )
        for how in ("content", "format")
    ]
    total = sum(part.estimate.values for part in parts)
    np.testing.assert_allclose(one.estimate.values, total, atol=1e-12)
    mixed = factorial_effects(y, compare={"instruction": "content"}, method="pointwise")
    assert "instruction[on-placebo]:feedback" in mixed.effect.values


def test_explicit_contrasts_give_what_the_same_factorial_effects_do():
    y = planted()
    result = factorial_effects(y, contrasts=weights([[-1.0, 1.0]]), method="bootstrap-t")
    named = factorial_effects(y, method="bootstrap-t").sel(effect=["instruction"])
    for name in ("estimate", "se", "p_adj", "band_high"):
        np.testing.assert_allclose(result[name], named[name], rtol=1e-6, atol=1e-12)
    assert result.effect.values.tolist() == ["row 0"]
    levels = factorial_effects(three_levels(), contrasts=trend(), method="pointwise")
    assert levels.estimate.item() == pytest.approx(2 * 1.5 - 0.5, abs=0.2)


def trend() -> xr.DataArray:
    """Weights -1, -1, 2 of off, placebo, on of the instruction where there is no other component."""
    table = np.zeros((1, 3, 3, 3))
    table[0, :, 0, 0] = [-1, -1, 2]
    coords = {name: ["off", "placebo", "on"] for name in FACTORS}
    return xr.DataArray(table, dims=("effect", *FACTORS), coords={"effect": ["trend"], **coords})


def test_seeds_are_averaged_within_item_and_cell():
    y = cube(noise(30, 3, seed=5), "seed")
    result = factorial_effects(y, method="pointwise")
    reference = factorial_effects(y.mean("seed"), method="pointwise")
    np.testing.assert_allclose(result.estimate, reference.estimate)
    np.testing.assert_allclose(result.se, reference.se)
    assert result.attrs["n_items"] == 30
    assert any("Averaged over seed" in note for note in result.attrs["notes"])


@pytest.mark.parametrize("link", ["logit", "log1m"])
def test_effects_that_add_on_a_links_scale_are_found_without_interaction(link):
    rng = np.random.default_rng(8)
    z = rng.normal(0, 0.4, (80, 1, 1, 1)) + np.zeros((80, 2, 2, 2))
    z[:, 1] += 1.0
    z[:, :, :, 1] += 0.7
    back = {"logit": lambda v: 1 / (1 + np.exp(-v)), "log1m": lambda v: 1 - np.exp(-np.exp(v / 4))}[link]
    p = back(z) if link == "logit" else 1 - np.exp(-(np.abs(z) + 0.1))
    additive = {"logit": z, "log1m": np.abs(z) + 0.1}[link]
    result = factorial_effects(cube(p), link=link, method="pointwise")
    reference = factorial_effects(cube(additive), method="pointwise")
    np.testing.assert_allclose(result.estimate, reference.estimate, atol=1e-9)
    if link == "logit":
        assert abs(result.estimate.sel(effect="instruction:feedback").item()) < 1e-9
        assert (
            abs(factorial_effects(cube(p), method="pointwise").estimate.sel(effect="instruction:feedback"))
            > 0.01
        )
    assert result.attrs["scale"] != "difference scale"


def test_the_difference_of_two_layers_is_the_difference_of_their_effects():
    y = planted()
    apart = factorial_effects(between(y, layer=(4, 0)), method="pointwise")
    whole = factorial_effects(y, method="pointwise")
    np.testing.assert_allclose(
        apart.estimate, whole.estimate.sel(layer=4) - whole.estimate.sel(layer=0), atol=1e-12
    )
    assert "layer 4 minus layer 0" in apart.attrs["outcome"]
    assert apart.p.sel(effect="instruction:feedback", round=2).item() < 1e-3
    assert apart.p.sel(effect="instruction:feedback", round=1).item() > 0.01


def test_refits_that_do_not_differ_change_nothing():
    y = planted()
    plain, same = factorial_effects(y), factorial_effects(y, refits=refits_of(y))
    for name in ("estimate", "se", "p", "p_adj", "band_low"):
        np.testing.assert_allclose(same[name], plain[name], rtol=1e-9, atol=1e-12)
    assert float(same.se_probe.max()) < 1e-12
    assert "this direction moves" in plain.attrs["notes"][0]
    assert "the morality direction moves, as far as" in same.attrs["notes"][0]


def test_refits_add_their_variance_to_every_interval():
    y = planted()
    plain, wide = factorial_effects(y), factorial_effects(y, refits=refits_of(y, sd=0.3))
    factor = refits_of(y, sd=0.3).isel(layer=0, site=0, round=1) / y.mean("item").isel(
        layer=0, site=0, round=1
    )
    sd = float(factor.std("probe_draw", ddof=1).mean())
    np.testing.assert_allclose(wide.se_probe, np.abs(plain.estimate) * sd, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(wide.se**2, plain.se**2 + wide.se_probe**2, rtol=1e-9, atol=1e-20)
    moved = wide.se > 1.01 * plain.se
    assert moved.any()
    assert (wide.p.where(moved) >= plain.p.where(moved)).where(moved, True).all()
    assert (wide.p_adj >= plain.p_adj - 1e-12).all()
    assert ((wide.band_high - wide.band_low) >= (plain.band_high - plain.band_low) - 1e-12).all()
    assert (wide.df.where(moved) < wide.attrs["n_clusters"] + 60).where(moved, True).all()


def test_an_unstable_direction_is_warned_of():
    notes = factorial_effects(BASE.assign_coords(split_half=("layer", [np.nan, 0.7, 0.9])), draws=100).attrs[
        "notes"
    ]
    assert any("split-half cosines down to 0.70" in note for note in notes)


def test_unstable_layers_have_an_estimate_only_and_leave_the_others_as_they_are():
    y = BASE.assign_coords(split_half=("layer", [0.9, 0.3, np.nan]))
    found = factorial_effects(y, refits=refits_of(y, sd=0.2), draws=100)
    alone = factorial_effects(y.sel(layer=[0, 2]), refits=refits_of(y, sd=0.2), draws=100)
    assert found.attrs["question"] == "direction"
    for name in ("estimate", "se", "p", "p_adj", "band_low"):
        np.testing.assert_array_equal(found[name].sel(layer=[0, 2]), alone[name])
        assert bool(found[name].sel(layer=1).isnull().all()) == (name != "estimate")
    assert any("No p and no interval at the layers 1 (0.30)" in note for note in found.attrs["notes"])
    free = factorial_effects(y, draws=100)
    assert free.p_adj.notnull().all()


def test_what_is_known_of_the_direction_travels_with_its_effects():
    assert (
        factorial_effects(BASE.assign_attrs(trust="trust: warn"), draws=100).attrs["trust"] == "trust: warn"
    )


# --- sentences -------------------------------------------------------------------------------------------


def test_a_sub_additive_two_way_is_told_with_extent_scale_cell_means_and_condition():
    text = describe(factorial_effects(planted(scale=2.0)), "instruction:feedback")
    assert "site answer_start: negative at round 2 (layers 3 to 5) (max-|t| p at most 0.05)" in text
    assert "sub-additive on the scale shown (L0)" in text
    for cell in (
        "instruction off, feedback off",
        "instruction off, feedback on",
        "instruction on, feedback on",
    ):
        assert cell in text
    for words in (
        "simultaneous 95 % band",
        " sd ",
        "difference scale",
        "60 items in 60 clusters",
        "one wording",
    ):
        assert words in text
    assert "interference" not in text
    assert "cell means" not in describe(factorial_effects(planted()), "instruction").lower()


def test_the_cell_means_told_are_those_of_the_place_told():
    y = planted()
    result = factorial_effects(y)
    text = describe(result, "instruction:feedback")
    effect = result.sel(effect="instruction:feedback").isel(site=0)
    t = np.nan_to_num(np.abs(effect.estimate / effect.se.where(effect.se > 0)).values)
    round_, layer = np.unravel_index(np.argmax(t), t.shape)
    mean = y.sel(instruction="off", feedback="on", round=round_, layer=layer).mean().item()
    assert f"Cell means at round {round_}, layer {layer}: " in text
    assert f"instruction off, feedback on: {mean:.3f}" in text


def test_a_negative_two_way_without_two_helpful_components_is_not_called_sub_additive():
    values = noise(40)
    values[:, :, :, 1] += 2.5
    values[:, 1, :, 1] -= 3
    text = describe(factorial_effects(cube(values), draws=200), "instruction:feedback")
    assert "not called sub-additive" in text
    assert "on the scale shown (L0)" in text


def test_what_is_not_found_is_not_called_absent():
    text = describe(factorial_effects(planted()), "cot", site="answer_start")
    assert "not distinguishable from zero at any of the 24 places (3 rounds x 8 layers)" in text
    assert "not evidence of no effect" in text


def test_without_corrected_p_no_extent_is_claimed():
    few = planted().isel(item=slice(0, 7))
    text = describe(factorial_effects(few), "instruction:feedback")
    assert "no family-corrected p (7 clusters are fewer than 8" in text
    assert "no extent is claimed" in text
    assert "uncorrected p" in text
    assert "L0" not in text


def test_extents_join_neighbouring_layers_only():
    values = 0.3 * noise(40, 8)
    values[:, 1, :, :, [0, 1, 2, 5]] += 2
    y = cube(values, "layer")
    assert "positive at layers 0 to 2 and 5 (max" in describe(factorial_effects(y, draws=100), "instruction")
    sparse = y.assign_coords(layer=np.arange(0, 16, 2))
    assert "positive at layers 0, 2, 4 and 10 (max" in describe(
        factorial_effects(sparse, draws=100), "instruction"
    )


def test_every_site_gets_its_sentence_and_alpha_moves_the_threshold():
    values = 0.5 * noise(40, 2, 4)
    values[:, 1, :, :, 0, 2] += 1
    values[:, 1, :, :, 1, 2] -= 1
    result = factorial_effects(cube(values, "site", "layer"), draws=100)
    text = describe(result, "instruction")
    assert "site answer_start: positive at layer 2" in text
    assert "site answer_end: negative at layer 2" in text
    assert "answer_end" not in describe(result, "instruction", site="answer_start")
    assert "not distinguishable" in describe(result, "instruction", alpha=0.001)


def test_one_number_per_cell_is_told_without_a_place():
    values = noise(40)
    values[:, 1] += 1
    text = describe(factorial_effects(cube(values), draws=100), "instruction")
    assert text.startswith("instruction: positive (max-|t| p")


def test_a_round_zero_that_differs_is_reported():
    values = noise(20, 3, 2)
    values[:, 1, :, :, 0, 1] += 5
    control = negative_control(factorial_effects(cube(values, "round", "layer"), draws=100))
    assert control["effect"] == "instruction"
    assert control["largest"] == pytest.approx(5, abs=1)
    assert not control["exactly_zero"]
    assert "not exactly zero" in str(control["sentence"])


def test_a_factor_that_speaks_before_the_first_answer_is_no_control():
    values = noise(20, 3, 2)
    values[..., 0, :] = 0.0
    values[:, 1, :, :, 0, :] += 5  # the first factor moves round 0, and nothing else does
    effects = factorial_effects(cube(values, "round", "layer"), draws=100)
    assert not negative_control(effects)["exactly_zero"]
    control = negative_control(effects, early=["instruction"])
    assert control["exactly_zero"]
    assert "every effect but those of instruction alone is exactly zero" in str(control["sentence"])
    values[:, 1, 1, :, 0, :] += 1  # an interaction with a factor that speaks later must not be there
    moved = negative_control(
        factorial_effects(cube(values, "round", "layer"), draws=100), early=["instruction"]
    )
    assert not moved["exactly_zero"]
    every = negative_control(effects, early=["instruction", "cot", "feedback"])
    assert "no control" in str(every["sentence"])


def test_importing_the_analysis_imports_no_model_library():
    code = (
        "import sys, morality_lens.interactions.effects; print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_table_of_the_effects_can_be_made():
    table = factorial_effects(planted(), draws=100)[["estimate", "p_adj"]].to_dataframe()
    assert isinstance(table, pd.DataFrame)
    assert len(table) == 7 * 3 * 8
