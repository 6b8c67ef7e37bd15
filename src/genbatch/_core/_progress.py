"""Progress: how far a batch has come, as a frozen snapshot."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a batch has come; ``str()`` of it reads ``3/5 done, 1 failed, 60 %, 4 s left``.

    Attributes:
        total: Prompts in the batch, None while unknown.
        started: Calls started so far.
        in_flight: Calls running now, those not counted that only wait for their turn.
        succeeded: Calls that returned a value.
        failed: Calls that raised.
        done: Outcomes handed over to a reader.
        elapsed: Seconds since the batch began, until its last call ended.
        waiting: Calls that wait for their turn, as for a rate limit to pass.
    """

    total: int | None
    started: int
    in_flight: int
    succeeded: int
    failed: int
    done: int
    elapsed: float
    waiting: int = 0

    @property
    def finished(self) -> int:
        """Calls that have ended, handed over or not."""
        return self.succeeded + self.failed

    @property
    def rate(self) -> float:
        """Calls ended per second, 0.0 before any."""
        return self.finished / self.elapsed if self.elapsed > 0 else 0.0

    @property
    def eta(self) -> float | None:
        """Seconds left at this rate, None while unknown."""
        if self.total is None or not self.finished:
            return None
        return (self.total - self.finished) * self.elapsed / self.finished

    @property
    def percent(self) -> float | None:
        """Share handed over, 0 to 100, None while the total is unknown."""
        if self.total is None:
            return None
        return 100 * self.done / self.total if self.total else 100.0

    def __str__(self) -> str:
        of_total = "" if self.total is None else f"/{self.total}"
        parts = [f"{self.done}{of_total} done"]
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.waiting:
            parts.append(f"{self.waiting} waiting")
        if self.percent is not None:
            parts.append(f"{self.percent:.0f} %")
        if self.eta:
            parts.append(f"{_duration(self.eta)} left")
        return ", ".join(parts)

    def _repr_html_(self) -> str:
        """Show a bar and the same words in a notebook."""
        if self.percent is None:
            return str(self)
        # Numbers and words of ours: there is nothing to escape.
        return f'<progress max="100" value="{self.percent:.1f}"></progress> {self}'


def _duration(seconds: float) -> str:
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    if whole < 60:
        return f"{whole} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
