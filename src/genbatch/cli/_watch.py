"""The live page beside a command: where it is told, opened and ended."""

from __future__ import annotations

import getpass
import os
import signal
import socket
import sys
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import anyio

from ._display import Display
from ._options import Options
from ._result import Result

if TYPE_CHECKING:
    from genbatch.view import Server

_OF_REDO = ("service", "max_images", "price", "prices", "timeout", "pace", "patience", "base_url")


@contextmanager
def watched(options: Options, display: Display, result: Result) -> Iterator[None]:
    """Show a run on a page during the block.

    Further takes that were asked for on the page are made at the end of a run that nothing ended
    early; otherwise they wait for the next page.
    """

    def state() -> dict[str, Any]:
        snapshot = display.snapshot
        return {"figures": snapshot.figures if snapshot else []}

    with serving_page(options.output, 0, state, redo_options(options)) as server:
        announce(server, display.note, can_open=True)
        yield
        if result.is_ending or not server.redos.waiting():
            return
        display.note("Making what was asked for on the page; Ctrl-C ends it.")
        with suppress(KeyboardInterrupt):
            server.redos.finish()


def redo_options(options: Options) -> list[str]:
    """Return the options of a command that a further take is made with, too."""
    return [
        f"--{name.replace('_', '-')}={value}"
        for name in _OF_REDO
        for value in _values_of(getattr(options, name))
    ]


def _values_of(value: Any) -> Sequence[Any]:
    """Return the values of an option, none if it was not given."""
    return () if value is None else value if isinstance(value, list) else (value,)


@contextmanager
def serving_page(
    folder: Path,
    port: int,
    state: Callable[[], dict[str, Any]] | None = None,
    redo: Sequence[str] = (),
) -> Iterator[Server]:
    """Serve the page of a folder during the block; as genbatch.view.serving.

    Raises:
        ValueError: If the port cannot be had, or a package is missing.
    """
    try:
        # Not at the top: the other commands do without what it loads.
        from genbatch.view import serving
    except ModuleNotFoundError as error:
        raise ValueError(str(error)) from error
    with serving(folder, port=port, state=state, redo=redo) as server:
        yield server


def announce(server: Server, say: Callable[[str], object], *, can_open: bool) -> None:
    """Tell where the page is, and open it."""
    say(f"The page is at {server.url}")
    if "SSH_CONNECTION" in os.environ:
        to = f"{getpass.getuser()}@{socket.gethostname()}"
        ports = f"{server.port}:127.0.0.1:{server.port}"
        say(f"To see it from your own machine, run there: ssh -L {ports} {to}")
    elif can_open and _has_screen():
        # Some browsers keep their caller waiting until they are closed.
        Thread(target=webbrowser.open, args=(server.url,), daemon=True).start()


def _has_screen() -> bool:
    """Return whether a browser would have a window; one in this terminal would take it over."""
    given = ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")
    return sys.platform in ("win32", "darwin") or any(map(os.environ.get, given))


async def until_stopped() -> None:
    """Wait for Ctrl-C or SIGTERM."""
    try:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            await anext(signals)
    except NotImplementedError:  # event loops on Windows: KeyboardInterrupt comes instead
        await anyio.sleep_forever()
