"""One trace from the call through the queue to the webhook, with OpenTelemetry and without."""

import asyncio
import contextlib
import re
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any
from uuid import UUID

import httpx
import pytest

from notifier.app import notify
from notifier.transport import VettedTransport
from tests.collector import Seen, collecting
from tests.conftest import SIGNING_SECRET, serve
from tests.worker.conftest import Office, StartWorker, until
from todoke.client.receiver import Receiver
from todoke.model.errors import InvalidInput
from todoke.runtime.settings import Settings
from todoke.runtime.tracing import Kind, for_job_code, tracer_of, tracing
from todoke.wire.destination import Rules

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{SPAN}-01"
KINDS = ("trace-process", "trace-thread", "trace-async")


@contextlib.asynccontextmanager
async def notifying(settings: Settings) -> AsyncIterator[None]:
    stopping = asyncio.Event()
    with tracing(settings.otlp_url, "notifier") as tracer:
        task = asyncio.create_task(notify(settings, VettedTransport(Rules.of(settings)), stopping, tracer))
        try:
            yield
        finally:
            stopping.set()
            await asyncio.wait_for(task, 20)


async def run(settings: Settings, office: Office, type_: str, headers: Mapping[str, str]) -> tuple[Any, Any]:
    """Submit a job and wait for all of it: what it returned, and the webhook."""
    async with Receiver(SIGNING_SECRET) as receiver, serve(settings) as url, notifying(settings):
        async with httpx.AsyncClient(base_url=url) as api:
            answer = await api.post(f"/{type_}", json={"callbackUrl": receiver.url}, headers=headers)
            assert answer.status_code == 202, answer.text
        job_id = UUID(answer.json()["jobId"])
        result, webhook = await office.result(job_id), await receiver.next()
    return result, webhook.headers


@pytest.fixture
def traced(settings: Settings) -> Settings:
    return settings.model_copy(update={"jobs": ("sample_jobs",), "sweep_seconds": 0.3})


async def test_one_trace_from_the_call_to_the_webhook(
    traced: Settings, start_worker: StartWorker, office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend("tests/worker")
    with collecting() as collector:
        settings = traced.model_copy(update={"otlp_url": collector.url})
        await start_worker(otlp_url=collector.url)
        for type_ in KINDS:
            collector.spans.clear()
            result, headers = await run(settings, office, type_, {"traceparent": GIVEN})
            wanted = {f"POST /{type_}", "accept", f"run {type_}", "POST webhook", "inner"}
            spans = await asyncio.to_thread(collector.until, lambda spans, wanted=wanted: wanted <= spans.keys())
            call, attempt, webhook = spans[f"POST /{type_}"], spans[f"run {type_}"], spans["POST webhook"]
            assert {span.trace_id for span in collector.spans} == {TRACE}
            assert (call.parent, call.kind, call.service) == (SPAN, "SERVER", "todoke-api")
            assert call.attributes["http.response.status_code"] == "202"
            assert spans["accept"].parent == call.span_id
            assert (attempt.parent, attempt.links, attempt.kind) == (call.span_id, (call.span_id,), "CONSUMER")
            assert (spans["inner"].parent, spans["inner"].service) == (attempt.span_id, "todoke-job")
            assert (webhook.parent, webhook.kind) == (call.span_id, "CLIENT")
            assert result == f"00-{TRACE}-{attempt.span_id}-01"
            assert headers["traceparent"] == f"00-{TRACE}-{webhook.span_id}-01"
            assert not any(span.is_error for span in collector.spans)


async def test_without_a_collector_what_the_caller_sent_travels(
    traced: Settings, start_worker: StartWorker, office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend("tests/worker")
    worker = await start_worker(log_level="DEBUG")
    result, headers = await run(traced, office, "trace-process", {"traceparent": GIVEN})
    assert result == headers["traceparent"] == GIVEN
    await until(lambda: bool(worker.logged("attempt.settled")))
    assert worker.logged("attempt.settled")[0]["traceId"] == TRACE


def test_a_trace_may_begin_here_and_says_what_failed() -> None:
    with collecting() as collector, tracing(collector.url + "/", "api") as tracer:
        span = tracer.begin("x", Kind.CLIENT, None)
        assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[13]", span.traceparent or "")
        span.begin("part", Kind.INTERNAL).end()
        span.end("y", {"a": 1}, "timeout")
        tracer.close()
        spans = collector.until(lambda spans: {"y", "part"} <= spans.keys())
    assert spans["y"].is_error
    assert (spans["y"].attributes["a"], spans["part"].parent) == ("1", spans["y"].span_id)


def test_unsampled_by_the_caller_is_not_sent() -> None:
    with collecting() as collector, tracing(collector.url, "api") as tracer:
        span = tracer.begin("x", Kind.SERVER, GIVEN[:-1] + "0")
        assert (span.traceparent or "").startswith(f"00-{TRACE}-")
        assert (span.traceparent or "").endswith("-00")
        span.end()
        tracer.close()
        assert collector.spans == list[Seen]()


def test_a_collector_that_is_away_keeps_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("todoke.runtime.otlp.CLOSE_SECONDS", 0.1)
    with tracing("http://127.0.0.1:9", "api") as tracer:
        for _ in range(10):
            tracer.begin("x", Kind.SERVER, None).end()


def test_without_the_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.delitem(sys.modules, "todoke.runtime.otlp", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(InvalidInput, match=r"pip install 'todoke\[tracing\]'"):
        tracer_of("http://127.0.0.1:4318", "api")
    assert not tracer_of(None, "api").is_on


def test_job_code_is_not_told_who_the_collector_lets_in() -> None:
    assert for_job_code("https://user:secret@collector:4318/base/") == "https://collector:4318/base/v1/traces"
