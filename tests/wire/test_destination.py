"""Which callback URLs are taken. Nothing here is ever dialled."""

import pytest

from todoke.model.errors import InvalidInput
from todoke.wire.destination import INNER_NAMES, Reach, Rules, check_url, vet

PLAIN = Rules()
DESK = Rules(allow_loopback=True)

TAKEN = [
    ("https://hooks.example.com", "hooks.example.com", 443),
    ("https://hooks.example.com:8443/a?b=c%20d", "hooks.example.com", 8443),
    ("https://hooks.example.com?a=b@c", "hooks.example.com", 443),
    ("https://hooks.example.com/@127.0.0.1/:80", "hooks.example.com", 443),
    ("HTTPS://Hooks.Example.COM./", "hooks.example.com", 443),
    ("https://xn--bcher-kva.example/", "xn--bcher-kva.example", 443),
    ("https://r1---sn.example.com/", "r1---sn.example.com", 443),
    ("https://3com.com/", "3com.com", 443),
    ("https://127.0.0.1.example.com/", "127.0.0.1.example.com", 443),
    ("https://0x7f.example.com/", "0x7f.example.com", 443),
    ("https://" + "a" * 63 + ".example.com/", "a" * 63 + ".example.com", 443),
]


@pytest.mark.parametrize(("url", "host", "port"), TAKEN)
def test_public_https_is_taken(url: str, host: str, port: int) -> None:
    destination = check_url(url, PLAIN)
    assert (destination.scheme, destination.host, destination.port) == ("https", host, port)
    assert (destination.reach, destination.literal) == (Reach.PUBLIC, None)


REFUSED = [
    ("http://hooks.example.com/", "use https"),
    ("http://hooks.example.com:443/", "use https"),
    ("ftp://hooks.example.com/", "starts with https://"),
    ("file:///etc/passwd", "starts with https://"),
    ("gopher://hooks.example.com/", "starts with https://"),
    ("javascript://hooks.example.com/", "starts with https://"),
    ("//hooks.example.com/", "starts with https://"),
    ("https:hooks.example.com", "starts with https://"),
    ("https:/hooks.example.com", "starts with https://"),
    ("https:///path", "starts with https://"),
    ("https:////hooks.example.com/", "starts with https://"),
    ("https://?a=b", "starts with https://"),
    ("/hook", "starts with https://"),
    ("", "printable"),
    # Who is dialled must not depend on the reader: userinfo, backslash, controls, percent.
    ("https://user@hooks.example.com/", "user name"),
    ("https://user:pass@hooks.example.com/", "user name"),
    ("https://@hooks.example.com/", "user name"),
    ("https://hooks.example.com@127.0.0.1/", "user name"),
    ("https://hooks.example.com:443@127.0.0.1/", "user name"),
    ("https://hooks.example.com%40127.0.0.1/", "letters, digits"),
    ("https://hooks.example.com#@127.0.0.1/", "fragment"),
    ("https://hooks.example.com/#part", "fragment"),
    ("https://hooks.example.com/#", "fragment"),
    ("https://hooks.example.com\\@127.0.0.1/", "backslash"),
    ("https://127.0.0.1\\.hooks.example.com/", "backslash"),
    ("https:\\\\hooks.example.com/", "backslash"),
    ("https://hooks.example.com/a b", "printable"),
    (" https://hooks.example.com/", "printable"),
    ("https://hooks.example.com/\n", "printable"),
    ("https://hooks.example.com/\r\nHost: evil", "printable"),
    ("https://hooks\t.example.com/", "printable"),
    ("https://hooks.example.com\x00/", "printable"),
    ("https://hooks.example.com\x7f/", "printable"),
    ("https://%31%32%37.0.0.1/", "letters, digits"),
    ("https://hooks.example%2ecom/", "letters, digits"),
    ("https://hooks.example.com%00.evil.com/", "letters, digits"),
    # What Unicode folds to.
    ("https://①②⑦.0.0.1/", "printable"),
    ("https://127。0。0。1/", "printable"),
    ("https://１２７.0.0.1/", "printable"),
    ("https://ⓗooks.example.com/", "printable"),
    ("https://hooks.example.com\u2100.evil.com/", "printable"),
    ("https://bücher.example/", "xn--"),
    # Ports.
    ("https://hooks.example.com:0/", "port must be"),
    ("https://hooks.example.com:65536/", "port must be"),
    ("https://hooks.example.com:99999999999/", "port must be"),
    ("https://hooks.example.com:x/", "port must be"),
    ("https://hooks.example.com:/", "port must be"),
    ("https://hooks.example.com:0443/", "port must be"),
    ("https://hooks.example.com:+443/", "port must be"),
    ("https://hooks.example.com:443:80/", "one host name"),
    ("https://hooks.example.com:80/", "443, 8443"),
    ("https://hooks.example.com:22/", "443, 8443"),
    ("https://hooks.example.com:5432/", "443, 8443"),
    ("https://hooks.example.com/" + "a" * 2048, "2,048"),
    # Numbers that resolvers take for addresses.
    ("https://2130706433/", "number"),
    ("https://017700000001/", "number"),
    ("https://0x7f000001/", "number"),
    ("https://0x7f.1/", "number"),
    ("https://127.1/", "number"),
    ("https://127.0.1/", "number"),
    ("https://0177.0.0.1/", "number"),
    ("https://0x7f.0x0.0x0.0x1/", "number"),
    ("https://256.256.256.256/", "number"),
    ("https://1.2.3.4.5/", "number"),
    ("https://127.0.0.1./", "number"),
    ("https://hooks.example.0x1/", "number"),
    ("https://hooks.example.0x/", "number"),
    ("https://hooks.example.1/", "number"),
    # Addresses.
    ("https://127.0.0.1/", "not an IP address"),
    ("https://93.184.216.34/", "not an IP address"),
    ("https://0/", "number"),
    ("https://[::1]/", "not an IP address"),
    ("https://[::]/", "not an IP address"),
    ("https://[::ffff:127.0.0.1]/", "not an IP address"),
    ("https://[64:ff9b::7f00:1]/", "not an IP address"),
    ("https://[2606:2800:220:1::1]:8443/", "not an IP address"),
    ("https://[fe80::1%25eth0]/", "zone"),
    ("https://[::1%eth0]/", "zone"),
    ("https://[::1/", "one host name"),
    ("https://::1/", "one host name"),
    ("https://[localhost]/", "one host name"),
    ("https://[127.0.0.1]/", "one host name"),
    ("https://[v1.fe80]/", "one host name"),
    ("https://[::1].example.com/", "one host name"),
    ("https://hooks.example.com[::1]/", "one host name"),
    ("https://[]/", "one host name"),
    # Names.
    ("https://hooks..example.com/", "letters, digits"),
    ("https://hooks.example.com../", "letters, digits"),
    ("https://.example.com/", "letters, digits"),
    ("https://./", "letters, digits"),
    ("https://-a.example.com/", "letters, digits"),
    ("https://a-.example.com/", "letters, digits"),
    ("https://a!b.example.com/", "letters, digits"),
    ("https://*.example.com/", "letters, digits"),
    ("https://" + "a" * 64 + ".example.com/", "letters, digits"),
    ("https://" + "a." * 130 + "com/", "letters, digits"),
    ("https://a_b.example.com/", "no public name"),
    ("https://intranet/", "no public name"),
    ("https://com./", "no public name"),
    ("https://LOCALHOST/", "no public name"),
    ("https://localhost./", "no public name"),
    ("https://metadata.google.internal/", "no public name"),
    ("https://router.home.arpa./", "no public name"),
]


@pytest.mark.parametrize(("url", "says"), REFUSED, ids=lambda value: ascii(value)[:50])
def test_other_urls_are_refused_with_a_sentence(url: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as caught:
        check_url(url, PLAIN)
    assert str(caught.value).startswith("callbackUrl: ")


def test_names_of_the_house_are_refused_with_all_below_them() -> None:
    wanted = {"localhost", "local", "internal", "home.arpa", "onion", "test", "invalid"}
    assert wanted <= set(INNER_NAMES)
    for name in wanted:
        for host in (name, f"a.{name}", f"a.b.{name.upper()}."):
            with pytest.raises(InvalidInput, match="no public name"):
                check_url(f"https://{host}/", PLAIN)
        assert check_url(f"https://{name.replace('.', '-')}.example.com/", PLAIN)
        assert check_url(f"https://not{name}.com/", PLAIN)


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:9000/",
        "http://LOCALHOST./",
        "http://127.0.0.1:1/",
        "http://127.0.0.0/",
        "http://127.255.255.255:65535/",
        "http://[::1]:80/",
        "http://[0:0::1]/",
        "https://localhost/",
        "https://localhost:22/",
    ],
)
def test_the_desk_takes_loopback(url: str) -> None:
    destination = check_url(url, DESK)
    assert destination.reach is Reach.LOOPBACK
    with pytest.raises(InvalidInput):
        check_url(url, PLAIN)


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1/",
        "http://192.168.1.1/",
        "http://169.254.169.254/",
        "http://hooks.example.com/",
        "https://hooks.example.com:9000/",
        "https://93.184.216.34/",
        "http://foo.localhost/",
        "http://localhost.example.com/",
        "http://localhost.localdomain/",
        "http://ip6-localhost/",
        "http://2130706433/",
        "http://127.1/",
        "http://127.0.0.1./",
        "http://0177.0.0.1/",
        "http://126.255.255.255/",
        "http://128.0.0.0/",
        "http://0.0.0.0/",
        "http://[::]/",
        "http://[::2]/",
        "http://[::127.0.0.1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::1%251]/",
        "http://user@localhost/",
        "ftp://localhost/",
    ],
)
def test_the_desk_takes_nothing_else(url: str) -> None:
    with pytest.raises(InvalidInput):
        check_url(url, DESK)


@pytest.mark.parametrize(
    ("url", "entry"),
    [
        ("http://receiver:9000/", "receiver:9000"),
        ("http://RECEIVER.:9000/", "Receiver:9000"),
        ("https://receiver/", "receiver:443"),
        ("http://receiver/", "receiver.:80"),
        ("http://my_receiver:9000/", "my_receiver:9000"),
        ("https://10.1.2.3/", "10.1.2.3:443"),
        ("http://127.0.0.1:9000/", "127.0.0.1:9000"),
        ("http://169.254.169.254/", "169.254.169.254:80"),
        ("https://93.184.216.34:9000/", "93.184.216.34:9000"),
        ("http://[fd00:0::1]:8080/", "[fd00::1]:8080"),
        ("http://[fd00::1]:8080/", "[FD00:0:0::1]:8080"),
        ("http://hooks.internal/", "hooks.internal:80"),
        ("http://hooks.example.com:25/", "hooks.example.com:25"),
    ],
)
def test_an_allowed_host_may_be_anywhere(url: str, entry: str) -> None:
    rules = Rules(hosts=("other:1", entry), denied=("0.0.0.0/0", "::/0"), own_names=("hooks.example.com",))
    destination = check_url(url, rules)
    assert destination.reach is Reach.ALLOWED
    vet(["93.184.216.34", "10.0.0.1", "127.0.0.1", "169.254.169.254", "fd00::1", "fe80::1%eth0"], destination, rules)
    with pytest.raises(InvalidInput):
        vet(["not an address"], destination, rules)


@pytest.mark.parametrize(
    ("url", "entry"),
    [
        ("http://receiver:9001/", "receiver:9000"),
        ("https://receiver/", "receiver:80"),
        ("http://receiver.evil.example/", "receiver:80"),
        ("http://evil.receiver/", "receiver:80"),
        ("http://myreceiver/", "receiver:80"),
        ("http://user@receiver/", "receiver:80"),
        ("http://[fd00::2]:8080/", "[fd00::1]:8080"),
        ("http://[::ffff:10.1.2.3]/", "10.1.2.3:80"),
        ("http://10.1.2.3./", "10.1.2.3:80"),
    ],
)
def test_an_allowed_host_is_that_host_alone(url: str, entry: str) -> None:
    with pytest.raises(InvalidInput):
        check_url(url, Rules(hosts=(entry,)))


def test_one_denied_address_spoils_them_all() -> None:
    destination = check_url("https://hooks.example.com/", DESK)
    vet(["93.184.216.34", "2606:2800:220:1::1"], destination, DESK)
    for denied in ("127.0.0.1", "10.0.0.1", "::1", "nonsense", ""):
        for addresses in (["93.184.216.34", denied], [denied, "93.184.216.34"], [denied]):
            with pytest.raises(InvalidInput, match="may not reach"):
                vet(addresses, destination, DESK)


def test_a_thousand_addresses_are_all_looked_at() -> None:
    destination = check_url("https://hooks.example.com/", PLAIN)
    many = [f"93.184.{number // 250}.{number % 250}" for number in range(1000)]
    vet(many, destination, PLAIN)
    with pytest.raises(InvalidInput):
        vet([*many, "127.0.0.1"], destination, PLAIN)


def test_localhost_must_lead_to_loopback() -> None:
    destination = check_url("http://localhost/", DESK)
    vet(["127.0.0.1", "::1"], destination, DESK)
    for address in ("10.0.0.1", "93.184.216.34", "::ffff:127.0.0.1", "::1%lo"):
        with pytest.raises(InvalidInput):
            vet(["127.0.0.1", address], destination, DESK)


def test_the_sentence_does_not_tell_where_a_name_leads() -> None:
    with pytest.raises(InvalidInput) as caught:
        vet(["10.9.8.7"], check_url("https://hooks.example.com/", PLAIN), PLAIN)
    assert "10.9.8.7" not in str(caught.value)
