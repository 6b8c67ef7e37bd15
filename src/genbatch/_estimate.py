"""estimate: what a batch will ask for and cost, without a call."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, Unpack

from genbatch._core import iterable_of
from genbatch._run import Generate, ImageClient, Service, defaults_of, request_of
from genbatch._store import content_digest, made_in
from genbatch._values import ImageRequest, ImageSettings, Prompt, prompt_of_row, takes_settings
from genbatch.gemini import GeminiClient
from genbatch.inputs import PromptFiles

_ANY = "any"
_SHORT = 80  # characters: so long a text is expected to cost what any short one does


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a batch will take.

    Attributes:
        prompts: Prompts in it.
        done: Images of it that are there already.
        cost: US dollars expected for the others, None where a price is unknown.
        reserved: US dollars that a budget reserves for them together, where that was asked for and
            prices are known: the most that each should cost, with a token for each byte of its
            text, its input images, the longest thoughts and one image.
        seconds: How long it will take at the rate given, None without one.
    """

    prompts: int
    done: int
    cost: float | None
    reserved: float | None
    seconds: float | None

    @property
    def calls(self) -> int:
        """Calls to be made, retries not counted."""
        return self.prompts - self.done


@takes_settings
def estimate(
    prompts: Iterable[str | Prompt | Mapping[Any, Any]],
    *,
    client: ImageClient | Generate | type = GeminiClient,
    save_dir: str | os.PathLike[str] | None = None,
    namespace: str = "",
    price: float | None = None,
    rate: float | None = None,
    reserve: bool = False,
    prompt_column: str | None = None,
    **settings: Unpack[ImageSettings],
) -> Estimate:
    """Return how many calls a batch will make, and what they are expected to cost.

    It reads files where there is a save_dir or an input image, which blocks.

    Args:
        prompts: Finite; read once, and so are their input images.
        client: As for generate_images; it need not be open. The class GeminiClient needs no key.
        save_dir: Directory that images are saved in; what it has is not made again.
        namespace: As for generate_images.
        price: US dollars an image, in place of the price table's.
        rate: Calls that start in a second.
        reserve: Whether to tell what a budget reserves: files are then read again, to the length of
            each prompt.
        prompt_column: As for generate_images.
        settings: See ImageSettings; those of the batch.

    Raises:
        ValueError: If a model cannot do what is asked for, a prompt is blank, or rate is not above
            0.
        TypeError: If there is no such setting, or prompts cannot be iterated, or not as prompts.
        OSError: If an input image cannot be read.
        StoreError: If the journal in save_dir cannot be read.
    """
    if rate is not None and not rate > 0:
        raise ValueError(f"rate must be > 0 calls a second, got {rate}")
    service = Service(client)
    terms_of = cache(partial(_terms, service, defaults_of(service, settings, None, price), price))
    made = Counter({} if save_dir is None else made_in(save_dir))
    number = done = 0
    cost: float | None = 0.0
    most: float | None = 0.0
    rows: Any = iterable_of(prompts)
    if prompt_column is not None:
        rows = (prompt_of_row(row, prompt_column) for row in rows)
    for prompt, count in _kinds(rows, one_by_one=reserve or bool(made)):
        number += count
        terms = terms_of(prompt.model, prompt.aspect_ratio, prompt.image_size)
        if made and made[digest := content_digest(namespace, terms.request(prompt))] > 0:
            made[digest] -= 1
            done += 1
            continue
        expected = terms.expected(prompt)
        cost = None if cost is None or expected is None else cost + count * expected
        if reserve:
            reserved = terms.reserved(prompt)
            most = None if most is None or reserved is None else most + reserved
    seconds = None if rate is None else (number - done) / rate
    return Estimate(number, done, cost, most if reserve else None, seconds)


def _kinds(prompts: Iterable[str | Prompt], *, one_by_one: bool) -> Iterator[tuple[Prompt, int]]:
    """Yield prompts that may differ in price, and how many there are of each."""
    if one_by_one or not isinstance(prompts, PromptFiles):
        for each in prompts:
            yield Prompt.of(each), 1
        return
    for asked, count in prompts.asked.items():
        if count:  # none is where all are beyond a limit
            yield _any_with(*asked), count


def _any_with(model: str | None, aspect_ratio: str | None, image_size: str | None) -> Prompt:
    """Return a prompt that represents all with the same settings."""
    return Prompt(_ANY, model=model, aspect_ratio=aspect_ratio, image_size=image_size)


@dataclass(frozen=True, slots=True)
class _Terms:
    """What prompts with the same settings have in common: a run may have a million.

    Attributes:
        like: The request of one with any text.
        base: US dollars expected for each with a short text, None where unknown.
        service: That is to make them.
        price: US dollars given for an image, None where the service has its own.
    """

    like: ImageRequest
    base: float | None
    service: Service
    price: float | None

    def request(self, prompt: Prompt) -> ImageRequest:
        """Return the request of a prompt, but for what no digest needs."""
        seed = self.like.seed if prompt.seed is None else prompt.seed
        return replace(self.like, text=prompt.text, id=prompt.id, images=prompt.images, seed=seed)

    def expected(self, prompt: Prompt) -> float | None:
        """Return the US dollars expected for a prompt, None where unknown."""
        if self.price is not None or (len(prompt.text) <= _SHORT and not prompt.images):
            return self.base
        return self.service.expected_price(self._with_inputs(prompt))

    def reserved(self, prompt: Prompt) -> float | None:
        """Return the US dollars to reserve for a prompt, None where unknown."""
        if self.price is not None:
            return self.price
        return self.service.price(self._with_inputs(prompt))

    def _with_inputs(self, prompt: Prompt) -> ImageRequest:
        images = prompt.images or self.like.images
        return replace(self.like, text=prompt.text, images=images)


def _terms(
    service: Service,
    defaults: ImageRequest,
    price: float | None,
    model: str | None,
    aspect_ratio: str | None,
    image_size: str | None,
) -> _Terms:
    like = request_of(service, _any_with(model, aspect_ratio, image_size), defaults)
    expected = service.expected_price(like) if price is None else price
    return _Terms(like, expected, service, price)
