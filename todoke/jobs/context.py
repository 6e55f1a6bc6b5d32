"""What a running job may touch: its progress, its artifacts and what the supervisor hands it. Nothing else."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


class JobContext(Protocol):
    """The second argument of every job function; safe to call from any thread of the job."""

    @property
    def job_id(self) -> str:
        """UUID of the job, 36 characters."""

    @property
    def attempt(self) -> int:
        """1 for the first attempt; grows with each one started."""

    @property
    def trace(self) -> str | None:
        """The W3C `traceparent` to send with calls that job code makes; None when the submit came without one.

        With TODOKE_OTLP_URL it is the attempt's own, and what OpenTelemetry's interface begins is below it.
        """

    @property
    def folder(self) -> Path:
        """An empty directory of this attempt's own, removed when the attempt ends."""

    @property
    def canceled(self) -> bool:
        """Whether the attempt is to stop: canceled, out of time, or given to another worker. Ask in long loops.

        What then still runs after two seconds is ended by force, except a thread, which nobody can end.
        """

    def progress(self, percent: float, message: str = "") -> None:
        """Tell watchers how far the work is: 0 to 100, and a sentence of at most 200 characters.

        Never waits; values that come faster than watchers may see them are merged, the latest wins.
        Raises Canceled once the attempt is to stop.
        """

    def attach(self, name: str, content: bytes | Path, media_type: str) -> None:
        """Add a named artifact to the result. The first one attached is what `/jobs/{id}/result` serves.

        `name`: a file name without a folder. A `Path` is read when the job function has returned.
        """

    def activity(self) -> Sequence[Mapping[str, Json]]:
        """The newest jobs of this job's own tenant, read by the supervisor; at most 10,000, newest first.

        Keys: jobType, status, phase, attempt, errorCode, createdAt, startedAt, finishedAt (ISO 8601 UTC
        or None), waitSeconds, runSeconds (None while unknown).
        """
