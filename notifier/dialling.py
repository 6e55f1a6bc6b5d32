"""From vetted addresses to a connection that stands: TCP to one of them and no other, then TLS to the host's name."""

import asyncio
import errno
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence

from notifier.connection import Connection
from notifier.faults import SendError, send_error
from notifier.pool import Pool
from todoke.model.delivery import Reason
from todoke.wire.destination import Destination

TCP_SECONDS = 5.0
TLS_SECONDS = 5.0
# A name with a thousand addresses does not get a thousand dials.
ADDRESSES_DIALLED_MAX = 4

Dial = Callable[[str, int], Awaitable[tuple[socket.socket, str]]]


class Dialler:
    """Opens connections for `pool`. dialled: how many addresses it has tried."""

    def __init__(self, dial: Dial, tls: ssl.SSLContext, pool: Pool) -> None:
        self._dial, self._tls, self._pool = dial, tls, pool
        self.dialled = 0

    async def connect(self, destination: Destination, addresses: Sequence[str]) -> Connection:
        """A connection to the first of `addresses` that takes one; together they have 5 s. Raises SendError."""
        tried = addresses[:ADDRESSES_DIALLED_MAX]
        failure = SendError(Reason.CONNECT)
        for address in tried:
            try:
                link = await self._reach(address, destination.port, TCP_SECONDS / len(tried))
            except OSError as error:
                failure = _connect_error(error, address)
                failure.__cause__ = error
                if failure.reason is Reason.SENDER:
                    self._pool.shed()
                    break
            else:
                return await self._open(link, destination, address)
        raise failure

    async def _reach(self, address: str, port: int, seconds: float) -> socket.socket:
        """Raises OSError, and SendError when the other end is not the one that was vetted."""
        self.dialled += 1
        async with asyncio.timeout(seconds):
            link, peer = await self._dial(address, port)
        if not _is_same(peer, address):
            link.close()
            raise SendError(Reason.BLOCKED, peer)
        return link

    async def _open(self, link: socket.socket, destination: Destination, address: str) -> Connection:
        key = (destination.scheme, destination.host, destination.port)
        loop = asyncio.get_running_loop()
        is_tls = destination.scheme == "https"
        try:
            async with asyncio.timeout(TLS_SECONDS):
                _, connection = await loop.create_connection(
                    lambda: Connection(self._pool, key, address),
                    sock=link,
                    ssl=self._tls if is_tls else None,
                    server_hostname=destination.host if is_tls else None,
                )
        except OSError as error:
            link.close()
            failure = send_error(error, Reason.TLS)
            failure.peer = address
            raise failure from error
        except BaseException:
            link.close()
            raise
        return connection


async def dial(address: str, port: int) -> tuple[socket.socket, str]:
    """A connected socket, and the address of its other end as the system tells it. Raises OSError."""
    link = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        link.setblocking(False)
        await asyncio.get_running_loop().sock_connect(link, (address, port))
        return link, str(link.getpeername()[0])
    except BaseException:
        link.close()
        raise


def _is_same(one: str, other: str) -> bool:
    try:
        return ipaddress.ip_address(one) == ipaddress.ip_address(other)
    except ValueError:
        return False


def _connect_error(error: OSError, address: str) -> SendError:
    # A machine whose IPv6 is off says so in the word for local ports used up: the next attempt has no more of it.
    if error.errno == errno.EADDRNOTAVAIL and ":" in address:
        return SendError(Reason.CONNECT, address)
    failure = send_error(error, Reason.CONNECT)
    failure.peer = address
    return failure
