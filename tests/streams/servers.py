"""PostgreSQL servers of a test's own: to be stopped, killed, copied and promoted."""

import asyncio
import contextlib
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import asyncpg

from todoke.dev.child import through_launch
from todoke.dev.postgres import Postgres
from todoke.store.migrate import migrate


@contextlib.contextmanager
def primary(folder: Path) -> Iterator[Postgres]:
    """A migrated server. It may not forget what it acknowledged when it is killed; the machine stays up."""
    with Postgres(folder / "primary", secrets.token_hex(), durable=False) as server:
        migrate(server.url)
        yield server


async def begin(server: Postgres, seconds: float = 30) -> None:
    """Start it again without holding up the loop: API and readers go on meanwhile."""
    server.prepare()
    server.child.spawn()
    await takes_connections(server, seconds)


async def takes_connections(server: Postgres, seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while True:
            assert not server.child.exited(), server.child.tail()
            try:
                await run(server.url, "SELECT 1")
            except (OSError, asyncpg.PostgresError):
                await asyncio.sleep(0.02)
            else:
                return


async def run(url: str, statement: str) -> object:
    """The first value a statement answers with."""
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


@contextlib.contextmanager
def standby_of(server: Postgres, folder: Path) -> Iterator[Postgres]:
    """A streaming, asynchronous replica, made as an operator makes one; not yet started."""
    copy = Postgres(folder / "standby", server.password, durable=False)
    command = [
        str(server.binaries / "pg_basebackup"),
        "-D",
        str(copy.folder),
        "-d",
        server.url,
        "-R",
        "-c",
        "fast",
        "--no-sync",
    ]
    subprocess.run(through_launch(command, server.child.rights, 15), check=True, capture_output=True, timeout=60)
    try:
        yield copy
    finally:
        copy.stop()


async def cut_off(standby: Postgres) -> None:
    """Let the replica hear nothing more of its primary."""
    await run(standby.url, "ALTER SYSTEM SET primary_conninfo = ''")
    await run(standby.url, "SELECT pg_reload_conf()")
    async with asyncio.timeout(20):
        while await run(standby.url, "SELECT count(*) FROM pg_stat_wal_receiver"):
            await asyncio.sleep(0.02)


async def caught_up(server: Postgres, standby: Postgres) -> None:
    """Wait until the replica shows what the primary has committed."""
    place = await run(server.url, "SELECT pg_current_wal_lsn()::text")
    async with asyncio.timeout(20):
        while not await run(standby.url, f"SELECT pg_last_wal_replay_lsn() >= '{place}'::pg_lsn"):
            await asyncio.sleep(0.02)
