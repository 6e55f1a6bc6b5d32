"""Bring the schema of a database up to date. Only forward; running it again changes nothing."""

import asyncio
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from todoke.store.database import sqlalchemy_url

# Any constant will do, as long as every migrator asks for the same.
MIGRATION_LOCK = 7_064_653


def migrate(database_url: str) -> None:
    """Apply every migration that is missing, one migrator at a time. Not for use inside a running event loop."""
    asyncio.run(_migrate(database_url))


async def _migrate(database_url: str) -> None:
    engine = create_async_engine(sqlalchemy_url(database_url), poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": MIGRATION_LOCK})
        await connection.commit()
        await connection.run_sync(_upgrade)
        await connection.commit()
    await engine.dispose()


def _upgrade(connection: Connection) -> None:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    command.upgrade(config, "head")
