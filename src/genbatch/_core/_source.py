"""Source: the prompts of one batch, numbered as they are pulled, inside a window."""

from __future__ import annotations

from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sized,
)
from contextvars import copy_context
from functools import partial
from typing import Any, Generic, NamedTuple

from anyio import CancelScope, EndOfStream, current_time
from anyio.lowlevel import checkpoint

from ._calls import as_failure
from ._outcome import P
from ._waiting import ParkingLot

CHECKPOINT_EVERY = 64
CLOSE_TIMEOUT = 5.0  # seconds that an asynchronous source has to close


class Numbered(NamedTuple):
    """A prompt with a number of its own, from an asynchronous source that changes their order."""

    number: int
    prompt: Any


def iterable_of(prompts: Iterable[P] | AsyncIterable[P]) -> Iterable[P] | AsyncIterable[P]:
    """Return prompts as what can be iterated: a data set may have only a length and items.

    Raises:
        TypeError: If it cannot be, or would iterate something else than its prompts.
    """
    if isinstance(prompts, str | bytes | bytearray):
        raise TypeError(
            "prompts must be an iterable of prompts, not a single string: put it in a list"
        )
    if isinstance(prompts, Mapping):
        raise TypeError(
            "prompts must be an iterable of prompts, got a mapping, which iterates its keys: "
            "pass its values(), its items() or list() of it"
        )
    if hasattr(prompts, "shape") and hasattr(prompts, "columns"):
        column, rows = _parts_of_frame(prompts)
        raise TypeError(
            f"prompts must be an iterable of prompts, got a {type(prompts).__name__}, which "
            f"does not iterate its rows: pass one column, such as {column}, or to "
            f"generate_images with prompt_column= its rows, {rows}"
        )
    if hasattr(prompts, "collect") and hasattr(prompts, "collect_schema"):  # of polars, lazy
        raise TypeError(
            "prompts must be an iterable of prompts, got a LazyFrame, which has no rows yet: "
            "pass frame.collect().iter_rows(named=True) to generate_images with prompt_column="
        )
    if isinstance(prompts, Iterable | AsyncIterable):
        return prompts
    if hasattr(prompts, "__len__") and hasattr(prompts, "__getitem__"):
        return _Items(prompts)
    raise TypeError(f"prompts must be an iterable, got {type(prompts).__name__}: put it in a list")


def _parts_of_frame(frame: object) -> tuple[str, str]:
    """Return how to get a column and the rows of a table."""
    if hasattr(frame, "to_pylist"):
        return 'table["prompt"].to_pylist()', "table.to_pylist()"
    rows = "iter_rows(named=True)" if hasattr(frame, "iter_rows") else 'to_dict("records")'
    return 'frame["prompt"]', f"frame.{rows}"


class _Items(Generic[P]):
    """The items of what has a length and items, but no iterator."""

    def __init__(self, items: Any) -> None:
        self._items = items

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[P]:
        for index in range(len(self._items)):
            yield self._items[index]


class Source(Generic[P]):
    """The prompts, numbered as they are pulled, at most window of them not yet handed over.

    Workers pull from an iterable themselves, always in the context in which the batch was opened.
    An asynchronous one may hold a task group open, so one task, running feed, iterates and closes
    it; it is asked for a prompt only when a worker waits for one.
    """

    _pull: Callable[[], P]

    def __init__(self, prompts: Iterable[P] | AsyncIterable[P]) -> None:
        prompts = iterable_of(prompts)
        self.prompts = prompts
        self.error: Exception | None = None
        self.pulled = 0
        self.handed_over = 0
        self.uncalled: deque[tuple[int, P]] = deque()  # pulled as the source was ended
        self.exhausted = False
        self.read_to_end = False
        self._iterator = None if isinstance(prompts, AsyncIterable) else iter(prompts)
        self._fed: deque[tuple[int, P]] = deque()
        self._size: int | None = None
        self._is_size_known = self._iterator is None
        self._next_prompt: CancelScope | None = None  # what the feeder awaits, if it does
        self._room = ParkingLot()
        self._arrival = ParkingLot()

    def open(self) -> None:
        """Begin: from now on the prompts are pulled in the context of this call."""
        if self._iterator is not None:
            self._pull = partial(copy_context().run, self._iterator.__next__)

    def resize(self, limit: int) -> None:
        """Allow limit calls at once, and as many outcomes again that are not handed over yet."""
        self.limit = limit
        self._window = 2 * limit
        self._room.unpark()

    @property
    def total(self) -> int | None:
        """Number of prompts, None while unknown."""
        if self.exhausted:
            return self.pulled
        if not self._is_size_known:
            self._is_size_known = True
            self._size = _size(self.prompts)
        return None if self._size is None else max(self._size, self.pulled)

    @property
    def ended(self) -> bool:
        """Whether nothing is left to pull, now or later."""
        return self.exhausted and not self._fed

    def end(self, error: Exception | None = None) -> None:
        """End the source where it is, for an error if there was one."""
        self.uncalled.extend(self._fed)
        self._fed.clear()
        self._exhaust(error)
        if self._next_prompt is not None:
            self._next_prompt.cancel()

    def pull_nowait(self) -> tuple[int, P] | None:
        """Return the next prompt with its index, or None if there is none yet."""
        if self._iterator is None:
            return self._fed.popleft() if self._fed else None
        index = self.pulled
        if self.exhausted or index - self.handed_over >= self._window:
            return None
        try:
            prompt = self._pull()
        except StopIteration:
            self.exhausted = self.read_to_end = True
            return None
        except BaseException as exc:  # noqa: BLE001 - a cancellation may be the source's own
            self._exhaust(_as_source_error(exc))
            return None
        self.pulled = index + 1
        return index, prompt

    def wake_another(self) -> None:
        """Wake a worker, or the feeder, which may find room or a prompt now."""
        self._room.unpark(1)
        self._arrival.unpark(1)

    async def wait(self) -> None:
        """Wait until pull_nowait may find more, or the source has ended."""
        if self._iterator is None:
            self._room.unpark(1)  # the feeder: somebody wants a prompt
            await self._arrival.park()
            return
        await self._room.park()
        if self.exhausted or self.pulled - self.handed_over < self._window:
            # Each wakes two more, or one that never yields finds all the others awake for nothing.
            self._room.unpark(2)

    async def feed(self, prompts: AsyncIterable[P]) -> None:
        """Iterate prompts, which are this source's, to their end and close them."""
        try:
            # Both entered before the source, which may itself hold scopes open across its yields.
            with CancelScope() as ending, CancelScope() as closing:
                iterator = aiter(prompts)
                try:
                    await self._iterate(iterator, ending)
                finally:
                    # Shielded, or cleanup that awaits is cancelled again; bounded, it may hang.
                    closing.shield = True
                    closing.deadline = current_time() + CLOSE_TIMEOUT
                    await _close(iterator)
        except BaseException as exc:  # noqa: BLE001 - a cancellation may be the source's own
            self._exhaust(_as_source_error(exc))
        else:
            self._exhaust()

    async def _iterate(self, iterator: AsyncIterator[P], scope: CancelScope) -> None:
        while True:
            while not (self.exhausted or self._is_wanted()):
                await self._room.park()
            if self.exhausted:
                return
            self._next_prompt = scope
            try:
                prompt = await anext(iterator)
            except StopAsyncIteration:
                self.read_to_end = not self.exhausted
                return
            finally:
                self._next_prompt = None
            found = prompt if isinstance(prompt, Numbered) else Numbered(self.pulled, prompt)
            (self.uncalled if self.exhausted else self._fed).append(found)
            self.pulled += 1
            del prompt, found  # or it lives on while this waits
            self._arrival.unpark(1)
            if self.pulled % CHECKPOINT_EVERY == 0:
                await checkpoint()

    def _exhaust(self, error: Exception | None = None) -> None:
        self.error = error if self.error is None else self.error
        self.exhausted = True
        self._room.unpark()
        self._arrival.unpark()

    def _is_wanted(self) -> bool:
        """Return whether a worker waits for a prompt and there is room for its outcome."""
        return bool(self._arrival.parked) and self.pulled - self.handed_over < self._window


def _as_source_error(exc: BaseException) -> Exception:
    error = as_failure(exc, "prompts")
    if isinstance(error, StopAsyncIteration | EndOfStream):  # to a reader, that means all is well
        wrapped = RuntimeError(f"prompts raised {type(error).__name__}")
        wrapped.__cause__ = error
        return wrapped
    return error


def _size(prompts: object) -> int | None:
    """Return how many prompts there are, None if they do not know."""
    try:
        return len(prompts) if isinstance(prompts, Sized) else None
    except Exception:  # noqa: BLE001 - a length in name only, or one that a database refuses
        return None


async def _close(iterator: AsyncIterator[object]) -> None:
    if (aclose := getattr(iterator, "aclose", None)) is None:
        return
    try:
        await aclose()
    except BaseExceptionGroup as group:
        # A task group open across a yield wraps the GeneratorExit that closes the generator.
        if (rest := group.split(GeneratorExit)[1]) is not None:
            raise rest from None
