"""The server of the page: in a thread of its own, with an event loop of its own.

So it runs beside a batch on whatever event loop, and neither waits for the other.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from ._feed import Feed, State
from ._redo import Redos

try:
    import uvicorn

    from ._app import app_of
except ModuleNotFoundError as exc:
    install = "python -m pip install 'genbatch[cli]'"
    raise ModuleNotFoundError(f"the page needs the package {exc.name}; run {install}") from exc

_HOST = "127.0.0.1"
_START = 0.01  # seconds between looks whether it has begun
_GRACE = 2  # seconds in which pages are told how it ended


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs.

    Attributes:
        port: Of this machine.
        url: The address of the page, with the token.
        redos: The further takes that are asked for on it.
    """

    port: int
    url: str
    redos: Redos


@contextmanager
def serving(
    directory: Path,
    *,
    port: int = 0,
    state: Callable[[], State] | None = None,
    redo: Sequence[str] = (),
) -> Iterator[Server]:
    """Serve the page of a directory during the block; it blocks for a moment at both ends.

    Args:
        directory: Where runs are made; it need not have a journal yet.
        port: Of this machine, 0 for any free one.
        state: Returns what a run in this process says of itself.
        redo: Options of ``genbatch redo`` for the further takes that are asked for on the page.

    Raises:
        ValueError: If the port cannot be had.
    """
    try:
        listening = socket.create_server((_HOST, port))
    except (OSError, OverflowError) as error:
        raise ValueError(f"cannot serve at port {port}: {error}; try --port 0") from error
    token = secrets.token_urlsafe(24)
    port = listening.getsockname()[1]
    with listening:
        redos = Redos(directory, redo)
        feed = Feed(directory, state, redos.tell)
        config = uvicorn.Config(
            app_of(feed, redos, token),
            http="h11",
            ws="none",
            lifespan="off",
            loop="asyncio",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE,
        )
        server = uvicorn.Server(config)
        sockets = {"sockets": [listening]}
        thread = Thread(target=server.run, kwargs=sockets, name="genbatch server", daemon=True)
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(_START)
            yield Server(port, f"http://{_HOST}:{port}/?token={token}", redos)
        finally:
            redos.close()
            feed.close()
            server.should_exit = True
            thread.join()
