"""Whether and where to call Vertex, from arguments or the environment."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

# Both become parts of a URL, the location of its host.
_PROJECT = re.compile(r"[a-z0-9][a-z0-9.:-]*", re.ASCII)
_LOCATION = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*", re.ASCII)


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
