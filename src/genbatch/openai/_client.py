"""OpenAIClient: from one prompt to one image."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Unpack

from genbatch._client import (
    HttpClient,
    find_base_url,
    find_key,
    is_fake,
    paid_image,
    read_images,
)
from genbatch._money import Account
from genbatch._throttle import Throttle
from genbatch._values import (
    Image,
    ImageRequest,
    ImageSettings,
    Prompt,
    sniff_input_type,
    takes_settings,
)
from genbatch.events import OnEvent

from . import _models

if TYPE_CHECKING:
    import httpx
    import httpx2

    from ._wire import Wire

DEFAULT_BASE_URL = "https://api.openai.com/v1"
_TIMEOUT = 300.0  # seconds: images of the highest quality take minutes
_INPUT_TYPES = ("image/png", "image/jpeg", "image/webp")


class OpenAIClient(HttpClient["Wire"]):
    """Generates images with OpenAI's Images API, or a server that speaks it, one call per prompt.

    Use it as a GeminiClient. A prompt with input images is an edit. ``aspect_ratio`` and
    ``image_size`` make a size; ``size``, ``quality``, ``background``, ``output_format`` and all
    else goes into ``generation_config``. ``flare`` and ``sunburst`` stand for the newest models of
    these names.

    Args:
        api_key: Where blank, OPENAI_API_KEY. It is sent to base_url only, never after a redirect,
            and shown in no message, log or repr.
        base_url: An https URL, or http for a loopback host. Where None, OPENAI_BASE_URL, then
            OpenAI's own.
        timeout: Most seconds for each attempt, not counting waits for the throttle; 300 where None.

    The others are GeminiClient's, and so is what it raises.

    Attributes:
        service: Whose images they are: ``"openai"``.
        default_model: The model of a prompt that names none.
    """

    service = "openai"
    default_model = _models.DEFAULT_MODEL

    def __init__(
        self,
        api_key: str | None = None,
        *,
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
        self._secret = find_key(api_key, os.environ, "OPENAI_API_KEY")
        url = find_base_url(base_url, os.environ, "OPENAI_BASE_URL", like=DEFAULT_BASE_URL)
        self._base_url = url or DEFAULT_BASE_URL
        self._timeout = _TIMEOUT if timeout is None else timeout

    def __repr__(self) -> str:
        return f"<OpenAIClient base_url={self._base_url!r}>"

    def _connect(self) -> Wire:
        from ._wire import Wire

        return Wire(
            self._secret,
            self._base_url,
            self._http_client,
            self._timeout,
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

        Arguments, errors, retries and cancellation are those of GeminiClient.generate_image.

        Raises:
            ValueError: If the prompt is blank, a setting is none of this service's, or an input
                image is not one that it takes; nothing has been sent.
        """
        wire = self._opened()
        if not isinstance(prompt, ImageRequest):
            settings = {"model": self.default_model, **settings}
        resolved = self.resolve(ImageRequest.of(prompt, settings), prompt)
        request = await read_images(resolved, self._threads)
        self.check(request)
        return await paid_image(
            partial(wire.ask, request),
            partial(wire.read, request, price),
            request=request,
            service=self.service,
            price=self.price(request) if price is None else price,
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
        """Return a request with the model's full id, its settings checked; no call is made.

        Args:
            request: For one image.
            prompt: What it was made of. If that names its own model, a thinking level given for all
                prompts is left out.

        Raises:
            ValueError: If the model id is malformed, or a setting is none of this service's.
        """
        return _models.resolve(request, prompt)

    def check(self, request: ImageRequest) -> None:
        """Refuse a request that the service would refuse.

        Raises:
            ValueError: If it has input images as bytes of a type that the service does not take,
                or as resolve.
        """
        fields = _models.fields_of(request)
        for number, image in enumerate(request.images, 1):
            if isinstance(image, bytes) and sniff_input_type(image) not in _INPUT_TYPES:
                raise ValueError(f"input image {number} is not a PNG, JPEG or WebP image")
        nested = [name for name, value in fields.items() if isinstance(value, dict | list)]
        if request.images and nested:
            raise ValueError(f"{nested[0]} cannot be sent beside input images")

    @staticmethod
    def canonical(request: ImageRequest) -> ImageRequest:
        """Return a resolved request with both settings of its size, where it has one of them."""
        ratio, size = request.aspect_ratio, request.image_size
        if request.service not in ("", OpenAIClient.service) or (ratio is None and size is None):
            return request
        return replace(request, aspect_ratio=ratio or "1:1", image_size=size or "1K")

    @staticmethod
    def price(request: ImageRequest) -> float | None:
        """Return the most that an answer to a resolved request with one image should cost.

        Returns:
            US dollars, None where no price is known.
        """
        return _models.reserved_price(request)

    @staticmethod
    def expected_price(request: ImageRequest) -> float | None:
        """Return what an answer is expected to cost, as price."""
        return _models.expected_price(request)

    def throttle(self, model: str = _models.DEFAULT_MODEL) -> Throttle:
        """Return the throttle of a model.

        Raises:
            ValueError: If model cannot be a model id.
        """
        return self._throttles[_models.model_id(model)]

    def is_fake(self, request: ImageRequest | None = None) -> bool:
        """Return whether its server, for whatever request, is a fake one; this may block."""
        return is_fake(self._base_url)

    def fingerprint(self, salt: str, *with_it: object) -> str:
        """As that of GeminiClient."""
        return self._secret.fingerprint(salt, self._base_url, *with_it)
