"""The composition root of the API process: opens the doors, builds the rooms, mounts the routes."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence
from urllib.parse import urlsplit

from fastapi import APIRouter, FastAPI
from fastapi_offline import FastAPIOffline

from service import problems
from service.dispatcher import Dispatcher
from service.feed import Feed
from service.feed_cursors import FeedCursors
from service.feed_log import FeedLog
from service.front import Front
from service.guard import Guard
from service.hub import Hub
from service.links import Links
from service.routes.control import ControlRoutes
from service.routes.events import EventRoutes
from service.routes.feed import FeedRoutes
from service.routes.health import HealthRoutes
from service.routes.jobs import JobRoutes
from service.routes.results import ResultRoutes
from service.routes.submit import SubmitRoutes
from service.streams import Streams
from todoke.blobs.s3 import S3Blobs
from todoke.jobs.catalog import load_catalog
from todoke.model.errors import KeyReused
from todoke.model.job import Accepted, NewJob
from todoke.queue.sqs import SqsQueue
from todoke.runtime.batcher import Batcher
from todoke.runtime.lifecycle import running
from todoke.runtime.loop_watch import watched_loop
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.feed import FeedReader
from todoke.store.ledger import Ledger
from todoke.store.reading import Reader

ACCEPT_BATCH_MAX = 100
# Of eight connections: readers that come back together leave some for those who submit and poll.
REPLAYS_AT_ONCE = 4


def create_app(settings: Settings) -> Front:
    """The API. `state.streams` lets the server end open streams when it stops; `state.hub` is what feeds them."""
    database = Database(settings.database_url.get_secret_value())
    queue, blobs = SqsQueue.from_settings(settings), S3Blobs.from_settings(settings)
    ledger, reader = Ledger(database, settings.notify_channel), Reader(database)
    hub = Hub(reader, settings.listen_url, settings.notify_channel, settings.sweep_seconds, settings.ring_mb)
    streams, replays = Streams(settings, hub), asyncio.Semaphore(REPLAYS_AT_ONCE)
    # A desk without keys of its own: what this seals does not outlive the process.
    cursors = FeedCursors(settings.sealing_keys or (secrets.token_hex(32),))
    feed_reader = FeedReader(database)
    feed = Feed(feed_reader, cursors, lambda: hub.is_ready and settings.notify_mode != "off", settings.sweep_seconds)
    feed_log = FeedLog(feed, feed_reader, cursors, replays, settings.job_days)
    hub.tell(feed.heard)
    dispatcher, links = Dispatcher(queue), Links(settings.public_url)

    async def accept(jobs: Sequence[NewJob]) -> list[Accepted | KeyReused]:
        return await ledger.accept(jobs, settings.redispatch_seconds)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(queue.close)
            stack.callback(blobs.close)
            await stack.enter_async_context(watched_loop())
            await stack.enter_async_context(database)
            await stack.enter_async_context(running(hub.run(), feed.run(), streams.run()))
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
    EventRoutes(reader, hub, streams, replays).add_to(router)
    FeedRoutes(feed_log, streams).add_to(router)
    ResultRoutes(reader, blobs).add_to(router)
    HealthRoutes(hub, streams).add_to(router)
    app.include_router(router)
    problems.install(app)
    app.add_middleware(Guard, extra_hosts=_public_host(settings))
    app.state.hub, app.state.streams = hub, streams
    return Front(app)


def _public_host(settings: Settings) -> list[str]:
    host = urlsplit(settings.public_url or "").hostname
    return [host] if host else []
