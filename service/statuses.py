"""A job's status as HTTP: 202 while it runs, 200 when it has ended, 304 when the caller has it already."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from service import preferences
from service.history import Paces
from service.identity import Identity
from service.links import Links
from service.long_poll import LongPolls, Outcome
from todoke.model.errors import Gone, NotFound, Unavailable
from todoke.model.ids import parse_id
from todoke.model.job import Accepted, State
from todoke.store.reading import Reader, Status

# Nobody reads it; it is what logs know as "the client has closed the connection".
CLIENT_GONE = 499


async def find(reader: Reader, job_id: str, identity: Identity) -> Status:
    """The caller's job. Raises NotFound for any other, a malformed id included, and Gone for one that was erased."""
    if parsed := parse_id(job_id):
        if status := await reader.status(parsed, identity.tenant_id):
            return status
        if tombstone := await reader.tombstone(parsed, identity.tenant_id):
            raise Gone("the job was erased", tombstone)
    raise NotFound("job not found")


class Statuses:
    """How jobs are shown to those who ask, at once or when there is news."""

    def __init__(self, reader: Reader, polls: LongPolls, paces: Paces, links: Links) -> None:
        self._reader, self._polls, self._paces, self._links = reader, polls, paces, links

    async def now(self, job_id: str, identity: Identity) -> Response:
        """The job as it stands."""
        return self._answer(await find(self._reader, job_id, identity))

    async def shown(self, job_ids: Sequence[UUID], tenant_id: str) -> list[dict[str, object]]:
        """Those of these jobs that are still there, in this order, each as a poll shows it but for the guesses."""
        found = await self._reader.statuses(job_ids, tenant_id)
        return [_body(found[job_id], self._links) for job_id in job_ids if job_id in found]

    async def poll(self, job_id: str, request: Request, identity: Identity) -> Response:
        """The job as it stands, or with `Prefer: wait` as soon as it is another than the caller has seen."""
        status = await find(self._reader, job_id, identity)
        tags, seconds = preferences.seen(request.headers), preferences.wait_seconds(request.headers)
        if not seconds:
            return self._answer(status, tags)
        is_news = tags is not None and not preferences.holds(tags, etag(status))
        if not (is_news or status.is_terminal):
            outcome = await self._polls.until_changed(request, status, seconds)
            if outcome is Outcome.GONE:
                return Response(status_code=CLIENT_GONE)
            if outcome.was_refused:
                seconds = 0
            if outcome is not Outcome.OVERLOADED:
                before, status = etag(status), await find(self._reader, job_id, identity)
                # `*` stands for what there was when the caller asked.
                tags = frozenset([before]) if preferences.holds(tags, before) else tags
        return self._answer(status, tags, preferences.applied(seconds))

    async def ended(
        self, request: Request, accepted: Accepted, tenant_id: str
    ) -> tuple[Response | None, Mapping[str, str]]:
        """For a submit that likes to wait: the whole status if the job ends in time, else None; and what was applied.

        Never fails: the job is kept, whatever becomes of the waiting.
        """
        seconds = preferences.wait_seconds(request.headers)
        if not seconds:
            return None, {}
        try:
            status = await self._reader.status(accepted.id, tenant_id)
            if status is not None and not status.is_terminal:
                outcome = await self._polls.until_ended(request, status, seconds)
                if outcome.was_refused:
                    seconds = 0
                status = await self._reader.status(accepted.id, tenant_id)
        except Unavailable:
            return None, {}
        headers = preferences.applied(seconds)
        if status is None or not status.is_terminal:
            return None, headers
        path = self._links.status_path(accepted.id)
        return self._answer(status, None, {"Content-Location": path, "Location": path}), headers

    def _answer(
        self, status: Status, tags: frozenset[str] | None = None, extra: Mapping[str, str] | None = None
    ) -> Response:
        tag, links = etag(status), self._links
        headers = {"ETag": tag, "Cache-Control": "private, no-cache", "Vary": "Prefer"}
        body = _body(status, links)
        if status.is_terminal:
            if status.state is State.SUCCESS:
                headers["Location"] = links.result_path(status.job_id)
        else:
            pace = self._paces.pace(status)
            headers |= {"Location": links.status_path(status.job_id), "Retry-After": pace.retry_after}
            body["pollAfterMs"] = pace.milliseconds
            if pace.estimate is not None:
                body["estimate"] = pace.estimate.public()
        headers |= extra or {}
        if preferences.holds(tags, tag):
            return Response(status_code=304, headers=headers)
        return JSONResponse(body, 200 if status.is_terminal else 202, headers)


def _body(status: Status, links: Links) -> dict[str, object]:
    job_id = status.job_id
    return {
        **status.story,
        "artifacts": status.artifacts,
        "delivery": status.delivery,
        "resultExpiredAt": status.result_expired_at,
        "statusUrl": links.status_path(job_id),
        "eventsUrl": links.absolute(links.events_path(job_id)),
        "resultUrl": links.absolute(links.result_path(job_id)),
        "cancelUrl": links.absolute(links.cancel_path(job_id)),
        "estimate": None,
    }


def etag(status: Status) -> str:
    """The job's place in its log, and its progress. Neither estimate, pace nor delivery is part of it."""
    # That a result expires is no event of the job, yet the answer is another one.
    expired = "" if status.result_expired_at is None else ".expired"
    return f'"{status.epoch}.{status.sequence}.{status.progress_version}{expired}"'
