"""The endpoints every adapter is held against."""

from collections.abc import Iterator

import pytest
from moto import mock_aws

from todoke.dev.aws import Emulator


@pytest.fixture(params=["moto", "ministack"])
def endpoint(request: pytest.FixtureRequest) -> Iterator[str | None]:
    if request.param == "moto":
        with mock_aws():
            yield None
    else:
        emulator: Emulator = request.getfixturevalue("emulator")
        yield emulator.url
