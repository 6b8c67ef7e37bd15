"""The object store on moto and Azurite; GENBATCH_TEST_INTEGRATIONS is 1 for this.

GENBATCH_TEST_PROMPTS=2000 has four processes fill a bucket with as many.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pytest

from genbatch import StoreError
from genbatch._bucket import bucket_problems
from genbatch._bucket._objects import Objects
from support.bucket_process import PRICE
from support.integrations import needs_packages
from support.object_servers import HoldingProxy, ObjectServer, answering, read, s3_environment
from support.stores import KEY, image

pytestmark = [needs_packages, pytest.mark.slow]
TESTS = Path(__file__).parents[1]
PROMPTS = int(os.environ.get("GENBATCH_TEST_PROMPTS") or 80)
AT_ONCE = 4  # calls of each process


def start(
    url: str, prompts: int, dollars: float, calls: Path, lease: float = 3.0
) -> subprocess.Popen[bytes]:
    """Start a process that fills a bucket."""
    what = (url, str(prompts), str(dollars), str(calls), str(lease))
    return subprocess.Popen([sys.executable, "-m", "support.bucket_process", *what], cwd=TESTS)


def calls_of(*files: Path) -> list[str]:
    """Return the prompts of the calls that processes have made."""
    return [call for file in files if file.exists() for call in file.read_text().splitlines()]


def test_of_many_savers_of_a_key_all_are_told_of_one_image(server: ObjectServer) -> None:
    objects = Objects(f"{server.bucket}/{uuid4().hex}")
    with ThreadPoolExecutor(6) as threads:
        told = list(threads.map(lambda n: objects.save(KEY, image(str(n))), range(6)))
    assert set(told) == {objects.find(KEY)}
    assert [each.key for each in objects.done()] == [KEY]


def test_an_image_has_its_type(moto_server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in moto_server.environment.items():
        monkeypatch.setenv(name, value)
    saved = Objects("s3://bucket/types").save(KEY, image("a"))
    assert read(moto_server, f"types/{saved.file}") == ("image/png", image("a").data)


def test_it_compares_and_swaps(server: ObjectServer) -> None:
    assert Objects(f"{server.bucket}/swap").place.can_swap()


def test_six_processes_race_for_equal_prompts(server: ObjectServer, tmp_path: Path) -> None:
    url, files = f"{server.bucket}/{uuid4().hex}", [tmp_path / str(n) for n in range(6)]
    processes = [start(url, 60, 100.0, file, 30.0) for file in files]
    assert [process.wait(300) for process in processes] == [0] * 6
    assert Counter(calls_of(*files)) == Counter(f"fox {n}" for n in range(60))
    assert len(list(Objects(url).done())) == 60
    assert list(bucket_problems(url)) == []


@pytest.mark.timeout(3600)
def test_four_processes_one_of_them_killed_keep_one_budget(
    server: ObjectServer, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    url, files = f"{server.bucket}/{uuid4().hex}", [tmp_path / str(n) for n in range(4)]
    dollars = PROMPTS * 0.0275  # of the 0.04 that all of them cost
    processes = [start(url, PROMPTS, dollars, file) for file in files]
    while len(calls_of(files[0])) <= PROMPTS // 30:
        assert processes[0].poll() is None
        time.sleep(0.01)
    processes[0].kill()
    assert [process.wait(1200) for process in processes] == [-9, 0, 0, 0]
    paid, done = calls_of(*files), list(Objects(url).done())
    record_property("paid", f"{len(paid)} of ${dollars:.2f}, {len(done)} images")
    assert len(paid) * PRICE <= dollars
    assert len(done) <= len(paid) <= len(done) + AT_ONCE
    assert list(bucket_problems(url)) == []
    left = start(url, PROMPTS, PROMPTS, tmp_path / "left")
    assert left.wait(1200) == 0
    paid, done = calls_of(*files, tmp_path / "left"), list(Objects(url).done())
    record_property("in the end", f"{len(paid)} paid, {len(done)} images")
    assert len(done) == PROMPTS
    assert len(paid) <= PROMPTS + AT_ONCE


@pytest.mark.parametrize("is_whole", [False, True])
def test_a_kill_within_a_put_loses_and_doubles_nothing(
    moto_server: ObjectServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_whole: bool
) -> None:
    proxy = HoldingProxy(moto_server.endpoint, is_whole=is_whole)
    url = f"s3://bucket/{uuid4().hex}"
    for name, value in s3_environment(proxy.endpoint).items():
        monkeypatch.setenv(name, value)
    killed = start(url, 20, 100.0, tmp_path / "killed")
    assert proxy.holds.wait(60)
    killed.kill()
    assert killed.wait(60) == -9
    proxy.close()
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_server.endpoint)
    there = [each.file for each in Objects(url).done()]
    assert start(url, 20, 100.0, tmp_path / "next").wait(120) == 0
    done = list(Objects(url).done())
    assert len(done) == len({each.key for each in done}) == 20
    assert set(there) <= {each.file for each in done}
    assert 20 <= len(calls_of(tmp_path / "killed", tmp_path / "next")) <= 20 + AT_ONCE
    assert list(bucket_problems(url)) == []


def test_the_command_line_tells_what_a_bucket_has(server: ObjectServer, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a fox\nan owl\n")
    bucket = f"{server.bucket}/{uuid4().hex}"
    command = [sys.executable, "-m", "genbatch", "run", "prompts.txt", "-o", bucket, "--demo"]

    def told(*options: str) -> str:
        ran = subprocess.run(
            [*command, *options], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return ran.stdout + ran.stderr

    assert "for 0 images, by all processes" in told("--yes", "--budget", "5")
    assert "for 2 images, by all processes" in told("--yes", "--budget", "5")
    assert "2 prompts · 2 done · 0 to make" in told("--dry-run")


def refusal(url: str) -> str:
    """Return why a bucket is refused, which is one line, and comes within five seconds."""
    began = time.monotonic()
    with pytest.raises(StoreError) as refused:
        Objects(url)
    assert time.monotonic() - began < 5  # what it promises to a person who waits
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_missing_bucket_is_named(server: ObjectServer) -> None:
    said = refusal(f"{server.bucket.replace('bucket', 'missing')}/foxes")
    assert "there is no bucket 'missing': create it, or correct the URL" in said


def test_missing_credentials_are_named(
    server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_ACCOUNT_KEY"):
        monkeypatch.delenv(name, raising=False)
    said = refusal(f"{server.bucket}/foxes")
    assert "there are no credentials: set A" in said


def test_wrong_credentials_are_named(
    azurite_server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in azurite_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "AAAA")
    said = refusal("az://bucket/foxes")
    assert "the credentials were refused: check AZURE_STORAGE_ACCOUNT_NAME and" in said


def test_a_server_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_environment("http://127.0.0.1:9").items():
        monkeypatch.setenv(name, value)
    assert "cannot be reached: check the network, and its endpoint" in refusal("s3://bucket/foxes")


def test_an_endpoint_of_another_service_is_named(
    azurite_server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_environment(azurite_server.endpoint).items():
        monkeypatch.setenv(name, value)
    assert "the service answered 400 Bad Request: check its endpoint" in refusal(
        "s3://bucket/foxes"
    )


@pytest.mark.parametrize(
    ("status", "code"), [(301, "PermanentRedirect"), (400, "AuthorizationHeaderMalformed")]
)
def test_another_region_is_named(status: int, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    body = f"<Error><Code>{code}</Code><Region>eu-west-1</Region></Error>"
    with answering(status, body.encode(), [("x-amz-bucket-region", "eu-west-1")]) as url:
        for name, value in s3_environment(url).items():
            monkeypatch.setenv(name, value)
        said = refusal("s3://bucket/foxes")
    assert "is in another region: set AWS_REGION to its own" in said
