"""Checks what a caller shows: an API key on every route, a ticket or the stream cookie where one job is watched."""

import hmac

from starlette.requests import Request

from service.identity import ANYONE, Identity, Right
from service.keyring import Keyring
from service.problems import Problem, ProblemError
from service.rights import Rights
from service.tickets import Tickets
from todoke.model.access import Scope, secret_digest, split_key
from todoke.model.codes import Code
from todoke.model.ids import parse_id

WATCHING = frozenset({Scope.READ})


class OpenDoor:
    """Desk mode: nothing shown is looked at, so that nothing stale or foreign keeps anyone out."""

    async def identify(self, _request: Request) -> Identity:
        """Everyone is the default tenant and may do everything."""
        return ANYONE


class GuardedDoor:
    """One good credential admits, whatever else is shown beside it."""

    def __init__(self, keyring: Keyring, tickets: Tickets, rights: Rights) -> None:
        self._keyring, self._tickets, self._rights = keyring, tickets, rights

    async def identify(self, request: Request) -> Identity:
        """The caller. Raises ProblemError 401, and Unavailable while what is shown cannot be checked."""
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
        if key is None or not hmac.compare_digest(secret_digest(secret), key.digest):
            return None
        return Identity(key.tenant_id, key.scopes, Right(key.tenant_id, key.id))

    async def _by_ticket(self, request: Request) -> Identity | None:
        """A ticket, else the cookie; only to watch the very job they are for, and never one given by an open desk."""
        job_id = parse_id(str(request.path_params.get("job_id", "")))
        if job_id is None or request.scope["path"].lower() != f"/jobs/{job_id}/events":
            return None
        ticket, cookie = self._tickets.presented(request, job_id)
        for right in (ticket, cookie):
            if right is not None and right.key_id is not None and await self._rights.holds(right):
                return Identity(right.tenant_id, WATCHING, right, is_by_ticket=right is ticket)
        return None


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
