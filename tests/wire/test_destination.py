"""Where callbacks may go, range by range and spelling by spelling. Nothing here is ever dialled."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from todoke.model.errors import InvalidInput
from todoke.wire.destination import DENIED, Reach, Rules, check_url, is_denied, is_loopback, vet

# First, last, and the public neighbours before and after (None where the neighbour is denied too).
RANGES = [
    ("0.0.0.0", "0.255.255.255", None, "1.0.0.0"),
    ("10.0.0.0", "10.255.255.255", "9.255.255.255", "11.0.0.0"),
    ("100.64.0.0", "100.127.255.255", "100.63.255.255", "100.128.0.0"),
    ("127.0.0.0", "127.255.255.255", "126.255.255.255", "128.0.0.0"),
    ("168.63.129.16", "168.63.129.16", "168.63.129.15", "168.63.129.17"),
    ("169.254.0.0", "169.254.255.255", "169.253.255.255", "169.255.0.0"),
    ("172.16.0.0", "172.31.255.255", "172.15.255.255", "172.32.0.0"),
    ("192.0.0.0", "192.0.0.255", "191.255.255.255", "192.0.1.0"),
    ("192.0.2.0", "192.0.2.255", "192.0.1.255", "192.0.3.0"),
    ("192.31.196.0", "192.31.196.255", "192.31.195.255", "192.31.197.0"),
    ("192.52.193.0", "192.52.193.255", "192.52.192.255", "192.52.194.0"),
    ("192.88.99.0", "192.88.99.255", "192.88.98.255", "192.88.100.0"),
    ("192.168.0.0", "192.168.255.255", "192.167.255.255", "192.169.0.0"),
    ("192.175.48.0", "192.175.48.255", "192.175.47.255", "192.175.49.0"),
    ("198.18.0.0", "198.19.255.255", "198.17.255.255", "198.20.0.0"),
    ("198.51.100.0", "198.51.100.255", "198.51.99.255", "198.51.101.0"),
    ("203.0.113.0", "203.0.113.255", "203.0.112.255", "203.0.114.0"),
    ("224.0.0.0", "239.255.255.255", "223.255.255.255", None),
    ("240.0.0.0", "255.255.255.255", None, None),
    ("::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None, "2000::"),
    ("4000::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "3fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", None),
    ("2001::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", "2000:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2001:200::"),
    ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db7:ffff:ffff::", "2001:db9::"),
    ("2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2001:ffff:ffff:ffff::", "2003::"),
    ("2620:4f:8000::", "2620:4f:8000:ffff:ffff:ffff:ffff:ffff", "2620:4f:7fff:ffff::", "2620:4f:8001::"),
    ("3ffe::", "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "3ffd:ffff:ffff:ffff::", None),
    ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", None, "3fff:1000::"),
]

# Addresses that stand for an inner one, or lead to it.
DISGUISES = [
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:93.184.216.34",
    "::ffff:0:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a00:1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "2001:0:a00:1::1",
    "2606:2800:220:1:0:5efe:a00:1",
    "2606:2800:220:1:200:5efe:7f00:1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fe80::1",
    "fe80::1%eth0",
    "2606:2800:220:1::1%1",
    "fec0::1",
    "ff02::1",
    "5f00::1",
    "100::1",
    "100:0:0:1::1",
    "224.0.0.1",
    "192.0.0.192",
    "100.100.100.200",
    "169.254.169.254",
    "169.254.170.2",
    "not an address",
    "2130706433",
    "127.1",
    "0177.0.0.1",
]


@pytest.mark.parametrize(("first", "last", "before", "after"), RANGES)
def test_a_range_ends_where_it_says(first: str, last: str, before: str | None, after: str | None) -> None:
    assert is_denied(first)
    assert is_denied(last)
    for neighbour in filter(None, (before, after)):
        assert not is_denied(neighbour)


def test_every_denied_range_is_in_the_table_above_and_says_why() -> None:
    tested = {first for first, *_ in RANGES}
    assert {str(network.network_address) for network, _ in DENIED} <= tested
    assert all(len(why) > 5 for _, why in DENIED)


@pytest.mark.parametrize("address", DISGUISES)
def test_disguises_are_seen_through(address: str) -> None:
    assert is_denied(address)


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "1.1.1.1", "2606:2800:220:1::1", "2a00::1", "2606:2800:220:1:0:5efe:5db8:d822"]
)
def test_public_addresses_pass(address: str) -> None:
    assert not is_denied(address)


@given(st.ip_addresses())
def test_what_is_not_global_to_the_standard_library_is_denied(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if address.is_private or address.is_multicast or address.is_reserved or address.is_link_local:
        assert is_denied(address)


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("https://hooks.example.com", "hooks.example.com", 443),
        ("https://hooks.example.com:8443/a?b=c%20d", "hooks.example.com", 8443),
        ("HTTPS://Hooks.Example.COM./", "hooks.example.com", 443),
        ("https://xn--bcher-kva.example/", "xn--bcher-kva.example", 443),
        ("https://a_b.example.com/", "a_b.example.com", 443),
        ("https://3com.com/", "3com.com", 443),
    ],
)
def test_public_https_is_taken(url: str, host: str, port: int) -> None:
    destination = check_url(url, Rules())
    assert (destination.host, destination.port, destination.reach) == (host, port, Reach.PUBLIC)


REFUSED = [
    ("http://hooks.example.com/", "use https"),
    ("ftp://hooks.example.com/", "starts with https://"),
    ("file:///etc/passwd", "starts with https://"),
    ("//hooks.example.com/", "starts with https://"),
    ("https:hooks.example.com", "starts with https://"),
    ("https:///path", "starts with https://"),
    ("", "printable"),
    ("https://user@hooks.example.com/", "user name"),
    ("https://hooks.example.com@127.0.0.1/", "user name"),
    ("https://hooks.example.com/#part", "fragment"),
    ("https://hooks.example.com/#", "fragment"),
    ("https://hooks.example.com\\@127.0.0.1/", "printable"),
    ("https://hooks.example.com/a b", "printable"),
    ("https://hooks.example.com/\n", "printable"),
    ("https://hooks.example.com\x00/", "printable"),
    ("https://①②⑦.0.0.1/", "printable"),
    ("https://bücher.example/", "xn--"),
    ("https://hooks.example.com:0/", "port"),
    ("https://hooks.example.com:65536/", "port"),
    ("https://hooks.example.com:x/", "port"),
    ("https://hooks.example.com/" + "a" * 2048, "2,048"),
    ("https://2130706433/", "number"),
    ("https://0x7f.1/", "number"),
    ("https://127.1/", "number"),
    ("https://0177.0.0.1/", "number"),
    ("https://0x7f000001/", "number"),
    ("https://hooks.example.0x1/", "number"),
    ("https://127.0.0.1/", "not an IP address"),
    ("https://127.0.0.1./", "not an IP address"),
    ("https://93.184.216.34/", "not an IP address"),
    ("https://[::1]/", "not an IP address"),
    ("https://[::ffff:127.0.0.1]/", "not an IP address"),
    ("https://[fe80::1%25eth0]/", "zone"),
    ("https://[::1/", "no URL"),
    ("https://[localhost]/", "callbackUrl"),
    ("https://%31%32%37.0.0.1/", "letters, digits"),
    ("https://hooks..example.com/", "letters, digits"),
    ("https://-a.example.com/", "letters, digits"),
    ("https://" + "a." * 130 + "com/", "letters, digits"),
    ("https://localhost/", "no public name"),
    ("https://foo.localhost/", "no public name"),
    ("https://intranet/", "no public name"),
    ("https://printer.local/", "no public name"),
    ("https://metadata.google.internal/", "no public name"),
    ("https://router.home.arpa./", "no public name"),
]


@pytest.mark.parametrize(("url", "says"), REFUSED)
def test_other_urls_are_refused_with_a_sentence(url: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        check_url(url, Rules())


@given(st.text(max_size=60))
def test_any_text_is_either_taken_or_refused(text: str) -> None:
    for url in (text, "https://" + text):
        try:
            destination = check_url(url, Rules())
        except InvalidInput:
            continue
        assert destination.reach is Reach.PUBLIC
        assert destination.literal is None


@pytest.mark.parametrize(
    "url",
    ["http://localhost:9000/", "http://127.0.0.1:1/", "http://127.9.9.9/", "http://[::1]:80/", "https://localhost/"],
)
def test_the_desk_takes_loopback(url: str) -> None:
    assert check_url(url, Rules(allow_loopback=True)).reach is Reach.LOOPBACK


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/",
        "http://192.168.1.1/",
        "http://169.254.169.254/",
        "http://hooks.example.com/",
        "http://foo.localhost/",
        "http://2130706433/",
        "http://127.1/",
        "http://[::ffff:127.0.0.1]/",
        "http://0.0.0.0/",
    ],
)
def test_the_desk_takes_nothing_else(url: str) -> None:
    with pytest.raises(InvalidInput):
        check_url(url, Rules(allow_loopback=True))


@pytest.mark.parametrize(
    ("url", "entry"),
    [
        ("http://receiver:9000/", "receiver"),
        ("http://RECEIVER:9000/", "Receiver:9000"),
        ("https://10.1.2.3/", "10.1.2.3"),
        ("https://10.1.2.3/", "10.1.2.3:443"),
        ("http://10.1.2.3/", "10.1.2.3:80"),
        ("http://[fd00::1]/", "fd00::1"),
        ("http://[fd00:0::1]:8080/", "[fd00::1]:8080"),
        ("http://[fd00::1]:8080/", "[fd00::1]"),
        ("http://hooks.internal/", "hooks.internal."),
    ],
)
def test_an_allowed_host_may_be_anywhere(url: str, entry: str) -> None:
    destination = check_url(url, Rules(hosts=("other", entry)))
    assert destination.reach is Reach.ALLOWED
    vet(["10.0.0.1", "127.0.0.1", "fd00::1"], destination, Rules())


@pytest.mark.parametrize(
    ("url", "entry"),
    [
        ("http://receiver:9001/", "receiver:9000"),
        ("http://receiver.evil.example/", "receiver"),
        ("http://myreceiver/", "receiver"),
        ("http://[fd00::2]:8080/", "[fd00::1]:8080"),
        ("http://127.1/", "127.1"),
        ("http://user@receiver/", "receiver"),
        ("http://receiver/", ""),
        ("http://receiver/", ":80"),
    ],
)
def test_an_allowed_host_is_that_host_alone(url: str, entry: str) -> None:
    with pytest.raises(InvalidInput):
        check_url(url, Rules(hosts=(entry,)))


def test_one_denied_address_spoils_them_all() -> None:
    destination = check_url("https://hooks.example.com/", Rules(allow_loopback=True))
    vet(["93.184.216.34", "2606:2800:220:1::1"], destination, Rules())
    for denied in ("127.0.0.1", "10.0.0.1", "::1"):
        with pytest.raises(InvalidInput, match="may not reach"):
            vet(["93.184.216.34", denied], destination, Rules())


def test_localhost_must_lead_to_loopback() -> None:
    destination = check_url("http://localhost/", Rules(allow_loopback=True))
    vet(["127.0.0.1", "::1"], destination, Rules())
    for address in ("10.0.0.1", "93.184.216.34", "::ffff:127.0.0.1"):
        with pytest.raises(InvalidInput):
            vet(["127.0.0.1", address], destination, Rules())


def test_loopback_has_two_spellings() -> None:
    assert is_loopback("127.255.255.254")
    assert is_loopback("::1")
    assert not is_loopback("::ffff:127.0.0.1")
    assert not is_loopback("localhost")
