"""Files of a FakeGemini over a real wire: uploads, what is told of them, downloads."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import anyio
import anyio.lowlevel
import httpx
import pytest
from google.genai.errors import ClientError

from genbatch.testing import ControlCall, FakeGemini, Fault, short_body
from genbatch.testing._files import StoredFile
from support.backends import until
from support.batch_wire import (
    UPLOAD,
    create,
    lines_of,
    rows,
    run,
    sdk_of,
    send_chunk,
    start_upload,
    submit,
    upload,
)
from support.wire import client_of

pytestmark = pytest.mark.anyio


class TestUploads:
    async def test_a_file_is_described_as_the_service_does(self) -> None:
        async with FakeGemini() as server, client_of(server) as client:
            uploaded = await upload(client, b"some bytes", displayName="notes")
            described = (await client.get(f"/v1beta/{uploaded['name']}")).json()
        assert described == uploaded
        assert described["sizeBytes"] == "10"
        assert described["displayName"] == "notes"
        assert (described["state"], described["source"]) == ("ACTIVE", "UPLOADED")
        assert described["createTime"].endswith("Z")
        assert "downloadUri" not in described

    async def test_chunks_make_one_file(self) -> None:
        async with FakeGemini() as server, client_of(server) as client:
            started = await start_upload(client, 6)
            url = started.headers["x-goog-upload-url"]
            first = await send_chunk(client, url, "upload", 0, b"abc")
            asked = await send_chunk(client, url, "query")
            last = await send_chunk(client, url, "upload, finalize", 3, b"def")
        statuses = [each.headers["x-goog-upload-status"] for each in (started, first, asked, last)]
        assert statuses == ["active", "active", "active", "final"]
        assert asked.headers["x-goog-upload-size-received"] == "3"
        assert last.json()["file"]["sizeBytes"] == "6"

    async def test_the_end_of_an_upload_can_be_asked_for_again(self) -> None:
        cut = {"upload": [Fault(reset=True, late=True)]}
        async with FakeGemini(control_faults=cut) as server, client_of(server) as client:
            url = (await start_upload(client, 3)).headers["x-goog-upload-url"]
            with pytest.raises(httpx.TransportError):
                await send_chunk(client, url, "upload, finalize", 0, b"abc")
            again = await send_chunk(client, url, "query")
        assert again.headers["x-goog-upload-status"] == "final"
        assert again.json()["file"]["sizeBytes"] == "3"

    @pytest.mark.parametrize(
        ("command", "offset", "content"),
        [
            ("upload", 1, b"abc"),  # a gap
            ("upload", 0, b"abcdef"),  # more than announced
            ("upload, finalize", 0, b"abc"),  # less
            ("rewind", 0, b"abcde"),
        ],
    )
    async def test_a_wrong_chunk_is_refused_and_changes_nothing(
        self, command: str, offset: int, content: bytes
    ) -> None:
        async with FakeGemini() as server, client_of(server) as client:
            url = (await start_upload(client, 5)).headers["x-goog-upload-url"]
            refused = await send_chunk(client, url, command, offset, content)
            right = await send_chunk(client, url, "upload, finalize", 0, b"abcde")
        assert refused.status_code == 400
        assert refused.headers["x-goog-upload-size-received"] == "0"
        assert right.json()["file"]["sizeBytes"] == "5"

    async def test_a_chunk_sent_twice_at_once_is_taken_once(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        append, writes, go = StoredFile.append, list[bytes](), threading.Event()

        def held(file: StoredFile, body: bytes) -> None:
            writes.append(body)
            assert go.wait(60)
            append(file, body)

        monkeypatch.setattr(StoredFile, "append", held)
        seen, statuses = list[ControlCall](), list[int]()
        async with FakeGemini(control_faults=seen.append) as server, client_of(server) as client:
            url = (await start_upload(client, 6)).headers["x-goog-upload-url"]

            async def send() -> None:
                statuses.append((await send_chunk(client, url, "upload", 0, b"abc")).status_code)

            async with anyio.create_task_group() as tasks:
                for _ in range(2):
                    tasks.start_soon(send)
                await until(lambda: len(seen) == 3 and len(writes) > 0)
                for _ in range(100):  # time enough for the second to be written too
                    await anyio.lowlevel.checkpoint()
                assert len(writes) == 1
                go.set()
            last = await send_chunk(client, url, "upload, finalize", 3, b"def")
        assert sorted(statuses) == [200, 400]
        assert last.json()["file"]["sizeBytes"] == "6"

    async def test_an_unknown_upload_is_not_found(self) -> None:
        async with FakeGemini() as server, client_of(server) as client:
            answer = await send_chunk(client, f"{UPLOAD}?upload_id=x", "upload", 0, b"abc")
        assert (answer.status_code, answer.headers["x-goog-upload-status"]) == (404, "final")

    async def test_only_resumable_uploads_are_served(self) -> None:
        async with FakeGemini() as server, client_of(server) as client:
            answer = await client.post(UPLOAD, content=b"abc")
        assert answer.status_code == 400

    @pytest.mark.parametrize(
        ("name", "status"),
        [("mine-1", 200), ("-mine", 400), ("Mine", 400), ("m" * 41, 400), ("taken", 400)],
    )
    async def test_a_name_may_be_asked_for(self, name: str, status: int) -> None:
        async with FakeGemini() as server, client_of(server) as client:
            await upload(client, b"x", name="files/taken")
            answer = await start_upload(client, 1, name=f"files/{name}")
            assert answer.status_code == status
            if status == 200:
                named = await upload(client, b"x", name=f"files/{name}")
                assert named["name"] == f"files/{name}"

    async def test_the_url_of_an_upload_needs_no_key_and_all_else_does(self) -> None:
        async with FakeGemini() as server, client_of(server) as client:
            url = (await start_upload(client, 3)).headers["x-goog-upload-url"]
            name = await submit(client, rows("a"))
            del client.headers["x-goog-api-key"]
            assert (await send_chunk(client, url, "upload", 0, b"abc")).status_code == 200
            answers = [
                await start_upload(client, 3),
                await create(client, "files/x"),
                await client.delete(f"/v1beta/{name}"),
                await client.post(f"/v1beta/{name}:cancel"),
                *[
                    await client.get(f"/v1beta/{path}")
                    for path in ("files", "files/x", "files/x:download", "batches", name)
                ],
            ]
            assert [answer.status_code for answer in answers] == [403] * len(answers)
            assert server.stats.jobs == 1


class TestFiles:
    async def test_files_are_listed_newest_first_in_pages(self) -> None:
        async with FakeGemini() as server, client_of(server) as client:
            names = [(await upload(client, b"x"))["name"] for _ in range(3)]
            first = (await client.get("/v1beta/files?pageSize=2")).json()
            token = first.pop("nextPageToken")
            second = (await client.get(f"/v1beta/files?pageToken={token}")).json()
            wrong = await client.get("/v1beta/files?pageSize=x")
        assert "nextPageToken" not in second
        listed = [file["name"] for page in (first, second) for file in page["files"]]
        assert listed == names[::-1]
        assert wrong.status_code == 400

    async def test_a_deleted_file_is_no_longer_there(self) -> None:
        async with FakeGemini() as server, client_of(server) as client:
            path = f"/v1beta/{(await upload(client, b'x'))['name']}"
            assert (await client.delete(path)).json() == {}
            answers = [await client.get(path), await client.delete(path)]
            answers.append(await client.get(f"{path}:download?alt=media"))
        assert [answer.status_code for answer in answers] == [403, 403, 403]
        assert "or it may not exist" in answers[0].json()["error"]["message"]

    async def test_results_are_downloaded_from_either_path_and_uploads_are_not(self) -> None:
        async with FakeGemini(image_size=8) as server, client_of(server) as client:
            file = (await run(client, rows("a")))["metadata"]["output"]["responsesFile"]
            described = (await client.get(f"/v1beta/{file}")).json()
            one = await client.get(f"/v1beta/{file}:download?alt=media")
            other = await client.get(f"/download/v1beta/{file}:download?alt=media")
            uploaded = (await upload(client, b"x"))["name"]
            refused = await client.get(f"/v1beta/{uploaded}:download?alt=media")
        assert one.content == other.content
        assert one.headers["content-length"] == described["sizeBytes"] == str(len(one.content))
        assert described["source"] == "GENERATED"
        assert described["downloadUri"] == f"{server_of(described)}/{file}:download?alt=media"
        assert refused.status_code == 400

    async def test_the_service_cannot_delete_results_for_their_names_are_too_long(self) -> None:
        async with FakeGemini(image_size=8) as server, client_of(server) as client:
            file = (await run(client, rows("a")))["metadata"]["output"]["responsesFile"]
            answer = await client.delete(f"/v1beta/{file}")
            assert (await client.get(f"/v1beta/{file}")).status_code == 200
        assert answer.status_code == 400
        assert "cannot be more than 40 characters" in answer.json()["error"]["message"]

    async def test_a_download_can_break_off_in_the_middle(self) -> None:
        faults = {"download": [short_body(100), Fault(reset=True, truncate=50)]}
        async with (
            FakeGemini(image_size=8, control_faults=faults) as server,
            client_of(server) as client,
        ):
            operation = await run(client, rows("a"))
            for most in (100, 50):
                received = b""
                file = operation["metadata"]["output"]["responsesFile"]
                with pytest.raises(httpx.TransportError):
                    async with client.stream("GET", f"/v1beta/{file}:download") as answer:
                        async for piece in answer.aiter_raw():
                            received += piece
                assert len(received) <= most
                assert int(answer.headers["content-length"]) > most
            assert len(await lines_of(client, operation)) == 1

    async def test_a_download_can_drip(self) -> None:
        faults = {"download": [Fault(drip=(1000, 0.0))]}
        async with (
            FakeGemini(image_size=8, control_faults=faults) as server,
            client_of(server) as client,
        ):
            assert len(await lines_of(client, await run(client, rows(*"abcdef")))) == 6

    async def test_leaving_removes_the_files_and_a_new_start_has_none(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        server = FakeGemini(image_size=8)
        async with server, client_of(server) as client:
            operation = await run(client, rows("a"))
            assert await anyio.to_thread.run_sync(os.listdir, tmp_path)
        assert list(tmp_path.iterdir()) == []
        async with server, client_of(server) as client:
            assert (await client.get("/v1beta/files")).json() == {"files": []}
            assert (await client.get(f"/v1beta/{operation['name']}")).status_code == 404
        assert server.stats.jobs == 1


def server_of(described: dict[str, str]) -> str:
    return described["uri"].removesuffix(f"/{described['name']}")


class TestSdk:
    async def test_a_file_goes_up_in_chunks_and_is_told_and_deleted(self, tmp_path: Path) -> None:
        path = tmp_path / "large.jsonl"
        size = 8 * 1024 * 1024 + 5  # more than one of its chunks
        path.write_bytes(b"x" * size)
        async with FakeGemini() as server, sdk_of(server) as client:
            config = {"mime_type": "application/jsonl", "display_name": "large"}
            uploaded = await client.files.upload(file=path, config=config)
            assert uploaded.name is not None
            told = await client.files.get(name=uploaded.name)
            listed = [file.name async for file in await client.files.list()]
            await client.files.delete(name=uploaded.name)
            with pytest.raises(ClientError, match="or it may not exist"):
                await client.files.get(name=uploaded.name)
        assert (told.size_bytes, told.display_name) == (size, "large")
        assert told.mime_type == "application/jsonl"
        assert listed == [uploaded.name]
