"""One receiver's answers as they come over the wire, read strictly and only as far as they matter."""

import re
from asyncio import Future, timeout_at
from dataclasses import dataclass, field
from typing import Protocol

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from notifier.faults import SendError
from todoke.model.delivery import Reason

# Of all heads of one answer together, the interim ones too.
HEAD_BYTES_MAX = 32 * 1024
HEAD_FIELDS_MAX = 64
INTERIM_HEADS_MAX = 8
BODY_BYTES_MAX = 16 * 1024
EXCERPT_BYTES_MAX = 1024

VERSIONS = ("1.0", "1.1")
SWITCHING_PROTOCOLS = 101
NO_CONTENT = 204
CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class Body(Protocol):
    """What still comes behind a head."""

    def cut(self, rest: "Future[None]") -> None:
        """Hang up, unless what `rest` stands for is over."""


@dataclass(slots=True, eq=False)
class Reply:
    """A receiver's answer, known from its head on. `peer`: its address. `is_tls`: over verified TLS.

    headers: as they came, names of any case. excerpt: the first 1 KiB of the body, as far as it has come.
    """

    peer: str
    is_tls: bool
    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    excerpt: bytearray = field(default_factory=bytearray)
    rest: "Future[None] | None" = None
    body: Body | None = None

    def header(self, name: str) -> str | None:
        """The first value of `name` (lower case), None without one."""
        wanted = name.encode()
        for found, value in self.headers:
            if found.lower() == wanted:
                return value.strip(b" \t").decode("latin-1")
        return None

    async def read(self, until: float) -> bytes:
        """The excerpt, once the body ends or is cut: at 16 KiB, 1 s after the head, or at loop time `until`."""
        rest, body = self.rest, self.body
        if rest is not None and body is not None and not rest.done():
            try:
                async with timeout_at(until):
                    await rest
            except TimeoutError:
                body.cut(rest)
            except BaseException:
                body.cut(rest)
                raise
        return bytes(self.excerpt)


class ReplyParser:
    """Fills one Reply after the other. Every answer must end exactly where the bytes received end.

    has_head: the Reply's status and headers are known. is_over: nothing more is read.
    may_stay: the connection can carry another exchange. is_untouched: not one byte has come.
    """

    def __init__(self) -> None:
        self._parser = HttpResponseParser(self)

    def expect(self, reply: Reply) -> None:
        """Begin with the next answer."""
        self._reply = reply
        self._head_bytes = self._fields = self._interims = 0
        self._body_bytes = self._raw_bytes = 0
        self._fault: Reason | None = None
        self._is_complete = self._is_chunked = False
        self.has_head = self.is_over = self.may_stay = False
        self.is_untouched = True

    def feed(self, data: bytes) -> None:
        """Take what came. Raises SendError for what is no answer; what goes wrong behind the head only ends it."""
        self.is_untouched = False
        if not self.has_head:
            data = self._take_head(data)
        if data:
            self._raw_bytes += len(data)
            self._take(data)
        if self._body_bytes > BODY_BYTES_MAX or self._raw_bytes > BODY_BYTES_MAX:
            self._end()

    def _take_head(self, data: bytes) -> bytes:
        """Returns what lies behind all that a head may be."""
        room = HEAD_BYTES_MAX - self._head_bytes
        self._take(data[:room])
        self._head_bytes += len(data)
        if self._head_bytes >= HEAD_BYTES_MAX and not self.has_head:
            raise SendError(Reason.TOO_LARGE)
        return data[room:]

    def _take(self, data: bytes) -> None:
        """The last byte goes in by itself: an answer that is complete before it has something behind it."""
        if self.is_over:
            self._end()
        elif len(data) > 1:
            self._parse(data[:-1])
            if self._is_complete:
                self._end()
        if not self.is_over:
            self._parse(data[-1:])
            if self._is_complete:
                self.is_over = True

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if not self.has_head:
                raise SendError(self._fault or Reason.PROTOCOL) from error
            self._end()
        if self._fault is not None:
            raise SendError(self._fault)

    def _end(self) -> None:
        self.is_over, self.may_stay = True, False

    # What follows is called by httptools.

    def on_message_begin(self) -> None:
        if self._is_complete:
            raise SendError(Reason.PROTOCOL)

    def on_status(self, words: bytes) -> None:
        if CONTROL.search(words):
            self._fault = Reason.PROTOCOL

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        if self.has_head:
            return
        if self._fields > HEAD_FIELDS_MAX:
            self._fault = Reason.TOO_LARGE
            return
        self._reply.headers.append((name, value))
        if name.lower() == b"transfer-encoding":
            # We asked for no other coding, and two of them are two readings.
            if self._is_chunked or value.strip(b" \t").lower() != b"chunked":
                self._fault = Reason.PROTOCOL
            self._is_chunked = True

    def on_headers_complete(self) -> None:
        status, version = self._parser.get_status_code(), self._parser.get_http_version()
        is_known = version in VERSIONS and 100 <= status <= 599 and status != SWITCHING_PROTOCOLS
        if self._fault or not is_known or (self._is_chunked and version != "1.1"):
            self._fault = self._fault or Reason.PROTOCOL
        elif status < 200:
            self._interims += 1
            if self._interims > INTERIM_HEADS_MAX:
                self._fault = Reason.TOO_LARGE
            self._reply.headers.clear()
            self._is_chunked = False
        else:
            self._reply.status, self.has_head = status, True
            self.may_stay = version == "1.1" and self._parser.should_keep_alive() and not self._is_at_odds(status)

    def on_body(self, data: bytes) -> None:
        self._body_bytes += len(data)
        excerpt = self._reply.excerpt
        if len(excerpt) < EXCERPT_BYTES_MAX:
            excerpt += data[: EXCERPT_BYTES_MAX - len(excerpt)]

    def on_message_complete(self) -> None:
        if self.has_head:
            self._is_complete = True

    def _is_at_odds(self, status: int) -> bool:
        """A 204 that announces a body may send one, too."""
        return status == NO_CONTENT and (self._is_chunked or self._reply.header("content-length") not in (None, "0"))
