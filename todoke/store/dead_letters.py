"""Reading what became of dead letters, for operators, and remembering which were sent again."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from todoke.model.dead_letter import LetterVerdict
from todoke.store.database import Database, queries

SQL = queries("dead_letters")


@dataclass(frozen=True)
class KeptLetter:
    """A dead letter as it is kept. `redriven_at`: when it was last sent to the queue again."""

    id: str
    body: str
    job_id: UUID | None
    verdict: LetterVerdict
    receive_count: int
    sent_at: datetime | None
    arrived_at: datetime
    redriven_at: datetime | None


class KeptLetters:
    """They belong to no tenant: they reached nobody. Raises Unavailable when PostgreSQL is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def newest(self, letters_max: int, *, is_redriven_too: bool = False) -> list[KeptLetter]:
        """The newest letters first; without those sent again, unless they are asked for."""
        return await self._read(None, letters_max, is_redriven_too)

    async def named(self, ids: Sequence[str]) -> list[KeptLetter]:
        """The letters with these ids that there are."""
        return await self._read(list(ids), len(ids), True)

    async def mark_redriven(self, ids: Sequence[str]) -> None:
        """Remember that these were sent again, now."""
        async with self._database.transaction() as connection:
            await connection.execute(SQL["mark_redriven"], list(ids))

    async def _read(self, ids: list[str] | None, letters_max: int, is_redriven_too: bool) -> list[KeptLetter]:
        rows = await self._database.fetch(SQL["letters"], ids, letters_max, is_redriven_too)
        return [KeptLetter(**{**row, "verdict": LetterVerdict(row["verdict"])}) for row in rows]
