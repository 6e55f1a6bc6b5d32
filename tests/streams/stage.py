"""A served API, a writer and readers for one test of the stream path; at the end, all are held against the log."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from uuid import UUID

from prometheus_client import REGISTRY

from tests.conftest import serve
from tests.streams import oracle
from tests.streams.event_source import EventSource
from tests.streams.writing import Writer, read_log
from todoke.model.event import TERMINAL
from todoke.runtime.settings import Settings
from todoke.store.database import Database


class Stage:
    """What happens on it is recorded by the writer (commits) and by each EventSource (what it dispatched)."""

    def __init__(self, api: str, writer: Writer, database_url: str) -> None:
        self.api = api
        self.writer = writer
        self.sources: list[tuple[UUID, EventSource]] = []
        self._database_url = database_url

    def watch(self, jobs: Iterable[UUID], cursor: str | None = "earliest", api: str | None = None) -> None:
        """One more reader for each of these jobs."""
        for job in jobs:
            self.sources.append((job, EventSource(f"{api or self.api}/jobs/{job}/events", cursor)))

    async def connected(self, seconds: float = 20) -> None:
        """Every reader has dispatched something."""
        await self._all(lambda source: bool(source.dispatched), seconds)

    async def ended(self, seconds: float = 40) -> None:
        """Every reader has dispatched a terminal event."""
        await self._all(has_ended, seconds)

    async def verdict(self, database_url: str | None = None) -> None:
        """Hold every reader against the log, and the log against what was acknowledged."""
        logs = await read_log(database_url or self._database_url, list({job for job, _ in self.sources}))
        for job, sequence in self.writer.committed:
            assert job not in logs or sequence in logs[job], f"acknowledged, but not in the log: {job} {sequence}"
        for number, (job, source) in enumerate(self.sources):
            oracle.check(source.dispatched, logs[job], f"reader {number} of {job}")
        assert gaps() == 0

    async def _all(self, condition: Callable[[EventSource], bool], seconds: float) -> None:
        async with asyncio.timeout(seconds):
            for _, source in self.sources:
                await source.until(condition)

    async def close(self) -> None:
        await asyncio.gather(*(source.close() for _, source in self.sources))


def has_ended(source: EventSource) -> bool:
    return any(frame.event in TERMINAL for frame in source.dispatched)


def gaps() -> float:
    """The gap alarm: numbers a hub found missing in a log. Must be 0, always."""
    return sum(
        sample.value
        for metric in REGISTRY.collect()
        if "gap" in metric.name and metric.name.startswith("todoke")
        for sample in metric.samples
        if not sample.name.endswith("_created")
    )


@contextlib.asynccontextmanager
async def open_stage(settings: Settings, writer_url: str | None = None, channel: str | None = None) -> AsyncIterator[Stage]:
    """channel: where the writer rings, when not where the API listens."""
    url = writer_url or settings.database_url.get_secret_value()
    async with Database(url, connections_max=20) as database, serve(settings) as api:
        stage = Stage(api, Writer(database, channel or settings.notify_channel), url)
        try:
            yield stage
        finally:
            await stage.close()
