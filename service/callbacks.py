"""What a submit should say about its callback, looked up for many at once."""

import asyncio

from todoke.model.errors import Unavailable
from todoke.runtime.batcher import Batcher
from todoke.store.endpoints import Callbacks

ASK_MAX = 500
# The job is kept by now; its answer does not wait for a database that went away just then.
ASK_SECONDS = 1.0
DISABLED = (
    "nothing is sent to this callbackUrl until its endpoint is enabled again; until then what is owed to it is parked"
)


class CallbackWarnings:
    """Never keeps a submit from being answered: without PostgreSQL there is no warning."""

    def __init__(self, callbacks: Callbacks) -> None:
        self._batcher: Batcher[tuple[str, str], bool] = Batcher(callbacks.are_disabled, ASK_MAX, "callbacks")

    async def about(self, tenant_id: str, url: str | None) -> list[dict[str, str]]:
        """The `warnings` of an answer, each with a stable code and words for people."""
        if url is None:
            return []
        try:
            async with asyncio.timeout(ASK_SECONDS):
                is_disabled = await self._batcher.put((tenant_id, url))
        except (Unavailable, TimeoutError):
            return []
        return [{"code": "CALLBACK_DISABLED", "detail": DISABLED}] if is_disabled else []
