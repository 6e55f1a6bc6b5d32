"""The keys this process has seen lately, so that a busy caller does not cost a query for each call."""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from todoke.runtime.batcher import Batcher
from todoke.store.api_keys import ApiKeys, FoundKey

# A key that is revoked is refused this long after at the latest.
KEEP_SECONDS = 3.0
KNOWN_MAX = 10_000
# Apart from the known ones, so that whoever tries ids does not drive these out.
UNKNOWN_MAX = 1_000
FIND_MAX = 500


@dataclass(frozen=True)
class _Kept:
    key: FoundKey | None
    until: float


class Keyring:
    """Raises Unavailable for a key that is not at hand while PostgreSQL is away. `clock` counts seconds."""

    def __init__(self, api_keys: ApiKeys, clock: Callable[[], float] = time.monotonic) -> None:
        self._api_keys = api_keys
        self._clock = clock
        self._known: OrderedDict[str, _Kept] = OrderedDict()
        self._unknown: OrderedDict[str, _Kept] = OrderedDict()
        self._batcher: Batcher[str, _Kept] = Batcher(self._find, FIND_MAX, "keys")

    async def find(self, key_id: str) -> FoundKey | None:
        """The key, if it stands."""
        kept = self._known.get(key_id) or self._unknown.get(key_id)
        if kept is None or kept.until <= self._clock():
            kept = await self._batcher.put(key_id)
        return kept.key

    async def _find(self, key_ids: Sequence[str]) -> list[_Kept]:
        # Taken before the question, so that the way there and back shortens what is kept, never lengthens it.
        now = self._clock()
        found = await self._api_keys.find(set(key_ids))
        return [self._keep(key_id, found.get(key_id), now) for key_id in key_ids]

    def _keep(self, key_id: str, key: FoundKey | None, now: float) -> _Kept:
        left = None if key is None else key.seconds_left
        stands = key is not None and (left is None or left > 0)
        until = now + (KEEP_SECONDS if left is None or not stands else min(left, KEEP_SECONDS))
        kept = _Kept(key if stands else None, until)
        shelf, other, kept_max = (
            (self._known, self._unknown, KNOWN_MAX) if stands else (self._unknown, self._known, UNKNOWN_MAX)
        )
        other.pop(key_id, None)
        shelf[key_id] = kept
        shelf.move_to_end(key_id)
        if len(shelf) > kept_max:
            shelf.popitem(last=False)
        return kept
