"""Readers of a tenant's feed that are cut and come back while transactions commit in any order (research's test 8)."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import asyncpg
import pytest

from service.feed import Feed
from service.feed_cursors import FeedCursors
from service.feed_filter import FeedFilter
from service.feed_log import FeedLog
from service.feed_source import FeedSource
from service.horizon import ALARM_SECONDS, HorizonWatch
from tests.make import TENANT, accept
from tests.store.test_feed_order import RAISE, Connect, begin, check, connect, written
from todoke.model.feed import Horizon, Place
from todoke.store.database import Database
from todoke.store.feed import FeedReader
from todoke.store.ledger import Ledger
from todoke.wire import sse

__all__ = ["connect"]

CURSORS = FeedCursors(["k" * 32])


@dataclass
class House:
    """A feed without HTTP."""

    feed: Feed
    log: FeedLog

    def source(self, cursor: str | None = "earliest", **wanted: frozenset[str]) -> FeedSource:
        return self.log.source(TENANT, cursor, FeedFilter(**wanted))


@pytest.fixture
async def house(database: Database) -> AsyncIterator[House]:
    reader = FeedReader(database)
    feed = Feed(reader, CURSORS, lambda: True, 0.05, memory_mb=1)
    task = asyncio.create_task(feed.run())
    yield House(feed, FeedLog(feed, reader, CURSORS, asyncio.Semaphore(4), 30))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@dataclass
class Client:
    """Reads as a browser does: what it dispatched, and the cursor it comes back with."""

    house: House
    cursor: str = "earliest"
    frames: list[sse.Frame] = field(default_factory=list)

    @property
    def positions(self) -> list[Place]:
        return [place(frame.last_event_id) for frame in self.frames]

    async def connection(self, pulls: int, quiet_seconds: float) -> None:
        """One connection of at most so many pulls, cut in the middle of a frame; it ends when nothing comes."""
        source, woken, decoder = self.house.source(self.cursor), asyncio.Event(), sse.Decoder()
        source.attach(woken.set)
        try:
            for _ in range(pulls):
                woken.clear()
                chunk = await source.pull()
                assert chunk is not None
                if not chunk:
                    self.take(decoder, source.checkpoint())
                    async with asyncio.timeout(quiet_seconds):
                        await woken.wait()
                self.take(decoder, chunk)
            self.take(decoder, b"event: cut\nid: cut\ndata")
        except TimeoutError:
            pass
        finally:
            source.detach()

    def take(self, decoder: sse.Decoder, chunk: bytes) -> None:
        for frame in decoder.feed(chunk):
            self.frames.append(frame)
        if decoder.last_event_id not in ("", "cut"):
            self.cursor = decoder.last_event_id


def place(text: str) -> Place:
    cursor = CURSORS.parse(text, TENANT)
    assert cursor is not None
    return cursor.place


async def test_readers_that_are_cut_anywhere_see_every_event_once(
    house: House, ledger: Ledger, connect: Connect, seed: int
) -> None:
    rng = random.Random(seed)
    jobs = [await accept(ledger) for _ in range(6)]
    clients, is_over = [Client(house) for _ in range(6)], False

    async def write(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        for _ in range(6):
            await begin(connection)
            await asyncio.sleep(rng.random() * 0.02)
            for job_id in sorted(rng.sample(jobs, rng.randint(1, 2))):
                await connection.execute(RAISE, job_id)
                await asyncio.sleep(rng.random() * 0.01)
            await connection.execute("ROLLBACK" if rng.random() < 0.2 else "COMMIT")
            if rng.random() < 0.5:  # the other hints are lost
                house.feed.heard(None)

    async def read(client: Client) -> None:
        while not is_over:
            await client.connection(rng.randint(1, 12), 5)
        # The last connection ends when there was nothing for several sweeps.
        await client.connection(10_000, 1)

    readers = [asyncio.create_task(read(client)) for client in clients]
    await asyncio.gather(*[write(await connect()) for _ in range(50)])
    is_over = True
    await asyncio.gather(*readers)
    events = await written(await connect())
    assert len(events) > 200
    for client in clients:
        check([(events[position][0], position) for _, position in client.positions], events)


async def test_an_event_at_every_step_of_coming_is_neither_lost_nor_repeated(house: House, ledger: Ledger) -> None:
    """Attach, first page, ring: one event before each, and after the last."""
    for steps in range(6):
        client, job_id = Client(house), await accept(ledger)
        source, woken, decoder = house.source(client.cursor), asyncio.Event(), sse.Decoder()
        for step in range(steps + 1):
            if step == 1:
                source.attach(woken.set)
            if step == 3:
                async with asyncio.timeout(10):
                    while source._ring is None or source._ring.epoch is None:
                        await asyncio.sleep(0.005)
            if step > 1:
                client.take(decoder, await source.pull() or b"")
            await accept(ledger)
        if steps == 0:
            source.attach(woken.set)
        total = len((await house.log.part(TENANT, None, 1_000, FeedFilter())).bodies)
        async with asyncio.timeout(10):
            while len(client.frames) < total:
                woken.clear()
                chunk = await source.pull()
                client.take(decoder, chunk or b"")
                if not chunk:
                    house.feed.heard(None)
                    await asyncio.sleep(0.005)
        assert await source.pull() == b""
        source.detach()
        assert client.positions == sorted(set(client.positions))
        assert len(client.frames) == total
        assert job_id is not None


async def test_a_reader_slower_than_the_ring_goes_back_to_the_log(house: House, ledger: Ledger) -> None:
    quick, slow = Client(house), Client(house)
    await accept(ledger)
    source, woken, decoder = house.source(), asyncio.Event(), sse.Decoder()
    source.attach(woken.set)
    slow.take(decoder, await source.pull() or b"")
    ring = source._ring
    assert ring is not None
    async with asyncio.timeout(10):
        while ring.epoch is None:
            await asyncio.sleep(0.005)
    for _ in range(140):
        await accept(ledger, metadata='"' + "x" * 10_000 + '"')
        house.feed.heard(None)
    async with asyncio.timeout(20):
        while ring.end < place(slow.cursor) or not ring._items or ring.covers(place(slow.cursor)):
            await asyncio.sleep(0.01)
    assert ring.bytes <= 2**20
    await quick.connection(10_000, 1)
    while chunk := await source.pull():
        assert len(chunk) < 48 * 1024
        slow.take(decoder, chunk)
    source.detach()
    assert slow.positions == quick.positions
    assert len(slow.frames) == 141
    assert house.feed._rings == {}, "nobody is left"


async def test_who_knows_of_a_new_epoch_before_the_ring_waits_for_it(database: Database, ledger: Ledger) -> None:
    reader = FeedReader(database)
    feed = Feed(reader, CURSORS, lambda: True, 3_600)
    house = House(feed, FeedLog(feed, reader, CURSORS, asyncio.Semaphore(4), 30))
    task = asyncio.create_task(feed.run())
    old, new, called = house.source(None), house.source(None), asyncio.Event()
    old.attach(lambda: None)
    assert b"event: snapshot" in (await old.pull() or b"")
    ring = old._ring
    assert ring is not None
    async with asyncio.timeout(10):
        while ring.epoch is None:
            await asyncio.sleep(0.005)
    async with database.transaction() as connection:
        await connection.execute("UPDATE epoch SET value = 'ffffffff'")
    new.attach(called.set)
    assert b"event: snapshot" in (await new.pull() or b"")
    called.clear()
    assert await new.pull() == b"", "the ring is of the epoch before"
    async with asyncio.timeout(10):
        await called.wait()
        assert await new.pull() == b""
        while not (chunk := await old.pull()):
            await asyncio.sleep(0.005)
    assert b'"reason": "epoch"' in chunk
    await accept(ledger)
    feed.heard(None)
    for source in (old, new):
        async with asyncio.timeout(10):
            while not (chunk := await source.pull()):
                await asyncio.sleep(0.005)
        assert b"event: job.accepted" in chunk
        source.detach()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_tenants_share_looks_and_nothing_else(house: House, ledger: Ledger) -> None:
    tenants = ("one", "two", "three")
    sources = {tenant_id: house.log.source(tenant_id, None, FeedFilter()) for tenant_id in tenants}
    for source in sources.values():
        source.attach(lambda: None)
        assert b"event: snapshot" in (await source.pull() or b"")
    jobs = {tenant_id: str(await accept(ledger, tenant_id=tenant_id)) for tenant_id in tenants for _ in range(3)}
    for tenant_id, source in sources.items():
        seen = b""
        async with asyncio.timeout(10):
            while seen.count(b"event: job.accepted") < 3:
                seen += await source.pull() or b""
                await asyncio.sleep(0.005)
        assert [other for other, job_id in jobs.items() if job_id.encode() in seen] == [tenant_id]
        source.detach()


async def test_a_reader_the_ring_still_knows_comes_back_without_a_look_at_the_log(
    house: House, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, client = house.source(None), Client(house)
    first.attach(lambda: None)
    client.take(sse.Decoder(), await first.pull() or b"")
    ring = first._ring
    assert ring is not None
    async with asyncio.timeout(10):
        while ring.epoch is None:
            await asyncio.sleep(0.005)
    for _ in range(5):
        await accept(ledger)
    async with asyncio.timeout(10):
        while len(ring._items) < 5:
            house.feed.heard(None)
            await asyncio.sleep(0.005)
    asked = []
    monkeypatch.setattr(FeedReader, "page", lambda *arguments: asked.append(arguments))
    for index, start in enumerate(ring._places):
        cursor = CURSORS.spell(TENANT, ring.horizon or Horizon("", 0, 0, 0, 0), start, 0.0)
        again, decoder = house.source(cursor), sse.Decoder()
        again.attach(lambda: None)
        frames = list(decoder.feed(await again.pull() or b""))
        assert [place(frame.last_event_id) for frame in frames] == ring._places[index + 1 :]
        again.detach()
    assert asked == []
    first.detach()


async def test_a_filter_that_nothing_passes_still_gets_on(house: House, ledger: Ledger) -> None:
    for _ in range(450):
        await accept(ledger)
    client, source = Client(house), house.source(types=frozenset(["job.failed"]))
    source.attach(lambda: None)
    decoder, steps = sse.Decoder(), []
    while chunk := await source.pull():
        client.take(decoder, chunk)
        steps.append(place(client.cursor))
    assert client.frames == []
    assert len(steps) >= 3
    assert steps == sorted(set(steps)), "each page moves the cursor"
    source.detach()


def test_the_age_of_the_horizon_is_told_from_the_ids_seen() -> None:
    watch = HorizonWatch()
    watch.note(Horizon("e", 100, 100, 0, 0), 0.0)
    assert watch.age == 0
    watch.note(Horizon("e", 100, 101, 0, 0), 10.0)
    watch.note(Horizon("e", 100, 150, 0, 0), 15.0)
    assert watch.age == 5, "transaction 100 has been open for 5 seconds at least"
    watch.note(Horizon("e", 120, 160, 0, 0), 20.0)
    assert watch.age == 5, "transaction 120 was begun by 15"
    for second in range(5_000):
        watch.note(Horizon("e", 120, 161 + second, 0, 0), 21.0 + second)
    assert watch.age == 20 + 5_000 - 15
    assert watch.age > ALARM_SECONDS
    watch.note(Horizon("e", 6_000, 6_000, 0, 0), 6_000.0)
    assert watch.age == 0
