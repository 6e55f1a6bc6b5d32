"""Feed cursors as readers carry them: sealed, because a visible place would tell how busy other tenants are."""

from collections.abc import Sequence

from todoke.model.event import EARLIEST
from todoke.model.feed import FeedCursor, Horizon, Place
from todoke.wire.sealing import Sealer


class FeedCursors:
    """keys: see Sealer; the same in every API process, or a reader cannot go on at another one."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._sealer = Sealer(keys, "feed cursor")

    def spell(self, tenant_id: str, horizon: Horizon, place: Place, at: float) -> str:
        """The cursor of a reader that has got to `place` of what `horizon` showed; see FeedCursor."""
        return self._sealer.seal(FeedCursor(tenant_id, horizon.epoch, place, at, horizon.read_at).pack())

    def parse(self, text: str, tenant_id: str) -> FeedCursor | None:
        """The cursor spelled `text`, or None when it is none, or another tenant's."""
        if text == EARLIEST:
            return FeedCursor.earliest(tenant_id)
        packed = self._sealer.open(text)
        cursor = None if packed is None else FeedCursor.unpack(packed)
        return cursor if cursor is not None and cursor.tenant_id == tenant_id else None
