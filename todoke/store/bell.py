"""LISTEN/NOTIFY as a bell: it says "look at the log" and may be lost, doubled or late without harm."""

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from uuid import UUID

import asyncpg
import structlog

from todoke.model.errors import Unavailable
from todoke.model.event import Hint
from todoke.store.database import CONNECT_SECONDS, Connection, outages_named

log = structlog.get_logger()

PAYLOAD_BYTES_MAX = 7_900  # PostgreSQL refuses 8,000 and more
PAYLOADS_MAX = 10
EVERYTHING = "1|*"
ECHO_SECONDS = 5.0
ECHO_WAIT_SECONDS = 3.0


def payloads(hints: Sequence[Hint]) -> list[str]:
    """Spell hints as few NOTIFY payloads as fit; so many that ten would not do become "look at everything"."""
    texts: list[str] = []
    line = "1|"
    for hint in hints:
        entry = f"{hint.job_id}:{hint.sequence}.{hint.progress_version}"
        if len(line) + len(entry) + 1 > PAYLOAD_BYTES_MAX:
            texts.append(line)
            line = "1|"
        line += entry if line == "1|" else "," + entry
    texts.append(line)
    return texts if len(texts) <= PAYLOADS_MAX else [EVERYTHING]


def parse_payload(payload: str) -> list[Hint] | None:
    """The hints in a payload; None means "look at everything", which is also what a foreign payload means."""
    try:
        version, _, entries = payload.partition("|")
        if version != "1":
            return None
        return [_parse_entry(entry) for entry in entries.split(",")]
    except ValueError:
        return None


def cancel_channel(channel: str) -> str:
    """Where workers hear which running jobs are to be canceled."""
    return f"{channel}_cancel"


async def ring(connection: Connection, channel: str, hints: Sequence[Hint]) -> None:
    """Notify inside the caller's transaction: heard when it commits, never when it does not."""
    if hints:
        await connection.execute("SELECT pg_notify($1, p) FROM unnest($2::text[]) p", channel, payloads(hints))


class Bell:
    """One dedicated LISTEN connection that mends itself.

    `heard` is called with the hints of each NOTIFY, and with None after every (re)connect or on "look at
    everything": what was missed meanwhile must then be read from the log. It must not wait.
    """

    def __init__(self, url: str, channel: str, heard: Callable[[Iterable[Hint] | None], None]) -> None:
        self._url = url
        self._channel = channel
        self._heard = heard
        self.is_listening = False

    async def listen(self) -> None:
        """Listen until canceled, reconnecting with growing, jittered pauses."""
        pause = 0.1
        while True:
            try:
                async with self._connected() as connection:
                    pause = 0.1
                    await self._echo(connection)
            except (Unavailable, TimeoutError) as error:
                log.warning("bell.deaf", reason=str(error) or type(error).__name__, retry_seconds=round(pause, 2))
            finally:
                self.is_listening = False
            await asyncio.sleep(random.uniform(0.5, 1.0) * pause)  # noqa: S311 - jitter is no secret
            pause = min(5.0, pause * 2)

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        with outages_named():
            connection = await asyncpg.connect(self._url, timeout=CONNECT_SECONDS)
            try:
                _keep_alive(connection)
                await connection.execute("SET idle_session_timeout = 0")
                await connection.add_listener(self._channel, self._on_notify)
                self.is_listening = True
                # LISTEN first, then read: what commits between the two is heard or read, never missed.
                self._heard(None)
                yield connection
            finally:
                connection.terminate()

    async def _echo(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        """Hear our own voice every few seconds: a connection that died silently gives no other sign."""
        own_channel = f"{self._channel}_echo_{connection.get_server_pid()}"
        echoed = asyncio.Event()
        await connection.add_listener(own_channel, lambda *_: echoed.set())
        while True:
            echoed.clear()
            async with asyncio.timeout(ECHO_WAIT_SECONDS):
                await connection.execute("SELECT pg_notify($1, '')", own_channel)
                await echoed.wait()
            await asyncio.sleep(ECHO_SECONDS)
            if connection.is_closed():
                raise Unavailable("the LISTEN connection was closed")

    def _on_notify(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        self._heard(parse_payload(str(payload)))


def _parse_entry(entry: str) -> Hint:
    job_id, _, numbers = entry.partition(":")
    sequence, _, progress_version = numbers.partition(".")
    return Hint(UUID(job_id), int(sequence), int(progress_version))


def _keep_alive(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """asyncpg sets no keepalive, so the kernel would never notice a peer that went silent."""
    transport = connection._transport  # type: ignore[attr-defined]
    raw = transport.get_extra_info("socket")
    if raw is not None and raw.family in (socket.AF_INET, socket.AF_INET6):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 3)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
