"""What a client is told, by argument or environment: checked early, the key out of sight."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from genbatch._errors import Unauthorized

DEFAULT_BASE_URL = "https://generativelanguage.googleapis.com"


class Secret:
    """An API key that is shown only where it is asked for."""

    __slots__ = ("_key",)

    def __init__(self, key: str) -> None:
        self._key = key

    def __repr__(self) -> str:
        return "<API key>"

    def reveal(self) -> str:
        """Return the key."""
        return self._key

    def hide(self, text: str) -> str:
        """Return text without the key: a server may echo it."""
        # A shorter key is a stand-in from a test; replacing it would only garble the text.
        return text.replace(self._key, "[API key]") if len(self._key) >= 8 else text


def find_key(api_key: str | None, environ: Mapping[str, str]) -> Secret:
    """Return the first key that is not blank: argument, GEMINI_API_KEY, GOOGLE_API_KEY.

    Raises:
        Unauthorized: If there is none.
        ValueError: If it could not be sent in an HTTP header.
    """
    for key in (api_key, environ.get("GEMINI_API_KEY"), environ.get("GOOGLE_API_KEY")):
        if not key or not key.strip():
            continue
        if any(not "!" <= character <= "~" for character in key.strip()):
            raise ValueError("the API key has characters that cannot be sent in an HTTP header")
        return Secret(key.strip())
    raise Unauthorized("no API key: set GEMINI_API_KEY (or GOOGLE_API_KEY), or pass api_key=")


def find_base_url(base_url: str | None, environ: Mapping[str, str]) -> str:
    """Return the service's URL: argument, GOOGLE_GEMINI_BASE_URL, or Google's own.

    Raises:
        ValueError: If the key could leave the machine unencrypted, or it is no base URL.
    """
    url = (base_url or environ.get("GOOGLE_GEMINI_BASE_URL") or "").strip() or DEFAULT_BASE_URL
    parts = urlsplit(url)
    # Checked first: the messages below show the URL, and this may hold a password.
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("base_url must have no user, query or fragment")
    if not url.isprintable() or " " in url or not parts.hostname or parts.port == 0:
        raise ValueError(f"base_url must be like {DEFAULT_BASE_URL}, got {url!r}")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(parts.hostname)):
        raise ValueError(f"base_url must be https (http only for loopback), got {url!r}")
    return url


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def check_http_client(http_client: object) -> None:
    """Refuse an HTTP client that is not asynchronous, or that would forward the key elsewhere.

    Raises:
        TypeError: If it is no AsyncClient.
        ValueError: If it follows redirects: the key would go along to any host.
    """
    if not inspect.iscoroutinefunction(getattr(http_client, "send", None)):
        name = type(http_client).__name__
        raise TypeError(f"http_client must be an httpx or httpx2 AsyncClient, got {name}")
    if getattr(http_client, "follow_redirects", False):
        raise ValueError("http_client must have follow_redirects=False: redirects get the API key")
