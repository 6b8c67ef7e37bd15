"""The services of a run: a model's name says which of them makes its images."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from importlib import import_module
from typing import Any

from genbatch import Budget, GeminiClient, Image, ImageRequest, Prompt, Throttle, Unauthorized
from genbatch._money import Account
from genbatch._run import Service
from genbatch.gemini import MODELS
from genbatch.openai import OpenAIClient

_GEMINI = re.compile(r"(models/)?(gemini|imagen)\b.*|" + "|".join(each.alias for each in MODELS))
_OPENAI = re.compile(r"(chat)?gpt-image.*|flare|sunburst")
_BUILT_IN: Mapping[str, tuple[re.Pattern[str], type]] = {
    "gemini": (_GEMINI, GeminiClient),
    "openai": (_OPENAI, OpenAIClient),
}


class Services:
    """An ImageClient over several, which sends each request to the service of its model.

    Args:
        own: The services that ``--service`` names: the first of them makes the images of models
            that no service claims.
        entered: Open clients of the others by name, where calls are to be made.
    """

    def __init__(
        self, own: Sequence[Service] = (), entered: Mapping[str, Service] | None = None
    ) -> None:
        self._own = own
        built_in = {name: Service(client) for name, (_, client) in _BUILT_IN.items()}
        others = built_in if entered is None else entered
        self._by_name = {**{each.name: each for each in own}, **others}
        self.default_model = own[0].default_model if own else GeminiClient.default_model

    def of(self, model: str) -> str:
        """Return the name of the service of a model."""
        for each in self._own:
            if model in (each.default_model, each.name) or model.startswith(f"{each.name}/"):
                return each.name
        for name, (pattern, _) in _BUILT_IN.items():
            if pattern.fullmatch(model) or model.startswith(f"{name}/"):
                return name
        return self._own[0].name if self._own else "gemini"

    def resolve(
        self, request: ImageRequest, prompt: str | Prompt | ImageRequest | None = None
    ) -> ImageRequest:
        """Return a request for the service of its model; see Service.resolve."""
        name = self.of(request.model)
        model = request.model.removeprefix(f"{name}/")
        if name not in self._by_name:
            raise ValueError(_without_key(name, model))
        return self._by_name[name].resolve(replace(request, model=model), prompt)

    def canonical(self, request: ImageRequest) -> ImageRequest:
        """Return the one of all requests that ask the same service for the same image."""
        service = self._by_name.get(request.service or "gemini")  # older folders do not name it
        return request if service is None else service.canonical(request)

    def check(self, request: ImageRequest) -> None:
        """Refuse a request that its service would refuse."""
        self._by_name[request.service].check(request)

    def price(self, request: ImageRequest) -> float | None:
        """Return the most that an answer with one image costs."""
        return self._by_name[request.service].price(request)

    def expected_price(self, request: ImageRequest) -> float | None:
        """Return what an image is expected to cost."""
        return self._by_name[request.service].expected_price(request)

    @property
    def throttles(self) -> dict[str, Throttle]:
        """The throttles of all models called so far."""
        found = [each.throttles for each in self._by_name.values()]
        return {model: throttle for each in found for model, throttle in each.items()}

    @property
    def max_connections(self) -> float:
        """Most connections at once, by the limit of open files."""
        return min(each.max_connections for each in self._by_name.values())

    async def generate_image(
        self, request: ImageRequest, /, *, budget: Account | None = None, price: float | None = None
    ) -> Image:
        """Have the service of a request make its image."""
        account = Budget() if budget is None else budget
        return await self._by_name[request.service].generate_image(request, account, price)


class Clients:
    """The clients of a run, made when its inputs are known and entered when it begins.

    Args:
        factories: ``module:function`` of each service of one's own.

    Attributes:
        services: What they can do and cost, which takes no key.

    Raises:
        ValueError: If one cannot be imported, or makes no client.
    """

    def __init__(self, factories: Sequence[str] = ()) -> None:
        self._own = [_made_by(each) for each in factories]
        self.services = Services([Service(each) for each in self._own])

    def are_only_gemini(self, models: Collection[str]) -> bool:
        """Return whether all models are Gemini's, and no other service was named."""
        return not self._own and {self.services.of(model) for model in models} <= {"gemini"}

    @asynccontextmanager
    async def entered(
        self, models: Collection[str], make: Callable[[str], Any]
    ) -> AsyncGenerator[Services]:
        """Open the clients inside the block.

        Args:
            models: Those that the inputs name: without a key for them, the run does not begin.
            make: Returns the client of a built-in service; raises ValueError without a key.
        """
        needed = {self.services.of(model) for model in models}
        async with AsyncExitStack() as stack:
            own = [Service(await _entered(stack, each)) for each in self._own]
            built_in: dict[str, Service] = {}
            for name in _BUILT_IN:
                try:
                    client = make(name)
                except (Unauthorized, ValueError):
                    if name in needed:
                        raise
                    continue  # rows of standard input may still name it: they fail then
                built_in[name] = Service(await stack.enter_async_context(client))
            yield Services(own, built_in)


def _without_key(name: str, model: str) -> str:
    return f"no API key for {model}: set {name.upper()}_API_KEY"


async def _entered(stack: AsyncExitStack, client: Any) -> Any:
    if hasattr(client, "__aenter__"):
        return await stack.enter_async_context(client)
    if hasattr(client, "__enter__"):
        return stack.enter_context(client)
    return client


def _made_by(factory: str) -> Any:
    """Return the client that a factory, ``module:function``, returns.

    Raises:
        ValueError: If there is none.
    """
    module, colon, function = factory.partition(":")
    if not (module and colon and function):
        raise ValueError(f"--service must be like my_module:make, got {factory!r:.80}")
    if os.getcwd() not in sys.path:  # as python -m does: one's module is where one works
        sys.path.insert(0, os.getcwd())
    try:
        make = getattr(import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"--service {factory}: {error}") from error
    try:
        client = make()
        Service(client)
    except Exception as error:
        message = f"--service {factory}: {function}() failed: {type(error).__name__}: {error}"
        raise ValueError(message) from error
    return client
