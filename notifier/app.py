"""The notifier's wiring: bell, claimer, sender and recorder over one database and one transport."""

import asyncio
import time

import structlog

from notifier.claimer import Claimer
from notifier.recorder import Recorder
from notifier.sender import Sender
from notifier.transport import VettedTransport
from todoke.model.delivery import Delivery
from todoke.runtime.lifecycle import running, stop_signals
from todoke.runtime.loop_watch import watched_loop
from todoke.runtime.settings import Settings
from todoke.store.bell import Bell
from todoke.store.database import Database
from todoke.store.deliveries import Deliveries
from todoke.wire.destination import Rules
from todoke.wire.signing import parse_secret

log = structlog.get_logger()

CONNECTIONS_MAX = 4
DEAF_SWEEP_SECONDS = 1.0


async def run(settings: Settings) -> None:
    """Deliver until SIGTERM, then finish what is in flight. Raises InvalidInput for settings that do not allow it."""
    rules = Rules.of(settings)
    async with stop_signals() as stopping, watched_loop():
        # A secret set to nothing is none, as compose files spell it.
        secret = settings.signing_secret.get_secret_value() if settings.signing_secret else ""
        if not secret:
            log.warning("notifier.idle", reason="TODOKE_SIGNING_SECRET is not set: no webhook can be signed or sent")
            await stopping.wait()
            return
        parse_secret(secret)
        await notify(settings, secret, VettedTransport(rules), stopping)
    log.info("notifier.stopped")


async def notify(settings: Settings, secret: str, transport: VettedTransport, stopping: asyncio.Event) -> None:
    """Claim, send and record until `stopping`, then drain for at most `settings.drain_seconds`."""
    url = settings.database_url.get_secret_value()
    async with Database(url, CONNECTIONS_MAX) as database, transport:
        claimer = _claimer(settings, Deliveries(database), Sender(transport, secret, settings.webhook_timeout_seconds))
        bell = Bell(settings.listen_url, settings.notify_channel, claimer.heard, notify_url=url)
        async with running(claimer.run(), *([] if _is_deaf(settings) else [bell.listen()])):
            log.info("notifier.started", slots=settings.webhook_slots)
            await stopping.wait()
            log.info("notifier.draining")
            await claimer.drain(settings.drain_seconds)


def _claimer(settings: Settings, deliveries: Deliveries, sender: Sender) -> Claimer:
    recorder = Recorder(deliveries)

    async def deliver(delivery: Delivery, until: float) -> None:
        if time.monotonic() + settings.webhook_timeout_seconds > until:
            # The claim itself took so long that another notifier may soon hold this one.
            log.warning("delivery.late", job_id=str(delivery.job_id), sequence=delivery.sequence)
            return
        await recorder.record(await sender.send(delivery), until)

    sweep_seconds = min(settings.sweep_seconds, DEAF_SWEEP_SECONDS) if _is_deaf(settings) else settings.sweep_seconds
    return Claimer(deliveries, deliver, settings.webhook_slots, settings.webhook_lease_seconds, sweep_seconds)


def _is_deaf(settings: Settings) -> bool:
    return settings.notify_mode == "off"
