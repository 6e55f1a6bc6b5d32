"""The order of a tenant's feed, whatever order transactions begin, wait and commit in (research's test 8)."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeAlias
from uuid import UUID

import asyncpg
import pytest

from tests.make import TENANT, accept, start, succeed
from todoke.model.feed import BEGINNING, Page, Place
from todoke.model.job import Progress
from todoke.store.database import Database
from todoke.store.feed import PAGE_BYTES, FeedReader
from todoke.store.ledger import Ledger
from todoke.store.reading import Reader

RAISE = "UPDATE job SET sequence = sequence + 1, updated_at = clock_timestamp() WHERE id = $1"
IS_BLOCKED = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock'"

Seen = list[tuple[UUID, int]]
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Connect = Callable[[], Awaitable[Connection]]


@pytest.fixture
def feed(database: Database) -> FeedReader:
    return FeedReader(database)


@pytest.fixture
async def connect(database_url: str) -> AsyncIterator[Connect]:
    async with contextlib.AsyncExitStack() as stack:

        async def connected() -> Connection:
            connection = await asyncpg.connect(database_url)
            stack.push_async_callback(connection.close)
            return connection

        yield connected


class Following:
    """One reader of the feed, page by page."""

    def __init__(self, feed: FeedReader, rows_max: int = 200) -> None:
        self.seen: Seen = []
        self._feed, self._rows_max, self._place = feed, rows_max, BEGINNING

    async def look(self) -> Page:
        """Read to the horizon."""
        while True:
            page = await self._feed.page(TENANT, self._place, self._rows_max)
            self.seen += [(item.job_id, item.place.position) for item in page.events]
            assert page.end >= self._place
            self._place = page.end
            if not page.is_more:
                return page


async def written(connection: Connection) -> dict[int, tuple[UUID, int]]:
    """Every committed event by its position: job and sequence."""
    rows = await connection.fetch("SELECT position, job_id, sequence FROM event")
    return {row["position"]: (row["job_id"], row["sequence"]) for row in rows}


def check(seen: Seen, events: dict[int, tuple[UUID, int]]) -> None:
    """Every committed event once, and the events of each job in their order."""
    assert Counter(position for _, position in seen) == Counter(events.keys())
    sequences: dict[UUID, int] = {}
    for job_id, position in seen:
        assert events[position] == (job_id, sequences.get(job_id, 0) + 1)
        sequences[job_id] = events[position][1]


async def begin(connection: Connection) -> int:
    """An open transaction that has its id."""
    await connection.execute("BEGIN")
    return int(await connection.fetchval("SELECT pg_current_xact_id()::text::bigint"))


async def blocked(monitor: Connection, connection: Connection) -> None:
    """Wait until a connection waits for a lock."""
    async with asyncio.timeout(10):
        while not await monitor.fetchval(IS_BLOCKED, connection.get_server_pid()):
            await asyncio.sleep(0.005)


async def test_what_one_job_does_is_read_in_order_and_once(ledger: Ledger, feed: FeedReader, reader: Reader) -> None:
    job_id = await accept(ledger)
    await succeed(ledger, await start(ledger, job_id))
    page = await feed.page(TENANT, BEGINNING)
    assert [item.type for item in page.events] == ["job.accepted", "job.started", "job.succeeded"]
    assert {item.job_type for item in page.events} == {"generate-report"}
    log = await reader.events([(job_id, TENANT, 0)])
    assert [item.body for item in page.events] == [item.body for item in log]
    assert not page.is_more
    assert (await feed.page(TENANT, page.end)).events == ()
    assert (await feed.page("another", BEGINNING)).events == ()


async def test_a_transaction_held_open_delays_the_feed_and_loses_nothing(
    ledger: Ledger, feed: FeedReader, connect: Connect
) -> None:
    following, low = Following(feed), await connect()
    own = await accept(ledger)
    await following.look()
    await begin(low)
    others = [await accept(ledger) for _ in range(5)]
    for job_id in others:
        await succeed(ledger, await start(ledger, job_id))
    page = await following.look()
    assert following.seen == [(own, following.seen[0][1])], "nothing passes what is open"
    assert page.is_held_back
    assert page.horizon.xid < page.horizon.next_xid
    await low.execute(RAISE, own)
    await low.execute("COMMIT")
    page = await following.look()
    assert not page.is_held_back
    check(following.seen, await written(low))


@pytest.mark.parametrize("is_third_open", [True, False])
async def test_ids_given_in_the_other_order_than_locks_do_not_turn_a_job_around(
    ledger: Ledger, feed: FeedReader, connect: Connect, *, is_third_open: bool
) -> None:
    """The early transaction waits for a row that a later one holds. One whose id lies between may still be open when

    both have ended, so the horizon stands between them: the later event must not be shown before the earlier.
    """
    following, job_id = Following(feed), await accept(ledger)
    early, third, late, monitor = [await connect() for _ in range(4)]
    ids = [await begin(early), await begin(third), await begin(late)]
    assert ids == sorted(ids)
    await late.execute(RAISE, job_id)
    waiting = asyncio.create_task(early.execute(RAISE, job_id))
    await blocked(monitor, early)
    await late.execute("COMMIT")
    await waiting
    await following.look()
    await early.execute("COMMIT")
    if is_third_open:
        await following.look()
        assert len(following.seen) == 1
    await third.execute("ROLLBACK")
    await following.look()
    assert len(following.seen) == 3
    check(following.seen, await written(monitor))


async def test_many_writers_that_commit_in_any_order(
    ledger: Ledger, feed: FeedReader, connect: Connect, seed: int
) -> None:
    rng = random.Random(seed)
    jobs = [await accept(ledger) for _ in range(6)]
    followings = [Following(feed, rows_max) for rows_max in (1, 3, 200)]
    is_over = False

    async def write(connection: Connection) -> None:
        for _ in range(8):
            await begin(connection)
            await asyncio.sleep(rng.random() * 0.01)
            # One row after another in one order, or they would lock each other out.
            for job_id in sorted(rng.sample(jobs, rng.randint(1, 2))):
                await connection.execute(RAISE, job_id)
                await asyncio.sleep(rng.random() * 0.01)
            await connection.execute("ROLLBACK" if rng.random() < 0.2 else "COMMIT")

    async def follow(following: Following) -> None:
        while not is_over:
            await following.look()
            await asyncio.sleep(rng.random() * 0.01)
        await following.look()

    readers = [asyncio.create_task(follow(following)) for following in followings]
    await asyncio.gather(*[write(await connect()) for _ in range(50)])
    is_over = True
    await asyncio.gather(*readers)
    events = await written(await connect())
    assert len(events) > 300
    for following in followings:
        check(following.seen, events)
        assert following.seen == followings[0].seen, "it is one order, whoever reads and when"


async def test_a_page_ends_by_rows_and_by_bytes(ledger: Ledger, feed: FeedReader) -> None:
    for _ in range(12):
        await accept(ledger, metadata='"' + "x" * 10_000 + '"')
    page = await feed.page(TENANT, BEGINNING)
    assert page.is_more
    assert PAGE_BYTES <= sum(len(item.body) for item in page.events) < PAGE_BYTES + 11_000
    rest = await feed.page(TENANT, page.end)
    assert not rest.is_more
    assert len(page.events) + len(rest.events) == 12
    first = await feed.page(TENANT, BEGINNING, 5)
    assert (len(first.events), first.is_more, first.end) == (5, True, first.events[-1].place)


async def test_a_dump_read_into_another_server_goes_on_behind_all_it_brought(
    ledger: Ledger, feed: FeedReader, connect: Connect
) -> None:
    """There transaction ids begin anew: here the log's are raised instead."""
    following, hand = Following(feed), await connect()
    job_id = await accept(ledger)
    attempt = await start(ledger, job_id)
    await hand.execute("ALTER TABLE event DISABLE TRIGGER event_never_changes")
    await hand.execute("UPDATE event SET xid = xid + 1000000000")
    await following.look()
    assert following.seen == [], "they would come when this server has given that many ids"
    before = await hand.fetchval("SELECT current_epoch()")
    await hand.execute("UPDATE epoch SET system_identifier = 'another'")
    await hand.execute("SELECT renew_epoch()")
    assert await hand.fetchval("SELECT current_epoch()") != before
    await succeed(ledger, attempt)
    page = await following.look()
    assert (len(following.seen), page.is_held_back) == (3, False)
    check(following.seen, await written(hand))
    base = await hand.fetchval("SELECT xid_base FROM epoch")
    await hand.execute("SELECT renew_epoch()")
    assert await hand.fetchval("SELECT xid_base FROM epoch") == base, "nothing to renew on the same server"


async def test_the_picture_has_the_newest_jobs_the_filters_pass(ledger: Ledger, feed: FeedReader) -> None:
    first, second = await accept(ledger), await accept(ledger, type="other")
    await succeed(ledger, await start(ledger, first))
    picture = await feed.picture(TENANT, None, None)
    assert picture.jobs.index(str(second)) < picture.jobs.index(str(first))
    assert picture.horizon.place > Place(1, 0)
    assert str(second) not in (await feed.picture(TENANT, None, ["generate-report"])).jobs
    done = (await feed.picture(TENANT, ["job.succeeded"], None)).jobs
    assert str(first) in done
    assert str(second) not in done
    assert (await feed.picture("another", None, None)).jobs == ""


async def test_progress_is_that_of_running_jobs_of_the_tenants_asked(ledger: Ledger, feed: FeedReader) -> None:
    job_id = await accept(ledger)
    attempt = await start(ledger, job_id)
    assert await feed.progress([job_id], [TENANT]) == []
    await ledger.report([Progress(job_id, attempt.lease, 50, "half")], "worker-of-the-test")
    [news] = await feed.progress([job_id], [TENANT])
    assert (news.sequence, news.version) == (2, 1)
    assert await feed.progress([job_id], ["another"]) == []
    await succeed(ledger, attempt)
    assert await feed.progress([job_id], [TENANT]) == []
