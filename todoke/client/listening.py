"""Turns the event feed into signed webhooks for a receiver on this machine, each event at least once and in order."""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from todoke.client.feed import CHECKPOINT, Feed
from todoke.client.forwarder import Forwarder, Posted
from todoke.model.delivery import webhook_id
from todoke.model.errors import TodokeError
from todoke.model.event import PROGRESS
from todoke.wire.sse import Frame

RETRY_SECONDS = (0.5, 1.0, 2.0, 4.0)
DOWN_SECONDS = (0.25, 5.0)


class ReceiverRefused(TodokeError):
    """The receiver would not take an event, and whoever listens wants to stop at that."""


@dataclass(frozen=True)
class Event:
    """An event of the feed. `body`: its bytes, those of the webhook."""

    type: str
    job_id: UUID
    webhook_id: str
    body: bytes


@dataclass(frozen=True)
class Forwarded:
    """One request to the receiver. at: Unix seconds. fate: `taken`, `again`, `waiting` or `given_up`."""

    event: Event
    posted: Posted
    at: float
    fate: str


class Listener:
    """Follows `feed` and hands every event to `forwarder`.

    keep: is given the cursor behind what the receiver has taken, again and again. told: each request that was made.
    tell: sentences for a person. is_strict: stop at an event the receiver refuses, instead of going on behind it.
    """

    def __init__(
        self,
        feed: Feed,
        forwarder: Forwarder,
        *,
        keep: Callable[[str], None],
        told: Callable[[Forwarded], None],
        tell: Callable[[str], None],
        is_strict: bool = False,
    ) -> None:
        self._feed, self._forwarder = feed, forwarder
        self._keep, self._told, self._tell = keep, told, tell
        self._is_strict = is_strict

    @property
    def cursor(self) -> str:
        """Everything before it has been taken or given up; empty as long as nothing is known."""
        return self._feed.cursor

    async def run(self) -> None:
        """Listen until canceled. Raises Refused when the API will not be read, ReceiverRefused when strict."""
        async with self._forwarder, contextlib.aclosing(self._feed.follow()) as frames:
            async for frame in frames:
                await self._take(frame)
                if frame.last_event_id and frame.last_event_id != self._feed.cursor:
                    self._feed.cursor = frame.last_event_id
                    self._keep(frame.last_event_id)

    async def _take(self, frame: Frame) -> None:
        if frame.event == "snapshot":
            self._tell("listening: what happens from now on is forwarded")
        elif frame.event == "reset":
            reason = _read(frame.data).get("reason")
            self._tell(
                f"the feed could not be continued behind the cursor ({reason}): what happened meanwhile is missing "
                "here; going on with what happens from now on"
            )
        elif frame.event not in (CHECKPOINT, "reconnect"):
            await self._forward(event_of(frame))

    async def _forward(self, event: Event) -> None:
        """Post it until it is taken, or refused often enough; a receiver that is down is awaited."""
        refusals, is_down, pause = 0, False, DOWN_SECONDS[0]
        while True:
            posted = await self._forwarder.post(event.webhook_id, event.body, refusals + 1)
            fate = _fate(event, posted, refusals)
            if fate != "waiting" or not is_down:
                self._told(Forwarded(event, posted, time.time(), fate))
            if fate in ("taken", "given_up"):
                break
            is_down = fate == "waiting"
            if is_down:
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter is no secret
                pause = min(DOWN_SECONDS[1], pause * 2)
            else:
                await asyncio.sleep(RETRY_SECONDS[refusals])
                refusals, pause = refusals + 1, DOWN_SECONDS[0]
        if fate == "given_up" and self._is_strict and event.type != PROGRESS:
            raise ReceiverRefused(f"the receiver does not take {event.webhook_id} ({posted.status or posted.reason})")


def event_of(frame: Frame) -> Event:
    """The event in a frame of the feed. Raises TodokeError for a frame that holds none."""
    data = _read(frame.data).get("data", {})
    try:
        job_id = UUID(data["jobId"])
        # Progress has no number of its own in the feed; the latest wins, and nobody sends it twice.
        number = time.time_ns() if frame.event == PROGRESS else int(data["sequence"])
    except (KeyError, ValueError, TypeError):
        raise TodokeError(f"the feed sent a {frame.event!r} that is no event of a job") from None
    sequence = -number if frame.event == PROGRESS else number
    return Event(frame.event, job_id, webhook_id(job_id, sequence), frame.data.encode())


def _fate(event: Event, posted: Posted, refusals: int) -> str:
    if posted.is_taken:
        return "taken"
    if event.type == PROGRESS:
        return "given_up"
    if posted.is_down:
        return "waiting"
    return "again" if refusals < len(RETRY_SECONDS) else "given_up"


def _read(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
