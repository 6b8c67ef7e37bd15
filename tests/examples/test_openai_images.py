"""Another provider: a function with its own timeout and retries, and a throttle around it."""

from __future__ import annotations

from pathlib import Path

import pytest

import openai_images
from fake_openai import serving

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _in_a_folder_and_in_no_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(openai_images, "PAUSES", (0.0, 0.0, 0.0))


async def test_images_are_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as url:
        await openai_images.main(url)
    files = sorted(tmp_path.glob("openai-*.png"))
    assert [file.name for file in files] == [f"openai-{index}.png" for index in range(4)]
    assert all(file.read_bytes().startswith(b"\x89PNG\r\n\x1a\n") for file in files)
    shown = sorted(capsys.readouterr().out.splitlines())
    assert shown == [f"{file.name}: {openai_images.PROMPTS[n]}" for n, file in enumerate(files)]


@pytest.mark.parametrize("failures", [[503, 500, 502], [200, 429, 429, 503]])
async def test_what_passes_is_tried_again(tmp_path: Path, failures: list[int]) -> None:
    with serving(failures) as url:
        await openai_images.main(url)
    assert len(list(tmp_path.glob("openai-*.png"))) == 4


async def test_what_does_not_pass_fails_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving([400]) as url:
        await openai_images.main(url)
    assert len(list(tmp_path.glob("openai-*.png"))) == 3
    assert "Bad Request" in capsys.readouterr().out


async def test_retries_come_to_an_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_images, "PROMPTS", ["a fox"])
    with serving(5 * [503]) as url:
        await openai_images.main(url)
    assert capsys.readouterr().out == "a fox: answered 503\n"


async def test_each_attempt_has_a_timeout(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai_images, "TIMEOUT", 0.0)
    with serving() as url:
        await openai_images.main(url)
    assert sorted(capsys.readouterr().out.splitlines()) == sorted(
        f"{prompt}: " for prompt in openai_images.PROMPTS
    )
