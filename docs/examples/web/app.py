"""A page where people type prompts and see their images arrive, one by one.

Shows a batch that lives inside its response: closing the tab ends its calls and nobody else's; one
client, store and limit of calls for the whole app; the same code under asyncio and under trio.
Run it with ``python docs/examples/web/app.py``, or with ``--trio`` behind that.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import anyio
from anyio import (
    CancelScope,
    CapacityLimiter,
    EndOfStream,
    Event,
    create_task_group,
    move_on_after,
    open_signal_receiver,
)
from anyio.abc import TaskGroup
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from genbatch import (
    Failure,
    GeminiClient,
    Outcome,
    OutcomeStream,
    Progress,
    SavedImage,
    Store,
    Success,
    generate_images,
)
from genbatch.testing import FakeGemini

PAGE = Path(__file__).parent / "page"
IMAGE_TYPES = {".png", ".jpg", ".webp", ".gif"}
MOST_CALLS = 8  # at once, of all tabs together
MOST_CALLS_OF_A_TAB = 4
MOST_PROMPTS = 100
MOST_BYTES = 100_000  # of a request
TICK = 0.5  # seconds between news of a batch from which no image comes
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}

Images = OutcomeStream[str, SavedImage]


@dataclass(frozen=True)
class Studio:
    """What all batches of the app share."""

    client: GeminiClient
    store: Store
    limiter: CapacityLimiter
    batches: TaskGroup

    @asynccontextmanager
    async def batch(self, prompts: list[str]) -> AsyncIterator[Images]:
        """Make images, in the block, and keep the app from closing the store meanwhile."""
        ended = Event()
        self.batches.start_soon(ended.wait)  # a server may cancel requests and not wait for them
        try:
            async with generate_images(
                self.client,
                prompts,
                store=self.store,
                limiter=self.limiter,
                max_concurrent=MOST_CALLS_OF_A_TAB,
            ) as outcomes:
                yield outcomes
        finally:
            ended.set()


class BatchResponse(Response):
    """Server-sent events of one batch, which runs inside this response and ends with it.

    All is left in the frame that entered it. In a generator, as StreamingResponse takes, it would
    be left wherever that is closed: in another task, or never (PEP 789).
    """

    media_type = "text/event-stream"

    def __init__(self, batch: AbstractAsyncContextManager[Images]) -> None:
        super().__init__(headers={"cache-control": "no-store"})
        del self.headers["content-length"]  # nobody knows yet
        self._batch = batch

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_whole = False
        async with create_task_group() as tasks:
            tasks.start_soon(cancel_on_disconnect, receive, tasks.cancel_scope)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async with self._batch as outcomes:
                await send_events(outcomes, send)
            is_whole = True
            tasks.cancel_scope.cancel()
        if is_whole:  # sent last, and not watched: a server may tell of a disconnect meanwhile
            await send({"type": "http.response.body"})


async def cancel_on_disconnect(receive: Receive, scope: CancelScope) -> None:
    """Cancel a scope when the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def send_events(outcomes: Images, send: Send) -> None:
    """Send an event for each outcome, and now and then one of progress alone.

    A tab that does not read holds up ``send``, so its own batch, which takes no call from others.
    """
    while True:
        outcome = None
        try:
            with move_on_after(TICK):
                outcome = await outcomes.receive()  # loses nothing where the time is up
        except EndOfStream:
            return
        body = b"data: " + json.dumps(describe(outcome, outcomes.progress)).encode() + b"\n\n"
        await send({"type": "http.response.body", "body": body, "more_body": True})


def describe(outcome: Outcome[str, SavedImage] | None, progress: Progress) -> dict[str, Any]:
    """Return what the page is told."""
    told: dict[str, Any] = {"done": progress.done, "progress": str(progress)}
    match outcome:
        case Success(index, _, image):
            return told | {"index": index, "image": image.path.name}
        case Failure(index, _, error):
            return told | {"index": index, "error": str(error)}
        case None:
            return told


async def make_images(request: Request) -> BatchResponse:
    """Answer a list of prompts with the events of their batch."""
    studio: Studio = request.state.studio
    return BatchResponse(studio.batch(await read_prompts(request)))


async def read_prompts(request: Request) -> list[str]:
    """Return the prompts that somebody, no matter who, has sent.

    Raises:
        HTTPException: If it is not a list of prompts, or too much.
    """
    if request.headers.get("content-type") != "application/json":
        raise HTTPException(415, "Send JSON.")  # which the pages of other sites cannot
    body = b""
    async with aclosing(request.stream()) as pieces:
        async for piece in pieces:
            body += piece
            if len(body) > MOST_BYTES:
                raise HTTPException(413, f"Send at most {MOST_BYTES:,} bytes.")
    try:
        prompts = json.loads(body)
    except (ValueError, RecursionError):
        prompts = None
    if not isinstance(prompts, list) or not all(isinstance(each, str) for each in prompts):
        raise HTTPException(422, "Send a list of prompts.")
    prompts = [prompt for prompt in prompts if prompt.strip()]
    if not 0 < len(prompts) <= MOST_PROMPTS:
        raise HTTPException(422, f"Send 1 to {MOST_PROMPTS} prompts, not {len(prompts)}.")
    return prompts


class SavedImages(StaticFiles):
    """The images of a store's folder, and nothing else that is in there."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return an image, or 404."""
        if path != PurePath(path).name or PurePath(path).suffix not in IMAGE_TYPES:
            raise HTTPException(404)
        return await super().get_response(path, scope)


async def add_headers(request: Request, call_next: RequestResponseEndpoint) -> Response:
    """Let the page load nothing from elsewhere, and nobody else show it."""
    response = await call_next(request)
    response.headers.update(HEADERS)
    return response


def create_app(client: GeminiClient, folder: Path) -> Starlette:
    """Return the app; it opens and closes the client and the store, in its lifespan."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[dict[str, Studio]]:
        async with client, Store(folder) as store, create_task_group() as batches:
            yield {"studio": Studio(client, store, CapacityLimiter(MOST_CALLS), batches)}

    return Starlette(
        lifespan=lifespan,
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=add_headers)],
        routes=[
            Route("/batches", make_images, methods=["POST"]),
            Mount("/images", SavedImages(directory=folder, check_dir=False)),
            Mount("/", StaticFiles(directory=PAGE, html=True)),
        ],
    )


@asynccontextmanager
async def gemini() -> AsyncIterator[GeminiClient]:
    """Yield a client of Gemini where there is a key, else of a fake on this machine."""
    if "GEMINI_API_KEY" in os.environ:
        yield GeminiClient()
    else:
        async with FakeGemini(latency=2.0) as fake:
            yield GeminiClient("any-key", base_url=fake.url)


async def signalled() -> None:
    """Return at Ctrl-C or SIGTERM."""
    with open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        await anext(signals)


async def main(*, trio: bool) -> None:
    """Serve the app on this machine until Ctrl-C."""
    port = int(os.environ.get("PORT", "8000"))
    async with gemini() as client:
        app: Any = create_app(client, Path("images"))
        print(f"Open http://127.0.0.1:{port}")
        if trio:
            import hypercorn.trio

            config = hypercorn.Config.from_mapping(bind=[f"127.0.0.1:{port}"])
            await hypercorn.trio.serve(app, config, shutdown_trigger=signalled)
        else:
            import uvicorn

            server = uvicorn.Server(uvicorn.Config(app, port=port, timeout_graceful_shutdown=10))
            await server.serve()


if __name__ == "__main__":
    trio = "--trio" in sys.argv
    with suppress(KeyboardInterrupt):
        anyio.run(partial(main, trio=trio), backend="trio" if trio else "asyncio")
