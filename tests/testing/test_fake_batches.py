"""Batches of a FakeGemini over a real wire: what becomes of a job and of its rows."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from google.genai import types

from genbatch.testing import (
    Call,
    ControlCall,
    FakeGemini,
    Fault,
    Job,
    JobFault,
    _jobs,
    blocked,
    broken_json,
    rate_limited,
    reset,
    several_images,
    short_body,
)
from support.backends import until
from support.batch_wire import (
    CREATE,
    answers_of,
    create,
    lines_of,
    reached,
    row,
    rows,
    run,
    sdk_of,
    submit,
    upload,
)
from support.wire import MODEL, PATH, asking, client_of, png_of

pytestmark = pytest.mark.anyio


def counts_of(operation: dict[str, Any]) -> dict[str, int]:
    stats = operation["metadata"]["batchStats"]
    short = {name: name.removesuffix("Count").removesuffix("Request") for name in stats}
    return {short[name]: int(count) for name, count in stats.items()}


class Gates:
    """Where jobs wait in place of sleeping; opening one lets every job pass that comes to it."""

    def __init__(self) -> None:
        self.asked: list[float] = []
        self.opened = 0

    async def pass_through(self, seconds: float) -> None:
        self.asked.append(seconds)
        number = len(self.asked)
        await until(lambda: self.opened >= number)


@pytest.fixture
def gates(monkeypatch: pytest.MonkeyPatch) -> Gates:
    gates = Gates()
    monkeypatch.setattr(_jobs, "pause", gates.pass_through)
    return gates


class TestJobs:
    async def test_a_job_waits_runs_and_succeeds(self, gates: Gates) -> None:
        async with (
            FakeGemini(image_size=8, job_latency=60, speed=10) as server,
            client_of(server) as client,
        ):
            name = await submit(client, rows("a", "b"))
            pending = await reached(client, name, "PENDING")
            assert server.stats.images == 0
            gates.opened = 1
            running = await reached(client, name, "RUNNING")
            await until(lambda: len(gates.asked) == 2)
            assert server.stats.images == 2
            gates.opened = 2
            done = await reached(client, name)
        assert gates.asked == [3, 3]
        assert counts_of(pending) == {"request": 2, "pending": 2}
        assert {"output", "endTime"}.isdisjoint(pending["metadata"] | running["metadata"])
        assert "done" not in pending
        assert "done" not in running
        assert (done["name"], done["metadata"]["name"], done["done"]) == (name, name, True)
        assert done["metadata"]["state"] == "BATCH_STATE_SUCCEEDED"
        assert done["metadata"]["model"] == f"models/{MODEL}"
        assert done["metadata"]["displayName"] == "a batch"
        assert counts_of(done) == {"request": 2, "successful": 2}
        file = done["metadata"]["output"]["responsesFile"]
        assert file == done["response"]["responsesFile"] == f"files/batch-{name[8:]}"

    async def test_rows_are_answered_in_their_order_as_calls_are(self) -> None:
        async with FakeGemini(image_size=8) as server, client_of(server) as client:
            answers = await answers_of(client, await run(client, rows("a", "b", "c")))
            call = await client.post(PATH, json=asking("prompt of b"))
            assert server.stats.images == 4
            assert server.stats.calls == 1
        assert [key for key, _ in answers] == ["a", "b", "c"]
        parts = answers[1][1]["response"]["candidates"][0]["content"]["parts"]
        live = call.json()["candidates"][0]["content"]["parts"]
        assert parts == live

    async def test_what_was_submitted_and_made_can_be_asked_for(self) -> None:
        async with FakeGemini(image_size=8) as server, client_of(server) as client:
            name = await submit(client, rows("a", "b") + b"\n" + row("c"))
            await reached(client, name)
            await client.delete(f"/v1beta/{name}")
            assert (await client.get(f"/v1beta/{name}")).status_code == 404
            assert (await client.get("/stats")).json()["jobs"] == 1
        keys = ("a", "b", "c")
        assert server.jobs == (Job(1, name, "a batch", MODEL, keys, "SUCCEEDED", images=3),)
        assert server.stats.jobs == 1

    async def test_no_answer_repeats_the_key_of_the_client(self) -> None:
        answers: list[bytes] = []

        async def note(answer: httpx.Response) -> None:
            answers.append(repr(answer.headers.raw).encode() + await answer.aread())

        async with FakeGemini(image_size=8) as server, client_of(server) as client:
            client.event_hooks["response"] = [note]
            await lines_of(client, await run(client, rows("a")))
            await client.get("/v1beta/batches")
            await client.get("/v1beta/files")
        assert len(answers) >= 7
        assert not any(b"canary" in answer for answer in answers)
        assert "canary" not in repr(server.jobs)

    async def test_jobs_are_listed_newest_first_in_pages(self) -> None:
        async with (
            FakeGemini(job_latency=math.inf) as server,
            client_of(server) as client,
        ):
            names = [await submit(client, rows("a")) for _ in range(3)]
            first = (await client.get("/v1beta/batches?pageSize=2")).json()
            token = first.pop("nextPageToken")
            second = (await client.get(f"/v1beta/batches?pageToken={token}")).json()
            wrong = await client.get("/v1beta/batches?pageToken=x")
        assert "nextPageToken" not in second
        listed = [each["name"] for page in (first, second) for each in page["operations"]]
        assert listed == names[::-1]
        assert wrong.status_code == 400

    async def test_the_latency_may_depend_on_the_job(self) -> None:
        def latency(job: Job) -> float:
            return math.inf if job.keys == ("slow",) else 0.0

        async with (
            FakeGemini(image_size=8, job_latency=latency) as server,
            client_of(server) as client,
        ):
            slow = await submit(client, rows("slow"))
            await run(client, rows("fast"))
            assert await reached(client, slow, "PENDING")

    @pytest.mark.parametrize(
        ("model", "source", "status", "message"),
        [
            (MODEL, {"fileName": "files/none"}, 404, "entity was not found"),
            ("gemini-2.5-flash-image", {"fileName": "files/none"}, 404, "2.5-flash-image is not"),
            (MODEL, {}, 400, "required"),
            (MODEL, {"requests": {"requests": []}}, 400, "not served"),
        ],
    )
    async def test_what_cannot_become_a_job_is_refused(
        self, model: str, source: dict[str, Any], status: int, message: str
    ) -> None:
        async with FakeGemini() as server, client_of(server) as client:
            body = {"batch": {"displayName": "x", "inputConfig": source}}
            answer = await client.post(CREATE.replace(MODEL, model), json=body)
            assert server.jobs == ()
        assert answer.status_code == status
        assert message in answer.json()["error"]["message"]

    async def test_an_unknown_batch_is_not_found(self) -> None:
        async with FakeGemini() as server, client_of(server) as client:
            answers = [
                await client.get("/v1beta/batches/x"),
                await client.delete("/v1beta/batches/x"),
                await client.post("/v1beta/batches/x:cancel"),
            ]
        assert [answer.status_code for answer in answers] == [404] * 3

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "no requests"),
            (b"\n", "no requests"),
            (row("a") + b'\n{"key": ', "Line 2 "),
            (b"[]\n", "Line 1 "),
        ],
    )
    async def test_a_file_that_is_none_of_rows_fails_the_job(
        self, content: bytes, message: str
    ) -> None:
        async with FakeGemini() as server, client_of(server) as client:
            operation = await run(client, content)
            assert server.stats.images == 0
        assert operation["metadata"]["state"] == "BATCH_STATE_FAILED"
        assert operation["error"]["code"] == 3
        assert message in operation["error"]["message"]

    async def test_a_job_whose_file_is_deleted_too_early_fails(self, gates: Gates) -> None:
        async with FakeGemini() as server, client_of(server) as client:
            file = (await upload(client, rows("a")))["name"]
            name = (await create(client, file)).json()["name"]
            await client.delete(f"/v1beta/{file}")
            gates.opened = 2
            operation = await reached(client, name)
        assert operation["metadata"]["state"] == "BATCH_STATE_FAILED"
        assert operation["error"]["code"] == 5

    async def test_a_job_that_waits_is_cancelled_and_costs_nothing(self) -> None:
        async with FakeGemini(job_latency=math.inf) as server, client_of(server) as client:
            name = await submit(client, rows("a"))
            assert (await client.post(f"/v1beta/{name}:cancel")).json() == {}
            operation = await reached(client, name)
            assert (await client.post(f"/v1beta/{name}:cancel")).status_code == 200
            assert await reached(client, name) == operation
            assert server.stats.images == 0
        assert operation["metadata"]["state"] == "BATCH_STATE_CANCELLED"
        assert (operation["done"], operation["error"]["code"]) == (True, 1)
        assert "output" not in operation["metadata"]

    async def test_a_job_that_runs_is_cancelled_and_keeps_what_it_made(self) -> None:
        cancelled = threading.Event()

        def hold(line: bytes) -> list[bytes]:
            assert cancelled.wait(60)
            return [line]

        seen: list[Call] = []
        async with (
            FakeGemini(
                image_size=8, faults=seen.append, job_faults=[JobFault(edit=hold)]
            ) as server,
            client_of(server) as client,
        ):
            name = await submit(client, rows(*map(str, range(500))))
            await until(lambda: len(seen) > 0)
            await client.post(f"/v1beta/{name}:cancel")
            cancelled.set()
            operation = await reached(client, name)
            answers = await answers_of(client, operation)
            made = server.stats.images
        assert operation["metadata"]["state"] == "BATCH_STATE_CANCELLED"
        assert 0 < made < 500
        assert [key for key, _ in answers] == [call.key for call in seen]
        assert made == len(seen) == server.jobs[0].images

    async def test_leaving_ends_the_jobs_that_run(self) -> None:
        server = FakeGemini(image_size=8, job_latency=math.inf)
        async with server, client_of(server) as client:
            await submit(client, rows("a"))
        assert server.jobs[0].state == "PENDING"


class TestRows:
    async def test_faults_are_those_of_calls(self) -> None:
        faults = {
            "limited": rate_limited(2),
            "down": Fault(status=503),
            "blocked": blocked(),
            "several": several_images(2),
            "reset": reset(),
            "lost": Fault(status=500, late=True),
        }
        async with (
            FakeGemini(image_size=8, faults=lambda call: faults.get(call.key)) as server,
            client_of(server) as client,
        ):
            operation = await run(client, rows("good", *faults))
            answers = dict(await answers_of(client, operation))
            assert server.stats.images == 1 + 2 + 1 + 1
            assert server.jobs[0].images == 5
        assert counts_of(operation) == {"request": 7, "successful": 4, "failed": 3}
        assert operation["metadata"]["state"] == "BATCH_STATE_SUCCEEDED"
        assert answers["blocked"]["response"] == blocked().body
        assert "candidates" in answers["reset"]["response"]
        # Codes of RPC, as the service gives them in rows.
        codes = {key: each["error"]["code"] for key, each in answers.items() if "error" in each}
        assert codes == {"limited": 8, "down": 14, "lost": 13}
        assert "RetryInfo" in json.dumps(answers["limited"]["error"]["details"])

    async def test_a_wrong_row_fails_alone(self) -> None:
        wrong = b'{"key": "b"}\n{"key": "c", "request": {"contents": []}}\n{"request": 1}\n'
        async with FakeGemini(image_size=8) as server, client_of(server) as client:
            answers = await answers_of(client, await run(client, rows("a") + wrong))
            assert server.stats.images == 1
        assert [(key, each.get("error", {}).get("code")) for key, each in answers] == [
            ("a", None),
            ("b", 3),
            ("c", 3),
            ("", 3),
        ]

    async def test_a_line_may_be_garbage(self) -> None:
        async with (
            FakeGemini(image_size=8, faults=[None, broken_json()]) as server,
            client_of(server) as client,
        ):
            first, second = await lines_of(client, await run(client, rows("a", "b")))
        assert json.loads(first)["key"] == "a"
        with pytest.raises(ValueError, match=r".+"):
            json.loads(second)

    async def test_the_quota_of_calls_is_not_used(self) -> None:
        async with (
            FakeGemini(image_size=8, quota="1/min", daily=1) as server,
            client_of(server) as client,
        ):
            operation = await run(client, rows("a", "b", "c"))
            assert (await client.post(PATH, json=asking())).status_code == 200
            assert server.stats.limited == 0
        assert counts_of(operation)["successful"] == 3

    async def test_a_row_tells_its_key_place_and_path(self) -> None:
        seen: list[Call] = []
        async with (
            FakeGemini(image_size=8, faults=seen.append) as server,
            client_of(server) as client,
        ):
            await run(client, rows(*[f"k{number}" for number in range(70)]))
        assert [call.number for call in seen] == list(range(1, 71))
        assert (seen[-1].key, seen[-1].prompt) == ("k69", "prompt of k69")
        assert (seen[-1].path, seen[-1].model) == (CREATE, MODEL)


class TestInputs:
    async def test_rows_may_refer_to_uploaded_files_but_not_to_unknown_ones(self) -> None:
        async with FakeGemini(image_size=8) as server, client_of(server) as client:
            image = await upload(client, png_of(await client.post(PATH, json=asking())))
            for uri in (image["uri"], "https://service.example/v1beta/files/nowhere"):
                await run(client, referring(uri, "a", "b"))
        first, second = server.jobs
        assert (first.state, first.files, first.images) == ("SUCCEEDED", (image["name"],), 2)
        assert (second.state, second.files, second.images) == ("FAILED", ("files/nowhere",), 0)

    async def test_a_batch_with_more_tokens_than_there_is_room_for_is_refused(
        self, gates: Gates
    ) -> None:
        async with (
            FakeGemini(image_size=8, job_tokens=3000) as server,
            client_of(server) as client,
        ):
            large = await upload(client, referring("files/x", "a", "b", "c"))
            small = await upload(client, referring("files/x", "a", "b"))
            refused = await create(client, large["name"])
            created = await create(client, small["name"])
            again = await create(client, small["name"])
            gates.opened = 9
            await reached(client, created.json()["name"])
            later = await create(client, small["name"])
        assert [each.status_code for each in (refused, created, again, later)] == [
            429,
            200,
            429,
            200,
        ]
        error = refused.json()["error"]
        assert error["message"].startswith("You exceeded your current quota, please check")
        assert "details" not in error
        assert server.stats.jobs == 2


def referring(uri: str, *keys: str) -> bytes:
    """Return rows that refer to a file."""
    file = {"fileData": {"fileUri": uri, "mimeType": "image/png"}}
    contents = [{"parts": [{"text": "a fox"}, file]}]
    lines = [json.dumps({"key": key, "request": {"contents": contents}}) for key in keys]
    return "\n".join(lines).encode()


class TestJobFaults:
    @pytest.mark.parametrize(
        ("fault", "keys", "made", "done"),
        [
            (JobFault(state="FAILED"), None, 0, True),
            (JobFault(state="EXPIRED"), None, 0, True),
            (JobFault(state="CANCELLED"), None, 0, True),
            (JobFault(state="FAILED", after=0.5), "ab", 2, True),
            (JobFault(state="EXPIRED", after=1, output=False), None, 4, True),
            (JobFault(state="PARTIALLY_SUCCEEDED", after=0.75), "abc", 3, False),
            (JobFault(state="PARTIALLY_SUCCEEDED"), "abcd", 4, False),
            (JobFault(output=False), None, 4, True),
            (JobFault(shuffle=True), "dcba", 4, True),
            (JobFault(edit=lambda line: [line, line]), "aabbccdd", 4, True),
            (JobFault(edit=lambda line: [line] if b'"b"' in line else []), "b", 4, True),
        ],
    )
    async def test_a_job_ends_as_it_is_told_to(
        self, fault: JobFault, keys: str | None, made: int, done: bool
    ) -> None:
        async with (
            FakeGemini(image_size=8, job_faults=[fault]) as server,
            client_of(server) as client,
        ):
            operation = await run(client, rows(*"abcd"))
            assert server.stats.images == made
            answers = [] if keys is None else await answers_of(client, operation)
            assert [key for key, _ in answers] == list(keys or "")
            await run(client, rows("next"))
            assert server.jobs[1].state == "SUCCEEDED"
        assert ("output" in operation["metadata"]) is (keys is not None)
        assert operation["metadata"]["state"] == f"BATCH_STATE_{fault.state}"
        assert operation.get("done", False) is done
        assert ("error" in operation) is (fault.state in ("FAILED", "EXPIRED", "CANCELLED"))
        assert counts_of(operation).get("pending", 0) == 4 - made

    async def test_the_file_with_the_answers_may_be_named_late(self) -> None:
        async with (
            FakeGemini(image_size=8, job_faults=[JobFault(late_output=2)]) as server,
            client_of(server) as client,
        ):
            name = await submit(client, rows("a"))
            first = await reached(client, name)
            second, third = await reached(client, name), await reached(client, name)
            assert [key for key, _ in await answers_of(client, third)] == ["a"]
        for early in (first, second):
            assert (early["done"], early["metadata"]["state"]) == (True, "BATCH_STATE_SUCCEEDED")
            assert {"output", "response"}.isdisjoint(early["metadata"] | early)

    async def test_a_function_tells_what_goes_wrong(self) -> None:
        def faults(job: Job) -> JobFault | None:
            return JobFault(state="FAILED") if "bad" in job.keys else None

        async with (
            FakeGemini(image_size=8, job_faults=faults) as server,
            client_of(server) as client,
        ):
            for key in ("good", "bad"):
                await run(client, rows(key))
        assert [job.state for job in server.jobs] == ["SUCCEEDED", "FAILED"]

    async def test_an_error_in_a_function_ends_the_server(self) -> None:
        def latency(job: Job) -> float:
            raise LookupError(job.name)

        with pytest.raises(ExceptionGroup) as caught:
            async with FakeGemini(job_latency=latency) as server, client_of(server) as client:
                await submit(client, rows("a"))
                await anyio.sleep_forever()
        assert caught.group_contains(LookupError)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"state": "RUNNING"},
            {"state": "LOST"},
            {"after": -0.1},
            {"after": 1.1},
            {"late_output": -1},
        ],
    )
    def test_a_malformed_fault_is_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="must be"):
            JobFault(**wrong)


class TestControlFaults:
    @pytest.mark.parametrize(
        ("fault", "status", "jobs"),
        [
            (Fault(status=500), 500, 0),
            (Fault(status=500, late=True), 500, 1),
            (Fault(status=429, body=rate_limited(2).body, late=True), 429, 1),
            (reset(), None, 0),
            (Fault(reset=True, late=True), None, 1),
            (short_body(10), None, 1),
        ],
    )
    async def test_a_job_may_be_created_or_not_behind_an_error(
        self, fault: Fault, status: int | None, jobs: int
    ) -> None:
        async with (
            FakeGemini(image_size=8, control_faults={"create_batch": [fault]}) as server,
            client_of(server) as client,
        ):
            file = (await upload(client, rows("a")))["name"]
            try:
                seen = (await create(client, file, "first")).status_code
            except httpx.TransportError:
                seen = None
            assert (seen, server.stats.jobs) == (status, jobs)
            listed = (await client.get("/v1beta/batches")).json()["operations"]
            assert [each["metadata"]["displayName"] for each in listed] == ["first"] * jobs
            assert (await create(client, file, "second")).status_code == 200
            assert server.stats.jobs == jobs + 1

    async def test_a_poll_may_fail_or_tell_something_else(self) -> None:
        def hide_output(operation: dict[str, Any]) -> dict[str, Any]:
            operation["metadata"]["output"] = {}
            return operation

        script = [
            Fault(status=503),
            Fault(body={"name": "other"}),
            Fault(edit=hide_output),
            None,
        ]
        async with (
            FakeGemini(image_size=8, control_faults={"get_batch": script}) as server,
            client_of(server) as client,
        ):
            name = await submit(client, rows("a"))
            await until(lambda: server.jobs[0].state == "SUCCEEDED")
            answers = [await client.get(f"/v1beta/{name}") for _ in script]
        assert [answer.status_code for answer in answers] == [503, 200, 200, 200]
        assert answers[1].json() == {"name": "other"}
        assert answers[2].json()["metadata"]["output"] == {}
        assert answers[3].json()["metadata"]["output"] != {}

    async def test_a_function_sees_every_request(self) -> None:
        seen: list[ControlCall] = []
        async with (
            FakeGemini(image_size=8, control_faults=seen.append) as server,
            client_of(server) as client,
        ):
            name = await submit(client, rows("a"))
            await client.get("/v1beta/batches")
            await client.get("/v1beta/batches")
            await client.delete(f"/v1beta/{name}")
        assert seen == [
            ControlCall(1, "start_upload", ""),
            ControlCall(1, "upload", ""),
            ControlCall(1, "create_batch", MODEL),
            ControlCall(1, "list_batches", ""),
            ControlCall(2, "list_batches", ""),
            ControlCall(1, "delete_batch", name.removeprefix("batches/")),
        ]

    async def test_a_request_without_a_key_uses_no_fault_up(self) -> None:
        faults = {"list_batches": [Fault(status=503)]}
        async with FakeGemini(control_faults=faults) as server, client_of(server) as client:
            refused = await client.get("/v1beta/batches", headers={"x-goog-api-key": ""})
            answers = [await client.get("/v1beta/batches") for _ in range(2)]
        assert refused.status_code == 403
        assert [answer.status_code for answer in answers] == [503, 200]

    def test_an_unknown_action_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no action 'poll'"):
            FakeGemini(control_faults={"poll": []})

    async def test_a_call_may_be_billed_behind_an_error(self) -> None:
        faults = [Fault(status=500, late=True), Fault(reset=True, late=True), None]
        async with FakeGemini(image_size=8, faults=faults) as server, client_of(server) as client:
            failed = await client.post(PATH, json=asking())
            with pytest.raises(httpx.TransportError):
                await client.post(PATH, json=asking())
            assert server.stats.images == 2
            assert png_of(await client.post(PATH, json=asking()))
        assert failed.status_code == 500


class TestSdk:
    async def test_a_batch_from_file_to_answers(self, tmp_path: Path) -> None:
        path = tmp_path / "rows.jsonl"
        path.write_bytes(rows("a", "b"))
        async with FakeGemini(image_size=8) as server, sdk_of(server) as client:
            config = types.UploadFileConfig(mime_type="application/jsonl")
            file = await client.files.upload(file=path, config=config)
            assert file.name is not None
            job = await client.batches.create(
                model=MODEL, src=file.name, config={"display_name": "mine"}
            )
            assert job.name is not None
            with anyio.fail_after(60):
                while not job.done:
                    job = await client.batches.get(name=job.name or "")
            assert job.dest is not None
            assert job.dest.file_name is not None
            content = await client.files.download(file=job.dest.file_name)
            assert job.name is not None
            listed = [each.name async for each in await client.batches.list()]
            await client.batches.cancel(name=job.name)
            await client.batches.delete(name=job.name)
            left = [each.name async for each in await client.batches.list()]
        assert job.state is types.JobState.JOB_STATE_SUCCEEDED
        assert job.display_name == "mine"
        assert [json.loads(line)["key"] for line in content.splitlines()] == ["a", "b"]
        assert (listed, left) == ([job.name], [])

    async def test_it_takes_a_partial_success_for_no_end(self) -> None:
        fault = JobFault(state="PARTIALLY_SUCCEEDED")
        async with (
            FakeGemini(image_size=8, job_faults=[fault]) as server,
            client_of(server) as raw,
            sdk_of(server) as client,
        ):
            name = await submit(raw, rows("a"))
            await reached(raw, name)
            with pytest.warns(UserWarning, match="PARTIALLY_SUCCEEDED is not a valid JobState"):
                job = await client.batches.get(name=name)
        assert not job.done
        assert job.dest is not None
        assert job.dest.file_name is not None


@pytest.mark.parametrize("latency", [-1.0, math.nan])
def test_a_malformed_latency_is_refused(latency: float) -> None:
    with pytest.raises(ValueError, match="job_latency must be >= 0"):
        FakeGemini(job_latency=latency)
