"""What comes of prompts in jobs, whatever becomes of those."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from genbatch import Budget, InvalidResponse, Prompt, Store, Unavailable, batch_api
from genbatch._store._reports import export
from genbatch.gemini._models import price
from genbatch.testing import (
    Call,
    FakeGemini,
    Fault,
    Job,
    JobFault,
    blocked,
    garbage,
    no_image,
    reset,
    short_body,
)
from support.batch_runs import (
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

IMAGE = price("flash") or 0.0


def fake_of(**options: Any) -> FakeGemini:
    return FakeGemini(**{"image_size": 8} | options)


async def test_every_prompt_has_its_own_image_at_half_the_price(tmp_path: Path) -> None:
    async with fake_of(job_latency=0.05) as fake:
        outcomes = await run(fake, tmp_path, prompts(10), job_size=4)
        assert [len(job.keys) for job in fake.jobs] == [4, 4, 2]
        await check_whole(fake, tmp_path, 10)
    assert [outcome.index for outcome in outcomes] == list(range(10))
    assert len({image.sha256 for image in images(outcomes)}) == 10
    assert [image.cost for image in images(outcomes)] == pytest.approx([IMAGE / 2] * 10, rel=0.01)
    assert {job.state for job in await jobs_in(tmp_path)} == {"SUCCEEDED"}
    rows = await anyio.to_thread.run_sync(lambda: list(export(tmp_path)))
    assert {row["key"] for row in rows} == set(submitted(fake))  # our keys are those of the file


async def test_a_second_run_submits_nothing(tmp_path: Path) -> None:
    async with fake_of() as fake:
        await run(fake, tmp_path, prompts(3))
        outcomes = await run(fake, tmp_path, prompts(3))
        assert (fake.stats.jobs, fake.stats.images) == (1, 3)
    assert all(image.resumed for image in images(outcomes))


async def test_a_job_asks_for_what_a_live_call_asks_for(tmp_path: Path) -> None:
    seen: list[Call] = []

    def watch(call: Call) -> None:
        seen.append(call)

    asked = [
        Prompt("a fox", aspect_ratio="16:9", image_size="2K", seed=7),
        Prompt("a hen", images=(b"\x89PNG\r\n\x1a\n a picture",), model="gemini-9-image"),
    ]
    settings: dict[str, Any] = {
        "thinking": "high",
        "temperature": 0.5,
        "system_instruction": "be brief",
        "generation_config": {"topP": 0.5, "inventedYesterday": 1},
    }
    async with fake_of(faults=watch) as fake, client_of(fake) as client:
        for prompt in asked:
            await client.generate_image(prompt, **settings)
        outcomes = await run_with(client, tmp_path, asked, **settings)
    assert kinds(outcomes) == {"image": 2}
    live, by_job = seen[:2], sorted(seen[2:], key=lambda call: call.model == seen[1].model)
    assert [call.model for call in live] == [call.model for call in by_job]
    assert [call.body for call in live] == [call.body for call in by_job]


async def test_each_model_has_jobs_of_its_own(tmp_path: Path) -> None:
    asked = [Prompt("a fox"), Prompt("a hen", model="pro"), Prompt("an owl")]
    async with fake_of() as fake:
        assert kinds(await run(fake, tmp_path, asked)) == {"image": 3}
        assert sorted(len(job.keys) for job in fake.jobs) == [1, 2]
        assert len({job.model for job in fake.jobs}) == 2


async def test_a_file_has_no_more_bytes_than_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_api._queue, "_MOST_BYTES", 700)
    async with fake_of() as fake:
        await run(fake, tmp_path, prompts(6))
        assert sum(len(job.keys) for job in fake.jobs) == 6
        assert 2 <= fake.stats.jobs <= 6
        await check_whole(fake, tmp_path, 6)


@pytest.mark.parametrize("shuffle", [True, False])
async def test_results_may_come_in_any_order_twice_and_among_garbage(
    tmp_path: Path, shuffle: bool
) -> None:
    def change(number: int, line: bytes) -> list[bytes]:
        stray = b'{"key": "somebody else\'s", "response": {}}'
        error = json.dumps({"key": json.loads(line)["key"], "error": {"code": 13}}).encode()
        return [b"\x00garbage{", error, line, b"", stray, line]

    fault = JobFault(shuffle=shuffle, edit=each_line(change))
    async with fake_of(job_faults=[fault]) as fake:
        outcomes = await run(fake, tmp_path, prompts(5))
        await check_whole(fake, tmp_path, 5)
    assert kinds(outcomes) == {"image": 5}


async def test_a_line_that_is_missing_or_cut_fails_its_prompt_alone(tmp_path: Path) -> None:
    def change(number: int, line: bytes) -> list[bytes]:
        return [[], [line[:200]]][number] if number < 2 else [line]

    async with fake_of(job_faults=[JobFault(edit=each_line(change))]) as fake:
        outcomes = await run(fake, tmp_path, prompts(4))
        assert kinds(outcomes) == {"InvalidResponse": 2, "image": 2}
        assert all(error.maybe_paid for error in errors(outcomes))
        spent = await spent_in(tmp_path)
        assert (spent.images, spent.maybe_images) == (2, 2)
        assert kinds(await run(fake, tmp_path, prompts(4))) == {"image": 4}
        assert sorted(submitted(fake).values()) == [1, 1, 2, 2]


@pytest.mark.parametrize("state", ["FAILED", "EXPIRED", "CANCELLED", "PARTIALLY_SUCCEEDED"])
async def test_what_a_job_has_done_before_its_end_is_saved(tmp_path: Path, state: Any) -> None:
    async with fake_of(job_faults=[JobFault(state=state, after=0.5)]) as fake:
        outcomes = await run(fake, tmp_path, prompts(6))
        assert len(images(outcomes)) == 3
        [job] = await jobs_in(tmp_path)
        assert (job.state, job.ended is not None) == (state, True)
        is_partial = state == "PARTIALLY_SUCCEEDED"
        kind = InvalidResponse if is_partial else Unavailable
        assert all(type(error) is kind for error in errors(outcomes))
        assert (await spent_in(tmp_path)).maybe_images == 3 * is_partial
        again = await run(fake, tmp_path, prompts(6))
        assert [image.resumed for image in images(again)].count(True) == 3
    assert kinds(again) == {"image": 6}


async def test_a_job_that_failed_says_why(tmp_path: Path) -> None:
    async with fake_of(job_faults=[JobFault(state="FAILED")]) as fake:
        outcomes = await run(fake, tmp_path, prompts(2))
    assert "ended as FAILED: An internal error" in str(errors(outcomes)[0])


async def test_many_failures_of_jobs_do_not_stop_the_run(tmp_path: Path) -> None:
    async with fake_of(job_faults=[JobFault(state="FAILED")]) as fake:
        outcomes = await run(fake, tmp_path, prompts(50), job_size=40)
    assert kinds(outcomes) == {"Unavailable": 40, "image": 10}


async def test_errors_of_rows_are_those_of_live_calls(tmp_path: Path) -> None:
    faults = {
        0: Fault(status=429),
        1: Fault(status=503),
        2: Fault(status=400),
        3: blocked("IMAGE_SAFETY"),
        4: no_image(),
    }

    def fault(call: Call) -> Fault | None:
        return next((faults[n] for n in faults if f"number {n}" in call.prompt), None)

    async with fake_of(faults=fault) as fake:
        outcomes = await run(fake, tmp_path, prompts(6))
        names = [type(error).__name__ for error in errors(outcomes)]
        assert names == ["RateLimited", "Unavailable", "Rejected", "Blocked", "NoImage"]
        assert [error.status for error in errors(outcomes)] == [429, 500, 400, 200, 200]
        again = await run(fake, tmp_path, prompts(6))  # what was refused for good is not asked
        assert [len(job.keys) for job in fake.jobs] == [6, 2]
    assert [str(error) for error in errors(again)][2:] == [str(e) for e in errors(outcomes)][2:]


async def test_rpc_codes_of_rows_are_understood(tmp_path: Path) -> None:
    codes = [8, 14, 3, 1, 99]

    def change(number: int, line: bytes) -> list[bytes]:
        key = json.loads(line)["key"]
        return [json.dumps({"key": key, "error": {"code": codes[number]}}).encode()]

    async with fake_of(job_faults=[JobFault(edit=each_line(change))]) as fake:
        outcomes = await run(fake, tmp_path, prompts(5), ordered=True)
    assert sorted(kinds(outcomes).items()) == [
        ("RateLimited", 1),
        ("Rejected", 1),
        ("Unavailable", 3),
    ]


async def test_results_that_are_gone_fail_and_are_paid_again_only_by_a_further_run(
    tmp_path: Path,
) -> None:
    async with fake_of(control_faults={"download": [Fault(status=404)]}) as fake:
        outcomes = await run(fake, tmp_path, prompts(3))
        assert kinds(outcomes) == {"InvalidResponse": 3}
        assert "48 hours" in str(errors(outcomes)[0])
        assert all(error.maybe_paid for error in errors(outcomes))
        assert [job.state for job in await jobs_in(tmp_path)] == ["GONE"]
        assert (await spent_in(tmp_path)).maybe_images == 3
        assert kinds(await run(fake, tmp_path, prompts(3))) == {"image": 3}


async def test_results_that_may_not_be_read_are_gone_only_after_the_time_that_they_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service answers 403 for files that do not exist."""
    async with fake_of(control_faults={"download": [Fault(status=403)] * 2}) as fake:
        assert kinds(await run(fake, tmp_path, prompts(3))) == {"Unavailable": 3}
        assert (await spent_in(tmp_path)).maybe_images == 3
        with monkeypatch.context() as patch:
            patch.setattr("genbatch.batch_api._collect._KEPT_SECONDS", -1.0)
            outcomes = kinds(await run(fake, tmp_path, prompts(3)))
    # A prompt that comes after its job is known to be gone is asked for again.
    assert set(outcomes) <= {"InvalidResponse", "image"}
    assert sum(outcomes.values()) == 3
    first, *others = [job.state for job in await jobs_in(tmp_path)]
    assert first == "GONE"
    assert bool(others) == ("image" in outcomes)


@pytest.mark.parametrize("fault", [short_body(1500), reset(1500), Fault(status=503), garbage()])
async def test_a_download_that_breaks_is_made_again(
    tmp_path: Path, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genbatch.batch_api._collect._MOST_LINES", 1)
    async with fake_of(control_faults={"download": [fault, fault]}) as fake:
        outcomes = await run(fake, tmp_path, prompts(6))
        if fault.body is None:
            await check_whole(fake, tmp_path, 6)
            assert kinds(outcomes) == {"image": 6}


async def test_a_job_whose_results_cannot_be_read_is_left_for_the_next_run(tmp_path: Path) -> None:
    async with fake_of(control_faults={"download": [short_body(1500)] * 4}) as fake:
        outcomes = await run(fake, tmp_path, prompts(6))
        assert errors(outcomes)
        [job] = await jobs_in(tmp_path)
        assert job.ended is None
        assert kinds(await run(fake, tmp_path, prompts(6))) == {"image": 6}
        await check_whole(fake, tmp_path, 6)


async def test_looks_that_fail_are_made_again(tmp_path: Path) -> None:
    faults = [Fault(status=503), reset(), Fault(status=429), garbage(), None]
    async with fake_of(control_faults={"get_batch": faults}) as fake:
        assert kinds(await run(fake, tmp_path, prompts(2))) == {"image": 2}
        await check_whole(fake, tmp_path, 2)


@pytest.mark.parametrize("action", ["get_batch", "download"])
async def test_a_job_that_the_service_does_not_tell_of_is_left(tmp_path: Path, action: str) -> None:
    async with fake_of(control_faults={action: [Fault(status=400)]}) as fake:
        outcomes = await run(fake, tmp_path, prompts(2))
        assert kinds(outcomes) == {"Unavailable": 2}  # not Rejected, which would be for good
        assert kinds(await run(fake, tmp_path, prompts(2))) == {"image": 2}
        await check_whole(fake, tmp_path, 2)


async def test_a_job_that_the_service_has_lost_is_gone(tmp_path: Path) -> None:
    async with fake_of(control_faults={"get_batch": [Fault(status=404)]}) as fake:
        assert kinds(await run(fake, tmp_path, prompts(2))) == {"InvalidResponse": 2}
    assert [job.state for job in await jobs_in(tmp_path)] == ["GONE"]


async def test_files_are_deleted_here_and_at_the_service(tmp_path: Path) -> None:
    deleted: list[str] = []

    def watch(call: Any) -> None:
        if call.action == "delete_file":
            deleted.append(call.id)

    spools = anyio.Path(tmp_path, ".genbatch", "jobs")
    await spools.mkdir(parents=True)
    await (spools / "left by a process that was killed.jsonl").touch()
    async with fake_of(control_faults=watch) as fake:
        await run(fake, tmp_path, prompts(2))
    assert len(deleted) == 2
    assert not [each async for each in spools.iterdir()]


async def test_a_large_file_goes_up_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genbatch.batch_api._service._PIECE", 1000)
    pieces: list[Any] = []

    def watch(call: Any) -> Fault | None:
        if call.action == "upload":
            pieces.append(call)
            return Fault(status=503) if len(pieces) == 3 else None
        return None

    async with fake_of(control_faults=watch) as fake:
        assert kinds(await run(fake, tmp_path, prompts(12))) == {"image": 12}
        await check_whole(fake, tmp_path, 12)
    assert len(pieces) > 5


async def test_how_the_jobs_stand_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    async with fake_of(job_latency=0.2) as fake:
        await run(fake, tmp_path, prompts(2), watch=told.append)
    assert [line for line in told if line != "1 job: 1 new"] == [
        "1 job: 1 pending",
        "1 job: 1 running",
        "1 job: 1 succeeded",
        "",
    ]


async def test_a_journal_before_jobs_is_brought_up_to_date(tmp_path: Path) -> None:
    import sqlite3

    from genbatch._store._journal import SCHEMA

    (tmp_path / ".genbatch").mkdir()
    connection = sqlite3.connect(tmp_path / ".genbatch" / "journal.sqlite")
    connection.executescript(f"{SCHEMA} PRAGMA user_version = 1;")
    connection.close()
    assert await jobs_in(tmp_path) == []
    async with fake_of() as fake:
        assert kinds(await run(fake, tmp_path, prompts(2))) == {"image": 2}
        await check_whole(fake, tmp_path, 2)


async def test_without_a_journal_there_are_no_jobs(tmp_path: Path) -> None:
    assert await jobs_in(tmp_path) == []


async def test_one_batch_at_a_time_looks_after_the_jobs_of_a_store(tmp_path: Path) -> None:
    async with fake_of() as fake, client_of(fake) as client, Store(tmp_path) as store:
        async with batch_api.generate_images(client, prompts(1), store=store, poll=0.05):
            with pytest.raises(RuntimeError, match="another batch is already running the jobs"):
                await run_with(client, tmp_path, prompts(1), save_dir=None, store=store)
        got = await run_with(client, tmp_path, prompts(1), save_dir=None, store=store)
    assert kinds(got) == {"image": 1}


async def test_an_error_of_the_block_arrives_bare(tmp_path: Path) -> None:
    async with fake_of() as fake, client_of(fake) as client:
        with pytest.raises(KeyError, match="mine"):
            async with batch_api.generate_images(client, prompts(1), save_dir=tmp_path):
                raise KeyError("mine")


@pytest.mark.parametrize("options", [{"window": 0}, {"job_size": 0}, {"poll": 0}])
async def test_numbers_out_of_range_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    async with fake_of() as fake:
        client = client_of(fake)
        with pytest.raises(ValueError, match=f"{next(iter(options))} must be > 0, got 0"):
            batch_api.generate_images(client, [], save_dir=tmp_path, **options)
        with pytest.raises(ValueError, match="max_concurrent must be >= 1, got 0"):
            batch_api.generate_images(client, [], save_dir=tmp_path, max_concurrent=0)
        with pytest.raises(ValueError, match="give save_dir or store"):
            batch_api.generate_images(client, [])
        with pytest.raises(ValueError, match="no price of mine is known"):
            batch_api.generate_images(
                client, [], save_dir=tmp_path, model="mine", budget=Budget(1.0)
            )


async def test_jobs_of_vertex_are_refused(tmp_path: Path) -> None:
    from genbatch import GeminiClient

    client = GeminiClient(vertexai=True, project="p")
    with pytest.raises(ValueError, match="on Vertex, batch jobs use Cloud Storage buckets"):
        batch_api.generate_images(client, [], save_dir=tmp_path)


def test_a_job_is_public() -> None:
    assert set(batch_api.__all__) == {"Job", "cancel", "generate_images", "jobs"}
    assert Job is not batch_api.Job
