"""The core: prompts in, at most k calls at once, exactly one outcome per prompt.

1.  Exactly one outcome per prompt pulled, with its index and prompt, while the block is open,
    whatever cancels a read. A cancellation that comes out of generate while nobody is cancelling
    the batch is that prompt's Failure. Leaving drops outcomes unread and calls in flight.
2.  Never more calls at once than the present total_tokens of the batch's own limiter, which are
    max_concurrent at first, nor than those of the limiter given. Lowering them lets calls finish.
3.  At most twice that many prompts are pulled and not handed over; as many tasks, and memory that
    does not grow with the number of prompts.
4.  A slow reader slows the calls. Every token is released before the hand-over.
5.  Leaving the block starts no further call, cancels those in flight and waits for them.
6.  An Exception from generate is data; with fail_fast it stops the batch. A source error stops
    pulling and is raised after the last outcome. Neither cancels the reader's block, and an error
    of that block arrives bare. What a call raises that is not an Exception, such as
    KeyboardInterrupt, ends the block, bare as well.
7.  EndOfStream means that every prompt pulled was handed over: a batch that is cut short raises.
    A cancelled batch starts no further call, also when its calls shield themselves. A stream whose
    block was left raises ClosedResourceError.
8.  Each call runs in a copy of the context in which the batch was opened: a prompt never sees a
    contextvar that another prompt set. A synchronous source is resumed in one context.
9.  Workers and readers checkpoint at least every 64 items.
10. Nothing is yielded inside a task group but by an asynccontextmanager.

Theory of operation, from the prompts to the reader:

Source (_source.py) numbers the prompts as they are pulled. An iterable is pulled by the workers
themselves; an asynchronous one by a single feeder task, since it may hold a task group open across
its yields, and only when a worker waits for a prompt: what is not called stays where it was.

Workers (_workers.py) are tasks that pull, call and deliver in a loop. Each starts the next one, up
to as many as the limiter has tokens. A token is borrowed before a prompt is pulled, and released
before its outcome is delivered. When total_tokens is raised, more workers are started; when it is
lowered, workers end with their calls. Since tasks are reused, nothing may be left behind in them:
every step of a call runs in a context made for that call, and a native cancellation of asyncio
that a call has asked for, or swallowed, is forgotten before the next one (_calls.py). In the end,
as many outcomes must have been delivered as prompts were pulled: else the batch raises.

A finished outcome goes into an unbounded memory object stream by send_nowait, so that no hand-over
ever blocks or is cancelled halfway; what bounds it is a window, the count of prompts pulled and not
handed over. The reader (_stream.py) takes outcomes only by receive_nowait and awaits nothing after
it, which is why a cancelled read loses nothing. Whoever has to wait, a reader for an outcome or a
worker for room in the window, parks in a parking lot (_waiting.py). An outcome wakes one reader,
and that wakes the next if there is more to read.

Two task groups are nested. The outer one holds the reader's block and one task, which hosts the
inner one with the workers. So the workers can be cancelled, by a failure or by leaving, without
cancelling the block; and the host waits in the body of its group, where a cancellation arrives at
once, and not in the group's exit, which learns of it only when shielded calls have ended.

A call may wait for its turn, as for a rate limit to pass (_waiting.py). It is not in flight then,
and is dropped where the batch drains.
"""

from ._calls import without_cancellation
from ._outcome import Failure, GenbatchError, Outcome, P, Progress, Stopped, Success, T
from ._source import Numbered, iterable_of
from ._stream import OutcomeStream, collect, open_stream, stream
from ._waiting import LoopGuard, ParkingLot, Turn, Waits, current_loop, current_turn, waiting
from ._workers import Workers

__all__ = [
    "Failure",
    "GenbatchError",
    "LoopGuard",
    "Numbered",
    "Outcome",
    "OutcomeStream",
    "P",
    "ParkingLot",
    "Progress",
    "Stopped",
    "Success",
    "T",
    "Turn",
    "Waits",
    "Workers",
    "collect",
    "current_loop",
    "current_turn",
    "iterable_of",
    "open_stream",
    "stream",
    "waiting",
    "without_cancellation",
]
