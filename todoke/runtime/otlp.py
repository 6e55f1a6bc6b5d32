"""Traces by OpenTelemetry, sent by OTLP over HTTP; imported only where `TODOKE_OTLP_URL` is set.

What OpenTelemetry reads from the environment holds here too: OTEL_EXPORTER_OTLP_HEADERS, OTEL_TRACES_SAMPLER and so on.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence

from opentelemetry import context, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from todoke.runtime.tracing import Attributes, Kind, traces_url

NAME = "todoke"
EXPORT_SECONDS = 5.0
CLOSE_SECONDS = 3.0
DELAY_MILLISECONDS = 1000
# Job code may be ended by force soon after it has returned.
CHILD_DELAY_MILLISECONDS = 200


class OtlpSpan:
    """A span that somebody gets to see."""

    __slots__ = ("_span", "_tracer")

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer, self._span = tracer, span

    @property
    def traceparent(self) -> str:
        """Of this span."""
        own = self._span.get_span_context()
        return f"00-{own.trace_id:032x}-{own.span_id:016x}-{own.trace_flags:02x}"

    def begin(self, name: str, kind: Kind, attributes: Attributes | None = None) -> "OtlpSpan":
        """A part of this one."""
        inside = trace.set_span_in_context(self._span, context.Context())
        return OtlpSpan(
            self._tracer, self._tracer.start_span(name, inside, kind=trace.SpanKind[kind], attributes=attributes)
        )

    def end(self, name: str | None = None, attributes: Attributes | None = None, error: str | None = None) -> None:
        """It is over."""
        if name is not None:
            self._span.update_name(name)
        if attributes:
            self._span.set_attributes(attributes)
        if error is not None:
            self._span.set_status(trace.StatusCode.ERROR, error)
        self._span.end()


class OtlpTracer:
    """Sends spans from a thread of its own; what the collector does not take in time is dropped, never waited for."""

    is_on = True

    def __init__(self, url: str, process: str) -> None:
        self._provider = _provider(traces_url(url), f"{NAME}-{process}", DELAY_MILLISECONDS)
        self._tracer = self._provider.get_tracer(NAME)

    def begin(self, name: str, kind: Kind, parent: str | None, attributes: Attributes | None = None) -> OtlpSpan:
        """A span below `parent`; what a queue lies between is linked to it as well."""
        above = _remote(parent)
        links: Sequence[trace.Link] = ()
        if kind is Kind.CONSUMER and above is not None:
            links = (trace.Link(above),)
        span = self._tracer.start_span(
            name, _below(above), kind=trace.SpanKind[kind], attributes=attributes, links=links
        )
        return OtlpSpan(self._tracer, span)

    def close(self) -> None:
        """Send what is left, for CLOSE_SECONDS at most: a collector that is away must not keep the process."""
        closer = threading.Thread(target=self._provider.shutdown, daemon=True)
        closer.start()
        closer.join(CLOSE_SECONDS)


def serve_job_code() -> None:
    """Have what job code traces by OpenTelemetry's own interface go where OTEL_EXPORTER_OTLP_TRACES_ENDPOINT says."""
    trace.set_tracer_provider(_provider(None, f"{NAME}-job", CHILD_DELAY_MILLISECONDS))


@contextlib.contextmanager
def inside(parent: str | None) -> Iterator[None]:
    """Spans that are begun in the block, and in what it starts, are parts of `parent`."""
    token = context.attach(_below(_remote(parent)))
    try:
        yield
    finally:
        context.detach(token)


def _provider(url: str | None, service: str, delay: int) -> TracerProvider:
    provider = TracerProvider(resource=Resource.create({"service.name": service}), shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=url, timeout=EXPORT_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=delay))
    return provider


def _remote(traceparent: str | None) -> trace.SpanContext | None:
    if traceparent is None:
        return None
    _, trace_id, span_id, flags = traceparent.split("-")
    sampled = trace.TraceFlags(int(flags, 16))
    return trace.SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=sampled)


def _below(above: trace.SpanContext | None) -> context.Context:
    empty = context.Context()
    return empty if above is None else trace.set_span_in_context(trace.NonRecordingSpan(above), empty)
