"""What happens to the LISTEN connection and to hints in these tests."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
from pydantic import SecretStr

from todoke.runtime.settings import Settings

LISTENER = "the_listener"
RAW_CHANNEL = "raw"
VICTIMS = "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1"


def with_named_listener(settings: Settings) -> Settings:
    """The same settings; the LISTEN connection is told from the others by its name."""
    url = f"{settings.listen_url}?application_name={LISTENER}"
    return settings.model_copy(update={"listen_database_url": SecretStr(url)})


@contextlib.asynccontextmanager
async def listener_killed(
    database_url: str, rng: random.Random, pauses: tuple[float, float] = (0.5, 3.0)
) -> AsyncIterator[set[int]]:
    """Terminate the listener's backend again and again during the block, which gets the process ids."""
    killed: set[int] = set()
    is_over = asyncio.Event()

    async def kill() -> None:
        connection = await asyncpg.connect(database_url)
        try:
            while not is_over.is_set():
                killed.update(row["pid"] for row in await connection.fetch(VICTIMS, LISTENER))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(rng.uniform(*pauses)):
                        await is_over.wait()
        finally:
            await connection.close()

    async with asyncio.TaskGroup() as group:
        group.create_task(kill())
        try:
            yield killed
        finally:
            is_over.set()


@contextlib.asynccontextmanager
async def hints_astray(database_url: str, channel: str, rng: random.Random) -> AsyncIterator[dict[str, int]]:
    """Carry hints from RAW_CHANNEL to `channel` as a bad network would: half are lost, the rest comes late, more than
    once and in another order. The block gets the counts."""
    counts = {"heard": 0, "lost": 0, "sent": 0}
    held: list[str] = []
    arrived, is_over = asyncio.Event(), False

    def hear(_connection: Any, _pid: int, _channel: str, payload: object) -> None:
        counts["heard"] += 1
        if rng.random() < 0.5:
            counts["lost"] += 1
            return
        held.extend([str(payload)] * rng.randint(1, 3))
        arrived.set()

    async def carry() -> None:
        while not is_over:
            await arrived.wait()
            arrived.clear()
            await asyncio.sleep(rng.random() * 0.3)
            rng.shuffle(held)
            # What is left behind comes with, or after, what is written next.
            for payload in [held.pop() for _ in range(rng.randint(0, len(held)))]:
                await sender.execute("SELECT pg_notify($1, $2)", channel, payload)
                counts["sent"] += 1

    hearer, sender = await asyncpg.connect(database_url), await asyncpg.connect(database_url)
    try:
        await hearer.add_listener(RAW_CHANNEL, hear)
        async with asyncio.TaskGroup() as group:
            group.create_task(carry())
            try:
                yield counts
            finally:
                is_over = True
                arrived.set()
    finally:
        await hearer.close()
        await sender.close()
