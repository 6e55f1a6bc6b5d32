"""Frames as bytes, against the rules a browser follows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from todoke.wire import sse

WORDS = st.text(st.characters(blacklist_characters="\r\n\0", blacklist_categories=["Cs"]), min_size=1)


def decode(data: bytes, pieces: int = 1) -> list[sse.Frame]:
    decoder = sse.Decoder()
    size = max(1, len(data) // pieces)
    return [frame for start in range(0, len(data), size) for frame in decoder.feed(data[start : start + size])]


def test_a_numbered_frame() -> None:
    assert sse.frame("job.started", "{}", "a1.2") == b"event: job.started\nid: a1.2\ndata: {}\n\n"


def test_an_unnumbered_frame_moves_no_cursor() -> None:
    frames = decode(sse.frame("a", "1", "e.1") + sse.frame("job.progress", "2"))
    assert [frame.last_event_id for frame in frames] == ["e.1", "e.1"]


def test_comments_and_retry_are_no_events() -> None:
    decoder = sse.Decoder()
    assert list(decoder.feed(sse.comment("todoke") + sse.retry((7, 7)))) == []
    assert decoder.retry_milliseconds == 7


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_line_ending_of_the_standard(end: str) -> None:
    text = f"event: a{end}data: 1{end}data: 2{end}{end}data: 3{end}{end}x"
    for pieces in (1, 4, len(text)):
        frames = decode(text.encode(), pieces)
        assert [(frame.event, frame.data) for frame in frames] == [("a", "1\n2"), ("message", "3")]


def test_an_id_with_nul_and_a_retry_in_words_are_ignored() -> None:
    decoder = sse.Decoder()
    [frame] = decoder.feed(b"id: a\0b\nretry: soon\ndata: x\n\n")
    assert frame.last_event_id == ""
    assert decoder.retry_milliseconds is None


@given(st.lists(st.tuples(WORDS, st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\r")))))
def test_whatever_is_framed_comes_out_again(events: list[tuple[str, str]]) -> None:
    data = b"".join(sse.frame(event, text, f"e.{number}") for number, (event, text) in enumerate(events))
    for pieces in (1, 7, max(1, len(data))):
        frames = decode(data, pieces)
        assert [(frame.event, frame.data) for frame in frames] == events


def test_half_a_frame_moves_no_cursor() -> None:
    decoder, data = sse.Decoder(), sse.checkpoint("e.1") + sse.frame("job.failed", "{}", "e.2")
    for place in range(len(data)):
        frames = list(decoder.feed(data[place : place + 1]))
        assert (decoder.last_event_id == "e.2") == bool(frames)
    assert frames


def test_a_checkpoint_moves_the_cursor_and_shows_nothing() -> None:
    decoder = sse.Decoder()
    assert list(decoder.feed(sse.checkpoint("place") + sse.comment("heartbeat"))) == []
    assert decoder.last_event_id == "place"
    [frame] = decoder.feed(sse.frame("job.progress", "{}"))
    assert frame.last_event_id == "place"
