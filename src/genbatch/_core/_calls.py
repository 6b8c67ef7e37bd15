"""Calls: a context for each, and what the errors that come out of them mean.

A worker makes many calls from one task, so whatever a call leaves behind in the task would reach
the next one. Two things can be left: context variables, which is why each call runs in a context
of its own, and a native cancellation of asyncio, which is why it is forgotten between two calls.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Awaitable, Callable, Coroutine
from inspect import CO_COROUTINE, isawaitable
from types import CoroutineType, FunctionType, MethodType
from typing import Any

from anyio import current_effective_deadline, get_cancelled_exc_class

from ._outcome import T

_CORE = __package__


class NotAwaitable(TypeError):
    """What generate returned cannot be awaited."""


def is_coroutine_function(function: Any) -> bool:
    """Return whether function is an ``async def``, whose call runs no code yet."""
    if type(function) is MethodType:  # not a proxy of one, which may run code of its own
        function = function.__func__
    return type(function) is FunctionType and bool(function.__code__.co_flags & CO_COROUTINE)


def as_coroutine(awaitable: Any) -> Coroutine[Any, Any, Any]:
    """Return what generate returned as a coroutine.

    Raises:
        NotAwaitable: If generate is not an async function and does not return an awaitable.
    """
    if type(awaitable) is CoroutineType:
        return awaitable
    if not isawaitable(awaitable):
        raise NotAwaitable(
            "generate must be an async function: its call returned "
            f"{type(awaitable).__name__}, which cannot be awaited"
        )
    return _await(awaitable)


async def _await(awaitable: Awaitable[T]) -> T:
    return await awaitable


def is_cancelled() -> bool:
    """Return whether a scope around the current task is cancelled."""
    return current_effective_deadline() == -math.inf


def without_cancellation(exc: BaseException) -> BaseException | None:
    """Return exc, or of a group what is not cancellation; None if nothing remains."""
    cancelled = get_cancelled_exc_class()
    if not isinstance(exc, BaseExceptionGroup):
        return None if isinstance(exc, cancelled) else exc
    # A nursery's: cancellations beside cleanup errors. Splitting loses a subclass and attributes.
    return exc if exc.subgroup(cancelled) is None else exc.split(cancelled)[1]


def without_core_frames(exc: BaseException) -> BaseException:
    """Return exc with a traceback that begins outside the core.

    Frames of the core refer to the batch, which may refer to the error: a reference cycle.
    """
    while exc.__traceback__ and exc.__traceback__.tb_frame.f_globals.get("__package__") == _CORE:
        exc = exc.with_traceback(exc.__traceback__.tb_next)
    return exc


def as_failure(exc: BaseException, origin: str) -> Exception:
    """Return the failure that exc is; raise it if it is the batch's own cancellation, or an exit.

    A cancellation that origin raised while nobody cancels the batch comes back as a RuntimeError
    with that cancellation as its cause: raised bare it would look like the reader's own.
    """
    exc = without_core_frames(exc)
    rest = without_cancellation(exc)
    if isinstance(rest, Exception):
        return rest
    if rest is not None or is_cancelled():
        try:
            raise exc
        finally:
            del exc, rest  # their traceback refers to this frame
    error = RuntimeError(f"{origin} raised a cancellation of its own")
    error.__cause__ = exc
    return error


def sole_exit(exc: BaseException) -> BaseException | None:
    """Return what is not cancellation in a group that one of our task groups raised, ungrouped.

    That is an exit which the backend has injected where the group waited, such as Ctrl-C on trio.
    """
    rest = without_cancellation(exc)
    while isinstance(rest, BaseExceptionGroup):
        rest = rest.exceptions[0]
    return rest


def native_task() -> Any:
    """Return the current task if it is asyncio's, else None.

    anyio does not show what asyncio remembers of a native ``Task.cancel()``, and a call may leave
    that behind in its worker: this is the one place of the library that looks past anyio.
    """
    asyncio = sys.modules.get("asyncio")
    if asyncio is None or get_cancelled_exc_class() is not asyncio.CancelledError:
        return None
    return asyncio.current_task()


async def undisturbed(wait: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Await wait(), at most until this very task is cancelled natively, which is forgotten.

    A cancellation by a scope around it is raised.
    """
    try:
        await wait()
    except get_cancelled_exc_class():
        if is_cancelled():
            raise
    task = native_task()
    while task is not None and task.cancelling() and not is_cancelled():
        task.uncancel()
