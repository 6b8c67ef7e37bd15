"""The first look: one call of each model goes first; --look shows some images, and asks."""

from __future__ import annotations

import json
import os
import pty
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import anyio.from_thread
import pytest

from genbatch.testing import (
    FakeGemini,
    FakeOpenAI,
    Fault,
    bad_key,
    blocked,
    no_image,
    openai_error,
    redirect,
    retired_model,
    unsupported_location,
)
from support.commands import CANARY, Genbatch, Serve, images, started, write_prompts

GEMINI = {
    "key": bad_key(),
    "model": retired_model("gemini-9"),
    "region": unsupported_location(),
    "redirect": redirect("https://example.com/"),
    "setting": Fault(status=400),
}
OPENAI = {
    "key": openai_error(401, "invalid_api_key", "Incorrect API key."),
    "model": openai_error(404, "model_not_found", "No such model.", param="model"),
    "region": openai_error(403, "unsupported_country_region_territory", "Not in your country."),
    "redirect": redirect("https://example.com/"),
    "setting": openai_error(400, "invalid_value", "Invalid value: 'size'.", param="size"),
}
FAKES: dict[str, tuple[Any, dict[str, Fault], str, str]] = {
    "gemini": (FakeGemini, GEMINI, "flash", "GEMINI"),
    "openai": (FakeOpenAI, OPENAI, "flare", "OPENAI"),
}


@contextmanager
def faulty(name: str, faults: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    fake, _, _, variable = FAKES[name]
    with ExitStack() as stack:
        portal = stack.enter_context(anyio.from_thread.start_blocking_portal())
        served = fake(image_size=16, faults=faults)
        stack.enter_context(portal.wrap_async_context_manager(served))
        url = "GOOGLE_GEMINI_BASE_URL" if variable == "GEMINI" else "OPENAI_BASE_URL"
        monkeypatch.setenv(url, served.url)
        monkeypatch.setenv(f"{variable}_API_KEY", CANARY)
        yield served


@pytest.mark.parametrize("backend", ["asyncio", pytest.param("trio", marks=pytest.mark.slow)])
@pytest.mark.parametrize("wrong", list(GEMINI))
@pytest.mark.parametrize("service", list(FAKES))
def test_what_no_call_can_survive_costs_one(
    genbatch: Genbatch, monkeypatch: pytest.MonkeyPatch, service: str, wrong: str, backend: str
) -> None:
    write_prompts(300)
    _, faults, model, _ = FAKES[service]
    command = ["run", "prompts.txt", "--model", model, "-k", "50", "--backend", backend, "--yes"]
    with faulty(service, lambda call: faults[wrong], monkeypatch) as fake:
        done = genbatch(*command)
    assert (done.returncode, fake.stats.calls) == (3, 1)
    assert fake.calls[0].prompt == "a fox, number 0"
    assert done.stderr.count("stopped: ") == 1
    assert "0 failed, 300 not made" in done.stdout


@pytest.mark.parametrize("passing", [blocked(), no_image(), Fault(status=503)])
def test_what_says_nothing_of_the_settings_lets_the_others_go(
    genbatch: Genbatch, serve: Serve, passing: Fault
) -> None:
    fake = serve(faults=[passing])
    write_prompts(12)
    genbatch("run", "prompts.txt")
    assert fake.stats.images == 12 - (passing.status != 503)


def test_a_refused_first_call_is_not_held_against_its_prompt(
    genbatch: Genbatch, serve: Serve
) -> None:
    fake = serve(faults=[Fault(status=400)])
    write_prompts(12)
    done = genbatch("run", "prompts.txt")
    assert "the first call was refused, and no other sent: " in done.stderr
    assert "--no-look goes on where only that prompt is to blame" in done.stderr
    assert genbatch("run", "prompts.txt").returncode == 0
    assert fake.stats.images == 12


def test_others_wait_for_the_first_call_of_their_model_only(
    genbatch: Genbatch, serve: Serve
) -> None:
    at_once: list[tuple[str, int]] = []

    def latency(call: Any) -> float:
        at_once.append((call.model, fake.stats.in_flight))
        return 0.05

    fake = serve(latency=latency)
    models = ("lite", "pro")
    rows = [{"prompt": f"a fox {n}", "model": models[n % 2]} for n in range(12)]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert genbatch("run", "rows.jsonl", "-k", "12").returncode == 0
    first = [model for model, _ in at_once[:2]]
    assert sorted(first) == ["gemini-3-pro-image", "gemini-3.1-flash-lite-image"]
    assert max(number for _, number in at_once[:2]) <= 2 < fake.stats.peak


@pytest.mark.parametrize(
    "command",
    [
        ["run", "prompts.txt", "--no-look"],
        ["run", "prompts.txt", "--limit", "10"],
    ],
)
def test_a_small_run_and_who_wants_no_look_start_at_once(
    genbatch: Genbatch, serve: Serve, command: list[str]
) -> None:
    fake = serve(latency=0.2, faults=lambda call: Fault(status=400))
    write_prompts(30)
    genbatch(*command, "-k", "10")
    assert fake.stats.peak > 1


def test_a_model_that_made_an_image_with_this_key_is_not_looked_at_again(
    genbatch: Genbatch, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = serve(latency=lambda call: 0.2)
    write_prompts(2)
    assert genbatch("run", "prompts.txt", "-k", "1").returncode == 0
    journal = Path("genbatch-out/.genbatch/journal.sqlite").read_bytes()
    assert CANARY.encode() not in journal
    fake._fault = lambda call: bad_key()  # whatever is sent from now on
    for key, least, most in ((CANARY, 2, 50), ("another-key-0123456789", 1, 1)):
        monkeypatch.setenv("GEMINI_API_KEY", key)
        write_prompts(60)
        before = fake.stats.calls
        genbatch("run", "prompts.txt", "-k", "50")
        assert least <= fake.stats.calls - before <= most
    before = fake.stats.calls
    monkeypatch.setenv("GEMINI_API_KEY", CANARY)
    genbatch("run", "prompts.txt", "-k", "50", "--image-size", "2K")  # settings that are new
    assert fake.stats.calls - before == 1


def test_redo_looks_first_as_run_does(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve()
    write_prompts(20)
    genbatch("run", "prompts.txt")
    fake._fault = lambda call: Fault(status=400)
    done = genbatch("redo", "genbatch-out", "0-19", "--model", "pro", "-k", "20")
    assert (done.returncode, fake.stats.calls) == (3, 21)


def test_prompts_on_standard_input_are_looked_at_too(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve(faults=lambda call: bad_key())
    lines = "".join(f"a fox {n}\n" for n in range(50))
    assert genbatch("run", "-", "-k", "50", input=lines).returncode == 3
    assert fake.stats.calls == 1


# --look


def on_a_terminal(answer: bytes, *arguments: str) -> tuple[int, str]:
    ours, theirs = pty.openpty()
    with started([*arguments], stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        os.write(ours, answer)
        shown = b""
        try:
            while piece := os.read(ours, 4096):
                shown += piece
        except OSError:  # the other side has closed
            pass
        os.close(ours)
        return process.wait(30), shown.decode()


@pytest.mark.parametrize(("answer", "made"), [(b"n\n", 3), (b"y\n", 20)])
def test_a_look_shows_images_and_asks_before_the_rest(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, answer: bytes, made: int
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")  # nothing is opened
    fake = serve()
    write_prompts(20)
    code, shown = on_a_terminal(answer, "run", "prompts.txt", "--look", "3", "-k", "10")
    words = " ".join(shown.split())
    assert code == 0
    assert "Make the other 17?" in words
    assert f"{images('genbatch-out')[0].name}" in "".join(shown.split())
    assert fake.stats.images == len(images("genbatch-out")) == made


def test_a_look_without_a_terminal_leaves_the_rest(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve()
    write_prompts(20)
    done = genbatch("run", "prompts.txt", "--look", "2")
    assert (done.returncode, fake.stats.images) == (3, 2)
    assert all(str(path) in done.stderr for path in images("genbatch-out"))
    assert "18 prompts left after the look" in done.stderr
    assert genbatch("run", "prompts.txt", "--look", "2", "--yes").returncode == 0
    assert fake.stats.images == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["prompts.txt", "--look", "2", "--no-look"], "--look and --no-look exclude each other"),
        (["prompts.txt", "--look", "2", "--via", "batch"], "--look and --via batch exclude"),
        (["-", "--look", "2"], "--look needs files: standard input is read only once"),
    ],
)
def test_a_look_that_cannot_be_is_refused(
    genbatch: Genbatch, serve: Serve, options: list[str], message: str
) -> None:
    fake = serve()
    write_prompts(3)
    done = genbatch("run", *options)
    assert (done.returncode, fake.stats.calls) == (2, 0)
    assert message in done.stderr
