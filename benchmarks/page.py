"""How long is a report: pixels to its result, to its first figure, and in all, with folds closed.

``python benchmarks/page.py runs/demo/report.html ...``; needs chromium and chromedriver.
"""

import argparse
import shutil
import time
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

PLACES = {"result ends": ".result", "first figure begins": "figure .figure"}


def measured(driver: webdriver.Chrome, page: Path, width: int) -> dict[str, int]:
    """Pixels of a page at a width of the window."""
    size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    driver.get(page.resolve().as_uri())
    time.sleep(3)
    bottom, top = (
        driver.execute_script(
            "const e = document.querySelector(arguments[0]); const r = e && e.getBoundingClientRect();"
            "return e ? Math.round(r[arguments[1]] + window.scrollY) : -1",
            place,
            end,
        )
        for place, end in zip(PLACES.values(), ("bottom", "top"), strict=True)
    )
    whole = driver.execute_script("return document.documentElement.scrollHeight")
    return {**dict(zip(PLACES, (bottom, top), strict=True)), "height": whole}


def main() -> None:
    """Print a row for each page and width."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="+", type=Path)
    options = Options()
    options.binary_location = str(shutil.which("chromium"))
    for switch in ("--headless=new", "--no-sandbox", "--hide-scrollbars"):
        options.add_argument(switch)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    for page in parser.parse_args().pages:
        for width in (1400, 700):
            found = measured(driver, page, width)
            numbers = ", ".join(f"{name} {value:,}" for name, value in found.items())
            print(f"{page} at {width} px: {numbers}; {page.stat().st_size / 1e6:.1f} MB")
    driver.quit()


if __name__ == "__main__":
    main()
