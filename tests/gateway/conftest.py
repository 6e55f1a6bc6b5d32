"""One database, one API that requires keys and one nginx before it for all tests of a module."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.conftest import make_settings, new_database, new_queue
from tests.gateway.behind import Behind, behind
from tests.gateway.front import Gateway, gateway
from tests.service.callers import guarded, make_key
from todoke.dev.aws import Emulator
from todoke.dev.postgres import Postgres
from todoke.model.access import Scope
from todoke.store.database import Database


@dataclass(frozen=True)
class Pair:
    """A gateway, the API behind it, and the key of a caller who may do everything."""

    front: Gateway
    api: Behind
    key: str

    @property
    def headers(self) -> dict[str, str]:
        """What that caller sends."""
        return {"Authorization": f"Bearer {self.key}"}


class Bearer(httpx.Auth):
    """Adds a key to whatever a client sends, requests made by hand included."""

    def __init__(self, key: str) -> None:
        self._key = key

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Called by the client."""
        request.headers["Authorization"] = f"Bearer {self._key}"
        yield request


@pytest.fixture(scope="session")
def nginx() -> str:
    """The program: Debian's, or another that TEST_NGINX names."""
    found = os.environ.get("TEST_NGINX") or shutil.which(
        "nginx", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin"
    )
    if found is None:
        pytest.skip("nginx is not installed: apt-get install nginx-light")
    return found


@pytest.fixture(scope="module")
def database_url(postgres: Postgres) -> Iterator[str]:
    with new_database(postgres) as url:
        yield url


@pytest.fixture(scope="module")
def queue_url(emulator: Emulator) -> Iterator[str]:
    with new_queue(emulator) as url:
        yield url


@pytest.fixture(scope="module")
def api_behind(database_url: str, queue_url: str, emulator: Emulator) -> Iterator[Behind]:
    settings = guarded(make_settings(database_url, queue_url, emulator), gateway_asks=True)
    with behind(settings) as api:
        yield api


@pytest.fixture(scope="module")
def pair(nginx: str, api_behind: Behind, database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    key = asyncio.run(_key(database_url))
    folder: Path = tmp_path_factory.mktemp("gateway")
    with gateway(nginx, folder, urlsplit(api_behind.url).netloc) as front:
        yield Pair(front, api_behind, key)


@pytest.fixture
async def client(pair: Pair) -> AsyncIterator[httpx.AsyncClient]:
    """Through the gateway, with a key."""
    async with httpx.AsyncClient(base_url=pair.front.url, timeout=20, auth=Bearer(pair.key)) as client:
        yield client


@pytest.fixture
async def stranger(pair: Pair) -> AsyncIterator[httpx.AsyncClient]:
    """Through the gateway, without one."""
    async with httpx.AsyncClient(base_url=pair.front.url, timeout=20) as client:
        yield client


async def _key(database_url: str) -> str:
    async with Database(database_url) as database:
        _, headers = await make_key(database, Scope.ADMIN)
    return headers["Authorization"].removeprefix("Bearer ")
