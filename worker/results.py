"""Keeping what a job made: small files beside the job, large ones in the object store under a key of this lease."""

import asyncio
import errno
import hashlib
import os
import random
import stat
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from pathlib import Path
from typing import BinaryIO
from uuid import UUID

import structlog

from todoke.blobs.port import Blobs, ContentChangedError, ObjectRefusedError, Written
from todoke.model.errors import Unavailable
from todoke.model.job import TERMINAL, Artifact, Attempt, Outcome, State
from worker.ending import (
    RESULT_INVALID,
    RESULT_TOO_LARGE,
    RESULT_UPLOAD_FAILED,
    Ending,
    Errored,
    Failed,
    Made,
    Released,
    Stored,
)

log = structlog.get_logger()

# A short outage costs less than the work of another attempt; a long one must not keep the slot.
UPLOAD_SECONDS = 15.0
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 5.0
FIRST_DELAY_SECONDS = 15.0
LONGEST_DELAY_SECONDS = 300.0

Kept = Callable[[UUID, str], Awaitable[Sequence[Artifact]]]


class Results:
    """`blobs` None: there is no object store, and a large result is refused. `kept`: what the ledger holds of a job.

    Objects nothing will ever refer to are removed beside the work, as far as that succeeds; pruning finds the rest.
    """

    def __init__(self, blobs: Blobs | None, kept: Kept, inline_bytes_max: int) -> None:
        self._blobs = blobs
        self._kept = kept
        self._inline_bytes_max = inline_bytes_max
        self._tasks: set[asyncio.Task[None]] = set()

    async def keep(self, attempt: Attempt, made: tuple[Made, ...]) -> Ending:
        """Stored; or how the attempt ends because something cannot be kept."""
        ending: Ending | None = None
        put: list[str] = []
        try:
            ending = await self._keep_all(attempt, made, put)
        finally:
            if not isinstance(ending, Stored) and put:
                self._begin(self._remove(put), attempt)
        return ending

    def recorded(self, attempt: Attempt, outcome: Outcome, is_ours: bool) -> None:
        """The ledger has answered: what is settled now decides which objects nobody will refer to."""
        if self._blobs is None:
            return
        if not is_ours:
            self._begin(self._remove_unless_kept(attempt, outcome), attempt)
        elif attempt.lease > 1 and outcome.state in TERMINAL:
            self._begin(self._clear(attempt, is_success=outcome.state is State.SUCCESS), attempt)

    async def drain(self, seconds: float) -> None:
        """Wait for removals under way, at most `seconds`."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=seconds)

    async def _keep_all(self, attempt: Attempt, made: tuple[Made, ...], put: list[str]) -> Ending:
        artifacts = []
        for position, item in enumerate(made):
            try:
                artifacts.append(await self._keep_one(attempt, position, item, put))
            except _InvalidError as error:
                return Failed(error.code, f"artifact {item.name!r} {error}")
            except ContentChangedError:
                return Failed(RESULT_INVALID, f"artifact {item.name!r} was written to while it was being kept")
            except ObjectRefusedError as error:
                return Errored(RESULT_UPLOAD_FAILED, f"artifact {item.name!r} cannot be kept: {error}")
            except Unavailable as error:
                log.warning("result.kept_back", job_id=str(attempt.id), reason=str(error))
                why = f"the object store cannot be reached; the job runs again later ({error})"
                return Released(RESULT_UPLOAD_FAILED, why, _delay(attempt))
        return Stored(tuple(artifacts))

    async def _keep_one(self, attempt: Attempt, position: int, item: Made, put: list[str]) -> Artifact:
        if isinstance(item.content, bytes):
            return await self._keep_content(attempt, position, item, item.content, put)
        file = await asyncio.to_thread(_open, item.content)
        with file:
            content = await asyncio.to_thread(_small, file, self._inline_bytes_max)
            return await self._keep_content(attempt, position, item, file if content is None else content, put)

    async def _keep_content(
        self, attempt: Attempt, position: int, item: Made, content: bytes | BinaryIO, put: list[str]
    ) -> Artifact:
        if isinstance(content, bytes) and len(content) <= self._inline_bytes_max:
            digest = hashlib.sha256(content).hexdigest()
            return Artifact(item.name, item.media_type, len(content), digest, content=content)
        if self._blobs is None:
            raise _InvalidError(
                RESULT_TOO_LARGE,
                f"has more than the {self._inline_bytes_max:,} bytes (setting TODOKE_INLINE_RESULT_BYTES)"
                " that are kept without S3, and TODOKE_S3_BUCKET is not set",
            )
        key = f"{_lease_prefix(attempt)}{position}-{item.name}"
        blobs = self._blobs
        put.append(key)
        written = await _tried(lambda: blobs.put(key, content, item.media_type))
        return Artifact(item.name, item.media_type, written.size, written.sha256, object_key=key)

    async def _remove(self, keys: Collection[str]) -> None:
        assert self._blobs is not None
        await self._blobs.delete(keys)

    async def _remove_unless_kept(self, attempt: Attempt, outcome: Outcome) -> None:
        """Asks first: an outcome whose answer was lost on its way may be the job's result after all."""
        if keys := {artifact.object_key for artifact in outcome.artifacts if artifact.object_key is not None}:
            kept = {artifact.object_key for artifact in await self._kept(attempt.id, attempt.tenant_id)}
            await self._remove(keys - kept)

    async def _clear(self, attempt: Attempt, *, is_success: bool) -> None:
        """An ended job is never claimed again: all that is not of the lease that won is of an earlier one."""
        assert self._blobs is not None
        spared = _lease_prefix(attempt) if is_success else None
        if count := await self._blobs.clear(_job_prefix(attempt), spared=spared):
            log.info("result.orphans_removed", job_id=str(attempt.id), count=count)

    def _begin(self, work: Coroutine[None, None, None], attempt: Attempt) -> None:
        task = asyncio.create_task(_attempted(work, attempt))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _InvalidError(Exception):
    """An artifact that cannot be kept; says why, behind its name."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(why)
        self.code = code


def _job_prefix(attempt: Attempt) -> str:
    return f"{attempt.tenant_id}/{attempt.id}/"


def _lease_prefix(attempt: Attempt) -> str:
    return f"{_job_prefix(attempt)}{attempt.lease}/"


def _delay(attempt: Attempt) -> float:
    """Seconds until the next attempt: doubling with each one that was given back, whatever for, with jitter."""
    given_back = max(0, attempt.number - 1 - attempt.failures)
    steady = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(given_back, 30))
    return steady * random.uniform(0.75, 1.25)  # noqa: S311 - jitter is no secret


async def _tried(put: Callable[[], Awaitable[Written]]) -> Written:
    deadline = time.monotonic() + UPLOAD_SECONDS
    pause = FIRST_PAUSE_SECONDS
    while True:
        try:
            return await put()
        except Unavailable:
            if time.monotonic() + pause > deadline:
                raise
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter is no secret
        pause = min(LONGEST_PAUSE_SECONDS, pause * 2)


async def _attempted(work: Coroutine[None, None, None], attempt: Attempt) -> None:
    try:
        await work
    except Unavailable as error:
        log.warning("result.orphans_kept", job_id=str(attempt.id), lease=attempt.lease, reason=str(error))
    except Exception:
        log.exception("result.fault", job_id=str(attempt.id), lease=attempt.lease)


def _open(path: Path) -> BinaryIO:
    """Job code may have put anything there: a link that leads elsewhere, a pipe that never ends."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise _InvalidError(RESULT_INVALID, "was gone before it could be kept") from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EACCES):
            raise _InvalidError(RESULT_INVALID, "is not a file that can be read") from None
        raise
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise _InvalidError(RESULT_INVALID, "is not a file that can be read")
    return os.fdopen(number, "rb")


def _small(file: BinaryIO, bytes_max: int) -> bytes | None:
    """The whole content, None when that is more than `bytes_max`."""
    content = file.read(bytes_max + 1)
    return content if len(content) <= bytes_max else None
