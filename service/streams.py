"""All open streams of one API process: how many, how long, and how they end. One timer serves them all."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Protocol

import structlog
from sse_starlette import EventSourceResponse
from starlette.types import Receive, Scope, Send

from service.front import hand_over
from service.identity import Right
from service.seat import WRITE_SECONDS, Seat, Source, farewell
from todoke.model.errors import Unavailable
from todoke.runtime import metrics
from todoke.runtime.settings import Settings
from todoke.wire import sse

log = structlog.get_logger()

TICK_SECONDS = 1.0
RIGHTS_SECONDS = 5.0
# Milliseconds until readers come back.
SOON = (200, 2_000)
LATER = (10_000, 30_000)


class Judge(Protocol):
    """Knows whose right to watch has ended."""

    async def lapsed(self, rights: Collection[Right]) -> set[Right]:
        """Those of `rights` that have ended. Raises Unavailable."""


class Streams:
    """Every stream passes here; none holds a database connection or anything of FastAPI's while it is open."""

    def __init__(self, settings: Settings, judge: Judge | None = None) -> None:
        self._beat_seconds = settings.stream_heartbeat_seconds
        self._rotation_seconds = settings.stream_rotation_seconds
        self._streams_max, self._tenant_max = settings.streams_max, settings.tenant_streams_max
        self._judge = judge
        self._seats: set[Seat] = set()
        self._held: Counter[str] = Counter()
        self._drains_until: float | None = None
        self.is_draining = False

    @property
    def open(self) -> int:
        """How many streams are open."""
        return len(self._seats)

    def response(
        self, source: Source, right: Right, headers: Mapping[str, str] | None = None, *, wait: int | None = None
    ) -> EventSourceResponse:
        """The answer that streams `source`. wait: it ends after so many seconds without news."""
        return _Streaming(self, source, right, headers, wait)

    def apology(self, reason: str, headers: Mapping[str, str] | None = None) -> EventSourceResponse:
        """Come back later, inside a 200: an error status would stop a browser for good."""
        return _Streaming(self, _Farewell(farewell(reason, sse.RETRY_MILLISECONDS)), Right(""), headers, None)

    async def run(self) -> None:
        """Heartbeats, rotation, write deadlines and ended rights, until canceled."""
        tick = min(TICK_SECONDS, self._beat_seconds / 4)
        rights_at = 0.0
        while True:
            await asyncio.sleep(tick)
            now = time.monotonic()
            for seat in self._seats:
                if seat.writing_since is not None and now - seat.writing_since > WRITE_SECONDS:
                    log.info("stream.stalled", tenant=seat.right.tenant_id)
                    seat.cut()
                elif now >= min(seat.beat_at, seat.parts_at):
                    seat.wake()
            if now >= rights_at:
                await self._end_lapsed()
                rights_at = now + RIGHTS_SECONDS

    def drain(self, seconds: float) -> None:
        """Ask every reader to reconnect, one after another over `seconds`; new ones are asked at once."""
        self.is_draining = True
        now = time.monotonic()
        for seat in self._seats:
            at = now + random.uniform(0, seconds)  # noqa: S311 - jitter is no secret
            if at < seat.parts_at:
                seat.part("draining", sse.RETRY_MILLISECONDS, at if seconds else 0.0)

    async def seat(
        self,
        source: Source,
        right: Right,
        wait: int | None,
        receive: Receive,
        send: Send,
        head: list[tuple[bytes, bytes]],
    ) -> None:
        """Run one stream from its first byte to its last."""
        if reason := self._refusal(right):
            source = _Farewell(farewell(reason, LATER if reason == "overloaded" else sse.RETRY_MILLISECONDS))
        if wait is None:
            lasts, parting = self._rotation_seconds * random.uniform(0.8, 1.0), "rotation"  # noqa: S311
        else:
            lasts, parting = float(wait), ""
        seat = Seat(source, right, self._beat_seconds, time.monotonic() + lasts, parting)
        seat.retry = SOON
        self._seats.add(seat)
        self._held[right.tenant_id] += 1
        metrics.STREAMS.inc()
        try:
            await seat.run(receive, send, head)
        finally:
            self._seats.discard(seat)
            self._held[right.tenant_id] -= 1
            if not self._held[right.tenant_id]:
                del self._held[right.tenant_id]
            metrics.STREAMS.dec()
            metrics.STREAM_ENDS.labels(reason or seat.end).inc()

    def _refusal(self, right: Right) -> str | None:
        if self.is_draining:
            return "draining"
        is_full = len(self._seats) >= self._streams_max
        is_greedy = 0 < self._tenant_max <= self._held[right.tenant_id]
        return "overloaded" if is_full or is_greedy else None

    async def _end_lapsed(self) -> None:
        if self._judge is None or not self._seats:
            return
        try:
            lapsed = await self._judge.lapsed({seat.right for seat in self._seats})
        except Unavailable:
            return  # asked again soon; nothing new can be read meanwhile either
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
        self, streams: Streams, source: Source, right: Right, headers: Mapping[str, str] | None, wait: int | None
    ) -> None:
        super().__init__(iter(()), headers=headers)
        self._streams, self._source, self._right, self._wait = streams, source, right, wait

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - ASGI's signature
        """Leave the stream to the front door, which runs it when everything here has returned."""
        streams, source, right, wait, head = self._streams, self._source, self._right, self._wait, self.raw_headers

        async def stream(receive: Receive, send: Send) -> None:
            await streams.seat(source, right, wait, receive, send, head)

        hand_over(scope, stream)
