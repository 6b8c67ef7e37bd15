"""ObjectBatch: one input of a bucket, of which each process takes the blocks that no other has.

Processes with equal inputs cut them into equal blocks, and claim one before they pull the next. A
block that another has is set aside, and comes at the end, when its images are there; or earlier,
where too many are aside. An input that is handed over in order is not divided: then each prompt
that another process makes is waited for.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sized
from contextlib import suppress
from typing import Any

from anyio import sleep

from genbatch._core import Numbered
from genbatch._store import BatchInput, Plan, both_digests, key_of, request_to_json
from genbatch._values import ImageRequest

from ._store import ObjectStore

_BLOCK = 16  # prompts
_MOST_ASIDE = 1000  # blocks
_POLL = 1.0  # seconds between looks at blocks that others have
_FEW = 1000  # prompts that do not need an index of any size
_PER_PROMPT = 2000  # bytes of an index to read rather than look a prompt up


class ObjectBatch:
    """One input of an ObjectStore.

    Args:
        place: Open when the first prompt is planned.
        namespace: Its prompts share no image with those of another.
        asked: What is known of the input.
        request_of: Returns the request of a prompt or row; may raise, then its call does too.
        is_fake: Whether a fake service makes the images of a request, which are kept apart.
    """

    def __init__(
        self,
        place: ObjectStore,
        namespace: str,
        asked: BatchInput,
        request_of: Callable[[Any], ImageRequest],
        is_fake: Callable[[ImageRequest], bool],
    ) -> None:
        self._place = place
        self._namespace = namespace
        self._asked = asked
        self._request_of = request_of
        self._keys = BucketKeys(namespace, asked.canonical, is_fake)
        self._known: dict[str, dict[str, Any]] | None = None  # rows by key
        self._plans: dict[int, Plan] = {}  # of prompts pulled and not asked for yet
        self._held: dict[str, list[tuple[int, str]]] = {}  # index and key of what a block makes

    def recall(self, digest: str, index: int) -> Plan | None:
        """Return None: what is known is planned with its block."""
        return None

    async def plan(self, index: int, request: ImageRequest) -> Plan:
        """Return what is known of the request at an index."""
        if (plan := self._plans.pop(index, None)) is not None:
            return plan
        await self._read_index()
        return await self._place.run_in_thread(self._plan, index, request)

    async def end(self, *, whole: bool) -> None:
        """Let others have the blocks that are left."""
        for name in list(self._held):
            await self._release(name)

    async def divided(self, prompts: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Numbered]:
        """Yield the prompts of the blocks that this process claims, then those of the others."""
        await self._read_index()
        aside: deque[tuple[str, list[Numbered]]] = deque()
        async for block in _blocks(prompts):
            name = await self._place.run_in_thread(self._plan_block, block)
            if not name or await self._place.run_in_thread(self._place.claims.take, name):
                for each in block:
                    yield each
                await self._release_made()
            else:
                aside.append((name, block))
            while len(aside) > _MOST_ASIDE:
                for each in await self._next_of(aside):
                    yield each
        while aside:
            for each in await self._next_of(aside):
                yield each

    async def _next_of(self, aside: deque[tuple[str, list[Numbered]]]) -> list[Numbered]:
        """Wait for a block that was set aside, and take it away."""
        while True:
            for _ in range(len(aside)):
                name, block = aside.popleft()
                if await self._place.run_in_thread(self._place.claims.take, name):
                    return block
                aside.append((name, block))
            await self._release_made()
            await sleep(_POLL)

    async def _release_made(self) -> None:
        """Let others have the blocks whose images are made, or have failed."""
        for name, made in list(self._held.items()):
            if not any(index in self._plans or self._place.is_made(key) for index, key in made):
                await self._release(name)

    async def _release(self, name: str) -> None:
        self._held.pop(name, None)
        await self._place.run_in_thread(self._place.claims.release, name)

    async def _read_index(self) -> None:
        if self._known is None:
            size = self._asked.size
            most = float("inf") if size is None or size > _FEW else max(2e6, size * _PER_PROMPT)
            self._known = {}
            self._known = await self._place.run_in_thread(self._indexed, most)
            self._place.claims.size = size

    def _indexed(self, most: float) -> dict[str, dict[str, Any]]:
        return {row["key"]: row for row in self._place.objects.indexed(most)}

    def _plan_block(self, block: list[Numbered]) -> str:
        """Plan the prompts of a block; return the name to claim, empty if nothing is to be made."""
        made: list[tuple[int, str]] = []
        for index, prompt in block:
            with suppress(Exception):  # the call of the prompt meets it again
                plan = self._plans[index] = self._plan(index, self._request_of(prompt))
                if plan.saved is None:
                    made.append((index, plan.key))
        if not made:
            return ""
        # By all of its prompts: another process may know more of them to be done.
        texts = "".join(str(prompt) for _, prompt in block)
        digest = hashlib.sha256(f"{block[0].number} {texts}".encode("utf-8", "surrogatepass"))
        name = f"blocks/{digest.hexdigest()}.json"
        self._held[name] = made
        return name

    def _plan(self, index: int, request: ImageRequest) -> Plan:
        key, digest, fake = self._keys.next_of(request)
        row = (self._known or {}).get(key)
        saved = None if row is None else self._place.image_of(row)
        kept = {"namespace": self._namespace, "digest": digest, "fake": fake}
        return Plan(key, key, saved, asked=_kept(index, request, kept))


class BucketKeys:
    """The keys that the requests of an input have in a bucket, where fake images are kept apart.

    Args:
        namespace: Of the input.
        canonical: As for both_digests.
        is_fake: Whether a fake service makes the images of a request.
    """

    def __init__(
        self,
        namespace: str,
        canonical: Callable[[ImageRequest], ImageRequest],
        is_fake: Callable[[ImageRequest], bool],
    ) -> None:
        self._namespace = namespace
        self._canonical = canonical
        self._is_fake = is_fake
        self._fakes: dict[str, bool] = {}  # by model
        self._seen: Counter[str] = Counter()  # how often each digest has come

    def next_of(self, request: ImageRequest) -> tuple[str, str, bool]:
        """Return the key of the next request, its digest, and whether its image is a fake's."""
        if request.model not in self._fakes:
            self._fakes[request.model] = self._is_fake(request)
        fake = self._fakes[request.model]
        space = f"fake {self._namespace}".rstrip() if fake else self._namespace
        digest, _ = both_digests(space, request, self._canonical)
        key = key_of(digest, self._seen[digest])
        self._seen[digest] += 1
        return key, digest, fake


async def _blocks(prompts: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[list[Numbered]]:
    block: list[Numbered] = []
    count = 0
    async for prompt in _each(prompts):
        block.append(Numbered(count, prompt))
        count += 1
        if len(block) == _BLOCK:
            yield block
            block = []
    if block:
        yield block


async def _each(prompts: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(prompts, AsyncIterable):
        async for prompt in prompts:
            yield prompt
        return
    for prompt in prompts:
        yield prompt


class Divided:
    """The prompts of a batch, in the order in which this process takes them."""

    def __init__(self, batch: ObjectBatch, prompts: Iterable[Any] | AsyncIterable[Any]) -> None:
        self._batch = batch
        self._prompts = prompts

    def __len__(self) -> int:
        if isinstance(self._prompts, Sized):
            return len(self._prompts)
        raise TypeError("an input without a length")

    def __aiter__(self) -> AsyncIterator[Numbered]:
        return self._batch.divided(self._prompts)


def _kept(index: int, request: ImageRequest, known: dict[str, Any]) -> str:
    """Return what is kept beside an image of what was asked for, as JSON."""
    images = [None if isinstance(each, bytes) else str(each) for each in request.images]
    settings = {
        "aspect_ratio": request.aspect_ratio,
        "image_size": request.image_size,
        "seed": request.seed,
        "images": images,
        "settings": request.options,
    }
    kept = {
        "index": index,
        "id": request.id,
        "prompt": request.text,
        "asked": {name: value for name, value in settings.items() if value},
        "metadata": dict(request.metadata),
        "request": request_to_json(request),
        **known,
    }
    return json.dumps(kept, default=str)
