"""The composition root of the API process: opens the doors, builds the rooms, mounts the routes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from fastapi import APIRouter, FastAPI
from starlette.types import ASGIApp

from service import answers_schema, callbacks_schema, problems, problems_schema, schema
from service.admission import Admission
from service.body import Bodies
from service.budgets import Budgets
from service.callbacks import CallbackSecrets, CallbackWarnings
from service.cors import Cors
from service.delivery_cursors import DeliveryCursors
from service.dispatcher import Dispatcher
from service.door import GuardedDoor, OpenDoor
from service.envelope import Envelope
from service.feed import Feed
from service.feed_cursors import FeedCursors
from service.feed_log import FeedLog
from service.front import Front
from service.gate import Gate
from service.guard import Guard
from service.history import Paces
from service.hub import Hub
from service.identity import Door
from service.intake import Intake
from service.job_cursors import JobCursors
from service.keyring import Keyring
from service.lane import Lane
from service.links import Links
from service.long_poll import LongPolls
from service.readiness import Probe, Readiness
from service.rights import Rights
from service.routes.batch import BatchRoutes
from service.routes.callback_tests import CallbackTestRoutes
from service.routes.control import ControlRoutes
from service.routes.deliveries import DeliveryRoutes
from service.routes.endpoints import EndpointRoutes
from service.routes.erasing import ErasingRoutes
from service.routes.events import EventRoutes
from service.routes.feed import FeedRoutes
from service.routes.gateway import GatewayRoutes
from service.routes.health import HealthRoutes
from service.routes.jobs import JobRoutes
from service.routes.listing import ListingRoutes
from service.routes.module import ModuleRoutes
from service.routes.reference import add_reference
from service.routes.results import ResultRoutes
from service.routes.secrets import SecretRoutes
from service.routes.submit import SubmitRoutes
from service.routes.tokens import TokenRoutes
from service.routes.well_known import WellKnownRoutes
from service.statuses import Statuses
from service.streams import Streams
from service.tickets import Tickets
from service.usage import Usage
from todoke.blobs.s3 import S3Blobs
from todoke.jobs.catalog import load_catalog
from todoke.model.errors import InvalidInput
from todoke.queue.sqs import SqsQueue
from todoke.runtime.lifecycle import running
from todoke.runtime.loop_watch import watched_loop
from todoke.runtime.sealing_keys import sealing_keys
from todoke.runtime.settings import Settings
from todoke.runtime.tracing import Tracer, tracer_of
from todoke.store.announcing import Announcer, announcer_of
from todoke.store.api_keys import ApiKeys
from todoke.store.callback_tests import CallbackTests
from todoke.store.database import Database
from todoke.store.delivery_log import DeliveryLog
from todoke.store.endpoints import Callbacks, Endpoints
from todoke.store.feed import FeedReader
from todoke.store.history import History
from todoke.store.ledger import Ledger
from todoke.store.listing import Listing
from todoke.store.reading import Reader
from todoke.store.retention import Retention
from todoke.store.signing import SigningKeys, SigningSecrets
from todoke.store.tenants import Tenants

# Of eight connections: readers that come back together leave some for those who submit and poll.
REPLAYS_AT_ONCE = 4


@dataclass(frozen=True)
class Doors:
    """What leads out of this process: to PostgreSQL, SQS and S3."""

    database: Database
    announcer: Announcer
    queue: SqsQueue
    blobs: S3Blobs


@dataclass(frozen=True)
class Rooms:
    """What answers callers. `replays` bounds how many readers read the log at once."""

    ledger: Ledger
    reader: Reader
    hub: Hub
    streams: Streams
    replays: asyncio.Semaphore
    feed: Feed
    feed_log: FeedLog
    job_cursors: JobCursors
    paces: Paces
    statuses: Statuses
    tickets: Tickets
    links: Links
    dispatcher: Dispatcher
    door: Door
    usage: Usage
    budgets: Budgets
    admission: Admission
    delivery_log: DeliveryLog
    delivery_cursors: DeliveryCursors
    endpoints: Endpoints
    callbacks: CallbackWarnings
    signing_secrets: SigningSecrets
    callback_secrets: CallbackSecrets
    readiness: Readiness


def create_app(settings: Settings) -> Front:
    """The API. `state.streams` lets the server end open streams when it stops; `state.hub` is what feeds them.

    When it finds that it cannot work with these settings, it calls `state.stop`; `state.fault` says why. Raises
    InvalidInput for what it knows at once.
    """
    tracer = tracer_of(settings.otlp_url, "api")
    database_url = settings.database_url.get_secret_value()
    doors = Doors(
        Database(database_url),
        announcer_of(settings.notify_mode, database_url),
        SqsQueue.from_settings(settings, is_lean=True),
        S3Blobs.from_settings(settings),
    )
    rooms = _rooms(settings, doors)
    app = FastAPI(
        title="Todoke",
        description="Post work, get 202, learn that it is done by polling, SSE or a signed webhook.",
        version="0.1.0",
        lifespan=lambda app: _running(app, doors, rooms, tracer),
        # /jobs/ is no job, and a redirect would tell whoever follows it the wrong thing about its method.
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
    )
    add_reference(app)
    router, lane = _routes(settings, doors, rooms)
    app.include_router(router)
    problems.install(app)
    callbacks_schema.tell_of_webhooks(app)
    problems_schema.tell_of_problems(app)
    answers_schema.tell_of_answers(app)
    app.state.door = rooms.door
    if settings.require_keys:
        schema.tell_of_keys(app)
    app.state.hub, app.state.streams = rooms.hub, rooms.streams
    app.state.fault, app.state.stop = "", lambda: None
    return Front(_wrapped(lane(app), settings, rooms, tracer), app)


def _wrapped(api: ASGIApp, settings: Settings, rooms: Rooms, tracer: Tracer) -> Envelope:
    """What a request passes before it is looked at; a desk keeps other sites' pages out."""
    cors = Cors(settings.cors_origins)
    gate = Gate(api, rooms.door, rooms.budgets, rooms.streams)
    guarded = Guard(gate, cors) if settings.desk_mode else gate
    return Envelope(guarded, cors, tracer, settings.public_url)


def _rooms(settings: Settings, doors: Doors) -> Rooms:
    database, links, replays = doors.database, Links(settings.public_url), asyncio.Semaphore(REPLAYS_AT_ONCE)
    reader, api_keys = Reader(database), ApiKeys(database)
    hub, rights, usage = _hub(settings, reader), Rights(api_keys), Usage(api_keys)
    streams, paces = Streams(settings, hub, rights), Paces(History(database))
    seals = sealing_keys(settings)
    # What is kept needs keys that outlive this process.
    secrets = SigningSecrets(database, settings.sealing_keys)
    tickets, cursors, feed_reader = Tickets(seals, settings.public_url), FeedCursors(seals), FeedReader(database)
    feed = Feed(feed_reader, cursors, lambda: hub.is_ready and settings.notify_mode != "off", settings.sweep_seconds)
    hub.tell(feed.heard)
    return Rooms(
        ledger=Ledger(database, settings.notify_channel, announcer=doors.announcer),
        reader=reader,
        hub=hub,
        streams=streams,
        replays=replays,
        feed=feed,
        feed_log=FeedLog(feed, feed_reader, cursors, replays, settings.job_days),
        job_cursors=JobCursors(seals),
        paces=paces,
        statuses=Statuses(reader, LongPolls(hub, streams), paces, links),
        tickets=tickets,
        links=links,
        dispatcher=Dispatcher(doors.queue),
        door=GuardedDoor(Keyring(api_keys), tickets, rights, usage) if settings.require_keys else OpenDoor(),
        usage=usage,
        budgets=Budgets(settings),
        admission=Admission(settings, Tenants(database)),
        delivery_log=DeliveryLog(database, settings.notify_channel, doors.announcer),
        delivery_cursors=DeliveryCursors(seals),
        endpoints=Endpoints(database, settings.notify_channel, doors.announcer),
        callbacks=CallbackWarnings(Callbacks(database)),
        signing_secrets=secrets,
        callback_secrets=CallbackSecrets(secrets, has_fallback=bool(settings.signing_secret)),
        readiness=Readiness(
            hub, streams, Probe(database.check_writable), Probe(doors.queue.depth) if settings.sqs_queue_url else None
        ),
    )


@contextlib.asynccontextmanager
async def _running(app: FastAPI, doors: Doors, rooms: Rooms, tracer: Tracer) -> AsyncIterator[None]:
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(tracer.close)
        stack.push_async_callback(doors.queue.aclose)
        stack.callback(doors.blobs.close)
        await stack.enter_async_context(watched_loop())
        await stack.enter_async_context(doors.announcer)
        await stack.enter_async_context(doors.database)
        loops = (_watch(app, rooms.hub), rooms.feed.run(), rooms.streams.run(), rooms.paces.run())
        await stack.enter_async_context(running(*loops, rooms.usage.run(), rooms.admission.run()))
        stack.callback(rooms.readiness.close)
        yield
        await rooms.dispatcher.drain()


def _routes(settings: Settings, doors: Doors, rooms: Rooms) -> tuple[APIRouter, Callable[[ASGIApp], Lane]]:
    """All routes, and what leads to the busiest of them."""
    intake = Intake(settings, rooms.ledger, rooms.dispatcher, rooms.callbacks, rooms.callback_secrets, rooms.admission)
    bodies = Bodies(settings)
    submit = SubmitRoutes(intake, bodies, rooms.links, rooms.statuses, rooms.tickets)
    router, catalog, reader = APIRouter(), load_catalog(settings.jobs), rooms.reader
    for job_type in catalog.values():
        submit.add_to(router, job_type)
    BatchRoutes(intake, bodies, rooms.budgets, rooms.links, catalog).add_to(router)
    ListingRoutes(Listing(doors.database), rooms.statuses, rooms.job_cursors).add_to(router)
    jobs = JobRoutes(rooms.statuses)
    jobs.add_to(router)
    ErasingRoutes(reader, Retention(doors.database), is_store_known=bool(settings.s3_bucket)).add_to(router)
    ControlRoutes(rooms.ledger, reader, rooms.statuses, intake, submit, catalog).add_to(router)
    EventRoutes(reader, rooms.hub, rooms.streams, rooms.tickets, rooms.replays).add_to(router)
    FeedRoutes(rooms.feed_log, rooms.streams).add_to(router)
    TokenRoutes(reader, rooms.ledger, rooms.tickets, rooms.links).add_to(router)
    ResultRoutes(reader, doors.blobs, rooms.links).add_to(router)
    DeliveryRoutes(rooms.delivery_log, reader, rooms.delivery_cursors).add_to(router)
    EndpointRoutes(rooms.endpoints, intake.check_url).add_to(router)
    CallbackTestRoutes(
        CallbackTests(doors.database, settings.notify_channel, doors.announcer),
        intake.check_callback,
        settings.body_bytes_max,
    ).add_to(router)
    SecretRoutes(rooms.signing_secrets, intake.check_url).add_to(router)
    WellKnownRoutes(SigningKeys(doors.database, ())).add_to(router)
    HealthRoutes(rooms.readiness).add_to(router)
    ModuleRoutes().add_to(router)
    if settings.gateway_asks:
        GatewayRoutes().add_to(router)
    return router, lambda app: Lane(app, submit.endpoints, jobs.status)


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
