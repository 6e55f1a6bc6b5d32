"""Where a callback may go: rules for URLs and for the addresses their hosts lead to. Pure, no DNS.

A callback is a request that a stranger makes this machine send, so everything inside the house is refused.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol, Self
from urllib.parse import SplitResult, urlsplit

from todoke.model.errors import InvalidInput

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

URL_CHARACTERS_MAX = 2048
HOST_CHARACTERS_MAX = 253
PORTS = {"https": 443, "http": 80}
LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")
PRINTABLE = re.compile(r"[!-~]+")
INNER_NAMES = ("localhost", "local", "internal", "home.arpa", "onion", "test", "invalid")

DENIED: tuple[tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, str], ...] = tuple(
    (ipaddress.ip_network(network), why)
    for network, why in (
        ("0.0.0.0/8", "this host, RFC 1122; Linux dials it as loopback"),
        ("10.0.0.0/8", "private, RFC 1918"),
        ("100.64.0.0/10", "carrier NAT, RFC 6598; Alibaba metadata 100.100.100.200"),
        ("127.0.0.0/8", "loopback, RFC 1122"),
        ("168.63.129.16/32", "Azure's host agent"),
        ("169.254.0.0/16", "link-local, RFC 3927; metadata of every large cloud"),
        ("172.16.0.0/12", "private, RFC 1918"),
        ("192.0.0.0/24", "protocol assignments, RFC 6890; Oracle metadata 192.0.0.192"),
        ("192.0.2.0/24", "documentation, RFC 5737"),
        ("192.31.196.0/24", "AS112, RFC 7535"),
        ("192.52.193.0/24", "AMT, RFC 7450"),
        ("192.88.99.0/24", "6to4 relays, RFC 7526"),
        ("192.168.0.0/16", "private, RFC 1918"),
        ("192.175.48.0/24", "AS112, RFC 7534"),
        ("198.18.0.0/15", "benchmarks, RFC 2544"),
        ("198.51.100.0/24", "documentation, RFC 5737"),
        ("203.0.113.0/24", "documentation, RFC 5737"),
        ("224.0.0.0/4", "multicast, RFC 5771"),
        ("240.0.0.0/4", "reserved and broadcast, RFC 1112"),
        # Outside 2000::/3 everything is denied; these lie inside it.
        ("2001::/23", "protocol assignments, RFC 2928: Teredo, benchmarks, AMT, ORCHID, DRIP"),
        ("2001:db8::/32", "documentation, RFC 3849"),
        ("2002::/16", "6to4, RFC 3056: carries an IPv4 address of the sender's choice"),
        ("2620:4f:8000::/48", "AS112, RFC 7534"),
        ("3ffe::/16", "6bone, retired by RFC 3701"),
        ("3fff::/20", "documentation, RFC 9637"),
    )
)
GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
LOOPBACK = (ipaddress.IPv4Network("127.0.0.0/8"), ipaddress.IPv6Network("::1/128"))
ISATAP_MARKS = (0x0000_5EFE, 0x0200_5EFE)


class Reach(Enum):
    """Which addresses a destination may turn out to have."""

    PUBLIC = auto()
    LOOPBACK = auto()
    ALLOWED = auto()


class CallbackSettings(Protocol):
    """The settings that say where callbacks may go."""

    @property
    def callback_hosts(self) -> tuple[str, ...]: ...
    @property
    def callback_networks(self) -> tuple[str, ...]: ...
    @property
    def callback_denied(self) -> tuple[str, ...]: ...
    @property
    def callback_ports(self) -> tuple[int, ...]: ...
    @property
    def public_url(self) -> str | None: ...
    @property
    def desk_mode(self) -> bool: ...


@dataclass(frozen=True)
class Rules:
    """What the operator decided about callbacks. Raises InvalidInput, naming the setting, for an entry that is none.

    hosts: exact `host:port` entries that may have any address, the forbidden ones too, over http too.
    networks: private ones (CIDR) that may be reached. denied: the operator's own (CIDR) that may not.
    ports: those a callback may name otherwise. own_names: what the service itself is called from outside.
    allow_loopback: the desk's addition: localhost, 127.0.0.0/8 and ::1 on any port, over http too.
    """

    hosts: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()
    ports: tuple[int, ...] = (443, 8443)
    own_names: tuple[str, ...] = ()
    allow_loopback: bool = False

    @classmethod
    def of(cls, settings: CallbackSettings) -> Self:
        """The rules that `settings` spell. Raises InvalidInput."""
        return cls(
            settings.callback_hosts,
            settings.callback_networks,
            settings.callback_denied,
            settings.callback_ports,
            own_names=(urlsplit(settings.public_url).hostname or "",) if settings.public_url else (),
            allow_loopback=settings.desk_mode,
        )


@dataclass(frozen=True)
class Destination:
    """A checked callback. `host`: lower case, no brackets, no trailing dot. `literal`: set when it is an address."""

    scheme: str
    host: str
    port: int
    reach: Reach
    literal: Address | None


def check_url(url: str, rules: Rules) -> Destination:
    """Check the spelling of a callback URL. Raises InvalidInput with a sentence that says what to change."""
    parts = _split(url)
    host, port = (parts.hostname or "").lower(), _port(parts)
    name = host.removesuffix(".")
    literal = _literal(name)
    if literal is None:
        _check_name(name)
    elif isinstance(literal, ipaddress.IPv6Address) and literal.scope_id:
        raise InvalidInput("callbackUrl: leave out the zone id (what follows %) of the address")
    reach = _reach(name, literal, port, rules)
    if parts.scheme != "https" and reach is Reach.PUBLIC:
        raise InvalidInput("callbackUrl: use https; http is for hosts the operator allows by TODOKE_CALLBACK_HOSTS")
    if reach is Reach.PUBLIC:
        _check_public(name, literal)
    return Destination(parts.scheme, name, port, reach, literal)


def is_denied(address: str | Address) -> bool:
    """Whether an address is no public unicast one, or can lead to one that is not. Text that is no address is."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return True
    if any(parsed in network for network, _ in DENIED if network.version == parsed.version):
        return True
    if isinstance(parsed, ipaddress.IPv4Address):
        return False
    return parsed not in GLOBAL_UNICAST or parsed.scope_id is not None or _hides_denied(parsed)


def vet(addresses: Iterable[str | Address], destination: Destination, rules: Rules) -> None:  # noqa: ARG001
    """Raise InvalidInput unless every address is one `destination` may have; one that is not spoils them all."""
    for address in addresses:
        if destination.reach is Reach.ALLOWED:
            continue
        if destination.reach is Reach.LOOPBACK and is_loopback(address):
            continue
        if destination.reach is Reach.LOOPBACK or is_denied(address):
            raise InvalidInput(f"callbackUrl: {destination.host} leads to an address that callbacks may not reach")


def is_loopback(address: str | Address) -> bool:
    """Whether an address is in 127.0.0.0/8 or is ::1; no other spelling of them counts."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in LOOPBACK if network.version == parsed.version)


def _split(url: str) -> SplitResult:
    if len(url) > URL_CHARACTERS_MAX:
        raise InvalidInput(f"callbackUrl: at most {URL_CHARACTERS_MAX:,} characters")
    if not PRINTABLE.fullmatch(url) or "\\" in url:
        raise InvalidInput(
            "callbackUrl: only printable ASCII without spaces and backslashes; percent-encode the path, "
            "spell an international host name in its xn-- form"
        )
    try:
        parts = urlsplit(url)
    except ValueError:
        raise InvalidInput("callbackUrl: this is no URL") from None
    if parts.scheme not in PORTS or not parts.netloc:
        raise InvalidInput("callbackUrl: give an absolute URL that starts with https://")
    if "@" in parts.netloc:
        raise InvalidInput("callbackUrl: leave out user name and password")
    if "#" in url:
        raise InvalidInput("callbackUrl: leave out the fragment (what follows #)")
    return parts


def _port(parts: SplitResult) -> int:
    try:
        port = PORTS[parts.scheme] if parts.port is None else parts.port
    except ValueError:
        port = 0
    if not port:
        raise InvalidInput("callbackUrl: the port must be between 1 and 65535")
    return port


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _check_name(host: str) -> None:
    labels = host.split(".")
    if len(host) > HOST_CHARACTERS_MAX or not all(LABEL.fullmatch(label) for label in labels):
        raise InvalidInput("callbackUrl: the host must be a name of letters, digits and hyphens")
    if NUMERIC_LABEL.fullmatch(labels[-1]):
        # Resolvers read 2130706433, 0x7f.1 and 127.1 as 127.0.0.1.
        raise InvalidInput("callbackUrl: the host must not be a number; give a name")


def _check_public(host: str, literal: Address | None) -> None:
    if literal is not None:
        raise InvalidInput("callbackUrl: give a host name, not an IP address")
    if "." not in host or any(host == name or host.endswith("." + name) for name in INNER_NAMES):
        raise InvalidInput(f"callbackUrl: {host} is no public name; the operator can allow it by TODOKE_CALLBACK_HOSTS")


def _reach(host: str, literal: Address | None, port: int, rules: Rules) -> Reach:
    spelled = host if literal is None else str(literal)
    if any(_matches(entry, spelled, port) for entry in rules.hosts):
        return Reach.ALLOWED
    if rules.allow_loopback and (host == "localhost" or (literal is not None and is_loopback(literal))):
        return Reach.LOOPBACK
    return Reach.PUBLIC


def _matches(entry: str, host: str, port: int) -> bool:
    """Whether an allow-list entry (`host`, `host:port`, `[v6]`, `[v6]:port` or a bare v6) names this host and port."""
    name, colon, entry_port = entry.lower().rpartition(":")
    if _literal(entry) is not None or not colon or entry.endswith("]"):
        name, entry_port = entry.lower(), str(port)
    name = name.removesuffix(".").strip("[]")
    literal = _literal(name)
    return (name if literal is None else str(literal)) == host and entry_port == str(port)


def _hides_denied(address: ipaddress.IPv6Address) -> bool:
    """ISATAP (RFC 5214): the last 32 bits are an IPv4 address of their own."""
    low = int(address) & (2**64 - 1)
    return low >> 32 in ISATAP_MARKS and is_denied(ipaddress.IPv4Address(low & 0xFFFF_FFFF))
