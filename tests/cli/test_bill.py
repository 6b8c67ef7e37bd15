"""The service's own ledger beside ``status`` and the budget, over many runs of the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from genbatch.testing import Call, Fault, bad_key
from support.commands import Genbatch, Serve, arrival, images, started, write_prompts
from support.till import Till

BUDGET = 0.5
JOBS = pytest.param("batch", marks=pytest.mark.slow)  # looks at a job some seconds apart


def billed_by(genbatch: Genbatch) -> dict[str, float]:
    spent: dict[str, float] = json.loads(genbatch("status", "--json").stdout)["spent"]
    return spent


@pytest.mark.parametrize("via", ["live", JOBS])
def test_ten_runs_of_pro_never_pay_more_than_the_budget(
    genbatch: Genbatch, serve: Serve, via: str
) -> None:
    till = Till()
    serve(faults=till.fault, image_size=8)
    write_prompts(12)
    run = ("run", "prompts.txt", "--model", "pro", "--via", via, "--budget", str(BUDGET))
    for _ in range(10):
        genbatch(*run, "-k", "4")
        assert 0 < till.billed <= BUDGET
        spent = billed_by(genbatch)
        assert spent["usd"] == pytest.approx(till.billed, abs=0.005)
        assert spent["maybe_images"] == 0


@pytest.mark.parametrize("via", ["live", JOBS])
def test_a_run_expects_as_many_images_an_answer_as_earlier_ones_brought(
    genbatch: Genbatch, serve: Serve, via: str
) -> None:
    till = Till(images=2, thoughts=[337])
    serve(faults=till.fault, image_size=8)
    write_prompts(12)
    run = ("run", "prompts.txt", "--model", "pro", "-k", "1", "--via", via)
    genbatch(*run, "--max-images", "1")
    budget = till.billed * 2.7  # a third answer would have room if it had one image
    for _ in range(3):
        genbatch(*run, "--budget", str(budget))
        assert till.billed == pytest.approx(budget / 2.7 * 2, rel=0.01)
        assert billed_by(genbatch)["usd"] == pytest.approx(till.billed, abs=0.005)


def test_an_answer_of_several_images_has_no_room_for_them_in_a_later_run_either(
    genbatch: Genbatch, serve: Serve
) -> None:
    serve(faults=Till(images=2).fault, image_size=8)
    write_prompts(12)
    for _ in range(2):
        genbatch("run", "prompts.txt", "-k", "1", "--max-images", "3")
        assert billed_by(genbatch)["images"] == 2


def test_a_run_expects_the_thoughts_of_earlier_ones(genbatch: Genbatch, serve: Serve) -> None:
    till = Till(thoughts=[12_000])  # six times as many as are reserved, for $0.144
    serve(faults=till.fault, image_size=8)
    write_prompts(12)
    for _ in range(3):
        genbatch("run", "prompts.txt", "--model", "pro", "-k", "1", "--budget", str(BUDGET))
        assert till.billed == pytest.approx(0.2784, abs=0.001)  # a second one may exceed $0.50


@pytest.mark.parametrize("via", ["live", JOBS])
@pytest.mark.parametrize("name", ["candidatesTokenCount", "promptTokenCount"])
@pytest.mark.parametrize("tokens", [1, 1_900_000])
def test_numbers_that_cannot_be_true_neither_open_nor_lock_a_folder(
    genbatch: Genbatch, serve: Serve, via: str, name: str, tokens: int
) -> None:
    def tell(answer: dict[str, Any]) -> dict[str, Any]:
        answer["usageMetadata"][name] = tokens
        return answer

    till = Till([Fault(edit=tell)], thoughts=[337])
    serve(faults=till.fault, image_size=8)
    write_prompts(12)
    for _ in range(2):
        genbatch("run", "prompts.txt", "--model", "pro", "-k", "2", "--via", via, "--budget", "0.7")
        assert 0.4 < till.billed <= 0.7
        assert till.billed - 0.001 <= billed_by(genbatch)["usd"] <= 0.7


def test_takes_are_paid_from_the_budget_of_the_folder(genbatch: Genbatch, serve: Serve) -> None:
    till = Till()
    serve(faults=till.fault, image_size=8)
    write_prompts(2)
    genbatch("run", "prompts.txt", "--model", "pro", "--budget", str(BUDGET))
    for _ in range(3):
        done = genbatch("redo", "genbatch-out", "0-1", "--budget", str(BUDGET))
    assert done.returncode == 3
    assert 0.2 < till.billed <= BUDGET
    assert billed_by(genbatch)["usd"] == pytest.approx(till.billed, abs=0.005)


def test_calls_in_flight_at_a_kill_count_as_reserved(genbatch: Genbatch, serve: Serve) -> None:
    till = Till()
    arrived, hangs = arrival(2, lambda call: 60 if call.number == 2 else 0)
    serve(faults=till.fault, image_size=8, latency=hangs)
    write_prompts(12)
    run = ["run", "prompts.txt", "--model", "pro", "--budget", str(BUDGET), "-k", "1"]
    with started(run) as process:
        assert arrived.wait(60)
        process.kill()
    spent = billed_by(genbatch)
    assert (spent["images"], spent["maybe_images"]) == (1, 1)
    assert spent["maybe_usd"] >= 0.1344 + 2000 * 12e-6
    for _ in range(2):
        genbatch(*run)
    assert till.billed <= BUDGET
    spent = billed_by(genbatch)
    assert till.billed - 1e-6 <= spent["usd"] + spent["maybe_usd"] <= BUDGET + 1e-6


def test_a_wrong_key_three_times_leaves_the_whole_budget(genbatch: Genbatch, serve: Serve) -> None:
    is_wrong = True

    def fault(call: Call) -> Fault | None:
        return bad_key() if is_wrong else None

    latencies: Any = lambda call: 0.05 * (call.number % 3)  # noqa: E731
    serve(faults=fault, image_size=8, latency=latencies)
    write_prompts(40)
    run = ("run", "prompts.txt", "--budget", "1.5", "-k", "10")
    for _ in range(3):
        assert genbatch(*run).returncode == 3
        assert billed_by(genbatch) == {
            "usd": 0.0,
            "maybe_usd": 0.0,
            "images": 0,
            "maybe_images": 0,
        }
    is_wrong = False
    done = genbatch(*run)
    assert done.returncode == 0, done.stderr
    assert len(images("genbatch-out")) == 40
    assert Path("genbatch-out/results.jsonl").exists()
