import shutil
import time

import pytest
from synthetic import HOSTILE, make_behaviour_table, make_effects, make_probe, make_run, make_views

from morality_lens.plots.transcripts import transcript_html
from morality_lens.report.analysis import Analysis
from morality_lens.report.page import Page, write_page

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver on the PATH"),
]

SWITCHES = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1100,1200",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = CHROMIUM
    for switch in (*SWITCHES, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(switch)
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    behaviour = make_effects(sites=None, layers=None)
    found = Analysis(effects=make_effects(), behaviour_effects=behaviour, behaviour=make_behaviour_table())
    content = Page(run=make_run(), analysis=found, probe=make_probe(), transcripts=make_views(extra=HOSTILE))
    return write_page(content, path=tmp_path_factory.mktemp("report") / "report.html")


def opened(browser, page):
    """The page loaded anew: asked for the address it shows, the driver may answer before it is gone."""
    browser.get("about:blank")
    browser.get(page.as_uri())


def wait(browser, script, limit=20.0):
    until = time.monotonic() + limit
    while time.monotonic() < until:
        if found := browser.execute_script(script):
            return found
        time.sleep(0.05)
    pytest.fail(f"never true in the page: {script}")


COLORS = "return [...document.querySelectorAll('.mlt-token')].map(t => t.style.backgroundColor)"
BODY = "return document.querySelector('.mlt-body').textContent"


def choose(browser, kind, value):
    browser.execute_script(
        "const s = document.querySelector(arguments[0]); s.value = arguments[1];"
        "s.dispatchEvent(new Event(s.type === 'range' ? 'input' : 'change'));",
        kind,
        value,
    )


def test_every_figure_is_drawn_and_none_fails(browser, page):
    opened(browser, page)
    total = browser.execute_script("return document.querySelectorAll('.figure').length")
    assert total >= 15
    browser.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    for i in range(total):
        browser.execute_script(
            "document.querySelectorAll('.figure')[arguments[0]].scrollIntoView({behavior: 'instant'})", i
        )
        wait(
            browser,
            f"return document.querySelectorAll('.figure')[{i}].querySelector('svg.main-svg') !== null",
        )
    widths = browser.execute_script(
        "return [...document.querySelectorAll('.figure svg.main-svg:first-child')].map(s => s.clientWidth)"
    )
    assert len(widths) == total
    assert min(widths) > 800
    assert browser.get_log("browser") == []


def test_a_closed_fold_is_drawn_at_full_width_once_it_opens(browser, page):
    opened(browser, page)
    fold = "document.querySelector('details.group')"
    assert browser.execute_script(f"return {fold}.querySelector('svg.main-svg')") is None
    browser.execute_script(f"{fold}.open = true; {fold}.scrollIntoView({{behavior: 'instant'}})")
    assert wait(browser, f"const s = {fold}.querySelector('svg.main-svg'); return s && s.clientWidth") > 800


def test_nothing_is_requested(browser, page):
    opened(browser, page)
    browser.execute_script("document.querySelector('.figure').scrollIntoView({behavior: 'instant'})")
    wait(browser, "return document.querySelector('svg.main-svg') !== null")
    assert browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)") == []


def test_the_slider_changes_the_colours_and_names_the_layer(browser, page):
    opened(browser, page)
    last = browser.execute_script(COLORS)
    choose(browser, ".mlt-layer", "0")
    first = browser.execute_script(COLORS)
    assert len(first) == len(last)
    assert first != last
    assert (
        browser.execute_script("return document.querySelector('.mlt-bar output').textContent") == "embedding"
    )


def test_a_colour_has_the_sign_of_its_value(browser, page):
    view = make_views(extra=HOSTILE)[0]
    opened(browser, page)
    choose(browser, ".mlt-condition", "none")
    colors = browser.execute_script(COLORS)
    for color, value in zip(colors, view.values[-1], strict=False):
        if color and abs(value) > 0.1:
            red, _, blue = (int(part) for part in color[4:-1].split(","))
            assert (blue > red) == (value > 0)


def test_the_selectors_switch_the_transcript(browser, page):
    opened(browser, page)
    before = browser.execute_script(BODY)
    assert "Nothing in the story" not in before
    choose(browser, ".mlt-condition", "feedback")
    assert "Nothing in the story" in browser.execute_script(BODY)
    colors = browser.execute_script(COLORS)
    choose(browser, ".mlt-item", "bbq-0002")
    kept = browser.execute_script("return document.querySelector('.mlt-condition').value")
    assert kept == "feedback"
    assert browser.execute_script(COLORS) != colors


def test_pointing_at_a_token_tells_its_segment_and_value(browser, page):
    view = make_views(extra=HOSTILE)[0]
    opened(browser, page)
    choose(browser, ".mlt-condition", "none")
    browser.execute_script(
        "const token = document.querySelectorAll('.mlt-token')[7];"
        "token.dispatchEvent(new MouseEvent('mouseover', {bubbles: true}));"
    )
    text = browser.execute_script("return document.querySelector('.mlt-info').textContent")
    assert "token 7, question, round 0" in text
    shown = browser.execute_script("return document.querySelector('.mlt-value').textContent")
    assert abs(float(shown.replace("\u2212", "-")) - view.values[-1, 7]) < 0.006


def test_white_space_between_segments_does_not_end_a_turn(browser, page):
    opened(browser, page)
    names = "[...document.querySelector('.mlt-turn').querySelectorAll('.mlt-name')].map(n => n.textContent)"
    assert browser.execute_script(f"return {names}") == ["question", "answer request"]


def test_template_tokens_show_on_request(browser, page):
    opened(browser, page)
    height = "return document.querySelector('.mlt-template').offsetHeight"
    assert browser.execute_script(height) == 0
    browser.execute_script("document.querySelector('.mlt-show-template').click()")
    assert browser.execute_script(height) > 0


def test_hostile_tokens_run_nothing(browser, page):
    opened(browser, page)
    assert browser.execute_script("return window.pwned") is None
    assert HOSTILE[0] in browser.execute_script(BODY)
    assert browser.execute_script("return document.querySelectorAll('main img').length") == 0


def test_several_fragments_share_a_page_and_leak_no_name(browser, tmp_path):
    views = make_views(items=("a",))
    path = tmp_path / "two.html"
    path.write_text(
        f"<!doctype html><meta charset=utf-8>{transcript_html(views)}{transcript_html(views[3:])}"
    )
    empty = tmp_path / "empty.html"
    empty.write_text("<!doctype html>")
    names = "return Object.getOwnPropertyNames(window).filter(n => !/^\\d+$/.test(n)).sort()"
    browser.get(empty.as_uri())
    before = browser.execute_script(names)
    browser.get(path.as_uri())
    assert browser.execute_script(names) == before
    parts = "document.querySelectorAll('.ml-transcript')"
    assert browser.execute_script(
        f"return [...{parts}].map(p => p.querySelectorAll('.mlt-body').length)"
    ) == [1, 1]
    second = f"return {parts}[1].querySelector('.mlt-body').textContent"
    untouched = browser.execute_script(second)
    choose(browser, ".mlt-condition", "instruction+cot+feedback")
    assert browser.execute_script(second) == untouched
    assert browser.get_log("browser") == []


def test_printing_opens_the_folds_and_draws_every_figure(browser, page):
    opened(browser, page)
    browser.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    wait(
        browser,
        "return [...document.querySelectorAll('.figure')].every(f => f.querySelector('svg.main-svg'))",
    )
