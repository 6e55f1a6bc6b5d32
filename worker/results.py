"""Keeping what a job made: small files beside the job, large ones in the object store under a key of this lease."""

import asyncio
import hashlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from todoke.blobs.port import Blobs
from todoke.model.errors import Unavailable
from todoke.model.job import Artifact, Attempt
from worker.ending import RESULT_INVALID, RESULT_TOO_LARGE, RESULT_UPLOAD_FAILED, Ending, Failed, Made, Released, Stored

log = structlog.get_logger()

UPLOAD_TRIES = 3
UPLOAD_PAUSE_SECONDS = 0.5
UPLOAD_LATER_SECONDS = 30.0


class Results:
    """`blobs` None: there is no object store, and a large result is refused."""

    def __init__(self, blobs: Blobs | None, inline_bytes_max: int) -> None:
        self._blobs = blobs
        self._inline_bytes_max = inline_bytes_max

    async def keep(self, attempt: Attempt, made: tuple[Made, ...]) -> Ending:
        """Stored; or how the attempt ends because something cannot be kept."""
        artifacts = []
        for position, item in enumerate(made):
            try:
                artifacts.append(await self._keep_one(attempt, position, item))
            except _TooLargeError as error:
                return Failed(RESULT_TOO_LARGE, str(error))
            except FileNotFoundError:
                return Failed(RESULT_INVALID, f"artifact {item.name!r} was gone before it could be kept")
            except Unavailable as error:
                log.warning("result.kept_back", job_id=str(attempt.id), reason=str(error))
                why = f"the object store cannot be reached; the job runs again later ({error})"
                return Released(RESULT_UPLOAD_FAILED, why, UPLOAD_LATER_SECONDS)
        return Stored(tuple(artifacts))

    async def _keep_one(self, attempt: Attempt, position: int, item: Made) -> Artifact:
        if isinstance(item.content, bytes) and len(item.content) <= self._inline_bytes_max:
            digest = hashlib.sha256(item.content).hexdigest()
            return Artifact(item.name, item.media_type, len(item.content), digest, content=item.content)
        size, digest, content = await asyncio.to_thread(_look, item.content, self._inline_bytes_max)
        if isinstance(content, bytes) and size <= self._inline_bytes_max:
            return Artifact(item.name, item.media_type, size, digest, content=content)
        if self._blobs is None:
            raise _TooLargeError(
                f"artifact {item.name!r} has {size:,} bytes; more than {self._inline_bytes_max:,} (setting"
                " TODOKE_INLINE_RESULT_BYTES) are kept in S3, and TODOKE_S3_BUCKET is not set"
            )
        key = f"{attempt.tenant_id}/{attempt.id}/{attempt.lease}/{position}-{item.name}"
        blobs = self._blobs
        await _tried(lambda: blobs.put(key, content, item.media_type, digest))
        return Artifact(item.name, item.media_type, size, digest, object_key=key)


class _TooLargeError(Exception):
    """An artifact that neither fits beside the job nor has an object store to go to."""


async def _tried(put: Callable[[], Awaitable[None]]) -> None:
    for number in range(1, UPLOAD_TRIES):
        try:
            await put()
        except Unavailable:
            await asyncio.sleep(UPLOAD_PAUSE_SECONDS * number)
        else:
            return
    await put()


def _look(content: bytes | Path, inline_bytes_max: int) -> tuple[int, str, bytes | Path]:
    """Size, SHA-256 and, when small, the bytes themselves."""
    if isinstance(content, bytes):
        return len(content), hashlib.sha256(content).hexdigest(), content
    # Job code may have put a link there that leads elsewhere; only a file of its own is taken.
    with os.fdopen(os.open(content, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= inline_bytes_max:
            small = file.read()
            return len(small), hashlib.sha256(small).hexdigest(), small
        return size, hashlib.file_digest(file, "sha256").hexdigest(), content
