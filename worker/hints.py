"""What becomes of a hint: its job is claimed, or the row says why not and what to do with the message."""

import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any
from uuid import UUID

import structlog

from todoke.model.errors import Unavailable
from todoke.model.job import TERMINAL, Attempt, State
from todoke.queue.port import Message

log = structlog.get_logger()

ROWLESS_RECEIVES_MAX = 3
LOOK_AGAIN_SECONDS = 3
SOON_SECONDS = 5.0

Claim = Callable[[Sequence[UUID]], Awaitable[Sequence[Attempt]]]
Rows = Mapping[UUID, Mapping[str, Any]]
Standing = Callable[[Sequence[UUID]], Awaitable[Rows]]
PutOff = Callable[[Sequence[UUID]], Awaitable[None]]


class Fate(Enum):
    """What to do with a message that claimed nothing."""

    FORGET = auto()
    """Delete it: the row is finished, or the sweep brings the hint back when it is time."""
    PUT_OFF = auto()
    """Delete it and let a sweep send it later, to a worker that knows the job type."""
    LEAVE = auto()
    """Touch nothing: it is none of ours, and the queue moves it to the dead letters."""


@dataclass(frozen=True)
class Hide:
    """Look again in so many seconds: somebody else is at the row, or it is not due or not there yet."""

    seconds: int = LOOK_AGAIN_SECONDS


Answer = Attempt | Fate | Hide


class Hints:
    """Turns messages into attempts, in one batched claim. `types` are the job types this worker knows.

    `claim` may take others than it was told, never more; `claim_limited` is for jobs whose number at once is limited.
    """

    def __init__(
        self,
        claim: Claim,
        claim_limited: Claim,
        standing: Standing,
        put_off: PutOff,
        types: Collection[str],
    ) -> None:
        self._claim, self._claim_limited = claim, claim_limited
        self._standing, self._put_off = standing, put_off
        self._types = types

    async def resolve(self, messages: Sequence[Message]) -> list[Answer]:
        """An attempt or a fate for each message, in order. Raises Unavailable when PostgreSQL is away."""
        named = {message.job_id for message in messages if message.job_id is not None}
        claimed = {attempt.id: attempt for attempt in await self._claim(sorted(named))} if named else {}
        rest = sorted(named - claimed.keys())
        try:
            rows = await self._standing(rest) if rest else {}
            limited = [id_ for id_ in rest if id_ in rows and self._is_limited(rows[id_])][: len(named) - len(claimed)]
            if limited:
                claimed |= {attempt.id: attempt for attempt in await self._claim_limited(limited)}
            answers = self._assign(messages, claimed, rows)
            await self._tell_unknown(messages, answers, rows)
        except Unavailable:
            # What was claimed already is ours to run.
            if not claimed:
                raise
            answers = [answer if isinstance(answer, Attempt) else Hide() for answer in self._assign(messages, claimed)]
        return answers

    async def _tell_unknown(self, messages: Sequence[Message], answers: Sequence[Answer], rows: Rows) -> None:
        late = [m.job_id for m, a in zip(messages, answers, strict=True) if a is Fate.PUT_OFF and m.job_id]
        if late:
            log.warning("hint.type_unknown", count=len(late), types=sorted({rows[id_]["type"] for id_ in late}))
            await self._put_off(late)

    def _is_limited(self, row: Mapping[str, Any]) -> bool:
        return row["is_limited"] and fate(row, self._types) == Hide()

    def _assign(
        self, messages: Sequence[Message], claimed: Mapping[UUID, Attempt], rows: Rows | None = None
    ) -> list[Answer]:
        """Each attempt gets a message to end with: the one that named it, else one whose own job was not taken."""
        rows = rows or {}
        own: dict[UUID, int] = {}
        for number, message in enumerate(messages):
            if message.job_id is not None and message.job_id in claimed:
                own.setdefault(message.job_id, number)
        others = iter([attempt for id_, attempt in claimed.items() if id_ not in own])
        answers: list[Answer] = []
        seen: set[UUID] = set()
        for number, message in enumerate(messages):
            id_ = message.job_id
            if id_ is None:
                answers.append(self._fate(message, rows))
            elif id_ in own:
                answers.append(claimed[id_] if own[id_] == number else Fate.FORGET)
            else:
                is_first = id_ not in seen
                answers.append((next(others, None) if is_first else None) or self._fate(message, rows))
            if id_ is not None:
                seen.add(id_)
        return answers

    def _fate(self, message: Message, rows: Rows) -> Fate | Hide:
        if message.job_id is None:
            log.warning("hint.unparseable", receive_count=message.receive_count)
            return Fate.LEAVE
        row = rows.get(message.job_id)
        if row is not None:
            found = fate(row, self._types)
            # Asked for within its limit and not taken: it was put off, and is named again when there is room.
            return Fate.FORGET if row["is_limited"] and found == Hide() else found
        if message.receive_count < ROWLESS_RECEIVES_MAX:
            return Hide()
        log.warning("hint.jobless", job_id=str(message.job_id), receive_count=message.receive_count)
        return Fate.FORGET


def fate(row: Mapping[str, Any], types: Collection[str]) -> Fate | Hide:
    """What becomes of a hint whose job stands like this (state, type, is_held, due_seconds)."""
    if State(row["state"]) in TERMINAL or row["is_held"]:
        return Fate.FORGET
    if row["due_seconds"] > 0:
        # The queue's timer and the database's clock differ a little.
        is_soon = State(row["state"]) is State.PENDING and row["due_seconds"] <= SOON_SECONDS
        return Hide(math.ceil(row["due_seconds"]) + 1) if is_soon else Fate.FORGET
    if row["type"] not in types:
        return Fate.PUT_OFF
    # Due and ours to claim, yet not claimed: another transaction holds the row just now, or its turn is later.
    return Hide()
