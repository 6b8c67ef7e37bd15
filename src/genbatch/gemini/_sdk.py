"""Attempts through google-genai. Slow to import, so it is imported when a client is opened.

The SDK builds requests and reads errors. It returns the body of an answer unread: its own parser
warns about unknown enum values and is slow with images.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import httpx
from anyio import CancelScope, fail_after
from google import genai
from google.genai import types
from google.oauth2.credentials import Credentials
from pydantic import ValidationError
from pydantic.alias_generators import to_camel, to_snake

from genbatch._client import JsonObject, Secret, excerpt, parse_answer
from genbatch._client.http import HttpWire, cause_of
from genbatch._http import AnswerTooLarge, captured_body
from genbatch._values import (
    FAKE_HEADER,
    GenbatchError,
    ImageRequest,
    InvalidResponse,
    sniff_input_type,
)

from ._answer import TIER, file_parts
from ._file_parts import fetch_file, fetch_images
from ._models import TIMEOUT, default_timeout, type_in_bucket
from ._translate import THIRD_PARTY, error_within, translate

if TYPE_CHECKING:
    import httpx2
    from pydantic_core import ErrorDetails

    from ._credentials import Access

# Fields of the SDK by their names in Python and in JSON.
_FIELDS = {
    name: field
    for field in types.GenerateContentConfig.model_fields
    for name in (field, to_camel(field))
}
# How the SDK has to behave for this client. Nothing here is about the image.
_OURS: Mapping[str, Any] = {
    "should_return_http_response": True,
    # On by default: each would send further paid requests unseen.
    "automatic_continuation": False,
    "automatic_function_calling": types.AutomaticFunctionCallingConfig(disable=True),
}
_INLINE: Mapping[int, str] = {}  # no image has a URI
# What a value should be, by the first word of the error's type.
_KINDS = {
    "bool": "true or false",
    "bytes": "bytes",
    "dict": "an object",
    "float": "a number",
    "int": "a whole number",
    "list": "a list",
    "mapping": "an object",
    "model": "an object",
    "string": "a text",
}
# What it says of a field that it sends to the other of Gemini's two APIs alone.
_ELSEWHERE = re.compile(r"(\w+) (parameter )?is only supported in ")
_NOT_TO_BE_GIVEN = {*_OURS, "http_options", "continuation_token"}


class Wire(HttpWire):
    """An open client of the SDK and its connections.

    Args:
        secret: The key.
        base_url: Where to send it; None for the SDK's default.
        http_client: Stays the caller's; None opens one.
        timeout: Most seconds for an attempt; None for what its model and size take.
        access: For Vertex; the key is then its token.
        trust_env: Whether our own connections use the proxies of the environment.

    Attributes:
        timeout: Most seconds for a request that makes no image.

    Raises:
        ValueError: If a proxy of the environment cannot be used.
    """

    def __init__(
        self,
        secret: Secret,
        base_url: str | None,
        http_client: httpx.AsyncClient | httpx2.AsyncClient | None,
        timeout: float | None,
        access: Access | None = None,
        *,
        trust_env: bool = False,
    ) -> None:
        super().__init__(http_client, trust_env=trust_env)
        self._secret = secret
        self._access = access
        self._timeout = timeout
        self.timeout = TIMEOUT if timeout is None else timeout
        self._home = base_url if access is None else None  # Vertex keeps files elsewhere
        options = types.HttpOptions(
            httpx_async_client=self.http,
            # Not used, but the SDK would build one, which reads proxies from the environment.
            httpx_client=httpx.Client(transport=httpx.BaseTransport()),
            base_url=base_url,
            api_version="v1beta" if access is None else "v1beta1",
            timeout=_milliseconds(self.timeout),
        )
        # The SDK builds its types at their first use, which would block the event loop for 50 ms.
        json_of(ImageRequest("none", model="none"), vertex=access is not None)
        with _no_warning_about_two_keys():
            if access is None:
                key = secret.reveal()
                self._sdk = genai.Client(api_key=key, vertexai=False, http_options=options)
            else:
                self._sdk = genai.Client(
                    vertexai=True,
                    project=access.project,
                    location=access.location,
                    credentials=access.for_sdk,
                    http_options=options,
                )

    def check(self, request: ImageRequest) -> None:
        """Refuse a request that the SDK would not send; as check_request."""
        check_request(request, vertex=self._access is not None)

    async def ask(self, request: ImageRequest) -> JsonObject | InvalidResponse:
        """Make one attempt.

        Returns:
            The answer's JSON, or the error of one that is too large but paid for. Nothing is
            awaited after its last byte, so that no cancellation can lose it.

        Raises:
            TimedOut: If the answer is not complete in time, however steadily it drips.
            GenbatchError: If the service or the connection failed.
        """
        if self._access is not None:
            await self._access.ensure_fresh()
        await self.turn()
        # Built outside the try: a setting of the wrong type is the caller's mistake.
        timeout = default_timeout(request) if self._timeout is None else self._timeout
        contents = contents_of(request)
        config = config_of(request, None if timeout == self.timeout else timeout)
        try:
            with fail_after(timeout), captured_body() as captured:
                answer = await self._sdk.aio.models.generate_content(
                    model=request.model, contents=contents, config=config
                )
        except THIRD_PARTY as exc:
            error = self._translate(exc, request.model, timeout)
            if isinstance(exc, AnswerTooLarge) and isinstance(error, InvalidResponse):
                return error
        else:
            assert answer.sdk_http_response is not None  # noqa: S101 - narrows the type
            if captured.body is None:  # a client that is not ours
                captured.body = answer.sdk_http_response.body
                captured.headers = answer.sdk_http_response.headers or {}
            del answer  # or an error's traceback would hold the body as it was sent
            parsed = parse_answer(captured.take(), request.model, self._secret.hide)
            told = error_within(parsed, request.model) if "error" in parsed else None
            if told is None:
                of_head = {name: captured.headers.get(name) for name in (TIER, FAKE_HEADER)}
                return {**parsed, **of_head}
            error = told
        # Outside the except clause, so that a cause that shows the key is not even the context.
        raise error

    async def fetch_images(self, answer: JsonObject) -> None:
        """Fetch the images that an answer names by URL, where they are the service's own files.

        Cancellation: strikes afterwards: they are paid for.
        """
        if not file_parts(answer):
            return
        fetch = partial(
            fetch_file,
            http=self.http,
            base_url=self._home,
            secret=self._secret,
            timeout=self.timeout,
        )
        with CancelScope(shield=True):
            await fetch_images(answer, fetch)

    async def list_models(self, token: str | None) -> tuple[list[str], str | None]:
        """Fetch one page of the list of models, in one attempt.

        Args:
            token: Of the page; None for the first.

        Returns:
            Ids of the models that support generateContent, and the token of the next page or None.

        Raises:
            GenbatchError: If the service or the connection failed.
        """
        if self._access is not None:
            await self._access.ensure_fresh()
        config = types.ListModelsConfig(page_size=1000, page_token=token)
        try:
            with fail_after(self.timeout):
                page = await self._sdk.aio.models.list(config=config)
        except THIRD_PARTY as exc:
            error = self._translate(exc, "the service", self.timeout)
            error.maybe_paid = False  # lists are free
        # The SDK trusts a list of models to have the right shape.
        except (AttributeError, KeyError, TypeError):
            error = InvalidResponse("the service sent an invalid list of models")
        else:
            names = [
                (model.name or "").rpartition("models/")[2]
                for model in page.page
                # Vertex does not say what a model supports.
                if "generateContent" in (model.supported_actions or ["generateContent"])
            ]
            return names, page.config.get("page_token") or None
        raise error

    def _translate(self, exc: Exception, model: str, timeout: float) -> GenbatchError:
        error = translate(exc, model=model, timeout=timeout, secret=self._secret)
        error.__cause__ = cause_of(exc, self._secret)
        return error


def check_request(request: ImageRequest, *, vertex: bool) -> None:
    """Refuse a request that the SDK would not send.

    Raises:
        ValueError: If a setting is of the wrong type, or not one of this service.
    """
    config_of(request)
    if request.generation_config or request.system_instruction is not None:
        json_of(replace(request, images=()), vertex=vertex)


class _NotSent(Exception):
    """Carries the body of a request out of the SDK. An answer with it would show in logs."""


def json_of(
    request: ImageRequest, uris: Mapping[int, str] = _INLINE, *, vertex: bool = False
) -> bytes:
    """Return the JSON that an attempt sends, on one line. May be called from any thread.

    Args:
        request: Its input images are bytes.
        uris: By their positions, URIs of input images that the service has already.

    Raises:
        ValueError: As config_of, and if the SDK refuses to send it.
    """
    contents, config = contents_of(request, uris), config_of(request)
    sdk = _nowhere(vertex=vertex)
    try:
        sdk.models.generate_content(model=request.model, contents=contents, config=config)
    except _NotSent as sent:
        content: bytes = sent.args[0]
        return content
    except (AttributeError, TypeError):  # what it stumbles over
        message = "this request cannot be sent: a value of generation_config is of the wrong type"
        raise ValueError(message) from None
    except ValueError as exc:  # what it refuses
        message = f"this request cannot be sent: {excerpt(str(exc))}"
        if (found := _ELSEWHERE.match(str(exc))) is not None:
            api = "the Gemini API" if vertex else "Vertex AI"
            message = f"generation_config: {found[1]} is only for {api}"
        raise ValueError(message) from None
    raise AssertionError("the SDK has sent nothing")


@cache
def _nowhere(*, vertex: bool) -> genai.Client:
    """Return a client of the SDK whose transport sends nothing."""

    def refuse(request: httpx.Request) -> httpx.Response:
        raise _NotSent(request.content)

    transport = httpx.MockTransport(refuse)
    options = types.HttpOptions(
        httpx_client=httpx.Client(transport=transport),
        httpx_async_client=httpx.AsyncClient(transport=transport),
    )
    with _no_warning_about_two_keys():
        if not vertex:
            return genai.Client(api_key="none", vertexai=False, http_options=options)
        token: Any = Credentials("none")  # type: ignore[no-untyped-call]  # never refreshed
        return genai.Client(
            vertexai=True,
            project="none",
            location="global",
            credentials=token,
            http_options=options,
        )


def _milliseconds(timeout: float) -> int | None:
    return None if math.isinf(timeout) else math.ceil(timeout * 1000)


def contents_of(request: ImageRequest, uris: Mapping[int, str] = _INLINE) -> types.Content:
    """Return the text and the input images; as json_of."""
    parts: list[types.Part] = [types.Part(text=request.text)]
    for position, image in enumerate(request.images):
        if isinstance(image, str):  # read_images has left nothing else as text
            parts.append(types.Part(file_data=_file_of(image)))
            continue
        mime_type = sniff_input_type(image)  # type: ignore[arg-type]  # read
        if (uri := uris.get(position)) is not None:
            file = types.FileData(file_uri=uri, mime_type=mime_type)
            parts.append(types.Part(file_data=file))
            continue
        blob = types.Blob(data=image, mime_type=mime_type)  # type: ignore[arg-type]  # read
        parts.append(types.Part(inline_data=blob))
    return types.Content(role="user", parts=parts)


_FILES = "https://generativelanguage.googleapis.com/v1beta/"


def _file_of(name: str) -> types.FileData:
    """Return a reference to a file that the service has; as type_in_bucket."""
    if not name.startswith("gs://"):
        return types.FileData(file_uri=_FILES + name)
    return types.FileData(file_uri=name, mime_type=type_in_bucket(name))


def config_of(request: ImageRequest, timeout: float | None = None) -> types.GenerateContentConfig:
    """Return the settings of the image and of the SDK.

    Args:
        request: Has those of the image.
        timeout: Seconds, where they differ from the client's.

    Raises:
        ValueError: If a setting is of the wrong type, or generation_config has a key twice or one
            that the client sets.
    """
    fields, raw = _sorted_out(request.generation_config or {})
    try:
        _override(fields, request)
        if thinking := fields.pop("thinking_config", None):
            # The SDK would leave its fields in snake case.
            raw["thinkingConfig"] = thinking.model_dump(
                mode="json", by_alias=True, exclude_none=True
            )
        options: dict[str, Any] = {"extra_body": {"generationConfig": raw}} if raw else {}
        if timeout is not None:
            options["timeout"] = _milliseconds(timeout)
        if options:
            fields["http_options"] = types.HttpOptions(**options)
        fields = {"response_modalities": ["IMAGE"], **fields, **_OURS}
        return types.GenerateContentConfig(**fields)
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        place = (*_PARENTS.get(exc.title, ()), *first["loc"])
        given = request.generation_config or {}
        named = next((name for name in given if place and _FIELDS.get(name) == place[0]), None)
        if named is None:
            where, must = ".".join(map(str, place)) or exc.title, _must(first)
        else:  # as it was given there
            found, is_whole = _found_in(given[named], place[1:])
            where = f"generation_config {'.'.join((named, *found))}"
            must = _must(first) if is_whole else "has an invalid value"
        raise ValueError(f"{where} {must}, got {first['input']!r:.100}") from None
    except AttributeError:  # the SDK's enumerations fail so on anything but a string
        message = "generation_config: a field that takes one of several names must be a text"
        raise ValueError(message) from None


_PARENTS = {"ImageConfig": ("image_config",), "ThinkingConfig": ("thinking_config",)}


def _found_in(value: Any, place: Sequence[int | str]) -> tuple[list[str], bool]:
    """Return the place of an error in a value, and whether it ends there.

    Pydantic puts the names of the types that a value may have between those of fields.
    """
    found: list[str] = []
    is_there = True
    for part in place:
        names = (part, to_snake(part)) if isinstance(part, str) else (part,)
        within = range(len(value)) if isinstance(value, list) else value
        is_there = isinstance(within, Mapping | range) and any(name in within for name in names)
        if is_there:
            name = next(name for name in names if name in within)
            value = value[name]
            found.append(str(name))
    return found, is_there


def _must(error: ErrorDetails) -> str:
    """Return what a setting has to be, in our words."""
    if error["type"] == "extra_forbidden":
        return "is not a field that there is"
    if expected := error.get("ctx", {}).get("expected"):
        return f"must be {expected}"
    kind = error["type"].partition("_")[0]
    return f"must be {_KINDS[kind]}" if kind in _KINDS else "has an invalid value"


def _sorted_out(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields that the SDK knows, by its names, and those that are sent as they are."""
    fields: dict[str, Any] = {}
    raw: dict[str, Any] = {}
    for name, value in given.items():
        field = _FIELDS.get(name)
        if field in _NOT_TO_BE_GIVEN:
            raise ValueError(f"generation_config must not have {name!r}: the client sets it")
        if field in fields:
            raise ValueError(f"generation_config has {field!r} twice: as {name!r} too")
        if field is None:
            raw[name] = value
        else:
            fields[field] = value
    return fields, raw


def _override(fields: dict[str, Any], request: ImageRequest) -> None:
    """Let the request's own settings override those in fields."""
    named = {
        "temperature": request.temperature,
        "seed": request.seed,
        "system_instruction": request.system_instruction,
        "image_config": _merged(
            types.ImageConfig,
            fields.get("image_config"),
            aspect_ratio=request.aspect_ratio,
            image_size=request.image_size,
        ),
        "thinking_config": _merged(
            types.ThinkingConfig, fields.get("thinking_config"), thinking_level=request.thinking
        ),
    }
    fields.update({name: value for name, value in named.items() if value is not None})


def _merged(kind: type[Any], given: object, **named: object) -> Any:
    """Return given as kind, overridden by what of named is not None; None if both are empty."""
    named = {name: value for name, value in named.items() if value is not None}
    if given is None:
        return kind(**named) if named else None
    own = kind.model_validate(given).model_dump(exclude_unset=True)
    return kind.model_validate(own | named)


@contextmanager
def _no_warning_about_two_keys() -> Iterator[None]:
    """Suppress the SDK's warning that it prefers GOOGLE_API_KEY: it is given a key."""

    def other_than_that(record: logging.LogRecord) -> bool:
        return "Both GOOGLE_API_KEY and GEMINI_API_KEY" not in record.getMessage()

    logger = logging.getLogger("google_genai._api_client")
    logger.addFilter(other_than_that)
    try:
        yield
    finally:
        logger.removeFilter(other_than_that)
