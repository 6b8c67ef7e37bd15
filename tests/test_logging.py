"""What a run tells the standard logging: each event once, with its fields, and nothing unasked."""

from __future__ import annotations

import ast
import errno
import json
import logging
import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import genbatch
from genbatch import (
    Budget,
    GeminiClient,
    RateLimited,
    Store,
    Throttle,
    Unavailable,
    generate_images,
)
from genbatch._client._retry import with_retries
from genbatch._logs import log, log_context
from genbatch._run._takes import make_takes, plan_takes
from genbatch._store import _files as files
from genbatch.testing import FakeGemini, Fault, bad_key, blocked, rate_limited
from support import virtual
from support.backends import until

pytestmark = pytest.mark.anyio

MODEL = "gemini-nano-banana-2.1"
DOCUMENTATION = (Path(__file__).parents[1] / "docs" / "logging.md").read_text(encoding="utf-8")
OF_EVERY_RECORD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Records(logging.Handler):
    """Keeps records and formats each of them."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.format(record)
        self.all.append(record)

    def of(self, *names: str) -> list[str]:
        """Return the messages of some loggers below genbatch, in order."""
        wanted = {f"genbatch.{name}" for name in names}
        return [record.getMessage() for record in self.all if record.name in wanted]

    def one(self, start: str) -> dict[str, Any]:
        """Return level, logger and fields of the one record whose message begins so."""
        (found,) = (record for record in self.all if record.getMessage().startswith(start))
        given = {name: value for name, value in vars(found).items() if name not in OF_EVERY_RECORD}
        return {"level": found.levelname, "logger": found.name, **given}


@pytest.fixture
def records() -> Iterator[Records]:
    logger, handler = logging.getLogger("genbatch"), Records()
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.setLevel(logging.NOTSET)
    logger.removeHandler(handler)


@pytest.fixture
def nothing_on_stderr(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    """An error in writing a record is only shown there."""
    yield
    assert capsys.readouterr().err == ""


def client_of(server: FakeGemini, **options: Any) -> GeminiClient:
    return GeminiClient("a-key", base_url=server.url, **options)


async def run(server: FakeGemini, prompts: list[str], *, k: int = 1, **options: Any) -> list[Any]:
    async with (
        client_of(server) as client,
        generate_images(client, prompts, max_concurrent=k, **options) as outcomes,
    ):
        return [outcome async for outcome in outcomes]


@pytest.mark.usefixtures("nothing_on_stderr")
async def test_attempts_retries_and_images_are_told_with_all_that_is_known(
    records: Records, pauses: list[float], tmp_path: Path
) -> None:
    busy = Fault(status=503, headers={"retry-after": "2", "x-request-id": "r-1"})
    async with FakeGemini(image_size=8, faults=[busy]) as server:
        (outcome,) = await run(server, ["a cup"], save_dir=tmp_path)
    saved = outcome.unwrap()
    lines = records.of("client", "store")
    assert [line.partition(": ")[2][:12] for line in lines] == [
        "asking for a",
        "a connection",
        "no image aft",
        "attempt 1 fa",
        "asking for a",
        "an image of ",
        f"saved {tmp_path}"[:12],
    ]
    assert all(line.startswith("prompt 0: ") for line in lines)

    call = {"index": 0, "key": records.all[0].__dict__["key"], "model": MODEL}
    assert re.fullmatch("[0-9a-f]{64}", call["key"])
    failed = {"error": "Unavailable", "status": 503, "retry_after": 2.0, "request_id": "r-1"}
    got = records.one("prompt 0: attempt 1 failed, another in 2.0 s: gemini-nano-banana-2.1 is not")
    assert pauses == [2.0]
    place = {"level": "WARNING", "logger": "genbatch.client"}
    assert got == place | call | failed | {"attempt": 1, "delay": 2.0}
    got = records.one("prompt 0: no image after ")
    assert got.pop("elapsed") > 0
    assert got == {"level": "DEBUG", "logger": "genbatch.client"} | call | failed | {"attempt": 1}
    got = records.one(f"prompt 0: an image of {saved.path.stat().st_size} bytes came after ")
    assert got.pop("elapsed") > 0
    came = {"attempt": 2, "bytes": saved.path.stat().st_size, "cost": saved.cost}
    assert got == {"level": "DEBUG", "logger": "genbatch.client"} | call | came
    got = records.one(f"prompt 0: saved {saved.path}, $0.0336")
    assert got.pop("elapsed") > 0
    kept = {"path": str(saved.path), "cost": saved.cost}
    assert got == {"level": "INFO", "logger": "genbatch.store"} | call | kept


@pytest.mark.usefixtures("nothing_on_stderr")
async def test_what_an_earlier_run_has_settled_is_told_and_where_it_stands(
    records: Records, tmp_path: Path
) -> None:
    prompts = ["a cup", "a mug", "a jug"]
    async with FakeGemini(image_size=8, faults=[None, blocked("SAFETY")]) as server:
        outcomes = await run(server, prompts, save_dir=tmp_path)
        got = records.one("prompt 1: no image after ")
        assert (got["level"], got["error"], got["status"]) == ("DEBUG", "Blocked", 200)
        records.all.clear()
        await run(server, prompts, save_dir=tmp_path)
    for index in (0, 2):  # the first is looked up, the other foreseen then
        path = str(outcomes[index].unwrap().path)
        got = records.one(f"prompt {index}: resumed from {path}")
        assert len(got.pop("key")) == 64
        assert got == {"level": "DEBUG", "logger": "genbatch.store", "index": index, "path": path}
    got = records.one(f"prompt 1: not asked again: {MODEL} blocked")
    assert (got["level"], got["error"], got["status"]) == ("DEBUG", "Blocked", 200)
    assert len(records.all) == server.stats.calls == 3


async def test_a_further_take_is_told_by_the_index_of_its_prompt(
    records: Records, tmp_path: Path
) -> None:
    async with FakeGemini(image_size=8) as server:
        await run(server, ["a cup", "a mug"], save_dir=tmp_path)
        records.all.clear()
        async with client_of(server) as client, Store(tmp_path) as store:
            takes = await plan_takes(client, store, [1])
            async with make_takes(client, store, takes) as outcomes:
                (outcome,) = [outcome async for outcome in outcomes]
    assert records.one(f"prompt 1: saved {outcome.unwrap().path}, ")["index"] == 1


@pytest.mark.usefixtures("nothing_on_stderr")
async def test_records_of_many_calls_at_once_know_their_own_and_leave_nothing_behind(
    records: Records, tmp_path: Path
) -> None:
    prompts = [f"cup {index}" for index in range(20)]
    async with FakeGemini(image_size=8) as server, client_of(server) as client:
        async with generate_images(client, prompts, save_dir=tmp_path) as outcomes:
            paths = {each.index: str(each.unwrap().path) async for each in outcomes}
        told = [vars(each) for each in records.all if each.name == "genbatch.store"]
        assert {each["index"]: each["path"] for each in told} == paths
        assert len({each["key"] for each in told}) == len(prompts)
        records.all.clear()
        await client.generate_image("a cup")
    assert records.of("client")[0] == f"{MODEL}: asking for an image"
    got = records.one(f"{MODEL}: asking")
    assert got == {"level": "DEBUG", "logger": "genbatch.client", "model": MODEL, "attempt": 1}


@pytest.mark.usefixtures("nothing_on_stderr")
async def test_a_call_that_may_be_paid_for_nothing_is_told(records: Records) -> None:
    async with FakeGemini(faults=lambda _: Fault(delay=math.inf)) as server:
        with anyio.CancelScope() as scope:
            async with client_of(server) as client:
                async with generate_images(client, ["a cup"]):
                    await until(lambda: server.stats.in_flight == 1)
                    scope.cancel()
    got = records.one("prompt 0: a call may have been paid without an image, $0.0486")
    assert (got["level"], got["logger"], got["attempt"]) == ("WARNING", "genbatch.run", 1)
    assert got["price"] == pytest.approx(0.0486, abs=1e-4)
    assert "cost" not in got


@pytest.mark.usefixtures("nothing_on_stderr")
async def test_a_used_up_budget_is_told_once(records: Records) -> None:
    async with FakeGemini(image_size=8) as server:
        await run(server, list("abcdef"), k=3, budget=Budget(max_images=2))
    (told,) = records.of("run")
    assert re.match(r"prompt \d: no further call is paid: max_images of 2 is reached: ", told)


@pytest.mark.usefixtures("nothing_on_stderr")
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (bad_key(), f"the run stops: {MODEL} refused the API key (400): "),
        (rate_limited(per_day=True), f"the calls of {MODEL} stop: daily quota of {MODEL} is used"),
    ],
)
async def test_what_stops_a_run_or_a_model_is_told_once(
    fault: Fault, told: str, records: Records
) -> None:
    async with FakeGemini(faults=lambda _: fault) as server:
        await run(server, list("abcdef"), k=3)
    (line,) = records.of("run")
    assert line.partition(": ")[2].startswith(told)


@pytest.mark.usefixtures("nothing_on_stderr")
async def test_an_image_that_is_not_saved_is_an_error_and_stops_the_run(
    records: Records, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with Store(tmp_path):
        pass  # the journal is there
    monkeypatch.setattr(files, "_write", full)
    async with FakeGemini(image_size=8) as server:
        await run(server, ["a cup"], save_dir=tmp_path)
    why = f"cannot save {tmp_path}/0000-a-cup"
    got = records.one(f"prompt 0: an image is not saved, and kept in memory: {why}")
    assert (got["level"], got["logger"]) == ("ERROR", "genbatch.store")
    assert (got["index"], got["error"], len(got["key"])) == (0, "StoreError", 64)
    (line,) = records.of("run")
    assert line.startswith(f"prompt 0: the run stops: {why}")
    assert line.endswith("MB free)")  # a path may be long, and the reason comes after it


@pytest.mark.usefixtures("nothing_on_stderr")
async def test_no_attempt_is_announced_that_a_stopped_batch_does_not_make(
    records: Records,
) -> None:
    async def attempt() -> str:
        raise Unavailable("busy")

    async def generate(prompt: str) -> str:
        outcomes.drain()
        return await with_retries(attempt, 3, str)

    async with genbatch.stream(generate, ["a cat"]) as outcomes:
        await outcomes.receive()
    assert records.all == []


class Service:
    """Rejects the first calls, a second apart, with a delay each, None: not."""

    def __init__(self, *delays: float | None) -> None:
        self.delays = list(delays)
        self.calls = 0

    async def __call__(self) -> None:
        self.calls += 1
        await anyio.sleep(min(self.calls, 4))
        if self.delays and (delay := self.delays.pop(0)) is not None:
            raise RateLimited("too many", retry_after=delay)


def make_calls(backend: str, call: Callable[[], Any], calls: int) -> Throttle:
    async def main() -> None:
        with log_context(index=7, key="k", model="m", attempt=1):  # as within a call
            async with anyio.create_task_group() as tasks:
                for _ in range(calls):
                    tasks.start_soon(throttle.run, call)

    throttle = Throttle()
    virtual.run(backend, main)
    return throttle


@pytest.mark.usefixtures("nothing_on_stderr")
@pytest.mark.parametrize("backend", virtual.BACKENDS)
def test_a_pause_is_told_when_it_begins_grows_much_longer_and_ends(
    backend: str, records: Records
) -> None:
    make_calls(backend, Service(10.0, 11.0, 53.0, 53.0), calls=4)
    assert records.of("throttle") == [
        "m: rate limited: no call starts for 10.0 s: too many",
        "m: rate limited: no call starts for 53.0 s: too many",
        "m: calls start again after 56.0 s, capacity 10",
    ]
    told = {"level": "INFO", "logger": "genbatch.throttle", "model": "m"}
    got = records.one("m: rate limited: no call starts for 53.0 s")
    assert got == told | {"delay": 53.0, "error": "RateLimited", "retry_after": 53.0}
    got = records.one("m: calls start again")
    assert got == told | {"elapsed": pytest.approx(56.0), "capacity": 10}


@pytest.mark.usefixtures("nothing_on_stderr")
@pytest.mark.parametrize("backend", virtual.BACKENDS)
def test_a_rate_that_was_learnt_is_told(backend: str, records: Records) -> None:
    throttle = make_calls(backend, Service(None, 53.0), calls=2)
    _, line = records.of("throttle")
    assert re.fullmatch(r"m: calls start again after 53\.0 s, capacity 20, [\d.]+/min", line)
    assert records.one("m: calls start again")["rate"] == throttle.rate


@pytest.mark.usefixtures("nothing_on_stderr")
@pytest.mark.parametrize("backend", virtual.BACKENDS)
def test_capacity_that_grows_is_told(backend: str, records: Records) -> None:
    throttle = make_calls(backend, Service(), calls=100)
    assert records.of("throttle") == [
        "m: more calls than before: capacity 40",
        "m: more calls than before: capacity 80",
    ]
    assert throttle.capacity == 80
    got = records.one("m: more calls than before: capacity 80")
    assert got == {
        "level": "INFO",
        "logger": "genbatch.throttle",
        "model": "m",
        "capacity": 80,
    }


async def test_an_error_of_the_apps_own_filter_loses_no_image_and_is_shown(
    records: Records, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def broken(record: logging.LogRecord) -> bool:
        raise LookupError("a bug of the app")

    loggers = [logging.getLogger(f"genbatch.{name}") for name in ("client", "store")]
    for logger in loggers:
        logger.addFilter(broken)
    try:
        async with FakeGemini(image_size=8) as server:
            outcomes = await run(server, ["a cup", "a mug"], save_dir=tmp_path)
    finally:
        for logger in loggers:
            logger.removeFilter(broken)
    assert all(outcome.unwrap().path.is_file() for outcome in outcomes)
    assert server.stats.images == 2
    shown = capsys.readouterr().err
    assert "--- Logging error ---" in shown
    assert "LookupError: a bug of the app" in shown
    assert "an image of %d bytes came" in shown


async def test_a_record_factory_that_takes_our_names_loses_no_image(
    records: Records, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = logging.getLogRecordFactory()

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = usual(*args, **kwargs)
        record.model = "of a car"
        return record

    monkeypatch.setattr(logging, "_logRecordFactory", factory)
    async with FakeGemini(image_size=8) as server:
        (outcome,) = await run(server, ["a cup"])
    outcome.unwrap()
    assert "Attempt to overwrite 'model' in LogRecord" in capsys.readouterr().err


def test_a_long_reason_is_cut_but_for_that_of_a_disk(records: Records) -> None:
    logger = logging.getLogger("genbatch.client")
    log(logger, logging.INFO, "failed", error=Unavailable("x " * 80))
    log(logger, logging.INFO, "failed", error=genbatch.StoreError("x" * 200))
    cut, whole = records.of("client")
    assert cut == "failed: " + ("x " * 80)[:99] + "…"
    assert whole == "failed: " + "x" * 200


def test_a_record_tells_where_in_the_code_it_was_written(records: Records) -> None:
    log(logging.getLogger("genbatch.client"), logging.INFO, "here")
    assert records.all[0].pathname == __file__


def shown_by_a_run(directory: Path, preparation: str = "") -> str:
    """Return what a process of its own prints that makes and does not make some images."""
    script = f"""
import logging, anyio, genbatch
from genbatch.testing import FakeGemini, Fault, no_image, reset
{preparation}
async def main():
    faults = [no_image(), Fault(status=400), reset(100)]
    async with FakeGemini(image_size=8, faults=faults) as server:
        async with genbatch.GeminiClient("a-key", base_url=server.url, max_retries=0) as client:
            async with genbatch.generate_images(
                client, list("abcdef"), save_dir="out", budget=genbatch.Budget(max_images=3)
            ) as outcomes:
                assert len([outcome async for outcome in outcomes]) == 6
anyio.run(main)
"""
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=directory)
    return done.stdout + done.stderr


def test_a_run_shows_nothing_unless_logging_is_set_up(tmp_path: Path) -> None:
    assert shown_by_a_run(tmp_path) == ""


def test_no_other_library_tells_of_calls_that_are_none(tmp_path: Path) -> None:
    form = "%(name)s %(message)s"
    shown = shown_by_a_run(tmp_path, f"logging.basicConfig(level=logging.INFO, format={form!r})")
    lines = [line for line in shown.splitlines() if not line.startswith("genbatch.")]
    # httpx tells of each answer that came whole: no image, a refusal, an image.
    assert len(lines) == 3
    for line in lines:
        assert re.match(r"httpx HTTP Request: POST http://127\.0\.0\.1:\d+/v1beta/models/", line)


# The documentation


def templates() -> set[object]:
    """Return every message that the code may write, as it stands there."""
    found: set[object] = set()
    for path in Path(genbatch.__file__).parent.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)) if "_logs import" in text else ():
            match node:
                case ast.Call(ast.Name("log") | ast.Attribute(attr="_log_event" | "_log_allowed")):
                    strings = [each for each in node.args if isinstance(each, ast.Constant)]
                    found |= {string.value for string in strings}
                case ast.Assign([ast.Name("message")], ast.Constant(str(message))):
                    found.add(message)
    return found


def test_every_event_stands_in_the_documentation() -> None:
    rows = [row.split(" | ")[2] for row in re.findall(r"^\| [A-Z]+ \|.*$", DOCUMENTATION, re.M)]
    found = templates()
    assert len(found) == len(rows) > 10
    for template in found:
        pattern = ".+?".join(map(re.escape, re.split(r"%[\d.]*[a-z]", str(template))))
        assert any(re.match(pattern, row) for row in rows), template


def test_the_json_of_the_documentation_has_every_field(
    records: Records, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.root, "handlers", [])
    usual, formatted = re.findall(r"```python\n(.*?)```", DOCUMENTATION, re.DOTALL)
    code: dict[str, Any] = {}
    logger = logging.getLogger("genbatch")
    try:
        exec(usual, {})
        exec(formatted, code)
        error = Unavailable("busy", status=503, retry_after=2.0, request_id="r-1")
        fields = dict.fromkeys(code["FIELDS"], 1) | {"model": "m"}
        for name in ("error", "status", "retry_after", "request_id"):
            del fields[name]
        log(logger, logging.INFO, "told", error=error, **fields)  # type: ignore[arg-type]
    finally:
        logger.removeHandler(code["handler"])
        logging.root.setLevel(logging.WARNING)
    plain, line = sorted(capsys.readouterr().err.splitlines())
    assert plain == "INFO genbatch prompt 1: told: busy"
    of_error = {"error": "Unavailable", "status": 503, "retry_after": 2.0, "request_id": "r-1"}
    message = {"level": "INFO", "message": "prompt 1: told: busy"}
    assert json.loads(line) == message | fields | of_error
    table = DOCUMENTATION.partition("## Fields")[2].partition("As JSON")[0]
    assert set(code["FIELDS"]) == set(re.findall(r"`(\w+)`", table)) - {
        "generate_images",
        "Unavailable",
    }
