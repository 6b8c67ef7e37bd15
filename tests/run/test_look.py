"""FirstLook: in which order the first calls of a run are made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from anyio import Event, create_task_group
from anyio.lowlevel import checkpoint
from anyio.testing import wait_all_tasks_blocked

from genbatch import (
    Blocked,
    Failure,
    Image,
    ImageRequest,
    Rejected,
    Stopped,
    Unauthorized,
    Unavailable,
    generate_images,
)
from genbatch._run import FirstLook, Looked
from genbatch.testing._pictures import draw

pytestmark = pytest.mark.anyio


class Service:
    """A service of one's own that tells runs how to begin."""

    service = "mine"

    def __init__(self, look: FirstLook, answer: Callable[[int], Exception | None]) -> None:
        self.look = look
        self.answer = answer
        self.calls = self.most = self.running = 0
        self.asked: list[str] = []
        self.go = Event()

    async def generate_image(self, request: ImageRequest, /) -> Image:
        self.asked.append(request.text)
        self.running += 1
        self.most = max(self.most, self.running)
        number = len(self.asked)
        if number == 1:
            await self.go.wait()
        await checkpoint()
        self.running -= 1
        if (error := self.answer(number)) is not None:
            raise error
        return Image(draw(request.text, model="mine", seed=number, width=8, height=8), "image/png")


async def run(service: Service, tmp_path: Path, prompts: int = 8) -> list[object]:
    texts = [f"a mug, {number}" for number in range(prompts)]
    found: list[object] = []
    async with (
        generate_images(service, texts, save_dir=tmp_path, max_concurrent=8) as outcomes,
        create_task_group() as tasks,
    ):

        async def release() -> None:
            while not service.asked:
                await checkpoint()
            await wait_all_tasks_blocked()
            found.append(len(service.asked))
            service.go.set()

        tasks.start_soon(release)
        async for outcome in outcomes:
            found.append(outcome.error if isinstance(outcome, Failure) else outcome.value)
    return found


@pytest.mark.parametrize("first", [None, Blocked("no"), Unavailable("busy"), OSError("odd")])
async def test_the_others_wait_for_the_first_and_go(
    first: Exception | None, tmp_path: Path
) -> None:
    service = Service(FirstLook(), lambda number: first if number == 1 else None)
    before, *outcomes = await run(service, tmp_path)
    assert before == 1
    assert service.asked[0] == "a mug, 0"
    assert len(service.asked) == len(outcomes) == 8
    assert service.most > 1 or isinstance(first, OSError)


@pytest.mark.parametrize("first", [Rejected("no such setting"), Unauthorized("no such key")])
async def test_what_no_call_survives_is_the_only_call(first: Exception, tmp_path: Path) -> None:
    service = Service(FirstLook(), lambda number: first)
    _, *outcomes = await run(service, tmp_path)
    assert len(service.asked) == 1
    kinds = {Stopped} if isinstance(first, Rejected) else {Unauthorized}
    assert {type(each) for each in outcomes} == kinds
    assert all(str(first) in str(each) for each in outcomes)


async def test_a_proven_model_is_not_waited_for(tmp_path: Path) -> None:
    service = Service(FirstLook(lambda model: True), lambda number: None)
    before, *_ = await run(service, tmp_path)
    assert isinstance(before, int)
    assert before > 1


async def test_what_is_not_looked_at_is_dropped_when_the_others_have_ended(tmp_path: Path) -> None:
    service = Service(FirstLook(most=3), lambda number: None)
    _, *outcomes = await run(service, tmp_path)
    assert len(service.asked) == 3
    assert [isinstance(each, Looked) for each in outcomes] == [False] * 3 + [True] * 5


async def test_nothing_waits_without_a_look(tmp_path: Path) -> None:
    service = Service(FirstLook(), lambda number: None)
    del service.look
    before, *outcomes = await run(service, tmp_path)
    assert isinstance(before, int)
    assert before > 1
    assert len(outcomes) == 8
