"""``--service``: one's own client beside Gemini, in one run and one folder."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from genbatch.testing import FakeOpenAI
from support.commands import Genbatch, Serve, images, started, write_prompts

MINE = '''
from contextlib import asynccontextmanager

from genbatch import Image
from genbatch.testing._pictures import draw


class Local:
    """A model of one's own."""

    service = "mine"

    def price(self, request):
        return 0.1

    async def generate_image(self, request, /):
        with open("calls.txt", "a") as calls:
            calls.write(request.text + "\\n")
        data = draw(request.text, model="mine", seed=request.seed, width=8, height=8)
        return Image(data, "image/png", cost=0.1)


def make():
    return Local()


class Entered(Local):
    service = "entered"

    async def __aenter__(self):
        print("entered")
        return self

    async def __aexit__(self, *_):
        print("left")


def broken():
    return 7


class Second(Local):
    service = "second"


class Named(Local):
    service = "openai"


class Left(Entered):
    service = "left"

    async def __aexit__(self, *_):
        raise OSError("the disk is gone")


@asynccontextmanager
async def inside():
    yield Second()


async def coroutine():
    return Local()


def leaves():
    raise SystemExit(0)
'''


@pytest.fixture(autouse=True)
def module(genbatch: Genbatch) -> None:
    Path("my_module.py").write_text(MINE)


def calls() -> list[str]:
    path = Path("calls.txt")
    return path.read_text().splitlines() if path.exists() else []


def test_a_client_of_one_s_own_is_a_run_like_any_other(genbatch: Genbatch) -> None:
    write_prompts(6)
    run = ("run", "prompts.txt", "--service", "my_module:make")
    plan = json.loads(genbatch(*run, "--dry-run", "--json").stdout)
    assert (plan["calls"], plan["cost"], plan["model"]) == (6, pytest.approx(0.6), "mine")
    assert calls() == []
    done = genbatch(*run, "--budget", "0.35")
    assert done.returncode == 3
    assert "the budget of $0.35 is used up" in done.stderr
    assert len(calls()) == len(images("genbatch-out")) == 3
    done = genbatch(*run, "--gallery")
    assert done.returncode == 0, done.stderr
    assert len(calls()) == len(images("genbatch-out")) == 6
    assert genbatch(*run).returncode == 0
    assert len(calls()) == 6
    assert "a fox, number 5" in Path("genbatch-out/index.html").read_text()
    spent = json.loads(genbatch("status", "--json").stdout)["spent"]
    assert (spent["usd"], spent["images"]) == (pytest.approx(0.6), 6)


def test_rows_name_the_service_by_their_model(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve(image_size=8)
    models = ("flash", "mine", None)
    rows = [{"prompt": f"a fox {n}", "model": models[n % 3]} for n in range(9)]
    Path("p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = ("run", "p.jsonl", "--service", "my_module:make")
    done = genbatch(*run)
    assert done.returncode == 0, done.stderr
    assert (fake.stats.calls, len(calls()), len(images("genbatch-out"))) == (3, 6, 9)
    made = [json.loads(line)["model"] for line in genbatch("export").stdout.splitlines()]
    assert made == ["gemini-nano-banana-2.1", "mine", "mine"] * 3
    assert genbatch(*run).returncode == 0
    assert (fake.stats.calls, len(calls())) == (3, 6)
    assert genbatch("verify").returncode == 0


def test_models_are_compared_in_one_folder(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve(image_size=8)
    write_prompts(2)
    done = genbatch(
        *("run", "prompts.txt", "--matrix", "model=flash,mine", "--service", "my_module:make")
    )
    assert done.returncode == 0, done.stderr
    assert (fake.stats.calls, len(calls()), len(images("genbatch-out"))) == (2, 2, 4)


def test_a_take_is_made_by_the_service_of_its_prompt(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve(image_size=8)
    Path("p.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b", "model": "flash"}\n')
    service = ("--service", "my_module:make")
    assert genbatch("run", "p.jsonl", *service).returncode == 0
    done = genbatch("redo", "genbatch-out", "0-1", *service)
    assert done.returncode == 0, done.stderr
    assert (fake.stats.calls, calls()) == (2, ["a", "a"])


@pytest.fixture
def openai(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOpenAI]:
    with FakeOpenAI(image_size=8) as fake:
        monkeypatch.setenv("OPENAI_BASE_URL", fake.url)
        monkeypatch.setenv("OPENAI_API_KEY", "a-key")
        yield fake


def test_the_prefix_of_a_model_says_the_service_of_every_prompt(
    genbatch: Genbatch, serve: Serve, openai: FakeOpenAI
) -> None:
    gemini = serve(image_size=8)
    Path("p.jsonl").write_text('{"prompt": "a", "id": "1"}\n{"prompt": "b"}\n')
    run = ("run", "p.jsonl", "--model", "openai/some-new-model", "--price", "0.01")
    done = genbatch(*run)
    assert done.returncode == 0, done.stderr
    assert (gemini.stats.calls, openai.stats.calls) == (0, 2)
    done = genbatch("redo", "genbatch-out", "0", "--price", "0.01")
    assert done.returncode == 0, done.stderr
    assert (gemini.stats.calls, openai.stats.calls) == (0, 3)


def test_a_take_by_a_service_that_is_not_given_is_refused(genbatch: Genbatch, serve: Serve) -> None:
    gemini = serve(image_size=8)
    Path("p.jsonl").write_text('{"prompt": "a", "model": "second/x"}\n')
    services = ("--service", "my_module:make", "--service", "my_module:Second")
    assert genbatch("run", "p.jsonl", *services).returncode == 0
    done = genbatch("redo", "genbatch-out", "0")
    assert done.returncode == 2
    assert "x was made by the service 'second': give its --service" in done.stderr
    assert genbatch("redo", "genbatch-out", "0", *services).returncode == 0
    assert (gemini.stats.calls, calls()) == (0, ["a", "a"])


def test_a_refused_key_says_nothing_of_another_service(
    genbatch: Genbatch, serve: Serve, openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    gemini = serve(image_size=8, latency=1)
    monkeypatch.setenv("OPENAI_API_KEY", "refused-key")
    monkeypatch.setattr(openai, "_api_keys", {"a-key"})
    write_prompts(4)
    done = genbatch("run", "prompts.txt", "--matrix", "model=flash,flare", "-k", "8", "--no-look")
    assert done.returncode == 3, done.stderr
    assert gemini.stats.images == len(images("genbatch-out")) > 0


def test_a_server_is_given_for_the_one_service(
    genbatch: Genbatch, serve: Serve, openai: FakeOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(image_size=8)
    write_prompts(1)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9")
    run = ("run", "prompts.txt", "--base-url", openai.url)
    assert genbatch(*run, "--model", "flare").returncode == 0
    assert openai.stats.images == 1
    done = genbatch(*run, "--matrix", "model=flash,flare")
    assert done.returncode == 2
    assert "--base-url is of one service" in done.stderr


def test_a_client_may_come_out_of_a_context(genbatch: Genbatch) -> None:
    write_prompts(2)
    run = ("run", "prompts.txt", "--service", "my_module:inside")
    plan = json.loads(genbatch(*run, "--dry-run", "--json").stdout)
    assert (plan["cost"], plan["model"]) == (pytest.approx(0.2), "second")
    assert genbatch(*run).returncode == 0
    assert genbatch(*run).returncode == 0
    assert len(calls()) == 2


def test_what_goes_wrong_when_a_client_is_left_loses_no_summary(genbatch: Genbatch) -> None:
    write_prompts(1)
    done = genbatch("run", "prompts.txt", "--service", "my_module:Left")
    assert done.returncode == 0
    assert "1 image in genbatch-out" in done.stdout
    assert "--service my_module:Left: leaving it: OSError: the disk is gone" in done.stderr


def test_one_s_own_service_keeps_the_pace_and_as_many_calls_as_were_asked_for(
    genbatch: Genbatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    write_prompts(3)
    run = ("run", "prompts.txt", "--service", "my_module:make")
    done = genbatch(*run, "-k", "3", "--pace", "1/h", "--deadline", "0.5")
    assert done.returncode == 3
    assert len(calls()) == 1
    assert "At most" not in done.stderr


def test_only_gemini_has_jobs(genbatch: Genbatch, openai: FakeOpenAI) -> None:
    write_prompts(20)
    plan = genbatch("run", "prompts.txt", "--model", "flare", "--dry-run").stdout
    assert "about" in plan
    assert "by batch" not in plan
    done = genbatch("run", "prompts.txt", "--model", "flare", "--dry-run", "--via", "batch")
    assert done.returncode == 2


def test_openai_and_gemini_share_a_folder_not_their_images(
    genbatch: Genbatch, serve: Serve, openai: FakeOpenAI
) -> None:
    gemini = serve(image_size=8)
    write_prompts(3)
    run = ("run", "prompts.txt", "--matrix", "model=flash,flare", "--budget", "2", "--gallery")
    for _ in range(2):
        done = genbatch(*run)
        assert done.returncode == 0, done.stderr
        assert (gemini.stats.images, openai.stats.images) == (3, 3)
    assert len(images("genbatch-out")) == 6
    models = [json.loads(line)["model"] for line in genbatch("export").stdout.splitlines()]
    assert models == ["gemini-nano-banana-2.1", "gpt-image-2.6-flare"] * 3
    assert genbatch("verify").returncode == 0
    assert "gpt-image-2.6-flare" in Path("genbatch-out/index.html").read_text()
    assert genbatch("redo", "genbatch-out", "0-1").returncode == 0
    assert (gemini.stats.images, openai.stats.images) == (4, 4)


def test_the_models_of_openai_are_listed_and_their_key_is_named(
    genbatch: Genbatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "gpt-image-2.6-flare" in genbatch("models").stdout
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    write_prompts(1)
    done = genbatch("run", "prompts.txt", "--model", "openai/gpt-image-9")
    assert done.returncode == 2
    assert "no API key: set OPENAI_API_KEY" in done.stderr


def test_no_key_is_needed_for_services_that_are_not_asked(
    genbatch: Genbatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    monkeypatch.delenv("GOOGLE_API_KEY", raising=False)
    write_prompts(1)
    service = ("--service", "my_module:make")
    assert genbatch("run", "prompts.txt", *service).returncode == 0
    Path("p.jsonl").write_text('{"prompt": "a", "model": "flash"}\n')
    done = genbatch("run", "p.jsonl", *service)
    assert done.returncode == 2
    assert "no API key: set GEMINI_API_KEY" in done.stderr


def test_a_client_that_is_a_context_is_entered(genbatch: Genbatch) -> None:
    write_prompts(1)
    done = genbatch("run", "prompts.txt", "--service", "my_module:Entered")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("entered\nleft\n")


def test_ctrl_c_drains(genbatch: Genbatch) -> None:
    slow = MINE.replace("data = draw", "await anyio.sleep(0.2)\n        data = draw")
    Path("my_module.py").write_text("import anyio\n" + slow)
    write_prompts(500)
    run = ["run", "prompts.txt", "--yes", "--service", "my_module:make", "-k", "4"]
    with started(run) as process:
        while len(calls()) < 8:
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert len(calls()) == len(images("genbatch-out")) < 500


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--service", "my_module"), "--service must be like my_module:make, got 'my_module'"),
        (("--service", "no_module:make"), "--service no_module:make: No module named 'no_module'"),
        (("--service", "my_module:none"), "has no attribute 'none'"),
        (("--service", "my_module:broken"), "broken() failed: TypeError: client must have"),
        (("--service", "my_module:coroutine"), "TypeError: it must not be async"),
        (("--service", "my_module:leaves"), "leaves() failed: SystemExit: 0"),
        (("--service", "my_module:Named"), "there is another service named 'openai'"),
        (
            ("--service", "my_module:Local", "--service", "my_module:make"),
            "there is another service named 'mine'",
        ),
        (("--model", "second/x"), "no service is named 'second', as second/x asks"),
        (("--service", "my_module:make", "--demo"), "--demo has its own service"),
        (("--service", "my_module:make", "--via", "batch"), "only Gemini's models have batch jobs"),
        (("--service", "my_module:Local", "--model", "flash", "--image-size", "9K"), "9K"),
    ],
)
def test_mistakes_are_told(
    genbatch: Genbatch, serve: Serve, arguments: tuple[str, ...], message: str
) -> None:
    serve()
    write_prompts(1)
    done = genbatch("run", "prompts.txt", *arguments)
    assert done.returncode in (1, 2)
    assert message in done.stderr
