"""Receivers that spoil TCP or TLS before any HTTP: each ends in time with its reason, and an honest one is served."""

import asyncio
import contextlib
import os
import socket
import ssl
import struct
import threading
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from notifier.transport import tls_context
from tests.conftest import until
from tests.notifier.certificates import Authority
from tests.notifier.internet import ADDRESSES, DEADLINE, HONEST, HOST, Internet, post, post_beside_honest
from tests.notifier.receiver import receiving
from todoke.model.delivery import Reason
from todoke.wire.destination import Rules

Make = Callable[[Authority], ssl.SSLContext]
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

URL = f"https://{HOST}/"
HELLO_BYTES = 64


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def expired(authority: Authority) -> ssl.SSLContext:
    return authority.server(HOST, age_days=30)


def not_yet(authority: Authority) -> ssl.SSLContext:
    return authority.server(HOST, age_days=-30)


def wrong_host(authority: Authority) -> ssl.SSLContext:
    return authority.server("example.com", f"www.{HOST}")


def old_versions(authority: Authority) -> ssl.SSLContext:
    server = authority.server(HOST)
    server.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        server.minimum_version, server.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    return server


def wants_certificate(version: ssl.TLSVersion) -> Make:
    def make(authority: Authority) -> ssl.SSLContext:
        server = authority.server(HOST)
        server.maximum_version = version
        server.verify_mode = ssl.CERT_REQUIRED
        return server

    return make


@contextlib.contextmanager
def shaking_hands(context: ssl.SSLContext) -> Iterator[tuple[int, list[bytes]]]:
    """A blocking TLS server: unlike the event loop's it says by an alert why it hangs up. Yields port and what it got.

    One connection, open until the block ends.
    """
    received: list[bytes] = []
    over = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(10)

    def serve() -> None:
        link, _ = listener.accept()
        link.settimeout(10)
        with context.wrap_socket(link, server_side=True, do_handshake_on_connect=False) as shaken:
            with contextlib.suppress(OSError):
                shaken.do_handshake()
                received.append(shaken.recv(1))
            # Closed at once, what it has not read would become a RST, which may overtake the alert.
            over.wait(10)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1], received
    finally:
        over.set()
        thread.join(10)
        listener.close()


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(expired, id="expired"),
        pytest.param(not_yet, id="not yet valid"),
        pytest.param(wrong_host, id="wrong host"),
        pytest.param(old_versions, id="TLS 1.0 and 1.1 only"),
        pytest.param(wants_certificate(ssl.TLSVersion.TLSv1_2), id="client certificate in TLS 1.2"),
        pytest.param(wants_certificate(ssl.TLSVersion.TLSv1_3), id="client certificate in TLS 1.3"),
    ],
)
async def test_a_bad_server_is_refused_before_anything_is_sent(authority: Authority, make: Make) -> None:
    with shaking_hands(make(authority)) as (port, received):
        async with receiving(tls=authority.server(HONEST)) as honest:
            async with Internet({HOST: port, HONEST: honest.port}).transport(authority.client()) as transport:
                got = await post_beside_honest(transport, URL)
    assert (got.status, got.reason, got.peer) == (None, Reason.TLS, ADDRESSES[HOST])
    assert received == []
    assert got.seconds < DEADLINE + 0.5


async def test_nobody_vouches_for_a_stranger(authority: Authority) -> None:
    """Over the transport's own trust, which no test can be part of."""
    async with receiving(tls=authority.server(HOST)) as hostile:
        async with Internet({HOST: hostile.port}).transport(tls_context()) as transport:
            got = await post(transport, URL)
    assert (got.reason, hostile.received) == (Reason.TLS, [])


def test_our_own_trust_is_strict() -> None:
    context = tls_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


async def _speaks_plainly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(HELLO_BYTES)
    writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
    await reader.read()


async def _speaks_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
    await reader.read()


async def _stalls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await reader.read(HELLO_BYTES):
        pass


async def _drips(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The start of a ServerHello that never comes to its end."""
    writer.write(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc\x03\x03")
    while not writer.is_closing():
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.05)


async def _hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(HELLO_BYTES)
    writer.close()


async def _resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(HELLO_BYTES)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A handshake message that announces 16 MiB, and what there is of it."""
    writer.write(b"\x16\x03\x03\x40\x00\x02\xff\xff\xff" + b"x" * (0x4000 - 4))
    while not writer.is_closing():
        writer.write(b"\x16\x03\x03\x40\x00" + b"x" * 0x4000)
        await writer.drain()


@contextlib.asynccontextmanager
async def talking(talk: Talk) -> AsyncIterator[int]:
    """A bare TCP server; `talk` is one connection's life. Yields its port; ends when all have."""
    ended: set[asyncio.Task[None]] = set()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        ended.add(task)
        with contextlib.suppress(OSError):
            await talk(reader, writer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
        # A client that hangs up lets everybody go.
        if ended:
            await asyncio.wait_for(asyncio.wait(ended), 5)
    finally:
        server.close()


@pytest.mark.parametrize(
    ("talk", "reason"),
    [
        pytest.param(_speaks_plainly, Reason.TLS, id="plain text"),
        pytest.param(_speaks_first, Reason.TLS, id="plain text at once"),
        pytest.param(_stalls, Reason.TIMEOUT, id="stalls"),
        pytest.param(_drips, Reason.TIMEOUT, id="drips"),
        pytest.param(_hangs_up, Reason.TLS, id="hangs up"),
        pytest.param(_resets, Reason.TLS, id="resets"),
        pytest.param(_floods, Reason.TLS, id="floods"),
    ],
)
async def test_what_is_no_handshake_ends_in_time(authority: Authority, talk: Talk, reason: Reason) -> None:
    async with talking(talk) as port, receiving(tls=authority.server(HONEST)) as honest:
        async with Internet({HOST: port, HONEST: honest.port}).transport(authority.client()) as transport:
            got = await post_beside_honest(transport, URL)
    assert (got.status, got.reason) == (None, reason)
    assert got.seconds < DEADLINE + 0.5


async def test_each_stage_has_a_limit_of_its_own(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ended by the stage's limit, long before the caller's."""
    monkeypatch.setattr("notifier.dialling.TLS_SECONDS", 0.2)
    async with talking(_stalls) as port:
        async with Internet({HOST: port}).transport(authority.client()) as transport:
            got = await post(transport, URL, 30)
    assert (got.reason, got.peer) == (Reason.TIMEOUT, ADDRESSES[HOST])
    assert got.seconds < 5


async def test_no_attempt_leaves_a_file_open(authority: Authority) -> None:
    """Whether it was refused in the handshake, or canceled there or before."""
    async with talking(_stalls) as stalling, talking(_speaks_first) as plain:
        async with Internet({HOST: stalling, HONEST: plain}).transport(authority.client()) as transport:
            before = len(os.listdir("/dev/fd"))
            attempts = [
                post(transport, f"https://{host}/", seconds / 10) for host in (HOST, HONEST) for seconds in range(5)
            ]
            answers = await asyncio.gather(*attempts)
            assert {answer.reason for answer in answers} == {Reason.TIMEOUT, Reason.TLS}
            # The servers here share the process: their ends are open a moment longer.
            await until(lambda: len(os.listdir("/dev/fd")) <= before)
            assert transport.counts.open == 0


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """A port whose SYNs are not answered: a listener with a full queue, which nobody accepts from."""
    with contextlib.ExitStack() as open_sockets:
        listener = open_sockets.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(8):
            caller = open_sockets.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@pytest.mark.parametrize("own", [True, False], ids=["the stage's limit", "the caller's"])
async def test_a_black_hole_ends_in_time(own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = 30 if own else DEADLINE
    if own:
        monkeypatch.setattr("notifier.dialling.TCP_SECONDS", 0.3)
    with black_hole() as port:
        async with receiving() as honest:
            async with Internet({HOST: port, HONEST: honest.port}).transport() as transport:
                attempt = asyncio.create_task(post(transport, f"http://{HOST}/", seconds))
                assert (await post(transport, f"http://{HONEST}/")).is_success
                got = await attempt
    assert (got.status, got.reason) == (None, Reason.TIMEOUT)
    assert got.seconds < 5


async def test_a_closed_port_is_refused_at_once() -> None:
    async with receiving() as gone:
        pass
    async with receiving() as honest:
        async with Internet({HOST: gone.port, HONEST: honest.port}).transport() as transport:
            got = await post_beside_honest(transport, f"http://{HOST}/")
    assert (got.status, got.reason, got.peer) == (None, Reason.CONNECT, ADDRESSES[HOST])


async def test_two_names_on_one_address_share_no_connection(authority: Authority) -> None:
    """Two names, one address, one certificate, for the first of them: the second gets nothing over its connection."""
    async with receiving(tls=authority.server(HOST)) as shared:
        internet = Internet({HOST: shared.port, HONEST: shared.port})
        async with internet.transport(authority.client(), Rules()) as transport:
            first = await post(transport, URL)
            second = await post(transport, f"https://{HONEST}/")
            third = await post(transport, URL)
    assert [answer.reason for answer in (first, second, third)] == [Reason.DELIVERED, Reason.TLS, Reason.DELIVERED]
    assert len(shared.received) == 2
    assert shared.received[0].peer == shared.received[1].peer
    assert transport.counts.reuses == 1
