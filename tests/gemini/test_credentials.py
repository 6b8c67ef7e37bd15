"""Google credentials: found, kept fresh by one refresh for all, and out of sight."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread
import pytest
from google import genai
from google.auth.credentials import Credentials
from google.auth.exceptions import RefreshError, TransportError

from genbatch import GeminiClient, Unauthorized, Unavailable
from genbatch._client import Secret
from genbatch.gemini import _credentials
from genbatch.gemini._client import Vertex, find_vertex
from genbatch.gemini._credentials import Access
from support.backends import only_asyncio, until

pytestmark = pytest.mark.anyio

TOKEN = "ya29.canary-token-that-nobody-may-see"
CALLS = 50


class Fake(Credentials):
    """Credentials that count how often they are refreshed, each time with a new token.

    Args:
        life: Seconds a new token lives; None for ever.
        token: The one they start with, which lives as long.
        errors: What the first refreshes raise.
        gate: What each refresh waits for.
    """

    def __repr__(self) -> str:
        return "Fake()"  # the same in the names of tests of every process

    def __init__(
        self,
        life: float | None = 3600,
        *,
        token: str | None = None,
        errors: tuple[Exception, ...] = (),
        gate: threading.Event | None = None,
    ) -> None:
        super().__init__()
        self.life, self.errors, self.gate = life, list(errors), gate
        self.refreshes = 0
        self.token = token
        self._live()

    def _live(self) -> None:
        if self.life is not None:
            now = datetime.now(UTC).replace(tzinfo=None)
            self.expiry = now + timedelta(seconds=self.life)

    def refresh(self, request: Any) -> None:
        self.refreshes += 1
        if self.gate is not None:
            assert self.gate.wait(30)
        if self.errors:
            raise self.errors.pop(0)
        self.token = f"{TOKEN}-{self.refreshes}"
        self._live()


async def access_of(credentials: Credentials | None, project: str | None = "p") -> Access:
    """Make it in a thread, as an opening client does."""
    vertex = Vertex(project, "global", credentials)
    make = partial(Access, vertex, Secret(name="token"), anyio.CapacityLimiter(4))
    access = await anyio.to_thread.run_sync(make)
    access._refreshing = CountedLock()  # type: ignore[assignment]
    return access


def waiting(access: Access) -> int:
    """Return how many calls wait for the one that refreshes."""
    return access._lock.statistics().tasks_waiting


async def within(scope: anyio.CancelScope, access: Access) -> None:
    with scope:
        await access.ensure_fresh()


async def others_are_served(
    access: Access,
    credentials: Fake,
    calls: anyio.abc.TaskGroup,
    cancel: Callable[[], object],
    *,
    threads: int,
) -> None:
    """Start calls, cancel another, see it leave at once, and end the one refresh there is.

    By then so many threads have come to refresh.
    """
    before = waiting(access)
    for _ in range(CALLS):
        calls.start_soon(access.ensure_fresh)
    await until(lambda: waiting(access) == before + CALLS)
    cancel()
    await until(lambda: waiting(access) == before + CALLS - 1)
    await until(lambda: access._refreshing.came == threads)  # type: ignore[attr-defined]
    assert credentials.gate is not None
    credentials.gate.set()
    await until(lambda: not access._lock.statistics().locked)
    await access.ensure_fresh()
    assert credentials.refreshes == 1
    assert access.for_sdk.token == f"{TOKEN}-1"


class CountedLock:
    """A lock that knows how many threads have come to it."""

    def __init__(self) -> None:
        self.came = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self.came += 1
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class TestRefreshing:
    async def test_many_calls_share_one_refresh(self) -> None:
        credentials = Fake(gate=threading.Event())
        access = await access_of(credentials)
        assert credentials.gate is not None
        async with anyio.create_task_group() as calls:
            for _ in range(CALLS):
                calls.start_soon(access.ensure_fresh)
            await until(lambda: waiting(access) == CALLS - 1)
            credentials.gate.set()
        await access.ensure_fresh()
        assert credentials.refreshes == 1
        assert access.for_sdk.token == f"{TOKEN}-1"
        assert not access.for_sdk.expired

    async def test_a_failure_is_everybodys_and_the_next_call_tries_again(self) -> None:
        credentials = Fake(errors=(RefreshError("revoked"),), gate=threading.Event())
        access = await access_of(credentials)
        assert credentials.gate is not None
        errors: list[Unauthorized] = []

        async def call() -> None:
            with pytest.raises(Unauthorized) as caught:
                await access.ensure_fresh()
            errors.append(caught.value)

        async with anyio.create_task_group() as calls:
            for _ in range(CALLS):
                calls.start_soon(call)
            await until(lambda: waiting(access) == CALLS - 1)
            credentials.gate.set()
        assert credentials.refreshes == 1
        assert {str(error) for error in errors} == {"Google credentials were refused: revoked"}
        assert len(set(map(id, errors))) == CALLS  # each has a traceback of its own
        await access.ensure_fresh()
        assert credentials.refreshes == 2

    async def test_the_refresh_goes_on_for_others_where_its_call_is_cancelled(self) -> None:
        credentials = Fake(gate=threading.Event())
        access = await access_of(credentials)
        async with anyio.create_task_group() as calls:
            scope = anyio.CancelScope()
            calls.start_soon(within, scope, access)
            await until(lambda: credentials.refreshes == 1)
            await others_are_served(access, credentials, calls, scope.cancel, threads=2)
        assert scope.cancelled_caught

    @only_asyncio
    async def test_the_refresh_goes_on_where_its_call_is_cancelled_natively(self) -> None:
        credentials = Fake(gate=threading.Event())
        access = await access_of(credentials)
        async with anyio.create_task_group() as calls:
            task = asyncio.create_task(access.ensure_fresh())
            await until(lambda: credentials.refreshes == 1)
            await others_are_served(access, credentials, calls, task.cancel, threads=2)
        assert task.cancelled()

    async def test_a_call_cancelled_while_it_waits_disturbs_nobody(self) -> None:
        credentials = Fake(gate=threading.Event())
        access = await access_of(credentials)
        async with anyio.create_task_group() as calls:
            calls.start_soon(access.ensure_fresh)
            await until(lambda: credentials.refreshes == 1)
            scope = anyio.CancelScope()
            calls.start_soon(within, scope, access)
            await until(lambda: waiting(access) == 1)
            await others_are_served(access, credentials, calls, scope.cancel, threads=1)

    @only_asyncio
    async def test_a_call_cancelled_natively_while_it_waits_disturbs_nobody(self) -> None:
        credentials = Fake(gate=threading.Event())
        access = await access_of(credentials)
        async with anyio.create_task_group() as calls:
            calls.start_soon(access.ensure_fresh)
            await until(lambda: credentials.refreshes == 1)
            task = asyncio.create_task(access.ensure_fresh())
            await until(lambda: waiting(access) == 1)
            await others_are_served(access, credentials, calls, task.cancel, threads=1)
        assert task.cancelled()

    @pytest.mark.parametrize(
        ("raised", "error"),
        [
            (RefreshError("no"), Unauthorized),
            (RefreshError("busy", retryable=True), Unavailable),
            (TransportError("no route"), Unavailable),
            (ConnectionError("gone"), Unavailable),
            (KeyError("anybody's code"), Unauthorized),
            (RefreshError("no", {"error": "invalid_grant"}), Unauthorized),
        ],
        ids=repr,
    )
    async def test_what_credentials_raise_is_translated(
        self, raised: Exception, error: type[Exception]
    ) -> None:
        access = await access_of(Fake(errors=(raised,)))
        with pytest.raises(error, match=rf"^Google credentials .*: {raised.args[0]}$"):
            await access.ensure_fresh()

    async def test_secrets_in_what_they_raise_are_hidden(self) -> None:
        credentials = Fake(0, token=TOKEN, errors=(RefreshError(f"bad {TOKEN} and 1//secret"),))
        credentials.refresh_token = "1//secret"  # type: ignore[attr-defined]
        access = await access_of(credentials)
        with pytest.raises(Unauthorized, match=r": bad \[token\] and \[refresh_token\]$") as caught:
            await access.ensure_fresh()
        assert caught.value.__cause__ is caught.value.__context__ is None

    @pytest.mark.parametrize("token", ["", f"{TOKEN}\n", None])
    async def test_a_token_that_cannot_be_sent_is_refused(self, token: str | None) -> None:
        class Bad(Fake):
            def refresh(self, request: Any) -> None:
                self.token = token

        access = await access_of(Bad())
        with pytest.raises(Unauthorized) as caught:
            await access.ensure_fresh()
        assert TOKEN not in str(caught.value)


class TestFreshness:
    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
        """Return what puts the monotonic clock forward; the clock of the wall stays."""
        now = 1000.0

        class Clock:
            @staticmethod
            def monotonic() -> float:
                return now

        def forward(seconds: float) -> None:
            nonlocal now
            now += seconds

        monkeypatch.setattr(_credentials, "time", Clock)
        return forward

    @pytest.mark.parametrize("token", [None, TOKEN])
    async def test_a_token_is_replaced_ten_minutes_ahead(
        self, token: str | None, clock: Callable[[float], None]
    ) -> None:
        credentials = Fake(3600, token=token)
        access = await access_of(credentials)
        await access.ensure_fresh()
        before = credentials.refreshes
        assert before == (0 if token else 1)
        clock(2990)
        await access.ensure_fresh()
        assert credentials.refreshes == before
        clock(20)
        await access.ensure_fresh()
        assert credentials.refreshes == before + 1

    async def test_a_token_that_has_less_than_that_left_is_replaced(self) -> None:
        credentials = Fake(590, token=TOKEN)
        access = await access_of(credentials)
        credentials.life = 3600
        await access.ensure_fresh()
        assert credentials.refreshes == 1

    async def test_a_short_life_does_not_mean_a_refresh_for_each_call(
        self, clock: Callable[[float], None]
    ) -> None:
        credentials = Fake(300)
        access = await access_of(credentials)
        for _ in range(3):
            await access.ensure_fresh()
        assert credentials.refreshes == 1
        clock(160)
        await access.ensure_fresh()
        assert credentials.refreshes == 2

    async def test_a_token_that_never_expires_stays(self, clock: Callable[[float], None]) -> None:
        credentials = Fake(None, token=TOKEN)
        access = await access_of(credentials)
        clock(1e9)
        await access.ensure_fresh()
        assert credentials.refreshes == 0
        assert access.for_sdk.token == TOKEN

    async def test_an_expiry_with_a_zone_is_understood(self) -> None:
        credentials = Fake(None, token=TOKEN)
        credentials.expiry = datetime.now(UTC) + timedelta(hours=1)
        await (await access_of(credentials)).ensure_fresh()
        assert credentials.refreshes == 0


class TestFinding:
    @pytest.fixture(autouse=True)
    def nowhere(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """Make sure that this machine has no credentials."""
        for name in ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_PROJECT", "GCLOUD_PROJECT"):
            monkeypatch.delenv(name, raising=False)
        for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
        monkeypatch.setenv("NO_GCE_CHECK", "true")
        monkeypatch.setenv("PATH", "")  # nor gcloud, which is asked for a project

    async def test_without_credentials_there_is_one_clear_line(self) -> None:
        with pytest.raises(Unauthorized) as caught:
            async with GeminiClient(vertexai=True, project="p"):
                pass
        assert str(caught.value) == (
            "no Google credentials: run 'gcloud auth application-default login' "
            "or pass credentials="
        )

    @pytest.mark.parametrize("name", ["GEMINI_API_KEY", "GOOGLE_API_KEY"])
    async def test_a_key_in_their_place_is_told_what_to_set(
        self, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        """google-genai would call Vertex with the key, in its express mode."""
        monkeypatch.setenv(name, "a-key")
        monkeypatch.setenv("GOOGLE_GENAI_USE_ENTERPRISE", "true")
        told = (
            r"express mode\) is not supported: to use the key with the Gemini API, set "
            "GOOGLE_GENAI_USE_ENTERPRISE=false or pass vertexai=False"
        )
        with pytest.raises(Unauthorized, match=f"gcloud auth application-default login.*{told}"):
            async with GeminiClient():
                pass
        with pytest.raises(ValueError, match=f"or set GOOGLE_CLOUD_PROJECT; .*{told}"):
            async with GeminiClient(credentials=Fake()):
                pass

    async def test_a_file_that_was_named_in_vain_is_told(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/key.json")
        with pytest.raises(Unauthorized, match=r"\(.*/nowhere/key.json.*\): run 'gcloud"):
            await access_of(None)

    async def test_the_project_may_come_from_the_credentials(self) -> None:
        credentials = Fake()
        with pytest.raises(ValueError, match=r"^no Google Cloud project: pass project="):
            await access_of(credentials, project=None)
        credentials.project_id = "theirs"  # type: ignore[attr-defined]
        assert (await access_of(credentials, project=None)).project == "theirs"
        assert (await access_of(credentials, project="mine")).project == "mine"
        credentials.project_id = "a/b"  # type: ignore[attr-defined]
        with pytest.raises(ValueError, match="not a project: 'a/b'"):
            await access_of(credentials, project=None)


class TestSettings:
    @pytest.mark.parametrize(
        ("vertexai", "environ", "expected"),
        [
            (None, {}, False),
            (None, {"GOOGLE_CLOUD_PROJECT": "p", "GOOGLE_CLOUD_LOCATION": "l"}, False),
            (None, {"GOOGLE_GENAI_USE_VERTEXAI": "false"}, False),
            (None, {"GOOGLE_GENAI_USE_VERTEXAI": "True"}, True),
            (None, {"GOOGLE_GENAI_USE_VERTEXAI": "1"}, True),
            (False, {"GOOGLE_GENAI_USE_VERTEXAI": "1"}, False),
            (True, {}, True),
            (None, {"GOOGLE_GENAI_USE_ENTERPRISE": "TRUE"}, True),
            (None, {"GOOGLE_GENAI_USE_ENTERPRISE": "no"}, False),
            (False, {"GOOGLE_GENAI_USE_ENTERPRISE": "1"}, False),
        ],
    )
    def test_vertex_is_called_only_where_it_is_asked_for(
        self, vertexai: bool | None, environ: dict[str, str], expected: bool
    ) -> None:
        found = find_vertex(vertexai, None, None, None, api_key=None, environ=environ)
        assert (found is not None) is expected

    @pytest.mark.parametrize(
        ("enterprise", "vertexai"), [("true", "false"), ("false", "true"), ("", "1")]
    )
    def test_the_newer_variable_wins_as_google_genai_has_it(
        self, monkeypatch: pytest.MonkeyPatch, enterprise: str, vertexai: str
    ) -> None:
        monkeypatch.setenv("GOOGLE_GENAI_USE_ENTERPRISE", enterprise)
        monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", vertexai)
        monkeypatch.setenv("GEMINI_API_KEY", "a-key")
        monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "p")
        with pytest.warns(UserWarning, match="differ: the first is used"):
            found = find_vertex(None, None, None, None, api_key=None, environ=os.environ)
        with pytest.warns(UserWarning, match="value of GOOGLE_GENAI_USE_ENTERPRISE will be used"):
            theirs = genai.Client(credentials=Fake())
        assert (found is not None) is theirs.vertexai

    def test_project_and_location_come_from_argument_then_environment(self) -> None:
        find = partial(find_vertex, True, credentials=None, api_key=None)
        environ = {"GOOGLE_CLOUD_PROJECT": "p", "GOOGLE_CLOUD_LOCATION": "europe-west4"}
        assert find("q", "us", environ=environ) == Vertex("q", "us", None)
        assert find(None, None, environ=environ) == Vertex("p", "europe-west4", None)
        assert find(None, None, environ={}) == Vertex(None, "global", None)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"project": "p"}, "project= is for Vertex: pass vertexai=True too"),
            ({"location": "l"}, "location= is for Vertex"),
            ({"credentials": Fake()}, "credentials= is for Vertex"),
            ({"vertexai": False, "project": "p"}, "project= is for Vertex"),
            ({"vertexai": True, "project": "p/q"}, "not a project: 'p/q'"),
            ({"vertexai": True, "location": "evil.example/"}, "not a location"),
            ({"vertexai": True, "api_key": "k"}, "not api_key="),
            ({"vertexai": True, "base_url": "http://vertex.example"}, "must be https"),
        ],
        ids=str,
    )
    def test_settings_that_do_not_fit_together_are_refused(
        self, settings: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("GOOGLE_GENAI_USE_VERTEXAI", raising=False)
        with pytest.raises(ValueError, match=message):
            GeminiClient(**{"api_key": None, **settings})

    def test_a_key_beside_an_environment_that_asks_for_vertex_is_refused(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "true")
        with pytest.raises(ValueError, match="vertexai=False"):
            GeminiClient("a-key")
        GeminiClient("a-key", vertexai=False)

    def test_the_url_of_vertex_has_a_variable_of_its_own(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", "https://gemini.example")
        monkeypatch.delenv("GOOGLE_VERTEX_BASE_URL", raising=False)
        client = GeminiClient(vertexai=True, project="p", credentials=Fake())
        assert repr(client) == (
            "<GeminiClient base_url=None Vertex(project='p', location='global')>"
        )
        monkeypatch.setenv("GOOGLE_VERTEX_BASE_URL", "https://vertex.example")
        assert "base_url='https://vertex.example'" in repr(GeminiClient(vertexai=True))
        monkeypatch.setenv("GOOGLE_VERTEX_BASE_URL", "http://vertex.example")
        with pytest.raises(ValueError, match="https"):
            GeminiClient(vertexai=True)

    def test_a_renewed_secret_hides_the_one_before_too(self) -> None:
        secret = Secret(name="token")
        assert secret.hide("nothing to hide") == "nothing to hide"
        secret.renew("first-token")
        secret.renew("second-token")
        assert secret.reveal() == "second-token"
        assert secret.hide("first-token second-token") == "[token] [token]"
        assert repr(secret) == "<token>"


def test_importing_the_client_does_not_load_google_auth() -> None:
    code = "import sys, genbatch.gemini; assert 'google.auth' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
