"""Fan-out of one API process: one LISTEN connection, one reader of the log, any number of watchers."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from uuid import UUID

import structlog

from service.topic import Topic
from todoke.model.errors import Unavailable
from todoke.model.event import Event, Hint
from todoke.store.bell import Bell
from todoke.store.reading import Reader

log = structlog.get_logger()

TOPICS_PER_READ = 1_000
DEAF_SWEEP_SECONDS = 1.0
LOAD_SECONDS = 5.0


class Hub:
    """Knows no HTTP. NOTIFY only marks topics dirty; what they show is always read from the log.

    A NOTIFY that is lost costs at most one sweep, one second while the LISTEN connection is down or, with `listens`
    False, there is none. `notify_url`: where the others' NOTIFY comes from, for the bell's proof that it is heard.
    """

    def __init__(
        self,
        reader: Reader,
        url: str,
        channel: str,
        sweep_seconds: float,
        *,
        notify_url: str | None = None,
        listens: bool = True,
    ) -> None:
        self._reader = reader
        self._bell = Bell(url, channel, self._on_hints, notify_url=notify_url, must_hear=True)
        self._listens = listens
        self._sweep_seconds = sweep_seconds
        self._is_epoch_sure = False
        self._topics: dict[UUID, Topic] = {}
        self._dirty: set[UUID] = set()
        self._work = asyncio.Event()
        self.is_draining = False
        self.epoch: str | None = None
        self._last_epoch: str | None = None

    @property
    def is_ready(self) -> bool:
        """Whether NOTIFY is heard and the log has been read since."""
        return (self._bell.is_listening or not self._listens) and self.epoch is not None

    def drain(self) -> None:
        """Have every watcher end its stream. Safe to call from a signal handler."""
        self.is_draining = True
        for topic in self._topics.values():
            topic.wake()

    async def run(self) -> None:
        """Listen, read and sweep until canceled. Raises InvalidInput in a group when NOTIFY cannot be heard."""
        async with asyncio.TaskGroup() as group:
            if self._listens:
                group.create_task(self._bell.listen())
            group.create_task(self._read_forever())
            group.create_task(self._sweep_forever())

    @contextlib.asynccontextmanager
    async def watch(self, job_id: UUID, tenant_id: str) -> AsyncIterator[Topic]:
        """The job's topic, loaded. Attach first, then read: nothing falls between. Raises Unavailable."""
        topic = self._topics.setdefault(job_id, Topic(job_id, tenant_id))
        topic.watchers += 1
        try:
            if not topic.is_loaded:
                self._mark([job_id])
                await self._loaded(topic)
            yield topic
        finally:
            topic.watchers -= 1
            if topic.watchers == 0:
                self._topics.pop(job_id, None)

    async def _loaded(self, topic: Topic) -> None:
        try:
            async with asyncio.timeout(LOAD_SECONDS):
                while not topic.is_loaded:
                    await topic.changed(LOAD_SECONDS)
        except TimeoutError:
            raise Unavailable("the event log cannot be read now") from None

    def _on_hints(self, hints: Iterable[Hint] | None) -> None:
        if hints is None:
            self.epoch = None  # another connection may lead to another, promoted or restored server
            self._mark(self._topics)
        else:
            self._mark(hint.job_id for hint in hints if hint.job_id in self._topics)

    def _mark(self, job_ids: Iterable[UUID]) -> None:
        self._dirty.update(job_ids)
        if self._dirty or self.epoch is None or not self._is_epoch_sure:
            self._work.set()

    async def _read_forever(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            batch = [self._topics[job_id] for job_id in self._dirty if job_id in self._topics]
            self._dirty.clear()
            try:
                await self._read_epoch()
                for start in range(0, len(batch), TOPICS_PER_READ):
                    await self._read(batch[start : start + TOPICS_PER_READ])
            except Exception as error:
                # Whatever a server says while it goes or comes: the log is read again, or every stream would end.
                log.warning("hub.blind", reason=str(error) or repr(error))
                self._dirty.update(topic.job_id for topic in batch)
                if not self._listens:
                    self.epoch = None  # no bell says that PostgreSQL is away
                await asyncio.sleep(DEAF_SWEEP_SECONDS)
                self._work.set()

    async def _read_epoch(self) -> None:
        if self.epoch is not None and self._is_epoch_sure:
            return
        epoch = await self._reader.epoch()
        if epoch != self._last_epoch:
            for topic in self._topics.values():
                topic.forget()
        self.epoch = self._last_epoch = epoch
        self._is_epoch_sure = True

    async def _read(self, topics: Sequence[Topic]) -> None:
        assert self.epoch is not None
        heads = await self._reader.heads([(topic.job_id, topic.tenant_id) for topic in topics])
        by_id = {head.job_id: head for head in heads}
        # Heads first: an event that commits between the two reads makes its head's progress old, never the
        # other way round.
        behind = [topic for topic in topics if topic.job_id in by_id and by_id[topic.job_id].sequence > topic.last]
        news: dict[UUID, list[Event]] = defaultdict(list)
        for item in await self._reader.events([(topic.job_id, topic.tenant_id, topic.last) for topic in behind]):
            news[item.job_id].append(item)
        for topic in topics:
            topic.learn(self.epoch, news[topic.job_id], by_id.get(topic.job_id))

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(self._sweep_seconds if self._bell.is_listening else DEAF_SWEEP_SECONDS)
            # Without a bell nobody tells that another server has taken over.
            self._is_epoch_sure = self._is_epoch_sure and self._listens
            self._mark(self._topics)
