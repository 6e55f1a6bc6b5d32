"""The frozen polling contract, through the gateway and with a key: the very tests of tests/contract, unchanged."""

import httpx
import pytest

from tests.contract import test_legacy

pytestmark = pytest.mark.gateway

globals().update({name: value for name, value in vars(test_legacy).items() if name.startswith("test_")})


@pytest.fixture
def api(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """In the place of the fixture that leads straight to the API."""
    return client
