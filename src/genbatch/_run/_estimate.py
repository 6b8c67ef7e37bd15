"""estimate: what a batch will ask for and cost, without a call."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Unpack

from genbatch._store import content_digest, made_in
from genbatch._values import ImageRequest, ImageSettings, Prompt, takes_settings
from genbatch.gemini import price as price_of
from genbatch.inputs import PromptFiles

from ._images import defaults_of, request_of


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a batch will take.

    Attributes:
        prompts: Prompts in it.
        done: Images of it that are there already.
        cost: US dollars expected for the others, None where a price is unknown.
        seconds: How long it will take at the rate given, None without one.
    """

    prompts: int
    done: int
    cost: float | None
    seconds: float | None

    @property
    def calls(self) -> int:
        """Calls to be made, retries not counted."""
        return self.prompts - self.done


@takes_settings
def estimate(
    prompts: Iterable[str | Prompt],
    *,
    save_dir: str | os.PathLike[str] | None = None,
    namespace: str = "",
    price: float | None = None,
    rate: float | None = None,
    **settings: Unpack[ImageSettings],
) -> Estimate:
    """Return how many calls a batch will make, and what they are expected to cost.

    It reads files where there is a save_dir or an input image, which blocks.

    Args:
        prompts: Finite; read once, and so are their input images.
        save_dir: Directory that images are saved in; what it has is not made again.
        namespace: As for generate_images.
        price: US dollars an image, in place of the price table's.
        rate: Calls that start in a second.
        settings: See ImageSettings; those of the batch.

    Raises:
        ValueError: If a model cannot do what is asked for, a prompt is blank, or rate is not above
            0.
        TypeError: If there is no such setting.
        OSError: If an input image cannot be read.
        StoreError: If the journal in save_dir cannot be read.
    """
    if rate is not None and not rate > 0:
        raise ValueError(f"rate must be > 0 calls a second, got {rate}")
    request_of_each = _requests(defaults_of(settings, None, price))
    made = Counter({} if save_dir is None else made_in(save_dir))
    number = done = 0
    cost: float | None = 0.0
    for each, count in _kinds(prompts, bool(made)):
        number += count
        request = request_of_each(each)
        if made and made[digest := content_digest(namespace, request)] > 0:
            made[digest] -= 1
            done += 1
            continue
        expected = price_of(request.model, request.image_size) if price is None else price
        cost = None if cost is None or expected is None else cost + count * expected
    return Estimate(number, done, cost, None if rate is None else (number - done) / rate)


def _kinds(prompts: Iterable[str | Prompt], one_by_one: bool) -> Iterator[tuple[str | Prompt, int]]:
    """Yield prompts that may differ in price, and how many there are of each."""
    if one_by_one or not isinstance(prompts, PromptFiles):
        for each in prompts:
            yield each, 1
        return
    for (model, aspect_ratio, image_size), count in prompts.asked.items():
        if count:  # none is where all are beyond a limit
            yield _like(model, aspect_ratio, image_size), count


def _like(model: str | None, aspect_ratio: str | None, image_size: str | None) -> Prompt:
    """Return a prompt that represents all with the same settings."""
    return Prompt("any", model=model, aspect_ratio=aspect_ratio, image_size=image_size)


def _requests(defaults: ImageRequest) -> Callable[[str | Prompt], ImageRequest]:
    """Return what makes requests of prompts, but for what no digest needs.

    What many of them have in common is looked at once: a run that resumes asks for a million.
    """
    request_like = cache(lambda *kind: request_of(_like(*kind), defaults))

    def request(each: str | Prompt) -> ImageRequest:
        prompt = Prompt.of(each)
        like = request_like(prompt.model, prompt.aspect_ratio, prompt.image_size)
        seed = like.seed if prompt.seed is None else prompt.seed
        return replace(like, text=prompt.text, id=prompt.id, images=prompt.images, seed=seed)

    return request
