"""What a fake service has made never counts as done for the real one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from genbatch.testing import _http
from support.commands import Genbatch, Serve, images, write_prompts


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Have servers that do not say that they are fakes, once this is called."""
    with monkeypatch.context() as patch:
        yield patch


def hide(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_http, "FAKE_HEADER", "x-other")


def test_a_run_against_the_service_makes_placeholders_anew_and_says_so(
    genbatch: Genbatch, serve: Serve, real: pytest.MonkeyPatch
) -> None:
    fake = serve()
    write_prompts(4)
    genbatch("run", "prompts.txt")
    assert genbatch("run", "prompts.txt").returncode == 0
    assert fake.stats.calls == 4  # the fake resumes what it has made
    hide(real)
    service = serve()
    told = "4 images in the folder are placeholders of a fake service, to be made anew.\n"
    planned = genbatch("run", "prompts.txt", "--dry-run").stdout
    assert planned.startswith("4 prompts · 0 done · 4 to make · ")
    assert told in planned
    done = genbatch("run", "prompts.txt")
    assert (done.returncode, service.stats.calls) == (0, 4)
    assert told in done.stderr
    shown = [json.loads(line) for line in genbatch("export").stdout.splitlines()]
    assert [row["take"] for row in shown] == [2] * 4
    assert len(images("genbatch-out")) == 8
    assert genbatch("run", "prompts.txt").returncode == 0
    assert service.stats.calls == 4
    real.undo()
    again = serve()
    assert genbatch("run", "prompts.txt").returncode == 0  # what is real is done for the fake too
    assert again.stats.calls == 0


def test_a_server_that_is_no_fake_fills_only_what_a_fake_has_made(
    genbatch: Genbatch, serve: Serve, real: pytest.MonkeyPatch
) -> None:
    write_prompts(2)
    real.setattr(_http, "FAKE_HEADER", "x-other")
    service = serve()
    genbatch("run", "prompts.txt")
    real.undo()
    fake = serve()  # a forgotten variable
    write_prompts(5)
    genbatch("run", "prompts.txt")
    assert (service.stats.calls, fake.stats.calls) == (2, 3)
    hide(real)
    service = serve()
    assert genbatch("run", "prompts.txt").returncode == 0
    assert service.stats.calls == 3


def test_a_take_of_the_service_is_shown_in_place_of_a_placeholder(
    genbatch: Genbatch, serve: Serve, real: pytest.MonkeyPatch
) -> None:
    serve()
    write_prompts(3)
    genbatch("run", "prompts.txt")
    hide(real)
    service = serve()
    assert genbatch("redo", "genbatch-out", "1").returncode == 0
    shown = [json.loads(line) for line in genbatch("export").stdout.splitlines()]
    assert [row["take"] for row in shown] == [1, 2, 1]
    assert genbatch("run", "prompts.txt").returncode == 0
    assert service.stats.calls == 3


@pytest.mark.slow
def test_jobs_of_a_fake_make_placeholders(
    genbatch: Genbatch, serve: Serve, real: pytest.MonkeyPatch
) -> None:
    serve()
    write_prompts(3)
    assert genbatch("run", "prompts.txt", "--via", "batch").returncode == 0
    hide(real)
    service = serve()
    assert genbatch("run", "prompts.txt").returncode == 0
    assert service.stats.calls == 3


def test_a_missing_placeholder_is_made_anew(
    genbatch: Genbatch, serve: Serve, real: pytest.MonkeyPatch
) -> None:
    serve()
    write_prompts(2)
    genbatch("run", "prompts.txt")
    for path in images("genbatch-out"):
        path.unlink()
    hide(real)
    service = serve()
    assert genbatch("run", "prompts.txt").returncode == 0
    assert service.stats.calls == 2
    assert len(list(Path("genbatch-out").glob("*.png"))) == 2
