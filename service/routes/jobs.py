"""`GET /jobs/{id}`: the poll. 202 while the job runs, 200 when it has ended, however it ended."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from service.identity import Identity, may
from service.links import Links
from todoke.model.access import Scope
from todoke.model.errors import Gone, NotFound
from todoke.model.ids import parse_id
from todoke.model.job import State
from todoke.store.reading import Reader, Status

RETRY_AFTER_SECONDS = 2


async def find(reader: Reader, job_id: str, identity: Identity) -> Status:
    """The caller's job. Raises NotFound for any other, a malformed id included, and Gone for one that was erased."""
    if parsed := parse_id(job_id):
        if status := await reader.status(parsed, identity.tenant_id):
            return status
        if tombstone := await reader.tombstone(parsed, identity.tenant_id):
            raise Gone("the job was erased", tombstone)
    raise NotFound("job not found")


class JobRoutes:
    """Status of a job."""

    def __init__(self, reader: Reader, links: Links) -> None:
        self._reader = reader
        self._links = links

    def add_to(self, router: APIRouter) -> None:
        """Offer the routes."""
        router.add_api_route("/jobs/{job_id}", self._status, methods=["GET"], tags=["jobs"], summary="Poll a job")

    async def _status(
        self, job_id: str, request: Request, identity: Annotated[Identity, Depends(may(Scope.READ))]
    ) -> Response:
        return answer(await find(self._reader, job_id, identity), self._links, request.headers.get("if-none-match"))


def answer(status: Status, links: Links, seen: str | None = None) -> Response:
    """The job as a poll shows it: 200 when it has ended, 202 until then, 304 when the caller has `seen` this ETag."""
    etag = _etag(status)
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    if seen == etag:
        return Response(status_code=304, headers=headers)
    if status.is_terminal:
        if status.state is State.SUCCESS:
            headers["Location"] = links.result_path(status.job_id)
        return JSONResponse(_body(status, links), 200, headers)
    headers |= {"Location": links.status_path(status.job_id), "Retry-After": str(RETRY_AFTER_SECONDS)}
    return JSONResponse({**_body(status, links), "pollAfterMs": RETRY_AFTER_SECONDS * 1000}, 202, headers)


def _body(status: Status, links: Links) -> dict[str, object]:
    job_id = status.job_id
    return {
        **status.story,
        "artifacts": status.artifacts,
        "resultExpiredAt": status.result_expired_at,
        "statusUrl": links.status_path(job_id),
        "eventsUrl": links.absolute(links.events_path(job_id)),
        "resultUrl": links.absolute(links.result_path(job_id)),
        "cancelUrl": links.absolute(links.cancel_path(job_id)),
    }


def _etag(status: Status) -> str:
    # That a result expires is no event of the job, yet the answer is another one.
    expired = "" if status.result_expired_at is None else ".expired"
    return f'"{status.epoch}.{status.sequence}.{status.progress_version}{expired}"'
