"""What a listener is told of each call: by one's own client, either service's, and in jobs."""

from __future__ import annotations

from contextvars import ContextVar
from pathlib import Path
from typing import Any, get_args

import anyio
import pytest

from genbatch import (
    Blocked,
    Budget,
    BudgetExhausted,
    Failure,
    GeminiClient,
    Image,
    Prompt,
    RateLimited,
    SavedImage,
    Success,
    Unauthorized,
    Unavailable,
    batch_api,
    generate_images,
)
from genbatch._store import Archive
from genbatch._watch import Watch
from genbatch.batch_api import _job, _queue
from genbatch.events import (
    AttemptEnded,
    AttemptStarted,
    CallEnded,
    CallsPaused,
    CallsStopped,
    Event,
    ImageSaved,
    RateLimitHit,
    RetryScheduled,
)
from genbatch.openai import OpenAIClient
from genbatch.testing import (
    Call,
    FakeGemini,
    FakeOpenAI,
    Fault,
    bad_key,
    blocked,
    no_usage,
    not_an_image,
    rate_limited,
    short_body,
)
from support import virtual

pytestmark = pytest.mark.anyio

GIF = b"GIF89a" + bytes(7) + b";"
BUSY = Fault(status=503, headers={"retry-after": "2"})
SERVICES = [(GeminiClient, FakeGemini), (OpenAIClient, FakeOpenAI)]
ONE_IMAGE = ["CallStarted", "CallAdmitted", "AttemptStarted", "AttemptEnded"]


class Listener:
    """Keeps the events that it is called with."""

    def __init__(self) -> None:
        self.all: list[Any] = []

    def __call__(self, event: Event) -> None:
        self.all.append(event)

    def names(self, index: int | None = None) -> list[str]:
        return [type(each).__name__ for each in self.all if index in (None, each.call.index)]

    def of(self, kind: type[Any]) -> list[Any]:
        return [each for each in self.all if type(each) is kind]

    def one(self, kind: type[Any]) -> Any:
        (found,) = self.of(kind)
        return found


@pytest.fixture
def heard() -> Listener:
    return Listener()


async def run(client: Any, prompts: list[Any], **options: Any) -> list[Any]:
    options = {"max_concurrent": 1} | options
    async with generate_images(client, prompts, **options) as outcomes:
        return [outcome async for outcome in outcomes]


@pytest.mark.parametrize(("client_of", "fake_of"), SERVICES)
async def test_a_saved_prompt_is_told_from_its_start_to_its_file(
    client_of: Any, fake_of: Any, heard: Listener, pauses: list[float], tmp_path: Path
) -> None:
    prompt = Prompt("a cup", id="row-7", metadata={"order": 42})
    async with fake_of(image_size=8, faults=[BUSY]) as fake:
        async with client_of("a-key", base_url=fake.url) as client:
            (outcome,) = await run(client, [prompt], save_dir=tmp_path, on_event=heard)
    assert heard.names() == [
        *ONE_IMAGE,
        "RetryScheduled",
        *ONE_IMAGE[1:],
        "ImageSaved",
        "CallEnded",
    ]
    for event in heard.all:
        assert event.call.metadata == {"order": 42}
        assert (event.call.prompt.id, event.call.index) == ("row-7", 0)
        assert event.call.service == client_of.service
        assert len(event.call.key) == 64
        assert event.call.number == heard.all[0].call.number
        assert isinstance(event.cost, float)
        assert isinstance(event.is_estimated, bool)
    first, second = heard.of(AttemptEnded)
    assert isinstance(first.error, Unavailable)
    assert (first.attempt, first.cost, first.image) == (1, 0.0, None)
    retry = heard.one(RetryScheduled)
    assert (retry.attempt, retry.delay, retry.error) == (1, pauses[0], first.error)
    image = outcome.unwrap()
    assert (second.attempt, second.cost, second.error) == (2, image.cost, None)
    assert len(second.image.data) == round(image.size_mb * 1e6)
    assert not second.is_estimated
    assert heard.of(AttemptStarted)[1].cost >= image.cost
    saved, ended = heard.one(ImageSaved), heard.one(CallEnded)
    assert (saved.image, saved.cost, ended.cost) == (image, image.cost, image.cost)
    assert (ended.image, ended.attempts, ended.error) == (image, 2, None)


@pytest.mark.parametrize(("client_of", "fake_of"), SERVICES)
async def test_a_client_used_alone_tells_of_its_calls(
    client_of: Any, fake_of: Any, heard: Listener
) -> None:
    async with fake_of(image_size=8) as fake:
        async with client_of("a-key", base_url=fake.url, on_event=heard) as client:
            image = await client.generate_image(Prompt("a cup", metadata={"order": 1}))
            await client.generate_image("a mug", budget=Budget(usd=1))
    assert heard.names() == [*ONE_IMAGE, "CallEnded"] * 2
    ended = heard.of(CallEnded)[0]
    assert (ended.image, ended.cost, ended.call.index, ended.call.key) == (
        image,
        image.cost,
        None,
        None,
    )
    assert ended.call.metadata == {"order": 1}


async def test_listeners_of_client_and_batch_each_hear_of_a_call_and_one_for_both_once(
    heard: Listener, tmp_path: Path
) -> None:
    of_client = Listener()
    async with FakeGemini(image_size=8) as fake:
        async with GeminiClient("a-key", base_url=fake.url, on_event=of_client) as client:
            await run(client, ["a cup"], save_dir=tmp_path, on_event=heard)
            assert heard.all == of_client.all
            assert heard.names() == [*ONE_IMAGE, "ImageSaved", "CallEnded"]
            await run(client, ["a mug"], on_event=of_client)
    assert of_client.names()[len(heard.all) :] == [*ONE_IMAGE, "CallEnded"]


async def test_a_batch_without_a_listener_is_told_to_that_of_its_client(
    heard: Listener, tmp_path: Path
) -> None:
    async with FakeGemini(image_size=8) as fake:
        async with GeminiClient("a-key", base_url=fake.url, on_event=heard) as client:
            await run(client, ["a cup"], save_dir=tmp_path)
            told = len(heard.all)
            await run(client, ["a cup"], save_dir=tmp_path)
    assert heard.names() == [*ONE_IMAGE, "ImageSaved", "CallEnded"]
    assert len(heard.all) == told  # a resumed prompt makes no call


@pytest.mark.parametrize("backend", virtual.BACKENDS)
def test_a_rate_limit_is_told_once_for_each_rejection_and_its_pause_once(
    backend: str, heard: Listener
) -> None:
    async def generate(prompt: str) -> bytes:
        if len(heard.of(AttemptStarted)) <= 2:
            await all_in.wait()
            raise RateLimited("slow down", retry_after=20)
        return GIF

    all_in = anyio.Event()

    def on_event(event: Event) -> None:
        heard(event)
        if len(heard.of(AttemptStarted)) == 2:
            all_in.set()

    async def main() -> None:
        outcomes = await run(generate, ["a cup", "a mug"], max_concurrent=2, on_event=on_event)
        assert all(isinstance(each, Success) for each in outcomes)

    virtual.run(backend, main)
    first, second = heard.of(RateLimitHit)
    assert first.error.retry_after == second.error.retry_after == 20
    assert second.capacity < 20
    pause = heard.one(CallsPaused)
    assert (pause.seconds, pause.error) == (pytest.approx(20), first.error)
    ended = heard.of(AttemptEnded)
    assert [each.cost for each in ended[:2]] == [0.0, 0.0]
    assert sorted(each.attempts for each in heard.of(CallEnded)) == [2, 2]


class Own:
    """A client of one's own that makes two attempts of each call."""

    service = "own"

    async def generate_image(self, request: Any, *, budget: Any, price: Any) -> Image:
        for attempt in range(2):
            try:
                async with budget.attempt(0.25, request.model) as reserved:
                    if not attempt:
                        raise Unavailable("not now")
                    reserved.paid(0.2)
            except Unavailable:
                pass
        return Image(GIF, "image/gif", cost=0.2)


async def test_every_attempt_of_a_client_of_ones_own_is_told(
    heard: Listener, tmp_path: Path
) -> None:
    await run(Own(), ["a cup"], save_dir=tmp_path, on_event=heard)
    assert heard.names() == [
        "CallStarted",
        *ONE_IMAGE[2:] * 2,
        "ImageSaved",
        "CallEnded",
    ]
    assert [(each.cost, each.is_estimated) for each in heard.of(AttemptStarted)] == [
        (0.25, True),
        (0.25, True),
    ]
    assert [(each.cost, each.is_estimated) for each in heard.of(AttemptEnded)] == [
        (0.0, False),
        (0.2, False),
    ]
    assert heard.one(CallEnded).call.service == "own"


async def test_a_call_of_another_client_inside_a_function_is_not_told_twice(
    heard: Listener,
) -> None:
    inner = Listener()
    async with FakeGemini(image_size=8) as fake:
        for listener in (None, inner):
            async with GeminiClient("a-key", base_url=fake.url, on_event=listener) as client:

                async def generate(prompt: str) -> Image:
                    return await client.generate_image(prompt)

                await run(generate, ["a cup"], on_event=heard)
            assert heard.names() == [*ONE_IMAGE, "CallEnded"]
            heard.all.clear()
    assert inner.names() == [*ONE_IMAGE, "CallEnded"]


async def test_what_an_answer_does_not_tell_is_estimated(heard: Listener) -> None:
    async with FakeGemini(image_size=8, faults=[no_usage()]) as fake:
        async with GeminiClient("a-key", base_url=fake.url, on_event=heard) as client:
            silent = await client.generate_image("a cup")
            told = await client.generate_image("a cup")
            priced = await client.generate_image("a cup", price=0.5)
    reserved = heard.of(AttemptStarted)[0].cost
    assert silent.usage is None
    assert silent.cost == reserved > (told.cost or 0)
    assert priced.cost == 0.5
    ended = heard.of(CallEnded)
    assert [each.is_estimated for each in ended] == [True, False, False]
    assert [each.cost for each in ended] == [silent.cost, told.cost, 0.5]


async def test_a_lost_call_counts_as_reserved_and_an_unknown_price_as_none(
    heard: Listener,
) -> None:
    async def generate(prompt: str) -> bytes:
        if prompt == "a mug":
            raise Unavailable("lost", maybe_paid=True)
        return GIF

    await run(generate, ["a mug"], price=0.5, on_event=heard)
    lost = heard.one(AttemptEnded)
    assert (lost.cost, lost.is_estimated, str(lost.error)) == (0.5, True, "lost")
    assert heard.one(CallEnded).cost == 0.5
    heard.all.clear()
    await run(generate, ["a cup"], on_event=heard)
    assert (heard.one(AttemptEnded).cost, heard.one(CallEnded).cost) == (None, None)


async def test_the_cost_of_attempts_is_what_the_budget_counts(
    heard: Listener, pauses: list[float], tmp_path: Path
) -> None:
    def cut(answer: dict[str, Any]) -> dict[str, Any]:
        for part in answer["candidates"][0]["content"]["parts"]:
            if "inlineData" in part:
                part["inlineData"]["data"] = part["inlineData"]["data"][:40]
        return answer

    faults = [
        no_usage(),
        Fault(edit=cut),
        Fault(edit=lambda answer: cut(no_usage().edit(answer))),  # type: ignore[misc,arg-type]
        blocked("SAFETY"),
        short_body(),
        Fault(status=503),
        None,
    ]
    budget = Budget(9.0)
    prompts = [f"a cup, number {number}" for number in range(5)]
    async with FakeGemini(image_size=8, faults=faults) as fake:
        async with GeminiClient("a-key", base_url=fake.url) as client:
            await run(client, prompts, save_dir=tmp_path, budget=budget, on_event=heard)
    ended = heard.of(AttemptEnded)
    assert [each.is_estimated for each in ended] == [True, False, True, False, True, False, False]
    total = budget.spent + budget.maybe_spent
    assert budget.maybe_spent > 0
    assert sum(each.cost for each in ended) == pytest.approx(total)
    assert sum(each.cost for each in heard.of(CallEnded)) == pytest.approx(total)


async def test_where_nobody_listens_no_event_is_made(
    pauses: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(*_: object) -> None:
        raise AssertionError("an event was made")

    for kind in (Watch, *get_args(Event)):
        monkeypatch.setattr(kind, "__init__", made)
    faults = [rate_limited(0.01), Fault(status=503), bad_key()]
    async with FakeGemini(image_size=8, faults=faults) as fake:
        async with GeminiClient("a-key", base_url=fake.url) as client:
            (outcome,) = await run(client, ["a cup"], save_dir=tmp_path)
            assert isinstance(outcome.error, Unauthorized)
            await client.generate_image("a mug")


async def test_a_cancelled_call_is_told_to_its_end(heard: Listener) -> None:
    async def generate(prompt: str) -> bytes:
        sent.set()
        await anyio.sleep_forever()
        return GIF

    sent = anyio.Event()
    async with generate_images(generate, ["a cup"], price=0.5, on_event=heard):
        await sent.wait()
    assert heard.names() == [*ONE_IMAGE, "CallEnded"]
    ended = heard.one(CallEnded)
    assert isinstance(ended.error, anyio.get_cancelled_exc_class())
    assert (ended.cost, ended.is_estimated, ended.image) == (0.5, True, None)


async def test_what_stops_a_run_is_told_once(heard: Listener) -> None:
    async with FakeGemini(image_size=8, faults=lambda call: bad_key()) as fake:
        async with GeminiClient("a-key", base_url=fake.url) as client:
            outcomes = await run(client, ["a cup", "a mug", "a jug"], on_event=heard)
    assert all(isinstance(each, Failure) for each in outcomes)
    stop = heard.one(CallsStopped)
    assert isinstance(stop.error, Unauthorized)
    assert (stop.model, stop.call.index, stop.cost) == (None, 0, 0.0)
    assert len(heard.of(CallEnded)) == 1


async def test_the_end_of_a_budget_is_told_once(heard: Listener) -> None:
    async def generate(prompt: str) -> bytes:
        return GIF

    budget = Budget(1.0, spent=0.5)
    prompts = ["a cup", "a mug", "a jug"]
    outcomes = await run(generate, prompts, price=0.4, budget=budget, on_event=heard)
    assert sum(isinstance(each, Success) for each in outcomes) == 1
    assert budget.spent == 0.9
    assert isinstance(heard.one(CallsStopped).error, BudgetExhausted)
    assert len(heard.of(CallEnded)) == 3


def test_what_a_ledger_says_was_spent_is_not_negative() -> None:
    with pytest.raises(ValueError, match="spent must be >= 0 US dollars, got -1"):
        Budget(1.0, spent=-1)


async def test_an_error_of_a_listener_is_shown_and_loses_no_image(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def on_event(event: Event) -> None:
        raise LookupError("no such counter")

    async with FakeGemini(image_size=8) as fake:
        async with GeminiClient("a-key", base_url=fake.url) as client:
            (outcome,) = await run(client, ["a cup"], save_dir=tmp_path, on_event=on_event)
    assert isinstance(outcome, Success)
    shown = capsys.readouterr().err
    assert "LookupError: no such counter" in shown
    assert "on_event of genbatch, at ImageSaved" in shown


async def listen(event: Event) -> None: ...


class AsyncListener:
    async def __call__(self, event: Event) -> None: ...


@pytest.mark.parametrize(
    ("on_event", "message"),
    [
        ("print", "on_event must be a function, got str"),
        (listen, "on_event must be a plain function, not an async one: it is not awaited"),
        (AsyncListener(), "on_event must be a plain function, not an async one"),
    ],
)
async def test_what_cannot_listen_is_refused_at_the_call(on_event: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        GeminiClient("a-key", on_event=on_event)
    with pytest.raises(TypeError, match=message):
        generate_images(GeminiClient("a-key"), ["a cup"], on_event=on_event)


async def test_jobs_are_told_in_the_same_words(
    heard: Listener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_queue, "_LINGER", 0.01)
    monkeypatch.setattr(_job, "_FIRST_POLL", 0.01)
    prompts = [Prompt("a cup", metadata={"order": 1}), Prompt("a mug", metadata={"order": 2})]

    def faults(call: Call) -> Fault | None:
        return blocked("SAFETY") if call.prompt == "a mug" else None

    async with FakeGemini(image_size=8, faults=faults) as fake:
        async with (
            GeminiClient("a-key", base_url=fake.url) as client,
            batch_api.generate_images(
                client, prompts, save_dir=tmp_path, poll=0.05, on_event=heard
            ) as outcomes,
        ):
            found = sorted([each async for each in outcomes], key=lambda each: each.index)
    cup = [each for each in heard.all if each.call.metadata == {"order": 1}]
    mug = [each for each in heard.all if each.call.metadata == {"order": 2}]
    names = [type(each).__name__ for each in cup]
    assert names == ["CallStarted", *ONE_IMAGE[2:], "ImageSaved", "CallEnded"]
    assert [type(each).__name__ for each in mug] == ["CallStarted", *ONE_IMAGE[2:], "CallEnded"]
    image = found[0].unwrap()
    assert isinstance(image, SavedImage)
    assert [each.cost for each in cup[2:]] == [image.cost] * 3
    assert cup[-1].image == image
    assert not cup[-1].is_estimated
    assert isinstance(mug[-1].error, Blocked)
    assert mug[-1].cost == 0.0


async def test_a_listener_runs_in_the_context_of_its_call() -> None:
    """So that what it sets for a call, such as a span, holds for the attempt and no other call."""
    current: ContextVar[str] = ContextVar("current", default="")
    seen: dict[str, str] = {}

    def on_event(event: Event) -> None:
        if isinstance(event, AttemptStarted):
            assert current.get() == ""
            current.set(event.call.prompt.text)

    async def generate(prompt: str) -> bytes:
        seen[prompt] = current.get()
        return GIF

    prompts = ["a cup", "a mug", "a jug"]
    await run(generate, prompts, max_concurrent=1, on_event=on_event)
    assert seen == dict(zip(prompts, prompts, strict=True))
    assert current.get() == ""


@pytest.mark.parametrize("kind", [AttemptEnded, ImageSaved, CallEnded])
async def test_a_listener_that_ends_the_program_loses_no_image(
    kind: type[Event], tmp_path: Path
) -> None:
    def listener(event: Event) -> None:
        if isinstance(event, kind):
            raise SystemExit(f"at {kind.__name__}")

    async with FakeGemini(image_size=8) as fake:
        with pytest.raises((SystemExit, BaseExceptionGroup)):
            async with GeminiClient("a-key", base_url=fake.url) as client:
                await run(client, ["a cup"], save_dir=tmp_path, on_event=listener)
        async with GeminiClient("a-key", base_url=fake.url) as client:
            (outcome,) = await run(client, ["a cup"], save_dir=tmp_path)
        assert outcome.unwrap().resumed
        assert fake.stats.images == 1


@pytest.mark.parametrize(
    ("way", "method", "faults"),
    [
        ("gemini", "save", []),
        ("gemini", "fail", [not_an_image()]),
        ("openai", "save", []),
        ("jobs", "save", []),
    ],
)
async def test_what_came_is_on_disk_before_a_listener_sees_it(
    way: str,
    method: str,
    faults: list[Fault],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_queue, "_LINGER", 0.01)
    monkeypatch.setattr(_job, "_FIRST_POLL", 0.01)
    steps, write = [], getattr(Archive, method)

    def written(*given: Any) -> Any:
        result = write(*given)
        steps.append(method)
        return result

    def listener(event: Event) -> None:
        if isinstance(event, AttemptEnded):
            steps.append("told")

    monkeypatch.setattr(Archive, method, written)
    client_of, fake_of = SERVICES[way == "openai"]
    generate = batch_api.generate_images if way == "jobs" else generate_images
    async with fake_of(image_size=64, faults=faults) as fake:
        async with (
            client_of("a-key", base_url=fake.url) as client,
            generate(client, ["a cup"], save_dir=tmp_path, on_event=listener) as outcomes,
        ):
            async for _ in outcomes:
                pass
    assert steps == [method, "told"]
