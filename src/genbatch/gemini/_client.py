"""GeminiClient: from one prompt to one image."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Unpack

from anyio import to_thread

from genbatch._client import (
    HttpClient,
    JsonObject,
    Secret,
    find_base_url,
    find_key,
    is_fake,
    paid_image,
    read_images,
    with_retries,
)
from genbatch._money import Account
from genbatch._throttle import Throttle
from genbatch._values import (
    GenbatchError,
    Image,
    ImageRequest,
    ImageSettings,
    InvalidResponse,
    Prompt,
    takes_settings,
)
from genbatch.events import OnEvent

from ._answer import image_from, served_tier
from ._models import (
    TIMEOUT,
    asked_tier,
    canonical,
    expected_price,
    makes_images,
    model_id,
    refuse_retired,
    reserved_price,
    resolve,
)

if TYPE_CHECKING:
    import httpx
    import httpx2
    from google.auth.credentials import Credentials

    from ._sdk import Wire

DEFAULT_BASE_URL = "https://generativelanguage.googleapis.com"

# Both become parts of a URL, the location of its host.
_PROJECT = re.compile(r"[a-z0-9][a-z0-9.:-]*", re.ASCII)
_LOCATION = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*", re.ASCII)
_MOST_PAGES = 100  # of a list of models; a server could send pages for ever


class GeminiClient(HttpClient["Wire"]):
    """Generates images with Gemini, one call per prompt.

    Use it with ``async with``; one client, and its connections, serve any number of concurrent
    calls. Entering opens no task group, so it may live in an app's lifespan and be closed from
    another task. It runs under asyncio, uvloop and trio.

    Args:
        api_key: Where blank, GEMINI_API_KEY, then GOOGLE_API_KEY. It is sent to base_url only,
            never after a redirect, and shown in no message, log or repr.
        vertexai: Whether to call Vertex, with credentials in place of a key; its express mode,
            with a key, is not supported. Where None, GOOGLE_GENAI_USE_ENTERPRISE decides, or where
            that is not set, GOOGLE_GENAI_USE_VERTEXAI.
        project: For Vertex. Where None, GOOGLE_CLOUD_PROJECT, then the credentials' own.
        location: For Vertex. Where None, GOOGLE_CLOUD_LOCATION, then ``"global"``.
        credentials: For Vertex, from google-auth; refreshed as needed. Where None, the application
            default credentials.
        base_url: An https URL, or http for a loopback host. Where None, GOOGLE_GEMINI_BASE_URL (for
            Vertex GOOGLE_VERTEX_BASE_URL), then Google's own.
        http_client: Used instead of the client's own connections and never closed here; its
            timeouts do not apply.
        trust_env: Whether the client's own connections take HTTP_PROXY, HTTPS_PROXY, ALL_PROXY
            and NO_PROXY from the environment: http, https, or SOCKS proxies (with the extra
            ``socks``). SSL_CERT_FILE and SSL_CERT_DIR are always honoured.
        throttle: Keeps calls within the service's limits: one for all models, or a function from a
            full model id to one. Where None, each model has its own, which waits out rate
            limits; ``Throttle(patience=0)`` raises them to the caller.
        max_retries: Most attempts of a call after its first, not counting those that a rate limit
            rejects.
        timeout: Most seconds for each attempt, not counting waits for the throttle. Where None,
            120, and 300 for 4K images and for ``"pro"``, which take minutes at times.
        on_event: Called with each event of the client's calls, in batches too; see genbatch.events.

    Raises:
        Unauthorized: If there is no key; on entering, if there are no credentials.
        ValueError: If a setting is out of range, a key is given with Vertex or a setting of Vertex
            without it, or http_client follows redirects; on entering, if no project is known, or
            the file that GENBATCH_PRICES names is not one of prices.
        TypeError: If http_client is not asynchronous, or on_event is no function or an
            asynchronous one.
    """

    service = "gemini"
    default_model = "flash"

    def __init__(
        self,
        api_key: str | None = None,
        *,
        vertexai: bool | None = None,
        project: str | None = None,
        location: str | None = None,
        credentials: Credentials | None = None,
        base_url: str | None = None,
        http_client: httpx.AsyncClient | httpx2.AsyncClient | None = None,
        trust_env: bool = False,
        throttle: Throttle | Callable[[str], Throttle] | None = None,
        max_retries: int = 3,
        timeout: float | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        super().__init__(
            http_client=http_client,
            trust_env=trust_env,
            throttle=throttle,
            max_retries=max_retries,
            timeout=timeout,
            on_event=on_event,
        )
        self._vertex = find_vertex(
            vertexai, project, location, credentials, api_key=api_key, environ=os.environ
        )
        vertex = self._vertex is not None
        if vertex:
            self._secret, variable = Secret(name="token"), "GOOGLE_VERTEX_BASE_URL"
        else:
            self._secret = find_key(api_key, os.environ, "GEMINI_API_KEY", "GOOGLE_API_KEY")
            variable = "GOOGLE_GEMINI_BASE_URL"
        url = find_base_url(base_url, os.environ, variable, like=DEFAULT_BASE_URL)
        self._base_url = None if vertex and url is None else url or DEFAULT_BASE_URL
        self._given_timeout = timeout
        self._timeout = TIMEOUT if timeout is None else timeout  # of what makes no image

    def __repr__(self) -> str:
        vertex = "" if self._vertex is None else f" {self._vertex!r}"
        return f"<GeminiClient base_url={self._base_url!r}{vertex}>"

    def _connect(self) -> Wire:
        from ._sdk import Wire

        access = None
        if self._vertex is not None:
            from ._credentials import Access

            access = Access(self._vertex, self._secret, self._threads)
        return Wire(
            self._secret,
            self._base_url,
            self._http_client,
            self._given_timeout,
            access,
            trust_env=self._trust_env,
        )

    @takes_settings
    async def generate_image(
        self,
        prompt: str | Prompt | ImageRequest,
        *,
        budget: Account | None = None,
        price: float | None = None,
        **settings: Unpack[ImageSettings],
    ) -> Image:
        """Generate one image.

        Args:
            prompt: What to draw. A Prompt's own settings override those given beside it; an
                ImageRequest has them all.
            budget: A Budget that each attempt is paid from.
            price: US dollars an image, in place of the published prices.
            settings: See ImageSettings.

        Returns:
            The image, its type read from the bytes; further ones of the answer are its extras.

        Raises:
            ValueError: If the prompt is blank, a setting is not one that the model can do or
                google-genai sends, or an input image is no image; nothing has been sent.
            TypeError: If a setting is of another type than it must be.
            OSError: If an input image cannot be read.
            RateLimited: If the service rejects calls for now, and has done nothing else for as long
                as the throttle has patience.
            QuotaExhausted: If the model has no quota left today, or none at all.
            Unavailable: If the service cannot be reached, or fails, retries included.
            TimedOut: If no attempt was answered in time; also a TimeoutError.
            InvalidResponse: If the answer was damaged on its way, retries included.
            DamagedImage: If its image is cut off or fake, which is paid for; not retried.
            Rejected: If the service refuses the request, or has no such model.
            Unauthorized: If it refuses the key.
            Blocked: If a filter took the prompt or the image.
            NoImage: If the model answered without one.
            BudgetExhausted: If an attempt could exceed the budget.
            RuntimeError: If the client is not open.

        Retries: Only what may pass: lost connections, timeouts, 408, 500, 502, 503, 504 and damaged
        answers; may be paid for twice. A 429 is no error: the call waits, and is made again.

        Cancellation: An answer that has arrived is returned, and the cancellation strikes at the
        caller's next checkpoint. With an http_client of one's own, a native ``Task.cancel()`` may
        still lose it.
        """
        wire = self._opened()
        resolved = resolve(ImageRequest.of(prompt, settings), prompt)
        request = await read_images(resolved, self._threads)
        if self.is_vertex:  # for which google-genai looks for certificates on the disk
            await to_thread.run_sync(wire.check, request, limiter=self._threads)
        else:
            wire.check(request)
        return await paid_image(
            partial(wire.ask, request),
            lambda answer: _read(wire, answer, request, price),
            request=request,
            service=self.service,
            price=reserved_price(request) if price is None else price,
            account=budget,
            throttle=self.throttle(request.model),
            max_retries=self._max_retries,
            on_event=self.on_event,
            room=wire.room,
        )

    @staticmethod
    def resolve(
        request: ImageRequest, prompt: str | Prompt | ImageRequest | None = None
    ) -> ImageRequest:
        """Return a request with the model's full id, its settings checked, without a call.

        Args:
            request: For one image.
            prompt: What it was made of. If that names its own model, a thinking level given for
                all prompts is left out where its model does not have it.

        Raises:
            ValueError: If the model id is malformed, or the model does not support a setting.
            TypeError: If generation_config is not a mapping.
            Rejected: If the model is known to have been shut down.
        """
        request = resolve(request, prompt)
        refuse_retired(request.model)
        return replace(request, service=GeminiClient.service)

    @staticmethod
    def canonical(request: ImageRequest) -> ImageRequest:
        """Return a resolved request without settings that are its model's defaults."""
        return canonical(request) if request.service in ("", GeminiClient.service) else request

    @staticmethod
    def price(request: ImageRequest) -> float | None:
        """Return the most US dollars that an answer with one image should cost, None if unknown.

        Args:
            request: With the model's full id.
        """
        return reserved_price(request)

    @staticmethod
    def expected_price(request: ImageRequest) -> float | None:
        """Return the US dollars that one image is expected to cost, None if unknown.

        Args:
            request: With the model's full id.
        """
        return expected_price(request)

    def check(self, request: ImageRequest) -> None:
        """Refuse a request that google-genai would not send.

        A closed client looks at no more than generation_config.

        Raises:
            ValueError: If a setting is of the wrong type, or not one of this service.
        """
        if self._wire is not None or request.generation_config:
            from ._sdk import check_request  # slow to import

            check_request(request, vertex=self.is_vertex)

    def throttle(self, model: str = "flash") -> Throttle:
        """Return the throttle of a model.

        Raises:
            ValueError: If model cannot be a model id.
        """
        return self._throttles[model_id(model)]

    def is_fake(self, request: ImageRequest | None = None) -> bool:
        """Return whether its server, for whatever request, is a fake one; this may block."""
        return is_fake(self._base_url)

    def fingerprint(self, salt: str, *with_it: object) -> str:
        """Return what tells this account and server from others without the key.

        Args:
            salt: Without it, it cannot be computed.
            with_it: Further texts to tell apart.
        """
        if self._vertex is not None:  # whose token is another every hour
            secret, account = Secret(), (self._vertex.project, self._vertex.location)
            return secret.fingerprint(salt, self._base_url, *account, *with_it)
        return self._secret.fingerprint(salt, self._base_url, *with_it)

    @property
    def is_vertex(self) -> bool:
        """Whether it calls Vertex."""
        return self._vertex is not None

    async def models(self) -> list[str]:
        """Return the ids of the models that this key can make images with.

        The service does not say which models make images: those with known or telling ids are
        returned.

        Raises:
            Unauthorized: If the service refuses the key.
            GenbatchError: If the list cannot be fetched; as for generate_image.
            RuntimeError: If the client is not open.
        """
        wire = self._opened()
        found: dict[str, None] = {}
        token: str | None = None
        for _ in range(_MOST_PAGES):
            names, token = await with_retries(
                partial(wire.list_models, token), self._max_retries, lambda page: page
            )
            found |= dict.fromkeys(filter(makes_images, names))
            if token is None:
                return list(found)
        raise InvalidResponse(f"the service's list of models has more than {_MOST_PAGES} pages")


async def _read(
    wire: Wire, answer: JsonObject | InvalidResponse, request: ImageRequest, price: float | None
) -> Image:
    """Return the image of an answer.

    Raises:
        GenbatchError: If it has none.
    """
    if isinstance(answer, GenbatchError):
        raise answer
    await wire.fetch_images(answer)
    return image_from(answer, request, price, served_tier(answer) or asked_tier(request))


@dataclass(frozen=True, slots=True)
class Vertex:
    """Where on Vertex to call, and on whose account.

    Attributes:
        project: Id or number; None for the credentials' own.
        location: Such as ``"global"`` or ``"europe-west4"``.
        credentials: Of google-auth; None for the application default credentials.
    """

    project: str | None
    location: str
    credentials: Credentials | None = field(repr=False)


def server_of(base_url: str | None) -> str:
    """Return where a client with nothing but this URL calls; empty for the service's own.

    Raises:
        ValueError: If the URL, or the environment, is malformed.
    """
    vertex = find_vertex(None, None, None, None, api_key=None, environ=os.environ)
    variable = "GOOGLE_GEMINI_BASE_URL" if vertex is None else "GOOGLE_VERTEX_BASE_URL"
    url = find_base_url(base_url, os.environ, variable, like=DEFAULT_BASE_URL)
    place = "" if vertex is None else f"Vertex AI, {vertex.location}"
    return ", ".join(filter(None, (place, url)))


def find_vertex(
    vertexai: bool | None,
    project: str | None,
    location: str | None,
    credentials: Credentials | None,
    *,
    api_key: str | None,
    environ: Mapping[str, str],
) -> Vertex | None:
    """Return how to call Vertex, or None to call Gemini's own API.

    Arguments come first; with Vertex, GOOGLE_CLOUD_PROJECT and GOOGLE_CLOUD_LOCATION replace those
    that are blank.

    Args:
        vertexai: None leaves it to GOOGLE_GENAI_USE_ENTERPRISE, then GOOGLE_GENAI_USE_VERTEXAI.
        project: Id or number of a project.
        location: Name of a region, or ``"global"``.
        credentials: Credentials of google-auth.
        api_key: Must be blank with Vertex: its express mode is not supported.
        environ: The environment.

    Raises:
        ValueError: If one is malformed or is given without Vertex, or a key is given with Vertex.
    """
    if vertexai is None:
        vertexai = _asks_for_vertex(environ)
    if not vertexai:
        given = {"project": project, "location": location, "credentials": credentials}
        for name, value in given.items():
            if value is not None:
                raise ValueError(f"{name}= is for Vertex: pass vertexai=True too")
        return None
    if api_key and api_key.strip():
        raise ValueError(
            "Vertex takes credentials=, not api_key= (its express mode is not supported): set "
            "GOOGLE_CLOUD_PROJECT and run 'gcloud auth application-default login', or pass "
            "vertexai=False to use the key with the Gemini API"
        )
    project = project or environ.get("GOOGLE_CLOUD_PROJECT") or None
    location = location or environ.get("GOOGLE_CLOUD_LOCATION") or "global"
    if project is not None:
        check_project(project)
    if not _LOCATION.fullmatch(location):
        raise ValueError(f"not a location: {location!r}; one is like global or us-central1")
    return Vertex(project, location, credentials)


def _asks_for_vertex(environ: Mapping[str, str]) -> bool:
    """Return whether Vertex is to be called, as google-genai reads it from the environment.

    Google has renamed Vertex: the newer variable wins where both are set, even if it is blank.
    """
    names = ("GOOGLE_GENAI_USE_ENTERPRISE", "GOOGLE_GENAI_USE_VERTEXAI")
    values = [environ[name].strip().lower() in ("true", "1") for name in names if name in environ]
    if len(set(values)) > 1:
        warnings.warn(
            f"{' and '.join(names)} differ: the first is used, so unset the other", stacklevel=4
        )
    return bool(values) and values[0]


def check_project(project: str) -> None:
    """Refuse a project that cannot be part of a path.

    Raises:
        ValueError: If it cannot be a project.
    """
    if not _PROJECT.fullmatch(project):
        raise ValueError(f"not a project: {project!r}; one is like my-project-123")
