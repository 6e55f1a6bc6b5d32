"""What Todoke asks of an object store: to keep large results and to hand out links to them."""

from pathlib import Path
from typing import Protocol


class Blobs(Protocol):
    """Objects are written once and never changed. Every call raises Unavailable when the store cannot be reached."""

    async def put(self, key: str, content: bytes | Path, media_type: str, sha256: str) -> None:
        """Store an object; the store refuses it when its content does not have this SHA-256 (hex)."""

    async def link(self, key: str, *, filename: str, media_type: str, seconds: int, inline: bool) -> str:
        """A URL that anyone may GET for `seconds`, answered as a download named `filename` unless `inline`."""
