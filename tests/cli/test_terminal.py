"""Runs on a terminal of any size, and with streams that are closed, slow, or read by nobody."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import termios
import threading
from pathlib import Path

import pytest

from genbatch.testing import Call, FakeGemini, Fault, blocked
from support.commands import COMMAND, Genbatch, Serve, images, started, write_prompts
from support.terminals import Terminal, eventually, terminal

_BAR = re.compile(r"[━╸─]{4,} +\d+/\d+")
_COLOUR = re.compile(r"\x1b\[(?:\d+;)*[349]\d(?:;\d+)*m")
_MODEL = "gemini-nano-banana-2.1"
_STOP, _GO, _INTERRUPT = "\x13", "\x11", "\x03"  # Ctrl-S, Ctrl-Q, Ctrl-C


class Held:
    """The calls from a number on, whose answers wait until they may go."""

    def __init__(self, number: int = 1) -> None:
        self._number = number
        self.arrived = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, call: Call) -> Fault | None:
        return Fault(edit=self._hold) if call.number >= self._number else None

    def _hold(self, answer: object) -> object:
        self.arrived.set()
        assert self.go_on.wait(60)
        return answer


def bars(lines: list[str]) -> list[str]:
    return [line for line in lines if _BAR.search(line)]


def said(window: Terminal) -> str:
    """Return all that is left on a terminal as one line, times and sizes left out."""
    return re.sub(r"\d+\.\d s, (?:\d+\.\d MB|\d+ KB)", "...", " ".join(window.lines))


def understood(fake: FakeGemini) -> str:
    """Return what is said of the first prompts of write_prompts before they are paid."""
    requests = [f'Request {n + 1}: {_MODEL} · 1K · "a fox, number {n}"' for n in range(3)]
    price = "its prompt and the image, without thoughts, as published on 2026-11-27"
    said = ("Read: each line is a prompt", *requests, f"Server: {fake.url}")
    return " ".join([*said, f"Price: $0.0336 for the first request: {price}"])


# The bar


def test_a_terminal_shows_what_has_finished_and_how_far_it_is(serve: Serve) -> None:
    held = Held(4)
    fake = serve(faults=held)
    write_prompts(5)
    with terminal("run", "prompts.txt", "-k", "1", columns=80) as window:
        shown = window.until(lambda lines: "3/5" in "".join(bars(lines)))
        held.go_on.set()
        assert window.end() == 0
    *_, first, _, last, bar, figures = shown
    made = r"✓ a fox, number {0} +\d\.\d s  000{0}-a-fox-number-{0}-\w+…"
    assert re.fullmatch(made.format(0), first)
    assert re.fullmatch(made.format(2), last)
    assert re.fullmatch(r"━+╸?─+  3/5  60 %  0:\d\d left", bar)
    assert re.fullmatch(
        r"1 in flight  \$0\.10  [\d.]+/(s|min)(  limited by calls at once)?", figures
    )
    assert len(bar) == 80
    assert said(window) == (
        "5 prompts · 0 done · 5 to make · flash = gemini-nano-banana-2.1 1K · about $0.17 "
        f"{understood(fake)} 5 images in genbatch-out, 0 failed ..., $0.17"
    )


@pytest.mark.parametrize("columns", [80, 40, 20])
def test_one_bar_is_on_the_terminal_whatever_stands_in_prompts(serve: Serve, columns: int) -> None:
    held, faults = Held(30), [Fault(status=400), blocked("IMAGE_SAFETY")]
    serve(faults=lambda call: faults.pop() if faults else held(call))
    prompts = [
        "\x1b]0;pwned\x07 [bold red]fox[/] \x1b[2J",
        "a poem\x1b[1A\x9b2J",
        "👩‍👩‍👧‍👦 and 🏳️‍🌈 at the ❤️ of 日本の庭園に咲く桜の花びらが風に舞う様子を水彩画で描く",
        "שלום \u202e עולם",
        "h̸̡̪̯ͨ͊̽̅̾̎Ȩ̬̩̾͛ͪ̈́̀́͘ ̶̧̨̱̹̭̯ͧ̾ͬC̷̙̲̝͖ͭ̏ͥͮ͟Oͮ͏̮̪̝͍M̲̖͊̒ͪͩͬ̚̚͜Ȇ̴̟̟͙̞ͩ͌͝S̨̥̫͎̭ͯ̿̔̀ͅ",
        "very " * 2000,
    ]
    Path("prompts.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in prompts * 5))
    with terminal("run", "prompts.jsonl", "-k", "2", columns=columns) as window:
        window.until(lambda lines: "29/30" in "".join(bars(lines)))
        held.go_on.set()
        assert window.end() == 1
    assert all(len(bars(frame)) <= 1 for frame in window.frames)
    assert not bars(window.lines)
    assert "genbatch: 2 prompts failed, see above" in said(window)
    for sequence in (b"\x1b]", b"\x07", b"\x1b[2J", b"\x1b[1A\x9b", "\u202e".encode()):
        assert sequence not in window.raw


def test_a_window_may_be_resized(serve: Serve) -> None:
    held = {number: Held() for number in (2, 3, 4)}
    serve(faults=lambda call: held[call.number](call) if call.number in held else None)
    write_prompts(4)
    with terminal("run", "prompts.txt", "-k", "1", columns=80, rows=24) as window:
        for number, columns, rows in ((2, 30, 20), (3, 100, 30), (4, 14, 4)):
            window.until(lambda lines, done=number - 1: f"{done}/4" in "".join(bars(lines)))
            window.resize(columns, rows)
            bar = rf"[━╸─]+  {number - 1}/4(  .*)?"
            window.until(
                lambda lines, bar=bar, wide=columns: any(
                    re.fullmatch(bar, line) and len(line) == wide for line in lines
                )
            )
            held[number].go_on.set()
        assert window.end() == 0
    assert "4 images in" in " ".join(window.lines)


def test_the_terminal_is_left_as_it_was(serve: Serve) -> None:
    serve(faults=[blocked()])
    write_prompts(4)
    with terminal("run", "prompts.txt", "-k", "1") as window:
        before = termios.tcgetattr(window.descriptor)
        assert window.end() == 1
        assert termios.tcgetattr(window.descriptor) == before
    assert window.cursor == (0, True)
    assert window.raw.rfind(b"\x1b[?7h") > window.raw.rfind(b"\x1b[?7l") > 0, "lines wrap again"


def test_a_run_that_is_killed_leaves_a_terminal_that_can_be_typed_on(serve: Serve) -> None:
    held = Held(2)
    serve(faults=held)
    write_prompts(4)
    with terminal("run", "prompts.txt", "-k", "1") as window:
        window.until(lambda lines: "1/4" in "".join(bars(lines)))
        before = termios.tcgetattr(window.descriptor)
        window.process.kill()
        window.end()
        assert termios.tcgetattr(window.descriptor) == before
        held.go_on.set()
    assert window.cursor == (0, True)
    assert b"\x1b[?25l" not in window.raw
    assert window.raw.rfind(b"\x1b[?7h") > window.raw.rfind(b"\x1b[?7l")


def test_no_color_has_no_colour(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(faults=[blocked()])
    write_prompts(3)
    command = ["run", "prompts.txt", "-k", "1"]
    with terminal(*command) as window:
        assert window.end() == 1
    assert _COLOUR.search(window.raw.decode())
    monkeypatch.setenv("NO_COLOR", "1")
    with terminal(*command) as window:  # the prompt that was refused is told again
        assert window.end() == 1
    assert "─" in window.raw.decode()
    assert not _COLOUR.search(window.raw.decode())


def test_a_dumb_terminal_gets_plain_lines(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    serve(faults=[blocked()])
    write_prompts(3)
    with terminal("run", "prompts.txt", "-k", "1") as window:
        assert window.end() == 1
    assert b"\x1b" not in window.raw
    assert "2 images in genbatch-out, 1 failed" in window.lines


# Signals


def test_ctrl_c_says_in_a_line_what_happens(serve: Serve) -> None:
    held = Held(2)
    fake = serve(faults=held)
    write_prompts(4)
    with terminal("run", "prompts.txt", "-k", "1") as window:
        window.until(lambda lines: "1/4" in "".join(bars(lines)))
        window.type(_INTERRUPT)
        window.until(lambda lines: any("Stopping" in line for line in lines))
        held.go_on.set()
        assert window.end() == 130
    assert fake.stats.images == len(images("genbatch-out")) == 2
    assert said(window) == (
        "4 prompts · 0 done · 4 to make · flash = gemini-nano-banana-2.1 1K · about $0.13 "
        f"{understood(fake)} Stopping: waiting for the calls in flight. Ctrl-C again cancels them. "
        "2 images in genbatch-out, 0 failed, 2 not made ..., $0.07 "
        "genbatch: interrupted by SIGINT; finished images are kept, the same command resumes"
    )


def test_a_window_that_is_closed_lets_calls_in_flight_finish(serve: Serve) -> None:
    held = Held(2)
    fake = serve(faults=held)
    write_prompts(4)
    with terminal("run", "prompts.txt", "-k", "1") as window:
        window.until(lambda lines: "1/4" in "".join(bars(lines)))
        window.close()
        held.go_on.set()
        assert window.process.wait(60) == 128 + signal.SIGHUP
    assert fake.stats.images == fake.stats.calls == len(images("genbatch-out")) == 2


def test_nohup_is_heeded(genbatch: Genbatch, serve: Serve) -> None:
    held = Held(2)
    serve(faults=held)
    write_prompts(3)
    command = ["run", "prompts.txt", "-k", "1"]
    ignored = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    with started(command, **ignored) as process:
        assert held.arrived.wait(60)
        process.send_signal(signal.SIGHUP)
        held.go_on.set()
        process.communicate(timeout=60)
    assert process.returncode == 0


# Streams


def test_a_terminal_that_is_stopped_does_not_stop_the_run(serve: Serve) -> None:
    held = Held(2)
    serve(faults=held)
    write_prompts(60)
    with terminal("run", "prompts.txt", "-k", "4") as window:
        window.until(lambda lines: "1/60" in "".join(bars(lines)))
        window.type(_STOP)
        held.go_on.set()
        eventually(lambda: len(images("genbatch-out")) == 60)
        assert "60/60" not in " ".join(window.lines)
        window.type(_GO)
        assert window.end() == 0
    assert "60 images in genbatch-out, 0 failed" in window.lines


def test_head_ends_quietly_and_the_run_goes_on_to_its_end(serve: Serve) -> None:
    fake = serve()
    write_prompts(30)
    run = " ".join([*COMMAND, "run", "prompts.txt", "--json"])
    done = subprocess.run(
        ["bash", "-c", f"{run} | head -1; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1
    assert "Error" not in done.stderr
    assert "30 images in genbatch-out, 0 failed" in done.stderr
    assert fake.stats.images == len(images("genbatch-out")) == 30


def test_who_does_not_read_rows_stops_the_calls_and_gets_them_all_later(serve: Serve) -> None:
    fake = serve()
    write_prompts(500)
    with started(["run", "prompts.txt", "--json", "-k", "4", "--yes"]) as process:
        stalled(fake, 500)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    rows = [json.loads(line) for line in out.splitlines()]
    assert sorted(row["index"] for row in rows) == list(range(500))
    assert fake.stats.images == 500


def test_a_reader_that_does_not_read_cannot_keep_an_interrupted_run(serve: Serve) -> None:
    fake = serve()
    write_prompts(500)
    with started(["run", "prompts.txt", "--json", "-k", "4", "--yes"]) as process:
        stalled(fake, 500)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert any(line.startswith("Stopping: ") for line in process.stderr)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert fake.stats.images == len(images("genbatch-out")) < 500


def stalled(fake: FakeGemini, prompts: int) -> None:
    """Wait until no more calls come, before all prompts have been asked for."""
    seen: list[int] = []

    def is_quiet() -> bool:
        seen.append(fake.stats.calls)
        return seen[-1] > 0 and seen[-50:] == [seen[-1]] * 50

    eventually(is_quiet)
    # A pipe holds 64 kB of rows; as many as are said to may wait beside it, and in the stream.
    assert seen[-1] <= 65536 // 500 + 100 + 2 * 4 + 4 < prompts


def test_standard_input_may_be_closed(serve: Serve) -> None:
    serve()
    write_prompts(2)
    command = " ".join([*COMMAND, "run", "prompts.txt"])
    done = subprocess.run(
        ["bash", "-c", f"{command} <&-"], capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith("2 images in genbatch-out, 0 failed\n")
