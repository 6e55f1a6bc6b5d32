"""What the sender makes of answers, and what it tells of them."""

import ssl
from pathlib import Path

import pytest
import structlog

from notifier.sender import Sender
from notifier.transport import VettedTransport
from tests.conftest import SIGNING_SECRET, until
from tests.notifier.certificates import server_context
from tests.notifier.internet import BODY, HOST, Internet, post
from tests.notifier.receiver import bytes_answer, drip, hang_up, receiving, status
from todoke.model.delivery import Control, Reason
from todoke.wire.destination import Rules

URL_SECRET = "token-in-the-query"


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    return server_context(tmp_path, HOST)


@pytest.mark.parametrize("word", list(Control))
async def test_control_headers_count_over_tls_only(word: Control, tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """Over plain HTTP anybody on the way could have written them."""
    server, client = tls
    answer = status(500, f"Webhook-Delivery:  {word.value} ")
    async with receiving(answer, tls=server) as sealed, receiving(answer) as plain:
        async with Internet({HOST: sealed.port}).transport(client) as transport:
            assert (await post(transport, f"https://{HOST}/")).control is word
        async with Internet({HOST: plain.port}).transport() as transport:
            assert (await post(transport, f"http://{HOST}/")).control is None


async def test_a_head_in_time_is_an_answer_whatever_becomes_of_the_body() -> None:
    """The deadline comes while the body is read: that changes nothing."""
    answer = drip(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
    async with receiving(answer) as receiver, VettedTransport(Rules(allow_loopback=True)) as transport:
        got = await post(transport, receiver.url, 0.3)
    assert (got.status, got.reason) == (200, Reason.DELIVERED)
    assert 0.2 < got.seconds < 0.9


@pytest.mark.parametrize("url", ["https://[bad/", "http://127.0.0.1:0/", "ftp://127.0.0.1/", "", "https://x\r\ny/"])
async def test_a_url_that_is_none_is_blocked(url: str) -> None:
    async with VettedTransport(Rules(allow_loopback=True)) as transport:
        assert (await post(transport, url)).reason is Reason.BLOCKED


async def test_a_signer_that_trips_makes_no_exception() -> None:
    def trips() -> dict[str, str]:
        raise RuntimeError(URL_SECRET)

    async with receiving() as receiver, VettedTransport(Rules(allow_loopback=True)) as transport:
        with structlog.testing.capture_logs() as lines:
            got = await post(transport, receiver.url, stamp=trips)
        await until(lambda: not transport.counts.open)
    assert got.status is None
    assert URL_SECRET not in repr(lines)
    assert receiver.received == []


async def test_logs_show_the_host_and_nothing_that_could_be_a_secret() -> None:
    """Not even when the receiver sends everything back."""

    def stamp() -> dict[str, str]:
        return {"webhook-signature": f"v1,{SIGNING_SECRET}"}

    mirrored = f"HTTP/1.1 500 No\r\ncontent-length: 60\r\n\r\n{SIGNING_SECRET:60}".encode()
    async with receiving(hang_up, bytes_answer(b"nonsense\r\n\r\n"), status(500), bytes_answer(mirrored)) as receiver:
        async with VettedTransport(Rules(allow_loopback=True)) as transport:
            with structlog.testing.capture_logs() as lines:
                for _ in range(4):
                    await Sender(transport, 1, 1024).post(f"{receiver.url}?key={URL_SECRET}", {}, BODY, stamp)
                await Sender(transport, 1, 1024).post(f"https://[bad/?key={URL_SECRET}", {}, BODY, stamp)
    shown = repr(lines)
    for secret in (URL_SECRET, SIGNING_SECRET, SIGNING_SECRET.removeprefix("whsec_"), "v1,", "/hook"):
        assert secret not in shown
