"""A run that is watched, steered and chosen from, and the takes that are asked for, in Chromium."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from genbatch._store import choices, export, open_redos, status
from genbatch.testing import FakeGemini
from support.chromium import Browser
from support.commands import CANARY, started, write_prompts
from support.waiting import until
from support.warm import PythonProcess

pytestmark = [pytest.mark.browser, pytest.mark.slow]

_log = logging.getLogger(__name__)
URL = re.compile(r"http://127\.0\.0\.1:\d+/\?token=[\w-]+")
PROMPTS = 300
_WATCH = """
globalThis.firstSeen = 0;
const look = () => {
  const image = document.querySelector(".tile img");
  if (image?.complete && image.naturalWidth) firstSeen = Date.now();
  else requestAnimationFrame(look);
};
look();
"""
_TYPE = """
const [name, value] = arguments;
const input = limits[name] ?? inputs[name];
input.value = value;
for (const kind of ["input", "change"]) input.dispatchEvent(new Event(kind, { bubbles: true }));
"""


Start = Callable[..., PythonProcess]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start the command; it ends with the test."""
    with ExitStack() as stack:

        def start(*arguments: str) -> PythonProcess:
            process = stack.enter_context(started(list(arguments)))
            stack.callback(process.kill)
            return process

        yield start


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeGemini]:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("GENBATCH_")]:
        monkeypatch.delenv(name)
    with ExitStack() as stack:
        fake = stack.enter_context(FakeGemini(image_size=64, latency=lambda call: 0.25))
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", fake.url)
        monkeypatch.setenv("GEMINI_API_KEY", CANARY)
        monkeypatch.setenv("PYTHONIOENCODING", "utf-8")
        monkeypatch.setenv("SSH_CONNECTION", "none, so that no browser is opened")
        yield fake


def url_of(lines: Iterator[str]) -> str:
    return next(found[0] for line in lines if (found := URL.search(line)))


def ask_for_a_take(live: Browser, at: int, **changes: Any) -> str:
    """Ask for another take of the image at a place, and return the price that was shown."""
    live.run("view(arguments[0])", at)
    live.press("r")
    live.until("form.open")
    for name, value in changes.items():
        live.run(_TYPE, name, value)
    live.run("ask.click()")
    live.until("!agree.hidden || (price.textContent && !ask.disabled)")
    text: str = live.run("return price.textContent")
    live.run("agree.click()")
    live.until("!form.open")
    live.press(Keys.ESCAPE)
    return text


def test_a_run_of_three_hundred_is_watched_steered_and_chosen_from(
    fake: FakeGemini, live: Browser, start: Start
) -> None:
    write_prompts(PROMPTS)
    options = ["-o", "out", "-k", "4", "--budget", "20", "--yes", "--view", "--no-look"]
    process = start("run", "prompts.txt", *options)
    lines = iter(process.stderr.readline, "")
    live.driver.get(url_of(lines))
    live.run(_WATCH)
    live.until("firstSeen")
    first = min(path.stat().st_mtime for path in Path("out").glob("*.png"))
    loaded = live.run("return performance.timeOrigin / 1000")
    _log.info("the first image was seen after %.2f s", live.run("return firstSeen / 1000") - first)
    _log.info("of which the page was not open for %.2f s", max(0.0, loaded - first))

    live.until("!steering.hidden")
    assert live.run("return limits.max_concurrent.value") == "4"
    assert live.run("return limits.budget.value") == "20"
    began = time.monotonic()
    live.find("#steering button").click()
    live.until("going.textContent === 'Resume'")
    _log.info("the page said that it is paused after %.2f s", time.monotonic() - began)
    until(lambda: fake.stats.in_flight == 0)
    before = fake.stats.calls
    _log.info("nothing was in flight after %.2f s", time.monotonic() - began)
    assert before < PROMPTS

    # Choosing goes on while the run is paused.
    live.until("document.querySelectorAll('.tile img').length > 0")
    assert fake.stats.calls == before
    live.run(_TYPE, "max_concurrent", "12")
    live.until("page.steer.max_concurrent === 12")
    live.find("#steering button").click()
    live.until("going.textContent === 'Pause'")
    until(lambda: fake.stats.peak == 12)

    until(lambda: len(list(Path("out").glob("*.png"))) >= 60)
    live.find("#steering button").click()
    live.until("going.textContent === 'Resume' && takes.size >= 60")
    live.run("document.querySelector(`[data-at='0']`).focus()")
    live.press(*["k" if n % 6 else "x" for n in range(30)])
    live.until("unsaved.size === 0 && !isSending")
    assert live.find("#kept").text.startswith("25 of ")
    prices = [ask_for_a_take(live, at, aspect_ratio="16:9", seed=at) for at in (0, 1, 2)]
    assert all(re.fullmatch(r"1 take of gemini-[\w.-]+: about \$0\.\d+\.", each) for each in prices)
    live.until("queue.children.length === 3")
    assert "when the run has ended" in live.find("#queue").text

    live.driver.refresh()
    live.until("!steering.hidden && queue.children.length === 3")
    assert live.find("#kept").text.startswith("25 of ")
    live.find("#steering button").click()
    live.until("page.ended")
    assert "genbatch view" in live.find("#notice").text
    assert process.wait(60) == 0, process.stderr.read()
    assert fake.stats.calls == fake.stats.images == PROMPTS + 3
    verdicts = [choice.verdict for choice in choices(Path("out")).values()]
    assert (verdicts.count("keep"), verdicts.count("reject")) == (25, 5)
    assert open_redos(Path("out")) == []

    process = start("view", "out", "--no-open")
    live.driver.get(url_of(iter(process.stdout.readline, "")))
    live.until("items.length === 300")
    assert live.find("#kept").text == "25 of 300 kept, 5 rejected"
    ask_for_a_take(live, 3, prompt="a hare")
    live.until("items[3].takes.length === 2")
    live.until("queue.children.length === 0")
    live.run("view(0)")
    live.all("#takes button")[1].click()
    live.find("#commands button").click()
    live.until("document.querySelectorAll('#takes button')[1].textContent === '2 ✓'")
    live.driver.refresh()
    live.until("items[0].shown === 1")
    rows = list(export(Path("out")))
    assert [row["take"] for row in rows[:5]] == [2, 1, 1, 1, 1]
    assert [row["takes"] for row in rows[:5]] == [2, 2, 2, 2, 1]
    assert status(Path("out")).spent.images == PROMPTS + 4 == fake.stats.images
    live.driver.get("about:blank")  # before the server is gone, which its console would tell


def test_a_run_is_ended_from_the_page(fake: FakeGemini, live: Browser, start: Start) -> None:
    write_prompts(PROMPTS)
    options = ["-o", "out", "-k", "2", "--yes", "--view", "--no-look"]
    process = start("run", "prompts.txt", *options)
    live.driver.get(url_of(iter(process.stderr.readline, "")))
    live.until("!steering.hidden && takes.size > 0")
    assert not live.find("#steering").text.count("Budget")
    live.run(_TYPE, "pace", "soon")
    live.until("refused.textContent")
    assert live.run("return limits.pace.value") == ""
    ask_for_a_take(live, 0)
    live.run("confirm = () => true")
    live.all("#steering button")[1].click()
    live.until("page.ended")
    assert process.wait(60) == 3
    assert 0 < fake.stats.calls < PROMPTS
    (left,) = open_redos(Path("out"))  # a run that was ended early makes none
    assert left.state == "waiting"
    live.driver.get_log("browser")  # that the pace was refused, and that the server has ended
