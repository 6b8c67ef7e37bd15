"""Events: what becomes of each call, told to the ``on_event`` of a client or of a batch.

    def on_event(event: Event) -> None:
        match event:
            case AttemptEnded(error=None, cost=cost):
                ...

1. A call is told from CallStarted to CallEnded, its attempts from AttemptStarted to AttemptEnded,
   in this order and whatever is cancelled. A prompt whose image is there already makes no call.
2. A listener is called in the event loop, in the context of the call: it must not block. What it
   raises is shown on stderr, as ``logging`` shows the errors of handlers, and loses no image.
3. Each event has the call, and with it the prompt and its metadata; what it costs in US dollars,
   None where no price is known; and whether that is estimated: reserved, or counted for want of an
   answer that tells, and not by what the service has billed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from genbatch._values import Image, Prompt, RateLimited, SavedImage

__all__ = [
    "AttemptEnded",
    "AttemptStarted",
    "CallAdmitted",
    "CallContext",
    "CallEnded",
    "CallStarted",
    "CallsPaused",
    "CallsStopped",
    "Event",
    "ImageSaved",
    "OnEvent",
    "RateLimitHit",
    "RetryScheduled",
]


@dataclass(frozen=True, slots=True)
class CallContext:
    """The call that an event is about.

    Attributes:
        number: Of the call, unique in the process.
        service: Whose image it is, such as ``"gemini"``.
        model: Full id.
        prompt: With the settings that it is called with.
        index: Position of the prompt in its batch, None outside one.
        key: What its image is found by in the journal, None where it is not saved.
    """

    number: int
    service: str
    model: str
    prompt: Prompt
    index: int | None = None
    key: str | None = None

    @property
    def metadata(self) -> Mapping[str, object]:
        """The metadata of the prompt."""
        return self.prompt.metadata


@dataclass(frozen=True, slots=True)
class CallStarted:
    """The image of a prompt is to be made: by attempts, or by a request in a batch job."""

    call: CallContext
    cost: float | None = 0.0
    is_estimated: bool = False


@dataclass(frozen=True, slots=True)
class CallAdmitted:
    """A throttle lets a call start: the state of the throttle with this call in flight.

    Attributes:
        capacity: Most calls in flight.
        rate: Most starts in a second, None while there is no such limit.
        in_flight: Calls in flight.
        waiting: Calls that wait for their turn.
    """

    call: CallContext
    capacity: int
    rate: float | None
    in_flight: int
    waiting: int
    cost: float | None = 0.0
    is_estimated: bool = False


@dataclass(frozen=True, slots=True)
class AttemptStarted:
    """An attempt is about to be sent, or a request to be added to a batch job.

    Attributes:
        attempt: Number of the attempt in its call, from 1. One after a rejection counts as well.
        cost: What is reserved for it.
    """

    call: CallContext
    attempt: int
    cost: float | None
    is_estimated: bool = True


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """An attempt has ended; where its image is saved, that is done.

    Attributes:
        attempt: Number of the attempt in its call.
        cost: Of what came; what was reserved, if it may have been billed without an image.
        elapsed: Seconds since it started.
        image: What came; None without one.
        error: Why there is none; a cancellation too.
    """

    call: CallContext
    attempt: int
    cost: float | None
    is_estimated: bool
    elapsed: float
    image: Image | SavedImage | None = None
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class RateLimitHit:
    """The service has rejected an attempt for now (429); it is made again when its turn comes.

    Attributes:
        error: Its words, and the delay that it asks for.
        capacity: Most calls in flight from now on.
        rate: Most starts in a second from now on, None while there is no such limit.
    """

    call: CallContext
    error: RateLimited
    capacity: int
    rate: float | None
    cost: float | None = 0.0
    is_estimated: bool = False


@dataclass(frozen=True, slots=True)
class CallsPaused:
    """No call of the model starts for some time; told once for a pause, not for each rejection.

    Attributes:
        seconds: How long, from now.
        error: The rejection that it begins with.
    """

    call: CallContext
    seconds: float
    error: RateLimited
    cost: float | None = 0.0
    is_estimated: bool = False


@dataclass(frozen=True, slots=True)
class RetryScheduled:
    """An attempt has failed in a way that may pass, and another one is to follow.

    Attributes:
        attempt: Number of the one that failed.
        delay: Seconds until the next.
        error: Why it failed.
    """

    call: CallContext
    attempt: int
    delay: float
    error: Exception
    cost: float | None = 0.0
    is_estimated: bool = False


@dataclass(frozen=True, slots=True)
class ImageSaved:
    """An image is on disk, durable."""

    call: CallContext
    image: SavedImage
    cost: float | None
    is_estimated: bool


@dataclass(frozen=True, slots=True)
class CallsStopped:
    """Further calls are not made: of a batch, or of one of its models; told once.

    Attributes:
        error: What has stopped them.
        model: Whose calls they are, None for all.
    """

    call: CallContext
    error: Exception
    model: str | None = None
    cost: float | None = 0.0
    is_estimated: bool = False


@dataclass(frozen=True, slots=True)
class CallEnded:
    """A call has its image, or its error.

    Attributes:
        cost: Of all its attempts.
        elapsed: Seconds since it started, its waits included.
        attempts: How many it took.
        image: Its image; None without one.
        error: Why there is none; a cancellation too.
    """

    call: CallContext
    cost: float | None
    is_estimated: bool
    elapsed: float
    attempts: int
    image: Image | SavedImage | None = None
    error: BaseException | None = None


Event: TypeAlias = (
    CallStarted
    | CallAdmitted
    | AttemptStarted
    | AttemptEnded
    | RateLimitHit
    | CallsPaused
    | RetryScheduled
    | ImageSaved
    | CallsStopped
    | CallEnded
)
OnEvent: TypeAlias = Callable[[Event], object]
