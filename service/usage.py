"""Which keys have been used lately, told to the database once in a while: nobody waits for it."""

import asyncio

import structlog

from todoke.model.errors import Unavailable
from todoke.store.api_keys import ApiKeys

log = structlog.get_logger()

TELL_SECONDS = 60.0
KEYS_MAX = 10_000


class Usage:
    """What is not told because this process ends, or PostgreSQL is away, is told at the next use."""

    def __init__(self, api_keys: ApiKeys) -> None:
        self._api_keys = api_keys
        self._used: set[str] = set()

    def note(self, key_id: str) -> None:
        """This key has admitted somebody."""
        if len(self._used) < KEYS_MAX:
            self._used.add(key_id)

    async def run(self) -> None:
        """Tell until canceled."""
        while True:
            await asyncio.sleep(TELL_SECONDS)
            await self.tell()

    async def tell(self) -> None:
        """Tell of all that were noted."""
        used, self._used = self._used, set()
        if used:
            try:
                await self._api_keys.used(used)
            except Unavailable as error:
                log.info("keys.untold", reason=str(error))
