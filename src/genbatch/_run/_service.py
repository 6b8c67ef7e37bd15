"""ImageClient: what a run asks of a service, and what it does for a client that has no more."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Protocol, TypeAlias

from genbatch._money import Account
from genbatch._throttle import Throttle
from genbatch._values import (
    DamagedImage,
    Image,
    ImageRequest,
    InvalidResponse,
    Prompt,
    sniff_mime_type,
)
from genbatch.events import OnEvent


class ImageClient(Protocol):
    """Makes images: the client of a service, or a model of one's own.

    ``generate_image`` is all that it needs. What else it may have:

    - ``service``: its name, which is a part of each image's key: two services never share an image.
      Without one, the module and the name of its class.
    - ``default_model``: for requests that name no model. Without one, the name of the service.
    - ``resolve(request, prompt)``: returns a request with the model's full id, its settings
      checked, without a call; raises ValueError, or Rejected for a model that is gone. Without
      one, a request is taken as it is.
    - ``check(request)``: raises ValueError for settings of a batch that the service would refuse.
    - ``price(request)``: the most US dollars that an answer with one image costs, None if unknown;
      a Budget reserves them. Without one, unknown.
    - ``expected_price(request)``: what it is expected to cost. Without one, the most.
    - ``on_event``: is called with each event of its calls in a run; see genbatch.events.
    - ``throttle(model)``: the Throttle of a model. Without one, each model has its own, in each
      run, which waits out the RateLimited that ``generate_image`` raises.
    - ``budget`` and ``price``, keyword arguments of ``generate_image``, for a client that makes
      several attempts of a call: it enters ``budget.attempt(price, model)`` around each, inside its
      own throttle. Without them, each call is one attempt.
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

    Attributes:
        name: Of the service.
        default_model: For requests that name no model.
        on_event: Listens to all of the client's calls.

    Raises:
        TypeError: If it is neither.
    """

    def __init__(self, client: ImageClient | Generate | type) -> None:
        made_by = getattr(client, "generate_image", client)
        if not callable(made_by):
            raise TypeError(
                f"client must have a generate_image, got {type(client).__name__}: pass a client, "
                "such as an open GeminiClient, or an async function"
            )
        self._client = client
        self._generate: Callable[..., Awaitable[bytes | Image]] = made_by
        self._takes_request = made_by is not client
        self._pays = "budget" in inspect.signature(made_by).parameters
        self._throttles: dict[str, Throttle] = {}
        self.on_event: OnEvent | None = getattr(client, "on_event", None)
        self.name: str = getattr(client, "service", None) or _name(client)
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
        return request if request.service else replace(request, service=self.name)

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
        return None if price is None else price(request)

    def expected_price(self, request: ImageRequest) -> float | None:
        """Return the US dollars that an image is expected to cost, None if unknown."""
        expected = getattr(self._client, "expected_price", None)
        return self.price(request) if expected is None else expected(request)

    def throttle(self, model: str) -> Throttle:
        """Return the throttle of a model."""
        throttle: Callable[[str], Throttle] | None = getattr(self._client, "throttle", None)
        if throttle is not None:
            return throttle(model)
        return self._throttles.setdefault(model, Throttle())

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
            return await self._generate(request, budget=account, price=price)  # type: ignore[return-value]
        attempt = partial(self._attempt, request, account, price)
        return await self.throttle(request.model).run(attempt)

    async def _attempt(self, request: ImageRequest, account: Account, price: float | None) -> Image:
        expected = self.price(request) if price is None else price
        asked = request if self._takes_request else _prompt_of(request)
        async with account.attempt(expected, request.model) as attempt:
            image = _image(await self._generate(asked), request, self.name)
            if price is not None:
                image = replace(image, cost=price * image.images)
            return attempt.brought(image)


def _name(client: object) -> str:
    made_by = getattr(client, "func", client)  # of a functools.partial
    named = made_by if hasattr(made_by, "__qualname__") else type(made_by)
    return f"{named.__module__}.{named.__qualname__}"


def _prompt_of(request: ImageRequest) -> str | Prompt:
    prompt = request.prompt
    return prompt.text if prompt == Prompt(prompt.text, model=prompt.model) else prompt


def _image(made: object, request: ImageRequest, service: str) -> Image:
    """Return what a client has made as an image of the request's model.

    Raises:
        DamagedImage: If its bytes are no image.
        InvalidResponse: If there are none.
        TypeError: If it is neither bytes nor an Image.
    """
    if isinstance(made, bytes):
        made = Image(made, "")
    if not isinstance(made, Image):
        raise TypeError(f"{service} must return an Image or bytes, got {type(made).__name__}")
    if not made.data:
        raise InvalidResponse(f"{service} made an image without bytes", maybe_paid=True)
    if (mime_type := sniff_mime_type(made.data)) is None:
        error = DamagedImage(f"{service} made no PNG, JPEG, WebP or GIF", maybe_paid=True)
        error.data, error.cost = made.data, made.cost
        raise error
    return replace(made, mime_type=mime_type, model=made.model or request.model)
