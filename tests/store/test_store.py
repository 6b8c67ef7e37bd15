"""The store under event loops, with threads, cancellation and concurrent batches."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio import wait_all_tasks_blocked

from genbatch import (
    Blocked,
    Budget,
    GeminiClient,
    ImageRequest,
    Store,
    StoreError,
    TimedOut,
    Unavailable,
)
from genbatch._core import current_turn
from genbatch._core._waiting import Turn, Waits
from genbatch._run import Service
from genbatch._run._paid_call import PaidCalls, _Attempts
from genbatch._store import PendingImage
from genbatch._store import _files as files
from genbatch._store._archive import Archive
from genbatch._store._batch import Batch
from genbatch._store._plan import Plan
from genbatch._store._reports import export, verify
from support.archives import image
from support.backends import only_asyncio

pytestmark = pytest.mark.anyio

PROMPTS = [f"a cup, number {number}" for number in range(40)]


def account_of(pending: PendingImage, budget: Budget) -> _Attempts:
    """Return what the attempts of a call are paid from; no client is asked."""
    return _Attempts(PaidCalls(Service(GeminiClient), budget, None), "m", pending)


async def make(store: Store, plan: Plan, number: int = 0) -> None:
    async with store.pending(plan) as pending:
        await pending.save(image(number))


async def run(store: Store, prompts: list[str], *, whole: bool = True) -> list[Plan]:
    """Plan prompts one by one, make what is missing, and return the plans."""
    batch = store.batch()
    plans = []
    for index, prompt in enumerate(prompts):
        plan = await batch.plan(index, ImageRequest(prompt))
        if plan.saved is None and plan.error is None:
            await make(store, plan, index)
        plans.append(plan)
    await batch.end(whole=whole)
    return plans


def read(path: Path) -> bytes:
    return path.read_bytes()


async def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    return await anyio.to_thread.run_sync(function, *args)


async def test_a_run_resumes_what_another_made(tmp_path: Path) -> None:
    async with Store(tmp_path / "new" / "out") as store:
        await run(store, PROMPTS)
    async with Store(tmp_path / "new" / "out") as store:
        plans = await run(store, [*PROMPTS, "one more"])
    assert [plan.saved is not None for plan in plans] == [True] * 40 + [False]
    for index, plan in enumerate(plans[:40]):
        assert plan.saved is not None
        assert plan.saved.resumed
        assert await in_thread(read, plan.saved.path) == image(index).data


async def test_a_save_returns_what_is_on_disk(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        plan = await store.batch().plan(0, ImageRequest("a cup"))
        extra = image(1, mime_type="image/jpeg")
        async with store.pending(plan) as pending:
            saved = await pending.save(image(0, text="Here", extras=(extra,)))
        assert await in_thread(read, saved.path) == image(0).data
        assert [path.name for path in saved.extras] == [f"{plan.stem}-2.jpg"]
        assert (saved.cost, saved.model, saved.text, saved.resumed) == (0.5, "m", "Here", False)


async def test_results_are_written_when_the_store_is_left(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        await run(store, PROMPTS[:3])
    lines = (await in_thread(read, tmp_path / "results.jsonl")).splitlines()
    assert [json.loads(line)["prompt"] for line in lines] == PROMPTS[:3]
    assert [json.loads(line) for line in lines] == await in_thread(lambda: list(export(tmp_path)))


@pytest.mark.parametrize("content", ['{"prompt": "mine"}\n', "no JSON", "[1]"])
async def test_results_of_others_are_left_alone(tmp_path: Path, content: str) -> None:
    await in_thread((tmp_path / "results.jsonl").write_text, content)
    async with Store(tmp_path) as store:
        await run(store, PROMPTS[:3])
    assert (await in_thread(read, tmp_path / "results.jsonl")).decode() == content


@pytest.mark.parametrize("prompt", ["prompt {}", "the same"])
async def test_a_resumed_run_asks_the_journal_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prompt: str
) -> None:
    prompts = [prompt.format(number) for number in range(400)]
    async with Store(tmp_path) as store:
        batch = store.batch()
        for index, prompt in enumerate(prompts):
            await batch.plan(index, ImageRequest(prompt))
        await batch.end(whole=True)
    asked = []
    plan = Archive.plan
    monkeypatch.setattr(Archive, "plan", lambda *args: asked.append(args) or plan(*args))
    async with Store(tmp_path) as store:
        await run_unmade(store, ["new", *prompts[:200], "new too", *prompts[200:]])
    assert len(asked) < 16
    rows = await in_thread(lambda: list(export(tmp_path)))
    assert [row["index"] for row in rows] == [400, *range(200), 401, *range(200, 400)]


async def run_unmade(store: Store, prompts: list[str]) -> list[Plan]:
    batch = store.batch()
    plans = [await batch.plan(index, ImageRequest(prompt)) for index, prompt in enumerate(prompts)]
    await batch.end(whole=True)
    return plans


async def test_equal_prompts_keep_their_images_in_any_order(tmp_path: Path) -> None:
    first = ["a", "same", "b", "same", "c", "same"]
    async with Store(tmp_path) as store:
        await run(store, first)
    for order in (first, ["same"] * 3 + ["a", "b", "c"], ["c", "same", "a", "same", "b", "same"]):
        async with Store(tmp_path) as store:
            plans = await run_unmade(store, order)
            assert all(plan.saved is not None for plan in plans)
            assert len({plan.key for plan in plans}) == 6


async def test_what_was_planned_already_is_not_foreseen_again(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        await run(store, ["a cup", "same"])
    async with Store(tmp_path) as store:
        plans = await run_unmade(store, ["same", "a cup", "same"])
    assert [plan.saved is not None for plan in plans] == [True, True, False]
    assert len({plan.key for plan in plans}) == 3


async def test_what_was_planned_during_a_look_is_not_foreseen_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, go_on = threading.Event(), threading.Event()
    plan = Archive.plan

    def slow(*args: Any) -> Any:
        following = plan(*args)
        looked.set()
        assert go_on.wait(5)
        return following

    async with Store(tmp_path) as store:
        await run_unmade(store, PROMPTS)
    async with Store(tmp_path) as store, anyio.create_task_group() as tasks:
        batch = store.batch()
        await batch.plan(0, ImageRequest(PROMPTS[10]))  # previews what follows it
        monkeypatch.setattr(Archive, "plan", slow)
        tasks.start_soon(batch.plan, 1, ImageRequest(PROMPTS[5]))
        await in_thread(looked.wait, 5)
        first = await batch.plan(2, ImageRequest(PROMPTS[11]))
        go_on.set()
        while batch._asking:
            await anyio.lowlevel.checkpoint()
        second = await batch.plan(3, ImageRequest(PROMPTS[11]))
    assert first.key != second.key


async def test_a_look_that_fails_loses_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Store(tmp_path) as store:
        await run_unmade(store, PROMPTS)
    async with Store(tmp_path) as store:
        batch = store.batch()
        for index in range(5):
            await batch.plan(index, ImageRequest(PROMPTS[index]))
        with monkeypatch.context() as patch:
            patch.setattr(Archive, "plan", lambda *args: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                await batch.plan(5, ImageRequest("new"))
        await batch.end(whole=True)
    rows = await in_thread(lambda: list(export(tmp_path)))
    assert [row["prompt"] for row in rows] == PROMPTS[:5]


async def test_changed_metadata_reaches_the_journal_of_a_resumed_run(tmp_path: Path) -> None:
    for value in (1, 2):
        async with Store(tmp_path) as store:
            batch = store.batch()
            for index, prompt in enumerate(PROMPTS):
                await batch.plan(index, ImageRequest(prompt, metadata={"row": value + index}))
            await batch.end(whole=True)
    rows = await in_thread(lambda: list(export(tmp_path)))
    assert [row["metadata"] for row in rows] == [{"row": 2 + index} for index in range(40)]


async def test_prompts_planned_at_once_share_a_look_into_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    plan = Archive.plan

    def counted(self: Archive, batch: int, namespace: str, wanted: list[Any], *rest: Any) -> Any:
        asked.append(len(wanted))
        return plan(self, batch, namespace, wanted, *rest)

    monkeypatch.setattr(Archive, "plan", counted)
    async with Store(tmp_path) as store, anyio.create_task_group() as tasks:
        batch = store.batch()
        for index, prompt in enumerate(PROMPTS):
            tasks.start_soon(batch.plan, index, ImageRequest(prompt))
    assert sum(asked) == len(PROMPTS)
    assert len(asked) <= 3


async def test_an_error_of_the_journal_reaches_each_that_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def plan(*args: Any) -> None:
        raise StoreError("full")

    monkeypatch.setattr(Archive, "plan", plan)
    errors: list[StoreError] = []

    async def one(batch: Batch, index: int) -> None:
        with pytest.raises(StoreError, match="full") as caught:
            await batch.plan(index, ImageRequest(PROMPTS[index]))
        errors.append(caught.value)

    async with Store(tmp_path) as store, anyio.create_task_group() as tasks:
        batch = store.batch()
        for index in range(5):
            tasks.start_soon(one, batch, index)
    assert len({id(error) for error in errors}) == 5


async def test_input_images_are_a_part_of_the_key_by_their_content(tmp_path: Path) -> None:
    path = tmp_path / "in.gif"
    prompt = ImageRequest("a cup", images=(path,))
    async with Store(tmp_path / "out") as store:
        await in_thread(path.write_bytes, b"GIF89a one")
        before = await store.batch().plan(0, prompt)
        await in_thread(path.write_bytes, b"GIF89a two")
        after = await store.batch().plan(0, prompt)
        await in_thread(path.unlink)
        with pytest.raises(FileNotFoundError):
            await store.batch().plan(0, prompt)
    assert before.key != after.key


async def test_a_disk_that_takes_no_order_does_not_end_a_batch_badly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise StoreError("full")

    async with Store(tmp_path) as store:
        batch = store.batch()
        await batch.plan(0, ImageRequest("a cup"))
        monkeypatch.setattr(Archive, "end_batch", full)
        await batch.end(whole=True)


async def test_a_prompt_whose_row_cannot_be_written_is_not_planned(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        batch, journal = store.batch(), store.archive.journal
        await batch.plan(0, ImageRequest("a cup"))
        sql = journal._connection.execute
        (pages,) = await in_thread(lambda: sql("PRAGMA page_count").fetchone())
        await in_thread(sql, f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreError, match="disk is full"):
            await batch.plan(1, ImageRequest("a mug" * 20_000))
        await in_thread(sql, "PRAGMA max_page_count = 1000000")
        plan = await batch.plan(1, ImageRequest("a mug" * 20_000))
        await make(store, plan)


async def test_a_store_that_is_left_waits_for_the_calls_that_run(tmp_path: Path) -> None:
    saved: list[str] = []
    begun, go_on = anyio.Event(), anyio.Event()

    async def call(store: Store) -> None:
        plan = await store.batch().plan(0, ImageRequest("a cup"))
        async with store.pending(plan) as pending:
            begun.set()
            await go_on.wait()
            saved.append((await pending.save(image())).path.name)

    async def set_later() -> None:
        await wait_all_tasks_blocked()
        go_on.set()

    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            async with Store(tmp_path) as store:
                tasks.start_soon(call, store)
                await begun.wait()
                scope.cancel()
                tasks.start_soon(set_later)
    assert [row["file"] for row in await in_thread(lambda: list(export(tmp_path)))] == saved


async def test_an_error_of_the_call_is_noted(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        plan = await store.batch().plan(0, ImageRequest("a cup"))
        with pytest.raises(Blocked):
            async with store.pending(plan):
                raise Blocked("no", reason="SAFETY")
    async with Store(tmp_path) as store:
        again = await store.batch().plan(0, ImageRequest("a cup"))
    assert isinstance(again.error, Blocked)


async def test_a_cancelled_call_counts_as_possibly_paid(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        plan = await store.batch().plan(0, ImageRequest("a cup"))
        with anyio.CancelScope() as scope:
            async with store.pending(plan) as pending, account_of(pending, Budget()).attempt(0.25):
                scope.cancel()
                await anyio.lowlevel.checkpoint()
        assert await store.spent() == (0.0, 0.25, 0, 1)


async def test_every_attempt_that_may_have_been_paid_is_counted_and_no_other(
    tmp_path: Path,
) -> None:
    """The first is lost and the second refused, the third brings the image."""
    budget = Budget()
    async with Store(tmp_path) as store:
        plan = await store.batch().plan(0, ImageRequest("a cup"))
        async with store.pending(plan) as pending:
            account = account_of(pending, budget)
            assert await store.spent() == (0.0, 0.0, 0, 0)  # a call that waits costs nothing
            with pytest.raises(TimedOut):
                async with account.attempt(0.25):
                    assert await store.spent() == (0.0, 0.25, 0, 1)
                    raise TimedOut("slow", maybe_paid=True)
            with pytest.raises(Unavailable):
                async with account.attempt(0.25):
                    assert await store.spent() == (0.0, 0.5, 0, 2)
                    raise Unavailable("down")
            assert await store.spent() == (0.0, 0.25, 0, 1)
            async with account.attempt(0.25) as attempt:
                attempt.failed(Blocked("no"))  # an answer without an image, returned
            assert await store.spent() == (0.0, 0.25, 0, 1)
            async with account.attempt(0.25) as attempt:
                attempt.paid(0.5)
            await pending.save(image())
        spent = await store.spent()
    assert spent == (0.5, 0.25, 1, 1)
    assert spent == (budget.spent, budget.maybe_spent, budget.images, budget.maybe_images)


async def test_an_attempt_without_a_row_is_not_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise StoreError("full")

    budget = Budget()
    async with Store(tmp_path) as store:
        plan = await store.batch().plan(0, ImageRequest("a cup"))
        async with store.pending(plan) as pending:
            account = account_of(pending, budget)
            with pytest.raises(TimedOut):
                async with account.attempt(0.25):
                    raise TimedOut("slow", maybe_paid=True)
            with monkeypatch.context() as patch:
                patch.setattr(Archive, "send", full)
                with pytest.raises(StoreError, match="full"):
                    async with account.attempt(0.25):
                        raise AssertionError
            spent = await store.spent()
    assert spent == (0.0, 0.25, 0, 1)
    assert spent == (budget.spent, budget.maybe_spent, budget.images, budget.maybe_images)


async def test_an_image_is_saved_though_its_scope_is_cancelled(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        plan = await store.batch().plan(0, ImageRequest("a cup"))
        with anyio.CancelScope() as scope:
            async with store.pending(plan) as pending:
                scope.cancel()
                await pending.save(image())
        again = await store.batch().plan(0, ImageRequest("a cup"))
    assert again.saved is not None


@only_asyncio
@pytest.mark.parametrize("when", ["before", "in the thread", "twice"])
async def test_an_image_is_saved_though_its_task_is_cancelled(
    tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A native cancel() goes through every shield, and may strike before the thread has begun."""
    import asyncio

    begun, go_on = threading.Event(), threading.Event()
    publish = files.publish

    def slow(*args: Any) -> str:
        begun.set()
        assert go_on.wait(5)
        return publish(*args)

    monkeypatch.setattr(files, "publish", slow)
    async with Store(tmp_path) as store:
        plan = await store.batch().plan(0, ImageRequest("a cup"))

        async def save() -> None:
            async with store.pending(plan) as pending:
                if when != "in the thread":
                    task.cancel()
                await pending.save(image())

        task = asyncio.create_task(save())
        await in_thread(begun.wait, 5)
        if when != "before":
            task.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await store.batch().plan(0, ImageRequest("a cup"))).saved is not None
        assert (await store.spent()).maybe_images == 0


@only_asyncio
async def test_a_cancelled_task_leaves_those_that_wait_with_it_unharmed(tmp_path: Path) -> None:
    import asyncio

    async with Store(tmp_path) as store:
        batch = store.batch()
        tasks = [
            asyncio.create_task(batch.plan(index, ImageRequest(prompt)))
            for index, prompt in enumerate(PROMPTS)
        ]
        await anyio.lowlevel.checkpoint()
        for task in tasks[::3]:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(each, Plan) for each in done) >= 26


async def test_a_store_can_be_opened_under_cancellation(tmp_path: Path) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with Store(tmp_path):
            await anyio.lowlevel.checkpoint()
    async with Store(tmp_path):
        pass  # nobody holds it


async def test_two_batches_that_want_one_image_pay_once(tmp_path: Path) -> None:
    paid: list[int] = []

    async def batch_of(store: Store, number: int) -> None:
        plan = await store.batch().plan(0, ImageRequest("a cup"))
        async with store.pending(plan) as pending:
            if isinstance(pending, PendingImage):
                paid.append(number)
                await anyio.lowlevel.checkpoint()
                await pending.save(image(number))
            else:
                assert pending.resumed

    async with Store(tmp_path) as store, anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(batch_of, store, number)
    assert len(paid) == 1


async def test_twenty_batches_at_once_share_a_store(tmp_path: Path) -> None:
    made: list[str] = []

    async def one(store: Store, number: int) -> None:
        with anyio.CancelScope() as scope:
            batch = store.batch(f"tenant-{number}")
            for index, prompt in enumerate(PROMPTS[:6]):
                if number % 4 == 3 and index == 3:
                    scope.cancel()
                plan = await batch.plan(index, ImageRequest(prompt))
                async with store.pending(plan) as pending:
                    made.append((await pending.save(image(number))).path.name)

    async with Store(tmp_path) as store, anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(one, store, number)
    assert len(made) == len(set(made))
    assert len(made) == 15 * 6 + 5 * 3
    assert await in_thread(lambda: list(verify(tmp_path))) == []


async def test_further_takes_and_picks_go_through_the_store(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        await run(store, PROMPTS[:2])
        plan, request = await store.further(1, text="another")
        assert (request.text, request.options) == ("another", {})
        await make(store, plan, 9)
        await store.pick(1, 2)
    rows = await in_thread(lambda: list(export(tmp_path)))
    assert [row["take"] for row in rows] == [1, 2]


async def test_misuse_is_told(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(RuntimeError, match="not open"):
        await store.spent()
    with pytest.raises(RuntimeError, match="not open"):
        store.batch()
    with pytest.raises(ValueError, match="name template"):
        Store(tmp_path, name="{colour}")
    async with store:
        with pytest.raises(RuntimeError, match="open already"):
            await store.__aenter__()
        plan = await store.batch().plan(0, ImageRequest("a cup"))
        async with store.pending(plan) as pending:
            await pending.save(image())
            with pytest.raises(RuntimeError, match="saved already"):
                await pending.save(image())
        with pytest.raises(StoreError, match="in use"):
            await Store(tmp_path).__aenter__()
    async with store:
        assert (await store.spent()).images == 1


@pytest.mark.parametrize("kind", ["file", "below a file"])
async def test_an_unusable_directory_is_one_clear_error(tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_text("")
    directory = tmp_path / "file" if kind == "file" else tmp_path / "file" / "out"
    with pytest.raises(StoreError, match="cannot save images in"):
        async with Store(directory):
            pass


def test_a_store_may_be_made_before_any_loop_and_used_in_two(tmp_path: Path) -> None:
    store = Store(tmp_path)

    async def once() -> list[Plan]:
        async with store:
            return await run(store, PROMPTS[:3])

    assert all(plan.saved is None for plan in anyio.run(once))
    assert all(plan.saved is not None for plan in anyio.run(once, backend="trio"))


async def test_what_a_worker_waited_before_a_call_does_not_shorten_it(tmp_path: Path) -> None:
    turn = Turn(Waits())
    turn.seconds = 3600.0
    token = current_turn.set(turn)
    try:
        async with Store(tmp_path / "out") as store:
            await run(store, PROMPTS[:1])
    finally:
        current_turn.reset(token)
    rows = await anyio.to_thread.run_sync(lambda: list(export(tmp_path / "out")))
    assert rows[0]["elapsed"] >= 0
