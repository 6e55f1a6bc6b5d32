"""`DELETE /jobs/{id}`: a finished job and all that belongs to it, gone at once; its tombstone stays."""

from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import Response

from service.identity import Identity, may
from service.statuses import find
from todoke.model.access import Scope
from todoke.model.errors import NotFound
from todoke.model.ids import parse_id
from todoke.store.reading import Reader
from todoke.store.retention import Retention


class ErasingRoutes:
    """Erasing a job. is_store_known: whether attempts may have left objects in S3."""

    def __init__(self, reader: Reader, retention: Retention, *, is_store_known: bool) -> None:
        self._reader, self._retention, self._is_store_known = reader, retention, is_store_known

    def add_to(self, router: APIRouter) -> None:
        """Offer the route."""
        router.add_api_route(
            "/jobs/{job_id}",
            self._erase,
            methods=["DELETE"],
            status_code=204,
            tags=["jobs"],
            summary="Erase a job that has ended",
            description=(
                "Its params, results, events and webhooks go, those still owed too; objects in S3 follow within "
                "minutes. What stays is a tombstone, with which every call about the job answers `410`."
            ),
            responses={
                404: {"description": "The caller has no such job."},
                409: {"description": "The job runs; cancel it first."},
                410: {"description": "The caller had such a job, and it has been erased."},
            },
            response_class=Response,
        )

    async def _erase(self, job_id: str, identity: Annotated[Identity, Depends(may(Scope.CANCEL))]) -> Response:
        parsed = parse_id(job_id)
        if parsed is None or not await self._retention.erase(
            parsed, identity.tenant_id, is_store_known=self._is_store_known
        ):
            await find(self._reader, job_id, identity)
            raise NotFound("job not found")
        return Response(status_code=204)
