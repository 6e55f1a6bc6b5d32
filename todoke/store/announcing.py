"""How a change is announced: with its commit, right after it, or not at all. A hint that is lost, a sweep replaces."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Sequence
from typing import Protocol, Self, TypeAlias
from uuid import UUID

import asyncpg
import structlog

from todoke.model.event import Hint
from todoke.runtime import metrics
from todoke.store.database import CONNECT_SECONDS, Connection
from todoke.wire.notice import EVERYTHING, payloads

log = structlog.get_logger()

# A channel and what is said on it.
Announcement: TypeAlias = tuple[str, Hint]
AnyConnection: TypeAlias = "Connection | asyncpg.Connection[asyncpg.Record]"

GAP_SECONDS = 0.02
# About what ten payloads hold; more becomes "look at everything" anyway.
PENDING_MAX = 2_000
SEND_SECONDS = 5.0
DRAIN_SECONDS = 1.0
# While PostgreSQL's queue is full, one commit in this time tries whether it still is.
MUTED_SECONDS = 1.0
PAUSE_SECONDS_MAX = 5.0


class Announcer(Protocol):
    """What a transaction tells of its hints; also a context manager, open while anything is changed."""

    async def before_commit(self, connection: Connection, said: Sequence[Announcement]) -> None:
        """The transaction is about to commit."""

    def committed(self, said: Sequence[Announcement]) -> None:
        """It has committed. Must not wait."""

    def refused(self) -> None:
        """PostgreSQL would not commit because its NOTIFY queue is full. The commit is tried again."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...


class Off:
    """Nothing is announced: sweeps find every change."""

    async def before_commit(self, connection: Connection, said: Sequence[Announcement]) -> None:
        """Say nothing."""

    def committed(self, said: Sequence[Announcement]) -> None:
        """Say nothing."""

    def refused(self) -> None:
        """Cannot be."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass


class InTransaction(Off):
    """One NOTIFY as part of each commit: heard when it commits, never when it does not.

    A full NOTIFY queue must not keep jobs from being changed: commits then go on without.
    """

    def __init__(self) -> None:
        self._muted_until = 0.0

    async def before_commit(self, connection: Connection, said: Sequence[Announcement]) -> None:
        """Notify inside the transaction, unless the queue was full a moment ago."""
        if said and time.monotonic() >= self._muted_until:
            await notify(connection, spelled(said))

    def refused(self) -> None:
        """Be silent for a while."""
        metrics.NOTIFY_REFUSED.inc()
        log.error("notify.refused", reason="the NOTIFY queue of PostgreSQL is full: a listener hangs in a transaction")
        self._muted_until = time.monotonic() + MUTED_SECONDS


class PostCommit(Off):
    """Sends hints after their commits, over one connection of its own: the first at once, then one NOTIFY in 20 ms.

    Only the highest numbers of each job are kept, of at most 2,000 jobs. Commits are not serialized by NOTIFY's lock.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._pending: dict[str, dict[UUID, Hint]] = {}
        self._everything: set[str] = set()
        self._work = asyncio.Event()
        self._sent = asyncio.Event()
        self._sent.set()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Start sending; connects by itself, now or later."""
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Send what is left, for a second at most."""
        assert self._task is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._sent.wait()
        self._task.cancel()
        await asyncio.wait({self._task})

    def committed(self, said: Sequence[Announcement]) -> None:
        """Remember what is to be said."""
        for channel, hint in said:
            self._add(channel, hint)

    def _add(self, channel: str, hint: Hint) -> None:
        self._sent.clear()
        self._work.set()
        hints = self._pending.setdefault(channel, {})
        known = hints.get(hint.job_id)
        if channel in self._everything or known is not None:
            metrics.HINTS_COALESCED.inc()
        if channel in self._everything:
            return
        if known is not None:
            hint = Hint(
                hint.job_id,
                max(hint.sequence, known.sequence),
                max(hint.progress_version, known.progress_version),
            )
        hints[hint.job_id] = hint
        if len(hints) > PENDING_MAX:
            self._everything.add(channel)
            hints.clear()

    async def _run(self) -> None:
        pause = 0.1
        while True:
            try:
                async with _connected(self._url) as connection:
                    while True:
                        await self._work.wait()
                        await self._send(connection)
                        pause = 0.1
                        await asyncio.sleep(GAP_SECONDS)
            except Exception as error:
                # Whatever a server says while it goes or comes, and its queue being full: tried again.
                log.warning("announcer.silent", reason=str(error) or repr(error), retry_seconds=round(pause, 2))
            await asyncio.sleep(random.uniform(0.5, 1.0) * pause)  # noqa: S311 - jitter is no secret
            pause = min(PAUSE_SECONDS_MAX, pause * 2)

    async def _send(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        pending, everything = self._pending, self._everything
        self._pending, self._everything = {}, set()
        self._work.clear()
        try:
            async with asyncio.timeout(SEND_SECONDS), connection.transaction():
                said = [(channel, hint) for channel, hints in pending.items() for hint in hints.values()]
                await notify(connection, [*spelled(said), *((channel, EVERYTHING) for channel in everything)])
        except BaseException:
            # Perhaps it was sent: once more does no harm.
            self._everything |= everything
            self.committed([(channel, hint) for channel, hints in pending.items() for hint in hints.values()])
            self._work.set()
            raise
        if not self._work.is_set():
            self._sent.set()


def announcer_of(mode: str, url: str) -> Announcer:
    """The announcer of TODOKE_NOTIFY_MODE. `url`: where `post_commit` sends its NOTIFY; a pooler will do."""
    return {"in_transaction": InTransaction, "post_commit": lambda: PostCommit(url), "off": Off}[mode]()


def spelled(said: Sequence[Announcement]) -> list[tuple[str, str]]:
    """Channels with the payloads that say it."""
    channels: dict[str, list[Hint]] = {}
    for channel, hint in said:
        channels.setdefault(channel, []).append(hint)
    return [(channel, payload) for channel, hints in channels.items() for payload in payloads(hints)]


async def notify(connection: AnyConnection, notices: Sequence[tuple[str, str]]) -> None:
    """NOTIFY each (channel, payload) on this connection, in one statement."""
    if not notices:
        return
    channels, texts = [channel for channel, _ in notices], [payload for _, payload in notices]
    await connection.execute(
        "SELECT pg_notify(n.channel, n.payload) FROM unnest($1::text[], $2::text[]) AS n(channel, payload)",
        channels,
        texts,
    )
    metrics.HINTS_SENT.inc(sum(payload.count(":") + (payload == EVERYTHING) for payload in texts))


@contextlib.asynccontextmanager
async def _connected(url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    # No cache of statements, and a transaction around each, so that it works through a transaction pooler too.
    connection = await asyncpg.connect(url, timeout=CONNECT_SECONDS, statement_cache_size=0)
    try:
        yield connection
    finally:
        connection.terminate()
