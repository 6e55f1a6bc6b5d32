"""Which addresses a callback may reach. Pure: no DNS, nothing is dialled.

What is no public unicast address is either private (an operator may open it by network) or forbidden (loopback,
metadata, multicast …: only an exact `host:port` entry reaches it). Text that is no address is refused.
"""

import ipaddress
from collections.abc import Iterable
from enum import Enum, auto

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Tier(Enum):
    """How far from everyone an address is."""

    PUBLIC = auto()
    PRIVATE = auto()
    FORBIDDEN = auto()


def _table(*rows: tuple[str, str]) -> tuple[tuple[Network, str], ...]:
    return tuple((ipaddress.ip_network(network), why) for network, why in rows)


PRIVATE = _table(
    ("10.0.0.0/8", "private, RFC 1918"),
    ("100.64.0.0/10", "carrier NAT, RFC 6598"),
    ("172.16.0.0/12", "private, RFC 1918"),
    ("192.168.0.0/16", "private, RFC 1918"),
    ("fc00::/7", "unique local, RFC 4193"),
)

# Those of the clouds that lie inside PRIVATE stay forbidden there.
FORBIDDEN = _table(
    ("0.0.0.0/8", "this host, RFC 1122; Linux dials it as loopback"),
    ("100.100.100.200/32", "Alibaba metadata"),
    ("127.0.0.0/8", "loopback, RFC 1122"),
    ("168.63.129.16/32", "Azure's host agent"),
    ("169.254.0.0/16", "link-local, RFC 3927; metadata of every large cloud"),
    ("192.0.0.0/24", "protocol assignments, RFC 6890; Oracle metadata 192.0.0.192"),
    ("192.0.2.0/24", "documentation, RFC 5737"),
    ("192.31.196.0/24", "AS112, RFC 7535"),
    ("192.52.193.0/24", "AMT, RFC 7450"),
    ("192.88.99.0/24", "6to4 relays, RFC 7526"),
    ("192.175.48.0/24", "AS112, RFC 7534"),
    ("198.18.0.0/15", "benchmarks, RFC 2544"),
    ("198.51.100.0/24", "documentation, RFC 5737"),
    ("203.0.113.0/24", "documentation, RFC 5737"),
    ("224.0.0.0/4", "multicast, RFC 5771"),
    ("240.0.0.0/4", "reserved and broadcast, RFC 1112"),
    ("fd00:42::42/128", "Scaleway metadata"),
    ("fd00:100::100:200/128", "Alibaba metadata"),
    ("fd00:a9fe:a9fe::1/128", "Akamai metadata"),
    ("fd00:c1::a9fe:a9fe/128", "Oracle metadata"),
    ("fd00:ec2::/32", "AWS metadata, credentials of EKS pods"),
    ("fd20:ce::254/128", "Google metadata"),
    # Outside 2000::/3 everything else is forbidden anyway: ::1, fe80::/10, fec0::/10, ff00::/8, and the ways to write
    # an IPv4 address (::/96, ::ffff:0:0/96, ::ffff:0:0:0/96, 64:ff9b::/96, 64:ff9b:1::/48). These lie inside it.
    ("2001::/23", "protocol assignments, RFC 2928: Teredo, benchmarks, AMT, ORCHID, DRIP"),
    ("2001:db8::/32", "documentation, RFC 3849"),
    ("2002::/16", "6to4, RFC 3056: carries an IPv4 address of the sender's choice"),
    ("2620:4f:8000::/48", "AS112, RFC 7534"),
    ("3ffe::/16", "6bone, retired by RFC 3701"),
    ("3fff::/20", "documentation, RFC 9637"),
)
PRIVATE_NETWORKS = tuple(network for network, _ in PRIVATE)
FORBIDDEN_NETWORKS = tuple(network for network, _ in FORBIDDEN)
GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
ISATAP_MARKS = (0x0000_5EFE, 0x0200_5EFE)


def parse_address(text: str | Address) -> Address | None:
    """The address `text` spells in the one canonical way, or None. 127.1, 0177.0.0.1 and 2130706433 are none."""
    try:
        return ipaddress.ip_address(str(text))
    except ValueError:
        return None


def parse_network(text: str) -> Network:
    """A network in CIDR, without host bits and zone. Raises ValueError."""
    if "%" in text:
        raise ValueError("a network has no zone")
    return ipaddress.ip_network(text)


def tier(address: Address) -> Tier:
    """How far from everyone an address is. A NAT64 prefix of the site's own looks public: the operator denies it."""
    if is_in(address, FORBIDDEN_NETWORKS):
        return Tier.FORBIDDEN
    if isinstance(address, ipaddress.IPv6Address) and _is_odd(address):
        return Tier.FORBIDDEN
    if is_in(address, PRIVATE_NETWORKS):
        return Tier.PRIVATE
    is_public = isinstance(address, ipaddress.IPv4Address) or address in GLOBAL_UNICAST
    return Tier.PUBLIC if is_public else Tier.FORBIDDEN


def may_reach(address: str | Address, networks: Iterable[Network] = (), denied: Iterable[Network] = ()) -> bool:
    """Whether a callback may reach an address: a public one, or a private one in `networks`; none in `denied`."""
    parsed = parse_address(address)
    if parsed is None or is_in(parsed, denied):
        return False
    inner = inner_address(parsed)
    if inner is not None and is_in(inner, denied):
        return False
    found = tier(parsed)
    return found is Tier.PUBLIC or (found is Tier.PRIVATE and is_in(parsed, networks))


def inner_address(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address an ISATAP interface id carries, else None."""
    low = int(address) & (2**64 - 1)
    if isinstance(address, ipaddress.IPv4Address) or low >> 32 not in ISATAP_MARKS:
        return None
    return ipaddress.IPv4Address(low & 0xFFFF_FFFF)


def is_in(address: Address, networks: Iterable[Network]) -> bool:
    """Whether one of `networks` holds it."""
    return any(address in network for network in networks)


def is_within(inner: Network, outer: Network) -> bool:
    """Whether all of `inner` lies in `outer`; never across versions."""
    return inner.version == outer.version and inner[0] in outer and inner[-1] in outer


def _is_odd(address: ipaddress.IPv6Address) -> bool:
    """Whether it has a zone, or hides an IPv4 address that is not public."""
    inner = inner_address(address)
    return address.scope_id is not None or (inner is not None and tier(inner) is not Tier.PUBLIC)
