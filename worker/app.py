"""The composition root of the worker: opens the doors, builds the rooms, starts in order, drains in reverse."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from todoke.blobs.s3 import S3Blobs
from todoke.model.errors import InvalidInput
from todoke.queue.sqs import SqsQueue
from todoke.runtime.lifecycle import every, running, stop_signals
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.store.ledger import Ledger
from todoke.store.reading import Reader
from todoke.store.repair import Repair
from worker.completer import Completer
from worker.ending import WORKER_STOPPED, Released
from worker.heartbeat import Heartbeat
from worker.hints import Hints
from worker.host import Host
from worker.messages import Messages
from worker.own_ledger import OwnLedger
from worker.process import Child, Program
from worker.receiver import Receiver
from worker.results import Results
from worker.runner import Runner
from worker.scratch import scratch_folder
from worker.slots import Slots
from worker.sweeper import Sweeper

log = structlog.get_logger()

# An idle worker does not wait for the whole of a long poll: the sweep brings back what little that may cost.
POLL_GRACE_SECONDS = 2.0
SETTLE_SECONDS = 3.0


@dataclass(frozen=True)
class Rooms:
    """What starts and drains together."""

    runner: Runner
    receiver: Receiver
    heartbeat: Heartbeat
    sweeper: Sweeper
    messages: Messages


async def run(settings: Settings) -> None:
    """Work until a stop signal, then drain. Raises InvalidInput or StartFailed when it cannot start."""
    if not settings.sqs_queue_url:
        raise InvalidInput("SQS_QUEUE_URL is not set: a worker takes its hints from there")
    async with (
        stop_signals() as stopping,
        _rooms(settings) as rooms,
        # Leases are kept until the last attempt is settled, and a sweep under way ends by itself.
        running(
            every(settings.heartbeat_seconds, rooms.heartbeat.beat, asyncio.Event()),
            every(settings.sweep_seconds, rooms.sweeper.sweep, stopping),
        ),
    ):
        async with running(rooms.receiver.run()):
            await stopping.wait()
        await _drain(rooms, settings.drain_seconds)
    log.info("worker.stopped")


async def _drain(rooms: Rooms, seconds: float) -> None:
    """Let attempts finish for `seconds`, then give back what is left; charged to nobody."""
    log.info("worker.draining", held=len(rooms.runner.held))
    await rooms.receiver.stop(min(POLL_GRACE_SECONDS, seconds))
    await rooms.runner.finished(seconds)
    for held in rooms.runner.held:
        held.interrupt(Released(WORKER_STOPPED, "the worker was stopped; the job starts again on another"))
    await rooms.runner.finished(SETTLE_SECONDS)
    await rooms.messages.drain(SETTLE_SECONDS)


@contextlib.asynccontextmanager
async def _rooms(settings: Settings) -> AsyncIterator[Rooms]:
    async with contextlib.AsyncExitStack() as stack:
        scratch = stack.enter_context(scratch_folder())
        database = await stack.enter_async_context(Database(settings.database_url.get_secret_value()))
        queue, blobs = SqsQueue.from_settings(settings), S3Blobs.from_settings(settings)
        stack.callback(queue.close)
        stack.callback(blobs.close)
        home = scratch / "home"
        home.mkdir()
        program = Program(settings.jobs, home, settings.inline_result_bytes)
        host = Host(lambda: Child.start(program))
        stack.push_async_callback(host.close)
        await host.open()
        channel = settings.notify_channel
        ledger = OwnLedger(
            Ledger(database, channel, settings.tenant_jobs_max), Repair(database, channel), settings, host.types
        )
        results = Results(blobs if settings.s3_bucket else None, settings.inline_result_bytes)
        log.info("worker.started", worker_id=ledger.worker_id, types=sorted(host.types), slots=settings.slots)
        yield _wire(settings, ledger, queue, host, results, Reader(database), scratch)


def _wire(
    settings: Settings,
    ledger: OwnLedger,
    queue: SqsQueue,
    host: Host,
    results: Results,
    reader: Reader,
    scratch: Path,
) -> Rooms:
    slots, messages = Slots(settings.slots), Messages(queue)
    completer = Completer(ledger.settle, ledger.report, messages.forget, messages.show)
    runner = Runner(
        run=host.run,
        keep=results.keep,
        report=completer.report,
        settle=completer.settle,
        activity=reader.activity,
        freed=lambda: slots.give(1),
        scratch=scratch,
    )
    receiver = Receiver(
        receive=lambda room: queue.receive(room, settings.receive_wait_seconds),
        hints=Hints(ledger.claim, ledger.standing, ledger.put_off, host.types),
        slots=slots,
        messages=messages,
        start=runner.start,
        is_reachable=ledger.is_reachable,
    )
    heartbeat = Heartbeat(lambda: runner.held, ledger.renew, queue.defer, settings.visibility_seconds)
    return Rooms(runner, receiver, heartbeat, Sweeper(ledger.redispatch, queue.send, ledger.unsent), messages)
