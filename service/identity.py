"""Who is asking and what they may do: the one place that turns a request into a tenant."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from starlette.requests import Request

from service.problems import Problem, ProblemError
from todoke.model.access import DEFAULT_TENANT, EVERY_SCOPE, Scope
from todoke.model.codes import Code
from todoke.model.limits import NO_KEY_LIMITS, NO_TENANT_LIMITS, KeyLimits, TenantLimits


@dataclass(frozen=True)
class Right:
    """What an open stream stands on; it has ended when `Rights.lapsed` says so.

    key_id: the key it rests on, None in an open desk. job_id, generation: the one job a ticket or cookie is for, and
    the number of revocations it has seen. issued_at, ends_at: unix seconds, of tickets and cookies.
    """

    tenant_id: str
    key_id: str | None = None
    job_id: UUID | None = None
    generation: int | None = None
    ends_at: float | None = None
    issued_at: float | None = None


@dataclass(frozen=True)
class Identity:
    """The caller. Every read and write is confined to `tenant_id`.

    is_by_ticket: the address itself admitted the caller, so a page of any site may read the answer.
    """

    tenant_id: str
    scopes: frozenset[Scope]
    right: Right
    is_by_ticket: bool = False
    limits: TenantLimits = NO_TENANT_LIMITS
    key_limits: KeyLimits = NO_KEY_LIMITS


# Where a request's scope keeps its caller, once known: for the log, for CORS, and so that nobody asks twice.
IDENTITY = "todoke.identity"

ANYONE = Identity(DEFAULT_TENANT, EVERY_SCOPE, Right(DEFAULT_TENANT))


class Door(Protocol):
    """Stands at `app.state.door`."""

    async def identify(self, request: Request) -> Identity:
        """Raises ProblemError 401 and Unavailable."""


async def identify(request: Request) -> Identity:
    """The caller of this request. Raises ProblemError 401 for one who does not say or prove who it is, Unavailable."""
    identity: Identity | None = request.scope.get(IDENTITY)
    if identity is None:
        door: Door = request.app.state.door
        identity = request.scope[IDENTITY] = await door.identify(request)
    return identity


def known(request: Request) -> Identity:
    """The caller, who has been let in already."""
    identity: Identity = request.scope[IDENTITY]
    return identity


async def admit(request: Request, scope: Scope) -> Identity:
    """The caller, who may do this. Raises ProblemError 401, or 403 for one who may not, and Unavailable."""
    identity = await identify(request)
    if scope not in identity.scopes:
        raise ProblemError(_missing(scope))
    return identity


def may(scope: Scope) -> Callable[[Request], Awaitable[Identity]]:
    """The dependency of a route that needs `scope`."""

    async def admitted(request: Request) -> Identity:
        return await admit(request, scope)

    return admitted


def _missing(scope: Scope) -> Problem:
    challenge = f'Bearer error="insufficient_scope", scope="{scope}"'
    return Problem(
        403, Code.SCOPE_MISSING, f"this needs a key with the scope {scope}", headers={"WWW-Authenticate": challenge}
    )
