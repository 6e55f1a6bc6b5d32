"""Where a callback may go: what the operator decided, and the rules for URLs. Pure, no DNS.

A callback is a request that a stranger makes this machine send, so everything inside the house is refused.
`check_url` reads the URL, at submit and before every attempt; `vet` judges what its host turned out to be.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property
from typing import Protocol, Self
from urllib.parse import urlsplit

from todoke.model.errors import InvalidInput
from todoke.model.loopback import is_loopback, is_loopback_address
from todoke.wire.addresses import (
    FORBIDDEN_NETWORKS,
    PRIVATE_NETWORKS,
    Address,
    Network,
    is_in,
    is_within,
    may_reach,
    parse_address,
    parse_network,
)
from todoke.wire.authority import canonical, read_authority

URL_CHARACTERS_MAX = 2048
PORTS = {"https": 443, "http": 80}
PRINTABLE = re.compile(r"[!-~]+")
INNER_NAMES = ("localhost", "local", "internal", "home.arpa", "onion", "test", "invalid")


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
    networks: private ones (CIDR) that may be reached. denied: others (CIDR) that may not; they win over `networks`.
    ports: those a URL may name. own_names: what the service itself is called from outside.
    allow_loopback: the desk's addition: localhost, 127.0.0.0/8 and ::1 on any port, over http too.
    """

    hosts: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()
    ports: tuple[int, ...] = (443, 8443)
    own_names: tuple[str, ...] = ()
    allow_loopback: bool = False

    def __post_init__(self) -> None:
        # Read here, so that a bad entry stops the start and not a callback.
        _ = self.endpoints, self.opened, self.closed, self.own_hosts

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

    @cached_property
    def endpoints(self) -> frozenset[tuple[str, int]]:
        """`hosts`, read."""
        return frozenset(_endpoint(entry) for entry in self.hosts)

    @cached_property
    def opened(self) -> tuple[Network, ...]:
        """`networks`, read."""
        return tuple(_private_network(entry) for entry in self.networks)

    @cached_property
    def closed(self) -> tuple[Network, ...]:
        """`denied`, read."""
        return tuple(_network(entry, "TODOKE_CALLBACK_DENIED") for entry in self.denied)

    @cached_property
    def own_hosts(self) -> frozenset[str]:
        """`own_names` as `Destination.host` spells them."""
        return frozenset(map(canonical, self.own_names))


class Reach(Enum):
    """Which addresses a destination may turn out to have. PUBLIC: those, and private ones of the opened networks."""

    PUBLIC = auto()
    LOOPBACK = auto()
    ALLOWED = auto()


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
    scheme, text = _split(url)
    try:
        authority = read_authority(text)
    except ValueError as error:
        raise InvalidInput(f"callbackUrl: {error}") from None
    host, port = authority.host, authority.port or PORTS[scheme]
    destination = Destination(scheme, host, port, _reach(host, port, rules), authority.literal)
    if destination.reach is Reach.PUBLIC:
        _check_public(destination, rules)
    return destination


def vet(addresses: Iterable[str | Address], destination: Destination, rules: Rules) -> None:
    """Raise InvalidInput unless every address is one `destination` may have; one that is not spoils them all."""
    if not all(_may_have(address, destination.reach, rules) for address in addresses):
        raise InvalidInput(f"callbackUrl: {destination.host} leads to an address that callbacks may not reach")


def _may_have(address: str | Address, reach: Reach, rules: Rules) -> bool:
    parsed = parse_address(address)
    if parsed is None or reach is Reach.ALLOWED:
        return parsed is not None
    if reach is Reach.LOOPBACK:
        return is_loopback_address(str(parsed)) and not is_in(parsed, rules.closed)
    return may_reach(parsed, rules.opened, rules.closed)


def _split(url: str) -> tuple[str, str]:
    """Scheme and authority. Not by urlsplit, which drops and forgives things that other readers of the URL do not."""
    if len(url) > URL_CHARACTERS_MAX:
        raise InvalidInput(f"callbackUrl: at most {URL_CHARACTERS_MAX:,} characters")
    if not PRINTABLE.fullmatch(url) or "\\" in url:
        raise InvalidInput(
            "callbackUrl: only printable ASCII without spaces and backslashes; percent-encode the path, "
            "spell an international host name in its xn-- form"
        )
    scheme, _, rest = url.partition("://")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if scheme.lower() not in PORTS or not authority:
        raise InvalidInput("callbackUrl: give an absolute URL that starts with https://")
    if "#" in url:
        raise InvalidInput("callbackUrl: leave out the fragment (what follows #)")
    return scheme.lower(), authority


def _reach(host: str, port: int, rules: Rules) -> Reach:
    if (host, port) in rules.endpoints:
        return Reach.ALLOWED
    return Reach.LOOPBACK if rules.allow_loopback and is_loopback(host) else Reach.PUBLIC


def _check_public(destination: Destination, rules: Rules) -> None:
    host, literal = destination.host, destination.literal
    if destination.scheme != "https":
        raise InvalidInput("callbackUrl: use https; http is for hosts the operator allows by TODOKE_CALLBACK_HOSTS")
    if literal is not None and not (is_in(literal, rules.opened) and may_reach(literal, rules.opened, rules.closed)):
        raise InvalidInput("callbackUrl: give a host name, not an IP address")
    if literal is None and not _is_public_name(host):
        raise InvalidInput(f"callbackUrl: {host} is no public name; the operator can allow it by TODOKE_CALLBACK_HOSTS")
    if host in rules.own_hosts:
        raise InvalidInput(f"callbackUrl: {host} is this service itself")
    if destination.port not in rules.ports:
        usual = ", ".join(map(str, rules.ports))
        raise InvalidInput(f"callbackUrl: port {destination.port} is not one callbacks may use, which are {usual}")


def _is_public_name(host: str) -> bool:
    is_inner = any(host == name or host.endswith("." + name) for name in INNER_NAMES)
    return "." in host and "_" not in host and not is_inner


def _endpoint(entry: str) -> tuple[str, int]:
    try:
        authority = read_authority(entry)
    except ValueError as error:
        raise InvalidInput(f"TODOKE_CALLBACK_HOSTS: {entry}: {error}") from None
    if authority.port is None:
        raise InvalidInput(f"TODOKE_CALLBACK_HOSTS: {entry} names no port; give host:port, e.g. receiver:8080")
    return authority.host, authority.port


def _private_network(entry: str) -> Network:
    network = _network(entry, "TODOKE_CALLBACK_NETWORKS")
    if not any(is_within(network, private) for private in PRIVATE_NETWORKS):
        raise InvalidInput(
            f"TODOKE_CALLBACK_NETWORKS: {entry} is not inside one of {', '.join(map(str, PRIVATE_NETWORKS))}; "
            "a single receiver elsewhere is named by host:port in TODOKE_CALLBACK_HOSTS"
        )
    if any(is_within(network, forbidden) for forbidden in FORBIDDEN_NETWORKS):
        raise InvalidInput(f"TODOKE_CALLBACK_NETWORKS: {entry} is a cloud's metadata service, which no network opens")
    return network


def _network(entry: str, setting: str) -> Network:
    try:
        return parse_network(entry)
    except ValueError:
        raise InvalidInput(f"{setting}: {entry} is no network; give one as 10.20.0.0/16 or fd12::/48") from None
