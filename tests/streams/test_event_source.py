"""The client all stream tests stand on is no better than a browser: it forgets, gives up and resumes as one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.streams.event_source import EventSource, Parser
from tests.streams.scripted import HEAD, scripted
from todoke.wire import sse

ONE, TWO, END = sse.frame("a", "1", "e.1"), sse.frame("b", "2", "e.2"), b"HTTP/1.1 204 No Content\r\n\r\n"
QUICK = b"retry: 50\n\n"
LINES = st.lists(
    st.sampled_from(
        ["data: 1", "data:", "data", "id: e.1", "id", "id: a\0b", "event: x", ": c", "retry: 7", "", "", "\ufeff"]
    )
)


async def test_it_resumes_with_its_cursor_and_stops_at_204() -> None:
    async with scripted(HEAD + QUICK + ONE, HEAD + TWO, END) as server, EventSource(server.url) as source:
        await source.closed()
    assert server.cursors() == [None, "e.1", "e.2"]
    assert [frame.data for frame in source.dispatched] == ["1", "2"]
    assert source.statuses == [200, 200, 204]
    assert source.retries == [50]


async def test_only_a_whole_frame_moves_the_cursor() -> None:
    async with scripted(HEAD + QUICK + ONE + TWO[:-1], HEAD + TWO, END) as server, EventSource(server.url) as source:
        await source.closed()
    assert server.cursors() == [None, "e.1", "e.2"], "the id of the frame that was cut is forgotten with it"
    assert [frame.data for frame in source.dispatched] == ["1", "2"]


async def test_a_frame_without_data_moves_the_cursor_in_silence_and_an_empty_id_clears_it() -> None:
    async with (
        scripted(HEAD + QUICK + b"id: e.7\n\n", HEAD + b"id\n\n", END) as server,
        EventSource(server.url) as source,
    ):
        await source.closed()
    assert server.cursors() == [None, "e.7", None]
    assert source.dispatched == []


async def test_the_cursor_of_the_page_stays_in_the_url() -> None:
    async with scripted(HEAD + QUICK + ONE, END) as server, EventSource(server.url, "earliest") as source:
        await source.closed()
    assert all(request.startswith("GET /jobs/1/events?lastEventId=earliest ") for request in server.requests)
    assert server.cursors() == [None, "e.1"]


@pytest.mark.parametrize(
    "answer",
    [
        END,
        b"HTTP/1.1 503 Busy\r\nContent-Type: text/event-stream\r\n\r\n" + ONE,
        b"HTTP/1.1 429 Slow\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + ONE,
        b"HTTP/1.1 200 OK\r\n\r\n" + ONE,
    ],
)
async def test_every_other_answer_is_the_end(answer: bytes) -> None:
    async with scripted(answer) as server, EventSource(server.url) as source:
        await source.closed()
        assert len(server.requests) == 1
    assert source.dispatched == []


async def test_a_hang_up_before_the_answer_and_inside_a_chunk_is_tried_again() -> None:
    head = HEAD.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n")
    cut = head + b"%x\r\n%b\r\n" % (len(QUICK + ONE), QUICK + ONE) + b"ff\r\n" + TWO
    async with scripted(b"", b"HTTP/1.1 2", cut, END) as server, EventSource(server.url, scale=0.001) as source:
        await source.closed()
    assert [frame.data for frame in source.dispatched] == ["1", "2"]
    assert server.cursors()[-1] == "e.2"
    assert [word.partition(" ")[0] for word in source.closings] == ["cut", "cut", "cut", "failed"]


async def test_taken_by_its_word_the_standard_forgets_the_cursor_at_a_frame_without_id() -> None:
    scripts = (HEAD + QUICK + ONE, HEAD + b": hello\n\n", END)
    async with scripted(*scripts) as server, EventSource(server.url, is_literal=True) as source:
        await source.closed()
    assert server.cursors() == [None, "e.1", None]
    async with scripted(*scripts) as server, EventSource(server.url) as source:
        await source.closed()
    assert server.cursors() == [None, "e.1", "e.1"]


async def test_closing_it_is_final() -> None:
    async with scripted(*[HEAD + ONE] * 9) as server, EventSource(server.url) as source:
        await source.until(lambda source: source.dispatched)
        await source.close()
        assert source.state == "closed"
        assert len(server.requests) == 1


@given(LINES, st.sampled_from(["\n", "\r\n", "\r"]), st.integers(1, 9))
def test_the_parser_of_the_product_agrees(lines: list[str], end: str, size: int) -> None:
    data = end.join([*lines, "", "data: last", "", "x"]).encode()
    ours, theirs = Parser(), sse.Decoder()
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    assert [f for piece in pieces for f in ours.feed(piece)] == [f for piece in pieces for f in theirs.feed(piece)]
