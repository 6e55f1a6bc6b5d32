"""The notifier's wiring: bell, claimer, stager and courier over one database and one transport."""

import asyncio

import structlog

from notifier.claimer import Claimer
from notifier.courier import Courier
from notifier.measures import measure
from notifier.recorder import Recorder
from notifier.sender import Sender
from notifier.signers import Signers
from notifier.stager import Stager
from notifier.tester import Tester
from notifier.transport import VettedTransport
from todoke.runtime.lifecycle import running, stop_signals
from todoke.runtime.loop_watch import watched_loop
from todoke.runtime.sealing_keys import lasting_keys
from todoke.runtime.settings import Settings
from todoke.runtime.tracing import Tracer, tracing
from todoke.store.announcing import Off
from todoke.store.bell import Bell
from todoke.store.callback_tests import CallbackTests
from todoke.store.database import Database
from todoke.store.deliveries import Deliveries
from todoke.store.endpoints import Endpoints
from todoke.store.signing import SigningKeys, SigningSecrets
from todoke.wire.destination import Rules

log = structlog.get_logger()

CONNECTIONS_MAX = 6
DEAF_SWEEP_SECONDS = 1.0


async def run(settings: Settings) -> None:
    """Deliver until SIGTERM, then finish what is in flight. Raises InvalidInput for settings that do not allow it."""
    rules = Rules.of(settings)
    async with stop_signals() as stopping, watched_loop():
        with tracing(settings.otlp_url, "notifier") as tracer:
            await notify(settings, VettedTransport(rules), stopping, tracer)
    log.info("notifier.stopped")


async def notify(
    settings: Settings, transport: VettedTransport, stopping: asyncio.Event, tracer: Tracer | None = None
) -> None:
    """Claim, send and record until `stopping`, then drain for at most `settings.drain_seconds`. Raises as `run`."""
    url = settings.database_url.get_secret_value()
    async with Database(url, CONNECTIONS_MAX) as database, transport:
        signers = _signers(settings, database)
        await signers.start()
        deliveries = Deliveries(database, settings.webhook_endpoint_slots)
        stager = Stager(deliveries, window_seconds=_window_seconds(settings), sweep_seconds=_sweep_seconds(settings))
        sender = Sender(transport, settings.webhook_timeout_seconds, settings.webhook_excerpt_bytes, tracer)
        recorder = Recorder(deliveries, stager.look)
        claimer = _claimer(settings, deliveries, _courier(settings, signers, sender, recorder))
        tester = _tester(settings, database, signers, sender)
        bell = Bell(settings.listen_url, settings.notify_channel, claimer.heard, tester.heard, notify_url=url)
        beside = [] if _is_deaf(settings) else [bell.listen()]
        if settings.metrics_port:
            beside.append(measure(deliveries))
        async with running(claimer.run(), stager.run(claimer.heard), tester.run(), *beside):
            log.info("notifier.started", slots=settings.webhook_slots)
            await stopping.wait()
            log.info("notifier.draining")
            await claimer.drain(settings.drain_seconds)


def _signers(settings: Settings, database: Database) -> Signers:
    # A secret set to nothing is none, as compose files spell it.
    fallback = settings.signing_secret.get_secret_value() if settings.signing_secret else None
    seals = lasting_keys(settings)
    return Signers(SigningSecrets(database, seals), SigningKeys(database, seals), fallback)


def _courier(settings: Settings, signers: Signers, sender: Sender, recorder: Recorder) -> Courier:
    return Courier(
        signers,
        sender,
        recorder,
        timeout_seconds=settings.webhook_timeout_seconds,
        window_seconds=_window_seconds(settings),
    )


def _claimer(settings: Settings, deliveries: Deliveries, courier: Courier) -> Claimer:
    return Claimer(
        deliveries,
        courier.deliver,
        slots=settings.webhook_slots,
        endpoint_slots=settings.webhook_endpoint_slots,
        lease_seconds=settings.webhook_lease_seconds,
        sweep_seconds=_sweep_seconds(settings),
    )


def _tester(settings: Settings, database: Database, signers: Signers, sender: Sender) -> Tester:
    return Tester(
        CallbackTests(database, settings.notify_channel),
        Endpoints(database, settings.notify_channel, Off() if _is_deaf(settings) else None),
        signers,
        sender,
        timeout_seconds=settings.webhook_timeout_seconds,
        sweep_seconds=_sweep_seconds(settings),
    )


def _window_seconds(settings: Settings) -> float:
    return settings.webhook_window_hours * 3600


def _sweep_seconds(settings: Settings) -> float:
    return min(settings.sweep_seconds, DEAF_SWEEP_SECONDS) if _is_deaf(settings) else settings.sweep_seconds


def _is_deaf(settings: Settings) -> bool:
    return settings.notify_mode == "off"
