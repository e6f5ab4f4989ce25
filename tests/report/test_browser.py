import itertools
import re
import time
from dataclasses import replace

import numpy as np
import pytest
from chromium import (
    BODY,
    COLORS,
    browser as browser,
    choose,
    count,
    in_browser,
    opened,
    text_of,
    wait,
)
from synthetic import HOSTILE, make_behaviour_table, make_effects, make_probe, make_run, make_view, make_views

from morality_lens.plots.transcripts import transcript_html
from morality_lens.probes.layers import best_layer
from morality_lens.report.analysis import Analysis
from morality_lens.report.browser import browser_html
from morality_lens.report.page import Page, write_page

pytestmark = in_browser


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    behaviour = make_effects(sites=None, layers=None)
    found = Analysis(effects=make_effects(), behaviour_effects=behaviour, behaviour=make_behaviour_table())
    content = Page(run=make_run(), analysis=found, probe=make_probe(), transcripts=make_views(extra=HOSTILE))
    return write_page(content, path=tmp_path_factory.mktemp("report") / "report.html")


SHOWN = "return [...document.querySelectorAll('.mlt-entry')].map(e => e.getAttribute('aria-label'))"
ALL = 12 * 8


def shown(browser):
    """Item and condition of the dialogue that is shown."""
    return browser.execute_script(
        "return [document.querySelector('.mlt-item').textContent.replace('Item ', '').split(',')[0],"
        "document.querySelector('.mlt-condition').value]"
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
    assert text_of(browser, ".mlt-bar output") == "embedding"


def opening(browser, folder, probe, layer=None, views=None):
    """The layer at which a fragment opens, what it says of it, and the colours' strengths."""
    path = folder / "one.html"
    views = make_views(extra=HOSTILE) if views is None else views
    path.write_text(
        f"<!doctype html><meta charset=utf-8>{browser_html(make_run(), views, probe=probe, layer=layer)}"
    )
    opened(browser, path)
    wait(browser, "return document.querySelectorAll('.mlt-token').length")
    strengths = [float(c.split(",")[-1][:-1]) if c else 0.0 for c in browser.execute_script(COLORS)]
    return text_of(browser, ".mlt-bar output"), text_of(browser, ".mlt-legend"), strengths


def test_it_opens_at_the_best_held_out_layer_and_never_at_a_refused_one(browser, tmp_path):
    probe = make_probe()
    assert best_layer(probe) == 5
    assert opening(browser, tmp_path, probe)[0] == "layer 5"
    halves = probe.quality["auroc"].copy(data=[np.nan, 0.9, 0.9, 0.9, 0.9, 0.9, 0.3])
    steady = replace(probe, quality=probe.quality.assign(split_half=halves))
    assert opening(browser, tmp_path, steady)[0] == "layer 4"
    gap = probe.quality["gap"].where(probe.quality["layer"] < 3)
    assert opening(browser, tmp_path, replace(probe, quality=probe.quality.assign(gap=gap)))[0] == "layer 2"
    assert opening(browser, tmp_path, steady, layer=1)[0] == "layer 1"
    choose(browser, ".mlt-layer", "6")
    assert text_of(browser, ".mlt-bar output") == "layer 5 (refused)"
    assert "Nothing is claimed about this layer" in text_of(browser, ".mlt-legend")


def test_tokens_far_from_all_others_do_not_take_the_colours_of_these(browser, tmp_path):
    rng = np.random.default_rng(0)
    view = make_view()
    values = rng.normal(-40, 1, (1, len(view.tokens)))
    values[0, :3] = -3000.0, 900.0, 500.0
    far = replace(view, layers=(3,), values=values)
    _, legend, strengths = opening(browser, tmp_path, None, views=[far])
    assert "the median" in legend
    assert np.median(strengths) > 0.1
    assert np.mean(np.array(strengths) > 0.7) < 0.2
    choose(browser, ".mlt-white", "zero")
    assert "no colour at 0" in text_of(browser, ".mlt-legend")


def test_a_colour_has_the_sign_of_its_value(browser, page):
    view = make_views(extra=HOSTILE)[0]
    opened(browser, page)
    choose(browser, ".mlt-condition", "none")
    choose(browser, ".mlt-white", "zero")
    choose(browser, ".mlt-layer", "6")
    colors, seen = browser.execute_script(COLORS), 0
    for color, value in zip(colors, view.values[-1], strict=False):
        if color and abs(value) > 0.1:
            red, _, blue = (int(part) for part in color[5:-1].split(",")[:3])
            assert (blue > red) == (value > 0)
            seen += 1
    assert seen > 20


def test_with_the_white_at_the_median_half_of_the_tokens_lie_on_either_side(browser, page):
    opened(browser, page)
    every = []
    for item, condition in itertools.product(("bbq-0001", "bbq-0002"), browser.execute_script(CONDITIONS)):
        browser.execute_script("location.hash = arguments[0]", f"#dialogue={item}|{condition}")
        wait(browser, f"return document.querySelector('.mlt-condition').value === '{condition}'")
        every += [color for color in browser.execute_script(COLORS) if color]
    blue = sum(color.startswith("rgba(33,") or color.startswith("rgba(33 ") for color in every)
    assert 0.45 < blue / len(every) < 0.55


CONDITIONS = "return [...document.querySelectorAll('.mlt-condition option')].map(o => o.value)"


def test_the_selectors_switch_the_dialogue(browser, page):
    opened(browser, page)
    choose(browser, ".mlt-condition", "none")
    assert "Nothing in the story" not in browser.execute_script(BODY)
    choose(browser, ".mlt-condition", "feedback")
    wait(browser, "return document.querySelector('.mlt-body').textContent.includes('Nothing in the story')")
    colors = browser.execute_script(COLORS)
    browser.execute_script("location.hash = '#dialogue=bbq-0002|feedback'")
    wait(browser, "return document.querySelector('.mlt-item').textContent.includes('bbq-0002')")
    assert shown(browser) == ["bbq-0002", "feedback"]
    assert browser.execute_script(COLORS) != colors


def test_every_filter_leaves_what_it_names(browser, page):
    opened(browser, page)
    assert count(browser) == ALL
    choose(browser, ".mlt-f-condition", "cot+feedback")
    assert count(browser) == 12
    assert all(", cot+feedback," in label for label in browser.execute_script(SHOWN))
    choose(browser, ".mlt-f-category", "Villages")
    assert count(browser) == 4
    choose(browser, ".mlt-f-condition", "")
    assert count(browser) == 4 * 8
    choose(browser, ".mlt-f-category", "")
    choose(browser, ".mlt-f-outcome", "u")
    assert count(browser) == 8
    assert all(
        label.startswith("bbq-0000,") and "round 1 unparsed" in label
        for label in browser.execute_script(SHOWN)
    )
    choose(browser, ".mlt-f-round", "2")
    assert count(browser) == 0
    choose(browser, ".mlt-f-round", "1")
    assert count(browser) == 8
    choose(browser, ".mlt-f-outcome", "r")
    assert count(browser) == ALL - 8
    choose(browser, ".mlt-f-outcome", "w")
    assert count(browser) == 0


def test_words_are_searched_in_items_and_replies(browser, page):
    opened(browser, page)
    for words, number in (
        ("BBQ-0003", 8),
        ("nothing story", ALL // 2),
        ("shows neither florin", ALL // 2),
        ("xyz", 0),
    ):
        choose(browser, ".mlt-search", words)
        wait(browser, f"return document.querySelector('.mlt-count').textContent.split(' ')[0] === '{number}'")
    choose(browser, ".mlt-search", "<img")
    wait(browser, "return document.querySelector('.mlt-count').textContent.split(' ')[0] === '16'")


def test_the_list_is_paged_and_can_be_walked_by_keys(browser, page):
    from selenium.webdriver.common.keys import Keys

    opened(browser, page)
    listed = "return document.querySelectorAll('.mlt-entry').length"
    assert browser.execute_script(listed) == 40
    browser.execute_script("document.querySelector('.mlt-more').click()")
    wait(browser, "return document.querySelectorAll('.mlt-entry').length === 80")
    browser.execute_script("document.querySelector('.mlt-entry').focus()")
    for key in (Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_UP, Keys.ENTER):
        browser.switch_to.active_element.send_keys(key)
    second = browser.execute_script(SHOWN)[1].split(", ")[:2]
    wait(browser, f"return document.querySelector('.mlt-condition').value === '{second[1]}'")
    assert shown(browser) == second
    browser.execute_script("document.querySelector('.mlt-after').click()")
    third = browser.execute_script(SHOWN)[2].split(", ")[:2]
    wait(browser, f"return document.querySelector('.mlt-condition').value === '{third[1]}'")
    browser.execute_script("document.querySelector('.mlt-body').focus()")
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT):
        browser.switch_to.active_element.send_keys(key)
    assert "token 2," in text_of(browser, ".mlt-info") or "token 2 " in text_of(browser, ".mlt-info")


def test_every_control_has_a_name(browser, page):
    opened(browser, page)
    bare = browser.execute_script(
        "return [...document.querySelectorAll('.ml-transcript :is(select, input, button)')].filter(n =>"
        "!n.getAttribute('aria-label') && !n.textContent.trim() &&"
        "!(n.closest('label') && n.closest('label').textContent.trim()))"
        ".map(n => n.className)"
    )
    assert bare == []


def test_a_link_leads_to_a_dialogue_and_back_to_the_one_before(browser, page):
    opened(browser, page)
    begun = shown(browser)
    browser.execute_script("document.querySelectorAll('.mlt-entry')[9].click()")
    wait(browser, "return location.hash !== ''")
    second = shown_when(browser, begun)
    browser.execute_script("document.querySelectorAll('.mlt-entry')[17].click()")
    third = shown_when(browser, second)
    link = browser.execute_script("return document.querySelector('.mlt-link').href")
    assert link.endswith(f"#dialogue={third[0]}|{third[1].replace('+', '%2B')}")
    browser.back()
    assert shown_when(browser, third) == second
    browser.back()
    assert shown_when(browser, second) == begun
    browser.forward()
    assert shown_when(browser, begun) == second
    browser.get("about:blank")
    browser.get(link)
    wait(browser, "return document.querySelector('.mlt-item')")
    assert shown_when(browser, begun) == third
    assert (
        browser.execute_script("return document.querySelector('.ml-transcript').getBoundingClientRect().top")
        < 300
    )
    browser.execute_script("location.hash = '#figures'")
    time.sleep(0.2)
    assert shown(browser) == third


def shown_when(browser, before):
    """The dialogue that is shown once it is no longer the one before."""
    until = time.monotonic() + 10
    while time.monotonic() < until and shown(browser) == before:
        time.sleep(0.05)
    return shown(browser)


def test_a_link_to_what_the_page_does_not_hold_says_so(browser, page):
    browser.get("about:blank")
    browser.get(page.as_uri() + "#dialogue=nobody|none")
    wait(
        browser, "return document.querySelector('.mlt-status').textContent.includes('no dialogue of nobody')"
    )


def test_the_right_and_the_chosen_option_are_marked_with_their_probabilities(browser, page):
    opened(browser, page)
    rounds = browser.execute_script(
        "return [...document.querySelectorAll('.mlt-round')].map("
        "r => [...r.querySelectorAll('.mlt-option')].map(o => o.textContent))"
    )
    assert rounds[0] == [
        "A The florin33.3 %",
        "B The tamber33.3 %",
        "C It cannot be knownright optionchosen33.3 %",
    ]
    width = (
        "const width = kind => document.querySelector(kind).getBoundingClientRect().width;"
        "return width('.mlt-bar-share') / width('.mlt-bar-room')"
    )
    assert browser.execute_script(width) == pytest.approx(1 / 3, abs=0.02)


def test_several_directions_can_be_chosen_and_are_told_together(browser, tmp_path):
    views = make_views(items=("bbq-0001",))
    other = [replace(v, direction="toxicity", values=-2 * v.values, units="points", opening=2) for v in views]
    opening(browser, tmp_path, make_probe(), views=[*views, *other])
    first = browser.execute_script(COLORS)
    choose(browser, ".mlt-direction", "toxicity")
    assert "points" in text_of(browser, ".mlt-legend")
    assert text_of(browser, ".mlt-bar output") == "layer 2"
    choose(browser, ".mlt-layer", "6")
    assert browser.execute_script(COLORS) != first
    point(browser, 7)
    told = browser.execute_script(
        "return ['.mlt-value', '.mlt-other'].map("
        "k => document.querySelector(k).textContent.replace('\u2212', '-'))"
    )
    assert float(told[0]) == pytest.approx(-2 * float(told[1]), abs=0.02)
    choose(browser, ".mlt-direction", "nothing")
    assert not any(browser.execute_script(COLORS))


def point(browser, token):
    browser.execute_script(
        "const token = document.querySelectorAll('.mlt-token')[arguments[0]];"
        "token.dispatchEvent(new MouseEvent('mouseover', {bubbles: true}));",
        token,
    )


def test_pointing_at_a_token_tells_its_segment_and_value(browser, page):
    view = make_views(extra=HOSTILE)[0]
    opened(browser, page)
    choose(browser, ".mlt-condition", "none")
    choose(browser, ".mlt-layer", "6")
    point(browser, 7)
    text = text_of(browser, ".mlt-info")
    assert "token 7, question, round 0" in text
    told = text_of(browser, ".mlt-value")
    assert abs(float(told.replace("\u2212", "-")) - view.values[-1, 7]) < 0.006


def test_narrow_windows_stack_the_rounds_and_wide_ones_set_them_side_by_side(browser, page):
    opened(browser, page)
    lefts = (
        "return [...document.querySelectorAll('.mlt-round')].map("
        "r => Math.round(r.getBoundingClientRect().left))"
    )
    assert len(set(browser.execute_script(lefts))) == 3
    metrics = {"width": 700, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        assert len(set(browser.execute_script(lefts))) == 1
        inside = "const r = document.querySelector('.ml-transcript'); return r.scrollWidth <= r.clientWidth"
        assert browser.execute_script(inside)
        wait(browser, "return document.documentElement.scrollWidth <= 700")  # figures follow a little later
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def contrast(one, other):
    """Of two colours, by WCAG."""

    def light(color):
        parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
        red, green, blue = (p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


def test_in_dark_mode_the_page_is_dark_and_can_be_read(browser, page):
    style = "const s = getComputedStyle(document.querySelector('{}')); return [s.color, s.backgroundColor]"
    for scheme, dark in (("light", False), ("dark", True)):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        try:
            opened(browser, page)
            ink, ground = browser.execute_script(style.format(".ml-transcript"))
            assert (int(re.findall(r"\d+", ground)[0]) < 60) == dark
            assert contrast(ink, ground) > 10
            for kind in (".mlt-count", ".mlt-name", ".mlt-o-r", ".mlt-link", ".mlt-legend"):
                assert contrast(browser.execute_script(style.format(kind))[0], ground) > 4.5, kind
        finally:
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_on_paper_the_dialogue_is_whole_and_the_controls_are_gone(browser, page):
    opened(browser, page)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        height = "return document.querySelector(arguments[0]).offsetHeight"
        for kind in (".mlt-choose", ".mlt-found", ".mlt-bar"):
            assert browser.execute_script(height, kind) == 0
        whole = (
            "const b = document.querySelector('.mlt-body');"
            "return [b.scrollHeight - b.clientHeight, b.offsetHeight]"
        )
        cut, height = browser.execute_script(whole)
        assert cut <= 1
        assert height > 300
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


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
    assert len(untouched) > 100
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
