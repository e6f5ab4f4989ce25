import base64
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from synthetic import EFFECTS, HOSTILE, make_behaviour_table, make_effects, make_probe, make_run, make_views

from morality_lens import plots
from morality_lens.interactions.describing import describe
from morality_lens.interactions.effects import factorial_effects
from morality_lens.report import figures, methods, page, tables
from morality_lens.report.analysis import Analysis
from morality_lens.report.page import Page, write_page


def on_behaviour(**arguments):
    """Effects without sites and layers, of which a report is made quickly."""
    return make_effects(sites=None, layers=None, **arguments)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """Everything a report can hold, and the page made of it; not to be changed."""
    arguments = make_everything(tmp_path_factory.mktemp("full"))
    return arguments, page_of(make_run(), **arguments)


@pytest.fixture
def everything(tmp_path):
    return make_everything(tmp_path)


def make_everything(tmp_path) -> dict:
    behaviour = make_effects(sites=None, layers=None, seed=3)
    behaviour.attrs |= {"units": "share correct", "outcome": "correct"}
    return {
        "path": tmp_path / "out" / "report.html",
        "effects": make_effects(),
        "behaviour_effects": behaviour,
        "behaviour": make_behaviour_table(),
        "probe": make_probe(),
        "transcripts": make_views(items=("bbq-0001",)),
    }


def page_of(run, path, **arguments) -> str:
    return written(run, path, **arguments).read_text(encoding="utf-8")


def written(run, path, *, probe=None, transcripts=(), layer=None, **found) -> Path:
    """The report of what was found, whose names are those of an analysis."""
    content = Page(run=run, analysis=Analysis(**found), probe=probe, transcripts=transcripts, layer=layer)
    return write_page(content, path=path)


def plain(html: str) -> str:
    """The page's text without scripts, styles and tags."""
    html = re.sub(r"<(script|style)\b.*?</\1>", "", html, flags=re.S)
    html = re.sub(r"<[^>]+>", " ", html)
    for name, character in (("&#39;", "'"), ("&#34;", '"'), ("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        html = html.replace(name, character)
    return " ".join(html.split())


def test_the_report_says_what_describe_says_of_every_effect(full):
    everything, html = full
    text = plain(html)
    for effects in (everything["effects"], everything["behaviour_effects"]):
        for name in EFFECTS:
            for line in describe(effects, name).splitlines():
                wanted = line.removeprefix(name).lstrip(",: ").partition(" Cell means")[0]
                assert " ".join(wanted[1:].split()) in text


def test_a_footing_that_all_effects_share_is_given_once(full):
    everything, html = full
    text = plain(html)
    shared = set.intersection(*(set(describe(everything["effects"], n).splitlines()) for n in EFFECTS))
    (footing,) = shared
    assert text.count(" ".join(footing.split())) == 1


def test_the_control_at_round_zero_is_reported(full, tmp_path):
    assert plain(full[1]).count("At round 0 every effect is exactly zero") == 2
    effects = on_behaviour()
    effects["estimate"][{"round": 0, "effect": 2}] = 0.25
    text = plain(page_of(make_run(), path=tmp_path / "r.html", behaviour_effects=effects))
    assert "At round 0 the largest effect is 0.250 (feedback)" in text


def test_nothing_is_claimed_where_nothing_was_found(tmp_path):
    null = on_behaviour(planted={})
    null["p_adj"] = null["p_adj"] * 0 + 0.4
    text = plain(page_of(make_run(), path=tmp_path / "r.html", behaviour_effects=null))
    assert "Nothing is claimed here: after round 0 no effect has an adjusted p below 0.05" in text
    found = plain(page_of(make_run(), path=tmp_path / "r.html", behaviour_effects=on_behaviour()))
    assert "Nothing is claimed here" not in found


def test_an_effect_at_round_zero_alone_is_no_finding(tmp_path):
    null = on_behaviour(planted={})
    null["p_adj"] = (null["p_adj"] * 0 + 0.4).where(null["round"] > 0, 0.001)
    assert "Nothing is claimed here" in plain(
        page_of(make_run(), path=tmp_path / "r.html", behaviour_effects=null)
    )


def test_too_few_clusters_claim_nothing(tmp_path):
    few = on_behaviour(clusters=5)
    text = plain(page_of(make_run(), path=tmp_path / "r.html", behaviour_effects=few))
    assert "Nothing is claimed here: there is no p-value corrected for the number of tests" in text


def test_what_was_refused_is_said(tmp_path):
    text = plain(page_of(make_run(), path=tmp_path / "r.html", refused=("Effects: only <3 clusters.",)))
    assert "Not answered: Effects: only <3 clusters. Why" in text
    assert "Not answered (1) Effects: only <3 clusters." in text
    assert "Not answered" not in plain(page_of(make_run(), path=tmp_path / "r.html"))


def test_a_run_alone_makes_a_report(tmp_path):
    text = plain(page_of(make_run(), path=tmp_path / "r.html"))
    assert "No effects were estimated, so nothing is claimed." in text
    assert "12 in 4 clusters" in text


@pytest.mark.parametrize("organism", [True, False])
def test_the_model_organism_is_named_as_one_and_no_other_model_is(tmp_path, organism):
    text = plain(page_of(make_run(organism=organism), path=tmp_path / "r.html"))
    assert ("not evidence about language models" in text) is organism


def test_a_bundled_model_without_the_mark_counts_as_an_organism(tmp_path):
    run = make_run()
    del run.manifest["study"]["model"]["organism"]
    assert "not evidence about language models" in plain(page_of(run, path=tmp_path / "r.html"))


def test_a_failed_self_test_is_shown_first(tmp_path):
    text = plain(page_of(make_run(failing=True), path=tmp_path / "r.html"))
    assert text.index("The self-test failed in 1 of 2 checks") < text.index("Design Every item")
    assert "FAILED" in text
    assert "The self-test failed" not in plain(page_of(make_run(), path=tmp_path / "r.html"))


def test_items_left_out_are_counted_and_named(tmp_path):
    text = plain(page_of(make_run(), path=tmp_path / "r.html"))
    assert "1 item left out of the run" in text
    assert "bbq-0099" in text
    run = make_run()
    run.manifest["left_out"] = ["one", "two"]
    text = plain(page_of(run, path=tmp_path / "r.html"))
    assert "2 items left out" in text
    assert "two" in text


def test_unparsed_answers_are_counted_where_they_are():
    answers = make_run().answers
    got = tables.unparsed(answers)
    # Planted: one of twelve items fails at round 1 in all eight cells.
    assert (got["count"], got["total"], got["worst_share"]) == (8, 12 * 8 * 5, "8.3%")
    assert got["worst"].endswith("round 1")
    assert tables.unparsed(answers.drop(columns="parsed")) is None


def test_an_answer_with_nothing_to_read_is_not_counted():
    answers = make_run().answers.astype({"parsed": object})
    answers.loc[5, "parsed"] = None
    assert tables.unparsed(answers)["count"] == 8


def test_provenance_reaches_the_page(tmp_path):
    text = plain(page_of(make_run(), path=tmp_path / "r.html"))
    for word in ("9f2c41d07be5a3", "5ac0e1b7", "3.12.1", "182044", "float32"):
        assert word in text


def test_every_text_is_escaped(tmp_path, everything):
    bad = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"
    run = make_run()
    run.manifest["study"]["model"]["name"] = bad
    run.manifest["versions"][bad] = bad
    run.manifest["left_out"] = [{bad: bad}]
    run.manifest["self_test"].append({"name": bad, "difference": 0.0, "tolerance": 1.0})
    run.items["category"] = bad
    everything["transcripts"] = make_views(items=("a",), extra=HOSTILE)
    effects = everything["effects"]
    effects.attrs |= {"units": bad, "notes": [bad], "outcome": bad}
    effects = effects.assign_coords(site=[bad, "answer_end"])
    everything["probe"].training[bad] = bad
    html = page_of(run, **{**everything, "effects": effects})
    assert bad not in html
    assert "<img" not in html.replace("&lt;img", "").split("<main>")[1].split("<script>")[0]
    assert plain(html).count(bad) > 5


def test_the_library_is_embedded_once_and_no_address_is_loaded(full):
    html = full[1]
    assert html.count("* plotly.js v") == 1
    own = re.sub(r"<script>/\*\*.*?</script>", "", html, flags=re.S)
    assert len(own) < len(html) - 1_000_000
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=[\"'](?!data:)", own)
    assert "default-src 'none'" in html


def test_the_contents_lead_to_sections_that_exist(full, tmp_path):
    for html in (full[1], page_of(make_run(), path=tmp_path / "r.html")):
        targets = re.findall(r'href="#([\w-]+)"', html)
        assert targets
        assert all(f'id="{t}"' in html for t in targets)


def test_figures_are_valid_json_with_the_estimates(full):
    everything, html = full
    blocks = dict(re.findall(r'id="figure-([\w-]+)">(.*?)</script>', html, re.S))
    places = re.findall(r'data-figure="([\w-]+)"', html)
    assert sorted(blocks) == sorted(places)
    assert len(set(places)) == len(places)
    fig = json.loads(blocks["effects-0-main"])
    (line,) = [t for t in fig["data"] if t.get("name") == "cot" and t.get("xaxis", "x") == "x3"]
    wanted = everything["effects"]["estimate"].sel(site="answer_start", effect="cot", round=2)
    values = np.frombuffer(base64.b64decode(line["y"]["bdata"]), line["y"]["dtype"])
    np.testing.assert_array_equal(values, wanted)


def test_missing_numbers_become_null_and_not_a_broken_page(tmp_path):
    effects = on_behaviour()
    effects["estimate"][{"round": 2}] = np.nan
    html = page_of(make_run(), path=tmp_path / "r.html", behaviour_effects=effects)
    for block in re.findall(r'id="figure-[^>]*>(.*?)</script>', html, re.S):
        json.loads(block, parse_constant=lambda c: pytest.fail(f"not JSON: {c}"))


def test_downloads_hold_every_number(full):
    everything, html = full
    files = dict(re.findall(r'download="([\w.]+)" href="data:text/csv;base64,([^"]+)"', html))
    assert set(files) == {"behaviour.csv", "behaviour_effects.csv", "effects.csv"}
    rows = base64.b64decode(files["effects.csv"]).decode().splitlines()
    assert len(rows) == 1 + everything["effects"]["estimate"].size


def test_what_factorial_effects_returns_can_be_reported(tmp_path):
    rng = np.random.default_rng(0)
    sizes = {"item": 24, "instruction": 2, "cot": 2, "feedback": 2, "round": 3, "site": 2, "layer": 3}
    y = xr.DataArray(
        rng.standard_normal(list(sizes.values())),
        dims=list(sizes),
        coords={
            "item": [f"i{k}" for k in range(24)],
            **{name: ["off", "on"] for name in ("instruction", "cot", "feedback")},
            "round": [0, 1, 2],
            "site": ["answer_start", "answer_end"],
            "layer": [-1, 0, 1],
        },
        attrs={"units": "moral-immoral gap", "oriented": True},
    )
    planted = y + 2.0 * xr.DataArray([0, 1], dims="feedback", coords={"feedback": ["off", "on"]})
    effects = factorial_effects(planted.assign_attrs(y.attrs), draws=1000)
    html = page_of(make_run(), path=tmp_path / "r.html", effects=effects, probe=make_probe(layers=3))
    assert describe(effects, "feedback").splitlines()[0].removeprefix("feedback, s") in plain(html)
    assert "Nothing is claimed here" not in plain(html)


def test_the_shown_layer_comes_from_the_probe_and_never_from_an_effect(everything):
    effects, probe = everything["effects"], everything["probe"]
    probe.quality["auroc"][:] = [0.5, 0.6, 0.9, 0.9, 0.7, 0.8, 0.6]
    assert page._shown_layer(effects, probe, None)[0] == 1
    assert page._shown_layer(effects, None, None)[0] == 5
    assert page._shown_layer(effects, probe, 3)[0] == 3
    with pytest.raises(ValueError, match="no layer 77"):
        written(make_run(), path=everything["path"], effects=effects, layer=77)
    assert not everything["path"].exists()


def test_cell_means_are_tabulated_by_condition_and_round(everything):
    effects, behaviour = everything["effects"], everything["behaviour"]
    first, second, _ = tables.cell_means(effects, behaviour, 3)
    assert second["columns"] == ["components", *(f"round {i}" for i in range(5))]
    rows = {row[0]: row[1:] for row in second["rows"]}
    wanted = effects["cell_mean"].sel(
        layer=3, site="answer_start", instruction="on", cot="off", feedback="on"
    )
    assert rows["instruction+feedback"] == [f"{float(v):.3f}" for v in wanted]
    assert len(rows) == 8
    assert re.fullmatch(r"0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]", first["rows"][0][1])


def test_the_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "r.html"
    path.write_text("before")

    def fail(self, target):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        written(make_run(), path=path)
    monkeypatch.undo()
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["r.html"]


def test_the_path_comes_back_and_its_folder_is_made(tmp_path):
    path = tmp_path / "deep" / "er" / "r.html"
    assert written(make_run(), path=str(path)) == path
    assert path.is_file()


def test_two_reports_of_the_same_results_are_the_same_file(full, everything):
    assert page_of(make_run(), **everything) == full[1]


def test_the_analysis_side_never_imports_torch():
    heavy = "{'torch', 'transformers', 'transformer_lens'}"
    code = f"import sys, morality_lens.report.page; print({heavy} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("bundled", "the bundled model"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("/some/where/SmolLM2.Q4_1.gguf", "SmolLM2.Q4_1"),
        ("./models/mine", "mine"),
        ("a/b/c", "c"),
    ],
)
def test_the_title_names_a_local_model_without_its_path(name, shown):
    assert methods.shown_name({"name": name}) == shown


def test_the_design_says_what_is_kept_of_the_residuals_where_that_is_not_all():
    run = make_run()
    everything = dict(tables.design_rows(run.items, run.manifest))
    stored = {"layers": [1, 4], "keep": "projections", "dtype": "float16"}
    less = dict(tables.design_rows(run.items, {**run.manifest, "stored": stored}))
    assert "Kept" not in everything
    assert less["Kept"].startswith("layers 1, 4; projections on the probe")
    assert "float16" in less["Kept"]


def test_what_only_those_who_play_need_is_not_on_the_page(tmp_path):
    run = make_run()
    told = {"words": {"name": "w1"}, "places": ["p1"], "loaded_from": "/home/somebody/model"}
    run.manifest.update(told, today="2026-01-01")
    html = page_of(run, tmp_path / "page.html")
    assert "2026-01-01" in html
    assert "/home/somebody" not in html
    assert "p1" not in plain(html).split()


def test_the_result_comes_first_and_says_what_was_found(full):
    text = plain(full[1])
    places = [text.index(words) for words in ("add up?", "correct, round 4", "Effects in round 4")]
    assert places == sorted(places)
    assert places[-1] < text.index("What the model answers") < text.index("What the model represents")
    for name in EFFECTS:
        assert f"{name} " in text[: text.index("Effects in round 4")]


def test_means_of_two_components_are_small_tables(everything):
    effects = everything["effects"]
    shown = tables.two_by_two((effects, 3), (None, None))
    assert [t["caption"].split(" and ")[0] for t in shown] == [
        f"Cell means of {n}" for n in ("instruction",) * 2 + ("cot",)
    ]
    assert all(len(t["rows"]) == 2 and len(t["columns"]) == 3 for t in shown)
    mean = effects["cell_mean"].sel(layer=3, site="answer_start", round=4, cot="on", feedback="off").mean()
    assert shown[2]["rows"][1][1] == f"{float(mean):.3f}"


def test_a_figure_keeps_its_title_for_a_file_and_shows_it_as_text(full):
    everything, _ = full
    entry = figures.figure_entry("x", plots.effects(everything["effects"]))
    assert entry["title"] == "Effects by layer at answer_start"
    assert "<br>" not in entry["legend"]
    content = json.loads(str(entry["json"]))
    assert content["layout"]["title"]["text"]
    assert (
        content["height"] == content["layout"]["height"] - content["layout"]["margin"]["t"] + content["top"]
    )


def test_the_methods_paragraph_says_what_the_run_records(everything):
    arguments = {k: v for k, v in everything.items() if k not in ("path", "transcripts", "probe")}
    found, run = Analysis(**arguments, refused=("no.",)), make_run()
    text = methods.methods_paragraph(run, found, probe=everything["probe"])
    for words in (
        "12 items in 4 clusters",
        "8 combinations of the factors instruction (off, on)",
        "400 examples in 40 clusters",
        "2000 draws, seed 0",
        "listed in the report (1 entry)",
    ):
        assert words in text
    cited = set(re.findall(r"\[([a-z]+[_a-z]*\d*)\]", text))
    entries = set(re.findall(r"@\w+\{(\w+),", methods.bibtex(run, found)))
    assert cited <= {"morality_lens", "liu2024", "transformer_lens", "westfall1993", "bell2002", "hall1992"}
    assert len(entries) == 6
    assert "westfall1993" not in methods.bibtex(run, Analysis())
