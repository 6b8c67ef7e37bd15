"""The services of a run: a model's name says which of them makes its images."""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import (
    AsyncContextDecorator,
    AsyncExitStack,
    ContextDecorator,
    asynccontextmanager,
    suppress,
)
from dataclasses import replace
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

import anyio

from genbatch import (
    Budget,
    GeminiClient,
    GenbatchError,
    Image,
    ImageRequest,
    Prompt,
    Throttle,
    Unauthorized,
)
from genbatch._money import Account
from genbatch._run import Service
from genbatch._store import pinned
from genbatch.gemini import MODELS
from genbatch.inputs import PromptFiles
from genbatch.openai import OpenAIClient

from ._console import QuietConsole, plain

_GEMINI = re.compile(r"(models/)?(gemini|imagen)\b.*|" + "|".join(each.alias for each in MODELS))
_OPENAI = re.compile(r"(chat)?gpt-image.*|flare|sunburst")
_NAME = re.compile(r"\w[\w.-]*")  # of a service
_COLLECTIONS = ("models", "tunedModels", "publishers", "projects")  # of Google, not services
_BUILT_IN: Mapping[str, tuple[re.Pattern[str], Any]] = {
    "gemini": (_GEMINI, GeminiClient),
    "openai": (_OPENAI, OpenAIClient),
}
_WORD = re.compile(r"[a-z]+")
_NAMES = (
    *(name for model in MODELS for name in (model.alias, model.id)),
    *("flare", "sunburst", "gpt-image-2.6-flare", "gpt-image-2.6-sunburst", "gpt-image-1-mini"),
)
_WORDS = {
    *(word for name in _NAMES for word in _WORD.findall(name)),
    *("chatgpt", "exp", "imagen", "latest", "preview", "ultra"),
}
_ALIKE = 0.75


class Services:
    """An ImageClient over several, which sends each request to the service of its model.

    Args:
        own: The services that ``--service`` names: the first of them makes the images of models
            that no service claims.
        entered: Open clients of the others by name, where calls are to be made.
        base_url: Where the models of the one built-in service are called, if that is an option.
        is_demo: Whether a fake service, which does not run yet, makes all images.
    """

    is_several = True

    def __init__(
        self,
        own: Sequence[Service] = (),
        entered: Mapping[str, Service] | None = None,
        base_url: str | None = None,
        *,
        is_demo: bool = False,
    ) -> None:
        self._is_open = entered is not None
        self._is_demo = is_demo
        self._base_url = base_url
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
        prefix, slash, _ = model.partition("/")
        if slash and _NAME.fullmatch(prefix) and prefix not in _COLLECTIONS:
            raise ValueError(f"no service is named {prefix!r}, as {model} asks: give its --service")
        return self._own[0].name if self._own else "gemini"

    def are_gemini(self, models: Collection[str]) -> bool:
        """Return whether all models are Gemini's."""
        return {self.of(model) for model in models} <= {"gemini"}

    def resolve(
        self, request: ImageRequest, prompt: str | Prompt | ImageRequest | None = None
    ) -> ImageRequest:
        """Return a request for the service of its model; see Service.resolve."""
        name = request.service or self.of(request.model)
        is_any = request.service or name not in _BUILT_IN or request.model.startswith("models/")
        meant = None if is_any or self._base_url else misspelt(request.model)
        if meant is not None:
            raise ValueError(
                f"no model is called {request.model}: did you mean {meant}? "
                f"models/{request.model} asks the service all the same"
            )
        model = request.model.removeprefix(f"{name}/")
        if name in _BUILT_IN and name not in self._by_name:
            raise ValueError(f"no API key for {model}: set {name.upper()}_API_KEY")
        if name not in self._by_name:
            raise ValueError(f"{model} was made by the service {name!r}: give its --service")
        return self._by_name[name].resolve(replace(request, model=model), prompt)

    def canonical(self, request: ImageRequest) -> ImageRequest:
        """Return the one of all requests that ask the same service for the same image."""
        service = self._by_name.get(request.service or "gemini")  # older folders do not name it
        return request if service is None else service.canonical(request)

    def check(self, request: ImageRequest) -> None:
        """Refuse a request that its service would refuse."""
        if self._is_called(request):
            self._by_name[request.service].check(request)
        elif (client := self._without_key(request)) is not None:
            client.check(request)

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

    def is_fake(self, request: ImageRequest) -> bool:
        """Return whether a fake server makes the image of a request; this may block."""
        if self._is_demo:
            return True
        if self._is_called(request):
            return self._by_name[request.service].is_fake(request)
        client = self._without_key(request)
        return client is not None and bool(client.is_fake())

    def _is_called(self, request: ImageRequest) -> bool:
        """Return whether the service of a request has a client, not only its class."""
        return self._is_open or request.service not in _BUILT_IN

    def _without_key(self, request: ImageRequest) -> Any:
        """Return a client of a built-in service that is not to be opened, None if there is none."""
        _, client = _BUILT_IN[request.service]
        try:
            return client("none", base_url=self._base_url)
        except ValueError:  # of the environment: the run says so
            return None

    def fingerprint(self, salt: str, model: str, *with_it: object) -> str:
        """Return what tells the account that a model is called with from others."""
        return self._by_name[self.of(model)].fingerprint(salt, model, *with_it)

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
        run: Runs an asynchronous function on an event loop: a client that is to be had from a
            context manager only is entered once before the run, to learn its name and prices.
        base_url: Of the server of the one built-in service, as an option.
        is_demo: As for Services.

    Attributes:
        services: What they can do and cost, which takes no key.

    Raises:
        ValueError: If one cannot be imported, makes no client, or has the name of another.
    """

    def __init__(
        self,
        factories: Sequence[str] = (),
        base_url: str | None = None,
        run: Callable[[Callable[[], Awaitable[Any]]], Any] = anyio.run,
        *,
        is_demo: bool = False,
    ) -> None:
        self._own = {each: _made_by(each) for each in factories}
        own = [Service(_client_of(*each, run)) for each in self._own.items()]
        names = [*_BUILT_IN, *(each.name for each in own)]
        for factory, service in zip(self._own, own, strict=True):
            if names.count(service.name) > 1:
                raise ValueError(
                    f"--service {factory}: there is another service named {service.name!r}: "
                    "give its client a `service` of its own"
                )
        self.base_url = base_url
        self.services = Services(own, base_url=base_url, is_demo=is_demo)

    def are_only_gemini(self, models: Collection[str]) -> bool:
        """Return whether all models are Gemini's, and no other service was named."""
        return not self._own and self.services.are_gemini(models)

    def called(self, models: Collection[str]) -> set[str]:
        """Return the built-in services of models.

        Raises:
            ValueError: If there are several and one base URL, or a model's service is not known.
        """
        found = {self.services.of(model) for model in models} & set(_BUILT_IN)
        if self.base_url and len(found) > 1:
            raise ValueError(
                "--base-url is of one service: set GOOGLE_GEMINI_BASE_URL and OPENAI_BASE_URL"
            )
        return found

    @asynccontextmanager
    async def entered(
        self,
        models: Collection[str],
        make: Callable[[str], Any],
        throttle: Callable[[str], Throttle],
    ) -> AsyncGenerator[Services]:
        """Open the clients inside the block.

        Args:
            models: Those that the inputs name: without a key for them, the run does not begin.
            make: Returns the client of a built-in service; raises ValueError without a key.
            throttle: Makes the throttle of a model of a client that has none.
        """
        needed = self.called(models)
        async with AsyncExitStack() as stack:
            own = [
                Service(await stack.enter_async_context(_entered(*each)), throttle)
                for each in self._own.items()
            ]
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


def models_in(prompts: object) -> set[str | None]:
    """Return the models that prompts name, None among them where one names none."""
    if isinstance(prompts, PromptFiles):
        return {model for (model, _, _), count in prompts.asked.items() if count}
    return {None}


def misspelt(model: str) -> str | None:
    """Return the model that was probably meant, None where a name may be right.

    Services have new models all the time: only words that are nearly those of known names are
    mistakes.
    """

    def mended(match: re.Match[str]) -> str:
        near = get_close_matches(match[0], _WORDS, 1, _ALIKE)
        return match[0] if match[0] in _WORDS or not near else near[0]

    meant = _WORD.sub(mended, model.lower())
    return None if meant == model or (meant == model.lower() and meant not in _NAMES) else meant


def meanings(models: Collection[str], services: Services) -> dict[str, str]:
    """Return the full ids that short names among models stand for."""
    found = {}
    for name in models:
        with suppress(ValueError, GenbatchError):  # it fails where it is asked for
            found[name] = services.resolve(ImageRequest("any text", model=name)).model
    return {name: model for name, model in found.items() if model != name and "/" not in name}


def moved_models(folder: Path, services: Services) -> dict[str, str]:
    """Return what short names stood for when a folder began, where that has changed; say so.

    Raises:
        StoreError: If the journal of the folder cannot be read.
    """
    kept = pinned(folder)
    now = meanings(kept, services)
    # A folder may be somebody else's: it names no service, which would be paid by another key.
    moved = {
        name: kept[name]
        for name, model in now.items()
        if model != kept[name] and services.of(model) == services.of(kept[name])
    }
    for name, model in moved.items():
        QuietConsole(stderr=True).say(
            f"{name} is {model} in {plain(folder)}, as when it began; "
            f"elsewhere it is {now[name]} by now: --model {now[name]} asks for that."
        )
    return moved


@asynccontextmanager
async def _entered(factory: str, client: Any) -> AsyncGenerator[Any]:
    """Enter a client, if it can be, inside the block; say what goes wrong when it is left.

    Raises:
        ValueError: If it cannot be entered, or is another one then.
    """
    stack = AsyncExitStack()
    try:
        inner = client
        if hasattr(client, "__aenter__"):
            inner = await stack.enter_async_context(client)
        elif hasattr(client, "__enter__"):
            inner = stack.enter_context(client)
    except Exception as error:
        raise ValueError(f"--service {factory}: {_told(error)}") from error
    try:
        if not _has_client(client) and Service(inner).name != Service(client).name:
            raise ValueError(f"--service {factory}: entering its client must return that client")
        yield inner
    finally:
        try:
            await stack.aclose()
        except Exception as error:  # noqa: BLE001 - the images are made
            QuietConsole(stderr=True).say(f"--service {factory}: leaving it: {_told(error)}")


def _has_client(made: object) -> bool:
    """Return whether a factory has made what has a client inside, and is none itself."""
    return isinstance(made, ContextDecorator | AsyncContextDecorator)


def _client_of(factory: str, made: Any, run: Callable[[Callable[[], Awaitable[Any]]], Any]) -> Any:
    """Return a client to plan with; see Clients."""
    if not _has_client(made):
        return made

    async def look() -> Any:
        async with _entered(factory, _made_by(factory)) as client:
            return client

    return run(look)


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


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
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--service {factory}: {error}") from error
    except (Exception, SystemExit) as error:
        raise ValueError(f"--service {factory}: {_told(error)}") from error
    try:
        client = make()
        if inspect.isawaitable(client):
            client.close() if inspect.iscoroutine(client) else None
            raise TypeError("it must not be async")
        Service(client)
    except (Exception, SystemExit) as error:
        message = f"--service {factory}: {function}() failed: {_told(error)}"
        raise ValueError(message) from error
    return client
