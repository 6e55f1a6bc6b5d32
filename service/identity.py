"""Who is asking: the one place that turns a request into a tenant."""

from dataclasses import dataclass
from uuid import UUID

from starlette.requests import Request

DEFAULT_TENANT = "default"


@dataclass(frozen=True)
class Right:
    """What an open stream stands on. It ends with its key, a newer generation of tickets, or at `ends_at` (unix)."""

    tenant_id: str
    key_id: str | None = None
    job_id: UUID | None = None
    generation: int | None = None
    ends_at: float | None = None


@dataclass(frozen=True)
class Identity:
    """The caller. Every read and write is confined to `tenant_id`."""

    tenant_id: str
    right: Right


async def identify(request: Request) -> Identity:  # noqa: ARG001 - keys, tickets and the stream cookie will be read here
    """The caller of this request. There is one tenant until API keys exist, and only loopback is served."""
    return Identity(DEFAULT_TENANT, Right(DEFAULT_TENANT))
