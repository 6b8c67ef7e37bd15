"""Claims: what one process does, no other does meanwhile; the claims of a dead one expire.

A claim is an object that names the session of its process. A session shows that it lives by
rewriting its own object; one that others have seen unchanged for the length of a lease is dead,
whatever the clocks of the machines say, and one without an object has ended. All methods block.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Lock, Thread

from pydantic_core import from_json, to_json

from genbatch._values import StoreError

from ._places import Bucket, Directory

_BEATS = 6  # in the length of a lease
_FRESH = 1.0  # seconds for which a session that was seen alive is not looked at again


class Claims:
    """The claims of one process.

    Args:
        place: Where the objects are.
        lease: Seconds without a sign of life after which a process is taken for dead.
        on_beat: Called with each sign of life, in the thread that gives them.
    """

    def __init__(
        self, place: Directory | Bucket, lease: float, on_beat: Callable[[], object]
    ) -> None:
        self.session = f"{time.time():.0f}-{secrets.token_hex(6)}"
        self.size: int | None = None  # prompts of the input, where known
        self._place = place
        self._lease = lease
        self._on_beat = on_beat
        self._held: set[str] = set()
        self._lock = Lock()
        self._seen: dict[str, tuple[bytes, float, float]] = {}  # when it changed, when looked at
        self._beats = 0
        self._beaten = time.monotonic()
        self._closed = Event()
        self._beat()
        self._thread = Thread(target=self._live, name="genbatch-lease", daemon=True)
        self._thread.start()

    def take(self, name: str) -> bool:
        """Claim a name; return whether it is this process's now."""
        own = self.session.encode()
        with self._lock:
            self._held.add(name)  # first: of a request that is cut off the end is not known
        if self._place.create(name, own):
            return True
        held = self._place.tagged(name)
        if held is None:
            is_own = self._place.create(name, own)
        else:
            holder, tag = held
            is_own = holder == own
            if not is_own and self.is_dead(holder.decode(errors="replace")):
                is_own = self._place.swap(name, own, tag)
        if not is_own:
            with self._lock:
                self._held.discard(name)
        return is_own

    def release(self, name: str) -> None:
        """Let others claim a name of this process."""
        with self._lock:
            is_held = name in self._held
            self._held.discard(name)
        # A process that was stopped for longer has lost its claims, maybe to another.
        if is_held and time.monotonic() - self._beaten < self._lease:
            with suppress(StoreError):  # it expires when this process has ended
                self._place.remove(name)

    def is_dead(self, session: str) -> bool:
        """Return whether a process has ended, or is taken for dead."""
        now = time.monotonic()
        known = self._seen.get(session)
        if known is not None and now - known[2] < _FRESH:
            return now - known[1] > self._lease
        data = self._place.read(f"sessions/{session}.json")
        if data is None:
            return True
        changed = known[1] if known is not None and known[0] == data else now
        self._seen[session] = (data, changed, now)
        return now - changed > self._lease

    def close(self) -> None:
        """End the session and release all that it holds."""
        self._closed.set()
        self._thread.join()
        for name in tuple(self._held):
            self.release(name)
        self._place.remove(f"sessions/{self.session}.json")

    def _live(self) -> None:
        while not self._closed.wait(self._lease / _BEATS):
            with suppress(Exception):  # the next one may succeed, or others take over
                self._beat()
                self._on_beat()

    def _beat(self) -> None:
        self._beats += 1
        row = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "at": time.time(),
            "beat": self._beats,
            "lease": self._lease,
            "size": self.size,
        }
        self._place.replace(f"sessions/{self.session}.json", to_json(row))
        self._beaten = time.monotonic()


def live_sessions(place: Directory | Bucket) -> list[dict[str, object]]:
    """Return those that gave a sign of life lately, by the clocks of the machines."""
    names = sorted(place.names("sessions"))
    read = {name.removesuffix(".json"): place.read(f"sessions/{name}") for name in names}
    found = [{"id": name, **from_json(data)} for name, data in read.items() if data]
    return [each for each in found if time.time() - each["at"] < each["lease"]]
