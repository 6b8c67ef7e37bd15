"""GeminiClient on Vertex: OAuth tokens instead of a key, over the real SDK and a real wire."""

from __future__ import annotations

import json
import logging
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import anyio
import anyio.lowlevel
import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth.credentials import Credentials
from google.auth.exceptions import RefreshError, TransportError

from genbatch import (
    Failure,
    GeminiClient,
    Prompt,
    QuotaExhausted,
    Rejected,
    Success,
    Unauthorized,
    Unavailable,
    collect,
)
from genbatch.testing import (
    FakeGemini,
    Fault,
    bad_token,
    rate_limited,
    redirect,
    reset,
    retired_model,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("pauses")]

TOKEN = "ya29.canary-token-that-nobody-may-see"
MODEL = "gemini-nano-banana-2.1"
PATH = "/v1beta1/projects/my-project/locations/europe-west4/publishers/google/models/"


class Fake(Credentials):
    """Credentials whose refreshes fail as told, then give the tokens told, one after another."""

    def __init__(self, *tokens: str, errors: tuple[Exception, ...] = ()) -> None:
        super().__init__()
        self.token = None
        self.tokens, self.errors = list(tokens or [TOKEN]), list(errors)
        self.refreshes = 0

    def refresh(self, request: Any) -> None:
        self.refreshes += 1
        if self.errors:
            raise self.errors.pop(0)
        self.token = self.tokens.pop(0)
        self.expiry = datetime.now(UTC).replace(tzinfo=None) + timedelta(hours=1)


def fake(*faults: Fault | None, **options: Any) -> FakeGemini:
    return FakeGemini(image_size=8, faults=faults, tokens={TOKEN}, **options)


def client_for(server: FakeGemini, credentials: Credentials, **settings: Any) -> GeminiClient:
    settings = {"project": "my-project", "location": "europe-west4"} | settings
    return GeminiClient(vertexai=True, credentials=credentials, base_url=server.url, **settings)


async def test_an_image_comes_from_vertex(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "a-key-of-the-environment")
    credentials = Fake()
    credentials._quota_project_id = "who-pays"
    async with fake() as server, client_for(server, credentials) as client:
        image = await client.generate_image(Prompt("a cat", aspect_ratio="16:9", seed=7))
    (call,) = server.calls
    assert image.mime_type == "image/png"
    assert call.path == f"{PATH}{MODEL}:generateContent"
    assert call.body["generationConfig"]["imageConfig"] == {"aspectRatio": "16:9"}
    assert call.headers["authorization"] == f"Bearer {TOKEN}"
    assert call.headers["x-goog-user-project"] == "who-pays"
    assert "x-goog-api-key" not in call.headers


@pytest.mark.parametrize("own", [False, True], ids=["injected", "own"])
async def test_fifty_calls_with_a_stale_token_refresh_it_once(own: bool) -> None:
    credentials = Fake()
    async with fake() as server, httpx.AsyncClient(verify=False) as http_client:
        settings = {} if own else {"http_client": http_client}
        async with client_for(server, credentials, **settings) as client:
            prompts = [f"cat {number}" for number in range(50)]
            outcomes = await collect(client.generate_image, prompts, max_concurrent=50)
    assert all(isinstance(outcome, Success) for outcome in outcomes)
    assert credentials.refreshes == 1


async def test_a_token_that_runs_out_is_replaced_on_the_way() -> None:
    second = f"{TOKEN}-2"
    credentials, valid = Fake(TOKEN, second), {TOKEN}
    async with (
        FakeGemini(image_size=8, tokens=valid) as server,
        client_for(server, credentials) as client,
    ):
        await client.generate_image("a cat")
        assert client._wire is not None
        assert client._wire._access is not None
        client._wire._access._stale_at = 0.0
        valid.clear()
        valid.add(second)
        await client.generate_image("a cat")
    assert credentials.refreshes == 2


async def test_refused_credentials_fail_without_a_call(pauses: list[float]) -> None:
    credentials = Fake(errors=(RefreshError("invalid_grant: revoked"),))
    async with fake() as server, client_for(server, credentials) as client:
        with pytest.raises(Unauthorized, match=r"refused: invalid_grant: revoked$") as caught:
            await client.generate_image("a cat")
        assert not caught.value.maybe_paid
        assert server.stats.calls == 0
        await client.generate_image("a cat")  # the next call tries again
    assert pauses == []


async def test_a_refresh_that_fails_for_now_is_tried_again(pauses: list[float]) -> None:
    credentials = Fake(errors=(TransportError("no route"), TransportError("no route")))
    async with fake() as server, client_for(server, credentials) as client:
        await client.generate_image("a cat")
        assert server.stats.calls == 1
    assert credentials.refreshes == 3
    assert len(pauses) == 2


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (bad_token(), Unauthorized),
        (Fault(status=403), Unauthorized),
        (retired_model(), Rejected),
        (redirect("http://127.0.0.2/"), Rejected),
        (rate_limited(47, per_day=True), QuotaExhausted),
        (Fault(status=503), Unavailable),
        (reset(), Unavailable),
    ],
    ids=str,
)
async def test_faults_are_translated_as_those_of_the_other_api(
    fault: Fault, error: type[Exception]
) -> None:
    async with fake(fault) as server, client_for(server, Fake(), max_retries=0) as client:
        (outcome,) = await collect(client.generate_image, ["a cat"])
    assert isinstance(outcome, Failure)
    assert type(outcome.error) is error


async def test_models_are_listed() -> None:
    async with fake() as server, client_for(server, Fake()) as client:
        assert MODEL in await client.models()


def test_a_client_may_be_entered_again_under_another_event_loop() -> None:
    client: GeminiClient

    async def ask(expected: int) -> None:
        async with fake(port=0) as server:
            client._base_url = server.url
            async with client:
                prompts = [f"cat {number}" for number in range(10)]
                outcomes = await collect(client.generate_image, prompts, max_concurrent=10)
        assert all(isinstance(outcome, Success) for outcome in outcomes)
        assert credentials.refreshes == expected

    credentials = Fake()
    client = GeminiClient(vertexai=True, project="p", credentials=credentials)
    anyio.run(ask, 1, backend="asyncio")
    anyio.run(ask, 1, backend="trio")  # with the token of before
    credentials.token, credentials.tokens = None, [TOKEN]
    anyio.run(ask, 2, backend="trio")


def locals_outside_tests(error: BaseException | None) -> str:
    """Return what a tool that reports local variables would show of error and its causes."""
    shown = ""
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_code.co_filename != __file__:
                shown += repr(frame.f_locals)
        error = error.__cause__ or error.__context__
    return shown


async def test_the_token_is_in_no_log_error_or_repr(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for name in list(logging.root.manager.loggerDict):
        caplog.set_level(logging.DEBUG, logger=name)
    faults = [
        None,
        Fault(status=400, body={"error": {"message": f"bad {TOKEN}", "details": [{"a": TOKEN}]}}),
        Fault(status=401, body=f"<html>{TOKEN}"),
        Fault(body=TOKEN),
        Fault(truncate=100),
        Fault(reset=True),  # on a fresh connection: elsewhere it is sent again
        redirect("http://127.0.0.2/"),
    ]
    shown = ""
    credentials = Fake(TOKEN, errors=(RefreshError(f"bad {TOKEN}"),))
    credentials.token, credentials.expiry = TOKEN, datetime(2020, 1, 1)
    async with fake(*faults) as server, client_for(server, credentials, max_retries=0) as client:
        for fault in ["refresh", *faults]:
            (outcome,) = await collect(client.generate_image, ["a cat"])
            if fault is None:
                assert isinstance(outcome, Success)
                continue
            assert isinstance(outcome, Failure)
            shown += repr(outcome.error) + "".join(traceback.format_exception(outcome.error))
            shown += locals_outside_tests(outcome.error)
        shown += repr(client) + str(vars(client)) + repr(vars(client)["_wire"])
        assert server.stats.calls == len(faults)
    shown += "\n".join(record.getMessage() for record in caplog.records)
    assert "google.auth" in logging.root.manager.loggerDict
    assert "Unauthorized" in shown
    assert TOKEN not in shown


@contextmanager
def token_endpoint() -> Iterator[tuple[str, list[dict[str, list[str]]]]]:
    """Serve tokens in a thread; yield the URL and the requests that come."""
    requests: list[dict[str, list[str]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            requests.append(parse_qs(self.rfile.read(length).decode()))
            answer = json.dumps({"access_token": TOKEN, "expires_in": 3600}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/token", requests
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def private_key() -> str:
    key = rsa.generate_private_key(65537, 2048)
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    return key.private_bytes(pem, pkcs8, serialization.NoEncryption()).decode()


async def test_application_default_credentials_are_found_and_exchanged_for_a_token(
    private_key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOOGLE_CLOUD_PROJECT", "GOOGLE_CLOUD_LOCATION", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "key.json"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "true")
    with token_endpoint() as (url, requests):
        account = {
            "type": "service_account",
            "project_id": "its-project",
            "private_key": private_key,
            "client_email": "robot@its-project.example",
            "token_uri": url,
        }
        await anyio.Path(file).write_text(json.dumps(account))
        async with fake() as server, GeminiClient(base_url=server.url) as client:
            outcomes = await collect(client.generate_image, ["a cat", "a dog"])
    assert all(isinstance(outcome, Success) for outcome in outcomes)
    assert len(requests) == 1
    assert "assertion" in requests[0]
    assert server.calls[0].path.startswith("/v1beta1/projects/its-project/locations/global/")
