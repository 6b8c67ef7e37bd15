"""OpenTelemetry: spans of prompts and attempts, and metrics, made of events; needs the extra otel.

    async with GeminiClient(on_event=OpenTelemetry()) as client:
        ...

Each prompt has a span ``genbatch.prompt``, inside the span that is current where its batch was
opened, and linked to the ``traceparent`` in its metadata, if there is one: that of the message of a
queue, say. Each attempt has a span inside that, by the semantic conventions for generative AI; the
spans of an instrumented HTTP client are inside the attempt's. No span has the prompt's text.
"""

from __future__ import annotations

from contextvars import Token
from dataclasses import dataclass, field
from typing import TypeAlias

from genbatch._values import Image, SavedImage
from genbatch.events import (
    AttemptEnded,
    AttemptStarted,
    CallAdmitted,
    CallContext,
    CallEnded,
    CallsPaused,
    CallsStopped,
    CallStarted,
    Event,
    ImageSaved,
    RateLimitHit,
    RetryScheduled,
)

try:
    from opentelemetry import context, metrics, trace
    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Link, Span, SpanKind, StatusCode, TracerProvider
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ModuleNotFoundError as exc:
    install = "python -m pip install 'genbatch[otel]'"
    raise ModuleNotFoundError(f"genbatch.otel needs OpenTelemetry's API; run {install}") from exc

__all__ = ["OpenTelemetry"]

Attributes: TypeAlias = dict[str, str | int | float | bool]

# Of Google the conventions have one name for what is, or may be, either of its two services.
_PROVIDERS = {"gemini": "gcp.gen_ai"}
_DURATIONS = (0.5, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512)  # seconds
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)


@dataclass(slots=True)
class _OpenCall:
    """The spans of a call that goes on."""

    span: Span
    inside: Context
    attempts: dict[int, tuple[Span, Token[Context]]] = field(default_factory=dict)


class OpenTelemetry:
    """An ``on_event`` that makes spans and metrics; one for any number of clients and batches.

    Args:
        tracer_provider: None for the global one.
        meter_provider: None for the global one.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self._tracer = trace.get_tracer("genbatch", tracer_provider=tracer_provider)
        self._calls: dict[int, _OpenCall] = {}
        meter = metrics.get_meter("genbatch", meter_provider=meter_provider)
        up_down, counter = meter.create_up_down_counter, meter.create_counter
        self._in_flight = up_down("genbatch.calls.in_flight", "{call}", "Attempts going on")
        self._waiting = up_down("genbatch.calls.waiting", "{call}", "Calls that wait")
        self._capacity = meter.create_gauge(
            "genbatch.throttle.capacity", "{call}", "Most calls in flight, as learned"
        )
        self._rejections = counter("genbatch.rejections", "{attempt}", "Attempts answered by a 429")
        self._retries = counter("genbatch.retries", "{attempt}", "Attempts after a failure")
        self._cost = counter("genbatch.cost", "{USD}", "What attempts cost, or may have cost")
        self._bytes = counter("genbatch.bytes", "By", "Bytes of images that came")
        self._duration = meter.create_histogram(
            "gen_ai.client.operation.duration",
            "s",
            "GenAI operation duration",
            explicit_bucket_boundaries_advisory=_DURATIONS,
        )
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Tokens of input and output",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )

    def __call__(self, event: Event) -> None:
        """Take an event."""
        match event:
            case CallStarted():
                self._start_call(event.call)
            case AttemptStarted():
                self._start_attempt(event)
            case AttemptEnded():
                self._end_attempt(event)
            case CallEnded():
                self._end_call(event)
            case _:
                self._note(event)

    def _start_call(self, call: CallContext) -> None:
        carrier = {
            name: value
            for name in ("traceparent", "tracestate")
            if isinstance(value := call.metadata.get(name), str)
        }
        sent = TraceContextTextMapPropagator().extract(carrier, Context())
        sender = trace.get_current_span(sent).get_span_context()
        attributes: Attributes = {"genbatch.service": call.service, "genbatch.model": call.model}
        named = (("index", call.index), ("key", call.key), ("id", call.prompt.id))
        attributes |= {f"genbatch.{name}": it for name, it in named if it is not None}
        span = self._tracer.start_span(
            "genbatch.prompt",
            attributes=attributes,
            links=[Link(sender)] if sender.is_valid else [],
        )
        self._calls[call.number] = _OpenCall(span, trace.set_span_in_context(span))
        self._waiting.add(1, _of(call))

    def _start_attempt(self, event: AttemptStarted) -> None:
        call, attributes = self._calls[event.call.number], _of(event.call)
        span = self._tracer.start_span(
            f"generate_content {event.call.model}",
            call.inside,
            SpanKind.CLIENT,
            {**attributes, **_asked(event.call), "genbatch.attempt": event.attempt},
        )
        # In the context of the call, which is its own: so spans of HTTP come inside this one.
        token = context.attach(trace.set_span_in_context(span, call.inside))
        call.attempts[event.attempt] = span, token
        self._waiting.add(-1, attributes)
        self._in_flight.add(1, attributes)

    def _end_attempt(self, event: AttemptEnded) -> None:
        span, token = self._calls[event.call.number].attempts.pop(event.attempt)
        context.detach(token)
        attributes, image = _of(event.call), event.image
        self._in_flight.add(-1, attributes)
        self._waiting.add(1, attributes)
        failed: Attributes = (
            {} if event.error is None else {"error.type": type(event.error).__name__}
        )
        self._duration.record(event.elapsed, attributes | failed)
        if event.cost:
            self._cost.add(event.cost, attributes | {"genbatch.is_estimated": event.is_estimated})
        if image is not None:
            self._take_image(span, attributes, image)
        _end(span, event)

    def _take_image(self, span: Span, attributes: Attributes, image: Image | SavedImage) -> None:
        size = round(image.size_mb * 1e6) if isinstance(image, SavedImage) else len(image.data)
        self._bytes.add(size, attributes)
        span.set_attribute("genbatch.bytes", size)
        if isinstance(image, Image) and image.response_id is not None:
            span.set_attribute("gen_ai.response.id", image.response_id)
        if image.usage is None:
            return
        counts = {"input": image.usage.prompt_tokens, "output": image.usage.output_tokens}
        counts["output"] += image.usage.thought_tokens
        for kind, count in counts.items():
            span.set_attribute(f"gen_ai.usage.{kind}_tokens", count)
            self._tokens.record(count, attributes | {"gen_ai.token.type": kind})

    def _end_call(self, event: CallEnded) -> None:
        self._waiting.add(-1, _of(event.call))
        span = self._calls.pop(event.call.number).span
        span.set_attribute("genbatch.attempts", event.attempts)
        _end(span, event)

    def _note(
        self,
        event: CallAdmitted
        | RateLimitHit
        | CallsPaused
        | RetryScheduled
        | ImageSaved
        | CallsStopped,
    ) -> None:
        span, attributes = self._calls[event.call.number].span, _of(event.call)
        match event:
            case CallAdmitted(capacity=capacity):
                self._capacity.set(capacity, attributes)
            case RateLimitHit(capacity=capacity):
                self._rejections.add(1, attributes)
                self._capacity.set(capacity, attributes)
                span.add_event("genbatch.rate_limit_hit")
            case CallsPaused(seconds=seconds):
                span.add_event("genbatch.calls_paused", {"genbatch.seconds": seconds})
            case RetryScheduled(delay=delay):
                self._retries.add(1, attributes)
                span.add_event("genbatch.retry_scheduled", {"genbatch.delay": delay})
            case ImageSaved(image=image):
                span.add_event("genbatch.image_saved", {"genbatch.path": str(image.path)})
            case CallsStopped(error=error):
                span.add_event("genbatch.calls_stopped", _error(error))


def _of(call: CallContext) -> Attributes:
    """Return the attributes that every metric has."""
    return {
        "gen_ai.operation.name": "generate_content",
        "gen_ai.provider.name": _PROVIDERS.get(call.service, call.service),
        "gen_ai.request.model": call.model,
    }


def _asked(call: CallContext) -> Attributes:
    """Return what an attempt asks for, without the prompt's text."""
    seed = call.prompt.seed
    return {
        "gen_ai.output.type": "image",
        **({} if seed is None else {"gen_ai.request.seed": seed}),
    }


def _error(error: BaseException) -> Attributes:
    return {"error.type": type(error).__name__}


def _end(span: Span, event: AttemptEnded | CallEnded) -> None:
    if event.cost is not None:
        span.set_attribute("genbatch.cost", event.cost)
        span.set_attribute("genbatch.is_estimated", event.is_estimated)
    if event.error is not None:
        span.set_attributes(_error(event.error))
        span.set_status(StatusCode.ERROR)  # its words may quote the prompt
    span.end()
