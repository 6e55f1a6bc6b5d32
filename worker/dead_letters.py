"""Emptying the dead-letter queue: each letter is kept and its job gets what it deserves, then its message goes."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import structlog

from todoke.model.dead_letter import DeadLetter, LetterVerdict
from todoke.model.errors import Unavailable
from todoke.queue.port import BATCH_MAX, Message, Queue
from todoke.runtime.metrics import DEAD_LETTERS

log = structlog.get_logger()

ROUNDS_MAX = 20

Bury = Callable[[Sequence[DeadLetter]], Awaitable[list[LetterVerdict]]]


class DeadLetters:
    """`queue` is that of the dead letters; `bury` commits what is to be known of them."""

    def __init__(self, queue: Queue, bury: Bury) -> None:
        self._queue, self._bury = queue, bury
        self._is_away = False

    async def look(self) -> None:
        """Take what is there now, in bounded rounds. Raises Unavailable when PostgreSQL is away."""
        for _ in range(ROUNDS_MAX):
            messages = await self._received()
            if not messages:
                return
            try:
                verdicts = await self._bury([_letter(message) for message in messages])
            except Unavailable:
                await self._queue.defer([message.receipt for message in messages], 0)
                raise
            for verdict in verdicts:
                DEAD_LETTERS.labels(str(verdict)).inc()
            log.warning("dead_letters.kept", **Counter(str(verdict) for verdict in verdicts))
            await self._queue.delete([message.receipt for message in messages])

    async def _received(self) -> list[Message]:
        try:
            messages = await self._queue.receive(BATCH_MAX, 0)
        except Unavailable as error:
            if not self._is_away:
                log.warning("dead_letters.unreceived", reason=str(error))
            self._is_away = True
            return []
        self._is_away = False
        return messages


def _letter(message: Message) -> DeadLetter:
    # PostgreSQL takes no NUL; of SQS's own characters there is none.
    body = message.body.replace("\x00", "")
    return DeadLetter(message.id, body, message.job_id, message.receive_count, message.sent_at)
