"""`/jobs/{id}/tokens`: tickets with which a browser may watch a job, and taking all of them back."""

from typing import Annotated

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse, Response

from service.identity import Identity, may
from service.links import Links
from service.statuses import find
from service.tickets import Tickets
from todoke.model.access import Scope
from todoke.model.errors import NotFound
from todoke.model.ids import parse_id
from todoke.store.ledger import Ledger
from todoke.store.reading import Reader


class TokenRoutes:
    """Tickets of a job."""

    def __init__(self, reader: Reader, ledger: Ledger, tickets: Tickets, links: Links) -> None:
        self._reader, self._ledger, self._tickets, self._links = reader, ledger, tickets, links

    def add_to(self, router: APIRouter) -> None:
        """Offer the routes."""
        for method, endpoint, code, summary in (
            ("POST", self._issue, 201, "Make a ticket with which a browser may watch this job"),
            ("DELETE", self._revoke, 204, "Take back every ticket and stream cookie of this job"),
        ):
            router.add_api_route(
                "/jobs/{job_id}/tokens",
                endpoint,
                methods=[method],
                status_code=code,
                tags=["jobs"],
                summary=summary,
                responses={404: {"description": "The caller has no such job."}},
                response_class=Response,
            )

    async def _issue(self, job_id: str, identity: Annotated[Identity, Depends(may(Scope.READ))]) -> Response:
        status = await find(self._reader, job_id, identity)
        generation = await self._reader.ticket_generation(status.job_id, identity.tenant_id)
        if generation is None:
            raise NotFound("job not found")
        ticket = self._tickets.issue(identity.right, status.job_id, generation, has_ended=status.is_terminal)
        body = {
            "ticket": ticket.text,
            "eventsUrl": self._links.absolute(self._links.events_path(status.job_id, ticket.text)),
            "expiresAt": ticket.expires_at,
        }
        return JSONResponse(body, 201, {"Cache-Control": "no-store"})

    async def _revoke(self, job_id: str, identity: Annotated[Identity, Depends(may(Scope.READ))]) -> Response:
        parsed = parse_id(job_id)
        if parsed is None or not await self._ledger.revoke_tickets(parsed, identity.tenant_id):
            await find(self._reader, job_id, identity)
            raise NotFound("job not found")
        return Response(status_code=204)
