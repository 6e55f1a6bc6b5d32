"""LISTEN/NOTIFY as a bell: it says "look at the log" and may be lost, doubled or late without harm."""

import asyncio
import contextlib
import random
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TypeAlias

import asyncpg
import structlog

from todoke.model.errors import InvalidInput, Unavailable
from todoke.model.event import Hint
from todoke.runtime import metrics
from todoke.store.announcing import notify
from todoke.store.database import CONNECT_SECONDS, outages_named
from todoke.wire.notice import parse_payload

log = structlog.get_logger()

Listener: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Heard: TypeAlias = Callable[[Iterable[Hint] | None], None]

ECHO_SECONDS = 5.0
ECHO_WAIT_SECONDS = 3.0
ECHO_TRIES = 2
PAUSE_SECONDS_MAX = 5.0
DEAF = (
    "NOTIFY is not heard: TODOKE_LISTEN_DATABASE_URL must lead straight to the PostgreSQL of DATABASE_URL, "
    "not through a transaction pooler"
)
ECHO = "SELECT pg_notify($1, ''), pg_notification_queue_usage() AS usage, extract(epoch FROM clock_timestamp()) AS at"


class Bell:
    """One dedicated LISTEN connection that mends itself.

    Each of `heard` is called with the hints of each NOTIFY, and with None after every (re)connect or on "look at
    everything": what was missed meanwhile must then be read from the log. It must not wait.

    notify_url: where others send their NOTIFY, when that is another way to the same database. At each connect one
    is sent from there; must_hear: if the first is not heard although PostgreSQL answers, `listen` ends with
    InvalidInput instead of trying again.
    """

    def __init__(
        self, url: str, channel: str, *heard: Heard, notify_url: str | None = None, must_hear: bool = False
    ) -> None:
        self._url = url
        self._notify_url = notify_url or url
        self._channel = channel
        self._listeners = heard
        self._must_hear = must_hear
        self._is_proven = False
        self.is_listening = False
        # How far the database's clock is ahead of this machine's, in seconds.
        self.clock_offset = 0.0

    async def listen(self) -> None:
        """Listen until canceled, reconnecting with growing, jittered pauses. Raises InvalidInput, see above."""
        pause = 0.1
        while True:
            try:
                async with self._connected() as connection:
                    pause = 0.1
                    await self._echo_forever(connection)
            except InvalidInput as error:
                if self._must_hear and not self._is_proven:
                    raise
                log.error("bell.deaf", reason=str(error), retry_seconds=round(pause, 2))  # noqa: TRY400 - no bug
            except (Unavailable, TimeoutError, asyncpg.PostgresError) as error:
                log.warning("bell.deaf", reason=str(error) or type(error).__name__, retry_seconds=round(pause, 2))
            finally:
                self._listening(False)
            await asyncio.sleep(random.uniform(0.5, 1.0) * pause)  # noqa: S311 - jitter is no secret
            pause = min(PAUSE_SECONDS_MAX, pause * 2)

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Listener]:
        with outages_named():
            connection = await asyncpg.connect(self._url, timeout=CONNECT_SECONDS)
            try:
                _keep_alive(connection)
                async with asyncio.timeout(CONNECT_SECONDS):
                    await connection.execute("SET idle_session_timeout = 0")
                    await connection.add_listener(self._channel, self._on_notify)
                await self._prove(connection)
                if self._is_proven:
                    metrics.LISTENER_RECONNECTS.inc()
                self._is_proven = True
                self._listening(True)
                # LISTEN first, then read: what commits between the two is heard or read, never missed.
                self._tell(None)
                yield connection
            finally:
                connection.terminate()

    async def _prove(self, connection: Listener) -> None:
        """Hear a NOTIFY from another connection: our own would come back even through a pooler that loses others'."""
        channel, echoed = await self._own_channel(connection)
        for _ in range(ECHO_TRIES):
            other = await asyncpg.connect(self._notify_url, timeout=CONNECT_SECONDS, statement_cache_size=0)
            try:
                async with asyncio.timeout(CONNECT_SECONDS), other.transaction():
                    await notify(other, [(channel, "")])
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(ECHO_WAIT_SECONDS):
                        await echoed.wait()
                        return
                # A connection that died meanwhile is an outage and proves nothing.
                async with asyncio.timeout(ECHO_WAIT_SECONDS):
                    await connection.execute("SELECT 1")
            finally:
                other.terminate()
        raise InvalidInput(DEAF)

    async def _echo_forever(self, connection: Listener) -> None:
        """Hear our own voice every few seconds: a connection that died silently gives no other sign."""
        channel, echoed = await self._own_channel(connection)
        missed = 0
        while True:
            echoed.clear()
            try:
                async with asyncio.timeout(ECHO_WAIT_SECONDS):
                    await self._echo(connection, channel, echoed)
            except TimeoutError:
                missed += 1
                if missed == ECHO_TRIES:
                    raise
                continue
            missed = 0
            await asyncio.sleep(ECHO_SECONDS)
            if connection.is_closed():
                raise Unavailable("the LISTEN connection was closed")

    async def _echo(self, connection: Listener, channel: str, echoed: asyncio.Event) -> None:
        before, began = time.time(), time.monotonic()
        row = await connection.fetchrow(ECHO, channel)
        assert row is not None
        self.clock_offset = float(row["at"]) - (before + time.time()) / 2
        metrics.NOTIFY_QUEUE_USAGE.set(row["usage"])
        await echoed.wait()
        metrics.ECHO_TIME.observe(time.monotonic() - began)

    async def _own_channel(self, connection: Listener) -> tuple[str, asyncio.Event]:
        # Behind a pooler a process id is nobody's own.
        channel, echoed = f"{self._channel}_echo_{secrets.token_hex(6)}", asyncio.Event()
        async with asyncio.timeout(CONNECT_SECONDS):
            await connection.add_listener(channel, lambda *_: echoed.set())
        return channel, echoed

    def _on_notify(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        hints = parse_payload(str(payload))
        metrics.HINTS_RECEIVED.inc(1 if hints is None else len(hints))
        self._tell(hints)

    def _tell(self, hints: list[Hint] | None) -> None:
        for heard in self._listeners:
            heard(hints)

    def _listening(self, is_listening: bool) -> None:
        self.is_listening = is_listening
        metrics.LISTENER_UP.set(is_listening)


def _keep_alive(connection: Listener) -> None:
    """asyncpg sets no keepalive, so the kernel would never notice a peer that went silent."""
    transport = connection._transport  # type: ignore[attr-defined]
    raw = transport.get_extra_info("socket")
    if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 3)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
