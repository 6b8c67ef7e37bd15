"""genbatch gallery and run --gallery."""

from __future__ import annotations

import os
import signal
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from genbatch.cli import _folder
from genbatch.gallery import _thumbs
from genbatch.testing import blocked
from support.commands import CANARY, Genbatch, Serve, arrival, images, started, write_prompts
from support.folders import thumbs, told


def test_the_gallery_of_a_folder_is_written(genbatch: Genbatch, serve: Serve) -> None:
    serve(faults=[None, blocked()])
    write_prompts(3)
    genbatch("run", "prompts.txt", "-k", "1", "-o", "out")
    done = genbatch("gallery", "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "out/index.html: 2 done, 1 failed, 0 to do\n"
    assert [item["status"] for item in told(Path("out"))["items"]] == ["done", "failed", "done"]
    assert len(thumbs(Path("out"))) == 2
    assert genbatch("verify", "out").stdout == "all is well\n"
    assert CANARY not in Path("out", "index.html").read_text(encoding="utf-8")


def test_what_cannot_be_shown_is_named(genbatch: Genbatch, serve: Serve) -> None:
    serve()
    write_prompts(14)
    genbatch("run", "prompts.txt", "-o", "out")
    first, *others = images("out")
    first.write_bytes(b"no image")
    done = genbatch("gallery", "out")
    assert done.returncode == 0
    assert done.stderr.startswith(f"{first} has changed: 8 bytes, ")
    for path in others:
        path.unlink()
    lines = genbatch("gallery", "out").stderr.splitlines()
    assert len(lines) == 11
    assert lines[-1] == "and 4 more images that cannot be shown"


def test_open_opens_it_in_a_browser(
    genbatch: Genbatch, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve()
    write_prompts(1)
    genbatch("run", "prompts.txt", "-o", "my out")
    Path("browser").write_text(
        f'#!{sys.executable}\nopen("opened", "w").write(__import__("sys").argv[1])'
    )
    Path("browser").chmod(stat.S_IRWXU)
    monkeypatch.setenv("BROWSER", f"{Path('browser').absolute()} %s")
    assert genbatch("gallery", "my out", "--open").returncode == 0
    assert Path("opened").read_text() == Path("my out/index.html").absolute().as_uri()
    assert "%20" in Path("opened").read_text()


def test_without_a_browser_it_says_so(
    serve: Serve, genbatch: Genbatch, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    serve()
    write_prompts(1)
    genbatch("run", "prompts.txt", "-o", "out")
    monkeypatch.setattr(_folder.webbrowser, "open", lambda _: False)
    assert _folder.gallery_command(folder=Path("out"), opened=True, debug=False) == 0
    assert capsys.readouterr().err == "No browser was found: open the page yourself.\n"


def test_a_folder_that_has_no_gallery_is_one_line(genbatch: Genbatch, serve: Serve) -> None:
    done = genbatch("gallery", "nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "genbatch: nowhere is not there: no such folder\n"
    serve()
    write_prompts(1)
    genbatch("run", "prompts.txt", "-o", "out")
    Path("out/index.html").write_text("mine")
    done = genbatch("gallery", "out")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(
        "genbatch: out/index.html was not written by genbatch: move it elsewhere"
    )
    assert done.stderr.count("\n") == 1


def test_without_pillow_it_says_what_to_install(genbatch: Genbatch) -> None:
    Path("PIL.py").write_text("raise ModuleNotFoundError('no', name='PIL')")
    path = os.pathsep.join([".", os.environ.get("PYTHONPATH", "")])
    done = genbatch("gallery", "out", env=os.environ | {"PYTHONPATH": path})
    assert (done.returncode, done.stdout) == (2, "")
    needs = "genbatch: the gallery needs the package Pillow; "
    assert done.stderr == f"{needs}run python -m pip install 'genbatch[cli]'\n"


@pytest.mark.parametrize("extra", [[], ["--demo"]], ids=["real", "demo"])
def test_a_run_writes_the_gallery_at_its_end(
    genbatch: Genbatch, serve: Serve, extra: list[str]
) -> None:
    serve()
    write_prompts(2)
    done = genbatch("run", "prompts.txt", "-o", "out", "--gallery", *extra)
    assert done.returncode == 0
    assert done.stdout.endswith("out/index.html: 2 done, 0 failed, 0 to do\n")
    assert told(Path("out"))["running"] is False


def test_a_run_without_the_option_writes_none(genbatch: Genbatch, serve: Serve) -> None:
    serve()
    write_prompts(1)
    genbatch("run", "prompts.txt", "-o", "out")
    assert not Path("out/index.html").exists()


def test_a_dry_run_writes_no_gallery(genbatch: Genbatch) -> None:
    write_prompts(1)
    assert genbatch("run", "prompts.txt", "-o", "out", "--gallery", "--dry-run").returncode == 0
    assert not Path("out").exists()


def test_an_interrupted_run_writes_it_too(serve: Serve) -> None:
    arrived, latency = arrival(4, lambda call: 0.01 if call.number < 4 else 1.0)
    serve(latency=latency)
    write_prompts(40)
    process = started(["run", "prompts.txt", "-k", "1", "-o", "out", "--gallery"])
    assert arrived.wait(60)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted by SIGINT" in said
    statuses = [item["status"] for item in told(Path("out"))["items"]]
    assert statuses.count("done") >= 4


def test_a_gallery_that_cannot_be_written_does_not_change_what_the_run_did(
    genbatch: Genbatch, serve: Serve
) -> None:
    serve(faults=[blocked()])
    write_prompts(2)
    Path("out").mkdir()
    Path("out/index.html").write_text("mine")
    done = genbatch("run", "prompts.txt", "-k", "1", "-o", "out", "--gallery")
    assert done.returncode == 1
    assert done.stdout.startswith("1 image in out, 1 failed")
    last = done.stderr.splitlines()[-1]
    assert last.startswith(
        "genbatch: the gallery was not written: out/index.html was not written by genbatch"
    )
    assert Path("out/index.html").read_text() == "mine"


def test_ctrl_c_while_the_gallery_is_written_does_not_change_what_the_run_did(
    genbatch: Genbatch, serve: Serve, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    serve()
    write_prompts(1)
    genbatch("run", "prompts.txt", "-o", "out")

    def interrupted(*_: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(_thumbs, "_tidy", interrupted)
    _folder.add_gallery(Path("out"))
    assert capsys.readouterr().err == "genbatch: the gallery was not written: interrupted\n"
