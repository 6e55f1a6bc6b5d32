"""`GET /jobs/{id}`: the poll. 202 while the job runs, 200 when it has ended, however it ended."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from service.identity import Identity, may
from service.preferences import APPLIED, IF_NONE_MATCH, RETRY_AFTER, WAIT
from service.statuses import Statuses
from todoke.model.access import Scope

ETAG = {"schema": {"type": "string"}, "description": "The place in the job's log, and its progress."}


class JobRoutes:
    """Status of a job."""

    def __init__(self, statuses: Statuses) -> None:
        self._statuses = statuses

    def add_to(self, router: APIRouter) -> None:
        """Offer the routes."""
        running = {"ETag": ETAG, "Retry-After": RETRY_AFTER, "Preference-Applied": APPLIED}
        ended = {"ETag": ETAG, "Preference-Applied": APPLIED}
        router.add_api_route(
            "/jobs/{job_id}",
            self.status,
            methods=["GET"],
            operation_id="status_of_job",
            tags=["jobs"],
            summary="Poll a job",
            description="With `Prefer: wait=N` the answer comes with the next change, progress included.",
            openapi_extra={"parameters": [WAIT, IF_NONE_MATCH]},
            responses={
                200: {"description": "The job has ended: `status` is `success` or `failed`.", "headers": ended},
                202: {"description": "The job is running.", "headers": running},
                304: {"description": "Nothing has changed since the answer with this ETag.", "headers": running},
                404: {"description": "The caller has no such job."},
                410: {"description": "The caller had such a job, and it has been erased."},
                503: {"description": "PostgreSQL is away for a moment; `Retry-After` says how long to wait."},
            },
        )

    async def status(
        self, job_id: str, request: Request, identity: Annotated[Identity, Depends(may(Scope.READ))]
    ) -> Response:
        """Answer a poll."""
        return await self._statuses.poll(job_id, request, identity)
