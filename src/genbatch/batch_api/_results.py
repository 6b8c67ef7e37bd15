"""From a line of a job's results to an image, or to the error that says why there is none."""

from __future__ import annotations

from collections.abc import Callable

from genbatch._values import GenbatchError, Image
from genbatch.gemini import JsonObject, image_from, mapping, objects, parse_answer
from genbatch.gemini.wire import of_status

# Statuses of the service's own kind, as what a live call is answered instead.
_HTTP = {1: 503, 3: 400, 4: 504, 5: 404, 7: 403, 8: 429, 9: 400, 10: 503, 11: 400, 16: 401}


def read_result(line: bytes, model: str, hide: Callable[[str], str]) -> Image:
    """Return the image of a line of results, priced as one that was made live.

    Args:
        line: As it came; images are decoded from it without a copy.
        model: Full id of the model asked.
        hide: Keeps a secret out of messages.

    Raises:
        GenbatchError: What a live call would have raised.
    """
    row = parse_answer(line, model, hide)
    if isinstance(row.get("response"), dict):
        return image_from(row["response"], model)
    raise _error(mapping(row.get("error") or row.get("status")), model)


def _error(told: JsonObject, model: str) -> GenbatchError:
    code = told.get("code")
    number = code if isinstance(code, int) else 0
    message = str(told.get("message") or "no message")
    status = number if number >= 100 else _HTTP.get(number, 500)
    error = of_status(status, message, objects(told.get("details")), model)
    error.status = status
    return error
