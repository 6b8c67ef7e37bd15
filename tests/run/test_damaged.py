"""Images that come cut off or fake: paid for, kept aside, and not asked for again unasked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from genbatch import (
    Budget,
    DamagedImage,
    Failure,
    GeminiClient,
    ImageRequest,
    InvalidResponse,
    Prompt,
    Store,
    StoreError,
    Success,
    generate_images,
)
from genbatch._run import make_takes, plan_takes
from genbatch._store import _files as files
from genbatch._store._reports import Status, export, status
from genbatch.gemini import reserved_price, resolve
from genbatch.testing import Call, FakeGemini, Fault, bad_base64, bad_key, not_an_image
from support.archives import begin, opened, plan_all
from support.backends import only_asyncio
from support.batch_runs import client_of, errors, kinds, run, spent_in, submitted

pytestmark = pytest.mark.anyio

CUT = b"\x89PNG\r\n\x1a\n" + b"the first half of a picture"
IMAGE = reserved_price(resolve(ImageRequest("a cup"))) or 0.0


@pytest.fixture
async def server() -> AsyncIterator[FakeGemini]:
    async with FakeGemini(faults=[not_an_image(CUT)], image_size=8) as server:
        yield server


def kept_in(directory: Path) -> list[Path]:
    return sorted((directory / "damaged").glob("*"))


async def status_of(directory: Path) -> Status:
    return await anyio.to_thread.run_sync(status, directory)


async def rows_of(directory: Path) -> list[dict[str, Any]]:
    return await anyio.to_thread.run_sync(lambda: list(export(directory)))


async def outcome_of(
    server: FakeGemini, directory: Path, prompt: str | Prompt = "a cup", **options: Any
) -> Any:
    retry_failed = options.pop("retry_failed", False)
    async with (
        client_of(server) as client,
        Store(directory, retry_failed=retry_failed) as store,
        generate_images(client, [prompt], store=store, **options) as outcomes,
    ):
        return await outcomes.receive()


async def test_what_came_is_in_the_folder_before_the_outcome_is_seen(
    server: FakeGemini, tmp_path: Path
) -> None:
    async with (
        client_of(server) as client,
        generate_images(client, ["a cup", "a mug"], save_dir=tmp_path, max_concurrent=1) as stream,
    ):
        outcome = await stream.receive()
        assert isinstance(outcome, Failure)
        assert isinstance(outcome.error, DamagedImage)
        assert isinstance(outcome.error, InvalidResponse)
        (file,) = kept_in(tmp_path)
        assert file.read_bytes() == CUT
        assert file.suffix == ".png"
        assert outcome.error.file == f"damaged/{file.name}"
        end = f"it is cut off; what came is kept as damaged/{file.name}"
        assert str(outcome.error).endswith(end)
        assert isinstance(await stream.receive(), Success)
    row, _ = await rows_of(tmp_path)
    assert row["status"] == "failed"
    assert row["error"]["kind"] == "DamagedImage"
    assert f"damaged/{file.name}" in row["error"]["message"]
    assert file.name.startswith(f"{row['key']}-")
    assert f"damaged/{file.name}" in (tmp_path / "results.jsonl").read_text()
    assert (await status_of(tmp_path)).failed == {"DamagedImage": 1}


async def test_what_is_no_base64_is_kept_as_it_came(tmp_path: Path) -> None:
    async with FakeGemini(faults=[bad_base64()]) as server:
        outcome = await outcome_of(server, tmp_path)
    (file,) = kept_in(tmp_path)
    assert file.suffix == ".bin"
    assert file.read_bytes() == outcome.error.data


@pytest.mark.parametrize("own", [None, 0.5])
async def test_it_counts_as_paid(server: FakeGemini, tmp_path: Path, own: float | None) -> None:
    budget = Budget()
    await outcome_of(server, tmp_path, budget=budget, price=own)
    spent = (await status_of(tmp_path)).spent
    cost = IMAGE if own is None else own
    assert (spent.images, spent.maybe_images, spent.maybe_usd) == (1, 0, 0.0)
    assert spent.usd == pytest.approx(cost)
    assert (budget.images, budget.maybe_images, budget.maybe_spent) == (1, 0, 0.0)
    assert budget.spent == pytest.approx(cost)


async def test_it_costs_what_the_answer_says(tmp_path: Path) -> None:
    usage = {"promptTokenCount": 10, "candidatesTokenCount": 1120, "totalTokenCount": 1130}

    def cut(answer: dict[str, Any]) -> dict[str, Any]:
        answer["usageMetadata"] = usage
        for part in answer["candidates"][0]["content"]["parts"]:
            if "inlineData" in part:
                part["inlineData"]["data"] = part["inlineData"]["data"][:40]
        return answer

    budget = Budget()
    async with FakeGemini(faults=[Fault(edit=cut)], image_size=8) as server:
        outcome = await outcome_of(server, tmp_path, budget=budget)
    assert outcome.error.cost == pytest.approx(0.033615)
    assert budget.spent == pytest.approx(outcome.error.cost)
    assert (await status_of(tmp_path)).spent.usd == pytest.approx(outcome.error.cost)


@pytest.mark.parametrize("asked", [True, {"DamagedImage"}])
async def test_it_is_asked_for_again_only_on_request(
    server: FakeGemini, tmp_path: Path, asked: Any
) -> None:
    for retry_failed in (False, False, {"Blocked"}):
        outcome = await outcome_of(server, tmp_path, retry_failed=retry_failed)
        assert isinstance(outcome.error, DamagedImage)
        assert kept_in(tmp_path)[0].name in str(outcome.error)
        assert server.stats.calls == 1
    assert isinstance(await outcome_of(server, tmp_path, retry_failed=asked), Success)
    assert server.stats.calls == 2
    assert len(kept_in(tmp_path)) == 1
    found = await status_of(tmp_path)
    assert (found.done, found.failed, found.spent.images) == (1, {}, 2)


async def test_each_attempt_has_a_file_of_its_own(tmp_path: Path) -> None:
    faults = [not_an_image(CUT + bytes([number])) for number in range(3)]
    async with FakeGemini(faults=faults) as server:
        for _ in faults:
            await outcome_of(server, tmp_path, retry_failed=True)
    assert sorted(file.read_bytes()[-1] for file in kept_in(tmp_path)) == [0, 1, 2]
    assert (await status_of(tmp_path)).spent.images == 3


async def test_a_further_take_keeps_it_too(server: FakeGemini, tmp_path: Path) -> None:
    async with FakeGemini(faults=[None, not_an_image(CUT)], image_size=8) as server:
        await outcome_of(server, tmp_path)
        async with client_of(server) as client, Store(tmp_path) as store:
            takes = await plan_takes(client, store, [0])
            async with make_takes(client, store, takes) as outcomes:
                outcome = await outcomes.receive()
    assert isinstance(outcome, Failure)
    (file,) = kept_in(tmp_path)
    assert file.read_bytes() == CUT
    assert file.name in str(outcome.error)
    found = await status_of(tmp_path)
    assert (found.done, found.failed) == (1, {})
    assert (found.spent.images, found.spent.maybe_images) == (2, 0)


async def test_cancelled_scope_does_not_take_it(
    server: FakeGemini, tmp_path: Path, at_last_byte: Callable[[Callable[[], object]], None]
) -> None:
    with anyio.CancelScope() as scope:
        at_last_byte(scope.cancel)
        await outcome_of(server, tmp_path)
    assert scope.cancelled_caught
    assert [file.read_bytes() for file in kept_in(tmp_path)] == [CUT]
    assert (await status_of(tmp_path)).failed == {"DamagedImage": 1}


@only_asyncio
async def test_native_cancel_does_not_take_it(
    server: FakeGemini, tmp_path: Path, at_last_byte: Callable[[Callable[[], object]], None]
) -> None:
    task = asyncio.current_task()
    assert task is not None
    at_last_byte(task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await outcome_of(server, tmp_path)
    task.uncancel()
    assert [file.read_bytes() for file in kept_in(tmp_path)] == [CUT]
    assert (await status_of(tmp_path)).failed == {"DamagedImage": 1}


async def test_where_the_disk_is_full_it_is_kept_in_memory(
    server: FakeGemini, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = files.publish

    def full(directory: Path, *args: Any) -> str:
        raise StoreError("no space left")

    async with client_of(server) as client, Store(tmp_path) as store:
        monkeypatch.setattr(files, "publish", full)
        async with generate_images(client, ["a cup"], store=store) as outcomes:
            outcome = await outcomes.receive()
        assert isinstance(outcome, Failure)
        assert isinstance(outcome.error, StoreError)
        assert kept_in(tmp_path) == []
        monkeypatch.setattr(files, "publish", publish)
    assert [file.read_bytes() for file in kept_in(tmp_path)] == [CUT]
    found = await status_of(tmp_path)
    assert (found.failed, found.spent.images) == ({"DamagedImage": 1}, 1)


def test_a_run_killed_before_its_row_is_taken_up(tmp_path: Path) -> None:
    with opened(tmp_path) as archive:
        (plan,) = plan_all(archive, ["a cup"])
        call = begin(archive, plan)
        error = DamagedImage("cut off")
        error.data = CUT
        archive.keep_damaged(call, error)
    for _ in range(2):
        with opened(tmp_path) as archive:
            (plan,) = plan_all(archive, ["a cup"])
            spent = archive.spent()
        assert isinstance(plan.error, DamagedImage)
        assert str(error.file) in str(plan.error)
        assert (spent.images, spent.usd, spent.maybe_images) == (1, 0.25, 0)


async def test_a_job_keeps_it_and_no_live_call_makes_it_again(tmp_path: Path) -> None:
    budget = Budget()
    async with FakeGemini(faults=[not_an_image(CUT)], image_size=8) as fake:
        outcomes = await run(fake, tmp_path, ["a cup", "a mug"], budget=budget, live=True)
        assert kinds(outcomes) == {"DamagedImage": 1, "image": 1}
        assert fake.stats.images == 1
        assert kinds(await run(fake, tmp_path, ["a cup", "a mug"])) == kinds(outcomes)
        assert set(submitted(fake).values()) == {1}
    (file,) = kept_in(tmp_path)
    (error,) = errors(outcomes)
    assert file.read_bytes() == CUT
    assert file.name in str(error)
    spent = await spent_in(tmp_path)
    assert (spent.images, spent.maybe_images) == (2, 0)
    assert spent.usd == pytest.approx((IMAGE + 0.0336) / 2, rel=0.01)
    assert (budget.images, budget.maybe_images) == (2, 0)
    assert budget.spent == pytest.approx(spent.usd)


async def test_client_does_not_ask_again(server: FakeGemini) -> None:
    async with GeminiClient("a-key", base_url=server.url) as client:
        with pytest.raises(DamagedImage) as caught:
            await client.generate_image("a cup")
    assert caught.value.data == CUT
    assert caught.value.maybe_paid
    assert server.stats.calls == 1


async def test_what_comes_damaged_after_a_stop_is_kept_as_well(tmp_path: Path) -> None:
    def fault(call: Call) -> Fault:
        return bad_key() if "refused" in call.prompt else not_an_image(CUT)

    def latency(call: Call) -> float:
        return 0.0 if "refused" in call.prompt else 0.3

    async with (
        FakeGemini(faults=fault, latency=latency, image_size=8) as fake,
        GeminiClient("a-key", base_url=fake.url) as client,
        generate_images(
            client, ["a cup", "refused", "a mug"], save_dir=tmp_path, max_concurrent=2
        ) as outcomes,
    ):
        found = kinds([outcome async for outcome in outcomes])
    assert found == {"DamagedImage": 1, "Unauthorized": 2}
    (file,) = kept_in(tmp_path)
    assert file.read_bytes() == CUT
