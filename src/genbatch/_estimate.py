"""estimate: what a batch will ask for and cost, without a call."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Unpack

from genbatch._bucket import BucketKeys, bucket_keys, bucket_path
from genbatch._core import iterable_of
from genbatch._run import Generate, ImageClient, Service, defaults_of, input_of, request_of
from genbatch._store import FINAL, both_digests, hash_of_text, standing
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
        failed: Prompts of it that were refused for good, and are not asked again.
        in_jobs: Prompts of it that live jobs at the service have.
        placeholders: Images of it that a fake service has made; the real one makes them anew.
        similar: Prompts to be made whose text has an image there already, with other settings.
    """

    prompts: int
    done: int
    cost: float | None
    reserved: float | None
    seconds: float | None
    failed: int = 0
    in_jobs: int = 0
    placeholders: int = 0
    similar: int = 0

    @property
    def calls(self) -> int:
        """Calls to be made, retries not counted."""
        return self.prompts - self.done - self.failed - self.in_jobs


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
    redo_missing: bool = False,
    retry_failed: bool | Collection[str] = False,
    prompt_column: str | None = None,
    **settings: Unpack[ImageSettings],
) -> Estimate:
    """Return how many calls a batch will make, and what they are expected to cost.

    It reads files where there is a save_dir or an input image, which blocks.

    Args:
        prompts: Finite; read once, and so are their input images.
        client: As for generate_images; it need not be open. The class GeminiClient needs no key.
        save_dir: Directory or bucket that images are saved in; what it has is not made again.
        namespace: As for generate_images.
        price: US dollars an image, in place of the price table's.
        rate: Calls that start in a second.
        reserve: Whether to tell what a budget reserves: files are then read again, to the length of
            each prompt.
        redo_missing: As for Store.
        retry_failed: As for Store.
        prompt_column: As for generate_images.
        settings: See ImageSettings; those of the batch.

    Raises:
        ValueError: If a model cannot do what is asked for, a prompt is blank, or rate is not above
            0.
        TypeError: If there is no such setting, or prompts cannot be iterated, or not as prompts.
        OSError: If an input image cannot be read.
        StoreError: If the journal in save_dir, or the bucket, cannot be read.
    """
    if rate is not None and not rate > 0:
        raise ValueError(f"rate must be > 0 calls a second, got {rate}")
    service = Service(client)
    terms_of = cache(partial(_terms, service, defaults_of(service, settings, None, price), price))
    source = input_of(service, prompts, ImageRequest(_ANY), prompt_column).edited_source
    policy = {"redo_missing": redo_missing, "retry_failed": retry_failed, "source": source}
    found = _found_in(save_dir, service, namespace, policy)
    number = 0
    cost: float | None = 0.0
    most: float | None = 0.0
    rows: Any = iterable_of(prompts)
    if prompt_column is not None:
        rows = (prompt_of_row(row, prompt_column) for row in rows)
    for prompt, count in _kinds(rows, one_by_one=reserve or found.is_any):
        number += count
        terms = terms_of(prompt.model, prompt.aspect_ratio, prompt.image_size)
        if found.is_any and found.take(terms.request(prompt)):
            continue
        expected = terms.expected(prompt)
        cost = None if cost is None or expected is None else cost + count * expected
        if reserve:
            reserved = terms.reserved(prompt)
            most = None if most is None or reserved is None else most + reserved
    plan = Estimate(number, 0, cost, most if reserve else None, None)
    plan = replace(plan, **found.counts)
    return plan if rate is None else replace(plan, seconds=plan.calls / rate)


def _found_in(
    save_dir: str | os.PathLike[str] | None,
    service: Service,
    namespace: str,
    policy: Mapping[str, Any],
) -> _Found | _FoundInBucket:
    if save_dir is not None and (bucket := bucket_path(Path(save_dir))) is not None:
        return _FoundInBucket(str(bucket), service, namespace, policy["retry_failed"])
    return _Found(save_dir, service, namespace, **policy)


class _Found:
    """What a directory has already, taken request by request.

    Attributes:
        is_any: Whether there is anything.
        counts: What was taken, by fields of an Estimate.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None,
        service: Service,
        namespace: str,
        **policy: Any,
    ) -> None:
        self._service = service
        self._namespace = namespace
        canonical = service.canonical
        self._left = None if directory is None else standing(directory, canonical, **policy)
        self.is_any = any(self._left or ())
        self._known = set() if self._left is None else set(self._left.done)
        self.counts: Counter[str] = Counter()
        self._fakes: dict[str, bool] = {}  # by model

    def take(self, request: ImageRequest) -> bool:
        """Return whether a request is not to be paid for, and count it."""
        if self._left is None:
            return False
        namespace = self._namespace
        content, earlier = both_digests(namespace, request, self._service.canonical)
        digest = content if self._left.has(content) else earlier
        if self._left.done[digest] > 0 and self._left.fakes[digest] and not self._is_fake(request):
            self._left.fakes[digest] -= 1
            self._left.done[digest] -= 1
            self.counts["placeholders"] += 1
            return False
        for name in ("done", "failed", "in_jobs"):
            left: Counter[str] = getattr(self._left, name)
            if left[digest] > 0:
                left[digest] -= 1
                self.counts[name] += 1
                return True
        if self._left.take_former(namespace, request.id, content):  # edited, and edited back
            self.counts["done"] += 1
            return True
        if digest not in self._known and hash_of_text(namespace, request.text) in self._left.texts:
            self.counts["similar"] += 1
        return False

    def _is_fake(self, request: ImageRequest) -> bool:
        if request.model not in self._fakes:
            self._fakes[request.model] = self._service.is_fake(request)
        return self._fakes[request.model]


class _FoundInBucket:
    """What a bucket has already, as _Found."""

    def __init__(
        self, url: str, service: Service, namespace: str, retry_failed: bool | Collection[str]
    ) -> None:
        self._keys = BucketKeys(namespace, service.canonical, service.is_known_fake)
        self._done, failed = bucket_keys(url)
        retried = FINAL if retry_failed is True else retry_failed or ()
        self._failed = {key for key, kind in failed.items() if kind not in retried}
        self.is_any = bool(self._done or self._failed)
        self.counts: Counter[str] = Counter()

    def take(self, request: ImageRequest) -> bool:
        """Return whether a request is not to be paid for, and count it."""
        key, *_ = self._keys.next_of(request)
        for name, keys in (("done", self._done), ("failed", self._failed)):
            if key in keys:
                self.counts[name] += 1
                return True
        return False


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
        made: Makes a request like it, faster than replace does.
        base: US dollars expected for each with a short text, None where unknown.
        service: That is to make them.
        price: US dollars given for an image, None where the service has its own.
    """

    like: ImageRequest
    made: Callable[..., ImageRequest]
    base: float | None
    service: Service
    price: float | None

    def request(self, prompt: Prompt) -> ImageRequest:
        """Return the request of a prompt, but for what no digest needs."""
        seed = self.like.seed if prompt.seed is None else prompt.seed
        return self.made(text=prompt.text, id=prompt.id, images=prompt.images, seed=seed)

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
        return self.made(text=prompt.text, images=images)


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
    made = partial(ImageRequest, **{each.name: getattr(like, each.name) for each in fields(like)})
    return _Terms(like, made, expected, service, price)
