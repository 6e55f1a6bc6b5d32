"""One attempt against receivers that are slow, rude or dangerous. What is dialled is always loopback."""

import asyncio
import gzip
import socket
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohappyeyeballs
import pytest
import structlog

from notifier.resolver import look_up
from notifier.sender import Sender
from notifier.transport import BODY_BYTES_MAX, VettedTransport
from tests.conftest import SIGNING_SECRET
from tests.notifier.certificates import server_context
from tests.notifier.receiver import Answer, Receiver, bytes_answer, drip, hang_up, receiving, silence, status
from todoke.model.delivery import Delivery, DeliveryState, Reason, Verdict
from todoke.model.ids import new_id
from todoke.wire.destination import Rules

DEADLINE = 1.0
PUBLIC = "93.184.216.34"
HOST = "hooks.example.com"
PLAIN = Rules()
DESK = Rules(allow_loopback=True)


@dataclass
class Names:
    """A name server of the test's own: answers are used up in order, the last one stays."""

    answers: list[Sequence[str]]
    asked: list[str] = field(default_factory=list)

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@dataclass
class Dials:
    """Every address about to be dialled; public ones lead to the test's receiver instead."""

    port: int = 0
    addresses: list[str] = field(default_factory=list)


@pytest.fixture
def dials(monkeypatch: pytest.MonkeyPatch) -> Dials:
    seen = Dials()
    real = aiohappyeyeballs.start_connection

    async def start_connection(addr_infos: Sequence[Any], **options: Any) -> Any:
        seen.addresses += [str(info[4][0]) for info in addr_infos]
        mapped = [(*info[:4], ("127.0.0.1", seen.port or info[4][1])) for info in addr_infos]
        return await real(mapped, **options)

    monkeypatch.setattr(aiohappyeyeballs, "start_connection", start_connection)
    return seen


def a_delivery(url: str, attempt: int = 1) -> Delivery:
    return Delivery(new_id(), 3, "default", url, attempt, lease=1, body='{"type":"job.succeeded"}')


async def send(url: str, transport: VettedTransport | None = None) -> Verdict:
    async with transport or VettedTransport(DESK) as opened:
        return await Sender(opened, SIGNING_SECRET, DEADLINE).send(a_delivery(url))


async def send_timed(receiver: Receiver) -> tuple[Verdict, float]:
    async with VettedTransport(DESK) as transport:
        started = time.monotonic()
        verdict = await Sender(transport, SIGNING_SECRET, DEADLINE).send(a_delivery(receiver.url))
        return verdict, time.monotonic() - started


HEAD = b"HTTP/1.1 200 OK\r\n"
ENDLESS = b"content-length: 1000000\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "code", "reason"),
    [
        (silence, None, Reason.TIMEOUT),
        (hang_up, None, Reason.DISCONNECTED),
        (drip(b"HTTP/1.1 200 "), None, Reason.TIMEOUT),
        (drip(HEAD, b"x: y\r\n"), None, Reason.TIMEOUT),
        (drip(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"), None, Reason.TIMEOUT),
        (drip(HEAD + ENDLESS), 200, Reason.DELIVERED),
        (drip(b"HTTP/1.1 500 No\r\n" + ENDLESS), 500, Reason.HTTP_STATUS),
        (bytes_answer(HEAD + ENDLESS), 200, Reason.DELIVERED),
        (bytes_answer(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), None, Reason.PROTOCOL),
        (bytes_answer(HEAD + b"x: y\r\n" * 3000 + b"\r\n"), None, Reason.PROTOCOL),
        (bytes_answer(HEAD + b"x: " + b"y" * 2**20 + b"\r\n\r\n"), None, Reason.PROTOCOL),
        (bytes_answer(HEAD + b"content-length: -1\r\n\r\n"), None, Reason.PROTOCOL),
        (bytes_answer(HEAD + b"transfer-encoding: chunked\r\n\r\nZZ\r\n"), None, Reason.PROTOCOL),
        (status(204), 204, Reason.DELIVERED),
        (status(301, "location: http://169.254.169.254/"), 301, Reason.REDIRECT),
        (status(302), 302, Reason.REDIRECT),
        (status(304), 304, Reason.REDIRECT),
        (status(404), 404, Reason.HTTP_STATUS),
        (status(429), 429, Reason.HTTP_STATUS),
        (status(599), 599, Reason.HTTP_STATUS),
    ],
)
async def test_every_answer_ends_in_time_with_its_reason(answer: Answer, code: int | None, reason: Reason) -> None:
    async with receiving(answer) as receiver:
        verdict, seconds = await send_timed(receiver)
    assert (verdict.status, verdict.reason) == (code, reason)
    assert (verdict.state is DeliveryState.DELIVERED) == (code is not None and code < 300)
    assert verdict.is_charged
    assert seconds < DEADLINE + 0.5
    assert len(receiver.received) == 1


async def test_a_closed_port_is_refused_at_once() -> None:
    async with receiving() as receiver:
        pass
    verdict = await send(receiver.url)
    assert (verdict.state, verdict.reason) == (DeliveryState.PENDING, Reason.CONNECT)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_no_redirect_is_followed(code: int) -> None:
    async with receiving() as target, receiving(status(code, f"location: {target.url}")) as receiver:
        verdict = await send(receiver.url)
    assert (verdict.status, verdict.reason) == (code, Reason.REDIRECT)
    assert target.connections == 0


async def test_a_gzip_bomb_stays_packed() -> None:
    bomb = gzip.compress(bytes(64 * 2**20))
    head = f"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {len(bomb)}\r\n\r\n".encode()
    async with receiving(bytes_answer(head + bomb)) as receiver:
        tracemalloc.start()
        try:
            verdict = await send(receiver.url)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert verdict.state is DeliveryState.DELIVERED
    assert most < 8 * 2**20


async def test_an_endless_body_is_cut_and_its_connection_closed() -> None:
    written = 0
    hung_up = asyncio.Event()

    async def endless(_received: object, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        try:
            while True:
                writer.write(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
                await writer.drain()
                written += 0x1000
        except OSError:
            hung_up.set()
            raise

    async with receiving(endless) as receiver:
        verdict = await send(receiver.url)
        await asyncio.wait_for(hung_up.wait(), 5)
    assert verdict.state is DeliveryState.DELIVERED
    # Beyond the cap lies only what the kernel's socket buffers took.
    assert written < 16 * 2**20
    assert BODY_BYTES_MAX == 16384


async def test_cookies_are_not_kept() -> None:
    async with (
        receiving(status(200, "set-cookie: a=b; Path=/")) as receiver,
        VettedTransport(DESK) as transport,
    ):
        sender = Sender(transport, SIGNING_SECRET, DEADLINE)
        await sender.send(a_delivery(receiver.url.replace("127.0.0.1", "localhost")))
        await sender.send(a_delivery(receiver.url.replace("127.0.0.1", "localhost")))
    assert len(receiver.received) == 2
    assert not any("cookie" in received.headers for received in receiver.received)


async def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiving() as proxy, receiving() as receiver:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        verdict = await send(receiver.url)
    assert verdict.state is DeliveryState.DELIVERED
    assert proxy.connections == 0


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/",
        "https://127.0.0.1:{port}/",
        "https://[::1]:{port}/",
        "https://localhost:{port}/",
        "https://2130706433:{port}/",
        "https://0x7f.1:{port}/",
        "https://127.1:{port}/",
        "https://169.254.169.254/latest/meta-data/",
        "https://10.0.0.1/",
    ],
)
async def test_a_private_address_gets_no_packet(url: str, dials: Dials) -> None:
    async with receiving() as receiver:
        verdict = await send(url.format(port=receiver.port), VettedTransport(PLAIN))
    assert (verdict.state, verdict.status, verdict.reason) == (DeliveryState.PENDING, None, Reason.BLOCKED)
    assert verdict.is_charged
    assert dials.addresses == []
    assert receiver.connections == 0


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], [PUBLIC, "10.0.0.1"], ["::1", PUBLIC], ["::ffff:127.0.0.1"], ["64:ff9b::7f00:1"]]
)
async def test_a_name_with_one_denied_address_gets_no_packet(addresses: list[str], dials: Dials) -> None:
    names = Names([addresses])
    verdict = await send(f"https://{HOST}/", VettedTransport(DESK, lookup=names))
    assert verdict.reason is Reason.BLOCKED
    assert names.asked == [HOST]
    assert dials.addresses == []


async def test_rebinding_between_attempts_is_refused(dials: Dials) -> None:
    async with receiving() as receiver:
        dials.port = receiver.port
        names = Names([[PUBLIC], ["127.0.0.1"]])
        async with VettedTransport(PLAIN, lookup=names) as transport:
            sender = Sender(transport, SIGNING_SECRET, DEADLINE)
            # Plain text meets TLS: the dial counts, not the answer.
            first = await sender.send(a_delivery(f"https://{HOST}/"))
            second = await sender.send(a_delivery(f"https://{HOST}/"))
    assert first.reason is not Reason.BLOCKED
    assert second.reason is Reason.BLOCKED
    assert dials.addresses == [PUBLIC]
    assert names.asked == [HOST, HOST]


async def test_what_was_vetted_is_what_is_dialled(dials: Dials, tmp_path: Path) -> None:
    """One lookup serves check and dial: a name server that lies the second time is not asked a second time."""
    server, client = server_context(tmp_path, HOST)
    async with receiving(tls=server) as receiver:
        dials.port = receiver.port
        names = Names([[PUBLIC], ["127.0.0.1"]])
        verdict = await send(f"https://{HOST}/", VettedTransport(PLAIN, lookup=names, tls=client))
    assert verdict.state is DeliveryState.DELIVERED
    assert dials.addresses == [PUBLIC]
    assert names.asked == [HOST]
    # SNI and certificate were checked against the name, or this would not have been delivered.
    assert receiver.received[0].headers["host"] == HOST


async def test_two_names_on_one_address_share_no_connection(dials: Dials, tmp_path: Path) -> None:
    server, client = server_context(tmp_path, HOST)
    async with receiving(tls=server) as receiver:
        dials.port = receiver.port
        async with VettedTransport(PLAIN, lookup=Names([[PUBLIC]]), tls=client) as transport:
            sender = Sender(transport, SIGNING_SECRET, DEADLINE)
            mine = await sender.send(a_delivery(f"https://{HOST}/"))
            other = await sender.send(a_delivery("https://other.example.com/"))
    assert mine.state is DeliveryState.DELIVERED
    assert other.reason is Reason.TLS
    assert len(receiver.received) == 1


async def test_a_certificate_nobody_vouches_for_is_refused(dials: Dials, tmp_path: Path) -> None:
    server, _ = server_context(tmp_path, HOST)
    async with receiving(tls=server) as receiver:
        dials.port = receiver.port
        verdict = await send(f"https://{HOST}/", VettedTransport(PLAIN, lookup=Names([[PUBLIC]])))
    assert (verdict.reason, receiver.received) == (Reason.TLS, [])


async def test_logs_show_the_host_and_nothing_that_could_be_a_secret() -> None:
    url_secret = "token-in-the-query"
    async with receiving(hang_up, bytes_answer(b"nonsense\r\n\r\n"), status(500)) as receiver:
        with structlog.testing.capture_logs() as lines:
            for _ in range(4):
                await send(f"{receiver.url}?key={url_secret}")
            await send(f"https://[bad/?key={url_secret}")
    shown = repr(lines)
    assert "127.0.0.1" in shown
    for secret in (url_secret, SIGNING_SECRET, SIGNING_SECRET.removeprefix("whsec_"), "v1,", "/hook"):
        assert secret not in shown


async def test_a_name_server_that_never_answers_ends_with_the_deadline() -> None:
    async def stall(_host: str) -> Sequence[str]:
        await asyncio.sleep(3600)
        return []

    started = time.monotonic()
    verdict = await send(f"https://{HOST}/", VettedTransport(PLAIN, lookup=stall))
    assert verdict.reason is Reason.TIMEOUT
    assert time.monotonic() - started < DEADLINE + 0.5


async def test_a_name_that_does_not_exist_is_told_apart() -> None:
    async def nothing(_host: str) -> Sequence[str]:
        raise OSError(-2, "Name or service not known")

    assert (await send(f"https://{HOST}/", VettedTransport(PLAIN, lookup=nothing))).reason is Reason.DNS


async def test_running_out_of_files_is_our_own_fault() -> None:
    async def exhausted(_host: str) -> Sequence[str]:
        raise OSError(24, "Too many open files")

    verdict = await send(f"https://{HOST}/", VettedTransport(PLAIN, lookup=exhausted))
    assert (verdict.reason, verdict.state, verdict.is_charged) == (Reason.SENDER, DeliveryState.PENDING, False)


async def test_the_timestamp_is_taken_when_the_connection_stands() -> None:
    async def slow(_host: str) -> Sequence[str]:
        await asyncio.sleep(1.2)
        return ["127.0.0.1"]

    async with receiving() as receiver, VettedTransport(DESK, lookup=slow) as transport:
        url = receiver.url.replace("127.0.0.1", "localhost")
        await Sender(transport, SIGNING_SECRET, 5).send(a_delivery(url))
    [received] = receiver.received
    assert 0 <= received.at - int(received.headers["webhook-timestamp"]) < 1.1


async def test_the_system_resolver_knows_localhost() -> None:
    assert set(await look_up("localhost")) <= {"127.0.0.1", "::1"}
    with pytest.raises(socket.gaierror):
        await look_up("name.invalid")
