"""Holding an answer back until a job moves. Holds neither a database connection nor a caller that has left."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from enum import StrEnum

from starlette.requests import Request

from service.hub import Hub
from service.identity import known
from service.streams import Streams
from service.topic import Topic
from todoke.runtime import metrics
from todoke.store.reading import Status

# How long a caller may be held while the hub, unnoticed, hears and reads nothing any more.
LOOK_SECONDS = 5.0
# A new LISTEN connection is no reason to answer everybody; one that does not come is.
DEAF_SECONDS = 1.0


class Outcome(StrEnum):
    """How a long poll ended."""

    CHANGED = "changed"
    TIMEOUT = "timeout"
    DRAINING = "draining"
    OVERLOADED = "overloaded"
    DEAF = "deaf"
    GONE = "gone"

    @property
    def was_refused(self) -> bool:
        """Whether the answer was not held, or not for as long as it was asked to be."""
        return self in (Outcome.DRAINING, Outcome.OVERLOADED, Outcome.DEAF)


class LongPolls:
    """`status` is what the caller has been shown, or would be: the waiting begins behind it.

    The status is read first, by its own tenant, and only then the hub is joined; a change between the two is found
    because the topic stands for positions: one that is past the status ends the waiting at once.
    """

    def __init__(self, hub: Hub, streams: Streams) -> None:
        self._hub, self._streams = hub, streams

    async def until_changed(self, request: Request, status: Status, seconds: int) -> Outcome:
        """Until the job's sequence or progress version has moved, at most `seconds`."""
        return await self._hold(request, status, seconds, _has_moved)

    async def until_ended(self, request: Request, status: Status, seconds: int) -> Outcome:
        """Until the job has ended, at most `seconds`."""
        return await self._hold(request, status, seconds, _has_ended)

    async def _hold(
        self, request: Request, status: Status, seconds: int, is_enough: Callable[[Topic, Status], bool]
    ) -> Outcome:
        call = asyncio.Event()
        with self._streams.long_poll(known(request)) as refusal:
            if refusal is None:
                outcome = await self._wait(request, status, seconds, is_enough, call)
            else:
                outcome = Outcome(refusal)
        metrics.LONG_POLL_ENDS.labels(outcome).inc()
        return outcome

    async def _wait(
        self,
        request: Request,
        status: Status,
        seconds: int,
        is_enough: Callable[[Topic, Status], bool],
        call: asyncio.Event,
    ) -> Outcome:
        ends_at, deaf_since = time.monotonic() + seconds, None
        with _presence(request, call) as caller, _joined(self._hub, status, call) as topic:
            while not is_enough(topic, status):
                now = time.monotonic()
                left, deaf_since = ends_at - now, None if self._hub.is_ready else deaf_since or now
                if caller.done():
                    return Outcome.GONE
                if self._hub.is_draining:
                    return Outcome.DRAINING
                if left <= 0:
                    return Outcome.TIMEOUT
                if deaf_since is not None and now - deaf_since >= DEAF_SECONDS:
                    return Outcome.DEAF
                await _called(call, min(left, LOOK_SECONDS if deaf_since is None else DEAF_SECONDS))
        return Outcome.CHANGED


@contextlib.contextmanager
def _joined(hub: Hub, status: Status, call: asyncio.Event) -> Iterator[Topic]:
    topic = hub.join(status.job_id, status.tenant_id, call.set)
    try:
        yield topic
    finally:
        hub.leave(topic, call.set)


@contextlib.contextmanager
def _presence(request: Request, call: asyncio.Event) -> Iterator[asyncio.Task[None]]:
    """A task that is done when the caller has left; nothing of it stays behind."""

    async def leave() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        call.set()

    task = asyncio.create_task(leave())
    try:
        yield task
    finally:
        task.cancel()


async def _called(call: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await call.wait()
    call.clear()


def _has_moved(topic: Topic, status: Status) -> bool:
    if not topic.is_loaded:
        return False
    return (
        topic.is_gone
        or topic.epoch != status.epoch
        or topic.last > status.sequence
        or topic.progress_version > status.progress_version
    )


def _has_ended(topic: Topic, status: Status) -> bool:
    # Of another epoch nothing is known; whoever asks reads again.
    return topic.is_loaded and (topic.is_gone or topic.is_terminal or topic.epoch != status.epoch)
