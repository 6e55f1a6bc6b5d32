"""What `todoke webhooks endpoints` does with endpoints of any tenant."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

from todoke.model.endpoint import EndpointState
from todoke.model.errors import InvalidInput, NotFound, Refused
from todoke.model.ids import parse_id
from todoke.operator.showing import say, show_json, show_table
from todoke.operator.store import opened
from todoke.runtime.settings import Settings
from todoke.store.announcing import announcer_of
from todoke.store.endpoints import COUNT_MAX, Endpoints, Seen

COLUMNS = ("endpoint", "tenant", "callback", "standing", "failures", "failing since", "cap", "parked", "held")

Work = Callable[[UUID, str], Awaitable[str]]


async def show_endpoints(
    settings: Settings, tenant_id: str | None, state: EndpointState | None, rows_max: int, *, as_json: bool
) -> None:
    """Show endpoints that have something to tell."""
    async with _rooms(settings) as endpoints:
        found = await endpoints.listed(tenant_id, rows_max, state=state)
    if as_json:
        show_json([{**seen.public(), "tenantId": seen.tenant_id} for seen in found])
        return
    show_table("Endpoints", COLUMNS, [_row(seen) for seen in found])
    if not found:
        say("no callback has ever failed")


async def disable_some(settings: Settings, ids: Sequence[str], url: str | None, tenant_id: str) -> int:
    """Disable endpoints; the answer is how many could not be."""
    async with _rooms(settings) as endpoints:

        async def disable(endpoint_id: UUID, owner: str) -> str:
            await endpoints.disable(endpoint_id, owner)
            return "is disabled: nothing more is sent, and what is owed is parked"

        if (url is None) == (not ids):
            raise InvalidInput("name endpoints by their ids, or one by --url")
        if url is not None:
            ids = [str(await endpoints.know(tenant_id, url))]
        return await _each(endpoints, ids, disable)


async def enable_some(settings: Settings, ids: Sequence[str]) -> int:
    """Enable endpoints, and owe anew what was parked because they were disabled; how many could not be."""
    async with _rooms(settings) as endpoints:

        async def enable(endpoint_id: UUID, owner: str) -> str:
            owed, is_more = 0, True
            while is_more:
                count, is_more = await endpoints.enable(endpoint_id, owner) or (0, False)
                owed += count
            return f"is enabled, and owed {owed} deliveries that were parked"

        return await _each(endpoints, ids, enable)


@asynccontextmanager
async def _rooms(settings: Settings) -> AsyncIterator[Endpoints]:
    url = settings.database_url.get_secret_value()
    async with opened(settings) as database, announcer_of(settings.notify_mode, url) as announcer:
        yield Endpoints(database, settings.notify_channel, announcer)


async def _each(endpoints: Endpoints, ids: Sequence[str], work: Work) -> int:
    """Do `work` to each endpoint; one that is refused does not keep the others from it."""
    refused = 0
    for id_ in ids:
        try:
            endpoint_id = parse_id(id_.strip())
            owner = await endpoints.tenant_of(endpoint_id) if endpoint_id else None
            if endpoint_id is None or owner is None:
                raise NotFound("there is no such endpoint; `todoke webhooks endpoints list` shows them")
            say(f"endpoint {endpoint_id} {await work(endpoint_id, owner)}")
        except Refused as error:
            refused += 1
            say(f"endpoint {id_}: {error}")
    return refused


def _row(seen: Seen) -> list[object]:
    standing = [seen.state.lower(), seen.disabled_reason, seen.warning]
    if seen.breaker != "closed":
        standing.append(f"{seen.breaker} until {seen.blocked_until}")
    words = " ".join(word for word in standing if word)
    parked, held = (f"{count}+" if count >= COUNT_MAX else count for count in (seen.parked, seen.held))
    return [seen.id, seen.tenant_id, seen.url, words, seen.failures, seen.failing_since, seen.cap, parked, held]
