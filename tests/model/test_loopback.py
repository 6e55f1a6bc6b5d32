"""Which names and addresses are this machine's own, to itself."""

import pytest

from todoke.model.loopback import is_loopback, is_loopback_address


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com", "localhost.example.com", ""])
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize("address", ["127.0.0.0", "127.255.255.255", "::1", "0:0::1"])
def test_an_address_of_loopback(address: str) -> None:
    assert is_loopback_address(address)


@pytest.mark.parametrize(
    "address", ["126.255.255.255", "128.0.0.0", "::", "::2", "::1%lo", "::ffff:127.0.0.1", "127.1", "localhost", ""]
)
def test_no_address_of_loopback(address: str) -> None:
    assert not is_loopback_address(address)
