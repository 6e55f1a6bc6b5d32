"""Taking hints from the queue: never more than there are free slots, claimed together, each told what becomes of it."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence

import structlog

from todoke.model.job import Attempt
from todoke.queue.port import BATCH_MAX, Message
from todoke.runtime.batcher import Batcher
from worker.hints import Fate, Hints
from worker.messages import Messages
from worker.slots import Slots

log = structlog.get_logger()

POLLS_MAX = 4
CLAIM_BATCH_MAX = 100
HIDE_SECONDS = 3
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 5.0

Receive = Callable[[int], Awaitable[list[Message]]]


class Receiver:
    """One long poll while the queue is quiet, up to four while it answers in full.

    `start` begins an attempt, which gives its slot back itself. `is_reachable` raises Unavailable while PostgreSQL
    is away: then nothing is received, so that no message is counted as received for nothing.
    """

    def __init__(
        self,
        *,
        receive: Receive,
        hints: Hints,
        slots: Slots,
        messages: Messages,
        start: Callable[[Attempt, Message], None],
        is_reachable: Callable[[], Awaitable[object]],
    ) -> None:
        self._receive, self._slots, self._messages = receive, slots, messages
        self._start, self._is_reachable = start, is_reachable
        self._resolving: Batcher[Message, Attempt | Fate] = Batcher(hints.resolve, CLAIM_BATCH_MAX)
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
                await self._is_reachable()
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
        try:
            messages = await self._receive(room)
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
        if self._is_stopping:
            self._return(messages)
            return
        answers = await asyncio.gather(*map(self._resolving.put, messages), return_exceptions=True)
        for message, answer in zip(messages, answers, strict=True):
            if isinstance(answer, Attempt):
                self._start(answer, message)
            elif isinstance(answer, Fate):
                self._slots.give(1)
                self._let_go(message, answer)
            else:
                self._reachable.clear()
                self._away.set()
                log.warning("hint.unclaimed", reason=str(answer) or repr(answer))
                self._return([message])

    def _let_go(self, message: Message, fate: Fate) -> None:
        match fate:
            case Fate.FORGET | Fate.PUT_OFF:
                self._messages.forget(message.receipt)
            case Fate.HIDE:
                self._messages.hide(message.receipt, HIDE_SECONDS)

    def _return(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self._slots.give(1)
            self._messages.show(message.receipt)


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(0.5, 1.0)  # noqa: S311 - jitter is no secret
