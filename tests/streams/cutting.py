"""Plain TCP between a client and the API: a proxy that cuts after a counted byte, and a balancer over many servers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from urllib.parse import urlsplit

READ_BYTES = 2**16


class Relay:
    """Carries connections to one of `targets` (URLs, the first that accepts, taking turns); `url` leads through it.

    cuts: after how many bytes of answer each connection ends; when they run out, connections live. is_reset: cut with
    RST instead of FIN. carried: bytes of answer each connection brought to its client.
    """

    def __init__(self, targets: Iterable[str], cuts: Iterable[int] = (), *, is_reset: bool = False) -> None:
        self.targets = list(targets)
        self.cuts = iter(cuts)
        self.is_reset = is_reset
        self.carried: list[int] = []
        self.url = ""
        self._turn = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            # Canceled is how it is ended; asyncio's streams would report that as a fault.
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._carry(reader, writer)
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def end(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found = await self._reach()
        if found is None:
            return
        onward, back = found
        asking = asyncio.create_task(self._ask(reader, back))
        place = len(self.carried)
        self.carried.append(0)
        left = next(self.cuts, None)
        try:
            while left != 0 and (data := await onward.read(min(left or READ_BYTES, READ_BYTES))):
                left = None if left is None else left - len(data)
                writer.write(data)
                await writer.drain()
                self.carried[place] += len(data)
            if not self.is_reset:
                writer.close()
                await writer.wait_closed()
        finally:
            asking.cancel()
            back.transport.abort()

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for _ in range(len(self.targets)):
            self._turn += 1
            target = urlsplit(self.targets[self._turn % len(self.targets)])
            with contextlib.suppress(OSError):
                return await asyncio.open_connection(target.hostname, target.port)
        return None

    async def _ask(self, reader: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(READ_BYTES):
                back.write(data)
                await back.drain()
        back.transport.abort()


@contextlib.asynccontextmanager
async def relay(*targets: str, cuts: Iterable[int] = (), is_reset: bool = False) -> AsyncIterator[Relay]:
    """A relay that listens for as long as the block runs."""
    through = Relay(targets, cuts, is_reset=is_reset)
    listener = await asyncio.start_server(through.serve, "127.0.0.1", 0)
    through.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield through
    finally:
        listener.close()
        await through.end()


def at_random(choose: Callable[[], int]) -> Iterable[int]:
    """Cuts without end, each as far as `choose` says."""
    while True:
        yield choose()
