import io

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from synthetic import make_effects

from morality_lens.interactions.tabulating import effects_table


def test_a_row_for_every_effect_and_place_without_the_cell_means():
    effects = make_effects()
    table = effects_table(effects)
    assert len(table) == effects["estimate"].size
    assert list(table.columns[:4]) == ["effect", "round", "site", "layer"]
    assert "cell_mean" not in table.columns
    assert set(table["units"]) == {"moral-immoral gap"}
    row = table.query("effect == 'cot' and round == 2 and site == 'answer_end' and layer == 3").iloc[0]
    here = effects.sel(effect="cot", round=2, site="answer_end", layer=3)
    for name in ("estimate", "p", "p_adj", "band_low", "band_high"):
        assert row[name] == float(here[name])


def test_it_comes_back_from_a_file():
    table = effects_table(make_effects(rounds=1, layers=2))
    back = pd.read_csv(io.StringIO(table.to_csv(index=False)))
    pd.testing.assert_frame_equal(back, table, check_dtype=False)


def test_printed_numbers_are_those_of_the_report():
    effects = make_effects(sites=None, layers=None).sel(round=4)
    table = effects_table(effects, text=True)
    assert list(table.columns) == ["effect", "estimate", "simultaneous 95 % band", "adjusted p"]
    assert table["estimate"].str.match(r"^[+-]?\d").all()
    assert table["simultaneous 95 % band"].str.match(r"^\[.*\]$").all()
    latex = table.to_latex(index=False)
    assert latex.count("\\\\") == 8


def test_pointwise_numbers_are_named_as_such():
    effects = make_effects(sites=None, layers=None).sel(round=4)
    effects["p_adj"] = effects["p_adj"] * np.nan
    assert list(effects_table(effects, text=True).columns)[-2:] == ["pointwise 95 % interval", "p"]


def test_one_effect_is_a_table_of_one_row():
    assert len(effects_table(make_effects(sites=None, layers=None).sel(round=4, effect="cot"))) == 1


def test_what_is_no_result_is_refused():
    with pytest.raises(ValueError, match="effects_table needs a result of factorial_effects"):
        effects_table(xr.Dataset({"a": ("x", [1.0])}))


def test_markdown_keeps_signs_and_zeros_as_printed():
    table = effects_table(make_effects(sites=None, layers=None).sel(round=4), text=True)
    told = table.to_markdown(index=False, disable_numparse=True)
    assert all(estimate in told for estimate in table["estimate"])
