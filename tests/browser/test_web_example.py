"""The web example as people use it: in the tabs of a Chromium, behind both servers."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal
from selenium import webdriver
from selenium.webdriver.common.keys import Keys

from genbatch.testing import Call, FakeGemini, Fault, blocked
from support.chromium import Browser
from support.gates import Gate
from support.servers import app_of, serving
from web import app as web

pytestmark = pytest.mark.browser

LOADED = "[...document.querySelectorAll('.done img')].filter((it) => it.naturalWidth).length"
HOSTILE = "<img src=x onerror=\"document.title='run'\"> <script>document.title='run'</script> & 🦊"


class Turnstile:
    """Holds every answer, and lets through as many as the test says."""

    def __init__(self) -> None:
        self._turns = threading.Semaphore(0)

    def let_through(self, count: int = 1) -> None:
        self._turns.release(count)

    def __call__(self, call: Call) -> Fault:
        return Fault(edit=self._wait)

    def _wait(self, answer: dict[str, Any]) -> dict[str, Any]:
        assert self._turns.acquire(timeout=60)
        return answer


@dataclass
class Site:
    """The app at a URL, and what its service is like."""

    folder: Path
    url: str = ""
    fault: Callable[[Call], Fault | None] = field(default=lambda call: None)
    latency: Callable[[Call], float] = field(default=lambda call: 0.0)
    fake: FakeGemini = field(init=False)

    @asynccontextmanager
    async def open(self, server: str) -> AsyncIterator[None]:
        async with FakeGemini(
            image_size=64,
            latency=lambda call: self.latency(call),
            faults=lambda call: self.fault(call),
        ) as self.fake:
            async with serving(app_of(self.fake, self.folder), server) as self.url:
                yield


@pytest.fixture(params=[("asyncio", "uvicorn"), ("trio", "hypercorn.trio")], ids=lambda it: it[0])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    backend, server = request.param
    site = Site(tmp_path / "images")
    with (
        start_blocking_portal(backend) as portal,
        portal.wrap_async_context_manager(site.open(server)),
    ):
        yield site


@pytest.fixture
def browser(driver: webdriver.Chrome, site: Site) -> Iterator[Browser]:
    """A browser with the page open; it may ask for nothing else, and not complain."""
    browser = Browser(driver)
    driver.get("about:blank")
    driver.get_log("browser")
    browser.requests()
    driver.get(site.url)
    yield browser
    assert driver.get_log("browser") == []
    assert {url.rpartition("/")[0] for url in browser.requests()} <= {
        site.url,
        f"{site.url}/images",
    }
    driver.get("about:blank")


def make(browser: Browser, *prompts: str) -> None:
    """Type prompts, and press the button."""
    box = browser.find("#prompts")
    box.clear()
    box.send_keys(Keys.ENTER.join(prompts))
    browser.find("#make").click()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_twelve_images_arrive_one_by_one(site: Site, browser: Browser) -> None:
    site.fault = turnstile = Turnstile()
    make(browser, *(f"a fox, number {number}" for number in range(12)))
    browser.until("document.querySelectorAll('li').length === 12")
    for number in range(1, 13):
        turnstile.let_through()
        browser.until(f"{LOADED} === {number}")
        assert browser.find("#bar").get_property("value") == number
        assert len(browser.all(".done")) == number
    browser.until("!document.querySelector('.running')")
    assert browser.find("#status").text == "Finished: 12 of 12 images made."
    assert not browser.find("#progress").is_displayed()


def test_progress_is_told_meanwhile(site: Site, browser: Browser) -> None:
    site.fault = turnstile = Turnstile()
    make(browser, "a fox", "an owl")
    assert browser.find("#status").text == "Making 2 images."
    browser.until("document.getElementById('text').textContent === '0/2 done, 0 %'")
    assert browser.find("#progress").is_displayed()
    turnstile.let_through(2)
    browser.until("!document.querySelector('.running')")


def test_closing_a_tab_ends_its_calls_and_no_others(site: Site, browser: Browser) -> None:
    site.latency = lambda call: math.inf if "endless" in call.prompt else 0.0
    site.fault = gate = Gate("gated")
    driver = browser.driver
    first = driver.current_window_handle
    make(browser, *(f"gated {number}" for number in range(12)))
    driver.switch_to.new_window("tab")
    driver.get(site.url)
    make(browser, *(f"endless {number}" for number in range(12)))
    wait_for(lambda: site.fake.stats.in_flight == 8)
    driver.close()
    driver.switch_to.window(first)
    wait_for(lambda: site.fake.stats.in_flight == 4)
    gate.open()
    browser.until(f"{LOADED} === 12")
    assert site.fake.stats.calls == 16


def test_cancel_ends_the_calls_and_making_again_goes_on(site: Site, browser: Browser) -> None:
    site.latency = lambda call: math.inf if "endless" in call.prompt else 0.0
    prompts = ["a fox", "an owl", "endless 1", "endless 2"]
    assert not browser.find("#cancel").is_enabled()
    make(browser, *prompts)
    browser.until(f"{LOADED} === 2")
    assert not browser.find("#make").is_enabled()
    browser.find("#cancel").click()
    wait_for(lambda: site.fake.stats.in_flight == 0)
    assert browser.find("#status").text == "Cancelled: 2 of 4 images made."
    site.latency = lambda call: 0.0
    browser.find("#make").click()
    browser.until(f"{LOADED} === 4")
    assert site.fake.stats.images == 4


def test_what_people_type_is_only_ever_text(site: Site, browser: Browser) -> None:
    browser.run("document.getElementById('prompts').value = arguments[0]", HOSTILE)
    browser.find("#make").click()
    browser.until(f"{LOADED} === 1")
    assert browser.texts("li p") == [HOSTILE]
    assert browser.find("li img").get_attribute("alt") == HOSTILE
    assert browser.driver.title == "Studio"


def test_a_prompt_that_fails_says_why_beside_the_others(site: Site, browser: Browser) -> None:
    site.fault = lambda call: blocked("IMAGE_SAFETY") if "bad" in call.prompt else None
    make(browser, "a fox", "bad")
    browser.until("!document.querySelector('.running')")
    assert "IMAGE_SAFETY" in browser.find(".failed .frame").text
    assert browser.find("#status").text == "Finished: 1 of 2 images made."


def test_too_many_prompts_are_refused(site: Site, browser: Browser) -> None:
    browser.run("document.getElementById('prompts').value = 'a fox\\n'.repeat(101)")
    browser.find("#make").click()
    browser.until("document.getElementById('status').textContent.startsWith('It did not begin')")
    assert browser.find("#status").text.endswith("Send 1 to 100 prompts, not 101.")
    assert browser.find("#make").is_enabled()
    (complaint,) = browser.driver.get_log("browser")  # Chromium's, about every status like it
    assert "422" in complaint["message"]


def test_a_connection_that_is_lost_is_told(
    site: Site, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> dict[str, Any]:
        raise ZeroDivisionError

    monkeypatch.setattr(web, "describe", fail)
    make(browser, "a fox")
    browser.until("!document.querySelector('.running')")
    assert browser.find("#status").text == "The connection was lost: 0 of 1 image made."


def test_the_keyboard_is_enough(site: Site, browser: Browser) -> None:
    site.latency = lambda call: math.inf
    browser.press(Keys.TAB)
    assert browser.focused() == "prompts"
    browser.press(Keys.CONTROL, "a")
    browser.press("a fox", Keys.TAB)
    assert browser.focused() == "make"
    browser.press(Keys.ENTER)
    wait_for(lambda: site.fake.stats.in_flight > 0)
    browser.press(Keys.TAB, Keys.ENTER)
    wait_for(lambda: site.fake.stats.in_flight == 0)


@pytest.mark.parametrize("width", [320, 1280])
def test_nothing_is_wider_than_the_window(site: Site, browser: Browser, width: int) -> None:
    browser.resize(width, 800)
    make(browser, "x" * 300, "a fox")
    browser.until(f"{LOADED} === 2")
    assert browser.run("return document.documentElement.scrollWidth") <= width
    browser.resize(1280, 800)
