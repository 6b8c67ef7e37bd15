"""What every prompt would meet stops the run once, in the service's words, and is mended later."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from genbatch._store import status
from genbatch.cli._display import Display
from genbatch.cli._main import run
from genbatch.testing import (
    Call,
    ControlCall,
    Fault,
    closed_port,
    disabled_account,
    expired_key,
    html_page,
    no_credit,
    rate_limited,
    redirect,
    retired_model,
    spending_cap,
    unsupported_location,
)
from support.commands import Genbatch, Serve, images, write_prompts

PROMPTS, AT_ONCE = 60, 20
JOBS = pytest.param("batch", marks=pytest.mark.slow)  # looks at a job some seconds apart


def refused(code: int, status: str, message: str) -> Fault:
    return Fault(status=code, body={"error": {"code": code, "status": status, "message": message}})


STOPS = {
    "prepaid": (no_credit(), "Your prepayment credits are depleted"),
    "spending cap": (spending_cap(), "exceeded its monthly spending cap"),
    "billing": (
        refused(429, "RESOURCE_EXHAUSTED", "Enable billing on project 7 to go on."),
        "Enable billing on project 7",
    ),
    "redirect": (redirect("http://127.0.0.2/"), "a redirect of"),
    "retired": (retired_model(), "(404): "),
    "page": (html_page(200), "an answer that is not JSON: <!DOCTYPE html>"),
    "location": (unsupported_location(), "User location is not supported"),
    "expired key": (expired_key(), "API key expired"),
    "disabled account": (disabled_account(), "PUP_LIMITED_DISABLED"),
    "the same 400": (
        refused(400, "INVALID_ARGUMENT", 'Unknown name "imageConfig".'),
        "in the same words: gemini-nano-banana-2.1 refused the request (400): Unknown name",
    ),
}


@pytest.mark.parametrize(("fault", "words"), STOPS.values(), ids=STOPS)
def test_a_run_stops_at_once_with_the_service_s_words_and_resumes_when_it_is_mended(
    genbatch: Genbatch, serve: Serve, fault: Fault, words: str
) -> None:
    is_broken = True
    fake = serve(faults=lambda call: fault if is_broken else None)
    write_prompts(PROMPTS)
    run = ("run", "prompts.txt", "-k", str(AT_ONCE), "--no-look")
    done = genbatch(*run)
    assert done.returncode == 3
    assert fake.stats.calls <= AT_ONCE + 10
    last = done.stderr.splitlines()[-1]
    assert last.startswith("genbatch: stopped: ")
    assert last.count(words) == 1
    assert "the same command resumes" in last
    assert status(Path("genbatch-out")).failed == {}  # for good
    is_broken = False
    done = genbatch(*run)
    assert done.returncode == 0, done.stderr
    assert len(images("genbatch-out")) == PROMPTS


@pytest.mark.parametrize("fault", ["prepaid", "redirect", "location", "expired key"])
def test_there_is_one_message_and_nothing_that_may_have_been_billed(
    genbatch: Genbatch, serve: Serve, fault: str
) -> None:
    serve(faults=lambda call: STOPS[fault][0])
    write_prompts(PROMPTS)
    done = genbatch("run", "prompts.txt", "-k", str(AT_ONCE), "--budget", "5")
    assert len([line for line in done.stderr.splitlines() if STOPS[fault][1] in line]) == 1
    assert "billed" not in done.stdout + done.stderr
    assert status(Path("genbatch-out")).spent == (0, 0, 0, 0)


def test_no_network_is_one_message(
    genbatch: Genbatch, monkeypatch: pytest.MonkeyPatch, unreachable: str
) -> None:
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", unreachable)
    monkeypatch.setenv("GEMINI_API_KEY", "some-key")
    write_prompts(PROMPTS)
    done = genbatch("run", "prompts.txt")
    assert done.returncode == 3
    assert [line for line in done.stderr.splitlines() if "could not be reached" in line] == [
        done.stderr.splitlines()[-1]
    ]
    assert f"0 failed, {PROMPTS} not made" in done.stdout


@pytest.fixture
def unreachable() -> Iterator[str]:
    with closed_port() as url:
        yield url


def test_a_pause_beyond_patience_ends_the_run(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve(faults=lambda call: rate_limited(100_000, in_header=True))
    write_prompts(PROMPTS)
    done = genbatch("run", "prompts.txt", "--patience", "3", "-k", str(AT_ONCE))
    assert done.returncode == 3
    assert fake.stats.calls <= AT_ONCE + 10
    assert "it asks to wait 100,000 s, longer than the patience of 3 s" in done.stderr
    assert f"0 failed, {PROMPTS} not made" in done.stdout


def test_the_words_of_a_pause_are_shown(genbatch: Genbatch, serve: Serve) -> None:
    body = {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "Slow down, please."}}
    serve(faults=[Fault(status=429, body=body, headers={"retry-after": "1"})])
    write_prompts(2)
    done = genbatch("run", "prompts.txt", "-k", "1", "--log-file", "log.txt")
    assert done.returncode == 0
    assert '"Slow down, please."  rate limited: 1 s  limited by quota\n' in done.stderr
    assert "no call starts for 1.0 s: " in Path("log.txt").read_text()
    assert "Slow down, please." in Path("log.txt").read_text()


def test_one_model_that_is_gone_does_not_stop_the_others(genbatch: Genbatch, serve: Serve) -> None:
    def gone(call: Call) -> Fault | None:
        return retired_model("gemini-9") if "gemini-9" in call.model else None

    serve(faults=gone)
    rows: list[dict[str, Any]] = [{"prompt": f"a fox {n}"} for n in range(6)]
    rows += [{"prompt": f"an owl {n}", "model": "gemini-9"} for n in range(6)]
    Path("p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = genbatch("run", "p.jsonl", "-k", "2")
    assert done.returncode == 3
    assert len(images("genbatch-out")) == 6
    assert "0 failed, 6 not made" in done.stdout


NUMBERED = lambda call: refused(400, "INVALID_ARGUMENT", f"Bad request req-{call.number}.")  # noqa: E731
EQUAL = lambda call: STOPS["the same 400"][0]  # noqa: E731


@pytest.mark.parametrize("fault", [EQUAL, NUMBERED], ids=["equal", "numbered"])
@pytest.mark.parametrize("via", ["live", JOBS])
def test_equal_refusals_of_a_model_stop_it_beside_one_that_works(
    genbatch: Genbatch, serve: Serve, fault: Callable[[Call], Fault], via: str
) -> None:
    is_broken = True

    def of_flash(call: Call) -> Fault | None:
        return fault(call) if is_broken and "banana" in call.model else None

    fake = serve(faults=of_flash)
    rows = [{"prompt": f"a fox {n}", "model": ("pro", "flash")[n % 2]} for n in range(60)]
    Path("p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = ("run", "p.jsonl", "-k", "4", "--via", via, "--no-look")
    done = genbatch(*run)
    assert done.returncode == 3
    assert len(images("genbatch-out")) == 30
    if via == "live":
        assert fake.stats.calls <= 30 + 4 + 10
    assert "Rejected: the same command asks those again" in done.stderr
    assert "10 calls in a row were refused in the same words" in done.stderr.splitlines()[-1]
    assert status(Path("genbatch-out")).failed == {}  # for good
    is_broken = False
    done = genbatch(*run)
    assert done.returncode == 0, done.stderr
    assert len(images("genbatch-out")) == 60


@pytest.mark.parametrize("via", ["live", JOBS])
def test_refusals_scattered_among_images_are_their_prompts(
    genbatch: Genbatch, serve: Serve, via: str
) -> None:
    def fault(call: Call) -> Fault | None:
        is_refused = int(call.prompt.split()[-1]) % 5 == 0
        return refused(400, "INVALID_ARGUMENT", "No such thing.") if is_refused else None

    fake = serve(faults=fault)
    write_prompts(60)
    for _ in range(2):
        done = genbatch("run", "prompts.txt", "-k", "1", "--via", via, "--no-look")
        assert done.returncode == 1
        assert status(Path("genbatch-out")).failed == {"Rejected": 12}
        assert (len(images("genbatch-out")), fake.stats.jobs) == (48, int(via == "batch"))


def test_no_network_is_one_message_for_jobs_too(
    genbatch: Genbatch, monkeypatch: pytest.MonkeyPatch, unreachable: str
) -> None:
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", unreachable)
    monkeypatch.setenv("GEMINI_API_KEY", "some-key")
    write_prompts(PROMPTS)
    done = genbatch("run", "prompts.txt", "--via", "batch")
    assert done.returncode == 3
    assert len([line for line in done.stderr.splitlines() if "could not be reached" in line]) == 1
    assert f"0 failed, {PROMPTS} not made" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("action", ["start_upload", "create_batch"])
def test_a_page_in_place_of_a_job_stops_the_run(
    genbatch: Genbatch, serve: Serve, action: str
) -> None:
    is_broken = True

    def page(call: ControlCall) -> Fault | None:
        return html_page(200) if is_broken and call.action == action else None

    serve(control_faults=page)
    write_prompts(40)
    run = ("run", "prompts.txt", "--via", "batch")
    done = genbatch(*run)
    assert done.returncode == 3
    assert "the same command resumes" in done.stderr.splitlines()[-1]
    assert status(Path("genbatch-out")).failed == {}
    is_broken = False
    assert genbatch(*run).returncode == 0
    assert len(images("genbatch-out")) == 40


REAL_WORDS = (
    "You exceeded your current quota, please check your plan and billing details. For more "
    "information on this error, head to: https://ai.google.dev/gemini-api/docs/rate-limits. To "
    "monitor your current usage, head to: https://ai.dev/rate-limit. \n* Quota exceeded for "
    "metric: generativelanguage.googleapis.com/generate_content_free_tier_requests, limit: 0, "
    "model: gemini-3-pro-image\nPlease retry in 1.5s."
)  # as users report it


def test_no_quota_at_all_is_seen_wherever_the_message_tells_it(
    genbatch: Genbatch, serve: Serve
) -> None:
    delay = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1.5s"}
    error = {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": REAL_WORDS, "details": [delay]}
    fake = serve(faults=lambda call: Fault(status=429, body={"error": error}))
    write_prompts(PROMPTS)
    done = genbatch("run", "prompts.txt", "-k", str(AT_ONCE))
    assert done.returncode == 3
    assert fake.stats.calls <= AT_ONCE + 10
    assert "free_tier_requests, limit: 0, model" in done.stderr.splitlines()[-1]


def test_refusals_of_other_words_are_their_prompts(genbatch: Genbatch, serve: Serve) -> None:
    def fault(call: Call) -> Fault:
        words = "too long" if call.number % 2 else "too rude"
        return refused(400, "INVALID_ARGUMENT", f"The prompt is {words}.")

    serve(faults=fault)
    write_prompts(24)
    done = genbatch("run", "prompts.txt", "-k", "1", "--no-look")
    assert done.returncode == 1
    assert "24 Rejected: change the prompts, or retry them with" in done.stderr


def test_a_model_that_is_known_to_be_gone_is_refused_before_any_call(
    genbatch: Genbatch, serve: Serve
) -> None:
    fake = serve()
    write_prompts(2)
    done = genbatch("run", "prompts.txt", "--model", "gemini-2.5-flash-image")
    assert done.returncode == 3
    assert "gemini-2.5-flash-image was shut down: use 'flash'" in done.stderr
    assert fake.stats.calls == 0
    assert not Path("genbatch-out").exists()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_cannot_be_drawn_neither_ends_nor_hangs_a_run(
    backend: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("cannot draw")

    monkeypatch.setattr(Display, "show", refuse)
    write_prompts(3)
    assert run(["run", "prompts.txt", "-o", "out", "--demo", "--backend", backend]) == 0
    assert len(images("out")) == 3
    told = "genbatch: the progress cannot be shown: RuntimeError('cannot draw')\n"
    assert capsys.readouterr().err.count(told) == 1
