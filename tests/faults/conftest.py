"""Houses for the tests of faults."""

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.faults.house import House, MakeHouse, open_house
from tests.faults.proxy_postgres import PostgresProxy
from todoke.dev.aws import Emulator
from todoke.dev.postgres import Postgres


@pytest.fixture
def make_house(postgres: Postgres, emulator: Emulator, tmp_path: Path) -> MakeHouse:
    """Opens as many houses as a test asks for, each on parts of its own."""
    numbers = itertools.count()

    def make(**overrides: object) -> object:
        folder = tmp_path / f"house{next(numbers)}"
        folder.mkdir()
        return open_house(postgres, emulator, folder, **overrides)

    return make  # type: ignore[return-value]


@pytest.fixture
async def house(make_house: MakeHouse, request: pytest.FixtureRequest) -> AsyncIterator[House]:
    """A house with the settings its test module names as SETTINGS."""
    async with make_house(**getattr(request.module, "SETTINGS", {})) as house:
        yield house


@pytest.fixture
async def wire(house: House) -> AsyncIterator[PostgresProxy]:
    """A proxy before this house's database; processes use it when they are started with `wire.through`."""
    async with PostgresProxy(house.settings.database_url.get_secret_value()) as proxy:
        yield proxy
