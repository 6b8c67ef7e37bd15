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
    Prompt,
    SavedImage,
    Store,
    StoreError,
    Success,
    generate_images,
)
from genbatch._image import sniff_mime_type
from genbatch.testing import FakeGemini, blocked

pytestmark = pytest.mark.anyio

PROMPTS = [f"a cup of tea, number {index}" for index in range(12)]


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
    assert len(list((tmp_path / "out").iterdir())) == len(PROMPTS)


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
    prompts = [Prompt("plain"), Prompt("own", model="pro", aspect_ratio="1:1")]
    async with generate_images(
        client, prompts, model="lite", aspect_ratio="16:9", image_size="2K", max_concurrent=1
    ) as outcomes:
        async for outcome in outcomes:
            outcome.unwrap()
    plain, own = server.calls
    assert (plain.model, own.model) == ("gemini-3.1-flash-lite-image", "gemini-3-pro-image")

    def image_config(call: Any) -> Any:
        return call.body["generationConfig"]["imageConfig"]

    assert image_config(plain) == {"aspectRatio": "16:9", "imageSize": "2K"}
    assert image_config(own) == {"aspectRatio": "1:1", "imageSize": "2K"}


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
    assert server.stats.images == len(list(tmp_path.iterdir())) == 12


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
    assert all(path.suffix == ".png" for path in tmp_path.iterdir())


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
    assert 1 <= len(list(tmp_path.iterdir())) <= server.stats.images <= 5


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
