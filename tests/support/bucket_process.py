"""One of several processes that fill a bucket: ``URL PROMPTS DOLLARS CALLS LEASE``.

The file CALLS gets a line for each call, before its image is there. Images cost 4 cents.
"""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

from genbatch import Budget, Image, ObjectStore, generate_images
from genbatch.testing._pictures import draw

PRICE = 0.04


async def fill(url: str, prompts: int, dollars: float, calls: Path, lease: float) -> None:
    """Fill the bucket as far as the budget of all processes goes."""

    async def generate(prompt: str) -> Image:
        with calls.open("a") as file:
            file.write(f"{prompt}\n")
        await anyio.sleep(0.05)  # long enough for another process to want the same money
        return Image(draw(prompt, width=8, height=8), "image/png", cost=PRICE)

    async with generate_images(
        generate,
        [f"fox {number}" for number in range(prompts)],
        store=ObjectStore(url, lease=lease),
        budget=Budget(dollars),
        price=PRICE,
        max_concurrent=4,
    ) as outcomes:
        async for _ in outcomes:
            pass


if __name__ == "__main__":
    url, prompts, dollars, calls, lease = sys.argv[1:]
    anyio.run(fill, url, int(prompts), float(dollars), Path(calls), float(lease))
