"""What an operator may open and close, and which entries stop the start."""

import pytest

from todoke.model.errors import InvalidInput
from todoke.runtime.settings import load_settings
from todoke.wire.destination import Reach, Rules, check_url, vet

NAME = "https://hooks.example.com/"
INNER = Rules(networks=("10.20.0.0/16", "100.64.0.0/10", "fd12::/48"))


def test_a_name_may_lead_into_an_opened_network() -> None:
    destination = check_url(NAME, INNER)
    vet(["10.20.0.0", "10.20.255.255", "100.64.0.1", "fd12::1", "93.184.216.34"], destination, INNER)
    for address in ("10.19.255.255", "10.21.0.0", "127.0.0.1", "100.100.100.200", "fd12:0:1::1", "::ffff:10.20.0.1"):
        with pytest.raises(InvalidInput, match="may not reach"):
            vet([address], destination, INNER)


def test_an_address_in_an_opened_network_may_be_named_itself() -> None:
    for url in ("https://10.20.0.1/", "https://10.20.0.1:8443/", "https://[fd12::1]/"):
        destination = check_url(url, INNER)
        assert destination.reach is Reach.PUBLIC
        assert destination.literal is not None
        vet([destination.literal], destination, INNER)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://10.20.0.1/", "use https"),
        ("https://10.20.0.1:8080/", "443, 8443"),
        ("https://10.21.0.1/", "not an IP address"),
        ("https://93.184.216.34/", "not an IP address"),
        ("https://100.100.100.200/", "not an IP address"),
        ("https://[::ffff:10.20.0.1]/", "not an IP address"),
        ("https://[fd12::5efe:7f00:1]/", "not an IP address"),
        ("https://receiver/", "no public name"),
        ("https://receiver.internal/", "no public name"),
        ("https://10.20.1/", "number"),
    ],
)
def test_an_opened_network_relaxes_nothing_else(url: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        check_url(url, INNER)


def test_what_the_operator_denies_wins_over_networks_and_the_desk() -> None:
    rules = Rules(
        networks=("10.0.0.0/8",), denied=("10.1.0.0/16", "93.184.216.34", "127.9.0.0/16"), allow_loopback=True
    )
    destination = check_url(NAME, rules)
    vet(["10.2.0.1", "93.184.216.35"], destination, rules)
    for address in ("10.1.0.1", "93.184.216.34"):
        with pytest.raises(InvalidInput):
            vet([address], destination, rules)
    with pytest.raises(InvalidInput, match="not an IP address"):
        check_url("https://10.1.0.1/", rules)
    desk = check_url("http://localhost/", rules)
    vet(["127.0.0.1"], desk, rules)
    with pytest.raises(InvalidInput):
        vet(["127.9.0.1"], desk, rules)


def test_the_operator_says_which_ports() -> None:
    rules = Rules(ports=(9443,))
    assert check_url("https://hooks.example.com:9443/", rules).port == 9443
    with pytest.raises(InvalidInput, match="port 443 is not one callbacks may use, which are 9443"):
        check_url(NAME, rules)


@pytest.mark.parametrize("own", ["jobs.example.com", "Jobs.Example.com."])
def test_a_callback_to_ourselves_is_refused(own: str) -> None:
    rules = Rules(own_names=(own,))
    for host in ("jobs.example.com", "JOBS.example.com.", "jobs.example.com:8443"):
        with pytest.raises(InvalidInput, match="is this service itself"):
            check_url(f"https://{host}/", rules)
    check_url("https://hooks.jobs.example.com/", rules)


def test_a_callback_to_our_own_address_is_refused() -> None:
    rules = Rules(networks=("10.20.0.0/16", "fd12::/48"), own_names=("10.20.0.1", "fd12:0::1"))
    for host in ("10.20.0.1", "[fd12::1]"):
        with pytest.raises(InvalidInput, match="is this service itself"):
            check_url(f"https://{host}/", rules)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("receiver", "host:port"),
        ("10.1.2.3", "host:port"),
        ("[fd00::1]", "host:port"),
        ("fd00::1", "brackets"),
        ("receiver:", "port"),
        ("receiver:0", "port"),
        ("receiver:65536", "port"),
        ("receiver:https", "port"),
        ("receiver:80/path", "port"),
        (":80", "host"),
        ("", "host"),
        ("*:80", "letters"),
        ("*.example.com:443", "letters"),
        ("https://receiver:80", "one host name"),
        ("user@receiver:80", "user name"),
        ("bücher.example:80", "letters"),
        ("127.1:80", "number"),
        ("2130706433:80", "number"),
        ("[fe80::1%eth0]:80", "zone"),
        ("10.0.0.0/8:80", "letters"),
    ],
)
def test_a_host_entry_is_one_host_and_one_port(entry: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=f"TODOKE_CALLBACK_HOSTS: .*{says}"):
        Rules(hosts=("receiver:1", entry))


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("0.0.0.0/0", "not inside"),
        ("::/0", "not inside"),
        ("10.0.0.0/7", "not inside"),
        ("100.0.0.0/9", "not inside"),
        ("172.0.0.0/11", "not inside"),
        ("127.0.0.0/8", "not inside"),
        ("127.0.0.1", "not inside"),
        ("169.254.0.0/16", "not inside"),
        ("169.254.169.254/32", "not inside"),
        ("192.0.0.0/24", "not inside"),
        ("192.0.0.0/8", "not inside"),
        ("224.0.0.0/4", "not inside"),
        ("168.63.129.16/32", "not inside"),
        ("93.184.216.0/24", "not inside"),
        ("::1/128", "not inside"),
        ("fe80::/10", "not inside"),
        ("fc00::/6", "not inside"),
        ("::ffff:10.0.0.0/104", "not inside"),
        ("64:ff9b::/96", "not inside"),
        ("2001:db8::/32", "not inside"),
        ("100.100.100.200/32", "metadata"),
        ("fd00:ec2::/32", "metadata"),
        ("fd00:ec2::254", "metadata"),
        ("fd20:ce::254/128", "metadata"),
        ("10.0.0.1/8", "is no network"),
        ("10.0.0.0/33", "is no network"),
        ("10.*.*.*", "is no network"),
        ("10.1", "is no network"),
        ("hooks.example.com", "is no network"),
        ("fd12::%1/64", "is no network"),
        ("", "is no network"),
    ],
)
def test_a_networks_entry_is_private_and_nothing_more(entry: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=f"TODOKE_CALLBACK_NETWORKS: .*{says}"):
        Rules(networks=("10.20.0.0/16", entry))


@pytest.mark.parametrize(
    "entry", ["10.0.0.0/8", "10.1.2.3", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fd12::1"]
)
def test_whole_private_networks_may_be_opened(entry: str) -> None:
    assert Rules(networks=(entry,)).opened


@pytest.mark.parametrize("entry", ["10.0.0.1/8", "nonsense", "fe80::1%1", ""])
def test_a_denied_entry_that_is_no_network_stops_the_start(entry: str) -> None:
    with pytest.raises(InvalidInput, match=r"TODOKE_CALLBACK_DENIED: .*is no network"):
        Rules(denied=(entry,))


def test_settings_become_rules() -> None:
    settings = load_settings(
        callback_hosts="receiver:8080, [fd00::1]:443",
        callback_networks="10.20.0.0/16",
        callback_denied="2606:2800:64::/96",
        callback_ports="443",
        public_url="https://Jobs.example.com:8443/api",
    )
    rules = Rules.of(settings)
    assert rules.endpoints == {("receiver", 8080), ("fd00::1", 443)}
    assert [str(network) for network in rules.opened + rules.closed] == ["10.20.0.0/16", "2606:2800:64::/96"]
    assert (rules.ports, rules.own_names, rules.allow_loopback) == ((443,), ("jobs.example.com",), False)


def test_the_defaults_open_nothing() -> None:
    assert Rules.of(load_settings()) == Rules()
    assert Rules.of(load_settings(desk_mode=True)) == Rules(allow_loopback=True)


def test_equal_rules_are_one_key() -> None:
    assert hash(Rules(hosts=("a:1",))) == hash(Rules(hosts=("a:1",)))
    assert Rules(hosts=("a:1",)) != Rules()
