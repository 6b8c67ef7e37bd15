"""The proxies that the environment names, for a client that is told to trust it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment
from urllib.request import proxy_bypass_environment as is_bypassed  # type: ignore[attr-defined]

import pybase64

Headers: TypeAlias = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy.

    Attributes:
        host: Name or address.
        port: Port.
        headers: What every request to the proxy itself has: a password, if there is one.
    """

    host: str
    port: int
    headers: Headers = field(default_factory=list, repr=False)


class Proxies:
    """HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, in either case, as they are now.

    Raises:
        ValueError: If a proxy is no ``http://`` one, or is no URL at all.
    """

    def __init__(self) -> None:
        self._names = getproxies_environment()
        self._proxies = {
            scheme: _proxy(url)
            for scheme in ("http", "https")
            if (url := self._names.get(scheme) or self._names.get("all"))
        }

    def of(self, scheme: str, host: str, port: int) -> Proxy | None:
        """Return the proxy for a server, None where it is reached directly."""
        if is_bypassed(f"{host}:{port}", self._names):
            return None
        return self._proxies.get(scheme)


def _proxy(url: str) -> Proxy:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    # No message shows the URL: it may hold a password.
    if parts.scheme != "http":
        raise ValueError(f"proxies of the environment must be http://, got {parts.scheme}://")
    if not parts.hostname:
        raise ValueError("a proxy of the environment has no host: set it to http://HOST:PORT")
    headers = []
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        encoded = pybase64.b64encode(login.encode()).decode()
        headers = [("proxy-authorization", f"Basic {encoded}")]
    return Proxy(parts.hostname, parts.port or 80, headers)
