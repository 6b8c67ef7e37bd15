"""Errors of the SDK and of HTTP become genbatch's own, and none of them shows the key."""

from __future__ import annotations

from typing import Any

import httpx
import httpx2
import pytest
from google.genai import errors

from genbatch._errors import (
    GenbatchError,
    InvalidResponse,
    QuotaExhausted,
    RateLimited,
    Rejected,
    Unauthorized,
    Unavailable,
)
from genbatch.gemini._settings import Secret
from genbatch.gemini._translate import showable, translate

KEY = "AIza-canary-key-that-nobody-may-see"
MODEL = "gemini-3-pro-image"


def translated(exc: Exception) -> Exception:
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
    assert isinstance(error, GenbatchError)
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
    assert str(error) == f"daily quota of {MODEL} is used up: rerun after midnight Pacific"


def test_limit_of_zero_is_no_quota_at_all() -> None:
    error = from_status(429, "Quota exceeded, limit: 0, model: x", details=[quota("PerDay")])
    assert type(error) is QuotaExhausted
    assert str(error) == f"no quota for {MODEL}: enable billing or choose another model"


@pytest.mark.parametrize("message", ["limit: 10", "limit: 0.5", "unlimit: 0"])
def test_other_limits_pass(message: str) -> None:
    assert type(from_status(429, message)) is RateLimited


@pytest.mark.parametrize("library", [httpx, httpx2])
@pytest.mark.parametrize(
    ("name", "maybe_paid"),
    [
        ("ConnectError", False),
        ("WriteError", False),
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
    for exc in (library.DecodingError("bad gzip"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "x")):
        error = translated(exc)
        assert type(error) is InvalidResponse
        assert error.maybe_paid


@pytest.mark.parametrize(
    "exc", [TimeoutError(), httpx.ReadTimeout(""), httpx2.ConnectTimeout(""), httpx.PoolTimeout("")]
)
def test_timeouts_stay_timeouts(exc: Exception) -> None:
    error = translated(exc)
    assert type(error) is TimeoutError
    assert str(error) == f"no answer from {MODEL} within 120 s"


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
