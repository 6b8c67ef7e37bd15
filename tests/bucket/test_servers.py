"""The object store on moto, which speaks S3; GENBATCH_TEST_INTEGRATIONS is 1 for this."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from genbatch import StoreError
from genbatch._bucket import bucket_problems
from genbatch._bucket._objects import Objects
from support.bucket_process import PRICE
from support.integrations import needs_packages
from support.stores import KEY, image

pytestmark = [needs_packages, pytest.mark.slow]
_SIGNED = "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request, Signature=x"


@pytest.fixture(scope="module")
def options() -> Iterator[dict[str, Any]]:
    """Options of a server with a bucket."""
    pytest.importorskip("moto.server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", "from moto.server import main; main()", "-p", str(port)]
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as server:
        try:
            for _ in range(300):
                try:
                    request = Request(f"{url}/bucket", method="PUT")
                    request.add_header("Authorization", _SIGNED)
                    urlopen(request).close()
                    break
                except OSError:
                    time.sleep(0.1)
            yield {"endpoint_url": url, "key": "a", "secret": "b", "region": "us-east-1"}
        finally:
            server.terminate()


def test_of_many_savers_of_a_key_all_are_told_of_one_image(options: dict[str, Any]) -> None:
    objects = Objects("s3://bucket/race", options)
    with ThreadPoolExecutor(6) as threads:
        told = list(threads.map(lambda n: objects.save(KEY, image(str(n))), range(6)))
    assert set(told) == {objects.find(KEY)}
    assert [each.key for each in objects.done()] == [KEY]


def test_an_image_has_its_type(options: dict[str, Any]) -> None:
    objects = Objects("s3://bucket/types", options)
    saved = objects.save(KEY, image("a"))
    request = Request(f"{options['endpoint_url']}/bucket/types/{saved.file}")
    request.add_header("Authorization", _SIGNED)
    with urlopen(request) as answer:
        assert answer.headers["Content-Type"] == "image/png"
        assert answer.read() == image("a").data


def test_it_compares_and_swaps(options: dict[str, Any]) -> None:
    assert Objects("s3://bucket/swap", options).place.can_swap()


def test_a_missing_bucket_is_named(options: dict[str, Any]) -> None:
    with pytest.raises(StoreError, match="there is no bucket 'missing': create it"):
        Objects("s3://missing/foxes", options)


def test_four_processes_one_of_them_killed_keep_one_budget(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", options["endpoint_url"])
    for name, value in (
        ("ACCESS_KEY_ID", "a"),
        ("SECRET_ACCESS_KEY", "b"),
        ("REGION", "us-east-1"),
    ):
        monkeypatch.setenv(f"AWS_{name}", value)
    url, files = "s3://bucket/budget", [tmp_path / str(number) for number in range(4)]
    command = [sys.executable, "-m", "support.bucket_process", url, "80", "2.2"]
    tests = Path(__file__).parents[1]
    processes = [subprocess.Popen([*command, str(file)], cwd=tests) for file in files]
    while not (files[0].exists() and len(files[0].read_text().splitlines()) > 2):
        assert processes[0].poll() is None
        time.sleep(0.01)
    processes[0].kill()
    assert [process.wait(120) for process in processes] == [-9, 0, 0, 0]
    paid = [prompt for file in files if file.exists() for prompt in file.read_text().splitlines()]
    done = list(Objects(url).done())
    assert len(paid) * PRICE <= 2.2
    assert len(done) <= len(paid) <= len(done) + 4
    assert list(bucket_problems(url)) == []
