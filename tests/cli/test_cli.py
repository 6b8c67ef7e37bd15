"""The command line from end to end: what it makes and says, and exit codes 0, 1 and 2."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from genbatch.cli._main import app, run
from genbatch.testing import Fault, blocked, no_image
from support.commands import CANARY, PARTI, Genbatch, Serve, images, started, write_prompts

# Exit code 0


def test_demo_makes_twenty_images_and_says_what_is_next(genbatch: Genbatch) -> None:
    done = genbatch("demo")
    assert done.returncode == 0
    assert len(images("genbatch-demo")) == 20
    assert "20 images in genbatch-demo, 0 failed" in done.stdout
    assert re.search(r"server: 20 calls, 20 images, peak [1-5]\n", done.stdout)
    assert "genbatch run prompts.txt" in done.stdout

    again = genbatch("demo")
    assert again.returncode == 0
    assert "20 images in genbatch-demo, 0 failed, 20 already there" in again.stdout
    assert "server: 0 calls, 0 images" in again.stdout


@pytest.mark.skipif(not PARTI.exists(), reason="PartiPrompts.tsv is not here")
@pytest.mark.parametrize("backend", ["asyncio", "trio", "uvloop"])
def test_partiprompts_in_demo_mode(genbatch: Genbatch, backend: str) -> None:
    arguments = ["--demo", "--limit", "40", "--backend", backend, "-o", "out"]
    done = genbatch("run", str(PARTI), *arguments)
    assert done.returncode == 0
    assert len(images("out")) == 40
    assert "40 images in out, 0 failed\n" in done.stdout
    counted = re.search(r"server: 40 calls, 40 images, peak (\d+)\n", done.stdout)
    assert counted
    assert int(counted[1]) <= 20


def test_run_makes_an_image_of_every_prompt_and_resumes(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve()
    write_prompts(3)
    done = genbatch("run", "prompts.txt", "-o", "a/b")
    assert (done.returncode, fake.stats.images, len(images("a/b"))) == (0, 3, 3)

    write_prompts(5)
    again = genbatch("run", "prompts.txt", "-o", "a/b")
    assert (again.returncode, fake.stats.images, len(images("a/b"))) == (0, 5, 5)
    assert "5 images in a/b, 0 failed, 3 already there\n" in again.stdout


def test_images_of_a_demo_are_not_taken_for_real_ones(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve()
    write_prompts(3)
    assert genbatch("run", "prompts.txt", "--demo").returncode == 0
    assert genbatch("run", "prompts.txt").returncode == 0
    assert (fake.stats.images, len(images("genbatch-out"))) == (3, 6)


def test_run_reads_standard_input(genbatch: Genbatch) -> None:
    done = genbatch("run", "-", "--demo", input="one\ntwo\n")
    assert done.returncode == 0
    assert len(images("genbatch-out")) == 2


def test_options_reach_the_service(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve()
    write_prompts(1)
    genbatch("run", "prompts.txt", "--model", "pro", "--aspect-ratio", "16:9", "--image-size", "2K")
    (call,) = fake.calls
    assert call.model == "gemini-3-pro-image"
    config = call.body["generationConfig"]["imageConfig"]
    assert config == {"aspectRatio": "16:9", "imageSize": "2K"}


def test_an_empty_file_is_nothing_to_do(genbatch: Genbatch) -> None:
    Path("prompts.txt").write_text("\n \n")
    done = genbatch("run", "prompts.txt", "--demo")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "Nothing to do: no prompts in prompts.txt.\n"
    assert not Path("genbatch-out").exists()


def test_a_limit_of_none_is_nothing_to_do(genbatch: Genbatch) -> None:
    write_prompts(2)
    done = genbatch("run", "prompts.txt", "--demo", "--limit", "0")
    assert (done.returncode, done.stdout) == (0, "Nothing to do: --limit 0.\n")


def test_progress_without_a_terminal_is_a_few_plain_lines(
    genbatch: Genbatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    write_prompts(60)
    done = genbatch("run", "prompts.txt", "--demo")
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert lines
    assert len(lines) <= 10
    for line in lines:
        line = re.sub(r"  limited by (the )?(calls at once|disk|processor|quota|reader)$", "", line)
        figures = r"\d+/60  0 failed  \d+ in flight  [\d.]+/(s|min)  0:\d\d left"
        assert re.fullmatch(figures, line)
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", done.stdout + done.stderr)


# Exit code 1


def test_failed_prompts_are_listed_and_the_others_made(genbatch: Genbatch, serve: Serve) -> None:
    serve(faults=[None, blocked(), Fault(status=400), no_image("a\x1b[31m poem\n[b]x[/b]")])
    write_prompts(6)
    done = genbatch("run", "prompts.txt", "-k", "1")
    assert done.returncode == 1
    assert "3 images in genbatch-out, 3 failed\n" in done.stdout
    assert len(images("genbatch-out")) == 3
    failures = [line for line in done.stderr.splitlines() if line.startswith("failed ")]
    assert failures[0].startswith('failed [1] "a fox, number 1": Blocked: ')
    assert failures[1].startswith('failed [2] "a fox, number 2": Rejected: ')
    assert failures[2].startswith('failed [3] "a fox, number 3": NoImage: ')
    assert failures[2].endswith("poem [b]x[/b]")
    assert "\x1b" not in done.stderr
    assert "genbatch: 3 prompts failed, see above" in done.stderr


# Exit code 2: tested inside this process, nothing runs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run prompts.txt --demo -k 0", "Invalid value for '--max-concurrent' / '-k'"),
        ("run prompts.txt --demo -k x", "Invalid value for '--max-concurrent' / '-k'"),
        ("run prompts.txt --demo --limit -1", "Invalid value for '--limit'"),
        ("run prompts.txt --demo --backend curio", "Invalid value for '--backend'"),
        ("run prompts.txt --demo --model ../x", "not a model id: '../x'"),
        ("run prompts.txt --demo --api-key x", "No such option: --api-key"),
        ("run prompts.txt --demo --base-url http://127.0.0.1:1", "--demo has its own server"),
        ("run prompts.txt --base-url http://example.com", "--base-url must be https"),
        ("run", "no PROMPTS: name a file, or give --template and --matrix"),
        ("run none.txt --demo", "none.txt: no such file or directory"),
        ("run prompts.yaml --demo", "prompts.yaml: unknown extension '.yaml'; supported are .txt"),
        ("run bad.csv --demo", "bad.csv:1: no column named prompt; the columns are: text, n"),
        ("run late.csv --demo --limit 1", "late.csv:3: the prompt is blank"),
        ("serve-fake --host 0.0.0.0", "Invalid value for '--host'"),
        ("serve-fake --port 99999", "Invalid value for '--port'"),
        ("paint", "No such command 'paint'"),
    ],
)
def test_bad_usage_is_one_line_and_nothing_happens(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: str,
    message: str,
) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", CANARY)
    write_prompts()
    Path("prompts.yaml").write_text("a fox\n")
    Path("bad.csv").write_text("text,n\na,b\n")
    Path("late.csv").write_text("id,prompt\n1,a fox\n2,\n")
    before = set(Path().iterdir())
    assert run(arguments.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("genbatch: ")
    assert captured.err.endswith("\n")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert set(Path().iterdir()) == before


def test_a_missing_key_is_said_before_anything_happens(genbatch: Genbatch) -> None:
    done = genbatch("run", "-", input="a fox\n")
    assert done.returncode == 2
    assert re.fullmatch(r"genbatch: no API key: set GEMINI_API_KEY .*\n", done.stderr)
    assert not Path("genbatch-out").exists()


@pytest.mark.parametrize("backend", ["trio", "uvloop"])
def test_a_missing_backend_names_its_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setitem(sys.modules, backend, None)  # type: ignore[arg-type]
    assert run(["demo", "--backend", backend]) == 2
    assert f"run python -m pip install 'genbatch[{backend}]'" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_without_the_extra_the_command_says_what_to_install(package: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None; import genbatch.__main__"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(
        b"genbatch: the command line needs the package " + package.encode()
    )
    assert done.stderr.endswith(b"; run python -m pip install 'genbatch[cli]'\n")
    assert done.stderr.count(b"\n") == 1


def test_a_taken_port_is_one_line(genbatch: Genbatch, serve: Serve) -> None:
    port = serve().url.rpartition(":")[2]
    done = genbatch("serve-fake", "--port", port)
    assert done.returncode == 2
    assert re.fullmatch(rf"genbatch: [^\n]*{port}[^\n]*\n", done.stderr)


# Information


def test_version(genbatch: Genbatch) -> None:
    done = genbatch("--version")
    assert done.returncode == 0
    assert re.fullmatch(r"genbatch \S.*\n", done.stdout)


COMMANDS = [str(each.name) for each in app.registered_commands]


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_has_examples_that_can_be_read(
    capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    assert run([*command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Examples:" in shown
    examples = re.findall(r"`genbatch (.*?)`", markdown_of(command))
    assert examples
    for example in examples:
        words = shlex.split(example.partition("|")[0].partition(">")[0])
        assert words[0] in COMMANDS
        assert run([words[0], "--help"]) == 0
        known = capsys.readouterr().out.split()
        assert {word for word in words if re.match("--?[a-z]", word)} <= set(known)


def markdown_of(command: list[str]) -> str:
    callbacks = {each.name: each.callback for each in app.registered_commands}
    function = callbacks[command[0]] if command else app.registered_callback.callback
    return inspect.getdoc(function) or ""


def test_the_help_of_run_is_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["run", "--help"]) == 0
    shown = capsys.readouterr().out
    panels = re.findall(r"─ ([A-Z][\w ]+) ─", shown)
    assert panels == [
        "Arguments",
        "Options",
        "Prompts",
        "Images",
        "Files",
        "Limits and cost",
        "Rerunning",
        "Output",
    ]


@pytest.mark.parametrize("command", ["--help", "run --help", "--version", "models", "run none.txt"])
def test_what_makes_no_call_does_not_load_the_client_library(command: str) -> None:
    script = (
        "import sys\n"
        "from genbatch.cli._main import run\n"
        f"run({command.split()})\n"
        "print([name for name in ('google.genai', 'httpx', 'trio', 'PIL') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout.splitlines()[-1] == b"[]"


def test_no_command_shows_help(genbatch: Genbatch) -> None:
    done = genbatch()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == genbatch("--help").stdout


@pytest.mark.parametrize("command", ["--debug run none.txt --demo", "run none.txt --demo --debug"])
def test_a_traceback_is_shown_under_debug_only(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert run(command.split()) == 2
    assert "Traceback" in capsys.readouterr().err
    assert run(command.replace("--debug", "").split()) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_serve_fake_serves_until_interrupted(genbatch: Genbatch, tmp_path: Path) -> None:
    write_prompts(2)
    with started(["serve-fake", "--port", "0", "--latency", "0"]) as server:
        assert server.stdout
        url = re.search(r"http://127\.0\.0\.1:\d+", server.stdout.readline())
        assert url
        environment = os.environ | {"GEMINI_API_KEY": "fake", "GOOGLE_GEMINI_BASE_URL": url[0]}
        assert genbatch("run", "prompts.txt", env=environment).returncode == 0
        server.send_signal(signal.SIGINT)
        out, err = server.communicate(timeout=60)
    assert (server.returncode, err) == (0, "")
    assert re.search(r"server: 2 calls, 2 images, peak [12]\n$", out)
