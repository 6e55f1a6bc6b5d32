"""The connections of a notifier, and those of them that rest until the next request to the same receiver."""

import asyncio
from collections.abc import Container

from notifier.connection import Connection, Key

KEEP_ALIVE_SECONDS = 15.0
IDLE_PER_RECEIVER_MAX = 256
# With all slots in use this stays below the 1,024 files a process usually may open.
IDLE_MAX = 512
CLOSING_SECONDS = 1.0


class Pool:
    """Keeps idle connections for `seconds`, so many of one receiver, so many in all; the oldest give way."""

    def __init__(
        self, seconds: float = KEEP_ALIVE_SECONDS, per_receiver: int = IDLE_PER_RECEIVER_MAX, in_all: int = IDLE_MAX
    ) -> None:
        self._seconds, self._per_receiver, self._in_all = seconds, per_receiver, in_all
        # Both in the order in which they came to rest.
        self._idle: dict[Connection, None] = {}
        self._of: dict[Key, dict[Connection, None]] = {}
        self._open: set[Connection] = set()
        self._all_lost = asyncio.Event()
        self._sweep: asyncio.TimerHandle | None = None
        self._is_closed = False

    @property
    def open(self) -> int:
        """How many connections stand."""
        return len(self._open)

    @property
    def idle(self) -> int:
        """How many of them rest."""
        return len(self._idle)

    def take(self, key: Key, addresses: Container[str]) -> Connection | None:
        """The connection to `key` that rested last, if one leads to any of `addresses`."""
        for connection in reversed(self._of.get(key, {})):
            if connection.address in addresses and not connection.is_closing:
                self._forget(connection)
                return connection
        return None

    def shed(self) -> None:
        """Give up every idle connection: what they hold is needed."""
        for connection in tuple(self._idle):
            self._give_up(connection)

    async def close(self) -> None:
        """Hang up all connections, the busy ones too."""
        self._is_closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in tuple(self._open):
            connection.close()
        if self._open:
            self._all_lost.clear()
            await asyncio.wait_for(self._all_lost.wait(), CLOSING_SECONDS)

    # What follows is called by connections.

    def opened(self, connection: Connection) -> None:
        self._open.add(connection)
        if self._is_closed:
            connection.close()

    def rested(self, connection: Connection) -> None:
        if self._is_closed:
            connection.close()
            return
        peers = self._of.setdefault(connection.key, {})
        if len(peers) >= self._per_receiver:
            self._give_up(next(iter(peers)))
        elif len(self._idle) >= self._in_all:
            self._give_up(next(iter(self._idle)))
        loop = asyncio.get_running_loop()
        connection.idle_since = loop.time()
        self._of.setdefault(connection.key, {})[connection] = None
        self._idle[connection] = None
        if self._sweep is None:
            self._sweep = loop.call_later(self._seconds, self._close_old)

    def lost(self, connection: Connection) -> None:
        self._forget(connection)
        self._open.discard(connection)
        if not self._open:
            self._all_lost.set()

    def _close_old(self) -> None:
        """Runs when the longest idle one has been so for long enough; the others follow in order."""
        loop = asyncio.get_running_loop()
        self._sweep = None
        while self._idle:
            oldest = next(iter(self._idle))
            ends = oldest.idle_since + self._seconds
            if ends > loop.time():
                self._sweep = loop.call_at(ends, self._close_old)
                return
            self._give_up(oldest)

    def _give_up(self, connection: Connection) -> None:
        self._forget(connection)
        connection.close()

    def _forget(self, connection: Connection) -> None:
        if connection not in self._idle:
            return
        del self._idle[connection]
        peers = self._of[connection.key]
        del peers[connection]
        if not peers:
            del self._of[connection.key]
