"""FakeGemini: a loopback server that speaks the Gemini wire.

1. A call is in flight from the last byte of its request until just before the last bytes of its
   answer are sent, or its client hangs up: clients that hold k calls never make it k + 1.
2. An image counts as paid once it is made, whether or not its bytes arrive.
3. Everything runs in one task group, so leaving the block leaves nothing behind.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Container, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Self

from ._batch_api import Control, ControlFaults, Job, JobFault
from ._gemini import Call, called_model, error_reply, json_reply, parse_call
from ._http import Fault, Request, ServerConnection, scripted, serving
from ._service import Quota, Service

_KEPT_BODY = 16_000  # bytes of a request that the list of calls keeps
_KEPT_CALLS = 10_000


@dataclass(frozen=True, slots=True)
class Stats:
    """What a server has counted.

    Attributes:
        calls: generateContent requests received, right or wrong.
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


class FakeGemini:
    """A server on this machine that answers generateContent with drawn images.

    Enter it with ``async with``, under asyncio or trio, and point a client at ``url``. It speaks
    Gemini's own API and Vertex's, lists models, and runs batches of rows from files that clients
    upload; ``GET /stats`` answers the stats.

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
        job_faults: What goes wrong, batch by batch, or a function of the job.
        control_faults: What goes wrong with requests about files and batches: by action, such as
            ``{"create_batch": [reset()]}``, one after the other; or a function.
        port: Port to listen on, 0 for a free one.
        host: Address to listen on.

    Raises:
        ValueError: If an argument is malformed or out of range.
        OSError: On entering, if host and port cannot be listened on.

    Cancellation: leaving the block cancels every call and batch, closes every connection and
    removes every file.
    Failure: an error in the block arrives bare; one in latency or faults cancels the block and
    arrives in an ExceptionGroup.
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
        job_faults: Iterable[JobFault | None] | Callable[[Job], JobFault | None] = (),
        control_faults: ControlFaults | None = None,
        port: int = 0,
        host: str = "127.0.0.1",
    ) -> None:
        if image_size < 1:
            raise ValueError(f"image_size must be >= 1, got {image_size}")
        if not callable(latency) and not latency >= 0:
            raise ValueError(f"latency must be >= 0, got {latency}")
        if not callable(job_latency) and not job_latency >= 0:
            raise ValueError(f"job_latency must be >= 0, got {job_latency}")
        self._service = Service(
            latency=latency,
            image_size=image_size,
            faults=scripted(faults),
            quota=Quota(quota, daily, retry_info=retry_info, speed=speed),
            speed=speed,
            api_keys=api_keys,
            tokens=tokens,
            models=models,
        )
        self._control = Control(self._service, job_latency, scripted(job_faults), control_faults)
        self._address = host, port
        self._url: str | None = None
        self._stack = AsyncExitStack()
        self._calls: deque[Call] = deque(maxlen=_KEPT_CALLS)
        self._in_flight: set[ServerConnection] = set()
        self._received = self._peak = 0

    @property
    def url(self) -> str:
        """Base URL, such as ``http://127.0.0.1:8080``."""
        if self._url is None:
            raise RuntimeError("FakeGemini is not running: enter it with `async with`")
        return self._url

    @property
    def stats(self) -> Stats:
        """The counters as they are now."""
        service = self._service
        in_flight = len(self._in_flight)
        jobs = len(self._control.jobs)
        return Stats(self._received, service.images, in_flight, self._peak, service.limited, jobs)

    @property
    def calls(self) -> tuple[Call, ...]:
        """The last 10,000 calls, oldest first; a body beyond 16 kB is not kept: empty here."""
        return tuple(self._calls)

    @property
    def jobs(self) -> tuple[Job, ...]:
        """Every batch created, oldest first, as it is now; the deleted ones too."""
        return self._control.jobs

    async def __aenter__(self) -> Self:
        if self._url is not None:
            raise RuntimeError("FakeGemini is running already")
        await self._stack.enter_async_context(self._running())
        return self

    async def __aexit__(self, *details: Any) -> bool | None:
        try:
            return await self._stack.__aexit__(*details)
        finally:
            self._url = None

    @asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        self._service.begin()
        host, port = self._address
        threads = self._service.threads
        # Files go last: until then jobs may write some.
        async with (
            self._control.files_kept(),
            serving(host, port, self._serve, threads, error_reply) as (self._url, tasks),
        ):
            self._control.begin(tasks)
            yield

    async def _serve(self, request: Request, connection: ServerConnection) -> None:
        if (model := called_model(request)) is not None:
            await self._serve_call(model, request, connection)
        elif request.method == "GET" and request.target == "/stats":
            await connection.send(json_reply(asdict(self.stats)))
        elif not await self._control.serve(request, connection):
            await connection.send(self._service.page(request))

    async def _serve_call(self, model: str, request: Request, connection: ServerConnection) -> None:
        self._received += 1
        number = self._received
        with self._counted(connection) as release:
            async with connection.watched(on_hang_up=release):
                call = await self._parse(number, model, request)
                reply, fault = await self._service.answer(call)
                await connection.send(reply, fault, before_last=release)

    @contextmanager
    def _counted(self, connection: ServerConnection) -> Iterator[Callable[[], None]]:
        """Count the connection's call as in flight until the block ends or release is called."""
        self._in_flight.add(connection)
        if len(self._in_flight) > self._peak:
            # A client may hang up and call again on another connection before this server has
            # looked at the first: that is no new peak.
            gone = [each for each in self._in_flight if each.has_hung_up()]
            self._in_flight.difference_update(gone)
        self._peak = max(self._peak, len(self._in_flight))
        release = partial(self._in_flight.discard, connection)
        try:
            yield release
        finally:
            release()

    async def _parse(self, number: int, model: str, request: Request) -> Call:
        if len(request.body) <= _KEPT_BODY:
            call = parse_call(number, model, request)
            self._calls.append(call)
        else:  # input images: slow enough to parse to hold up the event loop
            call = await self._service.threads.run(parse_call, number, model, request)
            self._calls.append(replace(call, body={}))
        return call
