"""What a submit needs to know of its callback, looked up for many at once."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from todoke.model.access import DEFAULT_TENANT
from todoke.model.errors import InvalidInput, Unavailable
from todoke.runtime.batcher import Batcher
from todoke.store.endpoints import Callbacks
from todoke.store.signing import Pair, SigningSecrets

ASK_MAX = 500
# The job is kept by now; its answer does not wait for a database that went away just then.
ASK_SECONDS = 1.0
# A callback whose last secret has ended is refused this long after at the latest.
KEEP_SECONDS = 3.0
KNOWN_MAX = 10_000
DISABLED = (
    "nothing is sent to this callbackUrl until its endpoint is enabled again; until then what is owed to it is parked"
)
UNSIGNED = (
    "callbackUrl: there is no signing secret by which its receiver could verify anything: make one by "
    "POST /webhooks/secrets (scope admin), give it to the receiver, and send this again"
)


class CallbackSecrets:
    """Whether there is a secret to sign with. has_fallback: the default tenant needs none of its own.

    Raises Unavailable when PostgreSQL is away. `clock` counts seconds.
    """

    def __init__(
        self, secrets: SigningSecrets, *, has_fallback: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._secrets, self._has_fallback, self._clock = secrets, has_fallback, clock
        self._known: OrderedDict[Pair, float] = OrderedDict()
        self._batcher: Batcher[Pair, bool] = Batcher(self._find, ASK_MAX, "secrets")

    async def check(self, tenant_id: str, url: str) -> None:
        """Raises InvalidInput, with what to do, for a callback nothing would be signed for."""
        if self._has_fallback and tenant_id == DEFAULT_TENANT:
            return
        pair = (tenant_id, url)
        if self._known.get(pair, -float("inf")) <= self._clock() and not await self._batcher.put(pair):
            raise InvalidInput(UNSIGNED)

    async def _find(self, pairs: Sequence[Pair]) -> list[bool]:
        # Taken before the question, so that the way there and back shortens what is kept, never lengthens it.
        until = self._clock() + KEEP_SECONDS
        found = await self._secrets.signed(pairs)
        for pair in (pair for pair, is_signed in zip(pairs, found, strict=True) if is_signed):
            self._known[pair] = until
            self._known.move_to_end(pair)
        while len(self._known) > KNOWN_MAX:
            self._known.popitem(last=False)
        return found


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
