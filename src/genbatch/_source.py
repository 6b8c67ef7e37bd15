"""Source: the prompts of one batch, numbered as they are pulled, inside a window."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sized
from typing import Generic

from anyio import CancelScope, Event, current_time, move_on_after
from anyio.lowlevel import checkpoint

from ._cancellation import as_failure
from ._outcome import P

CHECKPOINT_EVERY = 64
CLOSE_TIMEOUT = 5.0  # seconds that an asynchronous source has to close


class Bell:
    """Wakes tasks parked on it; costs next to nothing while nobody is."""

    def __init__(self) -> None:
        self.parked: deque[Event] = deque()

    async def wait(self) -> None:
        """Park until a ring."""
        event = Event()
        self.parked.append(event)
        try:
            await event.wait()
        except BaseException:
            if event.is_set():
                self.ring(1)  # in place of this one, which will not look
            else:
                self.parked.remove(event)
            raise

    def ring(self, most: int = sys.maxsize) -> None:
        """Wake all that are parked now, or the most longest parked."""
        while self.parked and most:
            self.parked.popleft().set()
            most -= 1


class Source(Generic[P]):
    """The prompts, numbered as they are pulled, at most window of them not yet handed over.

    Workers pull from an iterable themselves. An asynchronous one may hold a task group open, so one
    task, running feed, iterates and closes it, and workers pull what it brings.
    """

    def __init__(self, prompts: Iterable[P] | AsyncIterable[P], window: int) -> None:
        if isinstance(prompts, str | bytes):
            raise TypeError("prompts must be an iterable of prompts, not a single string")
        if not isinstance(prompts, Iterable | AsyncIterable):
            raise TypeError(f"prompts must be an iterable, got {type(prompts).__name__}")
        self.prompts = prompts
        self.error: Exception | None = None
        self.pulled = 0
        self.handed_over = 0
        self._iterator = None if isinstance(prompts, AsyncIterable) else iter(prompts)
        self._size = _size(prompts)
        self._fed: deque[tuple[int, P]] = deque()
        self.read_to_end = False
        self._exhausted = False
        self._next_prompt: CancelScope | None = None  # what the feeder awaits, if it does
        self._window = window
        self._half_window = window // 2
        self._room = Bell()
        self._arrival = Bell()

    @property
    def total(self) -> int | None:
        """Number of prompts, None while unknown."""
        return self.pulled if self._exhausted else self._size

    @property
    def ended(self) -> bool:
        """Whether nothing is left to pull, now or later."""
        return self._exhausted and not self._fed

    def stop(self) -> None:
        """End the source where it is."""
        self.pulled -= len(self._fed)
        self._fed.clear()
        self._exhausted = True
        self._room.ring()
        if self._next_prompt is not None:
            self._next_prompt.cancel()

    def hand_over(self) -> None:
        """Count an outcome that reached its reader; half a window of them makes room."""
        self.handed_over += 1
        if self.pulled - self.handed_over == self._half_window:
            self._room.ring(1)

    def pull_nowait(self) -> tuple[int, P] | None:
        """Return the next prompt behind its index, or None if there is none now."""
        if self._iterator is None:
            return self._fed.popleft() if self._fed else None
        index = self.pulled
        if self._exhausted or index - self.handed_over >= self._window:
            return None
        try:
            prompt = next(self._iterator)
        except StopIteration:
            self._exhausted = self.read_to_end = True
            return None
        except BaseException as exc:  # noqa: BLE001 - a cancellation may be the source's own
            self.error = as_failure(exc, "prompts")
            self._exhausted = True
            return None
        self.pulled = index + 1
        return index, prompt

    async def wait(self) -> None:
        """Wait until pull_nowait may find more, or the source has ended."""
        if self._iterator is None:
            await self._arrival.wait()
            return
        await self._room.wait()
        if self._exhausted or self.pulled - self.handed_over < self._window:
            # Each wakes two more, or one that never yields finds all the others awake for nothing.
            self._room.ring(2)

    async def feed(self, prompts: AsyncIterable[P]) -> None:
        """Iterate prompts, which are this source's, to their end and close them."""
        try:
            # Entered before the source, which may itself hold scopes open across its yields.
            with CancelScope() as scope:
                iterator = aiter(prompts)
                try:
                    await self._iterate(iterator, scope)
                finally:
                    # Shielded, or cleanup that awaits is cancelled again; bounded, it may hang.
                    if scope.cancel_called:  # by stop: that reaches through a shield of its own
                        with move_on_after(CLOSE_TIMEOUT, shield=True):
                            await _close(iterator)
                    else:
                        scope.shield = True
                        scope.deadline = current_time() + CLOSE_TIMEOUT
                        await _close(iterator)
        except BaseException as exc:  # noqa: BLE001 - a cancellation may be the source's own
            self.error = as_failure(exc, "prompts")
        finally:
            self._exhausted = True
            self._arrival.ring()

    async def _iterate(self, iterator: AsyncIterator[P], scope: CancelScope) -> None:
        while True:
            while not self._exhausted and self.pulled - self.handed_over >= self._window:
                await self._room.wait()
            if self._exhausted:  # by stop
                return
            self._next_prompt = scope
            try:
                prompt = await anext(iterator)
            except StopAsyncIteration:
                self.read_to_end = True
                return
            finally:
                self._next_prompt = None
            if self._exhausted:  # by stop, in the very tick in which this one came
                return
            self._fed.append((self.pulled, prompt))
            self.pulled += 1
            self._arrival.ring(1)
            if self.pulled % CHECKPOINT_EVERY == 0:
                await checkpoint()


def _size(prompts: object) -> int | None:
    """Return how many prompts there are, None if they do not know."""
    try:
        return len(prompts) if isinstance(prompts, Sized) else None
    except (TypeError, OverflowError, NotImplementedError):
        return None  # a length in name only, or one beyond any memory


async def _close(iterator: AsyncIterator[object]) -> None:
    if (aclose := getattr(iterator, "aclose", None)) is None:
        return
    try:
        await aclose()
    except BaseExceptionGroup as group:
        # A task group open across a yield wraps the GeneratorExit that closes the generator.
        if (rest := group.split(GeneratorExit)[1]) is not None:
            raise rest from None
