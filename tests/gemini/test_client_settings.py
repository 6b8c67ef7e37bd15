"""What a GeminiClient is told: keys, URLs and numbers, refused before anything is sent."""

from __future__ import annotations

import math
import subprocess
import sys

import httpx
import httpx2
import pytest

from genbatch import _client
from genbatch._client import Secret
from genbatch._values import Unauthorized
from genbatch.gemini import DEFAULT_BASE_URL, GeminiClient

KEY = "AIza-canary-key-that-nobody-may-see"
NAMES = ("GEMINI_API_KEY", "GOOGLE_API_KEY")


def find_base_url(url: str | None, environ: dict[str, str]) -> str | None:
    return _client.find_base_url(url, environ, "GOOGLE_GEMINI_BASE_URL", like=DEFAULT_BASE_URL)


def test_importing_the_client_loads_neither_the_sdk_nor_httpx() -> None:
    code = (
        "import sys, genbatch.gemini\n"
        "slow = {'google.genai', 'httpx', 'httpx2', 'pydantic'} & set(sys.modules)\n"
        "assert not slow, slow"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("argument", "environ", "expected"),
    [
        ("argument", {"GEMINI_API_KEY": "gemini", "GOOGLE_API_KEY": "google"}, "argument"),
        (None, {"GEMINI_API_KEY": "gemini", "GOOGLE_API_KEY": "google"}, "gemini"),
        (None, {"GOOGLE_API_KEY": "google"}, "google"),
        (" \n", {"GEMINI_API_KEY": "", "GOOGLE_API_KEY": " google\n"}, "google"),
    ],
)
def test_first_key_that_is_not_blank_is_taken(
    argument: str | None, environ: dict[str, str], expected: str
) -> None:
    assert _client.find_key(argument, environ, *NAMES).reveal() == expected


@pytest.mark.parametrize("environ", [{}, {"GEMINI_API_KEY": " ", "GOOGLE_API_KEY": ""}])
def test_missing_key_is_one_clear_line(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Unauthorized) as caught:
        GeminiClient()
    message = "no API key: set GEMINI_API_KEY (or GOOGLE_API_KEY), or pass api_key="
    assert str(caught.value) == message


@pytest.mark.parametrize("key", [f"{KEY}\r\nX-Evil: 1", f"{KEY} {KEY}", f"{KEY}é", f"{KEY}\x7f"])
def test_key_that_no_header_can_carry_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(ValueError, match="cannot be sent in an HTTP header") as caught:
        _client.find_key(key, {}, *NAMES)
    assert KEY not in str(caught.value)


def test_secret_shows_itself_nowhere() -> None:
    secret = Secret(KEY)
    assert KEY not in f"{secret!r} {secret}"
    assert secret.hide(f"key {KEY} is wrong") == "key [API key] is wrong"
    assert Secret("k").hide("a token") == "a token"


def test_client_shows_its_url_and_no_key() -> None:
    client = GeminiClient(KEY, base_url="http://127.0.0.1:80")
    assert repr(client) == "<GeminiClient base_url='http://127.0.0.1:80'>"
    assert KEY not in str(vars(client))


@pytest.mark.parametrize(
    "url",
    [
        "https://proxy.example/gemini/",
        "HTTPS://proxy.example",
        "http://127.0.0.1:8080",
        "http://127.9.9.9",
        "http://[::1]:8080",
        "http://localhost:1",
    ],
)
def test_https_and_loopback_urls_are_taken(url: str) -> None:
    assert find_base_url(url, {}) == url


@pytest.mark.parametrize(
    "url",
    [
        "http://proxy.example",
        "http://127.0.0.1.proxy.example",
        "http://0.0.0.0",
        "http://2130706433",
        "http://[2001:db8::1]",
        "ftp://localhost",
        "proxy.example",
        "https://",
        "https:///v1beta",
        "https://proxy.example:99999",
        "https://proxy.example:0",
        "https://proxy\n.example",
        "https://proxy .example",
        "https://proxy.example?key=",
        "https://proxy.example#here",
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"base_url|Port"):
        GeminiClient(KEY, base_url=url)


def test_a_url_of_another_type_is_refused() -> None:
    with pytest.raises(TypeError, match="base_url must be a str, got int"):
        GeminiClient(KEY, base_url=3)  # type: ignore[arg-type]


def test_password_in_a_url_is_refused_and_not_shown() -> None:
    with pytest.raises(ValueError, match="no user") as caught:
        find_base_url("http://user:hunter2@proxy.example", {})
    assert "hunter2" not in str(caught.value)


def test_url_comes_from_argument_then_environment_then_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environ = {"GOOGLE_GEMINI_BASE_URL": "https://env.example"}
    assert find_base_url("https://arg.example", environ) == "https://arg.example"
    assert find_base_url(None, environ) == "https://env.example"
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", "")
    assert ".googleapis.com'" in repr(GeminiClient(KEY))
    with pytest.raises(ValueError, match="https"):
        find_base_url(None, {"GOOGLE_GEMINI_BASE_URL": "http://env.example"})


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^max_retries must be >= 0, got -1$"):
        GeminiClient(KEY, max_retries=-1)
    for timeout in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=r"^timeout must be > 0, got"):
            GeminiClient(KEY, timeout=timeout)
    GeminiClient(KEY, max_retries=0, timeout=math.inf)


def test_http_client_that_follows_redirects_is_refused() -> None:
    for http_client in (
        httpx.AsyncClient(follow_redirects=True),
        httpx2.AsyncClient(follow_redirects=True),
    ):
        with pytest.raises(ValueError, match="follow_redirects=False"):
            GeminiClient(KEY, http_client=http_client)


def test_synchronous_http_client_is_refused() -> None:
    with httpx.Client() as http_client, pytest.raises(TypeError, match="AsyncClient, got Client"):
        GeminiClient(KEY, http_client=http_client)  # type: ignore[arg-type]
