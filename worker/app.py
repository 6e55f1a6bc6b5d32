"""The composition root of the worker: opens the doors, builds the rooms, starts in order, drains in reverse."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from pathlib import Path

import structlog

from todoke.blobs.s3 import S3Blobs
from todoke.model.errors import InvalidInput, Unavailable
from todoke.model.job import Attempt
from todoke.queue.sqs import SqsQueue
from todoke.runtime.lifecycle import every, running, stop_signals
from todoke.runtime.loop_watch import watched_loop
from todoke.runtime.settings import Settings
from todoke.runtime.tracing import Tracer, tracing
from todoke.store.announcing import announcer_of
from todoke.store.bell import Bell
from todoke.store.database import Database
from todoke.store.ledger import Ledger
from todoke.store.reading import Reader
from todoke.store.repair import Repair
from todoke.store.retention import Retention
from todoke.wire.notice import cancel_channel
from worker.cancels import Cancels
from worker.cgroups import Cgroups
from worker.completer import Completer
from worker.dead_letters import DeadLetters
from worker.ending import WORKER_STOPPED, Released
from worker.heartbeat import Heartbeat
from worker.hints import Hints
from worker.host import Bounds, Host
from worker.messages import Messages
from worker.outage import Outage
from worker.own_ledger import OwnLedger
from worker.process import Child
from worker.program import Program
from worker.pruner import Ages, Pruner
from worker.receiver import Receiver
from worker.results import Results
from worker.roll_call import RollCall
from worker.runner import Runner
from worker.scratch import scratch_folder
from worker.slots import Slots
from worker.straight import Straight
from worker.sweeper import Sweeper
from worker.traced import traced

log = structlog.get_logger()

# An idle worker does not wait for the whole of a long poll: the sweep brings back what little that may cost.
POLL_GRACE_SECONDS = 2.0
# Attempts that are told to stop get two seconds for it, and the same again for their outcomes.
SETTLE_SECONDS = 4.0
LAST_SECONDS = 1.5


@dataclass(frozen=True)
class Doors:
    """What leads out of this process: to PostgreSQL, SQS, S3 and the processes of job code."""

    database: Database
    ledger: OwnLedger
    repair: Repair
    queue: SqsQueue
    blobs: S3Blobs | None
    host: Host
    scratch: Path
    tracer: Tracer


@dataclass(frozen=True)
class Rooms:
    """What starts and drains together. `dead_letters` None: no queue of them is set."""

    runner: Runner
    receiver: Receiver
    straight: Straight
    heartbeat: Heartbeat
    cancels: Cancels
    sweeper: Sweeper
    dead_letters: DeadLetters | None
    pruner: Pruner
    results: Results
    messages: Messages
    roll_call: RollCall


async def run(settings: Settings) -> None:
    """Work until a stop signal, then drain. Raises InvalidInput or StartFailed when it cannot start."""
    if not settings.sqs_queue_url:
        raise InvalidInput("SQS_QUEUE_URL is not set: a worker takes its hints from there")
    async with stop_signals() as stopping, watched_loop(), _doors(settings) as doors:
        rooms = _rooms(settings, doors)
        # Leases are kept until the last attempt is settled, and a sweep under way ends by itself.
        async with running(*_loops(settings, rooms, stopping)):
            async with running(rooms.receiver.run(), rooms.straight.run()):
                await stopping.wait()
            await _drain(rooms, doors, settings.drain_seconds)
            await rooms.roll_call.leave()
    log.info("worker.stopped")


def _loops(settings: Settings, rooms: Rooms, stopping: asyncio.Event) -> list[Awaitable[None]]:
    """What goes on beside the attempts. Those that end with `stopping` do nothing an attempt still needs."""
    never = asyncio.Event()
    loops: list[Awaitable[None]] = [
        every(settings.heartbeat_seconds, rooms.heartbeat.beat, never),
        every(settings.heartbeat_seconds, rooms.roll_call.answer, never),
        rooms.cancels.run(),
        rooms.sweeper.run(settings.sweep_seconds, stopping),
        every(settings.prune_seconds, rooms.pruner.prune, stopping),
    ]
    if settings.notify_mode != "off":
        channel, notify_url = cancel_channel(settings.notify_channel), settings.database_url.get_secret_value()
        loops.append(Bell(settings.listen_url, channel, rooms.cancels.heard, notify_url=notify_url).listen())
    if rooms.dead_letters is not None:
        loops.append(every(settings.sweep_seconds, rooms.dead_letters.look, stopping))
    return loops


async def _drain(rooms: Rooms, doors: Doors, seconds: float) -> None:
    """Let attempts finish for `seconds`, then give back what is left; charged to nobody."""
    log.info("worker.draining", held=len(rooms.runner.held))
    grace = min(POLL_GRACE_SECONDS, seconds)
    await asyncio.gather(rooms.receiver.stop(grace), rooms.straight.stop(grace))
    await rooms.runner.finished(max(0, seconds - grace))
    for held in rooms.runner.held:
        held.interrupt(Released(WORKER_STOPPED, "the worker was stopped; the job starts again on another"))
    await rooms.runner.finished(SETTLE_SECONDS)
    with contextlib.suppress(Unavailable, TimeoutError):
        async with asyncio.timeout(LAST_SECONDS):
            await asyncio.gather(
                doors.ledger.make_sure(), rooms.messages.drain(LAST_SECONDS), rooms.results.drain(LAST_SECONDS)
            )


@contextlib.asynccontextmanager
async def _doors(settings: Settings) -> AsyncIterator[Doors]:
    async with contextlib.AsyncExitStack() as stack:
        tracer = stack.enter_context(tracing(settings.otlp_url, "worker"))
        scratch = stack.enter_context(scratch_folder())
        url = settings.database_url.get_secret_value()
        announcer = await stack.enter_async_context(announcer_of(settings.notify_mode, url))
        database = await stack.enter_async_context(Database(url))
        queue, blobs = SqsQueue.from_settings(settings, is_lean=True), S3Blobs.from_settings(settings)
        stack.push_async_callback(queue.aclose)
        stack.callback(blobs.close)
        host = _host(settings, scratch)
        stack.push_async_callback(host.close)
        await host.open()
        channel = settings.notify_channel
        repair = Repair(database, channel, announcer)
        ledger = OwnLedger(Ledger(database, channel, settings.tenant_jobs_max, announcer), repair, settings, host.types)
        log.info("worker.started", worker_id=ledger.worker_id, types=sorted(host.types), slots=settings.slots)
        yield Doors(database, ledger, repair, queue, blobs if settings.s3_bucket else None, host, scratch, tracer)


def _host(settings: Settings, scratch: Path) -> Host:
    home = scratch / "home"
    home.mkdir()
    program = Program(settings.jobs, home, settings.inline_result_bytes, settings.otlp_url)
    cgroups = Cgroups.found()
    return Host(
        lambda: Child.start(program, cgroups.new() if cgroups is not None else None),
        Bounds(settings.job_memory_mb, settings.child_jobs_max),
    )


def _rooms(settings: Settings, doors: Doors) -> Rooms:
    ledger, queue, reader = doors.ledger, doors.queue, Reader(doors.database)
    slots, messages, outage = Slots(settings.slots), Messages(queue), Outage(settings.queue_outage_seconds)
    results = Results(doors.blobs, reader.artifacts, settings.inline_result_bytes)
    sweeper = Sweeper(ledger, send=queue.send, depth=queue.depth, is_queue_away=lambda: outage.is_away)

    def settled(attempt: Attempt) -> None:
        if attempt.is_limited or settings.tenant_jobs_max:
            sweeper.nudge()

    completer = Completer(ledger.settle, ledger.report, messages.forget, messages.show, settled)
    runner = Runner(
        run=traced(doors.host.run, doors.tracer),
        keep=results.keep,
        report=completer.report,
        settle=completer.settle,
        recorded=results.recorded,
        activity=reader.activity,
        freed=lambda: slots.give(1),
        scratch=doors.scratch,
    )
    receiver = Receiver(
        receive=lambda room: queue.receive(room, settings.receive_wait_seconds),
        hints=Hints(ledger.claim, ledger.claim_limited, ledger.standing, ledger.put_off, doors.host.types),
        slots=slots,
        messages=messages,
        start=runner.start,
        make_sure=ledger.make_sure,
        outage=outage,
    )
    heartbeat = Heartbeat(lambda: runner.held, ledger.renew, queue.defer, settings.visibility_seconds)
    ages = Ages(settings.result_days, settings.job_days, settings.tombstone_days)
    return Rooms(
        runner=runner,
        receiver=receiver,
        straight=Straight(
            outage=outage, claim=ledger.claim_straight, probe=queue.depth, slots=slots, start=runner.start
        ),
        heartbeat=heartbeat,
        cancels=Cancels(lambda: runner.held, heartbeat.renew),
        sweeper=sweeper,
        dead_letters=(DeadLetters(queue.beside(settings.dlq_url), doors.repair.bury) if settings.dlq_url else None),
        pruner=Pruner(Retention(doors.database), doors.blobs, ages),
        results=results,
        messages=messages,
        roll_call=RollCall(ledger.enroll, ledger.retire, lambda: len(runner.held), settings.slots),
    )
