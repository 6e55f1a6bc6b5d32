"""Whether what streams stand on still holds: asked when they open, and again and again while they are open."""

from collections.abc import Collection, Sequence

from service.identity import Right
from todoke.runtime.batcher import Batcher
from todoke.store.api_keys import ApiKeys, Claimed

ASK_MAX = 1_000


class Rights:
    """One query for many. Raises Unavailable when PostgreSQL is away: then nothing is known to have ended."""

    def __init__(self, api_keys: ApiKeys) -> None:
        self._api_keys = api_keys
        self._batcher: Batcher[Right, bool] = Batcher(self._hold, ASK_MAX, "rights")

    async def holds(self, right: Right) -> bool:
        """Whether this one still holds; those asked about at the same time share a query."""
        return await self._batcher.put(right)

    async def lapsed(self, rights: Collection[Right]) -> set[Right]:
        """Those that have ended: key revoked or expired, tickets of the job revoked, or their time is over."""
        ended: set[Right] = set()
        asked = [right for right in set(rights) if right.key_id or right.job_id or right.ends_at is not None]
        for start in range(0, len(asked), ASK_MAX):
            batch = asked[start : start + ASK_MAX]
            ended |= {batch[place] for place in await self._api_keys.lapsed([_claimed(right) for right in batch])}
        return ended

    async def _hold(self, rights: Sequence[Right]) -> list[bool]:
        ended = await self.lapsed(rights)
        return [right not in ended for right in rights]


def _claimed(right: Right) -> Claimed:
    return Claimed(right.tenant_id, right.key_id, right.job_id, right.generation, right.issued_at, right.ends_at)
