"""Who is asking: the one place that turns a request into a tenant."""

from dataclasses import dataclass

from starlette.requests import Request

DEFAULT_TENANT = "default"


@dataclass(frozen=True)
class Identity:
    """The caller. Every read and write is confined to `tenant_id`."""

    tenant_id: str


async def identify(request: Request) -> Identity:  # noqa: ARG001 - keys, tickets and the stream cookie will be read here
    """The caller of this request. There is one tenant until API keys exist, and only loopback is served."""
    return Identity(DEFAULT_TENANT)
