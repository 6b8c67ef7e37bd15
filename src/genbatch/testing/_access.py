"""Who may call: API keys on Gemini's own API, OAuth tokens on Vertex."""

from __future__ import annotations

from collections.abc import Container, Mapping

from ._wire import TYPES, JsonObject, Reply, error_body, json_reply

_NO_KEY = (
    "Method doesn't allow unregistered callers (callers without established identity). Please use "
    "API Key or other form of API consumer identity to call this API."
)
_BAD_KEY = "API key not valid. Please pass a valid API key."
_ANONYMOUS = (
    "Request is missing required authentication credential. Expected OAuth 2 access token, login "
    "cookie or other valid authentication credential."
)
_EXPIRED = (
    "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie "
    "or other valid authentication credential."
)


def is_vertex(path: str) -> bool:
    """Return whether a path belongs to Vertex."""
    return path.startswith("/v1beta1/")


def denial(
    path: str,
    headers: Mapping[str, str],
    api_keys: Container[str] | None,
    tokens: Container[str] | None,
) -> Reply | None:
    """Return the service's answer to a caller without access, None to one with it.

    Args:
        path: Path of the request.
        headers: Of the request, names in lower case.
        api_keys: Keys that are valid; None for any that is not empty.
        tokens: Tokens that are valid; None for any that is not empty.
    """
    if is_vertex(path):
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind != "Bearer" or not token:
            return json_reply(token_error("CREDENTIALS_MISSING", _ANONYMOUS), 401)
        if tokens is not None and token not in tokens:
            return json_reply(token_error(), 401)
        return None
    key = headers.get("x-goog-api-key")
    if not key:
        return json_reply(error_body(403, _NO_KEY), 403)
    if api_keys is not None and key not in api_keys:
        return json_reply(key_error(key), 400)
    return None


def key_error(key: str) -> JsonObject:
    """Return the error for a wrong key, a 400; it repeats the key, as the service may."""
    details: list[object] = [
        {
            "@type": f"{TYPES}ErrorInfo",
            "reason": "API_KEY_INVALID",
            "domain": "googleapis.com",
            "metadata": {"service": "generativelanguage.googleapis.com"},
        },
        {"@type": f"{TYPES}LocalizedMessage", "locale": "en-US", "message": _BAD_KEY},
        {"@type": f"{TYPES}DebugInfo", "detail": f"Invalid API key: {key}"},
    ]
    return error_body(400, _BAD_KEY, details)


def token_error(reason: str = "ACCESS_TOKEN_EXPIRED", message: str = _EXPIRED) -> JsonObject:
    """Return the error for a wrong token, a 401."""
    info = {
        "@type": f"{TYPES}ErrorInfo",
        "reason": reason,
        "domain": "googleapis.com",
        "metadata": {
            "service": "aiplatform.googleapis.com",
            "method": "google.cloud.aiplatform.v1beta1.PredictionService.GenerateContent",
        },
    }
    return error_body(401, message, [info])
