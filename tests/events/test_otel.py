"""Spans and metrics of runs, read by the exporters that OpenTelemetry has for tests."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from genbatch import Failure, GeminiClient, Prompt, Success, Throttle, generate_images
from genbatch.openai import OpenAIClient
from genbatch.otel import OpenTelemetry
from genbatch.testing import FakeGemini, FakeOpenAI, Fault, blocked, rate_limited

pytestmark = pytest.mark.anyio

SENDER = "0af7651916cd43dd8448eb211c80319c"
SERVICES = [(GeminiClient, FakeGemini, "gcp.gen_ai"), (OpenAIClient, FakeOpenAI, "openai")]


class Telemetry:
    """Providers in memory, and what was exported to them."""

    def __init__(self) -> None:
        self._spans, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        meters = MeterProvider(metric_readers=[self._reader])
        self.on_event = OpenTelemetry(self.tracers, meters)

    def spans(self, start: str = "") -> list[Any]:
        return [each for each in self._spans.get_finished_spans() if each.name.startswith(start)]

    def metrics(self) -> dict[str, float]:
        """Return the sum over all attributes of each metric, of a histogram its count."""
        found: dict[str, float] = Counter()
        data: Any = self._reader.get_metrics_data()
        for metric in data.resource_metrics[0].scope_metrics[0].metrics:
            for point in metric.data.data_points:
                found[metric.name] += point.count if hasattr(point, "count") else point.value
        return dict(found)


@pytest.fixture
def told() -> Telemetry:
    return Telemetry()


@pytest.mark.slow
@pytest.mark.parametrize(("client_of", "fake_of", "provider"), SERVICES)
async def test_a_run_of_fifty_with_retries_and_rate_limits(
    client_of: Any,
    fake_of: Any,
    provider: str,
    told: Telemetry,
    pauses: list[float],
    tmp_path: Path,
) -> None:
    faults: list[Fault | None] = [None] * 9
    faults[3], faults[5], faults[8] = Fault(status=503), rate_limited(0.01), Fault(status=500)
    prompts = [Prompt(f"a cup, number {number}") for number in range(50)]
    tracer = told.tracers.get_tracer("app")
    async with fake_of(image_size=8, faults=faults) as fake:
        async with client_of("a-key", base_url=fake.url, on_event=told.on_event) as client:
            with tracer.start_as_current_span("batch") as batch:
                async with generate_images(client, prompts, save_dir=tmp_path) as outcomes:
                    images = [outcome.unwrap() async for outcome in outcomes]
            with tracer.start_as_current_span("later") as later:
                mug = await client.generate_image("a mug")
    calls = {each.context.span_id: each for each in told.spans("genbatch.prompt")}
    attempts = told.spans("generate_content ")
    parents = [each.parent.span_id for each in calls.values()]
    assert parents.count(batch.get_span_context().span_id) == 50
    assert parents.count(later.get_span_context().span_id) == 1
    assert len(attempts) == 54
    made = Counter(each.parent.span_id for each in attempts)
    assert made.keys() == calls.keys()
    assert sum(made.values()) == 54
    for each in attempts:
        known = each.attributes
        assert each.kind is SpanKind.CLIENT
        assert each.name == f"generate_content {known['gen_ai.request.model']}"
        assert known["gen_ai.operation.name"] == "generate_content"
        assert known["gen_ai.provider.name"] == provider
        assert known["gen_ai.output.type"] == "image"
        assert (each.status.status_code is StatusCode.ERROR) == ("error.type" in known)
        if "error.type" not in known:
            assert known["gen_ai.usage.output_tokens"] > known["gen_ai.usage.input_tokens"] > 0
            assert known["genbatch.cost"] > 0
    failed = Counter(each.attributes.get("error.type", "") for each in attempts)
    assert failed == {"": 51, "Unavailable": 2, "RateLimited": 1}
    noted = Counter(note.name for each in calls.values() for note in each.events)
    assert noted == {
        "genbatch.image_saved": 50,
        "genbatch.retry_scheduled": 2,
        "genbatch.rate_limit_hit": 1,
        "genbatch.calls_paused": 1,
    }
    assert {each.attributes["genbatch.index"] for each in calls.values() if each.events} == {
        *range(50)
    }
    sums = told.metrics()
    assert (sums["genbatch.calls.in_flight"], sums["genbatch.calls.waiting"]) == (0, 0)
    assert (sums["genbatch.rejections"], sums["genbatch.retries"]) == (1, 2)
    assert sums["gen_ai.client.operation.duration"] == 54
    assert sums["gen_ai.client.token.usage"] == 2 * 51
    assert sums["genbatch.throttle.capacity"] == client.throttles[images[0].model].capacity
    cost = sum(image.cost or 0 for image in [*images, mug])
    assert sums["genbatch.cost"] == pytest.approx(cost)
    assert sums["genbatch.bytes"] >= sum(image.size_mb for image in images) * 1e6


async def test_a_prompt_of_a_queue_is_linked_to_who_sent_it(told: Telemetry) -> None:
    prompts = [
        Prompt("a cup", metadata={"traceparent": f"00-{SENDER}-b7ad6b7169203331-01"}),
        Prompt("a mug", metadata={"traceparent": "nonsense"}),
        Prompt("a jug", metadata={"traceparent": 7}),
    ]
    async with FakeGemini(image_size=8) as fake:
        async with (
            GeminiClient("a-key", base_url=fake.url) as client,
            generate_images(client, prompts, on_event=told.on_event) as outcomes,
        ):
            assert all([isinstance(each, Success) async for each in outcomes])
    links = {
        each.attributes["genbatch.index"]: each.links for each in told.spans("genbatch.prompt")
    }
    assert (links[1], links[2]) == ((), ())
    assert f"{links[0][0].context.trace_id:x}" == SENDER.lstrip("0")


async def test_no_span_has_words_of_the_prompt_nor_those_of_an_error(told: Telemetry) -> None:
    async with FakeGemini(image_size=8, faults=[blocked("SAFETY")]) as fake:
        async with (
            GeminiClient("a-key", base_url=fake.url) as client,
            generate_images(client, ["a secret cup"], on_event=told.on_event) as outcomes,
        ):
            assert [type(each) async for each in outcomes] == [Failure]
    text = "".join(each.to_json() for each in told.spans())
    assert "Blocked" in text
    assert "secret" not in text
    assert "a-key" not in text


@pytest.mark.parametrize("is_own", [False, True])
@pytest.mark.parametrize(("client_of", "fake_of", "provider"), SERVICES)
async def test_requests_of_an_instrumented_client_are_inside_their_attempts(
    client_of: Any, fake_of: Any, provider: str, is_own: bool, told: Telemetry
) -> None:
    prompts = ["a cup", "a mug", "a jug"]
    # Made outside the event loop, which its certificates would block.
    http = httpx.AsyncClient(verify=False, timeout=None) if is_own else None
    async with fake_of(image_size=8, faults=[rate_limited(0.01)]) as fake:
        options = {"http_client": http, "throttle": Throttle(), "on_event": told.on_event}
        async with client_of("a-key", base_url=fake.url, **options) as client:
            instrument = HTTPXClientInstrumentor()
            instrument.instrument_client(client.http_client, tracer_provider=told.tracers)
            async with generate_images(client, prompts, max_concurrent=2) as outcomes:
                assert all([isinstance(each, Success) async for each in outcomes])
            assert trace.get_current_span() is trace.INVALID_SPAN
            await client.generate_image("a jar")
            assert trace.get_current_span() is trace.INVALID_SPAN
        if http is not None:
            await http.aclose()
    requests, attempts = told.spans("POST"), told.spans("generate_content ")
    assert len(requests) == len(attempts) == 5
    assert {each.parent.span_id for each in requests} == {each.context.span_id for each in attempts}
    assert sorted(each.attributes["http.status_code"] for each in requests) == [200] * 4 + [429]


async def test_http_client_is_there_while_the_client_is_open() -> None:
    with pytest.raises(RuntimeError, match="GeminiClient is not open"):
        _ = GeminiClient("a-key").http_client


def test_without_the_extra_the_import_says_what_to_install() -> None:
    script = "import sys; sys.modules['opentelemetry'] = None; import genbatch.otel"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    told = "genbatch.otel needs OpenTelemetry's API; run python -m pip install 'genbatch[otel]'"
    assert ran.returncode == 1
    assert ran.stderr.rstrip().endswith(told)
