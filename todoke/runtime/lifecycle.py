"""How every process starts, hears signals and stops: one task group, one stop event, one exit code."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog

log = structlog.get_logger()


@contextlib.asynccontextmanager
async def stop_signals() -> AsyncIterator[asyncio.Event]:
    """An event that SIGTERM or SIGINT sets; a second signal ends the process at once."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stopping.is_set():
            raise SystemExit(1)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    try:
        yield stopping
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


@contextlib.asynccontextmanager
async def running(*loops: Awaitable[None]) -> AsyncIterator[None]:
    """Run `loops` beside the block and cancel them when it ends; one that fails ends the block with its error."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_as_coroutine(loop)) for loop in loops]
        yield
        for task in tasks:
            task.cancel()


async def every(seconds: float, work: Callable[[], Awaitable[object]], stopping: asyncio.Event) -> None:
    """Call `work` again and again with `seconds` between, until stopping; a failure is logged, not fatal."""
    while not stopping.is_set():
        try:
            await work()
        except Exception as error:
            log.warning("loop.failed", work=getattr(work, "__qualname__", repr(work)), reason=str(error))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await stopping.wait()


async def _as_coroutine(loop: Awaitable[None]) -> None:
    await loop
