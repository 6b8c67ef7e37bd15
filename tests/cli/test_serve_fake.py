"""``genbatch serve-fake``: a fake service with quotas for other programs."""

from __future__ import annotations

import re
import signal

import httpx
import pytest

from genbatch.cli._main import run
from support.batch_wire import CREATE, UPLOAD, rows
from support.commands import Genbatch, started
from support.wire import PATH, asking, details_of


@pytest.mark.parametrize(
    ("options", "statuses", "delays"),
    [
        (["--quota", "2/min"], [200, 200, 429], True),
        (["--quota", "2/min", "--no-retry-info"], [200, 200, 429], False),
        (["--daily", "1"], [200, 429, 429], True),
    ],
)
def test_quotas_hold(options: list[str], statuses: list[int], delays: bool) -> None:
    with started(["serve-fake", "--port", "0", "--latency", "0", *options]) as server:
        assert server.stdout
        url = re.search(r"http://127\.0\.0\.1:\d+", server.stdout.readline())
        assert url
        with httpx.Client(base_url=url[0], headers={"x-goog-api-key": "k"}, trust_env=False) as to:
            answers = [to.post(PATH, json=asking()) for _ in statuses]
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=60)
    assert [answer.status_code for answer in answers] == statuses
    assert ("RetryInfo" in details_of(answers[-1])) is delays


def test_its_time_may_pass_faster_than_ours() -> None:
    options = ["--latency", "0", "--quota", "1/min", "--speed", "60"]  # one a second, here
    with started(["serve-fake", "--port", "0", *options]) as server:
        assert server.stdout
        url = re.search(r"http://127\.0\.0\.1:\d+", server.stdout.readline())
        assert url
        with httpx.Client(base_url=url[0], headers={"x-goog-api-key": "k"}, trust_env=False) as to:
            refused = next(
                answer
                for answer in iter(lambda: to.post(PATH, json=asking()), None)
                if answer.status_code == 429
            )
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=60)
    delay = details_of(refused)["RetryInfo"]["retryDelay"]
    assert 0 < float(delay.rstrip("s")) <= 60 / 60 + 0.001


def test_batches_are_served_and_counted() -> None:
    options = ["--latency", "0", "--job-latency", "0"]
    with started(["serve-fake", "--port", "0", *options]) as server:
        assert server.stdout
        url = re.search(r"http://127\.0\.0\.1:\d+", server.stdout.readline())
        assert url
        with httpx.Client(base_url=url[0], headers={"x-goog-api-key": "k"}, trust_env=False) as to:
            headers = {"x-goog-upload-protocol": "resumable"}
            started_at = to.post(UPLOAD, headers=headers, json={}).headers["x-goog-upload-url"]
            headers = {"x-goog-upload-command": "upload, finalize"}
            file = to.post(started_at, headers=headers, content=rows("a")).json()["file"]["name"]
            batch = to.post(CREATE, json={"batch": {"inputConfig": {"fileName": file}}}).json()
            answers = iter(lambda: to.get(f"/v1beta/{batch['name']}").json(), None)
            assert next(answer for answer in answers if answer.get("done"))
            counts = to.get("/stats").json()
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=60)
    assert (counts["jobs"], counts["images"], counts["calls"]) == (1, 1, 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--quota 5", "quota must be like '60/min', got '5'"),
        ("--daily -1", "Invalid value for '--daily'"),
        ("--speed 0", "speed must be > 0, got 0.0"),
        ("--job-latency -1", "Invalid value for '--job-latency'"),
    ],
)
def test_a_malformed_quota_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    assert run(["serve-fake", *arguments.split()]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("genbatch: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


def test_a_demo_takes_no_notice_of_an_environment_that_asks_for_vertex(
    genbatch: Genbatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "true")
    done = genbatch("demo")
    assert (done.returncode, done.stderr.count("Error")) == (0, 0)


def test_it_fails_and_refuses_keys_as_asked_and_says_that_it_is_a_fake() -> None:
    options = ["--latency", "0", "--fault", "503/2", "--key", "k"]
    with started(["serve-fake", "--port", "0", *options]) as server:
        assert server.stdout
        url = re.search(r"http://127\.0\.0\.1:\d+", server.stdout.readline())
        assert url
        with httpx.Client(base_url=url[0], trust_env=False) as to:
            asked = [("k", PATH), ("k", PATH), ("other", PATH), ("k", PATH)]
            answers = [to.post(p, json=asking(), headers={"x-goog-api-key": k}) for k, p in asked]
            answers += [to.get("/stats"), to.get("/v1beta/batches"), to.post(UPLOAD), to.get("/")]
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=60)
    assert [answer.status_code for answer in answers[:4]] == [200, 503, 400, 503]
    assert all(answer.headers["x-genbatch-fake"] == "true" for answer in answers)


@pytest.mark.parametrize("fault", ["often", "99", "503/0"])
def test_a_malformed_fault_is_one_line(genbatch: Genbatch, fault: str) -> None:
    done = genbatch("serve-fake", "--fault", fault)
    assert done.returncode == 2
    assert "--fault must be like 503, or 503/3 for every third call" in done.stderr


def test_it_serves_openai_too() -> None:
    options = ["--service", "openai", "--port", "0", "--latency", "0", "--quota", "1/min"]
    with started(["serve-fake", *options]) as server:
        assert server.stdout
        line = server.stdout.readline()
        assert "A fake OpenAI API" in line
        url = re.search(r"http://127\.0\.0\.1:\d+/v1", line)
        assert url
        assert f"OPENAI_BASE_URL={url[0]} OPENAI_API_KEY=fake" in server.stdout.readline()
        with httpx.Client(headers={"authorization": "Bearer fake"}, trust_env=False) as to:
            asked = {"model": "gpt-image-2.6-flare", "prompt": "a fox"}
            answers = [to.post(f"{url[0]}/images/generations", json=asked) for _ in range(2)]
        server.send_signal(signal.SIGINT)
        told, _ = server.communicate(timeout=60)
    assert [answer.status_code for answer in answers] == [200, 429]
    assert "server: 2 calls, 1 image" in told


def test_openai_has_no_daily_quota(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["serve-fake", "--service", "openai", "--daily", "5"]) == 2
    assert "--daily is for --service gemini" in capsys.readouterr().err
