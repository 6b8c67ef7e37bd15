"""Images saved a second, and the time to the first call where many are done, on a real server.

Start one and make a bucket, such as ``moto_server`` with AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and
AWS_SECRET_ACCESS_KEY set, then ``python -m benchmarks.bucket s3://bucket/figures --done 10000``.
"""

from __future__ import annotations

import argparse
import hashlib
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import anyio

from genbatch import Image, ObjectStore, generate_images
from genbatch._bucket import Objects, StoredImage
from genbatch.testing._pictures import draw

SAVERS = 16


def images(number: int) -> Iterator[tuple[str, Image]]:
    """Yield keys and images of about 50 kB."""
    for _ in range(number):
        key = secrets.token_hex(32)
        yield key, Image(draw("fox", width=8, height=8) + secrets.token_bytes(50_000), "image/png")


def saves_per_second(url: str, number: int) -> float:
    """Save images by several threads."""
    objects, made = Objects(f"{url}/saves"), list(images(number))
    began = time.perf_counter()
    with ThreadPoolExecutor(SAVERS) as threads:
        list(threads.map(lambda each: objects.save(*each), made))
    return number / (time.perf_counter() - began)


def fill_index(url: str, done: int) -> None:
    """Put rows into the index, as if as many images had been saved."""
    digest = hashlib.sha256().hexdigest()
    Objects(url).add_segments(
        StoredImage(f"{n:064x}", f"images/{digest}", digest, 1, "image/png", None, None, "")
        for n in range(done)
    )


async def first_call(url: str, prompts: int) -> float:
    """Return the seconds until the first call of a run with as many prompts."""
    began, called = time.perf_counter(), 0.0

    async def generate(prompt: str) -> Image:
        nonlocal called
        called = called or time.perf_counter() - began
        return Image(draw(prompt, width=8, height=8), "image/png", cost=0.04)

    names = [f"{secrets.token_hex(4)} {n}" for n in range(prompts)]
    async with generate_images(generate, names, store=ObjectStore(url)) as outcomes:
        async for _ in outcomes:
            break
    return called


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bucket", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("url", help="of a bucket and an empty prefix")
    parser.add_argument("--done", type=int, default=10_000, help="images that are there")
    parser.add_argument("--saves", type=int, default=400, help="images to save")
    options = parser.parse_args()
    print(f"{saves_per_second(options.url, options.saves):.0f} saves a second")
    url = f"{options.url}/{options.done}"
    fill_index(url, options.done)
    # An input of more prompts than a few has the whole index read.
    print(f"first call after {anyio.run(first_call, url, 2000):.1f} s, {options.done:,} done")


if __name__ == "__main__":
    main()
