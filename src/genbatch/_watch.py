"""Watch: tells the listeners of a call what becomes of it.

The watch of a call is in its context, as its log context is: what has news for it asks for it, and
without listeners there is none.

    if (watch := current_watch()) is not None:
        watch.tell(CallsStopped(watch.call, error))
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from inspect import iscoroutinefunction
from itertools import count
from time import perf_counter

from genbatch._logs import log_fields, show_error
from genbatch._values import DamagedImage, Image, ImageRequest, SavedImage
from genbatch.events import (
    AttemptEnded,
    AttemptStarted,
    CallContext,
    CallEnded,
    CallStarted,
    Event,
    ImageSaved,
    OnEvent,
)

_numbers = count(1)


class Watch:
    """What is told of one call.

    Attributes:
        call: What each event says of it.
        attempts: How many were made.
        image: Its image, once there is one.
    """

    __slots__ = (
        *("_began", "_cost", "_held", "_is_estimated", "_listeners"),
        *("attempts", "call", "image"),
    )

    def __init__(self, call: CallContext, listeners: tuple[OnEvent, ...]) -> None:
        self.call = call
        self.attempts = 0
        self.image: Image | SavedImage | None = None
        self._listeners = listeners
        self._began = perf_counter()
        self._cost: float | None = 0.0
        self._is_estimated = False
        self._held: AttemptEnded | None = None  # until what has come is on disk

    def tell(self, event: Event) -> None:
        """Call the listeners, whose errors are shown and go no further: an image may have come."""
        for on_event in self._listeners:
            try:
                on_event(event)
            except Exception:  # noqa: BLE001 - see above
                show_error(f"on_event of genbatch, at {type(event).__name__}")

    def attempt_started(self, cost: float | None) -> int:
        """Tell of an attempt for which cost is reserved, and return its number."""
        self._tell_held()
        self.attempts += 1
        self.tell(AttemptStarted(self.call, self.attempts, cost))
        return self.attempts

    def attempt_ended(
        self,
        attempt: int,
        cost: float | None,
        is_estimated: bool,
        elapsed: float,
        image: Image | SavedImage | None,
        error: BaseException | None,
    ) -> None:
        """Tell how an attempt has ended, of what is to be saved when it is: see AttemptEnded."""
        self._cost = None if self._cost is None or cost is None else self._cost + cost
        self._is_estimated = self._is_estimated or is_estimated
        self._held = AttemptEnded(self.call, attempt, cost, is_estimated, elapsed, image, error)
        is_unsaved = self.call.key is not None and self.image is None
        if not (is_unsaved and (image is not None or isinstance(error, DamagedImage))):
            self._tell_held()

    def saved(self, image: SavedImage) -> None:
        """Tell that the image is on disk."""
        self.image = image
        self._tell_held()
        self.tell(ImageSaved(self.call, image, image.cost, self._is_estimated))

    def ended(self, error: BaseException | None) -> None:
        """Tell that the call has ended."""
        self._tell_held()
        elapsed, image = perf_counter() - self._began, None if error else self.image
        cost, is_estimated = self._cost, self._is_estimated
        self.tell(CallEnded(self.call, cost, is_estimated, elapsed, self.attempts, image, error))

    def _tell_held(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            self.tell(held)


_watch: ContextVar[Watch | None] = ContextVar("genbatch_watch", default=None)
current_watch = _watch.get  # None where nobody listens
_unwatched = nullcontext()


def check_listener(on_event: OnEvent | None) -> None:
    """Refuse what cannot listen.

    Raises:
        TypeError: If it is not a function, or has to be awaited.
    """
    if on_event is not None and not callable(on_event):
        raise TypeError(f"on_event must be a function, got {type(on_event).__name__}")
    if iscoroutinefunction(on_event) or iscoroutinefunction(getattr(on_event, "__call__", None)):  # noqa: B004
        raise TypeError("on_event must be a plain function, not an async one: it is not awaited")


def watching(
    request: ImageRequest,
    service: str,
    of_client: OnEvent | None,
    of_batch: OnEvent | None = None,
) -> AbstractContextManager[Watch | None]:
    """Watch the call of a request in the block.

    Args:
        request: With the full id of its model.
        service: Whose images they are.
        of_client: Listens to all calls of a client.
        of_batch: Listens to those of a batch; both may be the same.
    """
    if of_client is None and of_batch is None and _watch.get() is None:
        return _unwatched
    heard = (of_client, None if of_batch == of_client else of_batch)
    return _watching(request, service, tuple(each for each in heard if each is not None))


@contextmanager
def _watching(
    request: ImageRequest, service: str, listeners: tuple[OnEvent, ...]
) -> Iterator[Watch | None]:
    if not listeners:  # a call inside another one that is watched, and is not told of this one
        token = _watch.set(None)
        try:
            yield None
        finally:
            _watch.reset(token)
        return
    index, key = log_fields("index", "key")
    call = CallContext(next(_numbers), service, request.model, request.prompt, index, key)
    watch = Watch(call, listeners)
    token = _watch.set(watch)
    error: BaseException | None = None
    try:
        watch.tell(CallStarted(call))
        yield watch
    except BaseException as exc:
        error = exc
        raise
    finally:
        _watch.reset(token)
        watch.ended(error)
        del error  # its traceback holds this frame
