"""FirstLook: in which order the first calls of a run are made."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from anyio import Event
from anyio.lowlevel import checkpoint

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
from genbatch._money import Account
from genbatch._run import FirstLook, Looked
from genbatch.testing._pictures import draw

pytestmark = pytest.mark.anyio


class Service:
    """A service of one's own that tells runs how to begin.

    Attributes:
        early: Calls that began before the first had ended.
        waits: Whether the first one waits for another.
    """

    service = "mine"

    def __init__(
        self,
        look: FirstLook | None,
        answer: Callable[[int], Exception | None] = lambda number: None,
        *,
        waits: bool = False,
    ) -> None:
        self.look = look
        self.answer = answer
        self.waits = waits
        self.asked: list[str] = []
        self.early = 0
        self.another = Event()
        self.has_ended = False

    async def generate_image(self, request: ImageRequest, /) -> Image:
        self.asked.append(request.text)
        number = len(self.asked)
        if number > 1:
            self.early += not self.has_ended
            self.another.set()
        elif self.waits:
            await self.another.wait()
        await checkpoint()
        self.has_ended = True
        if (error := self.answer(number)) is not None:
            raise error
        return Image(draw(request.text, seed=number, width=8, height=8), "image/png")


async def run(service: Service, tmp_path: Path) -> list[object]:
    texts = [f"a mug, {number}" for number in range(8)]
    async with generate_images(service, texts, save_dir=tmp_path, max_concurrent=8) as outcomes:
        return [each.error if isinstance(each, Failure) else each.value async for each in outcomes]


@pytest.mark.parametrize("first", [None, Blocked("no"), Unavailable("busy"), OSError("odd")])
async def test_the_others_wait_for_the_first_and_go(
    first: Exception | None, tmp_path: Path
) -> None:
    service = Service(FirstLook(), lambda number: first if number == 1 else None)
    outcomes = await run(service, tmp_path)
    assert (service.asked[0], service.early) == ("a mug, 0", 0)
    assert len(service.asked) == len(outcomes) == 8


@pytest.mark.parametrize("first", [Rejected("no such setting"), Unauthorized("no such key")])
async def test_what_no_call_survives_is_the_only_call(first: Exception, tmp_path: Path) -> None:
    service = Service(FirstLook(), lambda number: first)
    outcomes = await run(service, tmp_path)
    assert len(service.asked) == 1
    kinds = {Stopped} if isinstance(first, Rejected) else {Unauthorized}
    assert {type(each) for each in outcomes} == kinds
    assert all(str(first) in str(each) for each in outcomes)


@pytest.mark.parametrize("look", [FirstLook(lambda model: True), None])
async def test_a_proven_model_and_a_run_without_a_look_begin_at_once(
    look: FirstLook | None, tmp_path: Path
) -> None:
    service = Service(look, waits=True)  # for ever, if the others waited
    assert len(await run(service, tmp_path)) == 8
    assert service.early > 0


async def test_a_service_that_fails_at_first_is_not_waited_for(tmp_path: Path) -> None:
    look = FirstLook()

    class Retried(Service):
        async def generate_image(
            self, request: ImageRequest, /, *, budget: Account, price: float | None = None
        ) -> Image:
            if not self.asked:
                with suppress(Unavailable):
                    async with budget.attempt(0.0, request.model):
                        raise Unavailable("busy")
            return await super().generate_image(request)

    service = Retried(look, waits=True)
    assert len(await run(service, tmp_path)) == 8


async def test_what_is_not_looked_at_is_dropped_when_the_others_have_ended(tmp_path: Path) -> None:
    service = Service(FirstLook(most=3))
    outcomes = await run(service, tmp_path)
    assert len(service.asked) == 3
    assert [isinstance(each, Looked) for each in outcomes] == [False] * 3 + [True] * 5
