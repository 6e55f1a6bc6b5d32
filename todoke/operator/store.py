"""The way from a command to the database: opened for one command, and its faults told in words that help."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar
from urllib.parse import urlsplit

import asyncpg
from sqlalchemy.exc import DBAPIError

from todoke.model.errors import TodokeError, Unavailable
from todoke.runtime.settings import Settings, load_settings
from todoke.store.database import Database

CONNECTIONS_MAX = 2
WRONG_DATABASE = {
    "42P01": "it has no Todoke tables yet: run `todoke migrate`",
    "42703": "its tables are of another version of Todoke: run `todoke migrate`",
    "42883": "its tables are of another version of Todoke: run `todoke migrate`",
    "3D000": "there is no such database: create it, or correct DATABASE_URL",
    "28P01": "it refuses this user or password: correct DATABASE_URL",
    "28000": "it refuses this user or password: correct DATABASE_URL",
    "42501": "this user may not read its tables: use the user the API uses in DATABASE_URL",
}

Answer = TypeVar("Answer")


class WrongDatabase(TodokeError):
    """What DATABASE_URL leads to is not Todoke's database as this version knows it."""


@contextlib.asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Database]:
    """The database of DATABASE_URL, for one command."""
    async with Database(settings.database_url.get_secret_value(), CONNECTIONS_MAX) as database:
        yield database


def carry_out(work: Coroutine[Any, Any, Answer]) -> Answer:
    """Run one command's work to its end. Raises Unavailable or WrongDatabase with what to do."""
    try:
        return asyncio.run(work)
    except Unavailable as error:
        raise Unavailable(f"{error}: is the server of DATABASE_URL ({_place()}) running?") from error
    except (DBAPIError, asyncpg.PostgresError) as error:
        words = WRONG_DATABASE.get(_sqlstate(error))
        if words is None:
            raise
        raise WrongDatabase(f"DATABASE_URL leads to {_place()}, and {words}") from error


def _sqlstate(error: BaseException) -> str:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return str(getattr(cause, "sqlstate", ""))


def _place() -> str:
    """Host, port and database; never the password."""
    parts = urlsplit(load_settings().database_url.get_secret_value())
    return f"{parts.netloc.rpartition('@')[2]}{parts.path}"
