"""Images of another provider: an OpenAI-compatible endpoint, called by functions of your own.

Shows a ``generate`` with its own timeout and retries; rate limits are left to a Throttle, which
waits for all calls at once. The endpoint is OPENAI_BASE_URL, or else a fake on this machine.
"""

import base64
import os
from contextlib import suppress
from functools import partial

import anyio
import httpx

from fake_openai import serving
from genbatch import Failure, RateLimited, Success, Throttle, Unavailable, stream

PROMPTS = [f"{what} {where}" for what in ("a fox", "an owl") for where in ("at sea", "asleep")]
PAUSES, TIMEOUT = (1.0, 2.0, 4.0), 120.0  # seconds between attempts, and for each


async def ask(client: httpx.AsyncClient, prompt: str) -> bytes:
    """Make one attempt, and raise what Throttle and draw understand."""
    with anyio.fail_after(TIMEOUT):
        answer = await client.post("generations", json={"model": "gpt-image-1", "prompt": prompt})
    if answer.status_code == 429:
        raise RateLimited("answered 429", retry_after=float(answer.headers.get("retry-after", 1)))
    if answer.status_code >= 500:
        raise Unavailable(f"answered {answer.status_code}")
    return base64.b64decode(answer.raise_for_status().json()["data"][0]["b64_json"])


async def draw(client: httpx.AsyncClient, throttle: Throttle, prompt: str) -> bytes:
    """Return an image; rate limits are waited out, and what may pass is tried again."""
    for pause in PAUSES:
        with suppress(Unavailable, TimeoutError, httpx.TransportError):
            return await throttle.run(partial(ask, client, prompt))
        await anyio.sleep(pause)
    return await throttle.run(partial(ask, client, prompt))


async def main(url: str) -> None:
    """Draw the prompts, two at once, and save what comes."""
    key = {"authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', 'any-key')}"}
    async with httpx.AsyncClient(base_url=f"{url}/images", headers=key, timeout=TIMEOUT) as client:
        generate = partial(draw, client, Throttle())
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
