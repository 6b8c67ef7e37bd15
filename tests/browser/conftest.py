"""One browser for all tests; none of them may make it complain, nor reach beyond the disk."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from selenium import webdriver

from support.chromium import Browser, start


@pytest.fixture(scope="session")
def driver() -> Iterator[webdriver.Chrome]:
    driver = start()
    yield driver
    driver.quit()


def opened(driver: webdriver.Chrome) -> Browser:
    """Return a browser with a light window of 1280 by 800."""
    driver.get("about:blank")
    browser = Browser(driver)
    browser.resize(1280, 800)
    browser.wear("light")
    driver.get_log("browser")
    browser.requests()
    return browser


@pytest.fixture
def browser(driver: webdriver.Chrome) -> Iterator[Browser]:
    """A browser for pages from the disk."""
    browser = opened(driver)
    yield browser
    assert driver.get_log("browser") == []
    assert {url.partition(":")[0] for url in browser.requests()} <= {"file", "about"}


@pytest.fixture
def live(driver: webdriver.Chrome) -> Iterator[Browser]:
    """A browser for pages that a server of this machine serves; they may reach nothing else."""
    browser = opened(driver)
    yield browser
    assert driver.get_log("browser") == []
    assert {urlsplit(url).hostname for url in browser.requests()} <= {"127.0.0.1", None}
