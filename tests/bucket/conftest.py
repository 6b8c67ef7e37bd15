"""Where the tests of the bucket keep objects: in memory, and behind a switch on real servers."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

from support.integrations import needs_packages
from support.object_servers import ObjectServer, azurite, moto

_REAL = (needs_packages, pytest.mark.slow)


@pytest.fixture(scope="session")
def moto_server() -> Iterator[ObjectServer]:
    pytest.importorskip("moto.server")
    with moto() as server:
        yield server


@pytest.fixture(scope="session")
def azurite_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    with azurite(tmp_path_factory.mktemp("azurite")) as server:
        yield server


@pytest.fixture(
    params=[pytest.param("moto", marks=_REAL), pytest.param("azurite", marks=_REAL)],
)
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ObjectServer:
    """A server of objects, to which the environment leads."""
    found: ObjectServer = request.getfixturevalue(f"{request.param}_server")
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    return found


@pytest.fixture(
    params=[
        "memory",
        pytest.param("moto", marks=_REAL),
        pytest.param("azurite", marks=_REAL),
    ],
)
def url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty prefix."""
    if request.param == "memory":
        return f"memory://{uuid4().hex}"
    found: ObjectServer = request.getfixturevalue(f"{request.param}_server")
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    return f"{found.bucket}/{uuid4().hex}"
