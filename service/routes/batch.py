"""`POST /jobs/batch`: many jobs in one commit, all of them or none."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError

from service.body import Bodies, parse_json
from service.budgets import Budget, Budgets
from service.identity import Identity, may
from service.intake import Intake, Marks
from service.links import Links
from service.problems import mistake
from service.routes.submit import VALID, IsOnlyValidated
from service.submission import ERRORS_MAX, Submission, batch_model, details_of, digest, invalid
from service.tracing import span_of
from todoke.jobs.catalog import JobType
from todoke.model.access import Scope
from todoke.model.errors import InvalidInput, KeyReused
from todoke.model.ids import new_id
from todoke.model.job import Accepted, NewJob

JOBS_MAX = 1_000
# What tells a job of a batch from its body as a submit of its own.
BESIDE = ("type", "idempotencyKey")


class BatchRoutes:
    """One route for all job types of the catalog."""

    def __init__(
        self, intake: Intake, bodies: Bodies, budgets: Budgets, links: Links, catalog: Mapping[str, JobType]
    ) -> None:
        self._intake, self._bodies, self._budgets = intake, bodies, budgets
        self._links, self._catalog = links, catalog
        self._models = {name: batch_model(job_type) for name, job_type in catalog.items()}

    def add_to(self, router: APIRouter) -> None:
        """Offer the route."""
        router.add_api_route(
            "/jobs/batch",
            self._submit,
            methods=["POST"],
            status_code=202,
            tags=["jobs"],
            summary=f"Submit up to {JOBS_MAX} jobs, all of them or none",
            description="One commit keeps them all; a mistake in one refuses the batch and names each by its pointer.",
            openapi_extra={"requestBody": self._described()},
            responses={
                200: {"description": "With `validateOnly`: `isValid`, and nothing is kept."},
                202: {"description": "All are kept; `jobs` stand in the order asked."},
            },
        )

    async def _submit(
        self,
        request: Request,
        identity: Annotated[Identity, Depends(may(Scope.SUBMIT))],
        *,
        is_only_validated: IsOnlyValidated = False,
    ) -> Response:
        body = await self._bodies.read(request)
        batch_id = new_id()

        def checked() -> list[NewJob]:
            value = parse_json(body, request.headers.get("content-type", ""), self._bodies.shape)
            return self._jobs(_items(value), identity.tenant_id, batch_id)

        jobs = await self._bodies.check(body, checked)
        await self._check_callbacks(jobs)
        if is_only_validated:
            return JSONResponse(VALID)
        # One was paid for at the gate.
        self._budgets.charge(identity, Budget.SUBMITS, len(jobs), paid=1)
        return self._answer(batch_id, jobs, await self._intake.keep_all(jobs, identity.limits, span_of(request.scope)))

    def _jobs(self, items: Sequence[Any], tenant_id: str, batch_id: UUID) -> list[NewJob]:
        """The jobs asked for. Raises InvalidInput that names every mistake."""
        jobs: list[NewJob] = []
        mistakes: list[dict[str, str]] = []
        for place, item in enumerate(items):
            name = item.get("type") if isinstance(item, dict) else None
            model = self._models.get(name) if isinstance(name, str) else None
            if model is None:
                mistakes.append(_mistake(place, "type", message=f"give one of the job types {', '.join(self._models)}"))
                continue
            try:
                submission = model.model_validate_json(json.dumps(item))
            except ValidationError as error:
                mistakes += [_mistake(place, *found["loc"], message=found["msg"]) for found in details_of(error)]
                continue
            jobs.append(self._job(item, submission, tenant_id, batch_id))
            if len(mistakes) >= ERRORS_MAX:
                break
        mistakes += _twice(jobs) if len(jobs) == len(items) else []
        if mistakes:
            raise invalid(mistakes)
        return jobs

    def _job(self, item: dict[str, Any], submission: Submission, tenant_id: str, batch_id: UUID) -> NewJob:
        key = getattr(submission, "idempotency_key")  # noqa: B009 - a field the models of batches add
        body = {name: value for name, value in item.items() if name not in BESIDE}
        marks = Marks(key, digest(body) if key else None, batch_id)
        return self._intake.job(self._catalog[item["type"]], tenant_id, submission, marks)

    async def _check_callbacks(self, jobs: Sequence[NewJob]) -> None:
        first = {job.callback_url: place for place, job in reversed(list(enumerate(jobs)))}
        for url, place in sorted(first.items(), key=lambda found: found[1]):
            try:
                await self._intake.check_callback(jobs[place].tenant_id, url)
            except InvalidInput as error:
                raise InvalidInput(str(error), (_mistake(place, "callbackUrl", message=str(error)),)) from None

    def _answer(self, batch_id: UUID, jobs: Sequence[NewJob], answers: Sequence[Accepted | KeyReused]) -> Response:
        kept: list[dict[str, object]] = []
        reused: list[dict[str, str]] = []
        for place, (job, answer) in enumerate(zip(jobs, answers, strict=True)):
            if isinstance(answer, KeyReused):
                reused.append(_mistake(place, "idempotencyKey", message=str(answer)))
                continue
            kept.append(
                {
                    "jobId": str(answer.id),
                    "clientRef": job.client_ref,
                    "statusUrl": self._links.status_path(answer.id),
                    "isReplay": answer.is_replay,
                }
            )
        if reused:
            raise KeyReused(f"{reused[0]['pointer']}: {reused[0]['detail']}", {"errors": reused[:ERRORS_MAX]})
        headers = {"Location": f"/jobs?batchId={batch_id}", "Cache-Control": "no-store"}
        return JSONResponse({"batchId": str(batch_id), "jobs": kept}, 202, headers)

    def _described(self) -> dict[str, Any]:
        place = "#/paths/~1jobs~1batch/post/requestBody/content/application~1json/schema/$defs/"
        definitions: dict[str, Any] = {}
        for model in self._models.values():
            schema = model.model_json_schema(by_alias=True, ref_template=place + "{model}")
            definitions |= schema.pop("$defs", {}) | {model.__name__: schema}
        types = {name: place + model.__name__ for name, model in self._models.items()}
        job = {
            "oneOf": [{"$ref": reference} for reference in types.values()],
            "discriminator": {"propertyName": "type", "mapping": types},
        }
        jobs = {"type": "array", "minItems": 1, "maxItems": JOBS_MAX, "items": job}
        schema = {
            "type": "object",
            "title": "Batch",
            "required": ["jobs"],
            "additionalProperties": False,
            "properties": {"jobs": jobs},
            "$defs": definitions,
        }
        return {"required": True, "content": {"application/json": {"schema": schema}}}


def _items(value: Any) -> list[Any]:
    if not isinstance(value, dict) or set(value) != {"jobs"} or not isinstance(value["jobs"], list):
        raise InvalidInput('the body: give {"jobs": [...]} and nothing else')
    if not 1 <= len(value["jobs"]) <= JOBS_MAX:
        raise InvalidInput(f"/jobs: give 1 to {JOBS_MAX} of them")
    return value["jobs"]


def _mistake(place: int, *location: int | str, message: str) -> dict[str, str]:
    return mistake(("jobs", place, *location), message)


def _twice(jobs: Sequence[NewJob]) -> list[dict[str, str]]:
    """A name or a key that stands at two jobs says of which it is no more."""
    refs = Counter(job.client_ref for job in jobs)
    keys = Counter((job.type, job.idempotency_key) for job in jobs)
    found = []
    for place, job in enumerate(jobs):
        if job.client_ref is not None and refs[job.client_ref] > 1:
            found.append(_mistake(place, "clientRef", message="another job of this batch has it, too"))
        if job.idempotency_key is not None and keys[job.type, job.idempotency_key] > 1:
            found.append(_mistake(place, "idempotencyKey", message="another job of this batch has it, too"))
    return found
