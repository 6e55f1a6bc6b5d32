"""From a job type and checked params to a new job: its limits, its key of concurrency, and the same job once more."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from uuid import UUID

from pydantic import BaseModel, ValidationError

from todoke.jobs.catalog import JobType
from todoke.model.errors import InvalidInput, NotFinished, TypeUnknown
from todoke.model.ids import new_id
from todoke.model.job import TERMINAL, NewJob
from todoke.store.reading import Original

KEY_CHARACTERS_MAX = 200


@dataclass(frozen=True)
class Terms:
    """What a job may ask for instead of what its type says. Seconds; `delay` and `expires` count as NewJob says."""

    delay: float = 0
    timeout: float | None = None
    priority: int | None = None
    expires: float | None = None


@dataclass(frozen=True)
class Extras:
    """What comes with a job and means nothing to its type. `metadata` is JSON text."""

    metadata: str | None = None
    callback_url: str | None = None
    callback_events: tuple[str, ...] = ()
    idempotency_key: str | None = None
    request_digest: bytes | None = None
    retry_of: UUID | None = None
    client_ref: str | None = None
    batch_id: UUID | None = None
    trace: str | None = None


def new_job(
    job_type: JobType, tenant_id: str, params: BaseModel, terms: Terms, extras: Extras, *, losses_max: int
) -> NewJob:
    """A job of `job_type` that is not kept yet, under a new id."""
    return NewJob(
        id=new_id(),
        tenant_id=tenant_id,
        type=job_type.name,
        params=params.model_dump_json(by_alias=True, exclude_unset=True),
        max_attempts=job_type.max_attempts,
        timeout_seconds=job_type.timeout if terms.timeout is None else terms.timeout,
        max_losses=losses_max,
        priority=job_type.priority if terms.priority is None else terms.priority,
        delay_seconds=terms.delay,
        expires_seconds=job_type.expires if terms.expires is None else terms.expires,
        concurrency_key=concurrency_key(job_type, params),
        concurrency_limit=job_type.concurrency,
        metadata=extras.metadata,
        callback_url=extras.callback_url,
        callback_events=extras.callback_events if extras.callback_url else (),
        idempotency_key=extras.idempotency_key,
        request_digest=extras.request_digest,
        retry_of=extras.retry_of,
        client_ref=extras.client_ref,
        batch_id=extras.batch_id,
        trace=extras.trace,
    )


def once_more(
    catalog: Mapping[str, JobType], original: Original, *, losses_max: int, idempotency_key: str | None = None
) -> NewJob:
    """The job a finished one leads to when it is retried: its wishes, under the terms of today's catalog.

    Raises NotFinished, TypeUnknown, or InvalidInput when its params no longer fit.
    """
    if original.state not in TERMINAL:
        raise NotFinished("job not finished")
    job_type = catalog.get(original.type)
    if job_type is None:
        raise TypeUnknown(f"there is no job type {original.type!r} any more, so the job cannot be retried")
    extras = Extras(
        metadata=original.metadata,
        callback_url=original.callback_url,
        callback_events=original.callback_events,
        idempotency_key=idempotency_key,
        # The body of a retry is the job it names.
        request_digest=hashlib.sha256(b"retry " + original.id.bytes).digest() if idempotency_key else None,
        retry_of=original.id,
    )
    params = parse_params(job_type, original.params)
    job = new_job(job_type, original.tenant_id, params, Terms(), extras, losses_max=losses_max)
    return replace(job, params=original.params)


def parse_params(job_type: JobType, text: str) -> BaseModel:
    """Stored params as today's job type reads them. Raises InvalidInput when they no longer fit."""
    try:
        return job_type.params.model_validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "params"
        raise InvalidInput(
            f"the params of the job no longer fit its job type ({where}: {first['msg']}); submit it anew"
        ) from None


def concurrency_key(job_type: JobType, params: BaseModel) -> str | None:
    """What jobs are counted together under: their type, or their type and one value of their params."""
    if job_type.concurrency is None:
        return None
    if job_type.concurrency_by is None:
        return job_type.name
    value = params.model_dump(mode="json", include={job_type.concurrency_by})[job_type.concurrency_by]
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    if len(text) > KEY_CHARACTERS_MAX or "\x00" in text:
        # An index takes no long text, and PostgreSQL no NUL.
        text = hashlib.sha256(text.encode()).hexdigest()
    return f"{job_type.name}:{text}"
