"""A queue that is slow or has no room: late results, limits of tokens, shared input images."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio.lowlevel
import pytest

from genbatch import Budget, Prompt, _http, batch_api
from genbatch.batch_api import _job, _references, _submit
from genbatch.testing import Call, ControlCall, FakeGemini, Fault, JobFault, rate_limited
from support.batch_runs import (
    POLL,
    check_whole,
    client_of,
    errors,
    jobs_in,
    kinds,
    prompts,
    run,
    spent_in,
    submitted,
)

pytestmark = pytest.mark.anyio

REFERENCE = b"\x89PNG\r\n\x1a\n" + bytes(20_000)
TOKENS = 1_130  # at least, of a request with a reference


@pytest.fixture
def polled(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were to be waited between two looks at a job; nothing waits."""
    seconds: list[float] = []

    async def sleep(pause: float) -> None:
        seconds.append(pause)
        await anyio.lowlevel.checkpoint()

    monkeypatch.setattr(_job, "sleep", sleep)
    return seconds


@pytest.fixture
def small_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs of at most 50 requests with a reference, divided down to 2."""
    monkeypatch.setattr(_job, "_MOST_TOKENS", 50 * TOKENS)
    monkeypatch.setattr(_job, "_FEWEST_TOKENS", 2 * TOKENS)


class Uploads:
    """What was asked of a service, and the files that it was given."""

    def __init__(self, fault: Callable[[ControlCall], Fault | None] = lambda call: None) -> None:
        self.actions: list[str] = []
        self.files: list[dict[str, Any]] = []
        self._fault = fault

    def __call__(self, call: ControlCall) -> Fault | None:
        self.actions.append(call.action)
        return self._fault(call) or (Fault(edit=self._note) if call.action == "upload" else None)

    def _note(self, answer: Any) -> Any:
        self.files += [answer["file"]] if "file" in answer else []
        return answer

    @property
    def images(self) -> list[str]:
        return [file["name"] for file in self.files if file["mimeType"] == "image/png"]


def with_reference(count: int, reference: bytes = REFERENCE) -> list[Prompt]:
    return [Prompt(text, images=(reference,)) for text in prompts(count)]


async def all_at_once(directory: Path, count: int, reference: bytes, tokens: int) -> None:
    """Let a queue have little room and name its results late, for requests with one reference."""
    uploads = Uploads()
    async with FakeGemini(
        image_size=4,
        job_tokens=tokens,
        job_faults=lambda job: JobFault(late_output=3),
        control_faults=uploads,
    ) as fake:
        budget = Budget(1000.0)
        outcomes = await run(fake, directory, with_reference(count, reference), budget=budget)
        assert kinds(outcomes) == {"image": count}
        await check_whole(fake, directory, count)
        assert (budget.images, budget.maybe_images) == (count, 0)
        assert len(uploads.images) == 1
        assert {name for job in fake.jobs for name in job.files} == set(uploads.images)
        most = tokens // (TOKENS - 10)
        assert all(len(job.keys) <= most for job in fake.jobs)
        # In jobs about as large as there was room for, not row by row.
        assert fake.stats.jobs <= 2 + 4 * count / most


@pytest.mark.usefixtures("small_jobs")
async def test_late_results_a_full_queue_and_a_shared_reference_cost_nothing_twice(
    tmp_path: Path,
) -> None:
    await all_at_once(tmp_path, 70, REFERENCE, 20 * TOKENS)


@pytest.mark.slow
async def test_the_same_with_2000_rows_and_a_reference_of_1_mb(tmp_path: Path) -> None:
    await all_at_once(tmp_path, 2000, REFERENCE + bytes(2**20), 400_000)


# Late results


@pytest.mark.parametrize("state", ["SUCCEEDED", "PARTIALLY_SUCCEEDED", "EXPIRED", "CANCELLED"])
async def test_results_that_are_late_are_waited_for(
    tmp_path: Path, polled: list[float], state: Any
) -> None:
    told: list[str] = []
    fault = JobFault(state=state, after=1, late_output=5)
    async with FakeGemini(image_size=4, job_faults=[fault]) as fake:
        outcomes = await run(fake, tmp_path, prompts(3), poll=60, watch=told.append)
        assert kinds(outcomes) == {"image": 3}
        await check_whole(fake, tmp_path, 3)
    assert f"1 job: 1 {state.lower().replace('_', ' ')} (waiting for its results)" in told


async def test_results_that_do_not_come_in_minutes_are_collected_by_the_next_run(
    tmp_path: Path, polled: list[float]
) -> None:
    budget = Budget(10.0)
    async with FakeGemini(image_size=4, job_faults=[JobFault(late_output=25)]) as fake:
        outcomes = await run(fake, tmp_path, prompts(3), poll=60, live=True, budget=budget)
        assert kinds(outcomes) == {"Unavailable": 3}
        assert "its results are not available yet: run again to collect" in str(errors(outcomes)[0])
        assert 600 <= sum(polled) < 720
        assert (budget.images, budget.maybe_images) == (0, 3)
        assert (await spent_in(tmp_path)).maybe_images == 3
        assert [job.ended for job in await jobs_in(tmp_path)] == [None]
        assert kinds(await run(fake, tmp_path, prompts(3), poll=60)) == {"image": 3}
        await check_whole(fake, tmp_path, 3)
        assert fake.stats.calls == 0


async def test_a_job_whose_state_stays_unknown_counts_as_possibly_paid(
    tmp_path: Path, polled: list[float]
) -> None:
    faults = {"get_batch": [Fault(status=503)] * 20}
    budget = Budget(10.0)
    async with FakeGemini(image_size=4, control_faults=faults) as fake:
        outcomes = await run(fake, tmp_path, prompts(3), poll=60, budget=budget)
        assert kinds(outcomes) == {"Unavailable": 3}
        assert (budget.images, budget.maybe_images) == (0, 3)
        assert kinds(await run(fake, tmp_path, prompts(3))) == {"image": 3}
        await check_whole(fake, tmp_path, 3)


async def test_results_that_never_come_of_a_failed_job_count_as_possibly_paid(
    tmp_path: Path, polled: list[float]
) -> None:
    fault = JobFault(state="FAILED", after=1, output=False)
    async with FakeGemini(image_size=4, job_faults=[fault]) as fake:
        outcomes = await run(fake, tmp_path, prompts(3), poll=60)
        assert kinds(outcomes) == {"Unavailable": 3}
        assert (await spent_in(tmp_path)).maybe_images == 3
        assert kinds(await run(fake, tmp_path, prompts(3))) == {"image": 3}


async def test_results_are_not_waited_for_without_end(
    tmp_path: Path, polled: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_job, "_LONGEST_LIFE", -1.0)
    async with FakeGemini(image_size=4, job_faults=[JobFault(output=False)]) as fake:
        assert kinds(await run(fake, tmp_path, prompts(2), poll=60)) == {"InvalidResponse": 2}
    assert [job.state for job in await jobs_in(tmp_path)] == ["GONE"]


# A queue without room


@pytest.mark.usefixtures("polled")
async def test_a_queue_without_room_is_waited_for_and_told(
    tmp_path: Path, slept: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []
    uploads = Uploads(
        lambda call: (
            Fault(status=429) if call.action == "create_batch" and call.number < 6 else None
        )
    )
    async with FakeGemini(image_size=4, control_faults=uploads) as fake:
        outcomes = await run(fake, tmp_path, prompts(3), poll=60, watch=told.append)
        assert kinds(outcomes) == {"image": 3}
        await check_whole(fake, tmp_path, 3)
        assert fake.stats.jobs == 1
    assert slept == [60.0] * 5
    assert len(uploads.files) == 1
    words = "too many calls of gemini-nano-banana-2.1: Resource has been exhausted"
    assert f"1 job: 1 new (waiting for room: {words} (e.g. check quota).)" in told
    assert f"next try in 60.0 s: {words}" in caplog.text


@pytest.mark.usefixtures("polled")
async def test_room_is_asked_for_again_within_ten_minutes(
    tmp_path: Path, slept: list[float]
) -> None:
    def fault(call: ControlCall) -> Fault | None:
        first = call.action == "create_batch" and call.number < 3
        return Fault(status=429, headers={"retry-after": "100000"}) if first else None

    async with FakeGemini(image_size=4, control_faults=Uploads(fault)) as fake:
        assert kinds(await run(fake, tmp_path, prompts(1), poll=60)) == {"image": 1}
    assert set(slept) == {600.0}


@pytest.mark.usefixtures("small_jobs")
async def test_jobs_are_divided_by_their_tokens(tmp_path: Path) -> None:
    async with FakeGemini(image_size=4) as fake:
        assert kinds(await run(fake, tmp_path, with_reference(110))) == {"image": 110}
        assert max(len(job.keys) for job in fake.jobs) in (49, 50)
        await check_whole(fake, tmp_path, 110)


@pytest.mark.usefixtures("small_jobs")
async def test_a_job_is_not_divided_while_another_one_will_make_room(tmp_path: Path) -> None:
    async with FakeGemini(image_size=4, job_tokens=45 * TOKENS, job_latency=0.3) as fake:
        assert kinds(await run(fake, tmp_path, with_reference(60), job_size=30)) == {"image": 60}
        assert [len(job.keys) for job in fake.jobs] == [30, 30]


@pytest.mark.usefixtures("small_jobs")
async def test_a_run_that_is_left_without_room_sends_nothing_twice(tmp_path: Path) -> None:
    is_full = True

    def full(call: ControlCall) -> Fault | None:
        return rate_limited() if is_full and call.action == "create_batch" else None

    async with FakeGemini(image_size=4, control_faults=full) as fake:
        with anyio.CancelScope() as scope:

            def watch(line: str) -> None:
                if "waiting for room" in line:
                    scope.cancel()

            await run(fake, tmp_path, with_reference(9), watch=watch)
        assert scope.cancel_called
        assert fake.stats.jobs == 0
        is_full = False
        assert kinds(await run(fake, tmp_path, with_reference(9))) == {"image": 9}
        await check_whole(fake, tmp_path, 9)


@pytest.mark.usefixtures("small_jobs")
async def test_a_job_that_was_created_behind_a_refusal_is_not_divided(tmp_path: Path) -> None:
    unlisted = Fault(body={"operations": []})
    faults = {"create_batch": [Fault(status=429, late=True)], "list_batches": [unlisted]}
    async with FakeGemini(image_size=4, control_faults=faults) as fake:
        assert kinds(await run(fake, tmp_path, with_reference(9))) == {"image": 9}
        await check_whole(fake, tmp_path, 9)
        assert fake.stats.jobs == 1


# Shared input images


def parts_of(calls: list[Call]) -> list[list[str]]:
    """Return the kinds of the parts of each call."""
    return [[kind for part in call.body["contents"][0]["parts"] for kind in part] for call in calls]


async def test_only_an_image_that_is_shared_and_large_is_uploaded(tmp_path: Path) -> None:
    calls: list[Call] = []
    small, other = REFERENCE[:100], REFERENCE + b"other"
    asked = [Prompt("a fox", images=(REFERENCE, small)), Prompt("a hen", images=(other, small))]
    asked.append(Prompt("an owl", images=(small, REFERENCE)))
    uploads = Uploads()
    async with FakeGemini(image_size=4, faults=calls.append, control_faults=uploads) as fake:
        assert kinds(await run(fake, tmp_path, asked)) == {"image": 3}
    inline = ["text", "inlineData", "inlineData"]
    shared = [
        ["text", "inlineData", "fileData"],
        ["text", "fileData", "inlineData"],
    ]
    kinds_of_parts = parts_of(calls)
    assert sorted(kinds_of_parts) in [sorted([inline, inline, each]) for each in shared]
    assert len(uploads.images) == 1


async def test_uploads_are_deleted_once_no_job_refers_to_them(tmp_path: Path) -> None:
    deleted: list[str] = []

    def note(call: ControlCall) -> None:
        if call.action == "delete_file":
            deleted.append(f"files/{call.id}")

    uploads = Uploads(note)
    async with FakeGemini(image_size=4, control_faults=uploads, job_latency=0.2) as fake:
        is_running = anyio.Event()
        async with (
            client_of(fake) as client,
            batch_api.generate_images(
                client,
                with_reference(3),
                save_dir=tmp_path,
                poll=POLL,
                watch=lambda line: is_running.set() if "running" in line else None,
            ),
        ):
            await is_running.wait()
        assert not set(uploads.images) & set(deleted)
        assert kinds(await run(fake, tmp_path, with_reference(3))) == {"image": 3}
        await check_whole(fake, tmp_path, 3)
        more = [Prompt(f"an owl, number {n}", images=(REFERENCE,)) for n in range(3)]
        assert kinds(await run(fake, tmp_path, more)) == {"image": 3}
    first, second = uploads.images
    assert (first in deleted, second in deleted) == (False, True)


async def test_a_job_that_waits_for_long_refers_to_a_new_upload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=1e9, time=lambda: clock.now)
    monkeypatch.setattr(_references, "time", clock)
    monkeypatch.setattr(_submit, "time", clock)

    def full(call: ControlCall) -> Fault | None:
        if call.action != "create_batch" or call.number > 2:
            return None
        clock.now += 15 * 3600
        return rate_limited()

    uploads = Uploads(full)
    async with FakeGemini(image_size=4, control_faults=uploads) as fake:
        assert kinds(await run(fake, tmp_path, with_reference(4))) == {"image": 4}
        await check_whole(fake, tmp_path, 4)
        assert {name for job in fake.jobs for name in job.files} == {uploads.images[1]}
    assert len(uploads.images) == 2


async def test_an_image_that_the_service_refuses_stops_the_run_and_no_prompt_for_good(
    tmp_path: Path,
) -> None:
    def refuse(call: ControlCall) -> Fault | None:
        return Fault(status=400) if call.action == "start_upload" else None

    async with FakeGemini(image_size=4, control_faults=refuse) as fake:
        outcomes = await run(fake, tmp_path, with_reference(2))
        assert set(kinds(outcomes)) == {"Stopped"}
        assert fake.stats.jobs == 0
    async with FakeGemini(image_size=4) as fake:
        assert kinds(await run(fake, tmp_path, with_reference(2))) == {"image": 2}
        assert set(submitted(fake).values()) == {1}


# Bodies


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize(
    ("action", "status"), [("create_batch", 200), ("get_batch", 200), ("download", 500)]
)
async def test_no_answer_but_results_is_read_beyond_its_limit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    action: str,
    status: int,
    is_packed: bool,
) -> None:
    monkeypatch.setattr(_http, "LARGEST_ANSWER", 2**20)
    body = b'{"name": "' + b"x" * 2**20 + b'"}'
    packed: dict[str, Any] = {"body": gzip.compress(body), "headers": {"content-encoding": "gzip"}}
    flood = Fault(status=status, **(packed if is_packed else {"body": body}))
    async with FakeGemini(image_size=4, control_faults={action: [flood]}) as fake:
        assert kinds(await run(fake, tmp_path, prompts(2))) == {"image": 2}
        await check_whole(fake, tmp_path, 2)
    assert "large" in caplog.text
