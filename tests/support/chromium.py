"""A headless Chromium that reads galleries from the disk."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

FLAGS = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,800"]

_CHOOSE = """
const list = document.querySelector(`select[aria-label="${arguments[0]}"]`);
list.value = [...list.options].find(({ text }) => text === arguments[1]).value;
list.dispatchEvent(new Event("change"));
"""
_SEARCH = """
const box = document.getElementById("search");
box.value = arguments[0];
box.dispatchEvent(new Event("input"));
"""
_TEXTS = """
return [...document.querySelectorAll(arguments[0])].map((it) => it.textContent.toWellFormed());
"""
_DRAWN = "return new Promise((done) => requestAnimationFrame(() => setTimeout(done)))"
_FOCUSED = "const it = document.activeElement; return it.id || it.dataset.at || it.textContent"


def start() -> webdriver.Chrome:
    """Return Chromium, of this machine: nothing is downloaded."""
    os.environ["SE_OFFLINE"] = "true"
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))


class Browser:
    """What tests do with a browser, and see in it."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self.run = driver.execute_script
        self.command = driver.execute_cdp_cmd

    def open(self, folder: Path) -> None:
        self.driver.get((folder / "index.html").absolute().as_uri())

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """Return what is written in elements, hidden parts included."""
        found: list[str] = self.run(_TEXTS, selector)
        return found

    def until(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        script = f"return {condition}"
        WebDriverWait(self.driver, 60, 0.02).until(lambda _: self.run(script), condition)

    def press(self, *keys: str) -> None:
        """Press keys wherever the focus is."""
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def focused(self) -> str:
        """Return the id, else the place or the text, of what has the focus."""
        found: str = self.run(_FOCUSED)
        return found

    def choose(self, name: str, value: str) -> None:
        """Choose a value from a list of the bar."""
        self.run(_CHOOSE, name, value)

    def search(self, text: str) -> list[str]:
        """Search for a text, and return the prompts that are drawn."""
        self.run(_SEARCH, text)
        return self.texts(".caption")

    def count(self) -> str:
        return self.find("#count").text

    def wear(self, scheme: str) -> None:
        """Ask for light or dark."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.command("Emulation.setEmulatedMedia", {"features": [feature]})

    def resize(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.command("Emulation.setDeviceMetricsOverride", size)
        self.run(_DRAWN)

    def requests(self) -> list[str]:
        """Return the addresses of all that was asked for since the last call."""
        log = self.driver.get_log("performance")
        messages: list[dict[str, Any]] = [json.loads(each["message"])["message"] for each in log]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]
