"""A name server that lies, changes its mind or stalls: what was vetted is what is dialled, and nothing else.

Everything dialled is loopback: the transport's own dial is replaced, and what it was asked for is recorded.
"""

import asyncio
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from notifier.sender import Sender
from notifier.transport import VettedTransport
from tests.notifier.certificates import server_context
from tests.notifier.names import Names, Network
from tests.notifier.receiver import receiving, status
from todoke.model.delivery import Answer, Reason
from todoke.wire.destination import Rules, check_url

HOST = "hooks.example.com"
URL = f"https://{HOST}/"
PUBLIC, PUBLIC_6, OTHER = "93.184.216.34", "2606:2800:220:1::1", "93.184.216.35"
INNER = ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "64:ff9b::a9fe:a9fe", "fd00:ec2::254"]
NO_ADDRESSES = ["", "127.1", "2130706433", "localhost", "::1%lo", f"{PUBLIC}:443"]
PLAIN = Rules()
INSIDE = Rules(networks=("10.20.0.0/16", "fd12::/48"))
DEADLINE = 5.0
HANGS_UP = status(200, "connection: close")


async def attempt(transport: VettedTransport, url: str = URL, seconds: float = DEADLINE) -> Answer:
    return await Sender(transport, seconds, 1024).post(url, {}, b"{}", dict)


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    return server_context(tmp_path, HOST)


async def one_attempt(names: Any, network: Network, rules: Rules = PLAIN, url: str = URL) -> Answer:
    """Over a TLS context that trusts nobody: for what ends before TLS, or needs none."""
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    async with VettedTransport(rules, lookup=names, dial=network, tls=nobody) as transport:
        return await attempt(transport, url)


def is_blocked(answer: Answer, network: Network) -> bool:
    return (answer.status, answer.reason, network.dialled) == (None, Reason.BLOCKED, [])


@pytest.mark.parametrize("address", INNER)
async def test_public_at_submit_and_private_at_the_attempt(address: str) -> None:
    assert check_url(URL, PLAIN), "at submit only the URL is judged"
    names, network = Names([[address]]), Network()
    assert is_blocked(await one_attempt(names, network), network)
    assert names.asked == [HOST]


@pytest.mark.parametrize("address", INNER + NO_ADDRESSES)
@pytest.mark.parametrize("place", [0, 1, 2])
async def test_one_bad_answer_among_good_ones_spoils_them_all(address: str, place: int) -> None:
    answers = [PUBLIC, PUBLIC_6]
    answers.insert(place, address)
    names, network = Names([answers]), Network()
    assert is_blocked(await one_attempt(names, network), network)
    assert names.asked == [HOST]


async def test_public_first_and_private_second(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """One look-up serves check and dial: a name server that lies the second time is not asked a second time."""
    server, client = tls
    async with receiving(tls=server) as receiver:
        names, network = Names([[PUBLIC], ["127.0.0.1"]]), Network(receiver.port)
        async with VettedTransport(PLAIN, lookup=names, dial=network, tls=client) as transport:
            answer = await attempt(transport)
    assert answer.reason is Reason.DELIVERED
    assert (names.asked, network.dialled) == ([HOST], [(PUBLIC, 443)])
    # SNI and certificate were checked against the name, or this would not have been delivered.
    assert receiver.received[0].headers["host"] == HOST


async def test_each_attempt_looks_up_once_and_judges_anew(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server, client = tls
    async with receiving(HANGS_UP, HANGS_UP, tls=server) as receiver:
        names, network = Names([[PUBLIC], [OTHER], ["10.0.0.1"], [PUBLIC]]), Network(receiver.port)
        async with VettedTransport(PLAIN, lookup=names, dial=network, tls=client) as transport:
            answers = [await attempt(transport) for _ in range(4)]
    assert [answer.reason for answer in answers] == ["delivered", "delivered", Reason.BLOCKED, "delivered"]
    assert names.asked == [HOST] * 4
    assert network.addresses == [PUBLIC, OTHER, PUBLIC]
    assert len(receiver.received) == 3


async def test_a_kept_connection_is_judged_like_a_new_one(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """It is used while the name leads to its other end, and not a moment longer."""
    server, client = tls
    async with receiving(tls=server) as receiver:
        names, network = Names([[PUBLIC], [OTHER, PUBLIC], [OTHER], ["10.0.0.1"], [OTHER]]), Network(receiver.port)
        async with VettedTransport(PLAIN, lookup=names, dial=network, tls=client) as transport:
            answers = [await attempt(transport) for _ in range(5)]
    assert [answer.status for answer in answers] == [200, 200, 200, None, 200]
    assert answers[3].reason is Reason.BLOCKED
    assert names.asked == [HOST] * 5
    assert network.addresses == [PUBLIC, OTHER]


async def test_attempts_at_once_never_share_a_stale_answer(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server, client = tls
    async with receiving(tls=server) as receiver:
        names, network = Names([[PUBLIC], ["10.0.0.1"], [PUBLIC], ["10.0.0.1"]]), Network(receiver.port)
        async with VettedTransport(PLAIN, lookup=names, dial=network, tls=client) as transport:
            answers = await asyncio.gather(*(attempt(transport) for _ in range(8)))
    assert {answer.reason for answer in answers} <= {Reason.DELIVERED, Reason.BLOCKED}
    assert set(network.addresses) == {PUBLIC}
    assert len(names.asked) <= 8
    assert len(receiver.received) == sum(answer.status == 200 for answer in answers)


async def test_a_peer_that_is_not_the_vetted_one_gets_no_byte(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server, client = tls
    for peer in ("127.0.0.1", OTHER, "::ffff:10.0.0.1"):
        async with receiving(tls=server) as receiver:
            network = Network(receiver.port, peer=peer)
            async with VettedTransport(PLAIN, lookup=Names([[PUBLIC]]), dial=network, tls=client) as transport:
                answer = await attempt(transport)
        assert (answer.status, answer.reason, receiver.received) == (None, Reason.BLOCKED, [])


@pytest.mark.parametrize("address", [PUBLIC_6, "2a00:1450:4001:810::200e"])
async def test_a_name_with_ipv6_only(tls: tuple[ssl.SSLContext, ssl.SSLContext], address: str) -> None:
    server, client = tls
    async with receiving(tls=server) as receiver:
        names, network = Names([[address]]), Network(receiver.port)
        async with VettedTransport(PLAIN, lookup=names, dial=network, tls=client) as transport:
            answer = await attempt(transport)
    assert answer.reason is Reason.DELIVERED
    assert network.dialled == [(address, 443)]


def many(count: int) -> list[str]:
    return [f"93.184.{number // 250}.{number % 250}" for number in range(count)]


async def test_a_thousand_records_are_all_vetted() -> None:
    names, network = Names([[*many(999), "10.0.0.1"]]), Network()
    assert is_blocked(await one_attempt(names, network), network)
    assert names.asked == [HOST]


async def test_a_thousand_good_records_are_one_connection(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    server, client = tls
    async with receiving(tls=server) as receiver:
        names, network = Names([many(1000)]), Network(receiver.port)
        async with VettedTransport(PLAIN, lookup=names, dial=network, tls=client) as transport:
            answer = await attempt(transport)
    assert answer.reason is Reason.DELIVERED
    assert len(receiver.received) == 1
    assert set(network.addresses) <= set(many(1000))


async def test_when_an_address_is_closed_only_other_vetted_ones_are_tried(
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    server, client = tls
    async with receiving(tls=server) as receiver:
        names, network = Names([[PUBLIC, OTHER], ["127.0.0.1"]]), Network(receiver.port, closed=frozenset({PUBLIC}))
        async with VettedTransport(PLAIN, lookup=names, dial=network, tls=client) as transport:
            answer = await attempt(transport)
    assert answer.reason is Reason.DELIVERED
    assert (names.asked, network.addresses) == ([HOST], [PUBLIC, OTHER])


async def test_a_slow_answer_is_waited_for_and_a_late_one_dials_nothing(
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    server, client = tls
    asked, release, answered = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(_host: str) -> Sequence[str]:
        asked.set()
        try:
            await release.wait()
        finally:
            answered.set()
        return [PUBLIC]

    async with receiving(tls=server) as receiver:
        network = Network(receiver.port)
        async with VettedTransport(PLAIN, lookup=slow, dial=network, tls=client) as transport:
            late = await attempt(transport, seconds=0.3)
            assert late.reason is Reason.TIMEOUT
            asked.clear()
            waiting = asyncio.create_task(attempt(transport))
            await asyncio.wait_for(asked.wait(), 5)
            assert network.dialled == []
            release.set()
            assert (await waiting).reason is Reason.DELIVERED
            await asyncio.wait_for(answered.wait(), 5)
    assert network.addresses == [PUBLIC]


async def test_no_answer_and_no_name_are_told_from_a_refusal() -> None:
    async def unknown(_host: str) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    for names in (unknown, Names([[]])):
        network = Network()
        answer = await one_attempt(names, network)
        assert (answer.reason, network.dialled) == (Reason.DNS, [])


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://10.0.0.1/",
        "https://93.184.216.34/",
        "https://[fd12:0:1::1]/",
        "http://169.254.169.254/latest/meta-data/",
        "https://2130706433/",
        "https://localhost/",
        "http://hooks.example.com/",
        "https://hooks.example.com:25/",
        "https://user@hooks.example.com/",
    ],
)
async def test_a_stored_url_that_is_refused_by_now_is_not_even_looked_up(url: str) -> None:
    names, network = Names([[PUBLIC]]), Network()
    assert is_blocked(await one_attempt(names, network, INSIDE, url), network)
    assert names.asked == []


@pytest.mark.parametrize("url", ["https://10.20.0.1/", "https://[fd12::1]:8443/"])
async def test_an_opened_literal_is_vetted_and_dialled_without_a_look_up(
    url: str, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    names, destination = Names([["127.0.0.1"]]), check_url(url, INSIDE)
    async with receiving(tls=tls[0]) as receiver:
        network = Network(receiver.port)
        answer = await one_attempt(names, network, INSIDE, url)
    # It was dialled; whom its certificate names is another matter.
    assert (answer.reason, receiver.received) == (Reason.TLS, [])
    assert set(network.dialled) == {(str(destination.literal), destination.port)}
    assert names.asked == []


async def test_a_name_in_an_opened_network_is_dialled_and_its_neighbour_is_not(
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    server, client = tls
    async with receiving(tls=server) as receiver:
        network = Network(receiver.port)
        async with VettedTransport(INSIDE, lookup=Names([["10.20.0.1"]]), dial=network, tls=client) as transport:
            assert (await attempt(transport)).reason is Reason.DELIVERED
        assert network.addresses == ["10.20.0.1"]
    for neighbour in ("10.19.255.255", "10.21.0.0", "fd12:0:1::1"):
        network = Network()
        assert is_blocked(await one_attempt(Names([["10.20.0.1", neighbour]]), network, INSIDE), network)


async def test_an_exact_host_may_lead_anywhere_over_http() -> None:
    async with receiving() as receiver:
        rules, network = Rules(hosts=("receiver:8080",)), Network(receiver.port)
        names = Names([["169.254.169.254"]])
        answer = await one_attempt(names, network, rules, "http://receiver:8080/hook")
    assert answer.reason is Reason.DELIVERED
    assert network.dialled == [("169.254.169.254", 8080)]


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The system's resolver replaced: names below example.com lead inside, by a CNAME. Some ask it in bytes."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if not name.endswith("example.com"):
            return real(host, port, *args, **options)
        asked.append(name)
        kind = socket.SOCK_STREAM
        return [
            (socket.AF_INET, kind, 6, "database.corp.internal", (PUBLIC, port or 0)),
            (socket.AF_INET, kind, 6, "", ("10.0.0.1", port or 0)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


async def test_a_cname_into_the_house_is_judged_by_where_it_leads(resolved: list[str]) -> None:
    """Over the transport's own look-up: the system is asked once, and its answer is what counts."""
    network = Network()
    async with VettedTransport(PLAIN, dial=network) as transport:
        assert is_blocked(await attempt(transport), network)
    assert resolved == [HOST]
