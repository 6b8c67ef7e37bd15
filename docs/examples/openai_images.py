"""Images of another provider: an OpenAI-compatible endpoint, called by functions of your own.

Shows a ``generate`` with its own timeout and retries. Its rate limits are left to a Throttle, which
waits for all calls at once. The endpoint is OPENAI_BASE_URL, or else a fake on this machine.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Awaitable, Callable
from functools import partial

import anyio
import httpx

from fake_openai import serving
from genbatch import Failure, RateLimited, Success, Throttle, Unavailable, stream, throttled

PROMPTS = [f"{what} {where}" for what in ("a fox", "an owl") for where in ("at sea", "asleep")]
MODEL = "gpt-image-1"
PAUSES = (1.0, 2.0, 4.0)  # seconds before each further attempt
TIMEOUT = 120.0  # seconds of one attempt


async def ask(client: httpx.AsyncClient, prompt: str) -> bytes:
    """Make one attempt, and raise what the throttle and draw understand."""
    with anyio.fail_after(TIMEOUT):
        answer = await client.post("images/generations", json={"model": MODEL, "prompt": prompt})
    if answer.status_code == 429:
        told = answer.headers.get("retry-after", "")
        raise RateLimited("answered 429", retry_after=float(told) if told.isdigit() else None)
    if answer.status_code >= 500:
        raise Unavailable(f"answered {answer.status_code}")
    answer.raise_for_status()
    return base64.b64decode(answer.json()["data"][0]["b64_json"])


async def draw(ask: Callable[[str], Awaitable[bytes]], prompt: str) -> bytes:
    """Return an image; what may pass by itself is tried again."""
    for pause in PAUSES:
        try:
            return await ask(prompt)
        except (Unavailable, TimeoutError, httpx.TransportError):
            await anyio.sleep(pause)
    return await ask(prompt)


async def main(url: str) -> None:
    """Draw the prompts, two at once, and save what comes."""
    key = {"authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', 'any-key')}"}
    async with httpx.AsyncClient(base_url=url, headers=key, timeout=TIMEOUT) as client:
        generate = partial(draw, throttled(partial(ask, client), Throttle()))
        async with stream(generate, PROMPTS, max_concurrent=2) as outcomes:
            async for outcome in outcomes:
                match outcome:
                    case Success(index, prompt, image):
                        await anyio.Path(f"openai-{index}.png").write_bytes(image)
                        print(f"openai-{index}.png: {prompt}")
                    case Failure(_, prompt, error):
                        print(f"{prompt}: {error}")


if __name__ == "__main__":
    with serving() as fake:
        anyio.run(main, os.environ.get("OPENAI_BASE_URL", fake))
