"""Who gets the free slots: round by round, from tenant to tenant, from endpoint to endpoint. Pure."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from todoke.store.deliveries import Due

# Of all slots: what one tenant may hold alone, what it may hold while others wait, what failing endpoints may hold.
ALONE_SHARE, CROWDED_SHARE, FAILING_SHARE = 0.75, 0.25, 0.25

Spot = tuple[str, UUID]


@dataclass
class InFlight:
    """What this notifier is sending, counted by tenant, and how much of it to endpoints that are failing."""

    by_tenant: Counter[str] = field(default_factory=Counter)
    total: int = 0
    failing: int = 0

    def add(self, tenant_id: str, is_failing: bool) -> None:
        self.by_tenant[tenant_id] += 1
        self.total += 1
        self.failing += is_failing

    def remove(self, tenant_id: str, is_failing: bool) -> None:
        self.by_tenant[tenant_id] -= 1
        if not self.by_tenant[tenant_id]:
            del self.by_tenant[tenant_id]
        self.total -= 1
        self.failing -= is_failing


def share(seen: Sequence[Due], in_flight: InFlight, slots: int, usual_cap: int) -> dict[Spot, int]:
    """How many deliveries to claim of each (tenant, endpoint); together no more than there are free slots."""
    free = slots - in_flight.total
    waiting: dict[str, list[Due]] = defaultdict(list)
    for due in seen:
        if _room(due, usual_cap) > 0:
            waiting[due.tenant_id].append(due)
    room = _tenants_room(waiting, in_flight, slots)
    failing_room = max(1, int(slots * FAILING_SHARE)) - in_flight.failing
    amounts: Counter[Spot] = Counter()
    while free > 0 and waiting:
        for tenant_id in list(waiting):
            due = waiting[tenant_id].pop(0)
            spot = (tenant_id, due.endpoint_id)
            is_held_back = due.is_failing and failing_room <= 0
            if free > 0 and room[tenant_id] > 0 and not is_held_back:
                amounts[spot] += 1
                free, room[tenant_id], failing_room = free - 1, room[tenant_id] - 1, failing_room - due.is_failing
                if amounts[spot] < _room(due, usual_cap):
                    waiting[tenant_id].append(due)
            if not waiting[tenant_id] or room[tenant_id] <= 0:
                del waiting[tenant_id]
    return dict(amounts)


def _room(due: Due, usual_cap: int) -> int:
    if due.is_blocked:
        return 0
    cap = 1 if due.is_open else usual_cap if due.cap is None else due.cap
    return cap - due.leased


def _tenants_room(tenants: Mapping[str, object], in_flight: InFlight, slots: int) -> dict[str, int]:
    part = ALONE_SHARE if len(tenants) < 2 else CROWDED_SHARE
    most = max(1, int(slots * part))
    return {tenant_id: most - in_flight.by_tenant[tenant_id] for tenant_id in tenants}
