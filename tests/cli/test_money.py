"""What a run costs: said before, bounded on the way, told afterwards; and what holds it up."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from genbatch.testing import Call, Fault, html_page, rate_limited
from support.commands import PARTI, Genbatch, Serve, images, started, write_prompts


@pytest.mark.skipif(not PARTI.exists(), reason="no PartiPrompts here")
def test_a_dry_run_says_what_it_would_do_and_makes_no_call(
    genbatch: Genbatch, serve: Serve
) -> None:
    fake = serve()
    done = genbatch("run", str(PARTI), "--dry-run", "--pace", "10/min")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "1,632 prompts · 0 done · 1,632 to make · flash = gemini-nano-banana-2.1 1K"
        " · about $54.89, by batch $27.44"
        " · about 2:43:12 at 10/min\n"
        "reserved: at most $79.48, for each prompt by its length, its input images,"
        " the longest thoughts and one image\n"
        "Read: prompt · metadata: Category, Challenge, Note\n"
        'Request 1: gemini-nano-banana-2.1 · 1K · "bond"\n'
        'Request 2: gemini-nano-banana-2.1 · 1K · "element"\n'
        'Request 3: gemini-nano-banana-2.1 · 1K · "molecule"\n'
        f"Server: {fake.url}\n"
        "Price: $0.0336 for the first request: its prompt and the image, without thoughts,"
        " as published on 2026-11-27\n"
    )
    assert fake.stats.calls == 0
    assert not Path("genbatch-out").exists()


def test_a_dry_run_needs_no_key(genbatch: Genbatch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    write_prompts(3)
    done = genbatch("run", "prompts.txt", "--dry-run", "--model", "some-new-model")
    assert done.returncode == 0
    assert done.stdout.startswith(
        "3 prompts · 0 done · 3 to make · some-new-model · price unknown\n"
        "Read: each line is a prompt\n"
    )
    assert done.stdout.endswith("Price: none is known for some-new-model: give --price\n")


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("speechConfig=3", "--config speechConfig has an invalid value, got 3"),
        ("topP=much", "--config topP must be a number, got 'much'"),
        ('imageConfig={"personGeneration":"ALL"}', "--config: person_generation is only for"),
    ],
)
def test_a_dry_run_refuses_a_field_that_cannot_be_sent(
    genbatch: Genbatch, monkeypatch: pytest.MonkeyPatch, config: str, says: str
) -> None:
    write_prompts(3)
    assert genbatch("run", "prompts.txt", "--demo", "-q").returncode == 0
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    for command in (("run", "prompts.txt", "-o", "new"), ("redo", "genbatch-out", "0", "--demo")):
        done = genbatch(*command, "--dry-run", "--config", config)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"genbatch: {says}")


def test_a_warning_of_a_library_is_one_line(genbatch: Genbatch) -> None:
    write_prompts(3)
    config = 'safetySettings=[{"category":"HARM_CATEGORY_OTHER","threshold":"OFF"}]'
    done = genbatch("run", "prompts.txt", "--demo", "--dry-run", "--config", config)
    assert done.returncode == 0
    assert done.stderr == ("genbatch: warning: HARM_CATEGORY_OTHER is not a valid HarmCategory\n")


def test_a_budget_ends_a_run_before_the_call_that_could_exceed_it(
    genbatch: Genbatch, serve: Serve
) -> None:
    fake = serve()
    write_prompts(8)
    done = genbatch("run", "prompts.txt", "--budget", "0.12", "-k", "8")
    assert done.returncode == 3
    assert fake.stats.images == len(images("genbatch-out")) == 3
    assert "3 images in genbatch-out, 0 failed, 5 not made" in done.stdout
    assert done.stderr.splitlines()[-1] == (
        "genbatch: stopped: the budget of $0.12 is used up: 3 images, $0.10;"
        " finished images are kept, the same command with a larger --budget resumes"
    )


def test_a_budget_holds_over_runs_into_one_directory(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve()
    write_prompts(8)
    command = ["run", "prompts.txt", "--budget", "0.15", "-k", "1"]
    assert genbatch(*command).returncode == 3
    assert fake.stats.images == 4
    assert genbatch(*command).returncode == 3
    assert fake.stats.images == 4
    assert genbatch("run", "prompts.txt", "--budget", "0.19").returncode == 3
    assert fake.stats.images == 5
    planned = genbatch("run", "prompts.txt", "--dry-run").stdout
    assert planned.startswith("8 prompts · 5 done · 3 to make · ")


def test_a_demo_costs_nothing(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve()
    write_prompts(3)
    done = genbatch("run", "prompts.txt", "--demo")
    assert "$0.10 on the real service" in done.stdout
    planned = genbatch("run", "prompts.txt", "--demo", "--dry-run")
    assert planned.stdout.startswith("3 prompts · 3 done · 0 to make · ")
    assert genbatch("run", "prompts.txt", "--budget", "0.12").returncode == 0
    assert fake.stats.images == 3


def test_a_budget_needs_a_price(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve()
    write_prompts(2)
    refused = genbatch("run", "prompts.txt", "--budget", "1", "--model", "some-new-model")
    assert refused.returncode == 2
    assert "no price of some-new-model is known" in refused.stderr
    assert fake.stats.calls == 0
    done = genbatch(
        "run", "prompts.txt", "--budget", "1", "--model", "some-new-model", "--price", "0.6"
    )
    assert done.returncode == 3
    assert fake.stats.images == 1
    assert "$0.60" in done.stdout


def test_most_images_end_a_run(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve()
    write_prompts(5)
    done = genbatch("run", "prompts.txt", "--max-images", "2")
    assert done.returncode == 3
    assert fake.stats.images == 2
    assert "stopped: --max-images of 2 is reached: 2 images" in done.stderr
    assert done.stderr.endswith("the same command with a larger --max-images resumes\n")


def test_calls_that_may_have_been_billed_are_told_apart(genbatch: Genbatch, serve: Serve) -> None:
    serve(faults=[Fault(truncate=60)])
    write_prompts(2)
    done = genbatch("run", "prompts.txt", "-k", "1")
    assert done.returncode == 0
    assert "up to $0.05 more, for 1 call without an image" in done.stdout


def test_a_deadline_lets_calls_in_flight_finish(genbatch: Genbatch, serve: Serve) -> None:
    def slow_but_the_first(call: Call) -> Fault | None:
        return None if call.number == 1 else Fault(delay=1.0)

    serve(faults=slow_but_the_first)
    write_prompts(8)
    done = genbatch("run", "prompts.txt", "-k", "2", "--deadline", "0.5")
    assert done.returncode == 3
    assert "stopped: the deadline of 0.5 s has passed" in done.stderr
    assert " 0 failed, " in done.stdout
    assert 2 <= len(images("genbatch-out")) < 8


@pytest.mark.parametrize(
    "option",
    [["--pace", "fast"], ["--pace", "0/min"], ["--deadline", "0"], ["--timeout", "0"]],
)
def test_a_bound_that_makes_no_sense_is_refused(genbatch: Genbatch, option: list[str]) -> None:
    write_prompts(1)
    done = genbatch("run", "prompts.txt", *option)
    assert done.returncode == 2
    assert done.stderr.startswith("genbatch: Invalid value for")


def test_a_rate_limit_is_shown_and_waited_out(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve(faults=[rate_limited(1)])
    write_prompts(3)
    done = genbatch("run", "prompts.txt", "-k", "1")
    assert done.returncode == 0
    assert (fake.stats.calls, fake.stats.images) == (4, 3)
    assert "  rate limited: 1 s  limited by quota\n" in done.stderr


def test_without_patience_a_rate_limit_fails_its_prompt(genbatch: Genbatch, serve: Serve) -> None:
    serve(faults=[rate_limited(1)])
    write_prompts(2)
    done = genbatch("run", "prompts.txt", "-k", "1", "--patience", "0")
    assert done.returncode == 1
    assert "RateLimited: too many calls" in done.stderr
    assert len(images("genbatch-out")) == 1


def test_an_interrupt_does_not_wait_for_a_rate_limit(serve: Serve) -> None:
    serve(faults=lambda call: rate_limited(53))
    write_prompts(8)
    with started(["run", "prompts.txt", "-k", "4"]) as process:
        assert process.stderr
        assert any("rate limited: 53 s" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "0 images in genbatch-out, 0 failed, 8 not made" in out


def test_a_refused_key_is_found_out_by_the_first_calls_alone(
    genbatch: Genbatch, serve: Serve
) -> None:
    fake = serve(faults=lambda call: Fault(status=403))
    write_prompts(200)
    assert genbatch("run", "prompts.txt", "-k", "100").returncode == 3
    assert fake.stats.calls <= 20


def test_a_service_that_fails_all_the_time_ends_the_run(genbatch: Genbatch, serve: Serve) -> None:
    fake = serve(faults=lambda call: html_page(502))
    write_prompts(200)
    done = genbatch("run", "prompts.txt", "-k", "50")
    assert done.returncode == 3
    assert "stopped: 20 calls in a row have failed: gemini-nano-banana-2.1 is not" in done.stderr
    assert fake.stats.calls <= 50 + 4 * 50


def _on_a_terminal(answer: bytes, *arguments: str) -> tuple[int, str]:
    """Run the command on a terminal where somebody types an answer."""
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


def test_an_expensive_run_asks_first(serve: Serve) -> None:
    fake = serve()
    write_prompts(400)
    code, shown = _on_a_terminal(b"n\n", "run", "prompts.txt")
    assert code == 0
    assert "about $13.45" in " ".join(shown.split())
    assert "Continue? [y/N]" in shown
    assert "Nothing was made." in shown
    assert fake.stats.calls == 0


def test_who_says_yes_is_not_asked(serve: Serve) -> None:
    serve()
    write_prompts(2)
    code, shown = _on_a_terminal(b"", "run", "prompts.txt", "--price", "6", "--yes")
    assert code == 0
    assert "Continue?" not in shown
    assert len(images("genbatch-out")) == 2


def test_what_runs_counted_without_usage_is_in_status_and_in_the_next_budget(
    genbatch: Genbatch, serve: Serve
) -> None:
    def forget(answer: dict[str, Any]) -> dict[str, Any]:
        del answer["usageMetadata"]
        return answer

    fake = serve(faults=lambda call: Fault(edit=forget))
    write_prompts(8)
    for _ in range(3):
        assert genbatch("run", "prompts.txt", "--budget", "0.12").returncode == 3
    assert 0 < 0.0336 * fake.stats.images <= 0.12
    row = json.loads(genbatch("status", "genbatch-out", "--json").stdout)
    assert 0.0336 * fake.stats.images <= row["spent"]["usd"] <= 0.12


def test_a_run_with_a_budget_says_what_earlier_ones_have_spent(
    genbatch: Genbatch, serve: Serve
) -> None:
    serve()
    write_prompts(6)
    assert "before" not in genbatch("run", "prompts.txt", "--limit", "2", "--budget", "1").stderr
    second = genbatch("run", "prompts.txt", "--limit", "5", "--budget", "1")
    assert re.search(
        r"^Spent in this folder before: \$0\.07 for 2 images"
        r" \(\d{4}-\d\d-\d\d \d\d:\d\d \$0\.07\)\.$",
        second.stderr,
        re.MULTILINE,
    )
    status = json.loads(genbatch("status", "--json").stdout)
    assert sum(run["images"] for run in status["runs"]) == 5
    assert sum(run["usd"] for run in status["runs"]) == pytest.approx(status["spent"]["usd"])


def test_a_dry_run_says_what_is_reserved_for_what(genbatch: Genbatch) -> None:
    write_prompts(3)  # of 15 characters each
    done = genbatch("run", "prompts.txt", "--dry-run")
    most = 3 * (0.0336 + (20 + 15) * 1.5e-6 + 2000 * 7.5e-6)
    assert done.stdout.splitlines()[1] == (
        f"reserved: at most ${most:.2f}, for each prompt by its length, its input images,"
        " the longest thoughts and one image"
    )
    assert (
        "reserved: $0.03, at the price given"
        in genbatch("run", "prompts.txt", "--dry-run", "--price", "0.01").stdout
    )
