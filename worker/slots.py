"""Capacity: how many more jobs this worker may take."""

import asyncio


class Slots:
    """Counts free slots. Taken ones come back one by one when their outcome is recorded."""

    def __init__(self, total: int) -> None:
        self._free = total
        self._freed = asyncio.Event()

    async def take(self, most: int) -> int:
        """Between 1 and `most` slots, as soon as any is free."""
        while not self._free:
            self._freed.clear()
            await self._freed.wait()
        taken = min(most, self._free)
        self._free -= taken
        return taken

    def give(self, count: int) -> None:
        """Give taken slots back."""
        self._free += count
        self._freed.set()
