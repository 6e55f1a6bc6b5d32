"""`POST /{job-type}`: validate, accept, 202. The job is kept before the answer leaves; its hint follows."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response

from service.body import Bodies, parse_json
from service.identity import Identity, may
from service.intake import Intake, Marks
from service.links import Links
from service.preferences import APPLIED, WAIT
from service.statuses import Statuses
from service.submission import Submission, body_of, digest, parse_key, submission_model, validated
from service.tickets import Tickets
from service.tracing import span_of
from todoke.jobs.catalog import JobType
from todoke.model.access import Scope
from todoke.model.job import Accepted, NewJob

RETRY_AFTER_SECONDS = 3
VALID = {"isValid": True}

IsOnlyValidated = Annotated[
    bool, Query(alias="validateOnly", description="Check everything as a submit does, and keep nothing.")
]
Endpoint = Callable[..., Coroutine[Any, Any, Response]]


class SubmitRoutes:
    """One route for each job type of the catalog."""

    def __init__(self, intake: Intake, bodies: Bodies, links: Links, statuses: Statuses, tickets: Tickets) -> None:
        self._intake, self._bodies, self._links = intake, bodies, links
        self._statuses, self._tickets = statuses, tickets

    def add_to(self, router: APIRouter, job_type: JobType) -> None:
        """Offer `job_type` at `POST /{name}`."""
        model = submission_model(job_type)
        router.add_api_route(
            f"/{job_type.name}",
            self._endpoint(job_type, model),
            methods=["POST"],
            status_code=202,
            summary=job_type.summary,
            tags=["jobs"],
            openapi_extra={
                "requestBody": body_of(model, f"/{job_type.name}"),
                "parameters": [IDEMPOTENCY_KEY, WAIT],
            },
            responses={200: ENDED},
            operation_id=f"submit_{job_type.name.replace('-', '_')}",
        )

    def _endpoint(self, job_type: JobType, model: type[Submission]) -> Endpoint:
        async def submit(
            request: Request,
            identity: Annotated[Identity, Depends(may(Scope.SUBMIT))],
            *,
            is_only_validated: IsOnlyValidated = False,
        ) -> Response:
            key = parse_key(request.headers.getlist("idempotency-key"))
            body = await self._bodies.read(request)

            def checked() -> NewJob:
                content_type = request.headers.get("content-type", "")
                value = parse_json(body, content_type, self._bodies.shape)
                submission = validated(model, body, content_type)
                marks = Marks(key, digest(value) if key else None)
                return self._intake.job(job_type, identity.tenant_id, submission, marks)

            job = await self._bodies.check(body, checked)
            await self._intake.check_callback(identity.tenant_id, job.callback_url)
            if is_only_validated:
                return JSONResponse(VALID)
            return await self.accept(job, request, identity)

        return submit

    async def accept(self, job: NewJob, request: Request, identity: Identity) -> Response:
        """Keep the job and answer 202; its hint follows, unless it is due later. Raises KeyReused, Unavailable.

        With `Prefer: wait` it is 200 and the status when the job ends in time.
        """
        answer = await self._intake.keep(job, identity.limits, span_of(request.scope))
        warnings = await self._intake.warnings(job)
        response = self._accepted(answer, identity, warnings)
        # Waiting ends in the job's status, which not everyone who submits may read.
        if Scope.READ in identity.scopes:
            ended, applied = await self._statuses.ended(request, answer, job.tenant_id)
            response = ended or response
            response.headers.update(applied)
        if answer.is_replay:
            response.headers["Idempotent-Replayed"] = "true"
        return response

    def _accepted(self, answer: Accepted, identity: Identity, warnings: Sequence[Mapping[str, str]]) -> Response:
        links = self._links
        ticket = self._tickets.issue(identity.right, answer.id, answer.ticket_generation)
        body: dict[str, object] = {
            "jobId": str(answer.id),
            "statusUrl": links.status_path(answer.id),
            "eventsUrl": links.absolute(links.events_path(answer.id, ticket.text)),
            "resultUrl": links.absolute(links.result_path(answer.id)),
            "cancelUrl": links.absolute(links.cancel_path(answer.id)),
        }
        if warnings:
            body["warnings"] = warnings
        # Whoever sees the ticket may watch the job.
        headers = {
            "Location": links.status_path(answer.id),
            "Retry-After": str(RETRY_AFTER_SECONDS),
            "Cache-Control": "no-store",
        }
        return JSONResponse(body, 202, headers)


IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "Same key and same body: the same job. Same key and another body: 422.",
}
ENDED = {
    "description": (
        "The job has ended, with `Prefer: wait` only: the body is that of `GET /jobs/{job_id}`. "
        "With `validateOnly`: `isValid`, and nothing is kept."
    ),
    "headers": {"Content-Location": {"schema": {"type": "string"}}, "Preference-Applied": APPLIED},
}
