"""Settings of a client, from arguments or the environment: checked early, the key kept hidden."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from genbatch._values import Unauthorized

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

# Both become parts of a URL, the location of its host.
_PROJECT = re.compile(r"[a-z0-9][a-z0-9.:-]*", re.ASCII)
_LOCATION = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*", re.ASCII)

DEFAULT_BASE_URL = "https://generativelanguage.googleapis.com"


class Secret:
    """An API key or token that shows only when it is asked for.

    Args:
        key: The key; blank for a token that has not been fetched yet.
        name: What messages call it.
    """

    __slots__ = ("_keys", "name")

    def __init__(self, key: str = "", *, name: str = "API key") -> None:
        self._keys: tuple[str, ...] = (key,)
        self.name = name

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def reveal(self) -> str:
        """Return the key."""
        return self._keys[0]

    def renew(self, key: str) -> None:
        """Replace the key. The last one stays hidden too: calls under way may still use it.

        Raises:
            ValueError: If it has characters that an HTTP header cannot carry.
        """
        self._keys = (_sendable(key, self.name), *self._keys[:1])

    def hide(self, text: str) -> str:
        """Return text with the key masked: a server may echo it."""
        for key in self._keys:
            # A shorter key is a stand-in from a test; replacing it would only garble the text.
            if len(key) >= 8:
                text = text.replace(key, f"[{self.name}]")
        return text


def _sendable(key: str, name: str) -> str:
    if any(not "!" <= character <= "~" for character in key):
        raise ValueError(f"the {name} has characters that cannot be sent in an HTTP header")
    return key


def find_key(api_key: str | None, environ: Mapping[str, str]) -> Secret:
    """Return the first key that is not blank: argument, GEMINI_API_KEY, GOOGLE_API_KEY.

    Raises:
        Unauthorized: If there is none.
        ValueError: If it has characters that an HTTP header cannot carry.
    """
    for key in (api_key, environ.get("GEMINI_API_KEY"), environ.get("GOOGLE_API_KEY")):
        if not key or not key.strip():
            continue
        return Secret(_sendable(key.strip(), "API key"))
    raise Unauthorized("no API key: set GEMINI_API_KEY (or GOOGLE_API_KEY), or pass api_key=")


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
        raise ValueError(f"not a location: {location!r}")
    return Vertex(project, location, credentials)


def _asks_for_vertex(environ: Mapping[str, str]) -> bool:
    """Return whether Vertex is to be called, as google-genai reads it from the environment.

    Google has renamed Vertex: the newer variable wins where both are set, even if it is blank.
    """
    names = ("GOOGLE_GENAI_USE_ENTERPRISE", "GOOGLE_GENAI_USE_VERTEXAI")
    values = [environ[name].strip().lower() in ("true", "1") for name in names if name in environ]
    if len(set(values)) > 1:
        warnings.warn(f"{' and '.join(names)} differ: the first is used", stacklevel=4)
    return bool(values) and values[0]


def check_project(project: str) -> None:
    """Refuse a project that cannot be part of a path.

    Raises:
        ValueError: If it cannot be a project.
    """
    if not _PROJECT.fullmatch(project):
        raise ValueError(f"not a project: {project!r}")


def find_base_url(
    base_url: str | None, environ: Mapping[str, str], *, vertex: bool = False
) -> str | None:
    """Return the service's URL: argument, environment, or Google's own.

    Args:
        base_url: Where blank, GOOGLE_GEMINI_BASE_URL, or for Vertex GOOGLE_VERTEX_BASE_URL.
        environ: The environment.
        vertex: Whether it is for Vertex, whose own URL depends on the location: then None.

    Raises:
        ValueError: If the key could leave the machine unencrypted, or the URL is malformed.
    """
    name = "GOOGLE_VERTEX_BASE_URL" if vertex else "GOOGLE_GEMINI_BASE_URL"
    url = (base_url or environ.get(name) or "").strip()
    if not url:
        return None if vertex else DEFAULT_BASE_URL
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
        TypeError: If it is not an AsyncClient.
        ValueError: If it follows redirects: the key would go along to any host.
    """
    if not inspect.iscoroutinefunction(getattr(http_client, "send", None)):
        name = type(http_client).__name__
        raise TypeError(f"http_client must be an httpx or httpx2 AsyncClient, got {name}")
    if getattr(http_client, "follow_redirects", False):
        raise ValueError("http_client must have follow_redirects=False: redirects get the API key")
