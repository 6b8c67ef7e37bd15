"""The public surface as a consumer's type checker sees it; checked, never run."""

# pyright: strict

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, assert_type

from anyio import CapacityLimiter
from anyio.abc import ObjectReceiveStream

from genbatch import (
    Failure,
    GeminiClient,
    GenbatchError,
    Image,
    ImageClient,
    ImageRequest,
    Outcome,
    OutcomeStream,
    Progress,
    Prompt,
    SavedImage,
    Store,
    Success,
    TimedOut,
    collect,
    generate_images,
    results,
    stream,
)
from genbatch.events import AttemptEnded, Event
from genbatch.otel import OpenTelemetry
from genbatch.testing import FakeGemini, FakeOpenAI, rate_limited
from genbatch.web import open_relay


async def patterns(client: GeminiClient, prompts: list[str]) -> None:
    outcomes = await collect(client.generate_image, prompts, max_concurrent=5)
    assert_type(outcomes, list[Outcome[str, Image]])
    assert_type([outcome.unwrap() for outcome in outcomes], list[Image])
    async with stream(client.generate_image, prompts) as running:
        assert_type(running, OutcomeStream[str, Image])
        assert_type(running.progress, Progress)
        as_stream: ObjectReceiveStream[Outcome[str, Image]] = running
        assert_type(await as_stream.receive(), Outcome[str, Image])
        async for outcome in running:
            match outcome:
                case Success(index, prompt, image):
                    assert_type(index, int)
                    assert_type(prompt, str)
                    assert_type(image, Image)
                case Failure(_, prompt, error):
                    assert_type(prompt, str)
                    assert_type(error, Exception)


async def rows_and_events(client: GeminiClient, rows: list[dict[str, int]]) -> None:
    def on_event(event: Event) -> None:
        match event:
            case AttemptEnded(cost=cost, error=error):
                assert_type(cost, float | None)
                assert_type(error, BaseException | None)
            case _:
                assert_type(event.call.metadata, Mapping[str, object])
                assert_type(event.is_estimated, bool)

    listening = GeminiClient(on_event=on_event)
    async with generate_images(
        listening, rows, save_dir="out", prompt_column="caption", on_event=OpenTelemetry()
    ) as outcomes:
        assert_type(outcomes, OutcomeStream[dict[str, int], SavedImage])
    assert_type(results("out"), list[dict[str, Any]])


async def mixed_prompts(client: GeminiClient, prompts: list[str | Prompt]) -> None:
    outcomes = await collect(partial(client.generate_image, model="pro"), prompts)
    assert_type(outcomes, list[Outcome[str | Prompt, Image]])
    async with stream(client.generate_image, prompts) as running:
        assert_type(running, OutcomeStream[str | Prompt, Image])
        assert_type(await running.receive(), Outcome[str | Prompt, Image])
        assert_type([outcome.prompt async for outcome in running], list[str | Prompt])


async def prompt_objects(client: GeminiClient, prompts: AsyncIterator[Prompt]) -> None:
    async with stream(client.generate_image, prompts, ordered=True) as running:
        async for outcome in running:
            assert_type(outcome, Outcome[Prompt, Image])
            assert_type(outcome.prompt.metadata, Mapping[str, object])


async def as_a_stream_of_more(client: GeminiClient, prompts: list[str]) -> None:
    async def read(outcomes: ObjectReceiveStream[Outcome[str, Image] | None]) -> None:
        assert_type(await outcomes.receive(), Outcome[str, Image] | None)

    async with stream(client.generate_image, prompts) as running:
        await read(running)


def outcome_of(outcome: Outcome[str, Image]) -> Image | Exception:
    """An outcome is one of two, and a checker sees that both are covered."""
    match outcome:
        case Success(value=image):
            return image
        case Failure(error=error):
            return error


async def covariance(client: GeminiClient, prompts: list[str]) -> None:
    """What holds less than is asked for fits."""

    def widest(outcome: Outcome[str | int, bytes | None]) -> Outcome[str | int, bytes | None]:
        return outcome

    succeeded: Success[str, bytes] = Success(0, "a cup", b"image")
    failed: Failure[str] = Failure(0, "a cup", ValueError())
    assert_type(widest(succeeded).index, int)
    assert_type(widest(failed), Outcome[str | int, bytes | None])
    assert_type(hash(succeeded) + hash(failed), int)

    async def read(outcomes: OutcomeStream[str | Prompt, Image | None]) -> None:
        assert_type(await outcomes.receive(), Outcome[str | Prompt, Image | None])

    async with stream(client.generate_image, prompts) as running:
        await read(running)
        assert_type(running.limiter, CapacityLimiter)
        running.limiter.total_tokens = 9


async def failing_fast(client: GeminiClient, prompts: list[str], fast: bool) -> None:
    successes = await collect(client.generate_image, prompts, fail_fast=True)
    assert_type(successes, list[Success[str, Image]])
    assert_type([success.value for success in successes], list[Image])
    either = await collect(client.generate_image, prompts, fail_fast=fast)
    assert_type(either, list[Outcome[str, Image]])


def progress_of(now: Progress) -> None:
    assert_type(now.total, int | None)
    assert_type(now.done, int)
    assert_type(now.rate, float)
    assert_type(now.eta, float | None)
    assert_type(now.percent, float | None)


async def any_generate(prompts: AsyncIterator[bytes]) -> None:
    async def measure(prompt: bytes) -> int:
        return len(prompt)

    async with stream(measure, prompts, ordered=True, fail_fast=True) as running:
        assert_type(running, OutcomeStream[bytes, int])


async def images(client: GeminiClient, prompts: list[str], directory: Path, store: Store) -> None:
    async with generate_images(client, prompts) as in_memory:
        assert_type(in_memory, OutcomeStream[str, Image])
    async with generate_images(client, prompts, save_dir=directory, max_concurrent=9) as saved:
        assert_type(saved, OutcomeStream[str, SavedImage])
    async with generate_images(client, [Prompt("a cup")], store=store) as stored:
        assert_type(stored, OutcomeStream[Prompt, SavedImage])


async def settings(client: GeminiClient) -> None:
    image = await client.generate_image(
        "a cup",
        thinking="high",
        temperature=0.5,
        seed=7,
        system_instruction="Draw in ink.",
        generation_config={"topP": 0.5},
    )
    assert_type(image.extras, tuple[Image, ...])
    assert_type(await client.models(), list[str])
    assert_type(Prompt("a cup").variants(3), tuple[Prompt, ...])


def trouble(error: GenbatchError) -> None:
    assert_type(error.status, int | None)
    assert_type(error.retry_after, float | None)
    assert_type(error.request_id, str | None)
    assert_type(error.maybe_paid, bool)
    assert_type(error.attempts, int)
    also_builtin: type[TimeoutError] = TimedOut
    assert issubclass(also_builtin, GenbatchError)


async def fake() -> None:
    async with FakeGemini(latency=0.1, faults=[None, rate_limited(2)]) as server:
        assert_type(server.url, str)
        assert_type(server.stats.images, int)
    with FakeGemini() as server, FakeOpenAI() as other:
        assert_type(server.url, str)
        assert_type(other.url, str)


async def square(number: int) -> int:
    return number**2


async def relayed() -> AsyncIterator[int]:
    async with open_relay(grace=5) as relay:
        with relay.outcomes_of(stream(square, range(3)), drain=True) as outcomes:
            async for outcome in outcomes:
                assert_type(outcome, Outcome[int, int])
                yield outcome.unwrap()


class Local:
    async def generate_image(self, request: ImageRequest) -> Image:
        return Image(request.text.encode(), "image/png")


async def clients_of_ones_own(prompts: list[str]) -> None:
    client: ImageClient = Local()
    async with generate_images(client, prompts, save_dir="out") as outcomes:
        assert_type(outcomes, OutcomeStream[str, SavedImage])

    async def generate(prompt: str) -> bytes:
        return prompt.encode()

    async with generate_images(generate, prompts) as images:
        assert_type(images, OutcomeStream[str, Image])
