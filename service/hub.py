"""Fan-out of one API process: one LISTEN connection, one reader of the log, any number of watchers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from uuid import UUID

import structlog

from service.topic import RING_FRAMES_MAX, RingBudget, Topic
from todoke.model.errors import Unavailable
from todoke.model.event import Hint, News
from todoke.runtime import metrics
from todoke.store.bell import Bell
from todoke.store.reading import Reader

log = structlog.get_logger()

TOPICS_PER_READ = 500
DEAF_SWEEP_SECONDS = 1.0
LOAD_SECONDS = 5.0
MEBIBYTE = 2**20


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
        ring_mb: int = 128,
        *,
        notify_url: str | None = None,
        listens: bool = True,
    ) -> None:
        self._reader = reader
        self._bell = Bell(url, channel, self.heard, notify_url=notify_url, must_hear=True)
        self.listens = listens
        self._sweep_seconds = sweep_seconds
        self._is_epoch_sure = False
        self._topics: dict[UUID, Topic] = {}
        self._rings = RingBudget(ring_mb * MEBIBYTE)
        self._dirty: set[UUID] = set()
        self._swept: set[UUID] = set()
        self._work = asyncio.Event()
        self._others: list[Callable[[Iterable[Hint] | None], None]] = []
        self.is_draining = False
        self.epoch: str | None = None
        self._last_epoch: str | None = None

    @property
    def is_ready(self) -> bool:
        """Whether NOTIFY is heard and the log has been read since."""
        return (self._bell.is_listening or not self.listens) and self.epoch is not None

    def drain(self) -> None:
        """Let every long poll answer now."""
        self.is_draining = True
        for topic in self._topics.values():
            topic.wake()

    async def run(self) -> None:
        """Listen, read and sweep until canceled. Raises InvalidInput in a group when NOTIFY cannot be heard."""
        async with asyncio.TaskGroup() as group:
            if self.listens:
                group.create_task(self._bell.listen())
            group.create_task(self._read_forever())
            group.create_task(self._sweep_forever())

    def join(self, job_id: UUID, tenant_id: str, wake: Callable[[], None]) -> Topic:
        """The job's topic, perhaps not loaded yet; `wake` is called at every change until `leave`."""
        topic = self._topics.get(job_id)
        if topic is None:
            topic = self._topics[job_id] = Topic(job_id, tenant_id)
        topic.join(wake)
        if not topic.is_loaded:
            self._mark([job_id])
        return topic

    def leave(self, topic: Topic, wake: Callable[[], None]) -> None:
        """Undo `join`; a topic nobody watches is dropped."""
        topic.leave(wake)
        if not topic.is_watched and self._topics.get(topic.job_id) is topic:
            del self._topics[topic.job_id]
            self._rings.release(topic)

    @contextlib.asynccontextmanager
    async def watch(self, job_id: UUID, tenant_id: str) -> AsyncIterator[Topic]:
        """The job's topic, loaded. Attach first, then read: nothing falls between. Raises Unavailable."""

        def wake() -> None:
            """Being there is enough: `Topic.changed` calls on its own."""

        topic = self.join(job_id, tenant_id, wake)
        try:
            await self._loaded(topic)
            yield topic
        finally:
            self.leave(topic, wake)

    async def _loaded(self, topic: Topic) -> None:
        try:
            async with asyncio.timeout(LOAD_SECONDS):
                while not topic.is_loaded:
                    await topic.changed(LOAD_SECONDS)
        except TimeoutError:
            raise Unavailable("the event log cannot be read now") from None

    def tell(self, heard: Callable[[Iterable[Hint] | None], None]) -> None:
        """Have `heard` called with all that this hub hears. It must not wait."""
        self._others.append(heard)

    def heard(self, hints: Iterable[Hint] | None) -> None:
        """A NOTIFY: these jobs have changed; None: any may have, over a new connection."""
        hints = None if hints is None else list(hints)
        for heard in self._others:
            heard(hints)
        if hints is None:
            self.epoch = None  # another connection may lead to another, promoted or restored server
            self._mark(self._topics)
        else:
            self._mark(hint.job_id for hint in hints if self._is_news(hint))

    def _is_news(self, hint: Hint) -> bool:
        topic = self._topics.get(hint.job_id)
        return topic is not None and (not topic.is_loaded or topic.is_behind(hint))

    def _mark(self, job_ids: Iterable[UUID]) -> None:
        self._dirty.update(job_ids)
        if self._dirty or self.epoch is None or not self._is_epoch_sure:
            self._work.set()

    async def _read_forever(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                if self.epoch is None:
                    await self._reader.renew_epoch()
                if self.epoch is None or not self._is_epoch_sure:
                    await self._read([])
                    self._is_epoch_sure = True
                while self._dirty or self._swept:
                    is_sweep = not self._dirty
                    await self._read(self._next_topics(), is_sweep=is_sweep)
                metrics.RING_BYTES.set(self._rings.used)
            except Exception as error:
                # Whatever a server says while it goes or comes: the log is read again, or every stream would end.
                log.warning("hub.blind", reason=str(error) or repr(error))
                if not self.listens:
                    self.epoch = None  # no bell says that PostgreSQL is away
                await asyncio.sleep(DEAF_SWEEP_SECONDS)
                self._dirty.update(self._topics)
                self._work.set()

    def _next_topics(self) -> list[Topic]:
        """What was heard of goes before what is only swept."""
        source = self._dirty or self._swept
        ids = [source.pop() for _ in range(min(len(source), TOPICS_PER_READ))]
        return [self._topics[job_id] for job_id in ids if job_id in self._topics]

    async def _read(self, topics: Sequence[Topic], *, is_sweep: bool = False) -> None:
        asked = [(topic.job_id, topic.tenant_id, topic.last, topic.progress_version) for topic in topics]
        epoch, found = await self._reader.news(asked, RING_FRAMES_MAX)
        if epoch != self._last_epoch:
            if self._last_epoch is not None:
                await self._reader.renew_connections()
            self._begin(epoch)
            if topics:
                return  # all of it was asked after numbers of another epoch
        self.epoch = epoch
        by_id = {item.head.job_id: item for item in found}
        for topic in topics:
            self._teach(topic, by_id.get(topic.job_id), is_sweep=is_sweep)

    def _begin(self, epoch: str) -> None:
        for topic in self._topics.values():
            topic.forget()
        self.epoch = self._last_epoch = epoch
        self._mark(self._topics)

    def _teach(self, topic: Topic, news: News | None, *, is_sweep: bool) -> None:
        assert self.epoch is not None
        if news is None:
            topic.lose()
            return
        if topic.is_loaded and not topic.is_behind(news.head):
            return
        if topic.is_loaded and news.age is not None:
            metrics.SWEEP_FINDS.inc(is_sweep)
            metrics.STREAM_LAG.observe(max(0.0, news.age))
        topic.learn(self.epoch, news.events, news.head)
        if topic.is_watched:
            self._rings.settle(topic)

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(self._sweep_seconds if self._bell.is_listening else DEAF_SWEEP_SECONDS)
            # Without a bell nobody tells that another server has taken over.
            self._is_epoch_sure = self.listens
            self._swept.update(self._topics)
            self._work.set()
