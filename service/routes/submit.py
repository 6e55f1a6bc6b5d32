"""`POST /{job-type}`: validate, accept, 202. The job is kept before the answer leaves; its hint follows."""

import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from service.callbacks import CallbackSecrets, CallbackWarnings
from service.dispatcher import Dispatcher
from service.identity import Identity, may
from service.links import Links
from service.preferences import APPLIED, WAIT
from service.statuses import Statuses
from service.submission import Submission, body_of, digest, parse_key, parse_submission, read_body, submission_model
from service.tickets import Tickets
from service.tracing import span_of, trace_of
from todoke.jobs.catalog import JobType
from todoke.jobs.terms import Extras, Terms, new_job
from todoke.model.access import Scope
from todoke.model.errors import KeyReused
from todoke.model.job import Accepted, NewJob
from todoke.runtime.batcher import Batcher
from todoke.runtime.settings import Settings
from todoke.runtime.tracing import Kind
from todoke.wire.destination import Rules, check_url

RETRY_AFTER_SECONDS = 3

Endpoint = Callable[[Request, Identity], Coroutine[Any, Any, Response]]


class SubmitRoutes:
    """One route for each job type of the catalog."""

    def __init__(
        self,
        settings: Settings,
        batcher: Batcher[NewJob, Accepted | KeyReused],
        dispatcher: Dispatcher,
        links: Links,
        statuses: Statuses,
        tickets: Tickets,
        callbacks: CallbackWarnings,
        secrets: CallbackSecrets,
    ) -> None:
        self._settings = settings
        self._rules = Rules.of(settings)
        self._batcher = batcher
        self._dispatcher = dispatcher
        self._links = links
        self._statuses = statuses
        self._tickets = tickets
        self._callbacks = callbacks
        self._secrets = secrets

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
        async def submit(request: Request, identity: Annotated[Identity, Depends(may(Scope.SUBMIT))]) -> Response:
            body = await read_body(request, self._settings.body_bytes_max)
            submission = parse_submission(model, body, request.headers.get("content-type", ""))
            job = self._job(request, job_type, submission, body, identity)
            await self.check_callback_of(identity.tenant_id, submission.callback_url)
            return await self.accept(job, request, identity)

        return submit

    async def accept(self, job: NewJob, request: Request, identity: Identity) -> Response:
        """Keep the job and answer 202; its hint follows, unless it is due later. Raises KeyReused, Unavailable.

        With `Prefer: wait` it is 200 and the status when the job ends in time.
        """
        answer = await self._keep(job, request)
        if isinstance(answer, KeyReused):
            raise answer
        # The first hint of a job that is due later comes from the sweep.
        if not answer.is_replay and not job.delay_seconds:
            self._dispatcher.hint(answer.id)
        warnings = await self._callbacks.about(job.tenant_id, job.callback_url)
        response = self._accepted(answer, identity, warnings)
        # Waiting ends in the job's status, which not everyone who submits may read.
        if Scope.READ in identity.scopes:
            ended, applied = await self._statuses.ended(request, answer, job.tenant_id)
            response = ended or response
            response.headers.update(applied)
        if answer.is_replay:
            response.headers["Idempotent-Replayed"] = "true"
        return response

    async def _keep(self, job: NewJob, request: Request) -> Accepted | KeyReused:
        span = span_of(request.scope).begin(f"accept {job.type}", Kind.INTERNAL, {"todoke.job_id": str(job.id)})
        try:
            return await self._batcher.put(job)
        finally:
            span.end()

    def _job(
        self, request: Request, job_type: JobType, submission: Submission, body: bytes, identity: Identity
    ) -> NewJob:
        key = parse_key(request.headers.get("idempotency-key"))
        params = getattr(submission, "params")  # noqa: B009 - a field each type's own model adds
        terms = Terms(
            submission.delay_seconds, submission.timeout_seconds, submission.priority, submission.expires_seconds
        )
        extras = Extras(
            metadata=_json_text(submission.metadata) if submission.metadata is not None else None,
            callback_url=submission.callback_url,
            callback_events=submission.callback_events,
            idempotency_key=key,
            request_digest=digest(body) if key else None,
            trace=trace_of(request.scope),
        )
        losses_max = self._settings.losses_max
        return new_job(job_type, identity.tenant_id, params, terms, extras, losses_max=losses_max)

    def check_callback(self, url: str | None) -> None:
        """Raises InvalidInput for a callback URL this service does not call."""
        if url is not None:
            check_url(url, self._rules)

    async def check_callback_of(self, tenant_id: str, url: str | None) -> None:
        """Raises InvalidInput for a callback URL that is not called for this tenant, and Unavailable."""
        self.check_callback(url)
        if url is not None:
            await self._secrets.check(tenant_id, url)

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
    "description": "With `Prefer: wait` only: the job has ended; the body is that of `GET /jobs/{job_id}`.",
    "headers": {"Content-Location": {"schema": {"type": "string"}}, "Preference-Applied": APPLIED},
}


def _json_text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
