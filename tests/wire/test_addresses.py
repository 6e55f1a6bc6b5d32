"""Which addresses callbacks may reach, range by range and spelling by spelling. Nothing here is ever dialled."""

import ipaddress
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.wire.disguises import DISGUISES, disguised
from todoke.wire.addresses import FORBIDDEN, PRIVATE, Address, Network, Tier, may_reach, parse_network, tier

# Written by hand from the registries, not from the table: first and last of every range, and whether the addresses
# just before and just after it are public ("+") or not ("-").
FORBIDDEN_RANGES = [
    ("0.0.0.0", "0.255.255.255", " +"),
    ("100.100.100.200", "100.100.100.200", "--"),
    ("127.0.0.0", "127.255.255.255", "++"),
    ("168.63.129.16", "168.63.129.16", "++"),
    ("169.254.0.0", "169.254.255.255", "++"),
    ("192.0.0.0", "192.0.0.255", "++"),
    ("192.0.2.0", "192.0.2.255", "++"),
    ("192.31.196.0", "192.31.196.255", "++"),
    ("192.52.193.0", "192.52.193.255", "++"),
    ("192.88.99.0", "192.88.99.255", "++"),
    ("192.175.48.0", "192.175.48.255", "++"),
    ("198.18.0.0", "198.19.255.255", "++"),
    ("198.51.100.0", "198.51.100.255", "++"),
    ("203.0.113.0", "203.0.113.255", "++"),
    ("224.0.0.0", "239.255.255.255", "+-"),
    ("240.0.0.0", "255.255.255.255", "- "),
    ("::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", " +"),
    ("2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", "++"),
    ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "++"),
    ("2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "++"),
    ("2620:4f:8000::", "2620:4f:8000:ffff:ffff:ffff:ffff:ffff", "++"),
    ("3ffe::", "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "+-"),
    ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", "-+"),
    ("4000::", "fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "+-"),
    ("fd00:42::42", "fd00:42::42", "--"),
    ("fd00:c1::a9fe:a9fe", "fd00:c1::a9fe:a9fe", "--"),
    ("fd00:100::100:200", "fd00:100::100:200", "--"),
    ("fd00:ec2::", "fd00:ec2:ffff:ffff:ffff:ffff:ffff:ffff", "--"),
    ("fd00:a9fe:a9fe::1", "fd00:a9fe:a9fe::1", "--"),
    ("fd20:ce::254", "fd20:ce::254", "--"),
    ("fe00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "- "),
]
PRIVATE_RANGES = [
    ("10.0.0.0", "10.255.255.255", "++"),
    ("100.64.0.0", "100.127.255.255", "++"),
    ("172.16.0.0", "172.31.255.255", "++"),
    ("192.168.0.0", "192.168.255.255", "++"),
    ("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "--"),
]

PARTS_OF_THEM = [
    "169.254.169.254",
    "169.254.170.2",
    "169.254.170.23",
    "192.0.0.9",
    "192.0.0.10",
    "192.0.0.192",
    "192.0.0.170",
    "255.255.255.255",
    "::1",
    "100::1",
    "100:0:0:1::1",
    "64:ff9b::808:808",
    "64:ff9b:1::808:808",
    "::ffff:93.184.216.34",
    "2001:1::1",
    "2001:2::1",
    "2001:3::1",
    "2001:4:112::1",
    "2001:10::1",
    "2001:20::1",
    "2001:30::1",
    "5f00::1",
    "fd00:ec2::23",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
]
PUBLIC = ["1.1.1.1", "93.184.216.34", "2606:2800:220:1::1", "2a00::1", "2606:2800:220:1:0:5efe:5db8:d822"]
NO_ADDRESSES = ["", "localhost", "127.1", "0177.0.0.1", "010.0.0.1", "2130706433", "0x7f000001", "1.2.3.4 ", "①.1.1.1"]


def every_network(*tables: tuple[tuple[Network, str], ...]) -> list[Network]:
    return [network for table in tables for network, _ in table]


def neighbours(first: str, last: str, marks: str) -> list[tuple[Address, str]]:
    beside = (int(ipaddress.ip_address(first)) - 1, int(ipaddress.ip_address(last)) + 1)
    kind = type(ipaddress.ip_address(first))
    return [(kind(number), mark) for number, mark in zip(beside, marks, strict=True) if mark != " "]


@pytest.mark.parametrize(("first", "last", "beside"), FORBIDDEN_RANGES)
def test_a_forbidden_range_ends_where_it_says(first: str, last: str, beside: str) -> None:
    everything = (parse_network("0.0.0.0/0"), parse_network("::/0"))
    for address in (first, last):
        assert tier(ipaddress.ip_address(address)) is Tier.FORBIDDEN
        assert not may_reach(address, everything)
    for address, mark in neighbours(first, last, beside):
        assert may_reach(address) == (mark == "+"), address


@pytest.mark.parametrize(("first", "last", "beside"), PRIVATE_RANGES)
def test_a_private_range_ends_where_it_says(first: str, last: str, beside: str) -> None:
    for address in (first, last):
        assert tier(ipaddress.ip_address(address)) is Tier.PRIVATE
        assert not may_reach(address)
        assert may_reach(address, (parse_network(address),))
    for address, mark in neighbours(first, last, beside):
        assert may_reach(address) == (mark == "+"), address


@pytest.mark.parametrize("address", PARTS_OF_THEM)
def test_what_lies_inside_a_forbidden_range(address: str) -> None:
    assert tier(ipaddress.ip_address(address)) is Tier.FORBIDDEN


@pytest.mark.parametrize("network", every_network(FORBIDDEN), ids=str)
def test_both_ends_of_each_row_are_forbidden(network: Network) -> None:
    assert tier(network[0]) is tier(network[-1]) is Tier.FORBIDDEN


@pytest.mark.parametrize("network", every_network(PRIVATE), ids=str)
def test_both_ends_of_each_private_row_are_private(network: Network) -> None:
    assert tier(network[0]) is tier(network[-1]) is Tier.PRIVATE


def test_every_row_is_in_a_list_above_and_says_why() -> None:
    listed = {(first, last) for first, last, _ in FORBIDDEN_RANGES + PRIVATE_RANGES}
    rows = every_network(FORBIDDEN, PRIVATE)
    assert {(str(network[0]), str(network[-1])) for network in rows} <= listed
    assert all(len(why) > 5 for _, why in FORBIDDEN + PRIVATE)


def test_no_row_is_hidden_behind_another() -> None:
    """A row inside another of its tier could be deleted without anybody noticing."""
    for table in (FORBIDDEN, PRIVATE):
        for version in (4, 6):
            ends = sorted((int(row[0]), int(row[-1])) for row in every_network(table) if row.version == version)
            assert all(last < first for (_, last), (first, _) in pairwise(ends))


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_pass(address: str) -> None:
    assert may_reach(address)


@pytest.mark.parametrize("text", NO_ADDRESSES)
def test_what_is_no_address_is_refused(text: str) -> None:
    assert not may_reach(text, (parse_network("0.0.0.0/0"),))


@pytest.mark.parametrize("inner", ["127.0.0.1", "10.0.0.1", "169.254.169.254"])
@pytest.mark.parametrize("spelling", DISGUISES)
def test_disguises_are_seen_through(spelling: str, inner: str) -> None:
    opened = (parse_network("10.0.0.0/8"), parse_network("fc00::/7"))
    assert not may_reach(disguised(spelling, ipaddress.IPv4Address(inner)), opened)


def boundaries() -> list[Address]:
    """First, last and both neighbours of every range that we or the standard library know."""
    names = ("_private_networks", "_private_networks_exceptions", "_reserved_networks", "_reserved_network")
    constants = (ipaddress._IPv4Constants, ipaddress._IPv6Constants)  # type: ignore[attr-defined]
    known = [getattr(kind, name, ()) for kind in constants for name in names]
    known += [(value,) for kind in constants for value in vars(kind).values() if hasattr(value, "num_addresses")]
    ranges = [network for group in known for network in (group if isinstance(group, tuple | list) else (group,))]
    found: set[Address] = set()
    for network in ranges + every_network(FORBIDDEN, PRIVATE):
        kind = type(network[0])
        numbers = (int(network[0]) - 1, int(network[0]), int(network[-1]), int(network[-1]) + 1)
        found |= {kind(number) for number in numbers if 0 <= number < 2**network.max_prefixlen}
    return sorted(found, key=lambda address: (address.version, int(address)))


@pytest.mark.parametrize("address", boundaries(), ids=str)
def test_what_is_not_global_to_the_standard_library_is_denied_at_every_boundary(address: Address) -> None:
    assert address.is_global or not may_reach(address)


ISATAP = st.builds(
    lambda prefix, mark, low: ipaddress.IPv6Address(prefix << 64 | mark << 32 | low),
    st.integers(0x2000 << 48, (0x4000 << 48) - 1),
    st.sampled_from([0x5EFE, 0x0200_5EFE]),
    st.integers(0, 2**32 - 1),
)


@given(st.ip_addresses() | ISATAP)
@example(ipaddress.ip_address("192.88.99.1"))
def test_what_is_not_global_to_the_standard_library_is_denied(address: Address) -> None:
    is_special = address.is_multicast or address.is_reserved or address.is_link_local or address.is_unspecified
    if not address.is_global or is_special:
        assert not may_reach(address)


@given(st.ip_addresses(v=4), st.sampled_from(sorted(DISGUISES)))
def test_what_is_denied_is_denied_in_every_disguise(inner: ipaddress.IPv4Address, spelling: str) -> None:
    if not may_reach(inner):
        assert not may_reach(disguised(spelling, inner))


@given(st.ip_addresses(v=6))
def test_every_spelling_of_one_address_is_judged_alike(address: ipaddress.IPv6Address) -> None:
    spellings = {str(address), address.exploded, address.compressed.upper()}
    spellings.add(":".join(address.exploded.split(":")[:6]) + f":{ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)}")
    assert len({may_reach(spelling) for spelling in spellings}) == 1
    assert not may_reach(f"{address}%eth0")


@given(st.text(max_size=40))
def test_any_text_is_judged(text: str) -> None:
    if may_reach(text):
        assert ipaddress.ip_address(text).is_global


@given(st.ip_addresses(), st.integers(0, 128))
def test_what_the_operator_denies_is_denied(address: Address, prefix: int) -> None:
    network = ipaddress.ip_network((address, min(prefix, address.max_prefixlen)), strict=False)
    assert not may_reach(address, (network,), (network,))


def test_the_operators_networks_count_inside_isatap_too() -> None:
    carrier = "2606:2800:220:1:0:5efe:5db8:d822"  # 93.184.216.34
    assert may_reach(carrier)
    assert not may_reach(carrier, (), (parse_network("93.184.216.0/24"),))


def test_a_nat64_prefix_of_the_site_is_for_the_operator_to_deny() -> None:
    metadata = "2606:2800:64::a9fe:a9fe"
    assert may_reach(metadata)
    assert not may_reach(metadata, (), (parse_network("2606:2800:64::/96"),))


def test_metadata_inside_an_opened_network_stays_forbidden() -> None:
    opened = (parse_network("100.64.0.0/10"), parse_network("fc00::/7"))
    assert may_reach("100.100.100.199", opened)
    assert may_reach("fd20:ce::253", opened)
    for address in ("100.100.100.200", "fd00:ec2::254", "fd20:ce::254", "fd12::5efe:127.0.0.1", "fd12::1%1"):
        assert not may_reach(address, opened)
