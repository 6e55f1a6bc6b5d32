"""The addresses a job is known by."""

from urllib.parse import quote
from uuid import UUID


class Links:
    """Paths; absolute where a public URL is known."""

    def __init__(self, public_url: str | None) -> None:
        self._base = public_url or ""

    def absolute(self, path: str) -> str:
        """`path` as callers elsewhere reach it."""
        return self._base + path

    @staticmethod
    def status_path(job_id: UUID) -> str:
        """Where a job is polled."""
        return f"/jobs/{job_id}"

    @staticmethod
    def events_path(job_id: UUID, ticket: str | None = None) -> str:
        """Where a job's events stream; with a ticket, for whoever has it."""
        return f"/jobs/{job_id}/events" + (f"?ticket={ticket}" if ticket else "")

    @staticmethod
    def cancel_path(job_id: UUID) -> str:
        """Where a job is canceled, by POST."""
        return f"/jobs/{job_id}/cancel"

    @staticmethod
    def artifact_path(job_id: UUID | str, name: str) -> str:
        """Where one file of a job is fetched."""
        return f"/jobs/{job_id}/artifacts/{quote(name, safe='')}"

    @staticmethod
    def result_path(job_id: UUID) -> str:
        """Where a job's result is fetched."""
        return f"/jobs/{job_id}/result"
