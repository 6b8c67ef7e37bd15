"""ImageClient: what a run asks of a service, and what it does for a client that has no more.

What a client returns is brought into the shape that a run relies on. An image is paid for whatever
stands beside it: what is of the wrong type there is dropped.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeAlias

from genbatch._money import Account, Attempt, dollars
from genbatch._throttle import Throttle
from genbatch._values import (
    DamagedImage,
    GenbatchError,
    Image,
    ImageRequest,
    InvalidResponse,
    Prompt,
    Usage,
    is_whole,
    sniff_mime_type,
)
from genbatch.events import OnEvent

from ._look import FirstLook

_MOST_ID = 1000  # characters


class ImageClient(Protocol):
    """Makes images: the client of a service, or a model of one's own.

    ``generate_image`` is all that it needs. What else it may have:

    - ``service``: its name, which is a part of each image's key: two services never share an image.
      Without one, the module and the name of its class.
    - ``default_model``: for requests that name no model. Without one, the name of the service.
    - ``resolve(request, prompt)``: returns a request with the model's full id, its settings
      checked, without a call; raises ValueError, or Rejected for a model that is gone. Without
      one, a request is taken as it is.
    - ``canonical(request)``: returns the one of all resolved requests that ask for the same image,
      as without a setting that is the service's default. Without one, each asks for its own.
    - ``check(request)``: raises ValueError for what the service would refuse: called with the
      settings of a batch, and before each call.
    - ``price(request)``: the most US dollars that an answer with one image costs, None if unknown;
      a Budget reserves them. Without one, unknown.
    - ``expected_price(request)``: what it is expected to cost. Without one, the most.
    - ``on_event``: is called with each event of its calls in a run; see genbatch.events.
    - ``throttle(model)``: the Throttle of a model. Without one, each model has its own, in each
      run, which waits out the RateLimited that ``generate_image`` raises.
    - ``is_fake(request)``: whether a fake server answers it, whose images are placeholders.
    - ``budget`` and ``price``, keyword arguments of ``generate_image``, for a client that makes
      several attempts of a call: it enters ``budget.attempt(price, model)`` around each, inside its
      own throttle, and says ``attempt.paid(cost, images)`` there; an attempt that ends without an
      error and says nothing counts as an image at its reservation. It checks requests itself.
      Without them, each call is one attempt.
    """

    async def generate_image(self, request: ImageRequest, /) -> Image:
        """Make an image.

        ``Image(data, mime_type)`` suffices; a cost that it does not tell counts as reserved.

        Raises:
            GenbatchError: What the service refuses; see the errors for what each of them means to a
                run. After any other Exception the call may have been paid.
        """


Generate: TypeAlias = Callable[[Any], Awaitable[bytes | Image]]


class Service:
    """A client with a default for whatever it does not have.

    Args:
        client: An ImageClient, the class of one whose methods need no open client, or a function
            that gets the prompt: a str, or a Prompt where it has settings.
        throttle: Makes the throttle of a model, for a client that has none.

    Attributes:
        name: Of the service.
        is_several: Whether the client stands for several services: its resolve says which.
        default_model: For requests that name no model.
        look: In which order its first calls are made, None where that does not matter.
        on_event: Listens to all of the client's calls.

    Raises:
        TypeError: If it is neither.
    """

    def __init__(
        self,
        client: ImageClient | Generate | type,
        throttle: Callable[[str], Throttle] = lambda model: Throttle(),
    ) -> None:
        made_by = getattr(client, "generate_image", client)
        if not callable(made_by):
            raise TypeError(
                f"client must have a generate_image, got {type(client).__name__}: pass a client, "
                "such as an open GeminiClient, or an async function"
            )
        self._client = client
        self._generate: Callable[..., Awaitable[bytes | Image]] = made_by
        self._takes_request = made_by is not client
        parameters = inspect.signature(made_by).parameters
        self._pays = self._takes_request and "budget" in parameters
        self._throttle = throttle
        self._throttles: dict[str, Throttle] = {}
        self.is_several: bool = getattr(client, "is_several", False)
        self.look: FirstLook | None = getattr(client, "look", None)
        self.on_event: OnEvent | None = getattr(client, "on_event", None)
        self.name: str = getattr(client, "service", None) or _name(client)
        if not isinstance(self.name, str):
            raise TypeError(f"service must be a str, got {type(self.name).__name__}")
        self.default_model: str = getattr(client, "default_model", self.name)

    def resolve(
        self, request: ImageRequest, prompt: str | Prompt | ImageRequest | None = None
    ) -> ImageRequest:
        """Return a request for this service, with the model's full id, its settings checked.

        Args:
            request: For one image.
            prompt: What it was made of.

        Raises:
            ValueError: If the service cannot do what it asks for.
            Rejected: If its model is known to be gone.
        """
        if (resolve := getattr(self._client, "resolve", None)) is not None:
            request = resolve(request, prompt)
        if self.is_several or request.service == self.name:
            return request
        return replace(request, service=self.name)

    def canonical(self, request: ImageRequest) -> ImageRequest:
        """Return the one of all resolved requests that ask for the same image."""
        canonical = getattr(self._client, "canonical", None)
        return request if canonical is None else canonical(request)

    def check(self, request: ImageRequest) -> None:
        """Refuse a request that the service would refuse.

        Raises:
            ValueError: If it is one.
        """
        check = getattr(self._client, "check", None)
        if check is not None and not isinstance(self._client, type):
            check(request)

    def price(self, request: ImageRequest) -> float | None:
        """Return the most US dollars that an answer with one image costs, None if unknown."""
        price = getattr(self._client, "price", None)
        return None if price is None else self._amount("price", price(request))

    def expected_price(self, request: ImageRequest) -> float | None:
        """Return the US dollars that an image is expected to cost, None if unknown."""
        expected = getattr(self._client, "expected_price", None)
        if expected is None:
            return self.price(request)
        return self._amount("expected_price", expected(request))

    def _amount(self, name: str, told: object) -> float | None:
        amount = dollars(told)
        if amount is None and told is not None:
            raise ValueError(f"{name} of {self.name} must be >= 0 US dollars, got {told!r}")
        return amount

    def throttle(self, model: str) -> Throttle:
        """Return the throttle of a model."""
        throttle: Callable[[str], Throttle] | None = getattr(self._client, "throttle", None)
        if throttle is not None:
            return throttle(model)
        if model not in self._throttles:
            self._throttles[model] = self._throttle(model)
        return self._throttles[model]

    def is_fake(self, request: ImageRequest) -> bool:
        """Return whether a fake server makes the image of a request, as it says itself.

        This may ask a server on this machine, which blocks. Of a class it is not known; True then.
        """
        return isinstance(self._client, type) or self.is_known_fake(request)

    def is_known_fake(self, request: ImageRequest) -> bool:
        """Return whether a fake server makes the image of a request, as is_fake; no class does."""
        ask: Callable[..., bool] | None = getattr(self._client, "is_fake", None)
        return not isinstance(self._client, type) and ask is not None and ask(request)

    def fingerprint(self, salt: str, *with_it: object) -> str:
        """Return what tells the account that is called from others, as far as is known."""
        own: Callable[..., str] | None = getattr(self._client, "fingerprint", None)
        if own is not None:
            return own(salt, *with_it)
        return hashlib.sha256(repr((salt, self.name, *with_it)).encode()).hexdigest()[:16]

    @property
    def throttles(self) -> Mapping[str, Throttle]:
        """The throttles of the models called so far."""
        return getattr(self._client, "throttles", self._throttles)

    @property
    def max_connections(self) -> float:
        """Most connections at once, by the limit of open files, infinite where unknown."""
        return getattr(self._client, "max_connections", math.inf)

    async def generate_image(
        self, request: ImageRequest, account: Account, price: float | None = None
    ) -> Image:
        """Make an image, paid from an account.

        Args:
            request: Resolved.
            account: Each attempt is paid from it.
            price: US dollars an image, in place of the service's.
        """
        if self._pays:
            counted = CountedAccount(account)
            made = self._generate(request, budget=counted, price=price)
            try:
                return counted.charged(image_of(await made, request, self.name))
            except DamagedImage as error:
                error.cost = counted.cost_of(error)
                raise
        self.check(request)
        attempt = partial(self._attempt, request, account, price)
        return await self.throttle(request.model).run(attempt)

    async def _attempt(self, request: ImageRequest, account: Account, price: float | None) -> Image:
        expected = self.price(request) if price is None else price
        asked = request if self._takes_request else _prompt_of(request)
        async with account.attempt(expected, request.model) as attempt:
            image = image_of(await self._made(asked), request, self.name)
            if price is not None:
                image = replace(image, cost=price * image.images)
            return attempt.brought(image)

    async def _made(self, asked: object) -> object:
        made = self._generate(asked)
        if not inspect.isawaitable(made):
            got = type(made).__name__
            raise no_image(f"{self.name} must be async: it returned {got}, which is not awaitable")
        try:
            return await made
        except ExceptionGroup as group:
            if isinstance(error := _only(group), GenbatchError):
                raise error from group
            raise


def _only(group: BaseException) -> BaseException:
    """Return the one error in a group, as task groups raise it, or the group."""
    while isinstance(group, BaseExceptionGroup) and len(group.exceptions) == 1:
        group = group.exceptions[0]
    return group


def _name(client: object) -> str:
    made_by = getattr(client, "func", client)  # of a functools.partial
    named = made_by if hasattr(made_by, "__qualname__") else type(made_by)
    return f"{named.__module__}.{named.__qualname__}"


def _prompt_of(request: ImageRequest) -> str | Prompt:
    prompt = request.prompt
    return prompt.text if prompt == Prompt(prompt.text, model=prompt.model) else prompt


def image_of(made: object, request: ImageRequest, service: str) -> Image:
    """Return what a client has made as an image of the request's model.

    Raises:
        DamagedImage: If its bytes are no image, or a cut one.
        InvalidResponse: If there are none; for all calls, if it is neither bytes nor an Image.
    """
    if isinstance(made, bytes | bytearray | memoryview):
        made = Image(bytes(made), "")
    if not isinstance(made, Image) or not isinstance(made.data, bytes | bytearray | memoryview):
        wrong = made.data if isinstance(made, Image) else made
        raise no_image(f"{service} must return an Image or bytes, got {type(wrong).__name__}")
    if not made.data:
        raise InvalidResponse(f"{service} made an image without bytes", maybe_paid=True)
    image = _shaped(made, request.model)
    if wrong_with := _what_is_wrong(image):
        error = DamagedImage(f"{service} made {wrong_with}", maybe_paid=True)
        error.data, error.cost, error.images = image.data, image.cost, image.images
        raise error
    return image


def no_image(message: str) -> InvalidResponse:
    """Return the error of a client that makes no images at all."""
    error = InvalidResponse(message, maybe_paid=True)
    error.scope = "service"
    return error


def _shaped(made: Image, model: str) -> Image:
    data = bytes(made.data)
    told = _items(made.extras)
    extras = [_shaped(each, model) for each in told if isinstance(each, Image) and each.data]
    cut = tuple(each.data for each in extras if _what_is_wrong(each))
    damaged = (*(bytes(each) for each in _items(made.damaged) if isinstance(each, bytes)), *cut)
    return Image(
        data,
        sniff_mime_type(data) or "",
        made.model if made.model and isinstance(made.model, str) else model,
        usage=made.usage if isinstance(made.usage, Usage) else None,
        text=made.text if isinstance(made.text, str) else "",
        cost=dollars(made.cost),
        response_id=None if made.response_id is None else str(made.response_id)[:_MOST_ID],
        extras=tuple(each for each in extras if not _what_is_wrong(each)),
        damaged=damaged,
        is_placeholder=bool(made.is_placeholder),
    )


def _items(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else ()


def _what_is_wrong(image: Image) -> str:
    if not image.mime_type:
        return "no PNG, JPEG, WebP or GIF"
    return "" if is_whole(image.data, image.mime_type) else "an image that is cut off"


class CountedAccount:
    """An account that knows what the last attempt was charged.

    An attempt that ends without an error, and of which its client says nothing, counts as an image
    at what was reserved for it.
    """

    def __init__(self, account: Account) -> None:
        self._account = account
        self._last: Attempt | None = None

    @asynccontextmanager
    async def attempt(self, price: float | None, model: str = "") -> AsyncIterator[Attempt]:
        """As that of the account."""
        async with self._account.attempt(price, model) as self._last:
            yield self._last
            if self._last.maybe_images:
                self._last.paid(None)

    def cost_of(self, error: DamagedImage) -> float | None:
        """Return what was charged for an image that cannot be used."""
        return error.cost if self._last is None or self._last.price is None else self._last.cost

    def charged(self, image: Image) -> Image:
        """Return an image with the cost that was charged for it, where a price is known."""
        last = self._last
        if last is None or last.price is None or not last.images or last.cost == image.cost:
            return image
        return replace(image, cost=last.cost)
