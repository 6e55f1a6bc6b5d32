"""What becomes of a hint: its job is claimed, or the row says why not and what to do with the message."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from enum import Enum, auto
from typing import Any
from uuid import UUID

import structlog

from todoke.model.job import TERMINAL, Attempt, State
from todoke.queue.port import Message

log = structlog.get_logger()

ROWLESS_RECEIVES_MAX = 3

Claim = Callable[[Sequence[UUID]], Awaitable[Sequence[Attempt]]]
Standing = Callable[[Sequence[UUID]], Awaitable[Mapping[UUID, Mapping[str, Any]]]]
PutOff = Callable[[Sequence[UUID]], Awaitable[None]]


class Fate(Enum):
    """What to do with a message that claimed nothing."""

    FORGET = auto()
    """Delete it: the row is finished, or the sweep brings the hint back when it is time."""
    HIDE = auto()
    """Look again in a few seconds: somebody else is at the row, or it is not there yet."""
    PUT_OFF = auto()
    """Delete it and let a sweep send it later, to a worker that knows the job type."""
    LEAVE = auto()
    """Touch nothing: it is none of ours, and the queue moves it to the dead letters."""


class Hints:
    """Turns messages into attempts, in one batched claim. `types` are the job types this worker knows."""

    def __init__(self, claim: Claim, standing: Standing, put_off: PutOff, types: Collection[str]) -> None:
        self._claim, self._standing, self._put_off = claim, standing, put_off
        self._types = types

    async def resolve(self, messages: Sequence[Message]) -> list[Attempt | Fate]:
        """An attempt or a fate for each message, in order. Raises Unavailable when PostgreSQL is away."""
        named = {message.job_id for message in messages if message.job_id is not None}
        claimed = {attempt.id: attempt for attempt in await self._claim(sorted(named))} if named else {}
        rest = sorted(named - claimed.keys())
        rows = await self._standing(rest) if rest else {}
        answers: list[Attempt | Fate] = []
        unused = dict(claimed)
        for message in messages:
            attempt = unused.pop(message.job_id, None) if message.job_id else None
            is_twin = attempt is None and message.job_id in claimed
            answers.append(attempt or (Fate.FORGET if is_twin else self._fate(message, rows)))
        late = [m.job_id for m, a in zip(messages, answers, strict=True) if a is Fate.PUT_OFF and m.job_id]
        if late:
            log.warning("hint.type_unknown", count=len(late), types=sorted({rows[id_]["type"] for id_ in late}))
            await self._put_off(late)
        return answers

    def _fate(self, message: Message, rows: Mapping[UUID, Mapping[str, Any]]) -> Fate:
        if message.job_id is None:
            log.warning("hint.unparseable", receive_count=message.receive_count)
            return Fate.LEAVE
        row = rows.get(message.job_id)
        if row is not None:
            return fate(row, self._types)
        if message.receive_count < ROWLESS_RECEIVES_MAX:
            return Fate.HIDE
        log.warning("hint.jobless", job_id=str(message.job_id), receive_count=message.receive_count)
        return Fate.FORGET


def fate(row: Mapping[str, Any], types: Collection[str]) -> Fate:
    """What becomes of a hint whose job stands like this (state, type, is_held, due_seconds)."""
    if State(row["state"]) in TERMINAL or row["is_held"] or row["due_seconds"] > 0:
        return Fate.FORGET
    if row["type"] not in types:
        return Fate.PUT_OFF
    # Due and ours to claim, yet not claimed: another transaction holds the row just now.
    return Fate.HIDE
