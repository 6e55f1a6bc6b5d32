"""Any text is taken or refused; what is taken means the same host to every reader of URLs in the house."""

import contextlib
import ipaddress
import socket
import string
from urllib.parse import urlsplit

import httpx
import yarl
from hypothesis import example, given
from hypothesis import strategies as st

from todoke.model.errors import InvalidInput
from todoke.wire.addresses import may_reach, parse_address
from todoke.wire.authority import read_authority
from todoke.wire.destination import Destination, Reach, Rules, check_url

RULES = [
    Rules(),
    Rules(allow_loopback=True),
    Rules(
        hosts=("receiver:80", "10.1.2.3:443", "[fd00::1]:80"), networks=("10.0.0.0/8", "fc00::/7"), ports=(443, 80, 1)
    ),
]

NAMES = st.sampled_from(
    [
        "hooks.example.com",
        "localhost",
        "receiver",
        "127.0.0.1",
        "10.1.2.3",
        "2130706433",
        "0x7f.1",
        "xn--bcher-kva.example",
        "xn--a.example",
        "[::1]",
        "[fd00::1]",
        "[::ffff:127.0.0.1]",
        "[v1.a]",
        "a_b.example.com",
    ]
)
PIECES = st.sampled_from(
    [*"@:/\\?#%[].-_;,=&$!'()*+~^|`<>{}\"", "%40", "%2e", "%00", "://", "//", "..", "①", "。", "ß"]
)
TEXT = st.text(alphabet=string.ascii_letters + string.digits + "-._:[]%@", max_size=8)
URLS = st.builds(
    lambda scheme, parts: scheme + "".join(parts),
    st.sampled_from(["https://", "http://", "HTTPS://", "https:", "//", ""]),
    st.lists(NAMES | PIECES | TEXT | st.sampled_from([":443", ":80", ":1", ":0443", "/", "/path?a=b"]), max_size=6),
)


def checked(url: str, rules: Rules) -> Destination | None:
    with contextlib.suppress(InvalidInput):
        return check_url(url, rules)
    return None


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda raw: raw.decode("latin-1")) | URLS)
@example("https://[")
@example("https://\ud800/")
def test_any_text_is_either_taken_or_refused(text: str) -> None:
    for rules in RULES:
        for url in (text, "https://" + text, "http://" + text):
            checked(url, rules)


@given(URLS, st.sampled_from(RULES))
@example("https://hooks.example.com:8443/a?b=c", RULES[0])
@example("http://[0:0::1]:9/", RULES[1])
@example("https://xn--a.example/", RULES[0])
@example("HTTP://Receiver./", RULES[2])
def test_every_reader_finds_the_same_host(url: str, rules: Rules) -> None:
    destination = checked(url, rules)
    if destination is None:
        return
    split, theirs, encoded = urlsplit(url), httpx.URL(url), yarl.URL(url, encoded=True)
    assert {split.scheme, theirs.scheme, encoded.scheme} == {destination.scheme}
    usual = {"https": 443, "http": 80}[destination.scheme]
    assert {split.port or usual, theirs.port or usual, encoded.port} == {destination.port}
    hosts = (split.hostname, theirs.raw_host.decode(), encoded.raw_host, yarl.URL(url).raw_host)
    assert {plain(host) for host in hosts} == {destination.host}
    assert (split.username, theirs.userinfo, encoded.user) == (None, b"", None)


NUMBERS = st.sampled_from(["0", "1", "127", "0177", "0x7f", "2130706433", "0x", "08", "256", "1e3", "x7f", ""])


@given(st.lists(NUMBERS, min_size=1, max_size=5), st.sampled_from(["", "."]))
def test_what_the_systems_resolver_takes_for_an_address_is_no_name(parts: list[str], dot: str) -> None:
    text = ".".join(parts) + dot
    try:
        authority = read_authority(text)
    except ValueError:
        return
    try:
        meant = socket.inet_aton(authority.host)
    except OSError:
        meant = None
    assert meant == (authority.literal.packed if authority.literal else None)


@given(URLS | st.ip_addresses().map(lambda a: f"https://{f'[{a}]' if a.version == 6 else a}/"), st.sampled_from(RULES))
def test_what_is_taken_is_public_unless_somebody_opened_it(url: str, rules: Rules) -> None:
    destination = checked(url, rules)
    if destination is None or destination.reach is Reach.ALLOWED:
        return
    assert destination.scheme == "https" or rules.allow_loopback
    if destination.reach is Reach.PUBLIC:
        assert destination.port in rules.ports
        assert destination.literal is None or may_reach(destination.literal, rules.opened)
        assert "." in destination.host or destination.literal is not None
    elif destination.literal is not None:
        assert destination.literal.is_loopback
    else:
        assert destination.host == "localhost"


@given(st.ip_addresses(v=4))
def test_no_spelling_of_an_ipv4_address_is_taken_for_a_name(address: ipaddress.IPv4Address) -> None:
    number, octets = int(address), address.packed
    spellings = [
        str(number),
        f"{number:#x}",
        f"{number:#o}".replace("0o", "0"),
        f"{octets[0]}.{number & 0xFFFFFF}",
        f"{octets[0]}.{octets[1]}.{number & 0xFFFF}",
        ".".join(f"{octet:#04x}" for octet in octets),
        ".".join(f"0{octet:o}" for octet in octets),
        ".".join(f"{octet:03}" for octet in octets),
        f"{address}.",
        f"[::ffff:{address}]",
        f"[::{address}]",
        str(address).translate(str.maketrans("0123456789", "０１２３４５６７８９")),
        str(address).replace(".", "。"),
    ]
    for spelling in spellings:
        for scheme in ("https", "http"):
            # ::0.0.0.1 is ::1 itself.
            if parse_address(spelling.strip("[]")) in (address, ipaddress.IPv6Address("::1")):
                continue
            assert checked(f"{scheme}://{spelling}/", RULES[1]) is None, spelling


def plain(host: str | None) -> str:
    """As `Destination.host` spells it."""
    name = (host or "").lower()
    literal = parse_address(name.strip("[]"))
    return name.removesuffix(".") if literal is None else str(literal)
