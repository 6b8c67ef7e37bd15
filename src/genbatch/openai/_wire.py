"""Attempts over HTTP. Slow to import, so it is imported when a client is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
from anyio import fail_after

from genbatch._client import JsonObject, Secret, parse_answer
from genbatch._client.http import LOST, HttpWire, cause_of, error_of
from genbatch._http import AnswerTooLarge, CapturedBody, captured_body, read_body
from genbatch._values import FAKE_HEADER, Image, ImageRequest, InvalidResponse, sniff_input_type

from ._answer import REQUEST_ID, error_from, error_told, image_from, is_refusal
from ._models import fields_of

if TYPE_CHECKING:
    import httpx2


class Wire(HttpWire):
    """An open client's connections.

    Args:
        secret: The key.
        base_url: Where to send it.
        http_client: Stays the caller's; None opens one.
        timeout: Most seconds for an attempt.
        trust_env: Whether our own connections use the proxies of the environment.

    Raises:
        ValueError: If a proxy of the environment cannot be used.
    """

    def __init__(
        self,
        secret: Secret,
        base_url: str,
        http_client: httpx.AsyncClient | httpx2.AsyncClient | None,
        timeout: float,
        *,
        trust_env: bool,
    ) -> None:
        super().__init__(http_client, trust_env=trust_env)
        self._secret = secret
        self._base_url = base_url.rstrip("/")
        self._timeout = timeout

    async def ask(self, request: ImageRequest) -> JsonObject | InvalidResponse:
        """Make one attempt; the request's input images are bytes.

        Returns:
            The answer's JSON, or the error of one that is too large but paid for. Nothing is
            awaited after its last byte, so that no cancellation can lose it.

        Raises:
            TimedOut: If the answer is not complete in time, however steadily it drips.
            GenbatchError: If the service or the connection failed.
        """
        await self.turn()
        try:
            with fail_after(self._timeout), captured_body() as captured:
                status = await self._send(request, captured)
        except LOST as exc:
            error = error_of(exc, model=request.model, timeout=self._timeout, secret=self._secret)
            error.__cause__ = cause_of(exc, self._secret)
            if isinstance(exc, AnswerTooLarge) and isinstance(error, InvalidResponse):
                return error
        else:
            if status == 200:
                answer = parse_answer(captured.take(), request.model, self._secret.hide)
                if not is_refusal(answer):
                    named = captured.headers.get(REQUEST_ID, "")
                    fake = captured.headers.get(FAKE_HEADER)
                    named = self._secret.hide(named)
                    return {**answer, REQUEST_ID: named or None, FAKE_HEADER: fake}
                told = answer, captured.headers
                error = error_told(status, *told, request.model, self._secret)
            else:
                error = error_from(status, captured, request.model, self._secret)
        # Outside the except clause, so that a cause that shows the key is not even the context.
        raise error

    async def read(
        self, request: ImageRequest, price: float | None, answer: JsonObject | InvalidResponse
    ) -> Image:
        """Return the image of an answer; a price is that of an image.

        Raises:
            GenbatchError: If it has none.
        """
        if isinstance(answer, InvalidResponse):
            raise answer
        return image_from(answer, request, price)

    async def _send(self, request: ImageRequest, captured: CapturedBody) -> int:
        """Send a request, capture the body of its answer, and return the status."""
        fields: dict[str, Any] = fields_of(request)
        if request.images:
            path, content = "edits", {"data": fields, "files": _files_of(request)}
        else:
            path, content = "generations", {"json": fields}
        url = f"{self._base_url}/images/{path}"
        headers = {"authorization": f"Bearer {self._secret.reveal()}"}
        async with self.http.stream("POST", url, headers=headers, timeout=None, **content) as got:
            if captured.body is None:  # an error, or a client that is not ours
                captured.headers = got.headers
                captured.body = await (got.aread() if got.is_stream_consumed else read_body(got))
            status: int = got.status_code
        return status


def _files_of(request: ImageRequest) -> list[tuple[str, tuple[str, object, str]]]:
    """Return the input images as parts of a form."""
    files: list[tuple[str, tuple[str, object, str]]] = []
    for number, image in enumerate(request.images, 1):
        mime_type = sniff_input_type(image) or ""  # type: ignore[arg-type]  # read
        name = f"image-{number}.{mime_type.partition('/')[2]}"
        files.append(("image[]", (name, image, mime_type)))
    return files
