"""A headless Chromium for tests of pages."""

import shutil
import time

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
in_browser = [
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


def opened(browser, page):
    """The page loaded anew: asked for the address it shows, the driver may answer before it is gone."""
    browser.get("about:blank")
    browser.get(page.as_uri())
    wait(browser, "return !document.querySelector('.ml-transcript') || document.querySelector('.mlt-token')")


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
        "s.dispatchEvent(new Event(['range', 'search'].includes(s.type) ? 'input' : 'change'));",
        kind,
        value,
    )


def text_of(browser, kind):
    return browser.execute_script("return document.querySelector(arguments[0]).textContent", kind)


def count(browser):
    return int(text_of(browser, ".mlt-count").split()[0])
