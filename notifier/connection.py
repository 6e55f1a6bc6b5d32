"""One connection to one receiver: writes a request, reads its answer, tells its keeper what may be done with it."""

import asyncio
from typing import Protocol, cast

from notifier.faults import SendError, send_error
from notifier.replies import Reply, ReplyParser
from todoke.model.delivery import Reason

BODY_SECONDS = 1.0

# Scheme, host name and port: what a connection may be used for, whatever addresses names share.
Key = tuple[str, str, int]


class Stale(SendError):
    """A kept connection ended before it brought a single byte: most likely it was closing when it was taken."""


class Keeper(Protocol):
    """Who holds the connections."""

    def opened(self, connection: "Connection") -> None:
        """It stands."""

    def rested(self, connection: "Connection") -> None:
        """Its exchange is over, it can carry another."""

    def lost(self, connection: "Connection") -> None:
        """It is gone."""


class Connection(asyncio.Protocol):
    """Carries one exchange at a time. `address`: the vetted one it leads to.

    Bytes that nobody waits for close it: they would be taken for the answer to a request that is not yet sent.
    """

    def __init__(self, keeper: Keeper, key: Key, address: str) -> None:
        self.key = key
        self.address = address
        self.idle_since = 0.0
        self._keeper = keeper
        self._parser = ReplyParser()
        self._head: asyncio.Future[Reply] | None = None
        self._rest: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._exchanges = 0
        self._loss: SendError | None = None

    @property
    def is_closing(self) -> bool:
        # A TLS transport forgets that it was closed.
        return self._loss is not None or self._transport.is_closing()

    async def post(self, request: bytes) -> Reply:
        """Write `request`, return the answer as soon as its head is read. Raises SendError; Stale: try a fresh one."""
        if self.is_closing:
            # It did not live until now.
            raise self._loss or SendError(Reason.DISCONNECTED, self.address)
        self._exchanges += 1
        self._reply = Reply(self.address, is_tls=self.key[0] == "https")
        self._parser.expect(self._reply)
        head: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._head = head
        self._transport.write(request)
        try:
            return await head
        except asyncio.CancelledError:
            # By now it may be somebody else's.
            if self._head is head:
                self.close()
            raise

    def close(self) -> None:
        """Hang up at once; whoever waits for a head learns of it."""
        if self._head is not None and not self._head.done():
            self._head.set_exception(SendError(Reason.DISCONNECTED, self.address))
        self._transport.abort()
        self._settle()

    def cut(self, rest: asyncio.Future[None]) -> None:
        """Hang up if the body that ends with `rest` is still coming; by now the connection may be somebody else's."""
        if self._rest is rest:
            self.close()

    # What follows is called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio's, not their class.
        self._transport = cast("asyncio.Transport", transport)
        self._keeper.opened(self)

    def data_received(self, data: bytes) -> None:
        head, parser = self._head, self._parser
        if head is None or head.cancelled():
            self.close()
            return
        try:
            parser.feed(data)
        except SendError as error:
            self._fail(error)
            return
        if not parser.has_head:
            return
        if not parser.is_over:
            self._await_rest()
        if not head.done():
            head.set_result(self._reply)
        if parser.is_over:
            self._finish()

    def connection_lost(self, error: Exception | None) -> None:
        self._keeper.lost(self)
        if self._exchanges > 1 and self._parser.is_untouched:
            self._loss = Stale(Reason.DISCONNECTED, self.address)
        elif isinstance(error, OSError):
            self._loss = send_error(error, Reason.DISCONNECTED)
        else:
            self._loss = SendError(Reason.DISCONNECTED)
        self._fail(self._loss)

    def _finish(self) -> None:
        self._settle()
        # An answer that came before the request was out leaves the rest of it for nobody.
        if self._parser.may_stay and not self._transport.get_write_buffer_size():
            self._keeper.rested(self)
        else:
            self._transport.abort()

    def _await_rest(self) -> None:
        if self._rest is None:
            loop = asyncio.get_running_loop()
            self._rest = loop.create_future()
            self._reply.rest, self._reply.body = self._rest, self
            self._timer = loop.call_later(BODY_SECONDS, self.close)

    def _fail(self, error: SendError) -> None:
        error.peer = self.address
        if self._head is not None and not self._head.done():
            self._head.set_exception(error)
        self.close()

    def _settle(self) -> None:
        """The exchange is over, for whoever waits for the rest of the body too."""
        self._head = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._rest is not None:
            if not self._rest.done():
                self._rest.set_result(None)
            self._rest = None
