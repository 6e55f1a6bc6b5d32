"""Cursors of the list of jobs: sealed, so that nobody comes to rely on what is in them."""

import hashlib
from collections.abc import Sequence
from uuid import UUID

from todoke.wire.sealing import Sealer

ID_BYTES = 16


class JobCursors:
    """keys: see Sealer; the same in every API process, or a list cannot be continued at another one."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._sealer = Sealer(keys, "job cursor")

    def spell(self, tenant_id: str, asked: str, end: UUID) -> str:
        """The cursor of who has read the tenant's list down to `end`. asked: the filter, as text."""
        return self._sealer.seal(end.bytes + _name(tenant_id, asked))

    def parse(self, text: str, tenant_id: str, asked: str) -> UUID | None:
        """Where the cursor spelled `text` stands, or None when it is none, or another list's."""
        packed = self._sealer.open(text)
        if packed is None or packed[ID_BYTES:] != _name(tenant_id, asked):
            return None
        return UUID(bytes=packed[:ID_BYTES])


def _name(tenant_id: str, asked: str) -> bytes:
    return hashlib.sha256(f"{tenant_id}\n{asked}".encode()).digest()
