"""Store: a directory of images and its journal, so that nothing is lost and nothing paid twice.

1. An image that save has returned is on disk, file and row; a row implies its file, complete.
2. A file under its final name is complete; no existing file is overwritten.
3. An image handed in is saved, whatever is cancelled, or kept until the disk has space again.
4. After any death at most the calls in flight are paid again; they are counted as possibly paid.

A request is known by its content: the namespace, the prompt without its id, input images, model and
settings. Its key is the SHA-256 of that and of how many equal ones were seen before it. Neither id
nor position is a part of it. The work is done in threads, by an Archive.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import Future
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from time import perf_counter
from types import TracebackType
from typing import Any, Self, TypeVar

from anyio import CancelScope, CapacityLimiter, get_cancelled_exc_class, to_thread
from anyio.lowlevel import checkpoint_if_cancelled

from genbatch._core import LoopGuard, ParkingLot, current_turn, waiting
from genbatch._values import Image, ImageRequest, SavedImage, Stopped, StoreError

from ._archive import Archive
from ._batch import Batch
from ._journal import Spent
from ._keys import DEFAULT_TEMPLATE, check_template
from ._plan import BegunCall, Plan, Policy
from ._reports import write_results

R = TypeVar("R")


def _waited() -> float:
    turn = current_turn.get(None)
    return turn.seconds if turn else 0.0


@dataclass(frozen=True, slots=True)
class CallClock:
    """How long a call takes from now on, but for what its worker waits."""

    began: float = field(default_factory=perf_counter)
    waited: float = field(default_factory=_waited)

    @property
    def elapsed(self) -> float:
        """Seconds."""
        return perf_counter() - self.began - (_waited() - self.waited)


@dataclass(slots=True)
class PendingImage:
    """A request whose image is being made; made by Store.pending.

    Attributes:
        store: Where the image is to be saved.
        call: The call that is to make it.
        is_open: Whether it has not come yet.
        clock: Began with the call.
    """

    store: Store
    call: BegunCall
    is_open: bool = True
    clock: CallClock = field(default_factory=CallClock)

    async def note_attempt(self, price: float | None) -> None:
        """Note in the journal that an attempt is about to be sent, which may be paid.

        So a later run knows of attempts whose outcome was never recorded. The row of an earlier
        attempt stays where that may have been paid.
        """
        self.call.attempt = None
        await self.store.run_in_thread(self.store.archive.send, self.call, price)

    async def forget_attempt(self) -> None:
        """Delete the latest attempt: it returned no image and cannot have been paid."""
        await self.store.run_in_thread(self.store.archive.unsend, self.call)

    async def save(self, image: Image) -> SavedImage:
        """Save the image of the call, and return when it is durable.

        Raises:
            StoreError: If it cannot be written now. It is kept in memory, and written when the
                disk takes another, or when the store is left.
            RuntimeError: If the image has come.

        Cancellation: strikes when the image is saved, since it is paid for.
        """
        if not self.is_open:
            raise RuntimeError("the image of this call has been saved already")
        self.is_open = False
        save = self.store.archive.save
        return await self.store.run_in_thread(save, self.call, image, self.clock.elapsed)


_THREADS = 4


class Store:
    """A directory that holds the images of one batch or many; enter it with ``async with``.

    One runner at a time may be in a directory; others may read it with status, export and verify.
    Leaving waits for the calls that run.

    Args:
        directory: Created, with its parents, on entering.
        fresh: Whether to refuse a directory that is not empty.
        name: How image files are named, of ``{index}`` (the prompt's number), ``{slug}`` (words of
            the prompt's id or text), ``{id}``, ``{name}`` (filename, id or slug), ``{source}``,
            ``{model}``, ``{seed}``, ``{n}`` and ``{key}``; slashes make folders. What it makes is
            made safe, and where it is taken, gets a part of the key. A prompt's own filename goes
            before it, unless it has ``{name}``.
        redo_missing: Whether to make images again whose files are gone.
        retry_failed: Whether to ask again for what was refused for good: ``"Blocked"``,
            ``"NoImage"``, ``"Rejected"``, ``"DamagedImage"``; all of them, or those named.

    Raises:
        ValueError: If name is malformed.
        StoreError: On entering, if directory cannot be written to, another runner is in it, its
            journal is damaged or of a newer genbatch, or it is not empty although fresh.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        fresh: bool = False,
        name: str = DEFAULT_TEMPLATE,
        redo_missing: bool = False,
        retry_failed: bool | Collection[str] = False,
    ) -> None:
        self.directory = Path(directory)
        self._fresh = fresh
        self._policy = Policy(self.directory, check_template(name), redo_missing, retry_failed)
        self._opened: Archive | None = None
        self._guard = LoopGuard(self)
        self.has_queue = False  # whether a batch looks after its jobs

    async def __aenter__(self) -> Self:
        with ExitStack() as held:
            held.enter_context(self._guard)
            await self._enter()
            self._held = held.pop_all()
        return self

    async def _enter(self) -> None:
        if self._opened is not None:
            raise RuntimeError("Store is open already")
        # Of its own: anyio's default limiter is shared with, say, an app's synchronous endpoints.
        self._threads = CapacityLimiter(_THREADS)
        self._running: set[int] = set()
        self._ended = ParkingLot()
        try:
            await self.run_in_thread(self._open)
        except BaseException:
            if self._opened is not None:
                await self.run_in_thread(self._close)
            raise

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._held:
            with CancelScope(shield=True):  # images of running calls are paid, yet to be saved
                while self._running:
                    await self._ended.park()
            await self.run_in_thread(self._close)

    def batch(self, namespace: str = "") -> Batch:
        """Return a new input, whose prompts are planned one by one.

        Args:
            namespace: Equal prompts in different namespaces are different images.

        Raises:
            RuntimeError: If the store is not open.
        """
        _ = self.archive
        return Batch(self, namespace)

    @asynccontextmanager
    async def pending(self, plan: Plan) -> AsyncIterator[PendingImage | SavedImage]:
        """Make the image of a request in the block, and record its failure.

        The block gets the image itself where it was made meanwhile, and no call is needed.

        An Exception that leaves the block is noted as the failure of the request. Where another
        batch is making the same image, this waits for it first.

        Args:
            plan: Of the request.

        Raises:
            StoreError: If the journal cannot be written.
            Stopped: If the batch drains while this waits.
        """
        self._guard.check()
        await checkpoint_if_cancelled()  # none of the below is one, and a call would begin
        while plan.item in self._running:
            with waiting():
                await self._ended.park()
        self._running.add(plan.item)
        try:
            begun = await self.run_in_thread(self.archive.begin, plan)
            pending = begun if isinstance(begun, SavedImage) else PendingImage(self, begun)
            try:
                yield pending
            except Stopped:
                raise  # says nothing of the request
            except Exception as exc:
                if isinstance(pending, PendingImage) and pending.is_open:
                    await self.run_in_thread(self.archive.fail, pending.call, exc)
                raise
        finally:
            self._running.discard(plan.item)
            self._ended.unpark()

    async def spent(self) -> Spent:
        """Return what all runs in this directory have paid, and may have paid for nothing.

        Raises:
            StoreError: If the journal cannot be read.
        """
        return await self.run_in_thread(self.archive.spent)

    async def forget_refusals(self, messages: Collection[str]) -> None:
        """Ask the requests again that were refused so, which says nothing of them.

        Args:
            messages: Of the refusals.

        Raises:
            StoreError: If the journal cannot be written.
        """
        await self.run_in_thread(self.archive.forget_refusals, messages)

    async def further(
        self, index: int, namespace: str = "", **changes: Any
    ) -> tuple[Plan, ImageRequest]:
        """Plan a further take of a prompt; the earlier ones are kept, and shown until pick.

        Args:
            index: Number of the prompt, as export shows it.
            namespace: Its namespace.
            changes: Fields of the ImageRequest to change for this take.

        Returns:
            The plan, and the request.

        Raises:
            ValueError: If there is no such prompt, or its request was made with bytes or settings
                that the journal does not keep.
            TypeError: If changes are not fields of an ImageRequest.
        """
        return await self.run_in_thread(self.archive.further, index, namespace, changes)

    async def pick(self, index: int, take: int, namespace: str = "") -> None:
        """Choose which take of a prompt is shown, and comes when a run resumes.

        Args:
            index: Number of the prompt, as export shows it.
            take: Number of the take, from 1.
            namespace: Its namespace.

        Raises:
            ValueError: If there is no such prompt or take.
        """
        await self.run_in_thread(self.archive.pick, index, take, namespace)

    @property
    def archive(self) -> Archive:
        """The open directory; its methods block.

        Raises:
            RuntimeError: If the store is not open.
        """
        if self._opened is None:
            raise RuntimeError("Store is not open: use 'async with Store(...)'")
        return self._opened

    def _open(self) -> None:
        self._opened = Archive(self._policy, fresh=self._fresh)

    def _close(self) -> None:
        archive, self._opened = self.archive, None
        try:
            with suppress(StoreError):  # export gives it again
                write_results(self.directory)
        finally:
            archive.close()

    async def run_in_thread(self, function: Callable[..., R], *args: object) -> R:
        """Call a function in a thread to its end; see run_to_end.

        Raises:
            RuntimeError: If the store is in use in another event loop.
        """
        self._guard.check()
        return await run_to_end(function, *args, limiter=self._threads)


async def run_to_end(function: Callable[..., R], *args: object, limiter: CapacityLimiter) -> R:
    """Call a function in a thread, whatever is cancelled meanwhile; that is delivered afterwards.

    A scope around this is shielded off. A native ``Task.cancel()`` is not, and may even come
    before the thread has begun: then the same call is waited for again.
    """
    returned: Future[R] = Future()
    lock = Lock()

    def call() -> None:
        with lock:
            if not returned.done():
                try:
                    returned.set_result(function(*args))
                except BaseException as exc:  # noqa: BLE001 - raised where it is waited for
                    returned.set_exception(exc)

    interruption: BaseException | None = None
    with CancelScope(shield=True):
        while not returned.done():
            try:
                await to_thread.run_sync(call, limiter=limiter)
            except get_cancelled_exc_class() as exc:
                interruption = exc
    if interruption is not None:
        raise interruption
    return returned.result()
