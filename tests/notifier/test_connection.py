"""One connection, called as the event loop calls it: what meets in the same moment, and every way to cut an answer."""

import asyncio
import ssl
import time
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.connection import Connection, Stale
from notifier.faults import SendError
from notifier.replies import Reply, ReplyParser
from tests.notifier.receiver import OK
from todoke.model.delivery import Reason

KEY = ("http", "hooks.example.com", 80)
ADDRESS = "93.184.216.34"


class Wire(asyncio.Transport):
    """Takes what is written, is closed when it is aborted."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.unsent = 0
        self.is_aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def abort(self) -> None:
        self.is_aborted = True

    def is_closing(self) -> bool:
        return self.is_aborted


@dataclass
class Keeper:
    rest: list[Connection] = field(default_factory=list)

    def opened(self, connection: Connection) -> None:
        """Nothing to keep."""

    def rested(self, connection: Connection) -> None:
        self.rest.append(connection)

    def lost(self, connection: Connection) -> None:
        """Nothing to keep."""


@pytest.fixture
def keeper() -> Keeper:
    return Keeper()


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture
def connection(keeper: Keeper, wire: Wire) -> Connection:
    made = Connection(keeper, KEY, ADDRESS)
    made.connection_made(wire)
    return made


async def asked(connection: Connection) -> "asyncio.Task[Reply]":
    """A request that is written and waits for its answer."""
    task = asyncio.create_task(connection.post(b"POST"))
    await asyncio.sleep(0)
    return task


async def test_a_cancel_that_comes_with_the_answer_leaves_the_next_exchange_alone(
    connection: Connection, keeper: Keeper, wire: Wire
) -> None:
    """When the canceled one learns of it, the connection is somebody else's."""
    first = await asked(connection)
    connection.data_received(OK)
    assert keeper.rest == [connection]
    first.cancel()
    second = asyncio.create_task(connection.post(b"POST"))
    await asyncio.wait((first,))
    assert first.cancelled()
    connection.data_received(OK)
    assert (await second).status == 200
    assert not wire.is_aborted


async def test_an_answer_that_comes_after_the_cancel_goes_to_nobody(
    connection: Connection, keeper: Keeper, wire: Wire
) -> None:
    first = await asked(connection)
    first.cancel()
    await asyncio.sleep(0)
    connection.data_received(OK)
    await asyncio.wait((first,))
    assert (keeper.rest, wire.is_aborted) == ([], True)


async def test_an_answer_before_the_request_is_out_ends_the_connection(
    connection: Connection, keeper: Keeper, wire: Wire
) -> None:
    task = await asked(connection)
    wire.unsent = 1
    connection.data_received(OK)
    assert (await task).status == 200
    assert (keeper.rest, wire.is_aborted) == ([], True)


async def test_bytes_before_any_request_end_the_connection(connection: Connection, wire: Wire) -> None:
    connection.data_received(b"H")
    assert wire.is_aborted


async def test_only_a_kept_connection_without_a_byte_is_stale(connection: Connection) -> None:
    first = await asked(connection)
    connection.data_received(OK)
    await first
    second = await asked(connection)
    connection.connection_lost(ConnectionResetError())
    with pytest.raises(Stale):
        await second


@pytest.mark.parametrize("came", [b"", b"H", b"HTTP/1.1 200 OK\r\n"])
async def test_a_fresh_connection_is_never_stale(connection: Connection, came: bytes) -> None:
    task = await asked(connection)
    if came:
        connection.data_received(came)
    connection.connection_lost(None)
    with pytest.raises(SendError) as caught:
        await task
    assert (caught.type, caught.value.reason, caught.value.peer) == (SendError, Reason.DISCONNECTED, ADDRESS)


async def test_a_connection_that_is_lost_before_its_first_request_says_so(connection: Connection) -> None:
    connection.connection_lost(ssl.SSLError("alert"))
    with pytest.raises(SendError) as caught:
        await connection.post(b"POST")
    assert caught.value.reason is Reason.TLS


async def test_a_body_that_does_not_end_is_cut_by_whoever_reads_or_by_itself(
    connection: Connection, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("notifier.connection.BODY_SECONDS", 0.05)
    task = await asked(connection)
    connection.data_received(b"HTTP/1.1 500 No\r\ncontent-length: 100\r\n\r\nhello")
    reply = await task
    assert await reply.read(asyncio.get_running_loop().time() + 60) == b"hello"
    assert wire.is_aborted


async def test_a_body_ends_with_the_caller_s_deadline(connection: Connection, wire: Wire) -> None:
    task = await asked(connection)
    connection.data_received(b"HTTP/1.1 500 No\r\ncontent-length: 100\r\n\r\nhello")
    reply = await task
    assert await reply.read(asyncio.get_running_loop().time()) == b"hello"
    assert wire.is_aborted


@pytest.mark.parametrize("is_canceled", [True, False], ids=["canceled", "deadline"])
async def test_a_reader_that_stops_as_the_body_ends_leaves_the_next_exchange_alone(
    connection: Connection, wire: Wire, is_canceled: bool
) -> None:
    task = await asked(connection)
    connection.data_received(b"HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\no")
    reply = await task
    until = asyncio.get_running_loop().time() + (60 if is_canceled else 0.01)
    reading = asyncio.create_task(reply.read(until))
    await asyncio.sleep(0)
    if is_canceled:
        reading.cancel()
    else:
        # Past the deadline without a turn of the loop: it fires in the moment of the last byte.
        time.sleep(0.02)  # noqa: ASYNC251
    connection.data_received(b"k")
    following = asyncio.create_task(connection.post(b"POST"))
    await asyncio.wait((reading,))
    assert not wire.is_aborted
    connection.data_received(OK)
    assert (await following).status == 200


CHUNKS = (
    b"HTTP/1.1 103 Early\r\nx: y\r\n\r\nHTTP/1.1 200 OK\r\nretry-after:  5 \r\ntransfer-encoding: chunked\r\n\r\n"
    b"3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nz: z\r\n\r\n"
)


def parsed(*pieces: bytes) -> tuple[int, str | None, bytes, bool, bool]:
    parser, reply = ReplyParser(), Reply(ADDRESS, is_tls=False)
    parser.expect(reply)
    for piece in pieces:
        parser.feed(piece)
    return reply.status, reply.header("retry-after"), bytes(reply.excerpt), parser.is_over, parser.may_stay


def test_an_answer_reads_the_same_wherever_it_is_cut() -> None:
    whole = (200, "5", b"abcde", True, True)
    assert parsed(*(bytes((byte,)) for byte in CHUNKS)) == whole
    for place in range(1, len(CHUNKS)):
        assert parsed(CHUNKS[:place], CHUNKS[place:]) == whole


def test_what_lies_behind_an_answer_is_noticed_wherever_it_is_cut() -> None:
    for behind in (b"\r\n", b"x", OK):
        for place in range(1, len(CHUNKS + behind)):
            *_, is_over, may_stay = parsed((CHUNKS + behind)[:place], (CHUNKS + behind)[place:])
            # Cut exactly at the end the rest arrives at an idle connection, whose own matter it is.
            assert (is_over, may_stay) == (True, False) or place == len(CHUNKS)


def test_an_answer_is_over_before_its_last_byte_never() -> None:
    for place in range(1, len(CHUNKS)):
        assert not parsed(CHUNKS[:place])[3]


PIECES = [
    *(b"HTTP/1.1 ", b"HTTP/1.0 ", b"200", b"204", b"304", b"101", b"103", b"500", b" OK", b"\0"),
    *(b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"0", b"3", b"-1", b"abc", b"x: y", OK),
    *(b"content-length: ", b"transfer-encoding: chunked", b"connection: close"),
]


@given(st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=8)), max_size=40), st.integers(1, 50))
def test_no_bytes_whatever_trip_the_parser(pieces: list[bytes], step: int) -> None:
    data = b"".join(pieces)
    parser, reply = ReplyParser(), Reply(ADDRESS, is_tls=False)
    parser.expect(reply)
    reason = None
    try:
        for place in range(0, len(data), step):
            parser.feed(data[place : place + step])
    except SendError as error:
        reason = error.reason
    assert reason in (None, Reason.PROTOCOL, Reason.TOO_LARGE)
    assert parser.has_head == (200 <= reply.status <= 599)
    assert not (parser.has_head and reason)


def head_of(size: int) -> bytes:
    start, end = b"HTTP/1.1 200 OK\r\nx: ", b"\r\ncontent-length: 0\r\n\r\n"
    return start + b"y" * (size - len(start) - len(end)) + end


@pytest.mark.parametrize("step", [1, 1000, 10**6])
def test_a_head_may_have_32_kib_and_not_a_byte_more(step: int) -> None:
    def steps(data: bytes) -> list[bytes]:
        return [data[place : place + step] for place in range(0, len(data), step)]

    assert parsed(*steps(head_of(32 * 1024)))[0] == 200
    with pytest.raises(SendError, match=Reason.TOO_LARGE.value):
        parsed(*steps(head_of(32 * 1024 + 1)))


def test_the_excerpt_is_the_first_kib() -> None:
    body = bytes(range(256)) * 8
    assert parsed(b"HTTP/1.1 200 OK\r\ncontent-length: 2048\r\n\r\n", body)[2] == body[:1024]
