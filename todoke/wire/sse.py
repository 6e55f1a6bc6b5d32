"""Server-Sent Events as bytes (WHATWG HTML §9.2): frames and comments, nothing of connections."""

import codecs
import random
from collections.abc import Iterator
from dataclasses import dataclass

RETRY_MILLISECONDS = (1_000, 5_000)
# What is written at once: a slow reader holds no more of it in memory.
CHUNK_BYTES_MAX = 32 * 1024


def frame(event: str, data: str, frame_id: str | None = None) -> bytes:
    """One event. Only a frame with an id moves the reader's Last-Event-ID."""
    lines = [f"event: {event}"]
    if frame_id is not None:
        lines.append(f"id: {frame_id}")
    lines += [f"data: {line}" for line in data.split("\n")]
    return "\n".join([*lines, "", ""]).encode()


def checkpoint(frame_id: str) -> bytes:
    """Moves the reader's Last-Event-ID and shows it nothing."""
    return f"id: {frame_id}\n\n".encode()


def comment(text: str) -> bytes:
    """A line that browsers read past: it opens a stream or keeps it alive."""
    return f": {text}\n\n".encode()


def next_chunk(frames: list[bytes]) -> bytes:
    """Take one frame at least, about 32 KiB at most, from the end of `frames`, which stand last first."""
    chunk = frames.pop()
    while frames and len(chunk) + len(frames[-1]) <= CHUNK_BYTES_MAX:
        chunk += frames.pop()
    return chunk


def retry(spread: tuple[int, int] = RETRY_MILLISECONDS) -> bytes:
    """Tell the reader how long to wait before it reconnects; random, so that readers cut together come apart."""
    return f"retry: {random.randint(*spread)}\n\n".encode()  # noqa: S311 - jitter is no secret


def opening() -> bytes:
    """The first bytes of a stream: the frame that follows ends them.

    A blank line before any id would clear the cursor of a reader that starts each stream with an empty one, as the
    standard's words have it.
    """
    return b": todoke\n" + retry().removesuffix(b"\n")


@dataclass(frozen=True)
class Frame:
    """An event as a reader gets it; `last_event_id` is the cursor in force after it."""

    event: str
    data: str
    last_event_id: str


class Decoder:
    """Bytes to frames by the rules a browser follows; feed it whatever arrives.

    last_event_id: the cursor in force after all that was completed; half a frame does not move it.
    """

    def __init__(self) -> None:
        self.retry_milliseconds: int | None = None
        self.last_event_id = self._id = ""
        self._decode = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._event = ""
        self._data: list[str] = []

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        """The frames that `chunk` completes."""
        text = self._rest + self._decode.decode(chunk)
        # A lone CR at the end may be half of a CRLF, so it waits for what follows.
        ended = text[:-1] if text.endswith("\r") else text
        lines = ended.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self._rest = lines.pop() + text[len(ended) :]
        for line in lines:
            if line:
                self._take(line)
            elif (frame := self._dispatch()) is not None:
                yield frame

    def _take(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._event = value
        elif name == "data":
            self._data.append(value)
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry_milliseconds = int(value)

    def _dispatch(self) -> Frame | None:
        self.last_event_id = self._id
        event, data = self._event or "message", self._data
        self._event, self._data = "", []
        return Frame(event, "\n".join(data), self.last_event_id) if data else None
