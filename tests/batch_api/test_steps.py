"""A run that is left between any two steps of a job: no prompt is in two jobs, nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from genbatch import batch_api
from genbatch.batch_api._collect import Results
from genbatch.batch_api._journal import Jobs, Spool
from genbatch.batch_api._service import BatchService
from genbatch.testing import FakeGemini, Fault, JobFault, html_page, rate_limited, reset
from support.backends import BACKENDS, until
from support.batch_runs import (
    POLL,
    check_whole,
    client_of,
    each_line,
    errors,
    images,
    jobs_in,
    kinds,
    prompts,
    run,
    run_with,
    spent_in,
    submitted,
)

pytestmark = pytest.mark.anyio

# In threads, then in tasks; of note, there are two that matter: of the file and of the name.
BLOCKING: list[tuple[type[Any], str, int]] = [
    (Spool, "write", 2),
    (Jobs, "add", 1),
    (Jobs, "note", 1),
    (Jobs, "note", 2),
    (Jobs, "pending", 1),
    (Results, "take", 1),
    (Results, "take", 2),
    (Jobs, "finish", 1),
]
AWAITED: list[tuple[type[Any], str, int]] = [
    (BatchService, "upload", 1),
    (BatchService, "create", 1),
    (BatchService, "look", 1),
    (BatchService, "delete", 1),
]
STEPS = [(*step, moment) for step in BLOCKING + AWAITED for moment in ("before", "after")]


def leave_at(
    monkeypatch: pytest.MonkeyPatch,
    scope: anyio.CancelScope,
    step: tuple[type[Any], str, int, str],
) -> None:
    """Cancel a scope at a step; what does not notice runs on to its next checkpoint."""
    owner, name, number, moment = step
    original = getattr(owner, name)
    calls = 0

    def is_now(which: str) -> bool:
        return calls == number and which == moment

    def blocking(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if is_now("before"):
            anyio.from_thread.run_sync(scope.cancel)
        result = original(*args, **kwargs)
        if is_now("after"):
            anyio.from_thread.run_sync(scope.cancel)
        return result

    async def awaited(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if is_now("before"):
            scope.cancel()
            await anyio.lowlevel.checkpoint()
        result = await original(*args, **kwargs)
        if is_now("after"):
            scope.cancel()
            await anyio.lowlevel.checkpoint()
        return result

    monkeypatch.setattr(owner, name, blocking if owner is not BatchService else awaited)


@pytest.mark.parametrize(
    ("anyio_backend", "step"),
    [  # on one backend each, in turn
        pytest.param(backend, step, id=f"{name}-{step[3]} {step[1]} {step[2]}")
        for (name, backend), step in zip(cycle(BACKENDS.items()), STEPS, strict=False)
    ],
)
async def test_leaving_at_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: tuple[type[Any], str, int, str]
) -> None:
    monkeypatch.setattr("genbatch.batch_api._collect._MOST_LINES", 2)
    async with FakeGemini(image_size=4) as fake:
        with monkeypatch.context() as patch:
            with anyio.CancelScope() as scope:
                leave_at(patch, scope, step)
                await run(fake, tmp_path, prompts(4))
            assert scope.cancel_called
        assert kinds(await run(fake, tmp_path, prompts(4))) == {"image": 4}
        await check_whole(fake, tmp_path, 4)


async def test_a_prompt_waits_for_the_job_that_an_earlier_run_left(tmp_path: Path) -> None:
    """Also where others have come into the input, and it stands elsewhere."""
    async with FakeGemini(image_size=4, job_latency=0.3) as fake:
        await leave_when(fake, tmp_path, 3)
        outcomes = await run(fake, tmp_path, ["another", *reversed(prompts(3))])
        assert kinds(outcomes) == {"image": 4}
        assert [len(job.keys) for job in fake.jobs] == [3, 1]
        await check_whole(fake, tmp_path, 4)


async def leave_when(fake: FakeGemini, directory: Path, count: int, state: str = "PENDING") -> None:
    """Leave a run as soon as its job is in a state."""
    with anyio.CancelScope() as scope:

        def watch(line: str) -> None:
            if state.lower() in line:
                scope.cancel()

        await run(fake, directory, prompts(count), watch=watch)
    assert scope.cancelled_caught


async def test_what_nobody_asks_for_any_more_is_saved_too(tmp_path: Path) -> None:
    async with FakeGemini(image_size=4) as fake:
        await leave_when(fake, tmp_path, 3)
        outcomes = await run(fake, tmp_path, prompts(1))
        assert kinds(outcomes) == {"image": 1}
        await check_whole_of_all(fake, tmp_path)


async def check_whole_of_all(fake: FakeGemini, directory: Path) -> None:
    assert set(submitted(fake).values()) == {1}
    assert len(list(directory.glob("*.png"))) == fake.stats.images
    spent = await spent_in(directory)
    assert (spent.images, spent.maybe_images) == (fake.stats.images, 0)


async def test_a_job_that_was_cancelled_meanwhile_frees_its_prompts(tmp_path: Path) -> None:
    async with FakeGemini(image_size=4, job_latency=lambda job: 60 if job.number == 1 else 0) as (
        fake
    ):
        await leave_when(fake, tmp_path, 2)
        async with client_of(fake) as client:
            batch = batch_api.generate_images(client, prompts(2), save_dir=tmp_path, poll=POLL)
            async with batch as outcomes:
                await until(lambda: outcomes.progress.waiting == 2)
                [job] = await batch_api.cancel(client, tmp_path)
                got = [each async for each in outcomes]
            assert job.name == fake.jobs[0].name
            assert "ended as CANCELLED" in str(errors(got)[0])
            assert kinds(await run_with(client, tmp_path, prompts(2))) == {"image": 2}


async def test_only_jobs_that_go_on_can_be_cancelled(tmp_path: Path) -> None:
    async with FakeGemini(image_size=4) as fake, client_of(fake) as client:
        assert await batch_api.cancel(client, tmp_path) == []
        await run_with(client, tmp_path, prompts(1))
        for names in (["batches/none"], [fake.jobs[0].name]):
            with pytest.raises(ValueError, match=f"has no running job '{names[0]}'"):
                await batch_api.cancel(client, tmp_path, names)
        assert await batch_api.cancel(client, tmp_path) == []


NASTY = {
    "an error after it was created": Fault(status=500, late=True),
    "an error before": Fault(status=503),
    "a 429 after it was created": Fault(status=429, late=True),
    "a 429 before": rate_limited(1),
    "a refusal after it was created": Fault(status=400, late=True),
    "a page of a front end after it was created": Fault(
        status=502, body="<html>", late=True, headers={"content-type": "text/html"}
    ),
    "half an answer": Fault(truncate=10),
    "no answer": reset(0),
    "no connection": reset(),
    "garbage": html_page(),
}


@pytest.mark.parametrize(
    ("anyio_backend", "fault"),
    [
        pytest.param(backend, fault, id=f"{name}-{what}")
        for (name, backend), (what, fault) in zip(
            cycle(BACKENDS.items()), NASTY.items(), strict=False
        )
    ],
)
async def test_a_create_that_goes_wrong_makes_no_second_job(tmp_path: Path, fault: Fault) -> None:
    async with FakeGemini(image_size=4, control_faults={"create_batch": [fault]}) as fake:
        assert kinds(await run(fake, tmp_path, prompts(3))) == {"image": 3}
        await check_whole(fake, tmp_path, 3)


async def test_a_create_is_not_made_again_before_it_is_known_what_became_of_it(
    tmp_path: Path,
) -> None:
    faults = {
        "create_batch": [Fault(status=500, late=True)],
        "list_batches": [Fault(status=503)] * 4,
    }
    async with FakeGemini(image_size=4, control_faults=faults) as fake:
        outcomes = await run(fake, tmp_path, prompts(3), window=2)
        assert kinds(outcomes) == {"Unavailable": 2, "image": 1}
        assert sorted(submitted(fake).values()) == [1, 1, 1]
        assert [job.ended is None for job in await jobs_in(tmp_path)] == [True, False]
        assert kinds(await run(fake, tmp_path, prompts(3))) == {"image": 3}
        await check_whole(fake, tmp_path, 3)


async def test_a_job_that_was_never_created_frees_its_prompts(tmp_path: Path) -> None:
    faults = {"create_batch": [reset()], "list_batches": [Fault(status=503)] * 4}
    async with FakeGemini(image_size=4, control_faults=faults) as fake:
        assert kinds(await run(fake, tmp_path, prompts(2))) == {"Unavailable": 2}
        assert (await spent_in(tmp_path)).maybe_images == 2
        assert kinds(await run(fake, tmp_path, prompts(2))) == {"image": 2}
        await check_whole(fake, tmp_path, 2)


async def test_a_job_that_was_never_created_may_have_lost_its_file_already(
    tmp_path: Path,
) -> None:
    """A run was left between the deletion of the file and the end of the job in the journal."""
    faults = {"create_batch": [reset()], "delete_file": [Fault(status=500, late=True)]}
    async with FakeGemini(image_size=4, control_faults=faults) as fake:
        assert kinds(await run(fake, tmp_path, prompts(2))) == {"Unavailable": 2}
        assert kinds(await run(fake, tmp_path, prompts(2))) == {"image": 2}
        await check_whole(fake, tmp_path, 2)


async def test_a_service_that_takes_no_job_stops_the_run(
    tmp_path: Path, slept: list[float]
) -> None:
    async with FakeGemini(image_size=4, control_faults=create_fails(Fault(status=400))) as fake:
        outcomes = await run(fake, tmp_path, prompts(3))
        assert kinds(outcomes) == {"Stopped": 3}
        assert "did not accept a job for gemini-nano-banana-2.1" in str(errors(outcomes)[0])
        assert (await spent_in(tmp_path)).maybe_images == 0
    assert await jobs_in(tmp_path) == []


def create_fails(fault: Fault) -> Callable[[Any], Fault | None]:
    return lambda call: fault if call.action == "create_batch" else None


async def test_a_create_that_fails_again_and_again_fails_its_prompts(tmp_path: Path) -> None:
    async with FakeGemini(image_size=4, control_faults=create_fails(Fault(status=503))) as fake:
        outcomes = await run(fake, tmp_path, prompts(2))
        assert kinds(outcomes) == {"Unavailable": 2}
        assert not any(error.maybe_paid for error in errors(outcomes))
    assert await jobs_in(tmp_path) == []


@pytest.mark.parametrize("action", ["start_upload", "create_batch", "get_batch"])
async def test_a_refused_key_stops_the_run(tmp_path: Path, action: str) -> None:
    def refuse(call: Any) -> Fault | None:
        return Fault(status=403) if call.action == action else None

    async with FakeGemini(image_size=4, control_faults=refuse) as fake:
        outcomes = await run(fake, tmp_path, prompts(3), job_size=1, window=1)
        assert kinds(outcomes) == {"Unauthorized": 3}
        assert fake.stats.jobs <= 1
    if action != "get_batch":
        assert await jobs_in(tmp_path) == []


async def test_an_upload_without_a_place_is_an_error_of_its_prompts(tmp_path: Path) -> None:
    def nowhere(call: Any) -> Fault | None:
        return Fault(body={"file": {}}) if call.action == "start_upload" else None

    async with FakeGemini(image_size=4, control_faults=nowhere) as fake:
        outcomes = await run(fake, tmp_path, prompts(1))
    assert "did not say where to upload" in str(errors(outcomes)[0])


async def test_a_disk_that_is_full_while_results_come_leaves_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from genbatch import StoreError
    from genbatch._store import _files

    def full(directory: Path, stem: str, extension: str, data: bytes) -> str:
        raise StoreError("no space left")

    async with FakeGemini(image_size=4) as fake:
        with monkeypatch.context() as patch:
            patch.setattr(_files, "publish", full)
            assert kinds(await run(fake, tmp_path, prompts(3))) == {"StoreError": 3}
        assert kinds(await run(fake, tmp_path, prompts(3))) == {"image": 3}
        await check_whole(fake, tmp_path, 3)


async def test_a_request_that_cannot_be_written_is_in_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from genbatch import StoreError

    def full(self: Spool, line: bytes, sent: object) -> None:
        raise StoreError("no space left")

    async with FakeGemini(image_size=4) as fake:
        with monkeypatch.context() as patch:
            patch.setattr(Spool, "write", full)
            assert kinds(await run(fake, tmp_path, prompts(3))) == {"StoreError": 3}
        assert fake.stats.jobs == 0
        assert kinds(await run(fake, tmp_path, prompts(3))) == {"image": 3}


async def test_a_broken_line_is_cut_off_before_the_next(tmp_path: Path) -> None:
    spool = Spool(tmp_path, "label")
    await anyio.to_thread.run_sync(spool.write, b"one\n", None)
    await anyio.to_thread.run_sync((tmp_path / "label.jsonl").write_bytes, b"one\ntw")
    await anyio.to_thread.run_sync(spool.write, b"three\n", None)
    assert await anyio.Path(spool.path).read_bytes() == b"one\nthree\n"


async def test_a_line_that_fails_first_and_then_comes_is_an_image(tmp_path: Path) -> None:
    """Where a download breaks between the two, what was saved is skipped, and no error is kept."""

    def change(number: int, line: bytes) -> list[bytes]:
        return [line, line]

    fault = JobFault(edit=each_line(change))
    async with FakeGemini(
        image_size=4, job_faults=[fault], control_faults={"download": [Fault(truncate=2000)]}
    ) as fake:
        assert len(images(await run(fake, tmp_path, prompts(4)))) == 4
        await check_whole(fake, tmp_path, 4)
