"""The core."""

from ._calls import without_cancellation
from ._outcome import Failure, Outcome, P, Success, T
from ._parking import ParkingLot
from ._progress import Progress
from ._stream import OutcomeStream, collect, open_stream, stream
from ._waiting import Turn, Waits, turn, waiting
from ._workers import Workers

__all__ = [
    "Failure",
    "Outcome",
    "OutcomeStream",
    "P",
    "ParkingLot",
    "Progress",
    "Success",
    "T",
    "Turn",
    "Waits",
    "Workers",
    "collect",
    "open_stream",
    "stream",
    "turn",
    "waiting",
    "without_cancellation",
]
