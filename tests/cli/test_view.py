"""genbatch view, genbatch keep and run --view."""

from __future__ import annotations

import re
import signal
import stat
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from genbatch._store import Choice, choices, choose
from support.commands import Genbatch, Serve, images, started, write_prompts
from support.folders import fill
from support.warm import PythonProcess

URL = re.compile(r"http://127\.0\.0\.1:(\d+)/\?token=[\w-]{32}")


def url_of(line: str) -> str:
    found = URL.search(line)
    assert found, line
    return found[0]


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        text: str = answer.read().decode()
    return text


def told(url: str, *texts: str) -> None:
    """Follow the events of a page until one has each of these texts."""
    with urllib.request.urlopen(url, timeout=60) as answer:
        cookie = answer.headers["set-cookie"].partition(";")[0]
    request = urllib.request.Request(url.replace("/?", "/events?"), headers={"cookie": cookie})
    with urllib.request.urlopen(request, timeout=60) as events:
        for line in events:
            if all(text in line.decode() for text in texts):
                return
    raise AssertionError(f"it ended without {texts}")


def stopped(process: PythonProcess, number: int = signal.SIGINT) -> tuple[int, str, str]:
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout, stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_page_is_served_until_it_is_stopped(number: int) -> None:
    fill(Path("my out"), ["a fox"])
    process = started(["view", "my out", "--no-open"])
    url = url_of(process.stdout.readline())
    assert "a fox" in read(url)
    with pytest.raises(urllib.error.HTTPError, match="403"):
        read(url[:-1])
    assert process.stdout.readline() == "Ctrl-C ends it; what was chosen is saved.\n"
    assert stopped(process, number) == (0, "", "")


def test_the_port_may_be_given(genbatch: Genbatch) -> None:
    fill(Path("out"), ["a fox"])
    process = started(["view", "out", "--no-open"])
    found = URL.search(process.stdout.readline())
    assert found
    taken = genbatch("view", "out", "--no-open", "--port", found[1])
    assert taken.returncode == 2
    assert taken.stderr.startswith(f"genbatch: cannot serve at port {found[1]}: ")
    assert taken.stderr.endswith("; try --port 0\n")
    stopped(process)


def test_a_remote_machine_is_told_how_to_come_near(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.1 1 10.0.0.2 22")
    monkeypatch.setenv("BROWSER", "false")
    fill(Path("out"), ["a fox"])
    process = started(["view", "out"])
    found = URL.search(process.stdout.readline())
    assert found
    line = process.stdout.readline()
    assert re.search(rf"run there: ssh -L {found[1]}:127\.0\.0\.1:{found[1]} \S+@\S+$", line)
    stopped(process)


def test_a_folder_without_a_run_is_named(genbatch: Genbatch) -> None:
    Path("empty").mkdir()
    for command in ("view", "keep"):
        for folder, why in (
            ("empty", "has no journal: nothing was run into it"),
            ("missing", "is not there: no such folder"),
        ):
            done = genbatch(command, folder)
            error = f"genbatch: {folder} {why}\n"
            assert (done.returncode, done.stdout, done.stderr) == (2, "", error)
    assert not list(Path("empty").iterdir())


def test_choices_are_read_and_printed(genbatch: Genbatch) -> None:
    fill(Path("out"), ["a fox", "an owl", "a cat"])
    fox, owl, cat = (path.name for path in images("out"))
    text = f"# of a page\nkeep 4 {fox}: the best\nreject - {owl}\n- 2 {cat}\n"
    done = genbatch("keep", "out", "--from", "-", input=text)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "3 choices saved in out: 1 kept, 1 rejected\n"
    expected = {fox: Choice("keep", 4, "the best"), owl: Choice("reject"), cat: Choice(stars=2)}
    assert choices(Path("out")) == expected
    printed = genbatch("keep", "out").stdout
    assert printed == text.partition("\n")[2]
    choose(Path("out"), dict.fromkeys(expected, Choice()))
    Path("choices.txt").write_text(printed, encoding="utf-8")
    assert genbatch("keep", "out", "--from", "choices.txt").returncode == 0
    assert choices(Path("out")) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"keep - other.png\n", "line 1, 'keep - other.png': there is no such image"),
        (b"hello\n", "line 1, 'hello': not a verdict, stars and a file, as in: keep 4 0017-a-fox"),
        (b"\xff\xfe", "--from is not text in UTF-8: copy the choices anew"),
    ],
)
def test_text_that_holds_no_choices_is_refused(genbatch: Genbatch, text: bytes, why: str) -> None:
    fill(Path("out"), ["a fox"])
    Path("choices.txt").write_bytes(text)
    done = genbatch("keep", "out", "--from", "choices.txt")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"genbatch: {why}")
    assert choices(Path("out")) == {}


def test_choices_stay_when_a_run_resumes(genbatch: Genbatch, serve: Serve) -> None:
    serve()
    write_prompts(2)
    genbatch("run", "prompts.txt", "-o", "out")
    first = images("out")[0].name
    choose(Path("out"), {first: Choice("keep")})
    assert genbatch("run", "prompts.txt", "-o", "out").returncode == 0
    assert genbatch("verify", "out").stdout == "all is well\n"
    assert choices(Path("out")) == {first: Choice("keep")}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_run_is_watched_and_ends_as_ever(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    serve(latency=lambda call: 0.0 if call.number == 1 else 60.0)
    write_prompts(3)
    Path("browser").write_text(f'#!{sys.executable}\nopen("opened", "w").write("yes")')
    Path("browser").chmod(stat.S_IRWXU)
    monkeypatch.setenv("BROWSER", f"{Path('browser').absolute()} %s")
    process = started(
        ["run", "prompts.txt", "-o", "out", "--view", "-k", "1", "--backend", backend]
    )
    lines = iter(process.stderr.readline, "")
    url = next(url_of(line) for line in lines if URL.search(line))
    told(url, '"running":true', '"figures":["1/3"')
    assert images("out")[0].name in read(url)
    process.send_signal(signal.SIGINT)
    next(line for line in lines if line.startswith("Stopping"))
    code, _, _ = stopped(process)
    assert code == 130
    assert Path("opened").read_text() == "yes"
    with pytest.raises(urllib.error.URLError):
        read(url)
