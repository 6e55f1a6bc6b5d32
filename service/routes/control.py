"""`POST /jobs/{id}/cancel` and `POST /jobs/{id}/retry`: what a caller may still decide about a job."""

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from service.identity import Identity, may
from service.intake import Intake
from service.preferences import WAIT
from service.routes.submit import ENDED, IDEMPOTENCY_KEY, SubmitRoutes
from service.statuses import Statuses, find
from service.submission import parse_key
from todoke.jobs.catalog import JobType
from todoke.model.access import Scope
from todoke.model.errors import NotFound
from todoke.model.ids import parse_id
from todoke.store.ledger import Ledger
from todoke.store.reading import Reader


class ControlRoutes:
    """`submit` keeps a retry and answers it as it answers a submit."""

    def __init__(
        self,
        ledger: Ledger,
        reader: Reader,
        statuses: Statuses,
        intake: Intake,
        submit: SubmitRoutes,
        catalog: Mapping[str, JobType],
    ) -> None:
        self._ledger, self._reader, self._statuses = ledger, reader, statuses
        self._intake, self._submit, self._catalog = intake, submit, catalog

    def add_to(self, router: APIRouter) -> None:
        """Offer the routes."""
        router.add_api_route(
            "/jobs/{job_id}/cancel",
            self._cancel,
            methods=["POST"],
            operation_id="cancel_job",
            tags=["jobs"],
            summary="Cancel a job",
            description="At once for a job that is not running; a running one is stopped. May be repeated.",
            responses={
                200: {"description": "The job has ended, canceled or otherwise; as `GET /jobs/{job_id}` shows it."},
                202: {"description": "The job is running and its worker is being asked: `cancelRequested` is true."},
                404: {"description": "The caller has no such job."},
                410: {"description": "The caller had such a job, and it has been erased."},
            },
        )
        router.add_api_route(
            "/jobs/{job_id}/retry",
            self._retry,
            methods=["POST"],
            status_code=202,
            tags=["jobs"],
            summary="Run a finished job again, as a new job",
            description="Params, callback and metadata are copied; timeout, priority and limits are those of today.",
            openapi_extra={"parameters": [WAIT, IDEMPOTENCY_KEY]},
            responses={
                200: ENDED,
                202: {"description": "A new job, whose `retryOf` names this one; answered as its submit would be."},
                404: {"description": "The caller has no such job."},
                410: {"description": "The caller had such a job, and it has been erased."},
                409: {"description": "The job has not ended, or its job type is not offered any more."},
            },
        )

    async def _cancel(self, job_id: str, identity: Annotated[Identity, Depends(may(Scope.CANCEL))]) -> Response:
        if parsed := parse_id(job_id):
            await self._ledger.cancel(parsed, identity.tenant_id)
        return await self._statuses.now(job_id, identity)

    async def _retry(
        self, job_id: str, request: Request, identity: Annotated[Identity, Depends(may(Scope.SUBMIT))]
    ) -> Response:
        key = parse_key(request.headers.getlist("idempotency-key"))
        parsed = parse_id(job_id)
        original = await self._reader.original(parsed, identity.tenant_id) if parsed else None
        if original is None:
            await find(self._reader, job_id, identity)
            raise NotFound("job not found")
        await self._intake.check_callback(identity.tenant_id, original.callback_url)
        return await self._submit.accept(self._intake.retry(self._catalog, original, key), request, identity)
