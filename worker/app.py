"""The composition root of the worker: opens the doors, builds the rooms, starts in order, drains in reverse."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
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
from todoke.store.bell import Bell, cancel_channel
from todoke.store.database import Database
from todoke.store.ledger import Ledger
from todoke.store.reading import Reader
from todoke.store.repair import Repair
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
from worker.receiver import Receiver
from worker.results import Results
from worker.roll_call import RollCall
from worker.runner import Runner
from worker.scratch import scratch_folder
from worker.slots import Slots
from worker.straight import Straight
from worker.sweeper import Sweeper

log = structlog.get_logger()

# An idle worker does not wait for the whole of a long poll: the sweep brings back what little that may cost.
POLL_GRACE_SECONDS = 2.0
# Attempts that are told to stop get two seconds for it, and the same again for their outcomes.
SETTLE_SECONDS = 4.0
LAST_SECONDS = 1.5


@dataclass(frozen=True)
class Rooms:
    """What starts and drains together."""

    runner: Runner
    receiver: Receiver
    heartbeat: Heartbeat
    sweeper: Sweeper
    straight: Straight
    messages: Messages
    dead_letters: DeadLetters | None
    make_sure: Callable[[], Awaitable[None]]
    cancels: Cancels
    roll_call: RollCall


async def run(settings: Settings) -> None:
    """Work until a stop signal, then drain. Raises InvalidInput or StartFailed when it cannot start."""
    if not settings.sqs_queue_url:
        raise InvalidInput("SQS_QUEUE_URL is not set: a worker takes its hints from there")
    async with (
        stop_signals() as stopping,
        watched_loop(),
        _rooms(settings) as rooms,
        # Leases are kept until the last attempt is settled, and a sweep under way ends by itself.
        running(
            every(settings.heartbeat_seconds, rooms.heartbeat.beat, asyncio.Event()),
            every(settings.heartbeat_seconds, rooms.roll_call.answer, asyncio.Event()),
            rooms.cancels.run(),
            Bell(settings.listen_url, cancel_channel(settings.notify_channel), rooms.cancels.heard).listen(),
            rooms.sweeper.run(settings.sweep_seconds, stopping),
            *([every(settings.sweep_seconds, rooms.dead_letters.look, stopping)] if rooms.dead_letters else []),
        ),
    ):
        async with running(rooms.receiver.run(), rooms.straight.run()):
            await stopping.wait()
        await _drain(rooms, settings.drain_seconds)
        await rooms.roll_call.leave()
    log.info("worker.stopped")


async def _drain(rooms: Rooms, seconds: float) -> None:
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
            await asyncio.gather(rooms.make_sure(), rooms.messages.drain(LAST_SECONDS))


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
        cgroups = Cgroups.found()
        host = Host(
            lambda: Child.start(program, cgroups.new() if cgroups is not None else None),
            Bounds(settings.job_memory_mb, settings.child_jobs_max),
        )
        stack.push_async_callback(host.close)
        await host.open()
        channel = settings.notify_channel
        ledger = OwnLedger(
            Ledger(database, channel, settings.tenant_jobs_max), Repair(database, channel), settings, host.types
        )
        results = Results(blobs if settings.s3_bucket else None, settings.inline_result_bytes)
        log.info("worker.started", worker_id=ledger.worker_id, types=sorted(host.types), slots=settings.slots)
        dead_letters = (
            DeadLetters(queue.beside(settings.dlq_url), Repair(database, channel).bury) if settings.dlq_url else None
        )
        yield _wire(settings, ledger, queue, host, results, Reader(database), scratch, dead_letters)


def _wire(
    settings: Settings,
    ledger: OwnLedger,
    queue: SqsQueue,
    host: Host,
    results: Results,
    reader: Reader,
    scratch: Path,
    dead_letters: DeadLetters | None,
) -> Rooms:
    slots, messages = Slots(settings.slots), Messages(queue)
    outage = Outage(settings.queue_outage_seconds)
    sweeper = Sweeper(ledger, send=queue.send, depth=queue.depth, is_queue_away=lambda: outage.is_away)

    def settled(attempt: Attempt) -> None:
        if attempt.is_limited or settings.tenant_jobs_max:
            sweeper.nudge()

    completer = Completer(ledger.settle, ledger.report, messages.forget, messages.show, settled)
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
        hints=Hints(ledger.claim, ledger.claim_limited, ledger.standing, ledger.put_off, host.types),
        slots=slots,
        messages=messages,
        start=runner.start,
        make_sure=ledger.make_sure,
        outage=outage,
    )
    straight = Straight(outage=outage, claim=ledger.claim_straight, probe=queue.depth, slots=slots, start=runner.start)
    heartbeat = Heartbeat(lambda: runner.held, ledger.renew, queue.defer, settings.visibility_seconds)
    cancels = Cancels(lambda: runner.held, heartbeat.renew)
    roll_call = RollCall(ledger.enroll, ledger.retire, lambda: len(runner.held), settings.slots)
    return Rooms(
        runner,
        receiver,
        heartbeat,
        sweeper,
        straight,
        messages,
        dead_letters,
        ledger.make_sure,
        cancels,
        roll_call,
    )
