"""Content on its way to an object store: read once, in order, counted and hashed as it goes by."""

import hashlib
import io
import os
import threading
from typing import BinaryIO

from todoke.blobs.port import ContentChangedError, Written


class AbandonedError(Exception):
    """Nobody waits for this upload any more."""


class Source:
    """Offers `read` alone, so that nobody reads a byte twice and sends another than was counted.

    Ends at the size the content had at first, or a file that grows for ever would be sent for ever.
    """

    def __init__(self, content: bytes | BinaryIO, abandoned: threading.Event) -> None:
        self._file = io.BytesIO(content) if isinstance(content, bytes) else content
        self._is_file = not isinstance(content, bytes)
        self._abandoned = abandoned
        self._file.seek(0, os.SEEK_END)
        self.expected = self._file.tell()
        self._file.seek(0)
        self._stamp = self._look()
        self._count = 0
        self._digest = hashlib.sha256()

    def read(self, amount: int = -1) -> bytes:
        """The next bytes. Raises AbandonedError."""
        if self._abandoned.is_set():
            raise AbandonedError
        left = self.expected - self._count
        data = self._file.read(left if amount < 0 else min(amount, left))
        self._count += len(data)
        self._digest.update(data)
        return data

    @property
    def written(self) -> Written:
        """What has been read. Raises ContentChangedError when that is not the file as it was and still is."""
        if self._count != self.expected or self._look() != self._stamp:
            raise ContentChangedError("the file was written to while it was being stored")
        return Written(self._count, self._digest.hexdigest())

    def _look(self) -> tuple[int, int] | None:
        if not self._is_file:
            return None
        status = os.fstat(self._file.fileno())
        return status.st_size, status.st_mtime_ns
