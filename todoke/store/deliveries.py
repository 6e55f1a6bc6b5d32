"""Deliveries: claim what is due, record what came of it. The rows themselves are written by the ledger."""

from collections.abc import Sequence

from todoke.model.delivery import Delivery, Verdict
from todoke.store.database import Database, queries

SQL = queries("deliveries")


class Deliveries:
    """Short transactions only: no connection is held while a webhook is on its way."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, deliveries_max: int, lease_seconds: float) -> list[Delivery]:
        """Take due deliveries for `lease_seconds`; one not recorded by then is due again."""
        rows = await self._database.fetch(SQL["claim"], deliveries_max, lease_seconds)
        return [Delivery(**dict(row)) for row in rows]

    async def record(self, verdicts: Sequence[Verdict]) -> list[bool]:
        """Store verdicts. False: the lease has passed on, and the verdict was not a success."""
        columns = zip(
            *(
                (
                    verdict.delivery.job_id,
                    verdict.delivery.sequence,
                    verdict.delivery.lease,
                    verdict.state,
                    verdict.status,
                    verdict.reason,
                    verdict.delay,
                    verdict.is_charged,
                )
                for verdict in verdicts
            ),
            strict=True,
        )
        rows = await self._database.fetch(SQL["record"], *(list(column) for column in columns))
        recorded = {(row["job_id"], row["sequence"]) for row in rows}
        return [(v.delivery.job_id, v.delivery.sequence) in recorded for v in verdicts]

    async def next_due_seconds(self) -> float | None:
        """Seconds until the earliest delivery is due, or None when none is owed."""
        seconds = (await self._database.fetch(SQL["next_due"]))[0]["seconds"]
        return None if seconds is None else max(0.0, float(seconds))
