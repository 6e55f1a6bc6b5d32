"""All open streams of one API process: how many, how long, and how they end. One timer serves them all."""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Protocol

import structlog
from sse_starlette import EventSourceResponse
from starlette.types import Receive, Scope, Send

from service.front import hand_over
from service.hub import Hub
from service.identity import Identity, Right
from service.seat import WRITE_SECONDS, Seat, Source, farewell
from todoke.model.errors import Unavailable
from todoke.model.limits import in_force
from todoke.runtime import metrics
from todoke.runtime.settings import Settings
from todoke.wire import sse

log = structlog.get_logger()

TICK_SECONDS = 1.0
RIGHTS_SECONDS = 5.0
# Milliseconds until readers come back.
SOON = (200, 2_000)
LATER = (10_000, 30_000)
NOBODY = Identity("", frozenset(), Right(""))


class Judge(Protocol):
    """Knows whose right to watch has ended."""

    async def lapsed(self, rights: Collection[Right]) -> set[Right]:
        """Those of `rights` that have ended. Raises Unavailable."""


class Streams:
    """Every stream passes here; none holds a database connection or anything of FastAPI's while it is open."""

    def __init__(self, settings: Settings, hub: Hub, judge: Judge | None = None) -> None:
        self._beat_seconds = settings.stream_heartbeat_seconds
        self._rotation_seconds = settings.stream_rotation_seconds
        self._streams_max, self._tenant_max = settings.streams_max, settings.tenant_streams_max
        self._hub, self._judge = hub, judge
        self._seats: set[Seat] = set()
        self._polls = 0
        self._held: Counter[str] = Counter()
        self.is_draining = False

    def response(
        self, source: Source, identity: Identity, headers: Mapping[str, str] | None = None, *, wait: int | None = None
    ) -> EventSourceResponse:
        """The answer that streams `source`. wait: it ends after so many seconds without news."""
        return _Streaming(self, source, identity, headers, wait)

    def apology(self, reason: str, retry: tuple[int, int] = sse.RETRY_MILLISECONDS) -> EventSourceResponse:
        """Come back later, inside a 200: an error status would stop a browser for good."""
        return _Streaming(self, _Farewell(farewell(reason, retry)), NOBODY, None, None)

    async def run(self) -> None:
        """Heartbeats, rotation, write deadlines and ended rights, until canceled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tick())
            group.create_task(self._end_lapsed())

    async def _tick(self) -> None:
        tick = min(TICK_SECONDS, self._beat_seconds / 4)
        while True:
            await asyncio.sleep(tick)
            now = time.monotonic()
            for seat in self._seats:
                if seat.writing_since is not None and now - seat.writing_since > WRITE_SECONDS:
                    log.info("stream.stalled", tenant=seat.right.tenant_id)
                    seat.cut("stalled")
                elif now >= min(seat.beat_at, seat.parts_at):
                    seat.wake()

    def drain(self, seconds: float) -> None:
        """Ask readers to reconnect, one after another over `seconds`; new ones and long polls are sent off at once."""
        self.is_draining = True
        self._hub.drain()
        now = time.monotonic()
        for seat in self._seats:
            at = now + random.uniform(0, seconds)  # noqa: S311 - jitter is no secret
            if at < seat.parts_at:
                seat.part("draining", sse.RETRY_MILLISECONDS, at if seconds else 0.0)

    @contextlib.contextmanager
    def long_poll(self, identity: Identity) -> Iterator[str | None]:
        """Room for one long poll, which counts as a stream; or the reason why there is none."""
        if reason := self._refusal(identity):
            yield reason
            return
        tenant_id = identity.tenant_id
        self._polls += 1
        self._count(tenant_id, 1)
        metrics.LONG_POLLS.inc()
        try:
            yield None
        finally:
            self._polls -= 1
            self._count(tenant_id, -1)
            metrics.LONG_POLLS.dec()

    def seat(self, source: Source, identity: Identity, wait: int | None) -> Seat:
        """A stream about to begin; one that may not is sent away inside it."""
        if reason := self._refusal(identity):
            source = _Farewell(farewell(reason, LATER if reason == "overloaded" else sse.RETRY_MILLISECONDS))
        if wait is None:
            lasts, parting = self._rotation_seconds * random.uniform(0.8, 1.0), "rotation"  # noqa: S311
        else:
            lasts, parting = float(wait), ""
        seat = Seat(self, source, identity.right, self._beat_seconds, time.monotonic() + lasts, parting)
        seat.retry, seat.refusal = SOON, reason
        return seat

    def take(self, seat: Seat) -> None:
        """A stream has begun."""
        self._seats.add(seat)
        self._count(seat.right.tenant_id, 1)
        metrics.STREAMS.inc()

    def leave(self, seat: Seat) -> None:
        """A stream has ended."""
        self._seats.discard(seat)
        self._count(seat.right.tenant_id, -1)
        metrics.STREAMS.dec()
        metrics.STREAM_ENDS.labels(seat.refusal or seat.end).inc()

    def _count(self, tenant_id: str, change: int) -> None:
        self._held[tenant_id] += change
        if not self._held[tenant_id]:
            del self._held[tenant_id]

    def _refusal(self, identity: Identity) -> str | None:
        if self.is_draining:
            return "draining"
        is_full = len(self._seats) + self._polls >= self._streams_max
        tenant_max = in_force(identity.limits.streams_max, self._tenant_max)
        is_greedy = 0 < tenant_max <= self._held[identity.tenant_id]
        return "overloaded" if is_full or is_greedy else None

    async def _end_lapsed(self) -> None:
        while self._judge is not None:
            await asyncio.sleep(RIGHTS_SECONDS)
            try:
                lapsed = await self._judge.lapsed({seat.right for seat in self._seats})
            except Unavailable:
                continue  # nothing new can be read meanwhile either
            for seat in self._seats:
                if seat.right in lapsed:
                    seat.part("unauthorized", SOON)


class _Farewell:
    """A source that says one thing and ends."""

    def __init__(self, chunk: bytes) -> None:
        self._chunk: bytes | None = chunk

    def attach(self, wake: object) -> None:
        """Nothing ever changes."""

    def detach(self) -> None:
        """Nothing was attached."""

    def checkpoint(self) -> bytes:
        """None."""
        return b""

    async def pull(self) -> bytes | None:
        """The chunk, once."""
        chunk, self._chunk = self._chunk, None
        return chunk


class _Streaming(EventSourceResponse):
    """sse-starlette's response in its headers; its four tasks a stream are replaced by one."""

    def __init__(
        self, streams: Streams, source: Source, identity: Identity, headers: Mapping[str, str] | None, wait: int | None
    ) -> None:
        super().__init__(iter(()), headers=headers)
        self._streams, self._source, self._identity, self._wait = streams, source, identity, wait

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Send the head, and leave the stream to the front door, which runs it when everything here has returned."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        hand_over(scope, self._streams.seat(self._source, self._identity, self._wait).run)
