"""From a host name to its addresses: one lookup for every attempt, shared by those who ask at the same moment."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from notifier.faults import SendError, send_error
from notifier.lookups import Crew, site_of
from todoke.model.delivery import Reason

Lookup = Callable[[str], Awaitable[Sequence[str]]]

DNS_SECONDS = 3.0
# So many sites in a row without an answer, and it is our resolver that is down.
SILENT_SITES_MAX = 3
NOTHING_THERE = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))


@dataclass
class Running:
    """A lookup under way, and how many wait for it."""

    task: asyncio.Task[Sequence[str]]
    waiting: int = 0


class Resolver:
    """Asks `lookup`, or the system. Keeps no answer: a cache would be one more thing to poison.

    asked: how many lookups it has made.
    """

    def __init__(self, lookup: Lookup | None = None, *, seconds: float = DNS_SECONDS, crew: Crew | None = None) -> None:
        self._crew = crew or Crew()
        self._lookup = lookup or self._crew.look_up
        self._seconds = seconds
        self._running: dict[str, Running] = {}
        self._silent_sites: set[str] = set()
        self.asked = 0

    async def addresses(self, host: str) -> tuple[str, ...]:
        """At least one. Raises SendError: DNS, TIMEOUT after 3 s, SENDER when no name gets an answer any more."""
        try:
            addresses = tuple(await self._shared(host))
        except TimeoutError as error:
            if self._crew.is_crowded_out(host):
                raise SendError(Reason.SENDER) from error
            raise self._silent(host, Reason.TIMEOUT) from error
        except socket.gaierror as error:
            if error.errno in NOTHING_THERE:
                self._silent_sites.clear()
                raise SendError(Reason.DNS) from error
            if error.errno == socket.EAI_MEMORY:
                raise SendError(Reason.SENDER) from error
            raise self._silent(host, Reason.DNS) from error
        except OSError as error:
            raise send_error(error, Reason.DNS) from error
        self._silent_sites.clear()
        if not addresses:
            raise SendError(Reason.DNS)
        return addresses

    def close(self) -> None:
        """End what is running; threads go home when the system's resolver lets them."""
        for running in self._running.values():
            running.task.cancel()
        self._crew.dismiss()

    async def _shared(self, host: str) -> Sequence[str]:
        """A lookup goes on while anybody waits for it. Raises TimeoutError when this one has waited long enough."""
        running = self._running.get(host)
        if running is None:
            running = self._running[host] = Running(asyncio.create_task(self._ask(host)))
            running.task.add_done_callback(lambda _: self._forget(host, running))
        running.waiting += 1
        try:
            await asyncio.wait((running.task,), timeout=self._seconds)
            if not running.task.done():
                raise TimeoutError
            return running.task.result()
        finally:
            running.waiting -= 1
            if not running.waiting and not running.task.done():
                # Nobody may join what was given up on.
                running.task.cancel()
                self._forget(host, running)

    async def _ask(self, host: str) -> Sequence[str]:
        self.asked += 1
        return await self._lookup(host)

    def _forget(self, host: str, running: Running) -> None:
        if self._running.get(host) is running:
            del self._running[host]
        if running.task.done() and not running.task.cancelled():
            # Looked at, or the loop complains when nobody waited to the end.
            running.task.exception()

    def _silent(self, host: str, reason: Reason) -> SendError:
        """One site without an answer has a bad name server; several on end, and nothing between, have ours."""
        if len(self._silent_sites) < SILENT_SITES_MAX:
            self._silent_sites.add(site_of(host))
        return SendError(Reason.SENDER if len(self._silent_sites) >= SILENT_SITES_MAX else reason)
