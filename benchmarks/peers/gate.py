"""How a peer's worker waits for the clock to start: connected and warm, then SIGUSR1."""

import asyncio
import signal


async def wait_for_start() -> None:
    """Say `ready` and wait for the signal."""
    began = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, began.set)
    print("ready", flush=True)
    await began.wait()
