"""A served API, a writer and readers for one test of the stream path; at the end, all are held against the log."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from uuid import UUID

from tests.conftest import serve
from tests.streams import oracle
from tests.streams.event_source import EventSource
from tests.streams.writing import Writer
from todoke.model.event import TERMINAL, Event
from todoke.runtime import metrics
from todoke.runtime.settings import Settings
from todoke.store.database import Database
from todoke.wire.sse import Frame


class Stage:
    """The writer records what was committed, each reader what it dispatched.

    readers: job, where the reader began (see oracle.check), and the reader.
    """

    def __init__(self, api: str, writer: Writer, readers: contextlib.AsyncExitStack) -> None:
        self.api, self.writer = api, writer
        self.readers: list[tuple[UUID, int | None, EventSource]] = []
        self._stack = readers
        self._gaps = gaps()

    @property
    def sources(self) -> list[EventSource]:
        return [source for _, _, source in self.readers]

    async def watch(
        self, jobs: Iterable[UUID], cursor: str | None = "earliest", api: str | None = None, scale: float = 0.02
    ) -> None:
        """One more reader for each of these jobs."""
        for job in jobs:
            source = EventSource(f"{api or self.api}/jobs/{job}/events", cursor, scale=scale)
            self.readers.append((job, 0 if cursor else None, await self._stack.enter_async_context(source)))

    async def live(self, jobs: Sequence[UUID], length: int, rng: random.Random, pause: float) -> None:
        """Every job, from its accepting to its end."""
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(self.writer.live(job, length, rng, pause))

    async def all(self, condition: Callable[[EventSource], object], seconds: float = 30) -> None:
        """Wait until it holds for every reader."""
        await asyncio.gather(*(source.until(condition, seconds) for source in self.sources))

    async def ended(self, seconds: float = 40) -> None:
        """Wait until every reader knows the end, and has been told that it may stop."""
        await self.all(lambda source: source.state == "closed", seconds)

    async def verdict(self) -> dict[UUID, list[Event]]:
        """Hold every reader against the log, and the log against what was acknowledged."""
        logs = await oracle.committed(self.writer.database)
        for job, sequence in self.writer.committed:
            assert sequence <= len(logs[job]), f"acknowledged, and not in the log: {job} {sequence}"
        for job, after, source in self.readers:
            oracle.check(logs[job], source.dispatched, after=after)
            assert source.statuses[-1] == 204
        assert gaps() == self._gaps
        return logs


def is_started(source: EventSource) -> bool:
    """Whether it has been shown anything."""
    return bool(source.dispatched)


def is_ended(source: EventSource) -> bool:
    """Whether it has been told of the end."""
    return any(frame.event in TERMINAL for frame in source.dispatched)


def reached(frames: Sequence[Frame]) -> int:
    """The newest number that was told."""
    return int(frames[-1].last_event_id.rpartition(".")[2]) if frames else 0


def has_told(sequence: int, source: EventSource) -> bool:
    """Whether it knows of this number."""
    return reached(source.dispatched) >= sequence


def gaps() -> float:
    """The gap alarm: numbers a hub found missing in a log. It must never rise."""
    return float(metrics.STREAM_GAPS._value.get())


@contextlib.asynccontextmanager
async def open_stage(
    settings: Settings, writer_url: str | None = None, channel: str | None = None
) -> AsyncIterator[Stage]:
    """writer_url, channel: where the writer writes and rings, when not where the API reads and listens."""
    url = writer_url or settings.database_url.get_secret_value()
    async with (
        Database(url, connections_max=20) as database,
        serve(settings) as api,
        contextlib.AsyncExitStack() as readers,
    ):
        yield Stage(api, Writer(database, channel or settings.notify_channel), readers)
