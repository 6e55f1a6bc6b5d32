"""Tickets and stream cookies: the right to watch one job, sealed into text that a browser can carry."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from urllib.parse import urlsplit
from uuid import UUID

from starlette.requests import Request

from service.identity import Identity, Right
from todoke.model import loopback
from todoke.model.ids import parse_id
from todoke.store.api_keys import TICKET_GRACE_SECONDS
from todoke.wire.sealing import Sealer

TICKET_SECONDS = 24 * 3600
COOKIE = "todoke-stream"
SECURE_COOKIE = f"__Secure-{COOKIE}"
# What browsers say of a request that another site did not cause; older ones and programs say nothing.
OWN_SITE = frozenset({"same-origin", "same-site", "none"})


@dataclass(frozen=True)
class Ticket:
    """As handed out. `ends_at`: unix seconds, if the job does not end before."""

    text: str
    ends_at: float

    @property
    def expires_at(self) -> str:
        """The same as ISO 8601, UTC."""
        return datetime.fromtimestamp(self.ends_at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Tickets:
    """Good in every API process with the same keys. `base`: the public URL; `clock`: unix seconds."""

    def __init__(self, keys: Sequence[str], base: str | None = None, clock: Callable[[], float] = time.time) -> None:
        self._tickets = Sealer(keys, "ticket")
        self._cookies = Sealer(keys, "stream cookie")
        self._clock = clock
        self._folder = urlsplit(base or "").path.rstrip("/")

    def issue(self, giver: Right, job_id: UUID, generation: int, *, has_ended: bool = False) -> Ticket:
        """A ticket for one job, as good as what `giver` rests on. The job must be the giver's tenant's."""
        now = self._clock()
        right = Right(giver.tenant_id, giver.key_id, job_id, generation, now + TICKET_SECONDS, now)
        return Ticket(self._tickets.seal(_spell(right)), now + (TICKET_GRACE_SECONDS if has_ended else TICKET_SECONDS))

    def presented(self, request: Request, job_id: UUID) -> tuple[Right | None, Right | None]:
        """What the request's ticket and its cookie say, if they are ours and for this job; not whether it holds."""
        ticket = request.query_params.get("ticket")
        cookie = request.cookies.get(SECURE_COOKIE) or request.cookies.get(COOKIE)
        return _opened(self._tickets, ticket, job_id), _opened(self._cookies, cookie, job_id)

    def cookie_for(self, request: Request, identity: Identity) -> dict[str, str]:
        """Headers to add to an answer of `/jobs/{id}/events`; none for callers with a key.

        The stream cookie for a page of our own site, renewed at each connect.
        """
        if identity.right.job_id is None:
            return {}
        headers = {"Cache-Control": "no-store"}
        if request.headers.get("sec-fetch-site", "none") in OWN_SITE:
            headers["Set-Cookie"] = self._cookie(request, identity.right, identity.right.job_id)
        return headers

    def _cookie(self, request: Request, right: Right, job_id: UUID) -> str:
        # When it was first given stays: what slides is the end, not the ten minutes behind the job's own.
        value = self._cookies.seal(_spell(replace(right, ends_at=self._clock() + TICKET_SECONDS)))
        terms = f"Path={self._folder}/jobs/{job_id}/events; Max-Age={TICKET_SECONDS}; HttpOnly; SameSite=Strict"
        if _is_plain_loopback(request):
            return f"{COOKIE}={value}; {terms}"
        return f"{SECURE_COOKIE}={value}; {terms}; Secure"


def _is_plain_loopback(request: Request) -> bool:
    """Whether a browser would refuse a Secure cookie here and yet nobody can listen."""
    is_secure = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
    return not is_secure and request.url.hostname in loopback.HOSTS


def _spell(right: Right) -> bytes:
    fields = (right.tenant_id, right.key_id, str(right.job_id), right.generation, right.ends_at, right.issued_at)
    return json.dumps(fields, separators=(",", ":")).encode()


def _opened(sealer: Sealer, text: str | None, job_id: UUID) -> Right | None:
    content = sealer.open(text) if text else None
    if content is None:
        return None
    try:
        tenant_id, key_id, named, generation, ends_at, issued_at = json.loads(content)
    except ValueError:  # of another version
        return None
    right = Right(tenant_id, key_id, parse_id(named), generation, ends_at, issued_at)
    return right if right.job_id == job_id else None
