"""What a cluster must have for a run, what it tells of one, and the words of errors."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from genbatch import GenbatchError, Unauthorized
from genbatch.ray._cluster import cpus_of_workers, told_plainly
from genbatch.ray._coordinator import Coordinator
from genbatch.ray._worker import Work, Worker
from genbatch.testing import FakeGemini, blocked
from support.fleets import Local, bounds, fleet, item

ONE_EACH = [1.0, 1.0]


@pytest.mark.parametrize(
    ("workers", "num_cpus", "nodes", "reserved"),
    [
        (4, None, [4.0], 0.25),
        (12, None, [4.0], 0.25),
        (13, None, [4.0], 0.0),  # they could leave less than a whole CPU
        (1, None, ONE_EACH, 0.25),
        (2, None, ONE_EACH, 0.0),
        (100, None, [1.0], 0.0),
        (1000, 0, ONE_EACH, 0.0),
        (3, 1, [0.0, 4.0], 1.0),
        (7, 1, [4.0, 4.0], 1.0),
        (6, 0.5, [0.5, 4.0], 0.5),
    ],
)
def test_workers_reserve_what_leaves_ray_data_a_cpu(
    workers: int, num_cpus: float | None, nodes: list[float], reserved: float
) -> None:
    assert cpus_of_workers(workers, num_cpus, nodes) == reserved


@pytest.mark.parametrize(
    ("workers", "num_cpus", "nodes", "message"),
    [
        (4, 0.25, ONE_EACH, r"4 workers with num_cpus=0\.25 each, .* \(1, 1\): give num_cpus=0"),
        (8, 1, [4.0, 4.0], "8 workers with num_cpus=1 each"),
        (1, 2, [1.0], "give num_cpus=0"),
        (2, None, [0.5, 0.0], r"\(0\.5, 0\): add a node with at least one CPU"),
        (2, 0, [], r"\(none\): add a node"),
        (2, -1, [4.0], "num_cpus must be >= 0, got -1"),
    ],
)
def test_what_would_wait_for_ever_is_refused(
    workers: int, num_cpus: float | None, nodes: list[float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        cpus_of_workers(workers, num_cpus, nodes)


def test_an_autoscaler_is_asked_for_what_is_wanted() -> None:
    assert cpus_of_workers(50, None, [1.0], can_grow=True) == 0.25
    assert cpus_of_workers(50, 2, [], can_grow=True) == 2


def test_an_error_keeps_its_own_words_whatever_ray_makes_of_it() -> None:
    plain = told_plainly(Unauthorized("the key was refused", status=403))
    plain.args = ("the key was refused\nTo change retry attempts, configure something",)

    class RayTaskError(type(plain)):  # type: ignore[misc]
        def __str__(self) -> str:
            return "ray::MapWorker() in frame 1, in frame 2"

    derived = RayTaskError("all frames")
    for error in (plain, derived):
        assert isinstance(error, Unauthorized)
        assert str(error) == "the key was refused"
    assert plain.status == 403


@pytest.mark.anyio
async def test_progress_counts_rows_and_tells_why_a_run_stops(tmp_path: Path) -> None:
    async with (
        FakeGemini(faults=[blocked()]) as server,
        fleet(tmp_path, server.url, rows=7, resumed=2, max_images=2) as (coordinator, [worker]),
    ):
        await worker.make([item(0), item(1)])
        state = await coordinator.state()
        assert (state.rows, state.done, state.failed, state.blocks) == (7, 3, 1, 0)
        assert state.stopped == ""
        cost = f"${state.spent + state.maybe_spent:,.2f}"
        assert str(state) == (
            f"3 of 7 done, 1 failed, 0 in flight, 0 waiting, 0 blocks at workers, {cost}"
        )
        with pytest.raises(GenbatchError, match="max_images"):
            await worker.make([item(2), item(3)])
        assert "stopping: max_images of 2 is reached" in str(await coordinator.state())


@pytest.mark.anyio
async def test_a_machine_without_a_key_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genbatch.ray._worker.gethostname", lambda: "node-7")
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    async with anyio.create_task_group() as tasks:
        link = Local(Coordinator(bounds(tmp_path)), tasks)
        with pytest.raises(Unauthorized, match="no API key on the machine node-7: set GEMINI"):
            await Worker(Work(str(tmp_path), 1), link).make([item(0)])
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_coordinator_that_was_never_asked_knows_nothing(tmp_path: Path) -> None:
    state = await Coordinator(bounds(tmp_path)).state()
    assert (state.store, state.done, state.spent) == (str(tmp_path), 0, 0.0)
