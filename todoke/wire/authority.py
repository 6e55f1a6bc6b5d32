"""Host and port of a URL or of a setting, read so strictly that no two readers of the same text differ."""

import ipaddress
import re
from dataclasses import dataclass

from todoke.wire.addresses import Address, parse_address

HOST_CHARACTERS_MAX = 253
AUTHORITY = re.compile(r"(?:\[(?P<literal>[0-9a-f:.]+)\]|(?P<name>[^\[\]:]+))(?::(?P<port>[^\[\]:]*))?")
PORT = re.compile(r"[1-9][0-9]{0,4}")
# The underscore is for names inside the house, such as those of compose files.
LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")


@dataclass(frozen=True)
class Authority:
    """`host`: lower case, no brackets, no trailing dot. `literal`: when it is an address. `port`: when one is named."""

    host: str
    literal: Address | None
    port: int | None


def read_authority(text: str) -> Authority:
    """What stands between `//` and the path. Raises ValueError with a sentence that says what to change."""
    text = text.lower()
    if "@" in text:
        raise ValueError("leave out user name and password")
    if "[" in text and "%" in text:
        raise ValueError("leave out the zone id (what follows %) of the address")
    found = AUTHORITY.fullmatch(text)
    literal = parse_address(found["literal"] or found["name"]) if found else None
    if found is None or isinstance(literal, ipaddress.IPv6Address) != (found["literal"] is not None):
        raise ValueError("give one host name, or an IPv6 address in brackets, and a port if it is not the usual one")
    # A dot behind an address makes a name of it, which is then refused for its number.
    host = found["name"].removesuffix(".") if literal is None else str(literal)
    if literal is None:
        _check_name(host)
    return Authority(host, literal, None if found["port"] is None else _port(found["port"]))


def canonical(host: str) -> str:
    """One spelling of a name: lower case, no trailing dot. Of an address: the shortest."""
    literal = parse_address(host)
    return host.lower().removesuffix(".") if literal is None else str(literal)


def _check_name(host: str) -> None:
    labels = host.split(".")
    if len(host) > HOST_CHARACTERS_MAX or not all(LABEL.fullmatch(label) for label in labels):
        raise ValueError("the host must be a name of letters, digits and hyphens")
    if NUMERIC_LABEL.fullmatch(labels[-1]):
        # Resolvers read 2130706433, 0x7f.1 and 127.1 as 127.0.0.1.
        raise ValueError("the host must not be a number; give a name")


def _port(text: str) -> int:
    if not PORT.fullmatch(text) or int(text) >= 2**16:
        raise ValueError("the port must be between 1 and 65535")
    return int(text)
