"""A proxy that reads PostgreSQL's protocol, to cut a connection exactly between a COMMIT and its answer."""

import asyncio
import contextlib
import re
import struct
from dataclasses import dataclass, field

from pydantic import SecretStr

from tests.faults.proxy import CHUNK_BYTES, Link, Proxy

SSL_REQUEST = 80877103
BEGIN = re.compile(rb"\s*BEGIN", re.IGNORECASE)
COMMIT = re.compile(rb"\s*COMMIT", re.IGNORECASE)
ROLLBACK = re.compile(rb"\s*ROLLBACK", re.IGNORECASE)


@dataclass
class Cut:
    """Breaks the connection at the `nth` commit of a transaction that ran a statement with `marker` in its text.

    is_delivered: the server has committed before the client's connection breaks; else it never hears of the COMMIT.
    times: how many commits in a row are cut.
    """

    marker: bytes
    is_delivered: bool
    nth: int = 1
    times: int = 1
    count: int = 0
    happened: asyncio.Event = field(default_factory=asyncio.Event)

    def falls_on(self, statements: set[bytes]) -> bool:
        """Whether this commit is one to cut. Counts it."""
        if not any(self.marker in text for text in statements):
            return False
        self.count += 1
        return self.nth <= self.count < self.nth + self.times


class PostgresLink:
    """What the proxy knows of one connection."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.prepared: dict[bytes, bytes] = {}
        self.ran: set[bytes] = set()
        self.is_in_transaction = False
        self.is_cut = False
        self.buffer = b""
        self.is_started = False


class PostgresProxy(Proxy):
    """`cut_commit` arms it; any number of cuts may be armed."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._cuts: list[Cut] = []
        self._known: dict[Link, PostgresLink] = {}

    @property
    def through(self) -> dict[str, SecretStr]:
        """Settings of a process that reaches PostgreSQL by this proxy."""
        return {"database_url": SecretStr(self.url)}

    def cut_commit(self, marker: str, *, is_delivered: bool, nth: int = 1, times: int = 1) -> Cut:
        """Arm a cut; see Cut. `marker` stands in the text of a statement of that transaction."""
        cut = Cut(marker.encode(), is_delivered, nth, times)
        self._cuts.append(cut)
        return cut

    async def upstream(self, reader: asyncio.StreamReader, link: Link) -> None:
        known = self._known.setdefault(link, PostgresLink(link))
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                await self.pause()
                known.buffer += data
                while (message := _next(known)) is not None:
                    if not self._pass(known, message):
                        return
                await link.server.drain()
        link.server.transport.abort()

    async def downstream(self, reader: asyncio.StreamReader, link: Link) -> None:
        known = self._known.setdefault(link, PostgresLink(link))
        try:
            with contextlib.suppress(OSError):
                while data := await reader.read(CHUNK_BYTES):
                    if known.is_cut:
                        # The server has answered the COMMIT: it is done, and nobody will know.
                        break
                    await self.pause()
                    link.client.write(data)
                    await link.client.drain()
            link.abort()
        finally:
            self._known.pop(link, None)

    def _pass(self, known: PostgresLink, message: bytes) -> bool:
        """Forward one message, or cut. False: nothing more is to be carried."""
        kind, body = message[:1], message[5:]
        is_commit = False
        if kind == b"P":
            name, _, rest = body.partition(b"\0")
            known.prepared[name] = rest.partition(b"\0")[0]
        elif kind == b"B":
            known.ran.add(known.prepared.get(body.split(b"\0", 2)[1], b""))
        elif kind == b"Q":
            is_commit = self._hear(known, body)
        elif kind == b"S" and not known.is_in_transaction:
            is_commit = bool(known.ran)
        if is_commit:
            ran, known.ran, known.is_in_transaction = known.ran, set(), False
            for cut in self._cuts:
                if cut.falls_on(ran):
                    return self._cut(known, message, cut)
        known.link.server.write(message)
        return True

    def _hear(self, known: PostgresLink, text: bytes) -> bool:
        if BEGIN.match(text):
            known.is_in_transaction, known.ran = True, set()
        elif ROLLBACK.match(text):
            known.is_in_transaction, known.ran = False, set()
        elif COMMIT.match(text):
            return True
        else:
            known.ran.add(text)
            return not known.is_in_transaction
        return False

    def _cut(self, known: PostgresLink, message: bytes, cut: Cut) -> bool:
        if cut.is_delivered:
            known.is_cut = True
            known.link.server.write(message)
        else:
            known.link.abort()
        cut.happened.set()
        return cut.is_delivered


def _next(known: PostgresLink) -> bytes | None:
    """The next whole message of the client; the first ones have no type byte and become type NUL's pass-through."""
    buffer = known.buffer
    head = 0 if not known.is_started else 1
    if len(buffer) < head + 4:
        return None
    size = struct.unpack_from("!I", buffer, head)[0] + head
    if len(buffer) < size:
        return None
    if not known.is_started:
        known.is_started = struct.unpack_from("!I", buffer, 4)[0] != SSL_REQUEST
    known.buffer = buffer[size:]
    return buffer[:size]
