"""How the transport speaks, and what becomes of its connections."""

import asyncio
import errno
import socket
import time
from collections.abc import Callable, Sequence

import pytest

from notifier.faults import OWN_FAULTS
from notifier.transport import Request, VettedTransport
from tests.conftest import until
from tests.notifier.internet import ADDRESSES, BODY, HONEST, HOST, RULES, Internet, post
from tests.notifier.receiver import (
    OK,
    Answer,
    Received,
    bytes_answer,
    drip,
    hang_up,
    receiving,
    reset,
    silence,
    status,
    then_hang_up,
)
from todoke.model.delivery import Reason
from todoke.wire.destination import Rules

URL = f"http://{HOST}/"
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
LOOPBACK = Rules(allow_loopback=True)


async def test_the_request_is_what_was_asked_for() -> None:
    async with receiving() as receiver, VettedTransport(LOOPBACK) as transport:
        url = f"http://127.0.0.1:{receiver.port}/a%20b/?c=d&e"
        reply = await transport.send(Request(url, {"x-one": "1"}, BODY, lambda: {"x-two": "2"}))
        assert await reply.read(asyncio.get_running_loop().time() + 5) == b"ok"
    [received] = receiver.received
    assert received.target == "POST /a%20b/?c=d&e HTTP/1.1"
    assert received.body == BODY
    assert received.headers == {
        "host": f"127.0.0.1:{receiver.port}",
        "x-one": "1",
        "x-two": "2",
        "content-length": str(len(BODY)),
    }
    assert (reply.status, reply.peer, reply.is_tls) == (200, "127.0.0.1", False)


@pytest.mark.parametrize(("path", "target"), [("", "/"), ("?a=/b", "/?a=/b"), ("/?", "/?"), ("//x", "//x")])
async def test_the_target_is_the_path_and_query(path: str, target: str) -> None:
    async with receiving() as receiver, VettedTransport(LOOPBACK) as transport:
        await post(transport, f"http://127.0.0.1:{receiver.port}{path}")
    assert receiver.received[0].target == f"POST {target} HTTP/1.1"


@pytest.mark.parametrize("value", ["a\r\nb: c", "a\nb", "a\rb", "a\0b", "é"])
async def test_a_header_cannot_break_out_of_its_line(value: str) -> None:
    async with receiving() as receiver, VettedTransport(LOOPBACK) as transport:
        with pytest.raises(ValueError, match=r"line end|ascii"):
            await transport.send(Request(receiver.url, {"x": value}, BODY))
    assert receiver.received == []


async def attempts(count: int, *answers: Answer) -> tuple[list[Received], VettedTransport, Internet]:
    """So many in a row to one receiver; all of them come to something."""
    async with receiving(*answers) as receiver:
        internet = Internet({HOST: receiver.port})
        async with internet.transport() as transport:
            for _ in range(count):
                assert (await post(transport, URL, 10)).status is not None
    return receiver.received, transport, internet


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(bytes_answer(OK), id="length"),
        pytest.param(bytes_answer(CHUNKED + b"2\r\nok\r\n0\r\nx: y\r\n\r\n"), id="chunks"),
        pytest.param(bytes_answer(b"HTTP/1.1 204 No\r\n\r\n"), id="204"),
        pytest.param(bytes_answer(b"HTTP/1.1 304 No\r\ncontent-length: 5\r\n\r\n"), id="304"),
        pytest.param(bytes_answer(b"HTTP/1.1 103 Early\r\n\r\n" + OK), id="interim head"),
        pytest.param(bytes_answer(HEAD + b"content-length: 16384\r\n\r\n" + b"x" * 16384), id="16 KiB"),
        pytest.param(status(500), id="failure"),
    ],
)
async def test_a_connection_is_kept_and_every_attempt_looks_up_all_the_same(answer: Answer) -> None:
    received, transport, internet = await attempts(3, answer, answer, answer)
    assert [one.peer for one in received] == [1, 1, 1]
    assert (transport.counts.dials, transport.counts.reuses, transport.counts.retries) == (1, 2, 0)
    assert internet.asked == [HOST] * 3
    assert transport.counts.lookups == 3


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(status(200, "connection: close"), id="close"),
        pytest.param(bytes_answer(b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n"), id="HTTP/1.0"),
        pytest.param(
            bytes_answer(b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 0\r\n\r\n"), id="HTTP/1.0 alive"
        ),
        pytest.param(bytes_answer(HEAD + b"content-length: 16385\r\n\r\n" + b"x" * 16385), id="16 KiB and a byte"),
        pytest.param(
            bytes_answer(CHUNKED + b"1\r\nx\r\n" * 16384 + b"0\r\n\r\n"),
            id="overhead",
        ),
        pytest.param(bytes_answer(OK + OK), id="two answers"),
        pytest.param(bytes_answer(OK + b"\r\n"), id="a line behind"),
        pytest.param(bytes_answer(OK + b"x"), id="a byte behind"),
        pytest.param(bytes_answer(OK + b"HTTP/1.1 103 Early\r\n\r\n"), id="a head behind"),
        pytest.param(bytes_answer(b"HTTP/1.1 204 No\r\ncontent-length: 2\r\n\r\n"), id="204 that announces"),
        pytest.param(bytes_answer(b"HTTP/1.1 204 No\r\ncontent-length: 2\r\n\r\nok"), id="204 that sends"),
        pytest.param(bytes_answer(b"HTTP/1.1 304 No\r\ncontent-length: 2\r\n\r\nok"), id="304 that sends"),
        pytest.param(bytes_answer(HEAD + b"content-length: 1\r\n\r\nok"), id="longer than announced"),
        pytest.param(then_hang_up(HEAD + b"\r\nok"), id="ends with the connection"),
        pytest.param(then_hang_up(OK), id="hangs up"),
    ],
)
async def test_a_connection_that_could_lie_is_not_kept(answer: Answer) -> None:
    received, transport, _ = await attempts(2, answer)
    assert [one.peer for one in received] == [1, 2]
    assert transport.counts.retries == 0


async def test_bytes_on_an_idle_connection_close_it() -> None:
    """The answer to a request that is not yet sent would be taken for that request's."""
    more = asyncio.Event()

    async def twice(_received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await more.wait()
        writer.write(b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n")

    async with receiving(twice) as receiver, Internet({HOST: receiver.port}).transport() as transport:
        first = await post(transport, URL)
        more.set()
        await until(lambda: not transport.counts.idle)
        second = await post(transport, URL)
    assert [first.status, second.status] == [200, 200]
    assert [one.peer for one in receiver.received] == [1, 2]


def signed() -> Callable[[], dict[str, str]]:
    """A stamp that counts how often it was asked for."""
    stamps = iter(range(1, 10))
    return lambda: {"webhook-timestamp": str(next(stamps))}


@pytest.mark.parametrize("end", [hang_up, reset(), then_hang_up(b"")], ids=["abort", "reset", "end"])
async def test_a_kept_connection_that_dies_is_replaced_once_and_freshly_stamped(end: Answer) -> None:
    stamp = signed()
    async with receiving(bytes_answer(OK), end) as receiver:
        internet = Internet({HOST: receiver.port})
        async with internet.transport() as transport:
            await post(transport, URL, 10, stamp)
            answer = await post(transport, URL, 10, stamp)
    assert (answer.status, answer.reason) == (200, Reason.DELIVERED)
    assert [one.headers["webhook-timestamp"] for one in receiver.received] == ["1", "2", "3"]
    assert [one.peer for one in receiver.received] == [1, 1, 2]
    assert transport.counts.retries == 1
    assert internet.asked == [HOST] * 2, "the second try dials what the attempt has vetted"


async def test_the_replacement_is_not_replaced() -> None:
    async with receiving(bytes_answer(OK), hang_up, hang_up) as receiver:
        async with Internet({HOST: receiver.port}).transport() as transport:
            await post(transport, URL, 10)
            answer = await post(transport, URL, 10)
    assert answer.reason is Reason.DISCONNECTED
    assert len(receiver.received) == 3


@pytest.mark.parametrize(
    ("answers", "requests"),
    [
        pytest.param([hang_up], 1, id="on a fresh connection"),
        pytest.param([bytes_answer(OK), then_hang_up(b"H")], 2, id="after a byte of an answer"),
    ],
)
async def test_what_may_have_been_handled_is_not_repeated(answers: list[Answer], requests: int) -> None:
    async with receiving(*answers) as receiver, Internet({HOST: receiver.port}).transport() as transport:
        got = [await post(transport, URL, 10) for _ in range(requests)]
    assert got[-1].reason is Reason.DISCONNECTED
    assert len(receiver.received) == requests
    assert transport.counts.retries == 0


async def test_a_connection_that_closed_in_its_sleep_is_not_taken() -> None:
    async with receiving(then_hang_up(OK)) as receiver, Internet({HOST: receiver.port}).transport() as transport:
        await post(transport, URL)
        await until(lambda: not transport.counts.open)
        await post(transport, URL)
    assert [one.peer for one in receiver.received] == [1, 2]
    assert transport.counts.retries == 0


async def test_a_connection_to_an_address_that_is_no_longer_the_name_s_is_not_taken() -> None:
    moved = "93.184.216.99"
    answers = [["93.184.216.34"], [moved], ["93.184.216.34", moved]]

    async def look_up(_host: str) -> Sequence[str]:
        return answers.pop(0)

    async with receiving() as receiver:
        internet = Internet({HOST: receiver.port})

        async def dial(address: str, port: int) -> tuple[socket.socket, str]:
            link, _ = await internet.dial(ADDRESSES[HOST], port)
            return link, address

        async with VettedTransport(RULES, lookup=look_up, dial=dial) as transport:
            peers = [(await post(transport, URL)).peer for _ in range(3)]
    assert peers == ["93.184.216.34", moved, moved]
    assert [one.peer for one in receiver.received] == [1, 2, 2]


@pytest.mark.parametrize(
    "answer", [silence, drip(HEAD), drip(HEAD + b"content-length: 1000\r\n\r\n")], ids=["silence", "head", "body"]
)
async def test_whoever_is_canceled_leaves_no_connection(answer: Answer) -> None:
    async with receiving(answer) as receiver, Internet({HOST: receiver.port}).transport() as transport:
        attempt = asyncio.create_task(post(transport, URL, 30))
        await until(lambda: bool(receiver.received))
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
        await until(lambda: not transport.counts.open)
        assert (await post(transport, URL)).is_success
    assert [one.peer for one in receiver.received] == [1, 2]


async def test_cookies_are_not_kept() -> None:
    answer = status(200, "set-cookie: a=b; Path=/")
    received, _, _ = await attempts(2, answer, answer)
    assert not any("cookie" in one.headers for one in received)


async def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiving() as proxy, receiving() as receiver:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        async with Internet({HOST: receiver.port}).transport() as transport:
            assert (await post(transport, URL)).is_success
    assert proxy.connections == 0


@pytest.mark.parametrize("number", OWN_FAULTS)
@pytest.mark.parametrize("stage", ["lookup", "dial"])
async def test_what_we_lack_is_our_own_fault(number: int, stage: str) -> None:
    async def exhausted(*_args: object) -> tuple[socket.socket, str]:
        raise OSError(number, "we have no more of it")

    internet = Internet({})
    lookup = exhausted if stage == "lookup" else internet.look_up
    async with VettedTransport(RULES, lookup=lookup, dial=exhausted) as transport:  # type: ignore[arg-type]
        answer = await post(transport, URL)
    assert (answer.status, answer.reason) == (None, Reason.SENDER)


async def test_without_files_the_idle_connections_are_given_up() -> None:
    async with receiving() as receiver:
        internet = Internet({HOST: receiver.port})

        async def dial(address: str, port: int) -> tuple[socket.socket, str]:
            if address != ADDRESSES[HOST]:
                raise OSError(errno.EMFILE, "Too many open files")
            return await internet.dial(address, port)

        async with VettedTransport(RULES, lookup=internet.look_up, dial=dial) as transport:
            assert (await post(transport, URL)).is_success
            assert transport.counts.idle == 1
            assert (await post(transport, f"http://{HONEST}/")).reason is Reason.SENDER
            assert transport.counts.idle == 0


async def test_a_machine_without_ipv6_does_not_try_such_addresses_for_ever() -> None:
    """It says what a machine without free ports says; waiting does not help here."""

    async def look_up(_host: str) -> Sequence[str]:
        return ["2606:2800:220:1::1"]

    async def dial(_address: str, _port: int) -> tuple[socket.socket, str]:
        raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")

    async with VettedTransport(RULES, lookup=look_up, dial=dial) as transport:
        assert (await post(transport, URL)).reason is Reason.CONNECT


async def test_a_thousand_addresses_are_not_a_thousand_dials() -> None:
    dialled: list[str] = []

    async def look_up(_host: str) -> Sequence[str]:
        return [f"93.184.{number // 250}.{number % 250}" for number in range(1000)]

    async def dial(address: str, _port: int) -> tuple[socket.socket, str]:
        dialled.append(address)
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")

    async with VettedTransport(RULES, lookup=look_up, dial=dial) as transport:
        assert (await post(transport, URL)).reason is Reason.CONNECT
    assert dialled == [f"93.184.0.{number}" for number in range(4)]


async def test_an_address_that_is_silent_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("notifier.dialling.TCP_SECONDS", 0.4)
    async with receiving() as receiver:
        internet = Internet({HOST: receiver.port})

        async def look_up(_host: str) -> Sequence[str]:
            return ["93.184.216.1", ADDRESSES[HOST]]

        async def dial(address: str, port: int) -> tuple[socket.socket, str]:
            if address != ADDRESSES[HOST]:
                await asyncio.sleep(3600)
            return await internet.dial(address, port)

        async with VettedTransport(RULES, lookup=look_up, dial=dial) as transport:
            answer = await post(transport, URL, 10)
    assert (answer.status, answer.peer) == (200, ADDRESSES[HOST])


async def test_the_stamp_is_made_when_the_connection_stands() -> None:
    """As late as can be: a slow name server must not age the signature."""
    stamped: list[float] = []
    answered: list[float] = []

    async def slow(_host: str) -> Sequence[str]:
        await asyncio.sleep(0.3)
        answered.append(time.monotonic())
        return ["127.0.0.1"]

    def stamp() -> dict[str, str]:
        stamped.append(time.monotonic())
        return {}

    async with receiving() as receiver, VettedTransport(LOOPBACK, lookup=slow) as transport:
        await post(transport, f"http://localhost:{receiver.port}/", 10, stamp)
    assert stamped > answered


async def test_at_the_end_the_busy_connections_are_closed_too() -> None:
    async with receiving(silence) as receiver, Internet({HOST: receiver.port}).transport() as transport:
        attempt = asyncio.create_task(post(transport, URL, 30))
        await until(lambda: bool(receiver.received))
        await transport.__aexit__()
        assert (await attempt).reason is Reason.DISCONNECTED
        assert transport.counts.open == 0


async def test_many_at_once_share_what_there_is() -> None:
    async with receiving() as receiver, receiving() as other:
        internet = Internet({HOST: receiver.port, HONEST: other.port})
        async with internet.transport() as transport:
            for _ in range(3):
                urls = [URL, f"http://{HONEST}/"] * 20
                answers = await asyncio.gather(*(post(transport, url, 10) for url in urls))
                assert all(answer.is_success for answer in answers)
            counts = transport.counts
    assert (len(receiver.received), len(other.received)) == (60, 60)
    assert counts.dials == counts.open == counts.idle <= 40
