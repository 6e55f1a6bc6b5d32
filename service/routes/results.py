"""What a job left behind: the content itself when small, a redirect to a link signed now when large."""

import base64
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from service import preferences
from service.identity import Identity, may
from service.links import Links
from service.preferences import IF_NONE_MATCH
from service.problems import Problem, ProblemError
from service.statuses import find
from todoke.blobs.port import Blobs
from todoke.model.access import Scope
from todoke.model.codes import Code
from todoke.model.errors import NoResult, NotFinished, NotFound, ResultExpired
from todoke.model.job import Artifact, State
from todoke.store.reading import Reader, Status
from todoke.wire.disposition import disposition
from todoke.wire.ranges import Span, UnsatisfiableError, span_of

LINK_SECONDS = 900
# What a job made may be hostile: it is downloaded, never guessed at, and runs in no origin of ours.
SANDBOX = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:"
NO_STORE = {"Cache-Control": "no-store"}

IsInline = Annotated[bool, Query(alias="inline", description="Show it in the browser instead of downloading it.")]
IsRedirected = Annotated[
    bool,
    Query(
        alias="redirect",
        description="`false`: answer with a link object instead of the content or a redirect to it, for clients that "
        "would send their `Authorization` along.",
    ),
]
Endpoint = Callable[..., Coroutine[Any, Any, Response]]


class ResultRoutes:
    """Results of a job, by `/result` the main one, by `/artifacts/{name}` each."""

    def __init__(self, reader: Reader, blobs: Blobs, links: Links) -> None:
        self._reader, self._blobs, self._links = reader, blobs, links

    def add_to(self, router: APIRouter) -> None:
        """Offer the routes."""
        for path, named, look, summary in (
            ("/jobs/{job_id}/result", self._result, self._look_at_result, "the result of a job"),
            ("/jobs/{job_id}/artifacts/{name}", self._artifact, self._look_at_artifact, "one file a job left behind"),
        ):
            _add(router, path, "GET", named, f"Fetch {summary}")
            _add(router, path, "HEAD", look, f"See size, type and digest of {summary}; never redirects")

    async def _result(
        self,
        job_id: str,
        request: Request,
        identity: Annotated[Identity, Depends(may(Scope.READ))],
        artifact: Annotated[str | None, Query(description="Its name; the main artifact without.")] = None,
        *,
        is_inline: IsInline = False,
        is_redirected: IsRedirected = True,
    ) -> Response:
        found = await self._find(job_id, identity, artifact)
        return await self._answer(job_id, found, request, is_inline=is_inline, is_redirected=is_redirected)

    async def _artifact(
        self,
        job_id: str,
        name: str,
        request: Request,
        identity: Annotated[Identity, Depends(may(Scope.READ))],
        *,
        is_inline: IsInline = False,
        is_redirected: IsRedirected = True,
    ) -> Response:
        found = await self._find(job_id, identity, name)
        return await self._answer(job_id, found, request, is_inline=is_inline, is_redirected=is_redirected)

    async def _look_at_result(
        self,
        job_id: str,
        identity: Annotated[Identity, Depends(may(Scope.READ))],
        artifact: Annotated[str | None, Query(description="Its name; the main artifact without.")] = None,
        *,
        is_inline: IsInline = False,
    ) -> Response:
        return _looked_at(await self._find(job_id, identity, artifact), is_inline=is_inline)

    async def _look_at_artifact(
        self,
        job_id: str,
        name: str,
        identity: Annotated[Identity, Depends(may(Scope.READ))],
        *,
        is_inline: IsInline = False,
    ) -> Response:
        return _looked_at(await self._find(job_id, identity, name), is_inline=is_inline)

    async def _find(self, job_id: str, identity: Identity, name: str | None) -> Artifact:
        """The artifact of this name, the main one for None. Raises what else there is to say."""
        status = await self._succeeded(job_id, identity)
        artifacts = await self._reader.artifacts(status.job_id, identity.tenant_id)
        if not artifacts:
            # It may have expired since.
            await self._succeeded(job_id, identity)
        for artifact in artifacts:
            if name is None or artifact.name == name:
                return artifact
        raise NotFound("artifact not found")

    async def _succeeded(self, job_id: str, identity: Identity) -> Status:
        """The job, if it has a result."""
        status = await find(self._reader, job_id, identity)
        if status.state is State.FAILED:
            raise NoResult("job not finished")
        if status.state is not State.SUCCESS:
            raise NotFinished("job not finished")
        if status.result_expired_at is not None:
            raise ResultExpired("the result has expired", _remains(status))
        return status

    async def _answer(
        self, job_id: str, artifact: Artifact, request: Request, *, is_inline: bool, is_redirected: bool
    ) -> Response:
        if artifact.object_key is None:
            if is_redirected:
                return _content(artifact, request, is_inline=is_inline)
            path = self._links.artifact_path(job_id, artifact.name)
            return _link_object(artifact, self._links.absolute(path), None)
        link = await self._blobs.link(
            artifact.object_key,
            filename=artifact.name,
            media_type=artifact.media_type,
            seconds=LINK_SECONDS,
            inline=is_inline,
        )
        if is_redirected:
            return RedirectResponse(link.url, 303, NO_STORE)
        return _link_object(artifact, link.url, link.expires_at)


def _add(router: APIRouter, path: str, method: str, endpoint: Endpoint, summary: str) -> None:
    is_get = method == "GET"
    responses: dict[int | str, dict[str, Any]] = {
        409: {"description": "The job runs, or it has failed: `code` tells which."},
        410: {"description": "The result has expired, or the whole job was erased."},
    }
    if is_get:
        responses |= {
            206: {"description": "The part that `Range` asked for."},
            303: {"description": "To a link signed now, for a large one.", "headers": {"Location": TEXT}},
            304: {"description": "The caller has it already."},
            416: {"description": "It has no such part; `Content-Range` says how large it is."},
        }
    router.add_api_route(
        path,
        endpoint,
        methods=[method],
        tags=["jobs"],
        summary=summary,
        responses=responses,
        openapi_extra={"parameters": [IF_NONE_MATCH, RANGE, IF_RANGE]} if is_get else {},
        response_class=Response,
    )


def _content(artifact: Artifact, request: Request, *, is_inline: bool) -> Response:
    """The content, or the part of it that is asked for, or only that the caller has it."""
    assert artifact.content is not None
    headers = _headers(artifact, is_inline=is_inline)
    if preferences.holds(preferences.seen(request.headers), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    span = _span(artifact, request, headers["ETag"])
    if span is None:
        return Response(artifact.content, 200, headers)
    headers["Content-Range"] = f"bytes {span.first}-{span.last}/{artifact.size}"
    return Response(artifact.content[span.first : span.last + 1], 206, headers)


def _span(artifact: Artifact, request: Request, etag: str) -> Span | None:
    asked, condition = request.headers.get("range"), request.headers.get("if-range")
    if asked is None or (condition is not None and condition != etag):
        return None
    try:
        return span_of(asked, artifact.size)
    except UnsatisfiableError:
        headers = {"Content-Range": f"bytes */{artifact.size}"}
        raise ProblemError(Problem(416, Code.RANGE_REFUSED, "the content has no such part", headers=headers)) from None


def _looked_at(artifact: Artifact, *, is_inline: bool) -> Response:
    headers = _headers(artifact, is_inline=is_inline) | {"Content-Length": str(artifact.size)}
    return Response(status_code=200, headers=headers)


def _headers(artifact: Artifact, *, is_inline: bool) -> dict[str, str]:
    digest = base64.b64encode(bytes.fromhex(artifact.sha256)).decode()
    return {
        "Content-Type": artifact.media_type,
        "Content-Disposition": disposition(artifact.name, inline=is_inline),
        "Content-Security-Policy": SANDBOX,
        "ETag": f'"{artifact.sha256}"',
        "Repr-Digest": f"sha-256=:{digest}:",
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
    }


def _link_object(artifact: Artifact, url: str, expires_at: str | None) -> Response:
    body = {
        "url": url,
        "expiresAt": expires_at,
        # A signed link takes no key beside it: S3 refuses two ways of proving oneself.
        "needsKey": expires_at is None,
        "name": artifact.name,
        "mediaType": artifact.media_type,
        "bytes": artifact.size,
        "sha256": artifact.sha256,
    }
    return JSONResponse(body, 200, NO_STORE)


def _remains(status: Status) -> dict[str, object]:
    known = {name: status.story[name] for name in ("jobId", "jobType", "finishedAt")}
    # `status` of a problem is that of HTTP.
    return {**known, "jobStatus": status.story["status"], "resultExpiredAt": status.result_expired_at}


TEXT = {"schema": {"type": "string"}}
RANGE = {
    "name": "Range",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "examples": ["bytes=0-1023"]},
    "description": "One range of bytes; several, or another unit, mean the whole.",
}
IF_RANGE = {
    "name": "If-Range",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "An `ETag`: the range holds only while this is the current one.",
}
