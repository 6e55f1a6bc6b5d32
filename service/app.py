"""The composition root of the API process: opens the doors, builds the rooms, mounts the routes."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from urllib.parse import urlsplit

from fastapi import APIRouter, FastAPI
from fastapi_offline import FastAPIOffline

from service import problems
from service.dispatcher import Dispatcher
from service.guard import Guard
from service.hub import Hub
from service.links import Links
from service.routes.control import ControlRoutes
from service.routes.events import EventRoutes
from service.routes.health import HealthRoutes
from service.routes.jobs import JobRoutes
from service.routes.results import ResultRoutes
from service.routes.submit import SubmitRoutes
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
from todoke.store.database import Database
from todoke.store.ledger import Ledger
from todoke.store.reading import Reader

ACCEPT_BATCH_MAX = 100


def create_app(settings: Settings) -> FastAPI:
    """The API. `app.state.hub` lets the server end open streams when it stops.

    When it finds that it cannot work with these settings, it calls `app.state.stop`; `app.state.fault` says why.
    """
    database = Database(settings.database_url.get_secret_value())
    queue, blobs = SqsQueue.from_settings(settings), S3Blobs.from_settings(settings)
    announcer = announcer_of(settings.notify_mode, settings.database_url.get_secret_value())
    ledger, reader = Ledger(database, settings.notify_channel, announcer=announcer), Reader(database)
    hub = _hub(settings, reader)
    dispatcher, links = Dispatcher(queue), Links(settings.public_url)

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
            await stack.enter_async_context(running(_watch(app, hub)))
            yield
            await dispatcher.drain()

    app = FastAPIOffline(
        title="Todoke",
        description="Post work, get 202, learn that it is done by polling, SSE or a signed webhook.",
        version="0.1.0",
        lifespan=lifespan,
    )
    submit = SubmitRoutes(settings, Batcher(accept, ACCEPT_BATCH_MAX, "accept"), dispatcher, links)
    router, catalog = APIRouter(), load_catalog(settings.jobs)
    for job_type in catalog.values():
        submit.add_to(router, job_type)
    JobRoutes(reader, links).add_to(router)
    ControlRoutes(ledger, reader, links, submit, catalog, settings.losses_max).add_to(router)
    EventRoutes(reader, hub, settings.stream_heartbeat_seconds).add_to(router)
    ResultRoutes(reader, blobs).add_to(router)
    HealthRoutes(hub).add_to(router)
    app.include_router(router)
    problems.install(app)
    app.add_middleware(Guard, extra_hosts=_public_host(settings))
    app.state.hub, app.state.fault, app.state.stop = hub, "", lambda: None
    return app


def _hub(settings: Settings, reader: Reader) -> Hub:
    return Hub(
        reader,
        settings.listen_url,
        settings.notify_channel,
        settings.sweep_seconds,
        notify_url=settings.database_url.get_secret_value(),
        listens=settings.notify_mode != "off",
    )


async def _watch(app: FastAPI, hub: Hub) -> None:
    """Run the hub; when it cannot hear NOTIFY, have the server say so and stop."""
    try:
        await hub.run()
    except* InvalidInput as group:
        app.state.fault = str(group.exceptions[0])
        hub.drain()
        app.state.stop()


def _public_host(settings: Settings) -> list[str]:
    host = urlsplit(settings.public_url or "").hostname
    return [host] if host else []
