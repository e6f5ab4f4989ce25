"""The report's page in a browser: its first screen, files, narrow and dark windows, print."""

import json
import re
import time

import pytest
from chromium import browser as browser, in_browser, opened, wait
from synthetic import make_behaviour_table, make_effects, make_probe, make_run, make_views

from morality_lens.report.analysis import Analysis
from morality_lens.report.page import Page, write_page

pytestmark = in_browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    behaviour = make_effects(sites=None, layers=None)
    behaviour.attrs |= {"units": "share", "outcome": "share correct"}
    effects = make_effects().isel(layer=slice(0, 6)).assign_attrs(refused_layers=[5])
    found = Analysis(
        effects=effects,
        behaviour_effects=behaviour,
        behaviour=make_behaviour_table(),
        refused=("Effects on the projection: no stable direction at layer 5.",),
    )
    content = Page(run=make_run(), analysis=found, probe=make_probe(), transcripts=make_views())
    return write_page(content, path=tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture
def saved(browser, tmp_path):
    """A function that presses a button and gives the file that it saves."""
    browser.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)}
    )

    def press(selector):
        before = set(tmp_path.iterdir())
        browser.execute_script(f"document.querySelector('{selector}').click()")
        until = time.monotonic() + 30
        while time.monotonic() < until:
            new = [p for p in set(tmp_path.iterdir()) - before if not p.name.endswith(".crdownload")]
            if new and new[0].stat().st_size:
                return new[0]
            time.sleep(0.05)
        pytest.fail(f"nothing was saved by {selector}")

    return press


def sized(browser, width, height=1000):
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


@pytest.fixture
def at_width(browser):
    """A function that sets the window's width."""
    yield lambda width: sized(browser, width)
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_first_screen_holds_the_result(browser, page, at_width):
    at_width(1400)
    opened(browser, page)
    wait(browser, "return document.querySelector('#summary svg.main-svg')")
    ends = browser.execute_script(
        "return ['table.result', '#summary .figure'].map(s => document.querySelector(s))"
        ".map(e => e.getBoundingClientRect()).map(r => [r.top, r.bottom])"
    )
    assert ends[0][1] < 1000
    assert ends[1][0] < 1000
    assert browser.execute_script("return document.documentElement.scrollHeight") < 9000


@pytest.mark.parametrize("width", [700, 1400])
def test_nothing_is_wider_than_the_window(browser, page, at_width, width):
    at_width(width)
    opened(browser, page)
    browser.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_a_legend_that_wraps_makes_its_figure_higher(browser, page, at_width):
    at_width(700)
    opened(browser, page)
    browser.execute_script("document.getElementById('behaviour').scrollIntoView({behavior: 'instant'})")
    wait(browser, "return document.querySelector('#behaviour .legend .bg, #behaviour g.legend')")
    time.sleep(0.5)
    overlap = (
        "const f = document.querySelector('#behaviour .figure');"
        "const legend = f.querySelector('g.legend').getBoundingClientRect();"
        "const titles = [...f.querySelectorAll('[class^=x][class$=title]')]"
        ".map(t => t.getBoundingClientRect());"
        "const end = f.getBoundingClientRect().bottom;"
        "return [legend.top - Math.max(...titles.map(t => t.bottom)), end - legend.bottom]"
    )
    above, below = browser.execute_script(overlap)
    assert above > -2
    assert below > -2


def test_a_figure_is_saved_as_svg_and_png_with_its_title_on_white(browser, page, saved):
    opened(browser, page)
    wait(browser, "return document.querySelector('#summary svg.main-svg')")
    svg = saved('#summary [data-export="svg"]')
    assert re.fullmatch(r"moral-self-correction-in-the-bundled-model-summary\.svg", svg.name)
    text = svg.read_text(encoding="utf-8")
    assert text.startswith("<svg")
    assert "Effects in round 4" in text
    assert "instruction:cot" in text
    png = saved('#summary [data-export="png"]')
    assert png.name.endswith("-summary.png")
    head = png.read_bytes()[:24]
    assert head.startswith(b"\x89PNG")
    shown = browser.execute_script("return document.querySelector('#summary .figure').clientWidth")
    assert int.from_bytes(head[16:20], "big") == 3 * max(700, shown)


def test_a_table_is_saved_as_csv_markdown_and_latex(browser, page, saved):
    import csv
    import io

    opened(browser, page)
    tools = "table.result"
    browser.execute_script(
        f"document.querySelector('{tools}').parentElement.nextElementSibling.id = 'result-tools'"
    )
    rows = list(csv.reader(io.StringIO(saved('#result-tools [data-table="csv"]').read_text("utf-8"))))
    assert rows[0][:3] == ["effect", "share correct, round 4: estimate", "share correct, round 4: adj. p"]
    assert len(rows) == 8
    assert len({len(row) for row in rows}) == 1
    assert rows[5][0] == "instruction:feedback"
    assert re.match(r"[+-]\d", rows[5][1])
    marked = saved('#result-tools [data-table="md"]').read_text("utf-8").splitlines()
    assert len(marked) == 9
    assert marked[1].replace("| ", "").replace(" |", "").split() == ["---"] * len(rows[0])
    latex = saved('#result-tools [data-table="tex"]').read_text("utf-8")
    assert latex.count("\\\\\n") == 8
    assert "\\begin{tabular}{" + "l" * len(rows[0]) + "}" in latex
    assert not re.search(r"(?<!\\)[%&_#](?! )", latex.replace(" & ", " "))


def test_on_a_dark_page_figures_are_dark_and_in_print_they_are_light(browser, page):
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": dark})
    try:
        opened(browser, page)
        wait(browser, "return document.querySelector('#summary svg.main-svg')")
        assert (
            browser.execute_script("return getComputedStyle(document.body).backgroundColor")
            == "rgb(20, 24, 29)"
        )
        drawn = "return document.querySelector('#summary .figure').dataset.drawn"
        ink = "return document.querySelector('#summary .figure').layout.template.layout.font.color"
        assert browser.execute_script(drawn) == "dark"
        assert browser.execute_script(ink) == "#e4e8ec"
        browser.execute_script("window.dispatchEvent(new Event('beforeprint'))")
        assert browser.execute_script(drawn) == "light"
        assert browser.execute_script(ink) == "#222"
        browser.execute_script("window.dispatchEvent(new Event('afterprint'))")
        assert browser.execute_script(drawn) == "dark"
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})


def test_a_link_into_a_fold_opens_it(browser, page):
    opened(browser, page)
    assert not browser.execute_script("return document.getElementById('not-answered').open")
    browser.execute_script("location.hash = 'not-answered'")
    wait(browser, "return document.getElementById('not-answered').open")
    inside = browser.execute_script(
        "const f = document.querySelector('details.group figure'); location.hash = f.id; return f.id"
    )
    wait(browser, f"return document.getElementById({json.dumps(inside)}).closest('details').open")


def test_refused_layers_are_grey_on_the_page(browser, page):
    opened(browser, page)
    for name in ("summary", "effects-0-main", "probe"):
        shapes = browser.execute_script(
            f"return JSON.parse(document.getElementById('figure-{name}').textContent).layout.shapes"
        )
        assert {(s["x0"], s["x1"]) for s in shapes if s.get("fillcolor") == "#E4E7EB"} == {(4.5, 5.5)}
