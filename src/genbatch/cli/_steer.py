"""Steering: a run that goes on is told to pause, to drain, or of other limits."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import anyio
import typer

from genbatch import Stopped, Store, StoreError
from genbatch._store import Tuning, note_steered, steered, tell_run, tunings
from genbatch._throttle import parse_interval

from ._console import QuietConsole, count, plain
from ._options import OUT, Options, OutputFolder, command, option, refuse_bucket
from ._words import as_typed

if TYPE_CHECKING:
    from ._run import Images, ShownBatch

_POLL = 0.2  # seconds between two looks for what the run is told
_PATIENCE = 5.0  # seconds until a run that does not answer is given up
_ANSWER = 0.05  # seconds between two looks for its answer

MaxConcurrent = Annotated[
    int | None,
    option(None, "At most N calls in flight.", "N", "--max-concurrent", "-k", min=1),
]
NewPace = Annotated[
    str | None, option(None, "Maximum rate of starting calls, such as 5/min.", "N/min", "--pace")
]
NewBudget = Annotated[
    float | None, option(None, "Spending limit in US dollars.", "USD", "--budget", min=0.0)
]
Pause = Annotated[bool, option(None, "Start no further call until --resume.", "", "--pause")]
Resume = Annotated[bool, option(None, "Start calls again.", "", "--resume")]
Drain = Annotated[bool, option(None, "Finish the calls in flight, and end.", "", "--drain")]


@command()
def tune_command(
    folder: OutputFolder = OUT,
    max_concurrent: MaxConcurrent = None,
    pace: NewPace = None,
    budget: NewBudget = None,
    pause: Pause = False,
    resume: Resume = False,
    drain: Drain = False,
) -> int:
    """Change the limits of a run that is in progress, pause it, or end it early.

    Without options, print what holds in the run now.

    Examples:

    - `genbatch tune out --pause`
    - `genbatch tune out --resume --max-concurrent 50 --pace 10/min`
    - `genbatch tune out --budget 20`
    """
    refuse_bucket(folder, "tune")
    commands = {"pause": pause, "resume": resume, "drain": drain}
    given = [name for name, is_given in commands.items() if is_given]
    if len(given) > 1:
        raise typer.BadParameter(f"--{given[0]} and --{given[1]} exclude each other: give one")
    if pace is not None:
        parse_interval(pace)
    tuning = Tuning(given[0] if given else None, max_concurrent, pace, budget)
    state = _answer(folder, tell_run(folder, tuning))
    out = QuietConsole()
    for problem in state["problems"]:
        out.say(plain(problem, 1000))
    out.say(", ".join(_words_of(state)))
    return 2 if state["problems"] else 0


def _words_of(state: dict[str, Any]) -> list[str]:
    budget = state["budget"]
    words = [state["is"], f"at most {count(state['max_concurrent'], 'call')} at once"]
    words += [f"pace {state['pace']}"] if state["pace"] else []
    return words + ([] if budget is None else [f"budget ${budget:.2f}"])


def _answer(folder: Path, number: int) -> dict[str, Any]:
    """Wait until the run in a folder has read a message, and return what holds then."""
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        found = steered(folder)
        if found is not None and found[0] >= number:
            return found[1]
        time.sleep(_ANSWER)
    raise StoreError(
        f"the run in {folder} has not answered within {_PATIENCE:g} s: only genbatch run and "
        "genbatch redo can be told something while they run"
    )


def what_is_left(options: Options) -> str:
    """Return what a run that ends early still waits for."""
    jobs = "" if options.via == "live" else "leaving the jobs at the service, "
    return f"{jobs}waiting for the calls in flight"


@dataclass(slots=True)
class Steering:
    """Does what a run is told, as long as it goes on.

    Args:
        outcomes: Of the run.
        batch: The run.
    """

    outcomes: Images
    batch: ShownBatch
    pace: str | None = None
    is_paused: bool = False
    is_drained: bool = False
    control: int = 0
    most: float | None = None  # tokens of the limiter that are still to be set

    async def follow(self) -> None:
        """Read what the run is told, and do it."""
        store = self.batch.store
        if store is None:
            return
        # Here and below: a disk that is full or slow is reported by what saves images.
        with suppress(StoreError):
            await self._note(store, [])
        while True:
            with suppress(StoreError):
                for number, tuning in await store.run_in_thread(
                    tunings, store.directory, self.control
                ):
                    problems = self._apply(tuning)
                    self.control = number
                    await self._note(store, problems)
            self._hold()
            await anyio.sleep(_POLL)

    async def _note(self, store: Store, problems: list[str]) -> None:
        """Note what holds now."""
        state = self._state() | {"problems": problems}
        await store.run_in_thread(note_steered, store.archive.journal, self.control, state)

    def _apply(self, tuning: Tuning) -> list[str]:
        """Do what a message says, and return why parts of it cannot be done.

        It may say anything: the calls in flight are paid for, and no message ends them.
        """
        display, options, problems = self.batch.display, self.batch.options, []
        if tuning.command is not None:
            self.is_paused = tuning.command == "pause"
        if tuning.max_concurrent is not None:
            problems += self._limit(tuning.max_concurrent)
        try:
            if tuning.pace is not None:
                parse_interval(tuning.pace)
                self.pace = tuning.pace
            if tuning.budget is not None and options.budget is None:
                # Nothing says what each of its calls may cost, and earlier runs were not counted.
                problems.append("--budget: the run was started without one, so none can be set now")
            elif tuning.budget is not None:
                self.batch.result.budget.usd = tuning.budget
        except ValueError as error:
            problems.append(as_typed(str(error)))
        if tuning.command == "drain" and not self.batch.result.is_ending:
            self.is_drained = True
            self.batch.result.stopped = Stopped("the run was told to drain")
            display.note(f"Told to drain: {what_is_left(options)}.")
            self.outcomes.drain()
        display.is_paused = self.is_paused
        self._hold()
        return problems

    def _limit(self, max_concurrent: int) -> list[str]:
        """Bound the calls at once, or return why that cannot be done."""
        if self.batch.options.via != "live":  # where the limiter bounds what jobs are filled with
            return ["--max-concurrent: only a run of live calls has calls at once"]
        self.most = max(1, int(min(max_concurrent, self.batch.client.max_connections)))
        self.batch.display.most = int(self.most)
        if self.is_paused:
            self.outcomes.limiter.total_tokens = 0
        return []

    def _hold(self) -> None:
        """Let all limits hold, also those of models that were not called before."""
        limiter = self.outcomes.limiter
        if self.is_paused and limiter.total_tokens:
            self.most, limiter.total_tokens = limiter.total_tokens, 0
        elif not self.is_paused and self.most is not None:
            limiter.total_tokens, self.most = self.most, None
        for throttle in self.batch.client.throttles.values():
            if throttle.is_paused != self.is_paused:
                throttle.is_paused = self.is_paused
            if self.pace is not None and throttle.pace != self.pace:
                throttle.pace = self.pace

    def _state(self) -> dict[str, Any]:
        return {
            "is": "draining" if self.is_drained else "paused" if self.is_paused else "running",
            "via": self.batch.options.via,
            "max_concurrent": self.batch.display.most,
            "pace": self.pace or self.batch.options.pace,
            "budget": self.batch.result.budget.usd,
        }
