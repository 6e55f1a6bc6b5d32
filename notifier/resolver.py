"""From a host name to the addresses that may be dialled: one lookup, every answer vetted."""

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Sequence

from aiohttp.abc import AbstractResolver, ResolveResult

from todoke.wire.destination import Rules, check_url, vet

Lookup = Callable[[str], Awaitable[Sequence[str]]]


class VettedResolver(AbstractResolver):
    """One lookup for each new connection, no cache; one denied address refuses them all."""

    def __init__(self, lookup: Lookup, rules: Rules) -> None:
        self._lookup = lookup
        self._rules = rules

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002 - aiohttp's signature
    ) -> list[ResolveResult]:
        """What aiohttp may dial for `host`. Raises InvalidInput when an address is denied, OSError when none is."""
        destination = check_url(f"https://{host}:{port}", self._rules)
        addresses = await self._lookup(host)
        vet(addresses, destination, self._rules)
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Nothing to give back."""


async def look_up(host: str) -> Sequence[str]:
    """The addresses of `host` by the system's resolver. Raises OSError.

    Each lookup has a daemon thread of its own: getaddrinfo cannot be canceled, and a name server that never
    answers must neither fill a shared pool nor hold up the end of the process.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Sequence[str]] = loop.create_future()

    def settle(addresses: Sequence[str], error: OSError | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(addresses)

    def work() -> None:
        addresses: Sequence[str] = ()
        failure: OSError | None = None
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
        except (OSError, UnicodeError) as error:
            failure = error if isinstance(error, OSError) else OSError(str(error))
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, addresses, failure)

    threading.Thread(target=work, name="lookup", daemon=True).start()
    return await answer
