"""A name server and a network of the test's own: look-ups are counted, dials recorded and led to loopback."""

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Names:
    """A name server: answers are used up in order, the last one stays. `asked`: every look-up."""

    answers: list[Sequence[str]]
    asked: list[str] = field(default_factory=list)

    async def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@dataclass
class Network:
    """Where dials go: to `port` on loopback, whatever was asked; none is refused unless `closed` names it.

    The peer is reported as the one asked, or as `peer`, as if something on the way had turned the connection.
    """

    port: int = 0
    peer: str | None = None
    closed: frozenset[str] = frozenset()
    dialled: list[tuple[str, int]] = field(default_factory=list)

    async def __call__(self, address: str, port: int) -> tuple[socket.socket, str]:
        self.dialled.append((address, port))
        if address in self.closed:
            raise ConnectionRefusedError(111, "refused")
        link = socket.socket()
        link.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(link, ("127.0.0.1", self.port))
        except BaseException:
            link.close()
            raise
        return link, self.peer or address

    @property
    def addresses(self) -> list[str]:
        return [address for address, _ in self.dialled]
