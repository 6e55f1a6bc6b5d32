"""`GET /jobs/{id}/result`: the content itself when small, a redirect to a link signed now when large."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.responses import RedirectResponse, Response

from service.identity import Identity, may
from service.statuses import find
from todoke.blobs.port import Blobs
from todoke.model.access import Scope
from todoke.model.errors import NoResult, NotFinished, NotFound, ResultExpired
from todoke.model.job import Artifact, State
from todoke.store.reading import Reader, Status
from todoke.wire.disposition import disposition

LINK_SECONDS = 900
# What a job made may be hostile: it is downloaded, never guessed at, and runs in no origin of ours.
SANDBOX = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:"


class ResultRoutes:
    """Results of a job."""

    def __init__(self, reader: Reader, blobs: Blobs) -> None:
        self._reader = reader
        self._blobs = blobs

    def add_to(self, router: APIRouter) -> None:
        """Offer the routes."""
        router.add_api_route(
            "/jobs/{job_id}/result",
            self._result,
            methods=["GET"],
            tags=["jobs"],
            summary="Fetch the result of a job",
            responses={303: {}, 409: {}, 410: {"description": "The result has expired, or the whole job was erased."}},
        )

    async def _result(
        self,
        job_id: str,
        identity: Annotated[Identity, Depends(may(Scope.READ))],
        inline: Annotated[bool, Query(description="Show it in the browser instead of downloading it.")] = False,
        artifact: Annotated[str | None, Query(description="Its name; the main artifact without.")] = None,
    ) -> Response:
        status = await self._succeeded(job_id, identity)
        artifacts = await self._reader.artifacts(status.job_id, identity.tenant_id)
        if not artifacts:
            # It may have expired since.
            await self._succeeded(job_id, identity)
        return await self._answer(_choose(artifacts, artifact), inline=inline)

    async def _succeeded(self, job_id: str, identity: Identity) -> Status:
        """The job, if it has a result. Raises what else there is to say."""
        status = await find(self._reader, job_id, identity)
        if status.state is State.FAILED:
            raise NoResult("job not finished")
        if status.state is not State.SUCCESS:
            raise NotFinished("job not finished")
        if status.result_expired_at is not None:
            raise ResultExpired("the result has expired", _remains(status))
        return status

    async def _answer(self, artifact: Artifact, *, inline: bool) -> Response:
        if artifact.object_key is not None:
            url = await self._blobs.link(
                artifact.object_key,
                filename=artifact.name,
                media_type=artifact.media_type,
                seconds=LINK_SECONDS,
                inline=inline,
            )
            return RedirectResponse(url, 303, {"Cache-Control": "no-store"})
        headers = {
            "Content-Type": artifact.media_type,
            "Content-Disposition": disposition(artifact.name, inline=inline),
            "Content-Security-Policy": SANDBOX,
            "ETag": f'"{artifact.sha256}"',
            "Cache-Control": "private, no-cache",
        }
        return Response(artifact.content, 200, headers)


def _choose(artifacts: list[Artifact], name: str | None) -> Artifact:
    for artifact in artifacts:
        if name is None or artifact.name == name:
            return artifact
    raise NotFound("artifact not found")


def _remains(status: Status) -> dict[str, object]:
    known = {name: status.story[name] for name in ("jobId", "jobType", "status", "finishedAt")}
    return {**known, "resultExpiredAt": status.result_expired_at}
