"""Ten thousand HTTP checks, twenty at once: a batch needs neither images nor Gemini.

Shows any ``async def`` as the call of a batch, and a generator as its prompts: they are pulled as
they are needed, so memory stays flat. An error of one is an outcome, and stops nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial

import anyio
import httpx

from genbatch import Failure, Success, stream
from genbatch.testing import FakeGemini

MOST_AT_ONCE = 20
TIMEOUT = 10.0  # seconds for all of one check


async def check(client: httpx.AsyncClient, url: str) -> int:
    """Return how many bytes are at a URL.

    Raises:
        ValueError: If the server answers anything but a success.
        httpx.HTTPError: If it does not answer.
        TimeoutError: If that takes too long.
    """
    with anyio.fail_after(TIMEOUT):
        response = await client.get(url)
    if not response.is_success:
        raise ValueError(f"answered {response.status_code}")
    return len(response.content)


async def check_all(urls: Iterable[str]) -> Counter[str]:
    """Check URLs, show those that fail, and return how many came to what."""
    results: Counter[str] = Counter()
    async with (
        httpx.AsyncClient() as client,
        stream(partial(check, client), urls, max_concurrent=MOST_AT_ONCE) as outcomes,
    ):
        async for outcome in outcomes:
            match outcome:
                case Success():
                    results["fine"] += 1
                case Failure(_, url, error):
                    results[str(error)] += 1
                    print(f"{url}: {error}")
            if outcomes.progress.done % 1000 == 0:
                print(outcomes.progress)
    return results


def addresses(site: str, count: int) -> Iterator[str]:
    """Yield addresses on a site; one in two thousand leads nowhere."""
    for number in range(1, count + 1):
        yield f"{site}/nowhere/{number}" if number % 2000 == 0 else f"{site}/stats"


async def main(count: int = 10_000) -> None:
    """Check a server on this machine."""
    async with FakeGemini() as server:  # any HTTP server will do
        results = await check_all(addresses(server.url, count))
    print(", ".join(f"{result}: {number:,}" for result, number in results.most_common()))


if __name__ == "__main__":
    anyio.run(main)
