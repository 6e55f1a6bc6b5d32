"""A collector of traces on loopback: takes OTLP over HTTP, keeps the spans."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Seen:
    """One span. Ids in hex; parent "" for the first of a trace."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent: str
    links: tuple[str, ...]
    attributes: dict[str, str]
    is_error: bool


@dataclass
class Collector:
    """`url` is what TODOKE_OTLP_URL is set to."""

    url: str = ""
    spans: list[Seen] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def until(self, condition: Callable[[dict[str, Seen]], bool], seconds: float = 20) -> dict[str, Seen]:
        """The spans by name, the latest of each, as soon as the condition holds of them."""
        with self.changed:
            assert self.changed.wait_for(lambda: condition(self._named()), seconds), sorted(self._named())
            return self._named()

    def _named(self) -> dict[str, Seen]:
        return {span.name: span for span in self.spans}

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            service = {each.key: each.value.string_value for each in resource.resource.attributes}["service.name"]
            found = [_seen(service, span) for scope in resource.scope_spans for span in scope.spans]
            with self.changed:
                self.spans += found
                self.changed.notify_all()


def _seen(service: str, span: object) -> Seen:
    attributes = {
        each.key: each.value.string_value or str(each.value.int_value)
        for each in span.attributes  # type: ignore[attr-defined]
    }
    return Seen(
        service,
        span.name,  # type: ignore[attr-defined]
        ["", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"][span.kind],  # type: ignore[attr-defined]
        span.trace_id.hex(),  # type: ignore[attr-defined]
        span.span_id.hex(),  # type: ignore[attr-defined]
        span.parent_span_id.hex(),  # type: ignore[attr-defined]
        tuple(link.span_id.hex() for link in span.links),  # type: ignore[attr-defined]
        attributes,
        span.status.code == 2,  # type: ignore[attr-defined]
    )


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector that listens during the block."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            collector.take(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()
