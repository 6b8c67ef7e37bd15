"""What goes over the wire for jobs, and what a server may get wrong on it."""

from __future__ import annotations

import gc
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import httpx
import httpx2
import pytest

from genbatch import GeminiClient, InvalidResponse
from genbatch.batch_api import _service
from genbatch.batch_api._collect import Results, key_in
from genbatch.batch_api._service import checked, lines_of, name_in, status_of
from genbatch.testing import FakeGemini, Fault, dripping, redirect, reset, slow_headers, stalled
from support import virtual
from support.batch_runs import (
    KEY,
    check_whole,
    client_of,
    errors,
    jobs_in,
    kinds,
    prompts,
    run,
    run_with,
)

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("library", [httpx, httpx2])
async def test_an_http_client_of_ones_own(tmp_path: Path, library: Any) -> None:
    async with (
        FakeGemini(image_size=4) as fake,
        library.AsyncClient(verify=False) as http_client,
        GeminiClient(KEY, base_url=fake.url, http_client=http_client) as client,
    ):
        assert kinds(await run_with(client, tmp_path, prompts(3))) == {"image": 3}
        await check_whole(fake, tmp_path, 3)
        assert not http_client.is_closed


async def test_a_proxy_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with FakeGemini(image_size=4) as fake:
        # It is sent whole URLs, and answers as the service that is asked for.
        monkeypatch.setenv("http_proxy", fake.url)
        monkeypatch.setenv("no_proxy", "")
        async with GeminiClient(KEY, base_url=fake.url, trust_env=True) as client:
            outcomes = await run_with(client, tmp_path, prompts(1))
    assert len(outcomes) == 1


async def test_no_redirect_is_followed(tmp_path: Path) -> None:
    async with FakeGemini(image_size=4) as other:
        faults = {"create_batch": [redirect(f"{other.url}/v1beta/models/m:batchGenerateContent")]}
        async with FakeGemini(image_size=4, control_faults=faults) as fake:
            outcomes = await run(fake, tmp_path, prompts(1))
        assert other.stats.jobs == 0
    assert "redirect" in str(errors(outcomes)[0])


async def test_a_file_is_uploaded_to_where_the_key_is_for(tmp_path: Path) -> None:
    asked: list[Any] = []
    async with FakeGemini(control_faults=asked.append) as other:
        url = f"{other.url}/upload/v1beta/files?upload_id=none"
        elsewhere = Fault(headers={"x-goog-upload-url": url})
        async with FakeGemini(image_size=4, control_faults={"start_upload": [elsewhere]}) as fake:
            outcomes = await run(fake, tmp_path, prompts(1))
    assert asked == []
    assert kinds(outcomes) == {"Stopped": 1}  # the one that the key is for has no such upload


@pytest.mark.parametrize("fault", [stalled(1000), dripping(1000, 3600), slow_headers()])
async def test_results_that_stall_are_read_again(tmp_path: Path, fault: Fault) -> None:
    async with FakeGemini(image_size=4, control_faults={"download": [fault]}) as fake:
        async with client_of(fake, timeout=0.3) as client:
            assert kinds(await run_with(client, tmp_path, prompts(5))) == {"image": 5}
        await check_whole(fake, tmp_path, 5)


async def test_before_a_job_is_created_anew_its_file_is_gone_and_the_service_asked_again(
    tmp_path: Path,
) -> None:
    actions: list[str] = []

    def watch(call: Any) -> Fault | None:
        actions.append(call.action)
        is_first = call.action == "create_batch" and call.number == 1
        return reset() if is_first else None

    async with FakeGemini(image_size=4, control_faults=watch) as fake:
        await run(fake, tmp_path, prompts(2))
        [job] = await jobs_in(tmp_path)
        assert job.label == fake.jobs[0].display_name
    upload = ["start_upload", "upload", "create_batch"]
    asked = ["list_batches", "delete_file", "list_batches"]
    assert actions[: 2 * len(upload) + len(asked)] == [*upload, *asked, *upload]


async def test_a_list_of_jobs_may_have_pages(tmp_path: Path) -> None:
    created = 0

    def lose(call: Any) -> Fault | None:
        nonlocal created
        created += call.action == "create_batch"
        lost = call.action == "create_batch" and created == 1
        return Fault(status=500, late=True) if lost else None

    def page(answer: dict[str, Any]) -> dict[str, Any]:
        return {"operations": [{"name": "batches/x"}, 7], "nextPageToken": "page-0"}

    asked: list[Any] = []

    def both(call: Any) -> Fault | None:
        if call.action == "list_batches":
            asked.append(call)
            return Fault(edit=page) if len(asked) == 1 else None
        return lose(call)

    async with FakeGemini(image_size=4, control_faults=both) as fake:
        assert kinds(await run(fake, tmp_path, prompts(2))) == {"image": 2}
        assert (fake.stats.jobs, len(asked)) == (1, 2)


async def test_a_list_of_jobs_without_an_end_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genbatch.batch_api._service._MOST_PAGES", 3)

    def endless(call: Any) -> Fault | None:
        if call.action == "list_batches":
            return Fault(body={"operations": [], "nextPageToken": "page-1"})
        return reset() if call.action == "create_batch" else None

    async with FakeGemini(image_size=4, control_faults=endless) as fake:
        outcomes = await run(fake, tmp_path, prompts(1))
    assert "more than 3 pages" in str(errors(outcomes)[0])


async def pieces_of(*pieces: bytes) -> AsyncGenerator[bytes]:
    for piece in pieces:
        yield piece


async def test_lines_are_found_wherever_pieces_end() -> None:
    text = b'{"a": 1}\r\n\n  \n{"b": 2}\n{"c": 3}'
    for size in range(1, len(text) + 1):
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        found = [line async for line in lines_of(pieces_of(*pieces), 1.0)]
        assert found == [b'{"a": 1}', b'{"b": 2}', b'{"c": 3}']


async def test_a_line_without_an_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_service, "_LONGEST_LINE", 2_000_000)
    with pytest.raises(InvalidResponse, match="longer than 2 MB"):
        async with aclosing(pieces_of(*[b"x" * 999_999] * 4)) as pieces:
            async for _ in lines_of(pieces, 1.0):
                pass


@pytest.mark.parametrize("backend", virtual.BACKENDS)
def test_a_line_that_drips_runs_into_the_timeout(backend: str) -> None:
    async def drip() -> AsyncGenerator[bytes]:
        for _ in range(100):
            await anyio.sleep(0.9)
            yield b"x"

    async def read() -> None:
        async with aclosing(drip()) as pieces:
            with pytest.raises(TimeoutError):
                await anext(lines_of(pieces, 1.0))

    virtual.run(backend, read)


async def test_leaving_while_results_are_saved_leaves_no_generator_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genbatch.batch_api._collect._MOST_LINES", 1)
    take = Results.take

    def leave(self: Results, lines: list[bytes]) -> Any:
        anyio.from_thread.run_sync(scope.cancel)
        return take(self, lines)

    async with FakeGemini(image_size=300) as fake:
        with monkeypatch.context() as patch, anyio.CancelScope() as scope:
            patch.setattr(Results, "take", leave)
            await run(fake, tmp_path, prompts(4))
        gc.collect()
        assert kinds(await run(fake, tmp_path, prompts(4))) == {"image": 4}
        await check_whole(fake, tmp_path, 4)


def test_a_key_is_found_among_others() -> None:
    line = b'{"response": {"text": "\\"key\\": \\"mine\\"", "key": "other"}, "key" : "mine"}'
    assert key_in(line, {"mine"}.__contains__) == "mine"
    assert key_in(line.replace(b'"mine"', b'"\xff"'), {"mine"}.__contains__) is None


@pytest.mark.parametrize(
    ("operation", "state"),
    [
        ({"metadata": {"state": "BATCH_STATE_RUNNING"}}, "RUNNING"),
        ({"metadata": {"state": "JOB_STATE_SUCCEEDED"}, "done": True}, "SUCCEEDED"),
        ({"metadata": {"state": "BATCH_STATE_INVENTED_YESTERDAY"}}, "INVENTED_YESTERDAY"),
        ({"metadata": None, "done": True}, "SUCCEEDED"),
        ({"done": True, "error": {"code": 13}}, "FAILED"),
        ({}, "PENDING"),
    ],
)
def test_states_of_jobs(operation: dict[str, Any], state: str) -> None:
    assert status_of(operation).state == state
    assert status_of(operation).has_ended == (state in ("SUCCEEDED", "FAILED"))


@pytest.mark.parametrize(
    "operation",
    [
        {"metadata": {"output": {"responsesFile": "files/x"}}},
        {"response": {"responsesFile": "files/x"}},
        {"response": {"output": {"responsesFile": "files/x"}}},
    ],
)
def test_where_results_may_be_named(operation: dict[str, Any]) -> None:
    assert status_of(operation).output == "files/x"


@pytest.mark.parametrize("name", ["", "x", "files/", "files/../x", "batches/x?key=1", "files/a/b"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InvalidResponse, match="gave an invalid name"):
        checked(name)
    with pytest.raises(InvalidResponse, match="did not name a job"):
        name_in({"name": None}, "a job")
