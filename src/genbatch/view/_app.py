"""The app behind the page: what is served, and to whom.

1. Only loopback names are answered, on whatever port: ``ssh -L`` may give another one. So a foreign
   host name that leads here, by an attacker's DNS, gets nothing.
2. Whoever has not the token gets nothing. It comes with the address of the page, and is kept in a
   cookie that scripts cannot read and other sites do not send.
3. A request that a page of another origin causes gets nothing, not even with the cookie, which
   other servers of this machine could make a browser send.
4. Files are served by names that the journal knows, and never through a link.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
from anyio import to_thread
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from genbatch._store import Choice, Tuning, choose, make_private, pick_file, read_file, tell_run
from genbatch._throttle import parse_interval
from genbatch._values import EXTENSIONS, StoreError, sniff_input_type
from genbatch.gallery import DIRECTORY, draw_thumb, page, publish_thumb

from ._feed import Feed
from ._redo import Redos, Wanted

_POLL = 0.1  # seconds between looks for something to tell a page
_SILENCE = 15.0  # seconds after which a line keeps the connection alive
_THUMBS = 4  # drawn at once
_PRICED = 1  # at once: each is a process
_NAMESPACES = ("", "demo")
_LONGEST = 1_000_000  # bytes of a request
_MOST_CHOICES = 10_000  # in a request
_LOOPBACK = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?", re.IGNORECASE)
_THUMB = re.compile(r"([0-9a-f]{64})-\d+x\d+\.webp")
_TYPES = {extension: kind for kind, extension in EXTENSIONS.items()}
_KEPT = {"cache-control": "private, max-age=31536000, immutable"}  # named after its content
_CHECKED = {"cache-control": "private, no-cache"}
SCRIPTS = ("steer.js", "redo.js", "live.js")  # one after the other, as one
_NO_ENTRY = "This page is opened by its whole address, token included, as the terminal shows it."
_HEADERS = {
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
_NOTHING = "default-src 'none'; frame-ancestors 'none'; sandbox"


class Guard:
    """Lets requests in as the module says, and out with headers that contain what they lead to.

    Args:
        app: Answers those that are let in.
        token: What they need to know.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._token = token
        # Cookies are shared by all ports of this machine.
        self._cookie = f"genbatch-{hashlib.sha256(token.encode()).hexdigest()[:8]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return
        request = Request(scope)
        has_token = _is_same(request.query_params.get("token", ""), self._token)
        has_cookie = _is_same(request.cookies.get(self._cookie, ""), self._token)

        async def contained(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in {**_HEADERS, "content-security-policy": _NOTHING}.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
                if has_token:
                    cookie = f"{self._cookie}={self._token}; HttpOnly; SameSite=Strict; Path=/"
                    headers.append("set-cookie", cookie)
            await send(message)

        is_entry = has_token and request.method == "GET" and request.url.path == "/"
        if _is_ours(request.headers, is_entry) and (has_token or has_cookie):
            await self._app(scope, receive, contained)
        else:
            has_token = False
            await PlainTextResponse(_NO_ENTRY, 403)(scope, receive, contained)


def _is_same(given: str, secret: str) -> bool:
    return secrets.compare_digest(given.encode(), secret.encode())


def _is_ours(headers: Headers, is_entry: bool) -> bool:
    """Return whether a request is for this machine, and from our page or from no page.

    Args:
        headers: Of the request.
        is_entry: Whether it opens the page with the token: whatever led there has that.
    """
    host, origin = headers.get("host", ""), headers.get("origin")
    if not _LOOPBACK.fullmatch(host) or len(headers.getlist("host")) != 1:
        return False
    if origin is not None and (urlsplit(origin).scheme, origin) != ("http", f"http://{host}"):
        return False
    return is_entry or headers.get("sec-fetch-site", "none") in ("none", "same-origin")


def app_of(feed: Feed, redos: Redos, token: str) -> Starlette:
    """Return the app that serves a directory.

    Args:
        feed: Follows it.
        redos: Makes the further takes that are asked for.
        token: Whoever knows it gets in.
    """
    served = _Served(feed, redos)
    routes = [
        Route("/", served.page),
        Route("/events", served.events),
        Route("/choices", served.choices, methods=["POST"]),
        Route("/pick", served.pick, methods=["POST"]),
        Route("/tune", served.tune, methods=["POST"]),
        Route("/price", served.price, methods=["POST"]),
        Route("/redo", served.redo, methods=["POST"]),
        Route("/give-up", served.give_up, methods=["POST"]),
        Route("/take-over", served.take_over, methods=["POST"]),
        Route(f"/{DIRECTORY.as_posix()}/{{name}}", served.thumb),
        Route("/input/{key}/{number:int}", served.input),
        Route("/favicon.ico", _no_icon),  # asked for unasked
        Route("/{file}", served.file),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, token=token)],
        exception_handlers={StoreError: _refuse, ValueError: _refuse},
    )


async def _refuse(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 400 if isinstance(error, ValueError) else 503)


async def _no_icon(request: Request) -> Response:
    return Response(status_code=204)


class _Served:
    """What is at each address."""

    def __init__(self, feed: Feed, redos: Redos) -> None:
        self._feed = feed
        self._redos = redos
        self._pricing = anyio.CapacityLimiter(_PRICED)
        self._drawing = anyio.CapacityLimiter(_THUMBS)

    async def page(self, request: Request) -> Response:
        text = await to_thread.run_sync(self._page)
        # The policy of the page itself is in it, with the hashes of its script and style.
        headers = {"content-security-policy": "frame-ancestors 'none'"}
        return Response(text.encode(), media_type="text/html; charset=utf-8", headers=headers)

    def _page(self) -> str:
        head, items = self._feed.page()
        directory = self._feed.directory
        head |= {"name": directory.resolve().name, "folder": str(directory), "live": True}
        scripts = [(files(__package__) / name).read_text(encoding="utf-8") for name in SCRIPTS]
        return "".join(page(head, items, script="\n".join(scripts), policy="; connect-src 'self'"))

    async def events(self, request: Request) -> Response:
        mark = request.headers.get("last-event-id") or request.query_params.get("after", "")
        return StreamingResponse(self._tell(mark), media_type="text/event-stream")

    async def _tell(self, mark: str) -> AsyncIterator[str]:
        silent = 0.0
        yield "retry: 1000\n\n"
        while True:
            is_last = self._feed.is_closed  # looked at first: what closing tells is told
            if told := self._feed.since(mark):
                mark, data = told
                yield f"id: {mark}\ndata: {data}\n\n"
                silent = 0.0
            if is_last:
                return
            await anyio.sleep(_POLL)
            silent += _POLL
            if silent >= _SILENCE:
                yield ":\n\n"
                silent = 0.0

    def _write(self, write: Callable[[Path, Any], object], what: object) -> None:
        """Write to the journal, and read that: a page that is answered is not told older news."""
        write(self._feed.directory, what)
        self._feed.refresh()

    async def choices(self, request: Request) -> Response:
        """Note choices: an object of files, each with verdict, stars and note."""
        given = await _json_of(request)
        if not isinstance(given, dict) or len(given) > _MOST_CHOICES:
            raise ValueError("choices are an object of files")
        chosen = {file: Choice.of(**_only(values)) for file, values in given.items()}
        await to_thread.run_sync(self._write, choose, chosen)
        return JSONResponse({})

    async def pick(self, request: Request) -> Response:
        """Pick the take that is in a file."""
        given = await _json_of(request)
        if not isinstance(given, str):
            raise ValueError("what is picked is the name of a file")
        await to_thread.run_sync(self._write, pick_file, given)
        return JSONResponse({})

    def _read_input(self, path: str) -> bytes | None:
        """Return the bytes of an input image.

        A relative path was one where the run was started: here, or most likely beside the folder.
        """
        places = (Path(), self._feed.directory.absolute().parent)
        return next(filter(None, (read_file(place / path) for place in places)), None)

    async def tune(self, request: Request) -> Response:
        """Tell the run something: an object of what `genbatch tune` takes."""
        given = await _object_of(request)
        tuning = Tuning.of(**{name: given.get(name) for name in Tuning._fields})
        if tuning.pace is not None:
            parse_interval(tuning.pace)
        await to_thread.run_sync(self._write, tell_run, tuning)
        return JSONResponse({})

    async def price(self, request: Request) -> Response:
        """Answer what a further take would cost: an object of the prompt's key and options."""
        given = await _object_of(request)
        item = self._feed.item(given.get("key"))
        space = item.get("namespace", "")
        if item["index"] is None or space not in _NAMESPACES:
            raise ValueError("only prompts of the last run, made by genbatch run, can be redone")
        wanted = Wanted.of(item["index"], space == "demo", given)
        priced = await to_thread.run_sync(self._redos.price, wanted, limiter=self._pricing)
        return JSONResponse(priced)

    async def redo(self, request: Request) -> Response:
        """Queue what was priced: an object of its number, and whether the user is sure."""
        given = await _object_of(request)
        agree = partial(self._redos.agree, is_sure=given.get("sure") is True)
        await to_thread.run_sync(self._then_read, agree, given.get("number"))
        return JSONResponse({})

    async def give_up(self, request: Request) -> Response:
        """Take back, end or dismiss the redo of a number."""
        await to_thread.run_sync(self._then_read, self._redos.give_up, await _json_of(request))
        return JSONResponse({})

    async def take_over(self, request: Request) -> Response:
        """Make the redo of a number, which another page has left waiting."""
        await to_thread.run_sync(self._then_read, self._redos.take_over, await _json_of(request))
        return JSONResponse({})

    def _then_read(self, tell: Callable[[Any], None], what: object) -> None:
        tell(what)
        self._feed.refresh()

    async def thumb(self, request: Request) -> Response:
        found = _THUMB.fullmatch(request.path_params["name"])
        picture = found and self._feed.by_sha256.get(found[1])
        if not found or picture is None:
            raise HTTPException(404)

        def draw() -> bytes | None:
            thumbs = self._feed.directory / DIRECTORY
            if data := read_file(thumbs / found[0]):
                return data
            drawn = draw_thumb(self._feed.directory, picture)
            if isinstance(drawn, str):
                return None
            with suppress(OSError, StoreError):  # a disk that is full or only read: drawn again
                make_private(thumbs)
                publish_thumb(thumbs, picture, *drawn)
            return drawn[1]

        data = await to_thread.run_sync(draw, limiter=self._drawing)
        return _answer(data, "image/webp", _KEPT)

    async def file(self, request: Request) -> Response:
        name = request.path_params["file"]
        picture = self._feed.pictures.get(name)
        if (picture is None and name not in self._feed.extras) or Path(name).name != name:
            raise HTTPException(404)
        headers = dict(_CHECKED)
        if picture is not None:
            headers["etag"] = f'"{picture.sha256}"'
            if request.headers.get("if-none-match") == headers["etag"]:
                return Response(status_code=304, headers=headers)
        data = await to_thread.run_sync(read_file, self._feed.directory / name)
        return _answer(data, _TYPES.get(Path(name).suffix, "application/octet-stream"), headers)

    async def input(self, request: Request) -> Response:
        """Answer with an input image: a regular file that is one, wherever it is."""
        paths = self._feed.inputs.get(request.path_params["key"], [])
        path = dict(enumerate(paths)).get(request.path_params["number"])
        data = await to_thread.run_sync(self._read_input, path) if path else None
        kind = sniff_input_type(data[:64]) if data else None
        return _answer(data if kind else None, kind or "", _CHECKED)


def _answer(data: bytes | str | None, kind: str, headers: dict[str, str]) -> Response:
    if not data:
        raise HTTPException(404)
    return Response(data, media_type=kind, headers=headers)


def _only(values: Any) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ValueError("a choice is an object of verdict, stars and note")
    return {name: values[name] for name in Choice._fields if name in values}


async def _object_of(request: Request) -> dict[str, Any]:
    given = await _json_of(request)
    if not isinstance(given, dict):
        raise ValueError("the body is not an object")
    return given


async def _json_of(request: Request) -> Any:
    """Return the body of a request that no form of another page could send."""
    if request.headers.get("content-type") != "application/json":
        raise HTTPException(415)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LONGEST:
            raise HTTPException(413)
    try:
        return json.loads(body)
    except (RecursionError, ValueError) as error:
        raise ValueError("the body is not JSON") from error
