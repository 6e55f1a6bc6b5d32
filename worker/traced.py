"""Attempts as spans: from the moment a child is given the order to the moment it has ended."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from todoke.runtime.tracing import Attributes, Kind, Tracer
from worker.ending import Ending
from worker.process import Order

Run = Callable[[Order], Awaitable[Ending]]


def traced(run: Run, tracer: Tracer) -> Run:
    """`run`, told to the tracer. Job code gets the attempt's own traceparent, in the place of its job's."""
    if not tracer.is_on:
        return run

    async def told(order: Order) -> Ending:
        attributes: Attributes = {
            "todoke.job_id": order.job_id,
            "todoke.job_type": order.type,
            "todoke.attempt": order.number,
        }
        span = tracer.begin(f"run {order.type}", Kind.CONSUMER, order.trace, attributes)
        error: str | None = "interrupted"
        try:
            ending = await run(replace(order, trace=span.traceparent))
            error = getattr(ending, "code", None)
            return ending
        finally:
            span.end(error=error)

    return told
