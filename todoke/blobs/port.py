"""What Todoke asks of an object store: to keep large results, to hand out links to them and to let them go."""

from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from todoke.model.errors import TodokeError


@dataclass(frozen=True)
class Written:
    """What the store now holds: bytes counted and hashed (SHA-256, hex) as they were sent."""

    size: int
    sha256: str


@dataclass(frozen=True)
class Link:
    """A URL that anyone may GET until then (ISO 8601, UTC)."""

    url: str
    expires_at: str


class ContentChangedError(TodokeError):
    """The file was written to while it was being stored; nothing of it is kept."""


class ObjectRefusedError(TodokeError):
    """The store is there and does not take this object, now or later."""


class Blobs(Protocol):
    """Objects are written once and never changed. Every call raises Unavailable when the store cannot be reached."""

    async def put(self, key: str, content: bytes | BinaryIO, media_type: str) -> Written:
        """Store an object, a file from its beginning to its end; the store checks every byte by SHA-256.

        Raises ContentChangedError, ObjectRefusedError; they leave nothing behind, nor does being canceled.
        """

    async def link(self, key: str, *, filename: str, media_type: str, seconds: int, inline: bool) -> Link:
        """A link for `seconds` at most, answered as a download named `filename` unless `inline`."""

    def keys(self, prefix: str) -> AsyncIterator[list[str]]:
        """The keys that begin with `prefix`, at most 1,000 at a time."""

    async def delete(self, keys: Collection[str]) -> None:
        """Remove objects; a key that is not there is no error."""

    async def clear(self, prefix: str, *, spared: str | None = None) -> int:
        """Remove what begins with `prefix` and not with `spared`, unfinished uploads too; says how many objects."""
