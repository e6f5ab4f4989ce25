"""The picture of what one gets: the first screen of a report, as a PNG.

``python docs/picture.py runs/demo/report.html assets/figures/report.png`` needs Chromium and its driver.
"""

import io
import sys
import time
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.support.ui import WebDriverWait

WIDTH, HEIGHT = 1400, 1000
DRAWING = 3
"""Seconds in which the figures on the screen are drawn."""


def first_screen(report: Path) -> Image.Image:
    """The report's first screen in a light window of 1400 x 1000 pixels."""
    options = Options()
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--hide-scrollbars",
        f"--window-size={WIDTH},{HEIGHT}",
    ):
        options.add_argument(argument)
    driver = webdriver.Chrome(options=options)
    try:
        size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get(report.resolve().as_uri())
        WebDriverWait(driver, 60).until(
            lambda d: d.execute_script("return document.readyState") == "complete"
        )
        time.sleep(DRAWING)
        return Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    finally:
        driver.quit()


def main() -> None:
    """Write the picture."""
    report, target = map(Path, sys.argv[1:])
    first_screen(report).save(target, optimize=True)
    print(f"{target}: {target.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
