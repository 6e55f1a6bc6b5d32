"""Cursors of the lists of deliveries: sealed, so that nobody comes to rely on what is in them."""

import struct
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from todoke.model.delivery import DeliveryState
from todoke.store.delivery_log import BEGINNING, Place
from todoke.wire.sealing import Sealer

PACKED = struct.Struct("!q16sq")
MICROSECOND = timedelta(microseconds=1)


class DeliveryCursors:
    """keys: see Sealer; the same in every API process, or a list cannot be continued at another one."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._sealer = Sealer(keys, "delivery cursor")

    def spell(self, tenant_id: str, state: DeliveryState, place: Place) -> str:
        """The cursor of who has read the tenant's list of deliveries in this state up to `place`."""
        microseconds = (place.at - BEGINNING) // MICROSECOND
        packed = PACKED.pack(microseconds, place.job_id.bytes, place.sequence)
        return self._sealer.seal(packed + _name(tenant_id, state))

    def parse(self, text: str, tenant_id: str, state: DeliveryState) -> Place | None:
        """The place of the cursor spelled `text`, or None when it is none, or another list's."""
        packed = self._sealer.open(text)
        if packed is None or packed[PACKED.size :] != _name(tenant_id, state):
            return None
        microseconds, job_id, sequence = PACKED.unpack_from(packed)
        return Place(BEGINNING + microseconds * MICROSECOND, UUID(bytes=job_id), sequence)


def _name(tenant_id: str, state: DeliveryState) -> bytes:
    return f"{state} {tenant_id}".encode()
