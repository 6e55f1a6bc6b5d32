"""`todoke jobs`: see, stop and repeat jobs of any tenant, straight on the ledger."""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from todoke.jobs.catalog import JobType, load_catalog
from todoke.jobs.terms import once_more
from todoke.model.errors import InvalidInput, KeyReused, NotFound, Refused, TypeUnknown
from todoke.model.ids import parse_id
from todoke.model.job import State
from todoke.operator.showing import say, show_json, show_table
from todoke.operator.store import opened
from todoke.runtime.settings import Settings
from todoke.store.ledger import Ledger
from todoke.store.overview import Overview
from todoke.store.reading import Reader

COLUMNS = ("job", "tenant", "type", "state", "phase", "attempt", "error code", "created", "finished")
MEMBERS = ("jobId", "tenantId", "jobType", "state", "phase", "attempt", "errorCode", "createdAt", "finishedAt")


async def list_jobs(
    settings: Settings, *, state: State | None, type_: str | None, tenant_id: str | None, rows_max: int, as_json: bool
) -> None:
    """Show the newest jobs that fit."""
    async with opened(settings) as database:
        found = await Overview(database).jobs(rows_max, state=state, type_=type_, tenant_id=tenant_id)
    if as_json:
        show_json(found)
    else:
        show_table("Jobs, newest first", COLUMNS, [[job[member] for member in MEMBERS] for job in found])


async def show_job(settings: Settings, id_: str, *, as_json: bool) -> None:
    """Show one job with its log, its artifacts and its deliveries. Raises NotFound."""
    job_id = _parsed(id_)
    async with opened(settings) as database:
        overview, reader = Overview(database), Reader(database)
        job = await overview.job(job_id)
        if job is None:
            raise _unknown(id_)
        log = [json.loads(event.body) for event in await reader.events([(job_id, job["tenantId"], 0)])]
        artifacts = await reader.artifacts(job_id, job["tenantId"])
        deliveries = await overview.deliveries(job_id)
    kept = [{"name": file.name, "mediaType": file.media_type, "bytes": file.size} for file in artifacts]
    if as_json:
        show_json({**job, "events": log, "artifacts": kept, "deliveries": deliveries})
        return
    show_table("Job", ("", ""), [[key, _spelled(value)] for key, value in job.items()])
    show_table("Log", ("event", "at", "attempt"), [[e["type"], e["timestamp"], e["data"]["attempt"]] for e in log])
    if kept:
        show_table("Artifacts", list(kept[0]), [list(file.values()) for file in kept])
    if deliveries:
        show_table("Deliveries", list(deliveries[0]), [list(each.values()) for each in deliveries])


async def cancel_jobs(settings: Settings, ids: Sequence[str]) -> int:
    """Cancel each job and say what became of it; the answer is how many there were none of."""
    async with opened(settings) as database:
        ledger, overview = Ledger(database, settings.notify_channel), Overview(database)

        async def cancel(job_id: UUID, tenant_id: str) -> str:
            await ledger.cancel(job_id, tenant_id)
            job = await overview.job(job_id)
            if job is None:
                raise NotFound("it was erased meanwhile")
            if job["status"] == "running":
                return f"is running; worker {job['workerId']} was asked to stop it"
            return "is canceled" if job["errorCode"] == "CANCELED" else f"has ended as {job['state']}"

        return await _each(overview, ids, cancel)


async def retry_jobs(settings: Settings, ids: Sequence[str]) -> int:
    """Run finished jobs again, each as a new job; the answer is how many could not be."""
    catalog = _catalog(settings)
    async with opened(settings) as database:
        ledger, reader = Ledger(database, settings.notify_channel), Reader(database)

        async def retry(job_id: UUID, tenant_id: str) -> str:
            original = await reader.original(job_id, tenant_id)
            if original is None:
                raise NotFound("it was erased meanwhile")
            try:
                again = once_more(catalog, original, losses_max=settings.losses_max)
            except TypeUnknown as error:
                raise TypeUnknown(f"{error}; is TODOKE_JOBS set here as it is for the API?") from error
            # Due for a hint at once: there is no queue here, the next sweep of a worker sends it.
            [answer] = await ledger.accept([again], 0)
            assert not isinstance(answer, KeyReused)
            return f"runs again as job {answer.id}"

        return await _each(Overview(database), ids, retry)


async def _each(overview: Overview, ids: Sequence[str], work: Any) -> int:
    """Do `work` to each job; one that is refused does not keep the others from it."""
    refused = 0
    for id_ in ids:
        try:
            job_id = _parsed(id_)
            tenant_id = await overview.tenant_of(job_id)
            if tenant_id is None:
                raise _unknown(id_)
            say(f"job {job_id} {await work(job_id, tenant_id)}")
        except Refused as error:
            refused += 1
            say(f"job {id_}: {error}")
    return refused


def _catalog(settings: Settings) -> Mapping[str, JobType]:
    try:
        return load_catalog(settings.jobs)
    except (ImportError, ValueError, TypeError) as error:
        raise InvalidInput(f"TODOKE_JOBS: {error}") from error


def _parsed(id_: str) -> UUID:
    job_id = parse_id(id_.strip())
    if job_id is None:
        raise InvalidInput(f"{id_!r} is no job id: give the 36 characters that a submit answers as jobId")
    return job_id


def _unknown(id_: str) -> NotFound:
    return NotFound(f"there is no job {id_} in this database; `todoke jobs list` shows the newest")


def _spelled(value: object) -> object:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
