"""The composition root of the API process: opens the doors, builds the rooms, mounts the routes."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence

from fastapi import APIRouter, FastAPI
from fastapi_offline import FastAPIOffline

from service import problems, schema
from service.dispatcher import Dispatcher
from service.door import GuardedDoor, OpenDoor
from service.front import Front
from service.guard import Guard
from service.history import Paces
from service.hub import Hub
from service.keyring import Keyring
from service.links import Links
from service.long_poll import LongPolls
from service.rights import Rights
from service.routes.control import ControlRoutes
from service.routes.events import EventRoutes
from service.routes.health import HealthRoutes
from service.routes.jobs import JobRoutes
from service.routes.module import ModuleRoutes
from service.routes.results import ResultRoutes
from service.routes.submit import SubmitRoutes
from service.routes.tokens import TokenRoutes
from service.statuses import Statuses
from service.streams import Streams
from service.tickets import Tickets
from todoke.blobs.s3 import S3Blobs
from todoke.jobs.catalog import load_catalog
from todoke.model.errors import InvalidInput, KeyReused
from todoke.model.job import Accepted, NewJob
from todoke.queue.sqs import SqsQueue
from todoke.runtime.batcher import Batcher
from todoke.runtime.lifecycle import running
from todoke.runtime.loop_watch import watched_loop
from todoke.runtime.settings import Settings
from todoke.store.announcing import announcer_of
from todoke.store.api_keys import ApiKeys
from todoke.store.database import Database
from todoke.store.history import History
from todoke.store.ledger import Ledger
from todoke.store.reading import Reader

ACCEPT_BATCH_MAX = 100
UNSEALED = (
    "TODOKE_SECRET_KEYS is not set, and nothing could be sealed for callers: set it to a random text "
    "(openssl rand -base64 32), the same for every API process"
)
# Of eight connections: readers that come back together leave some for those who submit and poll.
REPLAYS_AT_ONCE = 4


def create_app(settings: Settings) -> Front:
    """The API. `state.streams` lets the server end open streams when it stops; `state.hub` is what feeds them.

    When it finds that it cannot work with these settings, it calls `state.stop`; `state.fault` says why.
    """
    database = Database(settings.database_url.get_secret_value())
    queue, blobs = SqsQueue.from_settings(settings), S3Blobs.from_settings(settings)
    announcer = announcer_of(settings.notify_mode, settings.database_url.get_secret_value())
    ledger, reader = Ledger(database, settings.notify_channel, announcer=announcer), Reader(database)
    hub = _hub(settings, reader)
    api_keys = ApiKeys(database)
    rights = Rights(api_keys)
    streams, replays = Streams(settings, hub, rights), asyncio.Semaphore(REPLAYS_AT_ONCE)
    dispatcher, links = Dispatcher(queue), Links(settings.public_url)
    polls, paces = LongPolls(hub, streams), Paces(History(database))
    statuses = Statuses(reader, polls, paces, links)
    tickets = Tickets(sealing_keys(settings), settings.public_url)

    async def accept(jobs: Sequence[NewJob]) -> list[Accepted | KeyReused]:
        return await ledger.accept(jobs, settings.redispatch_seconds)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(queue.close)
            stack.callback(blobs.close)
            await stack.enter_async_context(watched_loop())
            await stack.enter_async_context(announcer)
            await stack.enter_async_context(database)
            await stack.enter_async_context(running(_watch(app, hub), streams.run(), paces.run()))
            yield
            await dispatcher.drain()

    app = FastAPIOffline(
        title="Todoke",
        description="Post work, get 202, learn that it is done by polling, SSE or a signed webhook.",
        version="0.1.0",
        lifespan=lifespan,
    )
    submit = SubmitRoutes(settings, Batcher(accept, ACCEPT_BATCH_MAX, "accept"), dispatcher, links, statuses, tickets)
    router, catalog = APIRouter(), load_catalog(settings.jobs)
    for job_type in catalog.values():
        submit.add_to(router, job_type)
    JobRoutes(statuses).add_to(router)
    ControlRoutes(ledger, reader, statuses, submit, catalog, settings.losses_max).add_to(router)
    EventRoutes(reader, hub, streams, tickets, replays).add_to(router)
    TokenRoutes(reader, ledger, tickets, links).add_to(router)
    ResultRoutes(reader, blobs).add_to(router)
    HealthRoutes(hub, streams).add_to(router)
    ModuleRoutes().add_to(router)
    app.include_router(router)
    problems.install(app)
    _hang_doors(app, settings, GuardedDoor(Keyring(api_keys), tickets, rights))
    app.state.hub, app.state.streams = hub, streams
    app.state.fault, app.state.stop = "", lambda: None
    return Front(app)


def _hang_doors(app: FastAPI, settings: Settings, guarded: GuardedDoor) -> None:
    """A desk keeps other sites' pages out, and whatever needs keys those without one."""
    if settings.desk_mode:
        app.add_middleware(Guard)
    app.state.door = guarded if settings.require_keys else OpenDoor()
    if settings.require_keys:
        schema.tell_of_keys(app)


def _hub(settings: Settings, reader: Reader) -> Hub:
    return Hub(
        reader,
        settings.listen_url,
        settings.notify_channel,
        settings.sweep_seconds,
        settings.ring_mb,
        notify_url=settings.database_url.get_secret_value(),
        listens=settings.notify_mode != "off",
    )


async def _watch(app: FastAPI, hub: Hub) -> None:
    """Run the hub; when it cannot hear NOTIFY, have the server say so and stop."""
    try:
        await hub.run()
    except* InvalidInput as group:
        app.state.fault = str(group.exceptions[0])
        app.state.stop()


def sealing_keys(settings: Settings) -> tuple[str, ...]:
    """The keys that seal what callers carry. Raises InvalidInput when there are none outside desk mode."""
    if settings.sealing_keys:
        return settings.sealing_keys
    if not settings.desk_mode:
        raise InvalidInput(UNSEALED)
    # A desk started by hand: what this seals does not outlive the process.
    return (secrets.token_hex(32),)
