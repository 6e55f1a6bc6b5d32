"""The notifier with one thing taken from it, to show what that thing is worth.

    python -m benchmarks.webhooks_notifiers per_delivery | shared_pool

per_delivery: each claim and each record is a transaction of its own, side by side as the connections allow.
shared_pool: no caps worth the name, no shares, no slow start; who is due gets a slot (with
TODOKE_WEBHOOK_ENDPOINT_SLOTS=32).
Programs of the benchmarks only; every other line is the notifier's own.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from uuid import UUID

import notifier.fairness
import notifier.recorder
from benchmarks.per_job_worker import Alone
from notifier.__main__ import main as notify
from notifier.proven import Proven
from todoke.model.delivery import Delivery
from todoke.store.deliveries import Deliveries

Claim = Callable[[Deliveries, Mapping[tuple[str, UUID], int], float], Awaitable[list[Delivery]]]


def per_delivery() -> None:
    """Take the groups away."""
    together: Claim = Deliveries.claim

    async def alone(self: Deliveries, amounts: Mapping[tuple[str, UUID], int], lease_seconds: float) -> list[Delivery]:
        spots = [spot for spot, amount in amounts.items() for _ in range(amount)]
        found = await asyncio.gather(*(together(self, {spot: 1}, lease_seconds) for spot in spots))
        return [delivery for each in found for delivery in each]

    vars(notifier.recorder)["Batcher"] = Alone
    Deliveries.claim = alone  # type: ignore[method-assign]


def shared_pool() -> None:
    """Take the shares and the slow start away."""
    for name in ("ALONE_SHARE", "CROWDED_SHARE", "FAILING_SHARE"):
        vars(notifier.fairness)[name] = 1.0
    Proven.__contains__ = lambda *_: True  # type: ignore[method-assign]


KINDS = {"per_delivery": per_delivery, "shared_pool": shared_pool}


def main(arguments: Sequence[str]) -> int:
    """Deliver until SIGTERM."""
    assert hasattr(notifier.recorder, "Batcher"), "the recorder no longer batches by itself; this baseline must follow"
    assert hasattr(notifier.fairness, "CROWDED_SHARE"), "shares have another name now; this peer must follow"
    KINDS[arguments[0]]()
    return notify()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
