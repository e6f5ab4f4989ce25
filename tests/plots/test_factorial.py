import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
import pytest
import xarray as xr
from synthetic import EFFECTS, make_behaviour_table, make_effects, make_probe

from morality_lens import plots
from morality_lens.interactions.numbers import interval_of, p_value
from morality_lens.plots import style


def lines(fig: go.Figure) -> list:
    return [t for t in fig.data if t.type == "scatter" and t.fill != "toself"]


def bands(fig: go.Figure) -> list:
    return [t for t in fig.data if t.type == "scatter" and t.fill == "toself"]


def texts(fig: go.Figure) -> str:
    return fig.layout.title.text + " | " + fig.layout.title.subtitle.text


def test_effects_draws_every_estimate_and_band_where_it_belongs():
    effects = make_effects(rounds=2, layers=4)
    fig = plots.effects(effects, site="answer_end")
    assert len(lines(fig)) == len(bands(fig)) == len(EFFECTS) * 3
    wanted = effects.sel(site="answer_end", effect="cot", round=2)
    # The third panel has the third pair of axes.
    line = next(t for t in lines(fig) if t.name == "cot" and t.xaxis == "x3")
    np.testing.assert_array_equal(line.x, wanted["layer"])
    np.testing.assert_array_equal(line.y, wanted["estimate"])
    band = next(t for t in bands(fig) if t.legendgroup == "cot" and t.xaxis == "x3")
    np.testing.assert_array_equal(band.y[:4], wanted["band_high"])
    np.testing.assert_array_equal(band.y[4:][::-1], wanted["band_low"])
    assert [a.text for a in fig.layout.annotations[:3]] == ["round 0 (control)", "round 1", "round 2"]


def test_filled_markers_are_exactly_the_adjusted_significant_points():
    effects = make_effects(rounds=3, layers=6)
    fig = plots.effects(effects, effect="instruction:feedback")
    for line, index in zip(lines(fig), range(4), strict=True):
        p = effects["p_adj"].sel(site="answer_start", effect="instruction:feedback", round=index).to_numpy()
        filled = np.array([c != "white" for c in line.marker.color])
        np.testing.assert_array_equal(filled, p < 0.05)
    assert filled.any()
    assert not filled.all()


def test_too_few_clusters_give_pointwise_intervals_and_a_subtitle_that_says_so():
    effects = make_effects(clusters=5, rounds=1)
    fig = plots.effects(effects, effect="cot")
    assert "pointwise" in texts(fig)
    assert "no adjusted p" in texts(fig)
    assert "filled" not in texts(fig)
    wanted = effects["ci_high"].sel(site="answer_start", effect="cot", round=1)
    np.testing.assert_array_equal(bands(fig)[1].y[:7], wanted)
    assert all(c == "white" for t in lines(fig) for c in t.marker.color)
    assert "simultaneous 95 % bands" in texts(plots.effects(make_effects()))


def test_withheld_intervals_are_named_as_absent():
    effects = make_effects(clusters=5, rounds=1)
    effects["ci_low"] = effects["ci_low"] * np.nan
    effects["ci_high"] = effects["ci_high"] * np.nan
    assert "no intervals" in texts(plots.effects(effects))


def test_an_effect_keeps_its_colour_in_every_figure():
    effects = make_effects()
    every = {t.name: t.line.color for t in lines(plots.effects(effects))}
    alone = lines(plots.effects(effects, effect="cot:feedback"))[0]
    forest = plots.behaviour_effects(make_effects(sites=None, layers=None))
    assert alone.line.color == every["cot:feedback"]
    assert {t.y[0]: t.marker.line.color for t in lines(forest)} == every
    assert len(set(every.values())) == len(EFFECTS)


def test_effects_without_rounds_or_sites_make_one_panel():
    fig = plots.effects(make_effects(rounds=None, sites=None))
    assert {t.xaxis for t in fig.data} == {"x"}


def test_the_map_is_blue_for_positive_and_symmetric_about_zero():
    effects = make_effects()
    heat, dots = plots.effects_map(effects, effect="instruction", site="answer_start").data
    assert heat.zmin == -heat.zmax
    assert heat.zmax == pytest.approx(
        float(abs(effects["estimate"].sel(effect="instruction", site="answer_start")).max())
    )
    first, last = heat.colorscale[0][1], heat.colorscale[-1][1]
    red, _, blue = (int(v) for v in last.removeprefix("rgb(").rstrip(")").split(","))
    assert blue > red, (first, last)
    wanted = effects.sel(effect="instruction", site="answer_start").transpose("round", "layer", ...)
    np.testing.assert_array_equal(heat.z, wanted["estimate"])
    assert len(dots.x) == int((wanted["p_adj"] < 0.05).sum())
    at = wanted["p_adj"].sel(round=4, layer=dots.x[-1])
    assert dots.y[-1] == "round 4"
    assert float(at) < 0.05


def test_an_all_zero_map_is_drawn():
    effects = make_effects(planted={}, rounds=1)
    effects["estimate"] = effects["estimate"] * 0
    assert plots.effects_map(effects, effect="cot").data[0].zmax == 1.0


def test_trajectories_show_the_eight_cell_means():
    effects = make_effects()
    fig = plots.trajectories(effects["cell_mean"], site="answer_end", layer=3)
    assert len(fig.data) == 8
    line = next(t for t in fig.data if t.name == "instruction+cot+feedback")
    wanted = effects["cell_mean"].sel(site="answer_end", layer=3, instruction="on", cot="on", feedback="on")
    np.testing.assert_array_equal(line.y, wanted)
    assert line.line.dash == "solid"
    assert {t.line.dash for t in fig.data if t.xaxis == "x"} == {"dot"}
    assert len({t.line.color for t in fig.data}) == 8
    assert len({(t.marker.symbol, t.line.dash) for t in fig.data}) == 8
    assert next(t for t in fig.data if t.name == "instruction+cot+feedback").xaxis == "x2"


def test_trajectories_take_intervals_when_given():
    means = make_effects()["cell_mean"]
    fig = plots.trajectories(means, ci_low=means - 0.1, ci_high=means + 0.3)
    np.testing.assert_allclose(fig.data[0].error_y.array, 0.3)
    np.testing.assert_allclose(fig.data[0].error_y.arrayminus, 0.1)
    assert "no intervals" in texts(plots.trajectories(means))


def test_trajectories_refuse_single_items_and_half_an_interval():
    means = make_effects()["cell_mean"]
    with pytest.raises(ValueError, match=r"one value per item.*projections\.mean"):
        plots.trajectories(means.expand_dims(item=["a", "b"]))
    with pytest.raises(ValueError, match="ci_low and ci_high together"):
        plots.trajectories(means, ci_low=means)


def test_accuracy_shows_means_intervals_and_the_unparsed_share():
    table = make_behaviour_table()
    fig = plots.accuracy(table)
    curves = [t for t in fig.data if t.type == "scatter"]
    shares = [t for t in fig.data if t.type == "bar"]
    assert len(curves) == len(shares) == 8
    row = table.query("instruction == 'off' and cot == 'on' and feedback == 'on' and round == 3").iloc[0]
    curve = next(t for t in curves if t.name == "cot+feedback" and t.xaxis == "x2")
    assert curve.y[3] == row["mean"]
    assert curve.error_y.array[3] == pytest.approx(row["ci_high"] - row["mean"])
    bar = next(t for t in shares if t.name == "cot+feedback" and t.xaxis == "x4")
    assert bar.y[3] == row["unparsed"] == pytest.approx(0.05)
    assert "120 items" in texts(fig)


def test_accuracy_takes_rows_in_any_order():
    table = make_behaviour_table()
    shuffled = table.sample(frac=1, random_state=3)
    curves = {
        (t.name, a.text): tuple(t.y)
        for fig in [plots.accuracy(shuffled)]
        for a, axis in zip(fig.layout.annotations, ("x", "x2"), strict=True)
        for t in fig.data
        if t.type == "scatter" and t.xaxis == axis
    }
    row = table.query("instruction == 'on' and cot == 'off' and feedback == 'off'").sort_values("round")
    assert curves["instruction", "feedback off"] == tuple(row["mean"])


def test_accuracy_names_the_columns_it_misses():
    with pytest.raises(ValueError, match="unparsed"):
        plots.accuracy(make_behaviour_table().drop(columns="unparsed"))


def test_a_placebo_level_gets_its_own_panel():
    table = make_behaviour_table()
    more = table[table["feedback"] == "on"].assign(feedback="placebo")
    fig = plots.accuracy(type(table)(list(table.to_dict("records")) + list(more.to_dict("records"))))
    assert [a.text for a in fig.layout.annotations] == ["feedback off", "feedback on", "feedback placebo"]


def test_the_forest_has_one_mark_per_effect_and_round_with_its_interval():
    effects = make_effects(sites=None, layers=None, rounds=2)
    fig = plots.behaviour_effects(effects)
    assert len(fig.data) == len(EFFECTS) * 3
    mark = next(t for t in fig.data if t.y[0] == "feedback" and t.xaxis == "x3")
    wanted = effects.sel(effect="feedback", round=2)
    assert mark.x[0] == float(wanted["estimate"])
    assert mark.x[0] + mark.error_x.array[0] == pytest.approx(float(wanted["band_high"]))
    assert mark.x[0] - mark.error_x.arrayminus[0] == pytest.approx(float(wanted["band_low"]))


def test_the_forest_refuses_effects_by_layer():
    with pytest.raises(ValueError, match="layer"):
        plots.behaviour_effects(make_effects())


def test_probe_quality_shows_auroc_its_interval_and_chance():
    quality = make_probe().quality
    fig = plots.probe_quality(quality)
    np.testing.assert_array_equal(lines(fig)[0].y, quality["auroc"])
    assert fig.layout.shapes[0].y0 == fig.layout.shapes[0].y1 == 0.5
    with pytest.raises(ValueError, match="auroc_low"):
        plots.probe_quality(quality.drop_vars("auroc_low"))


@pytest.mark.parametrize("effect", EFFECTS)
def test_the_effect_can_be_read_off_its_cell_means(effect):
    effects = make_effects()
    fig = plots.cell_means(effects, effect=effect, round=3, layer=4, site="answer_end")
    parts = effect.split(":")
    drawn = {(t.xaxis, t.name): np.array(t.y) for t in fig.data}
    slopes = {key: y[1] - y[0] for key, y in drawn.items()}
    if len(parts) == 1:
        found = np.mean(list(slopes.values()))
    else:
        per_panel = [
            sum(
                (1 if name.endswith(" on") else -1) * slope
                for (axis, name), slope in slopes.items()
                if axis == x
            )
            for x in sorted({axis for axis, _ in slopes})
        ]
        found = np.mean(per_panel) if len(parts) == 2 else per_panel[1] - per_panel[0]
    wanted = effects["estimate"].sel(effect=effect, round=3, layer=4, site="answer_end")
    assert found == pytest.approx(float(wanted))
    at = effects.sel(effect=effect, round=3, layer=4, site="answer_end")
    assert interval_of(at, "estimate", "band_low", "band_high", signed=True) in texts(fig)


def test_a_simple_effect_has_cell_means_too():
    effects = make_effects().sel(effect=["instruction:feedback"]).isel(cot=0, drop=True)
    effects = effects.assign_coords(effect=["instruction:feedback@cot=off"])
    fig = plots.cell_means(effects, effect="instruction:feedback@cot=off")
    assert {t.name for t in fig.data} == {"feedback off", "feedback on"}


def test_what_is_not_there_is_refused_by_name():
    effects = make_effects()
    with pytest.raises(ValueError, match=r"no site 'middle'.*answer_start"):
        plots.effects(effects, site="middle")
    with pytest.raises(ValueError, match=r"no effect 'kindness'.*instruction"):
        plots.effects(effects, effect="kindness")
    with pytest.raises(ValueError, match=r"no layer 99"):
        plots.cell_means(effects, effect="cot", layer=99)
    with pytest.raises(ValueError, match=r"without \['layer'\]"):
        plots.effects(make_effects(layers=None))
    with pytest.raises(ValueError, match=r"without \['round'\]"):
        plots.effects_map(make_effects(rounds=None), effect="cot")


def test_figures_leave_the_result_and_the_global_template_alone():
    effects, before = make_effects(), pio.templates.default
    copy = effects.copy(deep=True)
    plots.effects(effects)
    plots.effects_map(effects, effect="cot")
    plots.cell_means(effects, effect="cot")
    assert effects.identical(copy)
    assert pio.templates.default == before


def test_hovering_tells_estimate_interval_and_both_p():
    effects = make_effects(rounds=1)
    line = lines(plots.effects(effects, effect="cot"))[1]
    one = effects.sel(site="answer_start", effect="cot", round=1).isel(layer=2)
    assert list(line.customdata[2]) == [
        interval_of(one, "estimate", "band_low", "band_high", signed=True),
        p_value(float(one["p_adj"]), draws=float(one.attrs.get("draws_used", 0))),
        p_value(float(one["p"])),
    ]
    for word in ("estimate %{customdata[0]}", "adjusted p %{customdata[1]}, p %{customdata[2]}"):
        assert word in line.hovertemplate


def test_the_band_breaks_at_a_layer_that_has_none():
    effects = make_effects(rounds=0, layers=6).sel(effect=["cot"]).isel(round=-1, drop=True)
    effects = effects.isel(site=0, drop=True)
    for name in ("band_low", "band_high"):
        effects[name] = effects[name].where(
            ~effects["layer"].isin([effects["layer"][2], effects["layer"][4]])
        )
    (area,) = bands(plots.effects(effects))
    one, layer = effects.sel(effect="cot"), effects["layer"].values
    parts = [part.split() for part in " ".join(str(x) for x in area.x).split("None")]
    assert [len(part) for part in parts] == [4, 4, 4]  # layers 0 to 1, then a box for each of 3 and 5
    assert {float(x) for x in parts[0]} == set(layer[:2])
    assert [float(x) for x in parts[1]] == pytest.approx(layer[3] + np.array([-0.15, 0.15, 0.15, -0.15]))
    high, low = float(one["band_high"][3]), float(one["band_low"][3])
    assert list(area.y[5:9]) == [high, high, low, low]


def test_an_adjusted_p_of_exactly_alpha_is_marked_everywhere():
    """A band excludes 0 exactly where the adjusted p is at most alpha."""
    effects = make_effects(rounds=1, layers=3).sel(round=[1])
    edge = effects.assign(p_adj=xr.full_like(effects["p_adj"], effects.attrs["alpha"]))
    assert all("white" not in t.marker.color for t in lines(plots.effects(edge)))
    assert (
        len(plots.effects_map(edge, effect="cot").data[1].x)
        == edge["p_adj"].sel(effect="cot", site=edge["site"][0]).size
    )


def test_a_rounding_error_is_not_marked_however_regular_it_is():
    effects = make_effects(rounds=1, layers=3).sel(round=[1])
    tiny = effects.assign(
        estimate=xr.full_like(effects["estimate"], 1e-9), p_adj=xr.full_like(effects["p_adj"], 0.0005)
    )
    assert all("white" in t.marker.color for t in lines(plots.effects(tiny)))
    assert len(plots.effects_map(tiny, effect="cot").data[1].x) == 0
    assert len(plots.summary(tiny).data[1].x) == 0
    assert len(plots.summary(tiny.assign(estimate=tiny["estimate"] + 0.1)).data[1].x) == 3 * 7


def color_distance(one, other):
    """Euclidean distance in CIE L*a*b*, of which 2.3 is just noticeable."""

    def lab(color):
        rgb = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
        matrix = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
        xyz = np.array(matrix) @ linear / np.array([0.9505, 1, 1.089])
        f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
        return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])

    return np.linalg.norm(lab(one) - lab(other))


def test_conditions_and_effects_never_share_a_colour():
    for one in style.CONDITION_COLORS:
        others = [c for c in (*style.EFFECT_COLORS, *style.CONDITION_COLORS) if c != one]
        assert min(color_distance(one, other) for other in others) > 20


def test_refused_layers_are_grey_in_every_figure_over_layers():
    effects = make_effects(rounds=1, layers=4)
    for name in ("se", "p", "p_adj", "ci_low", "ci_high", "band_low", "band_high"):
        effects[name] = effects[name].where(effects["layer"] != 1)
    dropped = effects.sel(layer=[-1, 0, 2]).assign_attrs(refused_layers=[1])
    for shown in (effects, dropped):
        for fig in (
            plots.effects(shown),
            plots.effects_map(shown, effect="cot"),
            plots.summary(shown),
        ):
            grey = {(s.x0, s.x1) for s in fig.layout.shapes if s.fillcolor == style.REFUSED_COLOR}
            assert grey == {(0.5, 1.5)}
            assert "grey: refused" in texts(fig)
    line = lines(plots.effects(effects, effect="cot"))[1]
    assert np.isnan(line.y[2])
    assert np.isfinite(np.delete(line.y, 2)).all()


def test_the_summary_shows_what_it_is_given_and_refuses_nothing():
    behaviour = make_effects(sites=None, layers=None)
    both = plots.summary(make_effects(layers=4), behaviour, layer=1)
    assert [t.type for t in both.data].count("heatmap") == 1
    assert sum(t.type == "scatter" and t.xaxis == "x2" for t in both.data) == 7
    assert [t.type for t in plots.summary(None, behaviour).data] == ["scatter"] * 7
    with pytest.raises(ValueError, match="got neither"):
        plots.summary()
    with pytest.raises(ValueError, match="no site 'nowhere'"):
        plots.summary(make_effects(), site="nowhere")


def test_a_long_subtitle_is_wrapped_rather_than_clipped():
    long = make_effects(rounds=1, layers=3).assign_attrs(trust="trust card: warn; " + "words " * 60)
    title = plots.effects(long).layout.title.subtitle.text
    assert max(map(len, title.split("<br>"))) <= style.WRAP
    assert (
        plots.effects(long).layout.margin.t > plots.effects(make_effects(rounds=1, layers=3)).layout.margin.t
    )


def test_the_fifteen_effects_of_four_factors_have_colours_of_their_own():
    assert len(set(style.EFFECT_COLORS)) == 15


def test_the_summary_names_what_it_cannot_draw():
    behaviour = make_effects(sites=None, layers=None)
    with pytest.raises(ValueError, match="no layer 99 in effects"):
        plots.summary(make_effects(), behaviour, layer=99)
    with pytest.raises(ValueError, match="needs effects from factorial_effects"):
        plots.summary(behaviour, make_effects())
    with pytest.raises(ValueError, match="needs effects from factorial_effects"):
        plots.summary(make_effects().sel(effect="cot"))


def test_a_direction_without_a_moral_unit_is_not_called_moral():
    effects = make_effects(rounds=1, layers=3).assign_attrs(units="on-off gap of cot")
    for fig in (plots.effects(effects), plots.effects_map(effects, effect="cot"), plots.summary(effects)):
        assert "toward" not in fig.to_json()


def test_an_effect_keeps_its_colour_where_others_are_left_out():
    effects = make_effects()
    whole = style.effect_colors(effects)
    part = style.effect_colors(effects.sel(effect=["cot:feedback", "instruction"]))
    assert part == {name: whole[name] for name in part}
    assert len(set(whole.values())) == 7
