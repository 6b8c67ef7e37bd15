"""One browser for all tests; none of them may make it complain, nor reach beyond the disk."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from selenium import webdriver

from support.chromium import Browser, start


@pytest.fixture(scope="session")
def driver() -> Iterator[webdriver.Chrome]:
    driver = start()
    yield driver
    driver.quit()


@pytest.fixture
def browser(driver: webdriver.Chrome) -> Iterator[Browser]:
    """A browser with a light window of 1280 by 800."""
    driver.get("about:blank")
    browser = Browser(driver)
    browser.resize(1280, 800)
    browser.wear("light")
    driver.get_log("browser")
    browser.requests()
    yield browser
    assert driver.get_log("browser") == []
    assert {url.partition(":")[0] for url in browser.requests()} <= {"file", "about"}
