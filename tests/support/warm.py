"""``python -m`` in a process of its own, without the start of an interpreter and its imports.

A start of the command ``genbatch`` costs most of a second of processor time, nearly all of it
imports, and its tests start hundreds. So a *warm process* beside the tests imports once what the
command uses, and forks for each. The fork is a process like any other: a child of the tests' own,
with the descriptors, the folder, the environment and the session that it is given.

1. The warm process has one thread, no event loop and no open file.
2. The variables that are read before a command looks at its environment (by the interpreter, the
   C library, and modules as they are imported) must be those of the warm process. What has others,
   or options that are not known here, starts for real.
3. A fork has what a new process has: default handlers of signals, its own arguments, streams,
   timezone and random numbers.
4. Its number is told when nothing is left to arrange: it may be signalled at once.

Three things are different. The seed of hashes is that of the warm process; imported modules are out
of the garbage collector's sight; and once threads have ended, exit handlers have run and streams
are flushed, nothing is taken down, which would cost more than most commands. Tests of imports and
of starts run ``sys.executable``.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import os
import pickle
import runpy
import signal
import socket
import subprocess
import sys
import termios
import time
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

_TESTS = Path(__file__).parents[1]
_READ_AT_START = ("COVERAGE_", "LANG", "LC_", "LD_", "MALLOC_", "PYTHON")
_PR_SET_CHILD_SUBREAPER = 36
_LONGEST = 200_000  # bytes of a message: Linux holds as many back, without being told to
_KNOWN = {"stdin", "stdout", "stderr", "encoding", "cwd", "env", "start_new_session", "preexec_fn"}

_MODULES = """
anyio._backends._asyncio anyio._backends._trio genbatch.cli._main genbatch.gallery
genbatch.gemini._sdk genbatch.testing importlib.readers PIL.BmpImagePlugin PIL.GifImagePlugin
PIL.ImageDraw PIL.ImageOps PIL.JpegImagePlugin PIL.PngImagePlugin PIL.PpmImagePlugin
rich._emoji_codes rich.status typer.rich_utils typer._adapters typer._click.decorators uvloop
""".split()


def usual_streams() -> dict[str, str]:
    """Return the environment, but for what would change how all of Python writes."""
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"}
    environment.pop("PYTHONUNBUFFERED", None)
    return environment


_ENVIRONMENT = usual_streams()  # before any test has changed it
_ENVIRONMENT.pop("FORCE_COLOR", None)


def take_terminal() -> None:
    """Make the terminal the one that Ctrl-C is typed on, and whose closing is heard."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests that nohup runs ignore it
    fcntl.ioctl(2, termios.TIOCSCTTY, 0)


# The side of the tests


class PythonProcess(subprocess.Popen[Any]):
    """Python with arguments; takes the options of `subprocess.Popen`.

    Attributes:
        is_fork: Whether the warm process was forked.
    """

    def __init__(self, arguments: list[str], **options: Any) -> None:
        environment = dict(options.get("env") or os.environ)
        is_terminal = options.get("preexec_fn") is take_terminal
        self._request = None
        if (
            sys.platform == "linux"
            and arguments[0] == "-m"
            and options.keys() <= _KNOWN
            and (is_terminal or options.get("preexec_fn") is None)
            and _warm_process().is_like(environment)
        ):
            cwd = os.path.abspath(options.get("cwd") or ".")
            is_session = options.get("start_new_session", False)
            self._request = (arguments[1:], environment, cwd, is_session, is_terminal)
        self.is_fork = self._request is not None
        super().__init__([sys.executable, *arguments], **options)

    def _execute_child(self, *how: Any) -> None:
        if self._request is None:
            return super()._execute_child(*how)  # type: ignore[misc]
        read, _, _, written, _, errors = pipes = how[10:16]
        streams = [n if each == -1 else each for n, each in enumerate((read, written, errors))]
        self.pid = _warm_process().fork(self._request, streams)
        self._child_created = True
        self._close_pipe_fds(*pipes)


def start_module(name: str, *arguments: str, **options: Any) -> PythonProcess:
    """Start a module, with pipes for what it writes."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    return PythonProcess(["-m", name, *arguments], **({"env": usual_streams()} | pipes | options))


def run_module(
    name: str, *arguments: str, input: str | None = None, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a module to its end."""
    stdin = {} if input is None else {"stdin": subprocess.PIPE}
    with start_module(name, *arguments, **(stdin | options)) as process:
        try:
            out, err = process.communicate(input, timeout=120)
        finally:
            process.kill()  # does nothing to one that has ended
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


class _WarmProcess:
    def __init__(self) -> None:
        # A fork is orphaned at once; this makes it our child, for which we can wait.
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._socket, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        program = f"import sys; sys.path[0] = {str(_TESTS)!r}; from support.warm import serve"
        with theirs:
            number = theirs.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"{program}; serve({number})"],
                env=_ENVIRONMENT,
                pass_fds=[number],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        self._read_at_import = pickle.loads(self._received())

    def is_like(self, environment: dict[str, str]) -> bool:
        """Return whether Python with this environment would be like this process."""
        names = {n for n in environment.keys() | _ENVIRONMENT if n.startswith(_READ_AT_START)}
        names |= self._read_at_import
        return all(environment.get(name) == _ENVIRONMENT.get(name) for name in names)

    def fork(self, request: tuple[Any, ...], streams: list[int]) -> int:
        """Return the number of a new process."""
        socket.send_fds(self._socket, [pickle.dumps(request)], streams)
        return int(self._received())

    def _received(self) -> bytes:
        message = self._socket.recv(_LONGEST)
        assert message, f"the warm process has ended: {self._process.wait()}"
        return message


_warm_process = cache(_WarmProcess)


# The warm process, and its forks


class _Watched(type(os.environ)):  # type: ignore[misc]
    """An environment that keeps the names of what is read from it."""

    read: ClassVar[set[str]] = set()

    def __getitem__(self, name: str) -> str:
        self.read.add(name)
        return str(super().__getitem__(name))

    def __contains__(self, name: object) -> bool:
        self.read.add(str(name))
        return super().__contains__(name)


def serve(descriptor: int) -> None:
    """Fork for each request; in the fork, run the module. Ends with the tests."""
    status: list[int] = []
    atexit.register(_end, status)  # before all others, to be called after them
    usual, os.environ.__class__ = os.environ.__class__, _Watched
    for name in _MODULES:
        with suppress(ModuleNotFoundError):  # others are not in every version
            import_module(name)
    os.environ.__class__ = usual
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=descriptor) as requests:
        requests.send(pickle.dumps(_Watched.read))
        module, *arguments = _next_fork(requests)
    sys.argv = ["-m", *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if isinstance(ended.code, int) and "coverage" not in sys.modules:
            status.append(ended.code)
        raise


def _end(status: list[int]) -> None:
    with suppress(OSError, ValueError):  # of which the interpreter tells, with a status of its own
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        if status:
            os._exit(status[0])


def _next_fork(requests: socket.socket) -> list[str]:
    """Return in each fork, with the arguments for it."""
    while True:
        try:
            message, streams, _, _ = socket.recv_fds(requests, _LONGEST, 3)
        except KeyboardInterrupt:  # for the tests, which are in the same group
            message = b""
        if not message:
            sys.exit()
        forked, orphaned = os.pipe()
        middle = os.fork()
        if middle == 0:
            if os.fork():
                os._exit(0)
            os.close(orphaned)
            os.read(forked, 1)  # returns when the process between is gone
            os.close(forked)
            return _become(requests, streams, *pickle.loads(message))
        os.close(forked)
        os.waitpid(middle, 0)
        for each in (orphaned, *streams):
            os.close(each)


def _become(
    requests: socket.socket,
    streams: list[int],
    arguments: list[str],
    environment: dict[str, str],
    cwd: str,
    is_session: bool,
    is_terminal: bool,
) -> list[str]:
    try:
        for number, each in enumerate(streams):
            os.dup2(each, number)
            os.close(each)
        if is_session:
            os.setsid()
        if is_terminal:
            take_terminal()
        os.chdir(cwd)
        sys.path[0] = cwd
        os.environ.clear()
        os.environ.update(environment)
        time.tzset()
        _open_streams()
        sys.modules["trio"]._core._run._r.seed()  # the global generator seeds itself
    finally:
        requests.send(b"%d" % os.getpid())
    return arguments


def _open_streams() -> None:
    """Open the standard streams as the interpreter does."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        mode = "w" if number else "r"
        buffering, errors = (1, "backslashreplace") if name == "stderr" else (-1, "strict")
        stream = open(number, mode, buffering, "utf-8", errors, newline="\n", closefd=False)
        stream.buffer.raw.name = f"<{name}>"
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
