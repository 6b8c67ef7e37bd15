"""FakeGemini: a loopback server that speaks the Gemini wire.

1. A call is in flight from the last byte of its request until just before the last bytes of its
   answer are sent, or its client hangs up: clients that hold k calls never make it k + 1.
2. An image counts as paid once it is made, whether or not its bytes arrive.
3. Everything runs in one task group, so leaving the block leaves nothing behind.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Container,
    Iterable,
    Mapping,
)
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import Literal, TypeAlias, get_args

from . import _wire
from ._files import Files
from ._http import NO_FAULT, Fault, JsonObject, Reply, Request, ServerConnection, pause, serving
from ._jobs import FakeJobs, Job, JobFault
from ._server import (
    FakeServer,
    Quota,
    Refused,
    json_reply,
    reply_in_place,
    scripted,
    timed,
    unless_refused,
)
from ._wire import Call

_FileAction: TypeAlias = Literal[
    "start_upload", "upload", "get_file", "list_files", "delete_file", "download"
]
_BatchAction: TypeAlias = Literal[
    "create_batch", "get_batch", "list_batches", "cancel_batch", "delete_batch"
]
Action: TypeAlias = Literal[_FileAction, _BatchAction]
_Handler: TypeAlias = Callable[[str, Request], Awaitable[Reply]]

KEPT_BODY = 16_000  # bytes of a request that the list of calls keeps
_MODELS = (
    "gemini-nano-banana-2.1",
    "gemini-3-pro-image",
    "gemini-3.1-flash-lite-image",
    "gemini-3-flash",
    "gemini-embedding-001",
)
_RETIRED = re.compile(r"gemini-(3\.1|2\.5)-flash-image(-preview)?|imagen-.*")
_MODEL_PATH = re.compile(r"/v1(?:(?:beta)?|(?:beta1)?/publishers/google)/models(?:/([^/]*))?")
_PAGES = (50, 1000)
_NO_KEY = (
    "Method doesn't allow unregistered callers (callers without established identity). Please use "
    "API Key or other form of API consumer identity to call this API."
)
_ANONYMOUS = (
    "Request is missing required authentication credential. Expected OAuth 2 access token, login "
    "cookie or other valid authentication credential."
)


@dataclass(frozen=True, slots=True)
class Stats:
    """What a server has counted.

    Attributes:
        calls: Calls received, right or wrong.
        images: Images made, that is, paid for.
        in_flight: Calls being answered now.
        peak: Most calls ever in flight at once.
        limited: Calls refused because a quota was used up.
        jobs: Batches created.
    """

    calls: int
    images: int
    in_flight: int
    peak: int
    limited: int = 0
    jobs: int = 0


@dataclass(frozen=True, slots=True)
class ControlCall:
    """One request about files or batches as the server received it.

    Attributes:
        number: 1 for the first of its action that a server received.
        action: What it asks for: start_upload, upload (a chunk), get_file, list_files,
            delete_file, download, create_batch, get_batch, list_batches, cancel_batch or
            delete_batch.
        id: Id of the file or the batch, or of the model for a new batch; empty for a list.
    """

    number: int
    action: Action
    id: str


_ControlFault: TypeAlias = Callable[[ControlCall], Fault | None]
ControlFaults: TypeAlias = Mapping[str, Iterable[Fault | None]] | _ControlFault


class FakeGemini(FakeServer):
    """A server on this machine that answers generateContent with drawn images.

    Enter it and point a client at ``url``. With ``async with``, under asyncio or trio, it runs in
    the event loop of the block; with ``with`` in a thread and an event loop of its own, beside any
    program. It speaks Gemini's own API and Vertex's, whole or as a stream, lists models, and runs
    batches of rows from files that clients upload; ``GET /stats`` answers the stats.

    Args:
        latency: Seconds each call takes, or a function of the call that returns them.
        image_size: Longer side of the images in pixels; the request's aspect ratio decides the
            other.
        faults: What goes wrong, call by call (None for nothing, as after the last one), or a
            function of the call. Calls refused as invalid or beyond the quota use up no fault. A
            row of a batch is a call.
        quota: Calls of each model in any 60 s, such as ``"60/min"``; None for any number. A call
            beyond it is refused at once, and uses nothing up.
        daily: Calls of each model in a day, which begins with the first; None for any number.
        retry_info: Whether a refusal says when there is quota again.
        speed: Run the service's clock this many times faster than real time: divides the
            latencies, the minutes and days of the quota, and the waits it asks for. Faults keep
            their times.
        api_keys: Keys that are valid, looked up at every request, so a set may change meanwhile;
            None for any that is not empty.
        tokens: The same for the OAuth tokens of Vertex.
        models: Ids of the available models; None for any that is not retired, some of them listed.
        job_latency: Seconds each batch takes, apart from the drawing, or a function of the job
            that returns them: it is pending for half of them, then its rows are processed, then it
            runs for the other half.
        job_tokens: Input tokens of each model's batches that have not ended; None for any number. A
            batch beyond it is refused. A reference image is 1,120 tokens, four characters are one.
        job_faults: What goes wrong, batch by batch, or a function of the job.
        control_faults: What goes wrong with requests about files and batches: by action, such as
            ``{"create_batch": [reset()]}``, one after the other; or a function.
        port: Port to listen on, 0 for a free one.
        host: Loopback address to listen on: the fake serves this machine only.
        thread: Whether ``async with`` uses a thread of its own too. The block may then hold up its
            event loop, or be left by another task than entered it, as fixtures of pytest-asyncio.

    In a thread of its own, functions given as arguments are called in that thread.

    Raises:
        ValueError: If an argument is malformed or out of range; on entering, if host is not a
            loopback address.
        OSError: On entering, if host and port cannot be listened on.

    Cancellation: leaving the block cancels every call and batch, closes every connection and
    removes every file.
    Failure: an error in the block arrives bare; one in latency or faults cancels the block and
    arrives in an ExceptionGroup. With a thread it ends the server, and arrives as the block ends.
    """

    def __init__(
        self,
        *,
        latency: float | Callable[[Call], float] = 0.0,
        image_size: int = 512,
        faults: Iterable[Fault | None] | Callable[[Call], Fault | None] = (),
        quota: str | None = None,
        daily: int | None = None,
        retry_info: bool = True,
        speed: float = 1.0,
        api_keys: Container[str] | None = None,
        tokens: Container[str] | None = None,
        models: Collection[str] | None = None,
        job_latency: float | Callable[[Job], float] = 0.0,
        job_tokens: int | None = None,
        job_faults: Iterable[JobFault | None] | Callable[[Job], JobFault | None] = (),
        control_faults: ControlFaults | None = None,
        port: int = 0,
        host: str = "127.0.0.1",
        thread: bool = False,
    ) -> None:
        if image_size < 1:
            raise ValueError(f"image_size must be >= 1, got {image_size}")
        super().__init__(host, port, thread=thread)
        self._quota = Quota(quota, daily, retry_info=retry_info, speed=speed)
        self._latency = timed("latency", latency, speed)
        self._fault = scripted(faults, NO_FAULT)
        self._make = partial(_wire.make_reply, image_size=image_size)
        self._access = _Access(api_keys, tokens, models)
        self._files = Files(self._threads)
        job_time = timed("job_latency", job_latency, speed)
        job_fault, check_model = scripted(job_faults, JobFault()), self._access.check_model
        self._jobs = FakeJobs(
            self._files, job_time, job_fault, self._fault, self._make, check_model, job_tokens
        )
        self._control_fault = _by_action(control_faults)
        self._controls: Counter[Action] = Counter()

    @property
    def stats(self) -> Stats:
        """The counters as they are now."""
        counts, jobs = self._counts, self.jobs
        images = counts.images + sum(job.images for job in jobs)
        in_flight, peak = counts.in_flight, counts.peak
        return Stats(counts.received, images, in_flight, peak, counts.limited, len(jobs))

    @property
    def jobs(self) -> tuple[Job, ...]:
        """Every batch created, oldest first, as it is now; the deleted ones too."""
        return self._jobs.created

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[str]:
        self._quota.renew()
        # Files go last: until then jobs may write some.
        async with (
            self._files.kept(),
            serving(*self._address, self._serve, _wire.error_reply) as (url, tasks),
        ):
            self._jobs.begin(tasks)
            yield url

    async def _serve(self, request: Request, connection: ServerConnection) -> None:
        if (model := _wire.called_model(request)) is not None:
            await self._serve_call(model, request, connection)
        elif request.method == "GET" and request.target == "/stats":
            await connection.send(json_reply(asdict(self.stats)))
        else:
            await connection.send(*await unless_refused(self._answer_other(request)))

    async def _serve_call(self, model: str, request: Request, connection: ServerConnection) -> None:
        self._counts.received += 1
        parse = partial(_wire.parse_call, self._counts.received, model, request)
        with self._counts.counted(connection) as release:
            async with connection.watched(on_hang_up=release):
                # Input images are slow enough to parse to hold up the event loop.
                is_large = len(request.body) > KEPT_BODY
                call = await self._threads.run(parse) if is_large else parse()
                self._calls.append(replace(call, body={}) if is_large else call)
                reply, fault = await unless_refused(self._answer(call, request))
                if ":stream" in call.path:
                    reply = await self._threads.run(_wire.streamed, reply, request)
                await connection.send(reply, fault, before_last=release)

    async def _answer(self, call: Call, request: Request) -> tuple[Reply, Fault]:
        """Return the reply to a call, and what is to go wrong while it is sent."""
        self._access.check_caller(request)
        _wire.check_body(call)
        self._access.check_model(call.model)
        if beyond := self._quota.admit(call.model):
            self._counts.limited += 1
            raise Refused(_wire.reply_with(_wire.quota_error(beyond, call.model)))
        fault = self._fault(call)
        await pause(self._latency(call) + fault.delay)
        may_wait = fault.edit is not None
        reply, images = await self._threads.run(self._make, call, fault, extra=may_wait)
        self._counts.images += images
        return reply, fault

    @cached_property
    def _routes(self) -> tuple[tuple[str, str, Action, _Handler], ...]:
        """Method, path, action and handler of each request about files and batches."""
        files, jobs = self._files, self._jobs
        return (
            ("POST", r"/upload/v1beta/files()", "start_upload", files.start_upload),
            ("GET", r"/v1beta/files/([^/:]+)", "get_file", files.get),
            ("GET", r"/v1beta/files()", "list_files", files.list),
            ("DELETE", r"/v1beta/files/([^/:]+)", "delete_file", files.delete),
            ("GET", r"(?:/download)?/v1beta/files/([^/:]+):download", "download", files.download),
            ("POST", r"/v1beta/models/([^/:]+):batchGenerateContent", "create_batch", jobs.create),
            ("GET", r"/v1beta/batches/([^/:]+)", "get_batch", jobs.get),
            ("GET", r"/v1beta/batches()", "list_batches", jobs.list),
            ("POST", r"/v1beta/batches/([^/:]+):cancel", "cancel_batch", jobs.cancel),
            ("DELETE", r"/v1beta/batches/([^/:]+)", "delete_batch", jobs.delete),
        )

    async def _answer_other(self, request: Request) -> tuple[Reply, Fault]:
        """Return the reply to what is not a call, and what is to go wrong while it is sent."""
        path = request.path.replace("/v1/", "/v1beta/", 1)
        for method, pattern, action, handler in self._routes:
            match = re.fullmatch(pattern, path) if method == request.method else None
            if match is not None:
                if action == "start_upload" and "upload_id" in request.query:
                    action, handler = "upload", self._files.upload
                self._controls[action] += 1
                call = ControlCall(self._controls[action], action, match[1])
                if action != "upload":  # whose URL is secret enough: clients send no key there
                    self._access.check_caller(request)
                fault = self._control_fault(call)
                return await _controlled(partial(handler, call.id, request), fault), fault
        return self._access.page(request), NO_FAULT


async def _controlled(handle: Callable[[], Awaitable[Reply]], fault: Fault) -> Reply:
    """Return the reply to a request about files or batches, as fault changes it."""
    await pause(fault.delay)
    instead = reply_in_place(fault, _wire.error_reply)
    if instead is not None and not fault.late:
        return instead
    try:
        reply = await handle()
    except Refused as refused:
        reply = refused.reply
    if instead is not None or reply.status >= 300:
        return instead or reply
    if fault.edit is not None and reply.file is None:
        edited = fault.edit(json.loads(reply.body or "{}"))
        reply = replace(reply, body=json.dumps(edited).encode())
    return replace(reply, status=fault.status or reply.status)


def _by_action(faults: ControlFaults | None) -> Callable[[ControlCall], Fault]:
    if callable(faults):
        return scripted(faults, NO_FAULT)
    if unknown := set(faults or ()) - set(get_args(Action)):
        raise ValueError(f"control_faults has no action {sorted(unknown)[0]!r}")
    scripts = {action: iter(listed) for action, listed in (faults or {}).items()}
    return lambda call: next(scripts.get(call.action, iter(())), None) or NO_FAULT


@dataclass(frozen=True, slots=True)
class _Access:
    """Who may call which models."""

    api_keys: Container[str] | None
    tokens: Container[str] | None
    models: Collection[str] | None

    def check_caller(self, request: Request) -> None:
        """Check the key or the token of a request.

        Raises:
            Refused: If it is missing or not valid.
        """
        error = None
        if _wire.is_vertex(request.path):
            kind, _, token = request.headers.get("authorization", "").partition(" ")
            if kind != "Bearer" or not token:
                error = _wire.token_error("CREDENTIALS_MISSING", _ANONYMOUS)
            elif self.tokens is not None and token not in self.tokens:
                error = _wire.token_error()
        elif not (key := request.headers.get("x-goog-api-key") or request.query.get("key")):
            error = _wire.error_body(403, _NO_KEY)
        elif self.api_keys is not None and key not in self.api_keys:
            error = _wire.key_error(key)
        if error is not None:
            raise Refused(_wire.reply_with(error))

    def check_model(self, model: str) -> None:
        """Check that a model can be called.

        Raises:
            Refused: If it cannot.
        """
        if _RETIRED.fullmatch(model) if self.models is None else model not in self.models:
            raise Refused(_wire.reply_with(_wire.model_error(model)))

    def page(self, request: Request) -> Reply:
        """Return the reply to a request that is not a call: the models, one model, or an error."""
        match = _MODEL_PATH.fullmatch(request.path)
        if request.method != "GET" or match is None:
            return _wire.error_reply(404, f"{request.method} {request.path} is not served here.")
        self.check_caller(request)
        is_vertex = _wire.is_vertex(request.path)
        describe = _described_by_vertex if is_vertex else _described
        models = list(_MODELS if self.models is None else self.models)
        if (model := match[1]) is None:
            name = "publisherModels" if is_vertex else "models"
            return _wire.list_reply(name, [describe(each) for each in models], request, _PAGES)
        if model not in models:
            return _wire.reply_with(_wire.model_error(model))
        return json_reply(describe(model))


def _described_by_vertex(model: str) -> JsonObject:
    return {"name": f"publishers/google/models/{model}", "launchStage": "GA"}


def _described(model: str) -> JsonObject:
    methods = ["generateContent", "countTokens", "batchGenerateContent"]
    return {
        "name": f"models/{model}",
        "version": "001",
        "displayName": model.replace("-", " ").title(),
        "inputTokenLimit": 65536,
        "outputTokenLimit": 32768,
        "supportedGenerationMethods": ["embedContent"] if "embedding" in model else methods,
    }
