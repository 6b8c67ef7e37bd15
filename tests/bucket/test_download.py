"""A bucket becomes a local directory, in which nothing is paid for again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio.lowlevel
import pytest

from genbatch import Blocked, Image, ObjectStore, Prompt, StoreError, cli, generate_images
from genbatch._bucket import _download, download_bucket
from genbatch._bucket._objects import Objects
from genbatch._store import export, status, verify
from support.stores import image

PROMPTS = [
    Prompt("a fox", metadata={"category": "animals"}),
    Prompt("a fox", seed=7),
    "a lighthouse",
    "blocked",
    "a fox",
    "a fox",
    *(f"owl {n}" for n in range(30)),
]


@pytest.fixture(autouse=True)
def whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the images of the tests for whole ones."""
    monkeypatch.setattr("genbatch._run._service.is_whole", lambda data, kind: True)


class Maker:
    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self, prompt: str | Prompt) -> Image:
        self.calls += 1
        await anyio.lowlevel.checkpoint()
        if prompt == "blocked":
            raise Blocked("no", reason="SAFETY")
        text = str(prompt)
        return replace(image(f"{text} {self.calls}"), extras=(image("b"),), cost=0.04, text="hm")


async def run(make: Maker, prompts: Sequence[str | Prompt], **where: Any) -> int:
    """Run prompts, and return the number of outcomes."""
    async with generate_images(make, prompts, **where) as outcomes:
        return len([outcome async for outcome in outcomes])


@pytest.fixture
def url() -> str:
    """A bucket with the images of the prompts."""
    url = f"memory://{uuid4().hex}"
    anyio.run(partial(run, Maker(), PROMPTS, store=ObjectStore(url)))
    return url


def test_a_run_in_the_directory_makes_no_call(url: str, tmp_path: Path) -> None:
    assert download_bucket(url, tmp_path)[:3] == (36, 35, 0)
    make = Maker()
    assert anyio.run(partial(run, make, PROMPTS, save_dir=tmp_path)) == len(PROMPTS)
    assert make.calls == 0


def test_all_that_is_known_comes_along(url: str, tmp_path: Path) -> None:
    download_bucket(url, tmp_path)
    rows = list(export(tmp_path))
    objects = Objects(url)
    by_key = {row["key"]: row for row in objects.rows()}
    assert [row["index"] for row in rows] == list(range(len(PROMPTS)))
    assert [row["prompt"] for row in rows] == [str(Prompt.of(each).text) for each in PROMPTS]
    assert rows[0]["metadata"] == {"category": "animals"}
    assert (rows[3]["status"], rows[3]["error"]) == ("failed", {"kind": "Blocked", "message": "no"})
    for row in rows:
        if row["status"] == "done":
            there = by_key.pop(row["key"])
            same = ("sha256", "cost", "text", "model", "elapsed", "mime_type")
            assert [row[name] for name in same] == [there[name] for name in same]
            assert len(row["extras"]) == 1
            assert (tmp_path / row["file"]).read_bytes() == objects.place.read(there["file"])
    assert not by_key
    assert list(verify(tmp_path)) == []
    assert status(tmp_path).spent.usd == pytest.approx(35 * 0.04)


def test_what_is_there_is_not_read_again_and_what_has_come_since_is_added(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    download_bucket(url, tmp_path)
    anyio.run(partial(run, Maker(), [*PROMPTS, "a new one"], store=ObjectStore(url)))
    read: list[str] = []
    real = _download._read
    monkeypatch.setattr(
        _download, "_read", lambda objects, name: read.append(name) or real(objects, name)
    )
    assert download_bucket(url, tmp_path)[:3] == (37, 1, 35)
    assert len(read) == 2  # it and its further one


def test_an_image_that_has_changed_is_refused(url: str, tmp_path: Path) -> None:
    objects = Objects(url)
    row = next(iter(objects.rows()))
    objects.place.replace(row["file"], b"something else")
    with pytest.raises(StoreError, match="has changed"):
        download_bucket(url, tmp_path)


def genbatch(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run a command, and return its exit code."""
    monkeypatch.setattr("sys.argv", ["genbatch", *words])
    try:
        return cli.main()
    except SystemExit as end:
        return int(end.code or 0)


def test_commands_about_a_folder_take_a_bucket(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name = url.removeprefix("memory://")
    assert genbatch(monkeypatch, "copy", url, "chosen") == 0
    assert len(list(Path("chosen").glob("*.png"))) == 35
    anyio.run(partial(run, Maker(), [*PROMPTS, "a new one"], store=ObjectStore(url)))
    assert genbatch(monkeypatch, "merge", url, "--to", name) == 0
    assert "37 prompts" in capfd.readouterr().out
    assert len(list(Path(name).glob("*.png"))) == 72  # a further one of each answer
    assert genbatch(monkeypatch, "gallery", url) == 0
    assert (Path(name) / "index.html").exists()


@pytest.mark.parametrize("command", ["pick", "redo", "tune", "keep"])
def test_other_commands_name_the_one_that_brings_a_bucket_here(
    url: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    words = {"pick": ["0", "1"], "redo": ["0"], "tune": ["--pause"], "keep": []}[command]
    assert genbatch(monkeypatch, command, url, *words) != 0
    name = url.removeprefix("memory://")
    assert f"genbatch merge {url} --to {name} copies it" in capfd.readouterr().err


def test_another_folder_of_its_name_is_left_alone(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(url.removeprefix("memory://")).mkdir()
    assert genbatch(monkeypatch, "gallery", url) == 2
    assert "is here already, and not a copy of" in capfd.readouterr().err
