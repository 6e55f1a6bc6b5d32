"""Taking hints from the queue: never more than there are free slots, claimed together, each told what becomes of it."""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Sequence

import structlog

from todoke.model.errors import Unavailable
from todoke.model.job import Attempt
from todoke.queue.port import BATCH_MAX, Message
from todoke.runtime.batcher import Batcher
from todoke.runtime.metrics import BATCH_SIZE, UNCLAIMED_HINTS
from worker.hints import Answer, Fate, Hide, Hints
from worker.messages import Messages
from worker.outage import Outage
from worker.slots import Slots

log = structlog.get_logger()

POLLS_MAX = 4
CLAIM_POLLS_MAX = 10
# What a poll still brings during an outage of PostgreSQL waits this long before it is returned.
HOLD_SECONDS = 20.0
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 5.0

Receive = Callable[[int], Awaitable[list[Message]]]


class Receiver:
    """One long poll while the queue is quiet, up to four while it answers in full.

    `start` begins an attempt, which gives its slot back itself. `make_sure` raises Unavailable while PostgreSQL
    is away: then nothing is received, so that no message is counted as received for nothing. While the queue is away,
    as `outage` has it, nobody polls: that would only hold slots.
    """

    def __init__(
        self,
        *,
        receive: Receive,
        hints: Hints,
        slots: Slots,
        messages: Messages,
        start: Callable[[Attempt, Message], None],
        make_sure: Callable[[], Awaitable[object]],
        outage: Outage,
    ) -> None:
        self._receive, self._slots, self._messages = receive, slots, messages
        self._start, self._make_sure, self._outage = start, make_sure, outage
        self._resolving: Batcher[Sequence[Message], list[Answer]] = Batcher(
            lambda polls: _resolved(hints, polls), CLAIM_POLLS_MAX, "polls"
        )
        self._always, self._busy, self._reachable = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._always.set()
        self._away = asyncio.Event()
        self._is_stopping = False
        self._open: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Receive until canceled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch())
            group.create_task(self._poll_on(self._always))
            for _ in range(POLLS_MAX - 1):
                group.create_task(self._poll_on(self._busy))

    async def stop(self, seconds: float) -> None:
        """After `run` was canceled: give back what polls under way still bring, waiting at most `seconds` for them.

        A message that a poll brings even later comes again when its visibility ends; the sweep is sooner.
        """
        self._is_stopping = True
        if self._open:
            await asyncio.wait(set(self._open), timeout=seconds)

    async def _watch(self) -> None:
        """Hold receiving back until PostgreSQL answers, at the start and after every outage."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                await self._make_sure()
                self._away.clear()
                self._reachable.set()
                pause = FIRST_PAUSE_SECONDS
                await self._away.wait()
            except Exception as error:
                log.warning("receiving.paused", reason=str(error) or repr(error), retry_seconds=pause)
            await asyncio.sleep(_jittered(pause))
            pause = min(LONGEST_PAUSE_SECONDS, pause * 2)

    async def _poll_on(self, gate: asyncio.Event) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            await gate.wait()
            await self._reachable.wait()
            await self._outage.present.wait()
            room = await self._slots.take(BATCH_MAX)
            # A poll cannot be called back: when we are canceled it goes on, and what it brings is given back.
            poll = asyncio.create_task(self._poll(room))
            self._open.add(poll)
            poll.add_done_callback(self._open.discard)
            try:
                await asyncio.shield(poll)
                pause = FIRST_PAUSE_SECONDS
            except Exception as error:
                log.warning("queue.unreceived", reason=str(error) or repr(error), retry_seconds=pause)
                self._busy.clear()
                await asyncio.sleep(_jittered(pause))
                pause = min(LONGEST_PAUSE_SECONDS, pause * 2)

    async def _poll(self, room: int) -> None:
        messages: list[Message] = []
        began = time.monotonic()
        try:
            messages = await self._receive(room)
            self._outage.answered()
        except Unavailable:
            self._outage.failed(began)
            raise
        finally:
            self._slots.give(room - len(messages))
        if len(messages) == BATCH_MAX:
            self._busy.set()
        else:
            self._busy.clear()
        if messages:
            task = asyncio.create_task(self._take(messages))
            self._open.add(task)
            task.add_done_callback(self._open.discard)

    async def _take(self, messages: Sequence[Message]) -> None:
        if not self._reachable.is_set():
            # Returned at once, polls under way would receive them again and again.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HOLD_SECONDS):
                    await self._reachable.wait()
        if self._is_stopping or not self._reachable.is_set():
            self._return(messages)
            return
        try:
            answers = await self._resolving.put(messages)
        except Exception as error:
            self._reachable.clear()
            self._away.set()
            log.warning("hint.unclaimed", count=len(messages), reason=str(error) or repr(error))
            self._return(messages)
            return
        for message, answer in zip(messages, answers, strict=True):
            if isinstance(answer, Attempt):
                self._start(answer, message)
            else:
                self._slots.give(1)
                self._let_go(message, answer)

    def _let_go(self, message: Message, fate: Fate | Hide) -> None:
        UNCLAIMED_HINTS.labels("hide" if isinstance(fate, Hide) else fate.name.lower()).inc()
        match fate:
            case Fate.FORGET | Fate.PUT_OFF:
                self._messages.forget(message.receipt)
            case Hide(seconds):
                self._messages.hide([message.receipt], seconds)

    def _return(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self._slots.give(1)
            self._messages.show(message.receipt)


async def _resolved(hints: Hints, polls: Sequence[Sequence[Message]]) -> list[list[Answer]]:
    """One claim for what several polls brought."""
    BATCH_SIZE.labels("claims").observe(sum(map(len, polls)))
    answers = iter(await hints.resolve([message for messages in polls for message in messages]))
    return [[next(answers) for _ in messages] for messages in polls]


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(0.5, 1.0)  # noqa: S311 - jitter is no secret
