"""A service: every file of prompts that is moved into ``inbox`` becomes images in ``images``.

Shows batches that share one limit of calls, and a graceful shutdown: at Ctrl-C or SIGTERM, images
in flight are finished and saved. Started again it goes on there, and pays for nothing twice.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
from anyio import (
    CapacityLimiter,
    Event,
    Path,
    create_task_group,
    move_on_after,
    open_signal_receiver,
)

from genbatch import Failure, GeminiClient, OutcomeStream, Stopped, Store, generate_images
from genbatch.testing import FakeGemini

MOST_CALLS = 8  # at once, of all batches together
LOOK_EVERY = 0.5  # seconds


@dataclass(frozen=True)
class Service:
    """What all batches share."""

    client: GeminiClient
    store: Store
    limiter: CapacityLimiter
    stopping: Event

    async def watch(self, inbox: Path) -> None:
        """Begin a batch for each new file, until the service stops; then wait for them."""
        begun: set[Path] = set()
        async with create_task_group() as batches:
            while not self.stopping.is_set():
                async for path in inbox.glob("*.txt"):
                    if path not in begun:
                        begun.add(path)
                        batches.start_soon(self.make, path)
                with move_on_after(LOOK_EVERY):
                    await self.stopping.wait()

    async def make(self, path: Path) -> None:
        """Make the images of a file, and mark it as done if none is missing."""
        text = await path.read_text(encoding="utf-8-sig", errors="replace")
        prompts = [line for line in text.split("\n") if line.strip()]
        batch = generate_images(
            self.client,
            prompts,
            store=self.store,
            limiter=self.limiter,
            max_concurrent=MOST_CALLS,
            namespace=path.stem,
        )
        async with batch as outcomes, create_task_group() as tasks:
            tasks.start_soon(self.drain, outcomes)
            async for outcome in outcomes:
                if isinstance(outcome, Failure) and not isinstance(outcome.error, Stopped):
                    print(f"{path.name}: {outcome.prompt}: {outcome.error}")
            tasks.cancel_scope.cancel()
        print(f"{path.name}: {outcomes.progress.succeeded} of {len(prompts)} images", flush=True)
        if outcomes.progress.succeeded == len(prompts):
            await path.rename(path.with_suffix(".done"))

    async def drain(self, outcomes: OutcomeStream[Any, Any]) -> None:
        """End a batch when the service stops: no call begins, those in flight are waited for."""
        await self.stopping.wait()
        outcomes.drain()


async def serve(client: GeminiClient, inbox: Path, folder: Path) -> None:
    """Run the service until a signal comes and its batches have ended."""
    limiter, stopping = CapacityLimiter(MOST_CALLS), Event()
    await inbox.mkdir(exist_ok=True)
    with open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with client, Store(folder) as store, create_task_group() as tasks:
            tasks.start_soon(Service(client, store, limiter, stopping).watch, inbox)
            print(f"Move files of prompts, one a line, into {inbox}; Ctrl-C ends it.", flush=True)
            await anext(signals)
            print("Stopping: waiting for the images in flight.", flush=True)
            stopping.set()


@asynccontextmanager
async def gemini() -> AsyncIterator[GeminiClient]:
    """Yield a client of Gemini where there is a key, else of a fake on this machine."""
    if "GEMINI_API_KEY" in os.environ:
        yield GeminiClient()
    else:
        async with FakeGemini(latency=2.0) as fake:
            yield GeminiClient("any-key", base_url=fake.url)


async def main() -> None:
    """Serve the folders beside which it was started."""
    async with gemini() as client:
        await serve(client, Path("inbox"), Path("images"))


if __name__ == "__main__":
    anyio.run(main)
