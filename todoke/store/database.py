"""The way to PostgreSQL: a pool for the hot statements, an engine for everything else, one name for every outage."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Self, TypeAlias

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from todoke.model.errors import Unavailable

Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"

# What says "PostgreSQL is away", as opposed to "this statement is wrong". A broken answer mid-query counts.
OUTAGES = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.exceptions.OperatorInterventionError,
    asyncpg.exceptions.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,  # the old primary of a failover
    asyncpg.ObjectNotInPrerequisiteStateError,  # the new one, reached before it was promoted
    asyncpg.IdleInTransactionSessionTimeoutError,
)
CONNECT_SECONDS = 5.0
STATEMENT_SECONDS = 30.0
# A process that stopped inside a transaction keeps its locks, the sweep's among them, from everybody else.
IDLE_IN_TRANSACTION_SECONDS = 4
CLOSE_SECONDS = 2.0


class Pooled(asyncpg.Connection):
    """A connection that is given back as it is: we set nothing on it, so there is nothing to reset."""

    def get_reset_query(self) -> str:
        """None: it would be one more round trip before every answer."""
        return ""


class Database:
    """One process's connections to PostgreSQL.

    `transaction()` is for the named hot statements, `read()` for SQLAlchemy Core off the hot path.
    Raises Unavailable when PostgreSQL cannot be reached.
    """

    def __init__(self, url: str, connections_max: int = 8) -> None:
        self._url = url
        self._connections_max = connections_max

    async def __aenter__(self) -> Self:
        """Prepare the way; connects when first used, so that a process may start before PostgreSQL does."""
        self._pool = await asyncpg.create_pool(
            self._url,
            min_size=0,
            max_size=self._connections_max,
            timeout=CONNECT_SECONDS,
            command_timeout=STATEMENT_SECONDS,
            max_inactive_connection_lifetime=60,
            connection_class=Pooled,
            # The few hot statements have one good plan whatever their arguments; making it anew at every call took a
            # third of a small claim.
            server_settings={
                "application_name": "todoke",
                "plan_cache_mode": "force_generic_plan",
                # A generic plan looks dear for a long table, whatever its LIMIT; compiling it would take far longer.
                "jit": "off",
                "idle_in_transaction_session_timeout": f"{IDLE_IN_TRANSACTION_SECONDS}s",
            },
        )
        self._engine = create_async_engine(sqlalchemy_url(self._url), pool_size=2, pool_pre_ping=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Give every connection back; those still busy after a while are cut."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._pool.close()
                await self._engine.dispose()
        except TimeoutError:
            self._pool.terminate()

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """One READ COMMITTED transaction; commits at the end of the block, or rolls back when it raises."""
        with outages_named():
            async with self._pool.acquire(timeout=CONNECT_SECONDS) as connection, connection.transaction():
                yield connection

    async def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """Rows of a single named statement, outside any transaction."""
        with outages_named():
            async with self._pool.acquire(timeout=CONNECT_SECONDS) as connection:
                return await connection.fetch(query, *arguments)

    async def renew_connections(self) -> None:
        """Have every connection made anew before it is used again: some may lead to a server that is no longer it."""
        await self._pool.expire_connections()
        await self._engine.dispose()

    async def check_writable(self) -> None:
        """Raises Unavailable while PostgreSQL is away or takes no writes."""
        [row] = await self.fetch("SELECT current_setting('transaction_read_only') = 'on' AS is_read_only")
        if row["is_read_only"]:
            raise Unavailable("PostgreSQL takes no writes now")

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A SQLAlchemy connection for reading."""
        with outages_named():
            async with self._engine.connect() as connection:
                yield connection


@contextlib.contextmanager
def outages_named() -> Iterator[None]:
    """Turn a driver's many ways to say "PostgreSQL is away" into Unavailable."""
    try:
        yield
    except OUTAGES as error:
        if isinstance(error, ValueError):
            raise  # asyncpg's word for an argument that does not fit: trying again would not help
        raise Unavailable(f"PostgreSQL is unavailable ({type(error).__name__})") from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise Unavailable("PostgreSQL is unavailable") from error
        raise


def sqlalchemy_url(url: str) -> str:
    """The same database in SQLAlchemy's spelling."""
    return re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql+asyncpg://", url)


@cache
def queries(name: str) -> Mapping[str, str]:
    """The named statements of `queries/{name}.sql`: each follows a line `-- name: purpose`."""
    source = Path(__file__).with_name("queries").joinpath(f"{name}.sql").read_text(encoding="utf-8")
    parts = re.split(r"^-- (\w+): .+$", source, flags=re.MULTILINE)
    return MappingProxyType({key: body.strip() for key, body in zip(parts[1::2], parts[2::2], strict=True)})
