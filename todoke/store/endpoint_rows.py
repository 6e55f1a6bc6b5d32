"""The rows of endpoints: locked, judged by the model's rules, written back, all inside the caller's transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import structlog

from todoke.model.delivery import Control, Reason, Verdict
from todoke.model.endpoint import DisabledReason, Endpoint, EndpointState, after, warning
from todoke.runtime.metrics import ENDPOINT_CHANGES, WEBHOOK_WARNINGS
from todoke.store.database import Connection, queries
from todoke.store.transactions import columns

log = structlog.get_logger()

SQL = queries("deliveries")

# By the fourth, more than two minutes have passed: it is no blink any more.
TELLING_FAILURE = 4


class Failing:
    """What attempts mean for the endpoints they went to. An endpoint that never failed is not written at all."""

    def __init__(self, connection: Connection, usual_cap: int) -> None:
        self._connection = connection
        self._usual_cap = usual_cap

    async def learn(self, verdicts: Sequence[Verdict]) -> None:
        """Bring the endpoints up to date with these attempts, in their order."""
        told = [each for each in verdicts if each.answer.reason is not Reason.SENDER]
        marked = {each.delivery.endpoint_id: each for each in told if _marks(each)}
        if marked:
            known = columns(
                list(marked.values()),
                lambda each: (each.delivery.endpoint_id, each.delivery.tenant_id, each.delivery.url),
            )
            await self._connection.execute(SQL["know_endpoints"], *known)
        rows = await self._connection.fetch(
            SQL["lock_endpoints"], list(marked), list({each.delivery.endpoint_id for each in told})
        )
        before = {row["id"]: endpoint_of(dict(row)) for row in rows}
        now = max((row["now"] for row in rows), default=0.0)
        stands = dict(before)
        for each in told:
            if (endpoint := stands.get(each.delivery.endpoint_id)) is not None:
                stands[endpoint.id] = after(endpoint, each.delivery, each.answer, now, self._usual_cap)
        changed = [endpoint for endpoint in stands.values() if endpoint != before[endpoint.id]]
        await self.store(changed)
        stored = {row["id"]: row["stored_at"] for row in rows}
        for endpoint in changed:
            _tell(before[endpoint.id], endpoint, now)
            _warn(endpoint, stored[endpoint.id], now)
        for each in told:
            _warn_of_event(each)

    async def store(self, endpoints: Sequence[Endpoint]) -> None:
        """Write rows that are locked."""
        if endpoints:
            await self._connection.execute(SQL["store_endpoints"], *columns(endpoints, _spelled))


def endpoint_of(row: Mapping[str, object]) -> Endpoint:
    """An endpoint from a row of `lock_endpoints`."""
    values = {key: value for key, value in row.items() if key not in ("now", "stored_at")}
    endpoint = Endpoint(**values)  # type: ignore[arg-type]
    reason = endpoint.disabled_reason
    return replace(
        endpoint,
        state=EndpointState(endpoint.state),
        disabled_reason=None if reason is None else DisabledReason(reason),
    )


def _tell(before: Endpoint, endpoint: Endpoint, now: float) -> None:
    """Say what an operator should know; never the URL, whose path and query often hold tokens."""
    names = {"endpoint": str(endpoint.id), "tenant": endpoint.tenant_id, "failures": endpoint.failures}
    if endpoint.state is not before.state:
        ENDPOINT_CHANGES.labels("disabled").inc()
        log.warning("endpoint.disabled", **names, reason=endpoint.disabled_reason)
    elif endpoint.is_open and endpoint.trips > before.trips:
        ENDPOINT_CHANGES.labels("opened").inc()
        log.warning("endpoint.opened", **names, seconds=round((endpoint.blocked_until or now) - now))
    elif before.is_open and not endpoint.is_open:
        ENDPOINT_CHANGES.labels("closed").inc()
        log.info("endpoint.closed", **names)
    elif (endpoint.blocked_until or 0) > max(now, before.blocked_until or 0):
        ENDPOINT_CHANGES.labels("cooled").inc()
        log.info("endpoint.cooled", **names, seconds=round((endpoint.blocked_until or now) - now))


def _marks(verdict: Verdict) -> bool:
    """Whether an endpoint without a row gets one."""
    return not verdict.answer.is_success or verdict.answer.control is Control.DISABLE


def _warn(endpoint: Endpoint, stored_at: float, now: float) -> None:
    """Once for each length of time: at the first failure after it. stored_at: when the endpoint last changed."""
    since = endpoint.failing_since
    if since is None or endpoint.state is not EndpointState.ACTIVE:
        return
    word = warning(now - since)
    if word is not None and word != warning(stored_at - since):
        WEBHOOK_WARNINGS.labels(word).inc()
        hours = round((now - since) / 3600)
        log.warning("endpoint.failing", endpoint=str(endpoint.id), tenant=endpoint.tenant_id, hours=hours)


def _warn_of_event(verdict: Verdict) -> None:
    delivery, answer = verdict.delivery, verdict.answer
    if delivery.attempt == TELLING_FAILURE and not answer.is_success and not delivery.is_progress:
        WEBHOOK_WARNINGS.labels("fourth_failure").inc()
        log.warning(
            "delivery.failing",
            job_id=str(delivery.job_id),
            sequence=delivery.sequence,
            endpoint=str(delivery.endpoint_id),
            tenant=delivery.tenant_id,
            reason=verdict.reason,
        )


def _spelled(endpoint: Endpoint) -> tuple[object, ...]:
    return (
        endpoint.id,
        endpoint.state,
        endpoint.disabled_reason,
        endpoint.failures,
        endpoint.failing_since,
        endpoint.first_failed,
        endpoint.failed_several,
        endpoint.strain,
        endpoint.trips,
        endpoint.is_open,
        endpoint.blocked_until,
        endpoint.denials,
        endpoint.cap,
        endpoint.successes,
    )
