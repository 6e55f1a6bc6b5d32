"""Which events of a feed a reader has asked for."""

from collections.abc import Collection
from dataclasses import dataclass

from todoke.model.feed import TYPES


@dataclass(frozen=True)
class FeedFilter:
    """None passes everything. types: event types. job_types: names of job types, whether there is one or not."""

    types: frozenset[str] | None = None
    job_types: frozenset[str] | None = None

    @classmethod
    def of(cls, types: Collection[str], job_types: Collection[str]) -> "FeedFilter":
        """As a query string gives them: nothing means everything."""
        return cls(frozenset(types) or None, frozenset(job_types) or None)

    @property
    def unknown(self) -> list[str]:
        """Event types there are none of: almost always a misspelling."""
        return sorted((self.types or frozenset()) - set(TYPES))

    def passes(self, event_type: str, job_type: str | None) -> bool:
        """Whether the reader has asked for such an event."""
        return (self.types is None or event_type in self.types) and (
            self.job_types is None or job_type in self.job_types
        )
