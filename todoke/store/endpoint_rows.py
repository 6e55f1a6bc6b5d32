"""The rows of endpoints: locked, judged by the model's rules, written back, all inside the caller's transaction."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from uuid import UUID

import structlog

from todoke.model.delivery import Reason, Verdict
from todoke.model.endpoint import DisabledReason, Endpoint, EndpointState, after
from todoke.runtime.metrics import ENDPOINT_CHANGES
from todoke.store.database import Connection, queries
from todoke.store.transactions import columns

log = structlog.get_logger()

SQL = queries("deliveries")


class Failing:
    """What attempts mean for the endpoints they went to. An endpoint that never failed is not written at all."""

    def __init__(self, connection: Connection, usual_cap: int) -> None:
        self._connection = connection
        self._usual_cap = usual_cap

    async def learn(self, verdicts: Sequence[Verdict]) -> None:
        """Bring the endpoints up to date with these attempts, in their order."""
        told = [each for each in verdicts if each.answer.reason is not Reason.SENDER]
        failed = {each.delivery.endpoint_id: each for each in told if not each.answer.is_success}
        if failed:
            known = columns(
                list(failed.values()),
                lambda each: (each.delivery.endpoint_id, each.delivery.tenant_id, each.delivery.url),
            )
            await self._connection.execute(SQL["know_endpoints"], *known)
        before, now = await self._lock(list(failed), list({each.delivery.endpoint_id for each in told}))
        stands = dict(before)
        for each in told:
            if (endpoint := stands.get(each.delivery.endpoint_id)) is not None:
                stands[endpoint.id] = after(endpoint, each.delivery, each.answer, now, self._usual_cap)
        changed = [endpoint for endpoint in stands.values() if endpoint != before[endpoint.id]]
        await self.store(changed)
        for endpoint in changed:
            _tell(before[endpoint.id], endpoint, now)

    async def store(self, endpoints: Sequence[Endpoint]) -> None:
        """Write rows that are locked."""
        if endpoints:
            await self._connection.execute(SQL["store_endpoints"], *columns(endpoints, _spelled))

    async def _lock(self, failed: Sequence[UUID], others: Sequence[UUID]) -> tuple[Mapping[UUID, Endpoint], float]:
        rows = await self._connection.fetch(SQL["lock_endpoints"], failed, others)
        return {row["id"]: endpoint_of(dict(row)) for row in rows}, max((row["now"] for row in rows), default=0.0)


def endpoint_of(row: Mapping[str, object]) -> Endpoint:
    """An endpoint from a row of `lock_endpoints`."""
    values = {key: value for key, value in row.items() if key != "now"}
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
