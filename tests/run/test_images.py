"""generate_images through the real SDK over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from genbatch import (
    Blocked,
    Failure,
    GeminiClient,
    Image,
    ImageMissing,
    Prompt,
    SavedImage,
    Store,
    StoreError,
    Success,
    generate_images,
)
from genbatch._store._reports import export
from genbatch._values import sniff_mime_type
from genbatch.testing import FakeGemini, blocked, several_images

pytestmark = pytest.mark.anyio

PROMPTS = [f"a cup of tea, number {index}" for index in range(12)]


def images(directory: Path) -> list[Path]:
    return list(directory.glob("*.png"))


@pytest.fixture
async def server() -> AsyncIterator[FakeGemini]:
    async with FakeGemini(image_size=32) as server:
        yield server


@pytest.fixture
async def client(server: FakeGemini) -> AsyncIterator[GeminiClient]:
    async with GeminiClient("a-key", base_url=server.url) as client:
        yield client


async def test_without_a_place_to_save_values_are_images(client: GeminiClient) -> None:
    async with generate_images(client, PROMPTS, ordered=True) as outcomes:
        values = [(outcome.index, outcome.prompt, outcome.unwrap()) async for outcome in outcomes]
    assert [(index, prompt) for index, prompt, _ in values] == list(enumerate(PROMPTS))
    images = [image for *_, image in values]
    assert all(type(image) is Image for image in images)
    assert len({image.data for image in images}) == len(PROMPTS)


async def test_with_save_dir_each_value_is_on_disk_before_it_is_seen(
    client: GeminiClient, tmp_path: Path
) -> None:
    async with generate_images(client, PROMPTS, save_dir=tmp_path / "out") as outcomes:
        async for outcome in outcomes:
            match outcome:
                case Success(index, prompt, SavedImage() as saved):
                    assert prompt == PROMPTS[index]
                    assert saved.path.name.startswith(f"{index:04d}-a-cup-of-tea-number-{index}-")
                    assert sniff_mime_type(saved.path.read_bytes()) == "image/png"
                    assert not saved.resumed
                case _:
                    raise AssertionError(outcome)
        assert outcomes.progress.done == len(PROMPTS)
    assert len(images(tmp_path / "out")) == len(PROMPTS)


async def test_running_again_makes_only_what_is_missing(
    server: FakeGemini, client: GeminiClient, tmp_path: Path
) -> None:
    async with generate_images(client, PROMPTS[:5], save_dir=tmp_path) as outcomes:
        first = {outcome.index: outcome.unwrap() async for outcome in outcomes}
    async with generate_images(client, PROMPTS, save_dir=tmp_path) as outcomes:
        second = {outcome.index: outcome.unwrap() async for outcome in outcomes}
    assert server.stats.images == len(PROMPTS)
    assert [second[index].resumed for index in range(12)] == [True] * 5 + [False] * 7
    assert [second[index].sha256 for index in range(5)] == [first[i].sha256 for i in range(5)]


async def test_moving_prompts_makes_no_call_and_inserting_one_makes_one(
    server: FakeGemini, client: GeminiClient, tmp_path: Path
) -> None:
    async with generate_images(client, PROMPTS, save_dir=tmp_path) as outcomes:
        first = {outcome.prompt: outcome.unwrap().path async for outcome in outcomes}
    for prompts, calls in ((PROMPTS[::-1], 12), (["new", *PROMPTS[::-1]], 13)):
        async with generate_images(client, prompts, save_dir=tmp_path) as outcomes:
            again = {outcome.prompt: outcome.unwrap().path async for outcome in outcomes}
        assert server.stats.calls == calls
        assert again.items() >= first.items()
    rows = await anyio.to_thread.run_sync(lambda: list(export(tmp_path)))
    assert [row["prompt"] for row in rows] == ["new", *PROMPTS[::-1]]


async def test_only_an_input_read_to_its_end_takes_the_place_of_the_last(
    client: GeminiClient, tmp_path: Path
) -> None:
    async def shown() -> set[str]:
        rows = await anyio.to_thread.run_sync(lambda: list(export(tmp_path)))
        return {row["prompt"] for row in rows}

    async def prompts() -> AsyncIterator[str]:
        for index in range(100):
            yield f"another, number {index}"

    async with generate_images(client, PROMPTS, save_dir=tmp_path) as outcomes:
        async for _ in outcomes:
            pass
    async with generate_images(client, prompts(), save_dir=tmp_path, max_concurrent=2) as outcomes:
        await outcomes.receive()
    assert await shown() > set(PROMPTS)
    async with generate_images(client, prompts(), save_dir=tmp_path) as outcomes:
        async for _ in outcomes:
            pass
    assert await shown() == {f"another, number {index}" for index in range(100)}
    async with generate_images(client, PROMPTS[:3], save_dir=tmp_path) as outcomes:
        async for _ in outcomes:
            pass
    assert await shown() == set(PROMPTS[:3])


async def test_what_was_refused_for_good_is_asked_again_only_on_request(tmp_path: Path) -> None:
    async with (
        FakeGemini(faults=[blocked("SAFETY")], image_size=32) as server,
        GeminiClient("a-key", base_url=server.url) as client,
    ):
        for _ in range(2):
            async with generate_images(client, ["a cup"], save_dir=tmp_path) as outcomes:
                outcome = await outcomes.receive()
            assert isinstance(outcome, Failure)
            assert isinstance(outcome.error, Blocked)
            assert (outcome.error.reason, server.stats.calls) == ("SAFETY", 1)
        async with (
            Store(tmp_path, retry_failed={"Blocked"}) as store,
            generate_images(client, ["a cup"], store=store) as outcomes,
        ):
            (await outcomes.receive()).unwrap()
    assert server.stats.calls == 2


async def test_a_deleted_image_is_paid_again_only_on_request(
    server: FakeGemini, client: GeminiClient, tmp_path: Path
) -> None:
    async with generate_images(client, PROMPTS, save_dir=tmp_path) as outcomes:
        paths = [outcome.unwrap().path async for outcome in outcomes]
    paths[3].unlink()
    async with generate_images(client, PROMPTS, save_dir=tmp_path) as outcomes:
        failures = [outcome async for outcome in outcomes if isinstance(outcome, Failure)]
    assert [type(failure.error) for failure in failures] == [ImageMissing]
    assert server.stats.calls == 12
    async with (
        Store(tmp_path, redo_missing=True) as store,
        generate_images(client, PROMPTS, store=store) as outcomes,
    ):
        assert len([outcome.unwrap() async for outcome in outcomes]) == 12
    assert server.stats.calls == 13


async def test_a_directory_has_one_runner_at_a_time(client: GeminiClient, tmp_path: Path) -> None:
    async with generate_images(client, PROMPTS, save_dir=tmp_path):
        with pytest.raises(StoreError, match="is in use by process"):
            async with generate_images(client, PROMPTS, save_dir=tmp_path):
                pass


async def test_twenty_batches_at_once_some_of_them_cancelled_share_a_store(
    client: GeminiClient, tmp_path: Path
) -> None:
    ended: list[int] = []

    async def run(store: Store, number: int) -> None:
        with anyio.CancelScope() as scope:
            async with generate_images(
                client, PROMPTS, store=store, namespace=str(number // 2)
            ) as outcomes:
                seen = []
                async for outcome in outcomes:
                    outcome.unwrap()
                    seen.append(outcome.index)
                    if number % 5 == 0 and len(seen) == 3:
                        scope.cancel()
            assert sorted(seen) == list(range(12))
            ended.append(number)

    async with Store(tmp_path) as store, anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(run, store, number)
    assert sorted(ended) == [number for number in range(20) if number % 5]
    assert len(images(tmp_path)) == 10 * 12  # two batches of a namespace share their images


async def test_equal_prompts_make_separate_images(client: GeminiClient, tmp_path: Path) -> None:
    async with generate_images(client, ["the same"] * 3, save_dir=tmp_path) as outcomes:
        assert len({outcome.unwrap().path async for outcome in outcomes}) == 3


async def test_namespaces_share_no_images(
    server: FakeGemini, client: GeminiClient, tmp_path: Path
) -> None:
    async with Store(tmp_path) as store:
        for namespace in ("a", "b", "b"):
            async with generate_images(
                client, PROMPTS[:2], store=store, namespace=namespace
            ) as outcomes:
                assert len([outcome.unwrap() async for outcome in outcomes]) == 2
    assert server.stats.images == 4


async def test_settings_of_the_run_hold_unless_a_prompt_brings_its_own(
    server: FakeGemini, client: GeminiClient
) -> None:
    prompts = [Prompt("plain"), Prompt("own", model="gemini-9-image", aspect_ratio="1:1", seed=0)]
    async with generate_images(
        client,
        prompts,
        aspect_ratio="16:9",
        image_size="2K",
        thinking="high",
        temperature=0.5,
        seed=7,
        system_instruction="Draw in ink.",
        generation_config={"topP": 0.5},
        max_concurrent=1,
    ) as outcomes:
        async for outcome in outcomes:
            outcome.unwrap()
    plain, own = server.calls
    assert (plain.model, own.model) == ("gemini-nano-banana-2.1", "gemini-9-image")
    config = {
        "responseModalities": ["IMAGE"],
        "imageConfig": {"aspectRatio": "16:9", "imageSize": "2K"},
        "thinkingConfig": {"thinkingLevel": "HIGH"},
        "temperature": 0.5,
        "topP": 0.5,
        "seed": 7,
    }
    assert plain.body["generationConfig"] == config
    own_ratio = {"imageConfig": {"aspectRatio": "1:1", "imageSize": "2K"}, "seed": 0}
    assert own.body["generationConfig"] == config | own_ratio
    for call in server.calls:
        assert call.body["systemInstruction"]["parts"] == [{"text": "Draw in ink."}]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "lite", "image_size": "4K"}, "makes 1K only, got image_size='4K'"),
        ({"aspect_ratio": "7:5"}, "got aspect_ratio='7:5'"),
        ({"thinking": "deeply"}, "thinks minimal, medium or high, got thinking='deeply'"),
        ({"model": "a b"}, "not a model id: 'a b'"),
    ],
)
async def test_setting_of_the_run_that_cannot_be_raises_at_the_call(
    settings: dict[str, Any], message: str, client: GeminiClient
) -> None:
    with pytest.raises(ValueError, match=message):
        generate_images(client, PROMPTS, **settings)


async def test_setting_of_a_prompt_that_cannot_be_fails_it_alone_before_its_call(
    server: FakeGemini, client: GeminiClient, tmp_path: Path
) -> None:
    prompts = [Prompt("small", image_size="16K"), Prompt("fine"), Prompt("flat", model="pro")]
    async with generate_images(
        client, prompts, aspect_ratio="1:8", save_dir=tmp_path, ordered=True
    ) as outcomes:
        small, fine, flat = [outcome async for outcome in outcomes]
    assert isinstance(small, Failure)
    assert "makes 1K, 2K or 4K, got image_size='16K'" in str(small.error)
    assert isinstance(fine, Success)
    assert isinstance(flat, Failure)
    assert "got aspect_ratio='1:8'" in str(flat.error)
    assert server.stats.calls == 1


async def test_image_of_other_settings_is_another_image(
    server: FakeGemini, client: GeminiClient, tmp_path: Path
) -> None:
    every: list[dict[str, Any]] = [
        {},
        {"seed": 7},
        {"thinking": "high"},
        {"temperature": 0.5},
        {"system_instruction": "Draw in ink."},
        {"generation_config": {"topP": 0.5}},
        {"generation_config": {"topP": 0.6}},
    ]
    for resumed in (False, True):
        for settings in every:
            async with generate_images(
                client, ["a cat"], save_dir=tmp_path, **settings
            ) as outcomes:
                assert (await outcomes.receive()).unwrap().resumed is resumed
    assert server.stats.images == len({str(call.body) for call in server.calls}) == len(every)


async def test_further_images_of_an_answer_are_saved_and_found_again(tmp_path: Path) -> None:
    async with (
        FakeGemini(image_size=32, faults=[several_images(3)]) as server,
        GeminiClient("a-key", base_url=server.url) as client,
    ):
        seen = []
        for _ in range(2):
            async with generate_images(client, ["a cat"], save_dir=tmp_path) as outcomes:
                seen.append((await outcomes.receive()).unwrap())
    made, found = seen
    stem = made.path.stem
    assert [path.name for path in made.extras] == [f"{stem}-2.png", f"{stem}-3.png"]
    assert found.resumed
    assert (found.path, found.extras) == (made.path, made.extras)
    assert len({path.read_bytes() for path in (made.path, *made.extras)}) == 3
    assert len(images(tmp_path)) == 3


async def test_a_failure_of_one_prompt_leaves_the_others(tmp_path: Path) -> None:
    async with (
        FakeGemini(faults=[None, blocked("SAFETY")], image_size=32) as server,
        GeminiClient("a-key", base_url=server.url) as client,
        generate_images(client, PROMPTS, save_dir=tmp_path, max_concurrent=1) as outcomes,
    ):
        seen = [outcome async for outcome in outcomes]
    assert [type(outcome) for outcome in seen] == [Success, Failure] + [Success] * 10
    assert isinstance(seen[1].error, Blocked)  # type: ignore[union-attr]


async def test_batches_share_a_store(
    server: FakeGemini, client: GeminiClient, tmp_path: Path
) -> None:
    async with Store(tmp_path) as store, anyio.create_task_group() as group:

        async def run(prompts: list[str]) -> None:
            async with generate_images(client, prompts, store=store) as outcomes:
                assert {outcome.unwrap().path.parent async for outcome in outcomes} == {tmp_path}

        group.start_soon(run, PROMPTS[:6])
        group.start_soon(run, PROMPTS[6:])
    assert server.stats.images == len(images(tmp_path)) == 12


async def test_break_leaves_few_calls_and_nothing_half_written(tmp_path: Path) -> None:
    async with (
        FakeGemini(latency=0.01, image_size=32) as server,
        GeminiClient("a-key", base_url=server.url) as client,
    ):
        prompts = [f"prompt {index}" for index in range(40)]
        async with generate_images(client, prompts, save_dir=tmp_path) as outcomes:
            async for _ in outcomes:
                break
        assert server.stats.calls <= 11
    assert {path.suffix for path in tmp_path.iterdir()} == {".png", ".jsonl", ""}


async def test_what_has_been_paid_for_and_has_arrived_is_saved_whatever_is_cancelled(
    server: FakeGemini, client: GeminiClient, tmp_path: Path
) -> None:
    """Cancel on the very tick at which the answer is back."""
    scope = anyio.CancelScope()
    generate_image = client.generate_image

    async def cancelled_on_arrival(*args: Any, **options: Any) -> Image:
        image = await generate_image(*args, **options)
        scope.cancel()
        return image

    client.generate_image = cancelled_on_arrival  # type: ignore[method-assign]
    with scope:
        async with generate_images(client, PROMPTS, save_dir=tmp_path) as outcomes:
            async for _ in outcomes:
                pass
    assert scope.cancelled_caught
    assert 1 <= len(images(tmp_path)) <= server.stats.images <= 5


async def test_an_unusable_directory_is_told_before_any_call(
    server: FakeGemini, client: GeminiClient, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        async with generate_images(client, PROMPTS, save_dir=tmp_path / "file"):
            pass
    assert server.stats.calls == 0


async def test_bad_arguments_raise_at_the_call(client: GeminiClient, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not both"):
        generate_images(client, [], save_dir=tmp_path, store=Store(tmp_path))  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="not a single string"):
        generate_images(client, "a cup")
    with pytest.raises(ValueError, match="max_concurrent must be >= 1"):
        generate_images(client, [], max_concurrent=0)
    with pytest.raises(TypeError, match="a prompt must be a str or Prompt, got int"):
        async with generate_images(client, [7], save_dir=tmp_path) as outcomes:  # type: ignore[type-var]
            (await outcomes.receive()).unwrap()
