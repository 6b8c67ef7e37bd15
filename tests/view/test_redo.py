"""Further takes that are asked for on the page: their price, the queue, and who makes them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from genbatch._store import HIDDEN, export, open_redos, status
from genbatch._store._files import Lock
from genbatch.testing import FakeGemini, blocked
from genbatch.view import serving
from support.commands import CANARY, served
from support.folders import fill
from support.gates import Gate
from support.markup import MARKUP
from support.served import Page
from support.waiting import until

pytestmark = pytest.mark.slow

DEAR = 1000  # takes, which cost more than may be spent without a second yes


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., FakeGemini]]:
    """Run a fake service, and point the environment of what is started to it."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("GENBATCH_")]:
        monkeypatch.delenv(name)
    with served(monkeypatch) as serve:
        yield serve


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path / "out", ["a fox", "an owl"])


@contextmanager
def opened(folder: Path, *options: str) -> Iterator[Page]:
    with serving(folder, redo=options) as server:
        yield Page(server.url)


def keys_of(page: Page) -> list[str]:
    return [item["key"] for item in page.told()["items"]]


def priced(page: Page, at: int = 0, **changes: Any) -> dict[str, Any]:
    answer = page.post("/price", {"key": keys_of(page)[at], **changes})
    found: dict[str, Any] = json.loads(answer.body)
    assert answer.status == 200, found
    return found


def agree(page: Page, price: dict[str, Any], **more: Any) -> Any:
    return page.post("/redo", {"number": price["number"], **more})


def takes_of(folder: Path) -> list[dict[str, Any]]:
    return list(export(folder, all=True))


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold a folder as a run does."""
    lock = Lock(folder / HIDDEN / "lock")
    try:
        yield
    finally:
        lock.release()


def test_a_take_is_priced_as_a_dry_run_prices_it_and_made_when_agreed_to(
    folder: Path, serve: Callable[..., FakeGemini]
) -> None:
    fake = serve()
    with opened(folder) as page:
        price = priced(page, prompt="a hare", model="pro", aspect_ratio="16:9", seed=7)
        told = {"calls": 1, "model": "gemini-3-pro-image", "asks": False}
        assert {name: price[name] for name in told} == told
        command = [sys.executable, "-m", "genbatch", "redo", "out", "0", "--dry-run", "--json"]
        change = ["--prompt", "a hare", "--model", "pro", "--aspect-ratio", "16:9", "--seed", "7"]
        dry = json.loads(subprocess.check_output([*command, *change]))
        assert price["cost"] == dry["cost"]
        assert fake.stats.calls == 0
        assert agree(page, price).status == 200
        until(lambda: len(takes_of(folder)) == 3)
        until(lambda: not open_redos(folder))
        assert agree(page, price).status == 400  # once is once
    made = takes_of(folder)[1]
    assert (made["take"], made["prompt"], made["asked"]["seed"]) == (2, "a hare", 7)
    assert fake.stats.calls == 1
    assert fake.calls[0].prompt == "a hare"


def test_while_a_run_holds_the_folder_a_take_waits(
    folder: Path, serve: Callable[..., FakeGemini]
) -> None:
    fake = serve()
    with opened(folder) as page:
        with held(folder):
            assert agree(page, priced(page)).status == 200
            assert agree(page, priced(page, 1)).status == 200
            first, second = page.told()["redos"]
            assert (first["state"], first["ours"], first["index"]) == ("waiting", True, 0)
            assert page.post("/give-up", second["id"]).status == 200
            assert [redo["id"] for redo in page.told()["redos"]] == [first["id"]]
            assert fake.stats.calls == 0
        until(lambda: len(takes_of(folder)) == 3)
    assert fake.stats.calls == 1


def test_what_a_page_has_left_waiting_is_made_only_when_the_user_says_so_again(
    folder: Path, serve: Callable[..., FakeGemini]
) -> None:
    fake = serve()
    with held(folder), opened(folder) as page:
        agree(page, priced(page))
    with opened(folder) as page, opened(folder) as other:
        (left,) = page.told()["redos"]
        assert (left["state"], left["ours"]) == ("waiting", False)
        agree(page, priced(page, 1))  # which is made, and the other one not
        until(lambda: len(open_redos(folder)) == 1)
        assert fake.stats.calls == 1
        for each in (page, other):
            each.post("/take-over", left["id"])
        until(lambda: not open_redos(folder))
    assert (fake.stats.calls, len(takes_of(folder))) == (2, 4)


def test_the_budget_of_the_folder_is_never_exceeded(
    folder: Path, serve: Callable[..., FakeGemini]
) -> None:
    fake = serve()
    spent = status(folder).spent.usd
    with opened(folder, f"--budget={spent + 0.01}") as page:
        agree(page, priced(page))
        until(lambda: page.told()["redos"] and page.told()["redos"][0]["state"] == "failed")
        (redo,) = page.told()["redos"]
        assert "BudgetExhausted" in redo["said"]
        assert page.post("/give-up", redo["id"]).status == 200
        assert page.told()["redos"] == []
    assert fake.stats.calls == 0


def test_the_budget_of_the_last_run_holds(folder: Path, serve: Callable[..., FakeGemini]) -> None:
    fake = serve()
    budget = status(folder).spent.usd + 0.05
    command = [sys.executable, "-m", "genbatch", "redo", "out", "1", "-q", f"--budget={budget}"]
    assert subprocess.run(command).returncode == 0
    with opened(folder) as page:
        agree(page, priced(page))
        until(lambda: [redo["state"] for redo in page.told()["redos"]] == ["failed"])
    assert fake.stats.calls == 1


def test_what_is_expensive_needs_a_second_yes(
    folder: Path, serve: Callable[..., FakeGemini]
) -> None:
    fake = serve()
    with opened(folder) as page, held(folder):
        price = priced(page, variants=DEAR)
        assert (price["asks"], price["calls"]) == (True, DEAR)
        answer = agree(page, price)
        assert (answer.status, open_redos(folder)) == (400, [])
        assert agree(page, price, sure="yes").status == 400
        assert agree(page, price, sure=True).status == 200
        assert open_redos(folder)[0].asked["yes"] is True
    assert fake.stats.calls == 0


def test_who_presses_twice_agrees_once(folder: Path, serve: Callable[..., FakeGemini]) -> None:
    serve()
    with opened(folder) as page, held(folder):
        price = priced(page)
        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(lambda _: agree(page, price).status, range(8)))
        assert sorted(answers) == [200, *[400] * 7]
        assert len(open_redos(folder)) == 1


def test_a_refusal_is_told(folder: Path, serve: Callable[..., FakeGemini]) -> None:
    serve(faults=lambda call: blocked())
    with opened(folder) as page:
        agree(page, priced(page))
        until(lambda: [redo["state"] for redo in page.told()["redos"]] == ["failed"])
        assert page.told()["redos"][0]["said"].startswith("Blocked: ")
        answer = page.post("/price", {"key": keys_of(page)[0], "model": "lite", "image_size": "4K"})
        assert (answer.status, "1K only" in json.loads(answer.body)["error"]) == (400, True)


def test_an_end_waits_for_the_calls_in_flight(
    folder: Path, serve: Callable[..., FakeGemini]
) -> None:
    gate = Gate()
    fake = serve(faults=gate)
    with opened(folder) as page:
        agree(page, priced(page, variants=30))
        until(lambda: fake.stats.calls > 0)
        (redo,) = page.told()["redos"]
        assert redo["state"] == "making"
        for _ in range(3):  # which is once to the process
            page.post("/give-up", redo["id"])
        gate.open()
        until(lambda: [redo["state"] for redo in page.told()["redos"]] == ["failed"])
    spent = status(folder).spent
    assert len(takes_of(folder)) == 2 + fake.stats.images
    assert (spent.maybe_images, fake.stats.images < 30) == (0, True)


def test_a_page_that_is_closed_waits_for_the_calls_in_flight(
    folder: Path, serve: Callable[..., FakeGemini]
) -> None:
    gate = Gate()
    fake = serve(faults=gate)
    with opened(folder) as page:
        agree(page, priced(page))
        until(lambda: fake.stats.calls == 1)
        agree(page, priced(page, 1))
        gate.open()
    assert status(folder).spent.maybe_images == 0
    assert len(takes_of(folder)) == 2 + fake.stats.images


def test_a_page_that_is_killed_loses_nothing(
    folder: Path, serve: Callable[..., FakeGemini]
) -> None:
    gate = Gate()
    fake = serve(faults=gate)
    command = [sys.executable, "-m", "genbatch", "view", str(folder), "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stdout
        page = Page(process.stdout.readline().split()[-1])
        agree(page, priced(page))
        until(lambda: fake.stats.calls == 1)
        process.send_signal(signal.SIGKILL)
    gate.open()
    until(lambda: len(takes_of(folder)) == 3)
    until(lambda: status(folder).runner is None)
    with opened(folder) as page:
        (redo,) = page.told()["redos"]
        assert (redo["state"], redo["ours"]) == ("making", False)
        assert page.post("/take-over", redo["id"]).status == 400
        page.post("/give-up", redo["id"])
        assert page.told()["redos"] == []
    assert (fake.stats.calls, status(folder).spent.maybe_images) == (1, 0)


@pytest.mark.parametrize(
    "changes",
    [
        *({"prompt": 1}, {"prompt": "a\0b"}, {"prompt": "x" * 100_001}, {"model": ["a"]}),
        *({"seed": "7"}, {"seed": 2**31}, {"seed": True}, {"variants": 0}, {"variants": 1.5}),
        *({"aspect_ratio": "x"}, {"image_size": "8K"}, {"key": "x"}, {"key": None}, {"key": []}),
        {"prompt": "\ud800"},
    ],
)
def test_what_cannot_be_asked_for_is_refused(
    folder: Path, serve: Callable[..., FakeGemini], changes: dict[str, Any]
) -> None:
    serve()
    with opened(folder) as page:
        answer = page.post("/price", {"key": keys_of(page)[0]} | changes)
        assert (answer.status, list(json.loads(answer.body))) == (400, ["error"])
        for number in ("x", 1, [], {}):
            assert page.post("/redo", {"number": number}).status == 400
            assert page.post("/give-up", number).status == 400
            assert page.post("/take-over", number).status == 400


def test_what_looks_like_an_option_is_a_prompt(
    folder: Path, serve: Callable[..., FakeGemini]
) -> None:
    fake = serve()
    texts = ["--yes", "$(touch x)", "a\nb", *MARKUP[1:-1:24]]
    with opened(folder) as page:
        for text in texts:
            agree(page, priced(page, prompt=text))
        until(lambda: all(each.state == "failed" for each in open_redos(folder)))
        assert open_redos(folder) == []
    assert not (folder.parent / "x").exists()
    sent = {call.prompt for call in fake.calls}
    assert sent == set(texts)


def test_no_key_reaches_the_page(folder: Path, serve: Callable[..., FakeGemini]) -> None:
    serve(faults=lambda call: blocked())
    with opened(folder, "--service=nothing:here") as page:
        broken = page.post("/price", {"key": keys_of(page)[0]})
        assert broken.status == 400
        assert CANARY.encode() not in broken.body
    with opened(folder) as page:
        agree(page, priced(page))
        until(lambda: [redo["state"] for redo in page.told()["redos"]] == ["failed"])
        assert CANARY.encode() not in page.get("/").body
