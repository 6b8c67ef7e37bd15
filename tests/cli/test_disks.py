"""Real disks of a fixed size, or read-only, mounted in a namespace of the test's own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from support.commands import COMMAND, Serve, images, write_prompts

pytestmark = pytest.mark.slow

InMounts = Callable[[str], list[str]]
GENBATCH = " ".join(COMMAND)
RUN = f"{GENBATCH} run prompts.txt -o disk -k 4"
OWN = ["unshare", "--map-root-user", "--mount"]


@cache
def refusal() -> str:
    """Return why this machine gives a test no mounts of its own, empty if it does."""
    mount = [*OWN, "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        tried = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as error:
        return str(error)
    return tried.stderr if tried.returncode else ""


@pytest.fixture
def in_mounts() -> InMounts:
    """Run a shell script that may mount, beside an empty directory ``disk``; return its output."""
    if why := refusal():
        pytest.skip(f"this machine gives a test no mounts of its own: {why}")
    Path("disk").mkdir()

    def run(script: str) -> list[str]:
        done = subprocess.run(
            [*OWN, "sh", "-c", f"set -e\n{script}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()

    return run


def are_complete(paths: list[Path]) -> bool:
    return all(path.read_bytes().endswith(b"IEND\xaeB`\x82") for path in paths)


def test_a_disk_full_halfway_is_named_and_the_run_resumes_once_it_is_larger(
    in_mounts: InMounts, serve: Serve
) -> None:
    fake = serve(image_size=64)
    write_prompts(100)
    said = in_mounts(f"""
        mount -t tmpfs -o size=2400k none disk
        {RUN} 2> full.txt || echo code $?
        ls -A disk | grep part || cp -r disk stopped
        mount -o remount,size=64m disk
        {RUN}
        {GENBATCH} verify disk
        {RUN}
        cp -r disk done
    """)
    told = Path("full.txt").read_text().splitlines()[-1]
    assert re.fullmatch(
        rf"genbatch: stopped: .*(No space left on device|disk is full)"
        rf" \(disk {Path('disk').resolve()}, 0\.\d MB free\); .* the same command resumes.*",
        told,
    )
    assert "code 3" in said
    assert "all is well" in said
    assert "100 images in disk, 0 failed, 100 already there" in said
    assert 20 <= len(images("stopped")) <= 80
    assert are_complete(images("stopped"))
    assert len(images("done")) == 100
    assert are_complete(images("done"))
    # Those in flight when the disk was full were paid, and could not be kept.
    assert fake.stats.images <= 104


SPACE_COMES_BACK = """
import sys, threading
from pathlib import Path
import anyio
from genbatch import Failure, GeminiClient, StoreError, generate_images
from genbatch._store._reports import status, verify
from genbatch.testing import FakeGemini, Fault

is_full = threading.Event()

def when_it_is_full(answer):
    assert is_full.wait(60)
    return answer

async def main():
    prompts = [f"a fox, number {number}" for number in range(100)]
    faults = [Fault(edit=when_it_is_full), Fault(edit=when_it_is_full)]
    failed = []
    async with (
        FakeGemini(image_size=64, faults=faults) as fake,
        GeminiClient("key", base_url=fake.url) as client,
        generate_images(client, prompts, save_dir="disk", max_concurrent=4) as outcomes,
    ):
        async for outcome in outcomes:
            if isinstance(outcome, Failure):
                failed.append(outcome.error)
                if not is_full.is_set():
                    outcomes.drain()
                    Path("disk/ballast").unlink()
                    is_full.set()
    assert failed and all(isinstance(error, StoreError) for error in failed), failed
    found = await anyio.to_thread.run_sync(status, "disk")
    assert found.done == fake.stats.images >= 6, (found, fake.stats)
    assert found.spent.maybe_images == 0
    assert await anyio.to_thread.run_sync(lambda: list(verify("disk"))) == []

anyio.run(main, backend=sys.argv[1])
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_paid_images_are_written_once_space_is_back_while_the_run_ends(
    in_mounts: InMounts, backend: str
) -> None:
    Path("script.py").write_text(SPACE_COMES_BACK)
    in_mounts(f"""
        mount -t tmpfs -o size=2400k none disk
        head -c 1000000 /dev/zero > disk/ballast
        {sys.executable} script.py {backend}
    """)


def test_a_read_only_disk_is_named_and_what_is_on_it_can_be_read(
    in_mounts: InMounts, serve: Serve
) -> None:
    fake = serve()
    write_prompts(4)
    said = in_mounts(f"""
        mount -t tmpfs none disk
        {RUN}
        mount -o remount,ro disk
        for command in status export verify; do {GENBATCH} $command disk > $command.txt; done
        {RUN} 2> told.txt || echo code $?
    """)
    assert said[-1] == "code 2"
    assert "Read-only file system" in Path("told.txt").read_text().splitlines()[-1]
    assert f"(disk {Path('disk').resolve()}" in Path("told.txt").read_text()
    assert Path("status.txt").read_text().startswith("4 of 4 done")
    assert len(Path("export.txt").read_text().splitlines()) == 4
    assert Path("verify.txt").read_text() == "all is well\n"
    assert fake.stats.calls == 4
