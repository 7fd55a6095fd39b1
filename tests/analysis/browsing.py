"""Opening a report in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def opened(browser: Any, page: Path, width: int = 1280) -> None:
    size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    # the same address again may otherwise be answered by the page that is leaving
    browser.get("about:blank")
    browser.get(page.as_uri())
    from selenium.webdriver.support.ui import WebDriverWait

    there = "return location.protocol === 'file:' && document.readyState === 'complete'"
    WebDriverWait(browser, 300).until(lambda one: one.execute_script(there))
