"""Errors of the SDK and of HTTP become genbatch's own, and none of them shows the key."""

from __future__ import annotations

from typing import Any

import httpcore
import httpcore2
import httpx
import httpx2
import pydantic
import pytest
from google.genai import errors

from genbatch._client import Secret
from genbatch._client.http import showable
from genbatch._values import (
    GenbatchError,
    InvalidResponse,
    QuotaExhausted,
    RateLimited,
    Rejected,
    TimedOut,
    Unauthorized,
    Unavailable,
)
from genbatch.gemini._translate import THIRD_PARTY, translate

KEY = "AIza-canary-key-that-nobody-may-see"
MODEL = "gemini-3-pro-image"


def translated(exc: Exception) -> GenbatchError:
    assert isinstance(exc, THIRD_PARTY)
    return translate(exc, model=MODEL, timeout=120.0, secret=Secret(KEY))


def from_status(
    status: int,
    message: object = "Something is wrong.",
    *,
    details: object = (),
    headers: dict[str, str] | None = None,
) -> GenbatchError:
    """Return the error for an answer of this status, through the SDK's own reading of it."""
    body = {"error": {"code": status, "message": message, "details": details}}
    with pytest.raises(errors.APIError) as caught:
        errors.APIError.raise_error(status, body, httpx.Response(status, headers=headers))
    error = translated(caught.value)
    assert error.status == status
    return error


def quota(quota_id: str) -> dict[str, Any]:
    return {"@type": "google.rpc.QuotaFailure", "violations": [{"quotaId": quota_id}]}


def retry_info(delay: str) -> dict[str, Any]:
    return {"@type": "google.rpc.RetryInfo", "retryDelay": delay}


@pytest.mark.parametrize("status", [400, 404, 409, 413])
def test_refused_request_names_the_model_and_what_the_server_says(status: int) -> None:
    error = from_status(status)
    assert type(error) is Rejected
    assert str(error) == f"{MODEL} refused the request ({status}): Something is wrong."


@pytest.mark.parametrize("status", [401, 403])
def test_refused_key_is_unauthorized(status: int) -> None:
    assert type(from_status(status)) is Unauthorized


def test_invalid_key_is_unauthorized_although_its_status_is_400() -> None:
    error_info = {"@type": "google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
    assert type(from_status(400, details=[error_info])) is Unauthorized


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504, 529])
def test_server_trouble_is_unavailable(status: int) -> None:
    error = from_status(status)
    assert type(error) is Unavailable
    assert not error.maybe_paid


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirect_is_rejected(status: int) -> None:
    error = from_status(status, headers={"location": "https://elsewhere.example"})
    assert type(error) is Rejected
    assert "redirect" in str(error)


def test_other_success_is_an_invalid_response() -> None:
    error = from_status(202)
    assert type(error) is InvalidResponse
    assert error.maybe_paid


@pytest.mark.parametrize("details", [None, "details", [7], [{"violations": 7}], {"reason": 1}])
def test_details_of_any_shape_are_read(details: object) -> None:
    assert type(from_status(429, details=details)) is RateLimited


@pytest.mark.parametrize("message", [None, "", 7, {"text": "x"}, ["x"]])
def test_messages_of_any_shape_are_read(message: object) -> None:
    assert MODEL in str(from_status(400, message))


@pytest.mark.parametrize(
    ("details", "headers", "expected"),
    [
        ([], {}, None),
        ([retry_info("53s")], {}, 53.0),
        ([retry_info("1.5s"), quota("PerMinute")], {}, 1.5),
        ([], {"retry-after": "30"}, 30.0),
        ([retry_info("53s")], {"retry-after": "60"}, 60.0),
        ([retry_info("soon")], {"retry-after": "later"}, None),
        ([retry_info("-1s")], {"retry-after": "inf"}, None),
        (
            [],
            {
                "date": "Wed, 21 Oct 2015 07:28:00 GMT",
                "retry-after": "Wed, 21 Oct 2015 07:28:42 GMT",
            },
            42.0,
        ),
        (
            [],
            {
                "date": "Wed, 21 Oct 2015 07:28:00 GMT",
                "retry-after": "Wed, 21 Oct 2015 07:27:00 GMT",
            },
            0.0,
        ),
        (
            [],
            {
                "date": "Wed, 21 Oct 2015 07:28:00 -0000",
                "retry-after": "Wed, 21 Oct 2015 07:28:42 GMT",
            },
            None,
        ),
        ([], {"retry-after": "Wed, 21 Oct 2015 07:28:42 GMT"}, None),
    ],
)
def test_rate_limit_tells_how_long_the_server_asks_to_wait(
    details: list[object], headers: dict[str, str], expected: float | None
) -> None:
    error = from_status(429, details=details, headers=headers)
    assert isinstance(error, RateLimited)
    assert error.retry_after == expected


def test_daily_quota_is_believed_beside_a_short_delay() -> None:
    error = from_status(429, details=[quota("GenerateRequestsPerDayPerProject"), retry_info("47s")])
    assert type(error) is QuotaExhausted
    said = "the service says: Something is wrong."
    why = f"daily quota of {MODEL} is used up: rerun after midnight Pacific"
    assert str(error) == f"{why}; {said}"


def test_limit_of_zero_is_no_quota_at_all() -> None:
    error = from_status(429, "Quota exceeded, limit: 0, model: x", details=[quota("PerDay")])
    assert type(error) is QuotaExhausted
    said = "the service says: Quota exceeded, limit: 0, model: x"
    assert str(error) == f"no quota for {MODEL}: enable billing or choose another model; {said}"


@pytest.mark.parametrize("message", ["limit: 10", "limit: 0.5", "unlimit: 0"])
def test_other_limits_pass(message: str) -> None:
    assert type(from_status(429, message)) is RateLimited


@pytest.mark.parametrize("library", [httpx, httpx2, httpcore, httpcore2])
@pytest.mark.parametrize(
    ("name", "maybe_paid"),
    [
        ("ConnectError", False),
        ("WriteError", False),
        ("ProxyError", False),
        ("UnsupportedProtocol", False),
        ("ReadError", True),
        ("RemoteProtocolError", True),
    ],
)
def test_lost_connection_is_unavailable_and_maybe_paid_once_the_request_was_sent(
    library: Any, name: str, maybe_paid: bool
) -> None:
    error = translated(getattr(library, name)(""))
    assert type(error) is Unavailable
    assert error.maybe_paid is maybe_paid
    assert name in str(error)


def test_socket_error_that_httpx_let_through_is_unavailable() -> None:
    assert type(translated(BrokenPipeError("broken pipe"))) is Unavailable


@pytest.mark.parametrize("library", [httpx, httpx2])
def test_damaged_answer_is_an_invalid_response(library: Any) -> None:
    damaged = [library.DecodingError("bad gzip"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x")]
    try:
        pydantic.TypeAdapter(int).validate_python("x")
    except pydantic.ValidationError as exc:
        damaged.append(exc)
    assert len(damaged) == 3
    for exc in damaged:
        error = translated(exc)
        assert type(error) is InvalidResponse
        assert error.maybe_paid


@pytest.mark.parametrize(
    ("exc", "maybe_paid"),
    [
        (TimeoutError(), True),
        (httpx.ReadTimeout(""), True),
        (httpcore.ReadTimeout(""), True),
        (httpx2.ConnectTimeout(""), False),
        (httpx.WriteTimeout(""), False),
        (httpcore2.PoolTimeout(""), False),
    ],
)
def test_timeout_may_have_been_paid_once_the_request_was_sent(
    exc: Exception, maybe_paid: bool
) -> None:
    error = translated(exc)
    assert type(error) is TimedOut
    assert str(error) == f"no answer from {MODEL} within 120 s"
    assert error.maybe_paid is maybe_paid


@pytest.mark.parametrize("status", [400, 403, 408, 429, 503])
def test_every_error_answer_tells_the_delay_asked_for(status: int) -> None:
    error = from_status(status, details=[retry_info("1.5s")], headers={"retry-after": "7"})
    assert error.retry_after == 7.0


def test_delay_beside_a_daily_quota_is_not_told() -> None:
    assert from_status(429, details=[quota("PerDay"), retry_info("47s")]).retry_after is None


@pytest.mark.parametrize(
    ("details", "headers", "expected"),
    [
        ([], {}, None),
        ([], {"x-request-id": "r-1"}, "r-1"),
        ([], {"X-Goog-Request-Id": "r-2"}, "r-2"),
        ([{"@type": "google.rpc.RequestInfo", "requestId": "r-3"}], {"x-request-id": "r"}, "r-3"),
        ([{"requestId": 7}], {}, "7"),
        ([{"requestId": ""}, {"requestId": None}], {}, None),
        ([], {"x-request-id": "r" * 300}, "r" * 99 + "…"),
        ([], {"x-request-id": KEY}, "[API key]"),
    ],
)
def test_request_id_comes_from_the_error_or_a_header(
    details: list[object], headers: dict[str, str], expected: str | None
) -> None:
    assert from_status(503, details=details, headers=headers).request_id == expected


def of_missing(model: str) -> str:
    exc = errors.APIError(404, {"error": {"message": "It is not found."}})
    return str(translate(exc, model=model, timeout=120.0, secret=Secret(KEY)))


@pytest.mark.parametrize(
    "model", ["gemini-3.1-flash-image", "gemini-2.5-flash-image", "imagen-4.0-generate-001"]
)
def test_retired_model_is_told_with_the_one_to_use(model: str) -> None:
    assert of_missing(model) == (
        f"{model} was shut down: use 'flash' (gemini-nano-banana-2.1); "
        "the service says (404): It is not found."
    )


def test_unknown_model_is_told_with_those_there_are() -> None:
    assert of_missing("gemini-99-image") == (
        "gemini-99-image was not found: use 'flash' (gemini-nano-banana-2.1), "
        "'pro' (gemini-3-pro-image) or 'lite' (gemini-3.1-flash-lite-image); "
        "the service says (404): It is not found."
    )


def test_key_that_the_server_echoes_is_hidden() -> None:
    for status in (302, 400, 403, 429, 500, 202):
        assert KEY not in str(from_status(status, f"bad key {KEY}"))
    # Hidden before the message is cut, so that no part of it is left at the end.
    assert "AIza" not in str(from_status(400, "x" * 180 + KEY))
    assert KEY not in str(translated(httpx.ReadError(KEY)))


def test_exception_that_shows_the_key_is_no_cause() -> None:
    assert showable(httpx.ReadError("reset"), Secret(KEY))
    assert not showable(httpx.ReadError(KEY), Secret(KEY))
    outer = ValueError("outer")
    outer.__context__ = ValueError(KEY)
    assert not showable(outer, Secret(KEY))
