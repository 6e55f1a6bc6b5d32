"""Checks what a caller shows: an API key on every route, a ticket or the stream cookie where one job is watched."""

import hmac
import re

from starlette.requests import Request

from service.identity import ANYONE, Identity, Right
from service.keyring import Keyring
from service.problems import Problem, ProblemError
from service.rights import Rights
from service.tickets import Tickets
from service.usage import Usage
from todoke.model.access import Scope, secret_digest, split_key
from todoke.model.codes import Code
from todoke.model.ids import parse_id

WATCHING = frozenset({Scope.READ})
WATCHED = re.compile("/jobs/([^/]+)/events")
NO_DIGEST = bytes(32)


class OpenDoor:
    """Desk mode: nothing shown is looked at, so that nothing stale or foreign keeps anyone out."""

    async def identify(self, _request: Request) -> Identity:
        """Everyone is the default tenant and may do everything."""
        return ANYONE


class GuardedDoor:
    """One good credential admits, whatever else is shown beside it."""

    def __init__(self, keyring: Keyring, tickets: Tickets, rights: Rights, usage: Usage) -> None:
        self._keyring, self._tickets, self._rights, self._usage = keyring, tickets, rights, usage

    async def identify(self, request: Request) -> Identity:
        """The caller. Raises ProblemError 401 and 403, and Unavailable while what is shown cannot be checked."""
        shown = request.headers.get("authorization")
        identity = await self._by_key(shown) if shown else None
        if identity is None or Scope.READ not in identity.scopes:
            identity = await self._by_ticket(request) or identity
        if identity is None:
            raise ProblemError(_refused() if shown or "ticket" in request.query_params else _required())
        return identity

    async def _by_key(self, shown: str) -> Identity | None:
        scheme, _, text = shown.partition(" ")
        parts = split_key(text.strip()) if scheme.lower() == "bearer" else None
        if parts is None:
            return None
        key_id, secret = parts
        key = await self._keyring.find(key_id)
        # The same work for an id that is unknown as for a secret that is wrong.
        is_right = hmac.compare_digest(secret_digest(secret), NO_DIGEST if key is None else key.digest)
        if key is None or not is_right:
            return None
        if key.is_suspended:
            raise ProblemError(_suspended())
        self._usage.note(key_id)
        right = Right(key.tenant_id, key.id)
        return Identity(key.tenant_id, key.scopes, right, limits=key.tenant_limits, key_limits=key.limits)

    async def _by_ticket(self, request: Request) -> Identity | None:
        """A ticket, else the cookie; only to watch the very job they are for, and never one given by an open desk."""
        watched = WATCHED.fullmatch(request.scope["path"])
        job_id = parse_id(watched[1]) if watched else None
        if job_id is None:
            return None
        ticket, cookie = self._tickets.presented(request, job_id)
        for right in (ticket, cookie):
            if right is None or right.key_id is None or not await self._rights.holds(right):
                continue
            if key := await self._keyring.find(right.key_id):
                is_by_ticket, limits = right is ticket, key.tenant_limits
                return Identity(
                    right.tenant_id, WATCHING, right, is_by_ticket=is_by_ticket, limits=limits, key_limits=key.limits
                )
        return None


def _suspended() -> Problem:
    detail = "this tenant is suspended; ask whoever runs the service"
    return Problem(403, Code.TENANT_SUSPENDED, detail)


def _required() -> Problem:
    return Problem(
        401,
        Code.KEY_REQUIRED,
        "this needs an API key: send Authorization: Bearer tdk_…",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _refused() -> Problem:
    return Problem(
        401,
        Code.KEY_REFUSED,
        "what was shown does not admit: it is unknown, has expired or was revoked, or is for something else",
        headers={"WWW-Authenticate": 'Bearer error="invalid_token"'},
    )
